//! What the data plane costs: `cargo xtask bench` and `cargo xtask verify` build and start this.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::bench::against::{self, Other};
use lb_tests::bench::budget::{BASELINE, Budget, PATH};
use lb_tests::bench::case::{self, Case};
use lb_tests::bench::xdp::{self, Effort};
use lb_tests::bench::{lab, ring, sync, verify, world};
use lb_tests::claim;
use lb_tests::wait::Interrupt;
use lb_userspace::dataplane::object::LB_XDP;
use serde::Serialize;

/// Measures what the data plane costs.
///
/// Exit codes: 0 fine, 1 above the budget (verify, xdp --gate), 2 usage, or nothing could be measured.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Nanoseconds per packet, beside a floor and a frozen reference program (needs root)
    Xdp(XdpArgs),
    /// Packets per second and core through a node on veth, beside a program that only answers `XDP_TX` (needs root)
    Lab(LabArgs),
    /// Milliseconds to build a ring, and to find stand-ins
    Ring {
        /// How often each is done
        #[arg(long, value_name = "N", default_value_t = 51, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        rounds: u32,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Flow replication between two nodes: lag at rates, records per second and core, a join (needs root)
    Sync(SyncArgs),
    /// Instructions and memory of each program, against the budget (needs root)
    Verify {
        /// Makes the budget what the programs cost now, and a tenth
        #[arg(long)]
        set_budget: bool,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
        #[command(flatten)]
        repository: Repository,
    },
}

#[derive(clap::Args)]
struct Repository {
    /// The repository
    #[arg(long, hide = true, default_value = ".")]
    root: PathBuf,
}

#[derive(clap::Args)]
struct XdpArgs {
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Rounds; in each every program has its turn
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Packets of each turn
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    repetitions: u32,
    /// Only these cases
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = case_named)]
    cases: Vec<Case>,
    /// Measures the lb_xdp that is committed in another git revision beside this one; its maps must have the same shapes
    #[arg(long, value_name = "REV", requires = "against_object")]
    against: Option<String>,
    /// That revision's lb_xdp.o; `cargo xtask bench` fetches it
    #[arg(long, hide = true)]
    against_object: Option<PathBuf>,
    /// Short, and judges: fails where a case of the budget takes three tenths longer beside the baseline than it says, three
    /// times in a row
    #[arg(long, conflicts_with_all = ["cases", "rounds", "repetitions", "against", "output"])]
    gate: bool,
    #[command(flatten)]
    repository: Repository,
}

#[derive(clap::Args)]
struct LabArgs {
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Rounds; in each both programs have their turn
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Time on the CPU of each turn
    #[arg(long, value_name = "SECONDS", default_value = "0.25", value_parser = seconds)]
    seconds: Duration,
    /// Only these cases, in place of tcp4-hot, tcp4-1m, tcp6-hot, tcp6-1m
    #[arg(long, value_name = "CASE", value_delimiter = ',', value_parser = lab_case_named)]
    cases: Vec<Case>,
}

#[derive(clap::Args)]
struct SyncArgs {
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// At each rate
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// Flows of the node that another one joins
    #[arg(long, value_name = "N", default_value_t = sync::JOIN, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    join: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn case_named(name: &str) -> Result<Case, String> {
    let names = || case::ALL.map(|case| case.name).join(", ");
    let found = case::ALL.into_iter().find(|case| case.name == name);
    found.ok_or_else(|| format!("cases are {}", names()))
}

fn lab_case_named(name: &str) -> Result<Case, String> {
    let case = case_named(name)?;
    if case.vip {
        Ok(case)
    } else {
        Err("no frame for another address comes back".to_owned())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "no number")?;
    if (0.01..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("0.01 to 60".to_owned())
    }
}

fn main() -> ExitCode {
    let result = match Args::parse().what {
        What::Xdp(args) if args.gate => gate(&args.repository.root),
        What::Xdp(args) => xdp(&args).map(|()| true),
        What::Lab(args) => measure_lab(&args).map(|()| true),
        What::Ring { rounds, output } => {
            let report = ring::measure(rounds);
            print(output, &report, || report.table()).map(|()| true)
        }
        What::Sync(args) => measure_sync(&args).map(|()| true),
        What::Verify {
            set_budget,
            output,
            repository,
        } => verify(&repository.root, set_budget, output),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("lb-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn xdp(args: &XdpArgs) -> Result<()> {
    let other = match (&args.against, &args.against_object) {
        (Some(revision), Some(path)) => Some(Other {
            revision: revision.clone(),
            object: std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?,
        }),
        _ => None,
    };
    let cases = if args.cases.is_empty() {
        &case::ALL[..]
    } else {
        &args.cases
    };
    let effort = Effort {
        rounds: args.rounds,
        repetitions: args.repetitions,
    };
    let interrupt = Interrupt::on_signals()?;
    let report = xdp::measure(cases, effort, other.as_ref(), &interrupt, |case| {
        eprintln!("measuring {}", case.name);
    })?;
    print(args.output, &report, || report.table())
}

fn measure_lab(args: &LabArgs) -> Result<()> {
    let interrupt = Interrupt::on_signals()?;
    claim::remove_abandoned()?;
    let cases = if args.cases.is_empty() {
        &lab::CASES[..]
    } else {
        &args.cases
    };
    let effort = lab::Effort {
        rounds: args.rounds,
        turn: args.seconds,
    };
    let contents = world::contents(lab::IFINDEX);
    let report = lab::measure(&contents, cases, effort, &interrupt, |case| {
        eprintln!("measuring {}", case.name);
    })?;
    print(args.output, &report, || report.table())
}

fn measure_sync(args: &SyncArgs) -> Result<()> {
    let interrupt = Interrupt::on_signals()?;
    let effort = sync::Effort {
        time: args.seconds,
        join: args.join,
    };
    let report = sync::measure(effort, &interrupt, |what| eprintln!("measuring {what}"))?;
    print(args.output, &report, || report.table())
}

/// Whether the ratios to the baseline are near those in the budget. Minima, and more than one try:
/// noise makes a ratio worse for a while, a slower program for ever.
fn gate(root: &Path) -> Result<bool> {
    let interrupt = Interrupt::on_signals()?;
    let budget = Budget::read(root)?;
    let baseline = Other {
        revision: BASELINE.to_owned(),
        object: std::fs::read(root.join(BASELINE)).with_context(|| format!("can't read {BASELINE}"))?,
    };
    let differences = against::differences(LB_XDP, &baseline.object)?;
    ensure!(
        differences.is_empty(),
        "lb_xdp has maps of other shapes than {BASELINE}:\n  {}\nReplace it by the object of the revision before \
         (docs/adr/0006-bench.md), with its sum in {PATH}.",
        differences.join("\n  ")
    );
    let mut good = !budget.ratios.is_empty();
    for (name, recorded) in &budget.ratios {
        let case = case_named(name).map_err(|e| anyhow!("{PATH}: no case {name}; {e}"))?;
        good &= gate_case(case, *recorded, &baseline, &interrupt)?;
    }
    if !good {
        eprintln!(
            "lb_xdp has become slower. If that is meant, write the new ratios into {PATH} and say why in the commit."
        );
    }
    Ok(good)
}

fn gate_case(case: Case, recorded: f64, baseline: &Other, interrupt: &Interrupt) -> Result<bool> {
    const TRIES: u32 = 3;
    const TOLERANCE: f64 = 1.3;
    const EFFORT: Effort = Effort {
        rounds: 9,
        repetitions: 200_000,
    };
    let limit = TOLERANCE * recorded;
    for attempt in 1..=TRIES {
        let report = xdp::measure(&[case], EFFORT, Some(baseline), interrupt, |_| {})?;
        let result = &report.cases[0];
        let beside = result.against.as_ref().context("the baseline was not measured")?;
        println!(
            "{}: {:.1} ns net, {:.2} times the baseline's {:.1}; the budget says {recorded:.2}, the limit is {limit:.2}",
            case.name, result.net_ns, beside.ratio, beside.net_ns
        );
        if beside.ratio <= limit {
            return Ok(true);
        }
        eprintln!("above the limit (try {attempt} of {TRIES})");
    }
    Ok(false)
}

fn verify(root: &Path, set_budget: bool, output: Output) -> Result<bool> {
    let report = verify::verify(root, set_budget)?;
    print(output, &report, || report.table())?;
    for problem in &report.problems {
        eprintln!("not good: {problem}");
    }
    if !report.problems.is_empty() {
        eprintln!(
            "If a program is meant to cost more: `cargo xtask verify --set-budget`, and commit {PATH} with the reason."
        );
    }
    Ok(report.problems.is_empty())
}

/// Writes a report to stdout. A reader that has left is no error.
fn print(output: Output, report: &impl Serialize, table: impl FnOnce() -> String) -> Result<()> {
    let text = match output {
        Output::Table => table(),
        Output::Json => serde_json::to_string_pretty(report)?,
    };
    match writeln!(io::stdout().lock(), "{text}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}
