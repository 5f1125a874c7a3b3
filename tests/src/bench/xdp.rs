//! `bench xdp`: nanoseconds per packet.

use anyhow::Result;
use lb_userspace::ctl::out;
use lb_userspace::dataplane::object;
use serde::Serialize;

use super::against::Other;
use super::case::Case;
use super::programs::{Callee, Programs};
use crate::wait::Interrupt;

/// How often.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; in each every program has its turn.
    pub rounds: u32,
    /// Packets of each turn.
    pub repetitions: u32,
}

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Rounds of each case.
    pub rounds: u32,
    /// Packets of each round.
    pub repetitions: u32,
    /// The running kernel.
    pub kernel: String,
    /// SHA-256 of the manifest that names the objects.
    pub object_hash: &'static str,
    /// The revision that was measured beside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// The cases.
    pub cases: Vec<CaseResult>,
}

/// The result of one case. All figures are nanoseconds per packet; gross ones hold the wrapper and the floor.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// The case's name.
    pub case: &'static str,
    /// Gross, the round in the middle.
    pub median_ns: f64,
    /// Gross, the best round.
    pub min_ns: f64,
    /// Gross, the worst round.
    pub max_ns: f64,
    /// The best round of the floor.
    pub floor_ns: f64,
    /// `min_ns` less `floor_ns`.
    pub net_ns: f64,
    /// The reference's best round less the floor's.
    pub reference_net_ns: f64,
    /// `net_ns` by `reference_net_ns`.
    pub ratio_to_reference: f64,
    /// The other revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstResult>,
}

/// The other revision in the same case.
#[derive(Clone, Debug, Serialize)]
pub struct AgainstResult {
    /// Its best round less the floor's.
    pub net_ns: f64,
    /// Our `net_ns` by its.
    pub ratio: f64,
}

/// Measures `cases`; `progress` hears of each when it begins.
///
/// # Errors
/// When a program can't be loaded, or did not do what is to be measured; when `interrupt` was raised.
pub fn measure(
    cases: &[Case],
    effort: Effort,
    other: Option<&Other>,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&Case),
) -> Result<Report> {
    let mut programs = Programs::load(other)?;
    let mut results = Vec::new();
    for case in cases {
        progress(case);
        results.push(measure_case(
            &mut programs,
            case,
            effort,
            interrupt,
            other.is_some(),
        )?);
    }
    Ok(Report {
        rounds: effort.rounds,
        repetitions: effort.repetitions,
        kernel: super::kernel()?,
        object_hash: object::HASH,
        against: other.map(|other| other.revision.clone()),
        cases: results,
    })
}

/// One program on one frame, and what its rounds took.
struct Lane {
    callee: Callee,
    case: Case,
    rounds: Vec<f64>,
}

impl Lane {
    fn best(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

fn measure_case(
    programs: &mut Programs,
    case: &Case,
    effort: Effort,
    interrupt: &Interrupt,
    against: bool,
) -> Result<CaseResult> {
    let mut turns = vec![
        (Callee::Target, *case),
        (Callee::Reference, case.for_reference()),
        (Callee::Floor, *case),
    ];
    if case.for_reference() != *case {
        turns.push((Callee::Floor, case.for_reference()));
    }
    if against {
        turns.push((Callee::Against, *case));
    }
    let mut lanes: Vec<Lane> = turns
        .into_iter()
        .map(|(callee, case)| Lane {
            callee,
            case,
            rounds: Vec::new(),
        })
        .collect();
    // Round 0 warms caches and branch predictors and is thrown away.
    for round in 0..=effort.rounds {
        for lane in &mut lanes {
            interrupt.check()?;
            // In one round all programs see the same flows.
            let nanos = programs.measure(lane.callee, &lane.case, u64::from(round), effort.repetitions)?;
            if round > 0 {
                lane.rounds.push(nanos);
            }
        }
    }
    Ok(result(case, &lanes))
}

fn result(case: &Case, lanes: &[Lane]) -> CaseResult {
    let find = |callee: Callee, case: &Case| {
        lanes
            .iter()
            .find(|lane| lane.callee == callee && lane.case == *case)
    };
    let lane = |callee, case: &Case| find(callee, case).expect("every case has this lane");
    let (target, floor) = (lane(Callee::Target, case), lane(Callee::Floor, case).best());
    let reference_case = case.for_reference();
    let reference_net_ns =
        lane(Callee::Reference, &reference_case).best() - lane(Callee::Floor, &reference_case).best();
    let net_ns = target.best() - floor;
    let mut sorted = target.rounds.clone();
    sorted.sort_by(f64::total_cmp);
    CaseResult {
        case: case.name,
        median_ns: round(sorted[sorted.len() / 2]),
        min_ns: round(sorted[0]),
        max_ns: round(sorted[sorted.len() - 1]),
        floor_ns: round(floor),
        net_ns: round(net_ns),
        reference_net_ns: round(reference_net_ns),
        ratio_to_reference: round(net_ns / reference_net_ns),
        against: find(Callee::Against, case).map(|other| AgainstResult {
            net_ns: round(other.best() - floor),
            ratio: round(net_ns / (other.best() - floor)),
        }),
    }
}

/// Two decimals: there is nothing but noise behind them.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let ns = |value: f64| format!("{value:.1}");
        let ratio = |value: f64| format!("{value:.2}");
        let row = |c: &CaseResult| {
            [
                c.case.to_owned(),
                ns(c.net_ns),
                ns(c.reference_net_ns),
                ratio(c.ratio_to_reference),
                ns(c.floor_ns),
                ns(c.min_ns),
                ns(c.median_ns),
                ns(c.max_ns),
            ]
        };
        let columns = [
            "CASE",
            ">NET NS",
            ">REFERENCE",
            ">RATIO",
            ">FLOOR",
            ">MIN",
            ">MEDIAN",
            ">MAX",
        ];
        let mut text = out::table(columns, self.cases.iter().map(row));
        if let Some(revision) = &self.against {
            let rows = self.cases.iter().filter_map(|c| {
                let other = c.against.as_ref()?;
                Some([
                    c.case.to_owned(),
                    ns(c.net_ns),
                    ns(other.net_ns),
                    ratio(other.ratio),
                ])
            });
            let there = format!(">{}", revision.to_uppercase());
            text.push_str("\n\n");
            text.push_str(&out::table(["CASE", ">NET NS", &there, ">RATIO"], rows));
        }
        text.push_str(&format!(
            "\n\n{} rounds of {} packets, Linux {}. NET = best round less the floor's best.",
            self.rounds, self.repetitions, self.kernel
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::ALL;

    fn lane(callee: Callee, case: Case, rounds: &[f64]) -> Lane {
        Lane {
            callee,
            case,
            rounds: rounds.to_vec(),
        }
    }

    #[test]
    fn best_rounds_count_and_floors_are_of_the_same_frame() {
        let (v4, v6) = (ALL[0], ALL[4]);
        let lanes = [
            lane(Callee::Target, v6, &[90.0, 70.0, 500.0]),
            lane(Callee::Reference, v4, &[40.0, 45.0, 41.0]),
            lane(Callee::Floor, v6, &[31.0, 30.0, 33.0]),
            lane(Callee::Floor, v4, &[20.0, 25.0, 20.5]),
            lane(Callee::Against, v6, &[111.0, 110.0, 113.0]),
        ];
        let result = result(&v6, &lanes);
        assert_eq!(
            (result.min_ns, result.median_ns, result.max_ns),
            (70.0, 90.0, 500.0)
        );
        assert_eq!((result.net_ns, result.reference_net_ns), (40.0, 20.0));
        assert!((result.ratio_to_reference - 2.0).abs() < 1e-9);
        let against = result.against.expect("it was measured");
        assert_eq!((against.net_ns, against.ratio), (80.0, 0.5));
    }
}
