//! What is known of the peers, for people and metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::facts::{Differs, Facts};
use super::fsm::Life;
use crate::health::Mono;

/// Of each reason one refusal in so long is logged.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How often somebody was sent away, and when that was logged last.
#[derive(Default)]
pub(super) struct Refusals {
    counts: BTreeMap<Refusal, u64>,
    logged: BTreeMap<Refusal, Mono>,
}

impl Refusals {
    /// Once more.
    pub(super) fn count(&mut self, refusal: Refusal, what: &str, now: Mono) {
        let count = self.counts.entry(refusal).or_default();
        *count += 1;
        let last = self.logged.get(&refusal);
        if last.is_none_or(|last| now.since(*last) >= LOG_EVERY) {
            self.logged.insert(refusal, now);
            let what = if what.is_empty() { refusal.name() } else { what };
            warn!(reason = refusal.name(), count, "somebody was refused: {what}");
        }
    }

    /// Of each reason.
    pub(super) const fn counts(&self) -> &BTreeMap<Refusal, u64> {
        &self.counts
    }
}

/// Why somebody was sent away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// From an address that no node has.
    Stranger,
    /// More handshakes at once than are taken.
    Flood,
    /// No certificate was shown.
    NoCertificate,
    /// A certificate of another authority.
    Authority,
    /// A certificate that is not good any more, or not yet.
    Expired,
    /// A certificate that is wrong in another way.
    Certificate,
    /// A certificate of another group, or of a node that isn't configured, or should be elsewhere.
    Name,
    /// The handshake failed otherwise, or took too long.
    Handshake,
    /// A node whose `group.nodes` are others, or stand in another order.
    Nodes,
    /// A node that speaks another protocol version, or breaks the rules of this one.
    Protocol,
    /// A frame larger than any may be.
    Oversize,
    /// A datagram that is no heartbeat.
    Heartbeat,
    /// Flow records that are none, come twice or out of order.
    Records,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Stranger,
        Self::Flood,
        Self::NoCertificate,
        Self::Authority,
        Self::Expired,
        Self::Certificate,
        Self::Name,
        Self::Handshake,
        Self::Nodes,
        Self::Protocol,
        Self::Oversize,
        Self::Heartbeat,
        Self::Records,
    ];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Flood => "flood",
            Self::NoCertificate => "no_certificate",
            Self::Authority => "authority",
            Self::Expired => "expired",
            Self::Certificate => "certificate",
            Self::Name => "name",
            Self::Handshake => "handshake",
            Self::Nodes => "nodes",
            Self::Protocol => "protocol",
            Self::Oversize => "oversize",
            Self::Heartbeat => "heartbeat",
            Self::Records => "records",
        }
    }
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// When all this was so, as Unix time.
    pub at: Mono,
    /// This node; nothing where the nodes don't talk.
    pub own: Option<Own>,
    /// The others, by place.
    pub peers: Vec<Status>,
    /// How often somebody was sent away, since the agent started.
    pub refused: BTreeMap<Refusal, u64>,
}

/// This node.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// Its place in `group.nodes`.
    pub place: u8,
    /// Its name.
    pub name: String,
    /// The name of the group in certificates.
    pub group: String,
    /// Where it can be reached.
    pub address: SocketAddr,
    /// What it says of itself.
    pub facts: Facts,
    /// Until when its certificate is good, seconds since 1970.
    pub certificate_until: i64,
    /// Until when the authority's is.
    pub ca_until: i64,
    /// Whether the files hold something that can't be used, so that older certificates are.
    pub reload_failed: bool,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Its place in `group.nodes`.
    pub place: u8,
    /// Its name.
    pub name: String,
    /// Where it can be reached.
    pub address: SocketAddr,
    /// Whether it lives.
    pub life: Life,
    /// Since when, as Unix time.
    pub since: Mono,
    /// The session's number; nothing while there is none.
    pub session: Option<u64>,
    /// Sessions since the agent started.
    pub sessions: u64,
    /// The round trip; nothing without a session.
    pub rtt: Option<Duration>,
    /// Heartbeats sent to it.
    pub sent: u64,
    /// Heartbeats that came from it.
    pub heard: u64,
    /// Heartbeats that it sent and that did not come, or came late.
    pub missed: u64,
    /// Bytes that it was sent, and that came, in this session.
    pub bytes: (u64, u64),
    /// Until when its certificate is good, seconds since 1970; nothing before the first session.
    pub certificate_until: Option<i64>,
    /// What it said last; nothing before it has.
    pub facts: Option<Facts>,
    /// Since when what it says is not what this node says.
    pub differs: Differs,
    /// Why there is no session, in words.
    pub trouble: Option<String>,
}

/// Looks at the peers without waiting for anybody.
#[derive(Clone, Debug)]
pub struct Reader(watch::Receiver<Arc<View>>);

impl Reader {
    pub(super) const fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self(view)
    }

    /// Of nodes that don't talk.
    pub fn nobody() -> Self {
        Self(watch::channel(Arc::default()).1)
    }

    /// At most a few heartbeats old.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.borrow())
    }
}
