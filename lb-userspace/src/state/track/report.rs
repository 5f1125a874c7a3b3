//! What is told of tracked slots and of the flow table.

use std::collections::BTreeMap;

use lb_common::flow::{Entry, Key};
use lb_common::retire::Hold;
use lb_common::slot::Slot;

/// Why a slot is still tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Its planned change has been prepared and takes effect in a moment.
    Prepared,
    /// It changed after the last sweep of the flow table began, so nobody knows yet.
    Unswept,
    /// This holds it.
    Held(Hold),
    /// Nothing does: it retires after the next sweep.
    Closing,
    /// Nothing does on this node: it retires when all members say the same.
    Ready,
}

/// One tracked slot.
#[derive(Clone, PartialEq, Debug)]
pub struct Held {
    /// Index of its pool.
    pub pool: u16,
    /// Its number within the ring.
    pub number: u32,
    /// The slot.
    pub slot: Slot,
    /// For how long it has been tracked, as far as this agent knows, ticks.
    pub tracked: u32,
    /// Why it still is.
    pub why: Why,
    /// One of the entries that hold it, where entries do.
    pub example: Option<(Key, Entry)>,
}

/// The flow table and the tracked slots, counted by the last sweep; totals are since the agent started.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Census {
    /// Entries by table, in the order of [`crate::dataplane::flows::Table::ALL`].
    pub entries: [u32; 5],
    /// Room in each.
    pub room: [u32; 5],
    /// Tracked slots by index of the pool; pools that have none are not named.
    pub tracked: BTreeMap<u16, u32>,
    /// Tracked slots that have been so for longer than they should.
    pub overdue: u32,
    /// Sweeps that were finished.
    pub sweeps: u64,
    /// Entries that expired.
    pub expired: u64,
    /// Entries that were deleted because their backend is dead, or their VIP is gone.
    pub purged: u64,
    /// Slots that retired.
    pub retired: u64,
    /// Slots that were closing and had to be opened again.
    pub reopened: u64,
}
