//! Second chance: a packet of a TCP connection that isn't here goes on to the backend that it names, once.

use lb_common::addr::Addr;
use lb_common::csum;
use lb_common::gue::{Chance, PLAIN, SPENT};
use lb_common::header::{Ethernet, Ipv4, Ipv6, TCP_MIN, Tcp, Udp, ethertype, proto};
use lb_common::tcp::SYN;
use lb_ebpf::packet::Packet;

use crate::maps;
use crate::outer::Outer;

/// Whether the packet belongs to this host: the service here knows its connection, or it can't be looked for. What can't:
/// other protocols, a SYN (which begins a connection), later fragments, what is cut off or stands behind extension
/// headers.
#[inline(always)]
pub fn is_here(packet: &Packet, outer: &Outer) -> bool {
    let known = if outer.inner == proto::IPV4 {
        ipv4(packet, outer)
    } else {
        ipv6(packet, outer)
    };
    known.unwrap_or(true)
}

#[inline(always)]
fn ipv4(packet: &Packet, outer: &Outer) -> Option<bool> {
    let at = outer.link.len + outer.len;
    let ip: Ipv4 = packet.read(at)?;
    let len = ip.header_len();
    let is_tcp = ip.version() == 4 && ip.proto == proto::TCP && len >= size_of::<Ipv4>();
    if !is_tcp || ip.is_later_fragment() || (ip.total_len.get() as usize) < len + TCP_MIN {
        return None;
    }
    let tcp = segment(packet, outer, at + len)?;
    Some(maps::knows_v4(packet, &ip, &tcp))
}

#[inline(always)]
fn ipv6(packet: &Packet, outer: &Outer) -> Option<bool> {
    let at = outer.link.len + outer.len;
    let ip: Ipv6 = packet.read(at)?;
    if ip.version() != 6 || ip.next != proto::TCP || (ip.payload_len.get() as usize) < TCP_MIN {
        return None;
    }
    let tcp = segment(packet, outer, at + size_of::<Ipv6>())?;
    Some(maps::knows_v6(packet, &ip, &tcp))
}

/// The TCP header at this place, unless it is a SYN's.
#[inline(always)]
fn segment(packet: &Packet, outer: &Outer, at: usize) -> Option<Tcp> {
    let tcp: Tcp = packet.read(at)?;
    (at + TCP_MIN <= outer.end && tcp.flags & SYN == 0).then_some(tcp)
}

/// Sends the packet on, by the way that it came: from the address that it was for to `other`. It names that address
/// instead, and no other backend, so that nobody sends it on again. `None` where it isn't what it was.
#[inline(always)]
pub fn forward(packet: &mut Packet, outer: &Outer, other: Addr) -> Option<()> {
    let at = outer.link.len;
    let private = at + outer.ip_len + PLAIN as usize;
    let ethernet: Ethernet = packet.read(0)?;
    let address = private + size_of::<Chance>();
    let kind = if outer.version == 6 {
        let ip: Ipv6 = packet.read(at)?;
        let next = Ipv6 {
            src: ip.dst,
            dst: other.0,
            hop_limit: ip.hop_limit.wrapping_sub(1),
            ..ip
        };
        packet.write(at, next)?;
        packet.write(address, Addr(ip.dst))?;
        ethertype::IPV6
    } else {
        let ip: Ipv4 = packet.read(at)?;
        let next = Ipv4 {
            src: ip.dst,
            dst: other.v4_raw(),
            ttl: ip.ttl.wrapping_sub(1),
            ..ip
        };
        // In memory the protocol follows the TTL.
        let word = |ip: &Ipv4| u32::from(u16::from_ne_bytes([ip.ttl, ip.proto]));
        let csum = csum::update_word(ip.csum, word(&ip), word(&next));
        // The old destination stays among the words that are added up.
        let csum = csum::update_word(csum, ip.src, next.dst);
        packet.write(at, Ipv4 { csum, ..next })?;
        packet.write(address, ip.dst)?;
        ethertype::IPV4
    };
    packet.write(private, Chance::new(SPENT))?;
    let udp: Udp = packet.read(at + outer.ip_len)?;
    // A checksum would be of the old addresses.
    packet.write(at + outer.ip_len, Udp { csum: 0, ..udp })?;
    outer
        .link
        .write(packet, ethernet.source, ethernet.destination, kind)
}
