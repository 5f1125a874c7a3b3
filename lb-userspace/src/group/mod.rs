//! The group: members, phases, verdicts, joins (docs/adr/0015-groups.md).
//!
//! | file | what |
//! |---|---|
//! | `order` | what a coordinator orders and a member answers: the border to the slots |
//! | `agreed` | verdicts as standings; digests |
//! | `nodes` | sets of nodes |
//! | `border` | what goes into the machine and comes out of it |
//! | `wire` | what machines say to each other |
//! | `machine` | all of it together: inputs, time, outputs |
//! | `roster` | who is a member, who coordinates |
//! | `member` | obeys orders |
//! | `drive` | gives one order at a time and collects the answers |
//! | `phase` | which phase is next, and what follows a step |
//! | `recover` | what an earlier coordinator left half done |
//! | `opinion` | verdicts by majority; a node that alone sees many backends down |
//! | `join` | founding, joining, leaving: this node's side |
//! | `admit` | joining: the coordinator's side |
//!
//! All of it computes only: time and messages are arguments.

mod order;
mod agreed;
mod nodes;
mod border;
mod wire;
mod machine;
mod roster;
mod member;
mod drive;
mod phase;
mod recover;
mod opinion;
mod join;
mod admit;

pub use agreed::{agreed, local, origins, ring_digests, rings, slots, taken};
pub use border::{Action, Event, Facts, Gone, Input, Local, Mismatch, Settings, Start, Status, View, Why};
pub use machine::Machine;
pub use nodes::{NODES_MAX, Nodes};
pub use order::{Answer, Cell, Generation, Leaver, NamedSlot, Order, Progress, SlotImage, Target, Verdict};
pub use wire::{CELLS_MAX, DecodeError, Edition, Job, MESSAGE_MAX, Msg, Numbered, Phase, Term, decode};
