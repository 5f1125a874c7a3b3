//! What a member of a group does with its slots when the coordinator says so. Each step may be ordered again, and then changes
//! nothing more.

use lb_common::retire::{View, vote};
use lb_common::slot::{HELD, NO_BACKEND, SLOTS, Slot, TRACKED, UDP_LEARN, index};
use lb_common::tick::Tick;

use super::steer::{Fitness, Fits, Gate, Marks, Terms};
use super::{Pool, Slots, Tracker, places};

/// How often a slot is tried to be changed while somebody else writes it.
const RETRIES: usize = 16;

/// One slot in the flat array of all rings, and the backend that an order names for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ordered {
    /// The slot.
    pub place: u32,
    /// Index of the backend.
    pub to: u16,
}

impl Ordered {
    fn pool(self) -> u16 {
        (self.place >> 16) as u16
    }
}

impl Tracker {
    /// Slots that may retire as far as this node knows.
    pub fn candidates(&self) -> &[Ordered] {
        &self.candidates
    }

    /// Whether a sweep that began after `when` has been judged.
    pub fn is_swept(&self, when: Tick) -> bool {
        self.last.as_ref().is_some_and(|last| last.is_after(when))
    }

    /// The members have changed: flows may have used other nodes, so the idle timeout of all slots begins anew.
    pub fn members_changed(&mut self, now: Tick) {
        let marks = self.pools.values_mut().flat_map(|pool| &mut pool.marks);
        marks
            .filter(|mark| mark.since != Tick::default())
            .for_each(|mark| mark.changed = now);
    }

    /// Slots that are closing, with their `current`.
    pub fn closing(&self, slots: &impl Slots) -> Vec<(Ordered, Slot)> {
        let all = self.pools.keys().flat_map(|&pool| places(pool));
        let all = all.map(|(_, place)| (place, slots.slot(place)));
        all.filter(|(_, slot)| slot.is_closing())
            .map(|(place, slot)| {
                let to = slot.current();
                (Ordered { place, to }, slot)
            })
            .collect()
    }

    /// Slots whose origin is dead, with where new flows go.
    pub fn homeless(&self, fits: &Fits, slots: &impl Slots) -> Vec<Ordered> {
        if !fits.values().any(|fitness| *fitness == Fitness::Dead) {
            return Vec::new();
        }
        let all = self.pools.keys().flat_map(|&pool| places(pool));
        let all = all.map(|(_, place)| (place, slots.slot(place)));
        let is_dead = |backend| fits.get(&backend) == Some(&Fitness::Dead);
        all.filter(|(_, slot)| is_dead(slot.origin()) && !is_dead(slot.current()))
            .map(|(place, slot)| Ordered {
                place,
                to: slot.current(),
            })
            .collect()
    }

    /// RETIRE, first vote: closes the slots that may retire. Those that may not.
    pub fn close(
        &mut self,
        cells: &[Ordered],
        terms: impl Fn(u16) -> Terms,
        slots: &impl Slots,
        now: Tick,
    ) -> Vec<Ordered> {
        let mut no = Vec::new();
        for &cell in cells {
            let before = slots.slot(cell.place);
            let says_yes = self.says_yes(cell, before, terms(cell.pool()), slots, now);
            let closed = before.close(cell.to).ok().filter(|_| says_yes);
            match closed {
                Some(after) if slots.swap(cell.place, before, after) => {
                    let mark = self.mark(cell.place);
                    mark.closed = now;
                    if !before.is_tracked() {
                        (mark.since, mark.changed) = (now, now);
                        self.count(cell.pool(), 1);
                    }
                }
                _ => no.push(cell),
            }
        }
        self.recount();
        no
    }

    /// RETIRE, second vote, on slots that are closing; the last sweep began after all records of before were in. Those that
    /// say no.
    pub fn vote_again(
        &mut self,
        cells: &[Ordered],
        terms: impl Fn(u16) -> Terms,
        slots: &impl Slots,
        now: Tick,
    ) -> Vec<Ordered> {
        let all = cells.iter().copied();
        all.filter(|&cell| {
            let slot = slots.slot(cell.place);
            !slot.is_closing() || !self.says_yes(cell, slot, terms(cell.pool()), slots, now)
        })
        .collect()
    }

    /// RETIRE, step 2: `origin` is what the order names.
    pub fn retire(&mut self, cells: &[Ordered], slots: &impl Slots) {
        change(cells, slots, |cell, slot| slot.retire(cell.to).ok());
    }

    /// RETIRE, step 3: the slot alone decides again, where nothing is known elsewhere.
    pub fn finish(&mut self, cells: &[Ordered], slots: &impl Slots, now: Tick) {
        for &cell in cells {
            let elsewhere = self.elsewhere(cell.place, cell.to);
            let (before, after) = change(&[cell], slots, |cell, slot| {
                let elsewhere = elsewhere + u32::from(slot.is_held());
                slot.finish(cell.to, elsewhere).ok()
            })[0];
            if before.is_tracked() && !after.is_tracked() {
                slots.clear_uses(cell.place);
                *self.mark(cell.place) = Marks::default();
                self.count(cell.pool(), -1);
                self.census.retired += 1;
            } else if before.is_closing() {
                self.mark(cell.place).changed = now;
            }
        }
        self.pools.retain(|_, pool| pool.tracked > 0);
        self.recount();
    }

    /// The vote failed: slots stay tracked.
    pub fn reopen(&mut self, cells: &[Ordered], slots: &impl Slots) {
        let done = change(cells, slots, |_, slot| slot.reopen().ok());
        let opened = done.iter().filter(|(before, after)| before != after).count();
        self.census.reopened += opened as u64;
    }

    /// A verdict's second step: another `origin` than the dead one. Those that can't make it.
    pub fn rehome(&mut self, cells: &[Ordered], fits: &Fits, slots: &impl Slots, now: Tick) -> Vec<Ordered> {
        let mut no = Vec::new();
        for &cell in cells {
            let (before, after) = change(&[cell], slots, |cell, slot| {
                let is_dead = fits.get(&slot.origin()).is_none_or(|fit| *fit == Fitness::Dead);
                if slot.origin() == cell.to || !is_dead {
                    return Some(slot);
                }
                slot.track().bury(slot.origin(), cell.to).ok()
            })[0];
            if after.origin() != cell.to {
                no.push(cell);
            } else if after != before {
                let mark = self.mark(cell.place);
                mark.changed = now;
                if !before.is_tracked() {
                    mark.since = now;
                    self.count(cell.pool(), 1);
                }
            }
        }
        self.recount();
        no
    }

    /// Begins a sweep: what peers have announced until now will be seen by it.
    pub fn look(&self, slots: &impl Slots) {
        for (_, place) in self.pools.keys().flat_map(|&pool| places(pool)) {
            let slot = slots.slot(place);
            if slot.is_held() {
                slots.swap(place, slot, slot.looked_at());
            }
        }
    }

    /// Counts slots as tracked that a peer's record made so.
    pub fn recount_pool(&mut self, number: u16, slots: &impl Slots, now: Tick) {
        let pool = self.pools.entry(number).or_insert_with(Pool::new);
        pool.tracked = 0;
        for (i, place) in places(number) {
            if slots.slot(place).is_tracked() {
                pool.tracked += 1;
                let mark = &mut pool.marks[i];
                if mark.since == Tick::default() {
                    (mark.since, mark.changed) = (now.or_one(), now);
                }
            }
        }
        self.pools.retain(|_, pool| pool.tracked > 0);
        self.recount();
    }

    /// Puts a peer's slots in the place of ours (an index of the pool, and all its slots).
    pub fn install(&mut self, pool: u16, image: &[Slot], slots: &impl Slots, now: Tick) {
        debug_assert_eq!(image.len(), SLOTS);
        for (i, &slot) in image.iter().enumerate() {
            let place = index(pool, i as u32);
            for _ in 0..RETRIES {
                let before = slots.slot(place);
                if slots.swap(place, before, installed(before, slot)) {
                    break;
                }
            }
        }
        self.pools.remove(&pool);
        self.recount_pool(pool, slots, now);
    }

    fn says_yes(&mut self, cell: Ordered, slot: Slot, terms: Terms, slots: &impl Slots, now: Tick) -> bool {
        let Some(idle) = terms
            .idle
            .filter(|_| slot.current() == cell.to && terms.gate != Gate::Alone)
        else {
            return false;
        };
        if !slot.is_tracked() {
            return true;
        }
        let mark = *self.mark(cell.place);
        if slot.is_held() || !self.last.as_ref().is_some_and(|last| last.is_after(mark.changed)) {
            return false;
        }
        let view = View {
            slot,
            uses: slots.uses(cell.place),
            changed: mark.changed,
            elsewhere: self.elsewhere(cell.place, cell.to),
            alone: false,
        };
        vote(&view, cell.to, idle, now).is_ok()
    }

    fn elsewhere(&self, place: u32, backend: u16) -> u32 {
        self.last
            .as_ref()
            .map_or(0, |last| last.elsewhere(place, backend).0)
    }

    fn mark(&mut self, place: u32) -> &mut Marks {
        let pool = self.pools.entry((place >> 16) as u16).or_insert_with(Pool::new);
        &mut pool.marks[(place & 0xffff) as usize]
    }

    fn count(&mut self, pool: u16, by: i32) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.tracked = pool.tracked.saturating_add_signed(by);
        }
    }

    fn recount(&mut self) {
        self.census.tracked = self.pools.iter().map(|(&n, pool)| (n, pool.tracked)).collect();
    }
}

/// Makes a step in each slot, if it takes it: the slot before and after.
fn change(
    cells: &[Ordered],
    slots: &impl Slots,
    step: impl Fn(Ordered, Slot) -> Option<Slot>,
) -> Vec<(Slot, Slot)> {
    let one = |&cell: &Ordered| {
        let mut before = slots.slot(cell.place);
        for _ in 0..RETRIES {
            let after = step(cell, before).unwrap_or(before);
            if slots.swap(cell.place, before, after) {
                return (before, after);
            }
            before = slots.slot(cell.place);
        }
        (before, before)
    };
    cells.iter().map(one).collect()
}

/// A slot of the group in the place of ours. What is tracked here stays so, for our own entries; and where our flows were
/// without one is remembered.
const fn installed(own: Slot, group: Slot) -> Slot {
    let is_apart = group.current() != group.origin();
    let tracked = own.flags() & TRACKED | if is_apart { TRACKED } else { 0 };
    let moved = own.origin() != group.origin() && group.previous() == NO_BACKEND;
    let previous = if moved { own.origin() } else { group.previous() };
    let flags = group.flags() & !(HELD | UDP_LEARN) | tracked;
    Slot::new(group.current(), group.origin(), previous, flags)
}
