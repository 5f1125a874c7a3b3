//! `GET /v1/sync`: flow records between this node and the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::sync::{Drops, Rates, Report, Status};

/// Where reports come from; nothing where the nodes don't talk.
#[derive(Clone, Debug)]
pub struct Reader(Option<Source>);

#[derive(Clone, Debug)]
struct Source {
    nodes: Arc<[String]>,
    own: usize,
    seen: watch::Receiver<Arc<Report>>,
}

/// The last report, with the nodes' names.
#[derive(Clone, Debug)]
pub struct Shown {
    /// By place.
    pub nodes: Arc<[String]>,
    /// This node's place.
    pub own: usize,
    /// What was reported.
    pub report: Arc<Report>,
}

impl Reader {
    /// For the node at place `own` of these.
    pub fn new(
        nodes: impl IntoIterator<Item = String>,
        own: usize,
        seen: watch::Receiver<Arc<Report>>,
    ) -> Self {
        let nodes = nodes.into_iter().collect();
        Self(Some(Source { nodes, own, seen }))
    }

    /// Of a node that talks to nobody.
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// The last report, at most a second old, or longer where walks take longer.
    pub fn shown(&self) -> Option<Shown> {
        self.0.as_ref().map(|source| Shown {
            nodes: Arc::clone(&source.nodes),
            own: source.own,
            report: Arc::clone(&source.seen.borrow()),
        })
    }
}

impl Shown {
    /// Each other node with its name.
    pub fn peers(&self) -> impl Iterator<Item = Replicated<'_>> {
        let report = &self.report;
        let places = report.peers.iter().zip(&report.rates).zip(self.nodes.iter());
        let others = (0u8..)
            .zip(places)
            .filter(|(place, _)| usize::from(*place) != self.own);
        others.map(|(place, ((status, rates), node))| Replicated {
            node,
            is_connected: report.connected.contains(&place),
            status,
            rates: *rates,
        })
    }
}

/// One other node.
#[derive(Clone, Copy, Debug)]
pub struct Replicated<'a> {
    /// Its name.
    pub node: &'a str,
    /// Whether there is a session with it.
    pub is_connected: bool,
    /// Of that session, or of the last one.
    pub status: &'a Status,
    /// Of the last round.
    pub rates: Rates,
}

impl Replicated<'_> {
    /// Records that were sent and that it has not acknowledged.
    pub const fn unacknowledged(&self) -> u64 {
        self.status
            .sent
            .records
            .saturating_sub(self.status.sent.acknowledged)
    }

    /// Its records that changed nothing, by reason.
    pub const fn dropped(&self) -> [(&'static str, u64); 6] {
        let Drops {
            vip,
            backend,
            foreign,
            dead,
            not_owner,
            unyielding,
            found: _,
        } = self.status.drops;
        [
            ("no_vip", vip),
            ("no_backend", backend),
            ("foreign_backend", foreign),
            ("dead_backend", dead),
            ("not_owner", not_owner),
            ("unyielding", unyielding),
        ]
    }
}

/// Flow records between this node and the others.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Sync {
    /// Whether the nodes of the group talk.
    pub talks: bool,
    /// What the program told of its flows since the agent started.
    pub events: u64,
    /// What it could not tell since it was loaded: repaired within seconds.
    pub events_lost: u64,
    /// The other nodes, in the order of `group.nodes`.
    pub peers: Vec<SyncPeer>,
}

/// One other node. Totals start at 0 with each session.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SyncPeer {
    /// Its name.
    pub node: String,
    /// Whether there is a session.
    pub connected: bool,
    /// From the event here to the entry there and back, microseconds: the median of the last minute at most.
    pub lag_p50_us: Option<u64>,
    /// The same for all but one record in a hundred.
    pub lag_p99_us: Option<u64>,
    /// Records to it, per second.
    pub sent_per_s: f64,
    /// Records from it, per second.
    pub received_per_s: f64,
    /// Records to it.
    pub sent: u64,
    /// Their bytes, before encryption.
    pub sent_bytes: u64,
    /// Of those, the ones that it has not acknowledged.
    pub unacknowledged: u64,
    /// So many of this node's `events` it has merged; 0 while it gets everything.
    pub merged: u64,
    /// Records that were not sent, since it was too slow; it got everything afterwards.
    pub skipped: u64,
    /// How often it was too slow.
    pub degradations: u64,
    /// Whether it is now.
    pub degraded: bool,
    /// How often everything was sent to it.
    pub resyncs_sent: u64,
    /// Ranges of slots that it asked for and got.
    pub repairs_sent: u64,
    /// Ranges of slots that it asked for and has not got yet.
    pub repairs_pending: u64,
    /// Records from it.
    pub received: u64,
    /// Bytes from it, before encryption.
    pub received_bytes: u64,
    /// How often it has sent everything.
    pub resyncs_received: u64,
    /// Ranges of slots that it has repaired here.
    pub repairs_received: u64,
    /// Entries that were missing here, and that refreshes, resyncs and repairs have brought.
    pub found: u64,
    /// Its records that changed nothing here, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Ranges of slots in which its entries differed from those here when they were compared last.
    pub differing: u64,
    /// Of those, the ones that have differed for half a minute.
    pub lasting: u64,
}

/// What the agent knows → what the API says.
pub fn sync(reader: &Reader) -> Sync {
    let Some(shown) = reader.shown() else {
        return Sync::default();
    };
    Sync {
        talks: true,
        events: shown.report.events,
        events_lost: shown.report.lost,
        peers: shown.peers().map(|peer| one(&peer)).collect(),
    }
}

fn one(peer: &Replicated<'_>) -> SyncPeer {
    let Status {
        sent,
        received,
        drops,
        differing,
        lasting,
        asked,
        is_degraded,
    } = peer.status;
    let micros = |lag: Duration| u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
    let dropped = peer.dropped().into_iter().filter(|&(_, count)| count > 0);
    SyncPeer {
        node: peer.node.to_owned(),
        connected: peer.is_connected,
        lag_p50_us: sent.lag.quantile(0.5).map(micros),
        lag_p99_us: sent.lag.quantile(0.99).map(micros),
        sent_per_s: peer.rates.sent,
        received_per_s: peer.rates.received,
        sent: sent.records,
        sent_bytes: sent.bytes,
        unacknowledged: peer.unacknowledged(),
        merged: sent.merged,
        skipped: sent.dropped,
        degradations: sent.degraded,
        degraded: *is_degraded,
        resyncs_sent: sent.resyncs,
        repairs_sent: sent.repairs,
        repairs_pending: *asked as u64,
        received: received.records,
        received_bytes: received.bytes,
        resyncs_received: received.resyncs,
        repairs_received: received.repairs,
        found: drops.found,
        dropped: dropped
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
        differing: *differing as u64,
        lasting: *lasting as u64,
    }
}
