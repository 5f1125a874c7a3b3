//! A stand-in for the pinned maps: writes change it, and packets' views of it are checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::slot::NO_BACKEND;
use lb_common::{backend, info, vip};
use lb_userspace::state::contents::{Backend, Contents, Ring};
use lb_userspace::state::diff::Op;

/// The maps, and whose counters stand at an index.
#[derive(Default)]
pub(super) struct Maps {
    vips: BTreeMap<vip::Key, vip::Value>,
    pools: BTreeMap<u16, info::Pool>,
    backends: BTreeMap<u16, Backend>,
    rings: BTreeMap<u16, Ring>,
    /// What the slots of each ring name.
    named: BTreeMap<u16, BTreeSet<u16>>,
    devices: BTreeSet<u32>,
    vip_counters: BTreeMap<u16, vip::Key>,
    backend_counters: BTreeMap<u16, u64>,
}

/// Where packets of one VIP end, as identities; `None` where some of them find no whole path.
type Ends = Option<BTreeSet<u64>>;

/// What everything is called, without any index.
pub(super) type ByName = (
    BTreeMap<vip::Key, Option<Vec<u64>>>,
    BTreeMap<u64, (backend::Entry, [u8; 32])>,
);

impl Maps {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::AddDevice(ifindex) => assert!(self.devices.insert(*ifindex)),
            Op::RemoveDevice(ifindex) => assert!(self.devices.remove(ifindex)),
            Op::SetBackend { index, backend, new } => {
                assert_ne!(*index, NO_BACKEND);
                self.backends.insert(*index, **backend);
                if *new {
                    self.backend_counters.insert(*index, backend.info.id);
                }
            }
            Op::SetPool { index, pool } => {
                self.pools.insert(*index, *pool);
            }
            Op::StoreRing { pool, ring } => {
                self.rings.insert(*pool, Arc::clone(ring));
                self.named.insert(*pool, distinct(ring));
            }
            Op::SetVip { key, value, new } => {
                self.vips.insert(*key, *value);
                if *new {
                    self.vip_counters.insert(value.index, *key);
                }
            }
            Op::RemoveVip(key) => assert!(self.vips.remove(key).is_some()),
            Op::ClearPool(pool) => {
                self.rings.remove(pool);
                self.named.remove(pool);
                self.pools.remove(pool);
            }
            Op::ClearBackend { index, freed } => {
                let info = info::Backend {
                    freed: *freed,
                    ..info::Backend::default()
                };
                let entry = backend::Entry::default();
                self.backends.insert(*index, Backend { entry, info });
            }
        }
    }

    /// What an agent reads that starts now.
    pub(super) fn contents(&self) -> Contents {
        let (used, free): (Vec<_>, Vec<_>) = self
            .backends
            .iter()
            .map(|(&i, &b)| (i, b))
            .partition(|(_, b)| b.info.name[0] != 0);
        // A pool is named before its slots are stored.
        let ring = |pool: &u16| {
            self.rings
                .get(pool)
                .cloned()
                .unwrap_or_else(|| Arc::new(vec![NO_BACKEND; lb_common::slot::SLOTS]))
        };
        Contents {
            vips: self.vips.clone(),
            pools: self.pools.clone(),
            backends: used.into_iter().collect(),
            rings: self.pools.keys().map(|&pool| (pool, ring(&pool))).collect(),
            devices: self.devices.clone(),
            freed: free.into_iter().map(|(i, b)| (i, b.info.freed)).collect(),
        }
    }

    /// Applies writes; every VIP whose packets had a whole path before and have one after has one in between, and it
    /// ends at a backend of the pool that the VIP used before or uses after.
    pub(super) fn apply_watched(&mut self, ops: &[Op]) {
        let before = self.ends();
        let pools = self.pools.clone();
        let used: BTreeMap<vip::Key, u16> = self.vips.iter().map(|(&k, v)| (k, v.pool)).collect();
        let mut views = Vec::new();
        for op in ops {
            self.apply(op);
            // Other writes change no packet's way.
            if !matches!(op, Op::SetPool { .. }) {
                views.push((op, self.ends()));
            }
        }
        let after = self.ends();
        for (key, ends) in &before {
            let (Some(old), Some(Some(new))) = (ends, after.get(key)) else {
                continue;
            };
            // A pool that the VIP leaves may get other backends in the same change.
            let left = used[key];
            let stays = self.pools.get(&left) == pools.get(&left);
            let left = stays.then(|| self.ends_of(left)).flatten().unwrap_or_default();
            for (op, view) in &views {
                let now = view.get(key).and_then(Option::as_ref);
                let now = now.unwrap_or_else(|| panic!("{key:?} has no path after {}", short(op)));
                let strange: Vec<_> = now
                    .difference(new)
                    .filter(|id| !old.contains(id) && !left.contains(id))
                    .collect();
                assert!(
                    strange.is_empty(),
                    "{key:?} ends at {strange:x?} after {}",
                    short(op)
                );
            }
        }
    }

    fn ends(&self) -> BTreeMap<vip::Key, Ends> {
        let mut known = BTreeMap::new();
        let served = self.vips.iter().filter(|(_, v)| v.is_served());
        served
            .map(|(&key, value)| {
                let ends = known
                    .entry(value.pool)
                    .or_insert_with(|| self.ends_of(value.pool));
                (key, ends.clone())
            })
            .collect()
    }

    fn ends_of(&self, pool: u16) -> Ends {
        let end = |index: &u16| {
            let backend = self.backends.get(index)?;
            let whole = backend.entry.flags & backend::READY != 0
                && self.devices.contains(&backend.entry.ifindex)
                && backend.info.name[0] != 0;
            whole.then_some(backend.info.id)
        };
        self.named.get(&pool)?.iter().map(end).collect()
    }

    /// What holds whenever a change is complete.
    pub(super) fn check(&self) {
        for (pool, named) in &self.named {
            let up = |b: &&Backend| b.info.pool == *pool && b.info.next_hop == info::next_hop::RESOLVED;
            let able = self.backends.values().filter(up).any(|b| b.info.weight > 0);
            for &index in named {
                if index == NO_BACKEND {
                    assert!(!able, "pool {pool} has an empty slot and a backend that is up");
                    continue;
                }
                let backend = &self.backends[&index];
                assert_eq!(backend.info.pool, *pool, "a slot names another pool's backend");
                assert!(up(&backend), "a slot names a backend without a next hop");
                assert!(backend.entry.flags & backend::READY != 0);
                assert!(self.devices.contains(&backend.entry.ifindex));
            }
        }
        for (index, backend) in &self.contents().backends {
            assert_eq!(
                self.backend_counters[index], backend.info.id,
                "counters of another backend"
            );
        }
        for (key, value) in self.vips.iter().filter(|(_, v)| v.is_served()) {
            assert_eq!(self.vip_counters[&value.index], *key, "counters of another VIP");
        }
    }

    /// The same without indexes.
    pub(super) fn by_name(&self) -> ByName {
        let name = |index: &u16| self.backends.get(index).map_or(0, |b| b.info.id);
        let ring = |value: &vip::Value| {
            value
                .is_served()
                .then(|| self.rings[&value.pool].iter().map(name).collect())
        };
        let vips = self.vips.iter().map(|(&key, value)| (key, ring(value)));
        let live = self.backends.values().filter(|b| b.info.name[0] != 0);
        let backends = live.map(|b| (b.info.id, (b.entry, self.pools[&b.info.pool].name)));
        (vips.collect(), backends.collect())
    }
}

fn distinct(ring: &Ring) -> BTreeSet<u16> {
    let mut seen = vec![false; 1 << 16];
    for &index in ring.iter() {
        seen[usize::from(index)] = true;
    }
    (0..=u16::MAX).filter(|&i| seen[usize::from(i)]).collect()
}

fn short(op: &Op) -> String {
    match op {
        Op::StoreRing { pool, .. } => format!("StoreRing of pool {pool}"),
        op => format!("{op:?}"),
    }
}
