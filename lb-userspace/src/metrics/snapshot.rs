//! What is told, as plain values.

use std::sync::Arc;
use std::time::Duration;

use lb_common::pick::By;
use lb_common::stats::Counter;
use lb_common::stop::Stop;
use prometheus::proto::MetricFamily;

use crate::api::sync::Shown;
use crate::health::task;
use crate::net::Traffic;
use crate::peer::View;
use crate::state::standing::{Standing, Standings};
use crate::state::track::Census;
use crate::state::wall::Wall;

/// Everything at one moment. A part that could not be collected is `None`.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Which agent this is.
    pub build: Build,
    /// What the maps hold.
    pub maps: Option<Programmed>,
    /// Interfaces that the program is attached to.
    pub interfaces: Option<Vec<Interface>>,
    /// What the checks know.
    pub health: Option<task::Snapshot>,
    /// What is known of the other nodes.
    pub peers: Arc<View>,
    /// What flow records are doing, where the nodes talk.
    pub records: Option<Shown>,
    /// What the agent says.
    pub told: Told,
    /// What the process counts: families that are ready.
    pub own: Vec<MetricFamily>,
    /// How long it took to collect all this.
    pub took: Duration,
}

/// Which agent this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// The beginning of the hash of its programs.
    pub object: String,
}

/// What the agent alone knows, sent by its loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// The node's name.
    pub node: String,
    /// Number of the configuration that should be in force.
    pub generation: u64,
    /// What was written.
    pub work: Work,
    /// What became of configurations.
    pub loads: Loads,
    /// Tracked slots and the flow table.
    pub census: Census,
    /// What each backend may get, all views together.
    pub standings: Standings,
    /// How it stands to its group's configuration; `None` in no group.
    pub charter: Option<Charter>,
    /// Whether it may attract traffic.
    pub ready: bool,
    /// How its group runs; `None` in no group.
    pub group: Option<Group>,
}

/// How a group runs, as one of its nodes sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Members.
    pub members: u32,
    /// Those of them that can be reached, this node among them.
    pub live: u32,
    /// This node gives the orders.
    pub coordinates: bool,
    /// What it has under way, by its name in [`crate::group::Status`].
    pub phase: Option<&'static str>,
    /// Members whose answers are missing.
    pub waits_for: u32,
    /// For how long.
    pub waiting: Duration,
    /// Who is no member and may forward all the same.
    pub adrift: u32,
    /// This node has tried to join for longer than it should.
    pub join_overdue: bool,
    /// How often what has happened, every event by its name.
    pub events: Vec<(&'static str, u64)>,
}

/// How a node stands to its group's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charter {
    /// Number of the generation; 0 = nothing was agreed on.
    pub generation: u64,
    /// One waits for a decision.
    pub pending: bool,
    /// All live peers have the same.
    pub equal: bool,
    /// This node runs it.
    pub in_force: bool,
    /// This node's file says something else.
    pub drift: bool,
    /// Messages of peers about it that could not be read.
    pub malformed: u64,
}

/// What an agent has written since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Rings that were computed.
    pub rings: u64,
    /// Writes to maps.
    pub writes: u64,
    /// Slots that changed.
    pub slots: u64,
    /// The last attempt went through.
    pub in_step: bool,
}

/// What became of the configurations that were given since the agent started, the first one included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// Those that were accepted.
    pub applied: u64,
    /// Those that were not.
    pub refused: u64,
    /// The last one was.
    pub last_applied: bool,
    /// When the last one that was.
    pub applied_at: Wall,
}

impl Loads {
    /// One was accepted.
    pub fn applied(&mut self, now: Wall) {
        self.applied += 1;
        self.last_applied = true;
        self.applied_at = now;
    }

    /// One was not.
    pub fn refused(&mut self) {
        self.refused += 1;
        self.last_applied = false;
    }
}

/// What the pinned maps hold.
#[derive(Clone, Debug, Default)]
pub struct Programmed {
    /// Number of the configuration.
    pub generation: u64,
    /// When it was applied, seconds since 1970.
    pub applied_at: u64,
    /// VIPs.
    pub vips: Vec<Vip>,
    /// Backends.
    pub backends: Vec<Backend>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Packets that stopped.
    pub stops: Vec<(Stop, Counter)>,
    /// Packets in tracked slots.
    pub picks: Vec<(By, Counter)>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct Vip {
    /// As people write it: `192.0.2.1:80/tcp`.
    pub name: String,
    /// Its pool's name.
    pub pool: String,
    /// What was forwarded.
    pub counter: Counter,
}

/// A backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its pool's name.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Stable identity.
    pub id: u64,
    /// Configured weight.
    pub weight: u16,
    /// Packets can be sent there.
    pub reachable: bool,
    /// Slots that new flows reach it by.
    pub slots: u32,
    /// What was sent.
    pub counter: Counter,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Backends that it has.
    pub backends: u32,
    /// Its slots.
    pub slots: Slots,
}

/// Slots of a ring by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// No backend.
    pub empty: u32,
    /// Tracked, closing ones included.
    pub tracked: u32,
    /// Closing.
    pub closing: u32,
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How, in a word.
    pub mode: &'static str,
    /// What the kernel says of it; nothing where it has just gone.
    pub traffic: Option<Traffic>,
}

impl Told {
    /// What a backend may get.
    pub fn standing(&self, id: u64) -> Standing {
        self.standings.of(id)
    }
}
