//! `lbctl backends`: weights, shares, next hops, counters.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::info::{next_hop, untext};
use lb_common::slot::SLOTS;
use serde_json::json;

use super::view::View;
use crate::ctl::name::mac;
use crate::ctl::out::{Output, percent, table};
use crate::dataplane::maps::Maps;

pub(super) fn run(maps: &Maps, view: &View) -> Result<Output> {
    let (mut json, mut rows, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, backend) in view.backends() {
        let (info, entry) = (&backend.info, &backend.entry);
        let counter = maps.backend_counter(index)?;
        let slots = view.slots.get(&index).copied().unwrap_or(0);
        let (pool, name, why) = (view.pool(info.pool), untext(&info.name), untext(&info.why));
        json.push(json!({
            "pool": pool, "name": name, "address": IpAddr::from(info.address), "weight": info.weight,
            "slots": slots, "index": index, "id": format!("{:016x}", info.id),
            "next_hop": { "state": next_hop::name(info.next_hop), "why": why, "ifindex": entry.ifindex,
                          "mac": mac(&entry.destination_mac), "mtu": entry.mtu,
                          "source": IpAddr::from(entry.src) },
            "packets": counter.packets, "bytes": counter.bytes,
        }));
        rows.push([
            pool.to_owned(),
            name.to_owned(),
            IpAddr::from(info.address).to_string(),
            info.weight.to_string(),
            percent(f64::from(slots), SLOTS as f64),
            next_hop::name(info.next_hop).to_owned(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
        if !why.is_empty() {
            notes.push(format!("{pool}/{name}: {why}"));
        }
    }
    let columns = [
        "POOL", "BACKEND", "ADDRESS", ">WEIGHT", ">SHARE", "NEXT HOP", ">PACKETS", ">BYTES",
    ];
    let mut text = table(columns, rows);
    if !notes.is_empty() {
        text = format!("{text}\n\n{}", notes.join("\n"));
    }
    Ok(Output::yes(json!({ "backends": json }), text))
}
