//! The model's world: one slot, one 5-tuple, two nodes, a few backends, the records between the nodes.

use lb_common::flow::{CONFIRMED, Entry, PROBATION};
use lb_common::slot::Slot;
use lb_common::tick::{self, Tick};

/// Nodes of the group.
pub(crate) const NODES: usize = 2;
/// Records on their way from one node to another, at most. What would send more waits.
pub(crate) const LAG: usize = 2;
/// Connections of the client, one after another.
pub(crate) const CONNECTIONS: u8 = 2;
/// The sequence number of forged SYNs.
pub(crate) const FORGED: u8 = 7;
/// The model has no clock: it is always now, and what may be a matter of time is a step.
pub(crate) const NOW: Tick = Tick(1_000_000);
/// Every VIP's idle timeout.
pub(crate) const IDLE: u32 = tick::seconds(900);

/// A node's number.
pub(crate) type Node = u8;
/// Backends, one bit each.
pub(crate) type Set = u8;

/// Whether `backend` is in `set`.
pub(crate) fn has(set: Set, backend: u16) -> bool {
    set >> backend & 1 != 0
}

/// An entry without its times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Held {
    /// 0 in a record: the owner has forgotten the flow.
    pub(crate) backend: u8,
    pub(crate) state: u8,
    /// Which SYN made it.
    pub(crate) isn: u8,
}

/// The record by which an owner tells that its entry has expired.
pub(crate) const GONE: Held = Held {
    backend: 0,
    state: 0,
    isn: 0,
};

impl Held {
    /// As the tables hold it. What is in probation is young, what is closed has been so for a while.
    pub(crate) fn entry(self, owner: u8) -> Entry {
        let age = if self.state == PROBATION {
            0
        } else {
            tick::seconds(10)
        };
        Entry {
            isn: number(self.isn),
            since: Tick(NOW.0 - age),
            last: NOW,
            backend: u16::from(self.backend),
            state: self.state,
            owner,
        }
    }

    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            backend: entry.backend as u8,
            state: entry.state,
            isn: (entry.isn >> 24) as u8,
        }
    }

    pub(crate) fn names(self, backend: u16) -> bool {
        u16::from(self.backend) == backend
    }
}

/// The sequence number of a SYN.
pub(crate) fn number(isn: u8) -> u32 {
    u32::from(isn) << 24
}

/// One node's share of the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Member {
    pub(crate) up: bool,
    pub(crate) slot: Slot,
    pub(crate) own: Option<Held>,
    pub(crate) replica: Option<Held>,
    pub(crate) probation: Option<Held>,
    /// Backends under the group's verdict, as far as this node knows.
    pub(crate) dead: Set,
    /// Since the idle timeout began last, `origin` was used, the slot changed, or the group did.
    pub(crate) busy: bool,
    /// The phase's step is made.
    pub(crate) done: bool,
}

impl Member {
    /// Entries that name another backend than `to`.
    pub(crate) fn elsewhere(&self, to: u16) -> u32 {
        let held = [self.own, self.replica, self.probation];
        held.iter().flatten().filter(|held| !held.names(to)).count() as u32
    }
}

/// A node that is down.
pub(crate) const DOWN: Member = Member {
    up: false,
    slot: Slot(0),
    own: None,
    replica: None,
    probation: None,
    dead: 0,
    busy: false,
    done: false,
};

/// The client's connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Flow {
    /// Where it is established.
    pub(crate) backend: u8,
    /// Where the routers send it.
    pub(crate) node: Node,
    /// Its SYN's number.
    pub(crate) isn: u8,
    /// It began elsewhere than at some member's `origin`: it needs its record.
    pub(crate) away: bool,
    /// It has an entry in probation, and its next segment follows the SYN.
    pub(crate) young: bool,
}

/// What the group does together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Idle,
    Prepare(u8),
    Commit(u8),
    Close(u8),
    Vote(u8),
    Reopen(u8),
    Origin(u8),
    Untrack(u8),
    Dead { backend: u8, to: u8 },
    Bury { backend: u8, to: u8 },
    Return(u8),
}

/// Records from one node to the other, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Channel([Option<Held>; LAG]);

impl Channel {
    /// `false` if it is full.
    pub(crate) fn push(&mut self, record: Held) -> bool {
        match self.0.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(record);
                true
            }
            None => false,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Held> {
        let first = self.0[0].take();
        self.0.rotate_left(1);
        first
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Held> {
        self.0.into_iter().flatten()
    }
}

/// Everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) nodes: [Member; NODES],
    /// `to_other[n]`: from node n to the other one.
    pub(crate) to_other: [Channel; NODES],
    pub(crate) flow: Option<Flow>,
    pub(crate) phase: Phase,
    /// All backends.
    pub(crate) known: Set,
    /// Backends that run.
    pub(crate) alive: Set,
    /// Connections so far.
    pub(crate) connections: u8,
    /// A record found no room: not a world, this step has to wait.
    pub(crate) overflow: bool,
}

impl World {
    /// Two nodes up, one slot at A, nothing else.
    pub(crate) fn start(backends: u8) -> Self {
        let node = Member {
            up: true,
            slot: Slot::untracked(1),
            ..DOWN
        };
        Self {
            nodes: [node; NODES],
            to_other: [Channel::default(); NODES],
            flow: None,
            phase: Phase::Idle,
            known: (1 << (backends + 1)) - 2,
            alive: (1 << (backends + 1)) - 2,
            connections: 0,
            overflow: false,
        }
    }

    pub(crate) fn node(&mut self, node: Node) -> &mut Member {
        &mut self.nodes[usize::from(node)]
    }

    pub(crate) fn up(&self) -> impl Iterator<Item = Node> {
        let nodes = self.nodes;
        (0..NODES as u8).filter(move |&n| nodes[usize::from(n)].up)
    }

    /// Sends a record to the other node if there is one.
    pub(crate) fn send(&mut self, from: Node, record: Held) {
        if self.nodes[usize::from(1 - from)].up && !self.to_other[usize::from(from)].push(record) {
            self.overflow = true;
        }
    }

    /// Whether some node's verdict, or one that is being reached, is against `backend`.
    pub(crate) fn is_condemned(&self, backend: u16) -> bool {
        let named = match self.phase {
            Phase::Dead { backend, .. } | Phase::Bury { backend, .. } | Phase::Return(backend) => {
                u16::from(backend)
            }
            _ => 0,
        };
        named == backend || self.up().any(|n| has(self.nodes[usize::from(n)].dead, backend))
    }

    /// Whether a record that names `backend` is on its way to `node`.
    pub(crate) fn is_coming(&self, node: Node, backend: u8) -> bool {
        let records = self.to_other[usize::from(1 - node)].records();
        records.into_iter().any(|record| record.backend == backend)
    }

    /// Whether an entry is the live connection's.
    pub(crate) fn is_live(&self, held: Held) -> bool {
        self.flow.is_some_and(|flow| {
            held.backend == flow.backend && (held.state >= CONFIRMED || held.isn == flow.isn)
        })
    }

    /// Changes a node's slot; the idle timeout begins anew.
    pub(crate) fn set_slot(&mut self, node: Node, slot: Slot) {
        // `previous` decides nothing here.
        let slot = Slot::new(slot.current(), slot.origin(), 0, slot.flags());
        let member = self.node(node);
        let before = core::mem::replace(&mut member.slot, slot);
        let same = (before.current(), before.origin(), before.is_tracked());
        member.busy |= same != (slot.current(), slot.origin(), slot.is_tracked());
        member.busy &= slot.is_tracked();
    }
}
