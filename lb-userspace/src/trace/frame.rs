//! Frames: built from a flow, or out of hexadecimal digits.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

use super::Error;
use crate::model::Protocol;

/// The shortest frame that the kernel's test run takes: an Ethernet header.
pub const SHORTEST: usize = 14;

/// The longest one: a page of 4,096 bytes less 256 bytes of headroom and 320 of tailroom. The kernel would hand over
/// the rest of a longer one in fragments, which the program can't see.
pub const LONGEST: usize = 3520;

/// The program looks at no link-layer address of a frame that arrives, so any will do: locally administered ones.
const CLIENT_SIDE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_SIDE: [u8; 6] = [2, 0, 0, 0, 0, 2];

const TTL: u8 = 64;
const WINDOW: u16 = 64_240;

/// A packet of a flow, client to VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub from: SocketAddr,
    /// The VIP.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// A connection's first packet; else TCP has ACK alone.
    pub syn: bool,
    /// Bytes behind the TCP or UDP header; all zero.
    pub payload: usize,
}

/// An untagged Ethernet frame with this packet, with checksums that are right.
///
/// # Errors
/// Where no such packet exists.
pub fn build(flow: &Flow) -> Result<Vec<u8>, Error> {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (canonical(flow.from), canonical(flow.to));
    let link = PacketBuilder::ethernet2(CLIENT_SIDE, OUR_SIDE);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), TTL),
        _ => return Err(Error::Families { from, to }),
    };
    let payload = vec![0; flow.payload];
    let mut frame = Vec::new();
    let (sport, dport) = (from.port(), to.port());
    let written = match (flow.protocol, flow.syn) {
        (Protocol::Udp, true) => return Err(Error::SynOfUdp),
        (Protocol::Udp, false) => ip.udp(sport, dport).write(&mut frame, &payload),
        (Protocol::Tcp, true) => ip.tcp(sport, dport, 1, WINDOW).syn().write(&mut frame, &payload),
        (Protocol::Tcp, false) => ip.tcp(sport, dport, 1, WINDOW).ack(1).write(&mut frame, &payload),
    };
    written.map_err(|_| Error::Payload(flow.payload))?;
    Ok(frame)
}

/// A frame out of hexadecimal digits; white space, `:`, `-` and a leading `0x` are nothing.
///
/// # Errors
/// Where it is something else.
pub fn from_hex(text: &str) -> Result<Vec<u8>, Error> {
    let text = text.trim();
    let text = text.strip_prefix("0x").unwrap_or(text);
    let digits = text
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, ':' | '-'))
        .map(|c| c.to_digit(16).ok_or(Error::HexDigit(c)))
        .collect::<Result<Vec<u32>, Error>>()?;
    if digits.len() % 2 != 0 {
        return Err(Error::HexHalf);
    }
    Ok(digits
        .chunks_exact(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect())
}

/// Refuses a frame that the kernel's test run doesn't take whole.
///
/// # Errors
/// [`Error::Length`].
pub fn check_length(frame: &[u8]) -> Result<(), Error> {
    if (SHORTEST..=LONGEST).contains(&frame.len()) {
        Ok(())
    } else {
        Err(Error::Length(frame.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn flow(from: &str, to: &str) -> Flow {
        let end = |text: &str| text.parse().expect("a socket address");
        Flow {
            from: end(from),
            to: end(to),
            protocol: Protocol::Tcp,
            syn: false,
            payload: 0,
        }
    }

    #[test]
    fn a_built_frame_is_a_valid_packet() {
        for (from, to) in [
            ("192.0.2.1:40000", "203.0.113.1:80"),
            ("[2001:db8::1]:40000", "[2001:db8::2]:80"),
            ("[::ffff:192.0.2.1]:40000", "203.0.113.1:80"),
        ] {
            for (protocol, syn) in [
                (Protocol::Tcp, true),
                (Protocol::Tcp, false),
                (Protocol::Udp, false),
            ] {
                let flow = Flow {
                    protocol,
                    syn,
                    payload: 33,
                    ..flow(from, to)
                };
                let frame = build(&flow).expect("a frame");
                let packet = SlicedPacket::from_ethernet(&frame).expect("it parses");
                let sums = match packet.net.expect("IP") {
                    NetSlice::Ipv4(ip) => {
                        let header = ip.header().to_header();
                        assert_eq!(header.header_checksum, header.calc_header_checksum());
                        (header.source.to_vec(), header.destination.to_vec())
                    }
                    NetSlice::Ipv6(ip) => {
                        let header = ip.header().to_header();
                        (header.source.to_vec(), header.destination.to_vec())
                    }
                    NetSlice::Arp(_) => panic!("ARP"),
                };
                match packet.transport.expect("ports") {
                    TransportSlice::Tcp(tcp) => {
                        assert_eq!((tcp.syn(), tcp.ack()), (syn, !syn));
                        assert_eq!((tcp.source_port(), tcp.destination_port()), (40_000, 80));
                        assert_eq!(tcp.payload().len(), 33);
                        assert_eq!(ones_sum(&sums, 6, &frame[frame.len() - 53..]), 0xffff);
                    }
                    TransportSlice::Udp(udp) => {
                        assert_eq!((udp.source_port(), udp.destination_port()), (40_000, 80));
                        assert_eq!(ones_sum(&sums, 17, &frame[frame.len() - 41..]), 0xffff);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// RFC 1071 over the pseudo header and the transport: 0xffff where the checksum is right.
    fn ones_sum((src, dst): &(Vec<u8>, Vec<u8>), proto: u8, transport: &[u8]) -> u32 {
        let len = (transport.len() as u16).to_be_bytes();
        let mut bytes = [src.as_slice(), dst, &[0, proto], &len, transport].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let words = bytes
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let mut sum: u32 = words.sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    #[test]
    fn flows_that_do_not_exist() {
        let mixed = build(&flow("192.0.2.1:1", "[2001:db8::2]:80")).expect_err("refused");
        assert_eq!(
            mixed.to_string(),
            "192.0.2.1:1 and [2001:db8::2]:80 are of different families: no such flow exists"
        );
        let tcp = flow("192.0.2.1:1", "203.0.113.1:80");
        let syn = Flow {
            syn: true,
            protocol: Protocol::Udp,
            ..tcp
        };
        assert!(matches!(build(&syn), Err(Error::SynOfUdp)));
        let long = Flow {
            payload: 65_536,
            ..tcp
        };
        assert!(matches!(build(&long), Err(Error::Payload(65_536))));
    }

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(from_hex("0x02 00:ff-0A\n").expect("bytes"), [2, 0, 255, 10]);
        assert!(matches!(from_hex("02 0"), Err(Error::HexHalf)));
        assert!(matches!(from_hex("02 0g"), Err(Error::HexDigit('g'))));
        assert_eq!(from_hex("").expect("nothing"), [0; 0]);
    }

    #[test]
    fn lengths_that_can_be_run() {
        for (len, fine) in [(13, false), (14, true), (3520, true), (3521, false)] {
            assert_eq!(check_length(&vec![0; len]).is_ok(), fine, "{len}");
        }
    }
}
