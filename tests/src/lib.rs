//! Lab kit: real load balancers, servers and clients in network namespaces, with real traffic between them.
//!
//! ```no_run
//! use std::time::Duration;
//! use lb_tests::{Family, Job, Lab, LabError, Pace};
//!
//! Lab::builder("agent-killed").run(|lab| {
//!     let rate = Pace::Rate { per_second: 500 };
//!     let mut load = lab.client().load(vec![
//!         Job::http(Family::V4, rate),
//!         Job::lines(Family::V6, 50, Duration::from_millis(100)),
//!     ])?;
//!     load.wait_requests(500, Duration::from_secs(5))?;
//!     lab.node(0).kill9()?;
//!     load.wait_requests(1500, Duration::from_secs(5))?;
//!     let report = load.stop()?;
//!     assert_eq!(report.failed(), 0, "{:?}", report.errors());
//!     Ok::<(), LabError>(())
//! })?;
//! # Ok::<(), LabError>(())
//! ```
//!
//! `LAB_KEEP=1` leaves labs standing; a failed one leaves logs and dumps under `target/lab/<name>/`.

pub mod bench;
pub mod binary;
pub mod claim;
pub mod command;
pub mod demo;
pub mod diag;
pub mod error;
pub mod fuzz;
pub mod host;
pub mod lab;
pub mod limit;
pub mod model;
pub mod netns;
pub mod node_config;
mod pass;
pub mod pins;
pub mod process;
pub mod promtool;
pub mod scenario;
pub mod serve;
pub mod stranger;
pub mod topo;
pub mod traffic;
pub mod wait;

pub use error::LabError;
pub use lab::{Lab, LabBuilder, PowerLoss};
pub use topo::Family;
pub use traffic::{Job, Load, Pace, Report};
