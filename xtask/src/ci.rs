//! `cargo xtask ci`: what a change must pass.

use crate::{build_ebpf, host, step, test};
use anyhow::{Context, Result};
use std::path::Path;

/// Stops at the first step that fails.
///
/// # Errors
/// That step's.
pub(crate) fn ci(root: &Path) -> Result<()> {
    host::need_cargo("ci")?;
    // The tests come last, and it would be a pity to learn only then.
    host::need_root("ci")?;
    let cargo = |args: &[&str]| step::run(step::cargo(root).args(args));
    cargo(&["fmt", "--check"]).context("run `cargo fmt`")?;
    cargo(&["fmt", "--check", "--manifest-path", "lb-ebpf/Cargo.toml"])
        .context("run `cargo fmt` in lb-ebpf")?;
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
    test::test(root, &test::Args::default())
}
