//! The agent `lbd` and the command-line tool `lbctl`.
//!
//! Modules are listed in dependency order: a module uses only modules above it.

pub mod model;
pub mod net;
pub mod config;
pub mod state;
pub mod journal;
pub mod probe;
pub mod health;
pub mod doctor;
pub mod trace;
pub mod rate;
pub mod group;
pub mod peer;
pub mod sync;
pub mod charter;
pub mod dataplane;
pub mod api;
pub mod metrics;
pub mod agent;
pub mod ctl;
