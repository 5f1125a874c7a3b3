//! The machine of one node: inputs, time, outputs.

use std::collections::VecDeque;
use std::time::Duration;

use super::border::{Action, Facts, Input, Local, Settings, Start, Status};
use super::nodes::Nodes;
use super::order::Verdict;
use super::wire::{Phase, Term};
use crate::health::Mono;

/// How often time is looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// One per node. All of it computes only.
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) start: Start,
    pub(super) now: Mono,
    pub(super) actions: VecDeque<Action>,
    pub(super) phase: Phase,
    pub(super) members: Nodes,
    pub(super) term: Term,
    pub(super) local: Local,
    pub(super) verdict: Verdict,
}

impl Machine {
    /// A node whose agent has just started: not ready.
    pub fn new(settings: Settings, start: Start, now: Mono) -> Self {
        Self {
            settings,
            start,
            now,
            actions: VecDeque::new(),
            phase: Phase::Joining,
            members: Nodes::default(),
            term: Term::default(),
            local: Local::default(),
            verdict: Verdict::default(),
        }
    }

    /// Takes an input.
    pub fn handle(&mut self, input: Input, now: Mono) {
        self.now = now;
        if let Input::Local(local) = input {
            self.local = local;
        }
    }

    /// Takes the passing of time; to be called when [`Machine::poll_timeout`] says, or more often.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.now = now;
    }

    /// When [`Machine::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Mono {
        self.now + TICK
    }

    /// What is to be done next, in this order. To be asked after each input until there is nothing.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What heartbeats and `lbctl peers` show of this node.
    pub fn facts(&self) -> Facts {
        Facts {
            phase: self.phase,
            epoch: self.start.epoch,
            generation: self.local.target.generation,
            verdict: self.local.target.verdict,
            rings: self.local.target.rings,
            origins: self.local.origins,
            members: self.members,
            term: self.term.number,
        }
    }

    /// What `lbctl peers` shows beside [`Machine::facts`].
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// The verdict in force on this node.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}
