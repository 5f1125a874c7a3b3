//! What a node says of itself in each heartbeat.

use crate::group::Generation;
use crate::health::Mono;

/// The longest version, in bytes.
pub const VERSION_MAX: usize = 32;

/// Whether a node takes part in the group's work.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// It learns from the others and attracts no traffic.
    #[default]
    Joining,
    /// It serves.
    Ready,
    /// It is about to stop.
    Leaving,
}

impl Phase {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
        }
    }
}

/// Digests of rings by pool, so that a difference can be told from others: in buckets by the pools' identities, since heartbeats are
/// to be of one length however many pools there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolRings(pub [u32; Self::BUCKETS]);

impl Default for PoolRings {
    fn default() -> Self {
        Self([0; Self::BUCKETS])
    }
}

impl PoolRings {
    /// How many.
    pub const BUCKETS: usize = 64;

    /// Of pools, each with its identity and its ring's digest.
    pub fn of(pools: &[(u64, u64)]) -> Self {
        let mut sums = Self::default();
        for &(pool, digest) in pools {
            let sum = &mut sums.0[usize::from(Self::bucket(pool))];
            *sum = sum.wrapping_add(digest as u32);
        }
        sums
    }

    /// Where a pool of this identity is.
    pub const fn bucket(pool: u64) -> u8 {
        (pool % Self::BUCKETS as u64) as u8
    }

    /// The buckets in which two nodes differ.
    pub fn differing(&self, other: &Self) -> Vec<u8> {
        let both = (0u8..).zip(self.0.iter().zip(&other.0));
        both.filter(|(_, (one, other))| one != other)
            .map(|(bucket, _)| bucket)
            .collect()
    }
}

/// What a node says of itself.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Whether it takes part.
    pub phase: Phase,
    /// Its file says something else than the charter.
    pub drift: bool,
    /// Of the charter that it has accepted.
    pub generation: Generation,
    /// Digest of the charter that it runs, configuration and orders; of the configuration alone while nothing was agreed on.
    pub config_digest: u64,
    /// Digest of all its rings.
    pub rings: u64,
    /// The same by pool.
    pub pools: PoolRings,
    /// Digest of all origins.
    pub origins: u64,
    /// Digest of the backends that it sees down.
    pub down: u64,
    /// Number of the verdict that it follows.
    pub verdict: u64,
    /// So many of its program's events, counted since its agent started, have been merged by every peer that it has a
    /// session with; 0 while one of them gets everything.
    pub watermark: u64,
    /// Of its program, at most [`VERSION_MAX`] bytes.
    pub version: String,
    /// Packets per second that its program forwards, over the last seconds.
    pub load: u32,
    /// A random number that each start of the agent makes anew.
    pub epoch: u64,
}

/// Whether two nodes have the same configuration in force.
pub fn same_config(one: &Facts, other: &Facts) -> bool {
    (one.generation, one.config_digest) == (other.generation, other.config_digest)
}

/// What nodes should have the same of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Common {
    /// The charter in force.
    Config,
    /// What all rings are to be.
    Rings,
    /// Where flows without an entry are. Differs for a moment while slots retire.
    Origins,
    /// Which backends are down to their checks. Differs where a backend or a path fails for one node alone.
    Down,
}

impl Common {
    /// All of it.
    pub const ALL: [Self; 4] = [Self::Config, Self::Rings, Self::Origins, Self::Down];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Rings => "rings",
            Self::Origins => "origins",
            Self::Down => "down",
        }
    }

    /// Whether two nodes have the same of it.
    pub fn is_same(self, one: &Facts, other: &Facts) -> bool {
        match self {
            Self::Config => same_config(one, other),
            Self::Rings => one.rings == other.rings,
            Self::Origins => one.origins == other.origins,
            Self::Down => one.down == other.down,
        }
    }
}

/// Since when a peer differs from this node.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Differs([Option<Mono>; Common::ALL.len()]);

impl Differs {
    /// Looks at what both say now; `its` is nothing where the peer isn't heard. Nodes are compared while both are ready: a
    /// joiner differs until it has taken everything over.
    pub fn look(&mut self, own: &Facts, its: Option<&Facts>, now: Mono) {
        let is_ready = |facts: &&Facts| facts.phase == Phase::Ready && own.phase == Phase::Ready;
        let its = its.filter(is_ready);
        for (what, since) in Common::ALL.into_iter().zip(&mut self.0) {
            match its.filter(|its| !what.is_same(its, own)) {
                Some(_) => _ = since.get_or_insert(now),
                None => *since = None,
            }
        }
    }

    /// Since when in what; nothing where both have the same, or can't be compared.
    pub fn all(&self) -> impl Iterator<Item = (Common, Option<Mono>)> {
        Common::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pool_whose_ring_differs_is_found() {
        let all = [(1, 11), (2, 22), (3, 33)];
        let other = [(1, 11), (2, 23), (3, 33), (64 + 7, 1)];
        let found = PoolRings::of(&all).differing(&PoolRings::of(&other));
        assert_eq!(found, [2, 7].map(PoolRings::bucket));
        assert!(PoolRings::of(&all).differing(&PoolRings::of(&all)).is_empty());
    }

    #[test]
    fn a_difference_begins_once_and_ends_with_what_was_compared() {
        let own = Facts {
            phase: Phase::Ready,
            rings: 7,
            ..Facts::default()
        };
        let at = |s| Mono::from_unix(Duration::from_secs(s));
        let mut differs = Differs::default();
        let mut since = |its: Option<&Facts>, now| {
            differs.look(&own, its, at(now));
            differs.all().map(|(_, since)| since).collect::<Vec<_>>()
        };
        let other = Facts {
            origins: 1,
            ..own.clone()
        };
        assert_eq!(since(Some(&own), 1), [None; 4]);
        assert_eq!(since(Some(&other), 2), [None, None, Some(at(2)), None]);
        let both = Facts {
            rings: 8,
            ..other.clone()
        };
        assert_eq!(since(Some(&both), 5), [None, Some(at(5)), Some(at(2)), None]);
        let joiner = Facts {
            phase: Phase::Joining,
            ..both.clone()
        };
        assert_eq!(since(Some(&joiner), 6), [None; 4]);
        assert_eq!(since(Some(&both), 7), [None, Some(at(7)), Some(at(7)), None]);
        assert_eq!(since(None, 8), [None; 4]);
    }
}
