//! Applied and Desired → the writes between them, in an order that breaks no packet on the way.

use std::sync::Arc;

use lb_common::{info, vip};

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
/// names any more. So at every moment a packet finds a whole path, the old one or the new one.
pub fn diff(applied: &Contents, desired: &Contents) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(
        desired
            .devices
            .difference(&applied.devices)
            .map(|&i| Op::AddDevice(i)),
    );
    for (&index, backend) in &desired.backends {
        let before = applied.backends.get(&index);
        if before != Some(backend) {
            let new = before.is_none_or(|b| b.info.id != backend.info.id);
            ops.push(Op::SetBackend {
                index,
                backend: Box::new(*backend),
                new,
            });
        }
    }
    for (&index, pool) in &desired.pools {
        if applied.pools.get(&index) != Some(pool) {
            ops.push(Op::SetPool { index, pool: *pool });
        }
    }
    for (&pool, ring) in &desired.rings {
        if applied.rings.get(&pool) != Some(ring) {
            ops.push(Op::StoreRing {
                pool,
                ring: Arc::clone(ring),
            });
        }
    }
    for (&key, &value) in &desired.vips {
        let before = applied.vips.get(&key);
        if before != Some(&value) {
            let new = value.is_served() && before.is_none_or(|b| !b.is_served() || b.index != value.index);
            ops.push(Op::SetVip { key, value, new });
        }
    }
    ops.extend(gone(&applied.vips, &desired.vips).map(|(&key, _)| Op::RemoveVip(key)));
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

fn gone<'a, K: Ord, V>(
    applied: &'a std::collections::BTreeMap<K, V>,
    desired: &'a std::collections::BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    applied.iter().filter(|(key, _)| !desired.contains_key(key))
}
