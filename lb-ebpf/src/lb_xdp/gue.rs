//! Sixth and seventh stage where the backend's pool speaks GUE: outer headers, the second chance, and out.
//!
//! One test for all others. The rest is behind one call, which finds the flow in the frame again, so that it stands in the
//! program once and not per family.

use core::hint::cold_path;

use lb_common::addr::Addr;
use lb_common::backend::{Entry, OUTER_V6};
use lb_common::encap::{self, fits, ip_len};
use lb_common::gue::{ALTERNATIVE, Chance, Header, PLAIN, address, alternative, chance_len, header, udp};
use lb_common::header::{TCP_FLAGS, Udp, ethertype, proto};
use lb_common::slot::{NO_BACKEND, Slot};
use lb_common::stop::Stop;
use lb_common::tcp::SYN;
use lb_ebpf::packet::Packet;

use crate::parse::{self, Headers};
use crate::{maps, tx};

/// Above all verdicts: a stop's number is added.
const STOPPED: u32 = 16;
const TOO_BIG: u32 = STOPPED + Stop::TooBig as u32;
const NO_DEVICE: u32 = STOPPED + Stop::NoDevice as u32;
const NO_ROOM: u32 = STOPPED + Stop::NoRoom as u32;
const MALFORMED: u32 = STOPPED + Stop::Malformed as u32;

/// The verdict that sends a packet of the flow in this slot to `backend`, wrapped.
#[inline(always)]
pub fn send(packet: Packet, entry: &Entry, hash: u32, slot: Slot, backend: u16) -> Result<u32, Stop> {
    cold_path();
    match wrap(packet, entry, hash, slot.0, backend) {
        TOO_BIG => Err(Stop::TooBig),
        NO_DEVICE => Err(Stop::NoDevice),
        NO_ROOM => Err(Stop::NoRoom),
        MALFORMED => Err(Stop::Malformed),
        verdict => Ok(verdict),
    }
}

/// A verdict, or a stop by [`STOPPED`].
#[inline(never)]
fn wrap(packet: Packet, entry: &Entry, hash: u32, slot: u64, backend: u16) -> u32 {
    let Some(headers) = parse::again(&packet) else {
        return MALFORMED;
    };
    if !fits(entry, &headers.inner) {
        return TOO_BIG;
    }
    let other = other(&packet, &headers, entry, Slot(slot), backend);
    let Some(packet) = encap(packet, &headers, entry, hash, other) else {
        return NO_ROOM;
    };
    tx::send(&packet, entry).unwrap_or(NO_DEVICE)
}

/// The other backend that may have the packet's connection. A SYN begins one, so it names none.
#[inline(always)]
fn other(packet: &Packet, headers: &Headers, entry: &Entry, slot: Slot, backend: u16) -> Option<Addr> {
    if headers.tuple.proto != proto::TCP {
        return None;
    }
    let flags: u8 = packet.read(headers.ports + TCP_FLAGS)?;
    let other = alternative(slot, backend);
    if flags & SYN != 0 || other == NO_BACKEND {
        return None;
    }
    address(entry, maps::backend(other)?)
}

#[inline(always)]
fn encap(packet: Packet, headers: &Headers, entry: &Entry, hash: u32, other: Option<Addr>) -> Option<Packet> {
    let v6 = entry.flags & OUTER_V6 != 0;
    let private = if other.is_some() { chance_len(v6) } else { 0 };
    let len = PLAIN + private;
    let outer = headers.inner.in_udp(len);
    let mut packet = packet.grow((ip_len(entry) + len) as usize)?;
    let (link, macs) = (headers.link, (entry.destination_mac, entry.source_mac));
    if v6 {
        link.write(&mut packet, macs.0, macs.1, ethertype::IPV6)?;
        packet.write(link.len, encap::ipv6(entry, &outer, hash))?;
    } else {
        link.write(&mut packet, macs.0, macs.1, ethertype::IPV4)?;
        packet.write(link.len, encap::ipv4(entry, &outer, hash))?;
    }
    let mut at = link.len + ip_len(entry) as usize;
    packet.write(at, udp(entry, outer.len, hash))?;
    at += size_of::<Udp>();
    packet.write(at, header(headers.inner.proto, private))?;
    at += size_of::<Header>();
    if let Some(address) = other {
        packet.write(at, Chance::new(ALTERNATIVE))?;
        at += size_of::<Chance>();
        if v6 {
            packet.write(at, address)?;
        } else {
            packet.write(at, address.v4_raw())?;
        }
    }
    Some(packet)
}
