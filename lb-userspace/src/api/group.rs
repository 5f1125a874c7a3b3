//! What the API says of a group: whether this node may attract traffic, what the group and its flow records are doing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether this node may attract traffic. What announces VIPs, or sends packets here, goes by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// It may.
    pub ready: bool,
    /// Why not.
    pub why: Option<String>,
    /// How the group runs; nothing where this node is alone, or its nodes don't talk.
    pub group: Option<GroupState>,
}

/// How a group runs, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupState {
    /// Who gives the orders.
    pub coordinator: Option<String>,
    /// Whose word counts in the group.
    pub members: Vec<String>,
    /// Those of them whose heartbeats come, this node among them.
    pub live: Vec<String>,
    /// What this node, coordinating, is doing: `change`, `verdict`, `burial`, `retirement`, `admission`, `recovery`.
    pub under_way: Option<String>,
    /// Whose answers it waits for.
    pub waits_for: Vec<String>,
}

/// An answer that says no more than that it was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// What was done, in words.
    pub done: String,
}

/// What the replication of flows is doing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Replication {
    /// Events that the program told since the agent started.
    pub events: u64,
    /// Events that were lost since the program was loaded: digests find and repair what they would have said.
    pub lost: u64,
    /// The other nodes, in the order of `group.nodes`.
    pub peers: Vec<Replicated>,
}

/// The flow records of one session with a peer, the last one where there is none. Totals since it began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Replicated {
    /// Its name.
    pub node: String,
    /// There is a session.
    pub connected: bool,
    /// From an event to the peer's word that it is in its map, half of the last minute's records at most; milliseconds.
    pub lag_p50_ms: Option<f64>,
    /// The same of 99 in 100.
    pub lag_p99_ms: Option<f64>,
    /// Records that were sent.
    pub sent: u64,
    /// Those that it has merged.
    pub acknowledged: u64,
    /// Records that came.
    pub received: u64,
    /// Entries that were missing here and were found by digests, refreshes or resyncs.
    pub found: u64,
    /// Ranges of slots that were repaired, there and here.
    pub repairs: u64,
    /// Ranges that differed in the last comparison.
    pub differing: u64,
    /// It is so slow that it is told nothing until it has caught up.
    pub degraded: bool,
    /// Records that changed nothing here, by reason.
    pub dropped: BTreeMap<String, u64>,
}
