//! What the API takes and gives. Times are milliseconds since the Unix epoch, durations milliseconds.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::journal::Record;
use crate::state::plan::Plan;

/// What every order takes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plain {
    /// Do it also where the pool then has nobody left for new flows.
    #[serde(default)]
    pub force: bool,
}

/// How a drain goes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// After so long the backend counts as down; never where absent. At most 31 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_678_400_000_u64)]
    pub deadline_ms: Option<u64>,
    /// Do it also where the pool then has nobody left for new flows.
    #[serde(default)]
    pub force: bool,
}

/// A weight.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Weight {
    /// The weight; the configuration's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Do it also where the pool then has nobody left for new flows.
    #[serde(default)]
    pub force: bool,
}

/// How a ramp goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// How many steps; the first at once.
    #[serde(default = "steps")]
    #[schema(minimum = 2, maximum = 1000, default = 10)]
    pub steps: u16,
    /// From the first step to the last; at most 31 days.
    #[serde(default = "over")]
    #[schema(minimum = 1, maximum = 2_678_400_000_u64, default = 300_000)]
    pub over_ms: u64,
}

/// The longest duration that an order may name: 31 days.
pub const LONGEST_MS: u64 = 31 * 24 * 3600 * 1000;

/// The most steps of a ramp.
pub const STEPS_MAX: u16 = 1000;

fn steps() -> u16 {
    10
}

fn over() -> u64 {
    300_000
}

impl Default for Ramp {
    fn default() -> Self {
        Self {
            steps: steps(),
            over_ms: over(),
        }
    }
}

/// What an order did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ordered {
    /// Whether it was not so before.
    pub changed: bool,
    /// How many of the pool's 65,536 slots have another backend now.
    pub slots_moved: u32,
    /// What holds for the backend.
    pub backend: BackendState,
    /// As [`Applied::without`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

/// What holds for a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackendState {
    /// The pool's name.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// What it may get, all views together: `up`, `draining`, `suspect`, `dead`.
    pub standing: String,
    /// What the operator ordered: `drain`, `down`, or nothing.
    pub admin: Option<String>,
    /// When its drain ends and it counts as down.
    pub deadline: Option<u64>,
    /// Its weight in the configuration.
    pub configured_weight: u16,
    /// The weight that the operator set.
    pub weight: Option<u16>,
    /// Its ramp.
    pub ramp: Option<RampState>,
    /// How many of the pool's 65,536 slots it holds.
    pub slots: u32,
}

/// How far a ramp is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct RampState {
    /// The step that holds.
    pub step: u16,
    /// Of how many.
    pub steps: u16,
    /// When it is over.
    pub ends: u64,
}

/// All backends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Backends {
    /// In the order of the configuration.
    pub backends: Vec<BackendState>,
}

/// How a configuration's text is named in messages, and what it may replace.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Naming {
    /// The file's name for messages, at most 4,096 characters; the agent's own where absent.
    pub name: Option<String>,
    /// Refuse where the running configuration has another generation; in a group the number of the group's.
    pub generation: Option<u64>,
}

/// What a configuration would change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Planned {
    /// The generation of the running configuration, which the plan starts from; in a group its number.
    pub generation: u64,
    /// The same of the group, such as `12/lb2`; nothing where this node is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The plan.
    pub plan: Plan,
    /// Backends that would go, with the entries of the flow table that name them: these flows stay there until they end.
    #[serde(default)]
    pub leaving: Vec<Leaving>,
}

/// A backend that would go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Leaving {
    /// `pool/backend`.
    pub backend: String,
    /// How many entries of the flow table name it. Flows in untracked slots have none until the change is prepared.
    pub entries: u32,
}

/// What a configuration has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// The new generation; in a group the number of the group's.
    pub generation: u64,
    /// What changed.
    pub plan: Plan,
    /// The file that it was written to.
    pub file: String,
    /// The file that holds what was there before; nothing where no file was there.
    pub backup: Option<String>,
    /// The generation of the group, such as `12/lb2`; nothing where this node is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Nodes of the group that were no members: they have it when they are back, or a newer one that was made without this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

/// Which text of the history is wanted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Rollback {
    /// The number of its generation; the last one with another text than the running where absent.
    pub number: Option<u64>,
}

/// The last generations of the group's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The newest first.
    pub generations: Vec<Past>,
}

/// A generation that was in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Past {
    /// Such as `12/lb2`.
    pub generation: String,
    /// Its number.
    pub number: u64,
    /// The node that it was asked of.
    pub node: String,
    /// The user who asked.
    pub uid: u32,
    /// When, in milliseconds since the Unix epoch, by that node's clock.
    pub at: u64,
    /// What was asked, and by whom.
    pub what: String,
    /// Its text is another one than that of the generation before.
    pub new_text: bool,
    /// It is the running one.
    pub in_force: bool,
}

/// How a node stands to its group's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Charter {
    /// Such as `12/lb2`; number 0 where nothing was agreed on.
    pub generation: String,
    /// One that is not decided.
    pub pending: Option<String>,
    /// All live peers have the same.
    pub equal: bool,
    /// This node runs it.
    pub in_force: bool,
    /// This node's file says something else.
    pub drift: bool,
}

/// The running configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Running {
    /// Counts configurations that this node accepted.
    pub generation: u64,
    /// The agent's configuration file.
    pub file: String,
    /// Where the running one came from: `start`, `reload` or `operator`, with who it was.
    pub source: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: u64,
    /// Whether the file says something else now, or can't be read.
    pub file_differs: bool,
    /// Its text, with the group's key masked.
    pub text: String,
    /// How this node stands to its group's configuration; nothing where it is in no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charter: Option<Charter>,
}

/// Which records of the journal are wanted.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Since {
    /// Only records with a greater number.
    pub after: Option<u64>,
    /// Only the last so many, 1 to 10,000; 100 where absent.
    pub limit: Option<usize>,
}

/// Records of the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// The oldest first.
    pub events: Vec<Record>,
}

/// Why something was refused; every answer that is not 200 has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
