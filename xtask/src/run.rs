//! `cargo xtask run`: builds the agent, the command-line tool and the lab, then becomes the lab.

use crate::{host, step};
use anyhow::{Context, Result};
use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Optimised programs: minutes to build, and what figures are to be taken with
    #[arg(long)]
    release: bool,
    /// Passed to the lab as they are; `--help` lists them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "LAB OPTIONS"
    )]
    lab: Vec<OsString>,
}

/// Does not return when all is well: the lab takes over this process, and with it Ctrl-C and the exit code.
///
/// # Errors
/// Without root or a tool, and when something does not build. Stdout is left to the lab (it may be JSON).
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    host::need_cargo("run")?;
    let asks_help = args.lab.iter().any(|arg| arg == "--help" || arg == "-h");
    if !asks_help {
        host::need_root("run")?;
        host::need_tools()?;
    }
    let mut build = step::cargo(root);
    build.args([
        "build",
        "--package",
        "lb-userspace",
        "--package",
        "lb-tests",
        "--bins",
    ]);
    if args.release {
        build.arg("--release");
    }
    eprintln!("xtask: building lbd, lbctl and the lab");
    step::run_on_stderr(&mut build)?;
    // Cargo put this program beside the others: same target folder, wherever that is, and the same profile if no other is asked for.
    let this = env::current_exe().context("can't tell where this program is")?;
    let mut bin_dir = this.parent().context("this program is in no folder")?.to_owned();
    if args.release {
        bin_dir.set_file_name("release");
    }
    let lab = bin_dir.join("lb-lab");
    let mut command = Command::new(&lab);
    command.args(&args.lab).env("LB_BIN_DIR", &bin_dir);
    let error = step::with_sbin(&mut command).exec();
    Err(error).with_context(|| format!("can't start {}", lab.display()))
}
