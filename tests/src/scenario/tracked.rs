//! The share of tracked slots, as the node's own map has it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use serde::Serialize;

use crate::error::LabError;
use crate::host::Node;

const EVERY: Duration = Duration::from_millis(500);
/// Between two looks at whether the sampler is to end.
const BLINK: Duration = Duration::from_millis(20);

/// The share at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Since the sampler began.
    pub t_s: f64,
    /// Tracked slots of all slots of the node's pools; of several nodes the largest share.
    pub tracked_percent: f64,
}

/// Looks twice a second, in a thread of its own, until it is stopped or dropped.
#[derive(Debug)]
pub struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Sample>, LabError>>>,
}

impl Sampler {
    /// Begins at the pinned maps of these nodes.
    pub fn start(nodes: &[Node]) -> Self {
        let roots: Vec<PathBuf> = nodes.iter().map(|node| node.pin_root().to_owned()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || sample(&roots, &stop)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// All samples.
    pub fn stop(mut self) -> Result<Vec<Sample>, LabError> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined only here");
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn sample(roots: &[PathBuf], stop: &AtomicBool) -> Result<Vec<Sample>, LabError> {
    let mut samples = Vec::new();
    let start = Instant::now();
    let mut due = start;
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() < due {
            thread::sleep(BLINK);
            continue;
        }
        due += EVERY;
        let t_s = start.elapsed().as_secs_f64();
        let mut most = 0.0_f64;
        for root in roots {
            most = most.max(share_at(root)?);
        }
        samples.push(Sample {
            t_s: (t_s * 10.0).round() / 10.0,
            tracked_percent: most,
        });
    }
    Ok(samples)
}

/// Tracked slots of all slots of the node's pools, in percent.
pub fn share(node: &Node) -> Result<f64, LabError> {
    share_at(node.pin_root())
}

fn share_at(root: &std::path::Path) -> Result<f64, LabError> {
    let error = |source| LabError::Maps {
        root: root.to_owned(),
        source: Box::new(source),
    };
    // Opened anew: an agent may have replaced them.
    let maps = Maps::open(&Root::new(root)).map_err(error)?;
    let pools = maps.pools().map_err(error)?;
    let (mut tracked, mut all) = (0_u32, 0_u32);
    for pool in pools.keys() {
        let ring = maps.ring(*pool);
        let count = ring.iter().filter(|slot| slot.is_tracked()).count();
        tracked += u32::try_from(count).expect("a ring has 65,536 slots");
        all += u32::try_from(ring.len()).expect("a ring has 65,536 slots");
    }
    if all == 0 {
        return Ok(0.0);
    }
    let percent = 100.0 * f64::from(tracked) / f64::from(all);
    Ok((percent * 1000.0).round() / 1000.0)
}
