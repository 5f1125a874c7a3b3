//! What peers say: proposals, decisions, and how far they are.

use super::propose::Answer;
use super::{Machine, Stage, Why};
use crate::charter::message::{Held, Message, No, Status};
use crate::group::Generation;

impl Machine {
    pub(super) fn receive(&mut self, from: u8, message: Message) {
        if from == self.me || !self.peers.contains_key(&from) {
            return;
        }
        match message {
            Message::Propose(held) if held.generation.node == from => self.proposed(from, held),
            Message::Accept { generation } => self.answered(from, generation, Answer::Yes),
            Message::Refuse { generation, why } => self.answered(from, generation, Answer::No(why)),
            Message::Later { generation, pending } => self.answered(from, generation, Answer::Later(pending)),
            Message::Commit { generation, sum } if generation.node == from => {
                self.told_to_commit(from, generation, sum);
            }
            Message::Abort { generation } if generation.node == from => self.told_to_drop(generation),
            Message::Tell(status) => self.heard(from, status),
            Message::Ask => {
                if let Some(held) = self.committed.clone() {
                    self.send(from, Message::Give(held));
                }
            }
            Message::Give(held) => {
                if held.generation > self.generation() {
                    self.commit(held);
                }
            }
            // Only its proposer may say this.
            Message::Propose(_) | Message::Commit { .. } | Message::Abort { .. } => {}
        }
    }

    fn proposed(&mut self, from: u8, held: Held) {
        let (generation, mine) = (held.generation, self.generation());
        self.last = self.last.max(generation.number);
        if let Some(committed) = self.committed.as_ref().filter(|_| held.base < mine) {
            let rival = committed.rival();
            // Its own, which it doesn't know any more, or which it offers again.
            let why = if rival.generation == generation && *committed == held {
                self.send(from, Message::Accept { generation });
                return;
            } else {
                No::Behind(rival)
            };
            self.send(from, Message::Refuse { generation, why });
            return;
        }
        if held.base > mine {
            // It is offered again when this node has caught up.
            self.send(from, Message::Ask);
            return;
        }
        let Some(pending) = &self.pending else {
            self.consider(held);
            return;
        };
        let (rival, stage) = (pending.held.rival(), pending.stage);
        if rival.generation == generation {
            match (pending.held == held, stage) {
                (true, Stage::Accepted) => self.send(from, Message::Accept { generation }),
                (true, _) => {}
                (false, _) => {
                    let why = No::Busy(rival);
                    self.send(from, Message::Refuse { generation, why });
                }
            }
            return;
        }
        let goes_first = generation < rival.generation;
        match &self.proposal {
            Some(proposal) if goes_first && !proposal.deciding => {
                self.give_up(Why::Lost(held.rival()));
                self.consider(held);
            }
            // Its proposer is a member of this round, too, and gives it up.
            None if goes_first => self.send(
                from,
                Message::Later {
                    generation,
                    pending: rival,
                },
            ),
            _ => {
                let why = No::Busy(rival);
                self.send(from, Message::Refuse { generation, why });
            }
        }
    }

    fn told_to_commit(&mut self, from: u8, generation: Generation, sum: u64) {
        if generation <= self.generation() {
            return;
        }
        match &self.pending {
            Some(pending) if pending.held.generation == generation && pending.held.sum() == sum => {
                let held = pending.held.clone();
                self.commit(held);
            }
            _ => self.send(from, Message::Ask),
        }
    }

    fn told_to_drop(&mut self, generation: Generation) {
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.held.generation == generation)
        {
            self.drop_pending();
        }
    }

    fn heard(&mut self, from: u8, status: Status) {
        self.last = self.last.max(status.last).max(status.committed.number);
        self.peers.insert(from, Some(status));
        let mine = self.generation();
        if status.committed > mine {
            self.send(from, Message::Ask);
        }
        let Some(pending) = &self.pending else { return };
        let generation = pending.held.generation;
        if generation.node == self.me {
            // It may have had to wait for another one, or to catch up.
            if status.pending.is_none() {
                self.offer_to(from);
            }
        } else if from == generation.node {
            // Its word decides. Where it has committed it, or something later, that comes with the answer to `Ask`.
            let gave_up = status.pending != Some(generation) && status.committed < generation;
            if gave_up {
                self.drop_pending();
            }
        }
    }

    /// Drops what is pending where its proposer is no member any more and no member has committed it: then nobody was told
    /// to.
    pub(super) fn orphaned(&mut self) {
        let Some(pending) = &self.pending else { return };
        let (node, mine) = (pending.held.generation.node, self.generation());
        if node == self.me || self.members.contains(&node) || self.peers.contains_key(&node) {
            return;
        }
        let mut others = self.members.iter().filter(|member| **member != self.me);
        if others.all(|member| self.peer(*member).is_some_and(|peer| peer.committed <= mine)) {
            self.drop_pending();
        }
    }
}
