//! Nodes, what lies between them, and time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use lb_common::slot::Slot;
use lb_userspace::group::{Action, Event, Gone, Input, Order};
use lb_userspace::state::standing::Standing;

use crate::engine::{BACKENDS, SLOTS};
use crate::net::{Chance, Net, pair};
use crate::node::{Node, mono};
use crate::rules;

/// A rule that is broken on purpose: some invariant has to notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// A dead backend's slots get each member's own `current`.
    OwnCurrent,
    /// A joiner keeps the ring that it made up.
    OwnRing,
    /// A joiner takes origins over and nothing else.
    OriginsTold,
    /// A member acknowledges a retirement before it has made it.
    EarlyAnswer,
    /// The next coordinator isn't told of what was retired, and opens it again.
    Abandon,
    /// Who is silent for `withdraw_after` is taken for one that forwards nothing.
    Forget,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum What {
    Tick,
    Message {
        from: u8,
        session: u64,
        bytes: Vec<u8>,
    },
    Up {
        peer: u8,
        session: u64,
    },
    Down {
        peer: u8,
        session: u64,
    },
    Alive {
        peer: u8,
    },
    Dead {
        peer: u8,
    },
    Synced {
        peer: u8,
        session: u64,
    },
    Engine(u64),
    Answer(u64),
    Snapshot,
    Installed,
    HandedOver,
    /// The charter's newest generation has come.
    Charter(u64),
    /// The agent starts.
    Start,
    /// The pair may talk again.
    Heal(u8),
    /// Own views are the truth again.
    Truth,
}

type Due = Reverse<(u64, u64, u8, u64, What)>;

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) net: Net,
    pub(crate) chance: Chance,
    pub(crate) generation: u64,
    pub(crate) dead: BTreeSet<u16>,
    pub(crate) broken: Option<Broken>,
    pub(crate) terms: BTreeSet<(u64, u8, u64)>,
    /// Orders that engines are at, with the answer when it is known.
    work: BTreeMap<(u8, u64, u64), (Order, Option<lb_userspace::group::Answer>)>,
    images: BTreeMap<u8, Vec<lb_userspace::group::SlotImage>>,
    queue: BinaryHeap<Due>,
    count: u64,
    /// Backends that some verdict called dead.
    pub(crate) judged: BTreeSet<u64>,
    /// Halves may have changed their slots each for itself.
    pub(crate) split: bool,
    /// Slots that were about to retire when they parted.
    pub(crate) halfway: BTreeSet<u16>,
}

impl World {
    pub(crate) fn new(nodes: u8, seed: u64) -> Self {
        let mut world = Self {
            now: 1_000,
            nodes: (0..nodes).map(Node::new).collect(),
            net: Net::default(),
            chance: Chance(seed),
            generation: 1,
            dead: BTreeSet::new(),
            broken: None,
            terms: BTreeSet::new(),
            work: BTreeMap::new(),
            images: BTreeMap::new(),
            queue: BinaryHeap::new(),
            count: 0,
            judged: BTreeSet::new(),
            split: false,
            halfway: BTreeSet::new(),
        };
        for node in 0..nodes {
            world.after(node, 0, What::Start);
        }
        world
    }

    pub(crate) fn after(&mut self, node: u8, delay: u64, what: What) {
        self.count += 1;
        let starts = self.nodes[usize::from(node)].starts;
        self.queue
            .push(Reverse((self.now + delay, self.count, node, starts, what)));
    }

    /// # Errors
    /// What is wrong.
    pub(crate) fn run(&mut self, until: u64) -> Result<(), String> {
        while let Some(Reverse((at, ..))) = self.queue.peek()
            && *at <= until
        {
            let Reverse((at, _, node, starts, what)) = self.queue.pop().expect("few of them");
            self.now = self.now.max(at);
            let is_for_anyone = matches!(what, What::Start | What::Heal(_) | What::Charter(_) | What::Truth);
            if is_for_anyone || self.nodes[usize::from(node)].starts == starts {
                self.step(node, what);
                if rules::is_whole(self) {
                    self.split = false;
                    self.halfway.clear();
                    self.nodes.iter_mut().for_each(|node| node.engine.buried.clear());
                }
                rules::check(self)?;
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    fn step(&mut self, n: u8, what: What) {
        let i = usize::from(n);
        let Some(what) = self.around(n, what) else { return };
        let generation = self.generation;
        let now = self.now;
        let input = match what {
            What::Tick => {
                for input in self.nodes[i].report(generation, now) {
                    self.input(n, input);
                }
                self.after(n, 50, What::Tick);
                None
            }
            What::Message { from, session, bytes } => Some(Input::Message {
                peer: from,
                session,
                bytes,
            }),
            What::Up { peer, session } => {
                let delay = self.chance.within(5, 80);
                self.after(n, delay, What::Synced { peer, session });
                Some(Input::Up { peer, session })
            }
            What::Down { peer, session } => Some(Input::Down { peer, session }),
            What::Alive { peer } => {
                self.nodes[i].dropped.remove(&peer);
                Some(Input::Alive { peer })
            }
            What::Dead { peer } => self
                .net
                .session(n, peer)
                .is_none()
                .then_some(Input::Dead { peer }),
            What::Synced { peer, session } => {
                (self.net.session(n, peer) == Some(session)).then_some(Input::Synced { peer })
            }
            What::Answer(ticket) => {
                let key = (n, self.nodes[i].starts, ticket);
                let answer = self.work.remove(&key).and_then(|(_, answer)| answer);
                answer.map(|answer| Input::Answered { ticket, answer })
            }
            What::Snapshot => Some(Input::Snapshot {
                images: self.nodes[i].engine.images(),
                slots: self.nodes[i].engine.all(),
            }),
            What::Installed => Some(self.installed(n)),
            What::HandedOver => Some(Input::HandedOver),
            _ => None,
        };
        match input {
            Some(input) => self.input(n, input),
            None => {
                if let Some(machine) = &mut self.nodes[i].machine {
                    machine.handle_timeout(mono(now));
                }
                self.drain(n);
            }
        }
    }

    /// What happens to the node, not to its machine.
    fn around(&mut self, n: u8, what: What) -> Option<What> {
        let i = usize::from(n);
        match what {
            What::Start => self.start(n),
            What::Heal(peer) => {
                if self
                    .net
                    .cut
                    .get(&pair(n, peer))
                    .is_some_and(|until| *until <= self.now)
                {
                    self.net.cut.remove(&pair(n, peer));
                    self.connect(n, peer);
                }
            }
            What::Charter(generation) => {
                let node = &mut self.nodes[i];
                node.engine.generation = node.engine.generation.max(generation);
            }
            What::Truth => {
                let dead = &self.dead;
                for b in 1..=BACKENDS {
                    let standing = if dead.contains(&b) {
                        Standing::Dead
                    } else {
                        Standing::Up
                    };
                    self.nodes[i].engine.views[usize::from(b)] = standing;
                }
            }
            What::Engine(ticket) => self.engine(n, ticket),
            other => return Some(other),
        }
        None
    }

    fn installed(&mut self, n: u8) -> Input {
        let images = self.images.remove(&n).unwrap_or_default();
        let now = self.now;
        if self.broken == Some(Broken::OwnRing) {
            let others = self.nodes.iter().filter(|node| node.ready && node.place != n);
            let slots = others.map(|node| node.engine.all()).next();
            return Input::Installed {
                slots: slots.unwrap_or_default(),
            };
        }
        let node = &mut self.nodes[usize::from(n)];
        node.install(&images, now);
        if self.broken == Some(Broken::OriginsTold) {
            let origins = node
                .engine
                .slots
                .iter()
                .map(|slot| Slot::untracked(slot.origin()));
            node.engine.slots = origins.collect();
        }
        Input::Installed {
            slots: node.engine.all(),
        }
    }

    pub(crate) fn input(&mut self, n: u8, input: Input) {
        let now = mono(self.now);
        if let Some(machine) = &mut self.nodes[usize::from(n)].machine {
            machine.handle(input, now);
        }
        self.drain(n);
    }

    fn engine(&mut self, n: u8, ticket: u64) {
        let (now, random, broken) = (self.now, self.chance.word(), self.broken);
        let node = &mut self.nodes[usize::from(n)];
        let Some((order, answer)) = self.work.get_mut(&(n, node.starts, ticket)) else {
            return;
        };
        let is_late = broken == Some(Broken::EarlyAnswer) && matches!(order, Order::Retire(_));
        if node.ticket != ticket && !is_late {
            return;
        }
        let mut result = node.engine.obey(order, now, random, broken);
        if broken == Some(Broken::Abandon)
            && let lb_userspace::group::Answer::Progress(progress) = &mut result
        {
            use lb_userspace::group::Progress;
            for one in progress {
                if let Progress::Retired(cell) = *one {
                    *one = Progress::Closed(cell);
                }
            }
        }
        if !is_late {
            *answer = Some(result);
            let delay = self.chance.within(0, 3);
            self.after(n, delay, What::Answer(ticket));
        }
    }

    fn drain(&mut self, n: u8) {
        let i = usize::from(n);
        while let Some(action) = self.nodes[i].machine.as_mut().and_then(|m| m.poll()) {
            let now = self.now;
            self.nodes[i].note(&action, now);
            match action {
                Action::Send { peer, bytes } => {
                    if let Some(session) = self.net.session(n, peer) {
                        let from = n;
                        self.arrive(n, peer, What::Message { from, session, bytes });
                    }
                }
                Action::Do { ticket, order } => self.hire(n, ticket, order),
                Action::NeedSnapshot => {
                    let delay = self.chance.within(1, 10);
                    self.after(n, delay, What::Snapshot);
                }
                Action::Install(images) => {
                    self.images.insert(n, images);
                    let delay = self.chance.within(1, 20);
                    self.after(n, delay, What::Installed);
                }
                Action::HandOver => self.after(n, 10, What::HandedOver),
                Action::Told(Event::Coordinates { term }) => {
                    let is_new = self.terms.insert((term, n, self.nodes[i].starts));
                    assert!(is_new, "one term twice");
                }
                Action::Left => self.leave(n),
                Action::Told(Event::Founded(_)) => {
                    let others = self.nodes.iter().any(|node| node.forwards && node.place != n);
                    self.nodes[i].made_up |= others && !self.nodes[i].forwards;
                }
                Action::Verdict(verdict) => self.judged.extend(&verdict.dead),
                // Cut apart for longer than `withdraw_after`.
                Action::Told(Event::Gone {
                    node,
                    how: Gone::Silent,
                }) => {
                    self.split |=
                        self.nodes[usize::from(node)].forwards && self.net.session(n, node).is_none();
                    let is_closing = |slot: &u16| {
                        let mut slots = self
                            .nodes
                            .iter()
                            .map(|node| node.engine.slots[usize::from(*slot)]);
                        slots.any(Slot::is_closing)
                    };
                    self.halfway.extend((0..SLOTS).filter(is_closing));
                    if self.broken == Some(Broken::Forget) {
                        self.input(n, Input::Forget { peer: node });
                    }
                }
                _ => {}
            }
        }
    }

    fn hire(&mut self, n: u8, ticket: u64, order: Order) {
        let node = &mut self.nodes[usize::from(n)];
        node.ticket = ticket;
        let starts = node.starts;
        let is_early = self.broken == Some(Broken::EarlyAnswer) && matches!(order, Order::Retire(_));
        let done = is_early.then_some(lb_userspace::group::Answer::Done);
        self.work.insert((n, starts, ticket), (order, done));
        if is_early {
            let delay = self.chance.within(300, 900);
            self.after(n, delay, What::Engine(ticket));
            let order = self.work[&(n, starts, ticket)].0.clone();
            self.after(n, 1, What::Answer(ticket));
            // The answer takes the work away; the engine still has it.
            self.work.insert((n, starts, ticket | 1 << 63), (order, None));
            self.after(n, delay, What::Engine(ticket | 1 << 63));
        } else {
            let delay = self.chance.within(1, 25);
            self.after(n, delay, What::Engine(ticket));
        }
    }

    /// In order, after a while.
    fn arrive(&mut self, from: u8, to: u8, what: What) {
        let at =
            (self.now + self.chance.within(1, 8)).max(self.net.last.get(&(from, to)).copied().unwrap_or(0));
        self.net.last.insert((from, to), at);
        self.after(to, at - self.now, what);
    }

    fn start(&mut self, n: u8) {
        let nodes = u8::try_from(self.nodes.len()).expect("few of them");
        let node = &mut self.nodes[usize::from(n)];
        if node.machine.is_some() {
            return;
        }
        node.start(nodes, self.generation, self.now);
        self.after(n, 1, What::Tick);
        // Who forwards nothing may be out of reach for longer than `withdraw_after`, and founds no group of its own.
        let is_lost = !self.nodes[usize::from(n)].forwards && self.chance.within(0, 4) == 0;
        for peer in (0..nodes).filter(|&peer| peer != n) {
            if is_lost && self.now > 1_000 {
                let length = self.chance.within(3_000, 5_500);
                let until = self.net.cut.entry(pair(n, peer)).or_default();
                *until = (*until).max(self.now + length);
                self.after(n, length, What::Heal(peer));
            }
            self.connect(n, peer);
        }
    }

    pub(crate) fn connect(&mut self, a: u8, b: u8) {
        let is_up = |n: u8| self.nodes[usize::from(n)].machine.is_some();
        if !is_up(a)
            || !is_up(b)
            || self.net.cut.contains_key(&pair(a, b))
            || self.net.session(a, b).is_some()
        {
            return;
        }
        let session = self.net.connect(a, b);
        for (to, peer) in [(a, b), (b, a)] {
            self.arrive(peer, to, What::Alive { peer });
            self.arrive(peer, to, What::Up { peer, session });
        }
    }

    /// The session breaks; what is under way is lost. `is_dead`: heartbeats stay away too.
    pub(crate) fn disconnect(&mut self, a: u8, b: u8, is_dead: bool) {
        let Some(session) = self.net.up.remove(&pair(a, b)) else {
            return;
        };
        for (to, peer) in [(a, b), (b, a)] {
            let delay = self.chance.within(1, 60);
            self.after(to, delay, What::Down { peer, session });
            if is_dead {
                self.after(to, 60, What::Dead { peer });
            }
            self.net.last.insert((peer, to), self.now + 61);
        }
    }

    pub(crate) fn disconnect_all(&mut self, n: u8) {
        for peer in (0..u8::try_from(self.nodes.len()).expect("few of them")).filter(|&peer| peer != n) {
            self.disconnect(n, peer, true);
        }
    }

    fn leave(&mut self, n: u8) {
        let now = self.now;
        self.nodes[usize::from(n)].power_off(now);
        self.disconnect_all(n);
        let delay = self.chance.within(200, 3_000);
        self.after(n, delay, What::Start);
    }
}
