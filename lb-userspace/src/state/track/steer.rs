//! Where one slot goes from here: planned changes, suspicions and verdicts.

use std::collections::BTreeMap;

use lb_common::backend::DEAD;
use lb_common::info::next_hop::RESOLVED;
use lb_common::slot::{NO_BACKEND, Slot};
use lb_common::tick::{self, Tick};

use super::super::contents::{Backend, Contents};
use super::super::standing::{Standing, Standings};

/// From PREPARE to COMMIT: a SYN that met the untracked slot has no entry, and its answer must not come after COMMIT.
pub(super) const PREPARE: u32 = tick::seconds(1);

/// What a backend is good for, as slots see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fitness {
    /// Its flows live: it is left by a planned change.
    Alive,
    /// By this node's own view it can't be reached: it is left at once, and nothing is forgotten.
    Silent,
    /// By verdict: nobody is to be found there.
    Dead,
}

/// The fitness of all backends, by index; whoever is not named is nobody.
pub type Fits = BTreeMap<u16, Fitness>;

/// What the backends in `desired` are good for. `barred`: dead ones whose entries are not all deleted yet.
pub fn fits(desired: &Contents, standings: &Standings, barred: impl Fn(u16) -> bool) -> Fits {
    let fit = |index: u16, backend: &Backend| match standings.of(backend.info.id) {
        Standing::Dead => Fitness::Dead,
        _ if barred(index) || backend.entry.flags & DEAD != 0 => Fitness::Dead,
        Standing::Suspect => Fitness::Silent,
        _ if backend.info.next_hop != RESOLVED => Fitness::Silent,
        Standing::Up | Standing::Draining => Fitness::Alive,
    };
    let all = desired.backends.iter();
    all.map(|(&index, backend)| (index, fit(index, backend)))
        .collect()
}

fn of(fits: &Fits, backend: u16) -> Fitness {
    // Whoever has no index any more has no flows either, and NO_BACKEND has none.
    fits.get(&backend).copied().unwrap_or(Fitness::Dead)
}

/// What is known of one slot beside what it holds itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Marks {
    /// Since when it is tracked.
    pub(super) since: Tick,
    /// When `current` or `origin` changed last.
    pub(super) changed: Tick,
    /// When retirement began.
    pub(super) closed: Tick,
    /// Until when it learns old UDP flows.
    pub(super) learns: Tick,
}

/// Who lets a planned change of slots go on.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Time alone: the group is this node.
    #[default]
    Alone,
    /// Nobody yet: the coordinator has not ordered this change.
    Shut,
    /// The coordinator: slots are tracked (PREPARE).
    Prepared,
    /// The coordinator: new flows are led elsewhere (COMMIT).
    Committed,
}

impl Gate {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Shut => "shut",
            Self::Prepared => "prepared",
            Self::Committed => "committed",
        }
    }
}

/// What holds for all slots of a pool.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Who lets a planned change go on.
    pub gate: Gate,
    /// The longest idle timeout of its VIPs whose flows are tracked, ticks; `None` where there is none of them.
    pub idle: Option<u32>,
    /// The same of its UDP VIPs alone.
    pub udp: Option<u32>,
}

/// One step of a slot towards `want`; the slot as it is where nothing can be done now.
///
/// The transitions refuse nothing here: each is made only from the states that it takes.
pub(super) fn step(slot: Slot, marks: Marks, want: u16, terms: Terms, fits: &Fits, now: Tick) -> Slot {
    if terms.idle.is_none() {
        return if slot.is_tracked() || slot.current() != want {
            Slot::untracked(want)
        } else {
            slot
        };
    }
    if !slot.is_tracked() && slot.current() == NO_BACKEND {
        return Slot::untracked(want);
    }
    let leaves = slot.current() != want;
    if terms.gate != Gate::Alone {
        // Members have voted on one that is closing: it stays as it is, and a suspicion waits.
        return match slot.is_closing() {
            true => slot,
            false if leaves => learned(leave(slot, marks, want, terms, fits, now), marks, fits, now),
            false => learned(slot, marks, fits, now),
        };
    }
    let is_lost = slot.origin() != slot.current() && of(fits, slot.origin()) == Fitness::Dead;
    // Of a group of one nobody else has made step 2, so the vote may fail at any time.
    let slot = if leaves || is_lost {
        slot.reopen().unwrap_or(slot)
    } else {
        slot
    };
    let slot = if leaves {
        leave(slot, marks, want, terms, fits, now)
    } else {
        slot
    };
    buried(learned(slot, marks, fits, now), fits)
}

fn leave(slot: Slot, marks: Marks, want: u16, terms: Terms, fits: &Fits, now: Tick) -> Slot {
    let next = match of(fits, slot.current()) {
        Fitness::Dead => slot.dead(slot.current(), want),
        Fitness::Silent => slot.suspect(want),
        Fitness::Alive if !slot.is_tracked() && terms.gate == Gate::Shut => Ok(slot),
        Fitness::Alive if !slot.is_tracked() => {
            let tracked = slot.track();
            if terms.udp.is_some() {
                tracked.learn(true)
            } else {
                Ok(tracked)
            }
        }
        Fitness::Alive if may_commit(terms.gate, marks, now) => slot.commit(want),
        Fitness::Alive => Ok(slot),
    };
    next.expect("an open slot takes each of them")
}

fn may_commit(gate: Gate, marks: Marks, now: Tick) -> bool {
    match gate {
        Gate::Alone => now.since(marks.since) >= PREPARE,
        Gate::Shut | Gate::Prepared => false,
        Gate::Committed => true,
    }
}

/// Ends the time in which UDP flows are learned, also where they would be sent to nobody.
fn learned(slot: Slot, marks: Marks, fits: &Fits, now: Tick) -> Slot {
    // A slot that begins to learn in this very step has no marks yet.
    let is_over = marks.learns != Tick(0) && now.since(marks.learns) > 0;
    if slot.is_learning() && (is_over || of(fits, slot.origin()) != Fitness::Alive) {
        slot.learn(false).expect("it is tracked")
    } else {
        slot
    }
}

/// `origin` at a living backend, or where new flows go: nobody is left to be found at a dead one.
fn buried(slot: Slot, fits: &Fits) -> Slot {
    let origin = slot.origin();
    if slot.current() != origin && !slot.is_closing() && of(fits, origin) == Fitness::Dead {
        slot.bury(origin, slot.current()).expect("it is tracked and open")
    } else {
        slot
    }
}

/// Whether a step changed where flows go, so that the idle timeout begins anew.
pub(super) const fn moves(before: Slot, after: Slot) -> bool {
    before.current() != after.current() || before.origin() != after.origin() || !before.is_tracked()
}
