//! Flow records between nodes: what a node tells its peers of its own entries, and what it does with theirs
//! (docs/adr/0015-groups.md). Computes only: bytes, entries, ticks and time come in as arguments.
//!
//! | file | what |
//! |---|---|
//! | `record` | one record, at most 20 bytes for IPv4 |
//! | `wire` | frames on the ordered stream of one direction |
//! | `outbox` | events become batches, encoded once for all peers |
//! | `send` | what one peer still has to get |
//! | `receive` | a peer's bytes become records, fences, digests |
//! | `merge` | records become operations on the maps |
//! | `digest` | which ranges of slots differ, and their repair |
//! | `status` | counters |

mod digest;
mod merge;
mod outbox;
mod receive;
mod record;
mod send;
mod status;
mod wire;

pub use digest::{
    Asked, Compare, Differences, Proof, RANGES, Range, Repairs, Round, SETTLED, contribution, range,
};
pub use merge::{Drops, Merger, ORPHAN, Plan, Tables, View, owner};
pub use outbox::{Batch, Flow, Outbox};
pub use receive::{Inbound, Receiver};
pub use record::{Kind, Names, Record};
pub use send::{Limits, Sender};
pub use status::{Lag, Rates, Received, Report, Sent, Status};
pub use wire::{Digest, Frame, Hello, LONGEST, Scope, VERSION, Wrong};
