//! First stage: from a frame to what later stages ask about it.

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::encap::Inner;
use lb_common::header::{Ipv4, Ipv6, Ports, TCP_MIN, UDP_MIN, ethertype, proto};
use lb_common::stop::Stop;
use lb_common::tuple::Tuple;
use lb_ebpf::link::Link;
use lb_ebpf::packet::Packet;

/// What was found in a frame.
pub struct Headers {
    /// The link layer.
    pub link: Link,
    /// What the outer header will take from the IP header.
    pub inner: Inner,
    /// The flow; ports are zero where `kind` is not [`Kind::Flow`].
    pub tuple: Tuple,
    /// Where they begin in the frame; 0 where `kind` is not [`Kind::Flow`].
    pub ports: usize,
    /// Whether the packet shows its ports.
    pub kind: Kind,
}

/// Whether a packet shows its ports.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does.
    Flow,
    /// An IP fragment.
    Fragment,
    /// An IPv6 packet with extension headers.
    Extension,
}

/// Parses a packet that was parsed before: out of line nothing is kept of it.
#[inline(always)]
pub fn again(packet: &Packet) -> Option<Headers> {
    let (link, kind) = Link::read(packet)?;
    if kind == ethertype::IPV6 {
        ipv6(packet, link).ok()
    } else {
        ipv4(packet, link).ok()
    }
}

/// Parses an IPv4 packet.
#[inline(always)]
pub fn ipv4(packet: &Packet, link: Link) -> Result<Headers, Stop> {
    let ip: Ipv4 = packet.read(link.len).ok_or(Stop::Malformed)?;
    let (len, header) = (ip.total_len.get(), ip.header_len());
    let complete = link.len + len as usize <= packet.len();
    if ip.version() != 4 || header < size_of::<Ipv4>() || header > len as usize || !complete {
        return Err(Stop::Malformed);
    }
    let inner = Inner {
        len,
        class: ip.tos,
        proto: proto::IPV4,
    };
    let tuple = Tuple {
        src: Addr::v4(ip.src),
        dst: Addr::v4(ip.dst),
        sport: Be16::new(0),
        dport: Be16::new(0),
        proto: ip.proto,
    };
    if ip.is_fragment() {
        return Ok(Headers {
            link,
            inner,
            tuple,
            ports: 0,
            kind: Kind::Fragment,
        });
    }
    transport(packet, link, inner, tuple, header)
}

/// Parses an IPv6 packet.
#[inline(always)]
pub fn ipv6(packet: &Packet, link: Link) -> Result<Headers, Stop> {
    let ip: Ipv6 = packet.read(link.len).ok_or(Stop::Malformed)?;
    let len = size_of::<Ipv6>() + ip.payload_len.get() as usize;
    // A length over 65,535 does not exist without a jumbo option, and an outer header could not say it.
    if ip.version() != 6 || link.len + len > packet.len() || len > u16::MAX as usize {
        return Err(Stop::Malformed);
    }
    let dst = Addr(ip.dst);
    if dst.is_v4() {
        // A v4-mapped address on the wire is nobody's, but would find the IPv4 VIP.
        return Err(Stop::NotVip);
    }
    let inner = Inner {
        len: len as u16,
        class: ip.class(),
        proto: proto::IPV6,
    };
    let tuple = Tuple {
        src: Addr(ip.src),
        dst,
        sport: Be16::new(0),
        dport: Be16::new(0),
        proto: ip.next,
    };
    if proto::is_extension(ip.next) {
        let kind = if ip.next == proto::FRAGMENT {
            Kind::Fragment
        } else {
            Kind::Extension
        };
        return Ok(Headers {
            link,
            inner,
            tuple,
            ports: 0,
            kind,
        });
    }
    transport(packet, link, inner, tuple, size_of::<Ipv6>())
}

/// The ports of TCP and UDP; `header` is the length of the IP header.
#[inline(always)]
fn transport(
    packet: &Packet,
    link: Link,
    inner: Inner,
    tuple: Tuple,
    header: usize,
) -> Result<Headers, Stop> {
    let least = match tuple.proto {
        proto::TCP => TCP_MIN,
        proto::UDP => UDP_MIN,
        _ => return Err(Stop::OtherProto),
    };
    if header + least > inner.len as usize {
        return Err(Stop::Malformed);
    }
    let start = link.len + header;
    let ports: Ports = packet.read(start).ok_or(Stop::Malformed)?;
    let tuple = Tuple {
        sport: ports.src,
        dport: ports.dst,
        ..tuple
    };
    Ok(Headers {
        link,
        inner,
        tuple,
        ports: start,
        kind: Kind::Flow,
    })
}
