//! A peer's bytes become records, fences, digests: one session.

use bytes::BytesMut;
use lb_common::tick::{self, Tick};

use super::digest::Range;
use super::record::{Names, Record};
use super::status::Received;
use super::wire::{Digest, Frame, Hello, Scope, Wrong};

/// What a peer says, in the order in which it counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inbound {
    /// Who it is. Where it joins, its replicas become nobody's first ([`super::ORPHAN`]).
    Hello(Hello),
    /// Records, to be merged while [`Receiver::names`] is as it is now.
    Records {
        /// What to acknowledge when they are merged.
        next: u64,
        /// The tick of this host that their ages count from.
        sent: Tick,
        /// They themselves.
        records: Vec<Record>,
    },
    /// It has merged our records before this one.
    Ack(u64),
    /// Everything before this came before: tell the agent when it is merged.
    Fence(u64),
    /// A resync begins.
    ResyncBegin(Scope),
    /// It is over.
    Resynced(Scope),
    /// Sums to compare with replicas of this peer, or with orphans, and their time in ticks of this host.
    Digest(Digest, Tick),
    /// It asks for ranges.
    Ask(Scope, Vec<Range>),
    /// A repair begins; its time in ticks of this host.
    RepairBegin(Range, Tick),
    /// It is over.
    RepairEnd(Range),
}

/// What to add to ticks of the peer for ticks of this host.
///
/// It has to be a constant, or both would not draw the same line between settled entries and others; and the ticks' distance
/// changes, since clocks do. So it is taken from the frames that came fastest, and kept while it is right by a tick.
#[derive(Clone, Copy, Default, Debug)]
struct Anchor {
    offset: Option<u32>,
    /// The least of those seen since `since`, relative to `offset`.
    least: i32,
    since: Tick,
}

impl Anchor {
    /// How often it is looked at.
    const WINDOW: u32 = tick::seconds(10);
    /// By how much it may be wrong, ticks.
    const SLACK: i32 = 1;

    /// A frame that was made and sent at the peer's tick `theirs`.
    fn observe(&mut self, theirs: Tick, now: Tick) -> Tick {
        let seen = now.0.wrapping_sub(theirs.0);
        let offset = *self.offset.get_or_insert_with(|| {
            self.since = now;
            self.least = i32::MAX;
            seen
        });
        let more = seen.wrapping_sub(offset).cast_signed();
        self.least = self.least.min(more);
        let is_over = now.since(self.since) >= Self::WINDOW;
        if more < -Self::SLACK || is_over && self.least > Self::SLACK {
            self.offset = Some(offset.wrapping_add_signed(self.least));
        }
        if more < -Self::SLACK || is_over {
            self.least = i32::MAX;
            self.since = now;
        }
        self.local(theirs, now)
    }

    /// An earlier tick of the peer's.
    fn local(&self, theirs: Tick, now: Tick) -> Tick {
        self.offset.map_or(now, |offset| theirs.after(offset))
    }
}

/// Where the bytes of one session are put together again.
#[derive(Debug)]
pub struct Receiver {
    place: u8,
    buffer: BytesMut,
    names: Names,
    anchor: Anchor,
    greeted: bool,
    resyncing: bool,
    next: u64,
    received: Received,
}

impl Receiver {
    /// A session with the node at this place, as its certificate says.
    pub fn new(place: u8) -> Self {
        Self {
            place,
            buffer: BytesMut::new(),
            names: Names::default(),
            anchor: Anchor::default(),
            greeted: false,
            resyncing: false,
            next: 0,
            received: Received::default(),
        }
    }

    /// Takes bytes of the stream, however cut. Then [`Receiver::poll`] until it has no more: it keeps less than a frame.
    pub fn handle(&mut self, bytes: &[u8]) {
        self.received.bytes += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that the peer says; `None` until more bytes come.
    ///
    /// # Errors
    /// [`Wrong`]: the session has to end.
    pub fn poll(&mut self, now: Tick) -> Result<Option<Inbound>, Wrong> {
        while let Some(frame) = Frame::take(&mut self.buffer)? {
            if matches!(frame, Frame::Hello(_)) == self.greeted {
                return Err(Wrong::Hello);
            }
            if let Some(inbound) = self.frame(frame, now)? {
                return Ok(Some(inbound));
            }
        }
        Ok(None)
    }

    fn frame(&mut self, frame: Frame, now: Tick) -> Result<Option<Inbound>, Wrong> {
        Ok(Some(match frame {
            Frame::Hello(hello) => {
                if hello.place != self.place {
                    return Err(Wrong::Place { place: hello.place });
                }
                self.greeted = true;
                Inbound::Hello(hello)
            }
            Frame::Vip { name, vip } => {
                self.names.declare_vip(name, vip);
                return Ok(None);
            }
            Frame::Backend { name, id } => {
                self.names.declare_backend(name, id);
                return Ok(None);
            }
            Frame::Records {
                first,
                now: theirs,
                count,
                body,
            } => {
                let sent = self.anchor.observe(theirs, now);
                self.records(first, sent, count, &body)?
            }
            Frame::Ack(next) => Inbound::Ack(next),
            Frame::Fence(id) => Inbound::Fence(id),
            Frame::ResyncBegin(scope) => {
                self.resyncing = true;
                Inbound::ResyncBegin(scope)
            }
            Frame::ResyncEnd(scope) => {
                self.resyncing = false;
                self.received.resyncs += 1;
                Inbound::Resynced(scope)
            }
            Frame::Digest(digest) => {
                self.received.digests += 1;
                let local = self.anchor.local(digest.now, now);
                Inbound::Digest(digest, local)
            }
            Frame::Ask(scope, ranges) => Inbound::Ask(scope, ranges),
            Frame::RepairBegin(range, theirs) => Inbound::RepairBegin(range, self.anchor.local(theirs, now)),
            Frame::RepairEnd(range) => {
                self.received.repairs += 1;
                Inbound::RepairEnd(range)
            }
        }))
    }

    fn records(&mut self, first: u64, sent: Tick, count: u16, mut body: &[u8]) -> Result<Inbound, Wrong> {
        if first != self.next {
            return Err(Wrong::Sequence {
                first,
                next: self.next,
            });
        }
        // A record has nine bytes at least: no more room than was sent.
        let mut records = Vec::with_capacity(usize::from(count).min(body.len() / 9));
        for _ in 0..count {
            records.push(Record::decode(&mut body, &self.names)?);
        }
        if !body.is_empty() {
            return Err(Wrong::Long { bytes: body.len() });
        }
        self.next += u64::from(count);
        self.received.records += u64::from(count);
        Ok(Inbound::Records {
            next: self.next,
            sent,
            records,
        })
    }

    /// What the stream calls VIPs and backends.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Whether a resync has begun and not ended.
    pub const fn is_resyncing(&self) -> bool {
        self.resyncing
    }

    /// Counters.
    pub const fn received(&self) -> &Received {
        &self.received
    }
}
