//! Gives one order at a time and collects the answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::border::Event;
use super::machine::Machine;
use super::nodes::Nodes;
use super::order::{Answer, Cell, Order, SlotImage, Target};
use super::phase::Step;
use super::wire::{Edition, Job, Memory, Msg, Numbered, Term};
use crate::health::Mono;

/// An order that could not be carried out yet is given again after this.
const RETRY: Duration = Duration::from_millis(200);
/// Answers stay away for so long: say for whom the phase waits.
const WAITS: Duration = Duration::from_secs(2);
/// An office that was lost to a higher term is not taken again sooner.
const RETAKE: Duration = Duration::from_millis(500);

/// A coordinator's time in office.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) term: Term,
    number: u64,
    taken: Mono,
    /// The step under way.
    pub(super) step: Step,
    /// Since when.
    pub(super) since: Mono,
    /// What follows when it is done.
    pub(super) todo: VecDeque<Step>,
    pub(super) pending: Option<Pending>,
    /// Somebody may hold slots that were left half done.
    pub(super) recover: bool,
    /// Who was a member when the phase began.
    pub(super) crew: Nodes,
    /// Backends that looked down to somebody when the phase began.
    pub(super) downs: BTreeSet<(u8, u64)>,
    /// Who has carried out which verdict.
    pub(super) judged: BTreeMap<u8, u64>,
    pub(super) committed: Option<Target>,
    /// Slots that are not to be tried again before.
    pub(super) held: BTreeMap<Cell, Mono>,
    /// Who wants to join, with which epoch.
    pub(super) joiners: BTreeMap<u8, u64>,
    /// Joiners that failed, and until when they are not taken.
    pub(super) rests: BTreeMap<u8, Mono>,
    /// Slots that the joiner gets next.
    pub(super) images: VecDeque<SlotImage>,
    pub(super) offers: u64,
    /// Somebody may have buried these.
    pub(super) plan: Vec<Cell>,
    /// No burial before.
    pub(super) bury_after: Mono,
    told_waits: Nodes,
    pub(super) told_rings: BTreeMap<u8, Target>,
}

/// An order, and what came of it.
#[derive(Debug)]
pub(super) struct Pending {
    number: u64,
    job: Job,
    /// Whose answers it needs.
    need: Need,
    began: Mono,
    /// The session on which each has it (0 for this node), and when.
    given: BTreeMap<u8, (u64, Mono)>,
    pub(super) answers: BTreeMap<u8, (Answer, Option<Memory>)>,
}

/// Whose answers an order needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need {
    /// All members'; it waits for those that are silent.
    All,
    /// All members', and this node carries it out when all others have: as long as it hasn't, nobody has who can't be
    /// asked but for others.
    AllSelfLast,
    /// Those of members that can be reached.
    Live,
}

/// What came of an order, by member.
pub(super) type Answers = BTreeMap<u8, (Answer, Option<Memory>)>;

impl Lead {
    fn new(term: Term, now: Mono) -> Self {
        Self {
            term,
            number: 0,
            taken: now,
            step: Step::Idle,
            since: now,
            todo: VecDeque::new(),
            pending: None,
            recover: true,
            crew: Nodes::default(),
            downs: BTreeSet::new(),
            judged: BTreeMap::new(),
            committed: None,
            held: BTreeMap::new(),
            joiners: BTreeMap::new(),
            rests: BTreeMap::new(),
            images: VecDeque::new(),
            offers: 0,
            plan: Vec::new(),
            bury_after: now,
            told_waits: Nodes::default(),
            told_rings: BTreeMap::new(),
        }
    }

    pub(super) fn under_way(&self) -> Option<&'static str> {
        self.step.name()
    }

    /// Since when the order under way is.
    pub(super) fn waits_since(&self) -> Option<Mono> {
        self.pending.as_ref().map(|pending| pending.began)
    }

    pub(super) fn order(&mut self, job: Job, need: Need, now: Mono) {
        self.number += 1;
        self.pending = Some(Pending {
            number: self.number,
            job,
            need,
            began: now,
            given: BTreeMap::new(),
            answers: BTreeMap::new(),
        });
    }

    pub(super) fn next_number(&self) -> u64 {
        self.number + 1
    }

    pub(super) fn engine(&mut self, order: Order, need: Need, now: Mono) {
        self.order(Job::Engine(order), need, now);
    }
}

impl Pending {
    /// Somebody may have it.
    pub(super) fn is_given(&self) -> bool {
        !self.given.is_empty()
    }
}

impl Machine {
    /// Coordinates, or doesn't any more.
    pub(super) fn take_or_leave_office(&mut self) {
        let is_mine = self.coordinator() == Some(self.settings.me);
        let Some(lead) = &self.lead else {
            if is_mine {
                self.take_office();
            }
            return;
        };
        if !is_mine {
            self.lead = None;
            self.tell(Event::Yields);
        } else if self.term > lead.term && self.now.since(lead.taken) >= RETAKE {
            self.take_office();
        }
    }

    fn take_office(&mut self) {
        let term = self.next_term();
        let mut lead = Lead::new(term, self.now);
        lead.joiners = self.lead.take().map(|old| old.joiners).unwrap_or_default();
        self.lead = Some(lead);
        self.term = term;
        if std::mem::take(&mut self.is_ahead) {
            self.edition = Edition { term, change: 1 };
        }
        let named = self.members_of_others();
        self.learn_members(named);
        self.tell(Event::Coordinates { term: term.number });
    }

    /// Gives the order to whoever doesn't have it, and takes the answers when all that are needed are there.
    pub(super) fn pump(&mut self) -> Option<Answers> {
        for place in self.members.iter() {
            self.give(place);
        }
        let needed = self.needed();
        let waits = self.waits_for();
        let now = self.now;
        let lead = self.lead.as_mut()?;
        let pending = lead.pending.as_mut()?;
        if needed.iter().all(|place| pending.answers.contains_key(&place)) {
            return lead.pending.take().map(|pending| pending.answers);
        }
        let silent = if now.since(pending.began) >= WAITS {
            waits
        } else {
            Nodes::default()
        };
        if silent != lead.told_waits {
            lead.told_waits = silent;
            if !silent.is_empty() {
                self.tell(Event::Waits(silent));
            }
        }
        None
    }

    fn needed(&self) -> Nodes {
        let need = self
            .lead
            .as_ref()
            .and_then(|l| l.pending.as_ref())
            .map(|p| p.need);
        if need == Some(Need::Live) {
            self.live()
        } else {
            self.members
        }
    }

    /// Whose answers are missing.
    pub(super) fn waits_for(&self) -> Nodes {
        let Some(pending) = self.lead.as_ref().and_then(|l| l.pending.as_ref()) else {
            return Nodes::default();
        };
        let missing = |place: &u8| !pending.answers.contains_key(place);
        self.needed().iter().filter(missing).collect()
    }

    fn give(&mut self, place: u8) {
        let me = self.settings.me;
        let session = if place == me {
            Some(0)
        } else {
            self.peer(place)
                .filter(|p| p.is_reachable())
                .and_then(|p| p.session)
        };
        let (now, members, edition, adrift) = (self.now, self.members, self.edition, self.adrift());
        let (Some(session), Some(lead)) = (session, &mut self.lead) else {
            return;
        };
        let Some(pending) = &mut lead.pending else { return };
        let has_it = match pending.given.get(&place) {
            Some((on, retry)) => *on == session && now < *retry,
            None => false,
        };
        let others = members.without(me);
        let answered = |place: u8| pending.answers.contains_key(&place);
        let waits = place == me && pending.need == Need::AllSelfLast && !others.iter().all(answered);
        if has_it || waits || answered(place) {
            return;
        }
        // Far away: until there is an answer that asks for more.
        pending
            .given
            .insert(place, (session, now + Duration::from_secs(u64::from(u32::MAX))));
        let order = Numbered {
            term: lead.term,
            number: pending.number,
            members,
            edition,
            adrift,
            job: pending.job.clone(),
        };
        if place == me {
            self.obey(me, order);
        } else {
            self.send(place, &Msg::Order(order));
        }
    }

    pub(super) fn on_answer(&mut self, from: u8, of: (Term, u64), answer: Answer, memory: Option<Memory>) {
        let retry = self.now + RETRY;
        let Some(lead) = self.lead.as_mut().filter(|l| l.term == of.0) else {
            return;
        };
        let Some(pending) = lead.pending.as_mut().filter(|p| p.number == of.1) else {
            return;
        };
        if answer == Answer::Later {
            if let Some(given) = pending.given.get_mut(&from) {
                given.1 = retry;
            }
        } else {
            pending.answers.insert(from, (answer, memory));
        }
    }
}
