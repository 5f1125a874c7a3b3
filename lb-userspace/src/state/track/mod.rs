//! Tracked slots on this node: changes that are prepared and committed, and slots that retire.

mod report;

pub use report::{Census, Held, Why};
