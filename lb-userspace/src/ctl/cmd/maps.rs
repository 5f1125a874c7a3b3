//! `lbctl maps [NAME]`: the pinned maps, or the entries of one.

use anyhow::{Result, bail};
use lb_common::abi::map;
use serde_json::json;

use super::dump;
use crate::ctl::out::{Output, table};
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use crate::dataplane::shape;

pub(super) fn run(root: &Root, maps: &Maps, name: Option<&str>) -> Result<Output> {
    let shapes = shape::balancer(maps.capacity());
    let Some(name) = name else {
        let one = |s: &shape::Shape| {
            json!({ "name": s.name, "type": format!("{:?}", s.kind), "key_bytes": s.key, "value_bytes": s.value,
                    "max_entries": s.entries, "pin": root.map(s.name) })
        };
        let row = |s: &shape::Shape| {
            [
                s.name.to_owned(),
                format!("{:?}", s.kind),
                s.key.to_string(),
                s.value.to_string(),
                s.entries.to_string(),
            ]
        };
        let text = table(
            ["MAP", "TYPE", ">KEY BYTES", ">VALUE BYTES", ">MAX ENTRIES"],
            shapes.iter().map(row),
        );
        return Ok(Output::yes(
            json!({ "maps": shapes.iter().map(one).collect::<Vec<_>>() }),
            text,
        ));
    };
    if !map::ALL.contains(&name) {
        bail!("no map {name:?}; there are: {}", map::ALL.join(", "));
    }
    let entries = dump::entries(maps, name)?;
    let rows = entries
        .iter()
        .map(|entry| [entry["key"].to_string(), entry["value"].to_string()]);
    let text = table(["KEY", "VALUE"], rows);
    Ok(Output::yes(json!({ "map": name, "entries": entries }), text))
}
