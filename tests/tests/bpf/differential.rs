//! Random and broken packets: the reference model and the kernel must agree on every verdict, byte and counter.
//!
//! `LB_SEED` replays a run, `LB_PACKETS` makes it longer or shorter; `cargo xtask test long` sets both.

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display, Formatter};
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::time::Instant;

use ipnet::IpNet;
use lb_common::backend::{CHANCE, DEAD, GUE, READY};
use lb_common::be::Be16;
use lb_common::stats::Counter;
use lb_common::stop::{DecapStop, Stop};
use lb_common::{addr::Addr, gue, vip};
use lb_tests::model::balance::balance;
use lb_tests::model::decap::{Host, decap};
use lb_tests::model::{Arrival, Verdict};
use lb_userspace::model::Capacity;

use crate::decap::Decap;
use crate::frame::{TCP, UDP, hex, ip, parse};
use crate::generate::{Generator, Target};
use crate::kernel::{Kernel, say};
use crate::net;
use crate::world::{World, entry};

pub(crate) const CAPACITY: Capacity = Capacity {
    pools: 4,
    vips: 32,
    backends: 1005,
    flows: 1024,
};

fn variable<T: FromStr<Err: Debug>>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e:?}")))
}

/// One run: which packets and how many.
pub(crate) struct Run {
    what: &'static str,
    pub(crate) seed: u64,
    pub(crate) packets: usize,
}

impl Run {
    /// As the environment has it; says how to replay it.
    pub(crate) fn new(what: &'static str) -> Self {
        let run = Self {
            what,
            seed: variable("LB_SEED").unwrap_or_else(|| RandomState::new().hash_one(what)),
            packets: variable("LB_PACKETS").unwrap_or(120_000),
        };
        say(&format!("{run}"));
        run
    }

    /// The numbers of all packets; says how far it is.
    fn numbers(&self) -> impl Iterator<Item = usize> {
        const EVERY: usize = 500_000;
        let start = Instant::now();
        (0..self.packets).inspect(move |&number| {
            if number > 0 && number.is_multiple_of(EVERY) {
                let (what, packets, seconds) = (self.what, self.packets, start.elapsed().as_secs());
                say(&format!(
                    "{what}: {number} of {packets} packets agree after {seconds} s"
                ));
            }
        })
    }

    /// What a failure at packet `number` says first.
    pub(crate) fn failure(&self, number: usize) -> String {
        format!(
            "{} differs at packet {number}; {}",
            self.what,
            self.replay(number + 1)
        )
    }

    /// Whether so many packets must have reached everything; the replay of a failure may be short.
    pub(crate) fn is_long(&self) -> bool {
        self.packets >= 10_000
    }

    /// The command that runs the first `packets` of these packets again.
    fn replay(&self, packets: usize) -> String {
        let Self { what, seed, .. } = self;
        format!("replay: cargo xtask test long {what} --seed {seed} --packets {packets}")
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} packets; {}",
            self.what,
            self.packets,
            self.replay(self.packets)
        )
    }
}

/// Services that overlap in every way: exact ports beside every port, one protocol or both, several per pool.
pub(crate) fn services() -> Vec<Target> {
    [
        ("192.0.2.10", 80, TCP),
        ("192.0.2.10", 443, TCP),
        ("192.0.2.10", 443, UDP),
        ("192.0.2.11", 0, TCP),
        ("192.0.2.11", 0, UDP),
        ("192.0.2.12", 0, TCP),
        ("192.0.2.12", 443, TCP),
        ("192.0.2.13", 53, UDP),
        ("2001:db8:1::10", 80, TCP),
        ("2001:db8:1::10", 443, UDP),
        ("2001:db8:1::11", 0, TCP),
        ("2001:db8:1::11", 0, UDP),
        ("2001:db8:1::12", 0, UDP),
        ("2001:db8:1::12", 53, UDP),
    ]
    .map(|(address, port, proto)| (ip(address), port, proto))
    .to_vec()
}

/// A thousand backends of every kind, and rings in which neighbouring slots have different ones.
pub(crate) fn random_world(generator: &mut Generator, [ingress, other]: [u32; 2]) -> World {
    let mut world = World::default();
    world.device(ingress);
    world.device(other);
    for index in 1..=1000 {
        let v6 = index % 2 == 0;
        let (length, least) = if v6 { (128, 96) } else { (32, 0) };
        let length = generator.pick(&[length, length, length - 1, length - 8, length - 16, least]);
        let source = IpNet::new(generator.address(v6), length)
            .expect("a length")
            .trunc();
        let ifindex = generator.pick(&[ingress, ingress, ingress, ingress, other, other, 7777]);
        let mtu = generator.pick(&[1500, 1500, 1500, 1500, 1500, 1280, 576, 100, 9000, 65_535]);
        let mut entry = entry(source, generator.address(v6), ifindex, mtu);
        entry.destination_mac = generator.mac();
        if index % 40 == 7 {
            entry.flags &= !READY;
        } else if index % 40 == 9 {
            entry.flags |= DEAD;
        }
        if index % 4 >= 2 {
            entry.flags |= if index % 8 < 6 { GUE | CHANCE } else { GUE };
            entry.port = Be16::new(if index % 16 == 3 { 6081 } else { gue::PORT });
        }
        world.backend(index, entry);
    }
    // Indexes over 1,000 are never written, those over 1,004 lie beyond the map; pool 3 has no ring at all.
    for pool in 0..3usize {
        world.pool(pool as u16, |slot| {
            if slot % 53 == 0 {
                0
            } else {
                1 + ((slot * 613 + pool * 17) % 1009) as u16
            }
        });
    }
    for (i, (address, port, proto)) in services().into_iter().enumerate() {
        let pool = if i == 7 { 3 } else { (i % 3) as u16 };
        world.vip(&address.to_string(), port, proto, pool);
    }
    world
}

/// How often each outcome was seen; fails where one that can be reached was hardly seen.
pub(crate) fn assert_coverage<S: Copy + Debug + PartialEq>(
    seen: &BTreeMap<String, usize>,
    stops: &[S],
    verdicts: &[Verdict],
    run: &Run,
) {
    println!("{seen:#?}");
    if !run.is_long() {
        return;
    }
    let least = run.packets / 2000;
    let wanted = stops
        .iter()
        .map(|s| format!("{s:?}"))
        .chain(verdicts.iter().map(|v| format!("{v:?}")));
    let rare: Vec<String> = wanted
        .filter(|name| seen.get(name).copied().unwrap_or(0) < least)
        .collect();
    assert!(rare.is_empty(), "{run}: seen less than {least} times: {rare:?}");
}

#[test]
fn balancer() {
    let run = Run::new("balancer");
    let links = net::enter();
    let mut generator = Generator::new(run.seed, services());
    let world = random_world(&mut generator, links);
    let kernel = Kernel::load(&world, CAPACITY);
    let tables = world.tables();
    let least_headroom = kernel.program.least_headroom();
    let mut expected = kernel.counters();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for number in run.numbers() {
        let frame = generator.frame();
        let arrival = Arrival {
            frame: &frame,
            ingress: generator.pick(&[links[0], links[0], links[0], links[1], 1]),
            headroom: generator.headroom().max(least_headroom),
        };
        let want = balance(&arrival, &tables);
        let (verdict, left) = kernel.program.run(&arrival);
        let same_bytes = verdict == Verdict::Drop || left == want.frame;
        assert!(
            verdict == want.verdict && same_bytes,
            "{}, ingress {}, headroom {}:\n{}\nkernel {verdict:?}\n{}\nmodel {:?}, stop {:?}, backend {:?}\n{}",
            run.failure(number),
            arrival.ingress,
            arrival.headroom,
            hex(&frame),
            hex(&left),
            want.verdict,
            want.stop,
            want.backend,
            hex(&want.frame),
        );
        expected.count(want.vip, want.backend, want.stop, frame.len());
        let outcome = want.stop.map_or(format!("{verdict:?}"), |s| format!("{s:?}"));
        *seen.entry(outcome).or_default() += 1;
    }
    kernel.counters().assert_equals(&expected, &run.to_string());
    let mut reachable = Stop::ALL.to_vec();
    // Needs a tracked slot: see `sequence`.
    reachable.retain(|s| *s != Stop::NoEntry);
    if least_headroom > 0 {
        say("NOT RUN: packets without room: frames of a test run always have room on this kernel");
        reachable.retain(|s| *s != Stop::NoRoom);
    }
    assert_coverage(&seen, &reachable, &[Verdict::Tx, Verdict::Redirect], &run);
    if run.is_long() {
        every_vip_and_most_backends(&world, &expected.vips, &expected.backends, &run);
    }
}

/// The packets have reached what they should tell apart.
fn every_vip_and_most_backends(world: &World, vips: &[Counter], backends: &[Counter], run: &Run) {
    for ((address, port, proto), pool) in services().into_iter().zip(0..) {
        let key = vip::Key::new(Addr::from(address), Be16::new(port), proto);
        let value = world.contents.vips[&key];
        let packets = vips[usize::from(value.index)].packets;
        assert!(
            packets > 0 || pool == 7,
            "{run}: no packet reached {address}:{port}/{proto}"
        );
    }
    let reached = backends.iter().filter(|c| c.packets > 0).count();
    assert!(reached > 500, "{run}: only {reached} backends were reached");
}

/// Outer sources in [`decapsulator`], allowed and not.
const SOURCES: [&str; 11] = [
    "10.0.0.5",
    "10.0.0.255",
    "10.0.1.0",
    "10.1.255.3",
    "172.16.9.9",
    "172.16.9.8",
    "fd00::5",
    "fd00::1:5",
    "fd01:0:0:77::1",
    "fd02::7",
    "fd02::6",
];

#[test]
fn decapsulator() {
    let run = Run::new("decapsulator");
    let prefixes = [
        "10.0.0.0/24",
        "10.1.0.0/16",
        "172.16.9.9/32",
        "fd00::/112",
        "fd01::/48",
        "fd02::7/128",
    ];
    let kernel = Decap::new(&prefixes);
    let allow: Vec<IpNet> = prefixes.iter().map(|p| parse(p)).collect();
    // No socket is in the test's namespace.
    let host = Host {
        allow: &allow,
        gue_port: gue::PORT,
        knows: false,
    };
    let sources = SOURCES.map(ip).to_vec();
    let mut generator = Generator::new(run.seed, services());
    let mut expected = kernel.status();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for number in run.numbers() {
        let frame = generator.tunnel(&sources);
        let want = decap(&frame, &host);
        let (verdict, left) = kernel.run(&frame);
        let same_bytes = verdict == Verdict::Drop || left == want.frame;
        assert!(
            verdict == want.verdict && same_bytes,
            "{}:\n{}\nkernel {verdict:?}\n{}\nmodel {:?}, stop {:?}\n{}",
            run.failure(number),
            hex(&frame),
            hex(&left),
            want.verdict,
            want.stop,
            hex(&want.frame),
        );
        let one = Counter {
            packets: 1,
            bytes: frame.len() as u64,
        };
        match want.stop {
            None if want.verdict == Verdict::Tx => expected.second_chance += one,
            None => expected.removed += one,
            Some(stop) => expected.stops[stop as usize].1 += one,
        }
        if want.stranger {
            expected.stranger += one;
            *seen.entry("stranger".to_owned()).or_default() += 1;
        }
        let outcome = want.stop.map_or(format!("{verdict:?}"), |s| format!("{s:?}"));
        *seen.entry(outcome).or_default() += 1;
    }
    let status = kernel.status();
    assert_eq!(status.second_chance, expected.second_chance, "{run}: sent on");
    assert_eq!(status.stranger, expected.stranger, "{run}: not sent on");
    assert_eq!(status.removed, expected.removed, "{run}: removed");
    assert_eq!(status.stops, expected.stops, "{run}: stops");
    // A whole inner packet is never shorter than an Ethernet header, so removing the outer one can't fail.
    let reachable: Vec<DecapStop> = DecapStop::ALL
        .iter()
        .copied()
        .filter(|s| *s != DecapStop::NoRoom)
        .collect();
    assert_coverage(&seen, &reachable, &[Verdict::Pass, Verdict::Tx], &run);
    assert!(seen.get("stranger").is_some_and(|n| *n > 0), "{run}: {seen:?}");
}
