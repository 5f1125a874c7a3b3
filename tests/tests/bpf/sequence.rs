//! Packets of few flows in tracked slots, one after the other: the reference model and the kernel must agree on every
//! verdict, byte and counter, and on the whole flow table.
//!
//! Time is the kernel's; a packet is sent when a tick has just begun, and entries are aged by writing them anew.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use lb_common::addr::Addr;
use lb_common::admit::{FULL, Limits, UDP_FULL};
use lb_common::backend::{CHANCE, DEAD, GUE, READY};
use lb_common::be::Be16;
use lb_common::flow::{CLOSED, CONFIRMED, Entry, Key, PROBATION};
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::{CLOSING, NO_BACKEND, Slot, TRACKED, UDP_LEARN, of_hash};
use lb_common::stop::Stop;
use lb_common::tick::Tick;
use lb_common::tuple::Tuple;
use lb_common::{gue, hash, vip};
use lb_tests::model::balance::{Tables, remember};
use lb_tests::model::flow::Memory;
use lb_tests::model::{Arrival, Verdict};
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::model::Capacity;
use lb_userspace::state::diff::Op;
use rand::RngExt;

use crate::differential::{self, Run};
use crate::frame::{Ip, TCP, UDP, hex, ip, parse, tcp, udp};
use crate::generate::Generator;
use crate::kernel::{HEADROOM, Kernel};
use crate::mutate::mutate;
use crate::net;
use crate::world::{GROUP_KEY, World, entry};

/// Room for all handshakes and misses on one CPU: the model's never make room for each other.
const CAPACITY: Capacity = Capacity {
    flows: 1 << 16,
    ..differential::CAPACITY
};
const BACKENDS: u16 = 7;
const FLOWS: usize = 96;

/// Budgets that nothing uses up.
const OPEN: Limits = Limits {
    flags: 0,
    budgets: [u32::MAX; 3],
};

/// VIPs of both protocols, with each kind of tracking.
const VIPS: [(&str, u16); 6] = [
    ("192.0.2.20", 0),
    ("192.0.2.21", vip::ALWAYS),
    ("192.0.2.22", vip::OFF),
    ("2001:db8:1::20", 0),
    ("2001:db8:1::21", vip::ALWAYS),
    ("2001:db8:1::22", vip::OFF | vip::ALWAYS),
];

fn world(ingress: u32) -> World {
    let mut world = World::default();
    for index in 1..=BACKENDS {
        // Two by two they can name each other.
        let mut entry = match index {
            3 | 4 => entry(
                parse("fd00::5/128"),
                ip(&format!("fd00:3::{index}")),
                ingress,
                1500,
            ),
            _ => entry(
                parse("10.0.0.5/32"),
                ip(&format!("10.0.3.{index}")),
                ingress,
                1500,
            ),
        };
        if index != 7 {
            entry.flags |= GUE | CHANCE;
            entry.port = Be16::new(gue::PORT);
        }
        match index {
            5 => entry.flags &= !READY,
            6 => entry.flags |= DEAD,
            _ => {}
        }
        world.backend(index, entry);
    }
    world.pool(0, |slot| (slot % 5) as u16);
    for (address, flags) in VIPS {
        for proto in [TCP, UDP] {
            world.vip(address, 443, proto, 0);
            let key = vip::Key::new(Addr::from(ip(address)), Be16::new(443), proto);
            let value = world.contents.vips.get_mut(&key).expect("just made");
            value.flags |= flags;
        }
    }
    world
}

/// The kernel, its model, and the flows between them.
struct Pair {
    kernel: Kernel,
    tables: Tables,
    memory: Memory,
    generator: Generator,
    flows: Vec<(IpAddr, IpAddr, Key)>,
    ingress: u32,
    /// Packets that named another backend.
    named: usize,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let [ingress, _] = net::enter();
        let world = world(ingress);
        let mut generator = Generator::new(seed, Vec::new());
        let flows = (0..FLOWS)
            .map(|i| {
                let (vip, proto) = (ip(VIPS[i % VIPS.len()].0), if i % 4 == 3 { UDP } else { TCP });
                let client = generator.address(vip.is_ipv6());
                let tuple = Tuple {
                    src: Addr::from(client),
                    dst: Addr::from(vip),
                    sport: Be16::new(generator.rng.random()),
                    dport: Be16::new(443),
                    proto,
                };
                (client, vip, Key::new(&tuple))
            })
            .collect();
        let mut pair = Self {
            kernel: Kernel::load(&world, CAPACITY),
            tables: world.tables(),
            memory: Memory {
                indexes: CAPACITY.backend_indexes(),
                ..Memory::default()
            },
            generator,
            flows,
            ingress,
            named: 0,
        };
        pair.limit(OPEN);
        for flow in 0..FLOWS {
            pair.change_slot(flow);
        }
        pair
    }

    fn limit(&mut self, limits: Limits) {
        self.memory.limits = limits;
        self.kernel.maps.set_limits(limits).expect("limits");
    }

    fn backend(&mut self) -> u16 {
        // The last one lies beyond the map.
        self.generator
            .pick(&[NO_BACKEND, 1, 2, 3, 4, 5, 6, 7, 8, u16::MAX])
    }

    fn change_slot(&mut self, flow: usize) {
        let number = of_hash(self.flows[flow].2.tuple().hash(&hash::Key::expand(&GROUP_KEY)));
        let flags = self.generator.pick(&[
            0,
            TRACKED,
            TRACKED,
            TRACKED,
            TRACKED | CLOSING,
            TRACKED | UDP_LEARN,
        ]);
        let slot = if flags == 0 {
            Slot::untracked(self.backend())
        } else {
            let current = self.backend();
            Slot::new(current, self.backend(), 0, flags)
        };
        self.memory.slots.insert((0, number), slot);
        self.kernel.maps.set_slot(0, number, slot);
    }

    /// The verdict on a backend, or its end.
    fn change_backend(&mut self) {
        let index = self.generator.pick(&[3, 4, 6]);
        let backend = self
            .tables
            .contents
            .backends
            .get_mut(&index)
            .expect("it is there");
        backend.entry.flags ^= DEAD;
        let (backend, new) = (Box::new(*backend), false);
        let op = Op::SetBackend { index, backend, new };
        self.kernel.maps.apply(&op).expect("it is written");
    }

    fn change_limits(&mut self) {
        let mut limits = OPEN;
        match self.generator.rng.random_range(0..10) {
            n @ 0..3 => limits.budgets[n] = 0,
            3 => limits.flags = FULL,
            4 => limits.flags = UDP_FULL,
            _ => {}
        }
        self.limit(limits);
    }

    fn write(&mut self, table: Table, key: Key, entry: Entry) {
        self.memory.entries.insert((table, key), entry);
        self.kernel.maps.set_entry(table, &key, &entry).expect("room");
    }

    /// A peer's record, or the sweep.
    fn change_entry(&mut self, flow: usize) {
        let (key, now) = (self.flows[flow].2, now());
        if self.generator.rng.random() {
            let replica = Entry {
                isn: 1000,
                since: now,
                last: now,
                backend: self.backend(),
                state: self.generator.pick(&[PROBATION, CONFIRMED, CLOSED]),
                owner: 3,
            };
            return self.write(Table::Replicas, key, replica);
        }
        for table in Table::ALL {
            self.memory.entries.remove(&(table, key));
            self.kernel.maps.remove_entry(table, &key).expect("deleted");
        }
    }

    /// The sweep of all flows that mutated frames began.
    fn forget_others(&mut self) {
        let is_other = |key: &Key| self.flows.iter().all(|(_, _, known)| known != key);
        let maps = &mut self.kernel.maps;
        self.memory.entries.retain(|(table, key), _| {
            let is_other = is_other(key);
            if is_other {
                maps.remove_entry(*table, key).expect("deleted");
            }
            !is_other
        });
    }

    /// Everything is so many ticks older than it was.
    fn age(&mut self, by: u32) {
        let older = |tick: Tick| Tick(tick.0.wrapping_sub(by));
        for ((table, key), entry) in self.memory.entries.clone() {
            let (since, last) = (older(entry.since), older(entry.last));
            self.write(table, key, Entry { since, last, ..entry });
        }
        for (key, missed) in self.memory.misses.clone() {
            self.memory.misses.insert(key, older(missed));
            self.kernel.maps.set_missed(&key, older(missed)).expect("a note");
        }
        for ((pool, number), uses) in self.memory.uses.clone() {
            let mark = |mark: Tick| if mark.0 == 0 { mark } else { older(mark) };
            let uses = Uses {
                seen: mark(uses.seen),
                stamp: mark(uses.stamp),
            };
            self.memory.uses.insert((pool, number), uses);
            self.kernel.maps.set_uses(pool, number, uses);
        }
    }

    fn frame(&mut self, flow: usize) -> Vec<u8> {
        let (client, vip, key) = self.flows[flow];
        let (sport, dport) = (key.sport.get(), key.dport.get());
        let payload = if key.proto == UDP {
            udp(sport, dport, b"data")
        } else {
            let mut segment = tcp(sport, dport, b"data");
            let seq: u32 = self
                .generator
                .pick(&[1000, 1001, 1001, 2000, 66_536, 66_537, 5_000_000]);
            segment[4..8].copy_from_slice(&seq.to_be_bytes());
            segment[13] = self
                .generator
                .pick(&[2, 2, 2, 0xc2, 16, 24, 16, 16, 17, 4, 20, 18, 0]);
            segment
        };
        let mut packet = Ip::new(client, vip, key.proto, payload);
        if self.generator.pick(&[true, false, false]) {
            packet.options = vec![1; 8];
        }
        let mut frame = if self.generator.pick(&[true, false, false]) {
            packet.tagged(5)
        } else {
            packet.frame()
        };
        if self.generator.rng.random_ratio(1, 20) {
            mutate(&mut self.generator.rng, &mut frame);
        }
        frame
    }

    /// One frame through both; what became of it. `None` where the tick changed under it, so that nobody can tell which
    /// time the program saw: then the model takes over what the kernel remembers.
    fn send(&mut self, frame: &[u8], what: &dyn Fn() -> String) -> Option<(Verdict, Option<Stop>)> {
        let arrival = Arrival {
            frame,
            ingress: self.ingress,
            headroom: HEADROOM,
        };
        settle();
        self.memory.now = now();
        let (verdict, left) = self.kernel.program.run(&arrival);
        let is_certain = now() == self.memory.now;
        if !is_certain {
            self.take_over();
            return None;
        }
        let want = remember(&arrival, &self.tables, &mut self.memory);
        let same_bytes = verdict == Verdict::Drop || left == want.frame;
        assert!(
            verdict == want.verdict && same_bytes,
            "{}:\n{}\nkernel {verdict:?}\n{}\nmodel {:?}, stop {:?}, backend {:?}\n{}",
            what(),
            hex(frame),
            hex(&left),
            want.verdict,
            want.stop,
            want.backend,
            hex(&want.frame),
        );
        self.named += usize::from(want.frame.windows(4).any(|bytes| bytes == [0x7a, 0x1d, 1, 0]));
        Some((verdict, want.stop))
    }

    fn take_over(&mut self) {
        let remembered = self.remembered();
        let Memory {
            slots,
            indexes,
            limits,
            ..
        } = self.memory.clone();
        self.memory = Memory {
            slots,
            indexes,
            limits,
            ..remembered
        };
    }

    /// What the kernel remembers.
    fn remembered(&self) -> Memory {
        let maps = &self.kernel.maps;
        let mut memory = Memory::default();
        for table in Table::ALL {
            let entries = maps.entries(table).expect("entries").into_iter();
            memory
                .entries
                .extend(entries.map(|(key, entry)| ((table, key), entry)));
        }
        memory.misses = maps.misses().expect("misses").into_iter().collect();
        for &(pool, number) in self.memory.slots.keys() {
            let uses = maps.uses(pool, number);
            if uses != Uses::default() {
                memory.uses.insert((pool, number), uses);
            }
        }
        for by in By::ALL {
            memory.picks[by as usize] = maps.pick_counter(by).expect("picks");
        }
        memory
    }

    fn assert_same_memory(&self, what: &str) {
        let (kernel, model) = (self.remembered(), &self.memory);
        assert_same(&kernel.entries, &model.entries, &format!("{what}: entries"));
        assert_same(&kernel.misses, &model.misses, &format!("{what}: misses"));
        assert_same(&kernel.uses, &model.uses, &format!("{what}: marks"));
        assert_eq!(kernel.picks, model.picks, "{what}: picks");
    }
}

/// Tells what is on one side alone: both are too long to be read.
fn assert_same<K: Ord + Debug, V: PartialEq + Debug>(
    kernel: &BTreeMap<K, V>,
    model: &BTreeMap<K, V>,
    what: &str,
) {
    let differs = |&(key, _): &(&K, &V)| kernel.get(key) != model.get(key);
    let (left, right): (Vec<_>, Vec<_>) = (
        kernel.iter().filter(differs).collect(),
        model.iter().filter(differs).collect(),
    );
    assert!(
        left.is_empty() && right.is_empty(),
        "{what}:\nkernel {left:#?}\nmodel {right:#?}"
    );
}

/// Waits where a tick is about to end.
fn settle() {
    const TICK: i64 = 1 << 26;
    const MARGIN: i64 = 1_000_000;
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let left = TICK - (time.tv_sec * 1_000_000_000 + time.tv_nsec) % TICK;
    if left < MARGIN {
        thread::sleep(Duration::from_nanos(left.unsigned_abs()));
    }
}

#[test]
fn flows() {
    let run = Run::new("flows");
    let mut pair = Pair::new(run.seed);
    let mut expected = pair.kernel.counters();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (start, mut unsure) = (Instant::now(), 0);
    for number in 0..run.packets {
        let flow = pair.generator.rng.random_range(0..FLOWS);
        match pair.generator.rng.random_range(0..400) {
            0..4 => pair.change_slot(flow),
            4..8 => pair.change_entry(flow),
            8 => pair.change_backend(),
            9 | 10 => pair.change_limits(),
            11 => {
                let by = pair.generator.pick(&[1, 14, 15, 16, 17, 60, 75, 76, 77, 2000]);
                pair.age(by);
            }
            _ => {}
        }
        let frame = pair.frame(flow);
        let what = || run.failure(number);
        match pair.send(&frame, &what) {
            Some((verdict, stop)) => {
                let outcome = stop.map_or(format!("{verdict:?}"), |stop| format!("{stop:?}"));
                *seen.entry(outcome).or_default() += 1;
            }
            None => unsure += 1,
        }
        if number % 5_000 == 0 {
            pair.assert_same_memory(&what());
            pair.forget_others();
        }
    }
    pair.assert_same_memory(&run.to_string());
    for (by, counter) in By::ALL.iter().zip(pair.memory.picks) {
        seen.insert(format!("by {}", by.name()), counter.packets as usize);
    }
    seen.insert("named another backend".to_owned(), pair.named);
    println!("{seen:#?}, {unsure} at the end of a tick, {:?}", start.elapsed());
    for stop in Stop::ALL {
        let of = |counters: &crate::kernel::Counters| counters.stops[*stop as usize].packets;
        let counted = of(&pair.kernel.counters()) - of(&expected);
        let told = seen.get(&format!("{stop:?}")).copied().unwrap_or(0) as u64;
        assert!(
            counted >= told && counted <= told + unsure,
            "{run}: {stop:?} was counted {counted} times, not {told}"
        );
    }
    expected = pair.kernel.counters();
    assert!(expected.backends[1].packets > 0);
    if run.is_long() {
        let least = run.packets / 4000;
        for name in [
            "NoEntry",
            "Dead",
            "NotReady",
            "Tx",
            "by own",
            "by replica",
            "by probation",
            "by new",
            "by refused",
            "by origin",
            "by rehomed",
            "named another backend",
        ] {
            let times = seen.get(name).copied().unwrap_or(0);
            assert!(times >= least, "{run}: {name} {times} times");
        }
        assert!(
            unsure < run.packets as u64 / 10,
            "{run}: {unsure} are not certain"
        );
    }
}
