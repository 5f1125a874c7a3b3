//! Entries of a map, decoded; what was never written is left out.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use lb_common::abi::map;
use lb_common::info::{mode, next_hop, untext};
use lb_common::slot::Slot;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use serde_json::{Value, json};

use super::flows::dump as flows;
use super::view::View;
use crate::ctl::{flag, name, slots};
use crate::dataplane::decap::Status;
use crate::dataplane::flows::Table;
use crate::dataplane::maps::Maps;
use crate::state::contents::Backend;

/// The entries of a balancer's map; each slot by itself where `all` is set.
pub(super) fn entries(maps: &Maps, view: &View, name: &str, all: bool) -> Result<Vec<Value>> {
    Ok(match name {
        map::VIPS => vips(view),
        map::SLOTS if all => each_slot(maps, view),
        map::SLOTS => grouped_slots(maps, view),
        map::BACKENDS => {
            let interfaces = Interfaces::read(maps)?;
            of_backends(view, |backend| entry(&backend.entry, &interfaces))
        }
        map::BACKEND_INFO => infos(view),
        map::BACKEND_STATS => {
            let row = |&index: &u16| {
                let key = json!({ "index": index, "backend": view.holder(index) });
                Ok(pair(key, counter(maps.backend_counter(index)?)))
            };
            view.contents.backends.keys().map(row).collect::<Result<_>>()?
        }
        map::VIP_STATS => {
            let row = |(key, value): (&_, &lb_common::vip::Value)| {
                let key = json!({ "index": value.index, "vip": name::vip(key) });
                Ok(pair(key, counter(maps.vip_counter(value.index)?)))
            };
            view.vips().map(row).collect::<Result<_>>()?
        }
        map::STOPS => {
            let row = |&stop: &Stop| {
                Ok(pair(
                    reason(stop as u32, stop.row().name),
                    counter(maps.stop_counter(stop)?),
                ))
            };
            Stop::ALL.iter().map(row).collect::<Result<_>>()?
        }
        map::DEVICES => devices(view, &Interfaces::read(maps)?),
        map::META => vec![meta(view)],
        map::POOL_INFO => {
            let row = |(index, pool): (&u16, &lb_common::info::Pool)| {
                pair(json!({ "index": index }), json!({ "name": untext(&pool.name) }))
            };
            view.contents.pools.iter().map(row).collect()
        }
        map::IFACE_INFO => interfaces(maps)?,
        name => match Table::of_name(name) {
            Some(table) => flows::entries(maps, view, table)?,
            None => flows::others(maps, view, name)?,
        },
    })
}

/// The entries of a decapsulator's map.
pub(super) fn of_decap(status: &Status, name: &str) -> Vec<Value> {
    match name {
        map::DECAP_ALLOW => {
            let row = |(source, version): &(IpNet, u32)| {
                pair(json!({ "source": source }), json!({ "ip_version": version }))
            };
            status.allow.iter().map(row).collect()
        }
        map::DECAP_STATS => [
            ("decapsulated", status.removed),
            ("second_chance", status.second_chance),
            ("second_chance_refused", status.stranger),
        ]
        .into_iter()
        .enumerate()
        .map(|(index, (counts, c))| pair(json!({ "index": index, "counts": counts }), counter(c)))
        .collect(),
        map::DECAP_PORT => vec![pair(
            json!({ "index": 0 }),
            json!({ "gue_port": status.gue_port }),
        )],
        map::DECAP_STOPS => {
            let stops = status.stops.iter();
            stops
                .map(|(s, c)| pair(reason(*s as u32, s.row().name), counter(*c)))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "every caller has just made them")]
pub(super) fn pair(key: Value, value: Value) -> Value {
    json!({ "key": key, "value": value })
}

pub(super) fn counter(counter: Counter) -> Value {
    json!({ "packets": counter.packets, "bytes": counter.bytes })
}

fn reason(index: u32, name: &str) -> Value {
    json!({ "index": index, "reason": name })
}

fn vips(view: &View) -> Vec<Value> {
    let row = |(key, value): (&lb_common::vip::Key, &lb_common::vip::Value)| {
        let key = json!({ "vip": name::vip(key) });
        // What stands in the mark of an address belongs to no VIP.
        let of_vip = value.is_served();
        let pool = of_vip.then(|| view.pool(value.pool));
        let index = of_vip.then_some(value.index);
        pair(
            key,
            json!({ "pool": pool, "index": index, "flags": flag::of_vip(value) }),
        )
    };
    view.contents.vips.iter().map(row).collect()
}

fn slot(view: &View, slot: Slot) -> Value {
    json!({ "current": view.holder(slot.current()), "origin": view.holder(slot.origin()),
            "previous": view.holder(slot.previous()), "flags": flag::of_slot(slot) })
}

/// Slots that hold the same as one entry; a pool's index without a name only where its slots are not empty.
fn grouped_slots(maps: &Maps, view: &View) -> Vec<Value> {
    let mut entries = Vec::new();
    for pool in (0..maps.capacity().pools).filter_map(|pool| u16::try_from(pool).ok()) {
        let ring = maps.ring(pool);
        let named = view.contents.pools.contains_key(&pool);
        if !named && ring.iter().all(|slot| slot.0 == 0) {
            continue;
        }
        let name = if named {
            view.pool(pool).to_owned()
        } else {
            format!("#{pool}")
        };
        for group in slots::group(ring) {
            let mut value = slot(view, group.held);
            value["count"] = group.count.into();
            value["slots"] = group.slots().into();
            entries.push(pair(json!({ "pool": name }), value));
        }
    }
    entries
}

/// Every slot of the pools that are in use.
fn each_slot(maps: &Maps, view: &View) -> Vec<Value> {
    let mut entries = Vec::new();
    for &pool in view.contents.pools.keys() {
        let name = view.pool(pool);
        for (index, value) in maps.ring(pool).into_iter().enumerate() {
            entries.push(pair(json!({ "pool": name, "slot": index }), slot(view, value)));
        }
    }
    entries
}

fn of_backends(view: &View, value: impl Fn(&Backend) -> Value) -> Vec<Value> {
    let row = |(index, backend): (&u16, &Backend)| {
        pair(
            json!({ "index": index, "backend": view.holder(*index) }),
            value(backend),
        )
    };
    view.contents.backends.iter().map(row).collect()
}

fn entry(entry: &lb_common::backend::Entry, interfaces: &Interfaces) -> Value {
    json!({
        "destination_mac": name::mac(&entry.destination_mac), "source_mac": name::mac(&entry.source_mac),
        "flags": flag::of_backend(entry), "csum_base": format!("{:#06x}", entry.csum_base),
        "src": IpAddr::from(entry.src), "dst": IpAddr::from(entry.dst), "ifindex": entry.ifindex,
        "interface": interfaces.name(entry.ifindex), "entropy_bits": entry.entropy.count_ones(), "mtu": entry.mtu,
    })
}

/// Backends, then free indexes that were in use once.
fn infos(view: &View) -> Vec<Value> {
    let named = view.contents.backends.iter().map(|(index, backend)| {
        let info = &backend.info;
        let value = json!({
            "name": untext(&info.name), "pool": view.pool(info.pool), "id": format!("{:016x}", info.id),
            "address": IpAddr::from(info.address), "weight": info.weight,
            "next_hop": next_hop::name(info.next_hop), "why": untext(&info.why), "freed": info.freed,
        });
        pair(json!({ "index": index }), value)
    });
    let free = view.contents.freed.iter().map(|(index, freed)| {
        let value = json!({
            "name": null, "pool": null, "id": null, "address": null, "weight": null, "next_hop": null, "why": null,
            "freed": freed,
        });
        pair(json!({ "index": index }), value)
    });
    named.chain(free).collect()
}

fn devices(view: &View, interfaces: &Interfaces) -> Vec<Value> {
    let row = |&ifindex: &u32| {
        pair(
            json!({ "ifindex": ifindex }),
            json!({ "interface": interfaces.name(ifindex) }),
        )
    };
    view.contents.devices.iter().map(row).collect()
}

fn meta(view: &View) -> Value {
    let meta = &view.meta;
    let value = json!({
        "abi": meta.abi, "node": untext(&meta.node), "generation": meta.generation, "applied_at": meta.applied_at,
        "pools": meta.pools, "vips": meta.vips, "backends": meta.backends, "flows": meta.flows, "group_key": "masked",
    });
    pair(json!({ "index": 0 }), value)
}

/// The attached interfaces by index. The host's own names are not asked: the agent may live in another network
/// namespace than we.
struct Interfaces(Vec<lb_common::info::Interface>);

impl Interfaces {
    fn read(maps: &Maps) -> Result<Self> {
        Ok(Self(maps.interfaces()?))
    }

    fn name(&self, ifindex: u32) -> Option<&str> {
        let row = self.0.iter().find(|row| row.ifindex == ifindex)?;
        Some(untext(&row.name))
    }
}

fn interfaces(maps: &Maps) -> Result<Vec<Value>> {
    let row = |(index, row): (u32, lb_common::info::Interface)| {
        let (name, mode) = (untext(&row.name), mode::name(row.mode));
        let value = json!({ "name": name, "ifindex": row.ifindex, "mode": mode, "mtu": row.mtu });
        pair(json!({ "index": index }), value)
    };
    Ok((0..).zip(maps.interfaces()?).map(row).collect())
}
