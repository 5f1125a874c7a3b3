//! The only module that touches BPF: objects, pins, maps, links.
//!
//! Everything is reached by its pin, never by id, so `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON` are enough.

mod pod;
mod memory;
mod vips;
pub mod batch;
mod error;
pub mod object;
pub mod pin;
pub mod shape;
pub mod flows;
pub mod maps;
pub mod events;
pub mod load;
pub mod attach;
pub mod read;
mod counters;
pub mod write;
pub mod decap;
pub mod tunnel;
pub mod trace;

pub use error::Error;
