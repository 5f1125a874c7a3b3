//! Frames, byte by byte from the RFCs; no code of the programs or of `lb-common`.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Link-layer addresses of every frame that arrives: ours, then the router's.
pub(crate) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// The checksum of RFC 1071, section 1: of a header with a right checksum it is 0.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for pair in bytes.chunks(2) {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (next, carry) = sum.overflowing_add(word);
        sum = next + u16::from(carry);
    }
    !sum
}

/// An IP packet to be; the addresses decide on its version.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) class: u8,
    pub(crate) ttl: u8,
    pub(crate) proto: u8,
    /// IPv4 only.
    pub(crate) id: u16,
    /// IPv4 only: flags and offset.
    pub(crate) frag: u16,
    /// IPv4 only: a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv6 only: flow label.
    pub(crate) label: u32,
    pub(crate) payload: Vec<u8>,
}

impl Ip {
    pub(crate) fn new(src: IpAddr, dst: IpAddr, proto: u8, payload: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            class: 0,
            ttl: 61,
            proto,
            id: 0xabcd,
            frag: 0x4000,
            options: Vec::new(),
            label: 0x5_4321,
            payload,
        }
    }

    pub(crate) fn kind(&self) -> u16 {
        if self.src.is_ipv4() { IPV4 } else { IPV6 }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let header = 20 + self.options.len();
                let len = u16::try_from(header + self.payload.len()).expect("at most 65,535 bytes");
                let mut bytes = vec![0x40 | (header / 4) as u8, self.class];
                bytes.extend(len.to_be_bytes());
                bytes.extend(self.id.to_be_bytes());
                bytes.extend(self.frag.to_be_bytes());
                bytes.extend([self.ttl, self.proto, 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(&self.options);
                let sum = checksum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(&self.payload);
                bytes
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let first = 6u32 << 28 | u32::from(self.class) << 20 | self.label;
                let mut bytes = first.to_be_bytes().to_vec();
                bytes.extend(
                    u16::try_from(self.payload.len())
                        .expect("at most 65,535 bytes")
                        .to_be_bytes(),
                );
                bytes.extend([self.proto, self.ttl]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
                bytes.extend(&self.payload);
                bytes
            }
            _ => panic!("addresses of two families"),
        }
    }

    /// In an untagged frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        ethernet(self.kind(), &self.bytes())
    }

    /// In a frame with one 802.1Q tag.
    pub(crate) fn tagged(&self, tci: u16) -> Vec<u8> {
        tagged(&[(VLAN, tci)], self.kind(), &self.bytes())
    }
}

/// A TCP segment from `sport` to `dport`.
pub(crate) fn tcp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let [s, d] = [sport, dport].map(u16::to_be_bytes);
    let mut bytes = vec![s[0], s[1], d[0], d[1], 1, 2, 3, 4, 5, 6, 7, 8];
    bytes.extend([0x50, 0x18, 0x20, 0, 0xbe, 0xef, 0, 0]);
    bytes.extend(data);
    bytes
}

/// A UDP datagram from `sport` to `dport`.
pub(crate) fn udp(sport: u16, dport: u16, data: &[u8]) -> Vec<u8> {
    let [s, d] = [sport, dport].map(u16::to_be_bytes);
    let [a, b] = ((8 + data.len()) as u16).to_be_bytes();
    let mut bytes = vec![s[0], s[1], d[0], d[1], a, b, 0xbe, 0xef];
    bytes.extend(data);
    bytes
}

/// The transport that `proto` names, with 32 bytes of data.
pub(crate) fn transport(proto: u8, sport: u16, dport: u16) -> Vec<u8> {
    let data: Vec<u8> = (0..32).collect();
    match proto {
        TCP => tcp(sport, dport, &data),
        UDP => udp(sport, dport, &data),
        _ => data,
    }
}

pub(crate) fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    tagged(&[], kind, payload)
}

/// A frame with tags, each a protocol identifier and its control information.
pub(crate) fn tagged(tags: &[(u16, u16)], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MACS.concat();
    for (tpid, tci) in tags {
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32);
    let line = |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<String>();
    lines.map(line).collect::<Vec<_>>().join("\n")
}

pub(crate) fn ip(text: &str) -> IpAddr {
    parse(text)
}

/// An address, a prefix, a name: all that a test writes down as text.
pub(crate) fn parse<T: FromStr<Err: Display>>(text: &str) -> T {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}
