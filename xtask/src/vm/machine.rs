//! qemu: one guest from its start to its end.

use super::quiet;
use super::transcript::Transcript;
use crate::step;
use anyhow::{Context, Result};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// A guest that has said nothing for so long after its start has not come up.
const UP: Duration = Duration::from_secs(60);

/// What runs the guest's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accelerator {
    /// The host's own ones.
    Kvm,
    /// Emulated ones.
    Tcg,
}

impl Accelerator {
    /// Whether it is worth a try.
    pub(super) fn is_there(self) -> bool {
        let open = || File::options().read(true).write(true).open("/dev/kvm");
        self == Self::Tcg || open().is_ok()
    }

    fn options(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // One thread for all CPUs: with one each, a CPU meets breakpoints in code that another one has just finished to
            // rewrite (the kernel's XDP dispatcher), and the kernel dies of them.
            Self::Tcg => ["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "on KVM",
            Self::Tcg => "emulated CPU",
        })
    }
}

/// What to boot.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    /// Gets all that the guest and qemu say.
    pub(super) log: &'a Path,
}

/// How a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// By itself.
    Gone,
    /// It was stopped before its first process said a word, or ended before.
    NotUp,
    /// It was stopped after this time.
    TooLong(Duration),
}

/// Runs a guest, with its console on stdout and in the transcript.
///
/// # Errors
/// When qemu can't be started, or the log can't be written.
pub(super) fn run(
    guest: &Guest<'_>,
    accelerator: Accelerator,
    limit: Duration,
    transcript: &mut Transcript,
) -> Result<End> {
    let mut log = File::create(guest.log).with_context(|| format!("can't make {}", guest.log.display()))?;
    let stderr = log.try_clone().context("can't share the log")?;
    let cpus = thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let mut qemu = quiet(QEMU);
    qemu.args(accelerator.options());
    qemu.args(["-smp", &cpus.to_string(), "-m", "2048"]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
    ]);
    qemu.arg("-kernel")
        .arg(guest.kernel)
        .arg("-initrd")
        .arg(guest.initrd);
    // A kernel that panics starts anew at once, which ends qemu.
    qemu.args(["-append", "console=ttyS0 panic=-1 quiet"]);
    let mut child = step::with_sbin(&mut qemu)
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .with_context(|| format!("can't start {}", step::line(&qemu)))?;
    let console = child.stdout.take().context("its stdout is a pipe")?;
    let result = follow(&lines(console), limit, |line| {
        println!("{line}");
        transcript.line(line);
        writeln!(log, "{line}").with_context(|| format!("can't write {}", guest.log.display()))?;
        Ok(transcript.is_up())
    });
    end(&mut child)?;
    result
}

fn lines(console: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Hands on lines until there are no more, or time is over. `each` tells whether the guest is up.
fn follow(
    lines: &Receiver<String>,
    limit: Duration,
    mut each: impl FnMut(&str) -> Result<bool>,
) -> Result<End> {
    let start = Instant::now();
    let mut is_up = false;
    loop {
        let until = if is_up { limit } else { limit.min(UP) };
        match lines.recv_timeout(until.saturating_sub(start.elapsed())) {
            Ok(line) => is_up = each(&line)?,
            Err(_) if !is_up => return Ok(End::NotUp),
            Err(RecvTimeoutError::Disconnected) => return Ok(End::Gone),
            Err(RecvTimeoutError::Timeout) => return Ok(End::TooLong(limit)),
        }
    }
}

fn end(child: &mut Child) -> Result<()> {
    // Where it is gone already there is nothing to stop.
    let _ = child.kill();
    child.wait().context("can't wait for qemu").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn a_guest_that_says_nothing_is_not_up() {
        let (sender, receiver) = channel();
        assert_eq!(follow(&receiver, SHORT, |_| Ok(true)).unwrap(), End::NotUp);
        drop(sender);
        assert_eq!(follow(&receiver, UP, |_| Ok(true)).unwrap(), End::NotUp);
    }

    #[test]
    fn a_guest_that_hangs_is_stopped() {
        let (sender, receiver) = channel();
        sender.send("up".to_owned()).unwrap();
        assert_eq!(
            follow(&receiver, SHORT, |_| Ok(true)).unwrap(),
            End::TooLong(SHORT)
        );
        drop(sender);
    }

    #[test]
    fn a_guest_that_ends_is_gone() {
        let (sender, receiver) = channel();
        sender.send("up".to_owned()).unwrap();
        drop(sender);
        assert_eq!(follow(&receiver, UP, |_| Ok(true)).unwrap(), End::Gone);
    }
}
