//! The lab that `cargo xtask run` shows: a client, a router, two Tandem nodes and three backends in network
//! namespaces of this machine, with real traffic.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::claim::{self, Found};
use lb_tests::host::Spread;
use lb_tests::node_config::Times;
use lb_tests::scenario::{self, Campaign, Changes, Guards};
use lb_tests::wait::Interrupt;
use lb_tests::{Lab, LabError, demo, serve, traffic};

/// Runs the lab: real traffic through two Tandem nodes until Ctrl-C. Needs root.
///
/// Exit codes: 0 fine, 1 requests failed or shares are off (--once), 2 usage or set-up.
#[derive(Parser)]
#[command(bin_name = "cargo xtask run", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Args)]
struct RunArgs {
    /// Makes a fixed number of requests and judges the result
    #[arg(long)]
    once: bool,
    /// With --once: HTTP requests over IPv4, as many over IPv6, and as many UDP echoes
    #[arg(long, value_name = "N", default_value_t = 2000, requires = "once", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    requests: u32,
    /// Without --once: requests a second
    #[arg(long, value_name = "N", default_value_t = 300, conflicts_with = "once", value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// With --once: how to write the summary
    #[arg(long, value_enum, default_value_t = Output::Table, requires = "once")]
    output: Output,
    /// Tandem nodes; 0 lets the router spread over the backends itself: what the lab does without Tandem
    /// [default: 2; with --scenario 1]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=9))]
    nodes: Option<usize>,
    /// With --once: what happens under load instead of a plain judgement
    #[arg(long, value_enum, requires = "once", conflicts_with_all = ["requests", "keep"])]
    scenario: Option<Scenario>,
    /// With --scenario: long-lived TCP connections, at most 15,000 for `changes` [default: 1000 for `changes`, 20000 with
    /// --matrix, else 2000]
    #[arg(long, value_name = "N", requires = "scenario", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    connections: Option<u32>,
    /// With --scenario node-death: all moments, both algorithms of the router, all controls; writes a Markdown table
    #[arg(long, requires = "scenario")]
    matrix: bool,
    /// With --matrix: so often
    #[arg(long, value_name = "N", requires = "matrix", default_value_t = 5)]
    runs: usize,
    /// With --scenario: only with this left out, more than once if you like; tells figures and judges nothing
    #[arg(long, value_enum, value_name = "GUARD", requires = "scenario")]
    without: Vec<Guard>,
    /// Leaves the lab standing at the end and prints lines to look into it
    #[arg(long)]
    keep: bool,
    /// Removes all labs that nobody runs any more, kept ones too (or the one with this id), and does nothing else
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true,
          conflicts_with_all = ["once", "keep", "rate", "requests", "output", "nodes", "scenario"])]
    clean: Option<Option<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Backends are drained, added, weighed, removed and put back three times: no connection may break or move; then
    /// once more with tracking off, where some must
    Changes,
    /// A node of three loses its power while a backend is drained and two are added: no connection may break or move; then
    /// once more with nodes that act alone, where some must
    NodeDeath,
    /// A node's peers are out of reach for 30 s, while backends change
    Partition,
    /// Every agent and then every node restarts, while slots are tracked
    RollingRestart,
    /// A node joins while slots are tracked
    AddNode,
}

/// What keeps connections from breaking.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Guard {
    /// Nodes that talk to each other
    Replication,
    /// Slots that are tracked while they change
    Tracking,
    /// Packets that name a second backend
    SecondChance,
}

/// What the lab's own processes are started as.
#[derive(Subcommand)]
enum Role {
    /// The servers of a backend
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long = "address")]
        addresses: Vec<IpAddr>,
    },
    /// A client that runs a plan
    #[command(hide = true)]
    Traffic {
        #[arg(long)]
        plan: String,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        Some(Role::Serve { name, addresses }) => {
            serve::run(&name, &addresses).map(|()| true).map_err(Into::into)
        }
        Some(Role::Traffic { plan }) => traffic::child(&plan).map(|()| true).map_err(Into::into),
        None if args.run.clean.is_some() => clean(args.run.clean.flatten().as_deref()).map(|()| true),
        None => run(&args.run),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("lb-lab: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all went as it has to.
fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let interrupt = Interrupt::on_signals()?;
    tell(&claim::remove_abandoned()?);
    match args.scenario {
        Some(Scenario::Changes) => changes(args, &interrupt),
        Some(scenario) => campaign(args, scenario, &interrupt),
        None => plain(args, &interrupt),
    }
}

/// Whether nothing broke but in the control.
fn changes(args: &RunArgs, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let nodes = args.nodes.unwrap_or(1);
    anyhow::ensure!(nodes > 0, "--scenario needs a node");
    let changes = Changes::short(args.connections.unwrap_or(1000), nodes);
    let start = Instant::now();
    let progress = |words: &str| eprintln!("{:5.1} s: {words}", start.elapsed().as_secs_f64());
    let summary = match scenario::run(&changes, interrupt, progress) {
        Err(LabError::Interrupted) => return Ok(false),
        other => other.context("the scenario")?,
    };
    scenario::tell(&summary, args.output == Output::Json)?;
    summary
        .problems
        .iter()
        .for_each(|problem| eprintln!("not good: {problem}"));
    let kinds: BTreeSet<_> = summary.errors.iter().collect();
    kinds.iter().for_each(|error| eprintln!("for instance: {error}"));
    if summary.problems.is_empty() {
        eprintln!(
            "{} connections: none broke, none moved; without tracking {} of {} broke.",
            summary.connections, summary.control_broken, summary.control_connections
        );
    }
    Ok(summary.problems.is_empty())
}

/// Whether nothing broke but in the controls.
fn campaign(args: &RunArgs, scenario: Scenario, interrupt: &Interrupt) -> anyhow::Result<bool> {
    anyhow::ensure!(
        args.nodes.is_none(),
        "this scenario says itself how many nodes it has"
    );
    anyhow::ensure!(
        !args.matrix || scenario == Scenario::NodeDeath,
        "--matrix is for --scenario node-death"
    );
    let connections = args
        .connections
        .unwrap_or(if args.matrix { 20_000 } else { 2000 });
    let campaign = match scenario {
        Scenario::NodeDeath if args.matrix => Campaign::death_matrix(connections, args.runs),
        Scenario::NodeDeath => Campaign::death(connections),
        Scenario::Partition => Campaign::partition(connections, scenario::APART),
        Scenario::RollingRestart => Campaign::rolling(connections),
        Scenario::AddNode => Campaign::join(connections),
        Scenario::Changes => unreachable!("it is no campaign"),
    };
    let lacks = |guard| args.without.contains(&guard);
    let campaign = if args.without.is_empty() {
        campaign
    } else {
        campaign.with(Guards {
            replication: !lacks(Guard::Replication),
            tracking: !lacks(Guard::Tracking),
            second_chance: !lacks(Guard::SecondChance),
        })
    };
    let start = Instant::now();
    let progress = |words: &str| eprintln!("{:5.1} s: {words}", start.elapsed().as_secs_f64());
    let findings = match campaign.run(interrupt, progress) {
        Err(LabError::Interrupted) => return Ok(false),
        other => other.context("the scenario")?,
    };
    if args.matrix && args.output == Output::Table {
        println!("{}", findings.markdown());
    } else {
        scenario::tell_findings(&findings, args.output == Output::Json)?;
    }
    let kinds: BTreeSet<_> = findings.errors().collect();
    kinds
        .iter()
        .for_each(|error| eprintln!("with everything on, for instance: {error}"));
    let lost = findings.datagrams_lost();
    if lost > 0 {
        eprintln!("{lost} UDP datagrams were lost: nobody sends those again that went to a dead node.");
    }
    if !args.without.is_empty() {
        return Ok(true);
    }
    for problem in &findings.problems {
        eprintln!("not good: {problem}");
    }
    Ok(findings.problems.is_empty())
}

fn plain(args: &RunArgs, interrupt: &Interrupt) -> anyhow::Result<bool> {
    let nodes = args.nodes.unwrap_or(2);
    let start = Instant::now();
    eprintln!("Setting up: client, router, {nodes} nodes, 3 backends in network namespaces ...");
    let mut builder = Lab::builder("run")
        .nodes(nodes)
        .weights(&[1, 2, 3])
        .interrupt(interrupt);
    if !args.once && nodes > 1 {
        builder = builder.peered(Times::default()).spread(Spread::Resilient);
    }
    let mut lab = match builder.build() {
        Err(LabError::Interrupted) => return Ok(false),
        other => other.context("setting up the lab")?,
    };
    eprintln!(
        "Lab {} is up after {:.1} s.",
        lab.id(),
        start.elapsed().as_secs_f64()
    );
    let good = if args.once {
        let summary = demo::once(&lab, args.requests, args.output == Output::Json, interrupt)?;
        for problem in &summary.problems {
            eprintln!("not good: {problem}");
        }
        if summary.problems.is_empty() {
            eprintln!(
                "All {} requests were answered, shares fit the weights.",
                summary.requests
            );
        } else {
            lab.save_diagnosis();
        }
        summary.problems.is_empty()
    } else {
        demo::live(&mut lab, args.rate, interrupt)?;
        true
    };
    if args.keep {
        lab.keep()?;
        eprintln!(
            "Lab {} stays until `cargo xtask run --clean`. To look into it:",
            lab.id()
        );
        lab.hints()?.iter().for_each(|line| eprintln!("  {line}"));
    }
    Ok(good)
}

fn clean(only: Option<&str>) -> anyhow::Result<()> {
    tell(&claim::remove_kept(only)?);
    Ok(())
}

fn tell(found: &Found) {
    for id in &found.removed {
        eprintln!("Removed lab {id}, which nobody runs any more.");
    }
    for id in &found.kept {
        eprintln!("Lab {id} was kept and still stands; `cargo xtask run --clean` removes it.");
    }
    for id in &found.in_use {
        eprintln!("Lab {id} is in use by another process.");
    }
}
