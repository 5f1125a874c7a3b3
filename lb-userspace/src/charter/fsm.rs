//! How the nodes of a group agree on a charter: one node's part, as a machine without clock, disk or network.
//!
//! **Invariant:** a proposer that has given a generation up never commits it, and one that commits has the word of every
//! member that it is on its disk. So the proposer's word decides what becomes of a pending charter, and where it can't be
//! asked any more, whether anybody has committed it.

mod propose;
mod receive;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::message::{Charter, Held, Message, Rival, Status};
use crate::group::Generation;
use crate::health::Mono;

/// So long an operator waits for the members.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What got no answer is asked again after so long.
pub const AGAIN: Duration = Duration::from_millis(500);

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A session with a peer began.
    Up(u8),
    /// It ended: nothing that was sent over it arrives any more.
    Down(u8),
    /// A peer said something.
    Message {
        /// Who, by its place.
        from: u8,
        /// What.
        message: Message,
    },
    /// An operator asks for a charter on the base of what is in force here.
    Apply {
        /// Names the answer.
        call: u64,
        /// What it is.
        charter: Charter,
    },
    /// This node can run it, or why not: the answer to [`Output::Validate`].
    Validated {
        /// What was looked at.
        generation: Generation,
        /// Whether it is right.
        verdict: Result<(), String>,
    },
    /// It is on the disk, or why not: the answer to [`Output::Persist`] of [`Save::Pending`] and [`Save::Committed`].
    Persisted {
        /// What was written.
        generation: Generation,
        /// Whether as committed.
        committed: bool,
        /// What became of it.
        done: Result<(), String>,
    },
    /// Who has to accept, this node included or not.
    Members(BTreeSet<u8>),
    /// What this node's own file says, while nothing was agreed on.
    Digest(u64),
    /// Time has passed.
    Tick,
}

/// Something to do, in the order given. Where one can't be written to disk the rest is done all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Say this to a peer.
    Send {
        /// Whom to, by its place.
        to: u8,
        /// What.
        message: Message,
    },
    /// Say whether this node can run it.
    Validate(Held),
    /// Bring this to disk.
    Persist(Save),
    /// Run this. It is committed.
    PutIntoForce(Held),
    /// Tell the operator.
    Answer {
        /// Whose call.
        call: u64,
        /// The generation in force, or why it isn't.
        answer: Result<Generation, Why>,
    },
    /// For the log.
    Told(Event),
}

/// What the disk has to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Save {
    /// Accepted.
    Pending(Held),
    /// Nothing is pending any more; the highest number that was seen must not be forgotten.
    Dropped {
        /// That number.
        last: u64,
    },
    /// Committed, in place of the former one, which goes into the history. Nothing is pending any more.
    Committed(Held),
}

/// What people may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is on the disk and waits for the others.
    Pending(Rival),
    /// It came to nothing.
    Dropped(Rival),
    /// What was in force gives way to one that was made without knowing it, while the group was cut apart.
    Replaced {
        /// What was in force.
        former: Rival,
        /// What is now.
        by: Rival,
    },
}

/// Why a charter came to nothing. Nodes are named by their place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// This node still holds another one that is not decided.
    Busy(Rival),
    /// Another one was asked for at the same time, and goes first.
    Lost(Rival),
    /// Another one has come into force before.
    Behind(Rival),
    /// A node can't run it.
    Refused {
        /// Which one.
        node: u8,
        /// Why.
        why: String,
    },
    /// Not all members have answered in time.
    Silent(Vec<(u8, Silence)>),
    /// It can't be written to this node's disk.
    Disk(String),
    /// It is longer than a message may be: so many bytes.
    Long(usize),
    /// There are no more numbers.
    Exhausted,
}

/// Why a node has not answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Silence {
    /// There is no session with it.
    Away,
    /// There is, and it says nothing.
    Slow,
    /// It waits for what becomes of another one.
    Waits(Rival),
}

/// What the disk has kept.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The last one that was committed.
    pub committed: Option<Held>,
    /// One that was accepted.
    pub pending: Option<Held>,
    /// The highest number that was seen.
    pub last: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The agent looks whether it can run it.
    Validating,
    /// On its way to the disk.
    Saving,
    /// On the disk, and said so.
    Accepted,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Pending {
    held: Held,
    stage: Stage,
}

/// What this node proposes; the charter is [`Machine::pending`].
#[derive(Clone, PartialEq, Eq, Debug)]
struct Proposal {
    call: u64,
    until: Mono,
    accepted: BTreeSet<u8>,
    waiting: BTreeMap<u8, Rival>,
    /// All have accepted, and the decision is on its way to the disk.
    deciding: bool,
}

/// One node's part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    me: u8,
    members: BTreeSet<u8>,
    /// Peers with a session, and how far they are.
    peers: BTreeMap<u8, Option<Status>>,
    committed: Option<Held>,
    pending: Option<Pending>,
    proposal: Option<Proposal>,
    last: u64,
    digest: u64,
    /// When what got no answer is asked again.
    again: Mono,
    out: Vec<Output>,
}

impl Machine {
    /// The part of the node with this place, from what its disk has kept. `members` have to accept; `digest` is what the
    /// node's file says.
    pub fn new(me: u8, members: BTreeSet<u8>, kept: Kept, digest: u64, now: Mono) -> (Self, Vec<Output>) {
        let committed = kept
            .committed
            .as_ref()
            .map(|held| held.generation)
            .unwrap_or_default();
        // One that was committed since, where the crash came before it was removed.
        let pending = kept.pending.filter(|held| held.generation > committed);
        let numbers = [
            kept.last,
            committed.number,
            pending.as_ref().map_or(0, |p| p.generation.number),
        ];
        let mut machine = Self {
            me,
            members,
            peers: BTreeMap::new(),
            committed: kept.committed,
            pending: pending.map(|held| Pending {
                held,
                stage: Stage::Accepted,
            }),
            proposal: None,
            last: numbers.into_iter().max().unwrap_or_default(),
            digest,
            again: now,
            out: Vec::new(),
        };
        // It is not committed, so nobody was told to: what the disk says is the decision.
        if machine
            .pending
            .as_ref()
            .is_some_and(|pending| pending.held.generation.node == me)
        {
            machine.drop_pending();
        }
        let out = std::mem::take(&mut machine.out);
        (machine, out)
    }

    /// Takes what happened, and says what is to be done.
    pub fn handle(&mut self, now: Mono, input: Input) -> Vec<Output> {
        match input {
            Input::Up(peer) => {
                self.peers.insert(peer, None);
                let status = self.status();
                self.send(peer, Message::Tell(status));
                self.offer_to(peer);
            }
            Input::Down(peer) => {
                self.peers.remove(&peer);
                if let Some(proposal) = &mut self.proposal {
                    proposal.waiting.remove(&peer);
                }
            }
            Input::Message { from, message } => self.receive(from, message),
            Input::Apply { call, charter } => self.apply(now, call, charter),
            Input::Validated { generation, verdict } => self.validated(generation, verdict),
            Input::Persisted {
                generation,
                committed: false,
                done,
            } => self.saved(generation, done),
            Input::Persisted { generation, done, .. } => self.decided(generation, done),
            Input::Members(members) => {
                self.members = members;
                self.offer();
            }
            Input::Digest(digest) => {
                if digest != self.digest {
                    self.digest = digest;
                    self.tell();
                }
            }
            Input::Tick => {}
        }
        self.orphaned();
        self.resolve();
        self.tick(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due; `None` = not before something happens.
    pub fn due(&self) -> Option<Mono> {
        let until = self.proposal.as_ref().map(|proposal| proposal.until);
        let again = self.is_open().then_some(self.again);
        [until, again].into_iter().flatten().min()
    }

    /// Who has to accept, this node included.
    pub const fn members(&self) -> &BTreeSet<u8> {
        &self.members
    }

    /// The generation in force here; the default where nothing was agreed on.
    pub fn generation(&self) -> Generation {
        self.committed
            .as_ref()
            .map(|held| held.generation)
            .unwrap_or_default()
    }

    /// What is in force here, where anything was agreed on.
    pub fn committed(&self) -> Option<&Held> {
        self.committed.as_ref()
    }

    /// What waits for a decision.
    pub fn pending(&self) -> Option<&Held> {
        self.pending.as_ref().map(|pending| &pending.held)
    }

    /// Whether all live peers have what this node has. False also before they have said what they have.
    pub fn is_equal(&self) -> bool {
        let mine = self.status();
        self.peers.values().all(|peer| {
            peer.is_some_and(|peer| {
                peer.committed == mine.committed && (mine.committed.number > 0 || peer.digest == mine.digest)
            })
        })
    }

    /// How far a peer with a session is, where it has said so.
    pub fn peer(&self, peer: u8) -> Option<Status> {
        self.peers.get(&peer).copied().flatten()
    }

    /// How far this node is.
    pub fn status(&self) -> Status {
        Status {
            committed: self.generation(),
            pending: self.pending.as_ref().map(|pending| pending.held.generation),
            last: self.last,
            digest: self.digest,
        }
    }

    fn send(&mut self, to: u8, message: Message) {
        self.out.push(Output::Send { to, message });
    }

    /// Says how far this node is to all peers.
    fn tell(&mut self) {
        let status = self.status();
        let peers: Vec<u8> = self.peers.keys().copied().collect();
        for peer in peers {
            self.send(peer, Message::Tell(status));
        }
    }

    /// Whether something waits for an answer of others.
    fn is_open(&self) -> bool {
        let behind = |peer: &Option<Status>| peer.is_none_or(|peer| peer.committed > self.generation());
        self.pending.is_some() || self.peers.values().any(behind)
    }

    /// Asks again for what got no answer.
    fn tick(&mut self, now: Mono) {
        self.expire(now);
        if now < self.again {
            return;
        }
        self.again = now + AGAIN;
        if !self.is_open() {
            return;
        }
        self.tell();
        let mine = self.generation();
        let ahead = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_some_and(|peer| peer.committed > mine));
        if let Some(to) = ahead
            .max_by_key(|(_, peer)| peer.map(|peer| peer.committed))
            .map(|(&peer, _)| peer)
        {
            self.send(to, Message::Ask);
        }
    }

    /// Takes a committed charter.
    fn commit(&mut self, held: Held) {
        self.last = self.last.max(held.generation.number);
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.held.generation != held.generation)
        {
            self.yield_to(&held);
        }
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.held.generation <= held.generation)
        {
            self.pending = None;
        }
        if let Some(former) = self.committed.as_ref().filter(|former| held.is_apart(former)) {
            let (former, by) = (former.rival(), held.rival());
            self.out.push(Output::Told(Event::Replaced { former, by }));
        }
        self.committed = Some(held.clone());
        self.out.push(Output::Persist(Save::Committed(held.clone())));
        if let Some(pending) = &self.pending {
            // The file of what is pending went with that.
            self.out
                .push(Output::Persist(Save::Pending(pending.held.clone())));
        }
        self.out.push(Output::PutIntoForce(held));
        self.tell();
    }

    /// Drops what is pending, on disk as well.
    fn drop_pending(&mut self) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.out.push(Output::Persist(Save::Dropped { last: self.last }));
        self.out.push(Output::Told(Event::Dropped(pending.held.rival())));
        // Who was told to wait may ask again.
        self.tell();
    }
}
