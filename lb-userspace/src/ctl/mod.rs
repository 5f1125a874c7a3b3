//! `lbctl`: looks inside, without the agent.

pub mod args;
mod flag;
mod name;
mod sample;
mod slots;
mod signal;
mod top;
pub mod cmd;
pub mod out;
