//! One cell of a ring, and what may become of it.
//!
//! **Invariant.** A flow without an entry is at `origin`, and every member of the group holds the same `origin`.
//! **Invariant.** An untracked slot has `current` = `origin`, and only a tracked slot's `current` is changed.
//!
//! The transitions refuse what would break one of the two on this node; who runs them when, and which member has to
//! have acknowledged what, is in docs/adr/0007-tracked-slots.md.

use crate::be::wire;

/// Slots of one ring.
pub const SLOTS: usize = 65_536;

/// The backend index that means *no backend*; the backend map's first entry is never used.
pub const NO_BACKEND: u16 = 0;

/// Flag: the flow table is consulted.
pub const TRACKED: u16 = 1;
/// Flag, only beside [`TRACKED`]: members are between the vote on retirement and its end, so `origin` may differ
/// from theirs, and a SYN that can't be entered has nowhere to go.
pub const CLOSING: u16 = 2;
/// Flag, only beside [`TRACKED`]: UDP flows without an entry are old ones at `origin`, to be entered.
pub const UDP_LEARN: u16 = 4;

/// Flag, only beside [`TRACKED`]: a peer's record named another backend than `current` after the slot was looked at last.
/// Set by who merges records, cleared by who looks; the program doesn't care.
pub const HELD: u16 = 8;

wire! {
    /// `{current, origin, previous, flags: u16}` in one aligned u64: one load per packet, one atomic store per
    /// change, never torn. Written by the agent alone.
    #[derive(Default, Hash)]
    #[repr(transparent)]
    pub struct Slot(pub u64);
}

/// Why a transition is refused. The slot stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// `current` of an untracked slot is never changed: track it first.
    Untracked,
    /// Retirement has begun: it is finished, never abandoned or overtaken.
    Closing,
    /// A step of retirement without the step before it.
    NotClosing,
    /// This node's `current` is not the backend that the message names: it votes no.
    OtherCurrent,
    /// `origin` is not the backend that the message names: the step before was not made here.
    OtherOrigin,
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Untracked => "the slot is not tracked",
            Self::Closing => "the slot's retirement has begun and must be finished first",
            Self::NotClosing => "the slot's retirement has not begun",
            Self::OtherCurrent => "the slot's current is not the backend that was named",
            Self::OtherOrigin => "the slot's origin is not the backend that was named",
        })
    }
}

impl core::error::Error for Refused {}

impl Slot {
    /// A slot from its parts.
    #[inline(always)]
    pub const fn new(current: u16, origin: u16, previous: u16, flags: u16) -> Self {
        Self(current as u64 | (origin as u64) << 16 | (previous as u64) << 32 | (flags as u64) << 48)
    }

    /// A slot that hasn't changed lately: new flows and old ones go to `backend`.
    #[inline(always)]
    pub const fn untracked(backend: u16) -> Self {
        Self::new(backend, backend, NO_BACKEND, 0)
    }

    /// Where new flows go.
    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Where flows without an entry are.
    #[inline(always)]
    pub const fn origin(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The origin before the last retirement.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// [`TRACKED`], [`CLOSING`], [`UDP_LEARN`].
    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Whether the flow table is consulted.
    #[inline(always)]
    pub const fn is_tracked(self) -> bool {
        self.flags() & TRACKED != 0
    }

    /// Whether retirement has begun.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.flags() & CLOSING != 0
    }

    /// Whether UDP flows without an entry count as old ones.
    #[inline(always)]
    pub const fn is_learning(self) -> bool {
        self.flags() & UDP_LEARN != 0
    }

    /// Whether a peer's record named another backend lately.
    #[inline(always)]
    pub const fn is_held(self) -> bool {
        self.flags() & HELD != 0
    }

    const fn with_current(self, backend: u16) -> Self {
        Self::new(backend, self.origin(), self.previous(), self.flags())
    }

    const fn with_origin(self, backend: u16) -> Self {
        Self::new(self.current(), backend, self.previous(), self.flags())
    }

    const fn with_flags(self, flags: u16) -> Self {
        Self::new(self.current(), self.origin(), self.previous(), flags)
    }

    const fn without(self, flags: u16) -> Self {
        self.with_flags(self.flags() & !flags)
    }

    /// PREPARE of a planned change: flows are looked up and entered from now on. Always harmless.
    pub const fn track(self) -> Self {
        self.with_flags(self.flags() | TRACKED)
    }

    /// Begins or ends the time in which UDP flows without an entry are entered at `origin`.
    ///
    /// # Errors
    /// [`Refused::Untracked`].
    pub const fn learn(self, on: bool) -> Result<Self, Refused> {
        match (self.is_tracked(), on) {
            (false, _) => Err(Refused::Untracked),
            (true, true) => Ok(self.with_flags(self.flags() | UDP_LEARN)),
            (true, false) => Ok(self.without(UDP_LEARN)),
        }
    }

    /// COMMIT of a planned change: new flows go to `to`.
    ///
    /// # Errors
    /// [`Refused::Untracked`]; [`Refused::Closing`].
    pub const fn commit(self, to: u16) -> Result<Self, Refused> {
        if !self.is_tracked() {
            Err(Refused::Untracked)
        } else if self.is_closing() {
            Err(Refused::Closing)
        } else {
            Ok(self.with_current(to))
        }
    }

    /// Gives a planned change up, in either phase: the slot stays tracked, and `current` is policy.
    ///
    /// # Errors
    /// [`Refused::Closing`]: a retirement is never abandoned.
    pub const fn abandon(self) -> Result<Self, Refused> {
        if self.is_closing() {
            Err(Refused::Closing)
        } else {
            Ok(self.without(UDP_LEARN))
        }
    }

    /// This node's own view of the backends changed, for the worse or back: new flows go to `to`, old ones stay.
    /// Needs nobody.
    ///
    /// # Errors
    /// [`Refused::Closing`]: members have voted that nothing is elsewhere than at `current`. Try again when the
    /// retirement has ended.
    pub const fn suspect(self, to: u16) -> Result<Self, Refused> {
        if self.current() == to {
            Ok(self)
        } else if self.is_closing() {
            Err(Refused::Closing)
        } else {
            Ok(self.track().with_current(to))
        }
    }

    /// A peer's record for a flow of this slot, at `backend`: the slot as it has to be for the record to count. Where
    /// the slot alone says the same it stays untracked; the record is kept nevertheless, for the day on which the slot
    /// is tracked, or the peer and this node would know different flows.
    pub const fn record(self, backend: u16) -> Self {
        if backend == self.current() {
            self
        } else {
            self.track()
        }
    }

    /// The same, told to who retires the slot ([`HELD`]).
    pub const fn held(self, backend: u16) -> Self {
        if backend == self.current() {
            self
        } else {
            self.with_flags(self.flags() | TRACKED | HELD)
        }
    }

    /// Looked at, so no longer [`HELD`].
    pub const fn looked_at(self) -> Self {
        self.without(HELD)
    }

    /// RETIRE, step 1: this node's vote for `to` ([`crate::retire::vote`]) is yes, and `current` stays from now on. Members
    /// vote once more when all are closing and every earlier record is in.
    /// An untracked slot at `to` has nothing to forget, but has to stay there as well.
    ///
    /// # Errors
    /// [`Refused::OtherCurrent`].
    pub const fn close(self, to: u16) -> Result<Self, Refused> {
        if self.current() == to {
            Ok(self.with_flags(self.flags() | TRACKED | CLOSING))
        } else {
            Err(Refused::OtherCurrent)
        }
    }

    /// The vote failed: some member said no. Only while *no* member has made step 2, and none will, which a slot can't
    /// know by itself: origins that differ are for good.
    ///
    /// # Errors
    /// [`Refused::NotClosing`].
    pub const fn reopen(self) -> Result<Self, Refused> {
        if self.is_closing() {
            Ok(self.without(CLOSING))
        } else {
            Err(Refused::NotClosing)
        }
    }

    /// RETIRE, step 2, when every member has voted yes twice: flows without an entry are at `to`, which the message names.
    /// Making it twice changes nothing more.
    ///
    /// # Errors
    /// [`Refused::NotClosing`].
    pub const fn retire(self, to: u16) -> Result<Self, Refused> {
        if self.origin() == to {
            Ok(self)
        } else if self.is_closing() {
            Ok(Self::new(self.current(), to, self.origin(), self.flags()))
        } else {
            Err(Refused::NotClosing)
        }
    }

    /// RETIRE, step 3, when every member has made step 2: the slot alone decides again. Not where flows elsewhere are
    /// known (`elsewhere`: entries of this slot, own, replica or in probation, that name another backend than `to`): a
    /// member that made this step earlier may have moved on already. Then the slot stays tracked.
    ///
    /// # Errors
    /// [`Refused::NotClosing`]; [`Refused::OtherOrigin`].
    pub const fn finish(self, to: u16, elsewhere: u32) -> Result<Self, Refused> {
        if !self.is_tracked() && self.origin() == to {
            Ok(self)
        } else if !self.is_closing() {
            Err(Refused::NotClosing)
        } else if self.origin() != to || self.current() != to {
            Err(Refused::OtherOrigin)
        } else if elsewhere == 0 {
            Ok(self.without(TRACKED | CLOSING | UDP_LEARN | HELD))
        } else {
            Ok(self.without(CLOSING))
        }
    }

    /// The group's verdict that `backend` is dead, step 1: it gets no new flows, `to` does; other slots stay.
    /// Entries to it are deleted in the same step.
    ///
    /// # Errors
    /// [`Refused::Closing`].
    pub const fn dead(self, backend: u16, to: u16) -> Result<Self, Refused> {
        if self.current() != backend && self.origin() != backend {
            Ok(self)
        } else if self.is_closing() {
            Err(Refused::Closing)
        } else if self.current() == backend {
            Ok(self.track().with_current(to))
        } else {
            Ok(self.track())
        }
    }

    /// The verdict's step 2, when every member has made step 1: `to`, which the message names, is the origin
    /// instead of the dead `backend`. `previous` stays: nobody is left to be found at the dead one.
    ///
    /// # Errors
    /// [`Refused::Closing`]; [`Refused::Untracked`] if step 1 was not made here.
    pub const fn bury(self, backend: u16, to: u16) -> Result<Self, Refused> {
        if self.origin() != backend {
            Ok(self)
        } else if self.is_closing() {
            Err(Refused::Closing)
        } else if !self.is_tracked() {
            Err(Refused::Untracked)
        } else {
            Ok(self.with_origin(to))
        }
    }
}

/// The slot of a flow hash, within its ring.
#[inline(always)]
pub const fn of_hash(hash: u32) -> u32 {
    hash >> 16
}

/// Where a pool's slot lies in the flat array of all rings.
#[inline(always)]
pub const fn index(pool: u16, slot: u32) -> u32 {
    (pool as u32) << 16 | (slot & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Refused::*;

    const A: u16 = 1;
    const B: u16 = 2;
    const C: u16 = 3;

    /// All slots over four backends (one of them *none*) and three flags that satisfy the invariants.
    fn all() -> impl Iterator<Item = Slot> {
        (0..64u16)
            .flat_map(|n| {
                let slot = move |flags| Slot::new(n & 3, n >> 2 & 3, n >> 4 & 3, flags);
                (0..8u16).map(slot)
            })
            .filter(is_valid)
    }

    fn is_valid(slot: &Slot) -> bool {
        if slot.is_tracked() {
            true
        } else {
            slot.flags() == 0 && slot.current() == slot.origin()
        }
    }

    #[test]
    fn packing() {
        let slot = Slot(0x0004_0003_0002_0001);
        assert_eq!(
            (slot.current(), slot.origin(), slot.previous(), slot.flags()),
            (1, 2, 3, 4)
        );
        assert_eq!(Slot::new(1, 2, 3, 4), slot);
        let plain = Slot::untracked(0xffff);
        assert_eq!(
            (plain.current(), plain.origin(), plain.previous(), plain.flags()),
            (0xffff, 0xffff, 0, 0)
        );
        assert_eq!(Slot::default().current(), NO_BACKEND);
    }

    #[test]
    fn slots_of_pools_do_not_overlap() {
        assert_eq!(index(0, of_hash(u32::MAX)), 65_535);
        assert_eq!(index(1, of_hash(0)), 65_536);
        assert_eq!(index(63, 0xffff), 64 * 65_536 - 1);
    }

    #[test]
    fn a_planned_change_and_its_retirement() {
        let tracked = Slot::untracked(A).track();
        assert_eq!(tracked, Slot::new(A, A, 0, TRACKED));
        let moved = tracked.commit(B).unwrap();
        assert_eq!(moved, Slot::new(B, A, 0, TRACKED));
        let closing = moved.close(B).unwrap();
        assert_eq!(closing, Slot::new(B, A, 0, TRACKED | CLOSING));
        let retired = closing.retire(B).unwrap();
        assert_eq!(retired, Slot::new(B, B, A, TRACKED | CLOSING));
        assert_eq!(
            retired.retire(B),
            Ok(retired),
            "the next coordinator may repeat a step"
        );
        let done = retired.finish(B, 0).unwrap();
        assert_eq!(done, Slot::new(B, B, A, 0));
        assert_eq!(done.finish(B, 0), Ok(done));
        assert_eq!(retired.finish(B, 1), Ok(Slot::new(B, B, A, TRACKED)));
    }

    #[test]
    fn a_suspicion_and_its_end_touch_current_alone() {
        let suspicious = Slot::untracked(A).suspect(B).unwrap();
        assert_eq!(suspicious, Slot::new(B, A, 0, TRACKED));
        assert_eq!(suspicious.suspect(A), Ok(Slot::new(A, A, 0, TRACKED)));
        assert_eq!(
            Slot::untracked(A).suspect(A),
            Ok(Slot::untracked(A)),
            "nothing to change"
        );
    }

    #[test]
    fn a_verdict() {
        let step1 = Slot::untracked(A).dead(A, B).unwrap();
        assert_eq!(step1, Slot::new(B, A, 0, TRACKED));
        assert_eq!(
            step1.bury(A, C).unwrap(),
            Slot::new(B, C, 0, TRACKED),
            "origin is the named one"
        );
        assert_eq!(
            Slot::new(C, A, 0, TRACKED).dead(A, B),
            Ok(Slot::new(C, A, 0, TRACKED))
        );
        assert_eq!(
            Slot::untracked(C).dead(A, B),
            Ok(Slot::untracked(C)),
            "not its slot"
        );
        assert_eq!(Slot::untracked(C).bury(A, B), Ok(Slot::untracked(C)));
    }

    #[test]
    fn what_is_refused() {
        let (plain, tracked) = (Slot::untracked(A), Slot::new(B, A, 0, TRACKED));
        let closing = Slot::new(B, A, 0, TRACKED | CLOSING);
        for (result, why) in [
            (plain.commit(B), Untracked),
            (plain.learn(true), Untracked),
            (plain.close(B), OtherCurrent),
            (plain.bury(A, B), Untracked),
            (plain.retire(B), NotClosing),
            (tracked.close(A), OtherCurrent),
            (tracked.retire(B), NotClosing),
            (tracked.finish(A, 0), NotClosing),
            (Slot::new(B, B, 0, TRACKED).finish(B, 0), NotClosing),
            (plain.finish(B, 0), NotClosing),
            (tracked.reopen(), NotClosing),
            (closing.commit(C), Closing),
            (closing.abandon(), Closing),
            (closing.dead(A, C), Closing),
            (closing.bury(A, C), Closing),
            (closing.finish(B, 0), OtherOrigin),
            (closing.suspect(C), Closing),
        ] {
            assert_eq!(result, Err(why));
        }
        assert_eq!(closing.reopen(), Ok(tracked));
        let frozen = plain.close(A).unwrap();
        assert_eq!(
            frozen.suspect(B),
            Err(Closing),
            "it has nothing to forget, but stays where it is"
        );
        assert_eq!(frozen.retire(A).unwrap().finish(A, 0), Ok(plain));
    }

    #[test]
    fn records_track() {
        assert_eq!(Slot::untracked(A).record(A), Slot::untracked(A));
        let tracked = Slot::new(A, A, 0, TRACKED);
        assert_eq!(Slot::untracked(A).record(B), tracked);
        assert_eq!((tracked.record(A), tracked.record(B)), (tracked, tracked));
    }

    /// Every transition from every slot that is possible at all: the invariants hold afterwards, `origin` changes in
    /// two transitions alone and to the named backend alone, and untracked slots keep `current`.
    #[test]
    fn no_transition_breaks_an_invariant() {
        let mut checked = 0;
        for slot in all() {
            let local = [
                Some(slot.track()),
                slot.suspect(B).ok(),
                slot.learn(true).ok(),
                slot.learn(false).ok(),
                slot.commit(B).ok(),
                slot.abandon().ok(),
                Some(slot.record(B)),
                slot.close(B).ok(),
                slot.reopen().ok(),
                slot.finish(B, 0).ok(),
                slot.finish(B, 1).ok(),
                slot.dead(A, B).ok(),
            ];
            for next in local.into_iter().flatten() {
                assert!(is_valid(&next), "{slot:?} -> {next:?}");
                assert_eq!((next.origin(), next.previous()), (slot.origin(), slot.previous()));
                assert!(
                    next.is_tracked() || next.current() == slot.current(),
                    "{slot:?} -> {next:?}"
                );
                checked += 1;
            }
            for next in [slot.retire(B).ok(), slot.bury(A, B).ok()].into_iter().flatten() {
                assert!(is_valid(&next), "{slot:?} -> {next:?}");
                assert!(next.origin() == slot.origin() || next.origin() == B);
                assert!(next.origin() == slot.origin() || next.is_tracked());
                assert_eq!(next.current(), slot.current());
                checked += 1;
            }
        }
        assert!(checked > 2_000, "{checked}");
    }
}
