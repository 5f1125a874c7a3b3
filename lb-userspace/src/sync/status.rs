//! Counters of one peer's sessions, for `lbctl sync` and the metrics. Totals since the session began.

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
    /// Whether it is being told nothing until it has caught up.
    pub is_degraded: bool,
}
