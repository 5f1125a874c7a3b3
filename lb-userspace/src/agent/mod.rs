//! The agent `lbd`: puts the pieces together and keeps the data plane current.

pub mod args;
mod boot;
mod cells;
mod command;
mod change;
mod charter;
mod controller;
mod desk;
mod group;
mod health;
mod log;
mod member;
mod metrics;
mod report;
pub mod store;
pub mod sync;
mod tunnel;

pub use boot::run;
pub use log::init as init_log;
