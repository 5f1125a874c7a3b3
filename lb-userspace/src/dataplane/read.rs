//! Maps → values, for the agent at start and for `lbctl` always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aya::maps::{MapData, MapError, PerCpuArray};
use lb_common::abi::map;
use lb_common::info::Meta;
use lb_common::slot::{SLOTS, Slot, index};
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use lb_common::{info, vip};

use super::Error;
use super::maps::Maps;
use super::pod::Plain;
use crate::state::contents::{Backend, Contents};

/// Backends by index; free indexes with the counter of their freeing.
pub type Backends = (BTreeMap<u16, Backend>, BTreeMap<u16, u64>);

impl Maps {
    /// Everything that the agent writes, as it is now.
    pub fn contents(&self) -> Result<Contents, Error> {
        let pools = self.pools()?;
        let ring = |&pool: &u16| {
            (
                pool,
                Arc::new(self.ring(pool).into_iter().map(Slot::current).collect()),
            )
        };
        let (backends, freed) = self.backends()?;
        Ok(Contents {
            vips: self.vips()?,
            rings: pools.keys().map(ring).collect(),
            pools,
            backends,
            devices: self
                .devices
                .keys()
                .collect::<Result<BTreeSet<u32>, _>>()
                .map_err(Error::map(map::DEVICES))?,
            freed,
        })
    }

    /// What these maps are and whose.
    pub fn meta(&self) -> Result<Meta, Error> {
        self.meta
            .get(&0, 0)
            .map(|Plain(meta)| meta)
            .map_err(Error::map(map::META))
    }

    /// VIPs and the marks of their addresses.
    pub fn vips(&self) -> Result<BTreeMap<vip::Key, vip::Value>, Error> {
        Ok(self.vips.all())
    }

    /// Pools by index.
    pub fn pools(&self) -> Result<BTreeMap<u16, info::Pool>, Error> {
        let rows = (0..)
            .zip(self.pool_info.iter())
            .map(|(i, row)| row.map(|Plain(pool)| (i, pool)));
        let named = rows.filter(|row| row.as_ref().map_or(true, |(_, pool)| pool.name[0] != 0));
        named
            .collect::<Result<_, _>>()
            .map_err(Error::map(map::POOL_INFO))
    }

    /// Backends by index, and the free indexes with the counter of their freeing.
    pub fn backends(&self) -> Result<Backends, Error> {
        let (mut backends, mut freed) = (BTreeMap::new(), BTreeMap::new());
        for (row, index) in self.backend_info.iter().zip(0u16..) {
            let Plain(info) = row.map_err(Error::map(map::BACKEND_INFO))?;
            if info.name[0] != 0 {
                let key = u32::from(index);
                let Plain(entry) = self.backends.get(&key, 0).map_err(Error::map(map::BACKENDS))?;
                backends.insert(index, Backend { entry, info });
            } else if info.freed != 0 {
                freed.insert(index, info.freed);
            }
        }
        Ok((backends, freed))
    }

    /// The 65,536 slots of a pool.
    pub fn ring(&self, pool: u16) -> Vec<Slot> {
        let first = index(pool, 0) as usize;
        (first..first + SLOTS).map(|i| Slot(self.slots.load(i))).collect()
    }

    /// Attached interfaces.
    pub fn interfaces(&self) -> Result<Vec<info::Interface>, Error> {
        let rows: Result<Vec<_>, MapError> = self.iface_info.iter().collect();
        let rows = rows.map_err(Error::map(map::IFACE_INFO))?;
        Ok(rows
            .into_iter()
            .map(|Plain(row)| row)
            .filter(|row| row.ifindex != 0)
            .collect())
    }

    /// Forwarded packets of a VIP, by its index, over all CPUs.
    pub fn vip_counter(&self, index: u16) -> Result<Counter, Error> {
        sum(&self.vip_stats, index.into()).map_err(Error::map(map::VIP_STATS))
    }

    /// Forwarded packets of a backend, by its index, over all CPUs.
    pub fn backend_counter(&self, index: u16) -> Result<Counter, Error> {
        sum(&self.backend_stats, index.into()).map_err(Error::map(map::BACKEND_STATS))
    }

    /// Packets that left the pipeline early for this reason, over all CPUs.
    pub fn stop_counter(&self, stop: Stop) -> Result<Counter, Error> {
        sum(&self.stops, stop as u32).map_err(Error::map(map::STOPS))
    }
}

/// One counter over all CPUs.
pub(super) fn sum(counters: &PerCpuArray<MapData, Plain<Counter>>, index: u32) -> Result<Counter, MapError> {
    let values = counters.get(&index, 0)?;
    let mut sum = Counter::default();
    for Plain(value) in values.iter() {
        sum += *value;
    }
    Ok(sum)
}
