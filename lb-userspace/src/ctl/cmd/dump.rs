//! Entries of a map, decoded; what was never written is left out.

use std::net::IpAddr;

use anyhow::Result;
use lb_common::abi::map;
use lb_common::info::{mode, next_hop, untext};
use lb_common::slot::Slot;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use serde_json::{Value, json};

use super::view::{mac, vip_name};
use crate::dataplane::maps::Maps;
use crate::state::contents::Backend;

pub(super) fn entries(maps: &Maps, name: &str) -> Result<Vec<Value>> {
    Ok(match name {
        map::VIPS => vips(maps)?,
        map::SLOTS => slots(maps)?,
        map::BACKENDS => of_backends(maps, |backend| entry(&backend.entry))?,
        map::BACKEND_INFO => of_backends(maps, info)?,
        map::BACKEND_STATS => {
            let indexes = maps.backends()?.0.into_keys();
            counters(indexes.map(|i| (json!(i), maps.backend_counter(i))))?
        }
        map::VIP_STATS => {
            let vips = maps.vips()?.into_values().filter(|v| v.is_served());
            counters(vips.map(|v| (json!(v.index), maps.vip_counter(v.index))))?
        }
        map::STOPS => counters(
            Stop::ALL
                .iter()
                .map(|&s| (json!(s.row().name), maps.stop_counter(s))),
        )?,
        map::DEVICES => maps
            .contents()?
            .devices
            .iter()
            .map(|&i| pair(i, json!({ "ifindex": i })))
            .collect(),
        map::META => vec![meta(maps)?],
        map::POOL_INFO => {
            let row =
                |(i, pool): (u16, lb_common::info::Pool)| pair(i, json!({ "name": untext(&pool.name) }));
            maps.pools()?.into_iter().map(row).collect()
        }
        map::IFACE_INFO => interfaces(maps)?,
        _ => Vec::new(),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "every caller has just made it")]
fn pair(key: impl Into<Value>, value: Value) -> Value {
    json!({ "key": key.into(), "value": value })
}

fn counters(
    rows: impl Iterator<Item = (Value, Result<Counter, crate::dataplane::Error>)>,
) -> Result<Vec<Value>> {
    rows.map(|(key, counter)| {
        let counter = counter?;
        Ok(pair(
            key,
            json!({ "packets": counter.packets, "bytes": counter.bytes }),
        ))
    })
    .collect()
}

fn vips(maps: &Maps) -> Result<Vec<Value>> {
    let row = |(key, value): (lb_common::vip::Key, lb_common::vip::Value)| {
        let value = json!({ "pool": value.pool, "index": value.index, "served": value.is_served() });
        pair(vip_name(&key), value)
    };
    Ok(maps.vips()?.into_iter().map(row).collect())
}

fn slots(maps: &Maps) -> Result<Vec<Value>> {
    let pools = maps.pools()?.into_keys();
    let row = |pool: u16, index: usize, slot: Slot| {
        let value = json!({ "current": slot.current(), "origin": slot.origin(), "previous": slot.previous(),
                            "flags": slot.flags() });
        json!({ "key": { "pool": pool, "slot": index }, "value": value })
    };
    Ok(pools
        .flat_map(|pool| {
            maps.ring(pool)
                .into_iter()
                .enumerate()
                .map(move |(i, slot)| row(pool, i, slot))
        })
        .collect())
}

fn of_backends(maps: &Maps, value: impl Fn(&Backend) -> Value) -> Result<Vec<Value>> {
    Ok(maps
        .backends()?
        .0
        .iter()
        .map(|(&index, backend)| pair(index, value(backend)))
        .collect())
}

fn entry(entry: &lb_common::backend::Entry) -> Value {
    use lb_common::backend::{OUTER_V6, READY};
    json!({
        "destination_mac": mac(&entry.destination_mac), "source_mac": mac(&entry.source_mac),
        "ready": entry.flags & READY != 0, "outer": if entry.flags & OUTER_V6 != 0 { "ipv6" } else { "ipv4" },
        "csum_base": entry.csum_base, "src": IpAddr::from(entry.src), "dst": IpAddr::from(entry.dst),
        "ifindex": entry.ifindex, "entropy_bits": entry.entropy.count_ones(), "mtu": entry.mtu,
    })
}

fn info(backend: &Backend) -> Value {
    let info = &backend.info;
    json!({
        "id": format!("{:016x}", info.id), "pool": info.pool, "name": untext(&info.name),
        "address": IpAddr::from(info.address), "weight": info.weight,
        "next_hop": next_hop::name(info.next_hop), "why": untext(&info.why),
    })
}

fn meta(maps: &Maps) -> Result<Value> {
    let meta = maps.meta()?;
    let value = json!({
        "abi": meta.abi, "node": untext(&meta.node), "generation": meta.generation, "applied_at": meta.applied_at,
        "pools": meta.pools, "vips": meta.vips, "backends": meta.backends, "group_key": "masked",
    });
    Ok(pair(0, value))
}

fn interfaces(maps: &Maps) -> Result<Vec<Value>> {
    let row = |(i, row): (u32, lb_common::info::Interface)| {
        let (name, mode) = (untext(&row.name), mode::name(row.mode));
        pair(
            i,
            json!({ "name": name, "ifindex": row.ifindex, "mode": mode, "mtu": row.mtu }),
        )
    };
    Ok((0..).zip(maps.interfaces()?).map(row).collect())
}
