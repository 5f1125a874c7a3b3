//! Real traffic from the client: HTTP over a new TCP connection per request, UDP echoes from a new socket each,
//! and what stays open: TCP connections that exchange numbered lines, and UDP flows.
//!
//! A [`Plan`] says what to send; a [`Report`] what came of it. [`Load`] runs a plan in a process of its own inside
//! the client's namespace (`lb-lab traffic`), which [`engine::run`] implements.

mod beat;
pub mod clock;
pub mod engine;
mod exchange;
mod held;
mod load;
mod plan;
mod report;
mod tally;

pub use load::{Load, child};
pub use plan::{Job, Kind, Pace, Plan};
pub use report::{Break, Failure, Failures, Held, JobReport, Latency, Report};
