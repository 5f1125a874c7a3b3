//! The decision, stage by stage.

use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::backend::{DEAD, Entry, GUE, OUTER_V6, READY};
use lb_common::be::Be16;
use lb_common::encap::{self, fits, outer_len};
use lb_common::gue::{self, ALTERNATIVE, Chance};
use lb_common::header::{Ipv6, TCP_FLAGS, ethertype, proto};
use lb_common::pick::{self, Pick};
use lb_common::slot::{NO_BACKEND, Slot, of_hash};
use lb_common::stop::{Action, Stop};
use lb_common::tcp::{SYN, Segment};
use lb_common::tick::Tick;
use lb_common::{flow, hash, vip};
use zerocopy::IntoBytes;

use super::known::{Known, is_asked};
use super::parse::{Headers, Hidden, Link, Parsed, parse};
use super::run::{Disagreement, Run, Verdict};
use crate::state::contents::Contents;

/// What the decision is made of: the maps as they are.
pub struct Tables<'a> {
    /// The expanded key of the flow hash.
    pub key: hash::Key,
    /// VIPs, backends, devices.
    pub contents: &'a Contents,
    /// A slot, by pool and number; `None` beyond the map.
    pub slot: &'a dyn Fn(u16, u32) -> Option<Slot>,
    /// What the flow table says about a flow; asked for in tracked slots alone.
    pub flow: &'a dyn Fn(&flow::Key) -> Known,
    /// The present time.
    pub now: Tick,
}

impl Tables<'_> {
    /// The one place that asks for a VIP.
    fn vip(&self, key: &vip::Key) -> Option<vip::Value> {
        self.contents.vips.get(key).copied()
    }
}

/// A stage of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What is in the frame?
    Parse,
    /// Is it for a VIP?
    Vip,
    /// Which slot of the ring?
    Slot,
    /// Which backend?
    Backend,
    /// The outer header.
    Encap,
    /// By which interface?
    Out,
}

impl Stage {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Vip => "vip",
            Self::Slot => "slot",
            Self::Backend => "backend",
            Self::Encap => "encap",
            Self::Out => "out",
        }
    }
}

/// How a VIP was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// By its own port.
    Exact,
    /// As the VIP for every port of its address.
    EveryPort,
}

/// The VIP that a packet is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its key.
    pub key: vip::Key,
    /// How it was found.
    pub by: Match,
    /// Its pool and counters.
    pub value: vip::Value,
}

/// The slot of a flow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steered {
    /// The keyed hash.
    pub hash: u32,
    /// Number of the slot in the pool's ring.
    pub number: u32,
    /// What is in it.
    pub slot: Slot,
    /// What was picked.
    pub pick: Pick,
}

/// The outer headers, also where the packet turns out to be too big.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The headers' bytes.
    pub header: Vec<u8>,
    /// UDP source and destination port, where it is GUE.
    pub gue: Option<(u16, u16)>,
    /// Index and address of the other backend that the packet names.
    pub other: Option<(u16, IpAddr)>,
    /// IPv6 outside.
    pub v6: bool,
    /// IPv6 inside.
    pub inner_v6: bool,
    /// Bytes of the outer packet; where it is GUE with a second chance, of one that names another backend: all have to have
    /// room for that.
    pub len: u32,
    /// The most that the next hop takes.
    pub mtu: u16,
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Back by the interface that it came by.
    Transmit,
    /// By this other interface.
    Redirect(u32),
}

/// What each stage found; `None` in stages that were not reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// What is in the frame.
    pub parsed: Parsed,
    /// The VIP.
    pub vip: Option<Found>,
    /// The slot.
    pub slot: Option<Steered>,
    /// What the flow table says about the flow, where it was asked.
    pub known: Option<Known>,
    /// The backend's index and entry.
    pub backend: Option<(u16, Entry)>,
    /// The outer header.
    pub outer: Option<Outer>,
    /// How it leaves.
    pub out: Option<Out>,
    /// Where and why it left the pipeline early.
    pub stop: Option<(Stage, Stop)>,
    /// The frame as it leaves; as it arrived where it is passed, empty where it is dropped.
    pub frame: Vec<u8>,
}

impl Trace {
    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        match (self.stop.map(|(_, stop)| stop.action()), self.out) {
            (Some(Action::Pass), _) => Verdict::Pass,
            (Some(Action::Drop), _) | (None, None) => Verdict::Drop,
            (None, Some(Out::Transmit)) => Verdict::Tx,
            (None, Some(Out::Redirect(_))) => Verdict::Redirect,
        }
    }

    /// Compares this with what the program did.
    ///
    /// # Errors
    /// The first difference.
    pub fn check(&self, run: &Run) -> Result<(), Disagreement> {
        let stop = self.stop.map(|(_, stop)| stop);
        if self.verdict() != run.verdict || stop != run.stop {
            return Err(Disagreement::Decision {
                expected: self.verdict(),
                expected_stop: stop,
                verdict: run.verdict,
                stop: run.stop,
            });
        }
        if run.verdict != Verdict::Drop && self.frame != run.frame {
            return Err(Disagreement::Bytes {
                expected: self.frame.clone(),
                left: run.frame.clone(),
            });
        }
        Ok(())
    }
}

/// What becomes of a frame that came in by the interface with index `ingress`.
pub fn trace(frame: &[u8], ingress: u32, tables: &Tables<'_>) -> Trace {
    let mut trace = Trace::default();
    match steer(frame, ingress, tables, &mut trace) {
        Ok(left) => trace.frame = left,
        Err((stage, stop)) => {
            trace.stop = Some((stage, stop));
            if stop.action() == Action::Pass {
                trace.frame = frame.to_vec();
            }
        }
    }
    trace
}

/// The pipeline; the frame as it leaves.
fn steer(
    frame: &[u8],
    ingress: u32,
    tables: &Tables<'_>,
    trace: &mut Trace,
) -> Result<Vec<u8>, (Stage, Stop)> {
    let at = |stage: Stage| move |stop: Stop| (stage, stop);
    let headers = parse(frame, &mut trace.parsed).map_err(at(Stage::Parse))?;
    let found = find(&headers, tables).map_err(at(Stage::Vip))?;
    trace.vip = Some(found);
    let hash = headers.tuple.hash(&tables.key);
    let number = of_hash(hash);
    let slot = (tables.slot)(found.value.pool, number).ok_or((Stage::Slot, Stop::NoBackend))?;
    let pick = picked(frame, &headers, &found.value, slot, tables, trace).map_err(at(Stage::Slot))?;
    trace.slot = Some(Steered {
        hash,
        number,
        slot,
        pick,
    });
    if pick.backend == NO_BACKEND {
        return Err((Stage::Backend, Stop::NoBackend));
    }
    let backend = tables.contents.backends.get(&pick.backend);
    let entry = backend.ok_or((Stage::Backend, Stop::NotReady))?.entry;
    trace.backend = Some((pick.backend, entry));
    if entry.flags & DEAD != 0 {
        return Err((Stage::Backend, Stop::Dead));
    }
    if entry.flags & READY == 0 {
        return Err((Stage::Backend, Stop::NotReady));
    }
    let other = other(frame, &headers, &entry, (slot, pick.backend), tables);
    let outer = outer(&entry, &headers, hash, other);
    let left = wrapped(frame, &headers.link, &entry, &outer);
    trace.outer = Some(outer);
    if !fits(&entry, &headers.inner) {
        return Err((Stage::Encap, Stop::TooBig));
    }
    trace.out = Some(if entry.ifindex == ingress {
        Out::Transmit
    } else if tables.contents.devices.contains(&entry.ifindex) {
        Out::Redirect(entry.ifindex)
    } else {
        return Err((Stage::Out, Stop::NoDevice));
    });
    Ok(left)
}

/// What decides in this slot: the slot alone, or the flow table as well.
fn picked(
    frame: &[u8],
    headers: &Headers,
    vip: &vip::Value,
    slot: Slot,
    tables: &Tables<'_>,
    trace: &mut Trace,
) -> Result<Pick, Stop> {
    if !is_asked(slot, vip.flags) {
        return Ok(pick::pick(slot));
    }
    let known = (tables.flow)(&flow::Key::new(&headers.tuple));
    trace.known = Some(known);
    let segment = match headers.tuple.proto {
        proto::TCP => Some(segment(frame, headers).ok_or(Stop::Malformed)?),
        _ => None,
    };
    known
        .decide(slot, vip.flags, segment, tables.contents, tables.now)
        .map_err(|pick::NoEntry| Stop::NoEntry)
}

/// What the TCP header says (RFC 9293 section 3.1).
fn segment(frame: &[u8], headers: &Headers) -> Option<Segment> {
    let tcp = tcp(frame, headers)?;
    let seq = tcp.get(4..8)?.try_into().ok()?;
    Some(Segment::new(*tcp.get(TCP_FLAGS)?, u32::from_be_bytes(seq)))
}

fn segment_flags(frame: &[u8], headers: &Headers) -> Option<u8> {
    tcp(frame, headers)?.get(TCP_FLAGS).copied()
}

/// From the TCP header on.
fn tcp<'f>(frame: &'f [u8], headers: &Headers) -> Option<&'f [u8]> {
    let start = headers.link.len;
    let header = if headers.inner.proto == proto::IPV6 {
        size_of::<Ipv6>()
    } else {
        usize::from(frame.get(start)? & 0xf) * 4
    };
    frame.get(start + header..)
}

fn find(headers: &Headers, tables: &Tables<'_>) -> Result<Found, Stop> {
    let tuple = &headers.tuple;
    if let Some(hidden) = headers.hidden {
        let mark = vip::Key::new(tuple.dst, Be16::new(0), proto::TCP);
        return Err(match (tables.vip(&mark), hidden) {
            (None, _) => Stop::NotVip,
            (Some(_), Hidden::Fragment) => Stop::Fragment,
            (Some(_), Hidden::Extension) => Stop::Extension,
        });
    }
    let exact = vip::Key::new(tuple.dst, tuple.dport, tuple.proto);
    let (key, value) = match tables.vip(&exact) {
        Some(value) => (exact, value),
        None => {
            let any = exact.any_port();
            (any, tables.vip(&any).ok_or(Stop::NotVip)?)
        }
    };
    if !value.is_served() {
        return Err(Stop::Unserved);
    }
    let by = if key.port.get() == 0 {
        Match::EveryPort
    } else {
        Match::Exact
    };
    Ok(Found { key, by, value })
}

/// The other backend that the packet names, with its address: that of a TCP connection that doesn't begin.
fn other(
    frame: &[u8],
    headers: &Headers,
    entry: &Entry,
    (slot, picked): (Slot, u16),
    tables: &Tables<'_>,
) -> Option<(u16, Addr)> {
    if entry.flags & GUE == 0 || headers.tuple.proto != proto::TCP {
        return None;
    }
    let starts = segment_flags(frame, headers)? & SYN != 0;
    let index = gue::alternative(slot, picked);
    if starts || index == NO_BACKEND {
        return None;
    }
    let other = tables.contents.backends.get(&index)?;
    Some((index, gue::address(entry, &other.entry)?))
}

fn outer(entry: &Entry, headers: &Headers, hash: u32, other: Option<(u16, Addr)>) -> Outer {
    let inner = &headers.inner;
    let v6 = entry.flags & OUTER_V6 != 0;
    let is_gue = entry.flags & GUE != 0;
    let private = match other {
        Some((_, address)) if v6 => [Chance::new(ALTERNATIVE).as_bytes(), &address.bytes()].concat(),
        Some((_, address)) => [Chance::new(ALTERNATIVE).as_bytes(), &address.bytes()[12..]].concat(),
        None => Vec::new(),
    };
    let len = if is_gue {
        gue::PLAIN + private.len() as u16
    } else {
        0
    };
    let carried = if is_gue { inner.in_udp(len) } else { *inner };
    let mut header = if v6 {
        encap::ipv6(entry, &carried, hash).as_bytes().to_vec()
    } else {
        encap::ipv4(entry, &carried, hash).as_bytes().to_vec()
    };
    let udp = gue::udp(entry, carried.len, hash);
    if is_gue {
        header.extend(udp.as_bytes());
        header.extend(gue::header(inner.proto, private.len() as u16).as_bytes());
        header.extend(private);
    }
    Outer {
        header,
        gue: is_gue.then_some((udp.src.get(), udp.dst.get())),
        other: other.map(|(index, address)| (index, address.into())),
        v6,
        inner_v6: inner.proto == proto::IPV6,
        len: u32::from(inner.len) + u32::from(outer_len(entry)),
        mtu: entry.mtu,
    }
}

/// The frame with its outer header: the tag and whatever follows the inner packet stay.
fn wrapped(frame: &[u8], link: &Link, entry: &Entry, outer: &Outer) -> Vec<u8> {
    let kind = if outer.v6 {
        ethertype::IPV6
    } else {
        ethertype::IPV4
    };
    // Behind the addresses comes the tag, if there is one, then the EtherType.
    let tag = &frame[12..link.len - 2];
    [
        &entry.destination_mac,
        &entry.source_mac,
        tag,
        &kind.get().to_be_bytes(),
        &outer.header,
        &frame[link.len..],
    ]
    .concat()
}

#[cfg(test)]
mod tests;
