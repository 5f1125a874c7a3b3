//! The shapes that maps must have: aya adopts a pinned map of any shape without a word.

use aya::maps::{MapData, MapInfo, MapType};
use aya::util::nr_cpus;
use lb_common::abi::{self, map};
use lb_common::admit::{Budget, Limits};
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::SLOTS;
use lb_common::stop::{DecapStop, Stop};
use lb_common::tick::Tick;
use lb_common::{addr, backend, flow, info, stats, vip};

use super::Error;
use super::pin::Root;
use crate::model::Capacity;

/// The shape of one map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: MapType,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Entries.
    pub entries: u32,
}

const INDEX: usize = size_of::<u32>();

const fn shape(name: &'static str, kind: MapType, key: usize, value: usize, entries: u32) -> Shape {
    Shape {
        name,
        kind,
        key,
        value,
        entries,
    }
}

/// The CPUs that this machine can have. Where the kernel doesn't tell, nothing can be loaded anyway.
pub(super) fn cpus() -> u32 {
    nr_cpus().ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

/// The maps of `lb_xdp` for given capacities and so many replicas, on this machine.
pub(super) fn balancer(capacity: Capacity, replicas: u32) -> Vec<Shape> {
    balancer_on(capacity, replicas, cpus())
}

/// The maps of `lb_xdp` for given capacities and so many replicas, on a machine that can have so many CPUs.
pub fn balancer_on(capacity: Capacity, replicas: u32, cpus: u32) -> Vec<Shape> {
    let Capacity {
        pools, vips, flows, ..
    } = capacity;
    let entries = |name, kind, entries| {
        shape(
            name,
            kind,
            size_of::<flow::Key>(),
            size_of::<flow::Entry>(),
            entries,
        )
    };
    let backends = capacity.backend_indexes();
    let array = |name, value, entries| shape(name, MapType::Array, INDEX, value, entries);
    let counters = |name, entries| {
        shape(
            name,
            MapType::PerCpuArray,
            INDEX,
            size_of::<stats::Counter>(),
            entries,
        )
    };
    vec![
        array(map::VIPS, size_of::<vip::Cell>(), vip::cells(vips)),
        array(map::SLOTS, size_of::<u64>(), pools * SLOTS as u32),
        array(map::BACKENDS, size_of::<backend::Entry>(), backends),
        shape(map::DEVICES, MapType::DevMapHash, INDEX, 8, abi::MAX_DEVICES),
        counters(map::VIP_STATS, vips),
        counters(map::BACKEND_STATS, backends),
        counters(map::STOPS, Stop::ALL.len() as u32),
        array(map::META, size_of::<info::Meta>(), 1),
        array(map::POOL_INFO, size_of::<info::Pool>(), pools),
        array(map::BACKEND_INFO, size_of::<info::Backend>(), backends),
        array(map::IFACE_INFO, size_of::<info::Interface>(), abi::MAX_INTERFACES),
        entries(map::FLOWS, MapType::Hash, flows),
        entries(map::REPLICAS, MapType::Hash, replicas),
        entries(
            map::PROBATION,
            MapType::LruHash,
            cpus * abi::probation(flows, cpus),
        ),
        entries(map::UDP_FLOWS, MapType::Hash, abi::udp_flows(flows)),
        entries(
            map::UDP_PROBATION,
            MapType::LruHash,
            cpus * abi::udp_probation(flows, cpus),
        ),
        shape(
            map::MISSES,
            MapType::LruHash,
            size_of::<flow::Key>(),
            size_of::<Tick>(),
            abi::misses(flows, cpus),
        ),
        array(map::USES, size_of::<Uses>(), pools * SLOTS as u32),
        shape(
            map::BUDGETS,
            MapType::PerCpuArray,
            INDEX,
            size_of::<Budget>(),
            abi::budget::COUNT,
        ),
        shape(map::EVENTS, MapType::RingBuf, 0, 0, abi::EVENTS),
        counters(map::LOST, 1),
        array(map::LIMITS, size_of::<Limits>(), 1),
        counters(map::PICKS, By::ALL.len() as u32),
    ]
}

/// The maps of `lb_decap`.
pub fn decap() -> Vec<Shape> {
    let counter = size_of::<stats::Counter>();
    vec![
        shape(
            map::DECAP_ALLOW,
            MapType::LpmTrie,
            INDEX + size_of::<addr::Addr>(),
            INDEX,
            abi::MAX_DECAP_PREFIXES,
        ),
        shape(
            map::DECAP_STOPS,
            MapType::PerCpuArray,
            INDEX,
            counter,
            DecapStop::ALL.len() as u32,
        ),
        shape(
            map::DECAP_STATS,
            MapType::PerCpuArray,
            INDEX,
            counter,
            stats::decap::COUNT,
        ),
        shape(map::DECAP_PORT, MapType::Array, INDEX, INDEX, 1),
    ]
}

/// Refuses a pinned map of facts that is not ours to read: without them not even the ABI version is known.
pub(super) fn check_meta(root: &Root) -> Result<(), Error> {
    let shapes = balancer(Capacity::default(), abi::NO_REPLICAS);
    let meta: Vec<Shape> = shapes.into_iter().filter(|s| s.name == map::META).collect();
    compare(root, &meta).map(|_| ())
}

/// Which of the maps are pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// None.
    None,
    /// Some: an agent died while it loaded.
    Some,
    /// All, each in the shape that it must have.
    All,
}

/// Compares what is pinned with what it must be.
pub fn compare(root: &Root, shapes: &[Shape]) -> Result<Pinned, Error> {
    let mut found = 0;
    for shape in shapes {
        let path = root.map(shape.name);
        if !path.try_exists().map_err(Error::path(&path))? {
            continue;
        }
        found += 1;
        let info = MapData::from_pin(&path)
            .and_then(|m| m.info())
            .map_err(Error::map(shape.name))?;
        shape.check(&info)?;
    }
    Ok(match found {
        0 => Pinned::None,
        n if n == shapes.len() => Pinned::All,
        _ => Pinned::Some,
    })
}

impl Shape {
    fn check(&self, info: &MapInfo) -> Result<(), Error> {
        let kind = info.map_type().map_err(Error::map(self.name))?;
        let found = Shape {
            name: self.name,
            kind,
            key: info.key_size() as usize,
            value: info.value_size() as usize,
            entries: info.max_entries(),
        };
        if found == *self {
            return Ok(());
        }
        let remedy = if map::DECAP.contains(&self.name) {
            "another version of Tandem made it; take it off with `lbctl decap detach` and attach it again"
        } else if (found.kind, found.key, found.value) == (self.kind, self.key, self.value) {
            "capacities are fixed while the data plane lives; set `capacity` back, or withdraw this node, \
             stop lbd, run `lbctl detach` and start lbd"
        } else {
            "another version of Tandem made it; withdraw this node, stop lbd, run `lbctl detach` and start lbd"
        };
        Err(Error::Shape {
            name: self.name.to_owned(),
            found: found.text(),
            needed: self.text(),
            remedy,
        })
    }

    fn text(&self) -> String {
        format!(
            "{:?} of {} × {} → {} bytes",
            self.kind, self.entries, self.key, self.value
        )
    }
}
