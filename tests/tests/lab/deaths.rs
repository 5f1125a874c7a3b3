//! Backends die, or only look dead, under lasting connections: who loses what, and when they learn of it.
//!
//! When does a client learn that its backend is dead? A killed *process*: its kernel ends the connections at once. A
//! dead *host* says nothing, so the client's lines are repeated into the void, until the verdict gives the slot to
//! another backend, which resets what it doesn't know. The client can't learn of that before it sends again, so what is
//! promised is: within three seconds of the verdict where a connection has a line a second.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_tests::scenario::Work;
use lb_tests::traffic::{Failure, Held, Kind, clock};
use lb_tests::{Family, Lab, LabError, wait};

use crate::steady::{self, INTERVAL, SOON, WORK, assert_unbroken, lines, sleep_until};

const GRACE: Duration = Duration::from_secs(1);
const LEARNS_WITHIN: Duration = Duration::from_secs(3);

fn start(
    name: &str,
    tracking: &'static str,
    grace: Duration,
    test: impl FnOnce(&mut Lab) -> Result<(), LabError>,
) {
    let (builder, _) = steady::lab(name, tracking, |config| steady::checked(config, grace));
    builder
        .run(|lab| {
            steady::wait_up(lab);
            test(lab)
        })
        .expect("the lab runs");
}

/// Waits for a word about be2 in both pools.
fn told(lab: &mut Lab, word: &str, mark: u64) -> Result<(), LabError> {
    for pool in ["web4", "web6"] {
        let line = format!("backend {pool}/be2: {word}");
        lab.node(0).wait_log(&line, mark, SOON)?;
    }
    Ok(())
}

/// All of be2's connections broke, and nobody else's.
fn assert_only_own(held: &Held) {
    assert_eq!(held.moved, 0);
    let own = held.by_backend["be2"];
    assert!(own > 100, "be2 had only {own} connections");
    let broken: BTreeSet<&str> = held.broken_by_backend.keys().map(String::as_str).collect();
    assert_eq!(broken, BTreeSet::from(["be2"]), "{:?}", held.broken_by_backend);
    assert_eq!(held.broken_by_backend["be2"], own, "those that it held");
}

/// From `moment` to the last that learned.
fn slowest(held: &Held, moment: Duration) -> Duration {
    let learned = held
        .breaks
        .iter()
        .map(|found| found.learned.saturating_sub(moment));
    learned.max().unwrap_or_default()
}

#[test]
fn a_killed_process_breaks_its_own_connections_alone() {
    start("death-process", "on-change", GRACE, |lab| {
        let traffic = WORK.start(lab)?;
        let mark = lab.node(0).log().len() as u64;
        let killed = clock::now();
        lab.backend(1).kill9()?;
        told(lab, "dead, was suspect", mark)?;
        // Whoever comes now finds a living backend.
        for family in Family::BOTH {
            let report = lab.client().http(200, family)?;
            assert_eq!(
                (report.failed(), report.answered_by("be2")),
                (0, 0),
                "{:?}",
                report.errors()
            );
        }
        let (held, _) = traffic.stop()?;
        let held = lines(&held);
        assert_only_own(&held);
        let slowest = slowest(&held, killed);
        eprintln!("{} connections learned within {slowest:?}", held.broken);
        assert!(slowest < LEARNS_WITHIN, "{slowest:?} after the kill");
        Ok(())
    });
}

#[test]
fn a_dead_host_breaks_its_own_connections_alone() {
    start("death-host", "on-change", GRACE, |lab| {
        let traffic = WORK.start(lab)?;
        let mark = lab.node(0).log().len() as u64;
        let cut = clock::now();
        silence_host(lab)?;
        told(lab, "dead, was suspect", mark)?;
        let verdict = clock::now();
        sleep_until(Instant::now(), LEARNS_WITHIN + Duration::from_secs(1));
        let (held, _) = traffic.stop()?;
        let held = lines(&held);
        assert_only_own(&held);
        let slowest = slowest(&held, verdict);
        eprintln!(
            "{} connections learned within {slowest:?} of the verdict, which took {:?}",
            held.broken,
            verdict.saturating_sub(cut)
        );
        assert!(slowest < LEARNS_WITHIN, "{slowest:?} after the verdict");
        // They were told, not left to give up.
        let causes = held.breaks.iter().filter(|found| found.cause != Failure::Reset);
        assert_eq!(causes.count(), 0);
        Ok(())
    });
}

/// Takes be2 off the net without a word.
fn silence_host(lab: &mut Lab) -> Result<(), LabError> {
    let lines = ["link set dev eth0 down".to_owned()];
    lab.backend(1).namespace().ip(&lines)
}

#[test]
fn control_without_a_verdict_nobody_learns() {
    let (builder, _) = steady::lab("death-control", "on-change", |_| {});
    builder
        .run(|lab| {
            let traffic = WORK.start(lab)?;
            silence_host(lab)?;
            sleep_until(Instant::now(), LEARNS_WITHIN + Duration::from_secs(2));
            let held = traffic.held.latest().held(Kind::Lines);
            assert_eq!(held.broken, 0, "{:?}", held.broken_by_backend);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// be2 dies, connections begin in the slots that it lent, and it comes back: how many of these break.
fn return_under(tracking: &'static str, name: &str) {
    start(name, tracking, GRACE, |lab| {
        let mark = lab.node(0).log().len() as u64;
        lab.backend(1).kill9()?;
        told(lab, "dead, was suspect", mark)?;
        let traffic = WORK.start(lab)?;
        lab.backend(1).start()?;
        lab.backend(1).wait_ready()?;
        told(lab, "up again, was dead", mark)?;
        wait::until_ok(SOON, "be2 has new connections", || {
            Ok(traffic.new.latest().answered_by("be2") > 50)
        })?;
        sleep_until(Instant::now(), Duration::from_secs(3));
        let reports = traffic.stop()?;
        if tracking == "off" {
            let held = lines(&reports.0);
            assert!(held.broken > 100, "control: {held:?}");
        } else {
            assert_unbroken(&reports, WORK.connections);
        }
        Ok(())
    });
}

#[test]
fn a_return_from_the_dead_breaks_nothing() {
    return_under("on-change", "death-return");
}

#[test]
fn control_without_tracking_a_return_breaks_what_began_elsewhere() {
    return_under("off", "death-return-off");
}

/// A backend whose checks fail now and then, never for long enough to be dead, while it works on.
fn flap(tracking: &'static str, name: &str, time: Duration) {
    start(name, tracking, Duration::from_secs(2), |lab| {
        let work = Work {
            new_per_second: 500,
            ..WORK
        };
        let traffic = work.start(lab)?;
        let mark = lab.node(0).log().len();
        let begun = Instant::now();
        // Its answers to the node's own addresses vanish; those to clients take no notice.
        let answers = |lab: &mut Lab, verb: &str| {
            let lines = ["10.9.11.2/32", "fd00:9:11::2/128"].map(|to| format!("route {verb} blackhole {to}"));
            lab.backend(1).namespace().ip(&lines)
        };
        while begun.elapsed() < time {
            let mark = lab.node(0).log().len() as u64;
            answers(lab, "add")?;
            told(lab, "suspect, was up", mark)?;
            sleep_until(Instant::now(), INTERVAL * 3);
            let mark = lab.node(0).log().len() as u64;
            answers(lab, "del")?;
            told(lab, "up again, was suspect", mark)?;
            sleep_until(Instant::now(), INTERVAL * 3);
        }
        sleep_until(Instant::now(), Duration::from_secs(2));
        let reports = traffic.stop()?;
        let log = lab.node(0).log().split_off(mark);
        let flaps = log.matches("web4/be2: suspect").count();
        assert!(flaps >= 2 && !log.contains("be2: dead"), "{flaps} flaps: {log}");
        if tracking == "off" {
            let held = lines(&reports.0);
            assert!(held.broken > 100, "control: {held:?}");
        } else {
            assert_unbroken(&reports, work.connections);
        }
        Ok(())
    });
}

#[test]
fn a_check_that_flaps_breaks_nothing() {
    flap("on-change", "flap", Duration::from_secs(10));
}

#[test]
fn control_without_tracking_a_check_that_flaps_breaks() {
    flap("off", "flap-off", Duration::from_secs(4));
}
