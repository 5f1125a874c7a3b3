//! The thread: timers, sessions, what is told to whom.

mod meet;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::id::stable;
use quinn::{Endpoint, IdleTimeout, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{info, warn};

use super::certs::Certs;
use super::dial::{Allowance, Answerer, Caller};
use super::link::{Judge, Mail, REPORTS, Report, Reports, code};
use super::member::{Change, Peer};
use super::status::{Own, Refusal, Refusals, View};
use super::{Event, Facts, LinkEvent, StreamHandler, pki};
use crate::health::Mono;
use crate::model::{Group, Peering};

/// How often the certificates' files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(3);
/// How often readers see something new.
const VIEW_EVERY: Duration = Duration::from_millis(100);
/// A connection on which nothing comes ends after so many times `dead_after`, but not earlier than [`IDLE_MIN`].
const IDLE: u32 = 10;
const IDLE_MIN: Duration = Duration::from_millis(500);
/// For how long a thread that ends waits until the good-bye is sent.
const BYE_WITHIN: Duration = Duration::from_millis(200);
/// Streams that a peer may have open.
const STREAMS: u32 = 16;
/// Bytes on their way, per stream and per connection.
const STREAM_WINDOW: u32 = 4 << 20;
const WINDOW: u32 = 16 << 20;
/// Bytes of datagrams that wait: heartbeats of before are worth nothing.
const DATAGRAMS: usize = 4 << 10;

/// Handshakes that wait to be looked at, and bytes of one: more only pile up while this thread is busy.
const INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 64 << 10;

/// What the agent orders.
#[derive(Debug)]
pub(super) enum Order {
    /// Look at the certificates' files.
    Reload,
    /// End.
    Stop,
}

/// What the agent is told, with the room that it takes until it is taken.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) event: Event,
    _room: Option<OwnedSemaphorePermit>,
}

/// The ends of all ways to the agent.
pub(super) struct Ways {
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) told: mpsc::UnboundedSender<Told>,
    pub(super) heard: watch::Sender<Vec<Option<Facts>>>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) mail: Mail,
    pub(super) view: watch::Sender<Arc<View>>,
}

/// Shows Unix time when it is made, and never goes back.
struct Clock {
    start: Mono,
    origin: Instant,
}

impl Clock {
    fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            start: Mono::from_unix(unix.unwrap_or_default()),
            origin: Instant::now(),
        }
    }

    fn now(&self) -> Mono {
        self.start + self.origin.elapsed()
    }

    fn instant(&self, when: Mono) -> Instant {
        self.origin + when.since(self.start)
    }
}

/// All that runs on the thread, sessions' tasks aside.
pub(super) struct Task {
    own: u8,
    name: String,
    peering: Peering,
    endpoint: Endpoint,
    transport: Arc<TransportConfig>,
    client: watch::Sender<quinn::ClientConfig>,
    certs: Certs,
    /// By place; this node has none.
    peers: Vec<Option<Peer>>,
    ways: Ways,
    links: mpsc::UnboundedSender<LinkEvent>,
    taken: Option<mpsc::UnboundedReceiver<LinkEvent>>,
    reports: (Reports, mpsc::Receiver<Report>),
    refused: Refusals,
    sessions: u64,
    clock: Clock,
    /// When the loop turned last.
    looked: Mono,
    /// Nobody is judged before this.
    patience: Mono,
}

fn transport(peering: &Peering) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = (peering.dead_after * IDLE).max(IDLE_MIN);
    transport
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .keep_alive_interval(Some(idle / 4))
        // The nodes stand side by side: what is lost in a handshake is sent again soon.
        .initial_rtt(Duration::from_millis(20))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .datagram_send_buffer_size(DATAGRAMS)
        .datagram_receive_buffer_size(Some(DATAGRAMS * 4));
    Arc::new(transport)
}

fn server(certs: &Certs, transport: &Arc<TransportConfig>) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(Arc::clone(&certs.ends.server) as _);
    server
        .transport_config(Arc::clone(transport))
        .migration(false)
        .max_incoming(INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * 16);
    server
}

fn client(certs: &Certs, transport: &Arc<TransportConfig>) -> quinn::ClientConfig {
    let mut client = quinn::ClientConfig::new(Arc::clone(&certs.ends.client) as _);
    client.transport_config(Arc::clone(transport));
    client
}

impl Task {
    /// Needs a runtime's context.
    pub(super) fn new(
        group: &Group,
        own: usize,
        socket: UdpSocket,
        certs: Certs,
        ways: Ways,
    ) -> io::Result<Self> {
        let peering = group.peering.clone().ok_or(io::ErrorKind::InvalidInput)?;
        let transport = transport(&peering);
        let endpoint = Endpoint::new(
            certs.ends.endpoint(),
            Some(server(&certs, &transport)),
            socket,
            Arc::new(TokioRuntime),
        )?;
        let clock = Clock::new();
        let now = clock.now();
        let nodes: Arc<[u64]> = group.nodes.iter().map(|node| stable(node.as_str(), "")).collect();
        let all = (0..).zip(group.nodes.iter().zip(&peering.addresses));
        let peers = all.map(|(place, (name, address))| {
            let nodes = Arc::clone(&nodes);
            let peer = Peer::new(place, name.as_str(), *address, nodes, peering.dead_after, now);
            (usize::from(place) != own).then_some(peer)
        });
        let (links, taken) = mpsc::unbounded_channel();
        Ok(Self {
            own: u8::try_from(own).map_err(|_| io::ErrorKind::InvalidInput)?,
            name: group.nodes[own].to_string(),
            peers: peers.collect(),
            client: watch::channel(client(&certs, &transport)).0,
            transport,
            endpoint,
            certs,
            ways,
            links,
            taken: Some(taken),
            reports: mpsc::channel(REPORTS),
            refused: Refusals::default(),
            sessions: 0,
            looked: now,
            patience: now,
            clock,
            peering,
        })
    }

    /// Runs until the agent says so, or is gone.
    pub(super) async fn run(mut self, accept: StreamHandler) {
        let links = self.taken.take().expect("taken once");
        spawn_local(accept(links));
        self.start();
        let mut beat = interval(self.peering.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut files = interval(FILES_EVERY);
        let mut view = interval(VIEW_EVERY);
        view.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut taken = 0usize;
        loop {
            let due = self.peers().filter_map(|peer| peer.liveness.poll_timeout()).min();
            let judge = due.map(|due| self.clock.instant(due.max(self.patience)));
            tokio::select! {
                // What comes at its time comes before what peers send as fast as they like; and what has come is looked at before
                // anybody is judged by what has not.
                biased;
                order = self.ways.orders.recv() => match order {
                    Some(Order::Reload) => self.certificates(true),
                    Some(Order::Stop) | None => break,
                },
                _ = beat.tick() => {
                    self.turn();
                    self.beat();
                }
                _ = files.tick() => self.certificates(false),
                _ = view.tick() => self.show(),
                Some(report) = self.reports.1.recv() => {
                    self.turn();
                    self.report(report);
                    taken += 1;
                    // All that waited when they began to come; where they never end nobody would be judged.
                    if taken.is_multiple_of(REPORTS) {
                        self.judge();
                    }
                }
                () = sleep_until(judge.unwrap_or_else(Instant::now).into()), if judge.is_some() => {
                    self.turn();
                    self.judge();
                }
            }
        }
        self.stop().await;
    }

    fn start(&self) {
        let now = Allowance::new(tokio::time::Instant::now());
        let known = self.peers().map(|peer| (peer.address.ip().to_canonical(), now));
        let answerer = Answerer {
            endpoint: self.endpoint.clone(),
            known: known.collect(),
            reports: self.reports.0.clone(),
        };
        spawn_local(answerer.run());
        // By name: they may disagree on places.
        for peer in self.peers().filter(|peer| peer.name > self.name) {
            match pki::dns_name(&peer.name, &self.certs.named.group) {
                Ok(name) => drop(spawn_local(
                    Caller {
                        peer: peer.place,
                        address: peer.address,
                        name,
                        endpoint: self.endpoint.clone(),
                        config: self.client.subscribe(),
                        reports: self.reports.0.clone(),
                    }
                    .run(),
                )),
                Err(e) => warn!("node {}: {e}", peer.name),
            }
        }
        info!(address = %self.peering.addresses[usize::from(self.own)], "talking to the other nodes");
    }

    async fn stop(mut self) {
        for place in 0..self.peers.len() {
            self.end(place, None);
        }
        self.endpoint.close(code::STOP, b"stopping");
        // Without the good-bye the peers find out by themselves.
        let _ = timeout(BYE_WITHIN, self.endpoint.wait_idle()).await;
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// A loop that turned too late has missed nothing that waits in the socket, so that is read first.
    fn turn(&mut self) {
        let now = self.clock.now();
        if now.since(self.looked) > self.peering.heartbeat * 2 {
            self.patience = now + self.peering.heartbeat;
        }
        self.looked = now;
    }

    fn tell(&self, event: Event) {
        // An agent that is gone needs no news.
        let _ = self.ways.told.send(Told { event, _room: None });
    }

    fn link(&self, event: LinkEvent) {
        let _ = self.links.send(event);
    }

    /// The peer of a session that still is the current one.
    fn of(&mut self, peer: u8, session: u64) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(usize::from(peer))?.as_mut()?;
        (peer.session.as_ref()?.number == session).then_some(peer)
    }

    fn report(&mut self, report: Report) {
        let now = self.clock.now();
        match report {
            Report::Connected { connection, called } => self.connected(connection, called),
            Report::Failed {
                called,
                address,
                error,
            } => self.failed(called, address, &error),
            Report::Refused(refusal) => self.refuse(refusal, ""),
            Report::Open { peer, session } => self.open(peer, session),
            Report::OtherNodes { peer, session } => {
                if self.of(peer, session).is_some() {
                    self.end(usize::from(peer), None);
                    self.other_nodes(peer);
                }
            }
            Report::Heard {
                peer,
                session,
                heartbeat,
            } => {
                let Some(known) = self.of(peer, session) else {
                    return;
                };
                let change = known.heard(*heartbeat, now);
                self.changed(usize::from(peer), change);
            }
            Report::Message {
                peer,
                session,
                channel,
                payload,
                room,
            } => {
                if self.of(peer, session).is_some() {
                    let event = Event::Message {
                        peer,
                        channel,
                        payload,
                    };
                    let _ = self.ways.told.send(Told {
                        event,
                        _room: Some(room),
                    });
                }
            }
            Report::Stream {
                peer,
                session,
                kind,
                stream,
            } => {
                let Some(current) = self.of(peer, session).and_then(|peer| peer.session.as_mut()) else {
                    return;
                };
                if current.up {
                    self.link(LinkEvent::Stream {
                        peer,
                        session,
                        kind,
                        stream,
                    });
                } else {
                    current.waiting.push((kind, stream));
                }
            }
            Report::Ended { peer, session, error } => {
                if self.of(peer, session).is_some() {
                    self.end(usize::from(peer), Some(super::link::words(&error)));
                    self.unlike(peer, &error);
                }
            }
        }
    }

    /// The peer's stream of messages is open: so it has taken our certificate, too.
    fn open(&mut self, peer: u8, session: u64) {
        let Some(known) = self.of(peer, session) else {
            return;
        };
        let (name, address) = (known.name.clone(), known.address);
        known.trouble = None;
        known.sessions += 1;
        let Some(current) = known.session.as_mut() else {
            return;
        };
        current.up = true;
        let (connection, waiting) = (current.connection.clone(), std::mem::take(&mut current.waiting));
        let judge = Judge::new(connection.clone(), self.reports.0.clone());
        info!(peer = name, %address, session, "connected");
        // Whoever is told and looks finds it so.
        self.show();
        self.tell(Event::Up { peer, session });
        self.link(LinkEvent::Up {
            peer,
            session,
            connection,
            judge,
        });
        for (kind, stream) in waiting {
            self.link(LinkEvent::Stream {
                peer,
                session,
                kind,
                stream,
            });
        }
    }

    /// A session gives way to another one of the same peer, which lives.
    fn replaced(&mut self, place: usize) {
        let Some(peer) = &mut self.peers[place] else {
            return;
        };
        if let Some(old) = peer.session.take() {
            old.connection.close(code::REPLACED, b"replaced");
            self.ways.mail.close(peer.place);
            if old.up {
                let (peer, session) = (peer.place, old.number);
                self.tell(Event::Down { peer, session });
                self.link(LinkEvent::Down { peer, session });
            }
        }
    }

    /// A session ends; `why` is nothing where we end it.
    fn end(&mut self, place: usize, why: Option<String>) {
        self.replaced(place);
        let now = self.clock.now();
        let Some(peer) = &mut self.peers[place] else {
            return;
        };
        if let Some(why) = why {
            // Called again and again, it may be the same each time.
            if peer.trouble.as_ref() != Some(&why) {
                info!(peer = peer.name, "connection ended: {why}");
            }
            peer.trouble = Some(why);
        }
        let change = Change {
            life: peer.liveness.handle_end(now),
            facts: false,
        };
        self.changed(place, change);
    }

    /// Sends heartbeats.
    fn beat(&mut self) {
        let facts = self.ways.facts.borrow().clone();
        for peer in self.peers.iter_mut().flatten() {
            peer.beat(&facts);
        }
    }

    /// Who has been silent for too long?
    fn judge(&mut self) {
        let now = self.clock.now();
        if now < self.patience {
            return;
        }
        for place in 0..self.peers.len() {
            if let Some(peer) = &mut self.peers[place] {
                let life = peer.liveness.handle_timeout(now);
                self.changed(place, Change { life, facts: false });
            }
        }
    }

    fn changed(&mut self, place: usize, change: Change) {
        let Some(peer) = &self.peers[place] else { return };
        if change.facts {
            let facts = peer.facts.clone();
            self.ways.heard.send_modify(|heard| heard[place] = facts);
        }
        if change.life {
            let (peer, life, name) = (peer.place, peer.liveness.life(), peer.name.clone());
            info!(peer = name, "{}", life.name());
            self.show();
            self.tell(Event::Life { peer, life });
        }
    }

    fn refuse(&mut self, refusal: Refusal, what: &str) {
        let now = self.clock.now();
        self.refused.count(refusal, what, now);
    }

    /// Looks at the certificates' files.
    fn certificates(&mut self, always: bool) {
        match self.certs.again(always) {
            Ok(false) => {}
            Ok(true) => {
                let server = server(&self.certs, &self.transport);
                self.endpoint.set_server_config(Some(server));
                self.client.send_replace(client(&self.certs, &self.transport));
                info!("certificates read again");
                if let Some(doubt) = self.certs.doubt() {
                    warn!("peers may refuse this node's certificate: {doubt}");
                }
                self.part();
            }
            Err(e) => warn!("the new certificates can't be used, the old ones stay: {e}"),
        }
    }

    /// Ends the sessions with those whose authority was taken away; all others go on.
    fn part(&mut self) {
        for place in 0..self.peers.len() {
            let session = self.peers[place].as_ref().and_then(|peer| peer.session.as_ref());
            if let Some(session) = session
                && !self.certs.ends.trusts(&session.connection)
            {
                session.connection.close(code::AUTHORITY, b"authority");
                self.end(
                    place,
                    Some("its certificate's authority is trusted no longer".to_owned()),
                );
            }
        }
    }

    /// Tells readers how things are.
    fn show(&mut self) {
        let now = self.clock.now();
        let facts = self.ways.facts.borrow().clone();
        for peer in self.peers.iter_mut().flatten() {
            peer.compare(&facts, now);
        }
        let address: SocketAddr = self.peering.addresses[usize::from(self.own)];
        let own = Own {
            place: self.own,
            name: self.name.clone(),
            group: self.certs.named.group.clone(),
            address,
            facts,
            certificate_until: self.certs.named.until,
            ca_until: self.certs.ca_until,
            reload_failed: self.certs.failed,
        };
        self.ways.view.send_replace(Arc::new(View {
            at: now,
            own: Some(own),
            peers: self.peers().map(Peer::status).collect(),
            refused: self.refused.counts().clone(),
        }));
    }
}
