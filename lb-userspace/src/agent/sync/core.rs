//! What the tasks on the peers' thread share.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::flow::{self, Entry, Event, PROBATION};
use lb_common::tick::Tick;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tracing::warn;

use super::link::Link;
use super::names::{Names, OWN_TABLES, own_table};
use super::{Notice, Noticed, Report};
use crate::dataplane::Error;
use crate::dataplane::flows::{Table, now};
use crate::dataplane::maps::Maps;
use crate::sync::{Batch, Flow, Kind, Outbox, Plan, Range, Rates, Status};

/// Events of VIPs or backends that have no name here yet, at most: the maps know them a moment earlier.
const UNNAMED: usize = 4096;

pub(super) type Shared = Rc<RefCell<Core>>;

/// What the tasks on the peers' thread share. No task keeps it over a wait.
pub(super) struct Core {
    pub(super) maps: Maps,
    pub(super) names: Arc<Names>,
    /// Places of nodes that are not gone.
    pub(super) live: Option<BTreeSet<u8>>,
    /// Places of members; `None`: this node is none yet, and nobody is gone.
    pub(super) members: Option<BTreeSet<u8>>,
    pub(super) outbox: Outbox,
    pub(super) links: BTreeMap<u8, Link>,
    pub(super) joins: bool,
    /// Peers whose entries are in: a later session of theirs begins with what this node holds.
    pub(super) joined: BTreeSet<u8>,
    /// Own tables that are known to be empty.
    pub(super) empty: [bool; 2],
    /// Own entries that were confirmed, so that a walk that found none knows.
    pub(super) confirmed: [u64; 2],
    /// There may be replicas whose owner is gone.
    pub(super) orphans: bool,
    /// Own entries that were deleted while a walk looks for what a peer has asked for.
    pub(super) deleted: Option<HashSet<flow::Key>>,
    /// Time on a CPU of the thread that reads tables.
    pub(super) read: Duration,
    /// There are digests to compare.
    pub(super) compare: Rc<Notify>,
    /// A peer waits for one.
    pub(super) hurry: Rc<Notify>,
    pub(super) plan: Plan,
    /// The last status of each peer.
    past: BTreeMap<u8, Status>,
    unnamed: Vec<Event>,
    /// Events that the program could not tell, when it was looked last.
    lost: u64,
    /// Events that were lost here.
    dropped: u64,
    /// Something was lost since the last round.
    has_lost: bool,
    events: u64,
    handing_over: bool,
    is_broken: bool,
    notices: mpsc::UnboundedSender<Noticed>,
    start: Instant,
    /// When the last report was made.
    reported: Instant,
}

impl Core {
    pub(super) fn new(maps: Maps, names: Arc<Names>, notices: mpsc::UnboundedSender<Noticed>) -> Self {
        let lost = maps.lost_events().map_or(0, |lost| lost.packets);
        Self {
            maps,
            names,
            live: None,
            members: None,
            outbox: Outbox::default(),
            links: BTreeMap::new(),
            joins: false,
            joined: BTreeSet::new(),
            empty: [false; 2],
            confirmed: [0; 2],
            orphans: false,
            deleted: None,
            read: Duration::ZERO,
            compare: Rc::new(Notify::new()),
            hurry: Rc::new(Notify::new()),
            plan: Plan::default(),
            past: BTreeMap::new(),
            unnamed: Vec::new(),
            lost,
            dropped: 0,
            has_lost: false,
            events: 0,
            handing_over: false,
            is_broken: false,
            notices,
            start: Instant::now(),
            reported: Instant::now(),
        }
    }

    /// Time since this task began.
    pub(super) fn mono(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn notify(&self, notice: Notice) {
        self.notify_of(notice, None);
    }

    /// The same of what a peer says: it takes room until the agent has taken it.
    pub(super) fn notify_of(&self, notice: Notice, room: Option<OwnedSemaphorePermit>) {
        // Without an agent the thread ends soon.
        let _ = self.notices.send(Noticed { notice, _room: room });
    }

    /// The maps don't do what they should: said once.
    pub(super) fn fail(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_broken, true) {
            warn!("flow records: {error}");
        }
    }

    /// The session of a peer, if it still is this one.
    pub(super) fn link(&mut self, peer: u8, session: u64) -> Option<&mut Link> {
        self.links.get_mut(&peer).filter(|link| link.session == session)
    }

    /// An event that came in after `since`.
    pub(super) fn event(&mut self, event: &Event, since: Duration) {
        self.events += 1;
        if event.entry.state != PROBATION {
            let table = own_table(event.key.proto);
            self.empty[table] = false;
            self.confirmed[table] += 1;
        }
        if self.links.is_empty() {
            return;
        }
        match self.names.flow(Kind::Announce, &event.key, &event.entry) {
            Some(flow) => self.outbox.push(&flow, now(), since),
            None if self.unnamed.len() < UNNAMED => self.unnamed.push(*event),
            None => {
                self.dropped += 1;
                self.has_lost = true;
            }
        }
    }

    /// Other names: events that had none are tried again, once.
    pub(super) fn rename(&mut self, names: Arc<Names>) {
        self.names = names;
        let mono = self.mono();
        for event in std::mem::take(&mut self.unnamed) {
            match self.names.flow(Kind::Announce, &event.key, &event.entry) {
                Some(flow) => self.outbox.push(&flow, now(), mono),
                None => {
                    self.dropped += 1;
                    self.has_lost = true;
                }
            }
        }
    }

    /// Tells the peers of own entries that were deleted, unless the flow has begun anew.
    pub(super) fn forget(&mut self, entries: &[(flow::Key, Entry)]) {
        let mono = self.mono();
        for (key, entry) in entries {
            if self.is_known(key) {
                continue;
            }
            if let Some(deleted) = &mut self.deleted {
                deleted.insert(*key);
            }
            if let Some(flow) = self.names.flow(Kind::Delete, key, entry)
                && !self.links.is_empty()
            {
                self.outbox.push(&flow, now(), mono);
            }
        }
    }

    fn is_known(&self, key: &flow::Key) -> bool {
        let table = own_table(key.proto);
        let probation = [Table::Probation, Table::UdpProbation][table];
        let is_in = |table: Table| self.maps.entry(table, key).ok().flatten().is_some();
        is_in(probation) || is_in(OWN_TABLES[table])
    }

    /// Hands what is due to every peer.
    pub(super) fn transmit(&mut self) {
        let mono = self.mono();
        while let Some(batch) = self.outbox.take(mono) {
            for link in self.links.values_mut() {
                link.enqueue(&batch);
            }
        }
    }

    /// The same with all that there is.
    pub(super) fn flush(&mut self) {
        self.outbox.flush();
        self.transmit();
        if self.unnamed.is_empty() {
            let events = self.events;
            self.links.values_mut().for_each(|link| link.sender.mark(events));
        }
    }

    /// Batches for one peer.
    pub(super) fn snapshot(&mut self, peer: u8, session: u64, flows: impl IntoIterator<Item = Flow>) {
        let mono = self.mono();
        let mut flows = flows.into_iter();
        while let Some(batch) = self.outbox.snapshot(&mut flows, now(), mono) {
            if let Some(link) = self.link(peer, session) {
                link.snapshot(batch);
            }
        }
    }

    /// A range that a peer has asked for, as a walk found it that began at a tick.
    pub(super) fn repair(&mut self, peer: u8, range: Range, began: Tick, flows: Vec<Flow>) {
        let batches = self.batches(flows);
        if let Some(link) = self.links.get_mut(&peer) {
            link.repair(range, began, batches);
        }
    }

    /// Orphans of a range that a peer has asked for.
    pub(super) fn tell_orphans(&mut self, peer: u8, range: Range, flows: Vec<Flow>) {
        let batches = self.batches(flows);
        if let Some(link) = self.links.get_mut(&peer) {
            link.tell_orphans(range, batches);
        }
    }

    fn batches(&mut self, flows: Vec<Flow>) -> Vec<Batch> {
        let mono = self.mono();
        let mut flows = flows.into_iter();
        std::iter::from_fn(|| self.outbox.snapshot(&mut flows, now(), mono)).collect()
    }

    /// Ends all sessions, since there are no more names for VIPs and backends on their streams.
    pub(super) fn start_anew(&mut self) {
        warn!("flow records: too many VIPs and backends came and went; all sessions begin anew");
        self.outbox = Outbox::default();
        let sessions: Vec<(u8, u64)> = self
            .links
            .iter()
            .map(|(&peer, link)| (peer, link.session))
            .collect();
        for (peer, session) in sessions {
            if let Some(link) = self.links.get(&peer) {
                link.close();
            }
            self.end(peer, session);
        }
    }

    /// Whether something was lost since this was asked last.
    pub(super) fn take_lost(&mut self) -> bool {
        match self.maps.lost_events() {
            Ok(lost) => {
                self.has_lost |= lost.packets != self.lost;
                self.lost = lost.packets;
            }
            Err(e) => self.fail(&e),
        }
        let lost = std::mem::take(&mut self.has_lost);
        if lost {
            // What was confirmed meanwhile is not known.
            self.empty = [false; 2];
            self.confirmed.iter_mut().for_each(|confirmed| *confirmed += 1);
        }
        lost
    }

    /// A fence in every stream, behind everything that was told so far.
    pub(super) fn fence(&mut self, id: u64) {
        self.flush();
        for link in self.links.values_mut() {
            link.fence(id);
        }
    }

    /// Tells the agent when every live peer has everything that is known now.
    pub(super) fn hand_over(&mut self) {
        self.flush();
        self.links.values_mut().for_each(Link::hand_over);
        self.handing_over = true;
        self.look_handed_over();
    }

    pub(super) fn look_handed_over(&mut self) {
        if !self.handing_over {
            return;
        }
        let own = self.names.own();
        let places = (0..self.names.nodes()).filter(|&place| place != own);
        let mut live = places.filter(|place| self.live.as_ref().is_none_or(|live| live.contains(place)));
        let links = &mut self.links;
        if live.all(|place| links.get_mut(&place).is_some_and(Link::is_handed_over)) {
            self.handing_over = false;
            self.notify(Notice::HandedOver);
        }
    }

    /// Ends a session.
    pub(super) fn end(&mut self, peer: u8, session: u64) {
        if self.link(peer, session).is_some() {
            let link = self.links.remove(&peer).expect("looked up a moment ago");
            self.past.insert(peer, link.status());
            self.notify(Notice::Lost { peer });
        }
    }

    /// What `lbctl sync` and the metrics show.
    pub(super) fn report(&mut self) -> Report {
        let (time, now) = (self.reported.elapsed(), Instant::now());
        let mut rates = vec![Rates::default(); self.names.nodes().into()];
        for (&peer, link) in &self.links {
            let status = link.status();
            let before = self.past.insert(peer, status.clone()).unwrap_or_default();
            if let Some(rate) = rates.get_mut(usize::from(peer)) {
                *rate = Rates::between(&before, &status, time);
            }
        }
        self.reported = now;
        let place = |place: u8| self.past.get(&place).cloned().unwrap_or_default();
        Report {
            peers: (0..self.names.nodes()).map(place).collect(),
            rates,
            connected: self.links.keys().copied().collect(),
            events: self.events,
            lost: self.lost + self.dropped,
            read: self.read,
        }
    }

    /// Begins the lag's quantiles anew.
    pub(super) fn reset_lag(&mut self) {
        self.links.values_mut().for_each(Link::reset_lag);
    }
}
