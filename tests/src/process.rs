//! A process of a lab: output to a log file, signals, a clean end.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command;
use crate::error::{IoContext, LabError};
use crate::wait;

/// A running child. Dropping it kills it, unless it was [released](Process::release).
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where in the log this process's own lines begin (a restart appends).
    log_start: u64,
    released: bool,
}

impl Process {
    /// Starts the command with both outputs appended to `log`.
    /// It gets a process group of its own: Ctrl-C in the terminal is for the lab's program, which ends the others.
    pub fn spawn(name: impl Into<String>, mut command: Command, log: &Path) -> Result<Self, LabError> {
        let open = || File::options().create(true).append(true).open(log);
        let file = open().context(|| format!("open {}", log.display()))?;
        let log_start = file
            .metadata()
            .context(|| format!("look at {}", log.display()))?
            .len();
        let second = file.try_clone().context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second)
            .process_group(0);
        let child = command.spawn().map_err(|source| LabError::Spawn {
            command: command::line(&command),
            source,
        })?;
        Ok(Self {
            name: name.into(),
            child,
            log: log.to_owned(),
            log_start,
            released: false,
        })
    }

    /// Its process id. `nsenter` replaces itself by the program, so it is the program's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.log_since(self.log_start)
    }

    /// What came into the log file after `mark`, a value of [`Process::log_mark`].
    pub fn log_since(&self, mark: u64) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(mark).map_or(bytes.len(), |m| m.min(bytes.len()));
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// The present end of the log.
    pub fn log_mark(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |m| m.len())
    }

    /// Waits for a line that contains `text` after `mark`; an end of the process ends the wait.
    pub fn wait_for_line(&mut self, text: &str, mark: u64, within: Duration) -> Result<(), LabError> {
        let what = format!("{}: a log line with {text:?}", self.name);
        wait::until_ok(within, &what, || {
            // The exit first: what it wrote before is then complete.
            let ended = self.try_exit()?;
            if self.log_since(mark).contains(text) {
                return Ok(true);
            }
            match ended {
                Some(status) => Err(self.exited(status)),
                None => Ok(false),
            }
        })
    }

    /// Whether it has written a line with `text`; its end is an error.
    pub fn says(&mut self, text: &str) -> Result<bool, LabError> {
        let ended = self.try_exit()?;
        match ended {
            _ if self.log().contains(text) => Ok(true),
            Some(status) => Err(self.exited(status)),
            None => Ok(false),
        }
    }

    /// Like [`Process::wait_for_line`], from the process's first line on.
    pub fn wait_ready(&mut self, text: &str, within: Duration) -> Result<(), LabError> {
        self.wait_for_line(text, self.log_start, within)
    }

    /// How it ended, if it has.
    pub fn try_exit(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child
            .try_wait()
            .context(|| format!("wait for {}", self.name))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a child has a process id");
        kill_process(pid, signal).context(|| format!("send {signal:?} to {}", self.name))
    }

    /// SIGTERM, then waits for the end.
    pub fn stop(mut self, within: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::TERM)?;
        let mut status = None;
        wait::until_ok(
            within,
            &format!("the end of {} after SIGTERM", self.name.clone()),
            || {
                status = self.try_exit()?;
                Ok(status.is_some())
            },
        )?;
        Ok(status.expect("the wait ends with a status"))
    }

    /// SIGKILL, then reaps it.
    pub fn kill9(mut self) -> Result<(), LabError> {
        self.child.kill().context(|| format!("kill {}", self.name))?;
        self.child
            .wait()
            .context(|| format!("wait for {}", self.name))
            .map(drop)
    }

    /// Lets it live on after this value and this process.
    pub fn release(&mut self) {
        self.released = true;
    }

    fn exited(&self, status: ExitStatus) -> LabError {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(20)..].join("\n");
        LabError::Exited {
            name: self.name.clone(),
            status,
            log,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released && matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("shell", command, log).expect("sh starts")
    }

    #[test]
    fn a_line_is_seen_only_after_the_mark() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let second = Duration::from_secs(5);
        shell("echo ready", &log)
            .wait_ready("ready", second)
            .expect("first");
        let mut again = shell("sleep 30", &log);
        let error = again
            .wait_ready("ready", Duration::from_millis(50))
            .expect_err("only the first wrote it");
        assert!(matches!(error, LabError::Deadline { .. }), "{error}");
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut process = shell("echo no such file; exit 2", &dir.path().join("log"));
        let error = process
            .wait_ready("ready", Duration::from_secs(5))
            .expect_err("it ended");
        assert!(error.to_string().contains("no such file"), "{error}");
    }

    #[test]
    fn stop_waits_for_a_graceful_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let mut process = shell(
            "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done",
            &log,
        );
        process
            .wait_ready("ready", Duration::from_secs(5))
            .expect("starts");
        let status = process.stop(Duration::from_secs(5)).expect("ends");
        assert_eq!(status.code(), Some(7));
        assert!(fs::read_to_string(&log).expect("log").contains("bye"));
    }
}
