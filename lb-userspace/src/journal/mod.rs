//! What changed, when, and why: JSON lines on disk, readable also when the agent is dead.

mod event;
mod file;

pub use event::{Cause, Event, Record};
pub use file::{Error, FILE_MAX, FILES, Journal, NAME, mark, read_after, read_last};
