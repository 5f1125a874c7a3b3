//! One session with one peer: what it still has to get, and what it says.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::tick::Tick;
use quinn::{Connection, RecvStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tracing::{debug, warn};

use super::core::{Core, Shared};
use super::{Notice, PIECE, merge, walk};
use crate::dataplane::flows::now;
use crate::peer::wire::RECORDS;
use crate::peer::{Judge, Refusal};
use crate::sync::{
    Asked, Batch, Compare, Differences, Digest, Drops, Hello, Inbound, Kind, Limits, Merger, ORPHAN, Proof,
    Range, Received, Receiver, Repairs, Scope, Sender, Status, owner,
};

/// Bytes that are taken off a stream at once.
const CHUNK: usize = 64 << 10;

/// Fences that the agent may not have taken yet, per session: then nothing more is read of it.
const NOTICES: usize = 64;

/// One session with one peer.
pub(super) struct Link {
    pub(super) session: u64,
    judge: Judge,
    pub(super) sender: Sender,
    /// There is something to send.
    wake: Rc<Notify>,
    /// The peer has acknowledged something.
    pub(super) room: Rc<Notify>,
    /// What a resync has to tell it.
    scope: Scope,
    /// Records that were put into the sender.
    enqueued: u64,
    /// Of those, the ones that have to be acknowledged before this node may leave.
    target: Option<u64>,
    asked: Asked,
    asked_orphans: Asked,
    /// Its last digest, not compared yet, and its time.
    pub(super) compare: Option<Compare>,
    pub(super) digested: Instant,
    pub(super) differences: Differences,
    /// The same of orphans; none where it holds none. Comes before the digest of its own entries.
    pub(super) compare_orphans: Option<Compare>,
    pub(super) differing_orphans: Differences,
    /// Whether its entries are all in.
    pub(super) proof: Proof,
    pub(super) repairs: Repairs,
    /// Repairs that have ended.
    pub(super) repaired: u64,
    pub(super) drops: Drops,
    received: Received,
    tasks: Vec<AbortHandle>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Link {
    fn new(peer: u8, session: u64, judge: Judge, core: &mut Core) -> Self {
        let hello = Hello {
            place: core.names.own(),
            joins: core.joins && !core.joined.contains(&peer),
            connected: core.links.keys().copied().collect(),
        };
        Self {
            session,
            judge,
            sender: Sender::new(&hello, core.outbox.declarations(), Limits::default()),
            wake: Rc::new(Notify::new()),
            room: Rc::new(Notify::new()),
            scope: Scope::Own,
            enqueued: 0,
            target: None,
            asked: Asked::default(),
            asked_orphans: Asked::default(),
            compare: None,
            digested: Instant::now(),
            differences: Differences::default(),
            compare_orphans: None,
            differing_orphans: Differences::default(),
            proof: Proof::default(),
            repairs: Repairs::default(),
            repaired: 0,
            drops: Drops::default(),
            received: Received::default(),
            tasks: Vec::new(),
        }
    }

    pub(super) fn enqueue(&mut self, batch: &Batch) {
        self.enqueued += u64::from(batch.count);
        self.sender.enqueue(batch);
        self.wake.notify_one();
    }

    pub(super) fn snapshot(&mut self, batch: Batch) {
        self.enqueued += u64::from(batch.count);
        self.sender.snapshot(batch);
        self.wake.notify_one();
    }

    /// A range that the peer has asked for; where there is no room, in the next round.
    pub(super) fn repair(&mut self, range: Range, began: Tick, batches: Vec<Batch>) {
        if self.sender.has_room() {
            self.enqueued += batches.iter().map(|batch| u64::from(batch.count)).sum::<u64>();
            self.sender.repair(range, began, batches);
            self.wake.notify_one();
        } else {
            self.asked.ask(&[range]);
        }
    }

    /// Orphans of a range that the peer has asked for; where there is no room, in the next round.
    pub(super) fn tell_orphans(&mut self, range: Range, batches: Vec<Batch>) {
        if self.sender.has_room() {
            batches.into_iter().for_each(|batch| self.snapshot(batch));
        } else {
            self.asked_orphans.ask(&[range]);
        }
    }

    pub(super) fn digest(&mut self, digest: Digest) {
        self.sender.digest(digest);
        self.wake.notify_one();
    }

    pub(super) fn ask(&mut self, scope: Scope, ranges: Vec<Range>) {
        if !ranges.is_empty() {
            self.sender.ask(scope, ranges);
            self.wake.notify_one();
        }
    }

    pub(super) fn fence(&mut self, id: u64) {
        self.sender.fence(id);
        self.wake.notify_one();
    }

    /// The ranges that it asks for, as many as there is room for.
    pub(super) fn take_asked(&mut self, scope: Scope, most: usize) -> BTreeSet<Range> {
        if !self.sender.has_room() || self.sender.is_resyncing() {
            return BTreeSet::new();
        }
        match scope {
            Scope::Own => self.asked.take(most),
            Scope::Orphans => self.asked_orphans.take(most),
        }
    }

    /// Begins to wait for what is on its way now.
    pub(super) fn hand_over(&mut self) {
        self.target = None;
        self.is_handed_over();
    }

    /// Whether the peer has everything that was known when this was asked first and nothing was missing.
    pub(super) fn is_handed_over(&mut self) -> bool {
        if self.sender.is_degraded() || self.sender.is_resyncing() {
            self.target = None;
            return false;
        }
        let target = *self.target.get_or_insert(self.enqueued);
        let sent = self.sender.sent();
        sent.acknowledged + sent.dropped >= target
    }

    pub(super) fn end_resync(&mut self) {
        self.sender.end_resync();
        self.wake.notify_one();
    }

    /// Whether the resync of this number is still under way.
    pub(super) fn is_resyncing(&self, number: u64) -> bool {
        self.sender.is_resyncing() && self.sender.sent().resyncs == number
    }

    /// Resyncs of the peer's that have ended.
    pub(super) const fn resyncs(&self) -> u64 {
        self.received.resyncs
    }

    pub(super) fn status(&self) -> Status {
        Status {
            sent: self.sender.sent().clone(),
            received: self.received.clone(),
            drops: self.drops,
            differing: self.differences.count(),
            lasting: self.differences.lasting(),
            asked: self.asked.count(),
            is_degraded: self.sender.is_degraded(),
        }
    }

    pub(super) fn reset_lag(&mut self) {
        self.sender.reset_lag();
    }

    /// Ends the session, since there are no more names for its stream; the peers begin another one.
    pub(super) fn close(&self) {
        self.judge.begin_anew();
    }

    /// Ends the session, since the peer's records make no sense.
    fn refuse(&self) {
        self.judge.refuse(Refusal::Records);
    }
}

/// A session began.
pub(super) fn up(shared: &Shared, (peer, session): (u8, u64), connection: Connection, judge: Judge) {
    let core = &mut *shared.borrow_mut();
    if let Some(old) = core.links.get(&peer).map(|link| link.session) {
        core.end(peer, old);
    }
    // What peers were told so far needn't be told to this one.
    core.flush();
    let mut link = Link::new(peer, session, judge, core);
    let wake = Rc::clone(&link.wake);
    let writer = spawn_local(write(Rc::clone(shared), (peer, session), connection, wake));
    link.tasks.push(writer.abort_handle());
    core.links.insert(peer, link);
}

/// The peer has opened its stream.
pub(super) fn stream(shared: &Shared, peer: u8, session: u64, stream: RecvStream) {
    let core = &mut *shared.borrow_mut();
    let own = core.names.own();
    if let Some(link) = core.link(peer, session) {
        let merger = Merger::new(own, peer);
        let reader = spawn_local(read(Rc::clone(shared), (peer, session), merger, stream));
        link.tasks.push(reader.abort_handle());
    }
}

/// Sends what there is. The stream's flow control keeps this task alone from going on.
async fn write(shared: Shared, (peer, session): (u8, u64), connection: Connection, wake: Rc<Notify>) {
    let Ok(mut stream) = connection.open_uni().await else {
        return;
    };
    if stream.write_all(&[RECORDS]).await.is_err() {
        return;
    }
    loop {
        let next = match shared.borrow_mut().link(peer, session) {
            Some(link) => link.sender.poll_transmit(),
            None => return,
        };
        match next {
            Some(bytes) => {
                if stream.write_chunk(bytes).await.is_err() {
                    return;
                }
            }
            None => {
                catch_up(&shared, peer, session);
                wake.notified().await;
            }
        }
    }
}

/// A peer that was too slow gets everything when it has caught up.
fn catch_up(shared: &Shared, peer: u8, session: u64) {
    let core = &mut *shared.borrow_mut();
    if let Some(link) = core.link(peer, session)
        && link.sender.wants_resync()
    {
        debug!(peer, "has caught up, and gets all entries");
        let scope = link.scope;
        resync(shared, core, (peer, session), scope);
    }
}

/// Begins to tell the peer everything.
fn resync(shared: &Shared, core: &mut Core, (peer, session): (u8, u64), scope: Scope) {
    let declarations = core.outbox.declarations();
    let Some(link) = core.link(peer, session) else {
        return;
    };
    link.scope = scope;
    link.sender.begin_resync(scope, declarations);
    let number = link.sender.sent().resyncs;
    let task = spawn_local(walk::resync(Rc::clone(shared), (peer, session), number, scope));
    link.tasks.retain(|task| !task.is_finished());
    link.tasks.push(task.abort_handle());
    link.wake.notify_one();
}

/// Takes what the peer says, in its order.
async fn read(shared: Shared, (peer, session): (u8, u64), merger: Merger, mut stream: RecvStream) {
    let mut receiver = Receiver::new(peer);
    let room = Arc::new(Semaphore::new(NOTICES));
    while let Ok(Some(chunk)) = stream.read_chunk(CHUNK, true).await {
        receiver.handle(&chunk.bytes);
        let mut began = Instant::now();
        loop {
            let inbound = match receiver.poll(now()) {
                Ok(Some(inbound)) => inbound,
                Ok(None) => break,
                Err(wrong) => {
                    warn!(peer, "flow records: {wrong}");
                    if let Some(link) = shared.borrow_mut().link(peer, session) {
                        link.refuse();
                    }
                    return;
                }
            };
            if let Inbound::Hello(hello) = &inbound
                && hello.joins
            {
                walk::orphan(&shared, owner(peer)).await;
            }
            let room = if matches!(inbound, Inbound::Fence(_)) {
                Arc::clone(&room).acquire_owned().await.ok()
            } else {
                None
            };
            if take(&shared, (peer, session), (&merger, &receiver), inbound, room).is_none() {
                return;
            }
            if began.elapsed() >= PIECE {
                yield_now().await;
                began = Instant::now();
            }
        }
        yield_now().await;
    }
}

/// One thing that a peer says; `None` where the session is over.
fn take(
    shared: &Shared,
    (peer, session): (u8, u64),
    (merger, receiver): (&Merger, &Receiver),
    inbound: Inbound,
    room: Option<OwnedSemaphorePermit>,
) -> Option<()> {
    let core = &mut *shared.borrow_mut();
    core.link(peer, session)?;
    match inbound {
        Inbound::Hello(hello) => {
            let scope = if hello.joins { Scope::Orphans } else { Scope::Own };
            resync(shared, core, (peer, session), scope);
        }
        Inbound::Records { next, sent, records } => {
            let drops = merge::merge(core, merger, &records, sent, receiver.names());
            core.orphans |= records.iter().any(|record| record.kind == Kind::Orphan);
            let link = core.link(peer, session)?;
            link.drops.add(&drops);
            link.repairs.note(records.iter().map(|record| &record.key));
            link.sender.acknowledge(next);
            link.wake.notify_one();
        }
        Inbound::Ack(next) => acknowledged(shared, core, (peer, session), next),
        Inbound::Fence(id) => core.notify_of(Notice::Fenced { peer, id }, room),
        Inbound::ResyncBegin(_) => {}
        Inbound::Resynced(_) => {
            core.joined.insert(peer);
            let link = core.link(peer, session)?;
            link.proof.begin();
            // They came before.
            (link.compare, link.compare_orphans) = (None, None);
        }
        Inbound::Digest(digest, local) => {
            let link = core.link(peer, session)?;
            match digest.scope {
                Scope::Own => {
                    link.compare = Some(Compare::new(&digest, owner(peer), local));
                    link.digested = Instant::now();
                    core.compare.notify_one();
                }
                Scope::Orphans => link.compare_orphans = Some(Compare::new(&digest, ORPHAN, local)),
            }
        }
        Inbound::Ask(scope, ranges) => {
            let link = core.link(peer, session)?;
            match scope {
                Scope::Own => link.asked.ask(&ranges),
                Scope::Orphans => link.asked_orphans.ask(&ranges),
            }
        }
        Inbound::RepairBegin(range, began) => core.link(peer, session)?.repairs.begin(range, began),
        Inbound::RepairEnd(range) => {
            let link = core.link(peer, session)?;
            link.repairs.end(range);
            link.repaired += 1;
        }
    }
    core.link(peer, session)?.received = receiver.received().clone();
    Some(())
}

fn acknowledged(shared: &Shared, core: &mut Core, (peer, session): (u8, u64), next: u64) {
    let mono: Duration = core.mono();
    let Some(link) = core.link(peer, session) else {
        return;
    };
    link.sender.on_ack(next, mono);
    link.room.notify_waiters();
    if link.sender.wants_resync() {
        let scope = link.scope;
        resync(shared, core, (peer, session), scope);
    }
    core.look_handed_over();
}
