//! What the group thinks of backends, and what a node does that alone thinks otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::border::{Event, View};
use super::drive::Answers;
use super::machine::{Machine, Peer};
use super::nodes::Nodes;
use super::order::Verdict;
use super::wire::{self, Opinion};
use crate::health::fail_open::FailOpen;
use crate::health::{Mono, Phase};
use crate::state::standing::Standing;

/// A node believes for so long that it isn't alone, and half of this longer for each place: two that see different
/// backends don't withdraw together.
const DOUBT: Duration = Duration::from_secs(1);
/// And for so long that it is.
const CALM: Duration = Duration::from_secs(10);
/// Percent of a pool's weight that looks down to this node alone: above the first it withdraws, below the second it
/// comes back.
const ALONE: (u64, u64) = (50, 40);

/// Whether this node alone sees backends down.
#[derive(Debug, Default)]
pub(super) struct Alone {
    pub(super) is_on: bool,
    /// Since when it looks otherwise.
    otherwise: Option<Mono>,
}

/// Backends that don't look up. Of the operator's orders only *dead*, which the group has to carry out together; all nodes have the others
/// anyway.
pub(super) fn of(views: &[View]) -> BTreeMap<u64, Opinion> {
    let standing = |view: &View| match view.ordered {
        Standing::Dead => Standing::Dead,
        _ => view.seen,
    };
    let opinion = |view: &View| match standing(view) {
        Standing::Up => None,
        Standing::Draining => Some((view.backend, Opinion::Draining)),
        Standing::Suspect => Some((view.backend, Opinion::Suspect)),
        Standing::Dead => Some((view.backend, Opinion::Dead)),
    };
    views.iter().filter_map(opinion).collect()
}

/// What most nodes see of a backend.
fn seen_by_most(live: &[&BTreeMap<u64, Opinion>], backend: u64) -> Phase {
    let opinions = || live.iter().filter_map(|opinions| opinions.get(&backend));
    let is_most = |votes: usize| 2 * votes > live.len();
    if is_most(opinions().filter(|opinion| is_silent(**opinion)).count()) {
        Phase::Dead
    } else if is_most(opinions().count()) {
        Phase::Draining
    } else {
        Phase::Up
    }
}

const fn is_silent(opinion: Opinion) -> bool {
    matches!(opinion, Opinion::Suspect | Opinion::Dead)
}

impl Machine {
    fn opinions_of(&self, place: u8) -> Option<&BTreeMap<u64, Opinion>> {
        if place == self.settings.me {
            Some(&self.opinions)
        } else {
            self.peer(place)?.opinions.as_ref()
        }
    }

    /// Backends that don't answer some live member.
    pub(super) fn downs(&self) -> BTreeSet<(u8, u64)> {
        let live = self.live();
        let of = |place| {
            self.opinions_of(place)
                .into_iter()
                .flatten()
                .map(move |o| (place, o))
        };
        let all = live.iter().flat_map(of);
        all.filter(|(_, (_, opinion))| is_silent(**opinion))
            .map(|(place, (backend, _))| (place, *backend))
            .collect()
    }

    fn has_judged(&self, place: u8) -> bool {
        let number = self.member.verdict.number;
        let judged = self.lead.as_ref().and_then(|lead| lead.judged.get(&place));
        number == 0 || judged == Some(&number)
    }

    /// All members have carried out the verdict in force.
    pub(super) fn all_judged(&self) -> bool {
        self.members.iter().all(|place| self.has_judged(place))
    }

    /// The verdict that some member that can be reached has to carry out.
    pub(super) fn next_verdict(&self) -> Option<Verdict> {
        if !self.live().iter().all(|place| self.has_judged(place)) {
            return Some(self.member.verdict.clone());
        }
        // Less than most members make none of their own: a node that is cut off would judge all by itself, and what it
        // judged would hold for the others, too, when it is back.
        let is_most = 2 * self.live().len() > self.members.len();
        is_most.then(|| self.other_verdict()).flatten()
    }

    fn other_verdict(&self) -> Option<Verdict> {
        let old = &self.member.verdict;
        let live: Vec<_> = self.live().iter().map(|place| self.opinions_of(place)).collect();
        let named = live.iter().flatten().flat_map(|opinions| opinions.keys());
        let backends: BTreeSet<u64> = named.chain(&old.dead).copied().collect();
        let doubted = self.views.iter().filter_map(|view| {
            let state = self.doubted.get(&view.pool).filter(|_| Self::is_checked(view))?;
            Some((view.backend, *state))
        });
        let doubted: BTreeMap<u64, FailOpen> = doubted.collect();
        // Half a burial: none of the dead is back before it is whole.
        let stay = self.lead.as_ref().is_some_and(|lead| !lead.plan.is_empty());
        let mut new = Verdict {
            number: old.number,
            ..Verdict::default()
        };
        for backend in backends {
            let votes = live
                .iter()
                .flatten()
                .map(|opinions| opinions.get(&backend).copied());
            let count = |is: fn(Option<Opinion>) -> bool| votes.clone().filter(|vote| is(*vote)).count();
            let is_most = |votes: usize| 2 * votes > live.len();
            let answers = is_most(count(|vote| !vote.is_some_and(is_silent)));
            let state = doubted.get(&backend);
            let draining = match state {
                // Nobody is really up: who refuses is served, too.
                Some(FailOpen::All) => 0,
                _ => count(|vote| vote == Some(Opinion::Draining)),
            };
            let dead = match state {
                Some(_) => 0,
                None => count(|vote| vote == Some(Opinion::Dead)),
            };
            let stays = old.dead.contains(&backend) && (stay || !answers && state.is_none());
            if is_most(dead) || stays {
                new.dead.insert(backend);
            } else if is_most(dead + draining) {
                new.draining.insert(backend);
            }
        }
        new.returning = old.dead.difference(&new.dead).copied().collect();
        if !self.all_judged() {
            new.returning.extend(old.returning.difference(&new.dead));
        }
        if new == *old {
            return None;
        }
        new.number += 1;
        Some(new)
    }

    const fn is_checked(view: &View) -> bool {
        !matches!(view.ordered, Standing::Dead)
    }

    /// Which pools' checks the group doubts: it fails open as one node does ([`FailOpen`]), by what most of the live nodes see. No node may see
    /// so much down itself: each doubts by its own checks, and where each sees another half down, most votes would make all of it dead.
    pub(super) fn doubt(&mut self) {
        let live: Vec<_> = self
            .live()
            .iter()
            .filter_map(|place| self.opinions_of(place))
            .collect();
        if self.doubted.is_empty() && live.iter().all(|opinions| opinions.is_empty()) {
            return;
        }
        let given = self.views.iter().filter(|view| Self::is_checked(view));
        let mut pools: BTreeMap<u64, (u32, Vec<(u16, Phase)>)> = BTreeMap::new();
        for view in given {
            let (limit, seen) = pools.entry(view.pool).or_default();
            *limit = view.fail_open;
            seen.push((view.weight, seen_by_most(&live, view.backend)));
        }
        // Also of pools that aren't there any more.
        let gone = self.doubted.keys().filter(|pool| !pools.contains_key(pool));
        let mut events: Vec<Event> = gone.map(|&pool| Event::Doubts(pool, false)).collect();
        let mut doubted = BTreeMap::new();
        for (pool, (limit, seen)) in pools {
            let before = self.doubted.get(&pool).copied().unwrap_or_default();
            let state = before.next(limit, seen.into_iter());
            if state.is_open() != before.is_open() {
                events.push(Event::Doubts(pool, state.is_open()));
            }
            if state.is_open() {
                doubted.insert(pool, state);
            }
        }
        self.doubted = doubted;
        events.into_iter().for_each(|event| self.tell(event));
    }

    pub(super) fn after_judge(&mut self, verdict: &Verdict, answers: &Answers) {
        let number = verdict.number;
        if let Some(lead) = &mut self.lead {
            lead.judged.extend(answers.keys().map(|&place| (place, number)));
        }
        self.tell(Event::Judged(verdict.clone()));
    }

    /// The verdict was carried out by those who could be asked.
    pub(super) fn note_judged(&mut self, verdict: &Verdict) {
        let Some(lead) = &mut self.lead else { return };
        if let Some(pending) = &lead.pending {
            let judged = pending.answers.keys().map(|&place| (place, verdict.number));
            lead.judged.extend(judged);
        }
    }

    /// Whether this node should withdraw by itself, or come back.
    pub(super) fn look_around(&mut self) {
        let others = self.others_that_serve();
        if others.is_empty() && self.live().lowest() == Some(self.settings.me) {
            self.alone = Alone::default();
            return;
        }
        let limit = if self.alone.is_on { ALONE.1 } else { ALONE.0 };
        // Where nobody else serves it stays as it is.
        let is_alone = if others.is_empty() {
            self.alone.is_on
        } else {
            self.sees_alone(self.others_that_say(), limit)
        };
        if is_alone == self.alone.is_on {
            self.alone.otherwise = None;
            return;
        }
        let wait = if is_alone {
            DOUBT + DOUBT / 2 * u32::from(self.settings.me)
        } else {
            CALM
        };
        let since = *self.alone.otherwise.get_or_insert(self.now);
        if self.now.since(since) >= wait {
            self.alone = Alone {
                is_on: is_alone,
                otherwise: None,
            };
        }
    }

    /// Members that have told what they see, also those that have withdrawn for it.
    fn others_that_say(&self) -> Nodes {
        let others = self.others().filter(|(place, _)| self.members.has(*place));
        let is_ready = |p: &Peer| p.reached().is_some_and(|s| s.phase == wire::Phase::Ready);
        let say = others.filter(|(_, p)| is_ready(p) && p.opinions.is_some());
        say.map(|(place, _)| place).collect()
    }

    fn others_that_serve(&self) -> Nodes {
        let say = self.others_that_say();
        let serves = |p: &Peer| p.reached().is_some_and(|s| s.serving);
        let others = self.others().filter(|(place, p)| say.has(*place) && serves(p));
        others.map(|(place, _)| place).collect()
    }

    /// Some pool has more than `limit` percent of its weight on backends that don't answer here, but most of `others`.
    fn sees_alone(&self, others: Nodes, limit: u64) -> bool {
        let mut pools: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for view in &self.views {
            let (all, lonely) = pools.entry(view.pool).or_default();
            *all += u64::from(view.weight);
            let is_down = Self::is_checked(view) && matches!(view.seen, Standing::Suspect | Standing::Dead);
            let answers = |place: &u8| {
                let opinions = self.opinions_of(*place);
                opinions.is_some_and(|o| !o.get(&view.backend).is_some_and(|o| is_silent(*o)))
            };
            if is_down && 2 * others.iter().filter(answers).count() > others.len() as usize {
                *lonely += u64::from(view.weight);
            }
        }
        pools.values().any(|(all, lonely)| lonely * 100 > limit * all)
    }
}
