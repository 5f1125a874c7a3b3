//! What a coordinator orders and what a member answers: the border between the group's machine and the slots.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The version of what the group is to do: a number, and the node that gave it, by its place in `group.nodes`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Counts up; 0 = none was ever agreed on.
    pub number: u64,
    /// Who proposed it.
    pub node: u8,
}

/// What all rings of the group are to be. Equal digests mean equal rings: SipHash over the stable identity of every
/// slot's backend, pools by name; the other two say what they were computed from, for people.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Of the charter.
    pub generation: Generation,
    /// Number of the verdict.
    pub verdict: u64,
    /// Over all rings.
    pub rings: u64,
}

/// One slot with a backend, both by stable identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// `lb_common::id::stable(name, "")` of the pool.
    pub pool: u64,
    /// Number of the slot in its ring.
    pub slot: u16,
    /// `lb_common::id` of the backend; 0 = none.
    pub backend: u64,
}

/// What the group thinks of backends, by stable identity. Whoever is not named is up.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Counts up with every change.
    pub number: u64,
    /// Dead: their flows are re-homed.
    pub dead: BTreeSet<u64>,
    /// Were dead, and get nothing until every member has lifted the verdict.
    pub returning: BTreeSet<u64>,
    /// Answer but refuse work: no new flows.
    pub draining: BTreeSet<u64>,
}

/// One step of a phase, for every member alike.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Track all slots whose `current` will change.
    Prepare(Target),
    /// Change `current` of tracked slots.
    Commit(Target),
    /// Take this verdict. Done when slots of those that are newly dead are tracked and led away and no entry names them.
    Judge(Verdict),
    /// Make these the origins of slots whose origin is dead.
    Bury(Vec<Cell>),
    /// Vote on retiring these, and close those that may; the answer names those that may not.
    Close(Vec<Cell>),
    /// Done when every record that any member sent before it made its `Close` has been merged here.
    Fence(u64),
    /// Vote again on these, all closed, after everything in the flow table has been looked at once more.
    Vote(Vec<Cell>),
    /// These are the origins.
    Retire(Vec<Cell>),
    /// Stop tracking these.
    Finish(Vec<Cell>),
    /// Go on tracking these.
    Reopen(Vec<Cell>),
    /// Say of all closing slots how far they came ([`Answer::Progress`]). Gives up whatever was under way.
    Report,
}

/// What a member says to an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done, in all slots.
    Done,
    /// Votes: these slots say no, and all others yes.
    Except(Vec<Cell>),
    /// To [`Order::Report`]: all slots that are closing.
    Progress(Vec<Progress>),
    /// Not yet, or not at all: another target, a reload under way. The order is given again.
    Later,
}

/// How far a slot's retirement came on one member, for the next coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Progress {
    /// It is closing, `origin` is still the old one.
    Closed(Cell),
    /// It is closing, and the named backend is its `origin`.
    Retired(Cell),
}

/// All slots of one pool, as one member holds them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotImage {
    /// `lb_common::id::stable(name, "")` of the pool.
    pub pool: u64,
    /// Backends by the numbers in `slots`; number 0 is none.
    pub backends: Vec<u64>,
    /// [`lb_common::slot::Slot`]s as words, with numbers of `backends` instead of indexes.
    pub slots: Vec<u64>,
    /// Backends of it that have left the configuration and still hold flows.
    pub leavers: Vec<Leaver>,
}

/// A slot by stable identities; 0 = none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedSlot {
    /// Where tracked flows of it go.
    pub current: u64,
    /// Where those without an entry are.
    pub origin: u64,
    /// Where those were before.
    pub previous: u64,
    /// [`lb_common::slot::Slot::flags`].
    pub flags: u16,
}

impl SlotImage {
    /// All slots of it, in their order; a number that is none's is 0.
    pub fn named(&self) -> impl Iterator<Item = NamedSlot> {
        let name = |word: u64, shift: u32| {
            let number = (word >> shift & 0xffff) as usize;
            self.backends.get(number).copied().unwrap_or_default()
        };
        self.slots.iter().map(move |&word| NamedSlot {
            current: name(word, 0),
            origin: name(word, 16),
            previous: name(word, 32),
            flags: (word >> 48) as u16,
        })
    }
}

/// A backend that is in no configuration any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leaver {
    /// Its name in the pool.
    pub name: String,
    /// Where packets for it go.
    pub address: IpAddr,
}
