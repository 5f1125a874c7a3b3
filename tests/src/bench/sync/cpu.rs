//! A thread's time on a CPU, seen from another thread.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// A thread of this process.
pub(super) struct Thread {
    statistics: PathBuf,
}

impl Thread {
    /// The one that calls this, which comes before others from now on as the agent's threads do (`Nice=` in the unit).
    pub(super) fn this() -> Result<Self> {
        const NICE: i32 = -10;
        let id = gettid();
        setpriority_process(Some(id), NICE)?;
        let statistics = PathBuf::from(format!("/proc/self/task/{}/schedstat", id.as_raw_nonzero()));
        Ok(Self { statistics })
    }
}

/// What a thread has had so far.
pub(super) fn time(thread: &Thread) -> Result<Duration> {
    let path = &thread.statistics;
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.map(Duration::from_nanos).context("nanoseconds on a CPU")
}
