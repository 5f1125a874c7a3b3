//! Nodes, the links between them, and virtual time.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use lb_common::be::Be16;
use lb_common::flow::{CONFIRMED, Key};

use lb_userspace::sync::Limits;

use crate::node::{Node, vips};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// One direction between two nodes.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// ms, and that much more by chance.
    pub(crate) delay: u64,
    pub(crate) jitter: u64,
    /// Bytes per ms.
    pub(crate) rate: usize,
    credit: i64,
    last: u64,
    /// Arrival, session, bytes.
    way: VecDeque<(u64, u64, Bytes)>,
}

pub(crate) struct World {
    pub(crate) ms: u64,
    pub(crate) random: Random,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: BTreeMap<(u8, u8), Link>,
    sessions: u64,
    /// Bytes of sessions that were over when they came.
    pub(crate) late: usize,
    /// Most bytes of records that ever waited in a sender.
    pub(crate) backlog: usize,
    /// One in so many events is lost in the ring buffer; 0: none.
    pub(crate) ring_loss: u64,
    pub(crate) keys: u64,
}

impl World {
    pub(crate) fn new(nodes: u8, seed: u64) -> Self {
        let link = Link {
            up: true,
            delay: 1,
            jitter: 2,
            rate: 1 << 20,
            credit: 0,
            last: 0,
            way: VecDeque::new(),
        };
        let pairs = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
        let mut world = Self {
            ms: 0,
            random: Random(seed),
            nodes: (0..nodes).map(Node::new).collect(),
            links: pairs
                .filter(|(a, b)| a != b)
                .map(|pair| (pair, link.clone()))
                .collect(),
            sessions: 0,
            late: 0,
            backlog: 0,
            ring_loss: 0,
            keys: 3_000,
        };
        world.connect();
        world
    }

    /// Begins sessions where there are none and both directions are up.
    pub(crate) fn connect(&mut self) {
        for a in 0..self.nodes.len() as u8 {
            for b in 0..a {
                let is_up = self.links[&(a, b)].up && self.links[&(b, a)].up;
                if is_up && !self.nodes[usize::from(a)].sessions.contains_key(&b) {
                    self.sessions += 1;
                    self.nodes[usize::from(a)].connect(b, self.sessions);
                    self.nodes[usize::from(b)].connect(a, self.sessions);
                }
            }
        }
    }

    /// Ends a session. What is on its way comes all the same, to nobody.
    pub(crate) fn disconnect(&mut self, a: u8, b: u8) {
        self.nodes[usize::from(a)].sessions.remove(&b);
        self.nodes[usize::from(b)].sessions.remove(&a);
    }

    /// New sessions with these limits.
    pub(crate) fn limit(&mut self, limits: Limits) {
        for place in 0..self.nodes.len() as u8 {
            self.nodes[usize::from(place)].limits = limits;
            for other in 0..place {
                self.disconnect(place, other);
            }
        }
        self.connect();
    }

    pub(crate) fn cut(&mut self, a: u8, b: u8, up: bool) {
        for pair in [(a, b), (b, a)] {
            self.links.get_mut(&pair).expect("a link").up = up;
        }
        if !up {
            self.disconnect(a, b);
        }
    }

    /// A node loses its tables and starts again.
    pub(crate) fn crash(&mut self, place: u8) {
        for other in (0..self.nodes.len() as u8).filter(|other| *other != place) {
            self.disconnect(place, other);
        }
        let old = &self.nodes[usize::from(place)];
        let (limits, capacity) = (old.limits, old.capacity);
        let mut node = Node::new(place);
        (node.limits, node.capacity, node.joins) = (limits, capacity, true);
        self.nodes[usize::from(place)] = node;
    }

    pub(crate) fn key(&mut self) -> Key {
        let n = self.random.below(self.keys);
        let vip = vips()[(n % 2) as usize];
        let src = if n.is_multiple_of(2) {
            std::net::IpAddr::from([10, 0, (n >> 8) as u8, n as u8]).into()
        } else {
            std::net::IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, n as u16]).into()
        };
        Key {
            src,
            dst: vip.addr,
            sport: Be16::new(1_024 + n as u16),
            dport: if n.is_multiple_of(2) {
                vip.port
            } else {
                Be16::new(80 + n as u16 % 3)
            },
            proto: vip.proto,
            pad: [0; 3],
        }
    }

    /// Packets of one ms, `n` of them, at any nodes.
    pub(crate) fn traffic(&mut self, n: u64) {
        for _ in 0..n {
            let key = self.key();
            let node = self.random.below(self.nodes.len() as u64) as usize;
            let (choice, what) = (self.random.next(), self.random.below(100));
            let heard = self.ring_loss == 0 || self.random.below(self.ring_loss) != 0;
            let (ms, node) = (self.ms, &mut self.nodes[node]);
            match what {
                0..85 => node.packet(key, choice, heard, ms),
                85..93 => node.close(key, heard, ms),
                _ => node.expire(key, heard, ms),
            }
        }
    }

    /// One ms.
    pub(crate) fn step(&mut self) {
        self.ms += 1;
        for ((from, to), link) in &mut self.links {
            while let Some((_, session, bytes)) = link.way.pop_front_if(|(at, ..)| *at <= self.ms) {
                let node = &mut self.nodes[usize::from(*to)];
                if node.sessions.get(from).is_some_and(|s| s.number == session) {
                    // However it is cut.
                    let cut = self.random.below(bytes.len() as u64 + 1) as usize;
                    node.receive(*from, &bytes[..cut], self.ms);
                    node.receive(*from, &bytes[cut..], self.ms);
                } else {
                    self.late += bytes.len();
                }
            }
        }
        for node in &mut self.nodes {
            node.turn(self.ms);
            let place = node.place;
            for (peer, session) in &mut node.sessions {
                self.backlog = self.backlog.max(session.sender.backlog());
                let link = self.links.get_mut(&(place, *peer)).expect("a link");
                link.credit = (link.credit + link.rate as i64).min(link.rate as i64 * 50);
                // A stream's window: what is not there yet.
                while link.credit > 0
                    && link.way.len() < 64
                    && let Some(bytes) = session.sender.poll_transmit()
                {
                    let slow = bytes.len() / link.rate;
                    link.credit -= bytes.len() as i64;
                    let at = self.ms + link.delay + self.random.below(link.jitter + 1) + slow as u64;
                    link.last = link.last.max(at);
                    link.way.push_back((link.last, session.number, bytes));
                }
            }
        }
    }

    pub(crate) fn run(&mut self, ms: u64, packets: u64) {
        for _ in 0..ms {
            self.traffic(packets);
            self.step();
        }
    }

    /// Where what a node has settled and what another one holds of it differ: only at the first, only at the second.
    pub(crate) fn differences(&self) -> Vec<(u8, u8, usize, usize)> {
        let mut all = Vec::new();
        for a in &self.nodes {
            for b in self.nodes.iter().filter(|b| b.place != a.place) {
                let (own, held) = (a.settled(a.place, self.ms), b.settled(a.place, self.ms));
                let missing = own.iter().filter(|(k, v)| held.get(k) != Some(v)).count();
                let surplus = held.keys().filter(|k| !own.contains_key(k)).count();
                if missing + surplus > 0 {
                    all.push((a.place, b.place, missing, surplus));
                }
            }
        }
        all
    }

    /// Prints what every node holds of flows that `at` lacks of those of `of`.
    pub(crate) fn explain(&self, of: u8, at: u8) {
        let [own, held] = [of, at].map(|node| self.nodes[usize::from(node)].settled(of, self.ms));
        for key in own.keys().filter(|key| !held.contains_key(key)) {
            for node in &self.nodes {
                let (own, replica) = (node.maps.own.get(key), node.maps.replicas.get(key));
                let now = node.tick(self.ms);
                println!("{of} at {at}: node {} {now:?} {own:?} {replica:?}", node.place);
            }
        }
    }

    /// Living flows that two nodes claim. What is closed is no longer compared, but ends within a minute.
    pub(crate) fn claimed_twice(&self) -> usize {
        let mut count = BTreeMap::new();
        let own = self.nodes.iter().flat_map(|node| &node.maps.own);
        for (key, _) in own.filter(|(_, entry)| entry.state == CONFIRMED) {
            *count.entry(*key).or_insert(0) += 1;
        }
        count.values().filter(|count| **count > 1).count()
    }
}
