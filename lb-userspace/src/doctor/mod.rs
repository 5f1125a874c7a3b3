//! What is wrong with a backend, as far as that can be seen from a node.
//!
//! | file | what |
//! |---|---|
//! | `icmp` | errors that hosts and routers send about our packets |
//! | `judge` | what was seen → verdicts |
//! | `advice` | verdicts → words and commands |
//! | `exam` | the questions and the sockets |
//!
//! All but `exam` compute only. Each question is asked at the backend's own address, and encapsulated as clients' packets
//! are ([`crate::probe::Wrap`]): what tells faults apart is which of them is answered, and by whom.

pub mod icmp;
pub mod judge;
mod advice;
mod exam;

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use exam::examine;

use crate::model::Health;

/// Whom to examine, and what this node knows of it.
#[derive(Clone, Debug)]
pub struct Patient {
    /// Its name, as `pool/name`.
    pub name: String,
    /// Its stable identity.
    pub id: u64,
    /// Its own address.
    pub address: IpAddr,
    /// The VIP address that it should serve.
    pub vip: IpAddr,
    /// The port that is asked by TCP for any answer.
    pub port: u16,
    /// Its pool's check.
    pub check: Option<Arc<Health>>,
    /// How packets reach it, or why they don't.
    pub way: Result<Outer, String>,
}

/// The outer header of packets to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Its source; the first of them where there are many.
    pub source: IpAddr,
    /// Whether flows have different sources.
    pub varies: bool,
    /// Its length, bytes.
    pub len: u16,
    /// The longest packet that the next hop takes, bytes.
    pub mtu: u16,
}

/// What is wrong, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing.
    Healthy,
    /// This node has no way to it.
    NoNextHop,
    /// This node could not ask.
    NotAsked,
    /// The host doesn't answer at all.
    NoAnswer,
    /// It answers, but takes no outer header off.
    NoDecapsulation,
    /// It takes the outer header off, and doesn't have the VIP.
    VipNotBound,
    /// It takes the outer header off, and drops the packet for where it came from.
    ReversePathFilter,
    /// Small packets come through, long ones don't.
    MtuTooSmall,
    /// Packets come through, and the service refuses.
    ServiceRefuses,
    /// Packets come through, and the service says nothing.
    ServiceSilent,
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// There was one.
    Yes,
    /// There was none.
    No,
    /// Not asked, or not to be known.
    Unknown,
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// What was asked.
    pub question: String,
    /// Whether there was an answer.
    pub answer: Answer,
    /// How that showed.
    pub detail: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The backend, as `pool/name`.
    pub backend: String,
    /// Its own address.
    pub address: String,
    /// The VIP address that was asked for.
    pub vip: String,
    /// What is wrong; more than one where they can't be told apart from here, or where there are several.
    pub verdicts: Vec<Verdict>,
    /// The same in a sentence.
    pub summary: String,
    /// What led there.
    pub evidence: Vec<Evidence>,
    /// What to do, in this order.
    pub advice: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_healthy(&self) -> bool {
        self.verdicts == [Verdict::Healthy]
    }
}
