//! Counters of one peer's sessions, for `lbctl sync` and the metrics. Totals since the session began.

use std::collections::BTreeSet;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::merge::Drops;

/// How long records take: from the event to the peer's acknowledgement that they are in its map.
#[derive(Clone, Debug)]
pub struct Lag(Histogram<u64>);

/// What is longer counts as this: a minute, microseconds.
const LONGEST: u64 = 60_000_000;

impl Default for Lag {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 2).expect("bounds that fit"))
    }
}

impl Lag {
    /// So many records took this long.
    pub fn add(&mut self, lag: Duration, records: u64) {
        let micros = u64::try_from(lag.as_micros()).unwrap_or(LONGEST);
        self.0.saturating_record_n(micros.max(1), records);
    }

    /// How long the given share took at most, 0.5 for the median; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_micros(self.0.value_at_quantile(share)))
    }

    /// Begins anew, so that quantiles are of a period.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// What a peer was sent.
#[derive(Clone, Default, Debug)]
pub struct Sent {
    /// Records that were handed to the transport, also in resyncs and repairs.
    pub records: u64,
    /// Those that it has acknowledged.
    pub acknowledged: u64,
    /// So many of the events of [`Report::events`] it has merged; 0 before it has got everything once.
    pub merged: u64,
    /// Bytes of batches that were handed to the transport.
    pub bytes: u64,
    /// Records that were dropped since it was too slow.
    pub dropped: u64,
    /// How often it was.
    pub degraded: u64,
    /// Resyncs that were begun.
    pub resyncs: u64,
    /// Ranges that it asked for and got.
    pub repairs: u64,
    /// From event to acknowledgement.
    pub lag: Lag,
}

/// What a peer sent.
#[derive(Clone, Default, Debug)]
pub struct Received {
    /// Records.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
    /// Digests.
    pub digests: u64,
    /// Resyncs that were finished.
    pub resyncs: u64,
    /// Repairs of ranges that were finished.
    pub repairs: u64,
}

/// One peer, whole.
#[derive(Clone, Default, Debug)]
pub struct Status {
    /// To it.
    pub sent: Sent,
    /// From it.
    pub received: Received,
    /// Its records that changed nothing, by reason; and what repairs found missing.
    pub drops: Drops,
    /// Ranges that differed in the last comparison.
    pub differing: usize,
    /// Of those, the ones that have done so for half a minute.
    pub lasting: usize,
    /// Ranges that it has asked for and not got yet.
    pub asked: usize,
    /// Whether it is being told nothing until it has caught up.
    pub is_degraded: bool,
}

/// Records per second, over the last round.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Rates {
    /// To a peer.
    pub sent: f64,
    /// From it.
    pub received: f64,
}

impl Rates {
    /// What has passed since `before`, so long ago. Where a new session began meanwhile, since that.
    pub fn between(before: &Status, now: &Status, time: Duration) -> Self {
        let rate = |before: u64, now: u64| {
            let passed = now.checked_sub(before).unwrap_or(now);
            passed as f64 / time.as_secs_f64().max(1e-3)
        };
        Self {
            sent: rate(before.sent.records, now.sent.records),
            received: rate(before.received.records, now.received.records),
        }
    }
}

/// What is known of the replication, once a second.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// By place; of sessions that have ended as they were. This node's own one is empty.
    pub peers: Vec<Status>,
    /// By place.
    pub rates: Vec<Rates>,
    /// Places of the peers that there are sessions with.
    pub connected: BTreeSet<u8>,
    /// Events that the program told since the agent began.
    pub events: u64,
    /// Events that were lost since the program was loaded.
    pub lost: u64,
    /// Time on a CPU that walks over tables took for reading, on a thread of their own.
    pub read: Duration,
}

impl Report {
    /// So many of the events have been merged by every peer that there is a session with.
    pub fn watermark(&self) -> u64 {
        let connected = self.connected.iter();
        let peers = connected.filter_map(|&place| self.peers.get(usize::from(place)));
        let least = peers.map(|peer| peer.sent.merged).min();
        least.unwrap_or(self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_that_of_the_last_peer_with_a_session() {
        let peer = |merged| {
            let mut status = Status::default();
            status.sent.merged = merged;
            status
        };
        let mut report = Report {
            peers: vec![Status::default(), peer(8), peer(5), peer(2)],
            events: 9,
            ..Report::default()
        };
        assert_eq!(report.watermark(), 9, "there is nobody to tell");
        report.connected = BTreeSet::from([1, 2]);
        assert_eq!(report.watermark(), 5);
    }

    #[test]
    fn rates_begin_anew_with_a_session() {
        let status = |sent, received| {
            let mut status = Status::default();
            (status.sent.records, status.received.records) = (sent, received);
            status
        };
        let rates = Rates::between(&status(100, 50), &status(300, 10), Duration::from_secs(2));
        assert_eq!((rates.sent, rates.received), (100.0, 5.0));
        assert_eq!(
            Rates::between(&status(7, 7), &status(7, 7), Duration::ZERO),
            Rates::default()
        );
    }
}
