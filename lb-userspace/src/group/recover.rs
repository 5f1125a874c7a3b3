//! What an earlier coordinator left half done.
//!
//! Where anybody has retired a slot it is retired everywhere; else it is opened again. A member that can't be asked may
//! have retired slots, so nothing is opened meanwhile; but for the coordinator that closed them, since a coordinator
//! retires last: its death doesn't keep slots closed until it counts as withdrawn.

use std::collections::{BTreeMap, BTreeSet};

use super::border::Event;
use super::drive::Answers;
use super::machine::Machine;
use super::order::{Answer, Cell, Progress};
use super::phase::Step;
use super::wire::{CELLS_MAX, Memory};

impl Machine {
    /// Takes what all members in reach have told.
    pub(super) fn recover(&mut self, answers: &Answers) {
        let memories: Vec<&Memory> = answers
            .values()
            .filter_map(|(_, memory)| memory.as_ref())
            .collect();
        for memory in &memories {
            if memory.members.has(self.settings.me) {
                self.learn_members(memory.members);
            }
        }
        self.recall_verdict(answers);
        self.recall_committed(&memories);
        let plans: BTreeSet<Cell> = memories.iter().flat_map(|m| &m.plan).copied().collect();
        let (retired, closed) = collect(answers);
        let reopened = if self.may_reopen(&memories) {
            closed
        } else {
            vec![]
        };
        if !(retired.is_empty() && reopened.is_empty()) {
            self.tell(Event::Recovered {
                finished: retired.len(),
                reopened: reopened.len(),
            });
        }
        let plans: Vec<Cell> = plans.into_iter().collect();
        let verdict = self.member.verdict.clone();
        let Some(lead) = &mut self.lead else { return };
        lead.plan.clone_from(&plans);
        for cells in reopened.chunks(CELLS_MAX) {
            lead.todo.push_back(Step::Reopen(cells.to_vec()));
        }
        for cells in retired.chunks(CELLS_MAX) {
            lead.todo.push_back(Step::Complete(cells.to_vec()));
            lead.todo.push_back(Step::Finish(cells.to_vec()));
        }
        // A member that started anew has forgotten who is dead, and would bury nobody.
        if !plans.is_empty() {
            lead.todo.push_back(Step::Judge(verdict));
        }
        for cells in plans.chunks(CELLS_MAX) {
            lead.todo.push_back(Step::Bury(cells.to_vec()));
        }
        if !plans.is_empty() {
            lead.todo.push_back(Step::Plan(vec![]));
        }
    }

    /// Whether nobody can have retired what nobody says to have retired.
    fn may_reopen(&self, memories: &[&Memory]) -> bool {
        let silent = self.silent();
        let Some(driver) = silent.lowest() else {
            return true;
        };
        let is_his = |m: &&Memory| {
            m.closed
                .is_none_or(|closed| closed.node == driver && (m.before == closed || m.before.node != driver))
        };
        silent.len() == 1 && memories.iter().all(is_his) && memories.iter().any(|m| m.closed.is_some())
    }

    fn recall_verdict(&mut self, answers: &Answers) {
        let memories = || answers.values().filter_map(|(_, memory)| memory.as_ref());
        let Some(newest) = memories().max_by_key(|m| m.verdict.number) else {
            return;
        };
        if newest.verdict.number > self.member.verdict.number {
            self.take_verdict(&newest.verdict.clone());
        }
        let number = self.member.verdict.number;
        let told = answers
            .iter()
            .filter_map(|(place, (_, memory))| Some((*place, memory.as_ref()?)));
        let judged = told
            .filter(|(_, m)| m.judged && m.verdict.number == number)
            .map(|(place, _)| (place, number))
            .collect();
        if let Some(lead) = &mut self.lead {
            lead.judged = judged;
        }
    }

    /// Known only if all say the same: a change is made again otherwise.
    fn recall_committed(&mut self, memories: &[&Memory]) {
        let first = memories.first().and_then(|m| m.committed);
        let is_whole = self.silent().is_empty() && memories.iter().all(|m| m.committed == first);
        if let Some(lead) = &mut self.lead {
            lead.committed = first.filter(|_| is_whole);
        }
    }
}

/// Slots that somebody retired, and those that are only closed.
fn collect(answers: &Answers) -> (Vec<Cell>, Vec<Cell>) {
    let mut slots: BTreeMap<(u64, u16), (bool, Cell)> = BTreeMap::new();
    for (answer, _) in answers.values() {
        let Answer::Progress(progress) = answer else {
            continue;
        };
        for progress in progress {
            let (is_retired, cell) = match *progress {
                Progress::Closed(cell) => (false, cell),
                Progress::Retired(cell) => (true, cell),
            };
            let known = slots.entry((cell.pool, cell.slot)).or_insert((is_retired, cell));
            if is_retired && !known.0 {
                *known = (true, cell);
            }
        }
    }
    let (retired, closed): (Vec<_>, Vec<_>) = slots.into_values().partition(|(is_retired, _)| *is_retired);
    let cells = |found: Vec<(bool, Cell)>| found.into_iter().map(|(_, cell)| cell).collect();
    (cells(retired), cells(closed))
}
