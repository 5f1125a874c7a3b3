//! Plans of merges, carried out in the maps.

use std::collections::HashSet;

use lb_common::flow;
use lb_common::retire::Uses;
use lb_common::tick::Tick;

use super::Notice;
use super::core::Core;
use super::names::{Entries, Ground, OWN_TABLES, own_table};
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;
use crate::state::track::Slots;
use crate::sync::{Drops, Merger, Names, Plan, Record};

/// Merges a batch; what of it changed nothing.
pub(super) fn merge(
    core: &mut Core,
    merger: &Merger,
    records: &[Record],
    sent: Tick,
    names: &Names,
) -> Drops {
    let mut plan = std::mem::take(&mut core.plan);
    let ground = Ground {
        names: &core.names,
        maps: &core.maps,
        live: core.live.as_ref(),
    };
    let mut entries = Entries {
        maps: &core.maps,
        empty: core.empty,
    };
    merger.merge(records, sent, names, &ground, &mut entries, now(), &mut plan);
    execute(core, &plan);
    let drops = plan.drops;
    plan.clear();
    core.plan = plan;
    drops
}

/// Carries out a plan, in the order that keeps every flow known at every moment.
fn execute(core: &mut Core, plan: &Plan) {
    let refused = upsert(core, plan);
    if hold(&core.maps, &plan.holds) {
        core.notify(Notice::Held);
    }
    let time = now();
    for &place in &plan.stamps {
        core.maps
            .set_uses((place >> 16) as u16, place & 0xffff, Uses::by_flow(time));
    }
    for (number, table) in OWN_TABLES.into_iter().enumerate() {
        let demoted = plan.demoted.iter();
        let demoted = demoted.filter(|key| own_table(key.proto) == number && !refused.contains(key));
        let demoted: Vec<flow::Key> = demoted.copied().collect();
        // A walk may have found them already, and the peer that has them now must not be told of them.
        if let Some(deleted) = &mut core.deleted {
            deleted.extend(&demoted);
        }
        remove(core, table, &demoted);
    }
    remove(core, Table::Replicas, &plan.removed);
}

/// Writes replicas; the flows for which there was no room.
fn upsert(core: &mut Core, plan: &Plan) -> HashSet<flow::Key> {
    if plan.upserts.is_empty() {
        return HashSet::new();
    }
    let (keys, entries): (Vec<_>, Vec<_>) = plan.upserts.iter().copied().unzip();
    match core.maps.set_entries(Table::Replicas, &keys, &entries) {
        Ok(refused) => refused.into_iter().map(|number| keys[number]).collect(),
        Err(e) => {
            core.fail(&e);
            keys.into_iter().collect()
        }
    }
}

fn remove(core: &mut Core, table: Table, keys: &[flow::Key]) {
    if !keys.is_empty()
        && let Err(e) = core.maps.remove_entries(table, keys)
    {
        core.fail(&e);
    }
}

/// Marks slots that hold more than `current`. Whether there were any that weren't marked.
fn hold(maps: &Maps, holds: &[(u32, u16)]) -> bool {
    let mut changed = false;
    for &(place, backend) in holds {
        loop {
            let before = Slots::slot(maps, place);
            let after = before.held(backend);
            if before == after {
                break;
            }
            if maps.swap(place, before, after) {
                changed = true;
                break;
            }
        }
    }
    changed
}
