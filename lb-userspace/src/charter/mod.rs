//! One configuration and one set of operators' orders per group: what travels between the nodes, and how they agree on it.
//!
//! All pure: text, messages and time come in as arguments. The agent keeps it on disk and puts it into force
//! (docs/adr/0017-charter.md).

mod block;
pub mod text;
pub mod message;
pub mod fsm;
pub mod why;

pub use why::{NotAgreed, written};
