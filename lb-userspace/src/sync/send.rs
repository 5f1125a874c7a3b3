//! What one peer still has to get, over one session.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use lb_common::tick::Tick;

use super::digest::Range;
use super::outbox::Batch;
use super::status::Sent;
use super::wire::{Digest, Frame, Hello, Scope, put_records_head};

/// Bodies that are shorter are copied behind their head.
const SMALL: usize = 4 << 10;
/// Bytes on the way behind which nothing of a resync or a repair is added: live records come behind it.
const BULK: usize = 256 << 10;

/// How far a peer may lag behind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of records that wait or are not acknowledged.
    pub bytes: usize,
    /// Batches that are. An almost empty one costs as well.
    pub batches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 8 << 20,
            batches: 8_192,
        }
    }
}

#[derive(Debug)]
enum Item {
    Batch(Batch),
    Declarations(Bytes),
    Frame(Bytes),
    Fence(u64),
    Mark(u64),
    RepairEnd(Range),
}

/// A batch that is on its way.
#[derive(Debug)]
struct Flight {
    /// The sequence number behind it.
    next: u64,
    count: u16,
    bytes: usize,
    born: Duration,
    /// So many events have been told with it.
    mark: u64,
}

/// What one peer still has to get, over one session.
#[derive(Debug)]
pub struct Sender {
    limits: Limits,
    queue: VecDeque<Item>,
    /// The rest of a batch whose head is out.
    rest: Option<Bytes>,
    flight: VecDeque<Flight>,
    /// In the queue and on the way.
    bytes: usize,
    batches: usize,
    /// Bytes of all declarations that are out.
    declared: usize,
    /// Of the next record.
    sequence: u64,
    /// The first frame, until it is out.
    hello: Option<Bytes>,
    acknowledge: Option<u64>,
    ask: BTreeSet<Range>,
    ask_orphans: BTreeSet<Range>,
    degraded: bool,
    resync: Option<Scope>,
    /// Fences that came while the peer was behind: they hold when it has everything.
    fences: Vec<u64>,
    sent: Sent,
}

impl Sender {
    /// A session that begins with a hello and the names so far ([`super::Outbox::declarations`]).
    pub fn new(hello: &Hello, declarations: Bytes, limits: Limits) -> Self {
        Self {
            limits,
            queue: VecDeque::from([Item::Declarations(declarations)]),
            rest: None,
            flight: VecDeque::new(),
            bytes: 0,
            batches: 0,
            declared: 0,
            sequence: 0,
            hello: Some(Frame::Hello(hello.clone()).bytes()),
            acknowledge: None,
            ask: BTreeSet::new(),
            ask_orphans: BTreeSet::new(),
            degraded: false,
            resync: None,
            fences: Vec::new(),
            sent: Sent::default(),
        }
    }

    /// Adds a batch of the outbox. Where that is too much the peer is degraded: what waits is dropped, and so is everything
    /// until it has caught up ([`Sender::wants_resync`]).
    pub fn enqueue(&mut self, batch: &Batch) {
        if self.degraded {
            self.sent.dropped += u64::from(batch.count);
            return;
        }
        self.push(batch.clone());
        if self.bytes > self.limits.bytes || self.batches > self.limits.batches {
            self.degrade();
        }
    }

    fn push(&mut self, batch: Batch) {
        self.bytes += batch.body.len();
        self.batches += 1;
        self.queue.push_back(Item::Batch(batch));
    }

    fn degrade(&mut self) {
        self.degraded = true;
        self.resync = None;
        self.sent.degraded += 1;
        for item in self.queue.drain(..) {
            match item {
                Item::Batch(batch) => {
                    self.bytes -= batch.body.len();
                    self.batches -= 1;
                    self.sent.dropped += u64::from(batch.count);
                }
                Item::Fence(id) => self.fences.push(id),
                Item::Declarations(_) | Item::Frame(_) | Item::RepairEnd(_) | Item::Mark(_) => {}
            }
        }
    }

    /// Whether records are dropped.
    pub const fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Whether a peer that was too slow has caught up, and needs everything.
    pub fn wants_resync(&self) -> bool {
        self.degraded && self.flight.is_empty() && self.rest.is_none()
    }

    /// Begins a resync: then [`Sender::snapshot`]s as there is [`Sender::has_room`], then [`Sender::end_resync`].
    pub fn begin_resync(&mut self, scope: Scope, declarations: Bytes) {
        self.degraded = false;
        self.resync = Some(scope);
        self.sent.resyncs += 1;
        self.queue.push_back(Item::Declarations(declarations));
        self.queue
            .push_back(Item::Frame(Frame::ResyncBegin(scope).bytes()));
    }

    /// Whether a resync has begun and not ended; no longer when the peer is degraded meanwhile.
    pub const fn is_resyncing(&self) -> bool {
        self.resync.is_some()
    }

    /// Whether the next batch of a resync or a repair may be added: what happens meanwhile needs room too, and must not
    /// wait for long.
    pub fn has_room(&self) -> bool {
        let bytes = self.limits.bytes / 2;
        !self.degraded && self.bytes < bytes.min(BULK) && self.batches < self.limits.batches / 2
    }

    /// Adds a batch for this peer alone.
    pub fn snapshot(&mut self, batch: Batch) {
        if self.degraded {
            self.sent.dropped += u64::from(batch.count);
        } else {
            self.push(batch);
        }
    }

    /// Ends a resync, if it is still under way. Whether it was.
    pub fn end_resync(&mut self) -> bool {
        let Some(scope) = self.resync.take() else {
            return false;
        };
        self.queue.push_back(Item::Frame(Frame::ResyncEnd(scope).bytes()));
        self.queue.extend(self.fences.drain(..).map(Item::Fence));
        true
    }

    /// A fence behind everything that was enqueued; where something of that was dropped, or an earlier session may have lost
    /// something, behind the next resync.
    pub fn fence(&mut self, id: u64) {
        if self.degraded || self.resync.is_some() || self.sent.resyncs == 0 {
            self.fences.push(id);
        } else {
            self.queue.push_back(Item::Fence(id));
        }
    }

    /// What was enqueued so far tells all of this node's first `events` events. Nothing where the peer lacks some of them.
    pub fn mark(&mut self, events: u64) {
        if self.degraded || self.resync.is_some() || self.sent.resyncs == 0 {
            return;
        }
        match self.queue.back_mut() {
            Some(Item::Mark(last)) => *last = events,
            Some(_) => self.queue.push_back(Item::Mark(events)),
            None => self.told(events),
        }
    }

    /// What is on its way tells so many events.
    fn told(&mut self, events: u64) {
        match self.flight.back_mut() {
            Some(flight) => flight.mark = events,
            None => self.sent.merged = events,
        }
    }

    /// A digest; not for a peer that is known to lack entries.
    pub fn digest(&mut self, digest: Digest) {
        if !self.degraded && self.resync.is_none() {
            self.queue.push_back(Item::Frame(Frame::Digest(digest).bytes()));
        }
    }

    /// A range that the peer asked for: all own entries of it, as they were when a walk began at the tick `now`. `false` where
    /// there is no room: it will ask again.
    pub fn repair(&mut self, range: Range, now: Tick, batches: impl IntoIterator<Item = Batch>) -> bool {
        if !self.has_room() {
            return false;
        }
        self.queue
            .push_back(Item::Frame(Frame::RepairBegin(range, now).bytes()));
        for batch in batches {
            self.enqueue(&batch);
        }
        if !self.degraded {
            self.queue.push_back(Item::RepairEnd(range));
        }
        !self.degraded
    }

    /// Asks the peer for ranges.
    pub fn ask(&mut self, scope: Scope, ranges: impl IntoIterator<Item = Range>) {
        match scope {
            Scope::Own => self.ask.extend(ranges),
            Scope::Orphans => self.ask_orphans.extend(ranges),
        }
    }

    /// Tells the peer that its records before `next` are merged.
    pub fn acknowledge(&mut self, next: u64) {
        self.acknowledge = Some(next);
    }

    /// The peer has merged our records before `next`.
    pub fn on_ack(&mut self, next: u64, mono: Duration) {
        while let Some(flight) = self.flight.pop_front_if(|flight| flight.next <= next) {
            self.bytes -= flight.bytes;
            self.batches -= 1;
            self.sent.acknowledged += u64::from(flight.count);
            self.sent.merged = self.sent.merged.max(flight.mark);
            let lag = mono.saturating_sub(flight.born);
            self.sent.lag.add(lag, u64::from(flight.count));
        }
    }

    /// Bytes for the stream, in order; `None` when there are no more.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        let mut out = BytesMut::new();
        if let Some(hello) = self.hello.take() {
            out.put_slice(&hello);
        }
        if let Some(next) = self.acknowledge.take() {
            Frame::Ack(next).encode(&mut out);
        }
        for (scope, ask) in [
            (Scope::Own, &mut self.ask),
            (Scope::Orphans, &mut self.ask_orphans),
        ] {
            if !ask.is_empty() {
                let ranges = core::mem::take(ask).into_iter().collect();
                Frame::Ask(scope, ranges).encode(&mut out);
            }
        }
        while out.len() < SMALL
            && self.rest.is_none()
            && let Some(item) = self.queue.pop_front()
        {
            self.transmit(item, &mut out);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    fn transmit(&mut self, item: Item, out: &mut BytesMut) {
        match item {
            Item::Batch(batch) => self.transmit_batch(batch, out),
            Item::Declarations(all) => self.declare(&all, out),
            Item::Frame(frame) => out.put_slice(&frame),
            Item::Fence(id) => Frame::Fence(id).encode(out),
            Item::Mark(events) => self.told(events),
            Item::RepairEnd(range) => {
                self.sent.repairs += 1;
                Frame::RepairEnd(range).encode(out);
            }
        }
    }

    /// Those of all declarations that the peer hasn't got.
    fn declare(&mut self, all: &[u8], out: &mut BytesMut) {
        if let Some(new) = all.get(self.declared..) {
            out.put_slice(new);
            self.declared = all.len();
        }
    }

    /// The head of a batch, and its body if that is short.
    fn transmit_batch(&mut self, batch: Batch, out: &mut BytesMut) {
        let first = self.sequence;
        self.sequence += u64::from(batch.count);
        self.sent.records += u64::from(batch.count);
        self.sent.bytes += batch.body.len() as u64;
        self.flight.push_back(Flight {
            next: self.sequence,
            count: batch.count,
            bytes: batch.body.len(),
            born: batch.born,
            mark: 0,
        });
        self.declare(&batch.declarations, out);
        put_records_head(first, batch.now, batch.count, batch.body.len(), out);
        if batch.body.len() < SMALL {
            out.put_slice(&batch.body);
        } else {
            self.rest = Some(batch.body);
        }
    }

    /// Bytes of records that wait or are on their way.
    pub const fn backlog(&self) -> usize {
        self.bytes
    }

    /// Counters.
    pub const fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Begins the lag's quantiles anew.
    pub fn reset_lag(&mut self) {
        self.sent.lag.reset();
    }
}
