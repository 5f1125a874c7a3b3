//! Times that processes of one machine can compare.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: since the machine began, without its sleep.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::try_from(time).expect("this clock never shows less than 0")
}
