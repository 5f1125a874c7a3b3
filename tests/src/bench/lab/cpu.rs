//! One CPU for everything, and the time that was spent on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Runs `job` on a thread of its own on one CPU, whose number it hears: the last one that this thread may use, since
/// interrupts prefer the first.
///
/// # Errors
/// When the kernel gives none.
pub(super) fn pinned<T: Send>(job: impl FnOnce(usize) -> T + Send) -> Result<T> {
    let allowed = sched_getaffinity(None)?;
    let cpu = (0..CpuSet::MAX_CPU).rev().find(|&cpu| allowed.is_set(cpu));
    let cpu = cpu.context("this thread may use no CPU")?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one).with_context(|| format!("can't stay on CPU {cpu}"))?;
            Ok(job(cpu))
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Tells the time on a CPU of this thread and of that CPU's softirq thread, which takes over under load.
pub(super) struct Clock {
    softirq_thread: PathBuf,
}

impl Clock {
    /// A clock of `cpu`.
    ///
    /// # Errors
    /// When it has no softirq thread that we can see.
    pub(super) fn of(cpu: usize) -> Result<Self> {
        let name = format!("ksoftirqd/{cpu}\n");
        let is_it = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name);
        let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
        let process = processes.find(|path| is_it(path));
        Ok(Self {
            softirq_thread: process
                .with_context(|| format!("no process {}", name.trim_end()))?
                .join("schedstat"),
        })
    }

    /// Time so far.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub(super) fn now(&self) -> Result<Duration> {
        let own = clock_gettime(ClockId::ThreadCPUTime);
        let own = Duration::new(u64::try_from(own.tv_sec)?, u32::try_from(own.tv_nsec)?);
        let path = &self.softirq_thread;
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
        let nanos = nanos.with_context(|| format!("{}: {text}", path.display()))?;
        Ok(own + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_stays_where_it_is_and_its_time_passes() {
        let spent = pinned(|cpu| {
            assert_eq!(rustix::thread::sched_getcpu(), cpu);
            let clock = Clock::of(cpu).expect("every CPU has a softirq thread");
            let start = clock.now().expect("time");
            let mut sum = 0u64;
            for i in 0..3_000_000u64 {
                sum = std::hint::black_box(sum ^ i);
            }
            clock.now().expect("time") - start
        });
        assert!(spent.expect("pinned") > Duration::from_micros(500));
    }
}
