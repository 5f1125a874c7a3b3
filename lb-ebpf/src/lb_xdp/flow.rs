//! Fourth stage, where flows are tracked: entries of this flow, and what they and the slot say.
//!
//! An untracked slot costs one test. All the rest is behind one call, which finds the flow in the frame again: so nothing
//! is kept for it on the way, and it stands in the program once and not per family.

use core::hint::cold_path;

use lb_common::abi::budget;
use lb_common::admit::{FULL, UDP_FULL};
use lb_common::backend::DEAD;
use lb_common::flow::{self, Entry, Key};
use lb_common::header::proto;
use lb_common::pick::{self, Flows, Pick};
use lb_common::retire::Uses;
use lb_common::slot::{self, Slot, TRACKED, of_hash};
use lb_common::stop::Stop;
use lb_common::tcp::Segment;
use lb_common::tick::Tick;
use lb_common::vip::{ALWAYS, OFF, Value};
use lb_ebpf::packet::Packet;

use crate::maps;
use crate::parse::{self, Headers};

/// Offsets in a TCP header (RFC 9293 section 3.1).
const SEQUENCE: usize = 4;
const FLAGS: usize = 12;

/// Instead of a pick: a new flow that could not be entered.
const NO_ENTRY: u32 = u32::MAX;
/// Instead of a pick: what the first stage has read is not there any more.
const MALFORMED: u32 = NO_ENTRY - 1;

/// The index of the backend for a packet.
#[inline(always)]
pub fn pick(packet: &Packet, vip: &Value, hash: u32, slot: Slot) -> Result<u16, Stop> {
    if (slot.flags() & TRACKED) | (vip.flags & ALWAYS) == 0 {
        return Ok(pick::pick(slot).backend);
    }
    cold_path();
    let index = slot::index(vip.pool, of_hash(hash));
    match tracked(packet, slot.0, index, vip.flags) {
        NO_ENTRY => Err(Stop::NoEntry),
        MALFORMED => Err(Stop::Malformed),
        packed => Ok(packed as u16),
    }
}

/// Everything else, as one number: a backend, [`NO_ENTRY`] or [`MALFORMED`]. `index` is the slot's in the flat array of
/// all rings, `flags` are the VIP's.
#[inline(never)]
fn tracked(packet: &Packet, slot: u64, index: u32, flags: u16) -> u32 {
    let slot = Slot(slot);
    if flags & OFF != 0 {
        return u32::from(pick::pick(slot).backend);
    }
    match parse::again(packet).and_then(|headers| decide(packet, &headers, slot, index, flags & ALWAYS != 0))
    {
        Some(Ok(pick)) => {
            maps::count_pick(pick.by as u32, packet.len());
            u32::from(pick.backend)
        }
        Some(Err(pick::NoEntry)) => NO_ENTRY,
        None => MALFORMED,
    }
}

#[inline(always)]
fn decide(
    packet: &Packet,
    headers: &Headers,
    slot: Slot,
    index: u32,
    always: bool,
) -> Option<Result<Pick, pick::NoEntry>> {
    let key = &Key::new(&headers.tuple);
    if headers.tuple.proto == proto::UDP {
        let mut tables = Tables::<true> { key, slot: index };
        return Some(Ok(pick::udp(slot, always, maps::now(), &mut tables)));
    }
    let seq: u32 = packet.read(headers.ports + SEQUENCE)?;
    let flags: u16 = packet.read(headers.ports + FLAGS)?;
    // The byte before the flags is the header's length.
    let segment = Segment::new(u16::from_be(flags) as u8, u32::from_be(seq));
    let mut tables = Tables::<false> { key, slot: index };
    Some(pick::tcp(slot, always, segment, maps::now(), &mut tables))
}

/// The maps, as one flow sees them.
struct Tables<'a, const UDP: bool> {
    key: &'a Key,
    /// Of its slot, in the flat array of all rings.
    slot: u32,
}

impl<const UDP: bool> Flows for Tables<'_, UDP> {
    #[inline(always)]
    fn own(&mut self) -> Option<Entry> {
        maps::own::<UDP>(self.key)
    }

    #[inline(always)]
    fn replica(&mut self) -> Option<Entry> {
        maps::replica(self.key)
    }

    #[inline(always)]
    fn probation(&mut self) -> Option<Entry> {
        maps::probation::<UDP>(self.key)
    }

    #[inline(always)]
    fn is_dead(&mut self, backend: u16) -> bool {
        // An index beyond the map is nobody's.
        maps::backend(backend).is_none_or(|entry| entry.flags & DEAD != 0)
    }

    #[inline(always)]
    fn enter(&mut self, entry: Entry) -> bool {
        let [a, b] = words(entry);
        enter::<UDP>(self.key, a, b, self.slot) != 0
    }

    #[inline(always)]
    fn confirm(&mut self, entry: Entry) {
        let [a, b] = words(entry);
        confirm::<UDP>(self.key, a, b, self.slot);
    }

    #[inline(always)]
    fn update(&mut self, entry: Entry) {
        let [a, b] = words(entry);
        update::<UDP>(self.key, a, b, self.slot);
    }

    #[inline(always)]
    fn uses(&mut self) -> Uses {
        maps::uses(self.slot)
    }

    #[inline(always)]
    fn set_uses(&mut self, uses: Uses) {
        maps::set_uses(self.slot, uses);
    }

    #[inline(always)]
    fn missed(&mut self) -> Option<Tick> {
        maps::missed(self.key)
    }

    #[inline(always)]
    fn note(&mut self, now: Tick) -> bool {
        note(self.key, now.0) != 0
    }
}

// What writes is a function each: with all of them inlined the stack, 512 bytes, would not do. Entries come as two words,
// since a function has five arguments, and none of them on the stack.

#[inline(always)]
const fn words(entry: Entry) -> [u64; 2] {
    let state = (entry.state as u64) << 48 | (entry.owner as u64) << 56;
    [
        entry.isn as u64 | (entry.since.0 as u64) << 32,
        entry.last.0 as u64 | (entry.backend as u64) << 32 | state,
    ]
}

#[inline(always)]
const fn entry(a: u64, b: u64) -> Entry {
    Entry {
        isn: a as u32,
        since: Tick((a >> 32) as u32),
        last: Tick(b as u32),
        backend: (b >> 32) as u16,
        state: (b >> 48) as u8,
        owner: (b >> 56) as u8,
    }
}

#[inline(never)]
fn enter<const UDP: bool>(key: &Key, a: u64, b: u64, slot: u32) -> u32 {
    let entry = entry(a, b);
    let (full, number) = if UDP {
        (UDP_FULL, budget::UDP)
    } else {
        (FULL, budget::HANDSHAKES)
    };
    if maps::is_full(full) || !maps::take(number, entry.last) || !maps::enter::<UDP>(key, &entry) {
        return 0;
    }
    maps::announce(key, entry, slot, flow::ENTERED);
    1
}

#[inline(never)]
fn confirm<const UDP: bool>(key: &Key, a: u64, b: u64, slot: u32) {
    let entry = entry(a, b);
    if maps::confirm::<UDP>(key, &entry) {
        maps::announce(key, entry, slot, flow::CONFIRMED_HERE);
    }
}

#[inline(never)]
fn update<const UDP: bool>(key: &Key, a: u64, b: u64, slot: u32) {
    let entry = entry(a, b);
    maps::update::<UDP>(key, &entry);
    // A state that has begun just now: what only touches an entry comes a second later at the earliest.
    if entry.since == entry.last {
        maps::announce(key, entry, slot, flow::CHANGED);
    }
}

#[inline(never)]
fn note(key: &Key, now: u32) -> u32 {
    let now = Tick(now);
    (maps::take(budget::MISSES, now) && maps::note(key, now)) as u32
}
