//! The shell of flow replication (docs/adr/0015-groups.md): what the program tells goes to the peers, what they tell goes into
//! the maps. Runs on the peers' thread beside the heartbeats, so what comes again and again goes on for no longer than a millisecond;
//! whole tables are read by another thread, but at the beginning of a session.
//!
//! | file | what |
//! |---|---|
//! | `names` | what the maps call things and what the group calls them |
//! | `core` | what the tasks share |
//! | `link` | one session with one peer, its tasks |
//! | `merge` | plans of merges, carried out in the maps |
//! | `walk` | resyncs, digests, comparisons |
//!
//! The ring buffer is read by a task that waits for nothing else; each peer has a bounded queue and a task of its own that fills
//! its stream, so a slow one only falls behind itself.

mod core;
mod link;
mod merge;
mod names;
mod walk;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lb_common::flow;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use self::core::{Core, Shared};
use crate::dataplane::events::{Events, Reader};
use crate::dataplane::flows::Table;
use crate::dataplane::maps::Maps;
use crate::peer::wire::RECORDS;
use crate::peer::{LinkEvent, Links};

pub use self::names::Names;
pub use crate::sync::Report;

/// So long one thing is done before others have a turn.
const PIECE: Duration = Duration::from_millis(1);

/// Events that are read in one go.
const EVENTS: usize = 4096;

/// Under load the ring buffer is read as often as the runtime's clock ticks, a millisecond.
const SOON: Duration = Duration::from_micros(500);

/// The ring buffer is read so often even if nobody says that there is something.
const ANYWAY: Duration = Duration::from_millis(100);

/// What a packet that is on its way through the program takes at most.
const PASSING: Duration = Duration::from_millis(1);

/// Deletions that are told in one go.
const DELETIONS: usize = 512;

/// The lag's quantiles are of so many rounds at most.
const LAG_ROUNDS: u64 = 60;

/// What the agent says.
#[derive(Debug)]
pub enum Command {
    /// The maps hold something else.
    Names(Arc<Names>),
    /// Own entries that a sweep has deleted.
    Deleted(Vec<(flow::Key, flow::Entry)>),
    /// A fence in every stream, behind everything that the program has done so far.
    Fence(u64),
    /// Places of the members that can be reached, and of all members; none of this node's that is no member.
    Live {
        /// Those that can be reached.
        live: BTreeSet<u8>,
        /// All.
        members: BTreeSet<u8>,
    },
    /// Whether this node's tables were empty when it started; for sessions that begin later.
    Joining(bool),
    /// [`Notice::HandedOver`] when all live peers have everything.
    HandOver,
}

/// What the agent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// Everything that the peer sent before this fence is in the maps.
    Fenced {
        /// Its place.
        peer: u8,
        /// As the peer's agent gave it.
        id: u64,
    },
    /// All entries of the peer are in the maps, and digests are equal ([`crate::sync::Proof`]).
    Synced {
        /// Its place.
        peer: u8,
        /// The session that they came in.
        session: u64,
    },
    /// Slots were marked [`lb_common::slot::HELD`] that weren't.
    Held,
    /// Every live peer has merged all records of this node.
    HandedOver,
    /// The session with a peer has ended; its fences and resyncs come no more.
    Lost {
        /// Its place.
        peer: u8,
    },
}

/// A notice, with the room that it takes until it is taken.
#[derive(Debug)]
pub struct Noticed {
    /// What has happened.
    pub notice: Notice,
    _room: Option<OwnedSemaphorePermit>,
}

/// Everything that the task needs.
pub struct Setup {
    /// Maps of its own.
    pub maps: Maps,
    /// The ring buffer.
    pub events: Events,
    /// What is called how now.
    pub names: Arc<Names>,
    /// From the agent. Where its sender is dropped, the task ends.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// To the agent.
    pub notices: mpsc::UnboundedSender<Noticed>,
    /// To whoever shows it.
    pub report: watch::Sender<Arc<Report>>,
}

/// Replicates until the agent or the sessions are gone. Has to run in a [`tokio::task::LocalSet`].
///
/// # Errors
/// Where the runtime can't wait for the ring buffer.
pub async fn run(setup: Setup, links: Links) -> io::Result<()> {
    let Setup {
        maps,
        events,
        names,
        commands,
        notices,
        report,
    } = setup;
    let mut core = Core::new(maps, names, notices);
    core.empty = walk::empty(&core.maps);
    core.orphans = !walk::is_empty(&core.maps, Table::Replicas);
    let shared: Shared = Rc::new(RefCell::new(core));
    let mut tasks = JoinSet::new();
    let rounds = std::cell::Cell::new(0u64);
    tasks.spawn_local(walk::rounds(Rc::clone(&shared), move |core| {
        report.send_replace(Arc::new(core.report()));
        rounds.set(rounds.get() + 1);
        if rounds.get().is_multiple_of(LAG_ROUNDS) {
            core.reset_lag();
        }
    }));
    tasks.spawn_local(walk::comparisons(Rc::clone(&shared)));
    let pump = Pump {
        shared,
        events: events.register()?,
        drained: Duration::ZERO,
        is_busy: false,
        fences: VecDeque::new(),
    };
    pump.run(links, commands).await;
    Ok(())
}

/// Reads the ring buffer, and does what the agent says.
struct Pump {
    shared: Shared,
    events: Reader,
    /// When the ring buffer was read last.
    drained: Duration,
    /// There was something then.
    is_busy: bool,
    /// Fences that wait for packets on their way, and what else comes behind them.
    fences: VecDeque<(Instant, Option<u64>)>,
}

impl Pump {
    async fn run(mut self, mut links: Links, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let fence = self.fences.front().map(|&(due, _)| due);
            let soon = Instant::now() + if self.is_busy { SOON } else { ANYWAY };
            let due = fence.map_or(soon, |fence| fence.min(soon));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => break,
                },
                link = links.recv() => match link {
                    Some(link) => self.link(link),
                    None => break,
                },
                // Where the runtime fails to wait, the timer does it alone.
                Ok(()) = self.events.readable(), if !self.is_busy => self.drain(true),
                () = sleep_until(due) => self.drain(false),
            }
            self.raise();
        }
        let core = &mut *self.shared.borrow_mut();
        core.links.clear();
    }

    /// Reads the ring buffer and sends what there is; `woken`: it was empty until now.
    fn drain(&mut self, woken: bool) {
        let core = &mut *self.shared.borrow_mut();
        let began = core.mono();
        // When the first of them was made at the earliest.
        let since = if woken { began } else { self.drained };
        let taken = self.events.drain(EVENTS, |event| core.event(event, since));
        self.is_busy = taken > 0;
        self.drained = began;
        core.flush();
    }

    /// Fences whose time has come.
    fn raise(&mut self) {
        while self.fences.front().is_some_and(|&(due, _)| due <= Instant::now()) {
            let (_, id) = self.fences.pop_front().expect("looked at a moment ago");
            self.drain_all();
            let core = &mut *self.shared.borrow_mut();
            match id {
                Some(id) => core.fence(id),
                None => core.hand_over(),
            }
        }
    }

    /// Reads all that is in the ring buffer now.
    fn drain_all(&mut self) {
        let core = &mut *self.shared.borrow_mut();
        let now = core.mono();
        // As much as it holds; what comes meanwhile came later.
        let most = lb_common::abi::EVENTS as usize / size_of::<flow::Event>();
        let taken = self.events.drain(most, |event| core.event(event, now));
        self.is_busy |= taken > 0;
        core.flush();
    }

    fn link(&self, event: LinkEvent) {
        match event {
            LinkEvent::Up {
                peer,
                session,
                connection,
                judge,
            } => link::up(&self.shared, (peer, session), connection, judge),
            LinkEvent::Down { peer, session } => self.shared.borrow_mut().end(peer, session),
            LinkEvent::Stream {
                peer,
                session,
                kind: RECORDS,
                stream,
            } => link::stream(&self.shared, peer, session, stream),
            // Of a later version: dropped, it is refused.
            LinkEvent::Stream { .. } => {}
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Names(names) => self.shared.borrow_mut().rename(names),
            Command::Deleted(entries) => self.forget(&entries).await,
            Command::Fence(id) => self.fences.push_back((Instant::now() + PASSING, Some(id))),
            Command::Live { live, members } => {
                let core = &mut *self.shared.borrow_mut();
                let members = Some(members).filter(|members| !members.is_empty());
                core.orphans |= core.members != members;
                (core.live, core.members) = (Some(live), members);
                core.look_handed_over();
            }
            Command::Joining(joins) => self.shared.borrow_mut().joins = joins,
            Command::HandOver => self.fences.push_back((Instant::now() + PASSING, None)),
        }
    }

    /// Tells of deletions, behind all events before them.
    async fn forget(&mut self, entries: &[(flow::Key, flow::Entry)]) {
        for entries in entries.chunks(DELETIONS) {
            self.drain(false);
            {
                let core = &mut *self.shared.borrow_mut();
                core.forget(entries);
                core.flush();
            }
            yield_now().await;
        }
    }
}
