//! Events become batches of records, which are encoded once for all peers: they call VIPs and backends the same.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lb_common::be::Be16;
use lb_common::flow::{self, Entry};
use lb_common::tick::Tick;
use lb_common::vip;

use super::record::{Kind, Record};
use super::wire::Frame;

/// A batch leaves when it is as old as this.
const FLUSH: Duration = Duration::from_millis(1);
/// A batch leaves when it has so many records,
const FULL_RECORDS: u16 = 1_200;
/// or so many bytes. Less than a frame's by more than a record.
const FULL_BYTES: usize = 32 << 10;

/// What a node tells of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Why.
    pub kind: Kind,
    /// The flow.
    pub key: flow::Key,
    /// Its VIP, with port 0 if that serves every port.
    pub vip: vip::Key,
    /// Its backend, by stable identity ([`lb_common::id`]).
    pub backend: u64,
    /// The entry as it is here.
    pub entry: Entry,
}

/// Records that go to peers together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// All declarations so far, as frames: each peer gets those that it hasn't got.
    pub declarations: Bytes,
    /// Ages count from this tick.
    pub now: Tick,
    /// Records.
    pub count: u16,
    /// They themselves.
    pub body: Bytes,
    /// When the first one came in.
    pub born: Duration,
}

/// One kind of names.
#[derive(Debug)]
struct Table<T>(HashMap<T, u16>);

impl<T: std::hash::Hash + Eq + Copy> Table<T> {
    /// What it is called, and whether that is new; `None` if names are used up.
    fn name(&mut self, thing: T) -> Option<(u16, bool)> {
        if let Some(&name) = self.0.get(&thing) {
            return Some((name, false));
        }
        let name = u16::try_from(self.0.len()).ok()?;
        self.0.insert(thing, name);
        Some((name, true))
    }
}

/// Collects what all peers are told.
#[derive(Debug)]
pub struct Outbox {
    vips: Table<vip::Key>,
    backends: Table<u64>,
    declared: Bytes,
    /// Behind `declared`.
    undeclared: BytesMut,
    used_up: bool,
    open: Open,
    ready: VecDeque<Batch>,
}

/// A batch that is being filled.
#[derive(Debug, Default)]
struct Open {
    now: Tick,
    count: u16,
    body: BytesMut,
    born: Duration,
}

impl Open {
    fn seal(&mut self, declarations: Bytes) -> Batch {
        let batch = Batch {
            declarations,
            now: self.now,
            count: self.count,
            body: self.body.split().freeze(),
            born: self.born,
        };
        self.count = 0;
        batch
    }

    fn is_full(&self) -> bool {
        self.count >= FULL_RECORDS || self.body.len() + Record::LONGEST > FULL_BYTES
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            vips: Table(HashMap::new()),
            backends: Table(HashMap::new()),
            declared: Bytes::new(),
            undeclared: BytesMut::new(),
            used_up: false,
            open: Open::default(),
            ready: VecDeque::new(),
        }
    }
}

impl Outbox {
    /// Adds a record for all peers. `now` is the tick that `flow.entry` is looked at, `mono` the same moment.
    pub fn push(&mut self, flow: &Flow, now: Tick, mono: Duration) {
        if self.open.count > 0 && self.open.now != now {
            self.flush();
        }
        if self.open.count == 0 {
            self.open.now = now;
            self.open.born = mono;
        }
        let mut open = core::mem::take(&mut self.open);
        self.encode(flow, &mut open);
        self.open = open;
        if self.open.is_full() {
            self.flush();
        }
    }

    /// A batch for one peer, in a resync or a repair, of as many of `flows` as there is room for; `None` when there are no more.
    pub fn snapshot(
        &mut self,
        flows: &mut impl Iterator<Item = Flow>,
        now: Tick,
        mono: Duration,
    ) -> Option<Batch> {
        let mut open = Open {
            now,
            born: mono,
            ..Open::default()
        };
        while !open.is_full()
            && let Some(flow) = flows.next()
        {
            self.encode(&flow, &mut open);
        }
        (open.count > 0).then(|| open.seal(self.declarations()))
    }

    fn encode(&mut self, flow: &Flow, open: &mut Open) {
        let Some((vip, backend)) = self.vip(flow.vip).zip(self.backend(flow)) else {
            self.used_up = true;
            return;
        };
        let record = Record::new(flow.key, &flow.entry, flow.kind, vip, backend, open.now);
        record.encode(flow.vip.port == Be16::new(0), &mut open.body);
        open.count += 1;
    }

    fn vip(&mut self, vip: vip::Key) -> Option<u16> {
        let (name, is_new) = self.vips.name(vip)?;
        if is_new {
            Frame::Vip { name, vip }.encode(&mut self.undeclared);
        }
        Some(name)
    }

    fn backend(&mut self, flow: &Flow) -> Option<u16> {
        if flow.kind == Kind::Delete {
            return Some(0);
        }
        let id = flow.backend;
        let (name, is_new) = self.backends.name(id)?;
        if is_new {
            Frame::Backend { name, id }.encode(&mut self.undeclared);
        }
        Some(name)
    }

    /// Whether more VIPs or backends came and went than there are names. Records are lost: end all sessions, and begin new ones
    /// with a new outbox.
    pub const fn is_used_up(&self) -> bool {
        self.used_up
    }

    /// When [`Outbox::take`] has something next, unless a batch is full before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.ready.is_empty() {
            (self.open.count > 0).then(|| self.open.born + FLUSH)
        } else {
            Some(Duration::ZERO)
        }
    }

    /// The next batch that is full or due: for every peer's [`super::Sender::enqueue`], in this order.
    pub fn take(&mut self, mono: Duration) -> Option<Batch> {
        if self.ready.is_empty() && self.poll_timeout().is_some_and(|due| due <= mono) {
            self.flush();
        }
        self.ready.pop_front()
    }

    /// Makes what there is due now: before a fence, say, which has to be behind it in every [`super::Sender`].
    pub fn flush(&mut self) {
        if self.open.count > 0 {
            let declarations = self.declarations();
            self.ready.push_back(self.open.seal(declarations));
        }
    }

    /// All names so far, for a new session or one that begins again.
    pub fn declarations(&mut self) -> Bytes {
        if !self.undeclared.is_empty() {
            let mut all = BytesMut::with_capacity(self.declared.len() + self.undeclared.len());
            all.extend_from_slice(&self.declared);
            all.extend_from_slice(&self.undeclared.split());
            self.declared = all.freeze();
        }
        self.declared.clone()
    }
}
