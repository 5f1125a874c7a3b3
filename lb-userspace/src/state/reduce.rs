//! World → Desired: what the maps should hold, given a model and the next hops.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::header::proto;
use lb_common::info::{next_hop, text};
use lb_common::{backend, encap, info, vip};

use super::contents::{Backend, Contents};
use super::ids::{Ids, vip_key};
use super::ring::{Cache, Place};
use super::standing::{Standing, Standings};
use crate::model::{self, Model, Tracking, Tunnel};
use crate::net::{Hop, NextHop, Target, Why};

/// Everything that decides what the maps should hold.
pub struct World<'a> {
    /// The configuration.
    pub model: &'a Model,
    /// Indexes of everything in it.
    pub ids: &'a Ids,
    /// Next hops, in the order of [`targets`].
    pub hops: &'a [NextHop],
    /// What the operator and the health checks think of backends.
    pub standings: &'a Standings,
    /// What the maps hold now.
    pub applied: &'a Contents,
    /// Indexes of backends that were dead and that entries may still name: they stay dead.
    pub barred: &'a BTreeSet<u16>,
    /// Indexes that wait until no entry names them; no pool has them any more.
    pub waiting: &'a [u16],
}

/// What next hops are asked for: every backend of every pool, in the model's order.
pub fn targets(model: &Model) -> Vec<Target> {
    let of = |b: &model::Backend| Target {
        address: b.address,
        via: b.via.clone(),
        source: source(model, b.address).map(|(address, _)| address),
    };
    model.pools.iter().flat_map(|p| &p.backends).map(of).collect()
}

/// The configured outer source for a backend and the length of its prefix.
fn source(model: &Model, backend: IpAddr) -> Option<(IpAddr, u8)> {
    match backend {
        IpAddr::V4(_) => model
            .encap
            .source_ipv4
            .map(|net| (net.network().into(), net.prefix_len())),
        IpAddr::V6(_) => model
            .encap
            .source_ipv6
            .map(|net| (net.network().into(), net.prefix_len())),
    }
}

/// Computes what the maps should hold.
pub fn reduce(world: &World<'_>, cache: &mut Cache) -> Contents {
    let mut desired = Contents::default();
    let mut hops = world.hops.iter();
    for (pool, &index) in world.model.pools.iter().zip(&world.ids.pools) {
        desired.pools.insert(
            index,
            info::Pool {
                name: text(pool.name.as_str()),
            },
        );
        let mut places = Vec::with_capacity(pool.backends.len());
        for configured in &pool.backends {
            let hop = hops.next().expect("one next hop for each backend");
            let local = world.ids.backends[&configured.id];
            let backend = backend(world, pool, configured, (index, local), hop);
            let reachable = backend.info.next_hop == next_hop::RESOLVED;
            if reachable {
                desired.devices.insert(backend.entry.ifindex);
            }
            places.push(Place {
                id: configured.id,
                weight: backend.info.weight,
                index: local,
                up: reachable
                    && world.standings.of(configured.id).takes_new_flows()
                    && !world.barred.contains(&local),
            });
            desired.backends.insert(local, backend);
        }
        desired.rings.insert(index, cache.ring(places));
    }
    for (index, held) in world
        .waiting
        .iter()
        .filter_map(|i| world.applied.backends.get_key_value(i))
    {
        let entry = backend::Entry {
            flags: backend::DEAD,
            ..backend::Entry::default()
        };
        // Where indexes are short it may have been given away.
        let nobody = Backend { entry, ..*held };
        desired.backends.entry(*index).or_insert(nobody);
    }
    desired.vips = vips(world.model, world.ids);
    desired.freed = freed(world.applied, &desired);
    cache.shrink();
    desired
}

/// `pool` and `index` are the local indexes.
fn backend(
    world: &World<'_>,
    of: &model::Pool,
    configured: &model::Backend,
    (pool, index): (u16, u16),
    hop: &NextHop,
) -> Backend {
    let before = world
        .applied
        .backends
        .get(&index)
        .filter(|b| b.info.id == configured.id);
    let address = Addr::from(configured.address);
    let mut info = info::Backend {
        id: configured.id,
        address,
        pool,
        weight: world.standings.weight(configured.id, configured.weight),
        name: text(configured.name.as_str()),
        ..info::Backend::default()
    };
    // An entry that was good when the agent stopped stays good until the neighbour is known not to answer:
    // moving slots costs connections, asking costs nothing.
    // The kernel takes an interface that is gone out of the device map, and an entry that leads there is good no more.
    let kept = before.filter(|b| {
        b.entry.dst == address
            && b.info.next_hop == next_hop::RESOLVED
            && world.applied.devices.contains(&b.entry.ifindex)
    });
    let entry = match (hop, kept) {
        (NextHop::Resolved(hop), _) => {
            info.next_hop = next_hop::RESOLVED;
            entry(world.model, configured.address, hop)
        }
        // On another interface it would be another way.
        (NextHop::Unresolved(Why::NoNeighbour { ifindex, .. }), Some(kept))
            if kept.entry.ifindex == *ifindex =>
        {
            info.next_hop = next_hop::RESOLVED;
            kept.entry
        }
        (NextHop::Unresolved(why), _) => {
            info.next_hop = next_hop::UNRESOLVED;
            info.why = text(&why.to_string());
            // No slot names it, but a packet that has read its slot already may still need it.
            before
                .filter(|b| b.entry.dst == address)
                .map(|b| b.entry)
                .unwrap_or_default()
        }
    };
    let is_dead = world.standings.of(configured.id) == Standing::Dead || world.barred.contains(&index);
    // An entry that was kept follows the configuration in this, too.
    let (wrap, port) = tunnel(of.tunnel);
    let flags = entry.flags & !(backend::DEAD | backend::GUE | backend::CHANCE)
        | wrap
        | if is_dead { backend::DEAD } else { 0 };
    let entry = backend::Entry { flags, port, ..entry };
    Backend { entry, info }
}

/// Flags and port of entries in a pool.
fn tunnel(tunnel: Tunnel) -> (u16, Be16) {
    match tunnel {
        Tunnel::Ipip => (0, Be16::new(0)),
        Tunnel::Gue { port, second_chance } => {
            let chance = if second_chance { backend::CHANCE } else { 0 };
            (backend::GUE | chance, Be16::new(port))
        }
    }
}

/// The entry of a backend whose next hop is known.
fn entry(model: &Model, address: IpAddr, hop: &Hop) -> backend::Entry {
    let (src, dst) = (Addr::from(hop.source), Addr::from(address));
    let prefix = source(model, address).map(|(_, len)| len);
    let (flags, host_bits, csum_base) = match address {
        IpAddr::V4(_) => (
            backend::READY,
            32 - prefix.unwrap_or(32),
            encap::base(src.v4_raw(), dst.v4_raw()),
        ),
        IpAddr::V6(_) => (backend::READY | backend::OUTER_V6, 128 - prefix.unwrap_or(128), 0),
    };
    backend::Entry {
        destination_mac: hop.destination_mac,
        source_mac: hop.source_mac,
        flags,
        csum_base,
        src,
        dst,
        ifindex: hop.ifindex,
        entropy: entropy(host_bits),
        mtu: u16::try_from(hop.mtu).unwrap_or(u16::MAX),
        port: Be16::new(0),
        pad: [0; 4],
    }
}

/// The mask of up to 32 host bits at the end of an address, as they lie in memory.
fn entropy(host_bits: u8) -> u32 {
    let mask = 1u64
        .checked_shl(u32::from(host_bits.min(32)))
        .expect("at most 32")
        - 1;
    (mask as u32).to_be()
}

/// All VIPs, and a mark for each protocol of an address that has no VIP for every port.
fn vips(model: &Model, ids: &Ids) -> BTreeMap<vip::Key, vip::Value> {
    let mut map = BTreeMap::new();
    for vip in &model.vips {
        let key = vip_key(vip);
        for proto in [proto::TCP, proto::UDP] {
            map.entry(vip::Key {
                port: Be16::new(0),
                proto,
                ..key
            })
            .or_insert_with(vip::Value::default);
        }
        let value = vip::Value {
            pool: ids.pools[vip.pool],
            index: ids.vips[&key],
            flags: vip::SERVED | tracking(vip.tracking),
            pad: 0,
        };
        map.insert(key, value);
    }
    map
}

/// What the program has to know of a VIP's tracking.
const fn tracking(tracking: Tracking) -> u16 {
    match tracking {
        Tracking::OnChange => 0,
        Tracking::Always => vip::ALWAYS,
        Tracking::Off => vip::OFF,
    }
}

/// When each free index was freed: those that leave with this change are the last.
fn freed(applied: &Contents, desired: &Contents) -> BTreeMap<u16, u64> {
    let mut freed: BTreeMap<u16, u64> = applied
        .freed
        .iter()
        .filter(|(i, _)| !desired.backends.contains_key(i))
        .map(|(&i, &n)| (i, n))
        .collect();
    let next = applied.freed.values().max().map_or(1, |n| n + 1);
    let leaving = applied
        .backends
        .keys()
        .filter(|i| !desired.backends.contains_key(i));
    freed.extend((next..).zip(leaving).map(|(n, &i)| (i, n)));
    freed
}
