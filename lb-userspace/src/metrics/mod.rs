//! What Prometheus is told: a table of metrics, a snapshot, and an endpoint that renders one for whoever asks.
//!
//! | file | what |
//! |---|---|
//! | `table` | every metric: name, type, labels, meaning; `docs/METRICS.md` is made of it |
//! | `snapshot` | what is told, as plain values |
//! | `reason` | free text → a label with few values |
//! | `render` | snapshot → text (Prometheus text format 0.0.4, by the crate `prometheus`) |
//! | `group` | the part of it that tells of readiness and of the group |
//! | `peers` | the part of it that tells of the other nodes |
//! | `sync` | the part of it that tells of flow records |
//! | `meters` | what only this process counts: API requests, delays of its loop |
//! | `collect` | maps, checks and the agent's own words → snapshot |
//! | `endpoint` | the socket, and how a reload moves it |
//!
//! All but the last three compute only. **Invariant.** A scrape never waits for the agent's loop, nor the loop for a
//! scrape: maps are opened a second time, and what the agent alone knows comes by a watch.

mod table;
mod reason;
mod snapshot;
mod render;
mod group;
mod peers;
mod sync;
mod meters;
mod collect;
mod endpoint;

pub use collect::Sources;
pub use endpoint::{Endpoint, Error, Next, bind};
pub use meters::Meters;
pub use render::render;
pub use snapshot::{
    Backend, Build, Charter, Group, Interface, Loads, Pool, Programmed, Slots, Snapshot, Told, Vip, Work,
};
pub use table::{Kind, Row, SECTIONS, Section, rows};
