//! The same engine, as a member of a group.

use lb_common::slot::{SLOTS, Slot, TRACKED};
use lb_common::tick::seconds;
use lb_userspace::state::track::{Fitness, Gate, Ordered, Slots, Why};

use super::{A, B, C, IDLE, POOL, World};

/// A world whose slots wait for a coordinator.
fn member() -> World {
    let mut world = World::new();
    world.terms.gate = Gate::Shut;
    world
}

const SEVENTH: Ordered = Ordered { place: 7, to: B };

impl World {
    /// A planned change as the coordinator orders it.
    fn ordered(&mut self, backend: u16) {
        self.want = backend;
        self.terms.gate = Gate::Prepared;
        self.steer();
        self.terms.gate = Gate::Committed;
        self.steer();
    }

    fn close(&mut self) -> Vec<Ordered> {
        let terms = self.terms;
        self.tracker.close(&[SEVENTH], |_| terms, &self.memory, self.now)
    }

    fn vote_again(&mut self) -> Vec<Ordered> {
        let terms = self.terms;
        self.tracker
            .vote_again(&[SEVENTH], |_| terms, &self.memory, self.now)
    }

    fn finish(&mut self) {
        self.tracker.finish(&[SEVENTH], &self.memory, self.now);
    }

    /// A peer's record for the seventh slot.
    fn record(&mut self, backend: u16) {
        let before = self.slot();
        assert!(self.memory.swap(7, before, before.held(backend)));
    }
}

#[test]
fn a_member_changes_its_slots_only_when_told() {
    let mut world = member();
    world.want = B;
    world.steer();
    world.wait(IDLE);
    world.steer();
    assert_eq!(world.slot(), Slot::untracked(A), "nobody has ordered anything");
    world.terms.gate = Gate::Prepared;
    world.steer();
    world.wait(IDLE);
    world.steer();
    assert_eq!(
        world.slot(),
        Slot::new(A, A, 0, TRACKED),
        "prepared for as long as it takes"
    );
    world.terms.gate = Gate::Committed;
    world.steer();
    assert_eq!(world.slot(), Slot::new(B, A, 0, TRACKED));
}

#[test]
fn a_member_acts_on_its_own_suspicion_but_forgets_nothing() {
    let mut world = member();
    world.fits.insert(A, Fitness::Silent);
    world.want = B;
    world.steer();
    assert_eq!(world.slot(), Slot::new(B, A, 0, TRACKED));
    world.fits.insert(A, Fitness::Dead);
    world.steer();
    world.wait(3 * IDLE);
    world.sweep(&[]);
    assert_eq!(
        world.slot(),
        Slot::new(B, A, 0, TRACKED),
        "only the group names another origin"
    );
    let buried = [Ordered { place: 7, to: C }];
    let (fits, now) = (world.fits.clone(), world.now);
    assert_eq!(world.tracker.rehome(&buried, &fits, &world.memory, now), []);
    assert_eq!(
        world.slot(),
        Slot::new(B, C, 0, TRACKED),
        "the one that was named"
    );
}

#[test]
fn a_slot_retires_on_a_member_in_ordered_steps() {
    let mut world = member();
    world.ordered(B);
    world.wait(IDLE / 2);
    world.sweep(&[]);
    assert_eq!(
        world.close(),
        [SEVENTH],
        "it changed less than the idle timeout ago"
    );
    world.wait(2 * IDLE);
    world.sweep(&[]);
    assert_eq!(
        world.tracker.candidates().len(),
        4096,
        "as many as are told at once"
    );
    assert_eq!(world.why(7), Some(Why::Ready));
    assert_eq!(world.slot(), Slot::new(B, A, 0, TRACKED), "nobody has ordered it");
    assert_eq!(world.close(), []);
    assert_eq!(world.close(), [], "an order may come twice");
    assert!(world.slot().is_closing());
    world.want = C;
    world.steer();
    world.fits.insert(B, Fitness::Silent);
    world.steer();
    assert_eq!(world.slot().current(), B, "it has voted: a suspicion waits");
    world.want = B;
    world.wait(seconds(1));
    world.tracker.look(&world.memory);
    world.sweep(&[]);
    assert_eq!(world.vote_again(), []);
    world.tracker.retire(&[SEVENTH], &world.memory);
    assert_eq!(world.slot(), Slot::new(B, B, A, world.slot().flags()));
    world.finish();
    assert_eq!(world.slot(), Slot::new(B, B, A, 0));
    world.finish();
    assert_eq!(world.slot(), Slot::new(B, B, A, 0));
}

#[test]
fn a_record_that_comes_late_keeps_the_slot_tracked() {
    for before_vote in [true, false] {
        let mut world = member();
        world.ordered(B);
        world.wait(2 * IDLE);
        world.sweep(&[]);
        assert_eq!(world.close(), []);
        world.wait(seconds(1));
        world.tracker.look(&world.memory);
        world.sweep(&[]);
        if before_vote {
            world.record(C);
            assert_eq!(world.vote_again(), [SEVENTH]);
            world.tracker.reopen(&[SEVENTH], &world.memory);
            assert!(!world.slot().is_closing() && world.slot().origin() == A);
        } else {
            assert_eq!(world.vote_again(), []);
            world.tracker.retire(&[SEVENTH], &world.memory);
            world.record(C);
            world.finish();
            assert_eq!((world.slot().origin(), world.slot().is_closing()), (B, false));
        }
        assert!(world.slot().is_tracked());
    }
}

#[test]
fn a_record_tracks_a_slot_that_was_not() {
    let mut world = member();
    world.record(A);
    assert_eq!(world.slot(), Slot::untracked(A), "it says what the slot says");
    world.record(B);
    assert!(world.slot().is_tracked() && world.slot().is_held());
    world.tracker.recount_pool(POOL, &world.memory, world.now);
    assert_eq!(world.tracker.census().tracked[&POOL], 1);
    world.wait(3 * IDLE);
    world.tracker.look(&world.memory);
    world.sweep(&[]);
    assert_eq!(world.why(7), Some(Why::Ready), "the record's entry is gone");
}

#[test]
fn an_image_is_taken_with_origins_and_our_own_tracked_slots_stay_so() {
    let mut world = member();
    world.record(B);
    let mut image = vec![Slot::untracked(A); SLOTS];
    image[7] = Slot::untracked(C);
    image[8] = Slot::new(C, B, 0, TRACKED);
    image[9] = Slot::new(B, A, C, TRACKED);
    world.tracker.install(POOL, &image, &world.memory, world.now);
    let slot = |place| world.memory.slot(place);
    assert_eq!(slot(6), Slot::untracked(A));
    assert_eq!(
        slot(7),
        Slot::new(C, C, A, TRACKED),
        "and where our flows were is remembered"
    );
    assert_eq!(slot(8), Slot::new(C, B, A, TRACKED));
    assert_eq!(slot(9), Slot::new(B, A, C, TRACKED));
    assert_eq!(world.tracker.census().tracked[&POOL], 3);
}
