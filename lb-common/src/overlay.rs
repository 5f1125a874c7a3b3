//! Who stands in for members that are down: weighted rendezvous hashing over the members that are up.
//!
//! Source: Thaler and Ravishankar, *Using Name-Based Mappings to Increase Hit Rates*, IEEE/ACM Transactions on
//! Networking 6(1), 1998 (highest random weight); the weighted score `w / -ln(u)`, with `u` uniform in (0, 1],
//! gives each member a share in proportion to its weight.
//!
//! The ring at home stays as it is. A slot moves only when its holder goes down, only to a stand-in, and comes
//! back when its home member does; a slot whose holder stays up never moves. Like the ring itself the result
//! is a pure function of the set of `(id, weight, up)`, in integers, the same on every node.
//!
//! Stand-ins are drawn independently for each slot, so what they take over is spread like drawn lots, and not
//! within ±1 slot like the ring. A quota would do better and would move slots of healthy members.

use crate::maglev::{Member, NONE, SLOTS, mix};

/// Pieces into which one octave of the logarithm is cut; within one it is taken as a straight line.
const PIECES: usize = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 10;

/// Fraction bits of a fixed-point number here, and bits of `u`.
const FRACTION: u32 = 32;

/// `log2(1 + i / PIECES)` for `i` in `0..=PIECES`, with [`FRACTION`] fraction bits.
static LOG2: [u64; PIECES + 1] = log2_table();

/// Writes who serves each slot into `out`: the home member where that is up, else a stand-in.
///
/// - `home`: the ring as [`crate::maglev::fill`] made it from the same `members`.
/// - `up[i]`: whether `members[i]` may serve.
///
/// The stand-in is the member with the highest score among those that are up and have a weight above 0; ties go
/// to the smaller id. Without any such member the slot is [`NONE`]. With all members up, `out` equals `home`.
/// The cost is one pass over the ring for every [`BLOCK`] members, plus one hash for each pair of orphaned slot and
/// member that is up.
///
/// # Panics
/// If `up` and `members` differ in length, or `home` names a member that isn't there.
pub fn apply(home: &[u16; SLOTS], members: &[Member], up: &[bool], out: &mut [u16; SLOTS]) {
    assert_eq!(members.len(), up.len(), "one state for each member");
    let stays = |&member: &u16| member != NONE && up[usize::from(member)];
    for (holder, member) in out.iter_mut().zip(home) {
        *holder = if stays(member) { *member } else { NONE };
    }
    if home.iter().all(stays) {
        return;
    }
    let mut candidates = (0..members.len()).filter(|&index| up[index] && members[index].weight > 0);
    let mut block = Block::EMPTY;
    while block.fill(&mut candidates, members) {
        for (slot, (holder, member)) in out.iter_mut().zip(home).enumerate() {
            if !stays(member) {
                *holder = block.challenge(slot, *holder, members);
            }
        }
    }
}

/// Most members that are compared in one go; a block lies on the stack.
const BLOCK: usize = 256;

/// Some members that may stand in, in order of weight, then id.
struct Block {
    ids: [u64; BLOCK],
    indexes: [u16; BLOCK],
    members: usize,
    /// Runs of the same weight: where each ends, and its weight.
    classes: [(u16, u16); BLOCK],
    weights: usize,
}

impl Block {
    const EMPTY: Self = Self {
        ids: [0; BLOCK],
        indexes: [NONE; BLOCK],
        members: 0,
        classes: [(0, 0); BLOCK],
        weights: 0,
    };

    /// Takes the next members; false where there are none.
    fn fill(&mut self, candidates: &mut impl Iterator<Item = usize>, members: &[Member]) -> bool {
        (self.members, self.weights) = (0, 0);
        for (index, candidate) in self.indexes.iter_mut().zip(candidates) {
            *index = candidate as u16;
            self.members += 1;
        }
        let indexes = &mut self.indexes[..self.members];
        let member = |index: u16| &members[usize::from(index)];
        indexes.sort_unstable_by_key(|&index| (member(index).weight, member(index).id));
        for (at, &index) in indexes.iter().enumerate() {
            let Member { id, weight } = *member(index);
            self.ids[at] = id;
            if self.weights == 0 || self.classes[self.weights - 1].1 != weight {
                self.weights += 1;
            }
            self.classes[self.weights - 1] = (at as u16 + 1, weight);
        }
        self.members > 0
    }

    /// Who scores highest for `slot`: `holder`, if there is one, or a member of this block.
    fn challenge(&self, slot: usize, mut holder: u16, members: &[Member]) -> u16 {
        let slot_hash = mix(slot as u64 + 1);
        let mut best = match members.get(usize::from(holder)) {
            Some(member) => Score::new(member, draw(member.id, slot_hash)),
            None => Score::WORST,
        };
        let mut start = 0;
        for &(end, weight) in &self.classes[..self.weights] {
            let (at, u) = first_of_class(&self.ids[start..usize::from(end)], slot_hash);
            let index = self.indexes[start + at];
            start = usize::from(end);
            if best.may_lose_to(u, weight) {
                let score = Score::new(&members[usize::from(index)], u);
                if holder == NONE || score.beats(&best) {
                    (holder, best) = (index, score);
                }
            }
        }
        holder
    }
}

/// Who of some members of one weight, at most [`BLOCK`] in order of their ids, scores highest, and its `u`.
///
/// That is who draws the highest `u`, since [`minus_log2`] falls with every step of it, so no logarithm is needed.
/// No branch either: the place is kept in the bits below `u`, the smallest id's as the highest number.
fn first_of_class(ids: &[u64], slot_hash: u64) -> (usize, u64) {
    const PLACE: u64 = BLOCK as u64 - 1;
    const DRAWN: u64 = u64::MAX << FRACTION;
    let mut top = 0;
    for (at, id) in ids.iter().enumerate() {
        top = top.max(mix(id ^ slot_hash) & DRAWN | (PLACE - at as u64));
    }
    ((PLACE - (top & PLACE)) as usize, (top >> FRACTION) + 1)
}

/// `u` of a member for a slot, in `1..=2^32`.
const fn draw(id: u64, slot_hash: u64) -> u64 {
    (mix(id ^ slot_hash) >> FRACTION) + 1
}

/// The score `weight / distance` of a member for a slot, kept as a fraction.
struct Score {
    /// `-log2(u)` with [`FRACTION`] fraction bits, at most 32. The base is the same for all, so it doesn't matter.
    distance: u64,
    weight: u64,
    id: u64,
}

impl Score {
    /// May lose to everyone.
    const WORST: Self = Self {
        distance: 0,
        weight: 0,
        id: u64::MAX,
    };

    fn new(member: &Member, u: u64) -> Self {
        Self {
            distance: minus_log2(u),
            weight: u64::from(member.weight),
            id: member.id,
        }
    }

    /// False only where a member of this weight with this `u` surely scores less: no logarithm is needed then. `-log2(1 - x)` is at least `x / ln 2`, so at least `23/16 x`; [`minus_log2`] is never
    /// below the true value. The products stay below 2^58.
    fn may_lose_to(&self, u: u64, weight: u16) -> bool {
        let least_distance = ((1 << FRACTION) - u) * 23;
        least_distance * self.weight <= (self.distance << 4) * u64::from(weight)
    }

    /// A total order over distinct ids, so the winner doesn't depend on who is compared first. The products
    /// stay below 2^54: 38 bits of distance, 16 of weight.
    fn beats(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.weight * other.distance, other.weight * self.distance);
        ours > theirs || (ours == theirs && self.id < other.id)
    }
}

/// `-log2(u / 2^32)` for `u` in `1..=2^32`, with [`FRACTION`] fraction bits. Falls with every step of `u`; relative error
/// below 1/4000 (checked against floating point in the tests), which is also the bound on the error of a share.
fn minus_log2(u: u64) -> u64 {
    const REST: u32 = FRACTION - PIECE_BITS;
    let octave = u.ilog2();
    let mantissa = (u << (FRACTION - octave)) - (1 << FRACTION);
    let piece = (mantissa >> REST) as usize;
    let rest = mantissa & ((1 << REST) - 1);
    let log2 = LOG2[piece] + (((LOG2[piece + 1] - LOG2[piece]) * rest) >> REST);
    (u64::from(FRACTION - octave) << FRACTION) - log2
}

// Near 2^32 a step of `u` is two steps of the rest in `minus_log2`: in no piece may they leave the result the same.
const _: () = {
    let mut i = 0;
    while i < PIECES {
        assert!(2 * (LOG2[i + 1] - LOG2[i]) > 1 << (FRACTION - PIECE_BITS));
        i += 1;
    }
};

/// Bit by bit: squaring doubles the logarithm, and a square of 2 or more means that the next bit is set.
const fn log2_table() -> [u64; PIECES + 1] {
    const ONE: u128 = 1 << 60;
    let mut table = [0; PIECES + 1];
    table[PIECES] = 1 << FRACTION;
    let mut i = 0;
    while i < PIECES {
        let mut x = ONE + ((i as u128) << (60 - PIECE_BITS));
        let mut bit = 0;
        while bit < FRACTION {
            x = x * x / ONE;
            table[i] <<= 1;
            if x >= 2 * ONE {
                x /= 2;
                table[i] |= 1;
            }
            bit += 1;
        }
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;

    const ONE: u64 = 1 << FRACTION;

    /// Relative to the true value; the absolute part is the last bit of the fixed-point number.
    fn close(u: u64) -> bool {
        // ln_1p keeps the digits that log2 loses close to 1.
        let exact = -((u as f64 - ONE as f64) / ONE as f64).ln_1p() / core::f64::consts::LN_2;
        let got = minus_log2(u) as f64 / ONE as f64;
        (got - exact).abs() <= exact / 4000.0 + 2.0 / ONE as f64
    }

    proptest! {
        #[test]
        fn the_logarithm_is_close(u in 1..=ONE) {
            prop_assert!(close(u), "u = {}", u);
        }

        #[test]
        fn the_logarithm_is_close_near_both_ends(shift in 0_u32..32, at in 0_u64..1 << 16) {
            let distance = at << shift >> 16;
            prop_assert!(close(1 + distance));
            prop_assert!(close(ONE - distance));
        }

        #[test]
        fn nobody_is_passed_over_who_might_win(
            u in 1..=ONE, below in 0_u64..1 << 20, weights in (1..=u16::MAX, 1..=u16::MAX), other in 1..=ONE,
        ) {
            // Also near the top, where winners are.
            for u in [u, ONE - below] {
                let score = |id, u, weight| Score::new(&Member { id, weight }, u);
                let (one, best) = (score(1, u, weights.0), score(2, other, weights.1));
                prop_assert!(best.may_lose_to(u, weights.0) || !one.beats(&best));
                prop_assert!(23 * (ONE - u) <= 16 * minus_log2(u));
            }
        }

        #[test]
        fn the_logarithm_falls_with_every_step(u in 1..ONE, below in 1_u64..1 << 20) {
            for u in [u, ONE - below] {
                prop_assert!(minus_log2(u) > minus_log2(u + 1));
            }
        }
    }

    /// The definition: everyone's score, one after the other.
    fn plain_stand_in(slot: usize, members: &[Member], up: &[bool]) -> u16 {
        let slot_hash = mix(slot as u64 + 1);
        let scores = members.iter().zip(up).enumerate();
        let candidates = scores.filter(|(_, (member, up))| **up && member.weight > 0);
        candidates
            .map(|(index, (member, _))| (index as u16, Score::new(member, draw(member.id, slot_hash))))
            .reduce(|best, other| if other.1.beats(&best.1) { other } else { best })
            .map_or(NONE, |(index, _)| index)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn short_cuts_change_nothing(
            seed in any::<u64>(), count in 1_usize..3 * BLOCK, weights in 1_u16..400, down in 2_usize..9,
        ) {
            let members: std::vec::Vec<Member> = (0..count as u64)
                .map(|n| Member { id: mix(seed ^ n), weight: (mix(n) % u64::from(weights)) as u16 })
                .collect();
            let up: std::vec::Vec<bool> = (0..count).map(|n| n % down != 0).collect();
            let home = [0; SLOTS];
            let mut out = [NONE; SLOTS];
            apply(&home, &members, &up, &mut out);
            for slot in (0..SLOTS).step_by(64) {
                prop_assert_eq!(out[slot], plain_stand_in(slot, &members, &up), "slot {}", slot);
            }
        }
    }

    #[test]
    fn ties_go_to_the_smaller_id() {
        // The same draw for both, which no two ids have by themselves.
        let (at, u) = first_of_class(&[7, 7, 7], 1);
        assert_eq!((at, u), (0, draw(7, 1)));
    }

    #[test]
    fn powers_of_two_are_exact() {
        for n in 0_u32..=32 {
            assert_eq!(minus_log2(ONE >> n), u64::from(n) << FRACTION);
        }
    }
}
