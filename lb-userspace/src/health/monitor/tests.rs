//! All checks together, in virtual time: backends that answer as a test says.

use super::*;
use crate::health::Phase::{Dead, Draining, Suspect, Unknown, Up};

const START: Mono = Mono::from_unix(Duration::from_secs(1_700_000_000));

fn after(seconds: u64) -> Mono {
    START + Duration::from_secs(seconds)
}

fn model(health: &str, backends: &[(&str, &str)]) -> Model {
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, address)| format!("{{name: {name}, address: {address}}}"))
        .collect();
    let text = format!(
        "node: {{name: a, interfaces: [eth0]}}\n\
         pools: [{{name: p, backends: [{}], health: {health}}}]\n",
        backends.join(", ")
    );
    crate::config::parse(&text, std::path::Path::new("a.yaml")).unwrap_or_else(|error| panic!("{error}"))
}

/// Four backends, one is a quarter.
const FOUR: [(&str, &str); 4] = [
    ("a", "198.51.100.1"),
    ("b", "198.51.100.2"),
    ("c", "198.51.100.3"),
    ("d", "198.51.100.4"),
];

const TCP: &str = "{type: tcp, port: 80, interval: 1s, jitter: 0, rise: 2, fall: 3, death_grace: 3s}";

fn id(name: &str) -> u64 {
    lb_common::id::stable("p", name)
}

fn silent() -> Outcome {
    Outcome::Silent("nothing".into())
}

/// Runs the monitor to `end`; `answer` says what a backend's address answers.
fn run(monitor: &mut Monitor, from: Mono, end: Mono, answer: impl Fn(IpAddr) -> Outcome) -> Vec<Event> {
    let mut now = from;
    let mut events = Vec::new();
    while now < end {
        monitor.handle_timeout(now);
        while let Some(question) = monitor.poll_question(now) {
            let outcome = answer(question.address);
            monitor.handle(
                (question.id, question.ticket),
                outcome,
                Duration::from_millis(1),
                now,
                0.5,
            );
        }
        while let Some(event) = monitor.poll_event() {
            events.push(event);
        }
        now = monitor
            .poll_timeout()
            .expect("there is always another question")
            .max(now);
    }
    events
}

fn ends_with(address: IpAddr, last: &[u8]) -> bool {
    matches!(address, IpAddr::V4(v4) if last.contains(&v4.octets()[3]))
}

fn phases(monitor: &Monitor) -> Vec<Phase> {
    monitor.rows(START).iter().map(|row| row.phase).collect()
}

#[test]
fn a_silent_backend_is_suspect_then_dead_then_back() {
    let mut monitor = Monitor::new(8);
    monitor.configure(&model(TCP, &FOUR), &[], START);
    run(&mut monitor, START, after(5), |_| Outcome::Good);
    assert_eq!(phases(&monitor), [Up; 4]);
    assert!(!monitor.take_changed(), "unknown counted as up already");

    let b_dies = |address| {
        if ends_with(address, &[2]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    let events = run(&mut monitor, after(5), after(9), b_dies);
    assert_eq!(phases(&monitor), [Up, Suspect, Up, Up]);
    assert_eq!(monitor.standings().of(id("b")), Standing::Suspect);
    assert!(monitor.take_changed());
    assert!(
        matches!(&events[..], [Event::Backend { backend, from: Up, to: Suspect, reason, .. }]
            if backend == "p/b" && reason == "nothing"),
        "{events:?}"
    );
    run(&mut monitor, after(9), after(13), b_dies);
    assert_eq!(monitor.standings().of(id("b")), Standing::Dead);
    run(&mut monitor, after(13), after(16), |_| Outcome::Good);
    assert_eq!(phases(&monitor), [Up; 4]);
    assert_eq!(monitor.standings(), &Standings::default());
    let counts = monitor.rows(START)[1].counts;
    assert_eq!((counts.changes, counts.refuses, counts.unasked), (4, 0, 0));
    assert!((7..=9).contains(&counts.silent), "{counts:?}");
}

#[test]
fn a_pool_of_which_most_looks_down_is_served_all_the_same() {
    let mut monitor = Monitor::new(8);
    monitor.configure(&model(TCP, &FOUR), &[], START);
    let most = |address| {
        if ends_with(address, &[1, 2, 3]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    let events = run(&mut monitor, START, after(10), most);
    assert_eq!(monitor.open(), [("p".to_owned(), FailOpen::Silent)]);
    assert_eq!(monitor.standings().standing, BTreeMap::new(), "all are served");
    // A group is told all the same: it may be this node alone.
    let doubted = ["a", "b", "c"].map(|name| (id(name), Standing::Dead));
    assert_eq!(monitor.standings().doubted, BTreeMap::from(doubted));
    assert_eq!(monitor.standings().seen(id("a")), Standing::Dead);
    assert_eq!(monitor.rows(START)[0].phase, Dead);
    assert_eq!(monitor.rows(START)[0].standing, "up");
    assert!(
        events.iter().any(|e| matches!(e, Event::Pool { down: 75, .. })),
        "{events:?}"
    );
    let half = |address| {
        if ends_with(address, &[1, 2]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    run(&mut monitor, after(10), after(15), half);
    assert!(
        !monitor.open().is_empty(),
        "half is not yet a fifth below the limit"
    );
    let one = |address| {
        if ends_with(address, &[1]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    run(&mut monitor, after(15), after(20), one);
    assert_eq!(monitor.open(), []);
    assert_eq!(
        monitor.standings().standing,
        BTreeMap::from([(id("a"), Standing::Dead)])
    );
}

#[test]
fn the_next_agent_takes_everything_over() {
    let mut monitor = Monitor::new(8);
    let model = model(TCP, &FOUR);
    monitor.configure(&model, &[], START);
    let bad = |address| match address {
        address if ends_with(address, &[1]) => silent(),
        address if ends_with(address, &[2]) => Outcome::Refuses("503".into()),
        _ => Outcome::Good,
    };
    run(&mut monitor, START, after(10), bad);
    assert_eq!(phases(&monitor), [Dead, Draining, Up, Up]);
    let text = serde_json::to_string(&monitor.records(after(10))).unwrap();
    let records: Vec<Record> = serde_json::from_str(&text).unwrap();

    let mut next = Monitor::new(8);
    next.configure(&model, &records, after(12));
    assert_eq!(next.standings(), monitor.standings());
    assert_eq!(phases(&next), phases(&monitor));
    let (was, is) = (&monitor.rows(after(12))[0], &next.rows(after(12))[0]);
    assert_eq!((is.since_unix_ms, &is.reason), (was.since_unix_ms, &was.reason));
    assert!(
        (is.penalty - was.penalty).abs() < 1e-6,
        "{} {}",
        is.penalty,
        was.penalty
    );
    run(&mut next, after(12), after(15), |_| Outcome::Good);
    assert_eq!(next.standings(), &Standings::default());

    // At another address it is another server.
    let mut moved = FOUR;
    moved[0].1 = "198.51.100.9";
    let mut third = Monitor::new(8);
    third.configure(&super::tests::model(TCP, &moved), &records, after(12));
    assert_eq!(phases(&third), [Unknown, Draining, Up, Up]);
}

#[test]
fn an_open_pool_stays_open_over_a_restart() {
    let mut monitor = Monitor::new(8);
    let model = model(TCP, &FOUR);
    monitor.configure(&model, &[], START);
    run(&mut monitor, START, after(10), |_| silent());
    let half = |address| {
        if ends_with(address, &[1, 2]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    run(&mut monitor, after(10), after(15), half);
    assert!(!monitor.open().is_empty());
    let mut next = Monitor::new(8);
    next.configure(&model, &monitor.records(after(15)), after(15));
    assert_eq!(next.open(), monitor.open());
    assert_eq!(next.standings(), monitor.standings());
}

#[test]
fn a_reload_leaves_what_it_does_not_change() {
    let mut monitor = Monitor::new(8);
    monitor.configure(&model(TCP, &FOUR), &[], START);
    let a_dies = |address| {
        if ends_with(address, &[1]) {
            silent()
        } else {
            Outcome::Good
        }
    };
    run(&mut monitor, START, after(10), a_dies);
    let before = monitor.rows(START);

    let mut others = FOUR.to_vec();
    others.remove(3);
    others.push(("e", "198.51.100.5"));
    monitor.configure(&model(TCP, &others), &[], after(10));
    assert_eq!(
        monitor.rows(START)[..3],
        before[..3],
        "counts and last answers, too"
    );
    assert_eq!(phases(&monitor), [Dead, Up, Up, Unknown]);

    // Another check: who was down stays so, who was up is asked anew and counts as up.
    let http = "{type: http, port: 80, interval: 1s, jitter: 0}";
    monitor.configure(&model(http, &others), &[], after(10));
    assert_eq!(phases(&monitor), [Dead, Unknown, Unknown, Unknown]);
    assert_eq!(
        monitor.standings().standing,
        BTreeMap::from([(id("a"), Standing::Dead)])
    );
    run(&mut monitor, after(10), after(14), |_| Outcome::Good);
    assert_eq!(phases(&monitor), [Up; 4]);

    // Without a check nobody is down.
    let plain = "node: {name: a, interfaces: [eth0]}\npools: [{name: p, backends: [{name: a, address: 198.51.100.1}]}]";
    let plain = crate::config::parse(plain, std::path::Path::new("a.yaml")).unwrap();
    monitor.configure(&plain, &[], after(14));
    assert_eq!((monitor.rows(START), monitor.poll_timeout()), (vec![], None));
}

#[test]
fn an_answer_to_an_older_check_does_not_count() {
    let mut monitor = Monitor::new(8);
    monitor.configure(&model(TCP, &FOUR[..1]), &[], START);
    let question = monitor.poll_question(after(1)).expect("it is due");
    let other = "{type: tcp, port: 81, interval: 1s, jitter: 0, fall: 1}";
    monitor.configure(&model(other, &FOUR[..1]), &[], after(1));
    monitor.handle(
        (question.id, question.ticket),
        silent(),
        Duration::ZERO,
        after(1),
        0.0,
    );
    assert_eq!(phases(&monitor), [Unknown]);
    let question = monitor.poll_question(after(3)).expect("asked on");
    monitor.handle(
        (question.id, question.ticket),
        silent(),
        Duration::ZERO,
        after(3),
        0.0,
    );
    assert_eq!(phases(&monitor), [Suspect]);
}

#[test]
fn a_fault_of_this_host_is_nobodys_death() {
    let mut monitor = Monitor::new(8);
    monitor.configure(&model(TCP, &FOUR), &[], START);
    run(&mut monitor, START, after(5), |_| Outcome::Good);
    run(&mut monitor, after(5), after(60), |_| {
        Outcome::Unasked("Too many open files".into())
    });
    assert_eq!(phases(&monitor), [Up; 4]);
    let last = monitor.rows(START)[0].last.clone().expect("asked");
    assert_eq!(
        (last.outcome, last.reason.as_deref()),
        ("unasked", Some("Too many open files"))
    );
}
