//! This node as a member of a group: what the coordinator orders, done in the maps (docs/adr/0015-groups.md).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use lb_common::hash::siphash13;
use lb_common::id::stable;
use lb_common::slot::{NO_BACKEND, SLOTS, Slot, index};
use lb_common::tick::Tick;
use tracing::{error, info};

use super::cells::Names;
use super::controller::Controller;
use super::sync::Names as FlowNames;
use crate::dataplane::flows::now;
use crate::dataplane::maps::Maps;
use crate::group::{self, Answer, Cell, Leaver, Local, Order, Progress, SlotImage, Target, Verdict, View};
use crate::model::{self, Model};
use crate::state::standing::{Standing, Standings};
use crate::state::track::{Gate, Ordered, Slots};

/// Fences of peers that are remembered until this node gets the same order.
const FENCES: usize = 256;

/// What a member knows beside its slots.
#[derive(Default)]
pub(super) struct Member {
    pub(super) verdict: Verdict,
    /// Digest of the rings that were prepared last.
    prepared: Option<u64>,
    /// The same of a commit.
    committed: Option<u64>,
    /// What all rings of the group are to be.
    rings: u64,
    /// The same of each pool, by its identity.
    by_pool: Vec<(u64, u64)>,
    generation: group::Generation,
    pending: Option<Pending>,
    /// The other members.
    others: BTreeSet<u8>,
    /// Fences that peers have sent.
    fences: Vec<(u8, u64)>,
    /// The last digest of origins, and what it was computed from: all slots are looked at for it.
    origins: Option<(Origins, u64)>,
}

/// What origins can't have changed without: slots that were written here (a peer's records change marks alone), and names.
#[derive(PartialEq, Eq)]
struct Origins {
    slots: u64,
    pools: BTreeMap<u64, u16>,
    ids: BTreeMap<u16, u64>,
}

/// How far slots were when they were looked at.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    slots: u64,
    sweeps: u64,
    generation: u64,
}

/// An order that takes a while.
enum Pending {
    /// Entries that name the dead are being deleted.
    Judge,
    /// Until all others' fences are here.
    Fence(u64),
    /// Until a sweep that begins now has ended.
    Vote { cells: Vec<Cell>, since: Tick },
}

impl Member {
    fn gate(&self) -> Gate {
        let is_now = |digest: Option<u64>| digest == Some(self.rings);
        match (is_now(self.prepared), is_now(self.committed)) {
            (_, true) => Gate::Committed,
            (true, false) => Gate::Prepared,
            (false, false) => Gate::Shut,
        }
    }

    /// Computes what all rings are to be. Whether that has been agreed on.
    pub(super) fn lay(&mut self, model: &Model, operator: &Standings) -> Gate {
        self.by_pool = group::ring_digests(model, &group::agreed(operator, &self.verdict));
        self.rings = group::rings(&self.by_pool);
        self.gate()
    }
}

impl Controller {
    fn member(&mut self) -> &mut Member {
        self.member.get_or_insert_default()
    }

    /// The slots that an earlier agent has left are not the group's: it had left the group.
    pub(super) fn slots_are_old(&mut self) {
        self.kept = false;
    }

    /// Whether the slots are those of an earlier agent, and may be the group's.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// What all rings are to be.
    pub(super) fn rings_wanted(&self) -> Target {
        self.member
            .as_ref()
            .map_or_else(Target::default, |member| Target {
                generation: member.generation,
                verdict: member.verdict.number,
                rings: member.rings,
            })
    }

    /// The same of each pool, by its identity.
    pub(super) fn rings_by_pool(&self) -> &[(u64, u64)] {
        self.member.as_ref().map_or(&[], |member| &member.by_pool)
    }

    /// The charter that is in force.
    pub(super) fn set_charter(&mut self, generation: group::Generation) {
        self.member().generation = generation;
    }

    /// Takes the group's verdict on backends.
    pub(super) async fn judged(&mut self, verdict: Verdict) -> Result<()> {
        // Its number may be a lower one: who joins again takes the group's.
        let old = std::mem::replace(&mut self.member().verdict, verdict);
        self.purge_missed(&old);
        self.follow().await
    }

    /// Backends that were dead while this node didn't hear of it: their entries have to go here, too.
    fn purge_missed(&mut self, old: &Verdict) {
        let returning = self.member().verdict.returning.clone();
        let missed = returning
            .iter()
            .filter(|&id| !old.dead.contains(id) && !old.returning.contains(id));
        let names = Names::of(&self.applied);
        let missed: Vec<u16> = missed
            .map(|&id| names.index(id))
            .filter(|&i| i != NO_BACKEND)
            .collect();
        if !missed.is_empty() {
            self.changes.tracker.bury(missed, now());
        }
    }

    /// The members have changed.
    pub(super) fn members_changed(&mut self, others: BTreeSet<u8>) {
        self.member().others = others;
        self.changes.tracker.members_changed(now());
    }

    /// This node is one of the group from now on, which has committed this change last.
    pub(super) fn admitted(&mut self, committed: Option<Target>) {
        let rings = committed.map(|target| target.rings);
        let member = self.member();
        (member.prepared, member.committed) = (rings, rings);
        self.regate();
    }

    /// A peer's fence has come, and with it everything that it sent before.
    pub(super) fn fenced(&mut self, peer: u8, id: u64) {
        let fences = &mut self.member().fences;
        fences.push((peer, id));
        let over = fences.len().saturating_sub(FENCES);
        fences.drain(..over);
    }

    /// A peer's records have made slots tracked.
    pub(super) fn slots_held(&mut self) {
        let pools: Vec<u16> = self.applied.pools.keys().copied().collect();
        for pool in pools {
            self.changes
                .tracker
                .recount_pool(pool, &self.balancer.maps, now());
        }
        self.changes.hurry();
    }

    /// Carries out an order. `None`: it is under way, and [`Controller::answer`] says when it is done. What was under way
    /// before is given up.
    pub(super) async fn order(&mut self, order: Order) -> Option<Answer> {
        self.member().pending = None;
        match order {
            Order::Prepare(target) => Some(self.prepare(target)),
            Order::Commit(target) => Some(self.commit_change(target)),
            Order::Judge(verdict) => {
                if let Err(e) = self.judged(verdict).await {
                    error!("a verdict of the group could not be followed: {e:#}");
                    return Some(Answer::Later);
                }
                self.wait_for(Pending::Judge)
            }
            Order::Bury(cells) => Some(self.bury(&cells)),
            Order::Close(cells) => Some(self.close(&cells)),
            Order::Fence(id) => self.wait_for(Pending::Fence(id)),
            Order::Vote(cells) => {
                let since = now();
                self.changes.restart_sweep();
                self.wait_for(Pending::Vote { cells, since })
            }
            Order::Retire(cells) => Some(self.step(&cells, |controller, cells| {
                let maps = &controller.balancer.maps;
                controller.changes.tracker.retire(cells, maps);
            })),
            Order::Finish(cells) => Some(self.step(&cells, |controller, cells| {
                let maps = &controller.balancer.maps;
                controller.changes.tracker.finish(cells, maps, now());
            })),
            Order::Reopen(cells) => Some(self.step(&cells, |controller, cells| {
                let maps = &controller.balancer.maps;
                controller.changes.tracker.reopen(cells, maps);
            })),
            Order::Report => Some(Answer::Progress(self.progress())),
        }
    }

    fn wait_for(&mut self, pending: Pending) -> Option<Answer> {
        self.member().pending = Some(pending);
        self.answer()
    }

    /// The answer to the order that is under way, if it is done now.
    pub(super) fn answer(&mut self) -> Option<Answer> {
        let member = self.member.as_mut()?;
        let pending = member.pending.take()?;
        let answer = match &pending {
            Pending::Judge => {
                (self.in_step && self.changes.tracker.barred().is_empty()).then_some(Answer::Done)
            }
            Pending::Fence(id) => {
                let is_here = |&peer: &u8| member.fences.contains(&(peer, *id));
                member.others.iter().all(is_here).then_some(Answer::Done)
            }
            Pending::Vote { cells, since } => self.changes.tracker.is_swept(*since).then(|| self.vote(cells)),
        };
        if answer.is_none() {
            self.member().pending = Some(pending);
        }
        answer
    }

    fn prepare(&mut self, target: Target) -> Answer {
        if !self.in_step || self.member().rings != target.rings {
            return Answer::Later;
        }
        self.member().prepared = Some(target.rings);
        self.regate();
        Answer::Done
    }

    fn commit_change(&mut self, target: Target) -> Answer {
        if self.prepare(target) != Answer::Done {
            return Answer::Later;
        }
        self.member().committed = Some(target.rings);
        self.regate();
        Answer::Done
    }

    /// Moves slots as far as the coordinator lets them.
    fn regate(&mut self) {
        let gate = self.member().gate();
        self.changes.set_gate(gate);
        let slots = self.changes.advance_all(&self.balancer.maps, &self.target);
        self.applied.rings = self.changes.rings(&self.balancer.maps, &self.target);
        if slots > 0 {
            info!(slots, gate = gate.name(), "slots changed");
        }
    }

    fn bury(&mut self, cells: &[Cell]) -> Answer {
        let Some(ordered) = self.all_ordered(cells) else {
            return Answer::Later;
        };
        let (fits, maps) = (self.changes.fits.clone(), &self.balancer.maps);
        let no = self.changes.tracker.rehome(&ordered, &fits, maps, now());
        if no.iter().any(|cell| at(maps, cell.place).is_closing()) {
            return Answer::Later;
        }
        if let Some(cell) = no.first() {
            let slot = cell.place & 0xffff;
            error!(
                "slot {slot} and {} more have another origin than the group's",
                no.len() - 1
            );
        }
        self.advance();
        Answer::Done
    }

    fn close(&mut self, cells: &[Cell]) -> Answer {
        let (known, mut except) = self.ordered(cells);
        let (maps, terms) = (&self.balancer.maps, self.changes.terms.clone());
        let of = |pool: u16| terms.get(&pool).copied().unwrap_or_default();
        let ordered: Vec<Ordered> = known.iter().map(|&(_, ordered)| ordered).collect();
        let no = self.changes.tracker.close(&ordered, of, maps, now());
        except.extend(cells_of(&known, &no));
        votes(except)
    }

    fn vote(&mut self, cells: &[Cell]) -> Answer {
        let (known, mut except) = self.ordered(cells);
        let (maps, terms) = (&self.balancer.maps, self.changes.terms.clone());
        let of = |pool: u16| terms.get(&pool).copied().unwrap_or_default();
        let ordered: Vec<Ordered> = known.iter().map(|&(_, ordered)| ordered).collect();
        let no = self.changes.tracker.vote_again(&ordered, of, maps, now());
        except.extend(cells_of(&known, &no));
        votes(except)
    }

    fn step(&mut self, cells: &[Cell], step: impl FnOnce(&mut Self, &[Ordered])) -> Answer {
        let Some(ordered) = self.all_ordered(cells) else {
            return Answer::Later;
        };
        step(self, &ordered);
        self.advance();
        Answer::Done
    }

    fn progress(&self) -> Vec<Progress> {
        let names = Names::of(&self.applied);
        let closing = self.changes.tracker.closing(&self.balancer.maps);
        closing
            .into_iter()
            .filter_map(|(ordered, slot)| {
                let cell = names.cell(ordered)?;
                Some(if slot.origin() == ordered.to {
                    Progress::Retired(cell)
                } else {
                    Progress::Closed(cell)
                })
            })
            .collect()
    }

    /// Cells as places; those that name what this node doesn't have.
    fn ordered(&self, cells: &[Cell]) -> (Vec<(Cell, Ordered)>, Vec<Cell>) {
        let names = Names::of(&self.applied);
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for &cell in cells {
            match names.place(cell) {
                Some(ordered) => known.push((cell, ordered)),
                None => unknown.push(cell),
            }
        }
        (known, unknown)
    }

    fn all_ordered(&self, cells: &[Cell]) -> Option<Vec<Ordered>> {
        let (known, unknown) = self.ordered(cells);
        unknown
            .is_empty()
            .then(|| known.into_iter().map(|(_, ordered)| ordered).collect())
    }

    /// What the maps hold, as flow records name it.
    pub(super) fn flow_names(&self, own: u8) -> FlowNames {
        FlowNames::of(&self.effective, &self.applied, own, self.changes.key)
    }

    /// Of the key of the flow hash: what other nodes compare with theirs, and that says nothing of it.
    pub(super) fn key_check(&self) -> u64 {
        let [k0, k1] = self.changes.key.sip;
        siphash13(k0, k1, b"tandem group key")
    }

    /// Whether slots, sweeps or standings have changed since this was asked last.
    pub(super) fn has_moved(&self, seen: &mut Seen) -> bool {
        let now = Seen {
            slots: self.balancer.maps.slots_changed(),
            sweeps: self.changes.tracker.census().sweeps,
            generation: self.generation(),
        };
        std::mem::replace(seen, now) != now
    }

    /// What the group's machine has to know of the slots.
    pub(super) fn local(&mut self) -> Local {
        let origins = self.origins();
        let names = Names::of(&self.applied);
        let cells = |all: &[Ordered]| all.iter().filter_map(|&one| names.cell(one)).collect();
        let maps = &self.balancer.maps;
        Local {
            target: self.rings_wanted(),
            origins,
            candidates: cells(self.changes.tracker.candidates()),
            buriable: cells(&self.changes.tracker.homeless(&self.changes.fits, maps)),
        }
    }

    /// What this node thinks of all backends.
    pub(super) fn views(&self) -> Vec<View> {
        let ordered = self.operator().standings(&self.model, super::controller::now());
        let checked = self.checked();
        let mut views = Vec::new();
        for pool in &self.effective.pools {
            let id = stable(pool.name.as_str(), "");
            views.extend(pool.backends.iter().map(|backend| View {
                backend: backend.id,
                pool: id,
                weight: backend.weight,
                fail_open: pool.health.as_ref().map_or(100, |health| health.fail_open),
                ordered: ordered.of(backend.id),
                seen: checked.seen(backend.id),
            }));
        }
        for leaver in self.changes.overdue() {
            let over = views.iter_mut().find(|view| view.backend == leaver);
            if let Some(view) = over {
                view.ordered = Standing::Dead;
            }
        }
        views
    }

    fn origins(&mut self) -> u64 {
        let Names { pools, ids, .. } = Names::of(&self.applied);
        let slots = self.balancer.maps.slots_changed();
        let of = Origins { slots, pools, ids };
        if let Some((known, digest)) = &self.member().origins
            && *known == of
        {
            return *digest;
        }
        let mut table = vec![0; usize::from(u16::MAX) + 1];
        of.ids.iter().for_each(|(&i, &id)| table[usize::from(i)] = id);
        let maps = &self.balancer.maps;
        let origin = |pool: u16, i: usize| table[usize::from(at(maps, index(pool, i as u32)).origin())];
        let ring = |(&id, &pool): (&u64, &u16)| (id, (0..SLOTS).map(|i| origin(pool, i)).collect());
        let digest = group::origins(of.pools.iter().map(ring).collect());
        self.member().origins = Some((of, digest));
        digest
    }

    /// All slots, for a node that joins.
    pub(super) fn images(&self) -> Vec<SlotImage> {
        let names = Names::of(&self.applied);
        let pools = names.pools.iter();
        pools.map(|(&id, &pool)| self.image(id, pool, &names)).collect()
    }

    fn image(&self, id: u64, pool: u16, names: &Names) -> SlotImage {
        // By index: there are three for each slot.
        let mut numbers = vec![None; usize::from(u16::MAX) + 1];
        numbers[usize::from(NO_BACKEND)] = Some(0);
        let mut backends = vec![0];
        let mut number = |index: u16| {
            *numbers[usize::from(index)].get_or_insert_with(|| {
                backends.push(names.id(index));
                backends.len() as u64 - 1
            })
        };
        let words = (0..SLOTS).map(|i| {
            let slot = at(&self.balancer.maps, index(pool, i as u32));
            let [current, origin, previous] =
                [slot.current(), slot.origin(), slot.previous()].map(&mut number);
            current | origin << 16 | previous << 32 | u64::from(slot.flags()) << 48
        });
        let slots = words.collect();
        let leavers = self
            .changes
            .linger
            .iter()
            .filter(|(_, leaver)| stable(&leaver.pool, "") == id);
        SlotImage {
            pool: id,
            backends,
            slots,
            leavers: leavers
                .map(|(_, leaver)| Leaver {
                    name: leaver.backend.name.to_string(),
                    address: leaver.backend.address,
                })
                .collect(),
        }
    }

    /// Puts the group's slots into the place of ours: the digest of what is there then, as far as it has to be the group's.
    pub(super) async fn install(&mut self, images: &[SlotImage]) -> Result<u64> {
        self.welcome_leavers(images).await?;
        let names = Names::of(&self.applied);
        for image in images {
            let Some(&pool) = names.pools.get(&image.pool) else {
                continue;
            };
            let indexes: Vec<u16> = image.backends.iter().map(|&id| names.index(id)).collect();
            let part = |word: u64, shift: u32| {
                let number = (word >> shift & 0xffff) as usize;
                indexes.get(number).copied().unwrap_or(NO_BACKEND)
            };
            let slot =
                |&word: &u64| Slot::new(part(word, 0), part(word, 16), part(word, 32), (word >> 48) as u16);
            let slots: Vec<Slot> = image.slots.iter().map(slot).collect();
            if slots.len() == SLOTS {
                self.changes
                    .tracker
                    .install(pool, &slots, &self.balancer.maps, now());
            }
        }
        let taken = images.iter().map(|image| {
            let own = names.pools.get(&image.pool);
            let own = own.map(|&pool| self.image(image.pool, pool, &names));
            (
                image.pool,
                own.map(|own| group::taken(&own, image)).unwrap_or_default(),
            )
        });
        let slots = group::slots(taken);
        self.advance();
        info!(pools = images.len(), "took over the group's slots");
        Ok(slots)
    }

    /// Backends that have left the group's configuration and still hold flows: this node has to reach them, too.
    async fn welcome_leavers(&mut self, images: &[SlotImage]) -> Result<()> {
        let mut effective = self.effective.clone();
        for image in images {
            let pool = effective
                .pools
                .iter_mut()
                .find(|pool| stable(pool.name.as_str(), "") == image.pool);
            let Some(pool) = pool else { continue };
            for leaver in &image.leavers {
                let Ok(name) = leaver.name.parse::<model::Name>() else {
                    continue;
                };
                let id = stable(pool.name.as_str(), name.as_str());
                if pool.backends.iter().all(|backend| backend.id != id) {
                    pool.backends.push(model::Backend {
                        id,
                        name,
                        address: leaver.address,
                        weight: 0,
                        via: None,
                    });
                }
            }
        }
        if effective == self.effective {
            return Ok(());
        }
        self.effective = effective;
        self.follow().await?;
        self.relinger();
        Ok(())
    }
}

/// One slot by its place; the method of this name is another one.
fn at(maps: &Maps, place: u32) -> Slot {
    Slots::slot(maps, place)
}

fn votes(except: Vec<Cell>) -> Answer {
    if except.is_empty() {
        Answer::Done
    } else {
        Answer::Except(except)
    }
}

fn cells_of(known: &[(Cell, Ordered)], which: &[Ordered]) -> Vec<Cell> {
    let which: BTreeSet<u32> = which.iter().map(|ordered| ordered.place).collect();
    let named = known.iter().filter(|(_, ordered)| which.contains(&ordered.place));
    named.map(|&(cell, _)| cell).collect()
}
