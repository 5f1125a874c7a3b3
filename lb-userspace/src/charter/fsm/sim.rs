//! A group in virtual time: sessions that break, nodes that crash between any two things that they do, operators who all want
//! something at once. One seed is one history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::{AGAIN, Input, Kept, Machine, Output, PATIENCE, Save, Why};
use crate::charter::message::{Charter, Held, Message};
use crate::group::Generation;
use crate::health::Mono;

/// SplitMix64.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.roll(times) == 0
    }
}

/// What is done wrong on purpose.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// Nobody is a member but the proposer itself.
    pub(super) alone: bool,
    /// What was accepted isn't written to disk.
    pub(super) forgets_pending: bool,
    /// A decision is told before it is on disk.
    pub(super) decides_in_memory: bool,
}

#[derive(Default)]
struct Node {
    machine: Option<Machine>,
    disk: Kept,
    in_force: Option<Held>,
}

pub(super) struct World {
    nodes: Vec<Node>,
    /// Both directions of sessions that are up.
    links: BTreeMap<(u8, u8), VecDeque<Vec<u8>>>,
    now: Mono,
    dice: Dice,
    fault: Fault,
    calls: u64,
    /// Calls that nobody has answered, by node.
    open: BTreeMap<u64, u8>,
    pub(super) answers: BTreeMap<u64, Result<Generation, Why>>,
    /// All that was ever committed anywhere, and what it said.
    pub(super) history: BTreeMap<Generation, Held>,
    /// One in so many outputs is a node's last.
    crashes: Option<usize>,
    /// How much rarer trouble is than it could be.
    calm: usize,
    pub(super) broken: Vec<String>,
}

impl World {
    pub(super) fn new(count: u8, seed: u64, fault: Fault) -> Self {
        let mut world = Self {
            nodes: (0..count).map(|_| Node::default()).collect(),
            links: BTreeMap::new(),
            now: Mono::default(),
            dice: Dice(seed),
            fault,
            calls: 0,
            open: BTreeMap::new(),
            answers: BTreeMap::new(),
            history: BTreeMap::new(),
            crashes: None,
            calm: 1,
            broken: Vec::new(),
        };
        (0..count).for_each(|node| world.start(node));
        world.heal();
        world
    }

    fn places(&self) -> Vec<u8> {
        (0..self.nodes.len())
            .map(|node| u8::try_from(node).unwrap())
            .collect()
    }

    fn members(&self, me: u8) -> BTreeSet<u8> {
        if self.fault.alone {
            BTreeSet::from([me])
        } else {
            self.places().into_iter().collect()
        }
    }

    fn node(&mut self, at: u8) -> &mut Node {
        &mut self.nodes[usize::from(at)]
    }

    fn is_up(&self, at: u8) -> bool {
        self.nodes[usize::from(at)].machine.is_some()
    }

    fn start(&mut self, at: u8) {
        if self.is_up(at) {
            return;
        }
        let (members, now) = (self.members(at), self.now);
        let kept = self.node(at).disk.clone();
        let (machine, outputs) = Machine::new(at, members, kept.clone(), 7, now);
        let node = self.node(at);
        node.machine = Some(machine);
        node.in_force = kept.committed;
        self.run(at, outputs);
    }

    pub(super) fn crash(&mut self, at: u8) {
        if !self.is_up(at) {
            return;
        }
        let node = self.node(at);
        node.machine = None;
        self.open.retain(|_, node| *node != at);
        for peer in self.places() {
            self.cut(at, peer);
        }
    }

    pub(super) fn cut(&mut self, a: u8, b: u8) {
        if self.links.remove(&(a, b)).is_some() {
            self.links.remove(&(b, a));
            self.give(a, Input::Down(b));
            self.give(b, Input::Down(a));
        }
    }

    fn join(&mut self, a: u8, b: u8) {
        if a != b && self.is_up(a) && self.is_up(b) && !self.links.contains_key(&(a, b)) {
            self.links.insert((a, b), VecDeque::new());
            self.links.insert((b, a), VecDeque::new());
            self.give(a, Input::Up(b));
            self.give(b, Input::Up(a));
        }
    }

    /// All nodes run, all sessions are up, and nobody crashes any more.
    pub(super) fn heal(&mut self) {
        self.crashes = None;
        for at in self.places() {
            self.start(at);
        }
        for a in self.places() {
            for b in self.places() {
                self.join(a, b);
            }
        }
    }

    pub(super) fn apply(&mut self, at: u8, text: &str) -> Option<u64> {
        if !self.is_up(at) {
            return None;
        }
        self.calls += 1;
        let call = self.calls;
        self.open.insert(call, at);
        let charter = Charter {
            text: format!("{text} {call}"),
            ..Charter::default()
        };
        self.give(at, Input::Apply { call, charter });
        Some(call)
    }

    /// Gives a node an input, and does all that it says.
    fn give(&mut self, at: u8, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.now;
            let Some(machine) = &mut self.node(at).machine else {
                return;
            };
            let outputs = machine.handle(now, input);
            inputs.extend(self.run(at, outputs));
        }
    }

    fn run(&mut self, at: u8, outputs: Vec<Output>) -> Vec<Input> {
        let mut inputs = Vec::new();
        for output in outputs {
            if !self.is_up(at) {
                return Vec::new();
            }
            inputs.extend(self.act(at, output));
            if let Some(times) = self.crashes
                && self.dice.once_in(times)
            {
                self.crash(at);
                return Vec::new();
            }
        }
        inputs
    }

    fn act(&mut self, at: u8, output: Output) -> Option<Input> {
        match output {
            Output::Send { to, message } => {
                if let Some(channel) = self.links.get_mut(&(at, to)) {
                    channel.push_back(message.encode());
                }
                None
            }
            Output::Validate(held) => {
                let is_bad = held.charter.text.starts_with(&format!("bad for {at}"));
                let verdict = if is_bad { Err("no".to_owned()) } else { Ok(()) };
                let generation = held.generation;
                Some(Input::Validated { generation, verdict })
            }
            Output::Persist(save) => self.write(at, save),
            Output::PutIntoForce(held) => {
                self.know(&held);
                let node = self.node(at);
                let older = node
                    .in_force
                    .as_ref()
                    .is_some_and(|old| old.generation >= held.generation);
                node.in_force = Some(held);
                if older {
                    self.broken.push(format!("node {at} goes back"));
                }
                None
            }
            Output::Answer { call, answer } => {
                if let Ok(generation) = answer {
                    self.check_everywhere(generation);
                }
                self.open.remove(&call);
                if self.answers.insert(call, answer).is_some() {
                    self.broken.push(format!("call {call} was answered twice"));
                }
                None
            }
            Output::Told(_) => None,
        }
    }

    fn write(&mut self, at: u8, save: Save) -> Option<Input> {
        let fault = self.fault;
        let disk = &mut self.node(at).disk;
        let (generation, committed) = match save {
            Save::Pending(held) => {
                disk.last = held.generation.number;
                let generation = held.generation;
                disk.pending = (!fault.forgets_pending).then_some(held);
                (generation, false)
            }
            Save::Dropped { last } => {
                (disk.last, disk.pending) = (last, None);
                return None;
            }
            Save::Committed(held) => {
                let generation = held.generation;
                if !fault.decides_in_memory {
                    disk.committed = Some(held.clone());
                    disk.pending = None;
                }
                self.know(&held);
                (generation, true)
            }
        };
        let done = Ok(());
        Some(Input::Persisted {
            generation,
            committed,
            done,
        })
    }

    /// Never two under one generation.
    fn know(&mut self, held: &Held) {
        let known = self
            .history
            .entry(held.generation)
            .or_insert_with(|| held.clone());
        if known != held {
            self.broken
                .push(format!("two charters under {:?}", held.generation));
        }
    }

    /// An operator's Ok means that every member has it on disk.
    fn check_everywhere(&mut self, generation: Generation) {
        let has = |held: &Option<Held>| held.as_ref().is_some_and(|held| held.generation == generation);
        for (at, node) in self.nodes.iter().enumerate() {
            if !has(&node.disk.committed) && !has(&node.disk.pending) {
                self.broken.push(format!(
                    "{generation:?} was answered, and node {at} doesn't have it"
                ));
            }
        }
    }

    fn deliver(&mut self, from: u8, to: u8) {
        let Some(bytes) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) else {
            return;
        };
        let message = Message::decode(&bytes).unwrap();
        self.give(to, Input::Message { from, message });
    }

    fn busy_links(&self) -> Vec<(u8, u8)> {
        let busy = self.links.iter().filter(|(_, channel)| !channel.is_empty());
        busy.map(|(&link, _)| link).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for at in self.places() {
            self.give(at, Input::Tick);
        }
    }

    /// Delivers in any order until nothing is on its way.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let busy = self.busy_links();
            if busy.is_empty() {
                return;
            }
            let (from, to) = busy[self.dice.roll(busy.len())];
            self.deliver(from, to);
        }
        self.broken.push("it never comes to rest".to_owned());
    }

    /// Delivers so many messages, in any order.
    pub(super) fn step(&mut self, count: usize) {
        for _ in 0..count {
            let busy = self.busy_links();
            if busy.is_empty() {
                return;
            }
            let (from, to) = busy[self.dice.roll(busy.len())];
            self.deliver(from, to);
        }
    }

    /// One thing that may happen.
    pub(super) fn happen(&mut self) {
        let places = self.places();
        let a = places[self.dice.roll(places.len())];
        let b = places[self.dice.roll(places.len())];
        match self.dice.roll(40) {
            0..=21 => self.step(1),
            22..=25 => self.pass(AGAIN / 2),
            26 => self.pass(PATIENCE / 3),
            27..=29 => {
                self.apply(a, "good");
            }
            30 => {
                self.apply(a, &format!("bad for {b}"));
            }
            31 | 32 if self.dice.once_in(self.calm) => self.cut(a, b),
            33 if self.dice.once_in(self.calm) => self.crash(a),
            31..=33 => self.step(1),
            34 | 35 => self.start(a),
            _ => self.join(a, b),
        }
    }

    /// Whatever may happen, so many times; then all is well again, and everything that must hold is looked at.
    pub(super) fn live(&mut self, times: usize, calm: usize) {
        self.calm = calm;
        for _ in 0..times {
            // Sessions that come back and outputs that are the last ones.
            self.crashes = Some(60 * calm);
            self.happen();
        }
        self.heal();
        for _ in 0..60 {
            self.settle();
            self.pass(AGAIN);
        }
        self.settle();
        self.check();
    }

    /// What must hold when all is well.
    pub(super) fn check(&mut self) {
        let mut wrong = Vec::new();
        let newest = self.history.keys().next_back().copied().unwrap_or_default();
        for (at, node) in self.nodes.iter().enumerate() {
            let machine = node.machine.as_ref().unwrap();
            if machine.generation() != newest {
                wrong.push(format!(
                    "node {at} has {:?}, not {newest:?}",
                    machine.generation()
                ));
            }
            if !machine.is_equal() || machine.pending().is_some() {
                wrong.push(format!("node {at} has not settled: {machine:?}"));
            }
            let held = node
                .in_force
                .as_ref()
                .map(|held| held.generation)
                .unwrap_or_default();
            if held != newest || node.disk.committed != node.in_force {
                wrong.push(format!("node {at} runs {held:?}"));
            }
        }
        wrong.extend(self.open.keys().map(|call| format!("call {call} has no answer")));
        // Each committed one is on the way to the newest: none was lost.
        let mut chain = BTreeSet::new();
        let mut at = newest;
        while let Some(held) = self.history.get(&at) {
            chain.insert(at);
            at = held.base;
        }
        let lost = self
            .history
            .keys()
            .filter(|generation| !chain.contains(generation));
        wrong.extend(lost.map(|generation| format!("{generation:?} was committed and is lost")));
        for (call, answer) in &self.answers {
            let stays = |held: &&Held| held.charter.text.ends_with(&format!(" {call}"));
            let stays = self.history.values().find(stays).map(|held| held.generation);
            if answer.as_ref().ok() != stays.as_ref() {
                wrong.push(format!("call {call} was told {answer:?}, and {stays:?} stays"));
            }
        }
        self.broken.extend(wrong);
    }

    pub(super) fn link(&mut self, a: u8, b: u8) {
        self.join(a, b);
    }

    pub(super) fn restart(&mut self, at: u8) {
        self.start(at);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.pass(AGAIN);
            self.settle();
        }
    }

    pub(super) fn machine(&self, at: u8) -> &Machine {
        self.nodes[usize::from(at)].machine.as_ref().unwrap()
    }

    pub(super) fn withdraw(&mut self, gone: u8) {
        let members: BTreeSet<u8> = self.places().into_iter().filter(|at| *at != gone).collect();
        for at in self.places() {
            self.give(at, Input::Members(members.clone()));
        }
    }
}
