//! A member obeys: each order once, the newest coordinator's alone.

use super::border::{Action, Event};
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

/// By so much the number of a term is higher at most than any that was seen: a node that names the highest one of all would leave none
/// for later coordinators. A joiner has seen none, and no group has had so many.
const LEAP: u64 = 1 << 32;

impl Machine {
    /// Whether a message's term is one that nodes may have come to.
    pub(super) fn can_be(&self, msg: &Msg) -> bool {
        let (term, edition) = match msg {
            Msg::State(state) => (state.term, state.edition.term),
            Msg::Order(order) => (order.term, order.edition.term),
            Msg::Welcome { term, edition, .. } => (*term, edition.term),
            Msg::Stale(term) => (*term, Term::default()),
            _ => return true,
        };
        term.number.max(edition.number) <= self.term.number.saturating_add(LEAP)
    }

    /// A message that is none. However many come, few are told.
    pub(super) fn on_garbage(&mut self, from: u8) {
        let Some(peer) = self.peer_mut(from) else { return };
        peer.garbage += 1;
        let count = peer.garbage;
        if count.is_power_of_two() {
            self.tell(Event::Garbage(from, count));
        }
    }

    pub(super) fn obey(&mut self, from: u8, order: Numbered) {
        let (term, me) = (order.term, self.settings.me);
        if term < self.term {
            self.send(from, &Msg::Stale(self.term));
            return;
        }
        if term.node != from || !order.members.has(me) || self.leaver.said_goodbye() {
            return;
        }
        let is_foreign = self.phase == Phase::Ready && !self.members.has(from);
        let is_old = self.phase != Phase::Joining && order.edition < self.edition;
        if is_foreign || is_old {
            // The list of members was changed out of this coordinator's reach, or this node has not heard the newest one. Either learns it from
            // the next [`Msg::State`].
            let later = Msg::Answer {
                term,
                number: order.number,
                answer: Answer::Later,
                memory: None,
            };
            self.send(from, &later);
            return;
        }
        self.term = term.max(order.edition.term);
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
            self.adopt(order.members, order.edition, order.adrift);
        }
        self.run(order.job);
    }

    fn run(&mut self, job: Job) {
        if let Some(Running::Join(_)) = self.member.running {
            // The engine does one thing at a time.
            self.on_join_judged(&Answer::Later);
        }
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

    /// The engine has something else to do: the coordinator is to give its order once more.
    pub(super) fn put_off(&mut self) {
        if let Some(Running::Order(_)) = self.member.running {
            self.member.running = None;
            self.done(Answer::Later);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::group::wire::encode;
    use crate::group::{Input, Settings, Start};
    use crate::health::Mono;

    /// Node 0 of three, in a session with node 1.
    fn machine() -> Machine {
        let settings = Settings {
            me: 0,
            nodes: 3,
            key: 0,
            withdraw_after: Duration::from_secs(60),
            join_within: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            leave_after: Duration::from_secs(1),
            max_tracked: Duration::from_hours(24),
        };
        let mut machine = Machine::new(settings, Start { epoch: 7, kept: true }, Mono::default());
        machine.handle(Input::Alive { peer: 1 }, Mono::default());
        machine.handle(Input::Up { peer: 1, session: 1 }, Mono::default());
        machine
    }

    fn hear(machine: &mut Machine, bytes: Vec<u8>) {
        let (peer, session) = (1, 1);
        machine.handle(Input::Message { peer, session, bytes }, Mono::default());
    }

    fn told(machine: &mut Machine) -> Vec<u64> {
        let actions = std::iter::from_fn(|| machine.poll());
        let garbage = actions.filter_map(|action| match action {
            Action::Told(Event::Garbage(1, count)) => Some(count),
            _ => None,
        });
        garbage.collect()
    }

    #[test]
    fn nobody_uses_up_the_terms() {
        let mut machine = machine();
        let stale = |number| {
            encode(&Msg::Stale(Term {
                number,
                node: 1,
                epoch: 1,
            }))
        };
        hear(&mut machine, stale(u64::MAX));
        hear(&mut machine, stale(LEAP + 1));
        assert_eq!((machine.facts().term, told(&mut machine)), (0, vec![1, 2]));
        hear(&mut machine, stale(LEAP));
        assert_eq!((machine.facts().term, told(&mut machine)), (LEAP, vec![]));
        // There are more to come.
        assert_eq!(machine.next_term().number, LEAP + 1);
    }

    #[test]
    fn of_much_garbage_little_is_told() {
        let mut machine = machine();
        for _ in 0..1000 {
            hear(&mut machine, vec![0xff]);
        }
        assert_eq!(told(&mut machine), [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    }
}
