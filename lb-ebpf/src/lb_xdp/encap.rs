//! Sixth stage: the outer header. Consumes the packet, since its head moves.

use lb_common::backend::{Entry, OUTER_V6};
use lb_common::be::Be16;
use lb_common::encap::{Inner, fits, ipv4, ipv6};
use lb_common::header::{Ethernet, Vlan, ethertype};
use lb_common::stop::Stop;
use lb_ebpf::link::Link;
use lb_ebpf::packet::{Header, Packet};

use crate::parse::Headers;

/// The packet with its outer header and the next hop's link-layer addresses; the inner packet is not touched.
#[inline(always)]
pub fn encap(packet: Packet, headers: &Headers, entry: &Entry, hash: u32) -> Result<Packet, Stop> {
    let inner: &Inner = &headers.inner;
    if !fits(entry, inner) {
        return Err(Stop::TooBig);
    }
    let done = if entry.flags & OUTER_V6 != 0 {
        wrap(packet, headers.link, entry, ethertype::IPV6, || {
            ipv6(entry, inner, hash)
        })
    } else {
        wrap(packet, headers.link, entry, ethertype::IPV4, || {
            ipv4(entry, inner, hash)
        })
    };
    done.ok_or(Stop::NoRoom)
}

#[inline(always)]
fn wrap<T: Header>(
    packet: Packet,
    link: Link,
    entry: &Entry,
    kind: Be16,
    outer: impl Fn() -> T,
) -> Option<Packet> {
    let mut packet = packet.grow(size_of::<T>())?;
    link.write(&mut packet, entry.destination_mac, entry.source_mac, kind)?;
    // Two branches with constant offsets are shorter than one with a variable offset.
    match link.tag {
        None => packet.write(size_of::<Ethernet>(), outer())?,
        Some(_) => packet.write(size_of::<Ethernet>() + size_of::<Vlan>(), outer())?,
    }
    Some(packet)
}
