//! First stage: an outer header that is whole and of a kind that we take off.

use lb_common::addr::Addr;
use lb_common::header::{Ipv4, Ipv6, ethertype, proto};
use lb_common::stop::DecapStop;
use lb_ebpf::link::Link;
use lb_ebpf::packet::Packet;

/// An outer header, read.
pub struct Outer {
    /// The link layer before it.
    pub link: Link,
    /// Its length, bytes.
    pub len: usize,
    /// Where the packet ends that it begins, bytes from the frame's start: what follows is the frame's padding.
    pub end: usize,
    /// IP version, 4 or 6.
    pub version: u32,
    /// Who sent it.
    pub src: Addr,
    /// Its congestion mark, two bits.
    pub ecn: u8,
    /// The protocol number of what it carries: IPv4 or IPv6.
    pub inner: u8,
}

/// Reads the outer header.
#[inline(always)]
pub fn read(packet: &Packet) -> Result<Outer, DecapStop> {
    let (link, kind) = Link::read(packet).ok_or(DecapStop::NotTunnel)?;
    match kind {
        ethertype::IPV4 => ipv4(packet, link),
        ethertype::IPV6 => ipv6(packet, link),
        _ => Err(DecapStop::NotTunnel),
    }
}

#[inline(always)]
fn ipv4(packet: &Packet, link: Link) -> Result<Outer, DecapStop> {
    let ip: Ipv4 = packet.read(link.len).ok_or(DecapStop::Malformed)?;
    if !matches!(ip.proto, proto::IPV4 | proto::IPV6) {
        return Err(DecapStop::NotTunnel);
    }
    let (len, total) = (ip.header_len(), ip.total_len.get() as usize);
    let end = link.len + total;
    if ip.version() != 4 || len < size_of::<Ipv4>() || total < len || end > packet.len() {
        return Err(DecapStop::Malformed);
    }
    if ip.is_fragment() {
        return Err(DecapStop::Fragment);
    }
    Ok(Outer {
        link,
        len,
        end,
        version: 4,
        src: Addr::v4(ip.src),
        ecn: ip.tos & 3,
        inner: ip.proto,
    })
}

#[inline(always)]
fn ipv6(packet: &Packet, link: Link) -> Result<Outer, DecapStop> {
    let ip: Ipv6 = packet.read(link.len).ok_or(DecapStop::Malformed)?;
    if !matches!(ip.next, proto::IPV4 | proto::IPV6) {
        return Err(DecapStop::NotTunnel);
    }
    let len = size_of::<Ipv6>();
    let end = link.len + len + ip.payload_len.get() as usize;
    if ip.version() != 6 || end > packet.len() {
        return Err(DecapStop::Malformed);
    }
    Ok(Outer {
        link,
        len,
        end,
        version: 6,
        src: Addr(ip.src),
        ecn: ip.class() & 3,
        inner: ip.next,
    })
}
