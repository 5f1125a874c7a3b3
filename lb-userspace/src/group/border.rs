//! What goes into the machine and comes out of it.

use std::time::Duration;

use super::nodes::Nodes;
use super::order::{Answer, Cell, Generation, Order, SlotImage, Target, Verdict};
use super::wire::Phase;
use crate::health::Mono;
use crate::state::standing::Standing;

/// What the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// This node's place in `group.nodes`.
    pub me: u8,
    /// How many nodes `group.nodes` has, at most [`super::NODES_MAX`].
    pub nodes: u8,
    /// Of this node's key of the flow hash: with another key a flow falls into another slot.
    pub key: u64,
    /// A node that is silent for so long is no member any more.
    pub withdraw_after: Duration,
    /// For how long this node tries to join before it says that it can't; it tries on.
    pub join_within: Duration,
    /// Between `Prepare` and `Commit`.
    pub pause: Duration,
    /// For how long slots stay tracked at most since this node knows that another one is adrift.
    pub max_tracked: Duration,
    /// For how long a leaving node waits until routers send it nothing any more.
    pub leave_after: Duration,
}

/// How this agent started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Start {
    /// Random, another one with each start.
    pub epoch: u64,
    /// Pinned slots were found: this node forwarded all the time, and they are the truth. Otherwise it forwards nothing
    /// until it is ready.
    pub kept: bool,
}

/// What this node's own checks and its operator say of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// `lb_common::id` of the backend.
    pub backend: u64,
    /// `lb_common::id::stable(name, "")` of its pool.
    pub pool: u64,
    /// Its configured weight.
    pub weight: u16,
    /// Above so many percent of the pool's weight its checks are doubted; 100: never.
    pub fail_open: u32,
    /// What the operator wants it to be.
    pub ordered: Standing,
    /// What it looks like to this node's checks, doubted or not.
    pub seen: Standing,
}

/// What the engine says of this node's slots. Given anew whenever something of it has changed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Local {
    /// What all rings are to be, by the newest charter, verdict and orders of the operator.
    pub target: Target,
    /// Digest over the `origin` of all slots, by stable identity.
    pub origins: u64,
    /// Slots on which this node would vote yes, with the backend that they would retire to.
    pub candidates: Vec<Cell>,
    /// Slots whose origin is dead, with their new origin.
    pub buriable: Vec<Cell>,
}

/// Why two nodes that are there have no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mismatch {
    /// One end refuses the other's certificate.
    Certificate,
    /// Their `group.nodes` give some node two places.
    Nodes,
}

/// What the machine is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A control session with a peer; each has another number. Messages of an earlier one are never delivered after it.
    Up {
        /// Its place.
        peer: u8,
        /// Number of the session.
        session: u64,
    },
    /// The session broke; what was in flight is lost.
    Down {
        /// Its place.
        peer: u8,
        /// Number of the session.
        session: u64,
    },
    /// The peer's heartbeats come.
    Alive {
        /// Its place.
        peer: u8,
    },
    /// The peer's heartbeats have stayed away for `dead_after`.
    Dead {
        /// Its place.
        peer: u8,
    },
    /// The peer is there, and there is no session, since one end refuses the other. To be said again while it is so.
    Refused {
        /// Its place.
        peer: u8,
        /// Over what.
        mismatch: Mismatch,
    },
    /// What a peer's machine sent by [`Action::Send`].
    Message {
        /// Its place.
        peer: u8,
        /// Number of the session on which it came.
        session: u64,
        /// Encoded.
        bytes: Vec<u8>,
    },
    /// The engine's answer to [`Action::Do`].
    Answered {
        /// Of the action.
        ticket: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Own slots.
    Local(Local),
    /// Own views of all backends.
    Views(Vec<View>),
    /// The engine's answer to [`Action::NeedSnapshot`]: all slots.
    Snapshot {
        /// One per pool.
        images: Vec<SlotImage>,
        /// [`super::slots`] over them.
        slots: u64,
    },
    /// The engine's answer to [`Action::Install`].
    Installed {
        /// [`super::slots`] over own slots right after it, as far as they have to be the group's ([`super::taken`]).
        slots: u64,
    },
    /// All flow entries of this peer's are in, and those of owners that are gone, and digests are equal; until its session breaks.
    Synced {
        /// Its place.
        peer: u8,
    },
    /// Whether the charter is the group's.
    CharterEqual(bool),
    /// The operator says that a silent node forwards nothing.
    Forget {
        /// Its place.
        peer: u8,
    },
    /// The operator wants this node to leave.
    Leave,
    /// The answer to [`Action::HandOver`].
    HandedOver,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this to a peer, in order, on its current session; to be dropped if there is none.
    Send {
        /// Its place.
        peer: u8,
        /// Encoded, at most [`super::MESSAGE_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// Carry this out and answer with the ticket. A later one supersedes it: what has not been answered by then need not
    /// be carried on with, and an answer is ignored.
    Do {
        /// Counts up.
        ticket: u64,
        /// What to do.
        order: Order,
    },
    /// This verdict is in force here from now on; [`Order::Judge`] follows.
    Verdict(Verdict),
    /// Say what all slots are ([`Input::Snapshot`]).
    NeedSnapshot,
    /// Make the slots what these say ([`Input::Installed`]): `origin`, `previous`, flags, `current`.
    Install(Vec<SlotImage>),
    /// Whether this node may attract traffic.
    Ready(Result<(), Why>),
    /// The members have changed: the idle timer of all tracked slots begins anew.
    Members(Nodes),
    /// Have all own records merged by all live peers ([`Input::HandedOver`]).
    HandOver,
    /// The leave is complete: the agent may stop.
    Left,
    /// For the journal and the log.
    Told(Event),
}

/// Why this node doesn't attract traffic, or not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Why {
    /// Waits to see whether the group runs already.
    #[error("waiting to see who else is there")]
    Waiting,
    /// Nobody is ready, and another node will be first.
    #[error("waiting for node {0} to found the group")]
    Founder(u8),
    /// The last one that has slots is about to stop.
    #[error("node {0} leaves the group, and forwards by slots of its own until it has")]
    Leaver(u8),
    /// A node that may forward can't be asked, since one end refuses the other's certificate.
    #[error("node {0} is there, and one of both refuses the other's certificate")]
    Refused(u8),
    /// A node that may forward can't be asked, since it would mean others by the places of nodes.
    #[error("node {0} is there, and its `group.nodes` are others, or stand in another order")]
    Nodes(u8),
    /// Flows fall into other slots there.
    #[error("node {0} has another key: `group.key` is not the same on both")]
    Key(u8),
    /// Its configuration and orders are not the group's.
    #[error("the configuration is not the group's yet")]
    Charter,
    /// Some peer's flow entries are missing.
    #[error("flow entries of node {0} are missing, or not equal yet")]
    Sync(u8),
    /// A live member that this node can't ask for its flow entries.
    #[error("node {0} is a live member, and this node doesn't reach it")]
    Apart(u8),
    /// The coordinator is busy with a phase, or waits for a silent member.
    #[error("waiting for node {0} to admit this one")]
    Queue(u8),
    /// Slots are being taken over.
    #[error("taking over the slots of node {0}")]
    Slots(u8),
    /// This node's slots are not the coordinator's after taking them over.
    #[error("slots differ from those of node {0} after taking them over")]
    Differs(u8),
    /// Others see the backends that this node doesn't.
    #[error("this node alone sees more than half of a pool down")]
    Alone,
    /// The operator said so.
    #[error("leaving")]
    Leaving,
}

/// What the machine tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// This node coordinates from now on.
    Coordinates {
        /// Number of its term.
        term: u64,
    },
    /// It doesn't any more.
    Yields,
    /// Founded by this node.
    Founded(Nodes),
    /// A node was admitted.
    Admitted(u8),
    /// A node is no member any more.
    Gone {
        /// Its place.
        node: u8,
        /// Why.
        how: Gone,
    },
    /// A planned change is made on all members.
    Committed(Target),
    /// A planned change was given up; slots stay tracked.
    GivenUp(Target),
    /// A verdict is in force on all live members.
    Judged(Verdict),
    /// Origins of a dead backend's slots were replaced.
    Buried(usize),
    /// Slots forgot.
    Retired(usize),
    /// Slots that were to retire stay tracked.
    Reopened(usize),
    /// Left by an earlier coordinator: finished, opened again.
    Recovered {
        /// Slots that had been retired somewhere.
        finished: usize,
        /// Slots that had only been closed.
        reopened: usize,
    },
    /// A phase waits for a silent member.
    Waits(Nodes),
    /// A member has other rings for the same charter and verdict.
    RingsDiffer(u8),
    /// A joiner's slots are others after it took this node's over.
    SlotsDiffer(u8),
    /// So much of this pool looks down to most nodes that there are no verdicts of it, or no longer.
    Doubts(u64, bool),
    /// `join_within` is over.
    JoinOverdue(Why),
    /// This half of the group is the smaller one, and joins the other.
    Rejoins(u8),
    /// Messages that can't be any, and how many there were by now.
    Garbage(u8, u64),
    /// `Forget` was refused: the node is not silent.
    NotSilent(u8),
}

/// Why a node is no member any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// It said good-bye.
    Left,
    /// It was silent for `withdraw_after`.
    Silent,
    /// The operator said so.
    Forgotten,
    /// It started anew, without slots.
    Restarted,
}

/// What heartbeats and `lbctl peers` show of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Where it is in its life.
    pub phase: Phase,
    /// Random, another one with each start of the agent.
    pub epoch: u64,
    /// Of its charter.
    pub generation: Generation,
    /// Number of the verdict in force there.
    pub verdict: u64,
    /// What its rings are to be.
    pub rings: u64,
    /// Over its origins.
    pub origins: u64,
    /// Whom it counts as members.
    pub members: Nodes,
    /// Number of the highest term it has seen.
    pub term: u64,
}

/// How the group runs, as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// The operator wants this node to leave.
    pub leaves: bool,
    /// The group went on without this node, which serves on and joins it again.
    pub rejoins: bool,
    /// Who is no member and may forward all the same: no slot retires until it is back, has left or is forgotten, for up to
    /// [`Settings::max_tracked`].
    pub adrift: Nodes,
    /// Who coordinates.
    pub coordinator: Option<u8>,
    /// Members whose heartbeats come, this node among them.
    pub live: Nodes,
    /// Whether this node may attract traffic.
    pub ready: Result<(), Why>,
    /// What this node, coordinating, is doing: `change`, `verdict`, `burial`, `retirement`, `admission`, `recovery`.
    pub under_way: Option<&'static str>,
    /// Whose answers it waits for.
    pub waits_for: Nodes,
    /// Since when; nothing where no order is under way.
    pub waits_since: Option<Mono>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            leaves: false,
            rejoins: false,
            adrift: Nodes::default(),
            coordinator: None,
            live: Nodes::default(),
            ready: Err(Why::Waiting),
            under_way: None,
            waits_for: Nodes::default(),
            waits_since: None,
        }
    }
}
