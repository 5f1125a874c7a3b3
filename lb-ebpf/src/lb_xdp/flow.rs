//! Fourth stage, where flows are tracked: entries of this flow, and what they and the slot say.
//!
//! An untracked slot costs one test. The rest is two functions, which stand in the program once and not per family.

use core::hint::black_box;

use lb_common::abi::budget;
use lb_common::admit::{FULL, UDP_FULL};
use lb_common::backend::DEAD;
use lb_common::flow::{self, Entry, Key};
use lb_common::header::{Ipv4, Ipv6, proto};
use lb_common::pick::{self, Flows, Pick};
use lb_common::retire::Uses;
use lb_common::slot::{self, Slot, TRACKED, of_hash};
use lb_common::stop::Stop;
use lb_common::tcp::Segment;
use lb_common::tick::Tick;
use lb_common::vip::{ALWAYS, OFF, Value};
use lb_ebpf::packet::Packet;

use crate::maps;
use crate::parse::Headers;

/// Offsets in a TCP header (RFC 9293 section 3.1).
const SEQUENCE: usize = 4;
const FLAGS: usize = 12;

/// Beside the flags of a segment in one argument.
const ENTER_ALWAYS: u32 = 1 << 8;

/// No pick: a new flow that could not be entered.
const NO_ENTRY: u32 = u32::MAX;

/// The index of the backend for a packet.
#[inline(always)]
pub fn pick(packet: &Packet, headers: &Headers, vip: &Value, hash: u32, slot: Slot) -> Result<u16, Stop> {
    if (slot.flags() & TRACKED) | (vip.flags & ALWAYS) == 0 || vip.flags & OFF != 0 {
        return Ok(pick::pick(slot).backend);
    }
    tracked(packet, headers, vip, hash, slot)
}

#[inline(always)]
fn tracked(packet: &Packet, headers: &Headers, vip: &Value, hash: u32, slot: Slot) -> Result<u16, Stop> {
    let index = slot::index(vip.pool, of_hash(hash));
    let key = Key::new(&headers.tuple);
    let always = if vip.flags & ALWAYS != 0 { ENTER_ALWAYS } else { 0 };
    let packed = if headers.tuple.proto == proto::TCP {
        let start = transport(packet, headers).ok_or(Stop::Malformed)?;
        let seq: u32 = packet.read(start + SEQUENCE).ok_or(Stop::Malformed)?;
        let flags: u16 = packet.read(start + FLAGS).ok_or(Stop::Malformed)?;
        // The byte before the flags is the header's length.
        let (seq, flags) = (u32::from_be(seq), u32::from(u16::from_be(flags)) & 0xff);
        tcp(slot.0, &key, seq, flags | always, index)
    } else {
        udp(slot.0, &key, always, index)
    };
    if packed == NO_ENTRY {
        return Err(Stop::NoEntry);
    }
    maps::count_pick(packed >> 16, packet.len());
    Ok(packed as u16)
}

/// Where the transport header begins. Found again from the frame, so that nothing has to be kept for it on the way.
#[inline(always)]
fn transport(packet: &Packet, headers: &Headers) -> Option<usize> {
    // The length is 14 or 18, which the compiler knows and the verifier, after many a spill, may not.
    let start = black_box(headers.link.len) & 31;
    if headers.inner.proto == proto::IPV6 {
        return Some(start + size_of::<Ipv6>());
    }
    let ip: Ipv4 = packet.read(start)?;
    Some(start + ip.header_len())
}

#[inline(never)]
fn tcp(slot: u64, key: &Key, seq: u32, flags: u32, index: u32) -> u32 {
    let now = maps::now();
    let mut tables = Tables::<false> { key, slot: index };
    let segment = Segment::new(flags as u8, seq);
    match pick::tcp(Slot(slot), flags & ENTER_ALWAYS != 0, segment, now, &mut tables) {
        Ok(pick) => packed(pick),
        Err(pick::NoEntry) => NO_ENTRY,
    }
}

#[inline(never)]
fn udp(slot: u64, key: &Key, flags: u32, index: u32) -> u32 {
    let now = maps::now();
    let mut tables = Tables::<true> { key, slot: index };
    packed(pick::udp(Slot(slot), flags & ENTER_ALWAYS != 0, now, &mut tables))
}

#[inline(always)]
const fn packed(pick: Pick) -> u32 {
    pick.backend as u32 | (pick.by as u32) << 16
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
