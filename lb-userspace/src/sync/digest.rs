//! Finding what a stream has not said: sums over ranges of slots, compared every second, and the repair of ranges.
//!
//! A sum is over *settled* entries alone, confirmed a while before the owner began to look. The receiver holds the same ticks
//! but for a constant ([`super::Receiver`] keeps it), so both draw the line at the same entries. What closes or moves while
//! they look makes noise: a range is asked for when it differs by *the same* amount in two rounds, or in many.
//!
//! Orphans have no owner who knows what is right: nodes ask each other for ranges that differ, and each ends with what any of them held.

use std::collections::{BTreeSet, HashMap, HashSet};

use lb_common::flow::{CONFIRMED, Entry, Key, PROBATION};
use lb_common::slot::SLOTS;
use lb_common::tick::{self, Tick};

use super::wire::{Digest, Scope};

/// Ranges of slots, over all pools.
pub const RANGES: usize = 4096;
/// Sixteen neighbours share a range.
const SHIFT: u32 = SLOTS.ilog2() - RANGES.ilog2();
/// Entries that were confirmed this long ago are settled: three seconds. Their records are out and in.
pub const SETTLED: u32 = tick::seconds(3);
/// An orphan that will end within ten seconds is not compared: its copies don't end at the same moment.
const ENDING: u32 = tick::seconds(10);
/// A range that has differed so many rounds in a row is asked for although the difference changes.
const NOISY: u8 = 8;
/// Rounds until a range is asked for again, at most; doubles from two, since a full table stays different.
const PATIENCE: u8 = 16;
/// A range that differs for so many rounds in a row is neither noise nor about to be repaired.
const LASTING: u8 = 30;
/// Flows that one session's repairs may name before they have been used: 2 MiB.
const REPAIR_ROOM: usize = 1 << 18;

/// A range of slots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Range(u16);

impl Range {
    /// The range of this number, if there is one.
    pub const fn of_number(number: u16) -> Option<Self> {
        if (number as usize) < RANGES {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The range of a slot of the pool of this stable identity ([`crate::group::Cell`]).
pub const fn range(pool: u64, slot: u32) -> Range {
    let pool = pool ^ pool >> 32;
    let pool = pool ^ pool >> 16;
    Range(((slot >> SHIFT) ^ pool as u32) as u16 & (RANGES as u16 - 1))
}

/// What an entry adds to its range's sum: a hash of the flow and the stable identity of its backend.
pub fn contribution(key: &Key, backend: u64) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |a: u64, b: u64| {
        let product = u128::from(a ^ ODD) * u128::from(b ^ 0xd6e8_feb8_6659_fd93);
        product as u64 ^ (product >> 64) as u64
    };
    let [a, b] = halves(key.src.bytes());
    let [c, d] = halves(key.dst.bytes());
    let ports = u64::from(key.sport.get()) << 24 | u64::from(key.dport.get()) << 8 | u64::from(key.proto);
    mix(mix(mix(a, b), mix(c, d)), mix(ports, backend)).max(1)
}

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let word = u128::from_be_bytes(bytes);
    [(word >> 64) as u64, word as u64]
}

/// Whether an entry counts in sums over entries that were confirmed by `now` minus [`SETTLED`].
const fn is_settled(entry: &Entry, now: Tick) -> bool {
    entry.state == CONFIRMED && now.since(entry.since) >= SETTLED
}

/// Whether an orphan counts in sums; `idle`: its VIP's idle timeout, seconds.
const fn is_lasting(entry: &Entry, now: Tick, idle: u32) -> bool {
    is_settled(entry, now) && now.since(entry.last).saturating_add(ENDING) < tick::seconds(idle)
}

/// A walk over own entries, or over orphans, once a second.
#[derive(Clone, Debug)]
pub struct Round {
    scope: Scope,
    round: u32,
    now: Tick,
    lost: bool,
    sums: Vec<u64>,
}

impl Round {
    /// A walk that begins now; `lost`: events were lost since the last one.
    pub fn new(scope: Scope, round: u32, now: Tick, lost: bool) -> Self {
        Self {
            scope,
            round,
            now,
            lost,
            sums: vec![0; RANGES],
        }
    }

    /// Adds an own entry of this range, its backend by stable identity.
    pub fn take(&mut self, key: &Key, entry: &Entry, range: Range, backend: u64) {
        if is_settled(entry, self.now) {
            self.add(key, range, backend);
        }
    }

    /// Adds an orphan; `idle`: its VIP's idle timeout, seconds. Whether it counts.
    pub fn take_orphan(
        &mut self,
        key: &Key,
        entry: &Entry,
        (range, idle): (Range, u32),
        backend: u64,
    ) -> bool {
        let is_lasting = is_lasting(entry, self.now, idle);
        if is_lasting {
            self.add(key, range, backend);
        }
        is_lasting
    }

    fn add(&mut self, key: &Key, range: Range, backend: u64) {
        let sum = &mut self.sums[range.index()];
        *sum = sum.wrapping_add(contribution(key, backend));
    }

    /// Whether an own entry of this range is to be refreshed in this round: each range once in `period` rounds, an idle
    /// timeout's third in seconds, where the entry was used since.
    pub const fn is_refresh_due(&self, entry: &Entry, range: Range, period: u32) -> bool {
        let period = if period == 0 { 1 } else { period };
        let is_turn = (self.round.wrapping_add(range.0 as u32)).is_multiple_of(period);
        // A second more: the round may be late, and `last` is as exact as that.
        is_turn && entry.state != PROBATION && self.now.since(entry.last) <= tick::seconds(period + 1)
    }

    /// The frame for all peers.
    pub fn finish(self) -> Digest {
        let sums = (0u16..).map(Range).zip(self.sums);
        Digest {
            scope: self.scope,
            round: self.round,
            now: self.now,
            lost: self.lost,
            sums: sums.filter(|&(_, sum)| sum != 0).collect(),
        }
    }
}

/// Ranges that a peer has asked for.
#[derive(Clone, Default, Debug)]
pub struct Asked(BTreeSet<Range>);

impl Asked {
    /// It asks for these.
    pub fn ask(&mut self, ranges: &[Range]) {
        self.0.extend(ranges);
    }

    /// How many it has not got yet.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The next ones to repair, `most` at most: once a round.
    pub fn take(&mut self, most: usize) -> BTreeSet<Range> {
        let rest = self.0.iter().nth(most).copied();
        let rest = rest.map(|first| self.0.split_off(&first)).unwrap_or_default();
        core::mem::replace(&mut self.0, rest)
    }
}

/// The receiver's walk over replicas of one owner, or over orphans, against a peer's digest.
#[derive(Clone, Debug)]
pub struct Compare {
    owner: u8,
    now: Tick,
    lost: bool,
    /// `None`: doesn't count.
    differences: Vec<Option<u64>>,
}

impl Compare {
    /// A walk that begins; `owner` as entries have it, `now` the digest's time in ticks of this host.
    pub fn new(digest: &Digest, owner: u8, now: Tick) -> Self {
        let untold = match digest.scope {
            Scope::Own => Some(0),
            // Whoever has none of a range has nothing to give.
            Scope::Orphans => None,
        };
        let mut differences = vec![untold; RANGES];
        for &(range, sum) in &digest.sums {
            differences[range.index()] = Some(sum);
        }
        Self {
            owner,
            now,
            lost: digest.lost,
            differences,
        }
    }

    /// Subtracts a replica of this range, whoever's, its backend by stable identity.
    pub fn take(&mut self, key: &Key, entry: &Entry, range: Range, backend: u64) {
        if entry.owner == self.owner && is_settled(entry, self.now) {
            self.subtract(key, range, backend);
        }
    }

    /// Subtracts an orphan; `idle`: its VIP's idle timeout, seconds.
    pub fn take_orphan(&mut self, key: &Key, entry: &Entry, (range, idle): (Range, u32), backend: u64) {
        if is_lasting(entry, self.now, idle) {
            self.subtract(key, range, backend);
        }
    }

    fn subtract(&mut self, key: &Key, range: Range, backend: u64) {
        if let Some(difference) = &mut self.differences[range.index()] {
            *difference = difference.wrapping_sub(contribution(key, backend));
        }
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Differs {
    by: u64,
    /// Rounds in a row.
    rounds: u8,
    /// How often it was asked for.
    asked: u8,
    /// Rounds until it may be asked for again.
    wait: u8,
}

/// How the ranges of one owner have differed so far.
#[derive(Clone, Debug)]
pub struct Differences(Vec<Differs>);

impl Default for Differences {
    fn default() -> Self {
        Self(vec![Differs::default(); RANGES])
    }
}

impl Differences {
    /// Takes a finished walk. The ranges to ask for, `most` at most.
    pub fn judge(&mut self, compare: &Compare, most: usize) -> Vec<Range> {
        let mut ranges = Vec::new();
        for ((number, differs), &by) in (0u16..).zip(&mut self.0).zip(&compare.differences) {
            if differs.next(by.unwrap_or(0), compare.lost, ranges.len() < most) {
                ranges.push(Range(number));
            }
        }
        ranges
    }

    /// How many ranges differed in the last round.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|differs| differs.by != 0).count()
    }

    /// How many have differed in so many rounds in a row.
    pub fn for_rounds(&self, rounds: u8) -> usize {
        self.0.iter().filter(|differs| differs.rounds >= rounds).count()
    }

    /// How many have done so for [`LASTING`] rounds in a row: what repairs could not settle.
    pub fn lasting(&self) -> usize {
        self.0.iter().filter(|differs| differs.rounds >= LASTING).count()
    }
}

impl Differs {
    fn next(&mut self, by: u64, lost: bool, has_room: bool) -> bool {
        if by == 0 {
            *self = Self::default();
            return false;
        }
        let lasts = by == self.by || lost || self.rounds >= NOISY;
        self.by = by;
        self.rounds = self.rounds.saturating_add(1);
        self.wait = self.wait.saturating_sub(1);
        if !lasts || self.wait > 0 || !has_room {
            return false;
        }
        self.wait = 2u8.saturating_pow(u32::from(self.asked) + 1).min(PATIENCE);
        self.asked = self.asked.saturating_add(1);
        true
    }
}

/// Whether everything that a resync has brought is here: digests that came behind it say so.
#[derive(Clone, Copy, Default, Debug)]
pub struct Proof(Option<Rounds>);

#[derive(Clone, Copy, Default, Debug)]
struct Rounds {
    compared: u8,
    /// Of these, the ones in which all ranges that were due were asked for.
    asked: u8,
}

impl Proof {
    /// A resync has ended.
    pub const fn begin(&mut self) {
        self.0 = Some(Rounds {
            compared: 0,
            asked: 0,
        });
    }

    /// Takes a comparison with a digest of own entries that came behind the resync; `all_asked`: there was room to ask for every range that was due. When no
    /// range has differed in all rounds, or after [`Proof::ROUNDS`] in which ranges were asked for and came, or [`Proof::MOST`] of any kind: how
    /// many differ even so. With flows that end all the time some range always differs.
    pub fn judge(&mut self, differences: &Differences, all_asked: bool) -> Option<usize> {
        let rounds = self.0.as_mut()?;
        rounds.compared = rounds.compared.saturating_add(1);
        rounds.asked += u8::from(all_asked);
        let differing = differences.for_rounds(rounds.compared);
        if differing > 0 && rounds.asked < Self::ROUNDS && rounds.compared < Self::MOST {
            return None;
        }
        self.0 = None;
        Some(differing)
    }

    /// A node whose entries can't become equal, because its table is full or smaller, is better than none.
    pub const ROUNDS: u8 = 12;

    /// With thousands of ranges that never become equal all that may be asked for in a round always is.
    pub const MOST: u8 = 60;
}

/// Repairs of one owner's ranges: what they did not name is deleted in the next walk.
#[derive(Clone, Default, Debug)]
pub struct Repairs {
    open: Option<(Range, Tick)>,
    named: HashSet<u64>,
    done: HashMap<Range, Tick>,
}

impl Repairs {
    /// A repair begins; its time in ticks of this host.
    pub fn begin(&mut self, range: Range, now: Tick) {
        self.open = Some((range, now));
    }

    /// Records came; between a repair's begin and end they are its own, and those that happen to come.
    pub fn note<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        if self.open.is_none() {
            return;
        }
        for key in keys {
            if self.named.len() == REPAIR_ROOM {
                // Nothing is deleted in a range of which not everything is known.
                *self = Self::default();
                return;
            }
            self.named.insert(contribution(key, 0));
        }
    }

    /// It is over.
    pub fn end(&mut self, range: Range) {
        if let Some((open, now)) = self.open.take()
            && open == range
        {
            self.done.insert(range, now);
        }
    }

    /// Whether a replica of this range is to be deleted: the owner, as entries have it, was asked and did not name it.
    pub fn is_stale(&self, owner: u8, key: &Key, entry: &Entry, range: Range) -> bool {
        let Some(&now) = self.done.get(&range) else {
            return false;
        };
        entry.owner == owner
            && entry.state != PROBATION
            && now.since(entry.since) >= SETTLED
            && !self.named.contains(&contribution(key, 0))
    }

    /// A walk over all replicas is finished that began after `self` was as it is: forgets what is done.
    pub fn clear(&mut self) {
        self.done.clear();
        if self.open.is_none() {
            self.named.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which a range of each number differs by so much: after which the proof is there, and what it says.
    fn proved(rounds: &[&[(u16, u64)]]) -> Option<(usize, usize)> {
        proved_by(rounds, RANGES)
    }

    /// The same where so many ranges may be asked for in a round.
    fn proved_by(rounds: &[&[(u16, u64)]], most: usize) -> Option<(usize, usize)> {
        let (mut differences, mut proof) = (Differences::default(), Proof::default());
        proof.begin();
        (1..).zip(rounds).find_map(|(nth, sums)| {
            let digest = Digest {
                scope: Scope::Own,
                round: nth,
                now: Tick::default(),
                lost: false,
                sums: sums.iter().map(|&(range, by)| (Range(range), by)).collect(),
            };
            let asked = differences.judge(&Compare::new(&digest, 1, Tick::default()), most);
            let all_asked = asked.len() < most;
            Some((nth as usize, proof.judge(&differences, all_asked)?))
        })
    }

    #[test]
    fn entries_are_in_when_nothing_but_noise_differs() {
        assert_eq!(proved(&[&[]]), Some((1, 0)));
        assert_eq!(proved(&[&[(7, 1)]]), None, "noise, or something that is missing");
        assert_eq!(proved(&[&[(7, 1)], &[(9, 4)]]), Some((2, 0)), "noise");
        assert_eq!(
            proved(&[&[(7, 1)], &[(7, 2)]]),
            None,
            "a range that is never equal"
        );
        assert_eq!(proved(&[&[(7, 1)], &[(7, 1)]]), None, "that is missing");
        assert_eq!(
            proved(&[&[(7, 1)], &[(7, 1)], &[(9, 1)]]),
            Some((3, 0)),
            "and has come"
        );
        let never: Vec<&[(u16, u64)]> = vec![&[(7, 1), (8, 1)]; 20];
        assert_eq!(proved(&never), Some((Proof::ROUNDS.into(), 2)), "no room for it");
        let most = 256;
        let all: Vec<(u16, u64)> = (0..RANGES as u16).map(|range| (range, 1)).collect();
        let never: Vec<&[(u16, u64)]> = vec![&all; 100];
        let end = Some((Proof::MOST.into(), RANGES));
        assert_eq!(proved_by(&never, most), end, "nor for anything");
        let first: Vec<&[(u16, u64)]> = [&all[..]; 16].into_iter().chain([&[][..]]).collect();
        assert_eq!(proved_by(&first, most), Some((17, 0)), "all of it comes, in turn");
    }

    #[test]
    fn no_proof_without_a_resync() {
        assert_eq!(Proof::default().judge(&Differences::default(), true), None);
    }
}
