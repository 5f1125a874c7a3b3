//! `bench sync`: flow replication between two nodes on this machine: their own programs and maps, QUIC over loopback.
//!
//! A flow's lag is the time from the packet, which a run of the program gets, to the replica in the other node's map. What
//! a core could do is what the peers' thread of each node did, by its time on a CPU and that of the thread that reads tables for it; loopback makes the sender's thread do a part
//! of the kernel's work for the receiver, so both figures are low rather than high.

mod cpu;
mod load;
mod node;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_userspace::ctl::out;
use lb_userspace::dataplane::flows::Table;
use lb_userspace::sync::Status;
use serde::Serialize;

use super::kernel;
use crate::wait::Interrupt;
use node::{Node, Site};

/// Records per second, new flows each.
pub const RATES: [u32; 3] = [1_000, 50_000, 200_000];
/// The rate that has goals.
const JUDGED: u32 = 50_000;
/// Flows of a node that another one joins.
pub const JOIN: u32 = 1_000_000;
/// Room for own flows, at least: the default. There is twice as much for replicas.
const ROOM: u32 = lb_common::abi::FLOWS;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// At each rate.
    pub time: Duration,
    /// Flows of the node that is joined.
    pub join: u32,
}

/// Room for so many flows, of which none ends.
fn room(flows: u32) -> u32 {
    flows.max(ROOM).next_power_of_two()
}

/// All results.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel: String,
    /// By rate.
    pub rates: Vec<Rate>,
    /// Milliseconds at 50,000 records per second, the median.
    pub lag_p50_ms_at_50k: f64,
    /// The same, all but one in a hundred.
    pub lag_p99_ms_at_50k: f64,
    /// What one core of the slower side could do, by the highest rate.
    pub max_records_per_s: f64,
    /// Share of one CPU at 50,000 records per second, sender and receiver.
    pub cpu_at_50k: [f64; 2],
    /// A node joins another one with so many flows.
    pub join: Join,
    /// Seconds for a million flows.
    pub join_1m_s: f64,
    /// Of a new IPv4 flow, before encryption.
    pub bytes_per_record: f64,
}

/// One rate.
#[derive(Clone, Debug, Serialize)]
pub struct Rate {
    /// Records per second that were wanted,
    pub wanted: u32,
    /// and made.
    pub made: f64,
    /// From the packet to the other node's map, milliseconds: the median.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Flows that were watched, and never came.
    pub missing: u32,
    /// Events that found the ring buffer full.
    pub lost: u64,
    /// Share of one CPU of each peers' thread: sender, receiver.
    pub cpu: [f64; 2],
    /// Records for each second of those.
    pub per_core: [f64; 2],
}

/// A node joins.
#[derive(Clone, Debug, Serialize)]
pub struct Join {
    /// Flows of the other node.
    pub flows: u32,
    /// From the first packet of the session to the last entry.
    pub seconds: f64,
    /// Flows for each second on a CPU: sender, receiver.
    pub per_core: [f64; 2],
    /// Of a confirmed IPv4 flow, before encryption.
    pub bytes_per_record: f64,
}

/// Measures.
///
/// # Errors
/// Without root, where the nodes don't find together, and when it is interrupted.
pub fn measure(effort: Effort, interrupt: &Interrupt, mut begin: impl FnMut(&str)) -> Result<Report> {
    begin("a join");
    let join = measure_join(effort.join, room(effort.join))?;
    let (mut rates, mut bytes_per_record) = (Vec::new(), 0.0);
    for wanted in RATES {
        interrupt.check()?;
        begin(&format!("{wanted} records per second"));
        let (rate, bytes) = measure_rate(wanted, effort.time)?;
        rates.push(rate);
        bytes_per_record = bytes;
    }
    let judged = rates
        .iter()
        .find(|rate| rate.wanted == JUDGED)
        .context("it is one of them")?;
    let last = rates.last().context("there are rates")?;
    Ok(Report {
        kernel: kernel()?,
        lag_p50_ms_at_50k: judged.p50_ms,
        lag_p99_ms_at_50k: judged.p99_ms,
        cpu_at_50k: judged.cpu,
        max_records_per_s: last.per_core[0].min(last.per_core[1]),
        join_1m_s: round(join.seconds * f64::from(JOIN) / f64::from(join.flows)),
        join,
        bytes_per_record,
        rates,
    })
}

/// What is known of a peer, when that is not older than the end of a load.
fn status(node: &mut Node, peer: usize) -> Result<Status> {
    std::thread::sleep(Duration::from_millis(1500));
    let report = node.report()?;
    report.peers.get(peer).cloned().context("no such peer")
}

fn pair(room: u32) -> Result<(Site, Node, Node)> {
    Ok((Site::new()?, Node::new(0, room)?, Node::new(1, room)?))
}

fn measure_join(flows: u32, room: u32) -> Result<Join> {
    let (site, mut a, mut b) = pair(room)?;
    a.fill(flows)?;
    a.start(&site)?;
    // What the first look at an own table costs is no part of a join.
    std::thread::sleep(Duration::from_millis(1500));
    let (start, before) = (Instant::now(), a.cpu()?);
    b.start(&site)?;
    b.await_synced()?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = [a.cpu()?.saturating_sub(before), b.cpu()?];
    let there = b.maps.occupied(Table::Replicas)?;
    ensure!(there == flows, "{there} of {flows} flows arrived");
    let sent = status(&mut a, 1)?.sent;
    Ok(Join {
        flows,
        seconds: round(seconds),
        per_core: cpu.map(|cpu| (f64::from(flows) / cpu.as_secs_f64()).round()),
        bytes_per_record: round(sent.bytes as f64 / sent.records as f64),
    })
}

/// A rate, and the bytes of a record.
fn measure_rate(wanted: u32, time: Duration) -> Result<(Rate, f64)> {
    let (site, mut a, mut b) = pair(room((f64::from(wanted) * time.as_secs_f64()) as u32))?;
    a.start(&site)?;
    b.start(&site)?;
    a.await_synced()?;
    b.await_synced()?;
    let (lost, start) = (a.maps.lost_events()?.packets, [a.cpu()?, b.cpu()?]);
    let began = Instant::now();
    let made = load::run(&a.program()?, &b.open()?, wanted, time)?;
    let over = began.elapsed().as_secs_f64();
    let cpu = [a.cpu()? - start[0], b.cpu()? - start[1]].map(|cpu| cpu.as_secs_f64());
    let ms = |share: f64| round(made.lag.value_at_quantile(share) as f64 / 1000.0);
    let rate = Rate {
        wanted,
        made: (f64::from(made.flows) / made.took.as_secs_f64()).round(),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        max_ms: ms(1.0),
        missing: made.missing,
        lost: a.maps.lost_events()?.packets - lost,
        cpu: cpu.map(|cpu| round(cpu / over)),
        per_core: cpu.map(|cpu| (f64::from(made.flows) / cpu).round()),
    };
    let sent = status(&mut a, 1)?.sent;
    Ok((rate, round(sent.bytes as f64 / sent.records as f64)))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let rows = self.rates.iter().map(|rate| {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            let thousands = |count: f64| format!("{:.0} k", count / 1000.0);
            [
                rate.wanted.to_string(),
                format!("{:.0}", rate.made),
                format!("{:.2}", rate.p50_ms),
                format!("{:.2}", rate.p99_ms),
                format!("{:.2}", rate.max_ms),
                rate.missing.to_string(),
                rate.lost.to_string(),
                percent(rate.cpu[0]),
                percent(rate.cpu[1]),
                thousands(rate.per_core[0]),
                thousands(rate.per_core[1]),
            ]
        });
        let columns = [
            ">WANTED/S",
            ">MADE/S",
            ">P50 MS",
            ">P99",
            ">MAX",
            ">MISSING",
            ">LOST",
            ">CPU SENDER",
            ">RECEIVER",
            ">PER CORE SENDER",
            ">RECEIVER",
        ];
        let join = &self.join;
        format!(
            "{}\n\nA record of a new IPv4 flow has {:.1} bytes. A join with {} flows takes {:.2} s: {:.0} k and {:.0} k flows \
             per second and core, {:.1} bytes each.",
            out::table(columns, rows),
            self.bytes_per_record,
            join.flows,
            join.seconds,
            join.per_core[0] / 1000.0,
            join.per_core[1] / 1000.0,
            join.bytes_per_record,
        )
    }
}
