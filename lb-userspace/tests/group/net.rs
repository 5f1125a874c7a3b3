//! Sessions between nodes: in order, cut at any moment, with what was in flight.

use std::collections::BTreeMap;

/// Chance that repeats.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub u64);

impl Chance {
    /// SplitMix64.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.word() % (to - from).max(1)
    }
}

/// Which pairs can talk, and on which session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    sessions: u64,
    /// By pair, lower place first.
    pub(crate) up: BTreeMap<(u8, u8), u64>,
    /// When the last message of a direction arrives.
    pub(crate) last: BTreeMap<(u8, u8), u64>,
    /// Cut by the world.
    pub(crate) cut: BTreeMap<(u8, u8), u64>,
}

pub(crate) fn pair(a: u8, b: u8) -> (u8, u8) {
    (a.min(b), a.max(b))
}

impl Net {
    pub(crate) fn connect(&mut self, a: u8, b: u8) -> u64 {
        self.sessions += 1;
        self.up.insert(pair(a, b), self.sessions);
        self.sessions
    }

    pub(crate) fn session(&self, a: u8, b: u8) -> Option<u64> {
        self.up.get(&pair(a, b)).copied()
    }
}
