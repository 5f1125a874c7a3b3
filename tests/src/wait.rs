//! Deadlines and conditions in place of bare sleeps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::LabError;

/// Between two looks at a condition: short against what labs wait for, long against what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `condition` is true, at most `within`; `what` is for the error.
///
/// ```
/// # use std::time::Duration;
/// # use lb_tests::wait;
/// let mut looks = 0;
/// wait::until(Duration::from_secs(1), "third look", || { looks += 1; looks == 3 })?;
/// # Ok::<(), lb_tests::error::LabError>(())
/// ```
pub fn until(within: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), LabError> {
    until_ok(within, what, || Ok(condition()))
}

/// Like [`until`], for a condition that may itself fail; its error ends the wait.
pub fn until_ok(
    within: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let end = Instant::now() + within;
    loop {
        if condition()? {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(LabError::Deadline {
                what: what.to_owned(),
                within,
            });
        }
        sleep(LOOK_EVERY);
    }
}

/// A wish to stop, shared between whoever hears it (a signal) and whoever heeds it (set-up, live mode).
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C, SIGTERM and a closed terminal only raise the interrupt: cleaning up is the caller's own.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals() -> io::Result<Self> {
        let interrupt = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
            ]
            .map(signal)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?
        };
        let raised = interrupt.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let (one, rest) = signals.split_first_mut().expect("three signals");
                let (two, three) = rest.split_first_mut().expect("two more");
                loop {
                    tokio::select! {
                        _ = one.recv() => {}
                        _ = two.recv() => {}
                        _ = three[0].recv() => {}
                    }
                    raised.raise();
                }
            });
        });
        Ok(interrupt)
    }

    /// Asks everyone to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// `Err(Interrupted)` if somebody asked.
    pub fn check(&self) -> Result<(), LabError> {
        if self.raised() {
            Err(LabError::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Sleeps until `end`, less if somebody asks to stop.
    pub fn sleep_until(&self, end: Instant) {
        while !self.raised() && Instant::now() < end {
            sleep(LOOK_EVERY.min(end.saturating_duration_since(Instant::now())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_ends_at_the_deadline() {
        let error = until(Duration::from_millis(20), "the impossible", || false).expect_err("never true");
        assert!(error.to_string().contains("the impossible"), "{error}");
    }

    #[test]
    fn an_interrupt_ends_a_sleep() {
        let interrupt = Interrupt::default();
        interrupt.raise();
        let start = Instant::now();
        interrupt.sleep_until(start + Duration::from_secs(5));
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(matches!(interrupt.check(), Err(LabError::Interrupted)));
    }
}
