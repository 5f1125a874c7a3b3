//! New flows at a rate, made by the program itself, and how long each takes to the other node's map.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use hdrhistogram::Histogram;
use lb_common::header::proto;
use lb_userspace::dataplane::flows::Table;
use lb_userspace::dataplane::maps::Maps;

use super::node::{client, key};
use crate::bench::case::{PORT, VIP_V4};

/// Flows whose way is watched, per second.
const WATCHED: u32 = 500;
/// How often the other node's map is looked at.
const LOOK: Duration = Duration::from_micros(100);
/// A flow that is not there after this is lost.
const LOST: Duration = Duration::from_secs(3);
/// `XDP_TX`, `XDP_REDIRECT` (linux/bpf.h).
const SENT: [u32; 2] = [3, 4];

/// What came of a load.
pub(super) struct Made {
    /// From the packet to the replica, microseconds.
    pub(super) lag: Histogram<u64>,
    /// Flows that were begun.
    pub(super) flows: u32,
    /// Watched flows that never came.
    pub(super) missing: u32,
    /// How long it went on.
    pub(super) took: Duration,
}

/// A SYN of flow `n`.
fn syn(n: u32) -> Vec<u8> {
    let (client, port) = client(n);
    let mut frame = vec![0; 54];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    frame[22..24].copy_from_slice(&[64, proto::TCP]);
    frame[26..30].copy_from_slice(&client.octets());
    if let std::net::IpAddr::V4(vip) = VIP_V4 {
        frame[30..34].copy_from_slice(&vip.octets());
    }
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[36..38].copy_from_slice(&PORT.to_be_bytes());
    frame[38..42].copy_from_slice(&n.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x02]);
    frame
}

/// Begins `per_second` flows a second for a while. `there` are the maps of the other node.
pub(super) fn run(program: &Xdp, there: &Maps, per_second: u32, time: Duration) -> Result<Made> {
    let (watch, watched) = channel();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (maps, stopped) = (there, &stop);
        let observer = scope.spawn(move || observe(maps, &watched, stopped));
        let made = produce(program, &watch, per_second, time);
        stop.store(true, Ordering::Relaxed);
        let (lag, missing) = observer
            .join()
            .map_err(|_| anyhow::anyhow!("the observer panicked"))??;
        let (flows, took) = made?;
        Ok(Made {
            lag,
            flows,
            missing,
            took,
        })
    })
}

fn produce(
    program: &Xdp,
    watch: &Sender<(u32, Instant)>,
    per_second: u32,
    time: Duration,
) -> Result<(u32, Duration)> {
    let (start, every) = (Instant::now(), (per_second / WATCHED).max(1));
    let mut made = 0;
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u32;
        while made < due {
            let began = Instant::now();
            let frame = syn(made);
            let result = program.test_run(TestRunOptions {
                data_in: Some(&frame),
                ..TestRunOptions::default()
            })?;
            ensure!(
                SENT.contains(&result.return_value),
                "verdict {}",
                result.return_value
            );
            if made % every == 0 {
                watch.send((made, began)).context("the observer")?;
            }
            made += 1;
        }
        thread::sleep(LOOK);
    }
    Ok((made, start.elapsed()))
}

/// Waits for watched flows; how long each took, and how many never came.
fn observe(
    maps: &Maps,
    watched: &Receiver<(u32, Instant)>,
    stop: &AtomicBool,
) -> Result<(Histogram<u64>, u32)> {
    let mut lag = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let (mut waiting, mut missing) = (VecDeque::new(), 0);
    loop {
        waiting.extend(watched.try_iter());
        let mut still = VecDeque::new();
        for (number, began) in waiting.drain(..) {
            if maps.entry(Table::Replicas, &key(number))?.is_some() {
                lag.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            } else if began.elapsed() > LOST {
                missing += 1;
            } else {
                still.push_back((number, began));
            }
        }
        waiting = still;
        if waiting.is_empty() && stop.load(Ordering::Relaxed) {
            return Ok((lag, missing));
        }
        thread::sleep(LOOK);
    }
}
