//! All checks together: a model in, questions and standings out.
//!
//! Questions leave by [`Monitor::poll_question`], answers come in by [`Monitor::handle`], what the agent should know by
//! [`Monitor::poll_event`] and [`Monitor::standings`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fail_open::FailOpen;
use super::flap::Penalty;
use super::fsm::{Fsm, Rules};
use super::plan::{Plan, Timing};
use super::{Mono, Outcome, Phase};
use crate::model::{Health, Model, Pool};
use crate::state::standing::{Standing, Standings};

/// A question to one backend.
#[derive(Clone, Debug)]
pub struct Question {
    /// The backend's stable identity.
    pub id: u64,
    /// To be given back with the answer: one that was asked under an older check doesn't count.
    pub ticket: u64,
    /// Whom to ask; where the check names a VIP, that is asked in place of this.
    pub address: IpAddr,
    /// What to ask; the same allocation for all backends of a pool until the check changes.
    pub check: Arc<Health>,
}

/// Something that the agent should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A backend has another verdict.
    Backend {
        /// Its stable identity.
        id: u64,
        /// Its name, as `pool/name`.
        backend: String,
        /// What its checks said before.
        from: Phase,
        /// What they say now.
        to: Phase,
        /// Why.
        reason: String,
    },
    /// A pool has opened, or changed how far, or closed again.
    Pool {
        /// Its name.
        pool: String,
        /// Whether its checks are believed.
        #[serde(skip)]
        state: FailOpen,
        /// The share of its weight that looks down, in percent.
        down: u32,
    },
}

/// What is known of one backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The pool's name.
    pub pool: String,
    /// The backend's name.
    pub name: String,
    /// Its stable identity.
    pub id: u64,
    /// What is asked, such as `https`.
    pub check: &'static str,
    /// What its own answers amount to.
    pub phase: Phase,
    /// What it may get, by its pool's verdict too; see [`Standing::name`].
    pub standing: &'static str,
    /// Why.
    pub reason: String,
    /// Since when it is in this phase, as Unix time in milliseconds.
    pub since_unix_ms: u64,
    /// The last answer, and how long it took in microseconds; nothing before the first.
    pub last: Option<Last>,
    /// How much of its penalty for flapping is left, in falls.
    pub penalty: f64,
    /// Whether that holds it out.
    pub held: bool,
    /// Answers since the agent started.
    pub counts: Counts,
}

/// The last answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Last {
    /// `good`, `refuses`, `silent` or `unasked`.
    pub outcome: &'static str,
    /// Why it isn't good.
    pub reason: Option<String>,
    /// From the question to the answer, or to giving up, in microseconds.
    pub took_us: u64,
    /// When, as Unix time in milliseconds.
    pub at_unix_ms: u64,
}

/// Answers by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Good ones.
    pub good: u64,
    /// Those that refuse.
    pub refuses: u64,
    /// None within the timeout.
    pub silent: u64,
    /// Questions that this host could not ask.
    pub unasked: u64,
    /// Changes of the phase.
    pub changes: u64,
}

/// What one agent leaves to the next of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its stable identity.
    pub id: u64,
    /// The address that was asked: another one is another server.
    pub address: IpAddr,
    /// The verdict.
    pub phase: Phase,
    /// Since when, as Unix time in milliseconds.
    pub since_unix_ms: u64,
    /// Why.
    pub reason: String,
    /// What was left of its penalty when this was written, in falls.
    pub penalty: f64,
    /// Whether that holds it out.
    pub held: bool,
    /// When this was written, as Unix time in milliseconds.
    pub at_unix_ms: u64,
    /// Whether its pool was open, by [`FailOpen`]'s order: 0 to 2.
    pub open: u8,
}

/// All checks.
#[derive(Debug)]
pub struct Monitor {
    pools: Vec<Checked>,
    backends: BTreeMap<u64, Backend>,
    /// Those that may die: looked at far more often than they change.
    suspects: BTreeSet<u64>,
    plan: Plan,
    events: VecDeque<Event>,
    next_ticket: u64,
    /// Standings may have changed.
    dirty: bool,
    standings: Standings,
}

/// A pool with a check.
#[derive(Debug)]
struct Checked {
    name: String,
    check: Arc<Health>,
    /// Identity and weight.
    members: Vec<(u64, u16)>,
    open: FailOpen,
}

#[derive(Debug)]
struct Backend {
    /// Index of its pool among those that are checked.
    place: usize,
    pool: String,
    name: String,
    address: IpAddr,
    check: Arc<Health>,
    ticket: u64,
    fsm: Fsm,
    last: Option<(Outcome, Duration, Mono)>,
    counts: Counts,
}

impl Monitor {
    /// Nothing to check yet; at most `bound` questions are in flight at once.
    pub fn new(bound: usize) -> Self {
        Self {
            pools: Vec::new(),
            backends: BTreeMap::new(),
            suspects: BTreeSet::new(),
            plan: Plan::new(bound),
            events: VecDeque::new(),
            next_ticket: 0,
            dirty: false,
            standings: Standings::default(),
        }
    }

    /// Takes the checks of a model. Backends that were there stay as they are where check and address do too; under another
    /// check they start anew without going through down ([`Fsm::under`]). New ones begin as `saved` says, if
    /// it names them.
    pub fn configure(&mut self, model: &Model, saved: &[Record], now: Mono) {
        let saved: BTreeMap<u64, &Record> = saved.iter().map(|record| (record.id, record)).collect();
        let mut before = std::mem::take(&mut self.backends);
        let pools = std::mem::take(&mut self.pools);
        for pool in &model.pools {
            let Some(health) = &pool.health else { continue };
            let old = pools.iter().find(|old| old.name == pool.name.as_str());
            let check = old
                .filter(|old| *old.check == *health)
                .map_or_else(|| Arc::new(health.clone()), |old| Arc::clone(&old.check));
            for backend in &pool.backends {
                let old = before
                    .remove(&backend.id)
                    .filter(|old| old.address == backend.address);
                let saved = saved
                    .get(&backend.id)
                    .filter(|saved| saved.address == backend.address);
                let backend = self.backend(pool, backend, &check, (old, saved.copied()), now);
                self.backends.insert(backend.0, backend.1);
            }
            let first = pool.backends.first().and_then(|backend| saved.get(&backend.id));
            let was = first.map_or(FailOpen::Closed, |record| FailOpen::from_number(record.open));
            self.pools.push(Checked {
                name: pool.name.as_str().to_owned(),
                members: pool.backends.iter().map(|b| (b.id, b.weight)).collect(),
                check,
                open: old.map_or(was, |old| old.open),
            });
        }
        let gone: Vec<u64> = before
            .into_keys()
            .filter(|id| !self.backends.contains_key(id))
            .collect();
        gone.into_iter().for_each(|id| self.plan.remove(id));
        let suspects = self
            .backends
            .iter()
            .filter(|(_, backend)| backend.fsm.poll_timeout().is_some());
        self.suspects = suspects.map(|(id, _)| *id).collect();
        let standings = std::mem::take(&mut self.standings);
        let dirty = self.dirty;
        (0..self.pools.len()).for_each(|place| self.judge(place));
        self.dirty = dirty || standings != self.standings;
    }

    /// A backend of the pool that comes next.
    fn backend(
        &mut self,
        pool: &Pool,
        backend: &crate::model::Backend,
        check: &Arc<Health>,
        (old, saved): (Option<Backend>, Option<&Record>),
        now: Mono,
    ) -> (u64, Backend) {
        let timing = Timing {
            interval: check.interval,
            jitter: check.jitter,
        };
        self.plan.set(backend.id, timing, now);
        let place = self.pools.len();
        let rules = Rules::from(check.as_ref());
        let made = match (old, saved) {
            (Some(old), _) if *old.check == **check => Backend { place, ..old },
            (Some(old), _) => Backend {
                fsm: old.fsm.under(rules, now),
                check: Arc::clone(check),
                ticket: self.ticket(),
                place,
                ..old
            },
            (None, saved) => Backend {
                place,
                pool: pool.name.as_str().to_owned(),
                name: backend.name.as_str().to_owned(),
                address: backend.address,
                check: Arc::clone(check),
                ticket: self.ticket(),
                fsm: saved.map_or_else(|| Fsm::new(rules, now), |saved| saved.fsm(rules, now)),
                last: None,
                counts: Counts::default(),
            },
        };
        (backend.id, made)
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// The next question to ask now.
    pub fn poll_question(&mut self, now: Mono) -> Option<Question> {
        loop {
            let id = self.plan.poll(now)?;
            if let Some(backend) = self.backends.get(&id) {
                return Some(Question {
                    id,
                    ticket: backend.ticket,
                    address: backend.address,
                    check: Arc::clone(&backend.check),
                });
            }
            self.plan.finished(id, now, 0.0);
        }
    }

    /// Takes what came of a question; `chance` from 0 to 1 (exclusive) decides how late the next one is.
    pub fn handle(
        &mut self,
        (id, ticket): (u64, u64),
        outcome: Outcome,
        took: Duration,
        now: Mono,
        chance: f64,
    ) {
        self.plan.finished(id, now, chance);
        let Some(backend) = self
            .backends
            .get_mut(&id)
            .filter(|backend| backend.ticket == ticket)
        else {
            return;
        };
        backend.counts.add(&outcome);
        let from = backend.fsm.phase();
        let changed = backend.fsm.handle(&outcome, now);
        backend.last = Some((outcome, took, now));
        if changed {
            self.follow(id, from);
        }
    }

    /// Takes the passing of time.
    pub fn handle_timeout(&mut self, now: Mono) {
        let suspects: Vec<u64> = self.suspects.iter().copied().collect();
        for id in suspects {
            let Some(backend) = self.backends.get_mut(&id) else {
                continue;
            };
            let from = backend.fsm.phase();
            if backend.fsm.handle_timeout(now) {
                self.follow(id, from);
            }
        }
    }

    /// When a question is due or a suspect dies.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let suspects = self.suspects.iter().filter_map(|id| self.backends.get(id));
        let deaths = suspects.filter_map(|backend| backend.fsm.poll_timeout());
        deaths.chain(self.plan.poll_timeout()).min()
    }

    /// What has happened, the oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether standings have changed since the last such question.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What backends may get; those not named are up.
    pub const fn standings(&self) -> &Standings {
        &self.standings
    }

    /// All that is known, in the model's order.
    pub fn rows(&self, now: Mono) -> Vec<Row> {
        let members = self.pools.iter().flat_map(|pool| &pool.members);
        members
            .map(|(id, _)| self.backends[id].row(*id, self.standings.of(*id), now))
            .collect()
    }

    /// Pools that are open, by name.
    pub fn open(&self) -> Vec<(String, FailOpen)> {
        let open = self.pools.iter().filter(|pool| pool.open.is_open());
        open.map(|pool| (pool.name.clone(), pool.open)).collect()
    }

    /// What the next agent should know.
    pub fn records(&self, now: Mono) -> Vec<Record> {
        let mut records = Vec::with_capacity(self.backends.len());
        for pool in &self.pools {
            let of = |(id, _): &(u64, u16)| self.backends[id].record(*id, pool.open, now);
            records.extend(pool.members.iter().map(of));
        }
        records
    }

    /// Follows a backend's new phase.
    fn follow(&mut self, id: u64, from: Phase) {
        let Some(backend) = self.backends.get_mut(&id) else {
            return;
        };
        self.events.push_back(backend.changed(id, from));
        if backend.fsm.poll_timeout().is_some() {
            self.suspects.insert(id);
        } else {
            self.suspects.remove(&id);
        }
        // The first verdicts of thousands of backends change nothing for anybody.
        if !(from.is_up() && backend.fsm.phase().is_up()) {
            let place = backend.place;
            self.judge(place);
        }
    }

    /// One pool's verdict and its backends' standings, from their phases.
    fn judge(&mut self, place: usize) {
        let pool = &mut self.pools[place];
        let phases = || {
            let members = pool.members.iter();
            members.map(|(id, weight)| (*weight, self.backends[id].fsm.phase()))
        };
        let open = pool.open.next(pool.check.fail_open, phases());
        if open != pool.open {
            self.events.push_back(Event::Pool {
                pool: pool.name.clone(),
                state: open,
                down: down(phases()),
            });
            pool.open = open;
        }
        for (id, _) in &pool.members {
            let phase = self.backends[id].fsm.phase();
            let (standing, seen) = (open.standing(phase), FailOpen::Closed.standing(phase));
            let before = match standing {
                Standing::Up => self.standings.standing.remove(id),
                other => self.standings.standing.insert(*id, other),
            };
            self.dirty |= before.unwrap_or_default() != standing;
            let doubted = (seen != standing).then_some(seen);
            let before = match doubted {
                Some(seen) => self.standings.doubted.insert(*id, seen),
                None => self.standings.doubted.remove(id),
            };
            self.dirty |= before != doubted;
        }
    }
}

/// The share of weight that looks down, in percent, rounded down.
fn down(phases: impl Iterator<Item = (u16, Phase)>) -> u32 {
    let (down, all) = phases.fold((0u64, 0u64), |(down, all), (weight, phase)| {
        let weight = u64::from(weight);
        (down + if phase.is_up() { 0 } else { weight }, all + weight)
    });
    u32::try_from(down * 100 / all.max(1)).unwrap_or(100)
}

impl FailOpen {
    const ORDER: [Self; 3] = [Self::Closed, Self::Silent, Self::All];

    fn number(self) -> u8 {
        (0u8..)
            .zip(Self::ORDER)
            .find(|(_, state)| *state == self)
            .map_or(0, |(number, _)| number)
    }

    fn from_number(number: u8) -> Self {
        Self::ORDER.get(usize::from(number)).copied().unwrap_or_default()
    }
}

impl Record {
    fn fsm(&self, rules: Rules, now: Mono) -> Fsm {
        let at = |milliseconds| Mono::from_unix(Duration::from_millis(milliseconds));
        let penalty = Penalty::of(self.penalty, self.held, at(self.at_unix_ms));
        Fsm::resume(
            rules,
            self.phase,
            at(self.since_unix_ms),
            self.reason.clone(),
            penalty,
            now,
        )
    }
}

impl Backend {
    fn changed(&mut self, id: u64, from: Phase) -> Event {
        self.counts.changes += 1;
        Event::Backend {
            id,
            backend: format!("{}/{}", self.pool, self.name),
            from,
            to: self.fsm.phase(),
            reason: self.fsm.reason().to_owned(),
        }
    }

    fn row(&self, id: u64, standing: Standing, now: Mono) -> Row {
        Row {
            pool: self.pool.clone(),
            name: self.name.clone(),
            id,
            check: self.check.probe.name(),
            phase: self.fsm.phase(),
            standing: standing.name(),
            reason: self.fsm.reason().to_owned(),
            since_unix_ms: milliseconds(self.fsm.since()),
            last: self.last.as_ref().map(|(outcome, took, at)| Last {
                outcome: outcome.name(),
                reason: outcome.reason().map(str::to_owned),
                took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                at_unix_ms: milliseconds(*at),
            }),
            penalty: self.fsm.penalty_now(now),
            held: self.fsm.penalty().is_held(),
            counts: self.counts,
        }
    }

    fn record(&self, id: u64, open: FailOpen, now: Mono) -> Record {
        Record {
            id,
            address: self.address,
            phase: self.fsm.phase(),
            since_unix_ms: milliseconds(self.fsm.since()),
            reason: self.fsm.reason().to_owned(),
            penalty: self.fsm.penalty_now(now),
            held: self.fsm.penalty().is_held(),
            at_unix_ms: milliseconds(now),
            open: open.number(),
        }
    }
}

fn milliseconds(at: Mono) -> u64 {
    u64::try_from(at.unix().as_millis()).unwrap_or(u64::MAX)
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        let count = match outcome {
            Outcome::Good => &mut self.good,
            Outcome::Refuses(_) => &mut self.refuses,
            Outcome::Silent(_) => &mut self.silent,
            Outcome::Unasked(_) => &mut self.unasked,
        };
        *count += 1;
    }
}

#[cfg(test)]
mod tests;
