//! The nodes of a group talk: QUIC (RFC 9000) with mutual TLS 1.3, heartbeats as datagrams (RFC 9221), streams by kind.
//!
//! | file | what |
//! |---|---|
//! | `facts` | what a node says of itself |
//! | `wire` | heartbeats and frames ↔ bytes |
//! | `fsm` | whether a peer lives |
//! | `status` | what is known, for people and metrics |
//! | `pki` | certificates: made by `lbctl pki`, read by the agent |
//! | `tls` | who may talk |
//! | `link` | the tasks of one session |
//! | `member` | one peer and its session |
//! | `filter` | what the kernel drops of what comes from elsewhere |
//! | `dial` | how sessions come about: the node whose name comes first calls, the other one answers |
//! | `certs` | the files of certificates, looked at again while we run |
//! | `task` | the thread: timers, sessions, what is told to whom |
//!
//! The first four compute only. Everything that a session needs runs on one thread with a runtime of its own, so neither a large
//! change of the maps nor the API delays heartbeats, and whoever replicates flows runs on that thread too ([`StreamHandler`]).
//!
//! **Limits.** Handshakes come from configured addresses alone, a few a second from each; a session has one stream of each kind
//! with bounded windows, frames of at most [`wire::FRAME_MAX`] bytes, and as much of them in each direction as
//! [`link::ROOM_KIB`] allows. However much comes in, heartbeats go out in time.

mod facts;
pub mod wire;
mod fsm;
mod status;
pub mod pki;
mod tls;
mod link;
mod member;
mod filter;
mod dial;
mod certs;
mod task;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::net::sockopt;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

pub use facts::{Common, Differs, Facts, Phase, PoolRings, VERSION_MAX, same_config};
pub use fsm::{Life, Liveness};
pub use link::Judge;
pub use status::{Own, Reader, Refusal, Status, View};
pub use tls::check_folder;

use crate::group::Mismatch;
use crate::model::Group;
use certs::Certs;
use link::Mail;
use task::{Order, Task, Told};

/// Why the nodes can't talk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The group has no `peering`, or not so many nodes.
    #[error("the nodes of this group don't talk")]
    NoPeering,
    /// The certificates can't be used.
    #[error("certificates in {}: {why}", .folder.display())]
    Pki {
        /// The folder.
        folder: PathBuf,
        /// Why.
        why: pki::Error,
    },
    /// The socket can't be had.
    #[error("{address}: can't listen for peers: {why}; is it an address of this host?")]
    Bind {
        /// This node's address.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// No thread.
    #[error("the thread of the peers: {0}")]
    Thread(io::Error),
}

/// What has happened, in order for each peer; facts apart, of which only the newest are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session began: from now on messages pass, none of them from a session of before.
    Up {
        /// Place of the peer.
        peer: u8,
        /// The session's number.
        session: u64,
    },
    /// It ended; what was sent in it and not answered may be lost.
    Down {
        /// Place of the peer.
        peer: u8,
        /// The session's number.
        session: u64,
    },
    /// A peer lives, or doesn't, as its heartbeats say. A session may outlast a dead peer that wasn't.
    Life {
        /// Place of the peer.
        peer: u8,
        /// What it is now.
        life: Life,
    },
    /// A peer is there, and there is no session, since one end refuses the other. Comes again while it is so.
    Refused {
        /// Place of the peer.
        peer: u8,
        /// Over what.
        mismatch: Mismatch,
    },
    /// What a peer says of itself has changed.
    Facts {
        /// Place of the peer.
        peer: u8,
        /// What it says.
        facts: Box<Facts>,
    },
    /// A message.
    Message {
        /// Place of the peer.
        peer: u8,
        /// As the sender gave it.
        channel: u8,
        /// As the sender gave it.
        payload: Vec<u8>,
    },
}

/// What happens to sessions, for whoever has streams of its own.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session began.
    Up {
        /// Place of the peer.
        peer: u8,
        /// The session's number.
        session: u64,
        /// For streams: the first byte of each is its kind, [`wire::RECORDS`] or more, and there is one of each.
        connection: quinn::Connection,
        /// For a peer that breaks their rules.
        judge: Judge,
    },
    /// It ended.
    Down {
        /// Place of the peer.
        peer: u8,
        /// The session's number.
        session: u64,
    },
    /// The peer has opened a stream, after `Up`.
    Stream {
        /// Place of the peer.
        peer: u8,
        /// The session's number.
        session: u64,
        /// The first byte, which has been read.
        kind: u8,
        /// The rest.
        stream: quinn::RecvStream,
    },
}

/// Where [`LinkEvent`]s come out.
pub type Links = mpsc::UnboundedReceiver<LinkEvent>;

/// Makes what runs on the peers' thread beside the sessions. It may spawn local tasks, and must not block.
pub type StreamHandler = Box<dyn FnOnce(Links) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Takes no streams: whatever a peer opens is dropped.
pub fn no_streams() -> StreamHandler {
    Box::new(|mut links| Box::pin(async move { while links.recv().await.is_some() {} }))
}

/// The way to the other nodes. Dropped, it says good-bye to them and ends the thread.
#[derive(Debug)]
pub struct Peers {
    facts: watch::Sender<Facts>,
    events: mpsc::UnboundedReceiver<Told>,
    heard: watch::Receiver<Vec<Option<Facts>>>,
    /// What the agent knows of `heard`.
    known: Vec<Option<Facts>>,
    orders: mpsc::UnboundedSender<Order>,
    mail: Mail,
    reader: Reader,
    thread: Option<JoinHandle<()>>,
}

/// Begins to talk. `own` is this node's place in `group.nodes`; `accept` runs on the peers' thread.
///
/// # Errors
/// No peering, no usable certificate, no socket.
pub fn start(group: &Group, own: usize, accept: StreamHandler) -> Result<Peers, Error> {
    let peering = group.peering.as_ref().ok_or(Error::NoPeering)?;
    let (Some(name), Some(&address)) = (group.nodes.get(own), peering.addresses.get(own)) else {
        return Err(Error::NoPeering);
    };
    let certs = Certs::open(&peering.pki, name.as_str()).map_err(|why| Error::Pki {
        folder: peering.pki.clone(),
        why,
    })?;
    if let Some(doubt) = certs.doubt() {
        warn!("peers may refuse this node's certificate: {doubt}");
    }
    let socket = bind(address, &peering.addresses).map_err(|why| Error::Bind { address, why })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Timers and sockets are looked at often, however much there is to do: heartbeats are due.
        .event_interval(8)
        // What is done aside gives way to the thread itself.
        .on_thread_start(|| {
            // It may: only to come before others needs a privilege.
            let _ = setpriority_process(Some(gettid()), ASIDE);
        })
        .build()
        .map_err(Error::Thread)?;
    let count = group.nodes.len();
    let (facts, own_facts) = watch::channel(Facts::default());
    let (told, events) = mpsc::unbounded_channel();
    let (heard_by, heard) = watch::channel(vec![None; count]);
    let (orders, inbox) = mpsc::unbounded_channel();
    let mail = Mail::new(count);
    let (view, seen) = watch::channel(Arc::default());
    let ways = task::Ways {
        facts: own_facts,
        told,
        heard: heard_by,
        orders: inbox,
        mail: mail.clone(),
        view,
    };
    let entered = runtime.enter();
    let task = Task::new(group, own, socket, certs, ways).map_err(Error::Thread)?;
    drop(entered);
    let thread = std::thread::Builder::new()
        .name("peers".to_owned())
        .spawn(move || tokio::task::LocalSet::new().block_on(&runtime, task.run(accept)))
        .map_err(Error::Thread)?;
    Ok(Peers {
        facts,
        events,
        known: vec![None; count],
        heard,
        orders,
        mail,
        reader: Reader::new(seen),
        thread: Some(thread),
    })
}

/// The nice value of threads that block for this one.
const ASIDE: i32 = 5;

/// Whether [`start`] would work.
///
/// # Errors
/// As there.
pub fn check(group: &Group, own: usize) -> Result<(), Error> {
    let peering = group.peering.as_ref().ok_or(Error::NoPeering)?;
    let (Some(name), Some(&address)) = (group.nodes.get(own), peering.addresses.get(own)) else {
        return Err(Error::NoPeering);
    };
    let folder = &peering.pki;
    Certs::open(folder, name.as_str()).map_err(|why| Error::Pki {
        folder: folder.clone(),
        why,
    })?;
    bind(address, &peering.addresses).map_err(|why| Error::Bind { address, why })?;
    Ok(())
}

/// A socket with room for what the nodes send while the thread is busy.
fn bind(address: SocketAddr, nodes: &[SocketAddr]) -> io::Result<std::net::UdpSocket> {
    /// Without `CAP_NET_ADMIN` as much as the kernel allows of this (`net.core.rmem_max`).
    const ROOM: usize = 4 << 20;
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
        socket.set_recv_buffer_size(ROOM)?;
    }
    socket.set_send_buffer_size(ROOM)?;
    socket.set_nonblocking(true)?;
    // `net.core.optmem_max` bounds it. Without it strangers are refused all the same, at more cost.
    if let Err(e) = socket.attach_filter(&filter::of(nodes.iter().map(SocketAddr::ip))) {
        warn!("the kernel takes no filter for the peers' socket: {e}");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl Peers {
    /// What the next heartbeats say.
    pub fn update(&self, facts: Facts) {
        self.facts.send_if_modified(|said| {
            let changed = *said != facts;
            *said = facts;
            changed
        });
    }

    /// The next thing that happens. Dropping the future loses nothing.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.news() {
                return event;
            }
            tokio::select! {
                biased;
                told = self.events.recv() => match told {
                    Some(told) => return told.event,
                    None => std::future::pending().await,
                },
                changed = self.heard.changed() => if changed.is_err() {
                    error!("the thread of the peers has ended");
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// The first peer whose facts have changed.
    fn news(&mut self) -> Option<Event> {
        let heard = self.heard.borrow();
        let place = heard
            .iter()
            .zip(&self.known)
            .position(|(heard, known)| heard != known)?;
        self.known[place].clone_from(&heard[place]);
        let facts = Box::new(heard[place].clone()?);
        let peer = u8::try_from(place).ok()?;
        Some(Event::Facts { peer, facts })
    }

    /// Sends a message, reliably and in order while the session lives. `false`: there is no session, or no room, or it is larger
    /// than [`wire::FRAME_MAX`]; then nothing is sent.
    pub fn send(&self, peer: u8, channel: u8, payload: Vec<u8>) -> bool {
        self.mail.post(peer, channel, payload)
    }

    /// What is known of the peers.
    pub fn status(&self) -> Arc<View> {
        self.reader.view()
    }

    /// The same for others.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Looks at the certificates' files at once.
    pub fn reload(&self) {
        // Without a thread nobody needs certificates.
        let _ = self.orders.send(Order::Reload);
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the peers had panicked");
        }
    }
}
