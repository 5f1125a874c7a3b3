//! `lb_xdp`.

use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::backend::{CHANCE, DEAD, Entry, GUE, OUTER_V6, READY};
use lb_common::be::Be16;
use lb_common::encap::{self, Inner};
use lb_common::pick::NoEntry;
use lb_common::slot::{NO_BACKEND, Slot, of_hash};
use lb_common::stop::{Action, Stop};
use lb_common::tuple::Tuple;
use lb_common::{gue, hash, vip};
use lb_userspace::state::contents::Contents;
use zerocopy::IntoBytes;

use super::flow::{Memory, Place};
use super::ip::{Hidden, Packet, number};
use super::link::{IPV4, IPV6, Link, SERVICE_VLAN, VLAN};
use super::{Arrival, Verdict};

/// What the maps hold.
#[derive(Clone, Debug)]
pub struct Tables {
    /// The expanded group key.
    pub key: hash::Key,
    /// Everything that the agent writes.
    pub contents: Contents,
}

/// What becomes of a frame, and what is counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it left the pipeline early.
    pub stop: Option<Stop>,
    /// The frame as it leaves; as it arrived where it is passed, empty where it is dropped.
    pub frame: Vec<u8>,
    /// Index of the VIP that it is counted for, if it is forwarded.
    pub vip: Option<u16>,
    /// Index of the backend that it is counted for, if it is forwarded.
    pub backend: Option<u16>,
}

/// What `lb_xdp` does with a frame where no slot is tracked and no VIP tracks always.
pub fn balance(arrival: &Arrival<'_>, tables: &Tables) -> Decision {
    remember(arrival, tables, &mut Memory::default())
}

/// What `lb_xdp` does with a frame, and what it remembers of it.
pub fn remember(arrival: &Arrival<'_>, tables: &Tables, memory: &mut Memory) -> Decision {
    steer(arrival, tables, memory).unwrap_or_else(|stop| {
        let (verdict, frame) = match stop.action() {
            Action::Pass => (Verdict::Pass, arrival.frame.to_vec()),
            Action::Drop => (Verdict::Drop, Vec::new()),
        };
        Decision {
            verdict,
            stop: Some(stop),
            frame,
            vip: None,
            backend: None,
        }
    })
}

fn steer(arrival: &Arrival<'_>, tables: &Tables, memory: &mut Memory) -> Result<Decision, Stop> {
    let link = Link::split(arrival.frame).ok_or(Stop::NotIp)?;
    match link.kind {
        IPV4 | IPV6 => {}
        VLAN | SERVICE_VLAN => return Err(Stop::VlanStacked),
        _ => return Err(Stop::NotIp),
    }
    let packet = Packet::read(link.kind, link.payload).ok_or(Stop::Malformed)?;
    let (flow, vip) = find_vip(&packet, tables)?;
    let hash = flow.hash(&tables.key);
    let number = of_hash(hash);
    let ring = tables.contents.rings.get(&vip.pool);
    let holder = ring.map_or(NO_BACKEND, |ring| ring[number as usize]);
    let slot = memory.slots.get(&(vip.pool, number)).copied();
    let place = Place {
        flow,
        transport: packet.payload(),
        vip,
        slot: slot.unwrap_or(Slot::untracked(holder)),
        number,
        bytes: arrival.frame.len(),
    };
    let pick = memory.pick(&place, &tables.contents);
    let index = pick.map_err(|NoEntry| Stop::NoEntry)?.backend;
    if index == NO_BACKEND {
        return Err(Stop::NoBackend);
    }
    let entry = match tables.contents.backends.get(&index) {
        Some(backend) if backend.entry.flags & DEAD != 0 => return Err(Stop::Dead),
        Some(backend) if backend.entry.flags & READY != 0 => &backend.entry,
        _ => return Err(Stop::NotReady),
    };
    let other = alternative(&packet, place.slot, index, entry, tables);
    let frame = encapsulate(arrival, &link, &packet, entry, (hash, other))?;
    let verdict = if entry.ifindex == arrival.ingress {
        Verdict::Tx
    } else if tables.contents.devices.contains(&entry.ifindex) {
        Verdict::Redirect
    } else {
        return Err(Stop::NoDevice);
    };
    Ok(Decision {
        verdict,
        stop: None,
        frame,
        vip: Some(vip.index),
        backend: Some(index),
    })
}

/// The flow of a packet and the VIP that serves it.
fn find_vip(packet: &Packet<'_>, tables: &Tables) -> Result<(Tuple, vip::Value), Stop> {
    // A v4-mapped address has no place on the wire; it would look like the other family's VIP.
    if matches!(packet.dst, IpAddr::V6(dst) if dst.to_ipv4_mapped().is_some()) {
        return Err(Stop::NotVip);
    }
    let dst = Addr::from(packet.dst);
    let look_up = |port: u16, proto: u8| {
        let key = vip::Key::new(dst, Be16::new(port), proto);
        tables.contents.vips.get(&key).copied()
    };
    if let Some(hidden) = packet.hidden {
        let is_ours = look_up(0, number::TCP).is_some();
        return Err(match (is_ours, hidden) {
            (false, _) => Stop::NotVip,
            (true, Hidden::Fragment) => Stop::Fragment,
            (true, Hidden::Extension) => Stop::Extension,
        });
    }
    let least = match packet.proto {
        number::TCP => 20,
        number::UDP => 8,
        _ => return Err(Stop::OtherProto),
    };
    let transport = packet.payload();
    if transport.len() < least {
        return Err(Stop::Malformed);
    }
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    let flow = Tuple {
        src: Addr::from(packet.src),
        dst,
        sport: Be16::new(port(0)),
        dport: Be16::new(port(2)),
        proto: packet.proto,
    };
    let vip = look_up(port(2), packet.proto)
        .or_else(|| look_up(0, packet.proto))
        .ok_or(Stop::NotVip)?;
    if vip.flags & vip::SERVED == 0 {
        return Err(Stop::Unserved);
    }
    Ok((flow, vip))
}

/// The address of the other backend that a packet names: GUE alone, of TCP, and no SYN.
fn alternative(packet: &Packet<'_>, slot: Slot, picked: u16, entry: &Entry, tables: &Tables) -> Option<Addr> {
    const SYN: u8 = 2;
    let begins = packet.payload().get(13)? & SYN != 0;
    if packet.proto != number::TCP || begins {
        return None;
    }
    let other = tables.contents.backends.get(&gue::alternative(slot, picked))?;
    gue::address(entry, &other.entry)
}

/// UDP, GUE and private data (draft-ietf-intarea-gue-09 sections 3.1 and 3.5) before `inner` bytes of a packet.
fn gue_headers(proto: u8, inner: u16, entry: &Entry, hash: u32, other: Option<Addr>) -> Vec<u8> {
    let v6 = entry.flags & OUTER_V6 != 0;
    let private = other.map_or(Vec::new(), |address| {
        let bytes = address.bytes();
        let address = if v6 { &bytes[..] } else { &bytes[12..] };
        [&[0x7a, 0x1d, 1, 0], address].concat()
    });
    let len = 8 + 4 + private.len() as u16 + inner;
    let source = 0xc000 | hash as u16 & 0x3fff;
    [
        &source.to_be_bytes()[..],
        &entry.port.get().to_be_bytes(),
        &len.to_be_bytes(),
        &[0, 0],
        &[(private.len() / 4) as u8, proto, 0, 0],
        &private,
    ]
    .concat()
}

/// The frame with its outer headers.
fn encapsulate(
    arrival: &Arrival<'_>,
    link: &Link<'_>,
    packet: &Packet<'_>,
    entry: &Entry,
    (hash, other): (u32, Option<Addr>),
) -> Result<Vec<u8>, Stop> {
    let mut inner = Inner {
        len: u16::try_from(packet.bytes.len()).map_err(|_| Stop::Malformed)?,
        class: packet.class,
        proto: if link.kind == IPV4 {
            number::IPV4
        } else {
            number::IPV6
        },
    };
    let v6 = entry.flags & OUTER_V6 != 0;
    let is_gue = entry.flags & GUE != 0;
    // All packets have room for the name of another backend, whether they name one or not.
    let longest = match (is_gue, entry.flags & CHANCE != 0, v6) {
        (false, _, _) => 0,
        (true, false, _) => 12,
        (true, true, false) => 20,
        (true, true, true) => 32,
    };
    let longest = longest + if v6 { 40 } else { 20 };
    if longest + packet.bytes.len() > entry.mtu.into() {
        return Err(Stop::TooBig);
    }
    let mut between = Vec::new();
    if is_gue {
        between = gue_headers(inner.proto, inner.len, entry, hash, other);
        inner.len += between.len() as u16;
        inner.proto = number::UDP;
    }
    let (kind, mut outer) = if entry.flags & OUTER_V6 != 0 {
        (IPV6, encap::ipv6(entry, &inner, hash).as_bytes().to_vec())
    } else {
        (IPV4, encap::ipv4(entry, &inner, hash).as_bytes().to_vec())
    };
    outer.extend(between);
    if outer.len() > arrival.headroom {
        return Err(Stop::NoRoom);
    }
    Ok(link.rebuild(
        &entry.destination_mac,
        &entry.source_mac,
        kind,
        &[&outer, link.payload],
    ))
}
