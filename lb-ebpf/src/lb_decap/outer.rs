//! First stage: outer headers that are whole and of a kind that we take off.

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::gue::{self, Chance, chance_len};
use lb_common::header::{Ipv4, Ipv6, Udp, ethertype, proto};
use lb_common::stop::DecapStop;
use lb_ebpf::link::Link;
use lb_ebpf::packet::Packet;

/// Outer headers, read.
pub struct Outer {
    /// The link layer before them.
    pub link: Link,
    /// Length of the IP header, bytes.
    pub ip_len: usize,
    /// Length of all that is to go: up to the packet inside, bytes.
    pub len: usize,
    /// Where the packet ends that they begin, bytes from the frame's start: what follows is the frame's padding.
    pub end: usize,
    /// IP version, 4 or 6.
    pub version: u32,
    /// Who sent it.
    pub src: Addr,
    /// How many hops it may still go.
    pub ttl: u8,
    /// Its congestion mark, two bits.
    pub ecn: u8,
    /// The protocol number of what it carries: IPv4 or IPv6.
    pub inner: u8,
    /// The other backend that may have the connection.
    pub other: Option<Addr>,
}

/// Reads the outer headers; `port` is that of GUE, 0 = none.
#[inline(always)]
pub fn read(packet: &Packet, port: Be16) -> Result<Outer, DecapStop> {
    let (link, kind) = Link::read(packet).ok_or(DecapStop::NotTunnel)?;
    match kind {
        ethertype::IPV4 => ipv4(packet, link, port),
        ethertype::IPV6 => ipv6(packet, link, port),
        _ => Err(DecapStop::NotTunnel),
    }
}

#[inline(always)]
fn ipv4(packet: &Packet, link: Link, port: Be16) -> Result<Outer, DecapStop> {
    let ip: Ipv4 = packet.read(link.len).ok_or(DecapStop::Malformed)?;
    if !matches!(ip.proto, proto::IPV4 | proto::IPV6 | proto::UDP) {
        return Err(DecapStop::NotTunnel);
    }
    let (len, total) = (ip.header_len(), ip.total_len.get() as usize);
    let end = link.len + total;
    if ip.version() != 4 || len < size_of::<Ipv4>() || total < len || end > packet.opaque_len() {
        return Err(DecapStop::Malformed);
    }
    if ip.is_fragment() {
        // Whose UDP it is the first one alone can say, and nodes don't let theirs be cut.
        return Err(if ip.proto == proto::UDP {
            DecapStop::NotTunnel
        } else {
            DecapStop::Fragment
        });
    }
    let outer = Outer {
        link,
        ip_len: len,
        len,
        end,
        version: 4,
        src: Addr::v4(ip.src),
        ttl: ip.ttl,
        ecn: ip.tos & 3,
        inner: ip.proto,
        other: None,
    };
    if ip.proto == proto::UDP {
        self::gue(packet, outer, port)
    } else {
        Ok(outer)
    }
}

#[inline(always)]
fn ipv6(packet: &Packet, link: Link, port: Be16) -> Result<Outer, DecapStop> {
    let ip: Ipv6 = packet.read(link.len).ok_or(DecapStop::Malformed)?;
    if !matches!(ip.next, proto::IPV4 | proto::IPV6 | proto::UDP) {
        return Err(DecapStop::NotTunnel);
    }
    let len = size_of::<Ipv6>();
    let end = link.len + len + ip.payload_len.get() as usize;
    if ip.version() != 6 || end > packet.opaque_len() {
        return Err(DecapStop::Malformed);
    }
    let outer = Outer {
        link,
        ip_len: len,
        len,
        end,
        version: 6,
        src: Addr(ip.src),
        ttl: ip.hop_limit,
        ecn: ip.class() & 3,
        inner: ip.next,
        other: None,
    };
    if ip.next == proto::UDP {
        self::gue(packet, outer, port)
    } else {
        Ok(outer)
    }
}

/// What follows an IP header that carries UDP.
#[inline(always)]
fn gue(packet: &Packet, outer: Outer, port: Be16) -> Result<Outer, DecapStop> {
    let at = outer.link.len + outer.len;
    if at + size_of::<Udp>() > outer.end {
        return Err(DecapStop::Malformed);
    }
    let udp: Udp = packet.read(at).ok_or(DecapStop::Malformed)?;
    if udp.dst != port || port.raw() == 0 {
        return Err(DecapStop::NotTunnel);
    }
    let (len, end) = (udp.len.get(), at + udp.len.get() as usize);
    if len < gue::PLAIN || end > outer.end {
        return Err(DecapStop::Malformed);
    }
    let header: gue::Header = packet.read(at + size_of::<Udp>()).ok_or(DecapStop::Malformed)?;
    if !header.is_ours() {
        return Err(DecapStop::Gue);
    }
    let private = at + gue::PLAIN as usize;
    let inner = private + header.rest();
    if inner > end {
        return Err(DecapStop::Malformed);
    }
    let v6 = outer.version == 6;
    let other = if header.rest() == chance_len(v6) as usize {
        other(packet, private, v6)
    } else {
        None
    };
    Ok(Outer {
        len: inner - outer.link.len,
        end,
        inner: header.proto,
        other,
        ..outer
    })
}

/// The backend that private data at this place names.
#[inline(always)]
fn other(packet: &Packet, at: usize, v6: bool) -> Option<Addr> {
    let chance: Chance = packet.read(at)?;
    if !chance.is_open() {
        return None;
    }
    let at = at + size_of::<Chance>();
    if v6 {
        packet.read(at)
    } else {
        packet.read(at).map(Addr::v4)
    }
}
