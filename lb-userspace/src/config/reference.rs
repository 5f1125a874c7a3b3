//! What there is to configure, for people and for editors: made of the raw types, so it can't differ from them.

use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::Value;

use super::raw;
use super::what::nearest;

/// One field of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// The way to it, without indexes, such as `pools.backends.weight`.
    pub path: String,
    /// What it takes: `mapping`, `list of mappings`, `string`, `integer`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it must be there, where the mapping that holds it is.
    pub required: bool,
    /// What holds where it is left out.
    pub default: Option<String>,
    /// Which values are taken.
    pub range: Option<String>,
    /// What it means.
    pub meaning: String,
}

/// A field that doesn't exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no field {name:?}; {}", hint(.near))]
pub struct UnknownField {
    /// What was asked for.
    pub name: String,
    /// Paths of fields that may be meant.
    pub near: Vec<String>,
}

fn hint(near: &[String]) -> String {
    if near.is_empty() {
        "`lbctl config explain` lists all".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    }
}

/// The JSON Schema (draft 2020-12) of a file. It knows structure, names and ranges, not what depends on other fields.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let generator = settings.into_generator();
    let mut schema = generator.into_root_schema_for::<raw::File>().to_value();
    clean(&mut schema);
    schema
}

/// Drops what speaks of Rust, such as the format `uint16`, and joins the lines of descriptions.
fn clean(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("format").is_some_and(|format| format != "ip") {
                object.remove("format");
            }
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            object.values_mut().for_each(clean);
        }
        Value::Array(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}

/// All fields, a mapping before what it holds.
pub fn fields() -> Vec<Field> {
    let mut fields = Vec::new();
    collect(&schema(), "", &mut fields);
    fields
}

fn collect(schema: &Value, parent: &str, fields: &mut Vec<Field>) {
    let inner = if schema["items"].is_object() {
        &schema["items"]
    } else {
        schema
    };
    let Some(properties) = inner["properties"].as_object() else {
        return;
    };
    let required = |name: &str| {
        inner["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == name))
    };
    for (name, schema) in properties {
        let path = if parent.is_empty() {
            name.clone()
        } else {
            format!("{parent}.{name}")
        };
        fields.push(Field {
            kind: kind(schema),
            required: required(name),
            default: text(&schema["x-default"]).or_else(|| text(&schema["default"])),
            range: range(schema),
            meaning: text(&schema["description"]).unwrap_or_default(),
            path: path.clone(),
        });
        collect(schema, &path, fields);
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The types that a field takes; `null`, which is the same as leaving it out, aside.
fn kind(schema: &Value) -> String {
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect::<Vec<_>>(),
    };
    let words = types
        .into_iter()
        .filter(|word| *word != "null")
        .map(|word| match word {
            "object" => "mapping".to_owned(),
            "array" => format!("list of {}s", kind(&schema["items"]).replace(" or ", "s or ")),
            word => word.to_owned(),
        });
    words.collect::<Vec<_>>().join(" or ")
}

fn range(schema: &Value) -> Option<String> {
    if let Some(range) = text(&schema["x-range"]) {
        return Some(range);
    }
    if let Some(choices) = schema["enum"].as_array() {
        let words: Vec<String> = choices.iter().filter_map(text).collect();
        return Some(words.join(", "));
    }
    if schema["format"] == "ip" {
        return Some("IPv4 or IPv6 address".to_owned());
    }
    if let (Some(min), Some(max)) = (text(&schema["minimum"]), text(&schema["maximum"])) {
        return Some(format!("{min} to {max}"));
    }
    match (
        text(&schema["minItems"]),
        text(&schema["maxItems"]),
        text(&schema["maxLength"]),
    ) {
        (Some(min), Some(max), _) => Some(format!("{min} to {max} items")),
        (Some(min), None, _) => Some(format!("at least {min}")),
        (_, _, Some(max)) => Some(format!("1 to {max} characters")),
        _ => None,
    }
}

/// The field that `name` says: a path, with or without indexes (`pools[0].name` is `pools.name`).
///
/// # Errors
/// Where there is none, with those that may be meant: near misses, or all that end with it.
pub fn explain(name: &str) -> Result<Field, UnknownField> {
    let path = without_indexes(name);
    let fields = fields();
    if let Some(field) = fields.iter().find(|field| field.path == path) {
        return Ok(field.clone());
    }
    let paths = || fields.iter().map(|field| field.path.as_str());
    let mut near: Vec<String> = paths()
        .filter(|known| {
            known
                .strip_suffix(path.as_str())
                .is_some_and(|rest| rest.ends_with('.'))
        })
        .map(str::to_owned)
        .collect();
    if near.is_empty() {
        near.extend(nearest(&path, paths()).map(str::to_owned));
    }
    Err(UnknownField {
        name: name.to_owned(),
        near,
    })
}

fn without_indexes(path: &str) -> String {
    let parts = path.split('.').map(|part| part.split('[').next().unwrap_or(part));
    parts.collect::<Vec<_>>().join(".")
}
