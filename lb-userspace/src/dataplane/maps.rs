//! Handles of all pinned maps of `lb_xdp`, for the agent and for `lbctl`.

use std::os::fd::AsFd;

use aya::maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, PerCpuArray};
use lb_common::abi::map;
use lb_common::admit::{Budget, Limits};
use lb_common::slot::SLOTS;
use lb_common::stats::Counter;
use lb_common::tick::Tick;
use lb_common::{backend, flow, info};

use super::Error;
use super::flows::Tables;
use super::memory::Memory;
use super::pin::Root;
use super::pod::Plain;
use super::shape::{self, Pinned, Shape};
use super::vips::Table;
use crate::model::Capacity;

/// The maps of a loaded data plane.
pub struct Maps {
    /// The kernel's number of the map of facts, and so of them all.
    pub(super) id: u32,
    pub(super) capacity: Capacity,
    shapes: Vec<Shape>,
    pub(super) vips: Table,
    pub(super) slots: Memory,
    pub(super) backends: Array<MapData, Plain<backend::Entry>>,
    pub(super) devices: DevMapHash<MapData>,
    pub(super) vip_stats: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) backend_stats: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) stops: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) meta: Array<MapData, Plain<info::Meta>>,
    pub(super) pool_info: Array<MapData, Plain<info::Pool>>,
    pub(super) backend_info: Array<MapData, Plain<info::Backend>>,
    pub(super) iface_info: Array<MapData, Plain<info::Interface>>,
    pub(super) tables: Tables,
    pub(super) misses: HashMap<MapData, Plain<flow::Key>, Plain<Tick>>,
    pub(super) uses: Memory,
    pub(super) budgets: PerCpuArray<MapData, Plain<Budget>>,
    pub(super) lost: PerCpuArray<MapData, Plain<Counter>>,
    pub(super) limits: Array<MapData, Plain<Limits>>,
    pub(super) picks: PerCpuArray<MapData, Plain<Counter>>,
    /// Writes that were done by these handles.
    pub(super) writes: u64,
}

/// A pinned map as one of aya's typed ones.
pub(super) fn open<T>(root: &Root, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = root.map(name);
    if !path.try_exists().map_err(Error::path(&path))? {
        return Err(Error::NotLoaded(root.path().to_owned()));
    }
    MapData::from_pin(&path)
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(Error::map(name))
}

impl Maps {
    /// Opens the maps pinned under `root`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`] where there are none; [`Error::Incomplete`] where some are missing; [`Error::Abi`] and [`Error::Shape`] where they are another
    /// version's.
    pub fn open(root: &Root) -> Result<Self, Error> {
        shape::check_meta(root)?;
        let meta: Array<MapData, Plain<info::Meta>> = match open(root, map::META) {
            Err(Error::NotLoaded(path)) if !root.linked()?.is_empty() => return Err(Error::Incomplete(path)),
            meta => meta?,
        };
        let Plain(facts) = meta.get(&0, 0).map_err(Error::map(map::META))?;
        let needed = lb_common::abi::ABI_VERSION;
        if facts.abi == 0 {
            return Err(Error::NotLoaded(root.path().to_owned()));
        }
        if facts.abi != needed {
            return Err(Error::Abi {
                path: root.path().to_owned(),
                found: facts.abi,
                needed,
            });
        }
        let capacity = Capacity {
            pools: facts.pools,
            vips: facts.vips,
            backends: facts.backends,
            flows: facts.flows,
        };
        let shapes = shape::balancer(capacity, facts.replicas);
        if shape::compare(root, &shapes)? != Pinned::All {
            return Err(Error::Incomplete(root.path().to_owned()));
        }
        Ok(Self {
            id: id(root)?,
            capacity,
            shapes,
            vips: Table::new(
                words(root, map::VIPS, Table::words(capacity.vips))?,
                capacity.vips,
            ),
            slots: words(root, map::SLOTS, capacity.pools as usize * SLOTS)?,
            backends: open(root, map::BACKENDS)?,
            devices: open(root, map::DEVICES)?,
            vip_stats: open(root, map::VIP_STATS)?,
            backend_stats: open(root, map::BACKEND_STATS)?,
            stops: open(root, map::STOPS)?,
            meta,
            pool_info: open(root, map::POOL_INFO)?,
            backend_info: open(root, map::BACKEND_INFO)?,
            iface_info: open(root, map::IFACE_INFO)?,
            tables: Tables::open(root)?,
            misses: open(root, map::MISSES)?,
            uses: words(root, map::USES, capacity.pools as usize * SLOTS)?,
            budgets: open(root, map::BUDGETS)?,
            lost: open(root, map::LOST)?,
            limits: open(root, map::LIMITS)?,
            picks: open(root, map::PICKS)?,
            writes: 0,
        })
    }

    /// Writes that were done by these handles, a whole ring counting as one.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Slots that got another value by these handles.
    pub fn slots_changed(&self) -> u64 {
        self.slots.changes()
    }

    /// What they were made for.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Each map's name and shape.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }
}

fn id(root: &Root) -> Result<u32, Error> {
    let info = MapData::from_pin(root.map(map::META)).and_then(|data| data.info());
    info.map(|info| info.id()).map_err(Error::map(map::META))
}

/// A pinned array of so many words as memory.
fn words(root: &Root, name: &'static str, len: usize) -> Result<Memory, Error> {
    let data = MapData::from_pin(root.map(name)).map_err(Error::map(name))?;
    Memory::map(data.fd().as_fd(), len).map_err(|source| Error::Memory { name, source })
}

/// The first thing that is written into new maps: whose they are.
pub(super) fn claim(root: &Root, facts: info::Meta) -> Result<(), Error> {
    let mut meta: Array<MapData, Plain<info::Meta>> = open(root, map::META)?;
    meta.set(0, Plain(facts), 0).map_err(Error::map(map::META))
}
