//! Weighted Maglev: which member of a pool is at home in which slot.
//!
//! Source: Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, NSDI 2016,
//! section 3.4. As there, each member walks the slots in its own order, `offset + k × skip`, and the members
//! take turns in claiming. Three things differ:
//!
//! - The ring has 2^16 slots and not a prime number of them, so that a slot is 16 bits of the flow hash.
//!   Every odd skip is coprime to 2^16 and thus visits every slot once.
//! - A turn looks at **one** slot, and is over even if that slot is taken. (In the paper a member walks on to
//!   its next free slot.) So a slot goes to whoever comes by first, whatever happened to other slots,
//!   and a change of the set disturbs fewer of them: 3.4 % instead of 3.7 % when one of 100 equal members goes
//!   and two come, where any consistent hash needs 2.9 %.
//! - What balance that costs is given back by quotas: each member stops at its exact share of the slots.
//!
//! **Invariant:** the ring is a pure function of the set of `(id, weight)`: never of the order of the members,
//! and the same on every CPU (integers only). Peers rely on it: they compare rings, they don't send them.

use core::cmp::Reverse;
use core::fmt;

pub use crate::slot::SLOTS;

/// Marks a slot without a member: nobody may hold it. Never the index of a member.
pub const NONE: u16 = u16::MAX;

/// Most members that [`fill`] takes: every index must differ from [`NONE`].
pub const MAX_MEMBERS: usize = NONE as usize;

/// 2^64 / golden ratio: the step between the states of SplitMix64.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Virtual time in which a member of weight 1 has one turn; see [`claim_all`].
const TURN: u64 = 1 << 20;

/// What the ring needs to know about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Stable identity (a hash of the pool's and the backend's name), unique within the ring.
    pub id: u64,
    /// Relative share; 0 holds no slot.
    pub weight: u16,
}

/// Scratch space of [`fill`] for one member. The content before and after a call means nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    id: u64,
    /// Part of a slot that the quota lost by rounding down, in 1 / sum of weights.
    remainder: u64,
    weight: u16,
    index: u16,
    /// Slot that the next turn looks at.
    slot: u16,
    /// Distance to the one after it; odd.
    skip: u16,
    /// Turns taken. At most [`SLOTS`], since by then the walk has seen every slot.
    turns: u32,
    /// Slots still to be claimed.
    left: u32,
}

/// Why a ring could not be filled. The output is then unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// More than [`MAX_MEMBERS`].
    TooManyMembers {
        /// How many there were.
        members: usize,
    },
    /// Fewer cursors than members.
    ScratchTooShort {
        /// Cursors needed: one for each member.
        needed: usize,
        /// Cursors given.
        given: usize,
    },
    /// Two members share an identity, so their order would decide.
    DuplicateId {
        /// The identity.
        id: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyMembers { members } => {
                write!(f, "{members} members, a ring takes at most {MAX_MEMBERS}")
            }
            Self::ScratchTooShort { needed, given } => write!(f, "{given} cursors for {needed} members"),
            Self::DuplicateId { id } => write!(f, "two members have the identity {id:#018x}"),
        }
    }
}

impl core::error::Error for Error {}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection in which every bit of the input
/// moves every bit of the output.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// First slot and skip of a member's walk: the top bits of the first two outputs of SplitMix64 with the
/// identity as its seed. The skip is odd, so the walk comes by every slot once in [`SLOTS`] turns.
const fn walk(id: u64) -> (u16, u16) {
    let first = mix(id.wrapping_add(GOLDEN_GAMMA));
    let second = mix(id.wrapping_add(GOLDEN_GAMMA.wrapping_mul(2)));
    ((first >> 48) as u16, (second >> 48) as u16 | 1)
}

/// Fills `out` with the index into `members` that is at home in each slot.
///
/// Every member gets `SLOTS × weight / sum of weights` slots, rounded down or up (largest remainder first,
/// ties to the smaller id). Without any weight above 0 every slot is [`NONE`].
///
/// `scratch` needs one cursor for each member. Expect about `SLOTS × ln SLOTS` turns at most, whatever the
/// number of members.
///
/// # Errors
/// [`Error`]: too many members, too little scratch, or an identity twice.
pub fn fill(members: &[Member], scratch: &mut [Cursor], out: &mut [u16; SLOTS]) -> Result<(), Error> {
    if members.len() > MAX_MEMBERS {
        return Err(Error::TooManyMembers {
            members: members.len(),
        });
    }
    let given = scratch.len();
    let Some(cursors) = scratch.get_mut(..members.len()) else {
        return Err(Error::ScratchTooShort {
            needed: members.len(),
            given,
        });
    };
    for (index, (cursor, member)) in cursors.iter_mut().zip(members).enumerate() {
        let (slot, skip) = walk(member.id);
        *cursor = Cursor {
            id: member.id,
            weight: member.weight,
            index: index as u16,
            slot,
            skip,
            ..Cursor::default()
        };
    }
    set_quotas(cursors);
    cursors.sort_unstable_by_key(|cursor| cursor.id);
    if let Some(pair) = cursors.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(Error::DuplicateId { id: pair[0].id });
    }
    out.fill(NONE);
    claim_all(cursors, out);
    Ok(())
}

/// Sets `left` of every cursor to its quota. The quotas sum up to [`SLOTS`] unless all weights are 0.
/// Leaves the cursors in no useful order.
fn set_quotas(cursors: &mut [Cursor]) {
    let sum: u64 = cursors.iter().map(|cursor| u64::from(cursor.weight)).sum();
    if sum == 0 {
        return;
    }
    let mut unassigned = SLOTS as u32;
    for cursor in cursors.iter_mut() {
        let share = SLOTS as u64 * u64::from(cursor.weight);
        cursor.left = (share / sum) as u32;
        cursor.remainder = share % sum;
        unassigned -= cursor.left;
    }
    cursors.sort_unstable_by_key(|cursor| (Reverse(cursor.remainder), cursor.id));
    for cursor in &mut cursors[..unassigned as usize] {
        cursor.left += 1;
    }
}

/// Lets the members take turns until every quota is used up. `cursors` are in order of their ids.
///
/// A member of weight `w` has its k-th turn at the virtual time `k × TURN / w`. Time passes in rounds, within
/// which ids decide. A round is as long as it takes the unfinished members to have half a turn to one turn
/// each on average: long enough that light members don't make it idle, short enough that the order of turns
/// is that of their times. Its length is a power of two, so that rounds begin at the same times for most pairs
/// of similar sets, and a change of one weight doesn't reorder the turns of the others.
fn claim_all(mut cursors: &mut [Cursor], out: &mut [u16; SLOTS]) {
    let mut now = 0;
    loop {
        let (active, weight) = keep_unfinished(cursors);
        if active == 0 {
            return;
        }
        cursors = &mut cursors[..active];
        // Weights are below 2^16, so the quotient is at least 2^4.
        let round = 1 << (TURN * active as u64 / weight).ilog2();
        now = (now / round + 1) * round;
        for cursor in cursors.iter_mut() {
            cursor.take_turns(now, out);
        }
    }
}

/// Moves the cursors that have slots left to the front, in order; their number and the sum of their weights.
fn keep_unfinished(cursors: &mut [Cursor]) -> (usize, u64) {
    let (mut active, mut weight) = (0, 0);
    for at in 0..cursors.len() {
        if cursors[at].left > 0 {
            weight += u64::from(cursors[at].weight);
            if active != at {
                cursors[active] = cursors[at];
            }
            active += 1;
        }
    }
    (active, weight)
}

impl Cursor {
    /// Takes all turns that are due at the virtual time `now`, until the quota is used up.
    fn take_turns(&mut self, now: u64, out: &mut [u16; SLOTS]) {
        let due = now * u64::from(self.weight) / TURN;
        while self.left > 0 && u64::from(self.turns) < due {
            let holder = &mut out[usize::from(self.slot)];
            // Written in both cases: nobody can predict a branch here, and it would take half of the time.
            let free = *holder == NONE;
            *holder = if free { self.index } else { *holder };
            self.left -= u32::from(free);
            self.slot = self.slot.wrapping_add(self.skip);
            self.turns += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_walk_visits_every_slot_once(id in any::<u64>()) {
            let (mut slot, skip) = walk(id);
            prop_assert_eq!(skip % 2, 1);
            let mut seen = [false; SLOTS];
            for _ in 0..SLOTS {
                prop_assert!(!core::mem::replace(&mut seen[usize::from(slot)], true));
                slot = slot.wrapping_add(skip);
            }
        }
    }

    #[test]
    fn the_mix_is_that_of_splitmix64() {
        // Outputs of the reference splitmix64.c for the seed 1234567.
        let seed = 1_234_567_u64;
        assert_eq!(mix(seed.wrapping_add(GOLDEN_GAMMA)), 6_457_827_717_110_365_317);
        assert_eq!(
            mix(seed.wrapping_add(GOLDEN_GAMMA.wrapping_mul(2))),
            3_203_168_211_198_807_973
        );
    }
}
