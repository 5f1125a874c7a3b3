//! `lbctl backends`: weights, shares, next hops, counters, and what the operator ordered and the health checks found where
//! an agent tells.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use lb_common::info::{next_hop, untext};
use lb_common::slot::SLOTS;
use serde_json::json;

use super::look;
use super::states;
use super::view::View;
use crate::api::health::Health;
use crate::ctl::name::mac;
use crate::ctl::out::{Output, percent, table};
use crate::dataplane::maps::Maps;

pub(super) fn run(maps: &Maps, view: &View, socket: &Path) -> Result<Output> {
    let states = states::ask(socket);
    // Where one question found nobody, another one wouldn't.
    let health: Option<Health> = states.as_ref().and_then(|_| look(socket, "/v1/health").ok());
    let (mut json, mut rows, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    for (index, backend) in view.backends() {
        let (info, entry) = (&backend.info, &backend.entry);
        let counter = maps.backend_counter(index)?;
        let slots = view.slots.get(&index).copied().unwrap_or(0);
        let (pool, name, why) = (view.pool(info.pool), untext(&info.name), untext(&info.why));
        let state = states
            .iter()
            .flatten()
            .find(|state| state.pool == pool && state.name == name);
        notes.extend(state.and_then(states::note));
        let checked = health.iter().flat_map(|health| &health.backends);
        let mut checked = checked.filter(|one| one.pool == pool && one.name == name);
        let checked = checked.next();
        json.push(json!({
            "state": state, "health": checked, "pool": pool, "name": name, "address": IpAddr::from(info.address), "weight": info.weight,
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
            checked.map_or("-", |one| one.phase.as_str()).to_owned(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
        if let Some(one) = checked.filter(|one| !matches!(one.phase.as_str(), "up" | "unknown")) {
            notes.push(format!(
                "{pool}/{name}: {} by its health check: {}",
                one.phase, one.reason
            ));
        }
        if !why.is_empty() {
            notes.push(format!("{pool}/{name}: {why}"));
        }
    }
    let columns = [
        "POOL", "BACKEND", "ADDRESS", ">WEIGHT", ">SHARE", "NEXT HOP", "HEALTH", ">PACKETS", ">BYTES",
    ];
    let mut text = table(columns, rows);
    if !notes.is_empty() {
        text = format!("{text}\n\n{}", notes.join("\n"));
    }
    Ok(Output::yes(json!({ "backends": json }), text))
}
