//! What a node says of itself in each heartbeat.

use crate::group::Generation;

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

/// What a node says of itself.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Whether it takes part.
    pub phase: Phase,
    /// Of the configuration that it has in force.
    pub generation: Generation,
    /// Digest of that configuration.
    pub config_digest: u64,
    /// Digest of all its rings.
    pub rings: u64,
    /// Digest of all origins.
    pub origins: u64,
    /// Digest of the backends that it sees down.
    pub down: u64,
    /// Number of the verdict that it follows.
    pub verdict: u64,
    /// Up to where it has merged what it was sent.
    pub watermark: u64,
    /// Of its program, at most [`VERSION_MAX`] bytes.
    pub version: String,
    /// Packets per second.
    pub load: u32,
    /// A random number that each start of the agent makes anew.
    pub epoch: u64,
}

/// Whether two nodes have the same configuration in force.
pub fn same_config(one: &Facts, other: &Facts) -> bool {
    (one.generation, one.config_digest) == (other.generation, other.config_digest)
}
