//! What machines say to each other: postcard, one value per message.
//!
//! Peers are authenticated, and nevertheless nothing they send makes this node panic or hold more than a message.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::nodes::{NODES_MAX, Nodes};
use super::order::{Answer, Cell, Order, SlotImage, Target, Verdict};

/// The longest message, bytes.
pub const MESSAGE_MAX: usize = 1 << 20;
/// The most cells in one order.
pub const CELLS_MAX: usize = 4096;
/// The most backends that are named in one message.
const BACKENDS_MAX: usize = 1 << 16;
/// Closing slots in one answer: no more than are ever closed at once, by two coordinators.
const PROGRESS_MAX: usize = 4 * CELLS_MAX;

/// One coordinator's time in office. A node that has seen one obeys no earlier one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Term {
    /// Counts up.
    pub number: u64,
    /// Whose it is.
    pub node: u8,
    /// Of that node's agent: an agent that starts anew may count from the beginning.
    pub epoch: u64,
}

/// How new a list of members is: the coordinator that changed it last, and how often it had.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Edition {
    /// Of the coordinator.
    pub term: Term,
    /// Counts up within the term.
    pub change: u32,
}

/// Where a node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Phase {
    /// Not admitted yet.
    Joining,
    /// Admitted.
    Ready,
    /// About to stop.
    Leaving,
}

/// What a node says of itself, on each session first, after each change, and now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Random, another one with each start of the agent.
    pub epoch: u64,
    /// Where it is in its life.
    pub phase: Phase,
    /// It has slots of a group: pinned ones that its agent found when it started, or those of a half that joins another one.
    pub kept: bool,
    /// It attracts traffic.
    pub serving: bool,
    /// The highest term it has seen.
    pub term: Term,
    /// Whom it counts as members.
    pub members: Nodes,
    /// Of that list.
    pub edition: Edition,
    /// Who is no member, and may forward all the same. It may have been taken off the receiver's list.
    pub adrift: Nodes,
    /// Members that are ready and that it reaches, itself among them if it is ready.
    pub ready: Nodes,
    /// What its rings are to be.
    pub target: Target,
    /// Number of the verdict in force there.
    pub verdict: u64,
    /// Over its origins.
    pub origins: u64,
    /// Of its key of the flow hash.
    pub key: u64,
}

/// What a node thinks of a backend that doesn't look up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Opinion {
    /// Answers but refuses work.
    Draining,
    /// Doesn't answer.
    Suspect,
    /// Hasn't answered for longer than its grace.
    Dead,
}

/// What a member has to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Job {
    /// In its slots.
    Engine(Order),
    /// Remember these: they are about to be buried.
    Plan(Vec<Cell>),
    /// Count this node as a member, as long as it has this epoch.
    Admit {
        /// Its place.
        node: u8,
        /// Of its agent.
        epoch: u64,
    },
}

/// One order of a coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Numbered {
    /// Whose.
    pub term: Term,
    /// Counts up within the term.
    pub number: u64,
    /// Who is a member.
    pub members: Nodes,
    /// Of that list.
    pub edition: Edition,
    /// As in [`State`].
    pub adrift: Nodes,
    /// What to do.
    pub job: Job,
}

/// What a member has to tell a new coordinator, beside its closing slots.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// In which term it closed slots last.
    pub closed: Option<Term>,
    /// The highest term of any other coordinator that it obeyed.
    pub before: Term,
    /// Whom it counted as members in that term.
    pub members: Nodes,
    /// The highest verdict it was told.
    pub verdict: Verdict,
    /// Whether it has carried that out.
    pub judged: bool,
    /// What is about to be buried.
    pub plan: Vec<Cell>,
    /// The last change that it committed.
    pub committed: Option<Target>,
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Msg {
    /// About the sender.
    State(State),
    /// Backends that don't look up to the sender; all of them, each time.
    Opinions(BTreeMap<u64, Opinion>),
    /// Member to coordinator: on these slots the sender would vote yes.
    Candidates(Vec<Cell>),
    /// Coordinator to member.
    Order(Numbered),
    /// Member to coordinator.
    Answer {
        /// Of the order.
        term: Term,
        /// Of the order.
        number: u64,
        /// What came of it.
        answer: Answer,
        /// With [`Answer::Progress`] alone.
        memory: Option<Memory>,
    },
    /// Member to whoever gave an order of an old term: this is the newest.
    Stale(Term),
    /// A joiner to the coordinator: it has everything but the slots.
    Join {
        /// Of the joiner's agent.
        epoch: u64,
    },
    /// Coordinator to joiner: this many pools follow; the verdict in force, digest of the slots.
    Offer {
        /// Of the joiner's agent.
        epoch: u64,
        /// Number of the offer.
        offer: u64,
        /// How many images follow.
        pools: u32,
        /// In force.
        verdict: Verdict,
        /// Over all slots of the images ([`super::slots`]).
        slots: u64,
    },
    /// Slots of a pool.
    Image {
        /// Number of the offer.
        offer: u64,
        /// The slots.
        image: SlotImage,
    },
    /// Joiner to coordinator: they are in, and the verdict is carried out.
    Installed {
        /// Number of the offer.
        offer: u64,
        /// The same over its own slots ([`super::taken`]).
        slots: u64,
    },
    /// Coordinator to joiner: all know it as a member.
    Welcome {
        /// Of the joiner's agent.
        epoch: u64,
        /// Whose.
        term: Term,
        /// Who is a member.
        members: Nodes,
        /// Of that list.
        edition: Edition,
        /// As in [`State`].
        adrift: Nodes,
    },
    /// The sender leaves the group.
    Goodbye,
    /// The sender knows that the receiver leaves.
    Farewell,
    /// An operator says that this node forwards nothing.
    Forget(u8),
    /// Joiner to coordinator: one image of this offer is here.
    Taken {
        /// Number of the offer.
        offer: u64,
    },
}

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MESSAGE_MAX`].
    #[error("longer than {MESSAGE_MAX} bytes")]
    TooLong,
    /// Not the encoding of any.
    #[error("no message")]
    Malformed,
    /// Bytes behind it.
    #[error("bytes behind the message")]
    Trailing,
    /// More cells, backends or slots than there can be.
    #[error("more than there can be")]
    TooMany,
    /// A place that no node has.
    #[error("no such node")]
    NoSuchNode,
}

/// Writes a message.
pub(super) fn encode(msg: &Msg) -> Vec<u8> {
    postcard::to_stdvec(msg).expect("all lengths are known, and memory grows")
}

/// Reads a message from a group of `nodes` nodes.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8], nodes: u8) -> Result<Msg, DecodeError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(DecodeError::TooLong);
    }
    let (msg, rest) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing);
    }
    check(&msg, nodes.min(NODES_MAX))?;
    Ok(msg)
}

fn check(msg: &Msg, nodes: u8) -> Result<(), DecodeError> {
    let all = Nodes::first(nodes);
    let within = |members: Nodes| members.minus(all).is_empty();
    let is_term = |term: Term| term.node < nodes;
    let few = |count: usize, most: usize| {
        if count <= most {
            Ok(())
        } else {
            Err(DecodeError::TooMany)
        }
    };
    let known = |known: bool| {
        if known {
            Ok(())
        } else {
            Err(DecodeError::NoSuchNode)
        }
    };
    match msg {
        Msg::State(state) => {
            known(within(state.members.or(state.ready)) && is_term(state.term) && is_term(state.edition.term))
        }
        Msg::Candidates(cells) => few(cells.len(), CELLS_MAX),
        Msg::Opinions(opinions) => few(opinions.len(), BACKENDS_MAX),
        Msg::Order(order) => {
            few(cells(&order.job), CELLS_MAX)?;
            let node = if let Job::Admit { node, .. } = order.job {
                node
            } else {
                0
            };
            known(within(order.members) && is_term(order.term) && is_term(order.edition.term) && node < nodes)
        }
        Msg::Answer { answer, memory, .. } => {
            few(answered(answer), PROGRESS_MAX)?;
            let memory = memory.as_ref();
            few(memory.map_or(0, |m| m.plan.len()), CELLS_MAX)?;
            few(memory.map_or(0, |m| named(&m.verdict)), BACKENDS_MAX)?;
            known(memory.is_none_or(|m| within(m.members)))
        }
        Msg::Stale(term) => known(is_term(*term)),
        Msg::Offer { verdict, .. } => few(named(verdict), BACKENDS_MAX),
        Msg::Image { image, .. } => {
            let longest = image.slots.len().max(image.backends.len());
            few(longest.max(image.leavers.len()), BACKENDS_MAX)
        }
        Msg::Welcome {
            term,
            members,
            edition,
            ..
        } => known(within(*members) && is_term(*term) && is_term(edition.term)),
        Msg::Forget(node) => known(*node < nodes),
        Msg::Join { .. } | Msg::Installed { .. } | Msg::Taken { .. } | Msg::Goodbye | Msg::Farewell => Ok(()),
    }
}

fn named(verdict: &Verdict) -> usize {
    verdict.dead.len() + verdict.returning.len() + verdict.draining.len()
}

fn answered(answer: &Answer) -> usize {
    match answer {
        Answer::Except(cells) => cells.len(),
        Answer::Progress(progress) => progress.len(),
        Answer::Done | Answer::Later => 0,
    }
}

fn cells(job: &Job) -> usize {
    match job {
        Job::Plan(cells)
        | Job::Engine(
            Order::Bury(cells)
            | Order::Close(cells)
            | Order::Vote(cells)
            | Order::Retire(cells)
            | Order::Finish(cells)
            | Order::Reopen(cells),
        ) => cells.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(job: Job, node: u8, members: Nodes) -> Msg {
        let term = Term {
            number: 3,
            node,
            epoch: 9,
        };
        Msg::Order(Numbered {
            term,
            number: 1,
            members,
            edition: Edition::default(),
            adrift: Nodes::default(),
            job,
        })
    }

    fn close(count: usize) -> Job {
        let cell = Cell {
            pool: u64::MAX,
            slot: u16::MAX,
            backend: u64::MAX,
        };
        Job::Engine(Order::Close(vec![cell; count]))
    }

    #[test]
    fn what_is_sent_is_read() {
        let msg = order(close(CELLS_MAX), 2, Nodes(7));
        let bytes = encode(&msg);
        assert!(bytes.len() <= MESSAGE_MAX);
        assert_eq!(decode(&bytes, 3), Ok(msg));
        let image = SlotImage {
            pool: u64::MAX,
            backends: vec![u64::MAX; 4096],
            slots: vec![u64::MAX; 65_536],
            leavers: Vec::new(),
        };
        let bytes = encode(&Msg::Image {
            offer: u64::MAX,
            image,
        });
        assert!(bytes.len() <= MESSAGE_MAX, "a whole pool fits: {}", bytes.len());
    }

    #[test]
    fn what_is_refused() {
        let refused = |msg: &Msg| decode(&encode(msg), 3).err();
        for (msg, why) in [
            (order(close(CELLS_MAX + 1), 0, Nodes(1)), DecodeError::TooMany),
            (order(close(1), 3, Nodes(1)), DecodeError::NoSuchNode),
            (order(close(1), 0, Nodes(8)), DecodeError::NoSuchNode),
            (
                order(Job::Admit { node: 3, epoch: 1 }, 0, Nodes(1)),
                DecodeError::NoSuchNode,
            ),
            (Msg::Forget(3), DecodeError::NoSuchNode),
        ] {
            assert_eq!(refused(&msg), Some(why), "{msg:?}");
        }
        // Who was taken off this node's list, and is adrift to those that have not been restarted yet.
        let Msg::Order(mut adrift) = order(close(1), 0, Nodes(1)) else {
            unreachable!("it is an order")
        };
        adrift.adrift = Nodes(8);
        assert_eq!(refused(&Msg::Order(adrift)), None);
        let mut bytes = encode(&Msg::Goodbye);
        bytes.push(0);
        assert_eq!(decode(&bytes, 3), Err(DecodeError::Trailing));
        assert_eq!(decode(&[], 3), Err(DecodeError::Malformed));
        assert_eq!(decode(&[0xff; 9], 3), Err(DecodeError::Malformed));
        assert_eq!(decode(&vec![0; MESSAGE_MAX + 1], 3), Err(DecodeError::TooLong));
    }
}
