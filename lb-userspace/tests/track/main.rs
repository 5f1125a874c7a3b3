//! Slots of one node through changes, suspicions, deaths and back: the engine over plain memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::flow::{Entry, Key, TOUCH};
use lb_common::hash;
use lb_common::retire::{Hold, Uses};
use lb_common::slot::{NO_BACKEND, SLOTS, Slot, TRACKED};
use lb_common::tick::{Tick, seconds};
use lb_userspace::config;
use lb_userspace::model::Model;
use lb_userspace::state::contents::Contents;
use lb_userspace::state::ids::vip_key;
use lb_userspace::state::linger::{Linger, parted};
use lb_userspace::state::track::{
    Finder, Fitness, Fits, Gate, Judge, Slots, Steered, Sweep, Terms, Tracker, Why,
};

mod member;

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;
const POOL: u16 = 0;
const IDLE: u32 = seconds(60);
const MAX: u32 = seconds(3600);

/// Slots and marks of one pool.
struct Memory(RefCell<Vec<(Slot, Uses)>>);

impl Slots for Memory {
    fn slot(&self, place: u32) -> Slot {
        self.0.borrow()[place as usize].0
    }
    fn swap(&self, place: u32, before: Slot, after: Slot) -> bool {
        let held = &mut self.0.borrow_mut()[place as usize].0;
        let is_same = *held == before;
        if is_same {
            *held = after;
        }
        is_same
    }
    fn uses(&self, place: u32) -> Uses {
        self.0.borrow()[place as usize].1
    }
    fn clear_uses(&self, place: u32) {
        self.0.borrow_mut()[place as usize].1 = Uses::default();
    }
}

/// One pool whose slots all want the same.
struct World {
    tracker: Tracker,
    memory: Memory,
    fits: Fits,
    terms: Terms,
    want: u16,
    now: Tick,
}

impl World {
    fn new() -> Self {
        let terms = Terms {
            gate: Gate::Alone,
            idle: Some(IDLE),
            udp: None,
        };
        let fits = [A, B, C].map(|backend| (backend, Fitness::Alive)).into();
        let memory = Memory(RefCell::new(vec![(Slot::default(), Uses::default()); SLOTS]));
        let mut world = Self {
            tracker: Tracker::default(),
            memory,
            fits,
            terms,
            want: A,
            now: Tick(1000),
        };
        assert_eq!(
            world.steer(),
            Steered {
                written: SLOTS as u32,
                waiting: 0
            }
        );
        assert_eq!(
            world.slot(),
            Slot::untracked(A),
            "what was empty has nobody to protect"
        );
        world
    }

    fn slot(&self) -> Slot {
        self.memory.slot(7)
    }

    fn steer(&mut self) -> Steered {
        let wants = vec![self.want; SLOTS];
        self.tracker
            .steer(POOL, &wants, self.terms, &self.fits, &self.memory, self.now)
    }

    fn wait(&mut self, ticks: u32) {
        self.now = self.now.after(ticks);
    }

    /// A drain: prepared, and committed a second later.
    fn change_to(&mut self, backend: u16) {
        self.want = backend;
        self.steer();
        self.wait(seconds(1));
        self.steer();
        assert_eq!(self.slot().current(), backend);
    }

    /// A sweep that sees these entries, and what follows.
    fn sweep(&mut self, entries: &[(Key, Entry)]) -> Sweep {
        let (finder, mut sweep) = (finder(), Sweep::new(self.now));
        for &entry in entries {
            sweep.take(0, entry, (&finder, &self.fits), &self.memory, self.now);
        }
        self.judge(&sweep);
        sweep
    }

    fn judge(&mut self, sweep: &Sweep) {
        let ring = Arc::new(vec![self.want; SLOTS]);
        let desired = Contents {
            rings: BTreeMap::from([(POOL, ring)]),
            ..Contents::default()
        };
        let terms = BTreeMap::from([(POOL, self.terms)]);
        let judge = Judge {
            sweep,
            desired: &desired,
            terms: &terms,
            max: MAX,
            alone: true,
            now: self.now,
        };
        self.tracker.judge(&judge, &self.memory);
    }

    fn why(&self, place: u32) -> Option<Why> {
        let held = self.tracker.held().iter().find(|held| held.number == place);
        held.map(|held| held.why)
    }
}

fn model() -> Model {
    let text = "
node: {name: lb1, interfaces: [eth0]}
pools: [{name: web, backends: [{name: a, address: 10.0.0.1}]}]
vips:
  - {address: 10.200.1.1, port: 80, protocol: tcp, pool: web, idle_timeout: 60}
  - {address: 10.200.1.1, port: 81, protocol: tcp, pool: web, tracking: off}
";
    config::parse(text, std::path::Path::new("lb.yaml")).expect("it is valid")
}

fn finder() -> Finder {
    let model = model();
    let mut contents = Contents::default();
    for index in [A, B, C] {
        let backend = lb_userspace::state::contents::Backend {
            entry: lb_common::backend::Entry::default(),
            info: lb_common::info::Backend::default(),
        };
        contents.backends.insert(index, backend);
    }
    for vip in &model.vips {
        contents
            .vips
            .insert(vip_key(vip), lb_common::vip::Value::default());
    }
    Finder::new(&model, &contents, key())
}

fn key() -> hash::Key {
    hash::Key::expand(&[7; 16])
}

fn flow(port: u16, vip_port: u16) -> Key {
    let addr = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().expect("an address"));
    Key {
        src: addr("192.0.2.1"),
        dst: addr("10.200.1.1"),
        sport: Be16::new(port),
        dport: Be16::new(vip_port),
        proto: 6,
        pad: [0; 3],
    }
}

fn place(key_of: &Key) -> u32 {
    key_of.tuple().hash(&key()) >> 16
}

#[test]
fn a_planned_change_is_prepared_first_and_retires_when_nobody_uses_origin() {
    let mut world = World::new();
    world.want = B;
    let steered = world.steer();
    assert_eq!(
        (steered.waiting, world.slot()),
        (SLOTS as u32, Slot::new(A, A, 0, TRACKED))
    );
    assert!(world.tracker.is_waiting());
    world.wait(seconds(1) - 1);
    world.steer();
    assert_eq!(world.slot().current(), A, "not before its time");
    world.wait(1);
    world.steer();
    assert_eq!(world.slot(), Slot::new(B, A, 0, TRACKED));
    assert!(!world.tracker.is_waiting());
    world.wait(IDLE - 1);
    world.sweep(&[]);
    assert_eq!(world.why(7), Some(Why::Held(Hold::Changed(1))));
    world.wait(1);
    world.sweep(&[]);
    assert_eq!(
        (world.why(7), world.slot().is_closing()),
        (Some(Why::Closing), true)
    );
    world.wait(1);
    world.sweep(&[]);
    assert!(
        world.slot().is_closing(),
        "a sweep that began with the vote knows nothing new"
    );
    world.wait(1);
    world.sweep(&[]);
    assert_eq!((world.slot(), world.why(7)), (Slot::new(B, B, A, 0), None));
    assert_eq!(world.tracker.pools().count(), 0);
    assert_eq!(world.tracker.census().retired, SLOTS as u64);
}

#[test]
fn entries_elsewhere_and_stamps_hold_a_slot_and_are_named() {
    let mut world = World::new();
    let (pinned, stamped) = (flow(1000, 80), 9);
    let at = place(&pinned);
    assert_ne!(at, stamped);
    world.change_to(B);
    let entry = Entry::probation(C, 1, world.now).confirmed(world.now);
    world.wait(IDLE);
    let entry = entry.used(world.now);
    world.memory.0.borrow_mut()[stamped as usize].1 = Uses::by_flow(world.now);
    for _ in 0..2 {
        world.sweep(&[(pinned, entry)]);
        world.wait(2);
    }
    assert_eq!(world.why(at), Some(Why::Held(Hold::Elsewhere(1))));
    let held = world
        .tracker
        .held()
        .iter()
        .find(|held| held.number == at)
        .expect("it is held");
    assert_eq!(held.example, Some((pinned, entry)));
    assert!(matches!(world.why(stamped), Some(Why::Held(Hold::Stamped(_)))));
    assert_eq!(world.tracker.held().len(), 2, "all others retired");
    // The entry ends, and so does the stamp's time.
    world.wait(IDLE + seconds(4));
    for _ in 0..2 {
        world.sweep(&[]);
        world.wait(2);
    }
    assert_eq!(world.tracker.held(), &[]);
}

#[test]
fn what_comes_between_the_votes_reopens() {
    let mut world = World::new();
    let key = flow(1000, 80);
    world.change_to(B);
    world.wait(IDLE);
    world.sweep(&[]);
    assert!(world.slot().is_closing());
    world.wait(2);
    let late = Entry::probation(A, 1, world.now);
    world.sweep(&[(key, late)]);
    let slot = world.memory.slot(place(&key));
    assert!(
        slot.is_tracked() && !slot.is_closing() && slot.origin() == A,
        "{slot:?}"
    );
    assert_eq!(world.tracker.census().reopened, 1);
    assert_eq!(world.slot(), Slot::new(B, B, A, 0));
}

#[test]
fn there_and_back_waits_for_entries_alone() {
    let mut world = World::new();
    world.change_to(B);
    world.want = A;
    assert_eq!(
        world.steer().waiting,
        0,
        "a slot that has been tracked for a second is prepared"
    );
    assert_eq!(world.slot(), Slot::new(A, A, 0, TRACKED));
    let key = flow(1000, 80);
    let entry = Entry::probation(B, 1, world.now).confirmed(world.now);
    world.sweep(&[(key, entry)]);
    assert_eq!(
        world.why(7),
        Some(Why::Unswept),
        "an entry made before the change may have been missed"
    );
    for _ in 0..2 {
        world.wait(2);
        world.sweep(&[(key, entry)]);
    }
    assert_eq!(world.slot(), Slot::untracked(A));
    assert_eq!(world.why(place(&key)), Some(Why::Held(Hold::Elsewhere(1))));
}

#[test]
fn a_suspicion_moves_current_at_once_and_forgets_nothing() {
    let mut world = World::new();
    world.fits.insert(A, Fitness::Silent);
    world.want = B;
    assert_eq!(world.steer().waiting, 0);
    assert_eq!(world.slot(), Slot::new(B, A, 0, TRACKED));
    world.fits.insert(A, Fitness::Alive);
    world.want = A;
    world.steer();
    assert_eq!(world.slot().current(), B, "coming back is a planned change");
    world.wait(seconds(1));
    world.steer();
    assert_eq!(world.slot(), Slot::new(A, A, 0, TRACKED));
}

#[test]
fn a_verdict_moves_origin_too_and_lasts_until_a_whole_sweep() {
    let mut world = World::new();
    world.fits.insert(A, Fitness::Silent);
    world.want = B;
    world.steer();
    world.fits.insert(A, Fitness::Dead);
    world.tracker.bury([A], world.now);
    world.steer();
    assert_eq!(world.slot(), Slot::new(B, B, 0, TRACKED));
    let dead = (
        flow(1000, 80),
        Entry::probation(A, 1, world.now).confirmed(world.now),
    );
    let mut sweep = Sweep::new(world.now);
    assert!(
        sweep.take(0, dead, (&finder(), &world.fits), &world.memory, world.now),
        "it is to be deleted"
    );
    world.judge(&sweep);
    assert!(world.tracker.is_barred(A), "the sweep began with the verdict");
    world.wait(2);
    world.sweep(&[]);
    assert!(!world.tracker.is_barred(A), "its entries are gone");
    assert!(!world.tracker.is_busy() || world.slot().is_tracked());
    assert!(
        !world.tracker.has_lifted(),
        "the verdict holds, so nothing changes"
    );
}

#[test]
fn who_returns_before_the_sweep_stays_dead_until_it() {
    let mut world = World::new();
    world.tracker.bury([A], world.now);
    world.tracker.bury([], world.now);
    assert!(world.tracker.is_barred(A) && world.tracker.is_busy());
    world.wait(2);
    world.sweep(&[]);
    assert!(!world.tracker.is_barred(A) && world.tracker.has_lifted() && !world.tracker.has_lifted());
    assert!(!world.tracker.is_busy());
}

/// A model of so many backends from number `first` on, in a table with room for three.
fn small(first: u16, backends: u16) -> Model {
    let backends: Vec<String> = (first..first + backends)
        .map(|n| format!("{{name: b{n}, address: 10.0.0.{n}}}"))
        .collect();
    let text = format!(
        "node: {{name: lb1, interfaces: [eth0]}}\ncapacity: {{backends: 4}}\npools: [{{name: web, backends: [{}]}}]\n",
        backends.join(", ")
    );
    config::parse(&text, std::path::Path::new("lb.yaml")).expect("it is valid")
}

/// The maps with the backends of a model, from an index on.
fn held(contents: &mut Contents, model: &Model, first: u16) {
    use lb_common::info::{self, text};
    contents.pools.insert(POOL, info::Pool { name: text("web") });
    for (index, backend) in (first..).zip(&model.pools[0].backends) {
        let info = info::Backend {
            id: backend.id,
            address: backend.address.into(),
            name: text(backend.name.as_str()),
            ..info::Backend::default()
        };
        let entry = lb_common::backend::Entry::default();
        let both = lb_userspace::state::contents::Backend { entry, info };
        contents.backends.insert(index, both);
    }
}

#[test]
fn who_leaves_is_kept_with_weight_0_and_forgotten_when_it_is_back() {
    let (old, new) = (small(1, 3), small(2, 2));
    let mut applied = Contents::default();
    held(&mut applied, &old, 1);
    let mut linger = Linger::default();
    linger.note(&old, &new, &applied, Tick(5));
    let with = linger.with(&new);
    let left = with.pools[0].backends.last().expect("one more");
    assert_eq!(
        (left.name.as_str(), left.weight, with.pools[0].backends.len()),
        ("b1", 0, 3)
    );
    linger.note(&new, &old, &applied, Tick(6));
    assert!(linger.is_empty());
}

#[test]
fn another_address_is_another_backend_and_the_old_one_leaves() {
    let old = small(1, 3);
    let mut new = old.clone();
    new.pools[0].backends[1].address = "10.0.0.99".parse().expect("an address");
    let mut applied = Contents::default();
    held(&mut applied, &old, 1);
    assert_eq!(parted(&old, &applied), []);
    let parted = parted(&new, &applied);
    assert_eq!(parted.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [2]);
    applied.backends.extend(parted);
    let mut linger = Linger::default();
    linger.note(&old, &new, &applied, Tick(5));
    let with = linger.with(&new);
    let left = with.pools[0].backends.last().expect("one more");
    assert_eq!(
        (left.name.as_str(), left.address.to_string()),
        ("b2.0a000002", "10.0.0.2".to_owned())
    );
    let ids = lb_userspace::state::ids::assign(&with, &applied);
    assert_eq!(
        (ids.backends[&left.id], ids.backends[&new.pools[0].backends[1].id]),
        (2, 4)
    );
}

#[test]
fn no_more_leave_than_there_are_indexes_for() {
    // Six indexes: three in use, and four backends that have left.
    let (old, new) = (small(1, 3), small(11, 3));
    let mut applied = Contents::default();
    held(&mut applied, &old, 1);
    held(&mut applied, &small(7, 1), 4);
    let mut linger = Linger::default();
    linger.note(&new, &new, &applied, Tick(5));
    linger.named(2, Tick(9));
    assert_eq!(linger.iter().count(), 4);
    assert_eq!(linger.trim(&new, Tick(10)).len(), 1);
    assert!(
        linger.iter().any(|(index, _)| index == 2),
        "the one that was named last stays"
    );
    let ids = lb_userspace::state::ids::assign(&linger.with(&new), &applied);
    assert_eq!(ids.backends.len(), 6);
}

#[test]
fn nobody_left_and_somebody_again() {
    let mut world = World::new();
    for backend in [A, B, C] {
        world.fits.insert(backend, Fitness::Dead);
    }
    world.want = NO_BACKEND;
    world.steer();
    assert_eq!(
        (world.slot().current(), world.slot().origin()),
        (NO_BACKEND, NO_BACKEND)
    );
    world.fits.insert(C, Fitness::Alive);
    world.want = C;
    world.steer();
    assert_eq!((world.slot().current(), world.slot().origin()), (C, C));
}

#[test]
fn without_tracking_a_change_moves_everything() {
    let mut world = World::new();
    world.terms = Terms::default();
    world.want = B;
    assert_eq!(world.steer().waiting, 0);
    assert_eq!(world.slot(), Slot::untracked(B));
}

#[test]
fn noise_holds_no_slot_for_longer_than_the_limit_but_entries_do() {
    let mut world = World::new();
    let key = flow(1000, 80);
    world.change_to(B);
    world.wait(MAX);
    let fresh = Entry::probation(A, 1, world.now).confirmed(world.now);
    for _ in 0..2 {
        for cell in world.memory.0.borrow_mut().iter_mut() {
            cell.1 = Uses::by_flow(world.now);
        }
        world.sweep(&[(key, fresh)]);
        world.wait(2);
    }
    assert!(!world.slot().is_tracked());
    assert_eq!(world.tracker.held().len(), 1);
    assert_eq!(world.tracker.census().overdue, SLOTS as u32);
    assert!(world.memory.slot(place(&key)).is_tracked());
}

#[test]
fn a_new_agent_takes_over_and_counts_anew() {
    let mut world = World::new();
    world.change_to(B);
    world.wait(IDLE);
    world.sweep(&[]);
    assert!(world.slot().is_closing());
    world.tracker = Tracker::adopt([POOL], &world.memory, true, 0, world.now);
    assert_eq!(
        world.slot(),
        Slot::new(B, A, 0, TRACKED),
        "nobody has made step 2"
    );
    world.wait(2);
    world.sweep(&[]);
    assert!(matches!(world.why(7), Some(Why::Held(Hold::Changed(_)))));
}

#[test]
fn udp_is_learned_for_its_idle_timeout() {
    let mut world = World::new();
    world.terms.udp = Some(seconds(10));
    world.change_to(B);
    assert!(world.slot().is_learning());
    world.wait(seconds(9) - 2);
    world.steer();
    assert!(world.slot().is_learning());
    world.wait(seconds(2));
    world.steer();
    assert!(!world.slot().is_learning() && world.slot().is_tracked());
}

#[test]
fn a_sweep_deletes_what_has_no_vip_or_no_backend_or_is_idle() {
    let world = World::new();
    let now = world.now.after(IDLE + TOUCH);
    let old = Entry::probation(A, 1, world.now).confirmed(world.now);
    let young = old.used(now);
    let mut sweep = Sweep::new(now);
    for (port, entry, gone) in [
        (80, young, false),
        (80, old, true),
        (81, young, true),
        (82, young, false),
        (82, old, false),
        (80, Entry { backend: 9, ..young }, true),
    ] {
        let taken = sweep.take(
            0,
            (flow(1, port), entry),
            (&finder(), &world.fits),
            &world.memory,
            now,
        );
        assert_eq!(taken, gone, "port {port}, {entry:?}");
    }
    assert_eq!((sweep.count(A), sweep.count(9), sweep.count(B)), (5, 1, 0));
}

#[test]
fn an_index_that_is_given_away_is_forgotten() {
    let world = World::new();
    let before = world.memory.slot(3);
    assert!(world.memory.swap(3, before, Slot::new(B, B, A, 0)));
    world.tracker.forget(A, [POOL], &world.memory);
    assert_eq!(world.memory.slot(3), Slot::untracked(B));
    assert_eq!(world.memory.slot(4), Slot::untracked(A), "only as previous");
}
