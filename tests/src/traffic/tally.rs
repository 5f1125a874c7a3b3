//! Counts outcomes while a plan runs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::exchange::Answer;
use super::plan::{Job, Pace, Plan};
use super::report::{Break, Failure, Failures, Held, JobReport, Latency, Report};
use crate::topo::Family;

/// Failures told in words; the rest are only counted.
const ERRORS_IN_WORDS: usize = 5;
/// Two digits are enough for percentiles of a lab.
const DIGITS: u8 = 2;

/// Something happened in a job.
#[derive(Debug)]
pub(super) struct Event {
    /// Index of the job in the plan.
    pub(super) job: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A request ended.
    Request {
        /// The source port, where the job's pace prescribes it.
        port: Option<u16>,
        /// The name of the backend and the time that the answer took, or the failure in words.
        result: Answer,
    },
    /// A connection got its first answer, from this backend.
    Opened(String),
    /// A connection never got one.
    Unopened,
    /// A connection is held by another backend than before.
    Moved,
    /// A connection broke.
    Broken(Break),
    /// No answer came for so long.
    Gap(Duration),
}

/// All that happened so far.
pub(super) struct Tally {
    jobs: Vec<JobTally>,
    known: Vec<String>,
}

struct JobTally {
    job: Job,
    requests: u64,
    failed: Failures,
    backends: BTreeMap<String, u64>,
    latency_us: Histogram<u32>,
    gap_us: u64,
    picks: BTreeMap<u16, String>,
    errors: Vec<String>,
    held: Option<Held>,
}

impl Tally {
    pub(super) fn new(plan: &Plan) -> Self {
        let job = |job: &Job| JobTally {
            job: job.clone(),
            requests: 0,
            failed: Failures::default(),
            backends: BTreeMap::new(),
            latency_us: Histogram::new(DIGITS).expect("a valid number of digits"),
            gap_us: 0,
            picks: BTreeMap::new(),
            errors: Vec::new(),
            held: matches!(job.pace, Pace::Hold { .. } | Pace::Churn { .. }).then(Held::default),
        };
        Self {
            jobs: plan.jobs.iter().map(job).collect(),
            known: plan.backends.clone(),
        }
    }

    pub(super) fn add(&mut self, event: Event) {
        let job = &mut self.jobs[event.job];
        match event.what {
            What::Request { port, result } => job.request(port, result, &self.known),
            What::Gap(gap) => {
                let us = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
                job.gap_us = job.gap_us.max(us);
            }
            other => job.held.get_or_insert_default().happened(other),
        }
    }

    /// All figures.
    pub(super) fn report(&self) -> Report {
        Report {
            jobs: self.jobs.iter().map(JobTally::report).collect(),
        }
    }

    /// All figures but the list of breaks, which can be long.
    pub(super) fn progress(&self) -> Report {
        let mut report = self.report();
        for held in report.jobs.iter_mut().filter_map(|job| job.held.as_mut()) {
            held.breaks = Vec::new();
        }
        report
    }
}

impl Held {
    fn happened(&mut self, what: What) {
        match what {
            What::Opened(by) => {
                self.opened += 1;
                *self.by_backend.entry(by).or_default() += 1;
            }
            What::Unopened => self.unopened += 1,
            What::Moved => self.moved += 1,
            What::Broken(found) => {
                self.broken += 1;
                *self.broken_by_backend.entry(found.holder.clone()).or_default() += 1;
                self.breaks.push(found);
            }
            What::Request { .. } | What::Gap(_) => {}
        }
    }
}

impl JobTally {
    fn request(&mut self, port: Option<u16>, result: Answer, known: &[String]) {
        self.requests += 1;
        match result {
            Ok((name, took)) if known.contains(&name) => {
                // An auto-resizing histogram takes any value.
                let _ = self
                    .latency_us
                    .record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                self.picks.extend(port.map(|port| (port, name.clone())));
                *self.backends.entry(name).or_default() += 1;
            }
            Ok((name, _)) => {
                self.fail(
                    Failure::Wrong,
                    &format!("an answer from {name:?}, which is no backend"),
                );
            }
            Err((failure, words)) => self.fail(failure, &words),
        }
    }

    fn fail(&mut self, failure: Failure, words: &str) {
        self.failed.add(failure);
        if self.errors.len() < ERRORS_IN_WORDS {
            self.errors.push(format!("{}: {words}", self.job.label()));
        }
    }

    fn report(&self) -> JobReport {
        let percentile = |p| self.latency_us.value_at_quantile(p);
        JobReport {
            kind: self.job.kind,
            family: Family::of(self.job.to.ip()),
            requests: self.requests,
            failed: self.failed,
            backends: self.backends.clone(),
            latency: Latency {
                p50_us: percentile(0.5),
                p90_us: percentile(0.9),
                p99_us: percentile(0.99),
                max_us: self.latency_us.max(),
            },
            gap_us: self.gap_us,
            picks: self.picks.clone(),
            errors: self.errors.clone(),
            held: self.held.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_once() {
        let pace = Pace::Count {
            requests: 4,
            workers: 1,
        };
        let plan = Plan {
            jobs: vec![Job::udp(Family::V6, pace)],
            backends: vec!["be1".to_owned()],
            timeout: Duration::from_secs(1),
        };
        let mut tally = Tally::new(&plan);
        let mut add = |result| {
            tally.add(Event {
                job: 0,
                what: What::Request {
                    port: Some(9),
                    result,
                },
            });
        };
        add(Ok(("be1".to_owned(), Duration::from_micros(500))));
        add(Ok(("nginx".to_owned(), Duration::ZERO)));
        add(Err((Failure::Reset, "reset".to_owned())));
        add(Err((Failure::Timeout, "timeout".to_owned())));
        let report = tally.report();
        assert_eq!((report.requests(), report.answered(), report.failed()), (4, 1, 3));
        assert_eq!(
            report.failures(),
            Failures {
                connect: 0,
                timeout: 1,
                reset: 1,
                wrong: 1
            }
        );
        assert_eq!(report.picks(), BTreeMap::from([(9, "be1".to_owned())]));
        assert!(
            (495..=505).contains(&report.jobs[0].latency.p50_us),
            "{:?}",
            report.jobs[0].latency
        );
        let json = serde_json::to_string(&report).expect("json");
        let back: Report = serde_json::from_str(&json).expect("the same type");
        assert_eq!(back.answered_by("be1"), 1);
    }
}
