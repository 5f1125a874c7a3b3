//! A member obeys: each order once, the newest coordinator's alone.

use super::border::Action;
use super::machine::Machine;
use super::nodes::Nodes;
use super::order::{Answer, Cell, Order, Target, Verdict};
use super::wire::{Job, Memory, Msg, Numbered, Phase, Term};

/// What a member remembers.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// The last order that it obeyed.
    last: Option<(Term, u64)>,
    job: Option<Job>,
    /// The last answer to that.
    answer: Option<(Answer, Option<Memory>)>,
    tickets: u64,
    /// What the engine is doing.
    pub(super) running: Option<Running>,
    closed: Option<Term>,
    before: Term,
    before_members: Nodes,
    pub(super) verdict: Verdict,
    /// The verdict is carried out here.
    pub(super) judged: bool,
    plan: Vec<Cell>,
    pub(super) committed: Option<Target>,
}

/// For whom the engine works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Running {
    /// The coordinator's order.
    Order(u64),
    /// The verdict, before a joiner is admitted.
    Join(u64),
}

impl Machine {
    pub(super) fn obey(&mut self, from: u8, order: Numbered) {
        let (term, me) = (order.term, self.settings.me);
        if term < self.term {
            self.send(from, &Msg::Stale(self.term));
            return;
        }
        let is_foreign = self.phase == Phase::Ready && !self.members.has(from);
        if term.node != from || is_foreign || !order.members.has(me) || self.leaver.said_goodbye() {
            return;
        }
        self.term = term;
        let this = Some((term, order.number));
        if self.member.last > this {
            return;
        }
        if self.member.last == this {
            match &self.member.answer {
                Some((Answer::Later, _)) => self.run(order.job),
                Some(_) => self.answer(),
                None => {}
            }
            return;
        }
        if let Some((earlier, _)) = self.member.last
            && earlier != term
            && earlier.node != term.node
        {
            self.member.before = earlier;
        }
        self.member.before_members = self.members;
        self.member.last = this;
        if from == me {
            self.set_members(order.members);
        } else {
            self.adopt(order.members);
        }
        self.run(order.job);
    }

    fn run(&mut self, job: Job) {
        self.member.answer = None;
        self.member.running = None;
        self.member.job = Some(job.clone());
        if !matches!(
            job,
            Job::Plan(_) | Job::Admit { .. } | Job::Engine(Order::Bury(_) | Order::Judge(_) | Order::Report)
        ) {
            self.member.plan.clear();
        }
        match job {
            Job::Engine(order) => {
                match &order {
                    Order::Judge(verdict) => self.take_verdict(verdict),
                    Order::Close(_) => self.member.closed = self.member.last.map(|(term, _)| term),
                    _ => {}
                }
                let ticket = self.hire(order);
                self.member.running = Some(Running::Order(ticket));
            }
            Job::Plan(cells) => {
                self.member.plan = cells;
                self.done(Answer::Done);
            }
            Job::Admit { node, epoch } => {
                if let Some(peer) = self.peer_mut(node) {
                    peer.admitted = Some(epoch);
                }
                self.done(Answer::Done);
            }
        }
    }

    /// Gives the engine something to do.
    pub(super) fn hire(&mut self, order: Order) -> u64 {
        self.member.tickets += 1;
        let ticket = self.member.tickets;
        self.act(Action::Do { ticket, order });
        ticket
    }

    pub(super) fn take_verdict(&mut self, verdict: &Verdict) {
        if *verdict != self.member.verdict {
            self.member.verdict = verdict.clone();
            self.member.judged = false;
            self.act(Action::Verdict(verdict.clone()));
        }
    }

    pub(super) fn on_answered(&mut self, ticket: u64, answer: Answer) {
        match self.member.running {
            Some(Running::Order(t)) if t == ticket => {
                self.member.running = None;
                self.done(answer);
            }
            Some(Running::Join(t)) if t == ticket => {
                self.member.running = None;
                self.on_join_judged(&answer);
            }
            _ => {}
        }
    }

    fn done(&mut self, answer: Answer) {
        let memory = matches!(answer, Answer::Progress(_)).then(|| self.memory());
        if answer == Answer::Done {
            match &self.member.job {
                Some(Job::Engine(Order::Judge(verdict))) => {
                    self.member.judged = *verdict == self.member.verdict;
                }
                Some(Job::Engine(Order::Commit(target))) => self.member.committed = Some(*target),
                _ => {}
            }
        }
        self.member.answer = Some((answer, memory));
        self.answer();
    }

    fn memory(&self) -> Memory {
        Memory {
            closed: self.member.closed,
            before: self.member.before,
            members: self.member.before_members,
            verdict: self.member.verdict.clone(),
            judged: self.member.judged,
            plan: self.member.plan.clone(),
            committed: self.member.committed,
        }
    }

    fn answer(&mut self) {
        let (Some((term, number)), Some((answer, memory))) = (self.member.last, self.member.answer.clone())
        else {
            return;
        };
        if term.node == self.settings.me {
            self.on_answer(term.node, (term, number), answer, memory);
        } else {
            let msg = Msg::Answer {
                term,
                number,
                answer,
                memory,
            };
            self.send(term.node, &msg);
        }
    }
}
