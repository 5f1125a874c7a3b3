//! `bench lab`: packets per second and core through a node on veth.

mod cpu;
mod sample;
mod turn;
mod path;

use std::time::Duration;

use anyhow::{Context, Result};
use lb_userspace::ctl::out;
use lb_userspace::dataplane::object;
use lb_userspace::state::contents::Contents;
use serde::Serialize;

use super::case::{ALL, Case};
use crate::wait::Interrupt;
pub use path::{IFINDEX, Lane, Path};
pub use turn::Turn;

/// The cases that are measured where none are named.
pub const CASES: [Case; 4] = [ALL[0], ALL[2], ALL[4], ALL[5]];

/// How often, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; in each both programs have their turn.
    pub rounds: u32,
    /// Time on the CPU of each turn.
    pub turn: Duration,
}

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Rounds of each case.
    pub rounds: u32,
    /// Time on the CPU of each turn.
    pub seconds: f64,
    /// The CPU that everything ran on.
    pub cpu: usize,
    /// The running kernel.
    pub kernel: String,
    /// SHA-256 of the manifest that names the objects.
    pub object_hash: &'static str,
    /// The cases.
    pub cases: Vec<CaseResult>,
}

/// The result of one case. Rates are frames that arrived at the sink per second on the CPU.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// The case's name.
    pub case: &'static str,
    /// `lb_xdp`, the round in the middle.
    pub pps_median: u64,
    /// The slowest round.
    pub pps_min: u64,
    /// The fastest one.
    pub pps_max: u64,
    /// A program that only returns `XDP_TX`, the round in the middle.
    pub floor_pps_median: u64,
    /// Its slowest round.
    pub floor_pps_min: u64,
    /// Its fastest one.
    pub floor_pps_max: u64,
    /// `pps_median` by `floor_pps_median`.
    pub ratio: f64,
    /// Nanoseconds that a packet takes longer than with the floor, by the medians.
    pub extra_ns: f64,
    /// Frames sent to `lb_xdp` and to the floor, all rounds together.
    pub sent: u64,
    /// How many of them a full ring of a link dropped.
    pub lost: u64,
    /// How many arrived on another CPU than the one that counts.
    pub elsewhere: u64,
}

/// Measures `cases` on a node with these contents, which lie behind the interface [`IFINDEX`]; `progress` hears of each
/// case when it begins.
///
/// # Errors
/// Without root; when `interrupt` was raised; when not every frame that got through was what it has to be: a rate of
/// something else is worse than none.
pub fn measure(
    contents: &Contents,
    cases: &[Case],
    effort: Effort,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&Case) + Send,
) -> Result<Report> {
    let mut path = Path::build(contents)?;
    cpu::pinned(|cpu| {
        let mut results = Vec::new();
        for case in cases {
            progress(case);
            let result = measure_case(&mut path, case, effort, interrupt, cpu);
            results.push(result.with_context(|| case.name)?);
        }
        Ok(Report {
            rounds: effort.rounds,
            seconds: effort.turn.as_secs_f64(),
            cpu,
            kernel: super::kernel()?,
            object_hash: object::HASH,
            cases: results,
        })
    })?
}

fn measure_case(
    path: &mut Path,
    case: &Case,
    effort: Effort,
    interrupt: &Interrupt,
    cpu: usize,
) -> Result<CaseResult> {
    for lane in Lane::BOTH {
        path.check_samples(lane, case)?;
    }
    let mut turns = Lane::BOTH.map(|lane| (lane, Vec::new()));
    for round in 0..effort.rounds {
        for (lane, turns) in &mut turns {
            interrupt.check()?;
            let seed = u64::from(round) + 1;
            let turn = path.turn(*lane, case, seed, effort.turn, cpu);
            if turn.is_err() {
                // A signal ends a run, and is heard a moment later.
                interrupt.sleep_until(std::time::Instant::now() + Duration::from_millis(50));
                interrupt.check()?;
            }
            turns.push(turn?);
        }
    }
    let [(_, target), (_, floor)] = turns;
    Ok(result(case, &target, &floor))
}

/// `target` and `floor` are the turns of each, at least one.
fn result(case: &Case, target: &[Turn], floor: &[Turn]) -> CaseResult {
    let sorted = |turns: &[Turn]| {
        let mut rates: Vec<f64> = turns.iter().map(Turn::rate).collect();
        rates.sort_by(f64::total_cmp);
        rates
    };
    let (rates, floor_rates) = (sorted(target), sorted(floor));
    let median = |rates: &[f64]| rates[rates.len() / 2];
    let nanos = |rates: &[f64]| 1e9 / median(rates);
    let both = || target.iter().chain(floor);
    CaseResult {
        case: case.name,
        pps_median: median(&rates) as u64,
        pps_min: rates[0] as u64,
        pps_max: rates[rates.len() - 1] as u64,
        floor_pps_median: median(&floor_rates) as u64,
        floor_pps_min: floor_rates[0] as u64,
        floor_pps_max: floor_rates[floor_rates.len() - 1] as u64,
        ratio: (median(&rates) / median(&floor_rates) * 1000.0).round() / 1000.0,
        extra_ns: ((nanos(&rates) - nanos(&floor_rates)) * 10.0).round() / 10.0,
        sent: both().map(|turn| turn.seen.sent).sum(),
        lost: both().map(|turn| turn.seen.lost()).sum(),
        elsewhere: both().map(|turn| turn.elsewhere).sum(),
    }
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let million = |pps: u64| format!("{:.3}", pps as f64 / 1e6);
        let row = |c: &CaseResult| {
            [
                c.case.to_owned(),
                million(c.pps_median),
                million(c.pps_min),
                million(c.pps_max),
                million(c.floor_pps_median),
                format!("{:.3}", c.ratio),
                format!("{:.0}", c.extra_ns),
                format!("{} of {}", c.lost, c.sent),
            ]
        };
        let columns = [
            "CASE",
            ">MPPS",
            ">MIN",
            ">MAX",
            ">XDP_TX",
            ">RATIO",
            ">EXTRA NS",
            ">LOST",
        ];
        let elsewhere: u64 = self.cases.iter().map(|c| c.elsewhere).sum();
        format!(
            "{}\n\n{} rounds of {} s on CPU {} ({elsewhere} frames on others), Linux {}. Generator, both ways over veth \
             and sink are in both rates.",
            out::table(columns, self.cases.iter().map(row)),
            self.rounds,
            self.seconds,
            self.cpu,
            self.kernel
        )
    }
}

#[cfg(test)]
mod tests {
    use super::turn::Seen;
    use super::*;

    fn turn(sent: u64, arrived: u64, millis: u64) -> Turn {
        Turn {
            seen: Seen {
                sent,
                forwarded: arrived,
                encapsulated: arrived,
                ..Seen::default()
            },
            elsewhere: 1,
            busy: Duration::from_millis(millis),
        }
    }

    #[test]
    fn medians_make_the_ratio() {
        let target = [turn(500, 500, 1), turn(800, 800, 1), turn(100, 90, 1)];
        let floor = [turn(2000, 2000, 2), turn(3000, 3000, 1), turn(900, 900, 1)];
        let result = result(&ALL[0], &target, &floor);
        assert_eq!(
            (result.pps_min, result.pps_median, result.pps_max),
            (90_000, 500_000, 800_000)
        );
        assert_eq!((result.floor_pps_median, result.ratio), (1_000_000, 0.5));
        assert_eq!((result.extra_ns, result.lost, result.elsewhere), (1000.0, 10, 6));
        assert_eq!(result.sent, 7300);
    }

    #[test]
    fn every_case_goes_to_a_vip() {
        assert!(CASES.iter().all(|case| case.vip));
        assert_eq!(
            CASES.map(|case| case.name),
            ["tcp4-hot", "tcp4-1m", "tcp6-hot", "tcp6-1m"]
        );
    }
}
