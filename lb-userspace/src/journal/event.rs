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
    /// The nodes of the group, among themselves.
    Peers,
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
// Its fields stand beside those of `Record` in a line, so none may have the name of one of those: it could not be read again.
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
    CharterOrders { charter: String, what: String },
    /// A generation that this node had accepted came to nothing.
    CharterDropped { charter: String, what: String },
    /// A generation that was in force gave way to one that was made without it, while the group was cut apart.
    CharterReplaced {
        charter: String,
        what: String,
        by: String,
    },
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
    /// So much of a pool looks down to most nodes that the group gives no verdicts of it, or no longer.
    GroupDoubts { pool: String, doubted: bool },
    /// This node has founded its group.
    GroupFounded { members: Vec<String> },
    /// Whose word counts in the group from now on.
    MembersChanged { members: Vec<String> },
    /// A node is a member from now on: told by the coordinator, and by that node.
    MemberAdmitted { node: String },
    /// A node is no member any more: told by whoever found that.
    MemberGone { node: String, why: String },
    /// This node gives the group's orders from now on.
    Coordinates { term: u64 },
    /// No longer.
    Yields,
    /// The group has another verdict on backends, and this node follows it.
    VerdictTaken {
        number: u64,
        dead: Vec<String>,
        draining: Vec<String>,
        returning: Vec<String>,
    },
    /// A planned change is made on all members: told by the coordinator.
    ChangeCommitted {
        charter: String,
        verdict: u64,
        rings: String,
    },
    /// An order of the coordinator, this node, waits for silent members.
    MembersAwaited { nodes: Vec<String> },
    /// A member's slots are not what they should be: told by the coordinator.
    SlotsDiffer { node: String, what: String },
    /// `join_within` is over, and this node is still no member.
    JoinOverdue { why: String },
    /// The group went on without this node, which joins it again.
    Rejoins { node: String },
    /// This node may attract traffic.
    Ready,
    /// It may not any more.
    NotReady { why: String },
    /// An operator wants this node to leave its group.
    LeaveOrdered,
    /// An operator says that a silent node forwards nothing.
    ForgetOrdered { node: String },
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
            Self::Peers => f.write_str("peers"),
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
            Self::CharterOrders { charter, what } => {
                format!("{what}, as generation {charter} of the group")
            }
            Self::CharterDropped { charter, what } => {
                format!("generation {charter} of the group came to nothing: {what}")
            }
            Self::CharterReplaced { charter, what, by } => format!(
                "generation {charter} of the group ({what}) gave way to {by}, which was made without it while the group was cut apart; \
                 `lbctl config rollback` brings a text back"
            ),
            Self::CharterUnreadable { kept, why } => {
                format!("the group's charter can't be read ({why}), kept as {kept}; the peers are asked")
            }
            _ => self.of_members(),
        }
    }

    /// The same for what the nodes of a group do among themselves.
    fn of_members(&self) -> String {
        let list = |names: &[String]| match names {
            [] => "nobody".to_owned(),
            names => names.join(" "),
        };
        match self {
            Self::GroupFounded { members } => format!("this node founded its group: {}", list(members)),
            Self::MembersChanged { members } => format!("members of the group: {}", list(members)),
            Self::MemberAdmitted { node } => format!("{node} admitted to the group"),
            Self::MemberGone { node, why } => format!("{node} is no member any more: {why}"),
            Self::Coordinates { term } => format!("this node coordinates the group, term {term}"),
            Self::Yields => "another node coordinates the group".to_owned(),
            Self::VerdictTaken {
                number,
                dead,
                draining,
                returning,
            } => {
                let parts = [("dead", dead), ("draining", draining), ("back", returning)];
                let parts = parts.iter().filter(|(_, names)| !names.is_empty());
                let parts: Vec<String> = parts
                    .map(|(what, names)| format!("{what} {}", names.join(" ")))
                    .collect();
                match parts.is_empty() {
                    true => format!("verdict {number} of the group: all backends are up"),
                    false => format!("verdict {number} of the group: {}", parts.join(", ")),
                }
            }
            Self::ChangeCommitted {
                charter,
                verdict,
                rings,
            } => format!(
                "change of slots committed by all members: generation {charter}, verdict {verdict}, rings {rings}"
            ),
            Self::MembersAwaited { nodes } => format!("waiting for silent members: {}", list(nodes)),
            Self::SlotsDiffer { node, what } => format!("{node} has other {what} than this node"),
            Self::JoinOverdue { why } => {
                format!("still no member of the group after `join_within`: {why}")
            }
            Self::Rejoins { node } => {
                format!("the group went on with {node} and without this node, which joins it again")
            }
            Self::Ready => "ready for traffic".to_owned(),
            Self::NotReady { why } => format!("not ready for traffic any more: {why}"),
            Self::LeaveOrdered => "this node leaves its group".to_owned(),
            Self::ForgetOrdered { node } => format!("{node} counts as a node that forwards nothing"),
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
            Self::GroupDoubts { pool, doubted: true } => {
                format!(
                    "pool {pool}: so much of it looks down to most nodes that the group doubts their checks, and serves it"
                )
            }
            Self::GroupDoubts { pool, .. } => {
                format!("pool {pool}: the group believes its nodes' checks again")
            }
            Self::Unknown => "an event of a newer version".to_owned(),
            _ => self.of_charter(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_do_among_themselves_is_told_in_words() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let verdict = |dead: &[&str], returning: &[&str]| Event::VerdictTaken {
            number: 4,
            dead: names(dead),
            draining: Vec::new(),
            returning: names(returning),
        };
        let node = || "lb2".to_owned();
        for (event, want) in [
            (
                Event::GroupFounded {
                    members: names(&["lb1", "lb2"]),
                },
                "this node founded its group: lb1 lb2",
            ),
            (
                Event::MembersChanged { members: Vec::new() },
                "members of the group: nobody",
            ),
            (
                Event::MemberGone {
                    node: node(),
                    why: "it has left".to_owned(),
                },
                "lb2 is no member any more: it has left",
            ),
            (
                verdict(&["web/be1", "web/be2"], &["web/be3"]),
                "verdict 4 of the group: dead web/be1 web/be2, back web/be3",
            ),
            (verdict(&[], &[]), "verdict 4 of the group: all backends are up"),
            (
                Event::SlotsDiffer {
                    node: node(),
                    what: "origins".to_owned(),
                },
                "lb2 has other origins than this node",
            ),
            (
                Event::NotReady {
                    why: "leaving".to_owned(),
                },
                "not ready for traffic any more: leaving",
            ),
            (
                Event::CharterOrders {
                    charter: "3/lb1".to_owned(),
                    what: "web/be1 drained".to_owned(),
                },
                "web/be1 drained, as generation 3/lb1 of the group",
            ),
            (
                Event::CharterDropped {
                    charter: "3/lb1".to_owned(),
                    what: "an order".to_owned(),
                },
                "generation 3/lb1 of the group came to nothing: an order",
            ),
            (
                Event::CharterReplaced {
                    charter: "3/lb1".to_owned(),
                    what: "an order".to_owned(),
                    by: "3/lb2 (another)".to_owned(),
                },
                "generation 3/lb1 of the group (an order) gave way to 3/lb2 (another), which was made without it while the group was cut \
                 apart; `lbctl config rollback` brings a text back",
            ),
            (
                Event::ChangeCommitted {
                    charter: "3/lb1".to_owned(),
                    verdict: 4,
                    rings: "0f".to_owned(),
                },
                "change of slots committed by all members: generation 3/lb1, verdict 4, rings 0f",
            ),
            (Event::Unknown, "an event of a newer version"),
        ] {
            assert_eq!(event.to_string(), want);
            let record = Record {
                seq: 1,
                time: Wall(2),
                generation: 7,
                cause: Cause::Peers,
                event,
            };
            let line = serde_json::to_string(&record).expect("plain values");
            assert_eq!(
                serde_json::from_str::<Record>(&line).expect("it was written"),
                record
            );
        }
    }
}
