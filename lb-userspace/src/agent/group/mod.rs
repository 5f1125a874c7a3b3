//! This node's part in a group: its peers, the group's machine, and what passes between them and the slots
//! (docs/adr/0015-groups.md).

mod facts;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{error, warn};

use self::facts::{Beside, Load, facts};
use self::tell::Told;
use super::change::is_peered;
use super::controller::Controller;
use super::member::Seen;
use super::sync::{self, Command, Names, Notice, Noticed, Report, Setup};
use crate::api;
use crate::api::group::{GroupState, Readiness};
use crate::api::refusal::Refusal;
use crate::dataplane::events::Events;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use crate::group::{Action, Input, Local, Machine, Nodes, Settings, Start, Status, View, Why};
use crate::health::Mono;
use crate::journal;
use crate::model::{Group as Config, Model, Name, Peering};
use crate::peer::{self, Life, Peers, PoolRings};

/// Control messages of the group's machine.
const GROUP: u8 = 1;
/// The same of the charter's.
pub(super) const CHARTER: u8 = 2;

/// How often slots and views are looked at without an occasion.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// From PREPARE to COMMIT: a SYN that met the untracked slot has no entry, and its answer must not come after COMMIT.
const PAUSE: Duration = Duration::from_secs(1);

/// What may happen to a group.
pub(super) enum Happened {
    /// At a peer.
    Peer(peer::Event),
    /// To flow records.
    Flows(Notice),
    /// Time has passed.
    Time,
}

/// What others have to be told of.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A message for the charter.
    Charter {
        /// From whom.
        peer: u8,
        /// As it came.
        payload: Vec<u8>,
    },
    /// A session with a peer began or ended.
    Session {
        /// Which peer.
        peer: u8,
        /// Whether it began.
        up: bool,
    },
    /// The members have changed.
    Members(BTreeSet<u8>),
    /// For the journal.
    Told(journal::Event),
    /// This node has left, and may stop.
    Left,
}

/// A node's part in its group.
pub(super) struct Group {
    machine: Machine,
    nodes: Vec<Name>,
    own: u8,
    start: Mono,
    origin: Instant,
    peers: Peers,
    sessions: BTreeMap<u8, u64>,
    /// The last session in which all entries of a peer came.
    synced: BTreeMap<u8, u64>,
    flows: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedReceiver<Noticed>,
    records: watch::Receiver<Arc<Report>>,
    /// The order under way.
    ticket: Option<u64>,
    looked: Instant,
    local: Local,
    views: Vec<View>,
    named: Arc<Names>,
    live: BTreeSet<u8>,
    members: BTreeSet<u8>,
    /// Whether the charter is the group's.
    charter: bool,
    /// A peer's records have made slots tracked.
    held: bool,
    /// Digest of the one in force.
    digest: u64,
    drift: bool,
    load: Load,
    told: Told,
    /// What the slots were like when they were looked at.
    seen: Seen,
    outcomes: Vec<Outcome>,
}

impl Group {
    /// Whether this node can talk to the others, where they talk: looked at before anything is loaded.
    ///
    /// # Errors
    /// No certificate, no socket.
    pub(super) fn check(model: &Model) -> Result<()> {
        let own = &model.node.name;
        let place = model.group.nodes.iter().position(|node| node == own);
        match place {
            Some(place) if is_peered(model) => Ok(peer::check(&model.group, place)?),
            _ => Ok(()),
        }
    }

    /// Begins to talk to the others, where the nodes of the group talk.
    ///
    /// # Errors
    /// No certificate, no socket, no maps.
    pub(super) fn start(root: &Root, controller: &mut Controller) -> Result<Option<Self>> {
        let model = controller.model();
        let (config, own) = (model.group.clone(), model.node.name.clone());
        let Some(peering) = config.peering.as_ref().filter(|_| config.nodes.len() > 1) else {
            return Ok(None);
        };
        let place = config.nodes.iter().position(|node| *node == own);
        let place = place.context("this node is none of `group.nodes`")?;
        let me = u8::try_from(place).context("so many nodes can't be one group")?;
        let (flows, commands) = mpsc::unbounded_channel();
        let (tell, notices) = mpsc::unbounded_channel();
        let (report, records) = watch::channel(Arc::default());
        let names = Arc::new(controller.flow_names(me));
        let events = Events::open(root).context("opening the ring buffer of flow records")?;
        let setup = Setup {
            maps: Maps::open(root).context("opening the maps for the peers")?,
            events,
            names: Arc::clone(&names),
            commands,
            notices: tell,
            report,
        };
        let accept = Box::new(move |links| {
            let run = async move {
                if let Err(e) = sync::run(setup, links).await {
                    error!("flow records are not replicated: {e}");
                }
            };
            let run: Pin<Box<dyn Future<Output = ()>>> = Box::pin(run);
            run
        });
        let peers = peer::start(&config, place, accept)?;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = Mono::from_unix(unix);
        let machine = Machine::new(
            settings(&config, peering, me, controller.key_check()),
            Start {
                epoch: epoch(),
                kept: controller.is_kept(),
            },
            start,
        );
        drop(flows.send(Command::Joining(!controller.is_kept())));
        Ok(Some(Self {
            machine,
            nodes: config.nodes.clone(),
            own: me,
            start,
            origin: Instant::now(),
            peers,
            sessions: BTreeMap::new(),
            synced: BTreeMap::new(),
            flows,
            notices,
            records,
            ticket: None,
            looked: Instant::now(),
            local: Local::default(),
            views: Vec::new(),
            named: names,
            live: BTreeSet::new(),
            members: BTreeSet::new(),
            charter: false,
            held: false,
            digest: 0,
            drift: false,
            load: Load::default(),
            told: Told::default(),
            seen: Seen::default(),
            outcomes: Vec::new(),
        }))
    }

    fn now(&self) -> Mono {
        self.start + self.origin.elapsed()
    }

    /// The way to the other nodes.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// How the group runs.
    pub(super) fn status(&self) -> Status {
        self.machine.status()
    }

    /// What flow records are doing.
    pub(super) fn records(&self) -> api::sync::Reader {
        let names = self.nodes.iter().map(ToString::to_string);
        api::sync::Reader::new(names, usize::from(self.own), self.records.clone())
    }

    /// Whether this node may attract traffic, and how the group runs.
    pub(super) fn readiness(&self) -> Readiness {
        let status = self.status();
        Readiness {
            ready: status.ready.is_ok(),
            why: status.ready.err().map(|why| self.why(why)),
            group: Some(GroupState {
                coordinator: status.coordinator.map(|place| self.name(place).to_owned()),
                members: self.names(self.machine.facts().members),
                live: self.names(status.live),
                under_way: status.under_way.map(str::to_owned),
                waits_for: self.names(status.waits_for),
                rejoins: status.rejoins,
                adrift: self.names(status.adrift),
            }),
        }
    }

    /// Begins to leave.
    pub(super) fn leave(&mut self) {
        self.input(Input::Leave);
    }

    /// Whether it was told to.
    pub(super) fn leaves(&self) -> bool {
        self.machine.status().leaves
    }

    /// Counts a silent node as one that forwards nothing.
    ///
    /// # Errors
    /// No such node; one that isn't silent.
    pub(super) fn forget(&mut self, node: &str) -> Result<(), Refusal> {
        let places = 0..u8::try_from(self.nodes.len()).unwrap_or(u8::MAX);
        let mut others = places.filter(|&place| place != self.own);
        let Some(peer) = others.clone().find(|&place| self.name(place) == node) else {
            return Err(Refusal::UnknownNode {
                name: node.to_owned(),
                others: others.by_ref().map(|place| self.name(place).to_owned()).collect(),
            });
        };
        if self.machine.hears(peer) {
            return Err(Refusal::NotSilent {
                name: node.to_owned(),
            });
        }
        // That one may reach it, and what it says of members holds.
        let coordinator = self.machine.status().coordinator;
        if let Some(other) = coordinator.filter(|&place| place != self.own) {
            return Err(Refusal::OtherCoordinates {
                name: self.name(other).to_owned(),
            });
        }
        self.input(Input::Forget { peer });
        Ok(())
    }

    /// Sends a peer a message of the charter.
    pub(super) fn send_charter(&self, peer: u8, payload: Vec<u8>) -> bool {
        self.peers.send(peer, CHARTER, payload)
    }

    /// What happens next. Dropping the future loses nothing.
    pub(super) async fn happens(&mut self) -> Happened {
        let timeout = self.origin + self.machine.poll_timeout().since(self.start);
        let wake = timeout.min(self.looked + LOOK_EVERY);
        tokio::select! {
            event = self.peers.event() => Happened::Peer(event),
            Some(noticed) = self.notices.recv() => Happened::Flows(noticed.notice),
            () = sleep_until(wake.into()) => Happened::Time,
        }
    }

    /// Takes what happened.
    pub(super) fn take(&mut self, happened: Happened, controller: &mut Controller) {
        match happened {
            Happened::Peer(event) => self.heard(event),
            Happened::Flows(notice) => self.noticed(notice, controller),
            Happened::Time => {}
        }
        let now = self.now();
        self.machine.handle_timeout(now);
    }

    /// Whether this node runs what all live nodes have agreed on, the digest of what it runs, and whether its file says something else.
    pub(super) fn charter(&mut self, is_equal: bool, digest: u64, drift: bool) {
        (self.digest, self.drift) = (digest, drift);
        if self.charter != is_equal {
            self.charter = is_equal;
            self.input(Input::CharterEqual(is_equal));
        }
    }

    /// Draws the consequences of what has happened, here and to the slots.
    pub(super) async fn agree(&mut self, controller: &mut Controller) -> Vec<Outcome> {
        self.answer(controller);
        if self.looked.elapsed() >= LOOK_EVERY || controller.has_moved(&mut self.seen) {
            self.look(controller);
        }
        self.act(controller).await;
        std::mem::take(&mut self.outcomes)
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.machine.handle(input, now);
    }

    fn heard(&mut self, event: peer::Event) {
        match event {
            peer::Event::Up { peer, session } => {
                self.sessions.insert(peer, session);
                self.outcomes.push(Outcome::Session { peer, up: true });
                self.input(Input::Up { peer, session });
                self.is_synced(peer);
            }
            peer::Event::Down { peer, session } => {
                self.sessions.remove(&peer);
                self.outcomes.push(Outcome::Session { peer, up: false });
                self.input(Input::Down { peer, session });
            }
            peer::Event::Life { peer, life } => match life {
                Life::Dead => self.input(Input::Dead { peer }),
                _ => self.input(Input::Alive { peer }),
            },
            peer::Event::Refused { peer, mismatch } => self.input(Input::Refused { peer, mismatch }),
            peer::Event::Facts { .. } => {}
            peer::Event::Message {
                peer,
                channel,
                payload,
            } => match (channel, self.sessions.get(&peer)) {
                (GROUP, Some(&session)) => self.input(Input::Message {
                    peer,
                    session,
                    bytes: payload,
                }),
                (CHARTER, Some(_)) => self.outcomes.push(Outcome::Charter { peer, payload }),
                _ => {}
            },
        }
    }

    /// Tells the machine that a peer's entries are in, if they came in this session.
    fn is_synced(&mut self, peer: u8) {
        let session = self.sessions.get(&peer);
        if session.is_some() && self.synced.get(&peer) == session {
            self.input(Input::Synced { peer });
        }
    }

    fn noticed(&mut self, notice: Notice, controller: &mut Controller) {
        match notice {
            Notice::Fenced { peer, id } => {
                controller.fenced(peer, id);
                self.answer(controller);
            }
            Notice::Synced { peer, session } => {
                // It may come before the news of its session.
                self.synced.insert(peer, session);
                self.is_synced(peer);
            }
            Notice::Held => self.held = true,
            Notice::HandedOver => self.input(Input::HandedOver),
            Notice::Lost { .. } => {}
        }
    }

    /// Tells the machine that its order is done, if it is.
    fn answer(&mut self, controller: &mut Controller) {
        if let Some(ticket) = self.ticket
            && let Some(answer) = controller.answer()
        {
            self.ticket = None;
            self.input(Input::Answered { ticket, answer });
        }
    }

    /// Has the machine and the peers know what this node's slots and backends are like.
    fn look(&mut self, controller: &mut Controller) {
        self.looked = Instant::now();
        // All slots are counted for it, so not with each batch of records.
        if std::mem::take(&mut self.held) {
            controller.slots_held();
        }
        let deleted = controller.changes.take_deleted();
        if !deleted.is_empty() {
            self.command(Command::Deleted(deleted));
        }
        let names = controller.flow_names(self.own);
        if *self.named != names {
            let names = Arc::new(names);
            self.command(Command::Names(Arc::clone(&names)));
            self.named = names;
        }
        let local = controller.local();
        if local != self.local {
            self.local.clone_from(&local);
            self.input(Input::Local(local));
        }
        let views = controller.views();
        if views != self.views {
            self.views.clone_from(&views);
            self.input(Input::Views(views));
        }
        let beside = Beside {
            charter: self.digest,
            drift: self.drift,
            watermark: self.records.borrow().watermark(),
            load: self.load.look(controller),
            pools: PoolRings::of(controller.rings_by_pool()),
        };
        self.peers
            .update(facts(&self.machine.facts(), &self.views, beside));
        let live: BTreeSet<u8> = self.machine.status().live.iter().collect();
        let members: BTreeSet<u8> = self.machine.facts().members.iter().collect();
        if (&live, &members) != (&self.live, &self.members) {
            self.live.clone_from(&live);
            self.members.clone_from(&members);
            self.command(Command::Live { live, members });
        }
    }

    fn command(&self, command: Command) {
        if self.flows.send(command).is_err() {
            error!("the replication of flows has ended");
        }
    }

    /// Does what the machine wants done.
    async fn act(&mut self, controller: &mut Controller) {
        while let Some(action) = self.machine.poll() {
            match action {
                Action::Send { peer, bytes } => {
                    if !self.peers.send(peer, GROUP, bytes) && self.sessions.contains_key(&peer) {
                        warn!(node = %self.name(peer), "a control message was too much for the session");
                    }
                }
                Action::Do { ticket, order } => {
                    if let crate::group::Order::Fence(id) = order {
                        self.command(Command::Fence(id));
                    }
                    self.ticket = None;
                    match controller.order(order).await {
                        Some(answer) => self.input(Input::Answered { ticket, answer }),
                        None => self.ticket = Some(ticket),
                    }
                    self.look(controller);
                }
                Action::Verdict(verdict) => {
                    self.tell_verdict(&verdict, controller);
                    if let Err(e) = controller.judged(verdict).await {
                        error!("a verdict of the group could not be followed: {e:#}");
                    }
                    self.look(controller);
                }
                Action::NeedSnapshot => {
                    let images = controller.images();
                    let named = images.iter().map(|image| (image.pool, image.named().collect()));
                    let slots = crate::group::slots(named);
                    self.input(Input::Snapshot { images, slots });
                }
                Action::Install(images) => match controller.install(&images).await {
                    Ok(slots) => {
                        self.look(controller);
                        self.input(Input::Installed { slots });
                    }
                    Err(e) => error!("the group's slots could not be taken over: {e:#}"),
                },
                Action::Ready(ready) => self.readied(ready, controller),
                Action::Members(members) => self.members(members, controller),
                Action::HandOver => self.command(Command::HandOver),
                Action::Left => self.outcomes.push(Outcome::Left),
                Action::Told(event) => self.tell(&event, controller.effective()),
            }
        }
        self.answer(controller);
    }

    fn readied(&mut self, ready: Result<(), Why>, controller: &mut Controller) {
        if ready.is_ok() {
            controller.admitted(self.machine.committed());
            self.command(Command::Joining(false));
        }
        self.tell_ready(ready);
    }

    fn members(&mut self, members: Nodes, controller: &mut Controller) {
        let all: BTreeSet<u8> = members.iter().collect();
        let others = all.iter().copied().filter(|&place| place != self.own).collect();
        controller.members_changed(others);
        self.tell_members(members);
        self.outcomes.push(Outcome::Members(all));
    }
}

fn settings(config: &Config, peering: &Peering, me: u8, key: u64) -> Settings {
    Settings {
        me,
        key,
        nodes: u8::try_from(config.nodes.len()).unwrap_or(u8::MAX),
        withdraw_after: peering.withdraw_after,
        join_within: peering.join_within,
        pause: PAUSE,
        leave_after: peering.withdraw_after,
        max_tracked: config.max_tracked,
    }
}

/// A number that no other start of an agent has.
fn epoch() -> u64 {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut bytes, flags) {
        Ok(_) => u64::from_le_bytes(bytes) | 1,
        Err(_) => u64::from(std::process::id()),
    }
}
