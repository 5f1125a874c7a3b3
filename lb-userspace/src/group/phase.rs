//! Which phase is next, and what follows a step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::border::Event;
use super::drive::{Answers, Lead, Need};
use super::machine::Machine;
use super::order::{Answer, Cell, Order, Target, Verdict};
use super::wire::{CELLS_MAX, Job};
use crate::health::Mono;

/// A slot that could not retire is tried again after this.
const HOLD: Duration = Duration::from_secs(5);
/// The engine knows by then what a burial has left.
const LOOK: Duration = Duration::from_millis(500);
/// A retirement whose votes take longer is given up: slots that are closing can't follow a suspicion.
const PATIENCE: Duration = Duration::from_secs(60);

/// A step of a phase, with all that it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Nothing is under way.
    Idle,
    /// What has an earlier coordinator left?
    Report,
    Prepare(Target),
    Pause(Target, Mono),
    Commit(Target),
    Judge(Verdict),
    Plan(Vec<Cell>),
    Bury(Vec<Cell>),
    Close(Vec<Cell>),
    Fence(Vec<Cell>),
    Vote(Vec<Cell>),
    Retire(Vec<Cell>),
    /// As `Retire`, where somebody has done it already.
    Complete(Vec<Cell>),
    Finish(Vec<Cell>),
    Reopen(Vec<Cell>),
    /// The own slots are wanted, for this joiner with this epoch.
    Snapshot(u8, u64),
    /// The joiner takes them over: its epoch, number of the offer, digest of the slots.
    Offer(u8, u64, u64, u64),
    Admit(u8, u64),
}

impl Step {
    pub(super) fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Idle => return None,
            Self::Report => "recovery",
            Self::Prepare(_) | Self::Pause(..) | Self::Commit(_) => "change",
            Self::Judge(_) => "verdict",
            Self::Plan(_) | Self::Bury(_) => "burial",
            Self::Close(_) | Self::Fence(_) | Self::Vote(_) => "retirement",
            Self::Retire(_) | Self::Complete(_) | Self::Finish(_) | Self::Reopen(_) => "retirement",
            Self::Snapshot(..) | Self::Offer(..) | Self::Admit(..) => "admission",
        })
    }

    /// The joiner and its epoch.
    pub(super) fn joiner(&self) -> Option<(u8, u64)> {
        match *self {
            Self::Snapshot(node, epoch) | Self::Offer(node, epoch, ..) | Self::Admit(node, epoch) => {
                Some((node, epoch))
            }
            _ => None,
        }
    }
}

impl Machine {
    /// As far as it goes by now.
    pub(super) fn lead_on(&mut self) {
        // Each round ends a step; a phase has less than so many.
        for _ in 0..64 {
            if self.lead.is_none() {
                return;
            }
            self.interrupt();
            let step = match &self.lead {
                Some(lead) => lead.step.clone(),
                None => return,
            };
            let is_over = match step {
                Step::Idle => {
                    if !self.choose() {
                        return;
                    }
                    continue;
                }
                Step::Pause(_, until) => self.now >= until,
                Step::Snapshot(..) | Step::Offer(..) => false,
                _ => match self.pump() {
                    Some(answers) => {
                        self.after(&step, &answers);
                        true
                    }
                    None => false,
                },
            };
            if !is_over {
                return;
            }
            self.end_step();
        }
    }

    /// The next step of the phase, or none.
    pub(super) fn end_step(&mut self) {
        let next = self.lead.as_mut().and_then(|lead| lead.todo.pop_front());
        self.enter(next.unwrap_or(Step::Idle));
    }

    /// Gives the phase up.
    pub(super) fn abandon(&mut self) {
        self.instead(vec![]);
    }

    /// Gives a phase up for other steps.
    fn instead(&mut self, steps: Vec<Step>) {
        if let Some(lead) = &mut self.lead {
            lead.todo = steps.into();
            lead.pending = None;
        }
        self.end_step();
    }

    /// Begins a step.
    fn enter(&mut self, step: Step) {
        use Need::{All, AllSelfLast, Live};
        let now = self.now;
        if let Step::Admit(node, epoch) = step {
            self.count_in(node, epoch);
        }
        let Some(lead) = &mut self.lead else { return };
        lead.since = now;
        lead.step = step.clone();
        lead.pending = None;
        match step {
            Step::Idle | Step::Pause(..) | Step::Offer(..) => {}
            Step::Report => lead.engine(Order::Report, Live, now),
            Step::Prepare(target) => lead.engine(Order::Prepare(target), All, now),
            Step::Commit(target) => lead.engine(Order::Commit(target), All, now),
            Step::Judge(verdict) => lead.engine(Order::Judge(verdict), All, now),
            Step::Plan(cells) => lead.order(Job::Plan(cells), All, now),
            Step::Bury(cells) => lead.engine(Order::Bury(cells), All, now),
            Step::Close(cells) => lead.engine(Order::Close(cells), All, now),
            Step::Fence(_) => {
                let fence = lead.fence();
                lead.engine(Order::Fence(fence), All, now);
            }
            Step::Vote(cells) => lead.engine(Order::Vote(cells), All, now),
            Step::Retire(cells) | Step::Complete(cells) => {
                lead.engine(Order::Retire(cells), AllSelfLast, now);
            }
            Step::Finish(cells) => lead.engine(Order::Finish(cells), All, now),
            Step::Reopen(cells) => lead.engine(Order::Reopen(cells), Live, now),
            Step::Snapshot(..) => self.act(super::border::Action::NeedSnapshot),
            Step::Admit(node, epoch) => lead.order(Job::Admit { node, epoch }, Live, now),
        }
    }

    /// What follows from the answers to a step.
    fn after(&mut self, step: &Step, answers: &Answers) {
        match step {
            Step::Report => self.recover(answers),
            Step::Prepare(target) => {
                let pause = Step::Pause(*target, self.now + self.settings.pause);
                self.then([pause, Step::Commit(*target)]);
            }
            Step::Commit(target) => {
                if let Some(lead) = &mut self.lead {
                    lead.committed = Some(*target);
                }
                self.tell(Event::Committed(*target));
            }
            Step::Judge(verdict) => self.after_judge(verdict, answers),
            Step::Bury(cells) => self.buried(cells),
            Step::Close(cells) => {
                let (stay, go) = self.counted(cells, answers);
                self.then([Step::Reopen(go), Step::Fence(stay.clone()), Step::Vote(stay)]);
            }
            Step::Vote(cells) => {
                let (stay, go) = self.counted(cells, answers);
                self.then([Step::Reopen(go), Step::Retire(stay.clone()), Step::Finish(stay)]);
            }
            Step::Finish(cells) => self.tell(Event::Retired(cells.len())),
            Step::Reopen(cells) => self.tell(Event::Reopened(cells.len())),
            Step::Admit(node, epoch) => self.welcome(*node, *epoch),
            _ => {}
        }
    }

    fn buried(&mut self, cells: &[Cell]) {
        if let Some(lead) = &mut self.lead {
            lead.plan.retain(|cell| !cells.contains(cell));
        }
        self.tell(Event::Buried(cells.len()));
    }

    /// Appends steps; those without slots are nothing.
    fn then(&mut self, steps: impl IntoIterator<Item = Step>) {
        let has_work = |step: &Step| match step {
            Step::Reopen(cells) | Step::Fence(cells) | Step::Vote(cells) => !cells.is_empty(),
            Step::Retire(cells) | Step::Finish(cells) | Step::Bury(cells) => !cells.is_empty(),
            _ => true,
        };
        if let Some(lead) = &mut self.lead {
            lead.todo.extend(steps.into_iter().filter(has_work));
        }
    }

    /// Slots on which all voted yes, and those on which somebody didn't.
    fn counted(&mut self, cells: &[Cell], answers: &Answers) -> (Vec<Cell>, Vec<Cell>) {
        let refused: BTreeSet<Cell> = answers
            .values()
            .filter_map(|(answer, _)| match answer {
                Answer::Except(cells) => Some(cells),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        let (go, stay): (Vec<Cell>, Vec<Cell>) = cells.iter().partition(|cell| refused.contains(cell));
        self.hold(&go);
        (stay, go)
    }

    fn hold(&mut self, cells: &[Cell]) {
        let until = self.now + HOLD;
        if let Some(lead) = &mut self.lead {
            lead.held.extend(cells.iter().map(|&cell| (cell, until)));
        }
    }

    /// Gives up what may be given up and can't go on, or shouldn't.
    fn interrupt(&mut self) {
        let Some(lead) = &self.lead else { return };
        let changed = lead.crew != self.members || !self.silent().is_empty();
        match lead.step.clone() {
            Step::Prepare(target) | Step::Pause(target, _) | Step::Commit(target)
                if changed || target != self.local.target =>
            {
                self.tell(Event::GivenUp(target));
                self.abandon();
            }
            Step::Close(cells) | Step::Fence(cells) | Step::Vote(cells) => {
                let is_late = self.now.since(lead.since) >= PATIENCE;
                let is_unsafe = changed || !self.adrift().is_empty();
                if is_unsafe || is_late || !self.downs().is_subset(&lead.downs) {
                    self.hold(&cells);
                    let rest = self.waiting_reopen();
                    self.instead(vec![Step::Reopen([cells, rest].concat())]);
                }
            }
            Step::Retire(cells) if changed && !self.has_begun() => {
                self.hold(&cells);
                self.instead(vec![Step::Reopen(cells)]);
            }
            Step::Judge(verdict)
                if lead.recover || (!self.silent().is_empty() && self.live_have_answered()) =>
            {
                self.note_judged(&verdict);
                self.abandon();
            }
            Step::Plan(_) if changed => {
                if let Some(lead) = &mut self.lead {
                    lead.recover = true;
                }
                self.abandon();
            }
            // Whoever started anew has forgotten the verdict: from there on.
            Step::Bury(_) if lead.recover => self.abandon(),
            Step::Snapshot(..) | Step::Offer(..) | Step::Admit(..) => self.interrupt_admission(),
            _ => {}
        }
    }

    /// Slots that were to be opened again as a later step.
    fn waiting_reopen(&self) -> Vec<Cell> {
        let todo = self.lead.iter().flat_map(|lead| &lead.todo);
        todo.filter_map(|step| match step {
            Step::Reopen(cells) => Some(cells.clone()),
            _ => None,
        })
        .flatten()
        .collect()
    }

    /// Some member may have the order that is pending.
    fn has_begun(&self) -> bool {
        let pending = self.lead.as_ref().and_then(|lead| lead.pending.as_ref());
        pending.is_some_and(super::drive::Pending::is_given)
    }

    fn live_have_answered(&self) -> bool {
        self.waits_for().and(self.live()).is_empty()
    }

    /// Begins the phase that comes first, if there is any.
    fn choose(&mut self) -> bool {
        let Some(step) = self.first_phase() else {
            return false;
        };
        let (members, downs) = (self.members, self.downs());
        if let Some(lead) = &mut self.lead {
            (lead.crew, lead.downs) = (members, downs);
        }
        self.enter(step);
        true
    }

    fn first_phase(&mut self) -> Option<Step> {
        let lead = self.lead.as_mut()?;
        if lead.recover {
            lead.recover = false;
            return Some(Step::Report);
        }
        if let Some(verdict) = self.next_verdict() {
            return Some(Step::Judge(verdict));
        }
        let bury_after = self.lead.as_ref()?.bury_after;
        let is_whole = self.silent().is_empty() && self.all_judged();
        if is_whole && !self.local.buriable.is_empty() && self.now >= bury_after {
            let cells: Vec<Cell> = self.local.buriable.iter().copied().take(CELLS_MAX).collect();
            let lead = self.lead.as_mut()?;
            lead.bury_after = self.now + LOOK;
            lead.todo = [Step::Bury(cells.clone()), Step::Plan(vec![])].into();
            lead.plan.clone_from(&cells);
            return Some(Step::Plan(cells));
        }
        if let Some((node, epoch)) = self.next_joiner() {
            return Some(Step::Snapshot(node, epoch));
        }
        if !is_whole {
            return None;
        }
        self.next_change().or_else(|| self.next_retirement())
    }

    fn next_change(&mut self) -> Option<Step> {
        let target = self.local.target;
        if self.lead.as_ref()?.committed == Some(target) || target.verdict != self.member.verdict.number {
            return None;
        }
        let mut all_agree = true;
        for place in self.members.without(self.settings.me).iter() {
            let theirs = self.peer(place)?.state?.target;
            if theirs == target {
                continue;
            }
            all_agree = false;
            let is_same = (theirs.generation, theirs.verdict) == (target.generation, target.verdict);
            let lead = self.lead.as_mut()?;
            if is_same && lead.told_rings.insert(place, theirs) != Some(theirs) {
                self.tell(Event::RingsDiffer(place));
            }
        }
        all_agree.then_some(Step::Prepare(target))
    }

    pub(super) fn next_retirement(&mut self) -> Option<Step> {
        // Flows of such a node are at `origin` as it was.
        if !self.adrift().is_empty() {
            return None;
        }
        let now = self.now;
        let peers = self.others().filter(|(place, _)| self.members.has(*place));
        let theirs = peers.flat_map(|(_, p)| &p.candidates).copied();
        let all: BTreeMap<(u64, u16), Cell> = theirs
            .chain(self.local.candidates.iter().copied())
            .map(|cell| ((cell.pool, cell.slot), cell))
            .collect();
        let lead = self.lead.as_mut()?;
        if lead.committed != Some(self.local.target) {
            return None;
        }
        lead.held.retain(|_, until| *until > now);
        let free = all.values().filter(|c| !lead.held.contains_key(*c));
        let cells: Vec<Cell> = free.copied().take(CELLS_MAX).collect();
        if cells.is_empty() {
            return None;
        }
        // Not the same once more before the engine has looked.
        self.hold(&cells);
        Some(Step::Close(cells))
    }
}

impl Lead {
    /// A number that no other fence of the group has.
    fn fence(&self) -> u64 {
        self.term.number << 24 | u64::from(self.term.node) << 18 | self.next_number() & 0x3_ffff
    }
}
