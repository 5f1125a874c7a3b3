//! `config::schema`, `fields` and `explain` against files that are taken and refused.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use lb_userspace::config::{self, Field};
use serde_json::Value;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn example() -> PathBuf {
    package().join("../dist/lb.example.yaml")
}

fn validator() -> Validator {
    jsonschema::validator_for(&config::schema()).expect("the schema is one")
}

fn value(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn field(path: &str) -> Field {
    config::explain(path).expect("a field")
}

#[test]
fn the_example_fits_the_schema() {
    let example = value(&fs::read_to_string(example()).unwrap());
    let errors: Vec<String> = validator().iter_errors(&example).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_example_names_every_field() {
    let text = fs::read_to_string(example()).unwrap();
    for field in config::fields() {
        let name = field.path.rsplit('.').next().unwrap();
        assert!(text.contains(&format!("{name}:")), "{} is missing", field.path);
        if let Some(default) = &field.default
            && default.parse::<u32>().is_ok()
        {
            let line = |line: &str| {
                line.contains(&format!("{name}:")) && line.contains(&format!("default {default}"))
            };
            assert!(text.lines().any(line), "{}: default {default}", field.path);
        }
    }
}

#[test]
fn accepted_files_fit_the_schema() {
    let schema = validator();
    let folder = package().join("tests/fixtures/config/accepted");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Text without quotes that YAML takes for a number or a truth value; the agent takes it for text all the same.
        if ["numeric-key.yaml", "shared-backend.yaml"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let file = value(text.trim_start_matches('\u{feff}'));
        let errors: Vec<String> = schema.iter_errors(&file).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        count += 1;
    }
    assert!(count > 5);
}

/// What the schema refuses the agent refuses too, and at the very edge of a range both take it.
#[test]
fn schema_and_agent_agree_on_ranges() {
    let schema = validator();
    let file = |section: &str, weight: &str, port: &str| {
        format!(
            "node: {{name: a, interfaces: [eth0], attach: native}}\n{section}\n\
             pools: [{{name: p, backends: [{{name: b, address: 198.51.100.1, weight: {weight}}},\n\
             {{name: c, address: 198.51.100.2}}]}}]\n\
             vips: [{{address: 203.0.113.1, port: {port}, protocol: tcp, pool: p}}]\n"
        )
    };
    for (section, weight, port, taken) in [
        ("", "1", "80", true),
        ("", "0", "any", true),
        ("", "65535", "65535", true),
        ("", "65536", "80", false),
        ("", "-1", "80", false),
        ("", "1", "65536", false),
        ("", "1", "all", false),
        (
            "capacity: {pools: 1024, vips: 32768, backends: 32768}",
            "1",
            "80",
            true,
        ),
        ("capacity: {pools: 1025}", "1", "80", false),
        ("capacity: {pools: 0}", "1", "80", false),
        ("capacity: {vips: 32769}", "1", "80", false),
        ("capacity: {backends: 1}", "1", "80", false),
        ("capacity: {rings: 1}", "1", "80", false),
        ("group: {key: 00112233445566778899aabbccddeef}", "1", "80", false),
        ("group: {key: 00112233445566778899aabbccddeeff}", "1", "80", true),
        ("grup: {}", "1", "80", false),
        ("group:", "", "", true),
        (
            "group: {nodes: [], key: 00112233445566778899aabbccddeeff}",
            "1",
            "80",
            false,
        ),
    ] {
        let text = file(section, weight, port);
        assert_eq!(config::parse(&text, Path::new("a.yaml")).is_ok(), taken, "{text}");
        assert_eq!(schema.is_valid(&value(&text)), taken, "{text}");
    }
}

/// An optional field that is empty is as good as left out, a required one is not.
#[test]
fn schema_and_agent_agree_on_empty_fields() {
    let schema = validator();
    for (text, taken) in [
        ("node: {name: a, interfaces: [eth0], attach: }", true),
        (
            "node: {name: a, interfaces: [eth0]}\nencap:\ncapacity:\npools:\nvips:",
            true,
        ),
        ("node: {name: a, interfaces: }", false),
        ("node:", false),
    ] {
        assert_eq!(config::parse(text, Path::new("a.yaml")).is_ok(), taken, "{text}");
        assert_eq!(schema.is_valid(&value(text)), taken, "{text}");
    }
}

#[test]
fn fields_say_type_range_default_and_meaning() {
    let weight = field("pools.backends.weight");
    assert_eq!(
        (
            weight.kind.as_str(),
            weight.required,
            weight.default.as_deref(),
            weight.range.as_deref()
        ),
        ("integer", false, Some("1"), Some("0 to 65535"))
    );
    assert!(weight.meaning.starts_with("The share of new flows"));
    assert_eq!(field("pools[0].backends[3].weight"), weight);
    let attach = field("node.attach");
    assert_eq!(attach.range.as_deref(), Some("auto, native, generic"));
    assert_eq!(attach.default.as_deref(), Some("auto"));
    let interfaces = field("node.interfaces");
    assert_eq!(
        (interfaces.kind.as_str(), interfaces.required),
        ("list of strings", true)
    );
    assert_eq!(interfaces.range.as_deref(), Some("1 to 64 items"));
    assert_eq!(field("vips.port").kind, "integer or string");
    assert_eq!(field("pools").kind, "list of mappings");
    assert_eq!(field("capacity.backends").range.as_deref(), Some("2 to 32768"));
    assert_eq!(
        field("vips.address").range.as_deref(),
        Some("IPv4 or IPv6 address")
    );
}

#[test]
fn every_field_has_a_meaning_and_optional_ones_a_default() {
    let fields = config::fields();
    let sections: Vec<&str> = fields
        .iter()
        .map(|f| f.path.as_str())
        .filter(|path| !path.contains('.'))
        .collect();
    assert_eq!(
        sections,
        ["node", "group", "capacity", "encap", "pools", "vips", "metrics"]
    );
    for field in fields {
        assert!(field.meaning.ends_with('.'), "{}: {}", field.path, field.meaning);
        let is_value = !field.kind.contains("mapping");
        assert!(
            field.required || field.default.is_some() || !is_value,
            "{} has no default",
            field.path
        );
    }
}

#[test]
fn unknown_fields_name_those_that_may_be_meant() {
    let near = |name: &str| config::explain(name).unwrap_err().near;
    assert_eq!(near("pools.backends.wieght"), ["pools.backends.weight"]);
    assert_eq!(near("weight"), ["pools.backends.weight"]);
    assert_eq!(
        near("interface"),
        ["pools.backends.via.interface", "pools.health.interface"]
    );
    assert_eq!(near("zebra"), [""; 0]);
    let message = config::explain("weight").unwrap_err().to_string();
    assert_eq!(
        message,
        "no field \"weight\"; did you mean pools.backends.weight?"
    );
}
