//! `docs/CONFIG.md` and `docs/config.schema.json`.

use anyhow::Result;
use lb_userspace::config::{self, Field};

use super::{head, table};

pub(super) fn page() -> String {
    let mut page = head("Configuration", "the types that the agent reads the file into");
    page.push_str(
        "One YAML file, for the systemd unit `/etc/tandem/lb.yaml`. The same text, field by field: `lbctl config explain\n\
         FIELD`. For editors there is a [JSON Schema](config.schema.json), also from `lbctl config schema`. A file is checked with\n\
         `lbctl config check FILE`, and a commented one is [lb.example.yaml](../dist/lb.example.yaml).\n\n\
         A path leaves out indexes: `pools.backends.weight` is the weight of every backend in every pool. *Required* is a\n\
         field where the mapping that holds it is there; what is empty is as good as left out.\n",
    );
    let fields = config::fields();
    for section in fields.iter().filter(|field| !field.path.contains('.')) {
        let inner = format!("{}.", section.path);
        let (kind, need) = (
            &section.kind,
            if section.required { "required" } else { "optional" },
        );
        page.push_str(&format!(
            "\n## `{}`\n\n{} A {kind}, {need}",
            section.path, section.meaning
        ));
        page.push_str(&section.default.as_ref().map_or(".\n\n".to_owned(), |default| {
            format!("; left out: {default}.\n\n")
        }));
        let rows = fields
            .iter()
            .filter(|field| field.path.starts_with(&inner))
            .map(row);
        page.push_str(&table(["field", "type", "default", "values", "meaning"], rows));
    }
    page
}

fn row(field: &Field) -> [String; 5] {
    let default = match &field.default {
        _ if field.required => "*required*".to_owned(),
        Some(default) if default.contains(' ') => default.clone(),
        Some(default) => format!("`{default}`"),
        None => String::new(),
    };
    [
        format!("`{}`", field.path),
        field.kind.clone(),
        default,
        field.range.clone().unwrap_or_default(),
        field.meaning.clone(),
    ]
}

pub(super) fn schema() -> Result<String> {
    Ok(serde_json::to_string_pretty(&config::schema())? + "\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_stand_in_their_sections() {
        let page = super::page();
        let row = "| `pools.backends.weight` | integer | `1` | 0 to 65535 |";
        let (pools, vips) = (page.find("## `pools`").unwrap(), page.find("## `vips`").unwrap());
        assert!((pools..vips).contains(&page.find(row).unwrap()), "{page}");
        assert!(page.contains("| `node.name` | string | *required* |"));
    }
}
