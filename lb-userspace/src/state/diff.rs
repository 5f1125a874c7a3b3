//! Applied and Desired → the writes between them, in an order that breaks no packet on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::slot::NO_BACKEND;
use lb_common::{backend, info, vip};

use super::contents::{Backend, Contents, Ring};

/// One write.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are the maps' keys and values")]
pub enum Op {
    /// Lets packets leave by an interface.
    AddDevice(u32),
    /// Writes a backend's entry and what `lbctl` shows of it; `new` = its counters start at 0.
    SetBackend {
        index: u16,
        backend: Box<Backend>,
        new: bool,
    },
    /// Names a pool.
    SetPool { index: u16, pool: info::Pool },
    /// Stores a pool's slots; those that hold the value already are not touched.
    StoreRing { pool: u16, ring: Ring },
    /// Writes a VIP or the mark of an address; `new` = its counters start at 0.
    SetVip {
        key: vip::Key,
        value: vip::Value,
        new: bool,
    },
    /// Removes a VIP or a mark.
    RemoveVip(vip::Key),
    /// Empties a pool's slots and frees its index.
    ClearPool(u16),
    /// Empties a backend's entry and frees its index.
    ClearBackend { index: u16, freed: u64 },
    /// No packet leaves by this interface any more.
    RemoveDevice(u32),
}

/// The writes that turn `applied` into `desired`.
///
/// First everything that something else will name (devices, backends, slots), then the VIPs, then what nothing
/// names any more. So at every moment a packet finds a whole path, the old one or the new one. One case is left:
/// with every pool index taken, VIPs that move from one replaced pool to another may meet the wrong one for a moment.
pub fn diff(applied: &Contents, desired: &Contents) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(
        desired
            .devices
            .difference(&applied.devices)
            .map(|&i| Op::AddDevice(i)),
    );
    ops.extend(backends(applied, desired, true));
    let released = release(applied, desired);
    ops.extend(released.values().cloned());
    for turn in [Turn::First, Turn::Replaced, Turn::Empty] {
        pools_and_vips(applied, desired, turn, &released, &mut ops);
        if turn == Turn::First {
            let gone = gone(&applied.vips, &desired.vips).filter(|(key, _)| !released.contains_key(key));
            ops.extend(gone.map(|(&key, _)| Op::RemoveVip(key)));
        }
    }
    ops.extend(backends(applied, desired, false));
    ops.extend(gone(&applied.pools, &desired.pools).map(|(&index, _)| Op::ClearPool(index)));
    for (&index, _) in gone(&applied.backends, &desired.backends) {
        ops.push(Op::ClearBackend {
            index,
            freed: desired.freed[&index],
        });
    }
    ops.extend(
        applied
            .devices
            .difference(&desired.devices)
            .map(|&i| Op::RemoveDevice(i)),
    );
    ops
}

/// Writes of backends whose entry is complete, which come before the slots that name them, or of those whose entry
/// isn't, which come after the slots that named them.
fn backends(applied: &Contents, desired: &Contents, complete: bool) -> impl Iterator<Item = Op> {
    let of_kind = move |backend: &Backend| (backend.entry.flags & backend::READY != 0) == complete;
    desired
        .backends
        .iter()
        .filter(move |(_, b)| of_kind(b))
        .filter_map(|(&index, backend)| {
            let before = applied.backends.get(&index);
            let new = before.is_none_or(|b| b.info.id != backend.info.id);
            (before != Some(backend)).then(|| Op::SetBackend {
                index,
                backend: Box::new(*backend),
                new,
            })
        })
}

/// When a pool is written, so that VIPs which leave it have left before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    /// Its index was another pool's.
    Replaced,
    /// It has no backend to send to.
    Empty,
}

impl Turn {
    /// That of a pool index; marks of addresses name one that need not exist.
    fn of(index: u16, applied: &Contents, desired: &Contents) -> Self {
        let pools = [&applied.pools, &desired.pools].map(|pools| pools.get(&index));
        match desired.rings.get(&index) {
            // Either all slots are empty or none is.
            Some(ring) if ring.first() == Some(&NO_BACKEND) => Self::Empty,
            _ if pools[0].is_some() && pools[0] != pools[1] => Self::Replaced,
            _ => Self::First,
        }
    }
}

/// Writes of VIPs that end and whose counters another VIP gets: they come first, so that at no moment two VIPs have
/// one counter, not even where an agent dies half-way.
fn release(applied: &Contents, desired: &Contents) -> BTreeMap<vip::Key, Op> {
    let served = |vips: &BTreeMap<vip::Key, vip::Value>| -> BTreeMap<u16, vip::Key> {
        let served = vips.iter().filter(|(_, v)| v.is_served());
        served.map(|(&key, v)| (v.index, key)).collect()
    };
    let next = served(&desired.vips);
    let ends = applied.vips.iter().filter(|(key, value)| {
        let stays = desired.vips.get(*key).is_some_and(vip::Value::is_served);
        value.is_served() && !stays && next.get(&value.index).is_some_and(|other| other != *key)
    });
    ends.map(|(&key, _)| {
        let op = match desired.vips.get(&key) {
            Some(value) if !value.is_served() => Op::SetVip {
                key,
                value: *value,
                new: false,
            },
            _ => Op::RemoveVip(key),
        };
        (key, op)
    })
    .collect()
}

/// Writes of the pools whose turn it is, then of the VIPs that use them.
fn pools_and_vips(
    applied: &Contents,
    desired: &Contents,
    turn: Turn,
    released: &BTreeMap<vip::Key, Op>,
    ops: &mut Vec<Op>,
) {
    let turns = |index: u16| Turn::of(index, applied, desired) == turn;
    for (&index, pool) in desired.pools.iter().filter(|&(&index, _)| turns(index)) {
        if applied.pools.get(&index) != Some(pool) {
            ops.push(Op::SetPool { index, pool: *pool });
        }
        if let Some(ring) = desired.rings.get(&index)
            && applied.rings.get(&index) != Some(ring)
        {
            ops.push(Op::StoreRing {
                pool: index,
                ring: Arc::clone(ring),
            });
        }
    }
    for (&key, &value) in desired.vips.iter().filter(|(_, v)| turns(v.pool)) {
        let before = applied.vips.get(&key).filter(|_| !released.contains_key(&key));
        if before != Some(&value) && (value.is_served() || !released.contains_key(&key)) {
            let new = value.is_served() && before.is_none_or(|b| !b.is_served() || b.index != value.index);
            ops.push(Op::SetVip { key, value, new });
        }
    }
}

fn gone<'a, K: Ord, V>(
    applied: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    applied.iter().filter(|(key, _)| !desired.contains_key(key))
}
