//! The flow table: entries, misses, marks, limits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use aya::sys::SyscallError;
use lb_common::abi::map;
use lb_common::admit::{Budget, Limits};
use lb_common::flow::{Entry, Key};
use lb_common::header::proto;
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::{Slot, index};
use lb_common::stats::Counter;
use lb_common::tick::{self, Tick};

use super::Error;
use super::batch::{self, Walk};
use super::maps::{Maps, open};
use super::pin::Root;
use super::pod::Plain;
use super::read::sum;
use super::shape;
use crate::state::track::Slots;
use crate::trace::Known;

pub(super) type Entries = HashMap<MapData, Plain<Key>, Plain<Entry>>;

/// One of the maps of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Confirmed and closed TCP flows of this node.
    Flows,
    /// What peers announced.
    Replicas,
    /// SYNs of this node.
    Probation,
    /// UDP flows of this node.
    UdpFlows,
    /// First packets of UDP flows.
    UdpProbation,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Flows,
        Self::Replicas,
        Self::Probation,
        Self::UdpFlows,
        Self::UdpProbation,
    ];

    /// The map's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => map::FLOWS,
            Self::Replicas => map::REPLICAS,
            Self::Probation => map::PROBATION,
            Self::UdpFlows => map::UDP_FLOWS,
            Self::UdpProbation => map::UDP_PROBATION,
        }
    }

    /// The table of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// All maps of entries, in the order of [`Table::ALL`]; each twice, since aya's typed maps show no descriptor.
pub(super) struct Tables([(Entries, MapData); 5]);

impl Tables {
    pub(super) fn open(root: &Root) -> Result<Self, Error> {
        let both = |table: Table| {
            let name = table.name();
            let data = MapData::from_pin(root.map(name)).map_err(Error::map(name))?;
            Ok::<_, Error>((open(root, name)?, data))
        };
        let [a, b, c, d, e] = Table::ALL.map(both);
        Ok(Self([a?, b?, c?, d?, e?]))
    }

    fn of(&self, table: Table) -> &Entries {
        &self.0[table as usize].0
    }
}

/// A table's descriptor, for walks on another thread.
#[derive(Debug)]
pub struct Descriptor(Table, OwnedFd);

impl Descriptor {
    /// As [`Maps::walk`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn walk(&self, walk: &mut Walk) -> Result<Vec<(Key, Entry)>, Error> {
        let failed = failed(self.0, "bpf_map_lookup_batch");
        walk.next::<Key, Entry>(&self.1).map_err(failed)
    }
}

/// The tables of a protocol's own entries: confirmed, in probation.
pub(super) const fn tables_of(protocol: u8) -> [Table; 2] {
    if protocol == proto::TCP {
        [Table::Flows, Table::Probation]
    } else {
        [Table::UdpFlows, Table::UdpProbation]
    }
}

fn failed(table: Table, call: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |io_error| Error::map(table.name())(MapError::SyscallError(SyscallError { call, io_error }))
}

/// CLOCK_MONOTONIC in the program's ticks.
pub fn now() -> Tick {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Tick::from_nanos(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

impl Maps {
    /// The entry of a flow.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn entry(&self, table: Table, key: &Key) -> Result<Option<Entry>, Error> {
        let found = present(self.tables.of(table).get(&Plain(*key), 0)).map_err(Error::map(table.name()))?;
        Ok(found.map(|Plain(entry)| entry))
    }

    /// All entries of a table. Under traffic some that come or go meanwhile may be missing.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn entries(&self, table: Table) -> Result<Vec<(Key, Entry)>, Error> {
        let (mut walk, mut all) = (Walk::default(), Vec::new());
        while !walk.is_over() {
            all.append(&mut self.walk(table, &mut walk)?);
        }
        Ok(all)
    }

    /// The next entries of a walk over a table. Those that stay are met once.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn walk(&self, table: Table, walk: &mut Walk) -> Result<Vec<(Key, Entry)>, Error> {
        let data = &self.tables.0[table as usize].1;
        let failed = failed(table, "bpf_map_lookup_batch");
        walk.next::<Key, Entry>(data.fd()).map_err(failed)
    }

    /// Writes entries, many at a time; the numbers of those for which there was no room.
    ///
    /// # Errors
    /// Where the kernel refuses for another reason; those before are written.
    pub fn set_entries(
        &mut self,
        table: Table,
        keys: &[Key],
        entries: &[Entry],
    ) -> Result<Vec<usize>, Error> {
        let data = &self.tables.0[table as usize].1;
        batch::update(data.fd(), keys, entries).map_err(failed(table, "bpf_map_update_batch"))
    }

    /// Deletes entries, many at a time; how many were there.
    ///
    /// # Errors
    /// Where the kernel refuses; those before are deleted.
    pub fn remove_entries(&mut self, table: Table, keys: &[Key]) -> Result<usize, Error> {
        let data = &self.tables.0[table as usize].1;
        batch::delete(data.fd(), keys).map_err(failed(table, "bpf_map_delete_batch"))
    }

    /// A table's descriptor.
    ///
    /// # Errors
    /// Where the kernel gives no further one.
    pub fn descriptor(&self, table: Table) -> Result<Descriptor, Error> {
        let data = &self.tables.0[table as usize].1;
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Descriptor(table, fd.map_err(failed(table, "dup"))?))
    }

    /// How many entries a table has room for.
    pub fn room(&self, table: Table) -> u32 {
        let data = &self.tables.0[table as usize].1;
        data.info().map_or(0, |info| info.max_entries())
    }

    /// How many entries a table holds, as exact as [`Maps::entries`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn occupied(&self, table: Table) -> Result<u32, Error> {
        let (mut walk, mut count) = (Walk::default(), 0);
        while !walk.is_over() {
            count += self.walk(table, &mut walk)?.len();
        }
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// Where the table is full.
    pub fn set_entry(&mut self, table: Table, key: &Key, entry: &Entry) -> Result<(), Error> {
        let entries = &mut self.tables.0[table as usize].0;
        let result = entries.insert(Plain(*key), Plain(*entry), 0);
        result.map_err(Error::map(table.name()))
    }

    /// Deletes an entry, if it is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove_entry(&mut self, table: Table, key: &Key) -> Result<(), Error> {
        let entries = &mut self.tables.0[table as usize].0;
        present(entries.remove(&Plain(*key)))
            .map(|_| ())
            .map_err(Error::map(table.name()))
    }

    /// All that is known of a flow.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn known(&self, key: &Key) -> Result<Known, Error> {
        let [own, probation] = tables_of(key.proto);
        Ok(Known {
            key: *key,
            own: self.entry(own, key)?,
            replica: self.entry(Table::Replicas, key)?,
            probation: self.entry(probation, key)?,
            missed: self.missed(key)?,
            limits: self.limits()?,
        })
    }

    /// When a miss of this flow was noted.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn missed(&self, key: &Key) -> Result<Option<Tick>, Error> {
        let noted = present(self.misses.get(&Plain(*key), 0)).map_err(Error::map(map::MISSES))?;
        Ok(noted.map(|Plain(tick)| tick))
    }

    /// All notes of misses, as [`Maps::entries`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn misses(&self) -> Result<Vec<(Key, Tick)>, Error> {
        let rows = self.misses.iter();
        rows.map(|row| row.map(|(Plain(key), Plain(tick))| (key, tick)))
            .filter(|row| !is_gone(row))
            .collect::<Result<_, _>>()
            .map_err(Error::map(map::MISSES))
    }

    /// Notes a miss.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_missed(&mut self, key: &Key, when: Tick) -> Result<(), Error> {
        let result = self.misses.insert(Plain(*key), Plain(when), 0);
        result.map_err(Error::map(map::MISSES))
    }

    /// Who used `origin` of a slot of a pool within the capacity.
    pub fn uses(&self, pool: u16, number: u32) -> Uses {
        uses(self.uses.load(index(pool, number) as usize))
    }

    /// Forgets or notes who did.
    pub fn set_uses(&self, pool: u16, number: u32, uses: Uses) {
        let word = u64::from(uses.seen.0) | u64::from(uses.stamp.0) << 32;
        self.uses.store(index(pool, number) as usize, word);
    }

    /// Stores one slot of a pool within the capacity, if it is another one.
    pub fn set_slot(&self, pool: u16, number: u32, slot: Slot) -> bool {
        self.slots.store(index(pool, number) as usize, slot.0)
    }

    /// Replaces one slot if it still is `before`. Whether it was.
    pub fn swap_slot(&self, pool: u16, number: u32, before: Slot, after: Slot) -> bool {
        self.slots.swap(index(pool, number) as usize, before.0, after.0)
    }

    /// What the program may write into the flow table.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn limits(&self) -> Result<Limits, Error> {
        let limits = self.limits.get(&0, 0).map_err(Error::map(map::LIMITS))?;
        Ok(limits.0)
    }

    /// Limits for these maps, with flags of [`lb_common::admit`] and the longest idle timeout of the VIPs.
    pub fn new_limits(&self, flags: u32, idle: Duration) -> Limits {
        let idle = tick::seconds(u32::try_from(idle.as_secs()).unwrap_or(u32::MAX));
        Limits::new(flags, self.capacity.flows, shape::cpus(), idle)
    }

    /// Sets what the program may write.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_limits(&mut self, limits: Limits) -> Result<(), Error> {
        let result = self.limits.set(0, Plain(limits), 0);
        result.map_err(Error::map(map::LIMITS))
    }

    /// What each CPU has entered in its present window, by number of the budget.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn budget(&self, number: u32) -> Result<Vec<Budget>, Error> {
        let values = self.budgets.get(&number, 0).map_err(Error::map(map::BUDGETS))?;
        Ok(values.iter().map(|Plain(budget)| *budget).collect())
    }

    /// Events that found the ring buffer full, over all CPUs.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn lost_events(&self) -> Result<Counter, Error> {
        sum(&self.lost, 0).map_err(Error::map(map::LOST))
    }

    /// Packets in tracked slots that this decided on, over all CPUs.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn pick_counter(&self, by: By) -> Result<Counter, Error> {
        sum(&self.picks, by as u32).map_err(Error::map(map::PICKS))
    }
}

impl Slots for Maps {
    fn slot(&self, place: u32) -> Slot {
        Slot(self.slots.load(place as usize))
    }

    fn swap(&self, place: u32, before: Slot, after: Slot) -> bool {
        self.slots.swap(place as usize, before.0, after.0)
    }

    fn uses(&self, place: u32) -> Uses {
        uses(self.uses.load(place as usize))
    }

    fn clear_uses(&self, place: u32) {
        self.uses.store(place as usize, 0);
    }
}

const fn uses(word: u64) -> Uses {
    Uses {
        seen: Tick(word as u32),
        stamp: Tick((word >> 32) as u32),
    }
}

/// What is there, as far as it still is.
fn present<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError>
where
    T: Copy,
{
    match result {
        Ok(value) => Ok(Some(value)),
        e if is_gone(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// An entry that was deleted between two calls.
fn is_gone<T>(result: &Result<T, MapError>) -> bool {
    match result {
        Err(MapError::KeyNotFound) => true,
        Err(MapError::SyscallError(e)) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
