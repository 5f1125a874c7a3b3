//! What the group thinks of backends, and what a node does that alone thinks otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::border::{Event, View};
use super::drive::Answers;
use super::machine::Machine;
use super::nodes::Nodes;
use super::order::Verdict;
use super::wire::{Opinion, Phase};
use crate::health::Mono;
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

/// Backends that don't look up.
pub(super) fn of(views: &[View]) -> BTreeMap<u64, Opinion> {
    let opinion = |view: &View| match view.standing() {
        Standing::Up => None,
        Standing::Draining => Some((view.backend, Opinion::Draining)),
        Standing::Suspect => Some((view.backend, Opinion::Suspect)),
        Standing::Dead => Some((view.backend, Opinion::Dead)),
    };
    views.iter().filter_map(opinion).collect()
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
        let doubted = self.views.iter().filter(|view| self.is_doubted(view));
        let doubted: BTreeSet<u64> = doubted.map(|view| view.backend).collect();
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
            let is_doubted = doubted.contains(&backend);
            let draining = count(|vote| vote == Some(Opinion::Draining));
            let dead = if is_doubted {
                0
            } else {
                count(|vote| vote == Some(Opinion::Dead))
            };
            let stays = old.dead.contains(&backend) && (stay || !answers && !is_doubted);
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

    fn is_doubted(&self, view: &View) -> bool {
        Self::is_checked(view) && self.doubted.contains(&view.pool)
    }

    /// Which pools' checks are doubted: most of the live nodes can't be heard by more of a pool's weight than `fail_open`
    /// allows. No node may see so much itself: each doubts by its own checks, and where each sees another half down, most votes
    /// would make all of it dead. Doubted until the share has sunk to four fifths of the limit, as on one node.
    pub(super) fn doubt(&mut self) {
        let live: Vec<_> = self
            .live()
            .iter()
            .filter_map(|place| self.opinions_of(place))
            .collect();
        if self.doubted.is_empty() && live.iter().all(|opinions| opinions.is_empty()) {
            return;
        }
        // Limit, weight of all, of the silent.
        let mut pools: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
        for view in &self.views {
            let (limit, all, silent) = pools.entry(view.pool).or_default();
            *limit = u64::from(view.fail_open);
            *all += u64::from(view.weight);
            let is_silent =
                |o: &&&BTreeMap<u64, Opinion>| o.get(&view.backend).is_some_and(|o| is_silent(*o));
            if Self::is_checked(view) && 2 * live.iter().filter(is_silent).count() > live.len() {
                *silent += u64::from(view.weight);
            }
        }
        let before = &self.doubted;
        let is_doubted = |(pool, (limit, all, silent)): (u64, (u64, u64, u64))| {
            let fifths = if before.contains(&pool) { 4 } else { 5 };
            (limit < 100 && silent * 500 > limit * fifths * all).then_some(pool)
        };
        self.doubted = pools.into_iter().filter_map(is_doubted).collect();
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
            self.sees_alone(others, limit)
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

    fn others_that_serve(&self) -> Nodes {
        let others = self.others().filter(|(place, _)| self.members.has(*place));
        others
            .filter(|(_, p)| p.reached().is_some_and(|s| s.phase == Phase::Ready && s.serving))
            .filter(|(_, p)| p.opinions.is_some())
            .map(|(place, _)| place)
            .collect()
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
