//! The bench measures what it says: every packet is a first one, and what is not is no measurement.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_common::header::proto;
use lb_tests::bench::against::Other;
use lb_tests::bench::case::{ALL, Case};
use lb_tests::bench::lab;
use lb_tests::bench::programs::{Callee, Programs};
use lb_tests::bench::sync;
use lb_tests::bench::world;
use lb_tests::model::{Arrival, Verdict};
use lb_tests::netns;
use lb_tests::wait::Interrupt;
use lb_userspace::dataplane::object::LB_XDP;
use lb_userspace::state::contents::Contents;

use crate::fixture::{Fixture, request};
use crate::frame::checksum;
use crate::kernel::HEADROOM;

const TX: u32 = 3;

/// Where the client's address and port are in a frame of this case.
fn varied(case: &Case) -> [std::ops::Range<usize>; 2] {
    if case.v6 {
        [34..38, 54..56]
    } else {
        [26..30, 34..36]
    }
}

#[test]
fn without_the_wrapper_only_the_first_packet_is_encapsulated() {
    let fixture = Fixture::new();
    let before = fixture.kernel.counters();
    let frame = request(false, proto::TCP).frame();
    let arrival = Arrival {
        frame: &frame,
        ingress: fixture.ingress,
        headroom: HEADROOM,
    };
    assert_eq!(fixture.kernel.program.repeat(&arrival, 100), Verdict::Pass);
    let after = fixture.kernel.counters();
    assert_eq!(after.vips[0].packets - before.vips[0].packets, 1);
}

#[test]
fn with_it_every_packet_of_every_case_is_what_it_has_to_be() {
    let other = Other {
        revision: "this one".to_owned(),
        object: LB_XDP.to_vec(),
    };
    let mut programs = Programs::load(Some(&other)).expect("root");
    for case in &ALL {
        for callee in [Callee::Target, Callee::Against, Callee::Floor] {
            let nanos = programs.measure(callee, case, 7, 1000).expect(case.name);
            assert!(nanos > 0.0, "{} {callee:?}", case.name);
        }
        let nanos = programs.measure(Callee::Reference, &case.for_reference(), 7, 1000);
        assert!(nanos.expect(case.name) > 0.0);
    }
    // Cases that promise what does not happen.
    let v6 = Case {
        proto: proto::IPV4,
        ..ALL[4]
    };
    let error = programs
        .measure(Callee::Target, &v6, 7, 1000)
        .expect_err("no TCP, no UDP");
    assert!(
        format!("{error:#}").contains("measured something else"),
        "{error:#}"
    );
    assert!(
        programs.measure(Callee::Reference, &ALL[4], 7, 1000).is_err(),
        "it knows no IPv6"
    );
}

#[test]
fn the_wrapper_changes_client_and_port_alone() {
    let mut programs = Programs::load(None).expect("root");
    for case in &ALL {
        let mut seen = Vec::new();
        for seed in 0..8 {
            let (verdict, mut left) = programs.once(Callee::Floor, case, seed).expect(case.name);
            assert_eq!(verdict, TX);
            let mut frame = case.frame();
            seen.push(varied(case).map(|range| left[range].to_vec()));
            for range in varied(case) {
                frame[range.clone()].fill(0);
                left[range].fill(0);
            }
            assert_eq!(left, frame, "{} seed {seed}", case.name);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len() == 1, case.flows == 1, "{}: {seen:?}", case.name);
    }
}

#[test]
fn the_reference_encapsulates() {
    let mut programs = Programs::load(None).expect("root");
    let (_, inner) = programs.once(Callee::Floor, &ALL[1], 5).expect("floor");
    let (verdict, left) = programs.once(Callee::Reference, &ALL[1], 5).expect("reference");
    assert_eq!(verdict, TX);
    assert_eq!(left.len(), inner.len() + 20);
    assert_eq!(left[34..], inner[14..], "the inner packet is untouched");
    let outer = &left[14..34];
    assert_eq!((checksum(outer), outer[9]), (0, 4));
    assert_eq!(u16::from_be_bytes([outer[2], outer[3]]), 60);
    let destination: [u8; 4] = outer[16..].try_into().expect("four bytes");
    let backends = (0..world::BACKENDS).map(|n| world::backend_v4(n).octets());
    assert!(backends.into_iter().any(|b| b == destination), "{destination:?}");
    assert_eq!(left[12..14], [8, 0]);
}

const SHORT: lab::Effort = lab::Effort {
    rounds: 1,
    turn: Duration::from_millis(10),
};

/// One at a time: they share a CPU, and one of them looks at what is left behind.
static LAB: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures all cases for a moment: everything but the ratios, which are left to the caller, must be right.
fn ratios() -> Vec<f64> {
    let contents = world::contents(lab::IFINDEX);
    let mut begun = Vec::new();
    let report = lab::measure(&contents, &lab::CASES, SHORT, &Interrupt::default(), |case| {
        begun.push(case.name);
    });
    let report = report.expect("root");
    assert_eq!(begun, lab::CASES.map(|case| case.name));
    for (case, result) in lab::CASES.iter().zip(&report.cases) {
        assert_eq!(result.case, case.name);
        assert!(result.sent > 0 && result.lost * 10 <= result.sent, "{result:?}");
        assert!(
            result.pps_median > 10_000 && result.floor_pps_median > 10_000,
            "{result:?}"
        );
    }
    report.cases.iter().map(|result| result.ratio).collect()
}

#[test]
fn live_frames_come_back_encapsulated() {
    let _alone = alone();
    // Work takes time: the node can't be faster than one that does nothing. Ten milliseconds of a busy CPU may say
    // otherwise, so each case has three tries.
    let tries: Vec<Vec<f64>> = (0..3).map(|_| ratios()).collect();
    for (number, case) in lab::CASES.iter().enumerate() {
        let of_case: Vec<f64> = tries.iter().map(|ratios| ratios[number]).collect();
        assert!(
            of_case.iter().any(|ratio| (0.02..1.1).contains(ratio)),
            "{}: {of_case:?}",
            case.name
        );
    }
}

#[test]
fn a_node_that_does_not_serve_has_no_rate() {
    let _alone = alone();
    type Spoil = fn(&mut Contents);
    let spoils: [(Spoil, &str); 3] = [
        (|contents| contents.vips.clear(), "not_vip"),
        (|contents| contents.rings.clear(), "no_backend"),
        (
            |contents| contents.backends.values_mut().for_each(|b| b.entry.ifindex += 1),
            "no_device",
        ),
    ];
    for (spoil, wanted) in spoils {
        let mut contents = world::contents(lab::IFINDEX);
        spoil(&mut contents);
        let report = lab::measure(&contents, &lab::CASES[..1], SHORT, &Interrupt::default(), |_| {});
        let error = format!("{:#}", report.expect_err(wanted));
        assert!(
            error.contains("the node stopped frames") && error.contains(wanted),
            "{error}"
        );
    }
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let _alone = alone();
    let before = left_behind();
    let interrupt = Interrupt::default();
    interrupt.raise();
    let contents = world::contents(lab::IFINDEX);
    let report = lab::measure(&contents, &lab::CASES[..1], SHORT, &interrupt, |_| {
        assert_ne!(left_behind(), before, "the namespaces are this run's");
    });
    let error = format!("{:#}", report.expect_err("interrupted"));
    assert!(error.contains("interrupted"), "{error}");
    assert_eq!(left_behind(), before);
}

/// Namespaces of this process.
fn left_behind() -> Vec<String> {
    let own = format!("tandem.{}", std::process::id());
    let mine = netns::list(|name| name.starts_with(&own));
    mine.iter().map(|n| n.name().to_owned()).collect()
}

#[test]
fn a_bench_of_replication_loses_nothing() {
    let effort = sync::Effort {
        time: Duration::from_millis(400),
        join: 20_000,
    };
    let report = sync::measure(effort, &Interrupt::default(), |_| {}).expect("root");
    assert_eq!(report.join.flows, 20_000);
    let rates = report.rates.iter().map(|rate| rate.wanted);
    assert_eq!(rates.collect::<Vec<_>>(), sync::RATES);
    for rate in &report.rates {
        assert_eq!((rate.missing, rate.lost), (0, 0), "{rate:?}");
        assert!(
            0.0 < rate.p50_ms && rate.p50_ms <= rate.p99_ms && rate.p99_ms <= rate.max_ms,
            "{rate:?}"
        );
    }
    for bytes in [report.bytes_per_record, report.join.bytes_per_record] {
        assert!((9.0..=20.0).contains(&bytes), "{bytes} bytes for an IPv4 record");
    }
}
