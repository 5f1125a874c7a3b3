//! `cargo xtask test`: every test, or those of one level.

use crate::{host, promtool, step, vm};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only this level
    #[arg(value_enum)]
    level: Option<Level>,
    /// Only tests whose name contains this
    #[arg(requires = "level")]
    filter: Option<String>,
    /// Random packets for each program (bpf, long, vm)
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// Makes the random packets of an earlier run again (bpf, long, vm)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Version of a kernel that Debian has, more than once if you like (vm) [default: 6.1]
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    /// Beside the code: needs nothing
    Unit,
    /// Programs in the kernel, one packet at a time: needs root
    Bpf,
    /// Real nodes and real traffic in network namespaces: needs root
    Lab,
    /// Millions of random packets, model against kernel, and labs of minutes (not part of `test` alone): needs root
    Long,
    /// `bpf` and some labs in another kernel under qemu (not part of `test` alone): needs root
    Vm,
}

/// Random packets of [`Level::Long`].
const LONG: u64 = 5_000_000;

impl Level {
    /// What a change must pass.
    const DEFAULT: [Self; 3] = [Self::Unit, Self::Bpf, Self::Lab];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Bpf => "bpf",
            Self::Lab => "lab",
            Self::Long => "long",
            Self::Vm => "vm",
        }
    }

    /// The cargo calls that are this level, in order.
    fn calls(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Unit => &[
                &["test", "--no-fail-fast", "--workspace", "--exclude", "lb-tests"],
                &[
                    "test",
                    "--no-fail-fast",
                    "--package",
                    "lb-tests",
                    "--lib",
                    "--bins",
                ],
            ],
            Self::Bpf => &[&["test", "--package", "lb-tests", "--test", "bpf"]],
            Self::Lab => &[
                // The labs start the real programs.
                &["build", "--package", "lb-userspace", "--bins"],
                &["test", "--package", "lb-tests", "--test", "lab"],
            ],
            Self::Long => &[
                &["test", "--release", "--package", "lb-tests", "--test", "bpf"],
                &["build", "--release", "--package", "lb-userspace", "--bins"],
                &["build", "--release", "--package", "lb-tests", "--bins"],
                &["test", "--release", "--package", "lb-tests", "--test", "lab"],
            ],
            // Built and run by `vm`.
            Self::Vm => &[],
        }
    }
}

/// Runs the levels that are asked for, also after a failure, and sums up.
///
/// # Errors
/// When root, a tool or a level fails.
pub(crate) fn test(root: &Path, args: &Args) -> Result<()> {
    fits(args)?;
    let levels = args
        .level
        .map_or_else(|| Level::DEFAULT.to_vec(), |level| vec![level]);
    let typed = args
        .level
        .map_or_else(|| "test".to_owned(), |level| format!("test {}", level.name()));
    host::need_cargo(&typed)?;
    // Of the unit tests, and of a lab.
    if levels
        .iter()
        .any(|level| matches!(level, Level::Unit | Level::Lab))
    {
        promtool::obtain(root);
    }
    if levels != [Level::Unit] {
        host::need_root(&typed)?;
        host::need_tools()?;
    }
    let results: Vec<_> = levels
        .into_iter()
        .map(|level| {
            let start = Instant::now();
            let result = run_level(root, level, args);
            (level, result, start.elapsed())
        })
        .collect();
    sum_up(&results)
}

/// Options that would change nothing are mistakes.
fn fits(args: &Args) -> Result<()> {
    let random = matches!(args.level, Some(Level::Bpf | Level::Long | Level::Vm));
    if (args.packets.is_some() || args.seed.is_some()) && !random {
        bail!("--packets and --seed are for `test bpf`, `test long` and `test vm`");
    }
    if !args.kernel.is_empty() && args.level != Some(Level::Vm) {
        bail!("--kernel is for `test vm`");
    }
    Ok(())
}

fn run_level(root: &Path, level: Level, args: &Args) -> Result<()> {
    println!("\n=== {} tests", level.name());
    let filter = args.filter.as_deref();
    if level == Level::Vm {
        let default = [vm::KERNEL.to_owned()];
        let kernels = if args.kernel.is_empty() {
            &default[..]
        } else {
            &args.kernel
        };
        let options = vm::Options {
            kernels,
            filter,
            packets: args.packets,
            seed: args.seed,
        };
        return vm::test(root, &options);
    }
    if let Some(filter) = filter {
        need_match(root, level, filter)?;
    }
    let mut first_failure = Ok(());
    for call in level.calls() {
        let mut cargo = step::cargo(root);
        cargo.args(*call);
        if call[0] == "test" {
            pass_to_tests(&mut cargo, level, call, filter, args);
        }
        let result = step::run(&mut cargo);
        if first_failure.is_ok() {
            first_failure = result;
        }
    }
    first_failure
}

/// A filter that matches no test would pass by testing nothing.
fn need_match(root: &Path, level: Level, filter: &str) -> Result<()> {
    for call in level.calls().iter().filter(|call| call[0] == "test") {
        let mut cargo = step::cargo(root);
        cargo
            .arg("test")
            .arg("--quiet")
            .args(&call[1..])
            .args(["--", filter, "--list"]);
        if step::output(&mut cargo)?
            .lines()
            .any(|line| line.ends_with(": test"))
        {
            return Ok(());
        }
    }
    bail!("no {} test has {filter:?} in its name", level.name());
}

fn pass_to_tests(cargo: &mut Command, level: Level, call: &[&str], filter: Option<&str>, args: &Args) {
    let packets = args.packets.or((level == Level::Long).then_some(LONG));
    let variables = [("LB_PACKETS", packets), ("LB_SEED", args.seed)];
    cargo.envs(
        variables
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?.to_string()))),
    );
    let labs = call.contains(&"lab");
    let own = (level == Level::Long).then_some(if labs { "long::" } else { "differential::" });
    cargo.arg("--").args(filter.or(own));
    if labs {
        // Each lab wants the whole machine: its deadlines are about packets, not about the neighbour's load.
        cargo.arg("--test-threads=1");
    }
    if labs && level == Level::Long {
        // Only these: they are left out elsewhere because of their time.
        cargo.arg("--ignored");
    }
}

fn sum_up(results: &[(Level, Result<()>, Duration)]) -> Result<()> {
    println!();
    let mut failures = 0;
    for (level, result, took) in results {
        let seconds = took.as_secs();
        match result {
            Ok(()) => println!("{:<4} tests passed in {seconds} s", level.name()),
            Err(error) => {
                failures += 1;
                println!("{:<4} tests FAILED in {seconds} s: {error:#}", level.name());
            }
        }
    }
    if failures > 0 {
        bail!("{failures} of {} test levels failed", results.len());
    }
    Ok(())
}
