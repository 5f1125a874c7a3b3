//! Figures of a run, and whether they are as they have to be.

use serde::Serialize;

use crate::traffic::{Failures, JobReport, Report};

/// How far a backend's count may be from what its weight lets expect, in standard deviations.
const DEVIATIONS: f64 = 4.0;

/// Figures of a run; its JSON is what `--output json` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Requests that have ended, HTTP and UDP together.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The same by cause.
    pub failures: Failures,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Per node.
    pub nodes: Vec<NodeShare>,
    /// Per backend.
    pub backends: Vec<BackendShare>,
    /// Per kind of request and IP version.
    pub kinds: Vec<JobReport>,
    /// What is not as it has to be; empty for a good run.
    pub problems: Vec<String>,
}

/// A node's part.
#[derive(Clone, Debug, Serialize)]
pub struct NodeShare {
    /// `lb1`, `lb2` and so on.
    pub name: String,
    /// Packets that it has sent on to backends.
    pub packets: u64,
}

/// A backend's part.
#[derive(Clone, Debug, Serialize)]
pub struct BackendShare {
    /// `be1`, `be2` and so on.
    pub name: String,
    /// In the pools.
    pub weight: u16,
    /// Right answers.
    pub requests: u64,
    /// Of all right answers, 0 to 1.
    pub share: f64,
    /// By weight, 0 to 1.
    pub expected: f64,
    /// Distance between the two in standard deviations of a binomial distribution.
    pub deviations: f64,
}

impl Summary {
    /// Packets by node, weights by backend.
    pub fn new(
        report: &Report,
        packets: Vec<(String, u64)>,
        weights: Vec<(String, u16)>,
        seconds: f64,
    ) -> Self {
        let all = report.answered();
        let total_weight: f64 = weights.iter().map(|(_, w)| f64::from(*w)).sum();
        let share = |(name, weight): (String, u16)| {
            let requests = report.answered_by(&name);
            BackendShare::new(name, weight, requests, all, f64::from(weight) / total_weight)
        };
        let mut summary = Self {
            requests: report.requests(),
            failed: report.failed(),
            failures: report.failures(),
            seconds,
            nodes: packets
                .into_iter()
                .map(|(name, packets)| NodeShare { name, packets })
                .collect(),
            backends: weights.into_iter().map(share).collect(),
            kinds: report.jobs.clone(),
            problems: Vec::new(),
        };
        summary.problems = summary.find_problems();
        summary
    }

    /// Adds a problem unless `requests` have been made.
    pub fn expect_requests(&mut self, requests: u64) {
        if self.requests < requests {
            self.problems
                .push(format!("only {} of {requests} requests were made", self.requests));
        }
    }

    fn find_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed > 0 {
            problems.push(format!("{} of {} requests failed", self.failed, self.requests));
        }
        let idle = self.nodes.iter().filter(|n| n.packets == 0);
        problems.extend(idle.map(|n| format!("node {} has sent no packet to a backend", n.name)));
        let off = self.backends.iter().filter(|b| b.deviations > DEVIATIONS);
        problems.extend(off.map(|b| {
            format!(
                "backend {} answered {:.2} % of the requests instead of {:.2} %: {:.1} standard deviations off",
                b.name,
                100.0 * b.share,
                100.0 * b.expected,
                b.deviations
            )
        }));
        problems
    }
}

impl BackendShare {
    fn new(name: String, weight: u16, requests: u64, all: u64, expected: f64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of a lab are far below 2^52")]
        let (count, all) = (requests as f64, all as f64);
        let deviation = (all * expected * (1.0 - expected)).sqrt();
        let distance = (count - all * expected).abs();
        Self {
            name,
            weight,
            requests,
            share: if all > 0.0 { count / all } else { 0.0 },
            expected,
            // With a single backend there is nothing to deviate.
            deviations: if deviation > 0.0 {
                distance / deviation
            } else {
                0.0
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::topo::Family;
    use crate::traffic::{Kind, Latency};

    fn report(counts: [u64; 3], timeouts: u64) -> Report {
        let backends = BTreeMap::from_iter(["be1", "be2", "be3"].map(str::to_owned).into_iter().zip(counts));
        Report {
            jobs: vec![JobReport {
                kind: Kind::Http,
                family: Family::V4,
                requests: counts.iter().sum::<u64>() + timeouts,
                failed: Failures {
                    timeout: timeouts,
                    ..Failures::default()
                },
                backends,
                latency: Latency::default(),
                gap_us: 0,
                picks: BTreeMap::new(),
                errors: Vec::new(),
                held: None,
            }],
        }
    }

    fn problems(counts: [u64; 3], timeouts: u64, packets: [u64; 2]) -> Vec<String> {
        let nodes = ["lb1", "lb2"]
            .map(str::to_owned)
            .into_iter()
            .zip(packets)
            .collect();
        let weights = ["be1", "be2", "be3"]
            .map(str::to_owned)
            .into_iter()
            .zip([1, 2, 3])
            .collect();
        Summary::new(&report(counts, timeouts), nodes, weights, 1.0).problems
    }

    #[test]
    fn shares_near_the_weights_are_fine() {
        assert_eq!(problems([1000, 2000, 3000], 0, [9, 9]), Vec::<String>::new());
        // sd of be1 = sqrt(6000 * 1/6 * 5/6) = 28.9: 115 off is just within 4 of them.
        assert_eq!(problems([1115, 1950, 2935], 0, [9, 9]), Vec::<String>::new());
    }

    #[test]
    fn a_share_that_is_far_off_is_told() {
        let found = problems([1117, 1950, 2933], 0, [9, 9]);
        assert!(found.len() == 1 && found[0].contains("be1"), "{found:?}");
        assert_eq!(
            problems([2000, 2000, 2000], 0, [9, 9]).len(),
            2,
            "equal shares in spite of weights 1 and 3"
        );
    }

    #[test]
    fn a_failure_and_an_idle_node_are_told() {
        let found = problems([1000, 2000, 3000], 1, [9, 0]);
        assert!(
            found[0].contains("1 of 6001") && found[1].contains("lb2"),
            "{found:?}"
        );
    }

    #[test]
    fn too_few_requests_are_told() {
        let mut summary = Summary::new(
            &report([1, 2, 3], 0),
            Vec::new(),
            vec![("be1".to_owned(), 1)],
            1.0,
        );
        summary.expect_requests(6);
        assert_eq!(summary.problems, Vec::<String>::new());
        summary.expect_requests(7);
        assert_eq!(summary.problems.len(), 1);
    }
}
