//! Ops → maps.

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::abi::map;
use lb_common::slot::{SLOTS, Slot, index};
use lb_common::stats::Counter;
use lb_common::{backend, info};

use super::Error;
use super::maps::Maps;
use super::pod::Plain;
use super::vips::Full;
use crate::model::Name;
use crate::state::contents::Backend;
use crate::state::diff::Op;

impl Maps {
    /// Does one write; the number of slots that it changed.
    pub fn apply(&mut self, op: &Op) -> Result<usize, Error> {
        self.writes += 1;
        match op {
            Op::AddDevice(ifindex) => {
                let failed = |source| Error::Device {
                    ifindex: *ifindex,
                    source: Box::new(source),
                };
                self.devices.insert(*ifindex, *ifindex, None, 0).map_err(failed)?;
            }
            Op::RemoveDevice(ifindex) => {
                absent(self.devices.remove(*ifindex)).map_err(Error::map(map::DEVICES))?;
            }
            Op::SetBackend { index, backend, new } => self.set_backend(*index, backend, *new)?,
            Op::SetPool { index, pool } => self.set_pool(*index, *pool)?,
            Op::StoreRing { pool, ring } => return Ok(self.store(*pool, |slot| ring[slot])),
            Op::SetVip { key, value, new } => {
                if *new {
                    zero(&mut self.vip_stats, value.index.into()).map_err(Error::map(map::VIP_STATS))?;
                }
                self.vips.set(key, value).map_err(|Full| Error::Full)?;
            }
            Op::RemoveVip(key) => self.vips.remove(key),
            Op::ClearPool(pool) => {
                let changed = self.store(*pool, |_| lb_common::slot::NO_BACKEND);
                self.set_pool(*pool, info::Pool::default())?;
                return Ok(changed);
            }
            Op::ClearBackend { index, freed } => {
                let info = info::Backend {
                    freed: *freed,
                    ..info::Backend::default()
                };
                self.set_backend(
                    *index,
                    &Backend {
                        entry: backend::Entry::default(),
                        info,
                    },
                    false,
                )?;
            }
        }
        Ok(0)
    }

    /// To be called when a change is written, whole or not: what it replaced may be overwritten by the next one.
    pub fn settle(&mut self) {
        self.vips.settle();
    }

    fn set_backend(&mut self, index: u16, backend: &Backend, new: bool) -> Result<(), Error> {
        let index = u32::from(index);
        if new {
            zero(&mut self.backend_stats, index).map_err(Error::map(map::BACKEND_STATS))?;
        }
        self.backends
            .set(index, Plain(backend.entry), 0)
            .map_err(Error::map(map::BACKENDS))?;
        self.backend_info
            .set(index, Plain(backend.info), 0)
            .map_err(Error::map(map::BACKEND_INFO))
    }

    fn set_pool(&mut self, index: u16, pool: info::Pool) -> Result<(), Error> {
        self.pool_info
            .set(u32::from(index), Plain(pool), 0)
            .map_err(Error::map(map::POOL_INFO))
    }

    /// Stores a pool's slots where they differ.
    fn store(&self, pool: u16, backend: impl Fn(usize) -> u16) -> usize {
        let first = index(pool, 0) as usize;
        (0..SLOTS)
            .filter(|&slot| self.slots.store(first + slot, Slot::untracked(backend(slot)).0))
            .count()
    }

    /// Notes which configuration the maps hold now: its number, when it was applied (seconds since 1970), whose it is.
    pub fn commit(&mut self, generation: u64, applied_at: u64, node: &Name) -> Result<(), Error> {
        let Plain(meta) = self.meta.get(&0, 0).map_err(Error::map(map::META))?;
        let meta = info::Meta {
            generation,
            applied_at,
            node: info::text(node.as_str()),
            ..meta
        };
        self.meta.set(0, Plain(meta), 0).map_err(Error::map(map::META))
    }
}

fn zero(counters: &mut PerCpuArray<MapData, Plain<Counter>>, index: u32) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, e)| MapError::IoError(e))?;
    let zeros = PerCpuValues::try_from(vec![Plain(Counter::default()); cpus]).map_err(MapError::IoError)?;
    counters.set(index, zeros, 0)
}

/// Removing what isn't there is fine: an agent may have died half-way.
pub(super) fn absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
