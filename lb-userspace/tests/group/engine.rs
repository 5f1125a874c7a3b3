//! A small engine: a few slots with the real transitions, and the answers that a node's engine gives.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use lb_common::slot::Slot;
use lb_userspace::group::{
    Answer, Cell, Generation, Local, Order, Progress, SlotImage, Target, Verdict, View,
};
use lb_userspace::state::standing::Standing;

use crate::world::Broken;

pub(crate) const SLOTS: u16 = 6;
pub(crate) const BACKENDS: u16 = 4;
const POOL: u64 = 77;

/// Slots forget when they have not changed for so long, milliseconds.
const IDLE: u64 = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) slots: Vec<Slot>,
    pub(crate) changed: Vec<u64>,
    pub(crate) generation: u64,
    pub(crate) verdict: Verdict,
    pub(crate) committed: Option<Target>,
    /// Own views, by backend.
    pub(crate) views: Vec<Standing>,
    /// The limit of the pool.
    pub(crate) fail_open: u32,
    /// What the votes say, one after the other.
    pub(crate) noes: u32,
    /// Slots whose origin a verdict has named anew since nodes last were one group.
    pub(crate) buried: BTreeSet<u16>,
}

fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Engine {
    pub(crate) fn new(generation: u64) -> Self {
        let mut engine = Self {
            slots: Vec::new(),
            changed: vec![0; usize::from(SLOTS)],
            generation,
            verdict: Verdict::default(),
            committed: None,
            views: vec![Standing::Up; usize::from(BACKENDS) + 1],
            fail_open: 100,
            noes: 0,
            buried: BTreeSet::new(),
        };
        engine.make_up();
        engine
    }

    /// What a node does that knows no better.
    pub(crate) fn make_up(&mut self) {
        self.slots = (0..SLOTS).map(|slot| Slot::untracked(self.want(slot))).collect();
    }

    /// The agent starts anew over the same slots.
    pub(crate) fn restart(&mut self, generation: u64, now: u64) {
        (self.generation, self.verdict) = (generation, Verdict::default());
        self.committed = None;
        self.changed.fill(now);
    }

    fn is_out(&self, backend: u16) -> bool {
        let id = u64::from(backend);
        let verdict = &self.verdict;
        verdict.dead.contains(&id) || verdict.returning.contains(&id) || verdict.draining.contains(&id)
    }

    fn first(&self, slot: u16, is_ok: impl Fn(u16) -> bool) -> u16 {
        let start = u64::from(slot) * 3 + self.generation;
        let order = (0..u64::from(BACKENDS))
            .map(|n| 1 + u16::try_from((start + n) % u64::from(BACKENDS)).expect("few of them"));
        order
            .clone()
            .find(|&b| is_ok(b))
            .unwrap_or_else(|| order.clone().next().expect("few of them"))
    }

    /// What all members want alike.
    pub(crate) fn want(&self, slot: u16) -> u16 {
        self.first(slot, |b| !self.is_out(b))
    }

    fn lead(&self, slot: u16) -> u16 {
        let want = self.want(slot);
        if self.views[usize::from(want)] == Standing::Up {
            want
        } else {
            self.first(slot + 1, |b| {
                !self.is_out(b) && self.views[usize::from(b)] == Standing::Up
            })
        }
    }

    fn set(&mut self, slot: usize, to: Slot, now: u64) {
        if self.slots[slot] != to {
            self.changed[slot] = now;
        }
        self.slots[slot] = to;
    }

    /// Own suspicions, and their ends.
    pub(crate) fn suspect(&mut self, now: u64) {
        for slot in 0..SLOTS {
            let (n, to) = (usize::from(slot), self.lead(slot));
            let (old, views) = (self.slots[n], &self.views);
            let is_down = views[usize::from(old.current())] != Standing::Up;
            if (is_down || self.committed == Some(self.target()))
                && let Ok(next) = old.suspect(to)
            {
                self.set(n, next, now);
            }
        }
    }

    pub(crate) fn target(&self) -> Target {
        let rings: Vec<u16> = (0..SLOTS).map(|slot| self.want(slot)).collect();
        Target {
            generation: Generation {
                number: self.generation,
                node: 0,
            },
            verdict: self.verdict.number,
            rings: digest((rings, self.generation, self.verdict.number)),
        }
    }

    pub(crate) fn origins(&self) -> u64 {
        digest(self.slots.iter().map(|slot| slot.origin()).collect::<Vec<_>>())
    }

    /// Digest of all that a joiner takes over.
    pub(crate) fn all(&self) -> u64 {
        Self::digest_of(&self.images()[0])
    }

    pub(crate) fn digest_of(image: &SlotImage) -> u64 {
        digest(&image.slots)
    }

    pub(crate) fn local(&self, now: u64) -> Local {
        let cell = |slot: u16, backend: u16| Cell {
            pool: POOL,
            slot,
            backend: backend.into(),
        };
        let slots = || (0u16..).zip(&self.slots);
        let may_forget = |(n, slot): &(u16, &Slot)| self.vote(*n, slot.current(), now) && slot.is_tracked();
        let is_dead = |(_, slot): &(u16, &Slot)| self.verdict.dead.contains(&slot.origin().into());
        Local {
            target: self.target(),
            origins: self.origins(),
            candidates: slots()
                .filter(may_forget)
                .map(|(n, s)| cell(n, s.current()))
                .collect(),
            buriable: slots()
                .filter(|(_, s)| s.is_tracked() && !s.is_closing())
                .filter(is_dead)
                .map(|(n, s)| cell(n, s.current()))
                .collect(),
        }
    }

    pub(crate) fn views(&self) -> Vec<View> {
        let view = |backend: u16| View {
            backend: backend.into(),
            pool: POOL,
            weight: 1,
            fail_open: self.fail_open,
            ordered: Standing::Up,
            seen: self.views[usize::from(backend)],
        };
        (1..=BACKENDS).map(view).collect()
    }

    fn vote(&self, slot: u16, to: u16, now: u64) -> bool {
        let n = usize::from(slot);
        let slot = self.slots[n];
        let is_old = !slot.is_tracked() || now >= self.changed[n] + IDLE;
        slot.current() == to && is_old && self.views[usize::from(to)] == Standing::Up
    }

    /// Of more pools than are sent at once; only the first has slots here.
    pub(crate) fn images(&self) -> Vec<SlotImage> {
        let image = |pool, slots| SlotImage {
            pool,
            backends: (0..=u64::from(BACKENDS)).collect(),
            slots,
            leavers: Vec::new(),
        };
        let first = image(POOL, self.slots.iter().map(|slot| slot.0).collect());
        let others = (1..20).map(|n| image(POOL + n, Vec::new()));
        [first].into_iter().chain(others).collect()
    }

    pub(crate) fn install(&mut self, images: &[SlotImage], now: u64) {
        assert_eq!(images.len(), 20);
        self.slots = images[0].slots.iter().map(|&word| Slot(word)).collect();
        self.changed.fill(now);
    }

    /// Carries an order out. `random` decides what traffic would.
    pub(crate) fn obey(&mut self, order: &Order, now: u64, random: u64, broken: Option<Broken>) -> Answer {
        match order {
            Order::Prepare(target) | Order::Commit(target) if *target != self.target() => {
                return Answer::Later;
            }
            Order::Prepare(_) => {
                for slot in 0..SLOTS {
                    let old = self.slots[usize::from(slot)];
                    if old.current() != self.want(slot) {
                        self.set(usize::from(slot), old.track(), now);
                    }
                }
            }
            Order::Commit(target) => {
                self.committed = Some(*target);
                for slot in 0..SLOTS {
                    let (n, to) = (usize::from(slot), self.lead(slot));
                    if self.slots[n].is_tracked() && self.slots[n].current() != to {
                        match self.slots[n].commit(to) {
                            Ok(next) => self.set(n, next, now),
                            Err(_) => return Answer::Later,
                        }
                    }
                }
            }
            Order::Judge(verdict) => return self.judge(verdict, now),
            Order::Fence(_) => {}
            Order::Report => return Answer::Progress(self.progress()),
            Order::Bury(cells)
            | Order::Close(cells)
            | Order::Vote(cells)
            | Order::Retire(cells)
            | Order::Finish(cells)
            | Order::Reopen(cells) => return self.each(order, cells, now, random, broken),
        }
        Answer::Done
    }

    fn judge(&mut self, verdict: &Verdict, now: u64) -> Answer {
        self.verdict = verdict.clone();
        for slot in 0..SLOTS {
            let (n, to) = (usize::from(slot), self.lead(slot));
            for &backend in verdict.dead.union(&verdict.returning) {
                match self.slots[n].dead(u16::try_from(backend).expect("few of them"), to) {
                    Ok(next) => self.set(n, next, now),
                    Err(_) => return Answer::Later,
                }
            }
        }
        Answer::Done
    }

    fn progress(&self) -> Vec<Progress> {
        let closing = (0u16..).zip(&self.slots).filter(|(_, slot)| slot.is_closing());
        closing
            .map(|(n, slot)| {
                let cell = Cell {
                    pool: POOL,
                    slot: n,
                    backend: slot.current().into(),
                };
                if slot.origin() == slot.current() {
                    Progress::Retired(cell)
                } else {
                    Progress::Closed(cell)
                }
            })
            .collect()
    }

    fn each(
        &mut self,
        order: &Order,
        cells: &[Cell],
        now: u64,
        random: u64,
        broken: Option<Broken>,
    ) -> Answer {
        let mut refused = BTreeSet::new();
        for cell in cells {
            let (n, to) = (
                usize::from(cell.slot),
                u16::try_from(cell.backend).expect("few of them"),
            );
            let old = self.slots[n];
            let is_no = random >> cell.slot & 7 == 0 && self.noes > 0;
            let next = match order {
                Order::Bury(_) if self.verdict.dead.contains(&old.origin().into()) => {
                    let to = if broken == Some(Broken::OwnCurrent) {
                        old.current()
                    } else {
                        to
                    };
                    self.buried.insert(cell.slot);
                    old.bury(old.origin(), to)
                }
                Order::Close(_) if is_no || !self.vote(cell.slot, to, now) => {
                    refused.insert(*cell);
                    Ok(old)
                }
                Order::Close(_) => old.close(to),
                Order::Vote(_) if is_no || !old.is_closing() || old.current() != to => {
                    refused.insert(*cell);
                    Ok(old)
                }
                Order::Retire(_) => old.retire(to),
                Order::Finish(_) => old.finish(to, u32::from(is_no)),
                Order::Reopen(_) => old.reopen(),
                _ => Ok(old),
            };
            if next.is_err() && matches!(order, Order::Bury(_)) {
                return Answer::Later;
            }
            self.noes = self.noes.saturating_sub(u32::from(is_no));
            self.slots[n] = next.unwrap_or(old);
        }
        match order {
            Order::Close(_) | Order::Vote(_) => Answer::Except(refused.into_iter().collect()),
            _ => Answer::Done,
        }
    }
}
