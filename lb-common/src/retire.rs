//! When a tracked slot may forget: the vote of one member, and what follows from all of them.
//!
//! A slot retires when *every* member reports that nobody uses `origin` and nothing is pinned elsewhere: one member
//! sees only its own share of the flows.

use crate::slot::Slot;
use crate::tick::{self, Tick};

/// A stamp is written when it is older than this, four seconds; so a use may be that much younger than its stamp.
pub const STAMP_EVERY: u32 = tick::seconds(4);

/// What one member knows of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The slot.
    pub slot: Slot,
    /// When a flow without an entry last used `origin` here.
    pub stamp: Option<Tick>,
    /// The last change of this slot or of the group's members: before it, flows used other nodes.
    pub changed: Tick,
    /// Entries of this slot, own, replica and in probation, that name another backend than `current`. UDP entries
    /// count too: they are idle sooner.
    pub elsewhere: u32,
}

/// Why a slot stays tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// UDP flows are still being learned.
    Learning,
    /// New flows go to another backend here than the one that was named.
    OtherCurrent,
    /// The slot or the group changed less than the idle timeout ago; ticks that are left.
    Changed(u32),
    /// A flow without an entry used `origin` less than the idle timeout ago; ticks that are left.
    Stamped(u32),
    /// Entries that name another backend than `current`, and how many.
    Elsewhere(u32),
}

/// The vote of one member on retiring a slot to `to`; `idle` is the longest idle timeout of the VIPs that use it,
/// ticks.
///
/// With `origin` = `to` it doesn't matter who uses `origin`: that is where all are to be. An untracked slot at `to`
/// has nothing to forget: yes.
///
/// # Errors
/// What holds the slot: the member votes no.
pub fn vote(view: &View, to: u16, idle: u32, now: Tick) -> Result<(), Hold> {
    let slot = view.slot;
    if slot.is_learning() {
        return Err(Hold::Learning);
    }
    if slot.current() != to {
        return Err(Hold::OtherCurrent);
    }
    if slot.origin() != to {
        if let Some(left) = left(view.changed, idle, now) {
            return Err(Hold::Changed(left));
        }
        let used = view.stamp.and_then(|stamp| left(stamp, idle + STAMP_EVERY, now));
        if let Some(left) = used {
            return Err(Hold::Stamped(left));
        }
    }
    match view.elsewhere {
        0 => Ok(()),
        entries => Err(Hold::Elsewhere(entries)),
    }
}

fn left(start: Tick, period: u32, now: Tick) -> Option<u32> {
    let passed = now.since(start);
    (passed < period).then(|| period - passed)
}

/// What the coordinator does with the votes on one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every member voted yes: on with step 2, and to the end.
    Retire,
    /// A member voted no: every member that is closing opens the slot again.
    Reopen,
    /// A member has not voted: the slot stays closing.
    Wait,
}

/// Counts the votes, one for each member; `None` = not heard of yet.
pub fn outcome(votes: impl IntoIterator<Item = Option<Result<(), Hold>>>) -> Outcome {
    let (mut members, mut missing) = (0, 0);
    for vote in votes {
        members += 1;
        match vote {
            Some(Ok(())) => {}
            Some(Err(_)) => return Outcome::Reopen,
            None => missing += 1,
        }
    }
    if missing > 0 || members == 0 {
        Outcome::Wait
    } else {
        Outcome::Retire
    }
}

/// Whether a slot has been tracked for longer than it may: an alarm, and the operator's limit on noise that holds it.
pub const fn is_overdue(tracked: Tick, max: u32, now: Tick) -> bool {
    now.since(tracked) >= max
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::{CLOSING, TRACKED, UDP_LEARN};

    const IDLE: u32 = 900;
    const NOW: Tick = Tick(50);

    fn ago(ticks: u32) -> Tick {
        Tick(NOW.0.wrapping_sub(ticks))
    }

    fn view(slot: Slot) -> View {
        View {
            slot,
            stamp: None,
            changed: ago(IDLE),
            elsewhere: 0,
        }
    }

    #[test]
    fn votes() {
        let moved = view(Slot::new(2, 1, 0, TRACKED));
        let back = view(Slot::new(2, 2, 0, TRACKED));
        let stamped = |ticks| Some(ago(ticks));
        for (view, expected) in [
            (view(Slot::untracked(2)), Ok(())),
            (view(Slot::untracked(3)), Err(Hold::OtherCurrent)),
            (view(Slot::new(2, 1, 0, TRACKED | UDP_LEARN)), Err(Hold::Learning)),
            (view(Slot::new(3, 1, 0, TRACKED)), Err(Hold::OtherCurrent)),
            (moved, Ok(())),
            (view(Slot::new(2, 1, 0, TRACKED | CLOSING)), Ok(())),
            (
                View {
                    changed: ago(IDLE - 1),
                    ..moved
                },
                Err(Hold::Changed(1)),
            ),
            (
                View {
                    stamp: stamped(IDLE),
                    ..moved
                },
                Err(Hold::Stamped(STAMP_EVERY)),
            ),
            (
                View {
                    stamp: stamped(IDLE + STAMP_EVERY),
                    ..moved
                },
                Ok(()),
            ),
            (
                View {
                    elsewhere: 3,
                    ..moved
                },
                Err(Hold::Elsewhere(3)),
            ),
            // There and back: everything uses the origin, which is no reason.
            (back, Ok(())),
            (
                View {
                    changed: NOW,
                    stamp: stamped(0),
                    ..back
                },
                Ok(()),
            ),
            (View { elsewhere: 1, ..back }, Err(Hold::Elsewhere(1))),
        ] {
            assert_eq!(vote(&view, 2, IDLE, NOW), expected, "{view:?}");
        }
    }

    #[test]
    fn all_members_decide() {
        let (yes, no) = (Some(Ok(())), Some(Err(Hold::Elsewhere(1))));
        assert_eq!(outcome([yes]), Outcome::Retire);
        assert_eq!(outcome([yes, yes]), Outcome::Retire);
        assert_eq!(outcome([yes, None]), Outcome::Wait);
        assert_eq!(outcome([None, no]), Outcome::Reopen);
        assert_eq!(outcome([]), Outcome::Wait, "nobody is not everybody");
    }

    #[test]
    fn a_day_at_most() {
        let day = tick::seconds(86_400);
        assert!(!is_overdue(Tick(0), day, Tick(day - 1)) && is_overdue(Tick(0), day, Tick(day)));
    }
}
