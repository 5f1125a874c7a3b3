//! One backend: from answers to a phase.
//!
//! | in | on | to |
//! |---|---|---|
//! | any | `rise` good answers in a row, and not held for flapping | up |
//! | unknown, up | `fall` failures in a row, not all of them silence | draining |
//! | unknown, up, draining | `fall` silences in a row | suspect |
//! | suspect, dead | `rise` answers that refuse in a row | draining |
//! | suspect | `death_grace` without any answer | dead |
//!
//! A question that was never asked changes nothing. A suspect that answers, however, gets its whole grace anew, so
//! what answers never dies.

use std::time::Duration;

use super::flap::Penalty;
use super::{Mono, Outcome, Phase};
use crate::model::Health;

/// What the machine needs of a pool's check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Good answers in a row.
    pub rise: u32,
    /// Failures in a row.
    pub fall: u32,
    /// From suspect to dead.
    pub death_grace: Duration,
    /// What becomes of those that come and go.
    pub flap: crate::model::health::Flap,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Self {
        Self {
            rise: health.rise,
            fall: health.fall,
            death_grace: health.death_grace,
            flap: health.flap,
        }
    }
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Fsm {
    rules: Rules,
    phase: Phase,
    since: Mono,
    reason: String,
    /// Good answers in a row.
    good: u32,
    /// Answers that refuse in a row.
    refusals: u32,
    /// Silences in a row.
    silences: u32,
    /// Failures of both kinds in a row.
    failures: u32,
    /// When a suspect is dead.
    dies: Option<Mono>,
    penalty: Penalty,
}

/// The reason of a backend that nobody has asked yet.
const NOT_YET: &str = "not checked yet";

impl Fsm {
    /// A backend of which nothing is known.
    pub fn new(rules: Rules, now: Mono) -> Self {
        Self::resume(
            rules,
            Phase::Unknown,
            now,
            NOT_YET.to_owned(),
            Penalty::default(),
            now,
        )
    }

    /// A backend as an earlier agent or an earlier check left it. A suspect's grace begins anew: the time in which
    /// nobody asked proves nothing.
    pub fn resume(
        rules: Rules,
        phase: Phase,
        since: Mono,
        reason: String,
        penalty: Penalty,
        now: Mono,
    ) -> Self {
        Self {
            rules,
            phase,
            since,
            reason,
            good: 0,
            refusals: 0,
            silences: 0,
            failures: 0,
            dies: (phase == Phase::Suspect).then(|| now + rules.death_grace),
            penalty,
        }
    }

    /// The same backend under other rules: a verdict that it is down stays until the new check says otherwise, one
    /// that it is up has to be earned anew, and counts as up meanwhile.
    pub fn under(self, rules: Rules, now: Mono) -> Self {
        if self.phase.is_up() {
            Self {
                penalty: self.penalty,
                ..Self::new(rules, now)
            }
        } else {
            Self::resume(rules, self.phase, self.since, self.reason, self.penalty, now)
        }
    }

    /// What the answers amount to.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Since when.
    pub const fn since(&self) -> Mono {
        self.since
    }

    /// Why, in words.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What it has to its account for falling.
    pub const fn penalty(&self) -> &Penalty {
        &self.penalty
    }

    /// How much of the penalty is left, in falls.
    pub fn penalty_now(&self, now: Mono) -> f64 {
        self.penalty.at(self.rules.flap, now)
    }

    /// When [`Fsm::handle_timeout`] wants to be called.
    pub const fn poll_timeout(&self) -> Option<Mono> {
        self.dies
    }

    /// Takes what came of a question. Says whether the phase has changed.
    pub fn handle(&mut self, outcome: &Outcome, now: Mono) -> bool {
        self.count(outcome);
        if self.dies.is_some() && matches!(outcome, Outcome::Good | Outcome::Refuses(_)) {
            self.dies = Some(now + self.rules.death_grace);
        }
        let (rise, fall) = (self.rules.rise, self.rules.fall);
        match outcome {
            Outcome::Good if self.phase == Phase::Up || self.good < rise => false,
            Outcome::Good => self.rise(now),
            // As slow back from silence as to work: one lucky answer is no life.
            Outcome::Refuses(why) if self.phase.is_silent() && self.refusals >= rise => {
                self.enter(Phase::Draining, why.clone(), now)
            }
            Outcome::Silent(why) if !self.phase.is_silent() && self.silences >= fall => {
                self.enter(Phase::Suspect, why.clone(), now)
            }
            Outcome::Refuses(why) | Outcome::Silent(why) if self.phase.is_up() && self.failures >= fall => {
                self.enter(Phase::Draining, why.clone(), now)
            }
            Outcome::Refuses(why) if self.phase == Phase::Draining => {
                self.reason.clone_from(why);
                false
            }
            Outcome::Refuses(_) | Outcome::Silent(_) | Outcome::Unasked(_) => false,
        }
    }

    /// Takes the passing of time. Says whether the phase has changed.
    pub fn handle_timeout(&mut self, now: Mono) -> bool {
        if self.dies.is_none_or(|dies| now < dies) {
            return false;
        }
        let reason = self.reason.clone();
        self.enter(Phase::Dead, reason, now)
    }

    fn count(&mut self, outcome: &Outcome) {
        let runs = (self.good, self.refusals, self.silences, self.failures);
        let (good, refusals, silences, failures) = runs;
        let more = |run: u32| run.saturating_add(1);
        (self.good, self.refusals, self.silences, self.failures) = match outcome {
            Outcome::Good => (more(good), 0, 0, 0),
            Outcome::Refuses(_) => (0, more(refusals), 0, more(failures)),
            Outcome::Silent(_) => (0, 0, more(silences), more(failures)),
            Outcome::Unasked(_) => runs,
        };
    }

    /// Up, unless it has to wait.
    fn rise(&mut self, now: Mono) -> bool {
        if self.phase != Phase::Unknown
            && let Some(wait) = self.penalty.wait(self.rules.flap, now)
        {
            self.reason = format!(
                "answers well again, held out for flapping for {} s more",
                wait.as_secs_f64().ceil()
            );
            return false;
        }
        self.enter(Phase::Up, "answers well".to_owned(), now)
    }

    fn enter(&mut self, phase: Phase, reason: String, now: Mono) -> bool {
        if self.phase.is_up() && !phase.is_up() {
            self.penalty.fall(self.rules.flap, now);
        }
        self.dies = (phase == Phase::Suspect).then(|| now + self.rules.death_grace);
        self.phase = phase;
        self.since = now;
        self.reason = reason;
        true
    }
}

#[cfg(test)]
mod tests;
