//! Prometheus's `promtool` from Debian's package, unpacked into `target/`: the package itself would start a server.

use crate::{debian, step};
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where tests look for it, from the root.
const PLACE: &str = "target/tools/promtool";

/// Fetches it, once, where neither PATH nor an earlier call has it. That it can't be had is told; the tests that want it
/// say what they leave out, and fail under CI.
pub(crate) fn obtain(root: &Path) {
    if root.join(PLACE).is_file() || step::find_program("promtool").is_some() || !debian::is_debian() {
        return;
    }
    if let Err(error) = fetch(root) {
        eprintln!("xtask: no promtool: {error:#}");
    }
}

fn fetch(root: &Path) -> Result<()> {
    let place = root.join(PLACE);
    let folder = place.parent().context("a file in a folder")?;
    let part = folder.join("promtool.part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("can't remove {}", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| format!("can't make {}", part.display()))?;
    eprintln!("xtask: fetching promtool from Debian (about 20 MB)");
    let download = || {
        let mut apt = Command::new("apt-get");
        step::run_on_stderr(apt.current_dir(&part).args(["-q", "download", "prometheus"]))
    };
    if download().is_err() {
        step::run_on_stderr(Command::new("apt-get").args(["-q", "update"]))?;
        download()?;
    }
    let archive = fs::read_dir(&part)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get has left no package")?;
    step::run_on_stderr(Command::new("dpkg").arg("--extract").arg(&archive).arg(&part))?;
    let program = part.join("usr/bin/promtool");
    fs::rename(&program, &place).with_context(|| format!("can't move {}", program.display()))?;
    fs::remove_dir_all(&part).with_context(|| format!("can't remove {}", part.display()))
}
