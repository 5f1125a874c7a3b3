//! The flow table of `lb_xdp` in memory.

use std::collections::BTreeMap;

use lb_common::admit::{FULL, Limits, UDP_FULL};
use lb_common::backend::DEAD;
use lb_common::flow::{Entry, Key};
use lb_common::pick::{self, Flows, NoEntry, Pick};
use lb_common::retire::Uses;
use lb_common::slot::Slot;
use lb_common::stats::Counter;
use lb_common::tcp::Segment;
use lb_common::tick::Tick;
use lb_common::tuple::Tuple;
use lb_common::vip;
use lb_userspace::dataplane::flows::Table;
use lb_userspace::state::contents::Contents;

use super::ip::number;

/// What the program remembers, and the slots that are not as the ring has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The present time.
    pub now: Tick,
    /// Slots by pool and number.
    pub slots: BTreeMap<(u16, u32), Slot>,
    /// Backend indexes that the map has room for.
    pub indexes: u32,
    /// What may be written. A budget is open or it is not: nothing is counted.
    pub limits: Limits,
    /// Entries of each table.
    pub entries: BTreeMap<(Table, Key), Entry>,
    /// Misses that were noted.
    pub misses: BTreeMap<Key, Tick>,
    /// Marks of slots.
    pub uses: BTreeMap<(u16, u32), Uses>,
    /// What decided, by number.
    pub picks: [Counter; 8],
}

/// The flow of a packet and where it falls.
pub(super) struct Place<'a> {
    pub(super) flow: Tuple,
    /// From the transport header on.
    pub(super) transport: &'a [u8],
    pub(super) vip: vip::Value,
    pub(super) slot: Slot,
    /// Number of the slot.
    pub(super) number: u32,
    /// Length of the frame.
    pub(super) bytes: usize,
}

impl Memory {
    /// Decides a packet.
    pub(super) fn pick(&mut self, place: &Place<'_>, contents: &Contents) -> Result<Pick, NoEntry> {
        let (slot, flags) = (place.slot, place.vip.flags);
        let always = flags & vip::ALWAYS != 0;
        if flags & vip::OFF != 0 || !(slot.is_tracked() || always) {
            return Ok(pick::pick(slot));
        }
        let now = self.now;
        let mut flow = Flow {
            key: Key::new(&place.flow),
            place: (place.vip.pool, place.number),
            contents,
            memory: self,
        };
        let pick = if place.flow.proto == number::TCP {
            let seq = place.transport[4..8].try_into().expect("four bytes");
            let segment = Segment::new(place.transport[13], u32::from_be_bytes(seq));
            pick::tcp(slot, always, segment, now, &mut flow)?
        } else {
            pick::udp(slot, always, now, &mut flow)
        };
        self.picks[pick.by as usize] += Counter {
            packets: 1,
            bytes: place.bytes as u64,
        };
        Ok(pick)
    }
}

/// One flow in a memory.
struct Flow<'a> {
    key: Key,
    place: (u16, u32),
    contents: &'a Contents,
    memory: &'a mut Memory,
}

impl Flow<'_> {
    fn is_tcp(&self) -> bool {
        self.key.proto == number::TCP
    }

    fn table(&self) -> Table {
        if self.is_tcp() {
            Table::Flows
        } else {
            Table::UdpFlows
        }
    }

    fn first_table(&self) -> Table {
        if self.is_tcp() {
            Table::Probation
        } else {
            Table::UdpProbation
        }
    }

    fn entry(&self, table: Table) -> Option<Entry> {
        self.memory.entries.get(&(table, self.key)).copied()
    }

    fn set(&mut self, table: Table, entry: Entry) {
        self.memory.entries.insert((table, self.key), entry);
    }
}

impl Flows for Flow<'_> {
    fn own(&mut self) -> Option<Entry> {
        self.entry(self.table())
    }

    fn replica(&mut self) -> Option<Entry> {
        self.entry(Table::Replicas)
    }

    fn probation(&mut self) -> Option<Entry> {
        self.entry(self.first_table())
    }

    fn is_dead(&mut self, backend: u16) -> bool {
        let entry = self.contents.backends.get(&backend);
        u32::from(backend) >= self.memory.indexes || entry.is_some_and(|b| b.entry.flags & DEAD != 0)
    }

    fn enter(&mut self, entry: Entry) -> bool {
        let (full, budget) = if self.is_tcp() { (FULL, 0) } else { (UDP_FULL, 1) };
        let limits = self.memory.limits;
        let may = limits.flags & full == 0 && limits.budgets[budget] > 0;
        if may {
            self.set(self.first_table(), entry);
        }
        may
    }

    fn confirm(&mut self, entry: Entry) {
        self.set(self.table(), entry);
        for table in [self.first_table(), Table::Replicas] {
            self.memory.entries.remove(&(table, self.key));
        }
    }

    fn update(&mut self, entry: Entry) {
        self.set(self.table(), entry);
    }

    fn uses(&mut self) -> Uses {
        self.memory.uses.get(&self.place).copied().unwrap_or_default()
    }

    fn set_uses(&mut self, uses: Uses) {
        self.memory.uses.insert(self.place, uses);
    }

    fn missed(&mut self) -> Option<Tick> {
        self.memory.misses.get(&self.key).copied()
    }

    fn note(&mut self, now: Tick) -> bool {
        let may = self.memory.limits.budgets[2] > 0;
        if may {
            self.memory.misses.insert(self.key, now);
        }
        may
    }
}
