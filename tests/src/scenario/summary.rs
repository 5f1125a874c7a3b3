//! What came of the changes, and whether it is as it has to be.

use std::collections::BTreeMap;

use serde::Serialize;

use super::tracked::Sample;
use crate::traffic::{Kind, Report};

/// A change and when it was made.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Since the connections stood, in seconds.
    pub t_s: f64,
    /// In words.
    pub what: String,
}

/// A run with or without tracking.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) held: Report,
    pub(super) new: Report,
    pub(super) steps: Vec<Told>,
    pub(super) tracked: Vec<Sample>,
    /// From the connections' standing to their end.
    pub(super) seconds: f64,
    /// From their end until few slots were tracked.
    pub(super) settled_s: Option<f64>,
    pub(super) last_percent: f64,
}

/// Figures of both runs; its JSON is what `--output json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Long-lived TCP connections that were opened.
    pub connections: u64,
    /// Those that ended before they were told to, or never got an answer.
    pub broken: u64,
    /// Those on which another backend answered.
    pub moved: u64,
    /// Long-lived connections of the run without tracking.
    pub control_connections: u64,
    /// Those of them that broke.
    pub control_broken: u64,
    /// `broken` by the backend that held the connection.
    pub broken_by_backend: BTreeMap<String, u64>,
    /// Lines that were exchanged.
    pub lines: u64,
    /// The longest time from a line to its answer, milliseconds.
    pub longest_gap_ms: f64,
    /// The same of 99 in 100 lines.
    pub p99_ms: f64,
    /// New connections, each with an HTTP request.
    pub new_connections: u64,
    /// Those that failed.
    pub new_failed: u64,
    /// UDP flows, which have tracking's best effort alone.
    pub udp: Udp,
    /// From the first change's preparations to the end of the long-lived connections.
    pub seconds: f64,
    /// The changes.
    pub steps: Vec<Told>,
    /// The share of tracked slots over time.
    pub tracked: Vec<Sample>,
    /// From the end of the long-lived connections until less than 1 % was tracked; none within two idle timeouts.
    pub settled_s: Option<f64>,
    /// The share after that, at most two idle timeouts after their end.
    pub tracked_percent_at_end: f64,
    /// What is not as it has to be; empty for a good run.
    pub problems: Vec<String>,
    /// The first few failures in words.
    pub errors: Vec<String>,
}

/// UDP flows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Udp {
    /// Flows that got an answer.
    pub flows: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// Answers of another backend than the last one's.
    pub moved: u64,
    /// The same without tracking.
    pub control_moved: u64,
}

impl Summary {
    pub(super) fn new(tracked: &Part, control: &Part) -> Self {
        let (held, flows) = (tracked.held.held(Kind::Lines), tracked.held.held(Kind::Udp));
        let control_held = control.held.held(Kind::Lines);
        let of = |kind| tracked.held.jobs.iter().filter(move |job| job.kind == kind);
        let longest_us = of(Kind::Lines).map(|job| job.latency.max_us).max().unwrap_or(0);
        let p99_us = of(Kind::Lines).map(|job| job.latency.p99_us).max().unwrap_or(0);
        let mut errors = tracked.held.errors();
        errors.extend(tracked.new.errors());
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a lab are far below 2^52"
        )]
        let mut summary = Self {
            connections: held.opened + held.unopened,
            broken: held.broken + held.unopened,
            moved: held.moved,
            control_connections: control_held.opened,
            control_broken: control_held.broken,
            broken_by_backend: held.broken_by_backend,
            lines: of(Kind::Lines).map(|job| job.requests).sum(),
            longest_gap_ms: longest_us as f64 / 1000.0,
            p99_ms: p99_us as f64 / 1000.0,
            new_connections: tracked.new.requests(),
            new_failed: tracked.new.failed(),
            udp: Udp {
                flows: flows.opened,
                datagrams: of(Kind::Udp).map(|job| job.requests).sum(),
                lost: of(Kind::Udp).map(|job| job.failed.total()).sum(),
                moved: flows.moved,
                control_moved: control.held.held(Kind::Udp).moved,
            },
            seconds: (tracked.seconds * 10.0).round() / 10.0,
            steps: tracked.steps.clone(),
            tracked: tracked.tracked.clone(),
            settled_s: tracked.settled_s.map(|s| (s * 10.0).round() / 10.0),
            tracked_percent_at_end: tracked.last_percent,
            problems: Vec::new(),
            errors,
        };
        summary.problems = summary.find_problems();
        summary
    }

    fn find_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut none = |count: u64, what: &str| {
            if count > 0 {
                problems.push(format!("{count} {what}"));
            }
        };
        none(self.broken, "long-lived connections broke");
        none(self.moved, "long-lived connections moved");
        none(self.new_failed, "new connections failed");
        if self.control_broken == 0 {
            problems.push("nothing broke without tracking: the run proves nothing".to_owned());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topo::Family;
    use crate::traffic::{Failures, Held, JobReport, Latency};

    fn part(broken: u64, moved: u64, failed: u64) -> Part {
        let job = |kind, requests, reset, held| JobReport {
            kind,
            family: Family::V4,
            requests,
            failed: Failures {
                reset,
                ..Failures::default()
            },
            backends: BTreeMap::new(),
            latency: Latency::default(),
            gap_us: 0,
            picks: BTreeMap::new(),
            errors: Vec::new(),
            held,
        };
        let held = Held {
            opened: 100,
            broken,
            moved,
            ..Held::default()
        };
        let report = |job| Report { jobs: vec![job] };
        Part {
            held: report(job(Kind::Lines, 500, broken, Some(held))),
            new: report(job(Kind::Http, 500, failed, None)),
            steps: Vec::new(),
            tracked: Vec::new(),
            seconds: 1.0,
            settled_s: None,
            last_percent: 0.0,
        }
    }

    #[test]
    fn only_a_control_that_breaks_makes_a_run_good() {
        let good = Summary::new(&part(0, 0, 0), &part(7, 0, 0));
        assert_eq!((good.connections, good.control_broken), (100, 7));
        assert_eq!(good.problems, Vec::<String>::new());
        assert_eq!(Summary::new(&part(0, 0, 0), &part(0, 0, 0)).problems.len(), 1);
    }

    #[test]
    fn whatever_was_lost_is_a_problem() {
        let control = part(7, 0, 0);
        for (broken, moved, failed) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            let problems = Summary::new(&part(broken, moved, failed), &control).problems;
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }
}
