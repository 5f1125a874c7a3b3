//! First stage: what is found in a frame, by the rules of `lb_xdp` and in their order.

use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::encap::Inner;
use lb_common::header::{Ethernet, Ipv4, Ipv6, Ports, TCP_MIN, UDP_MIN, Vlan, ethertype, proto};
use lb_common::stop::Stop;
use lb_common::tuple::Tuple;
use zerocopy::FromBytes;

/// What was found in a frame, as far as it could be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The link layer.
    pub link: Option<Link>,
    /// The IP header.
    pub ip: Option<Ip>,
    /// Source port and destination port.
    pub ports: Option<(u16, u16)>,
    /// TCP's flags, FIN in the lowest bit.
    pub flags: Option<u8>,
}

/// Ethernet, with at most one VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Source.
    pub source: [u8; 6],
    /// Destination.
    pub destination: [u8; 6],
    /// Priority and VLAN id.
    pub tag: Option<u16>,
    /// EtherType of what follows.
    pub kind: u16,
    /// Bytes up to what follows: 14, or 18 with a tag.
    pub len: usize,
}

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    /// Header and payload, bytes.
    pub len: u16,
    /// Protocol, or the first next header.
    pub proto: u8,
    /// Why its ports can't be read.
    pub hidden: Option<Hidden>,
}

/// What hides the ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// It is a fragment.
    Fragment,
    /// IPv6 extension headers come first.
    Extension,
}

/// What later stages need of a frame that could be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) link: Link,
    pub(super) inner: Inner,
    /// Ports are zero where they are hidden.
    pub(super) tuple: Tuple,
    pub(super) hidden: Option<Hidden>,
}

/// Reads a frame; what was found goes to `found`, also where it stops.
pub(super) fn parse(frame: &[u8], found: &mut Parsed) -> Result<Headers, Stop> {
    let link = link(frame).ok_or(Stop::NotIp)?;
    found.link = Some(link);
    match Be16::new(link.kind) {
        ethertype::IPV4 => ipv4(frame, link, found),
        ethertype::IPV6 => ipv6(frame, link, found),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(Stop::VlanStacked),
        _ => Err(Stop::NotIp),
    }
}

fn read<T: FromBytes>(frame: &[u8], offset: usize) -> Option<T> {
    T::read_from_prefix(frame.get(offset..)?)
        .ok()
        .map(|(value, _)| value)
}

fn link(frame: &[u8]) -> Option<Link> {
    let ethernet: Ethernet = read(frame, 0)?;
    let link = Link {
        source: ethernet.source,
        destination: ethernet.destination,
        tag: None,
        kind: ethernet.ethertype.get(),
        len: size_of::<Ethernet>(),
    };
    if ethernet.ethertype != ethertype::VLAN {
        return Some(link);
    }
    let vlan: Vlan = read(frame, link.len)?;
    Some(Link {
        tag: Some(vlan.tci.get()),
        kind: vlan.ethertype.get(),
        len: link.len + size_of::<Vlan>(),
        ..link
    })
}

fn ipv4(frame: &[u8], link: Link, found: &mut Parsed) -> Result<Headers, Stop> {
    let header: Ipv4 = read(frame, link.len).ok_or(Stop::Malformed)?;
    let (len, header_len) = (header.total_len.get(), header.header_len());
    let complete = link.len + usize::from(len) <= frame.len();
    if header.version() != 4 || header_len < size_of::<Ipv4>() || header_len > len.into() || !complete {
        return Err(Stop::Malformed);
    }
    let (src, dst) = (Addr::v4(header.src), Addr::v4(header.dst));
    let ip = Ip {
        src: src.into(),
        dst: dst.into(),
        class: header.tos,
        len,
        proto: header.proto,
        hidden: header.is_fragment().then_some(Hidden::Fragment),
    };
    found.ip = Some(ip);
    transport(frame, headers(link, &ip, proto::IPV4), header_len, found)
}

fn ipv6(frame: &[u8], link: Link, found: &mut Parsed) -> Result<Headers, Stop> {
    let header: Ipv6 = read(frame, link.len).ok_or(Stop::Malformed)?;
    let len = size_of::<Ipv6>() + usize::from(header.payload_len.get());
    let fits = link.len + len <= frame.len();
    let len = u16::try_from(len).map_err(|_| Stop::Malformed)?;
    if header.version() != 6 || !fits {
        return Err(Stop::Malformed);
    }
    let (src, dst) = (Addr(header.src), Addr(header.dst));
    let hidden = match header.next {
        proto::FRAGMENT => Some(Hidden::Fragment),
        next if proto::is_extension(next) => Some(Hidden::Extension),
        _ => None,
    };
    let address = |addr: Addr| IpAddr::V6(addr.bytes().into());
    let ip = Ip {
        src: address(src),
        dst: address(dst),
        class: header.class(),
        len,
        proto: header.next,
        hidden,
    };
    found.ip = Some(ip);
    if dst.is_v4() {
        return Err(Stop::NotVip);
    }
    transport(frame, headers(link, &ip, proto::IPV6), size_of::<Ipv6>(), found)
}

fn headers(link: Link, ip: &Ip, kind: u8) -> Headers {
    Headers {
        link,
        inner: Inner {
            len: ip.len,
            class: ip.class,
            proto: kind,
        },
        tuple: Tuple {
            src: ip.src.into(),
            dst: ip.dst.into(),
            sport: Be16::new(0),
            dport: Be16::new(0),
            proto: ip.proto,
        },
        hidden: ip.hidden,
    }
}

/// The ports, where they can be read; `header` is the length of the IP header.
fn transport(frame: &[u8], headers: Headers, header: usize, found: &mut Parsed) -> Result<Headers, Stop> {
    if headers.hidden.is_some() {
        return Ok(headers);
    }
    let least = match headers.tuple.proto {
        proto::TCP => TCP_MIN,
        proto::UDP => UDP_MIN,
        _ => return Err(Stop::OtherProto),
    };
    if header + least > headers.inner.len.into() {
        return Err(Stop::Malformed);
    }
    const TCP_FLAGS: usize = 13;
    let at = headers.link.len + header;
    let ports: Ports = read(frame, at).ok_or(Stop::Malformed)?;
    found.ports = Some((ports.src.get(), ports.dst.get()));
    if headers.tuple.proto == proto::TCP {
        found.flags = read(frame, at + TCP_FLAGS);
    }
    let tuple = Tuple {
        sport: ports.src,
        dport: ports.dst,
        ..headers.tuple
    };
    Ok(Headers { tuple, ..headers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;
    use crate::trace::{Flow, build};

    fn frame(from: &str, to: &str, protocol: Protocol, syn: bool) -> Vec<u8> {
        let end = |text: &str| text.parse().expect("a socket address");
        let flow = Flow {
            from: end(from),
            to: end(to),
            protocol,
            syn,
            payload: 4,
        };
        build(&flow).expect("a frame")
    }

    fn v4() -> Vec<u8> {
        frame("192.0.2.1:40000", "203.0.113.1:80", Protocol::Tcp, true)
    }

    fn v6() -> Vec<u8> {
        frame("[2001:db8::1]:40000", "[2001:db8::2]:53", Protocol::Udp, false)
    }

    fn run(frame: &[u8]) -> (Parsed, Result<Headers, Stop>) {
        let mut found = Parsed::default();
        let result = parse(frame, &mut found);
        (found, result)
    }

    #[test]
    fn a_whole_packet() {
        let (found, headers) = run(&v4());
        let ip = found.ip.expect("IP");
        assert_eq!((ip.len, ip.class, ip.proto), (44, 0, 6));
        assert_eq!((found.ports, found.flags), (Some((40_000, 80)), Some(2)));
        assert_eq!(headers.expect("parsed").inner.proto, 4);
        let (found, headers) = run(&v6());
        assert_eq!((found.ports, found.flags), (Some((40_000, 53)), None));
        let headers = headers.expect("parsed");
        assert_eq!(
            (headers.inner.len, headers.inner.proto, headers.link.len),
            (52, 41, 14)
        );
    }

    #[test]
    fn a_tag_is_kept() {
        let plain = v4();
        let frame = [&plain[..12], &[0x81, 0, 0x20, 0x07], &plain[12..]].concat();
        let link = run(&frame).0.link.expect("a link layer");
        assert_eq!((link.tag, link.kind, link.len), (Some(0x2007), 0x0800, 18));
        for tpid in [[0x81, 0], [0x88, 0xa8]] {
            let two = [&frame[..16], &tpid, &[0, 9], &frame[16..]].concat();
            assert_eq!(run(&two).1, Err(Stop::VlanStacked));
        }
    }

    /// Where one byte is changed the packet stops, and what was found before is still told.
    #[test]
    fn stops() {
        let cases = [
            ("ARP", v4(), 13, 6, Stop::NotIp, false),
            ("version", v4(), 14, 0x65, Stop::Malformed, false),
            ("header length", v4(), 14, 0x44, Stop::Malformed, false),
            ("total length", v4(), 17, 200, Stop::Malformed, false),
            ("too short for TCP", v4(), 17, 39, Stop::Malformed, true),
            ("ICMP", v4(), 23, 1, Stop::OtherProto, true),
            ("version", v6(), 14, 0x40, Stop::Malformed, false),
            ("payload length", v6(), 18, 1, Stop::Malformed, false),
            ("ICMPv6", v6(), 20, 58, Stop::OtherProto, true),
        ];
        for (what, mut frame, at, value, stop, has_ip) in cases {
            frame[at] = value;
            let (found, result) = run(&frame);
            assert_eq!((result, found.ip.is_some()), (Err(stop), has_ip), "{what}");
            assert!(found.ports.is_none(), "{what}");
        }
        for len in 0..14 {
            assert_eq!(run(&v4()[..len]).1, Err(Stop::NotIp));
        }
        for len in 14..58 {
            assert_eq!(run(&v4()[..len]).1, Err(Stop::Malformed), "{len}");
        }
    }

    #[test]
    fn hidden_ports() {
        let mut fragment = v4();
        fragment[20] = 0x20;
        let (found, headers) = run(&fragment);
        assert_eq!(headers.expect("parsed").hidden, Some(Hidden::Fragment));
        assert_eq!(found.ports, None);
        for (next, hidden) in [(44, Hidden::Fragment), (0, Hidden::Extension)] {
            let mut frame = v6();
            frame[20] = next;
            assert_eq!(run(&frame).1.expect("parsed").hidden, Some(hidden));
        }
    }

    #[test]
    fn a_mapped_address_on_the_wire_is_nobody() {
        let mut frame = v6();
        frame[38..54].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 1]);
        let (found, result) = run(&frame);
        assert_eq!(result, Err(Stop::NotVip));
        assert!(found.ip.expect("IP").dst.is_ipv6());
    }
}
