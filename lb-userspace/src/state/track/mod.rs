//! Tracked slots on this node: changes that are prepared and committed, and slots that retire. Where the group is this node
//! alone each phase ends where it begins (docs/adr/0010-changes-on-one-node.md); a member of a group makes only what its
//! coordinator orders ([`member`], docs/adr/0015-groups.md).

mod member;
mod report;
mod steer;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::retire::{Hold, Uses, View, is_overdue, vote};
use lb_common::slot::{NO_BACKEND, SLOTS, Slot, index};
use lb_common::tick::Tick;

pub use member::Ordered;
pub use report::{Census, Held, Why};
pub use steer::{Fitness, Fits, Gate, Terms, fits};
pub use sweep::{Finder, Sweep};

use super::contents::Contents;
use steer::{Marks, moves, step};

/// Tables of entries.
pub const TABLES: usize = 5;

/// The slots of all pools and the marks beside them, by their place in the flat array of all rings.
pub trait Slots {
    /// One slot.
    fn slot(&self, place: u32) -> Slot;
    /// Replaces one, if it still is `before`; whether it was. Who merges peers' records writes slots, too.
    fn swap(&self, place: u32, before: Slot, after: Slot) -> bool;
    /// Who used its `origin`.
    fn uses(&self, place: u32) -> Uses;
    /// Forgets who did.
    fn clear_uses(&self, place: u32);
}

/// What one pass over a pool has done.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Steered {
    /// Slots that were written.
    pub written: u32,
    /// Slots whose change is prepared and waits; nothing to wait for else.
    pub waiting: u32,
}

/// What this agent knows of tracked slots beside the slots themselves, which are the truth.
#[derive(Clone, Default, Debug)]
pub struct Tracker {
    pools: BTreeMap<u16, Pool>,
    /// Pools in which a change waits, tracked slots or not.
    waiting: BTreeSet<u16>,
    /// Backends by verdict dead.
    dead: BTreeMap<u16, Dead>,
    lifted: bool,
    census: Census,
    held: Vec<Held>,
    /// The last sweep that was judged.
    last: Option<Sweep>,
    /// Slots of which this node could say that they may retire, with where to.
    candidates: Vec<Ordered>,
}

/// A backend by verdict dead.
#[derive(Clone, Copy, Debug)]
struct Dead {
    since: Tick,
    /// Whether a whole sweep has deleted its entries.
    is_swept: bool,
    /// Whether the verdict still holds.
    holds: bool,
}

#[derive(Clone, Debug)]
struct Pool {
    marks: Vec<Marks>,
    tracked: u32,
}

impl Pool {
    fn new() -> Self {
        Self {
            marks: vec![Marks::default(); SLOTS],
            tracked: 0,
        }
    }
}

/// What a finished sweep is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The sweep.
    pub sweep: &'a Sweep,
    /// What the maps are to hold.
    pub desired: &'a Contents,
    /// The terms of pools by index.
    pub terms: &'a BTreeMap<u16, Terms>,
    /// For how long a slot may be tracked, ticks.
    pub max: u32,
    /// Whether this node is the group's only member.
    pub alone: bool,
    /// The time.
    pub now: Tick,
}

/// The most candidates for retirement that are told at once.
pub const CANDIDATES: usize = 4096;

impl Tracker {
    /// Takes over slots that another agent tracked. When they changed is not known, so they count as changed now.
    /// Those that were learning do so for another `udp` ticks. `alone`: those that were closing are opened again, as of a
    /// group of one nobody else has made step 2.
    pub fn adopt(
        pools: impl IntoIterator<Item = u16>,
        slots: &impl Slots,
        alone: bool,
        udp: u32,
        now: Tick,
    ) -> Self {
        let mut tracker = Self::default();
        for number in pools {
            let tracked = places(number).filter(|&(_, place)| slots.slot(place).is_tracked());
            let mut pool = Pool::new();
            for (i, place) in tracked {
                let mark = &mut pool.marks[i];
                (mark.since, mark.changed) = (now, now);
                pool.tracked += 1;
                let slot = slots.slot(place);
                if slot.is_learning() {
                    mark.learns = now.after(udp).or_one();
                }
                if alone {
                    slots.swap(place, slot, slot.reopen().unwrap_or(slot));
                }
            }
            if pool.tracked > 0 {
                tracker.pools.insert(number, pool);
            }
        }
        tracker
    }

    /// Moves the slots of a pool towards `wants`, as far as they can go now.
    pub fn steer(
        &mut self,
        number: u16,
        wants: &[u16],
        terms: Terms,
        fits: &Fits,
        slots: &impl Slots,
        now: Tick,
    ) -> Steered {
        let mut steered = Steered::default();
        let mut pool = self.pools.remove(&number).unwrap_or_else(Pool::new);
        let mut tracked = 0;
        for (i, place) in places(number) {
            let before = slots.slot(place);
            let mark = &mut pool.marks[i];
            let after = step(before, *mark, wants[i], terms, fits, now);
            // One that has become another meanwhile has its turn with the next pass.
            if after != before && slots.swap(place, before, after) {
                mark_step(mark, before, after, terms, now);
                if !after.is_tracked() {
                    slots.clear_uses(place);
                }
                steered.written += 1;
            }
            tracked += u32::from(slots.slot(place).is_tracked());
            steered.waiting += u32::from(after.current() != wants[i]);
        }
        pool.tracked = tracked;
        if steered.waiting > 0 {
            self.waiting.insert(number);
        } else {
            self.waiting.remove(&number);
        }
        self.census.tracked.remove(&number);
        if pool.tracked > 0 {
            self.census.tracked.insert(number, pool.tracked);
            self.pools.insert(number, pool);
        }
        steered
    }

    /// Forgets a pool that is gone.
    pub fn drop_pool(&mut self, number: u16, slots: &impl Slots) {
        self.pools.remove(&number);
        self.waiting.remove(&number);
        self.census.tracked.remove(&number);
        self.held.retain(|held| held.pool != number);
        places(number).for_each(|(_, place)| slots.clear_uses(place));
    }

    /// Pools that have tracked slots.
    pub fn pools(&self) -> impl Iterator<Item = u16> {
        self.pools.keys().copied()
    }

    /// Whether a change of this pool waits for its time.
    pub fn waits(&self, number: u16) -> bool {
        self.waiting.contains(&number)
    }

    /// Whether a prepared change waits for its time.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether any slot is tracked, or a sweep is needed for another reason.
    pub fn is_busy(&self) -> bool {
        !self.pools.is_empty() || self.dead.values().any(|dead| !dead.is_swept)
    }

    /// Notes which backends are dead by verdict, all of them: their entries have to go before they may be anything else.
    pub fn bury(&mut self, all: impl IntoIterator<Item = u16>, now: Tick) {
        self.dead.values_mut().for_each(|dead| dead.holds = false);
        for backend in all {
            let new = Dead {
                since: now,
                is_swept: false,
                holds: true,
            };
            self.dead.entry(backend).or_insert(new).holds = true;
        }
        self.dead.retain(|_, dead| dead.holds || !dead.is_swept);
    }

    /// All whose entries may still be there.
    pub fn barred(&self) -> BTreeSet<u16> {
        let unswept = self.dead.iter().filter(|(_, dead)| !dead.is_swept);
        unswept.map(|(&backend, _)| backend).collect()
    }

    /// Whether a backend has been dead and entries may still name it.
    pub fn is_barred(&self, backend: u16) -> bool {
        self.dead.get(&backend).is_some_and(|dead| !dead.is_swept)
    }

    /// Takes a backend out of the slots that remember it as `previous`, before its index goes to another one.
    pub fn forget(&self, backend: u16, pools: impl IntoIterator<Item = u16>, slots: &impl Slots) {
        for (_, place) in pools.into_iter().flat_map(places) {
            let slot = slots.slot(place);
            if slot.previous() == backend {
                let without = Slot::new(slot.current(), slot.origin(), NO_BACKEND, slot.flags());
                slots.swap(place, slot, without);
            }
        }
    }

    /// Whether a backend that was dead may be something else since the last sweep. Told once.
    pub fn has_lifted(&mut self) -> bool {
        std::mem::take(&mut self.lifted)
    }

    /// What is known of the flow table.
    pub const fn census(&self) -> &Census {
        &self.census
    }

    /// Why slots were still tracked when the last sweep was judged.
    pub fn held(&self) -> &[Held] {
        &self.held
    }

    /// Draws the consequences of a finished sweep: votes, retires what may forget.
    pub fn judge(&mut self, judge: &Judge<'_>, slots: &impl Slots) {
        self.held.clear();
        self.candidates.clear();
        self.census.overdue = 0;
        for (&number, pool) in &mut self.pools {
            let (Some(ring), Some(terms)) = (judge.desired.rings.get(&number), judge.terms.get(&number))
            else {
                continue;
            };
            let mut census = Retired::default();
            for (i, place) in places(number).filter(|&(_, place)| slots.slot(place).is_tracked()) {
                let mark = &mut pool.marks[i];
                let tracked = judge.now.since(mark.since);
                self.census.overdue += u32::from(is_overdue(mark.since, judge.max, judge.now));
                let view = judge.view(place, *mark, slots);
                let (slot, why) = judge.verdict(&view, mark, ring[i], *terms);
                let (slot, why) = if slots.swap(place, view.slot, slot) {
                    (slot, why)
                } else {
                    (view.slot, Some(Why::Unswept))
                };
                census.count(view.slot, slot);
                if why == Some(Why::Ready) && self.candidates.len() < CANDIDATES {
                    let to = slot.current();
                    self.candidates.push(Ordered { place, to });
                }
                match why {
                    Some(why) => self.held.push(Held {
                        pool: number,
                        number: (place & 0xffff),
                        slot,
                        tracked,
                        why,
                        example: judge.sweep.elsewhere(place, slot.current()).1,
                    }),
                    None => {
                        slots.clear_uses(place);
                        *mark = Marks::default();
                        pool.tracked -= 1;
                    }
                }
            }
            self.census.retired += census.retired;
            self.census.reopened += census.reopened;
        }
        self.pools.retain(|_, pool| pool.tracked > 0);
        for dead in self
            .dead
            .values_mut()
            .filter(|dead| judge.sweep.is_after(dead.since))
        {
            dead.is_swept = true;
            self.lifted |= !dead.holds;
        }
        self.dead.retain(|_, dead| dead.holds || !dead.is_swept);
        let census = &mut self.census;
        census.entries = judge.sweep.entries;
        census.tracked = self.pools.iter().map(|(&n, pool)| (n, pool.tracked)).collect();
        census.sweeps += 1;
        census.expired += judge.sweep.expired;
        census.purged += judge.sweep.purged;
        self.last = Some(judge.sweep.clone());
    }
}

impl Judge<'_> {
    fn view(&self, place: u32, mark: Marks, slots: &impl Slots) -> View {
        let slot = slots.slot(place);
        View {
            slot,
            uses: slots.uses(place),
            changed: mark.changed,
            elsewhere: self.sweep.elsewhere(place, slot.current()).0,
            alone: self.alone,
        }
    }

    /// What becomes of a tracked slot, and why it stays tracked; `None`: it doesn't.
    fn verdict(&self, view: &View, mark: &mut Marks, want: u16, terms: Terms) -> (Slot, Option<Why>) {
        let (slot, to) = (view.slot, view.slot.current());
        let Some(idle) = terms.idle.filter(|_| to == want) else {
            return (slot, Some(Why::Prepared));
        };
        if !self.sweep.is_after(mark.changed) {
            return (slot, Some(Why::Unswept));
        }
        if terms.gate == Gate::Alone && slot.is_closing() && !self.sweep.is_after(mark.closed) {
            return (slot, Some(Why::Closing));
        }
        let vote = vote(view, to, idle, self.now);
        if terms.gate != Gate::Alone {
            let vote = vote.or_else(|hold| self.overrule(view, mark, hold));
            let why = match vote {
                _ if slot.is_closing() => Why::Closing,
                Ok(()) => Why::Ready,
                Err(hold) => Why::Held(hold),
            };
            return (slot, Some(why));
        }
        match vote.or_else(|hold| self.overrule(view, mark, hold)) {
            Err(hold) => (slot.reopen().unwrap_or(slot), Some(Why::Held(hold))),
            Ok(()) if slot.is_closing() => {
                let retired = slot.retire(to).and_then(|slot| slot.finish(to, view.elsewhere));
                (retired.expect("it is closing, and nothing is elsewhere"), None)
            }
            Ok(()) => {
                mark.closed = self.now;
                (slot.close(to).expect("it is where it is"), Some(Why::Closing))
            }
        }
    }

    /// After the longest time that a slot may be tracked what may be noise holds it no longer; entries always do.
    fn overrule(&self, view: &View, mark: &Marks, hold: Hold) -> Result<(), Hold> {
        match hold {
            Hold::Seen(_) | Hold::Stamped(_)
                if view.elsewhere == 0 && is_overdue(mark.since, self.max, self.now) =>
            {
                Ok(())
            }
            hold => Err(hold),
        }
    }
}

/// What became of a pool's slots.
#[derive(Default)]
struct Retired {
    retired: u64,
    reopened: u64,
}

impl Retired {
    fn count(&mut self, before: Slot, after: Slot) {
        self.retired += u64::from(!after.is_tracked());
        self.reopened += u64::from(before.is_closing() && after.is_tracked() && !after.is_closing());
    }
}

/// The backends that slots of these pools send flows to, tracked or not.
pub fn named(pools: impl IntoIterator<Item = u16>, slots: &impl Slots) -> BTreeSet<u16> {
    let mut named = vec![false; usize::from(u16::MAX) + 1];
    for (_, place) in pools.into_iter().flat_map(places) {
        let slot = slots.slot(place);
        named[usize::from(slot.current())] = true;
        named[usize::from(slot.origin())] = true;
    }
    (0..=u16::MAX)
        .filter(|&backend| named[usize::from(backend)])
        .collect()
}

/// The slots of a pool, by number and by place.
fn places(pool: u16) -> impl Iterator<Item = (usize, u32)> {
    (0..SLOTS).map(move |i| (i, index(pool, i as u32)))
}

fn mark_step(mark: &mut Marks, before: Slot, after: Slot, terms: Terms, now: Tick) {
    if !after.is_tracked() {
        *mark = Marks::default();
        return;
    }
    if !before.is_tracked() {
        mark.since = now;
    }
    if moves(before, after) {
        mark.changed = now;
    }
    if after.is_learning() && !before.is_learning() {
        mark.learns = now.after(terms.udp.unwrap_or(0)).or_one();
    }
}
