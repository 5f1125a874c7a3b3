//! When a tracked slot may forget: the vote of one member, and what follows from all of them.
//!
//! A slot retires when *every* member reports that nobody uses `origin` and nothing is pinned elsewhere: one member
//! sees only its own share of the flows.

use crate::be::wire;
use crate::slot::Slot;
use crate::tick::{self, Tick};

/// Marks are written anew when they are older than this, four seconds; so a use may be that much younger than its mark.
pub const MARK_EVERY: u32 = tick::seconds(4);

wire! {
    /// Who used a slot's `origin` without an entry, and when: the value of a map beside the slots, 8 bytes. Zero is
    /// never.
    #[derive(Default)]
    #[repr(C)]
    pub struct Uses {
        /// Somebody did: a living flow, or a late segment of a closed one.
        pub seen: Tick,
        /// A living flow did: it was seen twice, or its SYN was refused.
        pub stamp: Tick,
    }
}

impl Uses {
    /// With a mark for somebody.
    #[inline(always)]
    pub const fn by_somebody(self, now: Tick) -> Self {
        Self {
            seen: now.or_one(),
            ..self
        }
    }

    /// With the stamp of a living flow.
    #[inline(always)]
    pub const fn by_flow(now: Tick) -> Self {
        Self {
            seen: now.or_one(),
            stamp: now.or_one(),
        }
    }

    /// Whether `mark`, one of these, is so young that it needn't be written anew.
    #[inline(always)]
    pub const fn is_fresh(mark: Tick, now: Tick) -> bool {
        mark.0 != 0 && now.since(mark) < MARK_EVERY
    }
}

/// What one member knows of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The slot.
    pub slot: Slot,
    /// Who used `origin` here.
    pub uses: Uses,
    /// The last change of this slot or of the group's members: before it, flows used other nodes.
    pub changed: Tick,
    /// Entries of this slot, own, replica and in probation, that name another backend than `current`. UDP entries
    /// count too: they are idle sooner.
    pub elsewhere: u32,
    /// Whether this node has been the only member for twice the idle timeout: then no flow was on another one.
    pub alone: bool,
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
    /// Somebody used `origin` less than the idle timeout ago, and it is too early to tell whether that was a living
    /// flow; ticks that are left.
    Seen(u32),
    /// A living flow without an entry used `origin` less than twice the idle timeout ago (once, where there is no other
    /// member); ticks that are left.
    Stamped(u32),
    /// Entries that name another backend than `current`, and how many.
    Elsewhere(u32),
}

/// The vote of one member on retiring a slot to `to`; `idle` is the longest idle timeout of the VIPs that use it,
/// ticks.
///
/// A living flow is never silent for longer than `idle`. So it is quite safe to forget when *nobody* was seen for that
/// long. Where somebody was, it may have been noise: a flow is stamped when it is seen twice on one node, which a
/// living one is within twice `idle` after the last change; and if it went to another node in between, its stamp on
/// the former one is not older than that. Where there is no other node ([`View::alone`]) every packet of a flow that was seen twice
/// renews the stamp, so one that is older than `idle` is no living flow's.
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
        unused(view, idle, now)?;
    }
    match view.elsewhere {
        0 => Ok(()),
        entries => Err(Hold::Elsewhere(entries)),
    }
}

fn unused(view: &View, idle: u32, now: Tick) -> Result<(), Hold> {
    if let Some(left) = left(view.changed, idle, now) {
        return Err(Hold::Changed(left));
    }
    let stamped = if view.alone { idle } else { 2 * idle };
    if let Some(left) = mark_left(view.uses.stamp, stamped, now) {
        return Err(Hold::Stamped(left));
    }
    match (
        mark_left(view.uses.seen, idle, now),
        left(view.changed, 2 * idle, now),
    ) {
        (Some(seen), Some(changed)) => Err(Hold::Seen(if seen < changed { seen } else { changed })),
        _ => Ok(()),
    }
}

fn mark_left(mark: Tick, period: u32, now: Tick) -> Option<u32> {
    if mark.0 == 0 {
        None
    } else {
        left(mark, period + MARK_EVERY, now)
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
            uses: Uses::default(),
            changed: ago(IDLE),
            elsewhere: 0,
            alone: false,
        }
    }

    #[test]
    fn votes() {
        let moved = view(Slot::new(2, 1, 0, TRACKED));
        let back = view(Slot::new(2, 2, 0, TRACKED));
        for (view, expected) in [
            (view(Slot::untracked(2)), Ok(())),
            (view(Slot::untracked(3)), Err(Hold::OtherCurrent)),
            (view(Slot::new(2, 1, 0, TRACKED | UDP_LEARN)), Err(Hold::Learning)),
            (view(Slot::new(3, 1, 0, TRACKED)), Err(Hold::OtherCurrent)),
            (moved, Ok(())),
            (view(Slot::new(2, 1, 0, TRACKED | CLOSING)), Ok(())),
            (with(moved, IDLE - 1, None, None), Err(Hold::Changed(1))),
            (
                View {
                    elsewhere: 3,
                    ..moved
                },
                Err(Hold::Elsewhere(3)),
            ),
            // There and back: everything uses the origin, which is no reason.
            (back, Ok(())),
            (with(back, 0, Some(0), Some(0)), Ok(())),
            (View { elsewhere: 1, ..back }, Err(Hold::Elsewhere(1))),
        ] {
            assert_eq!(vote(&view, 2, IDLE, NOW), expected, "{view:?}");
        }
    }

    fn with(view: View, changed: u32, seen: Option<u32>, stamp: Option<u32>) -> View {
        let mark = |ticks: Option<u32>| ticks.map_or(Tick(0), ago);
        let uses = Uses {
            seen: mark(seen),
            stamp: mark(stamp),
        };
        View {
            uses,
            changed: ago(changed),
            ..view
        }
    }

    /// Noise is seen once and holds a slot for twice the idle timeout after its change at most.
    #[test]
    fn noise_and_living_flows() {
        let moved = view(Slot::new(2, 1, 0, TRACKED));
        let (once, twice) = (IDLE + MARK_EVERY, 2 * IDLE + MARK_EVERY);
        for (changed, seen, stamp, expected) in [
            (IDLE, None, None, Ok(())),
            (IDLE, Some(once), None, Ok(())),
            (IDLE, Some(once - 1), None, Err(Hold::Seen(1))),
            (2 * IDLE - 7, Some(0), None, Err(Hold::Seen(7))),
            (2 * IDLE, Some(0), None, Ok(())),
            (9 * IDLE, Some(0), Some(twice - 5), Err(Hold::Stamped(5))),
            (9 * IDLE, Some(0), Some(twice), Ok(())),
            (9 * IDLE, Some(0), Some(0), Err(Hold::Stamped(twice))),
        ] {
            let view = with(moved, changed, seen, stamp);
            assert_eq!(vote(&view, 2, IDLE, NOW), expected, "{view:?}");
        }
    }

    #[test]
    fn zero_is_never() {
        let uses = Uses::by_flow(Tick(0));
        assert_eq!((uses.seen, uses.stamp), (Tick(1), Tick(1)));
        assert!(Uses::is_fresh(uses.stamp, Tick(1)) && !Uses::is_fresh(Tick(0), Tick(1)));
        assert!(!Uses::is_fresh(uses.stamp, Tick(1 + MARK_EVERY)));
        assert_eq!(
            Uses::by_flow(Tick(5)).by_somebody(Tick(9)),
            Uses {
                seen: Tick(9),
                stamp: Tick(5)
            }
        );
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
