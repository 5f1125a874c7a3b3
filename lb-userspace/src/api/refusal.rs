//! Why the agent refuses a call.

use std::path::PathBuf;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::dto::Problem;
use crate::charter::NotAgreed;
use crate::charter::fsm::Why;
use crate::charter::text::TextError;
use crate::config;
use crate::state::operator::Contradiction;

/// A refused call: nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No such pool.
    #[error("no pool {name:?}")]
    UnknownPool {
        /// What was asked for.
        name: String,
        /// Pools with a name like that, the nearest first; all where there are few.
        near: Vec<String>,
    },
    /// The pool has no such backend.
    #[error("pool {pool} has no backend {name:?}")]
    UnknownBackend {
        /// The pool.
        pool: String,
        /// What was asked for.
        name: String,
        /// Backends with a name like that, the nearest first; all where there are few.
        near: Vec<String>,
    },
    /// Nothing can be asked through the tunnel.
    #[error("pool {pool} has no VIP, so nothing reaches its backends through the tunnel")]
    NoVip {
        /// The pool.
        pool: String,
    },
    /// It makes no sense beside what was ordered before.
    #[error("{backend}: {why}")]
    Contradiction {
        /// `pool/backend`.
        backend: String,
        /// Why.
        why: Contradiction,
    },
    /// Nobody would be left for new flows.
    #[error("pool {pool} would have no backend for new flows: its packets would be dropped")]
    LastOne {
        /// The pool.
        pool: String,
    },
    /// A value out of its range.
    #[error("{field} must be {range}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it may be.
        range: &'static str,
    },
    /// The body or the query can't be read.
    #[error("the request can't be read: {0}")]
    Malformed(String),
    /// The body is too long.
    #[error("the request is longer than it may be")]
    TooLarge,
    /// The configuration has problems.
    #[error("{0}")]
    Config(#[from] config::Error),
    /// It names what this host doesn't have.
    #[error("{0:#}")]
    Host(anyhow::Error),
    /// It changes what is fixed while the data plane lives.
    #[error("{}", .0.join("\n"))]
    Fixed(Vec<String>),
    /// Another configuration has come in between.
    #[error("the running configuration has generation {running}, not {wanted}")]
    Generation {
        /// What runs.
        running: u64,
        /// What the caller knows.
        wanted: u64,
    },
    /// A file of the agent can't be written.
    #[error("{}: {why}", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        why: std::io::Error,
    },
    /// The data plane or the network refused it; what was there before is there again.
    #[error("{0:#}")]
    Failed(anyhow::Error),
    /// This node is in no group, or its nodes don't talk.
    #[error("this node is in no group whose nodes talk: there is no history")]
    NoGroup,
    /// The nodes of this group don't talk, or this one is alone.
    #[error("this node is in no group whose nodes talk")]
    NoPeers,
    /// Its agent ends soon.
    #[error("this node leaves its group, and decides nothing any more")]
    Leaves,
    /// No node of this name, or this one itself.
    #[error("the group has no other node {name:?}")]
    UnknownNode {
        /// What was asked for.
        name: String,
        /// The others.
        others: Vec<String>,
    },
    /// It forwards, and its word counts.
    #[error("node {name} is not silent, so it is not to be forgotten")]
    NotSilent {
        /// Which node.
        name: String,
    },
    /// Only one node takes others out of the group.
    #[error("{name} coordinates the group, and may reach the node: only it can forget one")]
    OtherCoordinates {
        /// Which node does.
        name: String,
    },
    /// The history doesn't have it.
    #[error("the history has no such generation")]
    NoSuchGeneration {
        /// Those that it has.
        known: Vec<String>,
    },
    /// All that the history has says the same as what runs.
    #[error("no generation of the history has another text than the running one")]
    NoOtherText,
    /// What the group shares can't be told from what is the node's own.
    #[error("{0}")]
    Text(#[from] TextError),
    /// The group didn't agree; nothing was changed anywhere.
    #[error("{0}")]
    NotAgreed(NotAgreed),
    /// The group has agreed, and this node can't run it.
    #[error(
        "generation {generation} is the group's configuration now, and this node could not put it into force: {why}"
    )]
    NotInForce {
        /// Such as `12/lb2`.
        generation: String,
        /// Why not.
        why: String,
    },
    /// The peer may not use this socket.
    #[error("user {uid} may not command this agent")]
    Forbidden {
        /// Who it is.
        uid: u32,
    },
    /// It took too long, or the agent ends.
    #[error("the agent gave no answer")]
    NoAnswer,
}

impl Refusal {
    /// The status code of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPool { .. }
            | Self::UnknownBackend { .. }
            | Self::UnknownNode { .. }
            | Self::NoSuchGeneration { .. }
            | Self::NoOtherText => StatusCode::NOT_FOUND,
            Self::Contradiction { .. }
            | Self::LastOne { .. }
            | Self::Generation { .. }
            | Self::Fixed(_)
            | Self::NoGroup
            | Self::NoPeers
            | Self::Leaves
            | Self::NotSilent { .. }
            | Self::OtherCoordinates { .. }
            | Self::NotAgreed(_)
            | Self::NoVip { .. } => StatusCode::CONFLICT,
            Self::Range { .. } | Self::Config(_) | Self::Text(_) | Self::Host(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Disk { .. } | Self::Failed(_) | Self::NotInForce { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::NoAnswer => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownPool { near, .. } | Self::UnknownBackend { near, .. } => match near.as_slice() {
                [] => return None,
                [one] => format!("did you mean {one}?"),
                more => format!("there are: {}", more.join(", ")),
            },
            Self::Contradiction { backend, why } => match why {
                Contradiction::Down => format!("`lbctl up {backend}` first"),
                Contradiction::Drained => format!("`lbctl undrain {backend}` ends the drain"),
                Contradiction::NoWeight => format!("`lbctl weight {backend} N` sets another one"),
            },
            Self::UnknownNode { others, .. } => format!("there are: {}", others.join(", ")),
            Self::NotSilent { .. } => "`lbctl leave` on that node takes it out of the group".to_owned(),
            Self::OtherCoordinates { name } => format!("ask {name}"),
            Self::LastOne { .. } => "--force does it all the same".to_owned(),
            Self::Generation { .. } => {
                "somebody else applied one: look at `lbctl config plan` again".to_owned()
            }
            Self::Disk { .. } => {
                "is the disk full, or the folder read-only for the agent? nothing was changed".to_owned()
            }
            Self::Forbidden { .. } => {
                "be root, or a member of the group that lbd was given with --api-group".to_owned()
            }
            Self::NoAnswer => "`lbctl status` says whether it lives; its log says what it does".to_owned(),
            Self::TooLarge => "an order has at most 4 KiB, a configuration 16 MiB".to_owned(),
            Self::NoVip { .. } => "give it one under `vips`".to_owned(),
            Self::NoGroup | Self::NoPeers => "addresses in `group.nodes` make a group".to_owned(),
            Self::Leaves => "ask another node".to_owned(),
            Self::NoSuchGeneration { known } => match known.as_slice() {
                [] => "nothing was agreed on yet: `lbctl config apply FILE`".to_owned(),
                known => format!("there are: {}; another node may remember more", known.join(", ")),
            },
            Self::NoOtherText => {
                "orders for backends are taken back by orders; another node may remember more".to_owned()
            }
            Self::NotAgreed(not) => match &not.why {
                Why::Silent(_) => {
                    "`lbctl peers` says how they are: a node that reaches all can be asked, and `lbctl forget NODE` goes on without one that \
                     none reaches"
                        .to_owned()
                }
                Why::Busy(_) | Why::Lost(_) | Why::Behind(_) => {
                    "look at `lbctl config show`, and ask again".to_owned()
                }
                Why::Refused { .. } | Why::Disk(_) | Why::Long(_) | Why::Exhausted => return None,
            },
            Self::NotInForce { .. } => {
                "it is tried again; `lbctl events` and the agent's log say more".to_owned()
            }
            // These say it themselves.
            Self::Range { .. }
            | Self::Malformed(_)
            | Self::Config(_)
            | Self::Text(_)
            | Self::Host(_)
            | Self::Fixed(_)
            | Self::Failed(_) => return None,
        };
        Some(hint)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let problem = Problem {
            error: self.to_string(),
            hint: self.hint(),
        };
        (self.status(), Json(problem)).into_response()
    }
}
