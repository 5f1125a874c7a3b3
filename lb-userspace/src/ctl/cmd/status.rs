//! `lbctl status`: node, agent, interfaces, capacities.

use anyhow::Result;
use lb_common::info::{Interface, mode, next_hop, untext};
use lb_common::slot::SLOTS;
use serde_json::json;

use super::view::View;
use crate::ctl::out::{Output, percent, table};
use crate::dataplane::flows::Table;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;

pub(super) fn run(root: &Root, maps: &Maps, view: &View) -> Result<Output> {
    let agent = root.is_locked()?;
    let linked = root.linked()?;
    let interfaces: Vec<Interface> = maps
        .interfaces()?
        .into_iter()
        .filter(|i| linked.iter().any(|l| l == untext(&i.name)))
        .collect();
    let (contents, capacity, meta) = (&view.contents, maps.capacity(), &view.meta);
    let unresolved = contents
        .backends
        .values()
        .filter(|b| b.info.next_hop != next_hop::RESOLVED)
        .count();
    let vips = view.vips().count();
    let used = [
        ("pools", contents.pools.len(), capacity.pools),
        ("vips", vips, capacity.vips),
        ("backends", contents.backends.len(), capacity.usable_backends()),
    ];
    let slots = contents.pools.len() * SLOTS;
    let tracked: usize = contents.pools.keys().map(|&pool| tracked(maps, pool)).sum();
    let mut flows = Vec::new();
    for table in Table::ALL {
        flows.push((table, maps.occupied(table)?, maps.room(table)));
    }
    let json = json!({
        "loaded": true,
        "node": untext(&meta.node),
        "agent": if agent { "alive" } else { "dead" },
        "pin_root": root.path(),
        "abi": meta.abi,
        "generation": meta.generation,
        "applied_at": meta.applied_at,
        "group_key": "masked",
        "interfaces": interfaces.iter().map(|i| json!({
            "name": untext(&i.name), "ifindex": i.ifindex, "mode": mode::name(i.mode), "mtu": i.mtu,
        })).collect::<Vec<_>>(),
        "used": used.iter().map(|(n, used, _)| ((*n).to_owned(), json!(used))).collect::<serde_json::Map<_, _>>(),
        "capacity": used.iter().map(|(n, _, of)| ((*n).to_owned(), json!(of))).collect::<serde_json::Map<_, _>>(),
        "unresolved_backends": unresolved,
        "tracked_slots": { "tracked": tracked, "slots": slots },
        "flow_table": flows.iter().map(|(table, entries, room)| json!({
            "table": table.name(), "entries": entries, "room": room,
        })).collect::<Vec<_>>(),
    });
    let attached = if interfaces.is_empty() {
        "nothing".to_owned()
    } else {
        let one = |i: &Interface| format!("{} ({}, MTU {})", untext(&i.name), mode::name(i.mode), i.mtu);
        interfaces.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut rows = vec![
        ["node".into(), untext(&meta.node).to_owned()],
        [
            "agent".into(),
            if agent {
                "alive".into()
            } else if interfaces.is_empty() {
                "dead".into()
            } else {
                "dead (the data plane goes on without it)".into()
            },
        ],
        ["attached to".into(), attached],
        ["generation".into(), meta.generation.to_string()],
        ["group key".into(), "masked".into()],
        ["ABI".into(), meta.abi.to_string()],
    ];
    rows.extend(used.map(|(name, used, of)| [name.to_owned(), format!("{used} of {of}")]));
    rows.push(["without next hop".into(), format!("{unresolved} backends")]);
    let share = percent(tracked as f64, slots as f64);
    rows.push([
        "tracked slots".into(),
        format!("{tracked} of {slots} ({share}); `lbctl ring --tracked`"),
    ]);
    let used: Vec<String> = flows.iter().map(occupancy).collect();
    rows.push(["flow table".into(), used.join(", ")]);
    Ok(Output::yes(json, table(["", ""], rows)))
}

fn tracked(maps: &Maps, pool: u16) -> usize {
    maps.ring(pool).iter().filter(|slot| slot.is_tracked()).count()
}

/// `confirmed 12 (0.00 %)`.
fn occupancy(&(table, entries, room): &(Table, u32, u32)) -> String {
    let name = match table {
        Table::Flows => "confirmed",
        Table::Replicas => "replicas",
        Table::Probation => "probation",
        Table::UdpFlows => "UDP",
        Table::UdpProbation => "UDP probation",
    };
    format!(
        "{name} {entries} ({})",
        percent(f64::from(entries), f64::from(room))
    )
}
