//! How sessions come about: of two nodes the one with the lower place calls, and the other one answers.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use quinn::{ConnectError, ConnectionError, Endpoint, Incoming};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, interval, sleep, timeout};

use super::link::{Report, Reports};
use super::status::Refusal;
use super::tls;

/// A call that isn't answered within this is made again beside it: the peer may have started after it, or it may be slow.
const AGAIN_AFTER: Duration = Duration::from_millis(400);
/// So many calls at once; then the oldest is given up.
const CALLS: usize = 6;
/// The shortest pause between two calls.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// A session that lasted so long was a good one: the next call is made at once.
const GOOD: Duration = Duration::from_secs(1);
/// A handshake of somebody who calls takes no longer.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
/// So many handshakes at once; each holds a few KiB.
const HANDSHAKES: usize = 64;
/// From here on whoever calls has to show that it is where it says it is (RFC 9000, section 8.1.2).
const DOUBTED: usize = 16;

/// Calls one peer for ever.
pub(super) struct Caller {
    pub(super) peer: u8,
    pub(super) address: SocketAddr,
    /// The name that its certificate must have.
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) config: watch::Receiver<quinn::ClientConfig>,
    pub(super) reports: Reports,
}

impl Caller {
    pub(super) async fn run(self) {
        let mut pause = PAUSE;
        loop {
            let start = Instant::now();
            match self.connect().await {
                Err(error) => self.failed(error).await,
                Ok(connection) => {
                    let report = Report::Connected {
                        connection: connection.clone(),
                        called: Some(self.peer),
                    };
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                    connection.closed().await;
                }
            }
            pause = if start.elapsed() > GOOD {
                PAUSE
            } else {
                PAUSE_MAX.min(pause * 2)
            };
            sleep(pause).await;
        }
    }

    /// The first call that comes to something.
    async fn connect(&self) -> Result<quinn::Connection, ConnectionError> {
        let mut calls = FuturesUnordered::new();
        let mut again = interval(AGAIN_AFTER);
        loop {
            tokio::select! {
                Some(done) = calls.next() => return done,
                _ = again.tick() => {
                    if calls.len() == CALLS {
                        return Err(ConnectionError::TimedOut);
                    }
                    calls.push(self.call());
                }
            }
        }
    }

    async fn call(&self) -> Result<quinn::Connection, ConnectionError> {
        let config = self.config.borrow().clone();
        match self.endpoint.connect_with(config, self.address, &self.name) {
            Ok(connecting) => connecting.await,
            Err(ConnectError::EndpointStopping) => Err(ConnectionError::LocallyClosed),
            // Names and addresses have been checked.
            Err(_) => Err(ConnectionError::CidsExhausted),
        }
    }

    async fn failed(&self, error: ConnectionError) {
        let called = Some(self.peer);
        let _ = self.reports.send(Report::Failed { called, error }).await;
    }
}

/// Answers.
pub(super) struct Answerer {
    pub(super) endpoint: Endpoint,
    /// Where nodes are.
    pub(super) known: HashSet<IpAddr>,
    pub(super) reports: Reports,
}

impl Answerer {
    pub(super) async fn run(self) {
        let (handshakes, known) = (Arc::new(Semaphore::new(HANDSHAKES)), Rc::new(self.known));
        while let Some(incoming) = self.endpoint.accept().await {
            // No answer at all: whoever sends with a forged address must not make us send to it.
            if !known.contains(&incoming.remote_address().ip().to_canonical()) {
                incoming.ignore();
                let _ = self.reports.send(Report::Refused(Refusal::Stranger)).await;
                continue;
            }
            let is_doubted = handshakes.available_permits() <= HANDSHAKES - DOUBTED;
            if is_doubted && incoming.may_retry() && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
                incoming.refuse();
                let _ = self.reports.send(Report::Refused(Refusal::Flood)).await;
                continue;
            };
            let reports = self.reports.clone();
            spawn_local(async move {
                Self::answer(incoming, &reports).await;
                drop(permit);
            });
        }
    }

    async fn answer(incoming: Incoming, reports: &Reports) {
        let handshake = async { incoming.accept()?.await };
        let done = timeout(HANDSHAKE_WITHIN, handshake).await;
        let report = match done.unwrap_or(Err(ConnectionError::TimedOut)) {
            Ok(connection) => Report::Connected {
                connection,
                called: None,
            },
            Err(error) => Report::Failed { called: None, error },
        };
        let _ = reports.send(report).await;
    }
}

/// Why a handshake failed, where it is this end that was not content.
pub(super) fn refusal(error: &ConnectionError, called: bool) -> Option<Refusal> {
    match error {
        ConnectionError::TimedOut if !called => Some(Refusal::Handshake),
        error => tls::refusal(error),
    }
}
