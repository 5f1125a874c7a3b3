//! The records of the journal.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::wall::Wall;

/// One line of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// Counts up by one with every record.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch.
    #[schema(value_type = u64)]
    pub time: Wall,
    /// The generation of the configuration that was in force after it.
    pub generation: u64,
    /// Who or what did it.
    pub cause: Cause,
    /// What changed.
    #[serde(flatten)]
    pub event: Event,
}

/// Who or what changed something.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Cause {
    /// A command over the API.
    Operator {
        /// The user.
        uid: u32,
        /// The process; 0 where the kernel doesn't say.
        pid: i32,
    },
    /// SIGHUP: the file was read again.
    Reload,
    /// Routes, neighbours, links.
    Network,
    /// Health checks.
    Health,
    /// Time alone: a deadline, a step of a ramp.
    Time,
    /// The agent came up.
    Start,
    /// The agent was told to end.
    Stop,
    /// A cause that this program doesn't know; a newer one wrote it.
    #[serde(other)]
    Unknown,
}

/// What changed. Backends are named `pool/backend`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are what the text of the event says")]
pub enum Event {
    /// The agent is ready.
    Started { version: String, adopted: bool },
    /// The agent ended in order; the data plane goes on.
    Stopped,
    /// A configuration is in force.
    ConfigApplied {
        source: String,
        slots_moved: u32,
        changed: bool,
    },
    /// A configuration was refused; the running one stayed.
    ConfigRefused { source: String, why: String },
    /// No new flows.
    Drained {
        backend: String,
        /// In milliseconds since the Unix epoch.
        #[schema(value_type = Option<u64>)]
        deadline: Option<Wall>,
        slots_moved: u32,
    },
    /// New flows again.
    Undrained { backend: String, slots_moved: u32 },
    /// A drain is over: the backend counts as down.
    DrainOver { backend: String },
    /// Treated as dead.
    MarkedDown { backend: String, slots_moved: u32 },
    /// No longer.
    MarkedUp { backend: String, slots_moved: u32 },
    /// A weight was set, or given back to the configuration.
    WeightSet {
        backend: String,
        weight: Option<u16>,
        slots_moved: u32,
    },
    /// A weight begins to grow to the configured one.
    RampStarted {
        backend: String,
        steps: u16,
        over_ms: u64,
        slots_moved: u32,
    },
    /// It grew.
    RampStep { backend: String, step: u16, steps: u16 },
    /// It is the configured one.
    RampOver { backend: String },
    /// The operator's orders for a backend that left the configuration were dropped.
    OrdersDropped { backend: String },
    /// The file of the operator's orders can't be read; it was kept aside.
    OrdersUnreadable { kept: String, why: String },
    /// Packets can be sent there.
    NextHopFound { backend: String },
    /// Packets can't be sent there: its slots are lent to others.
    NextHopLost { backend: String, why: String },
    /// An event that this program doesn't know; a newer one wrote it.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { uid, pid } => write!(f, "operator (uid {uid}, pid {pid})"),
            Self::Reload => f.write_str("reload"),
            Self::Network => f.write_str("network"),
            Self::Health => f.write_str("health"),
            Self::Time => f.write_str("time"),
            Self::Start => f.write_str("start"),
            Self::Stop => f.write_str("stop"),
            Self::Unknown => f.write_str("?"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moved = |f: &mut fmt::Formatter<'_>, slots: &u32| write!(f, "; {slots} slots moved");
        match self {
            Self::Started { version, adopted } => {
                let how = if *adopted {
                    "took over the running data plane"
                } else {
                    "loaded a new data plane"
                };
                write!(f, "agent {version} started, {how}")
            }
            Self::Stopped => f.write_str("agent stopped; the data plane goes on"),
            Self::ConfigApplied {
                source,
                slots_moved,
                changed,
            } => {
                let same = if *changed { "" } else { ", nothing changed" };
                write!(f, "configuration of {source} in force{same}")?;
                moved(f, slots_moved)
            }
            Self::ConfigRefused { source, why } => write!(f, "configuration of {source} refused: {why}"),
            Self::Drained {
                backend,
                deadline,
                slots_moved,
            } => {
                write!(f, "{backend} drained")?;
                if let Some(deadline) = deadline {
                    write!(f, " until {}", deadline.text())?;
                }
                moved(f, slots_moved)
            }
            Self::Undrained { backend, slots_moved } => {
                write!(f, "{backend} no longer drained")?;
                moved(f, slots_moved)
            }
            Self::DrainOver { backend } => write!(f, "{backend}: its drain is over, it counts as down"),
            Self::MarkedDown { backend, slots_moved } => {
                write!(f, "{backend} marked down")?;
                moved(f, slots_moved)
            }
            Self::MarkedUp { backend, slots_moved } => {
                write!(f, "{backend} no longer marked down")?;
                moved(f, slots_moved)
            }
            Self::WeightSet {
                backend,
                weight,
                slots_moved,
            } => {
                match weight {
                    Some(weight) => write!(f, "{backend} has weight {weight}")?,
                    None => write!(f, "{backend} has its configured weight")?,
                }
                moved(f, slots_moved)
            }
            Self::RampStarted {
                backend,
                steps,
                over_ms,
                slots_moved,
            } => {
                let over = std::time::Duration::from_millis(*over_ms);
                write!(f, "{backend}: ramp in {steps} steps over {over:?}")?;
                moved(f, slots_moved)
            }
            Self::RampStep { backend, step, steps } => {
                write!(f, "{backend}: step {step} of {steps} of its ramp")
            }
            Self::RampOver { backend } => write!(f, "{backend}: its ramp is over"),
            Self::OrdersDropped { backend } => {
                write!(
                    f,
                    "{backend} left the configuration: the operator's orders for it are dropped"
                )
            }
            Self::OrdersUnreadable { kept, why } => {
                write!(f, "the operator's orders can't be read ({why}), kept as {kept}")
            }
            Self::NextHopFound { backend } => write!(f, "{backend}: next hop found"),
            Self::NextHopLost { backend, why } => write!(f, "{backend}: no next hop: {why}"),
            Self::Unknown => f.write_str("an event of a newer version"),
        }
    }
}
