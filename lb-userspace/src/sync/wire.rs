//! Frames on the ordered, reliable stream of one direction.
//!
//! Each is a type (1 byte), the length of the rest (2 bytes), and the rest; numbers in network order. The first one is a
//! [`Hello`]. Every number in one is bounded by its length, so a peer can't make the receiver hold more than that.

use bytes::{BufMut, Bytes, BytesMut};
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::tick::Tick;
use lb_common::vip;

use super::digest::{RANGES, Range};
use super::record::take;

/// Version of frames and records. Another one is refused.
pub const VERSION: u16 = 2;
/// Bytes of a frame's head: type and length.
pub(super) const HEAD: usize = 3;
/// Bytes of a frame without its head, at most.
pub const LONGEST: usize = u16::MAX as usize;

/// What is wrong with a peer's bytes. The session ends with it; the next one starts with a resync.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Wrong {
    /// It speaks another version.
    #[error("the peer speaks version {theirs} of flow records, this node {VERSION}")]
    Version {
        /// Its version.
        theirs: u16,
    },
    /// A frame or record ends too early.
    #[error("a frame is cut off")]
    Short,
    /// A frame goes on after its end.
    #[error("{bytes} bytes behind the end of a frame")]
    Long {
        /// How many.
        bytes: usize,
    },
    /// A frame of an unknown type.
    #[error("a frame of type {kind}")]
    Type {
        /// Its type.
        kind: u8,
    },
    /// The first frame is not a hello, or a later one is.
    #[error("a hello is missing, or comes twice")]
    Hello,
    /// The hello is of another node than the session.
    #[error("the node at place {place} is somebody else")]
    Place {
        /// What it says.
        place: u8,
    },
    /// A record's first byte makes no sense, or doesn't fit its VIP.
    #[error("a record that begins with {flags:#04x}")]
    Record {
        /// Its first byte.
        flags: u8,
    },
    /// A record names what was not declared.
    #[error("name {name} was not declared")]
    Undeclared {
        /// The name.
        name: u16,
    },
    /// A client of another address family than its VIP.
    #[error("a client of another address family than its VIP")]
    Family,
    /// An age that is too large or padded.
    #[error("an age that can't be")]
    Age,
    /// Sequence numbers go back.
    #[error("records from {first} on, after those before {next}")]
    Sequence {
        /// Of the first record.
        first: u64,
        /// The next one that was due.
        next: u64,
    },
    /// A number that stands for a choice is none of them.
    #[error("{value} where a choice is due")]
    Choice {
        /// The number.
        value: u8,
    },
    /// There is no such range of slots.
    #[error("range {range} of {RANGES}")]
    Range {
        /// The number.
        range: u16,
    },
    /// A declared VIP is neither TCP nor UDP.
    #[error("a VIP of protocol {proto}")]
    Protocol {
        /// Its number.
        proto: u8,
    },
}

/// Who sends, and what it needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Its place in `group.nodes`.
    pub place: u8,
    /// Its tables were empty when it started: it wants entries of owners that are gone too, and what it once announced is
    /// nobody's.
    pub joins: bool,
    /// Places of the nodes that it is connected to.
    pub connected: Vec<u8>,
}

/// Whose entries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// The sender's own.
    Own,
    /// Replicas whose owner is gone; in a resync with the own ones.
    Orphans,
}

/// Sums over settled entries that the sender holds, by range of slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    /// Which ones.
    pub scope: Scope,
    /// Counts up.
    pub round: u32,
    /// When the sender began to look, its own tick: settled are entries that were confirmed [`super::SETTLED`] before.
    pub now: Tick,
    /// Events were lost since the last round: what differs does so for a reason.
    pub lost: bool,
    /// Ranges that are not empty, in order, and their sums.
    pub sums: Vec<(Range, u64)>,
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Who sends.
    Hello(Hello),
    /// From now on this VIP is called so.
    Vip {
        /// Its name.
        name: u16,
        /// The VIP.
        vip: vip::Key,
    },
    /// From now on this backend is called so.
    Backend {
        /// Its name.
        name: u16,
        /// Its stable identity.
        id: u64,
    },
    /// Records.
    Records {
        /// Sequence number of the first.
        first: u64,
        /// The sender's tick, which ages count from.
        now: Tick,
        /// How many.
        count: u16,
        /// [`super::Record`]s.
        body: Bytes,
    },
    /// Every record before this sequence number has been merged.
    Ack(u64),
    /// Everything before is to be merged before the receiver tells its agent.
    Fence(u64),
    /// A resync begins.
    ResyncBegin(Scope),
    /// It is over.
    ResyncEnd(Scope),
    /// Sums to compare.
    Digest(Digest),
    /// These ranges differ: send them again.
    Ask(Scope, Vec<Range>),
    /// All own entries of a range follow; the sender's tick.
    RepairBegin(Range, Tick),
    /// It is over.
    RepairEnd(Range),
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const VIP: u8 = 2;
    pub(super) const BACKEND: u8 = 3;
    pub(super) const RECORDS: u8 = 4;
    pub(super) const ACK: u8 = 5;
    pub(super) const FENCE: u8 = 6;
    pub(super) const RESYNC_BEGIN: u8 = 7;
    pub(super) const RESYNC_END: u8 = 8;
    pub(super) const DIGEST: u8 = 9;
    pub(super) const ASK: u8 = 10;
    pub(super) const REPAIR_BEGIN: u8 = 11;
    pub(super) const REPAIR_END: u8 = 12;
}

const TCP: u8 = lb_common::header::proto::TCP;
const UDP: u8 = lb_common::header::proto::UDP;

impl Frame {
    /// Takes the first frame off `buffer`; `None` until it is there as a whole.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn take(buffer: &mut BytesMut) -> Result<Option<Self>, Wrong> {
        let Some(&[kind, high, low]) = buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if buffer.len() < HEAD + len {
            return Ok(None);
        }
        let body = buffer.split_to(HEAD + len).freeze().slice(HEAD..);
        Self::decode(kind, &body).map(Some)
    }

    fn decode(kind: u8, body: &Bytes) -> Result<Self, Wrong> {
        let mut rest: &[u8] = body;
        let bytes = &mut rest;
        let frame = match kind {
            kind::HELLO => Self::Hello(hello(bytes)?),
            kind::VIP => Self::Vip {
                name: u16::from_be_bytes(take(bytes)?),
                vip: vip(bytes)?,
            },
            kind::BACKEND => Self::Backend {
                name: u16::from_be_bytes(take(bytes)?),
                id: u64::from_be_bytes(take(bytes)?),
            },
            kind::RECORDS => {
                let first = u64::from_be_bytes(take(bytes)?);
                let now = Tick(u32::from_be_bytes(take(bytes)?));
                let count = u16::from_be_bytes(take(bytes)?);
                let body = body.slice(body.len() - bytes.len()..);
                *bytes = &[];
                Self::Records {
                    first,
                    now,
                    count,
                    body,
                }
            }
            kind::ACK => Self::Ack(u64::from_be_bytes(take(bytes)?)),
            kind::FENCE => Self::Fence(u64::from_be_bytes(take(bytes)?)),
            kind::RESYNC_BEGIN => Self::ResyncBegin(scope(bytes)?),
            kind::RESYNC_END => Self::ResyncEnd(scope(bytes)?),
            kind::DIGEST => Self::Digest(digest(bytes)?),
            kind::ASK => Self::Ask(scope(bytes)?, ask(bytes)?),
            kind::REPAIR_BEGIN => {
                let range = range(bytes)?;
                Self::RepairBegin(range, Tick(u32::from_be_bytes(take(bytes)?)))
            }
            kind::REPAIR_END => Self::RepairEnd(range(bytes)?),
            kind => return Err(Wrong::Type { kind }),
        };
        if rest.is_empty() {
            Ok(frame)
        } else {
            Err(Wrong::Long { bytes: rest.len() })
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, HEAD);
        out[start] = self.encode_body(out);
        let len = out.len() - start - HEAD;
        let len = u16::try_from(len).expect("a frame is bounded by its parts");
        out[start + 1..start + HEAD].copy_from_slice(&len.to_be_bytes());
    }

    fn encode_body(&self, out: &mut BytesMut) -> u8 {
        match self {
            Self::Hello(hello) => put_hello(hello, out),
            Self::Vip { name, vip } => {
                out.put_u16(*name);
                out.put_slice(&vip.addr.bytes());
                out.put_u16(vip.port.get());
                out.put_u8(vip.proto);
                kind::VIP
            }
            Self::Backend { name, id } => {
                out.put_u16(*name);
                out.put_u64(*id);
                kind::BACKEND
            }
            Self::Records {
                first,
                now,
                count,
                body,
            } => {
                put_records(*first, *now, *count, out);
                out.put_slice(body);
                kind::RECORDS
            }
            Self::Ack(next) => {
                out.put_u64(*next);
                kind::ACK
            }
            Self::Fence(id) => {
                out.put_u64(*id);
                kind::FENCE
            }
            Self::ResyncBegin(scope) => {
                out.put_u8(*scope as u8);
                kind::RESYNC_BEGIN
            }
            Self::ResyncEnd(scope) => {
                out.put_u8(*scope as u8);
                kind::RESYNC_END
            }
            Self::Digest(digest) => put_digest(digest, out),
            Self::Ask(scope, ranges) => {
                out.put_u8(*scope as u8);
                for range in ranges {
                    out.put_u16(range.number());
                }
                kind::ASK
            }
            Self::RepairBegin(range, now) => {
                out.put_u16(range.number());
                out.put_u32(now.0);
                kind::REPAIR_BEGIN
            }
            Self::RepairEnd(range) => {
                out.put_u16(range.number());
                kind::REPAIR_END
            }
        }
    }

    /// The frame alone.
    pub fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}

fn put_records(first: u64, now: Tick, count: u16, out: &mut BytesMut) {
    out.put_u64(first);
    out.put_u32(now.0);
    out.put_u16(count);
}

/// [`Frame::Records`] without its body of `len` bytes, which follows from elsewhere.
pub(super) fn put_records_head(first: u64, now: Tick, count: u16, len: usize, out: &mut BytesMut) {
    out.put_u8(kind::RECORDS);
    out.put_u16(u16::try_from(len + 14).expect("a batch fits a frame"));
    put_records(first, now, count, out);
}

fn put_hello(hello: &Hello, out: &mut BytesMut) -> u8 {
    out.put_u16(VERSION);
    out.put_u8(hello.place);
    out.put_u8(u8::from(hello.joins));
    out.put_slice(&hello.connected);
    kind::HELLO
}

fn hello(bytes: &mut &[u8]) -> Result<Hello, Wrong> {
    let theirs = u16::from_be_bytes(take(bytes)?);
    if theirs != VERSION {
        return Err(Wrong::Version { theirs });
    }
    let [place, joins] = take(bytes)?;
    let joins = choice(joins)?;
    // There are no more places than bytes have values.
    if bytes.len() > usize::from(u8::MAX) {
        return Err(Wrong::Long { bytes: bytes.len() });
    }
    let connected = core::mem::take(bytes).to_vec();
    Ok(Hello {
        place,
        joins,
        connected,
    })
}

fn choice(value: u8) -> Result<bool, Wrong> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(Wrong::Choice { value }),
    }
}

fn scope(bytes: &mut &[u8]) -> Result<Scope, Wrong> {
    let [value] = take(bytes)?;
    Ok(if choice(value)? {
        Scope::Orphans
    } else {
        Scope::Own
    })
}

fn vip(bytes: &mut &[u8]) -> Result<vip::Key, Wrong> {
    let addr = Addr::v6(take(bytes)?);
    let port = Be16::new(u16::from_be_bytes(take(bytes)?));
    let [proto] = take(bytes)?;
    if proto != TCP && proto != UDP {
        return Err(Wrong::Protocol { proto });
    }
    Ok(vip::Key::new(addr, port, proto))
}

fn range(bytes: &mut &[u8]) -> Result<Range, Wrong> {
    let range = u16::from_be_bytes(take(bytes)?);
    Range::of_number(range).ok_or(Wrong::Range { range })
}

fn put_digest(digest: &Digest, out: &mut BytesMut) -> u8 {
    out.put_u8(digest.scope as u8);
    out.put_u32(digest.round);
    out.put_u32(digest.now.0);
    out.put_u8(u8::from(digest.lost));
    for (range, sum) in &digest.sums {
        out.put_u16(range.number());
        out.put_u64(*sum);
    }
    kind::DIGEST
}

fn digest(bytes: &mut &[u8]) -> Result<Digest, Wrong> {
    let scope = scope(bytes)?;
    let round = u32::from_be_bytes(take(bytes)?);
    let now = Tick(u32::from_be_bytes(take(bytes)?));
    let [lost] = take(bytes)?;
    let lost = choice(lost)?;
    let mut sums: Vec<(Range, u64)> = Vec::new();
    while !bytes.is_empty() {
        let range = range(bytes)?;
        if sums.last().is_some_and(|&(last, _)| last >= range) {
            return Err(Wrong::Range {
                range: range.number(),
            });
        }
        sums.push((range, u64::from_be_bytes(take(bytes)?)));
    }
    Ok(Digest {
        scope,
        round,
        now,
        lost,
        sums,
    })
}

fn ask(bytes: &mut &[u8]) -> Result<Vec<Range>, Wrong> {
    let mut ranges = Vec::new();
    while !bytes.is_empty() {
        if ranges.len() == RANGES {
            return Err(Wrong::Long { bytes: bytes.len() });
        }
        ranges.push(range(bytes)?);
    }
    Ok(ranges)
}
