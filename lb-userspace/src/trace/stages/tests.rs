use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::info;

use super::*;
use crate::model::Protocol;
use crate::state::contents::Backend;
use crate::trace::{Flow, build, from_hex};

const HERE: u32 = 3;
const OTHER: u32 = 4;
const NOWHERE: u32 = 5;
const VIP4: &str = "203.0.113.1";

/// Backends 1 (here), 2 (by the other interface, IPv6 outside), 3 (by one that is no device), 4 (not ready).
fn contents() -> Contents {
    let mut contents = Contents::default();
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().expect("an address"));
    let entry = |ifindex, flags, src: &str, dst: &str| Entry {
        destination_mac: [2, 1, 0, 0, 0, 1],
        source_mac: [2, 2, 0, 0, 0, 2],
        flags,
        csum_base: if flags & OUTER_V6 == 0 {
            encap::base(addr(src).v4_raw(), addr(dst).v4_raw())
        } else {
            0
        },
        src: addr(src),
        dst: addr(dst),
        ifindex,
        mtu: 1500,
        ..Entry::default()
    };
    let entries = [
        entry(HERE, READY, "10.0.0.1", "10.0.1.1"),
        entry(OTHER, READY | OUTER_V6, "fd00::1", "fd00:1::1"),
        entry(NOWHERE, READY, "10.0.0.1", "10.0.1.3"),
        entry(HERE, 0, "10.0.0.1", "10.0.1.4"),
    ];
    for (entry, index) in entries.into_iter().zip(1..) {
        let info = info::Backend::default();
        contents.backends.insert(index, Backend { entry, info });
    }
    contents.devices.extend([HERE, OTHER]);
    let mut vip = |port: u16, proto: u8, flags: u16| {
        let key = vip::Key::new(addr(VIP4), Be16::new(port), proto);
        let value = vip::Value {
            flags,
            ..vip::Value::default()
        };
        contents.vips.insert(key, value);
    };
    vip(80, proto::TCP, vip::SERVED);
    vip(0, proto::TCP, 0);
    vip(0, proto::UDP, vip::SERVED);
    contents
}

/// Traces a frame where every slot holds this backend.
fn traced(frame: &[u8], backend: u16) -> Trace {
    let contents = contents();
    let tables = Tables {
        key: hash::Key::expand(&[7; 16]),
        contents: &contents,
        slot: &|pool, _| (pool == 0).then_some(Slot::untracked(backend)),
        flow: &|_| panic!("no flow is asked for in an untracked slot"),
        now: Tick(0),
    };
    trace(frame, HERE, &tables)
}

fn flow(protocol: Protocol, to: &str) -> Flow {
    Flow {
        from: "192.0.2.1:40000".parse().expect("a client"),
        to: to.parse().expect("a VIP"),
        protocol,
        syn: false,
        payload: 0,
    }
}

fn tcp() -> Vec<u8> {
    build(&flow(Protocol::Tcp, "203.0.113.1:80")).expect("a frame")
}

#[test]
fn back_by_the_same_interface() {
    let frame = tcp();
    let trace = traced(&frame, 1);
    assert_eq!((trace.stop, trace.out), (None, Some(Out::Transmit)));
    assert_eq!(trace.verdict(), Verdict::Tx);
    let vip = trace.vip.expect("a VIP");
    assert_eq!((vip.by, vip.key.port.get()), (Match::Exact, 80));
    let steered = trace.slot.expect("a slot");
    assert_eq!(steered.number, steered.hash >> 16);
    let outer = trace.outer.expect("an outer header");
    assert_eq!((outer.v6, outer.inner_v6, outer.len), (false, false, 60));
    let header = from_hex("4500 003c 0000 4000 4004 25bd 0a00 0001 0a00 0101").expect("bytes");
    let link = from_hex("02:01:00:00:00:01 02:02:00:00:00:02 08:00").expect("bytes");
    assert_eq!(trace.frame, [&link[..], &header, &frame[14..]].concat());
}

#[test]
fn by_another_interface_with_tag_and_padding() {
    let plain = build(&flow(Protocol::Udp, "203.0.113.1:9999")).expect("a frame");
    let tag = [0x81, 0, 0x20, 7];
    let frame = [&plain[..12], &tag, &plain[12..], &[0xee; 14]].concat();
    let trace = traced(&frame, 2);
    assert_eq!((trace.stop, trace.out), (None, Some(Out::Redirect(OTHER))));
    assert_eq!(trace.verdict(), Verdict::Redirect);
    assert_eq!(trace.vip.expect("a VIP").by, Match::EveryPort);
    let outer = trace.outer.expect("an outer header");
    assert_eq!((outer.v6, outer.inner_v6, outer.len), (true, false, 68));
    assert_eq!(trace.frame[12..18], [0x81, 0, 0x20, 7, 0x86, 0xdd]);
    assert_eq!(trace.frame[18..58], outer.header);
    assert_eq!(trace.frame[58..], frame[18..]);
}

#[test]
fn every_stage_can_stop_and_tells_what_it_found() {
    let with = |at: usize, value: u8| {
        let mut frame = tcp();
        frame[at] = value;
        frame
    };
    let long = build(&Flow {
        payload: 1441,
        ..flow(Protocol::Tcp, "203.0.113.1:80")
    });
    let to = |protocol, to| build(&flow(protocol, to)).expect("a frame");
    let cases: BTreeMap<&str, (Vec<u8>, u16, Stage, Stop)> = [
        ("ARP", (with(13, 6), 1, Stage::Parse, Stop::NotIp)),
        ("ICMP", (with(23, 1), 1, Stage::Parse, Stop::OtherProto)),
        (
            "elsewhere",
            (to(Protocol::Tcp, "203.0.113.2:80"), 1, Stage::Vip, Stop::NotVip),
        ),
        (
            "another port",
            (to(Protocol::Tcp, "203.0.113.1:81"), 1, Stage::Vip, Stop::Unserved),
        ),
        ("a fragment", (with(20, 0x20), 1, Stage::Vip, Stop::Fragment)),
        ("no backend", (tcp(), 0, Stage::Backend, Stop::NoBackend)),
        ("not programmed", (tcp(), 9, Stage::Backend, Stop::NotReady)),
        ("not ready", (tcp(), 4, Stage::Backend, Stop::NotReady)),
        ("too big", (long.expect("a frame"), 1, Stage::Encap, Stop::TooBig)),
        ("no device", (tcp(), 3, Stage::Out, Stop::NoDevice)),
    ]
    .into();
    for (what, (frame, backend, stage, stop)) in cases {
        let trace = traced(&frame, backend);
        assert_eq!(trace.stop, Some((stage, stop)), "{what}");
        let (verdict, left) = match stop.action() {
            Action::Pass => (Verdict::Pass, frame),
            Action::Drop => (Verdict::Drop, Vec::new()),
        };
        assert_eq!((trace.verdict(), &trace.frame), (verdict, &left), "{what}");
        assert_eq!(trace.vip.is_some(), verdict == Verdict::Drop, "{what}");
        let told = matches!(stage, Stage::Encap | Stage::Out);
        assert_eq!(trace.outer.is_some(), told, "{what}");
        assert_eq!(trace.out, None, "{what}");
    }
}

#[test]
fn a_slot_beyond_the_map() {
    let contents = contents();
    let tables = Tables {
        key: hash::Key::expand(&[7; 16]),
        contents: &contents,
        slot: &|_, _| None,
        flow: &|_| panic!("no flow is asked for in an untracked slot"),
        now: Tick(0),
    };
    let trace = trace(&tcp(), HERE, &tables);
    assert_eq!(trace.stop, Some((Stage::Slot, Stop::NoBackend)));
}

#[test]
fn what_the_program_does_must_be_the_same() {
    let forwarded = traced(&tcp(), 1);
    let run = Run {
        verdict: Verdict::Tx,
        stop: None,
        frame: forwarded.frame.clone(),
    };
    assert_eq!(forwarded.check(&run), Ok(()));
    let mut other = run.clone();
    other.frame[20] ^= 1;
    let bytes = forwarded.check(&other).expect_err("other bytes");
    assert!(bytes.to_string().contains("from byte 20 on"), "{bytes}");
    let other = Run {
        verdict: Verdict::Drop,
        stop: Some(Stop::TooBig),
        ..run
    };
    let decision = forwarded.check(&other).expect_err("another verdict");
    assert_eq!(
        decision.to_string(),
        "the stages say XDP_TX (no stop), the program says XDP_DROP (too_big)"
    );
    // The same verdict for another reason is another decision; what is left of a dropped frame is nothing.
    let dropped = traced(&tcp(), 0);
    let run = |stop| Run {
        verdict: Verdict::Drop,
        stop: Some(stop),
        frame: vec![1, 2, 3],
    };
    assert!(dropped.check(&run(Stop::NotReady)).is_err());
    assert_eq!(dropped.check(&run(Stop::NoBackend)), Ok(()));
}
