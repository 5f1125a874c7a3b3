//! Questions in virtual time.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(milliseconds: u64) -> Mono {
    Mono::from_unix(Duration::from_millis(milliseconds))
}

/// Runs a plan for `span`; a question takes `took`. Returns who was asked when, and the most in flight at once.
fn run(
    plan: &mut Plan,
    start: Mono,
    span: Duration,
    took: Duration,
    chance: f64,
) -> (Vec<(u64, Mono)>, usize) {
    let (mut asked, mut most) = (Vec::new(), 0);
    let mut ends: BTreeSet<(Mono, u64)> = BTreeSet::new();
    let mut now = start;
    let end = start + span;
    while now < end {
        while let Some(id) = plan.poll(now) {
            asked.push((id, now));
            ends.insert((now + took, id));
        }
        most = most.max(plan.in_flight());
        let next = plan
            .poll_timeout()
            .into_iter()
            .chain(ends.first().map(|(at, _)| *at))
            .min();
        let Some(next) = next else { break };
        now = now.max(next);
        while let Some(&(at, id)) = ends.first().filter(|(at, _)| *at <= now) {
            ends.remove(&(at, id));
            plan.finished(id, now, chance);
        }
    }
    (asked, most)
}

fn of(checks: u64, timing: Timing, bound: usize) -> Plan {
    let mut plan = Plan::new(bound);
    (0..checks).for_each(|id| plan.set(id, timing, at(1_000_000)));
    plan
}

const TIMING: Timing = Timing {
    interval: SECOND,
    jitter: 10,
};

#[test]
fn thousands_of_checks_are_spread_over_the_interval() {
    let mut plan = of(4000, TIMING, 512);
    let (asked, _) = run(&mut plan, at(1_000_000), SECOND, Duration::from_millis(1), 0.0);
    assert_eq!(asked.len(), 4000, "each is asked once in an interval");
    let mut per_10_ms = [0; 100];
    for (_, when) in &asked {
        per_10_ms[usize::try_from(when.since(at(1_000_000)).as_millis() / 10).unwrap()] += 1;
    }
    let most = per_10_ms.iter().max().unwrap();
    // 40 on average.
    assert!(*most < 80, "{most} within 10 ms");
}

#[test]
fn every_check_is_asked_once_per_interval_and_lateness_does_not_add_up() {
    let mut plan = of(100, TIMING, 512);
    let (asked, _) = run(
        &mut plan,
        at(1_000_000),
        50 * SECOND,
        Duration::from_millis(3),
        0.999,
    );
    for id in 0..100 {
        let times: Vec<Mono> = asked
            .iter()
            .filter(|(who, _)| *who == id)
            .map(|(_, when)| *when)
            .collect();
        assert!((49..=50).contains(&times.len()), "{}", times.len());
        for pair in times[1..].windows(2) {
            assert_eq!(pair[1].since(pair[0]), SECOND);
        }
    }
}

#[test]
fn never_more_than_the_bound_and_nobody_starves() {
    // 200 checks of 100 ms each, four at a time: five seconds for a round that should take one.
    let mut plan = of(200, TIMING, 4);
    let (asked, most) = run(
        &mut plan,
        at(1_000_000),
        60 * SECOND,
        Duration::from_millis(100),
        0.5,
    );
    assert_eq!(most, 4);
    for id in 0..200 {
        let times = asked.iter().filter(|(who, _)| *who == id).count();
        assert!((9..=13).contains(&times), "check {id} was asked {times} times");
    }
}

#[test]
fn the_same_timing_again_changes_nothing_and_a_removed_check_is_not_asked() {
    let mut plan = of(3, TIMING, 4);
    let due = plan.poll_timeout();
    for id in 0..3 {
        plan.set(id, TIMING, at(1_000_900));
    }
    assert_eq!(plan.poll_timeout(), due);
    plan.remove(1);
    let id = plan.poll(at(1_002_000)).unwrap();
    plan.remove(id);
    plan.finished(id, at(1_002_000), 0.0);
    let (asked, _) = run(
        &mut plan,
        at(1_002_000),
        3 * SECOND,
        Duration::from_millis(1),
        0.0,
    );
    assert!(asked.iter().all(|(who, _)| *who != 1 && *who != id), "{asked:?}");
}

proptest! {
    #[test]
    fn a_place_is_within_one_interval_and_stays(id: u64, interval in 1u64..1_000_000, now in 0u64..1_000_000_000) {
        let (interval, now) = (Duration::from_millis(interval), at(now));
        let first = place(id, interval, now);
        prop_assert!(first >= now);
        prop_assert!(first.since(now) < interval.max(Duration::from_millis(1)) + interval);
        prop_assert_eq!(place(id, interval, first), first);
        prop_assert_eq!(place(id, interval, first + Duration::from_nanos(1)), first + interval);
    }
}
