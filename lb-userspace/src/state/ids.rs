//! Local indexes: who keeps which one. Never by the order of the YAML.
//!
//! What is in the maps keeps its index, so a restart and a reload move nothing. A new backend takes an index that
//! was never used, else the one that was freed longest ago.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::header::proto;
use lb_common::info::untext;
use lb_common::{slot, vip};

use super::contents::Contents;
use crate::model::{self, Model, Protocol};

/// Indexes of everything in a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Ids {
    /// By position in [`Model::pools`].
    pub pools: Vec<u16>,
    /// By stable identity.
    pub backends: BTreeMap<u64, u16>,
    /// By key, marks aside.
    pub vips: BTreeMap<vip::Key, u16>,
}

/// The map key of a VIP.
pub fn vip_key(vip: &model::Vip) -> vip::Key {
    vip::Key::new(
        Addr::from(vip.address),
        Be16::new(vip.port),
        protocol_number(vip.protocol),
    )
}

/// IP's number of a protocol.
pub fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => proto::TCP,
        Protocol::Udp => proto::UDP,
    }
}

/// Gives every pool, backend and VIP of `model` an index, keeping those in `applied`.
///
/// A valid model fits its capacities, so indexes never run out.
pub fn assign(model: &Model, applied: &Contents) -> Ids {
    Ids {
        pools: pools(model, applied),
        backends: backends(model, applied),
        vips: vips(model, applied),
    }
}

fn pools(model: &Model, applied: &Contents) -> Vec<u16> {
    let known: BTreeMap<&str, u16> = applied.pools.iter().map(|(&i, p)| (untext(&p.name), i)).collect();
    let kept: BTreeSet<u16> = model
        .pools
        .iter()
        .filter_map(|p| known.get(p.name.as_str()).copied())
        .collect();
    let mut free = free(model.capacity.pools, &kept, known.values().copied());
    let mut pick = |pool: &model::Pool| known.get(pool.name.as_str()).copied().or_else(|| free.next());
    model
        .pools
        .iter()
        .map(|p| pick(p).expect("a model has at most 1,024 pools"))
        .collect()
}

/// Free indexes: first those that nothing holds, then those that this very change frees, since a packet may still
/// be on its way through them.
fn free(capacity: u32, kept: &BTreeSet<u16>, known: impl Iterator<Item = u16>) -> impl Iterator<Item = u16> {
    let known: BTreeSet<u16> = known.collect();
    let leaving: Vec<u16> = known.difference(kept).copied().collect();
    let last = u16::try_from(capacity).unwrap_or(u16::MAX);
    (0..last).filter(move |i| !known.contains(i)).chain(leaving)
}

fn backends(model: &Model, applied: &Contents) -> BTreeMap<u64, u16> {
    let known: BTreeMap<u64, u16> = applied.backends.iter().map(|(&i, b)| (b.info.id, i)).collect();
    // Never used ones in order, then the freed ones, the longest free first. There are twice as many indexes as
    // backends, so one that this very change frees, which slots of another pool may still name, is taken only where
    // an earlier change broke off half-way.
    let first = slot::NO_BACKEND + 1;
    let used = |i: &u16| applied.backends.contains_key(i) || applied.freed.contains_key(i);
    let indexes = u16::try_from(model.capacity.backend_indexes()).unwrap_or(u16::MAX);
    let fresh = (first..indexes).filter(|i| !used(i));
    let mut freed: Vec<(u64, u16)> = applied.freed.iter().map(|(&i, &when)| (when, i)).collect();
    freed.sort_unstable();
    let wanted: BTreeSet<u64> = model
        .pools
        .iter()
        .flat_map(|p| &p.backends)
        .map(|b| b.id)
        .collect();
    let leaving = known
        .iter()
        .filter(|(id, _)| !wanted.contains(id))
        .map(|(_, &i)| i);
    let mut free = fresh.chain(freed.into_iter().map(|(_, i)| i)).chain(leaving);
    let mut pick = |id: u64| known.get(&id).copied().or_else(|| free.next());
    wanted
        .iter()
        .map(|&id| (id, pick(id).expect("a model fits its capacity")))
        .collect()
}

fn vips(model: &Model, applied: &Contents) -> BTreeMap<vip::Key, u16> {
    let known: BTreeMap<vip::Key, u16> = applied
        .vips
        .iter()
        .filter(|(_, v)| v.is_served())
        .map(|(&k, v)| (k, v.index))
        .collect();
    let keys: Vec<vip::Key> = model.vips.iter().map(vip_key).collect();
    let kept: BTreeSet<u16> = keys.iter().filter_map(|k| known.get(k).copied()).collect();
    let mut free = free(model.capacity.vips, &kept, known.values().copied());
    let mut pick = |key: &vip::Key| known.get(key).copied().or_else(|| free.next());
    keys.iter()
        .map(|k| (*k, pick(k).expect("a model has at most 32,768 VIPs")))
        .collect()
}
