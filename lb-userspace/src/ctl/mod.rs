//! `lbctl`: looks inside, without the agent.

pub mod args;
pub mod cmd;
pub mod out;
