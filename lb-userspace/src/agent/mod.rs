//! The agent `lbd`: puts the pieces together and keeps the data plane current.

pub mod args;
mod boot;
mod command;
mod change;
mod controller;
mod desk;
mod health;
mod log;
mod metrics;
mod peers;
mod report;
pub mod store;
mod tunnel;

pub use boot::run;
pub use log::init as init_log;
