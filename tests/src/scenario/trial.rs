//! One lab with one event under load, and what came of it.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::crowd::{Crowd, Outcome, Probe, Running};
use super::group::{self as operator, Guards, Operator, Setting};
use crate::error::LabError;
use crate::host::Spread;
use crate::lab::Lab;
use crate::wait::{Interrupt, until_ok};

/// What a router's BFD of 3 × 10 ms takes to notice a death.
const DETECTION: Duration = Duration::from_millis(30);
/// From the connections' standing to the first event.
const CALM: Duration = Duration::from_secs(1);
/// Files are written and programs that do the rest have started.
const PREPARED_WITHIN: Duration = Duration::from_millis(300);
/// From the operator's first word to tracked slots.
const PREPARED: Duration = Duration::from_secs(20);
/// Routers move traffic off a dead node within this; an unoptimised build on a busy machine gets more time.
const MOVED_WITHIN_MS: u64 = if cfg!(debug_assertions) { 200 } else { 50 };
/// Each connection has a line within its period, and then some.
const SAY: Duration = Duration::from_secs(1);
/// From a change to a node that joins, restarts or is cut off.
const BETWEEN: Duration = Duration::from_secs(2);
/// Packets that were on their way when the router moved traffic off a node have left it.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// What happens beside 'drain 1, add 2 backends'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node loses its power so many milliseconds after the change began; before it, if less than 0.
    Death(i64),
    /// A node's peers are out of reach for so long, from before the change on.
    Partition(Duration),
    /// Every agent restarts, then every node goes through a loss of power that the router knows of before.
    Rolling,
    /// A further node joins while slots are tracked.
    Join,
}

/// What came of one event.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// In words.
    pub event: String,
    /// Of a death: from the change's begin to it, as it was.
    pub offset_ms: Option<i64>,
    /// The router's algorithm.
    pub spread: Spread,
    /// In words.
    pub guards: String,
    /// From the death until the router had moved the traffic; the longest of several.
    pub moved_after_ms: Option<u64>,
    /// From the change's begin until everybody had it.
    pub changed_after_ms: u64,
    /// Slots moved while a member of the group was out of reach.
    pub early: bool,
    /// From a node's power to its readiness; the longest of several.
    pub joined_after_ms: Option<u64>,
    /// The traffic's.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Event {
    /// In words.
    pub fn label(self) -> String {
        match self {
            Self::Death(offset) => format!("death at {offset:+} ms"),
            Self::Partition(time) => format!("partition for {} s", time.as_secs()),
            Self::Rolling => "rolling restart".to_owned(),
            Self::Join => "a node joins".to_owned(),
        }
    }

    /// Nodes in the lab.
    fn nodes(self) -> usize {
        match self {
            Self::Join => 4,
            _ => 3,
        }
    }
}

impl Trial {
    /// What is not as it has to be with everything on.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.outcome.problems();
        if self.early {
            problems.push("slots moved while a member was out of reach".to_owned());
        }
        if self.moved_after_ms.is_some_and(|ms| ms > MOVED_WITHIN_MS) {
            problems.push("the router took too long to move traffic off the dead node".to_owned());
        }
        if self.outcome.flows == 0 {
            problems.push("there were no UDP flows".to_owned());
        }
        problems
    }
}

/// An event to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    /// What happens.
    pub event: Event,
    /// What keeps connections from breaking.
    pub guards: Guards,
    /// The router's algorithm.
    pub spread: Spread,
    /// The load.
    pub crowd: Crowd,
}

/// What the stages of a trial have in common.
struct Stage<'a> {
    lab: &'a mut Lab,
    operator: Operator,
    crowd: Crowd,
    interrupt: &'a Interrupt,
}

/// What happened when.
#[derive(Default)]
struct Told {
    offset_ms: Option<i64>,
    moved: Option<Duration>,
    changed: Duration,
    joined: Option<Duration>,
    early: bool,
}

impl Try {
    fn setting(&self) -> Setting {
        let mut times = crate::node_config::Times::default();
        if let Event::Partition(time) = self.event {
            // A node that is only cut off still forwards, so the others must not go on without it.
            times.withdraw_after = time * 2;
        }
        // Longer than the silence of a connection.
        let seconds = self.crowd.every.as_secs() + 4;
        Setting {
            nodes: self.event.nodes(),
            guards: self.guards,
            spread: self.spread,
            idle_timeout: u32::try_from(seconds).expect("seconds").max(10),
            times,
        }
    }

    /// Makes a lab and the event in it. A diagnosis is kept where something broke with everything on.
    pub fn run(&self, interrupt: &Interrupt) -> Result<Trial, LabError> {
        let (builder, operator) = self.setting().lab("group");
        let mut lab = builder.interrupt(interrupt).build()?;
        let stage = Stage {
            lab: &mut lab,
            operator,
            crowd: self.crowd,
            interrupt,
        };
        let result = stage.play(self.event);
        let result = result.map(|(told, outcome)| self.trial(&told, outcome));
        let good = match &result {
            Ok(trial) => self.guards != Guards::ALL || trial.problems().is_empty(),
            Err(error) => matches!(error, LabError::Interrupted),
        };
        if !good {
            lab.save_diagnosis();
        }
        result
    }

    fn trial(&self, told: &Told, outcome: Outcome) -> Trial {
        let ms = |time: Duration| u64::try_from(time.as_millis()).expect("a lab doesn't last for ever");
        Trial {
            event: self.event.label(),
            offset_ms: told.offset_ms,
            spread: self.spread,
            guards: self.guards.label(),
            moved_after_ms: told.moved.map(ms),
            changed_after_ms: ms(told.changed),
            early: told.early,
            joined_after_ms: told.joined.map(ms),
            outcome,
        }
    }
}

impl Stage<'_> {
    fn play(mut self, event: Event) -> Result<(Told, Outcome), LabError> {
        let spare = (event == Event::Join).then_some(3);
        if let Some(spare) = spare {
            self.lab
                .power_loss(spare, Instant::now(), Duration::ZERO, &[0, 1, 2])?;
        }
        let probe = Probe::start(self.lab)?;
        let traffic = self.crowd.start(self.lab, probe)?;
        self.sleep(CALM)?;
        let told = match event {
            Event::Death(offset) => self.death(&traffic, offset)?,
            Event::Partition(time) => self.partition(&traffic, time)?,
            Event::Rolling => self.rolling()?,
            Event::Join => self.join(3)?,
        };
        self.sleep(self.crowd.every + SAY)?;
        // Whatever a node alone knew would break now.
        self.lab.router_mut().cross()?;
        self.sleep(self.crowd.every + SAY)?;
        Ok((told, traffic.stop()?))
    }

    fn sleep(&self, time: Duration) -> Result<(), LabError> {
        self.interrupt.sleep_until(Instant::now() + time);
        self.interrupt.check()
    }

    fn others(&self, node: usize) -> Vec<usize> {
        (0..self.lab.nodes().len()).filter(|n| *n != node).collect()
    }

    fn death(&mut self, traffic: &Running, offset: i64) -> Result<Told, LabError> {
        let victim = traffic.probed();
        let rest = self.others(victim);
        let wait = Duration::from_millis(offset.unsigned_abs());
        let (loss, change) = if offset < 0 {
            let loss = self.lab.power_loss(victim, Instant::now(), DETECTION, &rest)?;
            (
                loss,
                self.operator.drain_and_add(self.lab, &rest, loss.death + wait)?,
            )
        } else {
            // In a group the first of them is told.
            let live: Vec<usize> = rest.iter().copied().chain([victim]).collect();
            let soon = Instant::now() + PREPARED_WITHIN;
            let change = self.operator.drain_and_add(self.lab, &live, soon)?;
            let at = change.begun + wait;
            (self.lab.power_loss(victim, at, DETECTION, &rest)?, change)
        };
        let since = |later: Instant, earlier: Instant| {
            i64::try_from(later.saturating_duration_since(earlier).as_millis()).unwrap_or(i64::MAX)
        };
        let offset_ms = since(loss.death, change.begun) - since(change.begun, loss.death);
        Ok(Told {
            offset_ms: Some(offset_ms),
            moved: Some(loss.moved),
            changed: change.wait(&[victim])?,
            ..Told::default()
        })
    }

    fn partition(&mut self, traffic: &Running, time: Duration) -> Result<Told, LabError> {
        let cut = traffic.probed();
        let rest = self.others(cut);
        let live: Vec<usize> = rest.iter().copied().chain([cut]).collect();
        let change = self.operator.drain_and_add(self.lab, &live, Instant::now())?;
        // In a group that is PREPARE, a second before COMMIT.
        let first = &self.lab.nodes()[rest[0]];
        until_ok(PREPARED, "tracked slots", || operator::is_tracking(first))?;
        for other in &rest {
            self.lab.partition(cut, *other)?;
        }
        self.sleep(time)?;
        let mut early = false;
        if self.operator.is_together() {
            for node in self.lab.nodes() {
                early |= operator::has_drained(node)?;
            }
        }
        for other in &rest {
            self.lab.heal(cut, *other)?;
        }
        let changed = change.wait(&[])?;
        self.sleep(BETWEEN)?;
        Ok(Told {
            changed,
            early,
            ..Told::default()
        })
    }

    fn change(&mut self, live: &[usize]) -> Result<Told, LabError> {
        let change = self.operator.drain_and_add(self.lab, live, Instant::now())?;
        let changed = change.wait(&[])?;
        self.sleep(BETWEEN)?;
        Ok(Told {
            changed,
            ..Told::default()
        })
    }

    fn rolling(&mut self) -> Result<Told, LabError> {
        let all: Vec<usize> = (0..self.lab.nodes().len()).collect();
        let mut told = self.change(&all)?;
        for index in &all {
            let node = self.lab.node(*index);
            node.stop()?;
            node.spawn()?;
            told.joined = told.joined.max(Some(node.wait_in_service()?));
        }
        for index in &all {
            let rest = self.others(*index);
            self.lab.router().route_to(&rest)?;
            self.sleep(UNDER_WAY)?;
            self.lab
                .power_loss(*index, Instant::now(), Duration::ZERO, &rest)?;
            self.lab.power_on(*index)?;
            told.joined = told.joined.max(Some(self.lab.node(*index).wait_in_service()?));
            self.lab.router().route_to(&all)?;
            self.sleep(BETWEEN)?;
        }
        Ok(told)
    }

    fn join(&mut self, joiner: usize) -> Result<Told, LabError> {
        let rest = self.others(joiner);
        let mut told = self.change(&rest)?;
        self.lab.power_on(joiner)?;
        told.joined = Some(self.lab.node(joiner).wait_in_service()?);
        let all: Vec<usize> = (0..self.lab.nodes().len()).collect();
        self.lab.router().route_to(&all)?;
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_never_silent_for_the_idle_timeout() {
        for connections in [100, 2_000, 20_000, 100_000] {
            let given = Try {
                event: Event::Death(5),
                guards: Guards::ALL,
                spread: Spread::Resilient,
                crowd: Crowd::of(connections),
            };
            let idle = Duration::from_secs(given.setting().idle_timeout.into());
            assert!(given.crowd.every + SAY < idle, "{connections}: {idle:?}");
        }
    }
}
