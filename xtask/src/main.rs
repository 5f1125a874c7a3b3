//! `cargo xtask`: every development task, one file per command.

mod bench;
mod build_ebpf;
mod ci;
mod debian;
mod docs;
mod fuzz;
mod host;
#[path = "../../lb-ebpf/manifest.rs"]
mod manifest;
mod promtool;
mod run;
mod rustc_wrapper;
mod step;
mod test;
mod tidy;
mod toolchain;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Every development task of Tandem"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF programs into lb-ebpf/obj (gets the toolchain when it is missing)
    BuildEbpf(build_ebpf::Args),
    /// Make the lab in network namespaces and send real traffic through it (needs root)
    Run(run::Args),
    /// Run all tests, or those of one level (needs root, but for `unit`)
    Test(test::Args),
    /// Look for bytes that break the configuration's reader or the reference model
    Fuzz(fuzz::Args),
    /// Check the rules that no compiler knows: module order, sizes, purity, docs
    Tidy,
    /// Write the docs that are made from the code: configuration, stop reasons, maps
    Docs(docs::Args),
    /// Write the man pages of lbd and lbctl to target/man
    Man,
    /// Measure what the data plane costs: `bench xdp` (needs root), `bench ring`
    Bench(bench::Args),
    /// Instructions and memory of each eBPF program, against the budget (needs root)
    Verify(bench::VerifyArgs),
    /// What a change must pass: formatting, lints, tidy, eBPF objects, budgets, all tests (needs root)
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let root = step::repository();
    let result = if rustc_wrapper::is_called() {
        rustc_wrapper::become_rustc(&root)
    } else {
        command(&root)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not returned from main: with RUST_BACKTRACE=1, which CI likes to set, the message would drown.
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn command(root: &Path) -> Result<()> {
    match Args::parse().command {
        Command::BuildEbpf(args) => build_ebpf::build_ebpf(root, &args),
        Command::Run(args) => run::run(root, &args),
        Command::Test(args) => test::test(root, &args),
        Command::Fuzz(args) => fuzz::fuzz(root, &args),
        Command::Tidy => tidy::tidy(root),
        Command::Docs(args) => docs::docs(root, &args),
        Command::Man => docs::man(root),
        Command::Bench(args) => bench::bench(root, &args),
        Command::Verify(args) => bench::verify(root, &args),
        Command::Ci(args) => ci::ci(root, &args),
    }
}
