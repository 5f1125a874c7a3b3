//! Changes of slots, and sweeps of the flow table: the shell around [`crate::state::track`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lb_common::admit::{EVENTS, FULL, UDP_FULL};
use lb_common::backend::DEAD;
use lb_common::slot::Slot;
use lb_common::tick::{self, Tick};
use lb_common::{flow, hash};
use tracing::{info, warn};

use super::controller::Controller;
use crate::dataplane::Error;
use crate::dataplane::batch::Walk;
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;
use crate::model::{Model, Protocol, Tracking, Vip};
use crate::state::contents::{Contents, Ring};
use crate::state::diff::Op;
use crate::state::ids::Ids;
use crate::state::linger::Linger;
use crate::state::standing::{Standing, Standings};
use crate::state::track::{
    Census, Finder, Fits, Gate, Held, Judge, Sweep, TABLES, Terms, Tracker, fits, named,
};

/// How often it is seen whether a prepared change may take effect.
const COMMIT_EVERY: Duration = Duration::from_millis(250);

/// From the end of a sweep to the next while slots are tracked; at least nine times as long as the sweep took.
const SWEEP_SOON: Duration = Duration::from_secs(1);

/// The same while there is nothing but entries.
const SWEEP_LATER: Duration = Duration::from_secs(10);

/// So much is swept before the agent does something else.
const PIECE: Duration = Duration::from_millis(5);

/// Tables in the order of a sweep: entries move from the first ones to the last ones, so none escapes.
const ORDER: [Table; TABLES] = [
    Table::Probation,
    Table::UdpProbation,
    Table::Replicas,
    Table::Flows,
    Table::UdpFlows,
];

/// What the controller knows of slots that change.
pub(super) struct Changes {
    pub(super) tracker: Tracker,
    pub(super) linger: Linger,
    pub(super) terms: BTreeMap<u16, Terms>,
    pub(super) fits: Fits,
    finder: Finder,
    pub(super) key: hash::Key,
    running: Option<Running>,
    /// What the last sweep took.
    swept: Duration,
    commit: Option<Instant>,
    sweep: Option<Instant>,
    /// For how long a slot may be tracked, ticks.
    max: u32,
    /// Whether this node is the group's only member.
    alone: bool,
    /// Who lets planned changes go on.
    pub(super) gate: Gate,
    /// Own entries that sweeps have deleted, for the peers; none are kept where there are none.
    deleted: Option<Vec<(flow::Key, flow::Entry)>>,
    /// Whether some VIP's flows are always entered.
    always: bool,
    room: [u32; TABLES],
}

/// A sweep under way.
struct Running {
    began: Instant,
    sweep: Sweep,
    table: usize,
    walk: Walk,
}

impl Running {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            sweep: Sweep::new(now()),
            table: 0,
            walk: Walk::default(),
        }
    }
}

impl Changes {
    /// Takes over what an earlier agent left.
    pub(super) fn new(model: &Model, applied: &Contents, maps: &Maps) -> Result<Self, Error> {
        let key = hash::Key::expand(&maps.meta()?.group_key);
        let udp = model.vips.iter().filter(|vip| vip.protocol == Protocol::Udp);
        let udp = udp.map(|vip| ticks(vip.idle_timeout)).max().unwrap_or(0);
        let mut tracker = Tracker::adopt(applied.pools.keys().copied(), maps, !is_peered(model), udp, now());
        // Whether the earlier agent had deleted their entries is not known.
        let dead = applied.backends.iter().filter(|(_, b)| b.entry.flags & DEAD != 0);
        tracker.bury(dead.map(|(&index, _)| index), now());
        Ok(Self {
            tracker,
            linger: leave(Linger::default(), model, model, applied),
            terms: BTreeMap::new(),
            fits: Fits::new(),
            finder: Finder::new(model, applied, key),
            key,
            running: None,
            swept: Duration::ZERO,
            commit: None,
            // Whatever an earlier agent left is looked at.
            sweep: Some(Instant::now()),
            max: 0,
            alone: false,
            gate: if is_peered(model) { Gate::Shut } else { Gate::Alone },
            deleted: is_peered(model).then(Vec::new),
            always: false,
            room: Table::ALL.map(|table| maps.room(table)),
        })
    }

    /// What each backend may get, those that leave included.
    pub(super) fn with_leavers(&self, linger: &Linger, mut standings: Standings) -> Standings {
        for (_, leaver) in linger.iter() {
            let id = leaver.backend.id;
            let over = self.max != 0 && now().since(leaver.since) >= self.max;
            // In a group only a verdict buries.
            let least = if over && self.gate == Gate::Alone {
                Standing::Dead
            } else {
                Standing::Draining
            };
            let standing = standings.standing.entry(id).or_default();
            *standing = least.max(*standing);
            standings.weights.remove(&id);
        }
        standings
    }

    /// Notes who is dead by verdict; all whose entries have to go first.
    pub(super) fn verdicts(&mut self, model: &Model, ids: &Ids, standings: &Standings) -> BTreeSet<u16> {
        let all = model.pools.iter().flat_map(|pool| &pool.backends);
        let dead = all.filter(|backend| standings.of(backend.id) == Standing::Dead);
        let dead = dead.map(|backend| ids.backends[&backend.id]);
        self.tracker.bury(dead, now());
        self.tracker.barred()
    }

    /// Takes what the coming writes are judged by.
    pub(super) fn prepare(&mut self, model: &Model, ids: &Ids, desired: &Contents, standings: &Standings) {
        self.terms = terms(model, ids, self.gate);
        self.fits = fits(desired, standings, |index| self.tracker.is_barred(index));
        self.max = ticks(model.group.max_tracked);
        self.alone = model.group.nodes.len() == 1;
        self.always = model.vips.iter().any(|vip| vip.tracking == Tracking::Always);
        self.hurry();
    }

    /// Has a sweep come soon, where there is something to find.
    pub(super) fn hurry(&mut self) {
        if self.running.is_none()
            && let Some(pause) = self.pause()
        {
            let soon = Instant::now() + pause;
            self.sweep = Some(self.sweep.map_or(soon, |sweep| sweep.min(soon)));
        }
    }

    /// Begins a sweep anew, so that it sees whatever was there when this was called ([`Sweep::is_after`]).
    pub(super) fn restart_sweep(&mut self) {
        self.running = None;
        self.sweep = Some(Instant::now() + Duration::from_millis(200));
    }

    /// Lets planned changes go on, or not.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        self.terms.values_mut().for_each(|terms| terms.gate = gate);
    }

    /// Backends that have left for longer than a slot may be tracked, by identity.
    pub(super) fn overdue(&self) -> impl Iterator<Item = u64> {
        let is_over = |since: Tick| self.max != 0 && now().since(since) >= self.max;
        let over = self
            .linger
            .iter()
            .filter(move |(_, leaver)| is_over(leaver.since));
        over.map(|(_, leaver)| leaver.backend.id)
    }

    /// Own entries that sweeps have deleted since this was asked last.
    pub(super) fn take_deleted(&mut self) -> Vec<(flow::Key, flow::Entry)> {
        self.deleted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Until the next sweep; `None` = nothing is to be found.
    fn pause(&self) -> Option<Duration> {
        let entries: u32 = self.tracker.census().entries.iter().sum();
        if self.tracker.is_busy() || !self.linger.is_empty() {
            Some(SWEEP_SOON)
        } else {
            (entries > 0 || self.always).then_some(SWEEP_LATER)
        }
    }

    /// Does one write; the number of slots that it changed.
    pub(super) fn write(&mut self, maps: &mut Maps, applied: &Contents, op: &Op) -> Result<usize, Error> {
        match op {
            Op::SetPool { index, pool } => {
                let before = applied.pools.get(index);
                if before.is_some_and(|before| before.name != pool.name) {
                    // Slots of another pool are nobody's, and need no preparation.
                    self.write(maps, applied, &Op::ClearPool(*index))?;
                }
                maps.apply(op)
            }
            Op::StoreRing { pool, ring } => Ok(self.steer(maps, *pool, ring)),
            Op::ClearPool(pool) => {
                let changed = maps.apply(op)?;
                self.tracker.drop_pool(*pool, maps);
                Ok(changed)
            }
            op => maps.apply(op),
        }
    }

    fn steer(&mut self, maps: &Maps, pool: u16, ring: &Ring) -> usize {
        let terms = self.terms.get(&pool).copied().unwrap_or_default();
        let steered = self.tracker.steer(pool, ring, terms, &self.fits, maps, now());
        if steered.waiting > 0 {
            self.commit.get_or_insert_with(|| Instant::now() + COMMIT_EVERY);
        }
        self.hurry();
        steered.written as usize
    }

    /// Moves all tracked slots as far as they can go now.
    pub(super) fn advance(&mut self, maps: &Maps, desired: &Contents) -> usize {
        self.commit = None;
        let pools: Vec<u16> = self.tracker.pools().collect();
        self.lead(&pools, maps, desired)
    }

    /// The same with all pools, tracked or not: the group lets a planned change go on.
    pub(super) fn advance_all(&mut self, maps: &Maps, desired: &Contents) -> usize {
        let pools: Vec<u16> = desired.rings.keys().copied().collect();
        self.lead(&pools, maps, desired)
    }

    fn lead(&mut self, pools: &[u16], maps: &Maps, desired: &Contents) -> usize {
        let rings = pools
            .iter()
            .filter_map(|pool| Some((*pool, desired.rings.get(pool)?)));
        rings.map(|(pool, ring)| self.steer(maps, pool, ring)).sum()
    }

    /// When there is something to do; `None` = nothing until something changes.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.running.is_some() {
            return Some(Instant::now());
        }
        [self.commit, self.sweep].into_iter().flatten().min()
    }

    /// The rings that the maps hold: those in `desired`, but where a change waits.
    pub(super) fn rings(&self, maps: &Maps, desired: &Contents) -> BTreeMap<u16, Ring> {
        let held = |pool: u16, ring: &Ring| {
            if self.tracker.waits(pool) {
                Arc::new(maps.ring(pool).into_iter().map(Slot::current).collect())
            } else {
                Arc::clone(ring)
            }
        };
        let rings = desired.rings.iter();
        rings.map(|(&pool, ring)| (pool, held(pool, ring))).collect()
    }

    /// The maps hold other VIPs: flows are found by these from now on.
    pub(super) fn find_by(&mut self, model: &Model, applied: &Contents) {
        self.finder = Finder::new(model, applied, self.key);
    }

    /// A piece of a sweep; the whole sweep, when this was the last.
    fn sweep_on(&mut self, maps: &mut Maps) -> Result<Option<Sweep>, Error> {
        let mut running = self.running.take().unwrap_or_else(|| {
            self.tracker.look(maps);
            Running::new()
        });
        let table = ORDER[running.table];
        let now = now();
        for (key, entry) in maps.walk(table, &mut running.walk)? {
            let ground = (&self.finder, &self.fits);
            // A packet may have used it since it was read, or a new flow of the same tuple.
            if running
                .sweep
                .take(table as usize, (key, entry), ground, maps, now)
                && maps.entry(table, &key)? == Some(entry)
            {
                maps.remove_entry(table, &key)?;
                if let Some(deleted) = &mut self.deleted
                    && entry.owner == flow::OWN
                {
                    deleted.push((key, entry));
                }
            }
        }
        if !running.walk.is_over() {
            self.running = Some(running);
            return Ok(None);
        }
        if running.table + 1 < ORDER.len() {
            self.running = Some(Running {
                table: running.table + 1,
                walk: Walk::default(),
                ..running
            });
            return Ok(None);
        }
        self.swept = running.began.elapsed();
        Ok(Some(running.sweep))
    }

    /// Draws the consequences of a sweep; backends that nothing names any more.
    fn judge(&mut self, maps: &Maps, desired: &Contents, sweep: &Sweep) -> Vec<u16> {
        let judge = Judge {
            sweep,
            desired,
            terms: &self.terms,
            max: self.max,
            alone: self.alone,
            now: now(),
        };
        let before = self.tracker.census().overdue;
        self.tracker.judge(&judge, maps);
        let census = self.tracker.census();
        if census.overdue > 0 && before == 0 {
            warn!(
                slots = census.overdue,
                "slots are tracked for longer than `group.max_tracked`: `lbctl ring POOL --tracked` tells why"
            );
        }
        let mut gone = Vec::new();
        if self.linger.is_empty() {
            return gone;
        }
        let by_slots = named(desired.rings.keys().copied(), maps);
        let leavers: Vec<(u16, Tick)> = self.linger.iter().map(|(i, leaver)| (i, leaver.named)).collect();
        for (index, named) in leavers {
            if sweep.count(index) > 0 || by_slots.contains(&index) {
                self.linger.named(index, now());
            } else if sweep.is_after(named) {
                gone.push(index);
            }
        }
        gone
    }

    /// When the next sweep is due.
    fn schedule(&mut self) {
        let pause = self.pause().map(|pause| pause.max(9 * self.swept));
        self.sweep = pause.map(|pause| Instant::now() + pause);
    }
}

/// Who leaves with a model, and is kept as far as there are indexes.
pub(super) fn leave(mut linger: Linger, old: &Model, model: &Model, applied: &Contents) -> Linger {
    linger.note(old, model, applied, now());
    for given_up in linger.trim(model, now()) {
        let (pool, name) = (given_up.pool, given_up.backend.name);
        warn!("backend {pool}/{name}: there is no room to keep it until its flows have ended");
    }
    linger
}

impl Controller {
    /// When [`Controller::turn`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.changes.due()
    }

    /// Does what is due: commits what was prepared, sweeps on. Whether the network has to be followed after it, since a
    /// backend is gone for good, or what is in the maps is not what should be.
    pub(super) fn turn(&mut self) -> Result<bool> {
        if !self.in_step {
            // A write failed: slots are led nowhere before the whole is tried again.
            self.changes.running = None;
            self.changes.commit = None;
            self.changes.sweep = Some(Instant::now() + SWEEP_SOON);
            return Ok(true);
        }
        if self.changes.commit.is_some_and(|when| when <= Instant::now()) {
            self.advance();
        }
        let is_due = self.changes.sweep.is_some_and(|when| when <= Instant::now());
        if !is_due && self.changes.running.is_none() {
            return Ok(false);
        }
        let began = Instant::now();
        let maps = &mut self.balancer.maps;
        let sweep = loop {
            match self.changes.sweep_on(maps) {
                Ok(None) if began.elapsed() < PIECE => {}
                Ok(None) => return Ok(false),
                Ok(Some(sweep)) => break sweep,
                Err(e) => {
                    self.changes.running = None;
                    self.changes.sweep = Some(Instant::now() + SWEEP_LATER);
                    return Err(e).context("sweeping the flow table");
                }
            }
        };
        let gone = self.changes.judge(maps, &self.target, &sweep);
        self.advance();
        self.changes.schedule();
        self.limit()?;
        Ok(self.release(&gone) | self.changes.tracker.has_lifted())
    }

    /// Moves tracked slots as far as they can go now.
    pub(super) fn advance(&mut self) {
        let was_waiting = self.changes.tracker.is_waiting();
        let maps = &self.balancer.maps;
        let slots = self.changes.advance(maps, &self.target);
        self.applied.rings = self.changes.rings(maps, &self.target);
        if was_waiting && !self.changes.tracker.is_waiting() {
            info!(slots, "change of slots committed");
        }
    }

    /// Lets backends go that nothing names any more. Whether there are any.
    fn release(&mut self, gone: &[u16]) -> bool {
        for &index in gone {
            if let Some(leaver) = self.changes.linger.release(index) {
                info!(
                    "backend {}/{}: its last flow is gone, and so is it",
                    leaver.pool, leaver.backend.name
                );
            }
            let pools = self.applied.pools.keys().copied();
            self.changes.tracker.forget(index, pools, &self.balancer.maps);
        }
        self.effective = self.changes.linger.with(&self.model);
        !gone.is_empty()
    }

    /// What is known of the flow table.
    pub(super) fn census(&self) -> Census {
        Census {
            room: self.changes.room,
            ..self.changes.tracker.census().clone()
        }
    }

    /// Tracked slots and why they still are, as the last sweep found them.
    pub(super) fn held(&self) -> &[Held] {
        self.changes.tracker.held()
    }

    /// Lets the program write into the flow table what there is room for, and tell of it where peers want to know.
    pub(super) fn limit(&mut self) -> Result<(), Error> {
        let maps = &mut self.balancer.maps;
        let before = maps.limits()?;
        let census = self.changes.tracker.census();
        let is_full = |flag: u32, table: Table| match census.sweeps {
            // Nobody has counted yet; an earlier agent had.
            0 => before.flags & flag != 0,
            _ => flow::is_full(census.entries[table as usize], self.changes.room[table as usize]),
        };
        let flags = [(FULL, Table::Flows), (UDP_FULL, Table::UdpFlows)];
        let flags = flags.into_iter().filter(|&(flag, table)| is_full(flag, table));
        let full = flags.fold(0, |flags, (flag, _)| flags | flag);
        let flags = full | self.changes.deleted.as_ref().map_or(0, |_| EVENTS);
        let tracked = self.model.vips.iter().filter(|vip| vip.tracking != Tracking::Off);
        let idle = tracked.map(|vip| vip.idle_timeout).max();
        let limits = maps.new_limits(flags, idle.unwrap_or(Vip::DEFAULT_IDLE));
        if before != limits {
            maps.set_limits(limits)?;
        }
        if full & !before.flags != 0 {
            warn!(
                "the flow table is full to nine tenths: new flows of tracked slots go where unknown ones are (`capacity.flows`)"
            );
        }
        Ok(())
    }
}

/// Whether the nodes of the group talk to each other.
pub(super) fn is_peered(model: &Model) -> bool {
    model.group.peering.is_some() && model.group.nodes.len() > 1
}

fn ticks(time: Duration) -> u32 {
    tick::seconds(u32::try_from(time.as_secs()).unwrap_or(u32::MAX))
}

/// The terms of the pools that VIPs use, by index.
fn terms(model: &Model, ids: &Ids, gate: Gate) -> BTreeMap<u16, Terms> {
    let mut terms: BTreeMap<u16, Terms> = BTreeMap::new();
    for vip in model.vips.iter().filter(|vip| vip.tracking != Tracking::Off) {
        let of_pool = terms.entry(ids.pools[vip.pool]).or_insert(Terms {
            gate,
            ..Terms::default()
        });
        let idle = Some(ticks(vip.idle_timeout));
        of_pool.idle = of_pool.idle.max(idle);
        if vip.protocol == Protocol::Udp {
            of_pool.udp = of_pool.udp.max(idle);
        }
    }
    terms
}
