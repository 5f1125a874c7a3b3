//! What flow records are doing → samples.

use super::render::{Page, real, truth};
use super::table::{self, Metric};
use crate::api::sync::{Replicated, Shown};

impl Page {
    pub(super) fn sync(&mut self, shown: &Shown) {
        self.one(&table::SYNC_EVENTS, real(shown.report.events));
        self.one(&table::SYNC_LOST, real(shown.report.lost));
        self.one(&table::SYNC_READ, shown.report.read.as_secs_f64());
        self.of_peers(shown, &table::SYNC_SESSION, |peer| truth(peer.is_connected));
        let lags = shown.peers().flat_map(|peer| {
            let lag = &peer.status.sent.lag;
            let quantiles = [("0.5", 0.5), ("0.99", 0.99)];
            quantiles.map(|(name, share)| Some(([peer.node, name], lag.quantile(share)?.as_secs_f64())))
        });
        self.put(&table::SYNC_LAG, lags.flatten());
        for (metric, count) in COUNTS {
            self.of_peers(shown, metric, |peer| real(count(peer)));
        }
        self.of_peers(shown, &table::SYNC_DEGRADED, |peer| {
            truth(peer.status.is_degraded)
        });
        let dropped = shown.peers().flat_map(|peer| {
            let reasons = peer.dropped();
            reasons.map(|(reason, count)| ([peer.node, reason], real(count)))
        });
        self.put(&table::SYNC_DROPPED, dropped);
    }

    fn of_peers(&mut self, shown: &Shown, metric: &Metric<1>, value: impl Fn(&Replicated<'_>) -> f64) {
        self.put(metric, shown.peers().map(|peer| ([peer.node], value(&peer))));
    }
}

type Count = fn(&Replicated<'_>) -> u64;

/// What is counted of each peer.
const COUNTS: [(&Metric<1>, Count); 13] = [
    (&table::SYNC_SENT, |peer| peer.status.sent.records),
    (&table::SYNC_SENT_BYTES, |peer| peer.status.sent.bytes),
    (&table::SYNC_UNACKNOWLEDGED, |peer| peer.unacknowledged()),
    (&table::SYNC_SKIPPED, |peer| peer.status.sent.dropped),
    (&table::SYNC_RESYNCS, |peer| peer.status.sent.resyncs),
    (&table::SYNC_REPAIRS, |peer| peer.status.sent.repairs),
    (&table::SYNC_PENDING, |peer| peer.status.asked as u64),
    (&table::SYNC_RECEIVED, |peer| peer.status.received.records),
    (&table::SYNC_RECEIVED_BYTES, |peer| peer.status.received.bytes),
    (&table::SYNC_REPAIRED, |peer| peer.status.received.repairs),
    (&table::SYNC_FOUND, |peer| peer.status.drops.found),
    (&table::SYNC_DIFFERING, |peer| peer.status.differing as u64),
    (&table::SYNC_LASTING, |peer| peer.status.lasting as u64),
];
