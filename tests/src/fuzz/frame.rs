//! A frame through the reference model, out by `balance` and back in by `decap`.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;
use lb_common::addr::Addr;
use lb_common::backend::{CHANCE, Entry, GUE, OUTER_V6, READY};
use lb_common::be::Be16;
use lb_common::header::proto;
use lb_common::slot::SLOTS;
use lb_common::stop::Action;
use lb_common::{encap, gue, hash, info, vip};
use lb_userspace::state::contents::{Backend, Contents};

use crate::model::balance::{self, Tables};
use crate::model::decap;
use crate::model::ip::{Packet, number};
use crate::model::link::{IPV4, IPV6, Link, be16};
use crate::model::{Arrival, Verdict};

/// Addresses that are served, over TCP and UDP: port 443 by pool 0, every other port by pool 1.
const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];

/// Where packets come in; the other interface is 3.
const INGRESS: u32 = 2;

/// (outer source, outer destination, interface, MTU) of backends 1 to 7; the last two speak GUE.
const BACKENDS: [(&str, &str, u32, u16); 7] = [
    ("10.0.0.0/24", "10.0.1.1", INGRESS, 1500),
    ("fd00::/96", "fd00:1::1", INGRESS, 1500),
    ("10.0.0.5/32", "10.0.1.2", 3, 1500),
    ("fd00::5/128", "fd00:1::2", 3, 9000),
    ("10.0.0.5/32", "10.0.1.3", INGRESS, 100),
    ("10.0.0.0/28", "10.0.1.4", INGRESS, 1500),
    ("fd00::5/128", "fd00:1::4", 3, 1500),
];

static TABLES: LazyLock<Tables> = LazyLock::new(tables);

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("it is written here")
}

fn tables() -> Tables {
    let mut contents = Contents::default();
    for (index, (src, dst, ifindex, mtu)) in (1..).zip(BACKENDS) {
        let mut entry = entry(parse(src), parse(dst), ifindex, mtu);
        if index > 5 {
            entry.flags |= GUE | CHANCE;
            entry.port = Be16::new(gue::PORT);
        }
        let info = info::Backend::default();
        contents.backends.insert(index, Backend { entry, info });
        contents.devices.insert(ifindex);
    }
    // Pool 0 alternates; pool 1 has empty slots and one that names nobody.
    let ring = |of: u16| Arc::new((0..SLOTS).map(|slot| slot as u16 % of).collect::<Vec<_>>());
    contents
        .rings
        .insert(0, Arc::new(ring(7).iter().map(|n| n + 1).collect()));
    contents.rings.insert(1, ring(9));
    for address in VIPS {
        for (proto, port, pool) in [
            (proto::TCP, 443, 0),
            (proto::UDP, 443, 0),
            (proto::TCP, 0, 1),
            (proto::UDP, 0, 1),
        ] {
            let key = vip::Key::new(Addr::from(parse::<IpAddr>(address)), Be16::new(port), proto);
            let value = vip::Value {
                pool,
                index: contents.vips.len() as u16,
                flags: vip::SERVED,
                pad: 0,
            };
            contents.vips.insert(key, value);
        }
    }
    Tables {
        key: hash::Key::expand(b"a key of a group"),
        contents,
    }
}

fn entry(src: IpNet, dst: IpAddr, ifindex: u32, mtu: u16) -> Entry {
    let source = Addr::from(src.network());
    let destination = Addr::from(dst);
    let host_bits = u32::from(src.max_prefix_len() - src.prefix_len());
    let (flags, csum_base) = match dst {
        IpAddr::V4(_) => (READY, encap::base(source.v4_raw(), destination.v4_raw())),
        IpAddr::V6(_) => (READY | OUTER_V6, 0),
    };
    Entry {
        destination_mac: [2, 1, 0, 0, 0, ifindex as u8],
        source_mac: [2, 2, 0, 0, 0, ifindex as u8],
        flags,
        csum_base,
        src: source,
        dst: destination,
        ifindex,
        entropy: u32::MAX
            .checked_shl(host_bits)
            .map_or(u32::MAX, |net| !net)
            .to_be(),
        mtu,
        port: Be16::new(0),
        pad: [0; 4],
    }
}

/// A frame, after one byte that says how much room is in front of it: what is stopped is as it was or gone, what is
/// forwarded has one right outer header more, and `decap` takes exactly that off again.
///
/// # Panics
/// Where that is not so.
pub fn balance(bytes: &[u8]) {
    let Some((room, frame)) = bytes.split_first() else {
        return;
    };
    let headroom = usize::from(*room);
    let arrival = Arrival {
        frame,
        ingress: INGRESS,
        headroom,
    };
    let decision = balance::balance(&arrival, &TABLES);
    let Some(stop) = decision.stop else {
        return forwarded(&arrival, &decision);
    };
    assert_eq!(
        (decision.vip, decision.backend),
        (None, None),
        "stopped, and counted"
    );
    match stop.action() {
        Action::Pass => assert!(
            decision.verdict == Verdict::Pass && decision.frame == frame,
            "{stop:?}"
        ),
        Action::Drop => assert!(decision.verdict == Verdict::Drop && decision.frame.is_empty()),
    }
}

fn forwarded(arrival: &Arrival<'_>, decision: &balance::Decision) {
    let frame = arrival.frame;
    let index = decision.backend.expect("forwarded to a backend");
    let entry = &TABLES.contents.backends[&index].entry;
    assert!(decision.vip.is_some());
    let wanted = if entry.ifindex == arrival.ingress {
        Verdict::Tx
    } else {
        Verdict::Redirect
    };
    assert_eq!(decision.verdict, wanted);

    let link = Link::split(frame).expect("a frame");
    let inner = Packet::read(link.kind, link.payload).expect("a whole packet");
    let left = Link::split(&decision.frame).expect("a frame");
    let outer = Packet::read(left.kind, left.payload).expect("a whole outer packet");
    assert_eq!(left.kind == IPV6, entry.flags & OUTER_V6 != 0);
    assert_eq!(left.tag, link.tag);
    // No slot is tracked or has changed, so GUE is without private data.
    let between = if entry.flags & GUE != 0 { 12 } else { 0 };
    assert_eq!(
        outer.payload()[between..],
        *inner.bytes,
        "the inner packet is another"
    );
    assert_eq!(outer.class, inner.class);
    assert_eq!(outer.dst, parse::<IpAddr>(BACKENDS[usize::from(index) - 1].1));
    assert!(outer.header + between <= arrival.headroom && outer.bytes.len() <= entry.mtu.into());
    if left.kind == IPV4 {
        assert_eq!(checksum(&outer.bytes[..20]), 0xffff);
    }

    // What follows the packet in its frame has no say.
    let bare = &frame[..frame.len() - (link.payload.len() - inner.bytes.len())];
    let again = balance::balance(
        &Arrival {
            frame: bare,
            ..*arrival
        },
        &TABLES,
    );
    assert_eq!((again.vip, again.backend), (decision.vip, decision.backend));
    // And all that belongs to it has to be there.
    let cut = balance::balance(
        &Arrival {
            frame: &bare[..bare.len() - 1],
            ..*arrival
        },
        &TABLES,
    );
    assert!(cut.stop.is_some(), "a packet that was cut off is forwarded");

    let allow = [parse(BACKENDS[usize::from(index) - 1].0)];
    let back = decap::decap(&decision.frame, &backend(&allow));
    assert_eq!((back.verdict, back.stop), (Verdict::Pass, None));
    assert_eq!(
        back.frame[12..],
        frame[12..],
        "another packet comes out of the tunnel"
    );
}

/// A frame: what is no tunnel of ours is as it was or gone, of what is one only the outer header goes, and the two
/// bits of its ECN field may change.
///
/// # Panics
/// Where that is not so.
pub fn decap(frame: &[u8]) {
    let everyone: [IpNet; 2] = ["0.0.0.0/0", "::/0"].map(parse);
    let decision = decap::decap(frame, &backend(&everyone));
    if decision.verdict == Verdict::Tx {
        return sent_on(frame, &decision.frame, &everyone);
    }
    let Some(stop) = decision.stop else {
        return stripped(frame, &decision.frame);
    };
    match stop.action() {
        Action::Pass => assert!(
            decision.verdict == Verdict::Pass && decision.frame == frame,
            "{stop:?}"
        ),
        Action::Drop => assert!(decision.verdict == Verdict::Drop && decision.frame.is_empty()),
    }
}

/// A backend that has no connection.
fn backend(allow: &[IpNet]) -> decap::Host<'_> {
    decap::Host {
        allow,
        gue_port: gue::PORT,
        knows: false,
    }
}

/// A packet that was sent on is as long as it was, around the same packet, and is not sent on again.
fn sent_on(frame: &[u8], next: &[u8], allow: &[IpNet]) {
    assert_eq!(frame.len(), next.len());
    let again = decap::decap(next, &backend(allow));
    assert_ne!(again.verdict, Verdict::Tx, "it goes in circles");
    let known = decap::Host {
        knows: true,
        ..backend(allow)
    };
    let (here, there) = (decap::decap(frame, &known), decap::decap(next, &known));
    assert_eq!((here.verdict, here.stop), (there.verdict, there.stop));
    assert_eq!(
        here.frame.get(12..),
        there.frame.get(12..),
        "another packet inside"
    );
}

fn stripped(frame: &[u8], left: &[u8]) {
    let refused = decap::decap(frame, &backend(&[]));
    assert!(refused.stop.is_some(), "taken from a source that is not allowed");
    let link = Link::split(frame).expect("a frame");
    let outer = Packet::read(link.kind, link.payload).expect("a whole outer packet");
    let inside = Link::split(left).expect("a frame");
    let gone = frame.len() - left.len();
    let between = gone - outer.header;
    let was = Packet::read(inside.kind, &outer.payload()[between..]).expect("a whole inner packet");
    let is = Packet::read(inside.kind, inside.payload).expect("a whole packet");
    assert!(if outer.proto == number::UDP {
        between >= 12
    } else {
        between == 0
    });
    assert_eq!((&frame[..12], link.tag), (&left[..12], inside.tag));
    assert_eq!(is.class & !3, was.class & !3, "only the ECN field may change");
    // A mark that a router on the way has made gets through, and none is invented.
    assert_eq!(is.class & 3 == 3, was.class & 3 == 3 || outer.class & 3 == 3);
    let (mut was_bytes, mut is_bytes) = (was.bytes.to_vec(), is.bytes.to_vec());
    if inside.kind == IPV4 {
        let sums = [was, is].map(|p| checksum(&p.bytes[..p.header]) % 0xffff);
        assert_eq!(
            sums[0], sums[1],
            "a right checksum stays right, a wrong one wrong"
        );
    }
    for bytes in [&mut was_bytes, &mut is_bytes] {
        bytes[..2].fill(0);
        if inside.kind == IPV4 {
            bytes[10..12].fill(0);
        }
    }
    assert_eq!(was_bytes, is_bytes);
}

/// The one's complement sum of RFC 1071: 65,535 over a header with a right checksum.
fn checksum(header: &[u8]) -> u16 {
    let words = (0..header.len() / 2).map(|n| be16(header, 2 * n).expect("inside"));
    words.fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}
