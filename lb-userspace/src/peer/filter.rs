//! What the kernel drops before it takes room in the peers' socket: most of what comes from elsewhere than a node.
//!
//! One packet in [`SAMPLE`] of those passes, so that a node at a wrong address is still counted and seen.

use std::collections::BTreeSet;
use std::net::IpAddr;

use socket2::SockFilter;

/// A power of two.
const SAMPLE: u32 = 16;

// Classic BPF (linux/bpf_common.h): load a word, jump if equal, jump if any bit is set, return.
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Where the network header begins, and where a random number is (linux/filter.h: `SKF_NET_OFF`, `SKF_AD_OFF` and
/// `SKF_AD_RANDOM`).
const HEADER: u32 = (-0x10_0000i32).cast_unsigned();
const RANDOM: u32 = (-0x1000i32 + 56).cast_unsigned();
/// Where its source is in an IPv4 header (RFC 791) and an IPv6 one (RFC 8200).
const V4_SOURCE: u32 = 12;
const V6_SOURCE: u32 = 8;

/// A filter for a socket of one family that takes what these addresses send.
pub(super) fn of(sources: impl IntoIterator<Item = IpAddr>) -> Vec<SockFilter> {
    let sources: BTreeSet<IpAddr> = sources.into_iter().map(|source| source.to_canonical()).collect();
    let mut filter = Vec::new();
    for source in sources {
        let (words, at): (Vec<u32>, _) = match source {
            IpAddr::V4(source) => (vec![source.to_bits()], V4_SOURCE),
            IpAddr::V6(source) => {
                let words = (0..4).rev().map(|word| (source.to_bits() >> (32 * word)) as u32);
                (words.collect(), V6_SOURCE)
            }
        };
        let count = words.len() as u8;
        for ((number, word), offset) in (0u8..).zip(words).zip((at..).step_by(4)) {
            // Behind this jump come two instructions for each word that is left, and the return.
            let rest = (count - number - 1) * 2 + 1;
            filter.push(SockFilter::new(LOAD, 0, 0, HEADER.wrapping_add(offset)));
            filter.push(SockFilter::new(EQUAL, 0, rest, word));
        }
        filter.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    filter.push(SockFilter::new(LOAD, 0, 0, RANDOM));
    filter.push(SockFilter::new(ANY_BIT, 0, 1, SAMPLE - 1));
    filter.push(SockFilter::new(RETURN, 0, 0, 0));
    filter.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    filter
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// How many of a thousand datagrams from `from` a socket at `to` takes whose filter names `sources`.
    fn taken(from: IpAddr, to: IpAddr, sources: &[IpAddr]) -> usize {
        let socket = Socket::new(Domain::for_address((to, 0).into()), Type::DGRAM, None).expect("a socket");
        socket
            .attach_filter(&of(sources.iter().copied()))
            .expect("the kernel takes it");
        socket.bind(&SocketAddr::from((to, 0)).into()).expect("loopback");
        let to: UdpSocket = socket.into();
        to.set_nonblocking(true).expect("a socket");
        let from = UdpSocket::bind((from, 0)).expect("loopback");
        let at = to.local_addr().expect("it is bound");
        let mut taken = 0;
        for _ in 0..1000 {
            from.send_to(b"x", at).expect("loopback takes it");
            match to.recv(&mut [0; 8]) {
                Ok(_) => taken += 1,
                Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
            }
        }
        taken
    }

    #[test]
    fn nodes_pass_and_of_others_a_few() {
        let v4 = |last| IpAddr::from([127, 0, 0, last]);
        let nodes: Vec<IpAddr> = (1..=64).map(v4).collect();
        for node in [1, 2, 64] {
            assert_eq!(taken(v4(node), v4(1), &nodes), 1000);
        }
        // 62 are to be expected; out of these bounds it falls once in a billion runs.
        let others = taken(v4(65), v4(1), &nodes);
        assert!((15..130).contains(&others), "{others}");
    }

    #[test]
    fn all_of_an_ipv6_address_counts() {
        let own = IpAddr::from(Ipv6Addr::LOCALHOST);
        // As many as a group has nodes, with the own one.
        let near: Vec<IpAddr> = (0..63)
            .map(|bit| Ipv6Addr::from_bits(1 ^ 1 << (2 * bit + 1)).into())
            .collect();
        assert_eq!(taken(own, own, &[near.as_slice(), &[own]].concat()), 1000);
        let others = taken(own, own, &near);
        assert!((15..130).contains(&others), "{others}");
        assert_eq!(
            of([Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()]).len(),
            of([[127, 0, 0, 1].into()]).len()
        );
    }
}
