//! The other end of the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::dto::Problem;

/// The longest answer that is read, in bytes: a configuration as JSON text.
const ANSWER_MAX: usize = 64 << 20;

/// The agent may wait for neighbours and for other calls.
const WITHIN: Duration = Duration::from_secs(60);

/// Why there is no answer, or none that was wished for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("no agent answers on {}: {why} (is lbd running, and with this --api-socket?)", .path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The agent refuses.
    #[error("{}{}", .problem.error, .problem.hint.as_ref().map_or(String::new(), |hint| format!("\n  hint: {hint}")))]
    Refused {
        /// The status code.
        status: StatusCode,
        /// What it says.
        problem: Problem,
    },
    /// It took too long.
    #[error("the agent gave no answer for {} s", WITHIN.as_secs())]
    Slow,
    /// The connection broke, or what is there speaks no HTTP.
    #[error("the agent's answer could not be read: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// [`Error::Slow`] or [`Error::Broken`], of what changes something.
    #[error(
        "{0}\n  hint: it may have been done all the same: `lbctl events` and `lbctl config history` say so"
    )]
    Unsure(Box<Error>),
}

/// Calls one agent; every call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the agent that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Gets a resource.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        self.call(Method::GET, path, "application/json", Bytes::new())
            .await
    }

    /// Gets a resource that says no by status 503.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn get_either<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        let exchange = self.exchange(Method::GET, path, "application/json", Bytes::new());
        let (status, body) = timeout(WITHIN, exchange).await.map_err(|_| Error::Slow)??;
        let answer = serde_json::from_slice(&body);
        answer.map_err(|e| match serde_json::from_slice(&body) {
            Ok(problem) => Error::Refused { status, problem },
            Err(_) => Error::Broken(e.into()),
        })
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, Error> {
        let body = serde_json::to_vec(body).map_err(|e| Error::Broken(e.into()))?;
        self.call(Method::POST, path, "application/json", body.into())
            .await
    }

    /// Posts a configuration.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn post_yaml<A: DeserializeOwned>(&self, path: &str, text: String) -> Result<A, Error> {
        self.call(Method::POST, path, "application/yaml", text.into())
            .await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<A, Error> {
        // These two only ask, with a body.
        let asks = path.starts_with("/v1/config/plan") || path.ends_with("/doctor");
        let changes = method == Method::POST && !asks;
        let answer = timeout(WITHIN, self.exchange(method, path, kind, body)).await;
        let answer = answer.unwrap_or(Err(Error::Slow)).map_err(|e| match e {
            Error::Slow | Error::Broken(_) if changes => Error::Unsure(e.into()),
            e => e,
        });
        let (status, body) = answer?;
        if !status.is_success() {
            let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
                error: format!("the agent answered with status {status}"),
                hint: None,
            });
            return Err(Error::Refused { status, problem });
        }
        serde_json::from_slice(&body).map_err(|e| Error::Broken(e.into()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|why| Error::NoAgent {
            path: self.socket.clone(),
            why,
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Error::Broken(e.into()))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "lbd")
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|e| Error::Broken(e.into()))?;
        let exchange = async {
            let response = sender
                .send_request(request)
                .await
                .map_err(|e| Error::Broken(e.into()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Ok((status, body.map_err(Error::Broken)?.to_bytes()))
        };
        // The connection is polled for as long as the exchange takes; its own end comes after the answer.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(e) => Err(Error::Broken(e.into())),
            },
        }
    }
}

/// A name as a part of a path: everything that could mean something else there is escaped.
pub fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}
