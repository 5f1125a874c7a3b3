//! Nodes with pinned maps of their own that talk over QUIC on loopback, as agents do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use lb_common::addr::Addr;
use lb_common::admit::EVENTS;
use lb_common::be::Be16;
use lb_common::flow::{CONFIRMED, Entry, Key, OWN};
use lb_common::header::proto;
use lb_common::tick::{Tick, seconds};
use lb_common::{hash, vip};
use lb_userspace::agent::sync::{Command, Names, Notice, Noticed, Report, Setup, run};
use lb_userspace::dataplane::events::Events;
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::dataplane::load::{Balancer, Plan};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::model::{Capacity, Group, GroupKey, Peering};
use lb_userspace::peer::{self, Peers, pki};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::diff;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use super::cpu::{self, Thread};
use crate::bench::case::{PORT, VIP_V4};
use crate::bench::programs::GROUP_KEY;
use crate::bench::world;
use crate::pins::Pins;

/// The idle timeout of the VIP: every entry is refreshed so often that refreshes are a part of the load.
const IDLE: Duration = Duration::from_secs(900);
/// Until a session stands and everything is told.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes' certificates and addresses.
pub(super) struct Site {
    folder: TempDir,
    group: Group,
}

impl Site {
    pub(super) fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        pki::init(folder.path(), "bench", false)?;
        // Both are free now; whoever takes one meanwhile makes the bench fail, not err.
        let sockets = [0; 2].map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)));
        let mut addresses = Vec::new();
        for socket in &sockets {
            let socket = socket.as_ref().map_err(|e| anyhow::anyhow!("loopback: {e}"))?;
            addresses.push(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                socket.local_addr()?.port(),
            )));
        }
        let names = ["bench0", "bench1"];
        for name in names {
            pki::issue(folder.path(), name, &folder.path().join(name), 1, false)?;
        }
        let group = Group {
            nodes: names.map(|name| name.parse().expect("a valid name")).to_vec(),
            key: None,
            max_tracked: Group::MAX_TRACKED,
            peering: Some(Peering {
                addresses,
                pki: folder.path().to_owned(),
                heartbeat: Peering::HEARTBEAT,
                // Liveness is not what is measured, on a machine that is full of work.
                dead_after: Duration::from_secs(2),
                withdraw_after: Peering::WITHDRAW_AFTER,
                join_within: Peering::JOIN_WITHIN,
            }),
        };
        Ok(Self { folder, group })
    }

    fn group_of(&self, place: u8) -> Group {
        let mut group = self.group.clone();
        if let Some(peering) = &mut group.peering {
            peering.pki = self.folder.path().join(format!("bench{place}"));
        }
        group
    }
}

/// One node.
pub(super) struct Node {
    place: u8,
    contents: Contents,
    pub(super) maps: Maps,
    // Before the pins.
    talk: Option<Talk>,
    pins: Pins,
}

struct Talk {
    thread: Thread,
    notices: mpsc::UnboundedReceiver<Noticed>,
    seen: watch::Receiver<Arc<Report>>,
    // Dropped first, it ends what runs on the thread.
    _commands: mpsc::UnboundedSender<Command>,
    _peers: Peers,
}

impl Node {
    /// With room for so many own flows, and twice as many replicas. It doesn't talk yet.
    pub(super) fn new(place: u8, flows: u32) -> Result<Self> {
        let pins = Pins::new().context("can't make a pin root (the bench needs root)")?;
        let key = GroupKey::new(GROUP_KEY);
        let plan = Plan {
            capacity: Capacity {
                flows,
                ..world::CAPACITY
            },
            key: Some(&key),
            node: &"bench".parse().expect("a valid name"),
            log_level: 0,
        };
        let mut maps = Balancer::load(&pins.0, &plan).context("can't load lb_xdp")?.maps;
        let mut contents = world::contents(world::LOOPBACK);
        for value in contents.vips.values_mut().filter(|value| value.is_served()) {
            value.flags |= vip::ALWAYS;
        }
        for op in diff(&Contents::default(), &contents) {
            maps.apply(&op).with_context(|| format!("{op:?}"))?;
        }
        let mut limits = maps.new_limits(EVENTS, IDLE);
        limits.budgets = [u32::MAX; 3];
        maps.set_limits(limits)?;
        Ok(Self {
            place,
            contents,
            maps,
            talk: None,
            pins,
        })
    }

    /// Begins to talk.
    pub(super) fn start(&mut self, site: &Site) -> Result<()> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (told, notices) = mpsc::unbounded_channel();
        let (report, seen) = watch::channel(Arc::default());
        let vip = vip::Key::new(Addr::from(VIP_V4), Be16::new(PORT), proto::TCP);
        let key = hash::Key::expand(&GROUP_KEY);
        let setup = Setup {
            maps: Maps::open(&self.pins.0)?,
            events: Events::open(&self.pins.0)?,
            names: Arc::new(Names::new((self.place, 2), key, [(vip, IDLE)], &self.contents)),
            commands: inbox,
            notices: told,
            report,
        };
        commands
            .send(Command::Joining(self.place > 0))
            .context("the task")?;
        let (say, thread) = std::sync::mpsc::channel();
        let handler: peer::StreamHandler = Box::new(move |links| {
            Box::pin(async move {
                // Nobody waits any more where the bench has failed.
                let _ = say.send(Thread::this());
                if let Err(e) = run(setup, links).await {
                    eprintln!("flow records: {e}");
                }
            })
        });
        let peers = peer::start(&site.group_of(self.place), usize::from(self.place), handler)?;
        self.talk = Some(Talk {
            thread: thread.recv_timeout(PATIENCE).context("the peers' thread")??,
            notices,
            seen,
            _commands: commands,
            _peers: peers,
        });
        Ok(())
    }

    fn talk(&mut self) -> Result<&mut Talk> {
        self.talk.as_mut().context("the node doesn't talk")
    }

    /// Waits until all entries of the other node are here.
    pub(super) fn await_synced(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let talk = self.talk()?;
        while Instant::now() < until {
            let noticed = talk.notices.try_recv();
            if noticed.is_ok_and(|noticed| matches!(noticed.notice, Notice::Synced { .. })) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("the nodes have not told each other everything within {PATIENCE:?}")
    }

    /// Time on a CPU so far of the peers' thread, and of the one that reads tables for it.
    pub(super) fn cpu(&mut self) -> Result<Duration> {
        let talk = self.talk()?;
        let read = talk.seen.borrow().read;
        Ok(cpu::time(&talk.thread)? + read)
    }

    /// The report of the last second.
    pub(super) fn report(&mut self) -> Result<Arc<Report>> {
        Ok(Arc::clone(&self.talk()?.seen.borrow()))
    }

    /// Enters so many flows that were confirmed a while ago.
    pub(super) fn fill(&mut self, flows: u32) -> Result<()> {
        let then = Tick(now().0.wrapping_sub(seconds(10)));
        let numbers: Vec<u32> = (0..flows).collect();
        for numbers in numbers.chunks(4096) {
            let keys: Vec<Key> = numbers.iter().map(|&n| key(n)).collect();
            let entries: Vec<Entry> = numbers.iter().map(|&n| confirmed(n, then)).collect();
            let refused = self.maps.set_entries(Table::Flows, &keys, &entries)?;
            anyhow::ensure!(refused.is_empty(), "the table has no room for {flows} flows");
        }
        Ok(())
    }

    /// Its maps, for another thread.
    pub(super) fn open(&self) -> Result<Maps> {
        Ok(Maps::open(&self.pins.0)?)
    }

    /// The program, to be run over packets.
    pub(super) fn program(&self) -> Result<Xdp> {
        Ok(Xdp::from_pin(
            Path::new(&self.pins.0.program()),
            XdpAttachType::Interface,
        )?)
    }
}

/// Client and port of flow `n`.
pub(super) fn client(n: u32) -> (Ipv4Addr, u16) {
    const PORTS: u32 = 50_000;
    let port = 1024 + (n % PORTS) as u16;
    (Ipv4Addr::from(0x6440_0000 + n / PORTS), port)
}

/// The key of flow `n`.
pub(super) fn key(n: u32) -> Key {
    let (client, port) = client(n);
    Key {
        src: Addr::from(IpAddr::V4(client)),
        dst: Addr::from(VIP_V4),
        sport: Be16::new(port),
        dport: Be16::new(PORT),
        proto: proto::TCP,
        pad: [0; 3],
    }
}

fn confirmed(n: u32, then: Tick) -> Entry {
    Entry {
        isn: 0,
        since: then,
        last: then,
        backend: 1 + (n % u32::from(world::BACKENDS)) as u16,
        state: CONFIRMED,
        owner: OWN,
    }
}
