//! The kernel's links, routes and neighbours over rtnetlink (`man 7 rtnetlink`), and the next hops made of them.
//!
//! | file | holds |
//! |---|---|
//! | `link`, `route`, `neigh` | what the kernel says, as facts; the decisions on one fact |
//! | `why` | reasons that there is none |
//! | `hop` | facts → [`NextHop`] |
//! | `memory` | what a pass remembers for the next one; which events matter |
//! | `socket`, `event` | the two netlink sockets: requests, and the kernel's events |
//! | `resolver` | one pass over all targets |
//!
//! All but the last three are pure.

mod error;
mod event;
mod hop;
mod link;
mod memory;
mod neigh;
mod resolver;
mod route;
mod socket;
mod why;

pub use error::Error;
pub use hop::{Hop, NextHop, Target};
pub use link::{Link, Medium, Traffic};
pub use resolver::{REFRESH_EVERY, Resolver, addresses, interfaces_towards, links, traffic};
pub use why::Why;
