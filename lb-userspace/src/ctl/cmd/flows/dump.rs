//! Entries of the flow table's maps, decoded for `lbctl maps`.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_common::abi::{budget, map};
use lb_common::flow::{Entry, Key};
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::SLOTS;
use lb_common::tick::Tick;
use serde_json::{Value, json};

use crate::api::tracked::{seconds, state};
use crate::ctl::cmd::dump::{counter, pair};
use crate::ctl::cmd::view::View;
use crate::ctl::flag;
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;

/// The entries of one table; ages are in seconds, as exact as the clock of the flow table, a fifteenth of one.
pub(in crate::ctl::cmd) fn entries(maps: &Maps, view: &View, table: Table) -> Result<Vec<Value>> {
    let now = now();
    let row = |(key, entry): (Key, Entry)| {
        let value = json!({
            "backend": view.holder(entry.backend), "state": state(entry.state), "owner": entry.owner,
            "isn": entry.isn, "since": age(entry.since, now), "last": age(entry.last, now),
        });
        pair(flow(&key), value)
    };
    Ok(maps.entries(table)?.into_iter().map(row).collect())
}

/// The entries of a map of another kind that belongs to the flow table; events can't be read twice, so none are shown.
pub(in crate::ctl::cmd) fn others(maps: &Maps, view: &View, name: &str) -> Result<Vec<Value>> {
    let now = now();
    Ok(match name {
        map::MISSES => {
            let row = |(key, when)| pair(flow(&key), json!({ "age": age(when, now) }));
            maps.misses()?.into_iter().map(row).collect()
        }
        map::USES => uses(maps, view, now),
        map::BUDGETS => budgets(maps)?,
        map::LIMITS => {
            let limits = maps.limits()?;
            let value = json!({
                "flags": flag::of_limits(limits.flags), "handshakes": limits.budgets[0], "udp": limits.budgets[1],
                "misses": limits.budgets[2],
            });
            vec![pair(json!({ "index": 0 }), value)]
        }
        map::LOST => vec![pair(json!({ "index": 0 }), counter(maps.lost_events()?))],
        map::PICKS => {
            let row = |by: By| {
                let key = json!({ "index": by as u32, "by": by.name() });
                Ok(pair(key, counter(maps.pick_counter(by)?)))
            };
            By::ALL.into_iter().map(row).collect::<Result<_>>()?
        }
        _ => Vec::new(),
    })
}

fn flow(key: &Key) -> Value {
    let end = |addr, port| SocketAddr::new(IpAddr::from(addr), port).to_string();
    json!({
        "client": end(key.src, key.sport.get()), "vip": end(key.dst, key.dport.get()), "protocol": key.proto,
    })
}

/// Seconds since a moment.
fn age(when: Tick, now: Tick) -> f64 {
    seconds(now.since(when))
}

/// Slots of named pools whose origin somebody used.
fn uses(maps: &Maps, view: &View, now: Tick) -> Vec<Value> {
    let mut rows = Vec::new();
    let mark = |mark: Tick| (mark.0 != 0).then(|| age(mark, now));
    for &pool in view.contents.pools.keys() {
        for number in 0..SLOTS as u32 {
            let uses = maps.uses(pool, number);
            if uses != Uses::default() {
                let key = json!({ "pool": view.pool(pool), "slot": number });
                rows.push(pair(
                    key,
                    json!({ "seen": mark(uses.seen), "stamp": mark(uses.stamp) }),
                ));
            }
        }
    }
    rows
}

fn budgets(maps: &Maps) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    for (number, name) in (0..budget::COUNT).zip(["handshakes", "udp", "misses"]) {
        for (cpu, budget) in maps.budget(number)?.into_iter().enumerate() {
            let key = json!({ "index": number, "budget": name, "cpu": cpu });
            rows.push(pair(key, json!({ "window": budget.window, "used": budget.used })));
        }
    }
    Ok(rows)
}
