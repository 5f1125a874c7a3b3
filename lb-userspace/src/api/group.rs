//! What the API says of a group: whether this node may attract traffic, what the group is doing.

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
    /// The group went on without this node, which serves on and joins it again.
    pub rejoins: bool,
    /// Who is no member and may forward all the same, in a partition: no slot retires until it is back or forgotten, for up to
    /// `group.max_tracked` as it was when the agent started.
    pub adrift: Vec<String>,
}

/// An answer that says no more than that it was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// What was done, in words.
    pub done: String,
}
