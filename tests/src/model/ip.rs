//! IPv4 (RFC 791) and IPv6 (RFC 8200) as far as a balancer reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::link::{IPV4, IPV6, be16};

/// Protocol numbers (IANA).
pub mod number {
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Hop-by-hop options, routing, authentication, destination options.
    pub const EXTENSIONS: [u8; 4] = [0, 43, 51, 60];
}

/// What hides the ports of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hidden {
    /// It is a fragment.
    Fragment,
    /// Extension headers come first.
    Extension,
}

/// A whole IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    /// Protocol, or the first next header.
    pub proto: u8,
    /// Whether and why its ports can't be read.
    pub hidden: Option<Hidden>,
    /// Header and payload, exactly as long as the header says.
    pub bytes: &'a [u8],
    /// Length of the header, options included.
    pub header: usize,
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`; `None` where it isn't whole or isn't of this kind. `kind` is an EtherType.
    pub fn read(kind: u16, bytes: &'a [u8]) -> Option<Self> {
        match kind {
            IPV4 => v4(bytes),
            IPV6 => v6(bytes),
            _ => None,
        }
    }

    /// What the IP header carries.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }
}

fn v4(bytes: &[u8]) -> Option<Packet<'_>> {
    let first = *bytes.first()?;
    let header = usize::from(first & 15) * 4;
    let bytes = bytes.get(..be16(bytes, 2)?.into())?;
    if first >> 4 != 4 || header < 20 || header > bytes.len() {
        return None;
    }
    let address = |at: usize| {
        IpAddr::from(Ipv4Addr::new(
            bytes[at],
            bytes[at + 1],
            bytes[at + 2],
            bytes[at + 3],
        ))
    };
    // All but the reserved bit and "don't fragment": "more fragments" and the offset.
    let fragment = be16(bytes, 6)? & 0x3fff != 0;
    Some(Packet {
        src: address(12),
        dst: address(16),
        class: bytes[1],
        proto: bytes[9],
        hidden: fragment.then_some(Hidden::Fragment),
        bytes,
        header,
    })
}

fn v6(bytes: &[u8]) -> Option<Packet<'_>> {
    let bytes = bytes.get(..40 + usize::from(be16(bytes, 4)?))?;
    if bytes[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let next = bytes[6];
    let hidden = match next {
        number::FRAGMENT => Some(Hidden::Fragment),
        _ if number::EXTENSIONS.contains(&next) => Some(Hidden::Extension),
        _ => None,
    };
    Some(Packet {
        src: address(8),
        dst: address(24),
        class: bytes[0] << 4 | bytes[1] >> 4,
        proto: next,
        hidden,
        bytes,
        header: 40,
    })
}
