//! The machine of one node: inputs, time, outputs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::border::{Action, Event, Facts, Input, Local, Mismatch, Settings, Start, Status, View, Why};
use super::drive::Lead;
use super::join::{Joiner, Leaver};
use super::member::Member;
use super::nodes::Nodes;
use super::opinion::Alone;
use super::order::{Cell, Target, Verdict};
use super::wire::{CELLS_MAX, Edition, Msg, Opinion, Phase, State, Term, decode, encode};
use crate::health::Mono;
use crate::health::fail_open::FailOpen;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often a node says what it is, where nothing has changed.
const SAY_AGAIN: Duration = Duration::from_millis(500);

/// What this node knows of another one.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Number of the session, while there is one.
    pub(super) session: Option<u64>,
    /// Its heartbeats come.
    pub(super) alive: bool,
    /// When it was last alive; the start of this agent if never.
    pub(super) heard: Mono,
    /// When it was last seen to be there while one end refused the other.
    pub(super) refused: Option<(Mono, Mismatch)>,
    /// When a coordinator last counted it as a member.
    pub(super) vouched: Mono,
    /// What it said of itself, on this session.
    pub(super) state: Option<State>,
    /// Which backends don't look up to it.
    pub(super) opinions: Option<BTreeMap<u64, Opinion>>,
    /// Slots on which it would vote yes.
    pub(super) candidates: Vec<Cell>,
    /// Its flow entries are in.
    pub(super) synced: bool,
    /// With which epoch it is a member.
    pub(super) admitted: Option<u64>,
    /// Messages that were none, or of a term that can't be.
    pub(super) garbage: u64,
    /// With which epoch it left, or was forgotten.
    pub(super) left: Option<u64>,
    /// It said good-bye or was forgotten, and has not been heard since.
    pub(super) is_gone: bool,
    /// This node has dropped it, and has not heard it since: older news than that don't count.
    pub(super) is_dropped: bool,
    /// Since when it is adrift: no member, it may forward by its slots all the same.
    pub(super) adrift: Option<Mono>,
    /// What it was told of this node, and when.
    told: Option<(State, Mono)>,
    /// It knows this node's opinions.
    knows_opinions: bool,
    /// On which slots this node told it that it would vote yes, and when.
    told_candidates: (Vec<Cell>, Mono),
}

impl Peer {
    /// Orders reach it, and its answers come.
    pub(super) fn is_reachable(&self) -> bool {
        self.alive && self.session.is_some() && self.state.is_some()
    }

    /// What it says it is, as long as it is reachable.
    pub(super) fn reached(&self) -> Option<&State> {
        self.state.as_ref().filter(|_| self.is_reachable())
    }
}

/// One per node. All of it computes only.
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) start: Start,
    pub(super) now: Mono,
    actions: VecDeque<Action>,
    pub(super) peers: Vec<Peer>,
    pub(super) phase: Phase,
    pub(super) members: Nodes,
    /// Who was adrift when that was looked at last.
    pub(super) was_adrift: Nodes,
    /// Of the members' list.
    pub(super) edition: Edition,
    /// The list is another one than that edition's: this node changed it, and will say so when it takes office.
    pub(super) is_ahead: bool,
    /// The highest that was seen.
    pub(super) term: Term,
    pub(super) local: Local,
    pub(super) views: Vec<View>,
    pub(super) opinions: BTreeMap<u64, Opinion>,
    pub(super) charter_equal: bool,
    pub(super) member: Member,
    pub(super) lead: Option<Lead>,
    pub(super) joiner: Joiner,
    pub(super) leaver: Leaver,
    pub(super) alone: Alone,
    /// Pools whose checks the group doubts.
    pub(super) doubted: BTreeMap<u64, FailOpen>,
    /// What was said last.
    pub(super) ready: Option<Result<(), Why>>,
    /// Its slots were the group's: it attracts traffic while it joins again, for up to `join_within`.
    pub(super) serves_on: bool,
}

impl Machine {
    /// A node whose agent has just started: not ready.
    pub fn new(settings: Settings, start: Start, now: Mono) -> Self {
        let peer = Peer {
            heard: now,
            ..Peer::default()
        };
        Self {
            settings,
            start,
            now,
            actions: VecDeque::new(),
            peers: vec![peer; usize::from(settings.nodes.max(settings.me.saturating_add(1)))],
            phase: Phase::Joining,
            members: Nodes::default(),
            was_adrift: Nodes::default(),
            edition: Edition::default(),
            is_ahead: false,
            term: Term::default(),
            local: Local::default(),
            views: Vec::new(),
            opinions: BTreeMap::new(),
            charter_equal: false,
            member: Member::default(),
            lead: None,
            joiner: Joiner::new(now),
            leaver: Leaver::default(),
            alone: Alone::default(),
            doubted: BTreeMap::new(),
            ready: None,
            serves_on: false,
        }
    }

    /// Takes an input. Places that no node has are ignored.
    pub fn handle(&mut self, input: Input, now: Mono) {
        self.now = self.now.max(now);
        match input {
            Input::Up { peer, session } => self.on_up(peer, session),
            Input::Down { peer, session } => self.on_down(peer, session),
            Input::Alive { peer } => self.on_alive(peer, true),
            Input::Dead { peer } => self.on_alive(peer, false),
            Input::Refused { peer, mismatch } => {
                if let Some(peer) = self.peers.get_mut(usize::from(peer)) {
                    peer.refused = Some((self.now, mismatch));
                }
            }
            Input::Message { peer, session, bytes } => self.on_bytes(peer, session, &bytes),
            Input::Answered { ticket, answer } => self.on_answered(ticket, answer),
            Input::Local(local) => self.local = local,
            Input::Views(views) => self.on_views(views),
            Input::Snapshot { images, slots } => self.on_snapshot(images, slots),
            Input::Installed { slots } => self.on_installed(slots),
            Input::Synced { peer } => {
                if let Some(peer) = self.peers.get_mut(usize::from(peer)) {
                    peer.synced = peer.session.is_some();
                }
            }
            Input::CharterEqual(equal) => self.charter_equal = equal,
            Input::Forget { peer } => self.on_forget(peer, true),
            Input::Leave => self.on_leave(),
            Input::HandedOver => self.leaver.handed_over = true,
        }
        self.settle();
    }

    /// Takes the passing of time; to be called when [`Machine::poll_timeout`] says, or more often.
    pub fn handle_timeout(&mut self, now: Mono) {
        self.now = self.now.max(now);
        self.settle();
    }

    /// When [`Machine::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Mono {
        self.now + TICK
    }

    /// What is to be done next, in this order. To be asked after each input until there is nothing.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What heartbeats and `lbctl peers` show of this node.
    pub fn facts(&self) -> Facts {
        Facts {
            phase: self.phase,
            epoch: self.start.epoch,
            generation: self.local.target.generation,
            verdict: self.member.verdict.number,
            rings: self.local.target.rings,
            origins: self.local.origins,
            members: self.members,
            term: self.term.number,
        }
    }

    /// What `lbctl peers` shows beside [`Machine::facts`].
    pub fn status(&self) -> Status {
        Status {
            leaves: self.leaver.is_wanted(),
            rejoins: self.phase == Phase::Joining && self.ready == Some(Ok(())),
            adrift: self.adrift(),
            coordinator: self.coordinator(),
            live: self.live(),
            ready: self.ready.unwrap_or(Err(Why::Waiting)),
            under_way: self.lead.as_ref().and_then(Lead::under_way),
            waits_for: self.waits_for(),
            waits_since: self.lead.as_ref().and_then(Lead::waits_since),
        }
    }

    /// Whether a peer's heartbeats come.
    pub fn hears(&self, place: u8) -> bool {
        self.peer(place).is_some_and(|peer| peer.alive)
    }

    /// The last change that this node committed, or that was committed before it joined.
    pub fn committed(&self) -> Option<Target> {
        self.member.committed
    }

    /// The verdict in force on this node.
    pub fn verdict(&self) -> &Verdict {
        &self.member.verdict
    }

    /// Everything that follows from what is known by now.
    fn settle(&mut self) {
        self.begin_to_leave();
        self.prune();
        self.look_back();
        // Before a verdict is made of the same views.
        self.doubt();
        self.take_or_leave_office();
        self.lead_on();
        self.join_on();
        self.leave_on();
        self.look_around();
        self.say_ready();
        self.announce();
        self.propose();
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.act(Action::Told(event));
    }

    pub(super) fn send(&mut self, peer: u8, msg: &Msg) {
        let bytes = encode(msg);
        self.act(Action::Send { peer, bytes });
    }

    pub(super) fn peer(&self, place: u8) -> Option<&Peer> {
        self.peers
            .get(usize::from(place))
            .filter(|_| place != self.settings.me)
    }

    pub(super) fn peer_mut(&mut self, place: u8) -> Option<&mut Peer> {
        let me = self.settings.me;
        self.peers.get_mut(usize::from(place)).filter(|_| place != me)
    }

    /// All other nodes.
    pub(super) fn others(&self) -> impl Iterator<Item = (u8, &Peer)> {
        let me = self.settings.me;
        (0u8..).zip(&self.peers).filter(move |(place, _)| *place != me)
    }

    fn on_up(&mut self, place: u8, session: u64) {
        let Some(peer) = self.peer_mut(place) else { return };
        peer.session = Some(session);
        (peer.state, peer.told) = (None, None);
        (peer.synced, peer.knows_opinions) = (false, false);
        peer.candidates.clear();
        peer.told_candidates = Default::default();
    }

    fn on_down(&mut self, place: u8, session: u64) {
        let Some(peer) = self.peer_mut(place) else { return };
        if peer.session == Some(session) {
            peer.session = None;
            (peer.state, peer.told, peer.synced) = (None, None, false);
        }
    }

    fn on_alive(&mut self, place: u8, alive: bool) {
        let now = self.now;
        let Some(peer) = self.peer_mut(place) else { return };
        if peer.alive || alive {
            peer.heard = now;
        }
        peer.is_gone &= !alive;
        peer.is_dropped &= !alive;
        peer.alive = alive;
    }

    fn on_bytes(&mut self, place: u8, session: u64, bytes: &[u8]) {
        if self.peer(place).is_none_or(|p| p.session != Some(session)) {
            return;
        }
        match decode(bytes, self.settings.nodes) {
            Ok(msg) if self.can_be(&msg) => self.on_msg(place, msg),
            _ => self.on_garbage(place),
        }
    }

    fn on_msg(&mut self, from: u8, msg: Msg) {
        match msg {
            Msg::State(state) => self.on_state(from, state),
            Msg::Opinions(opinions) => {
                if let Some(peer) = self.peer_mut(from) {
                    peer.opinions = Some(opinions);
                }
            }
            Msg::Candidates(cells) => {
                if let Some(peer) = self.peer_mut(from) {
                    peer.candidates = cells;
                }
            }
            Msg::Order(order) => self.obey(from, order),
            Msg::Answer {
                term,
                number,
                answer,
                memory,
            } => self.on_answer(from, (term, number), answer, memory),
            Msg::Stale(term) => self.term = self.term.max(term),
            Msg::Join { epoch } => self.on_join(from, epoch),
            Msg::Offer {
                epoch,
                offer,
                pools,
                verdict,
                slots,
            } => {
                if epoch == self.start.epoch {
                    self.on_offer(from, offer, pools, (verdict, slots));
                }
            }
            Msg::Image { offer, image } => self.on_image(from, offer, image),
            Msg::Installed { offer, slots } => self.on_joiner_installed(from, offer, slots),
            Msg::Welcome {
                epoch,
                term,
                members,
                edition,
                adrift,
            } => {
                if epoch == self.start.epoch {
                    self.on_welcome(from, term, members, (edition, adrift));
                }
            }
            Msg::Goodbye => self.on_goodbye(from),
            Msg::Farewell => self.leaver.farewells = self.leaver.farewells.with(from),
            Msg::Forget(node) => self.on_forget(node, false),
            Msg::Taken { offer } => self.on_taken(from, offer),
        }
    }

    fn on_views(&mut self, views: Vec<View>) {
        let opinions = super::opinion::of(&views);
        if opinions != self.opinions {
            self.opinions = opinions;
            for peer in &mut self.peers {
                peer.knows_opinions = false;
            }
        }
        self.views = views;
    }

    pub(super) fn state(&self) -> State {
        State {
            key: self.settings.key,
            epoch: self.start.epoch,
            phase: self.phase,
            kept: self.has_slots(),
            serving: self.ready == Some(Ok(())),
            term: self.term,
            members: self.members,
            edition: self.edition,
            adrift: self.adrift(),
            ready: self.ready_members(),
            target: self.local.target,
            verdict: self.member.verdict.number,
            origins: self.local.origins,
        }
    }

    fn announce(&mut self) {
        let (state, now) = (self.state(), self.now);
        for place in 0..self.settings.nodes {
            let Some(peer) = self.peer_mut(place).filter(|p| p.session.is_some()) else {
                continue;
            };
            let is_due = |(said, when): &(State, Mono)| *said != state || now.since(*when) >= SAY_AGAIN;
            if peer.told.as_ref().is_none_or(is_due) {
                peer.told = Some((state, now));
                self.send(place, &Msg::State(state));
            }
            if let Some(peer) = self.peer_mut(place)
                && !peer.knows_opinions
            {
                peer.knows_opinions = true;
                let opinions = Msg::Opinions(self.opinions.clone());
                self.send(place, &opinions);
            }
        }
    }

    /// A slot may be tracked here alone.
    fn propose(&mut self) {
        let (now, phase) = (self.now, self.phase);
        let first = self.local.candidates.len().min(CELLS_MAX);
        let Some(place) = self.coordinator().filter(|_| phase != Phase::Joining) else {
            return;
        };
        let Some(peer) = self
            .peers
            .get(usize::from(place))
            .filter(|_| place != self.settings.me)
        else {
            return;
        };
        let (told, when) = &peer.told_candidates;
        let cells = &self.local.candidates[..first];
        if told == cells || now.since(*when) < SAY_AGAIN {
            return;
        }
        let cells = cells.to_vec();
        if let Some(peer) = self.peer_mut(place) {
            peer.told_candidates = (cells.clone(), now);
        }
        self.send(place, &Msg::Candidates(cells));
    }

    fn say_ready(&mut self) {
        let ready = self.readiness();
        if self.ready != Some(ready) {
            self.ready = Some(ready);
            self.act(Action::Ready(ready));
        }
    }
}
