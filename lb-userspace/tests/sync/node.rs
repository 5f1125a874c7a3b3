//! A node: tables as the program would hold them, and the sessions with its peers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use lb_common::flow::{CONFIRMED, Entry, Key};
use lb_common::hash;
use lb_common::slot::{Slot, index, of_hash};
use lb_common::tick::{Tick, seconds};
use lb_common::{be::Be16, header::proto, vip};
use lb_userspace::sync::{
    Asked, Compare, Differences, Drops, Flow, Hello, Inbound, Kind, Limits, Merger, ORPHAN, Outbox, Plan,
    RANGES, Range, Receiver, Repairs, Round, SETTLED, Scope, Sender, Tables, View, contribution, owner,
    range,
};

/// Backends of each of the two pools.
pub(crate) const BACKENDS: u64 = 4;
/// Idle timeout, seconds.
const IDLE: u32 = 900;
/// Ranges that are asked for, and repaired, in a round.
const PER_ROUND: usize = 256;

fn addr(text: &str) -> lb_common::addr::Addr {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// Pool 0 has a port of an IPv4 address, pool 1 all of an IPv6 address.
pub(crate) fn vips() -> [vip::Key; 2] {
    static VIPS: LazyLock<[vip::Key; 2]> = LazyLock::new(|| {
        [
            vip::Key::new(addr("192.0.2.1"), Be16::new(443), proto::TCP),
            vip::Key::new(addr("2001:db8::1"), Be16::new(0), proto::TCP),
        ]
    });
    *VIPS
}

pub(crate) fn pool_of(key: &Key) -> u16 {
    u16::from(!key.dst.is_v4())
}

pub(crate) fn slot_of(key: &Key) -> u32 {
    static KEY: LazyLock<hash::Key> = LazyLock::new(|| hash::Key::expand(&[7; 16]));
    of_hash(key.tuple().hash(&KEY))
}

/// Indexes of backends differ from node to node, identities don't.
fn id_of(place: u8, backend: u16) -> u64 {
    100 + (u64::from(backend) - 1 + u64::from(place)) % (2 * BACKENDS)
}

fn index_of(place: u8, id: u64) -> Option<u16> {
    let number = id.checked_sub(100).filter(|n| *n < 2 * BACKENDS)?;
    Some(1 + ((number + 2 * BACKENDS - u64::from(place)) % (2 * BACKENDS)) as u16)
}

fn range_of(key: &Key) -> Range {
    range(0xabcd_ef01_2345 * u64::from(pool_of(key) + 1), slot_of(key))
}

/// What the program and the agent share.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) own: HashMap<Key, Entry>,
    pub(crate) replicas: HashMap<Key, Entry>,
    pub(crate) held: BTreeMap<u32, Slot>,
    pub(crate) stamps: usize,
}

impl Tables for Maps {
    fn own(&mut self, key: &Key) -> Option<Entry> {
        self.own.get(key).copied()
    }

    fn replica(&mut self, key: &Key) -> Option<Entry> {
        self.replicas.get(key).copied()
    }
}

/// What a node knows besides.
pub(crate) struct Knows {
    place: u8,
    gone: Vec<u8>,
}

impl Knows {
    pub(crate) fn new(place: u8) -> Self {
        Self {
            place,
            gone: Vec::new(),
        }
    }
}

impl View for Knows {
    fn vip(&self, vip: &vip::Key) -> Option<u16> {
        vips().iter().position(|known| known == vip).map(|n| n as u16)
    }

    fn backend(&self, id: u64) -> Option<u16> {
        index_of(self.place, id)
    }

    fn is_home(&self, backend: u16, pool: u16) -> bool {
        (id_of(self.place, backend) - 100) / BACKENDS == u64::from(pool)
    }

    fn is_dead(&self, _: u16) -> bool {
        false
    }

    fn place(&self, pool: u16, key: &Key) -> u32 {
        index(pool, slot_of(key))
    }

    fn slot(&self, _: u32) -> Slot {
        Slot::untracked(1)
    }

    fn is_gone(&self, owner: u8) -> bool {
        self.gone.contains(&owner)
    }
}

/// One session with one peer.
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) sender: Sender,
    receiver: Receiver,
    differences: Differences,
    compare: Option<Compare>,
    repairs: Repairs,
    asked: Asked,
    differing_orphans: Differences,
    compare_orphans: Option<Compare>,
    asked_orphans: Asked,
    walk: Option<std::vec::IntoIter<Flow>>,
    /// A resync that has to begin.
    due: Option<Scope>,
    scope: Scope,
    pub(crate) fences: Vec<u64>,
    pub(crate) merged: u64,
}

pub(crate) struct Node {
    pub(crate) place: u8,
    pub(crate) maps: Maps,
    pub(crate) outbox: Outbox,
    pub(crate) sessions: BTreeMap<u8, Session>,
    pub(crate) drops: Drops,
    /// Events were lost and nobody has been told.
    pub(crate) lost: bool,
    pub(crate) repair: bool,
    pub(crate) capacity: usize,
    pub(crate) limits: Limits,
    /// Nobody's are replicas of these.
    pub(crate) gone: Vec<u8>,
    /// It started with empty tables.
    pub(crate) joins: bool,
    /// Its clock, ahead of the world's.
    ahead: u64,
    round: u32,
}

impl Node {
    pub(crate) fn new(place: u8) -> Self {
        Self {
            place,
            maps: Maps::default(),
            outbox: Outbox::default(),
            sessions: BTreeMap::new(),
            drops: Drops::default(),
            lost: false,
            repair: true,
            capacity: usize::MAX,
            limits: Limits::default(),
            gone: Vec::new(),
            joins: false,
            ahead: u64::from(place) * 1_234_567_891,
            round: 0,
        }
    }

    /// The world's time, ms, in ticks of this node.
    pub(crate) fn tick(&self, ms: u64) -> Tick {
        Tick::from_nanos((ms + self.ahead) * 1_000_000)
    }

    fn flow(&self, kind: Kind, key: Key, entry: Entry) -> Flow {
        Flow {
            kind,
            key,
            vip: vips()[usize::from(pool_of(&key))],
            backend: id_of(self.place, entry.backend),
            entry,
        }
    }

    fn tell(&mut self, kind: Kind, key: Key, entry: Entry, ms: u64) {
        let flow = self.flow(kind, key, entry);
        let now = self.tick(ms);
        self.outbox.push(&flow, now, Duration::from_millis(ms));
    }

    /// A packet: follows an own entry, takes over a replica, or begins a flow. `heard`: the ring buffer has room.
    pub(crate) fn packet(&mut self, key: Key, choice: u64, heard: bool, ms: u64) {
        let now = self.tick(ms);
        if let Some(own) = self.maps.own.get_mut(&key) {
            *own = own.used(now);
            return;
        }
        let id = 100 + u64::from(pool_of(&key)) * BACKENDS + choice % BACKENDS;
        let fresh = Entry::probation(index_of(self.place, id).expect("one of them"), 1, now);
        let entry = match self.maps.replicas.remove(&key) {
            Some(replica) => replica.used(now),
            None => fresh.confirmed(now),
        };
        self.maps.own.insert(key, entry);
        self.event(Kind::Announce, key, entry, heard, ms);
    }

    pub(crate) fn close(&mut self, key: Key, heard: bool, ms: u64) {
        let now = self.tick(ms);
        if let Some(own) = self.maps.own.get_mut(&key) {
            *own = own.closed(now);
            let entry = *own;
            self.event(Kind::Announce, key, entry, heard, ms);
        }
    }

    pub(crate) fn expire(&mut self, key: Key, heard: bool, ms: u64) {
        if let Some(entry) = self.maps.own.remove(&key) {
            self.event(Kind::Delete, key, entry, heard, ms);
        }
    }

    fn event(&mut self, kind: Kind, key: Key, entry: Entry, heard: bool, ms: u64) {
        if heard {
            self.tell(kind, key, entry, ms);
        } else {
            self.lost = true;
        }
    }

    /// A session begins. Each side tells the other everything.
    pub(crate) fn connect(&mut self, peer: u8, number: u64) {
        let hello = Hello {
            place: self.place,
            joins: self.joins,
            connected: self.sessions.keys().copied().collect(),
        };
        let declarations = self.outbox.declarations();
        let session = Session {
            number,
            sender: Sender::new(&hello, declarations, self.limits),
            receiver: Receiver::new(peer),
            differences: Differences::default(),
            compare: None,
            repairs: Repairs::default(),
            asked: Asked::default(),
            differing_orphans: Differences::default(),
            compare_orphans: None,
            asked_orphans: Asked::default(),
            walk: None,
            due: None,
            scope: Scope::Own,
            fences: Vec::new(),
            merged: 0,
        };
        self.sessions.insert(peer, session);
        self.gone.retain(|&gone| gone != owner(peer));
    }

    /// Replicas whose owner is gone.
    pub(crate) fn orphans(&self) -> impl Iterator<Item = (Key, Entry)> {
        let orphans = self.maps.replicas.iter();
        let orphans = orphans.filter(|(_, e)| e.owner == ORPHAN || self.gone.contains(&e.owner));
        orphans.map(|(k, e)| (*k, *e))
    }

    fn begin_resync(&mut self, peer: u8, scope: Scope) {
        let own = self
            .maps
            .own
            .iter()
            .map(|(k, e)| self.flow(Kind::Snapshot, *k, *e));
        let mut flows: Vec<Flow> = own.collect();
        if scope == Scope::Orphans {
            flows.extend(self.orphans().map(|(k, e)| self.flow(Kind::Orphan, k, e)));
        }
        let declarations = self.outbox.declarations();
        let session = self.sessions.get_mut(&peer).expect("it is connected");
        session.sender.begin_resync(scope, declarations);
        session.scope = scope;
        session.walk = Some(flows.into_iter());
    }

    /// Everything that is due.
    pub(crate) fn turn(&mut self, ms: u64) {
        let (mono, now) = (Duration::from_millis(ms), self.tick(ms));
        while let Some(batch) = self.outbox.take(mono) {
            for session in self.sessions.values_mut() {
                session.sender.enqueue(&batch);
            }
        }
        let behind = self.sessions.iter_mut().filter_map(|(&peer, session)| {
            let again = session.sender.wants_resync().then_some(session.scope);
            Some((peer, session.due.take().or(again)?))
        });
        let behind: Vec<(u8, Scope)> = behind.collect();
        for (peer, scope) in behind {
            self.begin_resync(peer, scope);
        }
        for session in self.sessions.values_mut() {
            if !session.sender.is_resyncing() {
                session.walk = None;
            }
            while let Some(walk) = &mut session.walk
                && session.sender.has_room()
            {
                match self.outbox.snapshot(walk, now, mono) {
                    Some(batch) => session.sender.snapshot(batch),
                    None => {
                        session.walk = None;
                        assert!(session.sender.end_resync());
                    }
                }
            }
        }
        // Nodes don't look at the same moment.
        if ms % 1_000 == u64::from(self.place) * 300 && self.repair {
            self.look(ms);
        }
    }

    /// The walk of each second over all own entries and replicas.
    fn look(&mut self, ms: u64) {
        let now = self.tick(ms);
        self.round += 1;
        let idle = seconds(IDLE);
        self.maps.replicas.retain(|_, entry| !entry.is_expired(idle, now));
        let mut round = Round::new(Scope::Own, self.round, now, core::mem::take(&mut self.lost));
        let asked: Vec<(u8, BTreeSet<Range>)> = self
            .sessions
            .iter_mut()
            .map(|(peer, s)| (*peer, s.asked.take(PER_ROUND)))
            .collect();
        let mut by_range: HashMap<Range, Vec<Flow>> = HashMap::new();
        let mut refresh = Vec::new();
        for (key, entry) in &self.maps.own {
            let range = range_of(key);
            round.take(key, entry, range, id_of(self.place, entry.backend));
            if asked.iter().any(|(_, ranges)| ranges.contains(&range)) {
                let flow = self.flow(Kind::Snapshot, *key, *entry);
                by_range.entry(range).or_default().push(flow);
            }
            if round.is_refresh_due(entry, range, 20) {
                refresh.push((*key, *entry));
            }
        }
        if self.orphans().next().is_some() {
            self.look_orphans(ms);
        }
        let digest = round.finish();
        for (peer, ranges) in asked {
            let session = self.sessions.get_mut(&peer).expect("it is connected");
            for range in ranges {
                let mut flows = by_range.get(&range).cloned().unwrap_or_default().into_iter();
                let outbox = &mut self.outbox;
                let mono = Duration::from_millis(ms);
                let batches = core::iter::from_fn(|| outbox.snapshot(&mut flows, now, mono));
                session.sender.repair(range, now, batches);
            }
        }
        for session in self.sessions.values_mut() {
            session.sender.digest(digest.clone());
        }
        for (key, entry) in refresh {
            self.tell(Kind::Refresh, key, entry, ms);
        }
        self.compare();
    }

    /// The same over orphans.
    fn look_orphans(&mut self, ms: u64) {
        let now = self.tick(ms);
        let mut round = Round::new(Scope::Orphans, self.round, now, false);
        let mut by_range: HashMap<Range, Vec<Flow>> = HashMap::new();
        for (key, entry) in self.orphans() {
            let range = range_of(&key);
            if round.take_orphan(&key, &entry, (range, IDLE), id_of(self.place, entry.backend)) {
                let flow = self.flow(Kind::Orphan, key, entry);
                by_range.entry(range).or_default().push(flow);
            }
        }
        let digest = round.finish();
        for session in self.sessions.values_mut() {
            for range in session.asked_orphans.take(PER_ROUND) {
                let mut flows = by_range.get(&range).cloned().unwrap_or_default().into_iter();
                let mono = Duration::from_millis(ms);
                while let Some(batch) = self.outbox.snapshot(&mut flows, now, mono) {
                    session.sender.snapshot(batch);
                }
            }
            session.sender.digest(digest.clone());
        }
    }

    fn compare(&mut self) {
        let mut stale = Vec::new();
        let orphans: Vec<_> = self.orphans().collect();
        for (&peer, session) in &mut self.sessions {
            if let Some(mut compare) = session.compare_orphans.take() {
                for (key, entry) in &orphans {
                    let id = id_of(self.place, entry.backend);
                    compare.take_orphan(key, entry, (range_of(key), IDLE), id);
                }
                let ask = session.differing_orphans.judge(&compare, PER_ROUND);
                session.sender.ask(Scope::Orphans, ask);
            }
            for (key, entry) in &self.maps.replicas {
                let range = range_of(key);
                let id = id_of(self.place, entry.backend);
                if let Some(compare) = &mut session.compare {
                    compare.take(key, entry, range, id);
                }
                if session.repairs.is_stale(owner(peer), key, entry, range) {
                    stale.push(*key);
                }
            }
            session.repairs.clear();
            if let Some(compare) = session.compare.take() {
                let ask = session.differences.judge(&compare, PER_ROUND);
                session.sender.ask(Scope::Own, ask);
            }
        }
        for key in stale {
            self.maps.replicas.remove(&key);
        }
    }

    /// Bytes of a peer's session.
    pub(crate) fn receive(&mut self, peer: u8, bytes: &[u8], ms: u64) {
        let now = self.tick(ms);
        let mut session = self.sessions.remove(&peer).expect("it is connected");
        session.receiver.handle(bytes);
        while let Some(inbound) = session.receiver.poll(now).expect("peers speak well") {
            self.inbound(peer, &mut session, inbound, ms);
        }
        self.sessions.insert(peer, session);
    }

    fn inbound(&mut self, peer: u8, session: &mut Session, inbound: Inbound, ms: u64) {
        let now = self.tick(ms);
        match inbound {
            Inbound::Hello(hello) => {
                if hello.joins {
                    for entry in self.maps.replicas.values_mut().filter(|e| e.owner == owner(peer)) {
                        entry.owner = ORPHAN;
                    }
                }
                let scope = if hello.joins { Scope::Orphans } else { Scope::Own };
                session.due = Some(scope);
            }
            Inbound::Records { next, sent, records } => {
                let knows = Knows {
                    place: self.place,
                    gone: self.gone.clone(),
                };
                let mut plan = Plan::default();
                session.repairs.note(records.iter().map(|record| &record.key));
                Merger::new(self.place, peer).merge(
                    &records,
                    sent,
                    session.receiver.names(),
                    &knows,
                    &mut self.maps,
                    now,
                    &mut plan,
                );
                self.execute(&plan);
                session.merged += records.len() as u64;
                session.sender.acknowledge(next);
            }
            Inbound::Ack(next) => session.sender.on_ack(next, Duration::from_millis(ms)),
            Inbound::Fence(id) => session.fences.push(id),
            Inbound::ResyncBegin(_) | Inbound::Resynced(_) => {
                (session.compare, session.compare_orphans) = (None, None);
            }
            Inbound::Digest(digest, at) => match digest.scope {
                Scope::Own => session.compare = Some(Compare::new(&digest, owner(peer), at)),
                Scope::Orphans => session.compare_orphans = Some(Compare::new(&digest, ORPHAN, at)),
            },
            Inbound::Ask(scope, ranges) => {
                assert!(ranges.len() <= RANGES);
                match scope {
                    Scope::Own => session.asked.ask(&ranges),
                    Scope::Orphans => session.asked_orphans.ask(&ranges),
                }
            }
            Inbound::RepairBegin(range, at) => session.repairs.begin(range, at),
            Inbound::RepairEnd(range) => session.repairs.end(range),
        }
    }

    fn execute(&mut self, plan: &Plan) {
        for (key, entry) in &plan.upserts {
            if self.maps.replicas.contains_key(key) || self.maps.replicas.len() < self.capacity {
                self.maps.replicas.insert(*key, *entry);
            }
        }
        for &(place, backend) in &plan.holds {
            let slot = self.maps.held.entry(place).or_insert(Slot::untracked(1));
            *slot = slot.held(backend);
        }
        self.maps.stamps += plan.stamps.len();
        for key in &plan.demoted {
            self.maps.own.remove(key);
        }
        for key in &plan.removed {
            self.maps.replicas.remove(key);
        }
        self.drops.add(&plan.drops);
    }

    /// Sum and number of entries: settled own ones (`of` this node), or replicas of another one's.
    pub(crate) fn settled(&self, of: u8, ms: u64) -> BTreeMap<Key, u64> {
        let now = self.tick(ms);
        let (table, owner) = if of == self.place {
            (&self.maps.own, 0)
        } else {
            (&self.maps.replicas, owner(of))
        };
        let is_settled =
            |e: &Entry| e.owner == owner && e.state == CONFIRMED && now.since(e.since) > SETTLED + seconds(1);
        let rows = table.iter().filter(|(_, e)| is_settled(e));
        rows.map(|(k, e)| (*k, contribution(k, id_of(self.place, e.backend))))
            .collect()
    }
}
