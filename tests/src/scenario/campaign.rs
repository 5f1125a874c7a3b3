//! Several trials with their controls, and the verdict.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::crowd::Crowd;
use super::group::Guards;
use super::trial::{Event, Trial, Try};
use crate::demo::{aligned, table};
use crate::error::LabError;
use crate::host::Spread;
use crate::wait::Interrupt;

/// Milliseconds from the change's begin to a node's death.
pub const OFFSETS: [i64; 6] = [-100, 0, 5, 50, 500, 5000];
/// How long peers are apart in the whole scenario.
pub const APART: Duration = Duration::from_secs(30);

/// Trials with everything on, and controls.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// For people.
    pub name: &'static str,
    /// Nothing may break here.
    pub tries: Vec<Try>,
    /// Something has to break in one of these at least.
    pub controls: Vec<Try>,
}

/// What came of a campaign.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The scenario.
    pub scenario: &'static str,
    /// TCP connections of all trials with everything on.
    pub connections: u64,
    /// Those that ended before they were told to, or never got an answer.
    pub broken: u64,
    /// Those on which another backend answered.
    pub moved: u64,
    /// HTTP requests that failed.
    pub requests_failed: u64,
    /// The longest time in which a probe of a datagram a millisecond got no answer.
    pub longest_gap_ms: f64,
    /// TCP connections of all controls.
    pub control_connections: u64,
    /// Those that broke.
    pub control_broken: u64,
    /// Each trial with everything on.
    pub trials: Vec<Trial>,
    /// Each control.
    pub controls: Vec<Trial>,
    /// What is not as it has to be; empty for a good campaign.
    pub problems: Vec<String>,
}

impl Campaign {
    /// A death at two moments, and a control: about a minute.
    pub fn death(connections: u32) -> Self {
        let base = base(Event::Death(5), connections, Spread::Resilient);
        // The first is before COMMIT, the second after it.
        let later = Try {
            event: Event::Death(5000),
            spread: Spread::Threshold,
            ..base
        };
        Self {
            name: "node-death",
            tries: vec![base, later],
            controls: vec![alone(later, connections)],
        }
    }

    /// All moments and both algorithms, `runs` times each, and every control, with fewer connections: they show that something
    /// breaks.
    pub fn death_matrix(connections: u32, runs: usize) -> Self {
        let each = |guards, connections| {
            let spreads = [Spread::Resilient, Spread::Threshold];
            spreads.into_iter().flat_map(move |spread| {
                OFFSETS.map(|offset| Try {
                    guards,
                    ..base(Event::Death(offset), connections, spread)
                })
            })
        };
        let control = |guards| each(guards, connections.min(2000));
        Self {
            name: "node-death",
            tries: (0..runs).flat_map(|_| each(Guards::ALL, connections)).collect(),
            controls: Guards::CONTROLS.into_iter().flat_map(control).collect(),
        }
    }

    /// Peers are out of reach for so long while an operator changes something.
    pub fn partition(connections: u32, apart: Duration) -> Self {
        let given = base(Event::Partition(apart), connections, Spread::Resilient);
        Self {
            name: "partition",
            tries: vec![given],
            controls: vec![alone(given, connections)],
        }
    }

    /// All agents, then all nodes restart.
    pub fn rolling(connections: u32) -> Self {
        let given = base(Event::Rolling, connections, Spread::Resilient);
        Self {
            name: "rolling-restart",
            tries: vec![given],
            controls: vec![alone(given, connections)],
        }
    }

    /// A node joins while slots are tracked. The control's node makes its ring of its configuration alone.
    pub fn join(connections: u32) -> Self {
        let given = base(Event::Join, connections, Spread::Resilient);
        Self {
            name: "add-node",
            tries: vec![given],
            controls: vec![alone(given, connections)],
        }
    }

    /// The trials with these guards instead, and no controls.
    #[must_use]
    pub fn with(mut self, guards: Guards) -> Self {
        self.tries.iter_mut().for_each(|given| given.guards = guards);
        self.controls.clear();
        self
    }

    /// Runs all of it, controls first; `progress` hears in words what goes on. Where it is interrupted, what came of it until then
    /// is told, as no good campaign.
    pub fn run(&self, interrupt: &Interrupt, mut progress: impl FnMut(&str)) -> Result<Findings, LabError> {
        let all = self.tries.len() + self.controls.len();
        let mut trials = Vec::new();
        for (nth, given) in self.controls.iter().chain(&self.tries).enumerate() {
            let (event, guards) = (given.event.label(), given.guards.label());
            progress(&format!(
                "{} of {all}: {event}, {guards}, {:?}",
                nth + 1,
                given.spread
            ));
            let trial = match given.run(interrupt) {
                Err(LabError::Interrupted) if !trials.is_empty() => break,
                result => result?,
            };
            let outcome = &trial.outcome;
            progress(&format!(
                "{} of {all}: {} of {} connections broke, {} moved, gap {:.0} ms",
                nth + 1,
                outcome.broken,
                outcome.connections,
                outcome.moved,
                outcome.longest_gap_ms
            ));
            trials.push(trial);
        }
        let done = trials.len();
        let tries = trials.split_off(self.controls.len().min(done));
        let mut findings = Findings::new(self.name, tries, trials);
        if done < all {
            findings
                .problems
                .push(format!("interrupted after {done} of {all}"));
        }
        Ok(findings)
    }
}

fn base(event: Event, connections: u32, spread: Spread) -> Try {
    Try {
        event,
        guards: Guards::ALL,
        spread,
        crowd: Crowd::of(connections),
    }
}

fn alone(given: Try, connections: u32) -> Try {
    Try {
        guards: Guards::ALONE,
        crowd: Crowd::of(connections.min(1000)),
        ..given
    }
}

impl Findings {
    fn new(scenario: &'static str, trials: Vec<Trial>, controls: Vec<Trial>) -> Self {
        let sum = |of: &[Trial], what: fn(&Trial) -> u64| -> u64 { of.iter().map(what).sum() };
        let mut problems = Vec::new();
        for trial in &trials {
            let found = trial.problems().into_iter();
            problems.extend(found.map(|problem| format!("{}: {problem}", trial.event)));
        }
        let control_broken = sum(&controls, |t| t.outcome.broken);
        if control_broken == 0 {
            problems.push("nothing broke in any control: the run proves nothing".to_owned());
        }
        let gaps = trials.iter().map(|t| t.outcome.longest_gap_ms);
        Self {
            scenario,
            connections: sum(&trials, |t| t.outcome.connections),
            broken: sum(&trials, |t| t.outcome.broken),
            moved: sum(&trials, |t| t.outcome.moved),
            requests_failed: sum(&trials, |t| t.outcome.requests_failed),
            longest_gap_ms: gaps.fold(0.0, f64::max),
            control_connections: sum(&controls, |t| t.outcome.connections),
            control_broken,
            trials,
            controls,
            problems,
        }
    }

    /// Datagrams that were lost with everything on: nobody sends those again that went to a dead node.
    pub fn datagrams_lost(&self) -> u64 {
        self.trials.iter().map(|trial| trial.outcome.datagrams_lost).sum()
    }

    /// The first few failures with everything on, in words.
    pub fn errors(&self) -> impl Iterator<Item = &String> {
        self.trials.iter().flat_map(|trial| &trial.outcome.errors)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut table = table(&HEADER);
        for trial in self.trials.iter().chain(&self.controls) {
            table.add_row(cells(trial));
        }
        aligned(table)
    }

    /// A table for documents: equal trials in one row, with the worst of each figure and the sum of counts.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "| {} | runs |\n|{}\n",
            HEADER.join(" | "),
            "---|".repeat(HEADER.len() + 1)
        );
        let mut rows: Vec<(Trial, usize)> = Vec::new();
        for trial in self.trials.iter().chain(&self.controls) {
            let same = |(row, _): &&mut (Trial, usize)| {
                (&row.event, &row.guards, row.spread) == (&trial.event, &trial.guards, trial.spread)
            };
            match rows.iter_mut().find(same) {
                Some((row, runs)) => {
                    row.add(trial);
                    *runs += 1;
                }
                None => rows.push((trial.clone(), 1)),
            }
        }
        for (row, runs) in rows {
            let _ = writeln!(text, "| {} | {runs} |", cells(&row).join(" | "));
        }
        text
    }
}

const HEADER: [&str; 10] = [
    "event",
    "guards",
    "router",
    "connections",
    "broken",
    "moved",
    "requests failed",
    "router moved after ms",
    "probe's gap ms",
    "changed after ms",
];

fn cells(trial: &Trial) -> [String; 10] {
    let outcome = &trial.outcome;
    let moved = trial
        .moved_after_ms
        .map_or_else(|| "-".to_owned(), |ms| ms.to_string());
    [
        trial.event.clone(),
        trial.guards.clone(),
        format!("{:?}", trial.spread).to_lowercase(),
        outcome.connections.to_string(),
        outcome.broken.to_string(),
        outcome.moved.to_string(),
        outcome.requests_failed.to_string(),
        moved,
        format!("{:.0}", outcome.longest_gap_ms),
        trial.changed_after_ms.to_string(),
    ]
}

impl Trial {
    /// Another run of the same: counts add up, of times the longest counts.
    fn add(&mut self, other: &Self) {
        self.moved_after_ms = self.moved_after_ms.max(other.moved_after_ms);
        self.joined_after_ms = self.joined_after_ms.max(other.joined_after_ms);
        self.changed_after_ms = self.changed_after_ms.max(other.changed_after_ms);
        let (own, other) = (&mut self.outcome, &other.outcome);
        own.connections += other.connections;
        own.broken += other.broken;
        own.moved += other.moved;
        own.requests += other.requests;
        own.requests_failed += other.requests_failed;
        own.longest_gap_ms = own.longest_gap_ms.max(other.longest_gap_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Outcome;

    fn trial(event: Event, broken: u64, gap: f64) -> Trial {
        Trial {
            event: event.label(),
            offset_ms: None,
            spread: Spread::Resilient,
            guards: Guards::ALL.label(),
            moved_after_ms: Some(31),
            changed_after_ms: 20,
            early: false,
            joined_after_ms: None,
            outcome: Outcome {
                connections: 100,
                flows: 10,
                broken,
                longest_gap_ms: gap,
                ..Outcome::default()
            },
        }
    }

    #[test]
    fn only_a_control_that_breaks_makes_a_campaign_good() {
        let event = Event::Death(5);
        let good = Findings::new("x", vec![trial(event, 0, 40.0)], vec![trial(event, 7, 0.0)]);
        assert_eq!((good.problems.len(), good.control_broken), (0, 7));
        let nothing = Findings::new("x", vec![trial(event, 0, 40.0)], vec![trial(event, 0, 0.0)]);
        assert_eq!(nothing.problems.len(), 1);
        let broken = Findings::new("x", vec![trial(event, 1, 40.0)], vec![trial(event, 7, 0.0)]);
        assert_eq!(broken.problems, ["death at +5 ms: 1 connections broke"]);
        let early = Trial {
            early: true,
            ..trial(Event::Partition(APART), 0, 40.0)
        };
        let early = Findings::new("x", vec![early], vec![trial(event, 7, 0.0)]);
        assert_eq!(early.problems.len(), 1, "{:?}", early.problems);
    }

    #[test]
    fn runs_of_the_same_are_one_row() {
        let (a, b) = (Event::Death(5), Event::Death(-100));
        let trials = vec![trial(a, 0, 40.0), trial(a, 2, 30.0), trial(b, 0, 20.0)];
        let markdown = Findings::new("x", trials, Vec::new()).markdown();
        let rows: Vec<&str> = markdown.lines().skip(2).collect();
        assert_eq!(rows.len(), 2, "{markdown}");
        assert!(
            rows[0].contains("| 200 | 2 |") && rows[0].ends_with("| 2 |"),
            "{markdown}"
        );
    }

    #[test]
    fn the_matrix_is_whole() {
        let matrix = Campaign::death_matrix(20_000, 5);
        assert_eq!(matrix.tries.len(), 6 * 5 * 2);
        assert_eq!(matrix.controls.len(), Guards::CONTROLS.len() * 12);
    }
}
