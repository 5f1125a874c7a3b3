//! The hosts of a lab, each a namespace.

mod backend;
mod client;
mod lb;
mod power;
mod router;
mod spread;

pub use backend::Backend;
pub use client::Client;
pub use lb::Node;
pub use router::Router;
pub use spread::Spread;
