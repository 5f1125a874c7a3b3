//! The tasks of one session: what comes in becomes [`Report`]s, what goes out comes from the [`Mail`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, ReadError, ReadExactError, RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::status::Refusal;
use super::wire::{self, CONTROL, FRAME_HEADER, Heartbeat, PROTOCOL};
use crate::group::NODES_MAX;

/// Messages on their way, in each direction for each peer: so many KiB, and in [`QUEUE`] so many outgoing ones.
pub(super) const ROOM_KIB: usize = 16 << 10;
const QUEUE: usize = 1024;

/// An incoming message takes at least so much of the room: the agent has more to do with each than to keep it, and those of
/// other peers wait behind it.
const LEAST_KIB: u32 = 64;

/// A stream says what it is within this.
const KIND_WITHIN: Duration = Duration::from_secs(1);

/// Heartbeats are read no faster.
const BEATS_APART: Duration = Duration::from_millis(1);

/// A payload grows by so much, so its length alone takes no memory.
const STEP: usize = 64 << 10;

/// Reports on their way to the thread's loop.
pub(super) const REPORTS: usize = 256;

/// Codes that connections are closed with.
pub(super) mod code {
    use quinn::VarInt;

    /// We stop.
    pub(in crate::peer) const STOP: VarInt = VarInt::from_u32(0);
    /// The node has called again.
    pub(in crate::peer) const REPLACED: VarInt = VarInt::from_u32(1);
    /// The certificate names nobody whom we know, or not the one who should be there.
    pub(in crate::peer) const NAME: VarInt = VarInt::from_u32(2);
    /// Against the protocol.
    pub(in crate::peer) const PROTOCOL: VarInt = VarInt::from_u32(3);
    /// The peer takes less than is sent to it.
    pub(in crate::peer) const BEHIND: VarInt = VarInt::from_u32(4);
    /// The certificate's authority is trusted no longer.
    pub(in crate::peer) const AUTHORITY: VarInt = VarInt::from_u32(5);
    /// There are no more names for its stream of flow records.
    pub(in crate::peer) const NAMES: VarInt = VarInt::from_u32(6);
    /// Its `group.nodes` are others.
    pub(in crate::peer) const NODES: VarInt = VarInt::from_u32(7);
}

/// What tasks tell the thread's loop.
#[derive(Debug)]
pub(super) enum Report {
    /// A connection stands; `called` is whom we have called.
    Connected {
        connection: Connection,
        called: Option<u8>,
    },
    /// None came about with whoever is there.
    Failed {
        called: Option<u8>,
        address: SocketAddr,
        error: ConnectionError,
    },
    /// Somebody was sent away.
    Refused(Refusal),
    /// The peer has opened its control stream.
    Open { peer: u8, session: u64 },
    /// Its `group.nodes` are others.
    OtherNodes { peer: u8, session: u64 },
    /// A heartbeat.
    Heard {
        peer: u8,
        session: u64,
        heartbeat: Box<Heartbeat>,
    },
    /// A message.
    Message {
        peer: u8,
        session: u64,
        channel: u8,
        payload: Vec<u8>,
        room: OwnedSemaphorePermit,
    },
    /// A stream of another kind.
    Stream {
        peer: u8,
        session: u64,
        kind: u8,
        stream: RecvStream,
    },
    /// The connection is gone.
    Ended {
        peer: u8,
        session: u64,
        error: ConnectionError,
    },
}

pub(super) type Reports = mpsc::Sender<Report>;

/// A message on its way out, with the room that it takes.
struct Letter {
    header: [u8; FRAME_HEADER],
    payload: Bytes,
    _room: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct Outbox {
    letters: mpsc::Sender<Letter>,
    room: Arc<Semaphore>,
    connection: Connection,
}

/// The outgoing messages of all peers; a peer without a session has no box.
#[derive(Clone)]
pub(super) struct Mail(Arc<[Mutex<Option<Outbox>>]>);

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Mail").field(&self.0.len()).finish()
    }
}

/// What a payload takes of the room.
fn kib(length: usize) -> u32 {
    u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX)
}

impl Mail {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Mutex::default()).collect())
    }

    fn at(&self, peer: u8) -> Option<std::sync::MutexGuard<'_, Option<Outbox>>> {
        let slot = self.0.get(usize::from(peer))?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is on its way. Where there is no room any more the session ends: whoever sends counts on what was sent before, and
    /// sends everything that matters again on the next one.
    pub(super) fn post(&self, peer: u8, channel: u8, payload: Vec<u8>) -> bool {
        let Some(outbox) = self.at(peer).and_then(|slot| slot.clone()) else {
            return false;
        };
        let Ok(header) = wire::frame_header(channel, payload.len()) else {
            return false;
        };
        let Ok(room) = outbox.room.try_acquire_many_owned(kib(payload.len())) else {
            outbox.connection.close(code::BEHIND, b"too much to send");
            return false;
        };
        let payload = payload.into();
        let letter = Letter {
            header,
            payload,
            _room: room,
        };
        let is_sent = outbox.letters.try_send(letter).is_ok();
        if !is_sent {
            outbox.connection.close(code::BEHIND, b"too much to send");
        }
        is_sent
    }

    /// A new box for a session; the old one is thrown away with what is in it.
    fn open(&self, peer: u8, connection: Connection) -> mpsc::Receiver<Letter> {
        let (letters, outgoing) = mpsc::channel(QUEUE);
        let room = Arc::new(Semaphore::new(ROOM_KIB));
        if let Some(mut slot) = self.at(peer) {
            *slot = Some(Outbox {
                letters,
                room,
                connection,
            });
        }
        outgoing
    }

    pub(super) fn close(&self, peer: u8) {
        if let Some(mut slot) = self.at(peer) {
            *slot = None;
        }
    }
}

/// One session's end of a connection.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) peer: u8,
    pub(super) session: u64,
    pub(super) connection: Connection,
    pub(super) reports: Reports,
    /// Who is in the group, by this node's file.
    pub(super) nodes: Arc<[u64]>,
}

impl Link {
    /// Starts the tasks. They end with the connection.
    pub(super) fn start(&self, mail: &Mail) {
        let outgoing = mail.open(self.peer, self.connection.clone());
        spawn_local(self.clone().write(outgoing));
        spawn_local(self.clone().accept());
        spawn_local(self.clone().listen());
        spawn_local(self.clone().end());
    }

    async fn report(&self, report: Report) {
        // The loop ends after everything else.
        let _ = self.reports.send(report).await;
    }

    /// Closes the connection, since the peer breaks the rules.
    async fn refuse(&self, refusal: Refusal) {
        self.connection.close(code::PROTOCOL, refusal.name().as_bytes());
        self.report(Report::Refused(refusal)).await;
    }

    async fn end(self) {
        let error = self.connection.closed().await;
        let (peer, session) = (self.peer, self.session);
        self.report(Report::Ended { peer, session, error }).await;
    }

    /// Sends messages. An error is the connection's end, which another task reports.
    async fn write(self, mut outgoing: mpsc::Receiver<Letter>) {
        let Ok(mut stream) = self.connection.open_uni().await else {
            return;
        };
        // Before the flow records: what is agreed on must not wait for them.
        let _ = stream.set_priority(1);
        if stream.write_all(&wire::opening(&self.nodes)).await.is_err() {
            return;
        }
        while let Some(letter) = outgoing.recv().await {
            if Self::frame(&mut stream, letter).await.is_err() {
                return;
            }
        }
        // The session has ended, or another one took its place; the stream must not end before the connection.
        self.connection.closed().await;
    }

    async fn frame(stream: &mut SendStream, letter: Letter) -> Result<(), quinn::WriteError> {
        stream.write_all(&letter.header).await?;
        stream.write_chunk(letter.payload).await
    }

    /// Takes heartbeats.
    async fn listen(self) {
        let (peer, session) = (self.peer, self.session);
        while let Ok(datagram) = self.connection.read_datagram().await {
            let report = match wire::decode(&datagram) {
                Ok(heartbeat) => Report::Heard {
                    peer,
                    session,
                    heartbeat: Box::new(heartbeat),
                },
                Err(_) => Report::Refused(Refusal::Heartbeat),
            };
            self.report(report).await;
            // Of what comes faster than that the newest are kept (RFC 9221 lets datagrams be lost).
            sleep(BEATS_APART).await;
        }
    }

    /// Takes streams.
    async fn accept(self) {
        let room = Arc::new(Semaphore::new(ROOM_KIB));
        let kinds = Rc::new(RefCell::new(BTreeSet::new()));
        while let Ok(stream) = self.connection.accept_uni().await {
            spawn_local(self.clone().stream(stream, Arc::clone(&room), Rc::clone(&kinds)));
        }
    }

    /// Finds out what a stream is. There is one of each kind: a second one would say again what the first one said, or be
    /// opened and ended without end.
    async fn stream(self, mut stream: RecvStream, room: Arc<Semaphore>, kinds: Rc<RefCell<BTreeSet<u8>>>) {
        let mut kind = [0];
        match timeout(KIND_WITHIN, stream.read_exact(&mut kind)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return self.refuse(Refusal::Protocol).await,
        }
        let (peer, session) = (self.peer, self.session);
        let [kind] = kind;
        if !kinds.borrow_mut().insert(kind) {
            return self.refuse(Refusal::Protocol).await;
        }
        if kind != CONTROL {
            let stream = Report::Stream {
                peer,
                session,
                kind,
                stream,
            };
            return self.report(stream).await;
        }
        let Ok(Some(nodes)) = timeout(KIND_WITHIN, read_opening(&mut stream)).await else {
            return self.refuse(Refusal::Protocol).await;
        };
        // Nodes are named by their places in what follows.
        if !wire::is_one_group(&self.nodes, &nodes) {
            self.connection.close(code::NODES, b"nodes");
            return self.report(Report::OtherNodes { peer, session }).await;
        }
        self.report(Report::Open { peer, session }).await;
        if let Some(refusal) = self.read(&mut stream, &room).await {
            self.refuse(refusal).await;
        }
    }

    /// Reads messages until the session ends; returns what is wrong with the stream.
    async fn read(&self, stream: &mut RecvStream, room: &Arc<Semaphore>) -> Option<Refusal> {
        loop {
            let mut header = [0; FRAME_HEADER];
            if let Err(e) = stream.read_exact(&mut header).await {
                return cut_off(&e);
            }
            let Ok((channel, length)) = wire::frame_of(header) else {
                return Some(Refusal::Oversize);
            };
            // Waits until the agent has taken earlier ones; the peer then waits too.
            let kib = kib(length).max(LEAST_KIB);
            let room = Arc::clone(room).acquire_many_owned(kib).await.ok()?;
            let mut payload = Vec::new();
            while payload.len() < length {
                let start = payload.len();
                payload.resize(length.min(start + STEP), 0);
                if let Err(e) = stream.read_exact(&mut payload[start..]).await {
                    return cut_off(&e);
                }
            }
            let (peer, session) = (self.peer, self.session);
            let message = Report::Message {
                peer,
                session,
                channel,
                payload,
                room,
            };
            self.report(message).await;
        }
    }
}

/// What stands at the beginning of a control stream; nothing where that isn't one.
async fn read_opening(stream: &mut RecvStream) -> Option<Vec<u64>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.ok()?;
    let [protocol, count] = head;
    if protocol != PROTOCOL || count > NODES_MAX {
        return None;
    }
    let mut nodes = vec![0; usize::from(count) * wire::NODE];
    stream.read_exact(&mut nodes).await.ok()?;
    Some(wire::nodes_of(&nodes))
}

/// A control stream lasts as long as its session.
const fn cut_off(error: &ReadExactError) -> Option<Refusal> {
    match error {
        ReadExactError::FinishedEarly(_) | ReadExactError::ReadError(ReadError::Reset(_)) => {
            Some(Refusal::Protocol)
        }
        ReadExactError::ReadError(_) => None,
    }
}

/// For whoever has streams of its own: a peer that breaks their rules is cut off and counted, as one is that breaks the session's.
#[derive(Clone, Debug)]
pub struct Judge {
    connection: Connection,
    reports: Reports,
}

impl Judge {
    pub(super) const fn new(connection: Connection, reports: Reports) -> Self {
        Self { connection, reports }
    }

    /// Ends the session without blame; the next one begins with new names.
    pub fn begin_anew(&self) {
        self.connection.close(code::NAMES, b"names");
    }

    /// Ends the session. To be called on the peers' thread.
    pub fn refuse(&self, refusal: Refusal) {
        self.connection.close(code::PROTOCOL, refusal.name().as_bytes());
        let reports = self.reports.clone();
        spawn_local(async move {
            // The loop ends after everything else.
            let _ = reports.send(Report::Refused(refusal)).await;
        });
    }
}

/// For people.
pub(super) const OTHER_NODES: &str = "`group.nodes` is not the same on both";

/// How a connection ended, in words for people.
pub(super) fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == code::NAME => {
            "it refuses this node's certificate: it names nobody of its group, or not this node".to_owned()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::AUTHORITY => {
            "it trusts the authority of this node's certificate no longer".to_owned()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::BEHIND => {
            "this node took less than it was sent".to_owned()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::NAMES => {
            "its flow records need new names".to_owned()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::NODES => {
            OTHER_NODES.to_owned()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::STOP => {
            "it has stopped".to_owned()
        }
        ConnectionError::ConnectionClosed(_) => format!("it refuses this node: {error}"),
        ConnectionError::ApplicationClosed(close)
            if close.reason.as_ref() == Refusal::Records.name().as_bytes() =>
        {
            "it can't take this node's flow records, its log says why".to_owned()
        }
        ConnectionError::LocallyClosed => "this node has ended it, its log says why".to_owned(),
        ConnectionError::TimedOut => "no answer".to_owned(),
        other => other.to_string(),
    }
}
