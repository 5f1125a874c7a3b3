//! Tracked slots: one fixture for each rule of `lb_common::pick`, through the maps.

use lb_common::addr::Addr;
use lb_common::admit::{EVENTS, FULL, Limits};
use lb_common::backend::DEAD;
use lb_common::be::Be16;
use lb_common::flow::{self, CLOSED, CONFIRMED, Entry, HOLD, Key, PROBATION};
use lb_common::pick::By;
use lb_common::retire::Uses;
use lb_common::slot::{CLOSING, Slot, TRACKED, UDP_LEARN, of_hash};
use lb_common::stop::Stop;
use lb_common::tick::{Tick, seconds};
use lb_common::tuple::Tuple;
use lb_common::vip;
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::dataplane::trace::Copy;
use lb_userspace::state::diff::Op;

use crate::fixture::{BACKEND_V4, CLIENT_V4, CLIENT_V6, Fixture, VIP_V4, VIP_V6, Want, flow_hash};
use crate::frame::{Ip, TCP, UDP, ip, parse, tcp, udp};
use crate::world::entry;

/// Backends of the tracked slots: where old flows are, and where new ones go.
const ORIGIN: u16 = BACKEND_V4;
const CURRENT: u16 = 10;
const OTHER: u16 = 11;

const ISN: u32 = 0xffff_fff0;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;

/// A balancer and one flow.
struct Case {
    fixture: Fixture,
    v6: bool,
    proto: u8,
}

impl Case {
    /// The flow's slot has these flags, and its VIP those.
    fn new(v6: bool, proto: u8, flags: u16, vip_flags: u16) -> Self {
        let fixture = Fixture::with(|world, [ingress, _]| {
            for index in [CURRENT, OTHER] {
                let (src, dst) = (parse("10.0.0.5/32"), ip(&format!("10.0.4.{index}")));
                world.backend(index, entry(src, dst, ingress, 1500));
            }
            for value in world.contents.vips.values_mut().filter(|v| v.is_served()) {
                value.flags |= vip_flags;
            }
        });
        let case = Self { fixture, v6, proto };
        case.set_slot(Slot::new(CURRENT, ORIGIN, 0, flags));
        case
    }

    fn tcp(flags: u16) -> Self {
        Self::new(false, TCP, flags, 0)
    }

    fn pool(&self) -> u16 {
        u16::from(self.v6)
    }

    fn number(&self) -> u32 {
        of_hash(flow_hash(&self.packet(ACK, 0)))
    }

    fn set_slot(&self, slot: Slot) {
        self.fixture
            .kernel
            .maps
            .set_slot(self.pool(), self.number(), slot);
    }

    fn packet(&self, flags: u8, seq: u32) -> Ip {
        let (src, dst) = if self.v6 {
            (CLIENT_V6, VIP_V6)
        } else {
            (CLIENT_V4, VIP_V4)
        };
        let payload = if self.proto == UDP {
            udp(40_001, 80, b"data")
        } else {
            let mut segment = tcp(40_001, 80, b"data");
            segment[4..8].copy_from_slice(&seq.to_be_bytes());
            segment[13] = flags;
            segment
        };
        Ip::new(ip(src), ip(dst), self.proto, payload)
    }

    fn key(&self) -> Key {
        let packet = self.packet(ACK, 0);
        Key::new(&Tuple {
            src: Addr::from(packet.src),
            dst: Addr::from(packet.dst),
            sport: Be16::new(40_001),
            dport: Be16::new(80),
            proto: self.proto,
        })
    }

    /// A packet goes to `backend`, which `by` decided (`None`: nothing was asked).
    #[track_caller]
    fn goes(&self, what: &str, flags: u8, seq: u32, backend: u16, by: Option<By>) {
        let packet = self.packet(flags, seq);
        let vip = u16::from(self.v6) * 2 + u16::from(self.proto == UDP);
        let before = self.picks();
        let want = self.fixture.forward(&packet, vip, backend);
        self.fixture.check(what, &packet.frame(), &want);
        let mut expected = before;
        if let Some(by) = by {
            expected[by as usize] += 1;
        }
        assert_eq!(self.picks(), expected, "{what}: picks by source");
    }

    fn picks(&self) -> [u64; 8] {
        By::ALL.map(|by| self.fixture.kernel.maps.pick_counter(by).expect("picks").packets)
    }

    #[track_caller]
    fn stops(&self, what: &str, flags: u8, seq: u32, stop: Stop) {
        let frame = self.packet(flags, seq).frame();
        self.fixture.check(what, &frame, &Want::Stop(stop));
    }

    fn entry(&self, table: Table) -> Option<Entry> {
        self.fixture
            .kernel
            .maps
            .entry(table, &self.key())
            .expect("entries")
    }

    /// Backend and state of the entries in all tables.
    fn entries(&self) -> Vec<(Table, u16, u8)> {
        let of = |table| self.entry(table).map(|e| (table, e.backend, e.state));
        Table::ALL.into_iter().filter_map(of).collect()
    }

    fn put(&mut self, table: Table, backend: u16, state: u8, age: u32) {
        let when = ago(age);
        let entry = Entry {
            isn: ISN,
            since: when,
            last: when,
            backend,
            state,
            owner: u8::from(table == Table::Replicas),
        };
        let key = self.key();
        let maps = &mut self.fixture.kernel.maps;
        maps.set_entry(table, &key, &entry).expect("room");
    }

    fn limit(&mut self, change: impl FnOnce(&mut Limits)) {
        let maps = &mut self.fixture.kernel.maps;
        let mut limits = maps.limits().expect("limits");
        change(&mut limits);
        maps.set_limits(limits).expect("limits");
    }

    fn uses(&self) -> Uses {
        self.fixture.kernel.maps.uses(self.pool(), self.number())
    }

    fn kill(&mut self, index: u16) {
        let mut backend = self.fixture.world.contents.backends[&index];
        backend.entry.flags |= DEAD;
        let (backend, new) = (Box::new(backend), false);
        let op = Op::SetBackend { index, backend, new };
        self.fixture.kernel.maps.apply(&op).expect("it is written");
    }
}

fn ago(ticks: u32) -> Tick {
    Tick(now().0.wrapping_sub(ticks))
}

const PLAIN: (Uses, Option<Tick>) = (
    Uses {
        seen: Tick(0),
        stamp: Tick(0),
    },
    None,
);

#[test]
fn a_handshake_enters_probation_and_its_answer_promotes() {
    for v6 in [false, true] {
        let case = Case::new(v6, TCP, TRACKED, 0);
        case.goes("SYN", SYN, ISN, CURRENT, Some(By::New));
        assert_eq!(case.entries(), [(Table::Probation, CURRENT, PROBATION)]);
        case.goes("the same SYN", SYN, ISN, CURRENT, Some(By::Probation));
        case.goes(
            "ACK out of the window",
            ACK,
            ISN.wrapping_add(70_000),
            ORIGIN,
            Some(By::Origin),
        );
        case.goes("ACK", ACK, ISN.wrapping_add(1), CURRENT, Some(By::Probation));
        assert_eq!(case.entries(), [(Table::Flows, CURRENT, CONFIRMED)]);
        // The slot moves on, the flow doesn't.
        case.set_slot(Slot::new(OTHER, ORIGIN, 0, TRACKED));
        case.goes("data", ACK, 7, CURRENT, Some(By::Own));
        case.goes("FIN", FIN, 7, CURRENT, Some(By::Own));
        assert_eq!(case.entries(), [(Table::Flows, CURRENT, CLOSED)]);
        case.goes("a late ACK", ACK, 7, CURRENT, Some(By::Own));
        assert_eq!(case.entries(), [(Table::Flows, CURRENT, CLOSED)]);
    }
}

#[test]
fn another_handshake_of_the_tuple_is_refused_while_one_is_young() {
    let mut case = Case::tcp(TRACKED);
    case.goes("SYN", SYN, ISN, CURRENT, Some(By::New));
    case.goes("another SYN", SYN, 5, ORIGIN, Some(By::Refused));
    case.put(Table::Probation, OTHER, PROBATION, HOLD + 1);
    case.goes("much later", SYN, 5, CURRENT, Some(By::New));
    assert_eq!(case.entry(Table::Probation).map(|e| e.isn), Some(5));
}

#[test]
fn a_syn_that_cant_be_entered_goes_to_origin_or_is_dropped() {
    type Change = fn(&mut Limits);
    let (budget, full): (Change, Change) = (|l| l.budgets[0] = 0, |l| l.flags |= FULL);
    for (what, change) in [("budget", budget), ("full", full)] {
        let mut case = Case::tcp(TRACKED);
        case.limit(change);
        case.goes(what, SYN, ISN, ORIGIN, Some(By::Refused));
        assert_eq!(case.entries(), []);
        assert!(case.uses().stamp.0 != 0, "{what}: a flow begins at origin");

        case.set_slot(Slot::new(CURRENT, ORIGIN, 0, TRACKED | CLOSING));
        case.stops(what, SYN, ISN, Stop::NoEntry);
        case.goes(
            "data while it closes",
            ACK,
            ISN.wrapping_add(1),
            ORIGIN,
            Some(By::Origin),
        );
    }
    let case = Case::tcp(TRACKED | CLOSING);
    case.goes("room while it closes", SYN, ISN, CURRENT, Some(By::New));
}

#[test]
fn a_budget_is_used_up_and_comes_again() {
    let mut case = Case::tcp(TRACKED);
    case.limit(|limits| limits.budgets[0] = 1);
    // One CPU has one budget.
    let cpu = rustix::thread::sched_getcpu();
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("this CPU");
    let frame = case.packet(SYN, ISN).frame();
    case.goes("the first", SYN, ISN, CURRENT, Some(By::New));
    case.fixture
        .kernel
        .maps
        .remove_entry(Table::Probation, &case.key())
        .expect("gone");
    // Windows are a second: if one ends just now the next one is full at once.
    let arrival = lb_tests::model::Arrival {
        frame: &frame,
        ingress: case.fixture.ingress,
        headroom: crate::kernel::HEADROOM,
    };
    let refused = |case: &Case| case.picks()[By::Refused as usize];
    for _ in 0..3 {
        case.fixture.kernel.program.run(&arrival);
        case.fixture
            .kernel
            .maps
            .remove_entry(Table::Probation, &case.key())
            .expect("gone");
    }
    assert!(refused(&case) >= 1, "three SYNs, two windows at most");
    std::thread::sleep(std::time::Duration::from_millis(1200));
    case.goes("a second later", SYN, ISN, CURRENT, Some(By::New));
}

#[test]
fn a_miss_stamps_when_it_comes_again_a_second_later() {
    let mut case = Case::tcp(TRACKED);
    // Of a table as small as the tests' nothing could be noted for so long as a flow may be silent.
    case.limit(|limits| limits.budgets[2] = 100);
    for (what, flags) in [("RST", RST), ("FIN", FIN), ("SYN with ACK", SYN | ACK)] {
        case.goes(what, flags, 9, ORIGIN, Some(By::Origin));
        let missed = case.fixture.kernel.maps.missed(&case.key()).expect("misses");
        assert_eq!((case.uses(), missed), PLAIN, "{what}");
    }
    case.goes("data", ACK, 9, ORIGIN, Some(By::Origin));
    let uses = case.uses();
    assert!(uses.seen.0 != 0 && uses.stamp.0 == 0, "once: {uses:?}");
    case.goes("data at once", ACK, 9, ORIGIN, Some(By::Origin));
    assert_eq!(case.uses().stamp, Tick(0));
    let key = case.key();
    let maps = &mut case.fixture.kernel.maps;
    maps.set_missed(&key, ago(seconds(1) + 1)).expect("a note");
    case.goes("RST later", RST, 9, ORIGIN, Some(By::Origin));
    assert_eq!(case.uses().stamp, Tick(0), "RST never stamps");
    case.goes("data later", ACK, 9, ORIGIN, Some(By::Origin));
    assert!(case.uses().stamp.0 != 0);
    assert_eq!(case.entries(), []);

    let mut full = Case::tcp(TRACKED);
    full.limit(|limits| limits.budgets[2] = 0);
    full.goes("what can't be noted", ACK, 9, ORIGIN, Some(By::Origin));
    assert!(full.uses().stamp.0 != 0, "counts at once");
}

#[test]
fn closed_entries_open_again_and_are_followed() {
    let mut case = Case::tcp(TRACKED);
    case.put(Table::Flows, OTHER, CONFIRMED, 3);
    case.goes("RST", RST, 9, OTHER, Some(By::Own));
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CLOSED)]);
    case.put(Table::Flows, OTHER, CLOSED, seconds(1) + 1);
    case.goes("a second later", ACK, 9, OTHER, Some(By::Own));
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CONFIRMED)]);
    // A confirmed entry is left alone by a SYN; on a closed one a SYN begins a flow at the same backend.
    case.goes("SYN", SYN, 9, OTHER, Some(By::Own));
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CONFIRMED)]);
    case.put(Table::Flows, OTHER, CLOSED, 0);
    case.goes("SYN again", SYN, 9, OTHER, Some(By::Own));
    case.goes("its first segment", ACK, 10, OTHER, Some(By::Probation));
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CONFIRMED)]);
}

#[test]
fn a_replica_is_taken_over() {
    let mut case = Case::tcp(TRACKED);
    case.put(Table::Replicas, OTHER, CONFIRMED, 3);
    case.goes("data", ACK, 9, OTHER, Some(By::Replica));
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CONFIRMED)]);
    assert_eq!(case.entry(Table::Flows).map(|e| e.owner), Some(flow::OWN));
}

#[test]
fn entries_of_a_dead_backend_are_missing_and_nothing_is_sent_to_it() {
    let mut case = Case::tcp(TRACKED);
    case.put(Table::Flows, OTHER, CONFIRMED, 0);
    case.kill(OTHER);
    case.goes("data", ACK, 9, ORIGIN, Some(By::Rehomed));
    case.goes("SYN", SYN, 9, CURRENT, Some(By::New));
    case.kill(ORIGIN);
    case.stops("the slot's own", ACK, 5_000_000, Stop::Dead);
    case.set_slot(Slot::untracked(ORIGIN));
    case.stops("an untracked slot's", ACK, 9, Stop::Dead);
}

#[test]
fn udp_is_entered_with_its_second_packet() {
    for v6 in [false, true] {
        let case = Case::new(v6, UDP, TRACKED, 0);
        case.goes("first", 0, 0, CURRENT, Some(By::New));
        assert_eq!(case.entries(), [(Table::UdpProbation, CURRENT, PROBATION)]);
        case.set_slot(Slot::new(OTHER, ORIGIN, 0, TRACKED));
        case.goes("second", 0, 0, CURRENT, Some(By::Probation));
        assert_eq!(case.entries(), [(Table::UdpFlows, CURRENT, CONFIRMED)]);
        case.goes("third", 0, 0, CURRENT, Some(By::Own));
    }
    let mut case = Case::new(false, UDP, TRACKED | UDP_LEARN, 0);
    case.goes("an old flow", 0, 0, ORIGIN, Some(By::Origin));
    let key = case.key();
    let maps = &mut case.fixture.kernel.maps;
    maps.remove_entry(Table::UdpProbation, &key).expect("gone");
    case.limit(|limits| limits.budgets[1] = 0);
    case.goes("without budget", 0, 0, ORIGIN, Some(By::Refused));
    assert_eq!(case.uses(), Uses::default(), "UDP stamps nothing");
}

#[test]
fn vips_that_track_always_or_never() {
    let always = Case::new(false, TCP, 0, vip::ALWAYS);
    always.set_slot(Slot::untracked(CURRENT));
    always.goes("SYN", SYN, ISN, CURRENT, Some(By::New));
    always.goes("ACK", ACK, ISN.wrapping_add(1), CURRENT, Some(By::Probation));
    assert_eq!(always.entries(), [(Table::Flows, CURRENT, CONFIRMED)]);

    let off = Case::new(false, TCP, TRACKED | CLOSING, vip::OFF);
    off.goes("SYN", SYN, ISN, CURRENT, None);
    off.goes("data", ACK, 9, CURRENT, None);
    assert_eq!(off.entries(), []);

    let mut plain = Case::tcp(TRACKED);
    plain.put(Table::Flows, OTHER, CONFIRMED, 0);
    plain.set_slot(Slot::untracked(CURRENT));
    plain.goes("an untracked slot asks nobody", ACK, 9, CURRENT, None);
}

#[test]
fn events_are_made_when_somebody_reads() {
    let mut case = Case::tcp(TRACKED);
    let pin = case.fixture.kernel.pins.0.map(lb_common::abi::map::EVENTS);
    let data = aya::maps::MapData::from_pin(pin).expect("a pin");
    let mut ring = aya::maps::RingBuf::try_from(aya::maps::Map::from_map_data(data).expect("a map"))
        .expect("a ring buffer");
    case.goes("SYN", SYN, ISN, CURRENT, Some(By::New));
    assert!(ring.next().is_none(), "nobody reads");
    case.limit(|limits| limits.flags |= EVENTS);
    case.goes("ACK", ACK, ISN.wrapping_add(1), CURRENT, Some(By::Probation));
    case.goes("FIN", FIN, ISN.wrapping_add(1), CURRENT, Some(By::Own));
    for (kind, state) in [(flow::CONFIRMED_HERE, CONFIRMED), (flow::CHANGED, CLOSED)] {
        let item = ring.next().expect("an event");
        let event = <flow::Event as zerocopy::FromBytes>::read_from_bytes(&item).expect("64 bytes");
        assert_eq!((event.key, event.kind), (case.key(), kind));
        assert_eq!((event.entry.backend, event.entry.state), (CURRENT, state));
        assert_eq!(event.slot, lb_common::slot::index(0, case.number()));
    }
    assert!(ring.next().is_none());
}

/// A trace of a tracked flow says what its entry says, and writes nothing.
#[test]
fn a_trace_follows_entries_and_changes_none() {
    let mut case = Case::tcp(TRACKED);
    case.put(Table::Flows, OTHER, CONFIRMED, 100);
    let kernel = &case.fixture.kernel;
    let mut copy = Copy::load(&kernel.pins.0, &kernel.maps).expect("a copy");
    let before = (case.entry(Table::Flows), case.picks(), case.uses());
    for (what, flags, seq, own, backend) in [
        ("its entry", ACK, 9, true, OTHER),
        ("FIN", FIN, 9, true, OTHER),
        ("no entry", ACK, 9, false, ORIGIN),
        ("a SYN", SYN, 9, false, CURRENT),
    ] {
        let mut known = kernel.maps.known(&case.key()).expect("maps");
        if !own {
            known.own = None;
        }
        let packet = case.packet(flags, seq);
        let run = copy
            .run(&packet.frame(), case.fixture.ingress, Some(&known))
            .expect("it runs");
        let wanted = crate::fixture::wrapped(&packet, &[], &[], case.fixture.world.entry(backend));
        assert_eq!(run.frame, wanted, "{what}");
    }
    assert_eq!((case.entry(Table::Flows), case.picks(), case.uses()), before);
    assert_eq!(case.entries(), [(Table::Flows, OTHER, CONFIRMED)]);
}
