//! Who is asked next: evenly spread over the interval, never too many at once.
//!
//! Every check has its place in the interval, which its stable identity alone decides: thousands of checks don't meet,
//! a reload or a restart moves nobody, and two nodes ask the same backend at about the same time of each
//! interval. A question is late by a random part of the interval (`jitter`), counted from its place, so lateness
//! doesn't add up. Where the bound on questions in flight holds one up, the one that waits longest is next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Mono;

/// When one check is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From one question to the next.
    pub interval: Duration,
    /// A question is late by up to this share of the interval, in percent.
    pub jitter: u32,
}

/// The plan of all checks, by the backend's stable identity.
#[derive(Clone, Debug)]
pub struct Plan {
    timings: BTreeMap<u64, Timing>,
    due: BTreeSet<(Mono, u64)>,
    waiting: BTreeMap<u64, Waiting>,
    /// Checks that are asked right now, and the place that the question is for.
    running: BTreeMap<u64, Mono>,
    bound: usize,
}

/// A check that waits for its next question.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    place: Mono,
    /// The place and its lateness.
    due: Mono,
}

impl Plan {
    /// An empty plan; at most `bound` questions are in flight, at least one.
    pub fn new(bound: usize) -> Self {
        Self {
            timings: BTreeMap::new(),
            due: BTreeSet::new(),
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            bound: bound.max(1),
        }
    }

    /// Adds a check, or gives it another timing. Its first question is due at its next place from `now` on.
    pub fn set(&mut self, id: u64, timing: Timing, now: Mono) {
        if self.timings.insert(id, timing) == Some(timing) || self.running.contains_key(&id) {
            return;
        }
        self.schedule(id, place(id, timing.interval, now), Duration::ZERO);
    }

    /// Takes a check out. A question in flight still counts until [`Plan::finished`].
    pub fn remove(&mut self, id: u64) {
        self.timings.remove(&id);
        self.unschedule(id);
    }

    /// The next check that is to be asked now; it is in flight from here on.
    pub fn poll(&mut self, now: Mono) -> Option<u64> {
        if self.running.len() >= self.bound {
            return None;
        }
        let &(due, id) = self.due.first()?;
        if due > now {
            return None;
        }
        let place = self.unschedule(id)?;
        self.running.insert(id, place);
        Some(id)
    }

    /// Ends a question, `chance` from 0 to 1 (exclusive) decides how late the next one is: at the place after the one
    /// that this question was for, or, where whole intervals were missed, at the first after `now`.
    pub fn finished(&mut self, id: u64, now: Mono, chance: f64) {
        let Some(last) = self.running.remove(&id) else {
            return;
        };
        let Some(&Timing { interval, jitter }) = self.timings.get(&id) else {
            return;
        };
        let late = interval.mul_f64(f64::from(jitter) / 100.0 * chance.clamp(0.0, 1.0));
        // A new timing has other places: at least a moment after the last question.
        let next = place(id, interval, last + Duration::from_nanos(1));
        let missed = next + interval <= now;
        self.schedule(id, if missed { place(id, interval, now) } else { next }, late);
    }

    /// When the next question is due; nothing while the bound is reached or nobody waits.
    pub fn poll_timeout(&self) -> Option<Mono> {
        if self.running.len() >= self.bound {
            return None;
        }
        self.due.first().map(|(due, _)| *due)
    }

    /// How many questions are in flight.
    pub fn in_flight(&self) -> usize {
        self.running.len()
    }

    fn schedule(&mut self, id: u64, place: Mono, late: Duration) {
        self.unschedule(id);
        let due = place + late;
        self.due.insert((due, id));
        self.waiting.insert(id, Waiting { place, due });
    }

    /// Takes a check from those that wait, and says for which place it did.
    fn unschedule(&mut self, id: u64) -> Option<Mono> {
        let Waiting { place, due } = self.waiting.remove(&id)?;
        self.due.remove(&(due, id));
        Some(place)
    }
}

/// The first moment from `now` on that is a check's place in its interval.
fn place(id: u64, interval: Duration, now: Mono) -> Mono {
    let interval = interval.as_nanos().max(1);
    let phase = (u128::from(spread(id)) * interval) >> 64;
    let now = now.unix().as_nanos();
    let past = now.saturating_sub(phase);
    let place = past.div_ceil(interval) * interval + phase;
    let nanos = u64::try_from(place).unwrap_or(u64::MAX);
    Mono::from_unix(Duration::from_nanos(nanos))
}

/// Identities are hashes already, but nobody promises that their upper bits are spread (splitmix64's finisher).
const fn spread(id: u64) -> u64 {
    let mut x = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
