//! Asking a backend whether it is well.
//!
//! One file per type of check, and `socket`, the one place where a socket to a backend is made: where it leaves from
//! and how its packets are marked is a [`Way`].

mod grpc;
mod http;
mod icmp;
mod reach;
mod socket;
mod tcp;
mod through;
mod tls;
mod udp;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio_rustls::rustls;

pub use reach::{echo, touch};
pub use socket::Way;
pub use through::{Closed, NoWay, Wrap, astray};

use crate::model::Health;
use crate::model::health::Probe;
use tls::Connector;

/// What came of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A good answer.
    Good,
    /// An answer that refuses work, and how.
    Refuses(String),
    /// No answer, and how that shows.
    Silent(String),
    /// The question was never asked, through a fault of this host: nothing is known.
    Unasked(String),
}

impl Outcome {
    /// Its kind in a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Refuses(_) => "refuses",
            Self::Silent(_) => "silent",
            Self::Unasked(_) => "unasked",
        }
    }

    /// Why it isn't good.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Good => None,
            Self::Refuses(why) | Self::Silent(why) | Self::Unasked(why) => Some(why),
        }
    }
}

/// A check, ready to be asked.
#[derive(Clone)]
pub struct Prober {
    check: Arc<Health>,
    way: Way,
    tls: Option<Result<Connector, tls::Error>>,
}

impl Prober {
    /// Reads certificates where the check needs those of this host.
    pub fn new(check: Arc<Health>, way: Way) -> Self {
        let tls = match &check.probe {
            Probe::Http(http) => http
                .tls
                .as_ref()
                .map(|tls| Connector::new(tls, http.host.as_deref(), &[])),
            Probe::Grpc(grpc) => {
                let tls = grpc.tls.as_ref();
                tls.map(|tls| Connector::new(tls, grpc.host.as_deref(), &[b"h2"]))
            }
            Probe::Tcp { .. } | Probe::Udp(_) | Probe::Icmp => None,
        };
        Self { check, way, tls }
    }

    /// The same check by another way.
    pub fn by(&self, way: Way) -> Self {
        Self { way, ..self.clone() }
    }

    /// Asks the backend at `address`; takes at most the check's timeout.
    pub async fn ask(&self, address: IpAddr) -> Outcome {
        self.ask_by(&self.way, address).await
    }

    async fn ask_by(&self, way: &Way, address: IpAddr) -> Outcome {
        let limit = self.check.timeout;
        match tokio::time::timeout(limit, self.exchange(way, address)).await {
            Ok(Ok(())) => Outcome::Good,
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::Silent(format!("no answer within {limit:?}")),
        }
    }

    async fn exchange(&self, way: &Way, address: IpAddr) -> Result<(), Outcome> {
        let tls = match &self.tls {
            None => None,
            Some(Ok(connector)) => Some(connector),
            Some(Err(error)) => return Err(Outcome::Unasked(error.to_string())),
        };
        match &self.check.probe {
            Probe::Tcp { port } => tcp::ask(way, (address, *port).into()).await,
            Probe::Http(http) => http::ask(way, (address, http.port).into(), http, tls).await,
            Probe::Udp(udp) => udp::ask(way, (address, udp.port).into(), udp).await,
            Probe::Icmp => icmp::ask(way, address).await,
            Probe::Grpc(grpc) => grpc::ask(way, (address, grpc.port).into(), grpc, tls).await,
        }
    }
}

/// What an error of a socket says of the backend, if anything.
fn failed(error: &io::Error) -> Outcome {
    let text = without_number(error);
    if let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return Outcome::Refuses(format!("TLS: {error}"));
    }
    let own = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
        libc::EPERM,
        libc::EACCES,
        libc::ENODEV,
        libc::EINVAL,
        libc::EAFNOSUPPORT,
        libc::EPROTONOSUPPORT,
    ];
    match error.raw_os_error() {
        Some(number) if own.contains(&number) => Outcome::Unasked(text),
        _ => Outcome::Silent(text),
    }
}

/// The kernel's words without `(os error 111)`.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}

/// What an error of an HTTP connection says of the backend.
fn spoke_badly(error: &hyper::Error) -> Outcome {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return failed(error);
        }
        source = cause.source();
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return Outcome::Silent("closed the connection without an answer".to_owned());
    }
    Outcome::Refuses(format!("spoke no HTTP: {error}"))
}

/// What is repeated of what a backend says, so that logs stay readable.
fn excerpt(bytes: &[u8]) -> String {
    const MOST: usize = 48;
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_default).collect();
    if text.chars().count() > MOST {
        shown.push('…');
    }
    shown
}
