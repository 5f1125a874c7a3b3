//! Records become operations on the maps: the step that the exhaustive model (`lb-common/tests/slots/steps.rs`) calls `receive`,
//! for any number of nodes.
//!
//! An announcement is the model's record to the letter. What the model has not: a refresh counts from the owner alone; an
//! entry of a resync or a repair ([`Kind::Snapshot`]) displaces another node's only where it was used later, since
//! it may be older than what displaced it; an orphan displaces no living owner's.

use foldhash::HashMap;
use lb_common::flow::{CLOSED, CONFIRMED, Entry, Key, PROBATION};
use lb_common::slot::Slot;
use lb_common::tick::{self, Tick};
use lb_common::vip;

use super::record::{Kind, Names, Record};

/// The owner of replicas whose owner has started anew: nobody.
pub const ORPHAN: u8 = u8::MAX;

/// How entries call the node at this place as their owner.
pub const fn owner(place: u8) -> u8 {
    place.saturating_add(1)
}

/// How much later a snapshot's entry has to have been used to be surely the newer one: `last` is as exact as
/// [`lb_common::flow::TOUCH`] on both sides.
const LATER: u32 = tick::seconds(2);

/// The entries of this node.
pub trait Tables {
    /// The own entry of a flow, confirmed or closed.
    fn own(&mut self, key: &Key) -> Option<Entry>;
    /// The replica of a peer's.
    fn replica(&mut self, key: &Key) -> Option<Entry>;
}

/// What this node knows besides.
pub trait View {
    /// The pool of a VIP whose flows are tracked, by index.
    fn vip(&self, vip: &vip::Key) -> Option<u16>;
    /// The index of the backend of this stable identity.
    fn backend(&self, id: u64) -> Option<u16>;
    /// Whether the backend is this pool's.
    fn is_home(&self, backend: u16, pool: u16) -> bool;
    /// Whether the group's verdict on the backend is *dead*.
    fn is_dead(&self, backend: u16) -> bool;
    /// Where the flow's slot lies in the flat array of all rings ([`lb_common::slot::index`]).
    fn place(&self, pool: u16, key: &Key) -> u32;
    /// The slot there.
    fn slot(&self, place: u32) -> Slot;
    /// Whether this owner, as entries have it, is gone. Of [`ORPHAN`] nobody asks.
    fn is_gone(&self, owner: u8) -> bool;
}

/// Why a record changed nothing; [`Drops`] says more.
#[derive(Clone, Copy, Debug)]
enum Dropped {
    Vip,
    Backend,
    Foreign,
    Dead,
    NotOwner,
    Unyielding,
}

/// Counts of records that changed nothing, and of what repairs found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Drops {
    /// No such VIP here, or its flows are not tracked.
    pub vip: u64,
    /// No such backend here.
    pub backend: u64,
    /// The backend is another pool's.
    pub foreign: u64,
    /// The backend is dead.
    pub dead: u64,
    /// A delete or a refresh of somebody else's entry, or an orphan of which something is known.
    pub not_owner: u64,
    /// What is held here doesn't yield to it.
    pub unyielding: u64,
    /// Not a drop: entries of refreshes, resyncs and repairs that were missing here.
    pub found: u64,
}

impl Drops {
    fn count(&mut self, dropped: Dropped) {
        let counter = match dropped {
            Dropped::Vip => &mut self.vip,
            Dropped::Backend => &mut self.backend,
            Dropped::Foreign => &mut self.foreign,
            Dropped::Dead => &mut self.dead,
            Dropped::NotOwner => &mut self.not_owner,
            Dropped::Unyielding => &mut self.unyielding,
        };
        *counter += 1;
    }

    /// Adds those of another batch.
    pub const fn add(&mut self, other: &Self) {
        self.vip += other.vip;
        self.backend += other.backend;
        self.foreign += other.foreign;
        self.dead += other.dead;
        self.not_owner += other.not_owner;
        self.unyielding += other.unyielding;
        self.found += other.found;
    }
}

/// What to do to the maps, in this order: a flow that is held at all is held at every moment.
#[derive(Clone, Default, Debug)]
pub struct Plan {
    /// Replicas to write.
    pub upserts: Vec<(Key, Entry)>,
    /// Slots, by place, that a compare-and-swap makes [`Slot::held`] for this backend, now that the replica is there.
    pub holds: Vec<(u32, u16)>,
    /// Slots, by place, to stamp: somebody may use `origin` who has not been seen there
    /// ([`lb_common::retire::Uses::by_flow`]).
    pub stamps: Vec<u32>,
    /// Own entries to delete, TCP's and UDP's by `proto`: a peer has the flow.
    pub demoted: Vec<Key>,
    /// Replicas to delete.
    pub removed: Vec<Key>,
    /// What was dropped and why.
    pub drops: Drops,
    overlay: HashMap<Key, Held>,
}

/// What is held for a flow, and what of it the plan has changed.
#[derive(Clone, Copy, Debug)]
struct Held {
    own: Option<Entry>,
    replica: Option<Entry>,
    demoted: bool,
    replaced: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty()
            && self.holds.is_empty()
            && self.stamps.is_empty()
            && self.demoted.is_empty()
            && self.removed.is_empty()
    }

    /// Empties it, for the next batch.
    pub fn clear(&mut self) {
        self.upserts.clear();
        self.holds.clear();
        self.stamps.clear();
        self.demoted.clear();
        self.removed.clear();
        self.drops = Drops::default();
    }

    /// Turns what became of each flow into lists.
    fn settle(&mut self) {
        for (key, held) in self.overlay.drain() {
            match held.replica {
                _ if !held.replaced => {}
                Some(entry) => self.upserts.push((key, entry)),
                None => self.removed.push(key),
            }
            if held.demoted {
                self.demoted.push(key);
            }
        }
    }
}

/// Merges what one peer says.
#[derive(Clone, Copy, Debug)]
pub struct Merger {
    /// This node, as entries would have it as owner.
    me: u8,
    /// The peer.
    peer: u8,
}

/// Everything that merging a batch asks.
struct Step<'a, V, T> {
    peer: u8,
    me: u8,
    sent: Tick,
    now: Tick,
    names: &'a Names,
    view: &'a V,
    tables: &'a mut T,
}

impl Merger {
    /// For the node at place `me` and a peer at another one.
    pub const fn new(me: u8, peer: u8) -> Self {
        Self {
            me: owner(me),
            peer: owner(peer),
        }
    }

    /// Adds to `plan`, which has to be executed before the tables are asked again, what a batch
    /// ([`super::Inbound::Records`]) asks for. Later records of a flow see what earlier ones did.
    #[expect(clippy::too_many_arguments, reason = "all that merging asks, once")]
    pub fn merge<V: View, T: Tables>(
        &self,
        records: &[Record],
        sent: Tick,
        names: &Names,
        view: &V,
        tables: &mut T,
        now: Tick,
        plan: &mut Plan,
    ) {
        let mut step = Step {
            peer: self.peer,
            me: self.me,
            sent,
            now,
            names,
            view,
            tables,
        };
        for record in records {
            if let Err(dropped) = step.record(record, plan) {
                plan.drops.count(dropped);
            }
        }
        plan.settle();
    }
}

impl<V: View, T: Tables> Step<'_, V, T> {
    fn record(&mut self, record: &Record, plan: &mut Plan) -> Result<(), Dropped> {
        let vip = self.names.vip(record.vip).ok_or(Dropped::Vip)?;
        if record.kind == Kind::Delete {
            return self.delete(&record.key, plan);
        }
        let pool = self.view.vip(&vip).ok_or(Dropped::Vip)?;
        let id = self.names.backend(record.backend).ok_or(Dropped::Backend)?;
        let backend = self.view.backend(id).ok_or(Dropped::Backend)?;
        if !self.view.is_home(backend, pool) {
            return Err(Dropped::Foreign);
        }
        if self.view.is_dead(backend) {
            return Err(Dropped::Dead);
        }
        let owner = if record.kind == Kind::Orphan {
            ORPHAN
        } else {
            self.peer
        };
        let entry = record.entry(backend, owner, self.sent);
        let held = held(&mut plan.overlay, self.tables, &record.key);
        let (own, replica) = self.yields(record.kind, &entry, held)?;
        if held.own.is_none() && held.replica.is_none() && record.kind != Kind::Announce {
            plan.drops.found += 1;
        }
        let place = self.view.place(pool, &record.key);
        // The slot has to be tracked for the record to count, also where it displaces nothing.
        if self.view.slot(place).current() != backend && plan.holds.last() != Some(&(place, backend)) {
            plan.holds.push((place, backend));
        }
        // Whose entry goes may be at `origin` without one from now on, and has not been seen there.
        let displaced = [held.own.filter(|_| own), held.replica.filter(|_| replica)];
        let is_other = displaced.iter().flatten().any(|held| held.backend != backend);
        if is_other && plan.stamps.last() != Some(&place) {
            plan.stamps.push(place);
        }
        if own && held.own.take().is_some() {
            held.demoted = true;
        }
        if replica {
            held.replica = Some(entry);
            held.replaced = true;
            Ok(())
        } else {
            Err(Dropped::Unyielding)
        }
    }

    fn is_orphan(&self, held: &Entry) -> bool {
        held.owner == ORPHAN || self.view.is_gone(held.owner)
    }

    /// Whether the own entry and the replica make room, if they are there.
    fn yields(&self, kind: Kind, entry: &Entry, held: &Held) -> Result<(bool, bool), Dropped> {
        match kind {
            Kind::Announce => Ok((
                self.own_yields(entry, held.own),
                self.replica_yields(entry, held.replica),
            )),
            Kind::Snapshot if entry.state == PROBATION => Ok((
                self.own_yields(entry, held.own),
                self.replica_yields(entry, held.replica),
            )),
            Kind::Refresh => {
                let is_owners = held.replica.is_none_or(|replica| replica.owner == self.peer);
                if held.own.is_none() && is_owners {
                    Ok((true, true))
                } else {
                    Err(Dropped::NotOwner)
                }
            }
            Kind::Snapshot => {
                let own = held.own.is_none_or(|own| self.is_later(entry, &own));
                let replica = held.replica.is_none_or(|replica| {
                    replica.owner == self.peer
                        || self.is_orphan(&replica)
                        || is_reopened(entry, &replica)
                        || !is_clearly_later(&replica, entry)
                });
                if own && replica {
                    Ok((true, true))
                } else {
                    Err(Dropped::Unyielding)
                }
            }
            Kind::Orphan => {
                let replica = held
                    .replica
                    .is_none_or(|replica| self.is_orphan(&replica) && entry.last.since(replica.last) > LATER);
                if held.own.is_none() && replica {
                    Ok((true, true))
                } else {
                    Err(Dropped::NotOwner)
                }
            }
            Kind::Delete => Err(Dropped::NotOwner),
        }
    }

    fn own_yields(&self, entry: &Entry, held: Option<Entry>) -> bool {
        held.is_none_or(|held| held.yields_to(entry, false, self.now))
    }

    fn replica_yields(&self, entry: &Entry, held: Option<Entry>) -> bool {
        held.is_none_or(|held| held.yields_to(entry, self.is_orphan(&held), self.now))
    }

    /// Whether the peer's entry was used later than our own, where both claim a flow; where that can't be told the node at the
    /// lower place has it, or they would never agree.
    fn is_later(&self, entry: &Entry, own: &Entry) -> bool {
        is_reopened(entry, own)
            || is_clearly_later(entry, own)
            || !is_clearly_later(own, entry) && self.peer < self.me
    }

    fn delete(&mut self, key: &Key, plan: &mut Plan) -> Result<(), Dropped> {
        let peer = self.peer;
        let held = held(&mut plan.overlay, self.tables, key);
        if held.replica.is_some_and(|replica| replica.owner == peer) {
            held.replica = None;
            held.replaced = true;
            Ok(())
        } else {
            Err(Dropped::NotOwner)
        }
    }
}

/// What is held for a flow, as the plan leaves it.
fn held<'a, T: Tables>(overlay: &'a mut HashMap<Key, Held>, tables: &mut T, key: &Key) -> &'a mut Held {
    overlay.entry(*key).or_insert_with(|| Held {
        own: tables.own(key),
        replica: tables.replica(key),
        demoted: false,
        replaced: false,
    })
}

/// Whether one entry surely was used later than another. A replica of a third node may be what that node has given up since,
/// so it stays only in this case: who of both has the flow they find out between them.
const fn is_clearly_later(entry: &Entry, than: &Entry) -> bool {
    entry.last.since(than.last) > LATER
}

/// Whether an entry says of a flow that is held as closed that it lives, at the same backend. What is closed is in no digest,
/// so it has to give way.
const fn is_reopened(entry: &Entry, held: &Entry) -> bool {
    held.state == CLOSED && entry.state == CONFIRMED && held.backend == entry.backend
}
