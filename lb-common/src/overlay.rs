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
/// The cost is one pass over the ring plus one score for each pair of orphaned slot and member that is up.
///
/// # Panics
/// If `up` and `members` differ in length, or `home` names a member that isn't there.
pub fn apply(home: &[u16; SLOTS], members: &[Member], up: &[bool], out: &mut [u16; SLOTS]) {
    assert_eq!(members.len(), up.len(), "one state for each member");
    for (slot, (holder, &member)) in out.iter_mut().zip(home).enumerate() {
        let stays = member != NONE && up[usize::from(member)];
        *holder = if stays {
            member
        } else {
            stand_in(slot, members, up)
        };
    }
}

/// Index of the member with the highest score for `slot`.
fn stand_in(slot: usize, members: &[Member], up: &[bool]) -> u16 {
    let slot_hash = mix(slot as u64 + 1);
    let mut best: Option<(usize, Score)> = None;
    for (index, (member, _)) in members
        .iter()
        .zip(up)
        .enumerate()
        .filter(|(_, (m, up))| **up && m.weight > 0)
    {
        let score = Score::new(member, slot_hash);
        if best.as_ref().is_none_or(|(_, best)| score.beats(best)) {
            best = Some((index, score));
        }
    }
    best.map_or(NONE, |(index, _)| index as u16)
}

/// The score `weight / distance` of a member for a slot, kept as a fraction.
struct Score {
    /// `-log2(u)` with [`FRACTION`] fraction bits, at most 32. The base is the same for all, so it doesn't matter.
    distance: u64,
    weight: u64,
    id: u64,
}

impl Score {
    fn new(member: &Member, slot_hash: u64) -> Self {
        let hash = mix(member.id ^ slot_hash);
        Self {
            distance: minus_log2((hash >> FRACTION) + 1),
            weight: u64::from(member.weight),
            id: member.id,
        }
    }

    /// A total order over distinct ids, so the winner doesn't depend on who is compared first. The products
    /// stay below 2^54: 38 bits of distance, 16 of weight.
    fn beats(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.weight * other.distance, other.weight * self.distance);
        ours > theirs || (ours == theirs && self.id < other.id)
    }
}

/// `-log2(u / 2^32)` for `u` in `1..=2^32`, with [`FRACTION`] fraction bits. Falls as `u` rises; relative error
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
        fn the_logarithm_never_rises(u in 1..ONE) {
            prop_assert!(minus_log2(u) >= minus_log2(u + 1));
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        for n in 0_u32..=32 {
            assert_eq!(minus_log2(ONE >> n), u64::from(n) << FRACTION);
        }
    }
}
