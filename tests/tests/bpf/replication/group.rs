//! Nodes with pinned maps of their own that talk over QUIC on loopback.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command as Process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::addr::Addr;
use lb_common::admit::EVENTS;
use lb_common::be::Be16;
use lb_common::flow::{CONFIRMED, Entry, Key, OWN};
use lb_common::slot::{Slot, index, of_hash};
use lb_common::tick::{Tick, seconds};
use lb_common::{hash, vip};
use lb_tests::model::Arrival;
use lb_userspace::agent::sync::{Command, Names, Notice, Noticed, Report, Setup, run};
use lb_userspace::dataplane::events::Events;
use lb_userspace::dataplane::flows::{Table, now};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::model::{Capacity, Group, Peering};
use lb_userspace::peer::{self, LinkEvent, Peers, pki};
use lb_userspace::state::track::Slots;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use crate::fixture::{BACKEND_V4, VIP_V4, world};
use crate::frame::{Ip, TCP, ip, parse, tcp};
use crate::kernel::{HEADROOM, Kernel};
use crate::net;
use crate::world::{GROUP_KEY, World, entry};

/// The backend of new flows, where a slot is tracked.
pub(super) const CURRENT: u16 = 10;
pub(super) const SYN: u8 = 0x02;
pub(super) const ACK: u8 = 0x10;

/// Until something has happened on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The nodes' certificates and addresses, in a network namespace of this thread.
pub(super) struct Site {
    pki: TempDir,
    ingress: u32,
    group: Group,
}

impl Site {
    pub(super) fn new(nodes: u16) -> Self {
        let [ingress, _] = net::enter();
        let up = Process::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("run ip").success());
        let pki = TempDir::new().expect("a folder");
        pki::init(pki.path(), "test", false).expect("an authority");
        let peering = Peering {
            addresses: (0..nodes)
                .map(|n| SocketAddr::from(([127, 0, 0, 1], Peering::DEFAULT_PORT + n)))
                .collect(),
            pki: pki.path().to_owned(),
            heartbeat: Duration::from_millis(50),
            dead_after: Duration::from_secs(2),
            withdraw_after: Duration::from_secs(60),
            join_within: Duration::from_secs(60),
        };
        let names: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
        for name in &names {
            pki::issue(pki.path(), name, &pki.path().join(name), 1, false).expect("a certificate");
        }
        let group = Group {
            nodes: names.iter().map(|name| parse(name)).collect(),
            key: None,
            max_tracked: Group::MAX_TRACKED,
            peering: Some(peering),
        };
        Self { pki, ingress, group }
    }

    fn group_of(&self, place: u8) -> Group {
        let mut group = self.group.clone();
        let peering = group.peering.as_mut().expect("it has one");
        peering.pki = self.pki.path().join(format!("n{place}"));
        group
    }

    /// A node whose maps have room for so many flows; it doesn't talk yet.
    pub(super) fn node(&self, place: u8, flows: u32) -> Node {
        let mut world = world(self.ingress);
        let to = entry(parse("10.0.0.5/32"), ip("10.0.4.10"), self.ingress, 1500);
        world.backend(CURRENT, to);
        let capacity = Capacity {
            pools: 4,
            vips: 16,
            backends: 64,
            flows,
        };
        let mut kernel = Kernel::load(&world, capacity);
        let mut limits = kernel.maps.new_limits(EVENTS, Duration::from_secs(900));
        limits.budgets = [u32::MAX; 3];
        kernel.maps.set_limits(limits).expect("limits");
        Node {
            place,
            nodes: self.group.nodes.len() as u8,
            kernel,
            ingress: self.ingress,
            world,
            talk: None,
        }
    }

    /// Has a node talk.
    pub(super) fn start(&self, node: &mut Node) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (told, notices) = mpsc::unbounded_channel();
        let (report, seen) = watch::channel(Arc::default());
        let root = &node.kernel.pins.0;
        let setup = Setup {
            maps: Maps::open(root).expect("maps"),
            events: Events::open(root).expect("events"),
            names: node.names(),
            commands: inbox,
            notices: told,
            report,
        };
        let own = usize::from(node.place);
        let handler: peer::StreamHandler =
            Box::new(move |links| Box::pin(async move { run(setup, links).await.expect("the ring buffer") }));
        let peers = peer::start(&self.group_of(node.place), own, handler).expect("peers");
        node.talk = Some(Talk {
            _peers: peers,
            commands,
            notices,
            seen,
        });
    }

    /// A node at this place that is connected, and takes nothing that it is sent.
    pub(super) fn deaf(&self, place: u8) -> Peers {
        let handler: peer::StreamHandler = Box::new(|mut links| {
            Box::pin(async move {
                let mut kept = Vec::new();
                while let Some(event) = links.recv().await {
                    if let LinkEvent::Stream { stream, .. } = event {
                        kept.push(stream);
                    }
                }
            })
        });
        peer::start(&self.group_of(place), usize::from(place), handler).expect("peers")
    }
}

struct Talk {
    _peers: Peers,
    commands: mpsc::UnboundedSender<Command>,
    notices: mpsc::UnboundedReceiver<Noticed>,
    seen: watch::Receiver<Arc<Report>>,
}

/// One node.
pub(super) struct Node {
    place: u8,
    nodes: u8,
    pub(super) kernel: Kernel,
    ingress: u32,
    world: World,
    talk: Option<Talk>,
}

/// A flow from this client's port.
pub(super) fn key(sport: u16) -> Key {
    wide(0, sport)
}

/// A flow from this client and port.
pub(super) fn wide(client: u8, sport: u16) -> Key {
    Key {
        src: Addr::from(ip(&format!("198.51.100.{client}"))),
        dst: Addr::from(ip(VIP_V4)),
        sport: Be16::new(sport),
        dport: Be16::new(80),
        proto: TCP,
        pad: [0; 3],
    }
}

/// An entry that is so many seconds old.
pub(super) fn confirmed(age: u32) -> Entry {
    let then = Tick(now().0.wrapping_sub(seconds(age)));
    Entry {
        isn: 0,
        since: then,
        last: then,
        backend: CURRENT,
        state: CONFIRMED,
        owner: OWN,
    }
}

impl Node {
    fn names(&self) -> Arc<Names> {
        let vip = vip::Key::new(Addr::from(ip(VIP_V4)), Be16::new(80), TCP);
        let idle = [(vip, Duration::from_secs(900))];
        let key = hash::Key::expand(&GROUP_KEY);
        Arc::new(Names::new(
            (self.place, self.nodes),
            key,
            idle,
            &self.world.contents,
        ))
    }

    fn talk(&mut self) -> &mut Talk {
        self.talk.as_mut().expect("it talks")
    }

    /// Ends all sessions.
    pub(super) fn stop(&mut self) {
        self.talk = None;
    }

    pub(super) fn say(&mut self, command: Command) {
        self.talk().commands.send(command).expect("the task lives");
    }

    /// Waits for a notice, and returns those before it.
    #[track_caller]
    pub(super) fn await_notice(&mut self, wanted: impl Fn(&Notice) -> bool) -> Vec<Notice> {
        let mut before = Vec::new();
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.talk().notices.try_recv().map(|noticed| noticed.notice) {
                Ok(notice) if wanted(&notice) => return before,
                Ok(notice) => before.push(notice),
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
        panic!("no such notice; there were {before:?}");
    }

    /// Waits for all entries of a peer.
    #[track_caller]
    pub(super) fn await_synced(&mut self, from: u8) {
        self.await_notice(|notice| matches!(notice, Notice::Synced { peer, .. } if *peer == from));
    }

    pub(super) fn report(&mut self) -> Arc<Report> {
        Arc::clone(&self.talk().seen.borrow())
    }

    /// A packet of a flow from this client's port comes in.
    pub(super) fn packet(&self, sport: u16, flags: u8, seq: u32) {
        let mut segment = tcp(sport, 80, b"data");
        segment[4..8].copy_from_slice(&seq.to_be_bytes());
        segment[13] = flags;
        let frame = Ip::new(ip("198.51.100.0"), ip(VIP_V4), TCP, segment).frame();
        self.kernel.program.run(&Arrival {
            frame: &frame,
            ingress: self.ingress,
            headroom: HEADROOM,
        });
    }

    fn place_of(key: &Key) -> u32 {
        of_hash(key.tuple().hash(&hash::Key::expand(&GROUP_KEY)))
    }

    /// Makes the flow's slot tracked, with another backend for new flows.
    pub(super) fn track(&self, key: &Key) {
        let slot = Slot::untracked(BACKEND_V4)
            .track()
            .commit(CURRENT)
            .expect("tracked");
        self.kernel.maps.set_slot(0, Self::place_of(key), slot);
    }

    pub(super) fn slot(&self, key: &Key) -> Slot {
        Slots::slot(&self.kernel.maps, index(0, Self::place_of(key)))
    }

    pub(super) fn entry(&self, table: Table, key: &Key) -> Option<Entry> {
        self.kernel.maps.entry(table, key).expect("the map")
    }

    pub(super) fn set(&mut self, table: Table, key: &Key, entry: &Entry) {
        self.kernel.maps.set_entry(table, key, entry).expect("room");
    }

    /// Deletes own entries as a sweep does.
    pub(super) fn sweep(&mut self, keys: &[Key]) {
        let known = keys
            .iter()
            .filter_map(|key| Some((*key, self.entry(Table::Flows, key)?)));
        let deleted: Vec<_> = known.collect();
        self.kernel
            .maps
            .remove_entries(Table::Flows, keys)
            .expect("the map");
        self.say(Command::Deleted(deleted));
    }

    /// Waits until the replica of a flow is as wanted; how long that took.
    #[track_caller]
    pub(super) fn await_replica(&self, key: &Key, wanted: impl Fn(Option<Entry>) -> bool) -> Duration {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if wanted(self.entry(Table::Replicas, key)) {
                return began.elapsed();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        panic!("the replica is {:?}", self.entry(Table::Replicas, key));
    }

    /// Waits until the report is as wanted.
    #[track_caller]
    pub(super) fn await_report(&mut self, wanted: impl Fn(&Report) -> bool) {
        let began = Instant::now();
        while !wanted(&self.report()) {
            assert!(began.elapsed() < PATIENCE, "the report is {:?}", self.report());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Two nodes that have each other's entries.
pub(super) fn pair() -> (Site, Node, Node) {
    let site = Site::new(2);
    let (mut a, mut b) = (site.node(0, 1 << 13), site.node(1, 1 << 13));
    site.start(&mut a);
    site.start(&mut b);
    a.await_synced(1);
    b.await_synced(0);
    (site, a, b)
}

/// Places of all nodes.
pub(super) fn all(nodes: u8) -> BTreeSet<u8> {
    (0..nodes).collect()
}
