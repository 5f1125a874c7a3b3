//! What came of a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::Kind;
use crate::topo::Family;

/// Figures of a whole plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// One for each job of the plan, in its order.
    pub jobs: Vec<JobReport>,
}

/// Figures of one job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobReport {
    /// What was sent.
    pub kind: Kind,
    /// Over which IP version.
    pub family: Family,
    /// Requests that have ended, well or not (for lines: numbered lines).
    pub requests: u64,
    /// Those that failed.
    pub failed: Failures,
    /// Right answers by backend.
    pub backends: BTreeMap<String, u64>,
    /// Of right answers, from the first packet (for HTTP: including the TCP handshake) to the whole answer.
    pub latency: Latency,
    /// Of a job with [`super::Pace::Beat`]: the longest time without an answer, in microseconds.
    #[serde(default)]
    pub gap_us: u64,
    /// Backend by source port, for a plan with given ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub picks: BTreeMap<u16, String>,
    /// The first few failures in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Of a job with [`super::Pace::Hold`]: its connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// What became of long-lived connections or UDP flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Those that got a first answer.
    pub opened: u64,
    /// Those that never did.
    pub unopened: u64,
    /// TCP connections that ended or erred after their first answer, before the load was stopped.
    pub broken: u64,
    /// Answers of another backend than the last one's (ends a TCP connection).
    pub moved: u64,
    /// `opened` by the backend of the first answer.
    pub by_backend: BTreeMap<String, u64>,
    /// `broken` by the backend that held the connection.
    pub broken_by_backend: BTreeMap<String, u64>,
    /// Each break, in the final report alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breaks: Vec<Break>,
}

/// How a TCP connection broke. Times are those of [`super::clock::now`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// The backend that held it.
    pub holder: String,
    /// Why.
    pub cause: Failure,
    /// Why, in words.
    pub words: String,
    /// When the line was sent that got no answer; `None` for one that broke between two lines.
    pub sent: Option<Duration>,
    /// When the client learned of it.
    pub learned: Duration,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// No connection: refused or unreachable.
    Connect,
    /// No answer in time, or no connection in time.
    Timeout,
    /// Reset or closed before the answer was whole.
    Reset,
    /// An answer, but not ours: another status, text, number or name.
    Wrong,
}

/// Failures by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "as in `Failure`")]
pub struct Failures {
    pub connect: u64,
    pub timeout: u64,
    pub reset: u64,
    pub wrong: u64,
}

/// Percentiles in microseconds; 0 without any answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles")]
pub struct Latency {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Failures {
    /// Of every cause.
    pub fn total(&self) -> u64 {
        self.connect + self.timeout + self.reset + self.wrong
    }

    pub(super) fn add(&mut self, failure: Failure) {
        *match failure {
            Failure::Connect => &mut self.connect,
            Failure::Timeout => &mut self.timeout,
            Failure::Reset => &mut self.reset,
            Failure::Wrong => &mut self.wrong,
        } += 1;
    }
}

impl Report {
    /// Requests of all jobs.
    pub fn requests(&self) -> u64 {
        self.jobs.iter().map(|j| j.requests).sum()
    }

    /// Failed requests of all jobs, by cause.
    pub fn failures(&self) -> Failures {
        self.jobs.iter().fold(Failures::default(), |sum, j| Failures {
            connect: sum.connect + j.failed.connect,
            timeout: sum.timeout + j.failed.timeout,
            reset: sum.reset + j.failed.reset,
            wrong: sum.wrong + j.failed.wrong,
        })
    }

    /// Failed requests of all jobs.
    pub fn failed(&self) -> u64 {
        self.failures().total()
    }

    /// Right answers of a backend, all jobs together.
    pub fn answered_by(&self, backend: &str) -> u64 {
        self.jobs.iter().filter_map(|j| j.backends.get(backend)).sum()
    }

    /// Right answers of all backends.
    pub fn answered(&self) -> u64 {
        self.jobs.iter().flat_map(|j| j.backends.values()).sum()
    }

    /// Of all jobs that hold connections of this kind, together.
    pub fn held(&self, kind: Kind) -> Held {
        let mut sum = Held::default();
        for held in self
            .jobs
            .iter()
            .filter(|j| j.kind == kind)
            .filter_map(|j| j.held.as_ref())
        {
            sum.add(held);
        }
        sum
    }

    /// Backend by source port, of the first job that recorded it.
    pub fn picks(&self) -> BTreeMap<u16, String> {
        self.jobs
            .iter()
            .map(|j| &j.picks)
            .find(|p| !p.is_empty())
            .cloned()
            .unwrap_or_default()
    }

    /// The first few failures of every job, in words.
    pub fn errors(&self) -> Vec<String> {
        self.jobs.iter().flat_map(|j| j.errors.iter().cloned()).collect()
    }
}

impl Held {
    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.unopened += other.unopened;
        self.broken += other.broken;
        self.moved += other.moved;
        for (sums, counts) in [
            (&mut self.by_backend, &other.by_backend),
            (&mut self.broken_by_backend, &other.broken_by_backend),
        ] {
            for (backend, count) in counts {
                *sums.entry(backend.clone()).or_default() += count;
            }
        }
        self.breaks.extend(other.breaks.iter().cloned());
    }
}
