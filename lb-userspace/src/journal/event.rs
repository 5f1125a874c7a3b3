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
    /// The group's charter, by an operator of one of its nodes.
    Group {
        /// The node.
        node: String,
        /// The user there.
        uid: u32,
    },
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
    /// The file says something else than the group's configuration, which stays in force.
    ConfigDrifted { file: String },
    /// Orders of the group are in force.
    CharterOrders { generation: String, what: String },
    /// A generation that this node had accepted came to nothing.
    CharterDropped { generation: String, what: String },
    /// A file of the group's charter can't be read; it was kept aside.
    CharterUnreadable { kept: String, why: String },
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
    /// The health checks have another verdict on a backend.
    Judged {
        backend: String,
        from: String,
        to: String,
        reason: String,
    },
    /// So much of a pool looks down that its checks are doubted, or no longer.
    ChecksDoubted { pool: String, doubted: bool, down: u32 },
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
            Self::Group { node, uid } => write!(f, "group (uid {uid} on {node})"),
            Self::Start => f.write_str("start"),
            Self::Stop => f.write_str("stop"),
            Self::Unknown => f.write_str("?"),
        }
    }
}

impl Event {
    /// How many slots got another backend by it, where that is known.
    pub fn slots_moved(&self) -> Option<u32> {
        match self {
            Self::ConfigApplied { slots_moved, .. }
            | Self::Drained { slots_moved, .. }
            | Self::Undrained { slots_moved, .. }
            | Self::MarkedDown { slots_moved, .. }
            | Self::MarkedUp { slots_moved, .. }
            | Self::WeightSet { slots_moved, .. }
            | Self::RampStarted { slots_moved, .. } => Some(*slots_moved),
            _ => None,
        }
    }

    /// The same for what happens to the group's charter.
    fn of_charter(&self) -> String {
        match self {
            Self::ConfigDrifted { file } => {
                format!("{file} says something else than the group's configuration, which stays in force")
            }
            Self::CharterOrders { generation, what } => {
                format!("{what}, as generation {generation} of the group")
            }
            Self::CharterDropped { generation, what } => {
                format!("generation {generation} of the group came to nothing: {what}")
            }
            Self::CharterUnreadable { kept, why } => {
                format!("the group's charter can't be read ({why}), kept as {kept}; the peers are asked")
            }
            _ => String::new(),
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Started {
                version,
                adopted: true,
            } => {
                format!("agent {version} started, took over the running data plane")
            }
            Self::Started { version, .. } => format!("agent {version} started, loaded a new data plane"),
            Self::Stopped => "agent stopped; the data plane goes on".to_owned(),
            Self::ConfigApplied { source, changed, .. } => {
                let same = if *changed { "" } else { ", nothing changed" };
                format!("configuration of {source} in force{same}")
            }
            Self::ConfigRefused { source, why } => format!("configuration of {source} refused: {why}"),
            Self::Drained {
                backend, deadline, ..
            } => {
                let until = deadline.map_or(String::new(), |end| format!(" until {}", end.text()));
                format!("{backend} drained{until}")
            }
            Self::Undrained { backend, .. } => format!("{backend} no longer drained"),
            Self::DrainOver { backend } => format!("{backend}: its drain is over, it counts as down"),
            Self::MarkedDown { backend, .. } => format!("{backend} marked down"),
            Self::MarkedUp { backend, .. } => format!("{backend} no longer marked down"),
            Self::WeightSet { backend, weight, .. } => match weight {
                Some(weight) => format!("{backend} has weight {weight}"),
                None => format!("{backend} has its configured weight"),
            },
            Self::RampStarted {
                backend,
                steps,
                over_ms,
                ..
            } => {
                let over = std::time::Duration::from_millis(*over_ms);
                format!("{backend}: ramp in {steps} steps over {over:?}")
            }
            Self::RampStep { backend, step, steps } => {
                format!("{backend}: step {step} of {steps} of its ramp")
            }
            Self::RampOver { backend } => format!("{backend}: its ramp is over"),
            Self::OrdersDropped { backend } => {
                format!("{backend} left the configuration: the operator's orders for it are dropped")
            }
            Self::OrdersUnreadable { kept, why } => {
                format!("the operator's orders can't be read ({why}), kept as {kept}")
            }
            Self::NextHopFound { backend } => format!("{backend}: next hop found"),
            Self::NextHopLost { backend, why } => format!("{backend}: no next hop: {why}"),
            Self::Judged {
                backend,
                from,
                to,
                reason,
            } => format!("{backend}: {to}, was {from}: {reason}"),
            Self::ChecksDoubted {
                pool,
                doubted: true,
                down,
            } => {
                format!("pool {pool}: {down} % of its weight looks down, so its checks are doubted")
            }
            Self::ChecksDoubted { pool, down, .. } => {
                format!("pool {pool}: {down} % of its weight looks down, its checks are believed again")
            }
            Self::ConfigDrifted { .. }
            | Self::CharterOrders { .. }
            | Self::CharterDropped { .. }
            | Self::CharterUnreadable { .. } => self.of_charter(),
            Self::Unknown => "an event of a newer version".to_owned(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        match self.slots_moved() {
            Some(slots) => write!(f, "; {slots} slots moved"),
            None => Ok(()),
        }
    }
}
