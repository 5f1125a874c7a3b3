//! `lbctl ring [POOL]`: shares of rings, what stands in slots, and who holds a flow.

pub(in crate::ctl::cmd) mod flow;
mod tracked;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use lb_common::info::untext;
use lb_common::slot::{NO_BACKEND, SLOTS, Slot};
use serde_json::{Value, json};

use super::view::View;
use crate::ctl::out::{Output, percent, table};
use crate::ctl::slots::{Group, group};
use crate::ctl::{args, flag};
use crate::dataplane::maps::Maps;

/// Runs of slots in a cell of a table; JSON has them all.
const RUNS: usize = 8;

pub(super) fn run(maps: &Maps, view: &View, args: &args::Ring, socket: &Path) -> Result<Output> {
    let pool = args
        .pool
        .as_deref()
        .map(|name| view.pool_index(name))
        .transpose()?;
    match (pool, args) {
        (_, args::Ring { tracked: true, .. }) => tracked::run(maps, view, pool, socket),
        (None, _) => Ok(pools(maps, view)),
        (Some(pool), args::Ring { slot: Some(slot), .. }) => Ok(one_slot(maps, view, pool, *slot, socket)),
        (
            Some(pool),
            args::Ring {
                by_backend: Some(name),
                ..
            },
        ) => by_backend(maps, view, pool, name),
        (Some(pool), _) => one_pool(maps, view, pool, args),
    }
}

fn one_pool(maps: &Maps, view: &View, pool: u16, args: &args::Ring) -> Result<Output> {
    let canonical = |flow: SocketAddr| SocketAddr::new(flow.ip().to_canonical(), flow.port());
    let (shares, empty, text) = shares(view, pool);
    let tracked = maps
        .ring(pool)
        .into_iter()
        .filter(|&slot| slot.is_tracked())
        .count();
    let mut json = json!({ "pool": view.pool(pool), "slots": SLOTS, "shares": shares, "empty": empty,
                           "tracked": tracked });
    let mut text = format!("{text}\n\n{tracked} slots are tracked");
    if let (Some(from), Some(to)) = (args.from, args.to) {
        let (flow, line) = flow::holder(maps, view, pool, args, canonical(from), canonical(to))?;
        json["flow"] = flow;
        text = format!("{text}\n\n{line}");
    }
    Ok(Output::yes(json, text))
}

/// One line per pool.
fn pools(maps: &Maps, view: &View) -> Output {
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for &pool in view.contents.pools.keys() {
        let ring = maps.ring(pool);
        let count = |is: &dyn Fn(Slot) -> bool| ring.iter().filter(|&&slot| is(slot)).count();
        let (tracked, empty) = (
            count(&|slot| slot.is_tracked()),
            count(&|slot| slot.current() == NO_BACKEND),
        );
        let backends = view
            .backends()
            .into_iter()
            .filter(|(_, b)| b.info.pool == pool)
            .count();
        let name = view.pool(pool);
        json.push(
            json!({ "pool": name, "slots": SLOTS, "backends": backends, "tracked": tracked,
                          "empty": empty }),
        );
        let [backends, tracked, empty] = [backends, tracked, empty].map(|n| n.to_string());
        rows.push([name.to_owned(), SLOTS.to_string(), backends, tracked, empty]);
    }
    rows.sort();
    let text = table(["POOL", ">SLOTS", ">BACKENDS", ">TRACKED", ">EMPTY"], rows);
    Output::yes(json!({ "pools": json }), text)
}

/// What stands in one slot.
fn one_slot(maps: &Maps, view: &View, pool: u16, index: u16, socket: &Path) -> Output {
    let slot = maps.ring(pool)[usize::from(index)];
    let mut json = contents(view, slot);
    json["pool"] = view.pool(pool).into();
    json["slot"] = index.into();
    json["tracked"] = slot.is_tracked().into();
    json["raw"] = format!("{:#018x}", slot.0).into();
    let line = |what: &str, holder: u16, means: &str| {
        [
            what.to_owned(),
            view.holder(holder).unwrap_or("-".to_owned()),
            means.to_owned(),
        ]
    };
    let flags = flag::of_slot(slot);
    let rows = [
        line("current", slot.current(), "where new flows go"),
        line("origin", slot.origin(), "where flows without an entry are"),
        line(
            "previous",
            slot.previous(),
            "the origin before the last retirement",
        ),
        [
            "flags".to_owned(),
            if flags.is_empty() {
                "-".to_owned()
            } else {
                flags.join(", ")
            },
            if slot.is_tracked() {
                "the flow table is consulted".to_owned()
            } else {
                "untracked: the slot alone decides".to_owned()
            },
        ],
    ];
    let mut text = format!(
        "slot {index} of {}\n\n{}",
        view.pool(pool),
        table(["", "", ""], rows)
    );
    if slot.is_tracked() {
        let (why, line) = tracked::why(view, pool, index, socket);
        json["why"] = why;
        text = format!("{text}\n\n{line}");
    }
    Output::yes(json, text)
}

/// The parts of a slot by name.
fn contents(view: &View, slot: Slot) -> Value {
    json!({ "current": view.holder(slot.current()), "origin": view.holder(slot.origin()),
            "previous": view.holder(slot.previous()), "flags": flag::of_slot(slot) })
}

/// The slots that each backend holds, or the named one alone.
fn by_backend(maps: &Maps, view: &View, pool: u16, name: &str) -> Result<Output> {
    let groups = group(maps.ring(pool).into_iter().map(Slot::current));
    let all = view.backends().into_iter().filter(|(_, b)| b.info.pool == pool);
    let mut found: Vec<(u16, &str)> = all.map(|(i, b)| (i, untext(&b.info.name))).collect();
    if !name.is_empty() {
        let one = view.backend_index(pool, name)?;
        found.retain(|(index, _)| *index == one);
    }
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for (index, backend) in found {
        let group = groups.iter().find(|group| group.held == index);
        let count = group.map_or(0, |group| group.count);
        json.push(json!({ "backend": backend, "slots": count, "ranges": group.map_or(String::new(), Group::slots) }));
        let shown = if name.is_empty() { RUNS } else { usize::MAX };
        let slots = group.map_or("-".to_owned(), |group| group.first_slots(shown));
        rows.push([backend.to_owned(), count.to_string(), slots]);
    }
    let text = match rows.as_slice() {
        // A table would break the one long line.
        [[backend, count, slots]] if !name.is_empty() => format!("{backend} holds {count} slots\n\n{slots}"),
        _ => table(["BACKEND", ">HOLDS", "SLOTS"], rows),
    };
    Ok(Output::yes(
        json!({ "pool": view.pool(pool), "backends": json }),
        text,
    ))
}

/// The backends' shares, the number of slots that no backend holds, and both as text.
fn shares(view: &View, pool: u16) -> (Vec<Value>, usize, String) {
    let total = view.weight(pool);
    let (mut json, mut rows) = (Vec::new(), Vec::new());
    for (index, backend) in view.backends().into_iter().filter(|(_, b)| b.info.pool == pool) {
        let slots = view.slots.get(&index).copied().unwrap_or(0);
        let (name, weight) = (untext(&backend.info.name), backend.info.weight);
        json.push(json!({ "backend": name, "weight": weight, "slots": slots }));
        rows.push([
            name.to_owned(),
            weight.to_string(),
            slots.to_string(),
            percent(f64::from(slots), SLOTS as f64),
            percent(f64::from(weight), f64::from(total)),
        ]);
    }
    let empty = view.contents.rings[&pool]
        .iter()
        .filter(|&&slot| slot == NO_BACKEND)
        .count();
    let mut text = table(["BACKEND", ">WEIGHT", ">SLOTS", ">SHARE", ">BY WEIGHT"], rows);
    if empty > 0 {
        text.push_str("\n\nno backend has a next hop: packets are dropped");
    }
    (json, empty, text)
}
