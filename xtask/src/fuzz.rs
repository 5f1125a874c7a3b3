//! `cargo xtask fuzz`: libFuzzer over the targets of `tests/fuzz`.

use crate::step;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What drives libFuzzer, built under `target/`.
const CARGO_FUZZ: &str = "0.13.2";

/// The longest input that is tried: longer ones find nothing more and take longer.
const LONGEST: usize = 4096;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    #[arg(value_enum)]
    target: Option<Target>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run this one file through the target instead, such as one that an earlier run left
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// A configuration, from its text to the contents of the maps
    Config,
    /// A frame through the model of the balancer, and out of the tunnel again
    Balance,
    /// A frame through the model of the decapsulator
    Decap,
    /// A peer's stream of flow records
    Sync,
    /// What peers say about the group's configuration, and texts that are cut in two
    Charter,
    /// What a peer's group machine may send
    Group,
    /// A peer's heartbeats, heads of frames, certificates
    Peer,
    /// ICMP errors, for the doctor
    Icmp,
}

impl Target {
    const ALL: [Self; 8] = [
        Self::Config,
        Self::Balance,
        Self::Decap,
        Self::Sync,
        Self::Charter,
        Self::Group,
        Self::Peer,
        Self::Icmp,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Balance => "balance",
            Self::Decap => "decap",
            Self::Sync => "sync",
            Self::Charter => "charter",
            Self::Group => "group",
            Self::Peer => "peer",
            Self::Icmp => "icmp",
        }
    }
}

/// Runs all targets that are asked for, also after a failure.
///
/// # Errors
/// When cargo-fuzz or a target can't be built, or an input is found that breaks a target.
pub(crate) fn fuzz(root: &Path, args: &Args) -> Result<()> {
    crate::host::need_cargo("fuzz")?;
    crate::host::need_programs(&[("c++", "g++")])?;
    let tool = obtain(root)?;
    let targets = args
        .target
        .map_or_else(|| Target::ALL.to_vec(), |target| vec![target]);
    let mut broken = Vec::new();
    for target in targets {
        println!("\n=== {}", target.name());
        let result = match &args.replay {
            Some(file) => replay(root, &tool, target, file),
            None => search(root, &tool, target, args.seconds),
        };
        if let Err(error) = result {
            eprintln!("{}: {error:#}", target.name());
            broken.push(target.name());
        }
    }
    if !broken.is_empty() {
        bail!("broken: {}", broken.join(", "));
    }
    Ok(())
}

/// cargo-fuzz, built now unless an earlier call did.
fn obtain(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/fuzz-tools");
    let tool = folder.join("bin/cargo-fuzz");
    let version = step::output(Command::new(&tool).args(["fuzz", "--version"]));
    if version.is_ok_and(|text| text.trim_end().ends_with(CARGO_FUZZ)) {
        return Ok(tool);
    }
    eprintln!("xtask: building cargo-fuzz {CARGO_FUZZ} (one or two minutes)");
    let mut install = step::cargo(root);
    install.args([
        "install",
        "cargo-fuzz",
        "--version",
        CARGO_FUZZ,
        "--locked",
        "--force",
        "--quiet",
    ]);
    install.arg("--root").arg(&folder);
    step::run_on_stderr(&mut install).context("can't build cargo-fuzz")?;
    Ok(tool)
}

/// `cargo fuzz run TARGET`; files come next, then `--` and libFuzzer's options.
fn run(root: &Path, tool: &Path, target: Target) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(root);
    // Instrumentation is not a stable flag of the compiler.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.args(["fuzz", "run", "--fuzz-dir", "tests/fuzz"]);
    command.arg("--target-dir").arg(root.join("target/fuzz"));
    command.arg(target.name());
    command
}

fn search(root: &Path, tool: &Path, target: Target, seconds: u32) -> Result<()> {
    let name = target.name();
    // What is new goes to the first folder; the committed inputs stay as they are.
    let found = root.join("target/fuzz/corpus").join(name);
    let crashes = root.join("target/fuzz/crashes").join(name);
    for folder in [&found, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    let mut command = run(root, tool, target);
    command.arg(&found).arg(root.join("tests/fuzz/corpus").join(name));
    if target == Target::Config {
        let fixtures = root.join("lb-userspace/tests/fixtures/config");
        command.args([
            fixtures.join("accepted"),
            fixtures.join("refused"),
            root.join("dist"),
        ]);
    }
    command.args(["--", "-print_final_stats=1", "-timeout=10"]);
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={LONGEST}"));
    command.arg(format!("-artifact_prefix={}/", crashes.display()));
    if target == Target::Config {
        let dictionary = root.join("tests/fuzz/config.dict");
        command.arg(format!("-dict={}", dictionary.display()));
    }
    step::run(&mut command).with_context(|| {
        format!(
            "if an input broke it, that is the newest file in {crashes}. Replay it:\n    \
             cargo xtask fuzz {name} --replay FILE\n\
             When it is mended, keep the file in tests/fuzz/corpus/{name}/: `cargo xtask test unit` runs those",
            crashes = crashes.display()
        )
    })
}

fn replay(root: &Path, tool: &Path, target: Target, file: &Path) -> Result<()> {
    let file = file
        .canonicalize()
        .with_context(|| format!("can't find {}", file.display()))?;
    step::run(run(root, tool, target).arg(file))
}
