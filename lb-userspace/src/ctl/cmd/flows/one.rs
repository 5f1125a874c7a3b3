//! All about one flow: its slot, its entries, and where its packets go.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use lb_common::flow::{Key, PROBATION};
use lb_common::hash;
use lb_common::pick::{By, NoEntry, Pick};
use lb_common::slot::{NO_BACKEND, of_hash};
use lb_common::tcp::{ACK, SYN, Segment};
use lb_common::vip;
use serde_json::{Value, json};

use super::{COLUMNS, Found, Row, line, seconds, span};
use crate::api::tracked::FlowName;
use crate::ctl::cmd::ring::flow::tuple;
use crate::ctl::cmd::view::View;
use crate::ctl::out::{Output, table};
use crate::ctl::{flag, name};
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;
use crate::model::Protocol;
use crate::trace::Known;

/// So far from the number of a SYN that was seen that another one is another connection's.
const ANOTHER: u32 = 1 << 31;

pub(super) fn run(
    maps: &Maps,
    view: &View,
    from: SocketAddr,
    to: SocketAddr,
    protocol: Protocol,
) -> Result<Output> {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (canonical(from), canonical(to));
    let tuple = tuple(from, to, protocol)?;
    let wanted = vip::Key::new(tuple.dst, tuple.dport, tuple.proto);
    let (vip, value) = view
        .serving(&wanted)
        .with_context(|| format!("{} is no VIP", name::vip(&wanted)))?;
    let number = of_hash(tuple.hash(&hash::Key::expand(&view.meta.group_key)));
    let slot = maps.slot(value.pool, number).context("its pool has no slots")?;
    let key = Key::new(&tuple);
    let now = now();
    let known = maps.known(&key)?;
    let rows = || entries(maps, &key).map(|found| found.map(|found| Row::new(&found, view, now)));
    let missed = known.missed.map(|when| seconds(now.since(when)));
    let kinds = packets(&known);
    let decisions: Vec<(&str, Result<Pick, NoEntry>)> = kinds
        .into_iter()
        .map(|(what, segment)| {
            let pick = known.decide(slot, value.flags, segment, &view.contents, now);
            (what, pick)
        })
        .collect();
    let holder = |index| view.full_name(index);
    let json = json!({
        "flow": FlowName::from(&key), "vip": name::vip(&vip), "pool": view.pool(value.pool),
        "vip_flags": flag::of_vip(&value),
        "slot": { "slot": number, "current": holder(slot.current()), "origin": holder(slot.origin()),
                  "previous": holder(slot.previous()), "flags": flag::of_slot(slot) },
        "entries": rows().collect::<Result<Vec<Row>>>()?, "missed_s": missed,
        "decisions": decisions.iter().map(|(what, pick)| decided(what, *pick, view)).collect::<Vec<_>>(),
    });
    let rows = rows()
        .map(|row| row.map(Row::cells))
        .collect::<Result<Vec<_>>>()?;
    let mut text = format!(
        "{} is a flow of {}, pool {}\nslot {number}: {}\n\n{}",
        line(&FlowName::from(&key)),
        name::vip(&vip),
        view.pool(value.pool),
        described(view, slot),
        if rows.is_empty() {
            "it has no entry".to_owned()
        } else {
            table(COLUMNS, rows)
        },
    );
    if let Some(missed) = missed {
        text.push_str(&format!(
            "\na packet that found no entry was noted {} ago",
            span(missed)
        ));
    }
    text.push('\n');
    for (what, pick) in decisions {
        text.push_str(&format!("\n{}", sentence(what, pick, view)));
    }
    Ok(Output::yes(json, text))
}

/// The flow's entries in all tables.
fn entries(maps: &Maps, key: &Key) -> impl Iterator<Item = Result<Found>> {
    let found = Table::ALL.into_iter().map(move |table| {
        let entry = maps.entry(table, key)?;
        Ok(entry.map(|entry| Found {
            table,
            key: *key,
            entry,
        }))
    });
    found.filter_map(Result::transpose)
}

fn described(view: &View, slot: lb_common::slot::Slot) -> String {
    let holder = |index| view.full_name(index).unwrap_or("nobody".to_owned());
    if !slot.is_tracked() {
        return format!("{}, untracked", holder(slot.current()));
    }
    format!(
        "new flows go to {}, those without an entry to {}; {}",
        holder(slot.current()),
        holder(slot.origin()),
        flag::of_slot(slot).join(", ")
    )
}

/// Packets that the flow's client may send next.
fn packets(known: &Known) -> Vec<(&'static str, Option<Segment>)> {
    if known.key.proto != lb_common::header::proto::TCP {
        return vec![("a packet", None)];
    }
    let replica = known.replica.filter(|entry| entry.state == PROBATION);
    let isn = known.probation.or(replica).map_or(0, |entry| entry.isn);
    vec![
        ("its next segment", Some(Segment::new(ACK, isn.wrapping_add(1)))),
        ("a new SYN", Some(Segment::new(SYN, isn.wrapping_add(ANOTHER)))),
    ]
}

fn decided(what: &str, pick: Result<Pick, NoEntry>, view: &View) -> Value {
    match pick {
        Ok(pick) => {
            json!({ "packet": what, "backend": view.full_name(pick.backend), "by": pick.by.name() })
        }
        Err(NoEntry) => json!({ "packet": what, "backend": null, "by": null }),
    }
}

fn sentence(what: &str, pick: Result<Pick, NoEntry>, view: &View) -> String {
    let Ok(pick) = pick else {
        return format!("{what} is dropped: it can't be entered while the slot retires");
    };
    let why = match pick.by {
        By::Slot => "by the slot alone",
        By::Own => "by its entry",
        By::Replica => "by a peer's entry, which is taken over",
        By::Probation => "by its entry in probation",
        By::New => "as a new flow, which is entered",
        By::Refused => "as a new flow that can't be entered: origin",
        By::Origin => "as a flow without an entry: origin",
        By::Rehomed => "since its entry names a dead backend: origin",
    };
    match view.full_name(pick.backend) {
        Some(name) if pick.backend != NO_BACKEND => format!("{what} goes to {name}, {why}"),
        _ => format!("{what} goes nowhere, {why}: there is no backend"),
    }
}
