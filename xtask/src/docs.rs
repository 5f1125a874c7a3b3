//! `cargo xtask docs` and `cargo xtask man`: what is made from the code for people to read.
//!
//! `lb-docs` in `tests/` makes it: this program must build when `lb-userspace` does not.

use crate::step;
use anyhow::{Context, Result};
use std::path::Path;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail where a file is not current
    #[arg(long)]
    check: bool,
}

/// Writes or checks the generated docs.
///
/// # Errors
/// When a doc can't be written or, with `--check`, is not current.
pub(crate) fn docs(root: &Path, args: &Args) -> Result<()> {
    if args.check {
        check(root)
    } else {
        lb_docs(root, &["write"])
    }
}

/// Fails where a generated doc is not current.
///
/// # Errors
/// With the names of those files on stderr.
pub(crate) fn check(root: &Path) -> Result<()> {
    lb_docs(root, &["check"]).context("generated docs are not current")
}

/// Writes the man pages to `target/man`.
///
/// # Errors
/// When one can't be written.
pub(crate) fn man(root: &Path) -> Result<()> {
    let folder = "target/man";
    lb_docs(root, &["man", folder])?;
    println!("{folder}: `man -l {folder}/lbctl.8` shows one");
    Ok(())
}

fn lb_docs(root: &Path, args: &[&str]) -> Result<()> {
    let mut cargo = step::cargo(root);
    cargo.args([
        "run",
        "--quiet",
        "--package",
        "lb-tests",
        "--bin",
        "lb-docs",
        "--",
    ]);
    step::run(cargo.args(args))
}
