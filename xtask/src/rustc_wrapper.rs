//! This program in the role of cargo's `RUSTC_WRAPPER`, while the eBPF programs are built.
//!
//! Cargo gives each crate a `-C metadata` hash, which ends up in the names of symbols. For a path dependency
//! outside the workspace's folder (`lb-common`, as `lb-ebpf` sees it) it hashes the absolute path, so that the
//! same sources would make other objects in another folder. No compiler flag can take that back; so here
//! the crates of this repository get their name instead, which is as unique.

use crate::step;
use anyhow::{Context, Result};
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Tells this program, as environment variable, that it is called as the wrapper.
const ROLE: &str = "XTASK_RUSTC_WRAPPER";

/// Has the cargo `command` call this program for each call of the compiler.
///
/// # Errors
/// When the system does not tell where this program is.
pub(crate) fn install(command: &mut Command) -> Result<()> {
    let this = env::current_exe().context("can't tell where this program is")?;
    command.env(ROLE, "1").env("RUSTC_WRAPPER", this);
    Ok(())
}

/// Whether this program was called as the wrapper.
pub(crate) fn is_called() -> bool {
    env::var_os(ROLE).is_some()
}

/// Becomes the compiler that the arguments name.
///
/// # Errors
/// Does not return without one: when the compiler can't be started.
pub(crate) fn become_rustc(root: &Path) -> Result<()> {
    let mut args: Vec<OsString> = env::args_os().skip(1).collect();
    let is_ours = env::var_os("CARGO_MANIFEST_DIR").is_some_and(|dir| Path::new(&dir).starts_with(root));
    if is_ours {
        name_metadata(&mut args);
    }
    let (rustc, args) = args.split_first().context("called without a compiler")?;
    let mut command = Command::new(rustc);
    command.args(args);
    let error = command.exec();
    Err(error).with_context(|| format!("can't start {}", step::line(&command)))
}

/// Replaces the value of `-C metadata=` by the name of the crate.
fn name_metadata(args: &mut [OsString]) {
    let name = args
        .iter()
        .position(|arg| arg == "--crate-name")
        .and_then(|at| args.get(at + 1))
        .cloned();
    let is_metadata = |arg: &&mut OsString| arg.as_encoded_bytes().starts_with(b"metadata=");
    if let (Some(name), Some(metadata)) = (name, args.iter_mut().find(is_metadata)) {
        metadata.clear();
        metadata.push(OsStr::new("metadata="));
        metadata.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(args: &[&str]) -> Vec<OsString> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        name_metadata(&mut args);
        args
    }

    #[test]
    fn metadata_becomes_the_crates_name() {
        let args = [
            "rustc",
            "--crate-name",
            "lb_common",
            "-C",
            "metadata=5d859bc9",
            "-C",
            "extra-filename=-1",
        ];
        let expected = [
            "rustc",
            "--crate-name",
            "lb_common",
            "-C",
            "metadata=lb_common",
            "-C",
            "extra-filename=-1",
        ];
        assert_eq!(named(&args), expected);
    }

    #[test]
    fn calls_without_a_crate_stay() {
        let args = ["rustc", "-vV"];
        assert_eq!(named(&args), args);
    }
}
