//! `lb_probe`: what it wraps, what it leaves alone, how it comes to an interface and goes.

use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions};
use lb_common::backend::{DEAD, READY};
use lb_common::probe::mark;
use lb_common::slot::SLOTS;
use lb_userspace::dataplane::tunnel::{self, Hook, Tunnel, Wrapped};

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, request, wrapped};
use crate::frame::{IPV6, Ip, TCP, UDP, ethernet, hex, ip, parse, tcp};
use crate::net::VETH;
use crate::world::entry;

/// Verdicts of `linux/pkt_cls.h`.
const UNSPEC: u32 = u32::MAX;
const OK: u32 = 0;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// Backends of [`Probe::new`] beside the fixture's.
const ELSEWHERE: u16 = 3;
const NOT_READY: u16 = 4;
const DEAD_ONE: u16 = 5;

struct Probe {
    program: SchedClassifier,
    wrapped: Wrapped,
    fixture: Fixture,
}

impl Probe {
    fn new() -> Self {
        let fixture = Fixture::with(|world, [here, there]| {
            let at = |ifindex| entry(parse("10.0.0.5/32"), ip("10.0.1.3"), ifindex, 1500);
            world.backend(ELSEWHERE, at(there));
            let (mut not_ready, mut dead) = (at(here), at(here));
            not_ready.flags &= !READY;
            dead.flags |= DEAD;
            world.backend(NOT_READY, not_ready);
            world.backend(DEAD_ONE, dead);
            world.pool(2, |slot| {
                [ELSEWHERE, DEAD_ONE][slot % 2 + usize::from(slot >= SLOTS)]
            });
        });
        let root = &fixture.kernel.pins.0;
        let (_, wrapped) =
            Tunnel::load(root, fixture.kernel.capacity, Hook::of_kernel()).unwrap_or_else(|e| {
                panic!(
                    "lb_probe can't be loaded: {e}: {:?}",
                    std::error::Error::source(&e)
                )
            });
        let program = SchedClassifier::from_pin(root.probe().program()).expect("the program's pin");
        Self {
            program,
            wrapped,
            fixture,
        }
    }

    /// The verdict on a frame that leaves by the fixture's first interface with this mark, and what it has become.
    fn run(&self, frame: &[u8], mark: u32) -> (u32, Vec<u8>) {
        // struct __sk_buff: the mark is its third word, the interface its eleventh.
        let mut context = [0u32; 48];
        context[2] = mark;
        context[10] = self.fixture.ingress;
        let context: Vec<u8> = context.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut output = vec![0; frame.len() + 64];
        let result = self
            .program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut output),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            })
            .unwrap_or_else(|e| panic!("BPF_PROG_TEST_RUN: {e:?}"));
        output.truncate(result.data_size_out as usize);
        (result.return_value, output)
    }

    fn check(&self, what: &str, packet: &Ip, backend: u16, verdict: u32) {
        let before = self.wrapped.counter(backend).expect("a counter");
        let (got, mut left) = self.run(&packet.frame(), mark(backend));
        assert_eq!(got, verdict, "{what}");
        let after = self.wrapped.counter(backend).expect("a counter");
        assert_eq!(after.packets - before.packets, 1, "{what}");
        let mut want = wrapped(packet, &[], &[], self.fixture.world.entry(backend));
        assert_eq!(after.bytes - before.bytes, want.len() as u64, "{what}");
        // The flow label is of the kernel's hash here.
        for frame in [&mut left, &mut want] {
            if frame[12..14] == IPV6.to_be_bytes() {
                frame[15] &= 0xf0;
                frame[16..18].fill(0);
            }
        }
        assert!(
            left == want,
            "{what}\nleft\n{}\nwanted\n{}",
            hex(&left),
            hex(&want)
        );
    }

    fn dropped(&self, what: &str, frame: &[u8], backend: u16) {
        let count = || self.wrapped.counter(backend).map(|counter| counter.packets).ok();
        let before = count();
        let (verdict, _) = self.run(frame, mark(backend));
        assert_eq!((verdict, count()), (SHOT, before), "{what}");
    }
}

#[test]
fn a_marked_packet_is_wrapped_as_the_balancer_would() {
    let probe = Probe::new();
    for backend in [BACKEND_V4, BACKEND_V6] {
        for v6 in [false, true] {
            for (proto, class) in [(TCP, 0), (UDP, 0xb9), (TCP, 3)] {
                let packet = Ip {
                    class,
                    ..request(v6, proto)
                };
                let what = format!("{} to backend {backend}", packet.dst);
                probe.check(&what, &packet, backend, OK);
            }
        }
    }
}

#[test]
fn a_backend_behind_another_interface_is_reached_there() {
    let probe = Probe::new();
    for v6 in [false, true] {
        probe.check("elsewhere", &request(v6, TCP), ELSEWHERE, REDIRECT);
    }
}

#[test]
fn the_dead_are_asked_too() {
    Probe::new().check("dead", &request(false, TCP), DEAD_ONE, OK);
}

#[test]
fn what_is_not_marked_is_left_alone() {
    let probe = Probe::new();
    let frame = request(false, TCP).frame();
    for foreign in [0, 1, 0x1234, mark(0), mark(BACKEND_V4) ^ 0x8000_0000] {
        let (verdict, left) = probe.run(&frame, foreign);
        assert_eq!(verdict, UNSPEC, "mark {foreign:#x}");
        assert_eq!(left, frame, "mark {foreign:#x}");
    }
}

#[test]
fn what_can_not_be_wrapped_does_not_leave() {
    let probe = Probe::new();
    let frame = request(false, TCP).frame();
    probe.dropped("not ready", &frame, NOT_READY);
    probe.dropped("never filled", &frame, 60);
    probe.dropped("beyond the map", &frame, 60_000);
    probe.dropped("not IP", &ethernet(0x0806, &[0; 46]), BACKEND_V4);
}

#[test]
fn what_would_not_fit_does_not_leave() {
    let probe = Probe::new();
    for (backend, most) in [(BACKEND_V4, 1480), (BACKEND_V6, 1460)] {
        let of_length = |bytes: usize| Ip {
            payload: tcp(40_001, 80, &vec![7; bytes - 20 - 20]),
            ..request(false, TCP)
        };
        let (fits, too_long) = (of_length(most), of_length(most + 1));
        assert_eq!(fits.bytes().len(), most);
        probe.check("to the byte", &fits, backend, OK);
        probe.dropped("one more", &too_long.frame(), backend);
    }
}

/// Filters of ours at an interface's egress.
fn filters(interface: &str) -> usize {
    let show = ["filter", "show", "dev", interface, "egress"];
    let out = Command::new("tc").args(show).output().expect("tc runs");
    String::from_utf8_lossy(&out.stdout)
        .matches(" lb_probe direct-action")
        .count()
}

/// Programs of ours at an interface's egress by link.
fn links(interface: &str) -> usize {
    let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress).expect("a query");
    let is_ours = |program: &&aya::programs::ProgramInfo| program.name() == b"lb_probe";
    programs.iter().filter(is_ours).count()
}

fn comes_and_goes(hook: Hook, attached: impl Fn(&str) -> usize) {
    let fixture = Fixture::new();
    let root = &fixture.kernel.pins.0;
    let capacity = fixture.kernel.capacity;
    let [a, b] = VETH.map(str::to_owned);
    let count = || [attached(&a), attached(&b)];
    // The kernel ends links in a work queue.
    let ends_as = |wanted: [usize; 2]| {
        let until = Instant::now() + Duration::from_secs(5);
        while count() != wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(count(), wanted);
    };
    let load = || Tunnel::load(root, capacity, hook).expect("it loads").0;

    let mut first = load();
    first.attach(std::slice::from_ref(&a)).expect("it attaches");
    assert_eq!(count(), [1, 0]);
    // An agent that dies leaves it where it is, and the next one replaces it.
    drop(first);
    assert_eq!(count(), [1, 0]);
    let mut second = load();
    second.attach(&[a.clone(), b.clone()]).expect("it attaches");
    assert_eq!(count(), [1, 1]);
    assert_eq!(tunnel::interfaces(root).expect("a list"), [a.clone(), b.clone()]);
    second.attach(std::slice::from_ref(&b)).expect("it detaches");
    ends_as([0, 1]);

    assert!(second.attach(&["nope0".to_owned()]).is_err());
    let until = Instant::now() + Duration::from_secs(5);
    while second.attach(std::slice::from_ref(&b)).is_err() {
        assert!(Instant::now() < until, "it attaches");
        std::thread::sleep(Duration::from_millis(10));
    }
    tunnel::detach(root).expect("it detaches");
    ends_as([0, 0]);
    assert!(!root.probe().path().exists());
    assert!(tunnel::interfaces(root).expect("a list").is_empty());
    tunnel::detach(root).expect("nothing to do");
}

#[test]
fn links_come_and_go() {
    if Hook::of_kernel() == Hook::Link {
        comes_and_goes(Hook::Link, links);
    }
}

#[test]
fn filters_come_and_go() {
    comes_and_goes(Hook::Filter, filters);
}
