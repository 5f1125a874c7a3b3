//! What the labs need of the host: root, and a few tools.

use crate::step;
use anyhow::{Context, Result, bail};
use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Programs that the labs and the tests start, and the Debian packages that hold them.
const TOOLS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("curl", "curl"),
];

/// Refuses to go on without root.
///
/// # Errors
/// With the line to type instead, when the effective user is not root.
pub(crate) fn need_root(task: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {task}` needs root: it makes network namespaces and loads eBPF programs.\n\
         Type this (plain `sudo cargo` does not find the cargo and the toolchain of your user):\n\n    {}\n",
        sudo_line(task)
    );
}

/// Refuses to go on without cargo.
///
/// # Errors
/// With what to do, when this program was started neither by cargo nor with cargo on PATH.
pub(crate) fn need_cargo(task: &str) -> Result<()> {
    if env::var_os("CARGO").is_some() || step::find_program("cargo").is_some() {
        return Ok(());
    }
    bail!(
        "cargo is not on PATH, as is usual under plain `sudo`. From the shell in which `cargo` works, type\n\n    \
         {}\n\nor install cargo 1.95 or later (https://rustup.rs).",
        sudo_line(task)
    );
}

/// Cargo under sudo, with PATH and the homes of the user who types it.
fn sudo_line(task: &str) -> String {
    let home = |variable: &str, folder: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(folder)))
            .map_or_else(|| format!("$HOME/{folder}"), |path| path.display().to_string())
    };
    // When sudo has already replaced HOME, only the user's own shell knows the folders.
    let (cargo_home, rustup_home) = if env::var_os("SUDO_USER").is_some() {
        (
            "${CARGO_HOME:-$HOME/.cargo}".to_owned(),
            "${RUSTUP_HOME:-$HOME/.rustup}".to_owned(),
        )
    } else {
        (home("CARGO_HOME", ".cargo"), home("RUSTUP_HOME", ".rustup"))
    };
    format!(
        "sudo env \"PATH=$PATH\" \"CARGO_HOME={cargo_home}\" \"RUSTUP_HOME={rustup_home}\" cargo xtask {task}"
    )
}

/// As [`need_programs`], for the tools of tests and labs.
///
/// # Errors
/// See there.
pub(crate) fn need_tools() -> Result<()> {
    need_programs(&TOOLS)
}

/// Installs what is missing of some (program, Debian package) pairs; touches nothing when all are there.
///
/// # Errors
/// With the names of what is missing, when it can't be installed.
pub(crate) fn need_programs(programs: &[(&str, &str)]) -> Result<()> {
    let missing = || {
        programs
            .iter()
            .filter(|(program, _)| step::find_program(program).is_none())
    };
    let mut packages: Vec<&str> = missing().map(|&(_, package)| package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if step::find_program("apt-get").is_none() {
        let programs: Vec<&str> = missing().map(|&(program, _)| program).collect();
        bail!(
            "not found: {}. Install them with your distribution's package manager.",
            programs.join(", ")
        );
    }
    eprintln!("xtask: installing {}", packages.join(" "));
    if apt_install(&packages).is_err() {
        step::run_on_stderr(Command::new("apt-get").args(["-q", "update"]))?;
        apt_install(&packages).with_context(|| format!("can't install {}", packages.join(" ")))?;
    }
    let programs: Vec<&str> = missing().map(|&(program, _)| program).collect();
    if !programs.is_empty() {
        bail!(
            "still not found after installing {}: {}",
            packages.join(" "),
            programs.join(", ")
        );
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    step::run_on_stderr(
        apt.args(["-q", "-y", "--no-install-recommends", "install"])
            .args(packages),
    )
}
