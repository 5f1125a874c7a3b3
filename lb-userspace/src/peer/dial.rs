//! How sessions come about: of two nodes the one whose name comes first calls, and the other one answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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
/// A handshake costs this thread a millisecond or more. So many from one address may come at once, ...
const BURST: u32 = 12;
/// ... and then one in so long: a node that is refused again and again calls five times a second.
const EVERY: Duration = Duration::from_millis(100);
/// When so few are left whoever calls has to show that it is where it says it is (RFC 9000, section 8.1.2): nobody uses up what is
/// another's.
const DOUBTED: u32 = 8;

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
        let (called, address) = (Some(self.peer), self.address);
        let failed = Report::Failed {
            called,
            address,
            error,
        };
        let _ = self.reports.send(failed).await;
    }
}

/// Answers.
pub(super) struct Answerer {
    pub(super) endpoint: Endpoint,
    /// Where nodes are, and how many handshakes each may begin.
    pub(super) known: HashMap<IpAddr, Allowance>,
    pub(super) reports: Reports,
}

/// How many handshakes an address may begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// What is left now.
    fn look(&mut self, now: Instant) -> u32 {
        let more = now.saturating_duration_since(self.since).as_millis() / EVERY.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX).min(BURST);
        self.since += EVERY * more;
        self.left = BURST.min(self.left + more);
        if self.left == BURST {
            self.since = now;
        }
        self.left
    }
}

impl Answerer {
    pub(super) async fn run(mut self) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        while let Some(incoming) = self.endpoint.accept().await {
            // No answer at all: whoever sends with a forged address must not make us send to it.
            let Some(allowance) = self.known.get_mut(&incoming.remote_address().ip().to_canonical()) else {
                incoming.ignore();
                let _ = self.reports.send(Report::Refused(Refusal::Stranger)).await;
                continue;
            };
            let left = allowance.look(Instant::now());
            if left <= DOUBTED && incoming.may_retry() && !incoming.remote_address_validated() {
                let _ = incoming.retry();
                continue;
            }
            let permit = Arc::clone(&handshakes).try_acquire_owned();
            let (Ok(permit), 1..) = (permit, left) else {
                incoming.ignore();
                let _ = self.reports.send(Report::Refused(Refusal::Flood)).await;
                continue;
            };
            allowance.left -= 1;
            let reports = self.reports.clone();
            spawn_local(async move {
                Self::answer(incoming, &reports).await;
                drop(permit);
            });
        }
    }

    async fn answer(incoming: Incoming, reports: &Reports) {
        let address = incoming.remote_address();
        let handshake = async { incoming.accept()?.await };
        let done = timeout(HANDSHAKE_WITHIN, handshake).await;
        let report = match done.unwrap_or(Err(ConnectionError::TimedOut)) {
            Ok(connection) => Report::Connected {
                connection,
                called: None,
            },
            Err(error) => Report::Failed {
                called: None,
                address,
                error,
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_few_handshakes_and_then_one_at_a_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for left in (1..=BURST).rev() {
            assert_eq!(allowance.look(start), left);
            allowance.left -= 1;
        }
        assert_eq!(allowance.look(start + EVERY / 2), 0);
        assert_eq!(allowance.look(start + EVERY), 1);
        allowance.left -= 1;
        // Looks in between take nothing away.
        assert_eq!(allowance.look(start + EVERY * 3 / 2), 0);
        assert_eq!(allowance.look(start + EVERY * 2), 1);
        assert_eq!(allowance.look(start + EVERY * 1000), BURST);
        assert_eq!(allowance.look(start), BURST, "a clock that seems to go back");
    }
}
