//! Whether backends are well: who is asked when, what the answers amount to, what becomes of a pool.
//!
//! | file | what |
//! |---|---|
//! | `fsm` | one backend: answers → standing |
//! | `flap` | what a backend that comes and goes has to wait |
//! | `fail_open` | one pool: whether the checks are to be believed |
//! | `plan` | who is asked next, evenly spread, never too many at once |
//! | `monitor` | all of it together |
//! | `store` | what the next agent takes over |
//! | `task` | clock, chance, sockets: the thread that runs it |
//!
//! All but `store` and `task` compute only: time and chance are arguments.

pub mod flap;
pub mod fsm;
pub mod fail_open;
pub mod plan;
pub mod monitor;
pub mod store;
pub mod task;

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::probe::Outcome;

/// A moment of a clock that never goes back while the agent runs and shows Unix time when it starts: so a moment
/// that one agent wrote down means something to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(Duration);

impl Mono {
    /// So long after 1970-01-01T00:00:00Z.
    pub const fn from_unix(since: Duration) -> Self {
        Self(since)
    }

    /// The time since 1970-01-01T00:00:00Z; right as far as the wall clock was when the agent started.
    pub const fn unix(self) -> Duration {
        self.0
    }

    /// The time since `earlier`; 0 if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// What the checks of one backend amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No verdict yet; counts as up.
    #[default]
    Unknown,
    /// It answers well.
    Up,
    /// It answers, but refuses work.
    Draining,
    /// It doesn't answer.
    Suspect,
    /// It hasn't answered for longer than the grace.
    Dead,
}

impl Phase {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }

    /// Whether it counts as up.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Unknown | Self::Up)
    }

    /// Whether it doesn't answer.
    pub const fn is_silent(self) -> bool {
        matches!(self, Self::Suspect | Self::Dead)
    }
}
