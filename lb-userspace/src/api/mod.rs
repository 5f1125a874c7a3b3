//! The agent's API: HTTP and JSON over a Unix socket, version 1.
//!
//! ```text
//! lbctl ─ client ═ socket ═ server ─ routes ─ Call ─▶ agent (the one owner of the state) ─ reply ─▶
//! ```
//!
//! Nothing here touches maps or files of the agent, the journal aside, which is read. What the routes take and give
//! stands in [`dto`], [`health`], [`peers`], [`sync`] and [`tracked`], what they refuse in [`refusal`], and the OpenAPI document is made of both.

pub mod dto;
pub mod group;
pub mod health;
pub mod tracked;
pub mod peers;
pub mod sync;
pub mod refusal;
pub mod call;
pub mod routes;
pub mod server;
pub mod client;

/// Where the agent listens by default.
pub const DEFAULT_SOCKET: &str = "/run/tandem/lbd.sock";

/// Where the agent keeps its state by default.
pub const DEFAULT_STATE: &str = "/var/lib/tandem";
