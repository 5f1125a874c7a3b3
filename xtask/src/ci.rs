//! `cargo xtask ci`: what a change must pass.

use crate::{bench, build_ebpf, host, step, test, tidy};
use anyhow::{Context, Result};
use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave the tests to a `cargo xtask test` that follows
    #[arg(long)]
    no_tests: bool,
}

/// Stops at the first step that fails.
///
/// # Errors
/// That step's.
pub(crate) fn ci(root: &Path, args: &Args) -> Result<()> {
    host::need_cargo("ci")?;
    if !args.no_tests {
        // They come last; this need not.
        host::need_root("ci")?;
    }
    let cargo = |args: &[&str]| step::run(step::cargo(root).args(args));
    cargo(&["fmt", "--check"]).context("run `cargo fmt`")?;
    cargo(&["fmt", "--check", "--manifest-path", "lb-ebpf/Cargo.toml"])
        .context("run `cargo fmt` in lb-ebpf")?;
    tidy::tidy(root)?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ])?;
    build_ebpf::check(root)?;
    build_ebpf::lint(root)?;
    build_ebpf::verify(root)?;
    if rustix::process::geteuid().is_root() {
        bench::gates(root)?;
    } else {
        println!(
            "NOT CHECKED without root: what the programs cost (`cargo xtask verify`, `bench xdp --gate`)"
        );
    }
    if args.no_tests {
        Ok(())
    } else {
        test::test(root, &test::Args::default())
    }
}
