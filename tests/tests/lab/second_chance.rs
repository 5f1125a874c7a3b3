//! Second chance: connections whose slots were changed without a trace stay where they are.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::info::untext;
use lb_common::slot::{SLOTS, Slot, TRACKED};
use lb_tests::node_config::{NodeConfig, TunnelSection};
use lb_tests::topo::Topology;
use lb_tests::traffic::{Held, Kind};
use lb_tests::{Family, Job, Lab, LabError};
use lb_userspace::dataplane::decap;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;

const SOON: Duration = Duration::from_secs(20);
/// Held over each family.
const CONNECTIONS: u32 = 300;
const EVERY: Duration = Duration::from_millis(200);

/// What a slot of `be1` is made, given the indexes of the three backends and whether its number is even.
type Change = fn([u16; 3], bool) -> Slot;

/// What was seen.
struct Seen {
    held: Held,
    /// Packets that each backend sent on.
    sent_on: BTreeMap<String, u64>,
}

fn config(second_chance: bool) -> NodeConfig {
    let mut config = NodeConfig::of(&Topology::star(1, &[1; 3]), 0);
    for pool in &mut config.pools {
        pool.tunnel = TunnelSection {
            encap: Some("gue"),
            second_chance: Some(second_chance),
        };
    }
    config
}

/// Stores all slots of `be1` anew, in both pools, without an agent that knows of it.
fn change(lab: &mut Lab, to: Change) -> Result<(), LabError> {
    lab.node(0).kill9()?;
    let maps = Maps::open(&Root::new(lab.node(0).pin_root())).expect("its maps");
    let contents = maps.contents().expect("their contents");
    for &pool in contents.pools.keys() {
        let index = |name: &str| {
            let mut of_pool = contents.backends.iter().filter(|(_, b)| b.info.pool == pool);
            let found = of_pool.find(|(_, b)| untext(&b.info.name) == name);
            *found.expect("a backend of the lab").0
        };
        let backends = ["be1", "be2", "be3"].map(index);
        for number in 0..SLOTS as u32 {
            if maps.slot(pool, number).expect("a slot").current() == backends[0] {
                maps.set_slot(pool, number, to(backends, number % 2 == 0));
            }
        }
    }
    Ok(())
}

/// Packets that each backend sent on.
fn sent_on(lab: &Lab) -> BTreeMap<String, u64> {
    let of = |backend: &lb_tests::host::Backend| {
        let status = decap::status(&Root::new(backend.pin_root())).expect("lb_decap runs");
        assert_eq!(status.stranger.packets, 0, "{}", backend.name());
        (backend.name().to_owned(), status.second_chance.packets)
    };
    lab.backends().iter().map(of).collect()
}

/// Connections over both families while the slots of `be1` change.
fn held(name: &str, second_chance: bool, to: Change) -> Seen {
    Lab::builder(name)
        .nodes(1)
        .weights(&[1; 3])
        .configs(vec![config(second_chance)])
        .run(|lab| {
            let jobs = Family::BOTH.map(|family| Job::lines(family, CONNECTIONS, EVERY));
            let mut load = lab.client().load(jobs.into())?;
            load.wait_held(u64::from(2 * CONNECTIONS), SOON)?;
            assert_eq!(sent_on(lab).values().sum::<u64>(), 0, "nothing has changed yet");
            change(lab, to)?;
            let so_far = load.latest().requests();
            load.wait_requests(so_far + u64::from(6 * CONNECTIONS), SOON)?;
            let report = load.stop()?;
            println!("{name}: {:?}, {:?}", report.held(Kind::Lines), sent_on(lab));
            Ok::<_, LabError>(Seen {
                held: report.held(Kind::Lines),
                sent_on: sent_on(lab),
            })
        })
        .expect("the lab runs")
}

/// Even slots: as if `be1` had been retired while its connections were silent. Odd ones: as if the entries of its connections
/// had been lost with their node.
fn forgotten([be1, be2, _]: [u16; 3], even: bool) -> Slot {
    if even {
        Slot::new(be2, be2, be1, 0)
    } else {
        Slot::new(be1, be2, 0, TRACKED)
    }
}

#[test]
fn connections_that_nobody_remembers_stay() {
    let seen = held("second-chance", true, forgotten);
    assert_eq!((seen.held.broken, seen.held.moved), (0, 0));
    // Some 200 connections with three lines each.
    assert!(seen.sent_on["be2"] > 400, "{:?}", seen.sent_on);
    assert_eq!((seen.sent_on["be1"], seen.sent_on["be3"]), (0, 0));
}

#[test]
fn control_without_second_chance_they_break() {
    let seen = held("second-chance-off", false, forgotten);
    assert!(seen.held.broken > 100, "{} broken", seen.held.broken);
    assert_eq!(seen.sent_on.values().sum::<u64>(), 0);
}

/// Two backends that both don't know a connection: its packet is sent on once, and then refused.
#[test]
fn nothing_goes_in_circles() {
    let seen = held("second-chance-twice", true, |[_, be2, be3], _| {
        Slot::new(be2, be2, be3, 0)
    });
    let broken = seen.held.broken;
    assert!(broken > 100, "{broken} broken: be3 refuses what it doesn't know");
    assert!(seen.sent_on["be2"] >= broken, "{:?}", seen.sent_on);
    assert!(
        seen.sent_on["be2"] < 10 * broken,
        "{:?} for {broken}",
        seen.sent_on
    );
    assert_eq!((seen.sent_on["be1"], seen.sent_on["be3"]), (0, 0));
}

/// With SYN cookies the last segment of a handshake finds a listener alone, and belongs to it all the same.
#[test]
fn handshakes_by_cookie_stay() {
    Lab::builder("second-chance-cookies")
        .nodes(1)
        .weights(&[1; 3])
        .configs(vec![config(true)])
        .run(|lab| {
            for backend in lab.backends() {
                backend.namespace().sysctl(&[("net/ipv4/tcp_syncookies", "2")])?;
            }
            change(lab, forgotten)?;
            for family in Family::BOTH {
                let report = lab.client().http(300, family)?;
                assert_eq!(
                    (report.requests(), report.failed()),
                    (300, 0),
                    "{:?}",
                    report.errors()
                );
                assert!(report.answered_by("be2") > 30, "{report:?}");
            }
            let cookies: u64 = lab.backends().iter().map(cookies).sum();
            assert!(cookies > 400, "{cookies} cookies came back");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// SYN cookies that came back and were right.
fn cookies(backend: &lb_tests::host::Backend) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").expect("counters");
    let text = backend.namespace().within(read).expect("a namespace");
    let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let value = pairs.find(|(name, _)| *name == "SyncookiesRecv");
    value.expect("it is counted").1.parse().expect("a number")
}
