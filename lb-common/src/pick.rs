//! The decision flow → backend: the same function in the XDP program and in the reference model.

use crate::slot::Slot;

/// A decision and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// Index of the backend; [`crate::slot::NO_BACKEND`] where the slot has none.
    pub backend: u16,
    /// What decided.
    pub by: By,
}

/// What decided a pick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// The slot alone: nothing has changed there lately.
    Slot,
}

/// Picks the backend of a flow. Every slot is untracked yet, so `current` decides and no entry is looked up.
#[inline(always)]
pub const fn pick(slot: Slot) -> Pick {
    Pick {
        backend: slot.current(),
        by: By::Slot,
    }
}
