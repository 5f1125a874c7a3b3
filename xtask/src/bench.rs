//! `cargo xtask bench` and `cargo xtask verify`: build the bench, then become it.

use crate::{host, step};
use anyhow::{Context, Result};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// `xdp`, `lab`, `ring` or `sync`, and options; `--help` lists them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "BENCH OPTIONS"
    )]
    bench: Vec<OsString>,
}

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct VerifyArgs {
    /// `--set-budget`, `--output json`; `--help` lists them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "VERIFY OPTIONS"
    )]
    verify: Vec<OsString>,
}

/// Does not return when all is well: the bench takes over this process, and with it the exit code. Stdout is left to
/// it (it may be JSON).
///
/// # Errors
/// Without root where it is needed, and when something does not build.
pub(crate) fn bench(root: &Path, args: &Args) -> Result<()> {
    host::need_cargo("bench")?;
    let first = args.bench.first().map(OsString::as_os_str);
    let mut words = args.bench.clone();
    if first == Some(OsStr::new("xdp")) {
        if !asks_help(&words) {
            host::need_root("bench xdp")?;
        }
        words.extend(["--root".into(), root.into()]);
        words.extend(against(root, &args.bench)?);
    }
    if first == Some(OsStr::new("lab")) && !asks_help(&words) {
        host::need_root("bench lab")?;
    }
    if first == Some(OsStr::new("sync")) && !asks_help(&words) {
        host::need_root("bench sync")?;
    }
    // Rings are built and records are sent by this program; what XDP costs is the kernel's affair, so that needs no
    // optimised build.
    let profile = if first.is_some_and(|first| first == "ring" || first == "sync") {
        Profile::Release
    } else {
        Profile::Dev
    };
    become_bench(root, profile, &words)
}

/// As [`bench`].
///
/// # Errors
/// Without root, and when something does not build.
pub(crate) fn verify(root: &Path, args: &VerifyArgs) -> Result<()> {
    host::need_cargo("verify")?;
    if !asks_help(&args.verify) {
        host::need_root("verify")?;
    }
    let mut words: Vec<OsString> = vec!["verify".into(), "--root".into(), root.into()];
    words.extend(args.verify.iter().cloned());
    become_bench(root, Profile::Dev, &words)
}

/// Both gates of CI: the budget, and the ratio to the baseline.
///
/// # Errors
/// When one of them fails.
pub(crate) fn gates(root: &Path) -> Result<()> {
    for gate in [&["verify"][..], &["xdp", "--gate"]] {
        let mut command = built(root, Profile::Dev)?;
        step::run(command.args(gate).arg("--root").arg(root))?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Dev,
    Release,
}

fn asks_help(words: &[OsString]) -> bool {
    words.iter().any(|word| word == "--help" || word == "-h")
}

/// The bench, built now.
fn built(root: &Path, profile: Profile) -> Result<Command> {
    let mut build = step::cargo(root);
    build.args(["build", "--package", "lb-tests", "--bin", "lb-bench"]);
    // Cargo put this program beside the others of its profile.
    let this = env::current_exe().context("can't tell where this program is")?;
    let mut folder = this
        .parent()
        .context("this program is in no folder")?
        .to_path_buf();
    if profile == Profile::Release {
        build.arg("--release");
        folder = folder.with_file_name("release");
    }
    eprintln!("xtask: building the bench");
    step::run_on_stderr(build.arg("--quiet"))?;
    Ok(Command::new(folder.join("lb-bench")))
}

fn become_bench(root: &Path, profile: Profile, words: &[OsString]) -> Result<()> {
    let mut command = built(root, profile)?;
    let error = step::with_sbin(command.args(words)).exec();
    Err(error).with_context(|| format!("can't start {}", step::line(&command)))
}

/// Where `words` name another revision: fetches its object from git, and tells the bench where it is.
fn against(root: &Path, words: &[OsString]) -> Result<Vec<OsString>> {
    let Some(revision) = value_of(words, "--against") else {
        return Ok(Vec::new());
    };
    anyhow::ensure!(
        !revision.is_empty(),
        "--against needs a revision, such as HEAD~1 or main"
    );
    let file = format!("{revision}:lb-ebpf/obj/lb_xdp.o");
    let output = Command::new("git")
        .current_dir(root)
        .args(["show", "--end-of-options", &file])
        .output()
        .context("can't start git")?;
    if !output.status.success() {
        anyhow::bail!(
            "git has no {file}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let path: PathBuf = folder.join("against-lb_xdp.o");
    fs::write(&path, output.stdout).with_context(|| format!("can't write {}", path.display()))?;
    Ok(vec!["--against-object".into(), path.into()])
}

/// The value of an option, in either way to write it.
fn value_of(words: &[OsString], option: &str) -> Option<String> {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let next = |at: usize| words.get(at + 1).map(|word| word.to_string());
    words.iter().enumerate().find_map(|(at, word)| {
        let rest = word.strip_prefix(option)?;
        if rest.is_empty() {
            next(at)
        } else {
            rest.strip_prefix('=').map(str::to_owned)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_in_both_spellings() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let value = |list: &[&str]| value_of(&words(list), "--against");
        assert_eq!(value(&["xdp", "--against", "main"]).as_deref(), Some("main"));
        assert_eq!(value(&["xdp", "--against=HEAD~1"]).as_deref(), Some("HEAD~1"));
        assert_eq!(value(&["xdp", "--against-object", "x"]), None);
        assert_eq!(value(&["xdp", "--against"]), None);
    }
}
