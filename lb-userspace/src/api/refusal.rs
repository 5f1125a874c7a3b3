//! Why the agent refuses a call.

use std::path::PathBuf;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::dto::Problem;
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
    #[error("{}: {source}", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data plane or the network refused it; what was there before is there again.
    #[error("{0:#}")]
    Failed(anyhow::Error),
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
            Self::UnknownPool { .. } | Self::UnknownBackend { .. } => StatusCode::NOT_FOUND,
            Self::Contradiction { .. } | Self::LastOne { .. } | Self::Generation { .. } | Self::Fixed(_) => {
                StatusCode::CONFLICT
            }
            Self::Range { .. } | Self::Config(_) | Self::Host(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Disk { .. } | Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
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
            // These say it themselves.
            Self::Range { .. }
            | Self::Malformed(_)
            | Self::Config(_)
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
