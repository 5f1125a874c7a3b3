//! The proposer's side: from an operator's call to its answer.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Machine, Output, PATIENCE, Pending, Proposal, Save, Silence, Stage, Why};
use crate::charter::message::{Charter, Held, MESSAGE_MAX, Message, NUMBER_MAX, No, Rival};
use crate::group::Generation;
use crate::health::Mono;

impl Machine {
    pub(super) fn apply(&mut self, now: Mono, call: u64, charter: Charter) {
        if let Some(pending) = &self.pending {
            let answer = Err(Why::Busy(pending.held.rival()));
            self.out.push(Output::Answer { call, answer });
            return;
        }
        if self.last >= NUMBER_MAX {
            let answer = Err(Why::Exhausted);
            self.out.push(Output::Answer { call, answer });
            return;
        }
        self.last += 1;
        let generation = Generation {
            number: self.last,
            node: self.me,
        };
        let held = Held {
            generation,
            base: self.generation(),
            charter,
        };
        let length = Message::Propose(held.clone()).encode().len();
        if length > MESSAGE_MAX {
            let answer = Err(Why::Long(length));
            self.out.push(Output::Answer { call, answer });
            return;
        }
        self.proposal = Some(Proposal {
            call,
            until: now + PATIENCE,
            accepted: BTreeSet::new(),
            waiting: BTreeMap::new(),
            deciding: false,
        });
        // This node first: what it can't run or write it asks of nobody.
        self.consider(held);
    }

    /// Has the agent look at it.
    pub(super) fn consider(&mut self, held: Held) {
        self.out.push(Output::Validate(held.clone()));
        self.pending = Some(Pending {
            held,
            stage: Stage::Validating,
        });
    }

    pub(super) fn validated(&mut self, generation: Generation, verdict: Result<(), String>) {
        let Some(pending) = self.pending_at(generation, Stage::Validating) else {
            return;
        };
        match verdict {
            Ok(()) => {
                pending.stage = Stage::Saving;
                let held = pending.held.clone();
                self.out.push(Output::Persist(Save::Pending(held)));
            }
            Err(why) => self.decline(generation, why, |node, why| Why::Refused { node, why }),
        }
    }

    pub(super) fn saved(&mut self, generation: Generation, done: Result<(), String>) {
        let Some(pending) = self.pending_at(generation, Stage::Saving) else {
            return;
        };
        match done {
            Ok(()) => {
                pending.stage = Stage::Accepted;
                let told = Event::Pending(pending.held.rival());
                self.out.push(Output::Told(told));
                if self.proposal.is_some() {
                    self.offer();
                } else {
                    self.send(generation.node, Message::Accept { generation });
                }
            }
            Err(why) => self.decline(generation, why, |_, why| Why::Disk(why)),
        }
    }

    fn pending_at(&mut self, generation: Generation, stage: Stage) -> Option<&mut Pending> {
        let pending = self.pending.as_mut()?;
        (pending.held.generation == generation && pending.stage == stage).then_some(pending)
    }

    /// This node says no.
    fn decline(&mut self, generation: Generation, why: String, of_own: fn(u8, String) -> Why) {
        if self.proposal.is_some() {
            self.give_up(of_own(self.me, why));
            return;
        }
        // First of all: a proposer that hears that nothing is pending here offers it again.
        let why = No::Invalid(cut(why));
        self.send(generation.node, Message::Refuse { generation, why });
        self.drop_pending();
    }

    /// Asks all members that have not accepted and can be asked.
    pub(super) fn offer(&mut self) {
        let peers: Vec<u8> = self.peers.keys().copied().collect();
        for peer in peers {
            self.offer_to(peer);
        }
    }

    pub(super) fn offer_to(&mut self, peer: u8) {
        let (Some(proposal), Some(pending)) = (&self.proposal, &self.pending) else {
            return;
        };
        let is_asked = pending.stage == Stage::Accepted
            && self.members.contains(&peer)
            && !proposal.accepted.contains(&peer);
        if is_asked {
            let held = pending.held.clone();
            self.send(peer, Message::Propose(held));
        }
    }

    /// A member's answer to what this node proposes.
    pub(super) fn answered(&mut self, from: u8, generation: Generation, answer: Answer) {
        if self
            .pending
            .as_ref()
            .is_none_or(|pending| pending.held.generation != generation)
        {
            return;
        }
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        match answer {
            Answer::Yes => {
                proposal.waiting.remove(&from);
                proposal.accepted.insert(from);
            }
            Answer::Later(rival) => {
                proposal.waiting.insert(from, rival);
            }
            // Too late: it is decided.
            Answer::No(_) if proposal.deciding => {}
            Answer::No(No::Invalid(why)) => self.give_up(Why::Refused { node: from, why }),
            Answer::No(No::Busy(rival)) => self.give_up(Why::Lost(rival)),
            Answer::No(No::Behind(rival)) => self.give_up(Why::Behind(rival)),
        }
    }

    /// Decides, where every member has accepted.
    pub(super) fn resolve(&mut self) {
        let (Some(proposal), Some(pending)) = (&mut self.proposal, &self.pending) else {
            return;
        };
        let has_all = self
            .members
            .iter()
            .all(|member| *member == self.me || proposal.accepted.contains(member));
        if has_all && pending.stage == Stage::Accepted && !proposal.deciding {
            proposal.deciding = true;
            let held = pending.held.clone();
            self.out.push(Output::Persist(Save::Committed(held)));
        }
    }

    /// The decision is on the disk: from now on it holds.
    pub(super) fn decided(&mut self, generation: Generation, done: Result<(), String>) {
        let is_it = |pending: &Pending| pending.held.generation == generation;
        if !self.pending.as_ref().is_some_and(is_it) || !self.proposal.as_ref().is_some_and(|p| p.deciding) {
            return;
        }
        if let Err(why) = done {
            self.give_up(Why::Disk(why));
            return;
        }
        let (Some(pending), Some(proposal)) = (self.pending.take(), self.proposal.take()) else {
            return;
        };
        let held = pending.held;
        let sum = held.sum();
        self.committed = Some(held.clone());
        let peers: Vec<u8> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, Message::Commit { generation, sum });
        }
        self.tell();
        self.out.push(Output::PutIntoForce(held));
        self.out.push(Output::Answer {
            call: proposal.call,
            answer: Ok(generation),
        });
    }

    /// Ends what this node proposes, everywhere. Without a proposal it does nothing.
    pub(super) fn give_up(&mut self, why: Why) {
        let (Some(proposal), Some(pending)) = (self.proposal.take(), &self.pending) else {
            return;
        };
        let generation = pending.held.generation;
        self.drop_pending();
        let peers: Vec<u8> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, Message::Abort { generation });
        }
        self.out.push(Output::Answer {
            call: proposal.call,
            answer: Err(why),
        });
    }

    /// Ends it since another one is in force now.
    pub(super) fn yield_to(&mut self, held: &Held) {
        self.give_up(Why::Behind(held.rival()));
    }

    /// Ends what took too long.
    pub(super) fn expire(&mut self, now: Mono) {
        let Some(proposal) = &self.proposal else { return };
        if proposal.deciding || now < proposal.until {
            return;
        }
        let silent = self
            .members
            .iter()
            .filter(|m| **m != self.me && !proposal.accepted.contains(m));
        let why = |member: &u8| match (self.peers.contains_key(member), proposal.waiting.get(member)) {
            (false, _) => Silence::Away,
            (true, Some(rival)) => Silence::Waits(rival.clone()),
            (true, None) => Silence::Slow,
        };
        let silent = silent.map(|member| (*member, why(member))).collect();
        self.give_up(Why::Silent(silent));
    }
}

/// What a member says to a proposal.
pub(super) enum Answer {
    Yes,
    No(No),
    Later(Rival),
}

/// Not longer than a message may hold.
fn cut(mut why: String) -> String {
    let mut end = why.len().min(crate::charter::message::WHY_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.truncate(end);
    why
}
