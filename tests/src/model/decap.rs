//! `lb_decap`.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::stop::{Action, DecapStop};

use super::Verdict;
use super::ip::{Packet, number};
use super::link::{IPV4, IPV6, Link, be16};

/// What becomes of a frame, and what is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its verdict: passed or dropped.
    pub verdict: Verdict,
    /// Why its outer header was not removed.
    pub stop: Option<DecapStop>,
    /// The frame as it goes up, empty where it is dropped.
    pub frame: Vec<u8>,
}

/// What `lb_decap` does with a frame, given the outer sources that it takes packets from.
pub fn decap(frame: &[u8], allow: &[IpNet]) -> Decision {
    match strip(frame, allow) {
        Ok(frame) => Decision {
            verdict: Verdict::Pass,
            stop: None,
            frame,
        },
        Err(stop) => match stop.action() {
            Action::Pass => Decision {
                verdict: Verdict::Pass,
                stop: Some(stop),
                frame: frame.to_vec(),
            },
            Action::Drop => Decision {
                verdict: Verdict::Drop,
                stop: Some(stop),
                frame: Vec::new(),
            },
        },
    }
}

fn strip(frame: &[u8], allow: &[IpNet]) -> Result<Vec<u8>, DecapStop> {
    let link = Link::split(frame).ok_or(DecapStop::NotTunnel)?;
    let (shortest, protocol) = match link.kind {
        IPV4 => (20, 9),
        IPV6 => (40, 6),
        _ => return Err(DecapStop::NotTunnel),
    };
    if link.payload.len() < shortest {
        return Err(DecapStop::Malformed);
    }
    let kind = match link.payload[protocol] {
        number::IPV4 => IPV4,
        number::IPV6 => IPV6,
        _ => return Err(DecapStop::NotTunnel),
    };
    let outer = Packet::read(link.kind, link.payload).ok_or(DecapStop::Malformed)?;
    if outer.hidden.is_some() {
        return Err(DecapStop::Fragment);
    }
    if !allow.iter().any(|net| net.contains(&outer.src)) {
        return Err(DecapStop::NotAllowed);
    }
    // The inner packet ends where the outer one does: what follows is the frame's padding.
    let inner = Packet::read(kind, outer.payload()).ok_or(DecapStop::Malformed)?;
    let mark = mark(inner.class & 3, outer.class & 3).ok_or(DecapStop::EcnDrop)?;
    let mut payload = link.payload[outer.header..].to_vec();
    set_mark(&mut payload, &inner, mark);
    Ok(link.rebuild(&frame[..6], &frame[6..12], kind, &[&payload]))
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
