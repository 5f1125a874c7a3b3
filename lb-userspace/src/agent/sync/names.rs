//! What the maps call things and what the group calls them.

use std::collections::BTreeSet;
use std::time::Duration;

use foldhash::HashMap;
use lb_common::backend::DEAD;
use lb_common::flow::{self, Entry};
use lb_common::header::proto;
use lb_common::id::stable;
use lb_common::info::untext;
use lb_common::slot::{Slot, index, of_hash};
use lb_common::{hash, vip};

use crate::dataplane::flows::Table;
use crate::dataplane::maps::Maps;
use crate::model::{Model, Tracking};
use crate::state::contents::Contents;
use crate::state::ids::vip_key;
use crate::state::track::Slots;
use crate::sync::{self, Flow, Kind, Range, Tables, View, range};

/// A VIP whose flows are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Served {
    pool: u16,
    /// Of the pool; the maps may not have it yet.
    identity: Option<u64>,
    /// Its idle timeout, seconds.
    idle: u32,
}

/// A backend of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Backend {
    id: u64,
    pool: u16,
    dead: bool,
}

/// Where a flow belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    vip: vip::Key,
    /// Of the VIP, seconds.
    pub(super) idle: u32,
    pub(super) range: Range,
}

/// What the maps hold, as far as flow records name it. A new one comes with every change.
#[derive(Clone, Debug)]
pub struct Names {
    own: u8,
    nodes: u8,
    key: hash::Key,
    vips: HashMap<vip::Key, Served>,
    /// By index.
    backends: Vec<Option<Backend>>,
    indexes: HashMap<u64, u16>,
}

impl PartialEq for Names {
    /// Whether flows are called the same. The key never changes.
    fn eq(&self, other: &Self) -> bool {
        (self.own, self.nodes, &self.vips, &self.backends)
            == (other.own, other.nodes, &other.vips, &other.backends)
    }
}

impl Names {
    /// For the node at place `own` and what its maps hold; the group's key is expanded.
    pub fn of(model: &Model, applied: &Contents, own: u8, key: hash::Key) -> Self {
        let tracked = model.vips.iter().filter(|vip| vip.tracking != Tracking::Off);
        let idle = tracked.map(|vip| (vip_key(vip), vip.idle_timeout));
        let nodes = u8::try_from(model.group.nodes.len()).unwrap_or(u8::MAX);
        Self::new((own, nodes), key, idle, applied)
    }

    /// For the node at a place of so many, the VIPs whose flows are tracked with their idle timeouts, and what the maps hold.
    pub fn new(
        (own, nodes): (u8, u8),
        key: hash::Key,
        idle: impl IntoIterator<Item = (vip::Key, Duration)>,
        applied: &Contents,
    ) -> Self {
        let vips = idle.into_iter().filter_map(|(key, idle)| {
            let pool = applied.vips.get(&key).filter(|vip| vip.is_served())?.pool;
            let served = Served {
                pool,
                identity: applied
                    .pools
                    .get(&pool)
                    .map(|pool| stable(untext(&pool.name), "")),
                idle: u32::try_from(idle.as_secs()).unwrap_or(u32::MAX),
            };
            Some((key, served))
        });
        let last = applied.backends.keys().next_back().copied();
        let mut backends = vec![None; last.map_or(0, |last| usize::from(last) + 1)];
        for (&index, backend) in &applied.backends {
            backends[usize::from(index)] = Some(Backend {
                id: backend.info.id,
                pool: backend.info.pool,
                dead: backend.entry.flags & DEAD != 0,
            });
        }
        Self {
            own,
            nodes,
            key,
            vips: vips.collect(),
            indexes: applied.backends.iter().map(|(&i, b)| (b.info.id, i)).collect(),
            backends,
        }
    }

    fn backend(&self, index: u16) -> Option<&Backend> {
        self.backends.get(usize::from(index))?.as_ref()
    }

    /// This node's place in `group.nodes`.
    pub(super) const fn own(&self) -> u8 {
        self.own
    }

    /// How many nodes the group has.
    pub(super) const fn nodes(&self) -> u8 {
        self.nodes
    }

    /// The identity of a backend.
    pub(super) fn id(&self, backend: u16) -> Option<u64> {
        self.backend(backend).map(|backend| backend.id)
    }

    fn served(&self, flow: &flow::Key) -> Option<(vip::Key, Served)> {
        let exact = vip::Key::new(flow.dst, flow.dport, flow.proto);
        let found = self.vips.get_key_value(&exact);
        let (&vip, &served) = found.or_else(|| self.vips.get_key_value(&exact.any_port()))?;
        Some((vip, served))
    }

    /// Where a flow belongs; `None`: to no VIP whose flows are tracked.
    pub(super) fn place(&self, flow: &flow::Key) -> Option<Place> {
        let (vip, served) = self.served(flow)?;
        let slot = of_hash(flow.tuple().hash(&self.key));
        let pool = served.identity?;
        Some(Place {
            vip,
            idle: served.idle,
            range: range(pool, slot),
        })
    }

    /// An entry for peers; `None` where this node has no name for it.
    pub(super) fn flow(&self, kind: Kind, key: &flow::Key, entry: &Entry) -> Option<Flow> {
        let (vip, _) = self.served(key)?;
        let backend = match kind {
            Kind::Delete => 0,
            _ => self.id(entry.backend)?,
        };
        Some(Flow {
            kind,
            key: *key,
            vip,
            backend,
            entry: *entry,
        })
    }
}

impl Place {
    /// An entry that belongs there, for peers; its backend by identity.
    pub(super) const fn flow(&self, kind: Kind, key: flow::Key, entry: Entry, backend: u64) -> Flow {
        Flow {
            kind,
            key,
            vip: self.vip,
            backend,
            entry,
        }
    }
}

/// What merging asks of names, slots and members.
pub(super) struct Ground<'a> {
    pub(super) names: &'a Names,
    pub(super) maps: &'a Maps,
    /// Places of nodes that are not gone; `None`: nobody is.
    pub(super) live: Option<&'a BTreeSet<u8>>,
}

/// Whether an owner is gone.
pub(super) fn is_gone(live: Option<&BTreeSet<u8>>, owner: u8) -> bool {
    live.is_some_and(|live| !live.iter().any(|&place| sync::owner(place) == owner))
}

impl View for Ground<'_> {
    fn vip(&self, vip: &vip::Key) -> Option<u16> {
        self.names.vips.get(vip).map(|served| served.pool)
    }

    fn backend(&self, id: u64) -> Option<u16> {
        self.names.indexes.get(&id).copied()
    }

    fn is_home(&self, backend: u16, pool: u16) -> bool {
        self.names
            .backend(backend)
            .is_some_and(|backend| backend.pool == pool)
    }

    fn is_dead(&self, backend: u16) -> bool {
        self.names.backend(backend).is_some_and(|backend| backend.dead)
    }

    fn place(&self, pool: u16, key: &flow::Key) -> u32 {
        index(pool, of_hash(key.tuple().hash(&self.names.key)))
    }

    fn slot(&self, place: u32) -> Slot {
        Slots::slot(self.maps, place)
    }

    fn is_gone(&self, owner: u8) -> bool {
        is_gone(self.live, owner)
    }
}

/// Own tables, confirmed flows.
pub(super) const OWN_TABLES: [Table; 2] = [Table::Flows, Table::UdpFlows];

/// The place in [`OWN_TABLES`] of a protocol's.
pub(super) const fn own_table(protocol: u8) -> usize {
    (protocol != proto::TCP) as usize
}

/// The entries that merging asks for. A look-up that fails finds nothing.
pub(super) struct Entries<'a> {
    pub(super) maps: &'a Maps,
    /// Own tables that are known to be empty.
    pub(super) empty: [bool; 2],
}

impl Tables for Entries<'_> {
    fn own(&mut self, key: &flow::Key) -> Option<Entry> {
        let table = own_table(key.proto);
        if self.empty[table] {
            return None;
        }
        self.maps.entry(OWN_TABLES[table], key).ok().flatten()
    }

    fn replica(&mut self, key: &flow::Key) -> Option<Entry> {
        self.maps.entry(Table::Replicas, key).ok().flatten()
    }
}
