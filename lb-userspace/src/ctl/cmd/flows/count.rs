//! How many entries there are.

use anyhow::Result;
use lb_common::flow::{CLOSED, CONFIRMED, PROBATION};
use serde_json::{Map, Value, json};

use super::filter::Filter;
use crate::api::tracked::state;
use crate::ctl::cmd::view::View;
use crate::ctl::out::{Output, percent, table};
use crate::dataplane::flows::Table;
use crate::dataplane::maps::Maps;

/// By table: its room, all entries, and by state those that meet the filter.
pub(super) fn run(maps: &Maps, view: &View, filter: &Filter) -> Result<Output> {
    let (mut json, mut rows, mut total) = (Vec::new(), Vec::new(), 0);
    for of in Table::ALL {
        let entries = maps.entries(of)?;
        let all = entries.len();
        let taken: Vec<u8> = entries
            .iter()
            .filter(|(key, entry)| filter.takes(view, of, key, entry))
            .map(|(_, entry)| entry.state)
            .collect();
        let count = |wanted: u8| taken.iter().filter(|&&state| state == wanted).count();
        let states = [PROBATION, CONFIRMED, CLOSED].map(|wanted| (state(wanted), count(wanted)));
        let room = maps.room(of);
        total += taken.len();
        let mut row = vec![of.name().to_owned(), room.to_string(), all.to_string()];
        row.push(percent(all as f64, f64::from(room)));
        row.push(taken.len().to_string());
        row.extend(states.iter().map(|(_, count)| count.to_string()));
        rows.push(<[String; 8]>::try_from(row).expect("eight columns"));
        let states: Map<String, Value> = states
            .into_iter()
            .map(|(name, count)| (name, count.into()))
            .collect();
        json.push(json!({
            "table": of.name(), "room": room, "entries": all, "matching": taken.len(), "states": states,
        }));
    }
    let columns = [
        "TABLE",
        ">ROOM",
        ">ENTRIES",
        ">USED",
        ">MATCHING",
        ">PROBATION",
        ">CONFIRMED",
        ">CLOSED",
    ];
    let text = table(columns, rows);
    Ok(Output::yes(json!({ "tables": json, "matching": total }), text))
}
