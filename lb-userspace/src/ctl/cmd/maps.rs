//! `lbctl maps [NAME]`: the pinned maps, or every entry of one by name.

use anyhow::{Result, bail};
use lb_common::abi::map;
use serde_json::{Value, json};

use super::dump;
use super::view::View;
use crate::ctl::args::Format;
use crate::ctl::out::{Output, columns_of, table};
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use crate::dataplane::shape::{self, Pinned, Shape};
use crate::dataplane::{Error, decap};

/// The maps of the balancer and of the decapsulator, as far as they are there.
pub(super) fn list(root: &Root) -> Result<Output> {
    let balancer = match Maps::open(root) {
        Ok(maps) => maps.shapes().to_vec(),
        Err(Error::NotLoaded(_)) => Vec::new(),
        Err(e) => return Err(e.into()),
    };
    let decap = match shape::compare(&root.decap(), &shape::decap())? {
        Pinned::All => shape::decap(),
        Pinned::None | Pinned::Some => Vec::new(),
    };
    if balancer.is_empty() && decap.is_empty() {
        return Ok(Output::not_loaded(&Error::NotLoaded(root.path().to_owned())));
    }
    let pinned = balancer.iter().map(|shape| (shape, root.map(shape.name)));
    let pinned = pinned.chain(decap.iter().map(|shape| (shape, root.decap().map(shape.name))));
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for (shape, pin) in pinned {
        let Shape {
            name,
            kind,
            key,
            value,
            entries,
        } = shape;
        json.push(
            json!({ "name": name, "type": format!("{kind:?}"), "key_bytes": key, "value_bytes": value,
                          "max_entries": entries, "pin": pin }),
        );
        rows.push([
            (*name).to_owned(),
            format!("{kind:?}"),
            key.to_string(),
            value.to_string(),
            entries.to_string(),
        ]);
    }
    let text = table(
        ["MAP", "TYPE", ">KEY BYTES", ">VALUE BYTES", ">MAX ENTRIES"],
        rows,
    );
    Ok(Output::yes(json!({ "maps": json }), text))
}

/// The entries of one of the balancer's maps.
pub(super) fn entries(maps: &Maps, view: &View, name: &str, all: bool, format: Format) -> Result<Output> {
    if !map::ALL.contains(&name) {
        let names: Vec<&str> = map::ALL.into_iter().chain(map::DECAP).collect();
        bail!("no map {name:?}; there are: {}", names.join(", "));
    }
    Ok(show(name, &dump::entries(maps, view, name, all)?, format))
}

/// The entries of one of the decapsulator's maps.
pub(super) fn of_decap(root: &Root, name: &str, format: Format) -> Result<Output> {
    match decap::status(root) {
        Ok(status) => Ok(show(name, &dump::of_decap(&status, name), format)),
        Err(e @ Error::NotLoaded(_)) => Ok(Output::not_loaded(&e)),
        Err(e) => Err(e.into()),
    }
}

fn show(name: &str, entries: &[Value], format: Format) -> Output {
    // To lay out a table of all slots takes seconds.
    let text = if format == Format::Table {
        text(entries)
    } else {
        String::new()
    };
    Output::yes(json!({ "map": name, "entries": entries }), text)
}

/// The most characters of a cell: lists of slots are longer.
const WIDEST: usize = 60;

/// A table of the fields of keys and values.
fn text(entries: &[Value]) -> String {
    let fields = |entry: &Value| -> Vec<(String, Value)> {
        let parts = ["key", "value"]
            .into_iter()
            .filter_map(|part| entry[part].as_object());
        parts
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let Some(first) = entries.first().map(fields) else {
        return "no entries".to_owned();
    };
    let title = |(name, value): &(String, Value)| {
        let right = if value.is_number() { ">" } else { "" };
        format!("{right}{}", name.to_uppercase().replace('_', " "))
    };
    let titles: Vec<String> = first.iter().map(title).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let rows = entries
        .iter()
        .map(|entry| fields(entry).iter().map(|(_, value)| cell(value)).collect());
    columns_of(&titles, rows)
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None if text.is_empty() => "-".to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_keys_and_values_are_columns() {
        let entries = [
            json!({ "key": { "index": 1 }, "value": { "name": "be1", "next_hop": null, "flags": ["a", "b"] } }),
            json!({ "key": { "index": 12 }, "value": { "name": "", "next_hop": "x", "flags": [] } }),
        ];
        let want = "INDEX  NAME  NEXT HOP  FLAGS\n    1  be1   -         a, b\n   12  -     x         -";
        assert_eq!(text(&entries), want);
        assert_eq!(text(&[]), "no entries");
        assert_eq!(cell(&"é".repeat(61).into()), format!("{} ...", "é".repeat(60)));
    }
}
