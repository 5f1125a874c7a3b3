//! Many clients: more connections than one process can have open, new ones all the time, and a probe that looks for gaps.

use std::time::Duration;

use serde::Serialize;

use crate::error::LabError;
use crate::host::Node;
use crate::lab::Lab;
use crate::topo::{CLIENT_ADDRESSES, Family};
use crate::traffic::{Held, Job, Kind, Load, Pace, Plan, Report};
use crate::wait;

/// Connections of a process: files are limited to 20,000.
const PER_PROCESS: u32 = 15_000;
/// A connection that gets no answer for so long has failed; as in [`super::Work`].
const PATIENCE: Duration = Duration::from_secs(10);
const OPENS_WITHIN: Duration = Duration::from_secs(120);
/// From one datagram of the probe to the next.
const BEAT: Duration = Duration::from_millis(1);
/// Which node carries the probe shows in so many packets.
const PROBE_SHOWS: u64 = 100;
const PROBE_SHOWS_WITHIN: Duration = Duration::from_secs(10);
/// Of connections that come and go.
const CHURN_EVERY: Duration = Duration::from_secs(1);

/// How much; all of it but the probe half over IPv4 and half over IPv6.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Crowd {
    /// Long-lived TCP connections.
    pub connections: u32,
    /// From one line to the next of each.
    pub every: Duration,
    /// New connections a second that live for [`Crowd::lives`], with a line a second.
    pub new_per_second: u32,
    /// See there.
    pub lives: Duration,
    /// HTTP requests a second, each over a connection of its own.
    pub requests_per_second: u32,
    /// UDP flows with a datagram a second.
    pub flows: u32,
}

/// The probe alone.
#[derive(Debug)]
pub struct Probe {
    load: Load,
    /// The node that carries it.
    pub node: usize,
}

/// All of it.
#[derive(Debug)]
pub struct Running {
    probe: Probe,
    held: Vec<Load>,
    new: Vec<Load>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// TCP connections that were opened or tried, the short-lived ones too.
    pub connections: u64,
    /// Those that ended before they were told to, or never got an answer.
    pub broken: u64,
    /// Those on which another backend answered.
    pub moved: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Those that failed.
    pub requests_failed: u64,
    /// UDP flows.
    pub flows: u64,
    /// Answers to them from another backend than before: tracking does its best, no more.
    pub flows_moved: u64,
    /// Datagrams without an answer, those of the probe left out.
    pub datagrams_lost: u64,
    /// The longest time in which the probe of a datagram a millisecond, whose node dies, got no answer.
    pub longest_gap_ms: f64,
    /// The longest time from a line to its answer: a line that is lost is sent again after 200 ms or more.
    pub longest_line_ms: f64,
    /// The first few failures in words.
    pub errors: Vec<String>,
}

impl Crowd {
    /// With so many long-lived connections; lines come no faster than the machine can take beside all else.
    pub fn of(connections: u32) -> Self {
        Self {
            connections,
            every: Duration::from_millis(u64::from(connections) * 1000 / 2500)
                .clamp(Duration::from_secs(1), Duration::from_secs(20)),
            new_per_second: 500,
            lives: Duration::from_secs(6),
            requests_per_second: 100,
            flows: 100,
        }
    }

    /// Starts the rest beside the probe, and waits until all long-lived connections have had their first answer.
    pub fn start(&self, lab: &Lab, probe: Probe) -> Result<Running, LabError> {
        let mut client = Clients { lab, next: 0 };
        let mut held = Vec::new();
        let mut left = self.connections;
        while left > 0 {
            let own = left.min(PER_PROCESS);
            left -= own;
            let lines = split(own).map(|(family, n)| Job::lines(family, n, self.every));
            held.push((client.load(lines)?, own));
        }
        let second = Duration::from_secs(1);
        let flows = split(self.flows).map(|(family, n)| Job::flows(family, n, second));
        held.push((client.load(flows)?, self.flows));
        for (load, own) in &mut held {
            load.wait_held((*own).into(), OPENS_WITHIN)?;
        }
        let churn =
            split(self.new_per_second).map(|(family, n)| Job::churn(family, n, CHURN_EVERY, self.lives));
        let http = split(self.requests_per_second)
            .map(|(family, per_second)| Job::http(family, Pace::Rate { per_second }));
        let new = vec![client.load(churn)?, client.load(http)?];
        Ok(Running {
            probe,
            held: held.into_iter().map(|(load, _)| load).collect(),
            new,
        })
    }
}

impl Probe {
    /// Starts it while nothing else is sent, and sees which node it reaches.
    pub fn start(lab: &Lab) -> Result<Self, LabError> {
        // A node without power has no counters.
        let of = |node: &Node| node.pid().map_or(Ok(0), |_| node.packets());
        let packets = || -> Result<Vec<u64>, LabError> { lab.nodes().iter().map(of).collect() };
        let before = packets()?;
        let load = lab.client().load(vec![Job::beat(Family::V4, BEAT)])?;
        let mut node = None;
        wait::until_ok(PROBE_SHOWS_WITHIN, "the probe's way", || {
            let now = packets()?;
            node = now
                .iter()
                .zip(&before)
                .position(|(now, before)| now - before > PROBE_SHOWS);
            Ok(node.is_some())
        })?;
        let node = node.expect("the wait ends with one");
        Ok(Self { load, node })
    }
}

impl Running {
    /// The node that carries the probe.
    pub fn probed(&self) -> usize {
        self.probe.node
    }

    /// Broken and moved connections up to a moment ago.
    pub fn broken(&self) -> (u64, u64) {
        let held = self
            .held
            .iter()
            .chain(&self.new)
            .map(|load| load.latest().held(Kind::Lines));
        held.fold((0, 0), |sum, held| (sum.0 + held.broken, sum.1 + held.moved))
    }

    /// Ends everything.
    pub fn stop(self) -> Result<Outcome, LabError> {
        let loads = [self.probe.load].into_iter().chain(self.held).chain(self.new);
        let mut loads: Vec<Load> = loads.collect();
        loads.iter_mut().for_each(Load::end);
        let reports = loads.into_iter().map(Load::stop).collect::<Result<Vec<_>, _>>()?;
        Ok(Outcome::of(&reports[0], &reports[1..]))
    }
}

impl Outcome {
    fn of(probe: &Report, others: &[Report]) -> Self {
        let jobs = || others.iter().flat_map(|report| &report.jobs);
        let of = |kind| jobs().filter(move |job| job.kind == kind);
        let held = |kind| -> Vec<Held> { others.iter().map(|report| report.held(kind)).collect() };
        let (lines, flows) = (held(Kind::Lines), held(Kind::Udp));
        let gap = probe.jobs.iter().map(|job| job.gap_us).max().unwrap_or(0);
        let line = of(Kind::Lines).map(|job| job.latency.max_us).max().unwrap_or(0);
        Self {
            connections: lines.iter().map(|held| held.opened + held.unopened).sum(),
            broken: lines.iter().map(|held| held.broken + held.unopened).sum(),
            moved: lines.iter().map(|held| held.moved).sum(),
            requests: of(Kind::Http).map(|job| job.requests).sum(),
            requests_failed: of(Kind::Http).map(|job| job.failed.total()).sum(),
            flows: flows.iter().map(|held| held.opened).sum(),
            flows_moved: flows.iter().map(|held| held.moved).sum(),
            datagrams_lost: of(Kind::Udp).map(|job| job.failed.total()).sum(),
            longest_gap_ms: ms(gap),
            longest_line_ms: ms(line),
            errors: others.iter().flat_map(Report::errors).collect(),
        }
    }

    /// What must not be, in words.
    pub fn problems(&self) -> Vec<String> {
        let counts = [
            (self.broken, "connections broke"),
            (self.moved, "connections moved"),
            (self.requests_failed, "requests failed"),
        ];
        let found = counts.iter().filter(|(count, _)| *count > 0);
        found.map(|(count, what)| format!("{count} {what}")).collect()
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds of a lab are far below 2^52"
)]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn split(n: u32) -> impl Iterator<Item = (Family, u32)> {
    Family::BOTH.into_iter().zip([n.div_ceil(2), n / 2])
}

/// Gives each process addresses of its own, so that it has all source ports.
struct Clients<'a> {
    lab: &'a Lab,
    next: u8,
}

impl Clients<'_> {
    fn load(&mut self, jobs: impl Iterator<Item = Job>) -> Result<Load, LabError> {
        let nth = self.next % CLIENT_ADDRESSES;
        self.next += 1;
        let topology = self.lab.topology();
        let from = |job: Job| {
            let address = topology.client_address(nth, Family::of(job.to.ip()));
            job.from(address)
        };
        let client = self.lab.client();
        let plan = Plan {
            timeout: PATIENCE,
            ..client.plan(jobs.map(from).collect())
        };
        Load::start(client.namespace(), &plan)
    }
}
