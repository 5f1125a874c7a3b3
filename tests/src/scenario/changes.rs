//! Drain, add, weigh, remove, put back, over and over: nothing may break.

use std::time::{Duration, Instant};

use super::fleet::{Fleet, Step};
use super::summary::{Part, Summary, Told};
use super::tracked::{self, Sampler};
use super::work::{Traffic, Work};
use crate::error::LabError;
use crate::lab::{Lab, LabBuilder};
use crate::node_config::NodeConfig;
use crate::topo::Topology;
use crate::wait::Interrupt;

/// Configured at first; a round drains the second, third or fourth of them.
const AT_FIRST: usize = 4;
/// Joining in each round.
const JOIN: usize = 2;
/// The share of tracked slots that counts as none (percent).
const FEW: f64 = 1.0;

/// How much is changed, under how much load.
#[derive(Clone, Copy, Debug)]
pub struct Changes {
    /// The load.
    pub work: Work,
    /// Rounds of drain, add two, weigh, remove, put back.
    pub rounds: usize,
    /// From one change to the next: far less than the idle timeout, so that they overlap.
    pub pause: Duration,
    /// Of every VIP, in seconds. Longer than `work.every`, as the promise is for connections that are not silent.
    pub idle_timeout: u32,
    /// Nodes.
    pub nodes: usize,
}

impl Changes {
    /// About a minute: three rounds with a change every two seconds.
    pub fn short(connections: u32, nodes: usize) -> Self {
        // No more than about 1,500 lines a second, and no silence of an idle timeout.
        let every = Duration::from_secs(u64::from(connections / 1500).clamp(4, 7));
        Self {
            work: Work {
                connections,
                every,
                new_per_second: 500,
                flows: 100,
            },
            rounds: 3,
            pause: Duration::from_secs(2),
            idle_timeout: 10,
            nodes,
        }
    }

    /// Ten minutes: idle timeout of a minute, a change every ten seconds.
    pub fn long(connections: u32, nodes: usize) -> Self {
        let mut long = Self::short(connections, nodes);
        long.work.every = Duration::from_secs(8);
        long.pause = Duration::from_secs(10);
        long.idle_timeout = 60;
        long
    }

    /// One round in a few seconds under less load: enough to break what isn't tracked.
    #[must_use]
    pub fn control(&self) -> Self {
        let mut control = *self;
        control.work.connections = self.work.connections.min(300);
        control.work.every = Duration::from_secs(1);
        control.rounds = 1;
        control.pause = Duration::from_secs(1);
        control
    }

    /// The changes in order.
    pub fn steps(&self) -> Vec<Step> {
        (0..self.rounds).flat_map(round).collect()
    }

    fn backends(&self) -> usize {
        AT_FIRST + JOIN * self.rounds
    }

    /// The lab for it, and the fleet as it is at first.
    pub fn lab(&self, name: &str, tracking: &'static str) -> (LabBuilder, Fleet) {
        let weights = vec![1; self.backends()];
        let topology = Topology::star(self.nodes, &weights);
        let full = (0..self.nodes).map(|index| {
            let mut config = NodeConfig::of(&topology, index);
            config.track(tracking, self.idle_timeout);
            config
        });
        let fleet = Fleet::new(full.collect(), AT_FIRST);
        let first = (0..self.nodes).map(|index| fleet.config(index)).collect();
        let builder = Lab::builder(name)
            .nodes(self.nodes)
            .weights(&weights)
            .configs(first);
        (builder, fleet)
    }
}

fn round(nth: usize) -> [Step; 5] {
    let out = Topology::backend_name(1 + nth % (AT_FIRST - 1));
    let joining = (0..JOIN).map(|j| Topology::backend_name(AT_FIRST + JOIN * nth + j));
    let odd = nth.is_multiple_of(2);
    let weights = [
        (Topology::backend_name(0), if odd { 3 } else { 1 }),
        (
            Topology::backend_name(AT_FIRST + JOIN * nth),
            if odd { 2 } else { 3 },
        ),
    ];
    [
        Step::Drain(out.clone()),
        Step::Add(joining.collect()),
        Step::Reweigh(weights.into()),
        Step::Remove(out.clone()),
        Step::Return(out),
    ]
}

/// Makes the changes with tracking, then fewer without: the control, which has to break.
/// `progress` hears in words what goes on.
pub fn run(
    changes: &Changes,
    interrupt: &Interrupt,
    mut progress: impl FnMut(&str),
) -> Result<Summary, LabError> {
    progress("with tracking");
    let tracked = part(changes, "on-change", true, interrupt, &mut progress)?;
    progress("control: without tracking");
    let control = part(&changes.control(), "off", false, interrupt, &mut progress)?;
    Ok(Summary::new(&tracked, &control))
}

fn part(
    changes: &Changes,
    tracking: &'static str,
    settle: bool,
    interrupt: &Interrupt,
    progress: &mut impl FnMut(&str),
) -> Result<Part, LabError> {
    let (builder, fleet) = changes.lab("changes", tracking);
    let mut lab = builder.interrupt(interrupt).build()?;
    let part = in_lab(changes, &mut lab, fleet, settle, interrupt, progress);
    // What the control breaks needs no explanation.
    let good = match &part {
        Ok(part) => !settle || part.held.failed() == 0,
        Err(error) => matches!(error, LabError::Interrupted),
    };
    if !good {
        lab.save_diagnosis();
    }
    part
}

fn in_lab(
    changes: &Changes,
    lab: &mut Lab,
    mut fleet: Fleet,
    settle: bool,
    interrupt: &Interrupt,
    progress: &mut impl FnMut(&str),
) -> Result<Part, LabError> {
    let traffic = changes.work.start(lab)?;
    let sampler = Sampler::start(lab.nodes());
    let start = Instant::now();
    let mut told = Vec::new();
    for (nth, step) in (1..).zip(changes.steps()) {
        interrupt.sleep_until(start + changes.pause * nth);
        interrupt.check()?;
        progress(&format!("{step} ({} broken so far)", traffic.broken().0));
        fleet.make(lab, &step)?;
        told.push(Told {
            t_s: (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            what: step.to_string(),
        });
    }
    // Every connection has its say after the last change.
    interrupt.sleep_until(Instant::now() + changes.work.every + Duration::from_secs(1));
    interrupt.check()?;
    let Traffic { held, new } = traffic;
    let held = held.stop()?;
    let ended = Instant::now();
    let seconds = start.elapsed().as_secs_f64();
    let mut settled_s = None;
    if settle {
        progress("the long connections have ended; waiting for two idle timeouts");
        let end = ended + Duration::from_secs(2 * u64::from(changes.idle_timeout));
        while settled_s.is_none() && Instant::now() < end && !interrupt.raised() {
            interrupt.sleep_until(Instant::now() + Duration::from_millis(500));
            if tracked_share(lab)? < FEW {
                settled_s = Some(ended.elapsed().as_secs_f64());
            }
        }
    }
    let new = new.stop()?;
    Ok(Part {
        held,
        new,
        steps: told,
        tracked: sampler.stop()?,
        seconds,
        settled_s,
        last_percent: tracked_share(lab)?,
    })
}

fn tracked_share(lab: &Lab) -> Result<f64, LabError> {
    lab.nodes()
        .iter()
        .try_fold(0.0, |most: f64, node| Ok(most.max(tracked::share(node)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_changes_everything_once_and_ends_with_all_back() {
        let changes = Changes::short(10, 1);
        let steps = changes.steps();
        assert_eq!(steps.len(), 15);
        assert_eq!(steps[5].to_string(), "drain be3");
        assert_eq!(steps[6].to_string(), "add be7 and be8");
        assert_eq!(steps[7].to_string(), "weight of be1 to 1, of be7 to 3");
        assert_eq!(steps[14].to_string(), "put be4 back");
        assert_eq!(changes.backends(), 10);
        assert!(changes.work.every < Duration::from_secs(changes.idle_timeout.into()));
    }
}
