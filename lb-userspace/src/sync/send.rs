//! What one peer still has to get, over one session.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use lb_common::tick::Tick;

use super::digest::Range;
use super::outbox::Batch;
use super::status::Sent;
use super::wire::{Digest, Frame, HEAD, Hello, Scope, put_records_head};

/// Bodies that are shorter are copied behind their head.
const SMALL: usize = 1 << 10;

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
                Item::Declarations(_) | Item::Frame(_) | Item::RepairEnd(_) => {}
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

    /// Whether the next batch of a resync or a repair may be added: half of the room is for what happens meanwhile.
    pub const fn has_room(&self) -> bool {
        !self.degraded && self.bytes < self.limits.bytes / 2 && self.batches < self.limits.batches / 2
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

    /// A fence behind everything that was enqueued; where something of that was dropped, behind the next resync.
    pub fn fence(&mut self, id: u64) {
        if self.degraded || self.resync.is_some() {
            self.fences.push(id);
        } else {
            self.queue.push_back(Item::Fence(id));
        }
    }

    /// A digest; not for a peer that is known to lack entries.
    pub fn digest(&mut self, digest: Digest) {
        if !self.degraded && self.resync.is_none() {
            self.queue.push_back(Item::Frame(Frame::Digest(digest).bytes()));
        }
    }

    /// A range that the peer asked for: all own entries of it, as they were when a walk began at the tick `now`.
    pub fn repair(&mut self, range: Range, now: Tick, batches: impl IntoIterator<Item = Batch>) {
        if self.degraded {
            return;
        }
        self.queue
            .push_back(Item::Frame(Frame::RepairBegin(range, now).bytes()));
        for batch in batches {
            self.push(batch);
        }
        self.queue.push_back(Item::RepairEnd(range));
    }

    /// Asks the peer for ranges.
    pub fn ask(&mut self, ranges: impl IntoIterator<Item = Range>) {
        self.ask.extend(ranges);
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
            let lag = mono.saturating_sub(flight.born);
            self.sent.lag.add(lag, u64::from(flight.count));
        }
    }

    /// Bytes for the stream, in order; `None` when there are no more.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        if let Some(hello) = self.hello.take() {
            return Some(hello);
        }
        if let Some(next) = self.acknowledge.take() {
            return Some(Frame::Ack(next).bytes());
        }
        if !self.ask.is_empty() {
            let ranges = core::mem::take(&mut self.ask).into_iter().collect();
            return Some(Frame::Ask(ranges).bytes());
        }
        Some(match self.queue.pop_front()? {
            Item::Batch(batch) => self.transmit(batch),
            Item::Declarations(all) => match self.declare(&all) {
                Some(new) => new,
                None => return self.poll_transmit(),
            },
            Item::Frame(frame) => frame,
            Item::Fence(id) => Frame::Fence(id).bytes(),
            Item::RepairEnd(range) => {
                self.sent.repairs += 1;
                Frame::RepairEnd(range).bytes()
            }
        })
    }

    /// Those of all declarations that the peer hasn't got.
    fn declare(&mut self, all: &Bytes) -> Option<Bytes> {
        let new = (all.len() > self.declared).then(|| all.slice(self.declared..));
        self.declared = self.declared.max(all.len());
        new
    }

    /// The head of a batch, and its body if that is short.
    fn transmit(&mut self, batch: Batch) -> Bytes {
        let first = self.sequence;
        self.sequence += u64::from(batch.count);
        self.sent.records += u64::from(batch.count);
        self.sent.bytes += batch.body.len() as u64;
        self.flight.push_back(Flight {
            next: self.sequence,
            count: batch.count,
            bytes: batch.body.len(),
            born: batch.born,
        });
        let is_small = batch.body.len() < SMALL;
        let new = self.declare(&batch.declarations).unwrap_or_default();
        let mut head = BytesMut::with_capacity(new.len() + HEAD + SMALL + 16);
        head.put_slice(&new);
        put_records_head(first, batch.now, batch.count, batch.body.len(), &mut head);
        if is_small {
            head.put_slice(&batch.body);
        } else {
            self.rest = Some(batch.body);
        }
        head.freeze()
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
