//! The agent `lbd` and the command-line tool `lbctl`.
//!
//! Modules are listed in dependency order: a module uses only modules above it.

pub mod config;
pub mod model;
pub mod net;
