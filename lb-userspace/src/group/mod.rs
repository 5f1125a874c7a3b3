//! The group: members, phases, verdicts, joins (docs/adr/0015-groups.md).

mod order;

pub use order::{Answer, Cell, Generation, Order, Progress, SlotImage, Target, Verdict};
