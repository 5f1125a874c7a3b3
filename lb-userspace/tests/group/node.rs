//! One node: what survives its agent, and the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_userspace::group::{
    Action, Event, Gone, Input, Local, Machine, Nodes, Settings, SlotImage, Start, View,
};
use lb_userspace::health::Mono;

use crate::engine::Engine;

pub(crate) fn mono(ms: u64) -> Mono {
    Mono::from_unix(Duration::from_millis(ms))
}

pub(crate) struct Node {
    pub(crate) place: u8,
    pub(crate) machine: Option<Machine>,
    /// Counts the agent's starts: what was meant for an earlier one is void.
    pub(crate) starts: u64,
    pub(crate) engine: Engine,
    /// Packets are forwarded by `engine.slots`.
    pub(crate) forwards: bool,
    pub(crate) ready: bool,
    pub(crate) left: bool,
    /// Its slots are none of those by which others forward: it had none, and heard nobody.
    pub(crate) made_up: bool,
    /// The last thing that the engine was told to do.
    pub(crate) ticket: u64,
    pub(crate) local: Option<Local>,
    pub(crate) views: Option<Vec<View>>,
    pub(crate) charter: Option<bool>,
    pub(crate) members: Nodes,
    /// How often this agent has dropped others for their silence since it heard them.
    pub(crate) dropped: BTreeMap<u8, u32>,
    pub(crate) log: Vec<(u64, String)>,
}

/// Times of the tests: withdrawn after four seconds.
pub(crate) fn settings(me: u8, nodes: u8) -> Settings {
    Settings {
        me,
        nodes,
        key: 0,
        withdraw_after: Duration::from_secs(4),
        join_within: Duration::from_secs(9),
        pause: Duration::from_millis(200),
        leave_after: Duration::from_millis(100),
        max_tracked: Duration::from_hours(24),
    }
}

impl Node {
    pub(crate) fn new(place: u8) -> Self {
        Self {
            place,
            machine: None,
            starts: 0,
            engine: Engine::new(1),
            forwards: false,
            ready: false,
            left: false,
            made_up: false,
            ticket: 0,
            local: None,
            views: None,
            charter: None,
            members: Nodes::default(),
            dropped: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    pub(crate) fn start(&mut self, nodes: u8, generation: u64, now: u64) {
        self.starts += 1;
        let kept = self.forwards;
        if kept {
            self.engine.restart(generation, now);
        } else {
            let views = self.engine.views.clone();
            self.engine = Engine::new(generation);
            self.engine.views = views;
        }
        let start = Start {
            epoch: self.starts << 8 | u64::from(self.place),
            kept,
        };
        self.machine = Some(Machine::new(settings(self.place, nodes), start, mono(now)));
        (self.ready, self.left, self.ticket) = (false, false, 0);
        (self.local, self.views, self.charter) = (None, None, None);
        self.members = Nodes::default();
        self.dropped.clear();
        self.log.push((now, format!("agent starts, kept {kept}")));
    }

    /// The agent dies; packets go on.
    pub(crate) fn crash(&mut self, now: u64) {
        self.machine = None;
        self.ready = false;
        self.log.push((now, "agent dies".to_owned()));
    }

    pub(crate) fn power_off(&mut self, now: u64) {
        self.crash(now);
        self.forwards = false;
        self.made_up = false;
        self.log.push((now, "power is off".to_owned()));
    }

    /// What the engine has to say.
    pub(crate) fn report(&mut self, generation: u64, now: u64) -> Vec<Input> {
        self.engine.suspect(now);
        let (local, views) = (self.engine.local(now), self.engine.views());
        let charter = self.engine.generation == generation;
        let mut inputs = Vec::new();
        if self.local.as_ref() != Some(&local) {
            self.local = Some(local.clone());
            inputs.push(Input::Local(local));
        }
        if self.views.as_ref() != Some(&views) {
            self.views = Some(views.clone());
            inputs.push(Input::Views(views));
        }
        if self.charter != Some(charter) {
            self.charter = Some(charter);
            inputs.push(Input::CharterEqual(charter));
        }
        inputs
    }

    pub(crate) fn install(&mut self, images: &[SlotImage], now: u64) {
        self.engine.install(images, now);
        self.made_up = false;
    }

    pub(crate) fn note(&mut self, action: &Action, now: u64) {
        match action {
            Action::Send { .. } => {}
            Action::Told(event) => self.log.push((now, format!("{event:?}"))),
            other => self.log.push((now, format!("{other:?}"))),
        }
        match action {
            Action::Members(members) => self.members = *members,
            Action::Ready(ready) => {
                self.ready = ready.is_ok();
                self.forwards |= self.ready;
            }
            Action::Left => self.left = true,
            Action::Told(Event::Gone {
                node,
                how: Gone::Silent,
            }) => *self.dropped.entry(*node).or_default() += 1,
            _ => {}
        }
    }
}
