//! ICMP errors about packets that this node sent: RFC 792, RFC 4443 section 3.

use std::fmt;
use std::net::IpAddr;

use zerocopy::FromBytes;

use lb_common::addr::Addr;
use lb_common::header::{Ipv4, Ipv6};

/// An error that somebody sent us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who.
    pub from: IpAddr,
    /// What.
    pub kind: Kind,
    /// Where the packet that it is about was to go.
    pub to: IpAddr,
    /// What that packet carried, as an IP protocol number.
    pub proto: u8,
}

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The host doesn't know the protocol; Linux says *port unreachable* where it knows it and has no tunnel.
    NoProtocol,
    /// A router has no way to go on, or may not.
    Unreachable,
    /// The packet has passed too many hosts.
    TimeExceeded,
    /// The packet is longer than this.
    TooBig(u32),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from;
        match self.kind {
            Kind::NoProtocol => write!(f, "{from} says: protocol {} is not known here", self.proto),
            Kind::Unreachable => write!(f, "{from} says: {} can't be reached", self.to),
            Kind::TimeExceeded => write!(
                f,
                "{from} says: the packet to {} has passed too many hosts",
                self.to
            ),
            Kind::TooBig(mtu) => write!(f, "{from} says: packets to {} may have {mtu} bytes", self.to),
        }
    }
}

/// Reads a message as a raw ICMPv4 socket gives it, IP header first; `None` where it is no error that matters.
pub fn read_v4(packet: &[u8]) -> Option<Notice> {
    let (outer, _) = Ipv4::read_from_prefix(packet).ok()?;
    let message = packet.get(outer.header_len()..)?;
    let (&[kind, code, _, _, _, _, high, low], quoted) = message.split_first_chunk()?;
    let kind = match (kind, code) {
        (3, 2 | 3) => Kind::NoProtocol,
        (3, 4) => Kind::TooBig(u16::from_be_bytes([high, low]).into()),
        (3, _) => Kind::Unreachable,
        (11, _) => Kind::TimeExceeded,
        _ => return None,
    };
    let (quoted, _) = Ipv4::read_from_prefix(quoted).ok()?;
    Some(Notice {
        from: address(Addr::v4(outer.src)),
        kind,
        to: address(Addr::v4(quoted.dst)),
        proto: quoted.proto,
    })
}

/// The same for ICMPv6, of which the kernel gives the message alone.
pub fn read_v6(from: IpAddr, message: &[u8]) -> Option<Notice> {
    let (&[kind, code, _, _, a, b, c, d], quoted) = message.split_first_chunk()?;
    let kind = match (kind, code) {
        (1, 4) | (4, 1) => Kind::NoProtocol,
        (1, _) => Kind::Unreachable,
        (2, _) => Kind::TooBig(u32::from_be_bytes([a, b, c, d])),
        (3, _) => Kind::TimeExceeded,
        _ => return None,
    };
    let (quoted, _) = Ipv6::read_from_prefix(quoted).ok()?;
    Some(Notice {
        from,
        kind,
        to: address(Addr(quoted.dst)),
        proto: quoted.next,
    })
}

fn address(addr: Addr) -> IpAddr {
    addr.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::be::{Be16, Be32};
    use zerocopy::IntoBytes;

    fn v4(proto: u8, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let header = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: Be16::new(56),
            id: Be16::new(0),
            frag: Be16::new(0),
            ttl: 64,
            proto,
            csum: 0,
            src: u32::from_ne_bytes(src),
            dst: u32::from_ne_bytes(dst),
        };
        header.as_bytes().to_vec()
    }

    fn v6(next: u8, dst: &str) -> Vec<u8> {
        let dst: std::net::Ipv6Addr = dst.parse().expect("an address");
        let header = Ipv6 {
            version_class_label: Be32::new(6 << 28),
            payload_len: Be16::new(0),
            next,
            hop_limit: 64,
            src: [0; 4],
            dst: Addr::from(IpAddr::V6(dst)).0,
        };
        header.as_bytes().to_vec()
    }

    const BACKEND: [u8; 4] = [10, 9, 21, 2];
    const NODE: [u8; 4] = [10, 9, 11, 2];

    fn message_v4(kind: u8, code: u8) -> Vec<u8> {
        let icmp = [kind, code, 0, 0, 0, 0, 0x05, 0x78];
        [v4(1, BACKEND, NODE), icmp.to_vec(), v4(4, NODE, BACKEND)].concat()
    }

    #[test]
    fn what_hosts_and_routers_say() {
        for (kind, code, want) in [
            (3, 2, Some(Kind::NoProtocol)),
            (3, 3, Some(Kind::NoProtocol)),
            (3, 1, Some(Kind::Unreachable)),
            (3, 13, Some(Kind::Unreachable)),
            (3, 4, Some(Kind::TooBig(1400))),
            (11, 0, Some(Kind::TimeExceeded)),
            (0, 0, None),
            (8, 0, None),
        ] {
            let notice = read_v4(&message_v4(kind, code));
            assert_eq!(notice.as_ref().map(|notice| notice.kind), want, "{kind}/{code}");
            if let Some(notice) = notice {
                assert_eq!(
                    (notice.from, notice.to, notice.proto),
                    (BACKEND.into(), BACKEND.into(), 4)
                );
            }
        }
        let from: IpAddr = "fd00:9:21::2".parse().expect("an address");
        for (kind, code, want) in [
            (4, 1, Some(Kind::NoProtocol)),
            (1, 4, Some(Kind::NoProtocol)),
            (1, 0, Some(Kind::Unreachable)),
            (2, 0, Some(Kind::TooBig(1400))),
            (3, 0, Some(Kind::TimeExceeded)),
            (129, 0, None),
            (136, 0, None),
        ] {
            let icmp = [kind, code, 0, 0, 0, 0, 0x05, 0x78];
            let notice = read_v6(from, &[icmp.to_vec(), v6(41, "fd00:9:21::2")].concat());
            assert_eq!(notice.as_ref().map(|notice| notice.kind), want, "{kind}/{code}");
            assert!(notice.is_none_or(|notice| notice.to == from && notice.proto == 41));
        }
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let whole = message_v4(3, 2);
        for length in 0..whole.len() {
            assert_eq!(read_v4(&whole[..length]), None, "{length} bytes");
        }
        let from = IpAddr::from([0; 16]);
        let whole = [vec![4, 1, 0, 0, 0, 0, 0, 0], v6(41, "::1")].concat();
        for length in 0..whole.len() {
            assert_eq!(read_v6(from, &whole[..length]), None, "{length} bytes");
        }
        let mut odd = message_v4(3, 2);
        odd[0] = 0x4f;
        assert_eq!(read_v4(&odd), None);
    }
}
