//! One record: an entry as its owner tells it.
//!
//! ```text
//! flags 1 | vip 2 | client 4 or 16 | client's port 2 | [VIP's port 2] | [backend 2] | [since 1..2] | [isn 4 or last 1..3]
//! ```
//! Numbers in network order. The VIP's port is there where the VIP serves every port; nothing that follows it is there in a
//! [`Kind::Delete`]; `isn` in probation, `last` otherwise. Ages are in ticks before the frame's time, seven bits a byte,
//! low ones first.

use bytes::{BufMut, BytesMut};
use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::flow::{self, CLOSED, CONFIRMED, Entry, PROBATION};
use lb_common::tick::Tick;
use lb_common::vip;

use super::wire::Wrong;

/// Why a record is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The owner's entry is new, taken over, or in another state.
    Announce,
    /// The owner's entry was used.
    Refresh,
    /// The owner has forgotten the flow.
    Delete,
    /// The owner's entry, in a resync or a repair.
    Snapshot,
    /// A replica whose owner is gone, in a resync.
    Orphan,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Announce,
        Self::Refresh,
        Self::Delete,
        Self::Snapshot,
        Self::Orphan,
    ];
}

/// An entry as its owner tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The flow.
    pub key: flow::Key,
    /// What the stream calls the VIP.
    pub vip: u16,
    /// What the stream calls the backend; 0 in a [`Kind::Delete`].
    pub backend: u16,
    /// Why it is sent.
    pub kind: Kind,
    /// [`PROBATION`], [`CONFIRMED`], [`CLOSED`]; 0 in a [`Kind::Delete`].
    pub state: u8,
    /// In probation, else 0.
    pub isn: u32,
    /// Ticks from the beginning of the state to the frame's time, 18 minutes at most.
    pub since_age: u32,
    /// Ticks from the last use to the frame's time, 39 hours at most; in probation `since_age`.
    pub last_age: u32,
}

/// Older beginnings count as this old, 18 minutes: two bytes. Nothing asks for more than seconds.
pub(super) const MAX_SINCE: u32 = (1 << 14) - 1;
/// Earlier uses count as this long ago, 39 hours: three bytes, and longer than any idle timeout.
pub(super) const MAX_LAST: u32 = (1 << 21) - 1;

const STATE_SHIFT: u32 = 3;
const KIND_MASK: u8 = 0b111;
const STATE_MASK: u8 = 0b11;
const V6: u8 = 1 << 5;
const PORT: u8 = 1 << 6;
const KNOWN: u8 = 0b0111_1111;

impl Record {
    /// The longest record, IPv6 in probation on a VIP for every port.
    pub const LONGEST: usize = 1 + 2 + 16 + 2 + 2 + 2 + 2 + 4;

    /// Tells an entry in a frame of the time `now`, where the VIP and the backend are called so.
    pub fn new(key: flow::Key, entry: &Entry, kind: Kind, vip: u16, backend: u16, now: Tick) -> Self {
        let since_age = now.since(entry.since).min(MAX_SINCE);
        let record = Self {
            key,
            vip,
            backend,
            kind,
            state: entry.state,
            isn: 0,
            since_age,
            last_age: now.since(entry.last).min(MAX_LAST),
        };
        match (kind, entry.state) {
            (Kind::Delete, _) => Self {
                backend: 0,
                state: 0,
                since_age: 0,
                last_age: 0,
                ..record
            },
            (_, PROBATION) => Self {
                isn: entry.isn,
                last_age: since_age,
                ..record
            },
            _ => record,
        }
    }

    /// The entry here: the backend by its index, whose it is, and the frame's time in ticks of this host.
    pub const fn entry(&self, backend: u16, owner: u8, sent: Tick) -> Entry {
        Entry {
            isn: self.isn,
            since: Tick(sent.0.wrapping_sub(self.since_age)),
            last: Tick(sent.0.wrapping_sub(self.last_age)),
            backend,
            state: self.state,
            owner,
        }
    }

    /// Appends the record; `any_port`: the VIP serves every port.
    pub fn encode(&self, any_port: bool, out: &mut BytesMut) {
        let is_v4 = self.key.src.is_v4();
        let family = if is_v4 { 0 } else { V6 };
        let port = if any_port { PORT } else { 0 };
        out.put_u8(self.kind as u8 | self.state << STATE_SHIFT | family | port);
        out.put_u16(self.vip);
        if is_v4 {
            out.put_slice(&self.key.src.v4_raw().to_ne_bytes());
        } else {
            out.put_slice(&self.key.src.bytes());
        }
        out.put_u16(self.key.sport.get());
        if any_port {
            out.put_u16(self.key.dport.get());
        }
        if self.kind == Kind::Delete {
            return;
        }
        out.put_u16(self.backend);
        put_varint(self.since_age.min(MAX_SINCE), out);
        if self.state == PROBATION {
            out.put_u32(self.isn);
        } else {
            put_varint(self.last_age.min(MAX_LAST), out);
        }
    }

    /// Takes one record off the front of `bytes`.
    ///
    /// # Errors
    /// [`Wrong`]: it is cut off, not of this version, or names what was not declared.
    pub fn decode(bytes: &mut &[u8], names: &Names) -> Result<Self, Wrong> {
        let [flags] = take(bytes)?;
        let kind = *Kind::ALL
            .get(usize::from(flags & KIND_MASK))
            .ok_or(Wrong::Record { flags })?;
        let state = flags >> STATE_SHIFT & STATE_MASK;
        let is_state = match kind {
            Kind::Delete => state == 0,
            Kind::Refresh => matches!(state, CONFIRMED | CLOSED),
            _ => matches!(state, PROBATION | CONFIRMED | CLOSED),
        };
        if !is_state || flags & !KNOWN != 0 {
            return Err(Wrong::Record { flags });
        }
        let name = u16::from_be_bytes(take(bytes)?);
        let vip = names.vip(name).ok_or(Wrong::Undeclared { name })?;
        let src = if flags & V6 == 0 {
            Addr::v4(u32::from_ne_bytes(take(bytes)?))
        } else {
            Addr::v6(take(bytes)?)
        };
        if src.is_v4() != vip.addr.is_v4() || (flags & V6 == 0) != src.is_v4() {
            return Err(Wrong::Family);
        }
        let sport = Be16::new(u16::from_be_bytes(take(bytes)?));
        if (flags & PORT != 0) != (vip.port == Be16::new(0)) {
            return Err(Wrong::Record { flags });
        }
        let dport = if flags & PORT == 0 {
            vip.port
        } else {
            Be16::new(u16::from_be_bytes(take(bytes)?))
        };
        let key = flow::Key {
            src,
            dst: vip.addr,
            sport,
            dport,
            proto: vip.proto,
            pad: [0; 3],
        };
        let record = Self {
            key,
            vip: name,
            backend: 0,
            kind,
            state,
            isn: 0,
            since_age: 0,
            last_age: 0,
        };
        if kind == Kind::Delete {
            Ok(record)
        } else {
            record.decode_entry(bytes, names)
        }
    }

    fn decode_entry(self, bytes: &mut &[u8], names: &Names) -> Result<Self, Wrong> {
        let backend = u16::from_be_bytes(take(bytes)?);
        names
            .backend(backend)
            .ok_or(Wrong::Undeclared { name: backend })?;
        let since_age = varint(bytes, MAX_SINCE)?;
        let (isn, last_age) = if self.state == PROBATION {
            (u32::from_be_bytes(take(bytes)?), since_age)
        } else {
            (0, varint(bytes, MAX_LAST)?)
        };
        Ok(Self {
            backend,
            isn,
            since_age,
            last_age,
            ..self
        })
    }
}

/// Takes bytes off the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Wrong> {
    let (first, rest) = bytes.split_first_chunk().ok_or(Wrong::Short)?;
    *bytes = rest;
    Ok(*first)
}

fn put_varint(mut value: u32, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A number up to `max`, in as few bytes as it needs.
fn varint(bytes: &mut &[u8], max: u32) -> Result<u32, Wrong> {
    let (mut value, mut shift) = (0u32, 0);
    loop {
        let [byte] = take(bytes)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let is_padded = byte == 0 && shift > 0;
            return if value > max || is_padded {
                Err(Wrong::Age)
            } else {
                Ok(value)
            };
        }
        shift += 7;
        if shift > 14 {
            return Err(Wrong::Age);
        }
    }
}

/// What a stream calls VIPs and backends, as its receiver knows them.
#[derive(Clone, Default, Debug)]
pub struct Names {
    vips: Vec<Option<vip::Key>>,
    backends: Vec<Option<u64>>,
}

impl Names {
    /// From now on the stream calls this VIP so.
    pub fn declare_vip(&mut self, name: u16, vip: vip::Key) {
        *place(&mut self.vips, name) = Some(vip);
    }

    /// From now on the stream calls the backend of this identity so.
    pub fn declare_backend(&mut self, name: u16, id: u64) {
        *place(&mut self.backends, name) = Some(id);
    }

    /// The VIP of this name.
    pub fn vip(&self, name: u16) -> Option<vip::Key> {
        self.vips.get(usize::from(name)).copied().flatten()
    }

    /// The stable identity of the backend of this name.
    pub fn backend(&self, name: u16) -> Option<u64> {
        self.backends.get(usize::from(name)).copied().flatten()
    }
}

fn place<T: Clone>(list: &mut Vec<Option<T>>, name: u16) -> &mut Option<T> {
    let index = usize::from(name);
    if list.len() <= index {
        list.resize(index + 1, None);
    }
    &mut list[index]
}
