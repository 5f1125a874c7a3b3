//! `lb_decap`.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::stop::{Action, DecapStop};

use super::Verdict;
use super::ip::{Packet, number};
use super::link::{IPV4, IPV6, Link, be16};

/// What a backend's `lb_decap` and its stack know.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The outer sources that it takes packets from.
    pub allow: &'a [IpNet],
    /// The UDP port that it takes for GUE; 0 = none.
    pub gue_port: u16,
    /// Whether it has every TCP connection or none.
    pub knows: bool,
}

/// What becomes of a frame, and what is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its verdict: passed, dropped, or sent on.
    pub verdict: Verdict,
    /// Why its outer header was not removed.
    pub stop: Option<DecapStop>,
    /// Whether it would have been sent on to an address that is not allowed.
    pub stranger: bool,
    /// The frame as it goes up or on, empty where it is dropped.
    pub frame: Vec<u8>,
}

/// What `lb_decap` does with a frame.
pub fn decap(frame: &[u8], host: &Host<'_>) -> Decision {
    let mut stranger = false;
    let (verdict, stop, frame) = match take(frame, host, &mut stranger) {
        Ok((verdict, frame)) => (verdict, None, frame),
        Err(stop) => match stop.action() {
            Action::Pass => (Verdict::Pass, Some(stop), frame.to_vec()),
            Action::Drop => (Verdict::Drop, Some(stop), Vec::new()),
        },
    };
    Decision {
        verdict,
        stop,
        stranger,
        frame,
    }
}

fn take(frame: &[u8], host: &Host<'_>, stranger: &mut bool) -> Result<(Verdict, Vec<u8>), DecapStop> {
    let link = Link::split(frame).ok_or(DecapStop::NotTunnel)?;
    let (shortest, protocol) = match link.kind {
        IPV4 => (20, 9),
        IPV6 => (40, 6),
        _ => return Err(DecapStop::NotTunnel),
    };
    if link.payload.len() < shortest {
        return Err(DecapStop::Malformed);
    }
    let proto = link.payload[protocol];
    if ![number::IPV4, number::IPV6, number::UDP].contains(&proto) {
        return Err(DecapStop::NotTunnel);
    }
    let outer = Packet::read(link.kind, link.payload).ok_or(DecapStop::Malformed)?;
    if outer.hidden.is_some() {
        return Err(if proto == number::UDP {
            DecapStop::NotTunnel
        } else {
            DecapStop::Fragment
        });
    }
    let tunnel = if proto == number::UDP {
        gue(&outer, host.gue_port)?
    } else {
        Tunnel {
            proto,
            at: outer.header,
            inside: outer.payload(),
            other: None,
        }
    };
    let is_allowed = |address: &IpAddr| host.allow.iter().any(|net| net.contains(address));
    if !is_allowed(&outer.src) {
        return Err(DecapStop::NotAllowed);
    }
    let kind = if tunnel.proto == number::IPV4 { IPV4 } else { IPV6 };
    if let Some(other) = tunnel.other
        && hops(&outer) > 1
        && !host.knows
        && is_sought(kind, tunnel.inside)
    {
        if is_allowed(&other) {
            let payload = sent_on(link.payload, &outer, other);
            let next = link.rebuild(&frame[6..12], &frame[..6], link.kind, &[&payload]);
            return Ok((Verdict::Tx, next));
        }
        *stranger = true;
    }
    // The inner packet ends where the outer one does: what follows is the frame's padding.
    let inner = Packet::read(kind, tunnel.inside).ok_or(DecapStop::Malformed)?;
    let mark = mark(inner.class & 3, outer.class & 3).ok_or(DecapStop::EcnDrop)?;
    let mut payload = link.payload[tunnel.at..].to_vec();
    set_mark(&mut payload, &inner, mark);
    let next = link.rebuild(&frame[..6], &frame[6..12], kind, &[&payload]);
    Ok((Verdict::Pass, next))
}

/// What was found behind an outer IP header.
struct Tunnel<'a> {
    /// Protocol number of the packet inside.
    proto: u8,
    /// Where it begins, from the outer IP header on.
    at: usize,
    /// From there to the end of what carries it.
    inside: &'a [u8],
    /// The other backend.
    other: Option<IpAddr>,
}

/// UDP (RFC 768), GUE (draft-ietf-intarea-gue-09 section 3.1) and our private data.
fn gue<'a>(outer: &Packet<'a>, port: u16) -> Result<Tunnel<'a>, DecapStop> {
    let udp = outer.payload();
    if udp.len() < 8 {
        return Err(DecapStop::Malformed);
    }
    if be16(udp, 2) != Some(port) || port == 0 {
        return Err(DecapStop::NotTunnel);
    }
    let len = usize::from(be16(udp, 4).expect("eight bytes"));
    let udp = udp.get(..len).ok_or(DecapStop::Malformed)?;
    let header = udp.get(8..12).ok_or(DecapStop::Malformed)?;
    let (variant, is_control, words) = (header[0] >> 6, header[0] & 0x20 != 0, header[0] & 0x1f);
    let carries_ip = [number::IPV4, number::IPV6].contains(&header[1]);
    if variant != 0 || is_control || !carries_ip || header[2..] != [0, 0] {
        return Err(DecapStop::Gue);
    }
    let end = 12 + usize::from(words) * 4;
    let private = udp.get(12..end).ok_or(DecapStop::Malformed)?;
    let other = match (private.strip_prefix(&[0x7a, 0x1d, 1, 0]), outer.dst) {
        (Some(address), IpAddr::V4(_)) => <[u8; 4]>::try_from(address).ok().map(IpAddr::from),
        (Some(address), IpAddr::V6(_)) => <[u8; 16]>::try_from(address).ok().map(IpAddr::from),
        (None, _) => None,
    };
    Ok(Tunnel {
        proto: header[1],
        at: outer.header + end,
        inside: &udp[end..],
        other,
    })
}

/// Hops that the packet may still go.
fn hops(packet: &Packet<'_>) -> u8 {
    let at = if packet.src.is_ipv4() { 8 } else { 7 };
    packet.bytes[at]
}

/// Whether sockets are asked: a TCP header is there, and it is no SYN's.
fn is_sought(kind: u16, inside: &[u8]) -> bool {
    const SYN: u8 = 2;
    let (at, room) = match kind {
        // Any length that the header can say; a later fragment has no TCP header.
        IPV4 if inside.len() >= 20
            && inside[0] >> 4 == 4
            && inside[9] == number::TCP
            && be16(inside, 6).is_some_and(|frag| frag & 0x1fff == 0) =>
        {
            let header = usize::from(inside[0] & 15) * 4;
            let total = usize::from(be16(inside, 2).expect("a whole header"));
            (header, header >= 20 && total >= header + 20)
        }
        IPV6 if inside.len() >= 40 && inside[0] >> 4 == 6 && inside[6] == number::TCP => {
            (40, be16(inside, 4).is_some_and(|len| len >= 20))
        }
        _ => return false,
    };
    room && inside.get(at..at + 20).is_some_and(|tcp| tcp[13] & SYN == 0)
}

/// What is from the outer IP header on, to `other` from where it was for, with one hop less, and naming that instead.
fn sent_on(bytes: &[u8], outer: &Packet<'_>, other: IpAddr) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let private = outer.header + 12;
    bytes[private + 2] = 2;
    let udp = outer.header + 6;
    bytes[udp..udp + 2].fill(0);
    let old = outer.dst;
    match (old, other) {
        (IpAddr::V4(old), IpAddr::V4(other)) => {
            bytes[private + 4..private + 8].copy_from_slice(&old.octets());
            let sum = |bytes: &[u8]| -> u64 {
                let at = [8, 12, 14, 16, 18];
                at.iter()
                    .map(|&at| u64::from(be16(bytes, at).expect("a whole header")))
                    .sum()
            };
            let before = sum(&bytes);
            bytes[8] -= 1;
            bytes[12..16].copy_from_slice(&old.octets());
            bytes[16..20].copy_from_slice(&other.octets());
            let csum = u64::from(!be16(&bytes, 10).expect("a whole header"));
            // Modulo 65,535, whose zero is written as 65,535.
            let sum = (csum + 5 * 65_535 + sum(&bytes) - before) % 65_535;
            let sum = if sum == 0 { 65_535 } else { sum as u16 };
            bytes[10..12].copy_from_slice(&(!sum).to_be_bytes());
        }
        (IpAddr::V6(old), IpAddr::V6(other)) => {
            bytes[private + 4..private + 20].copy_from_slice(&old.octets());
            bytes[7] -= 1;
            bytes[8..24].copy_from_slice(&old.octets());
            bytes[24..40].copy_from_slice(&other.octets());
        }
        _ => unreachable!("addresses of one header"),
    }
    bytes
}

const NOT_ECT: u8 = 0b00;
const ECT1: u8 = 0b01;
const ECT0: u8 = 0b10;
const CE: u8 = 0b11;

/// The inner packet's ECN field after decapsulation, `None` = drop: RFC 6040, figure 4, row by row.
pub fn mark(inner: u8, outer: u8) -> Option<u8> {
    let column = match outer {
        NOT_ECT => 0,
        ECT0 => 1,
        ECT1 => 2,
        _ => 3,
    };
    let row = match inner {
        NOT_ECT => [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
        ECT0 => [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)],
        ECT1 => [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)],
        _ => [Some(CE); 4],
    };
    row[column]
}

/// Writes an ECN field into the packet at the start of `bytes`; a right checksum stays right, a wrong one wrong.
fn set_mark(bytes: &mut [u8], packet: &Packet<'_>, mark: u8) {
    if mark == packet.class & 3 {
        return;
    }
    match packet.src {
        IpAddr::V6(_) => bytes[1] = bytes[1] & 0b1100_1111 | mark << 4,
        IpAddr::V4(_) => {
            bytes[1] = bytes[1] & 0b1111_1100 | mark;
            let before = u64::from(!be16(packet.bytes, 10).expect("a whole header"));
            // One's complement arithmetic is arithmetic modulo 65,535, whose zero is written as 65,535 here.
            let sum = (before + 65_535 + u64::from(mark) - u64::from(packet.class & 3)) % 65_535;
            let sum = if sum == 0 { 65_535 } else { sum as u16 };
            bytes[10..12].copy_from_slice(&(!sum).to_be_bytes());
        }
    }
}
