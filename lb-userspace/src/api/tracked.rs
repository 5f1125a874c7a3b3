//! `GET /v1/tracked`: the tracked slots, and what holds each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::flow::{CLOSED, CONFIRMED, Entry, Key, PROBATION};
use lb_common::header::proto;
use lb_common::info::untext;
use lb_common::retire::Hold;
use lb_common::slot::{CLOSING, NO_BACKEND, SLOTS, TRACKED, UDP_LEARN};
use lb_common::tick::Tick;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::state::contents::Contents;
use crate::state::track::{Held, Why};

/// So many slots are told one by one where nothing else is asked for.
pub const LIMIT_DEFAULT: usize = 65_536;

/// The most slots in one answer.
pub const LIMIT_MAX: usize = 131_072;

/// Which tracked slots are wanted.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Only those of this pool.
    pub pool: Option<String>,
    /// At most so many one by one, 0 to 131,072; 65,536 where absent. They are counted in any case.
    pub limit: Option<usize>,
}

/// The tracked slots.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tracked {
    /// By pool, in the order of names.
    pub pools: Vec<PoolTracked>,
    /// One by one, by pool and number.
    pub slots: Vec<TrackedSlot>,
    /// How many more there are than `slots` names.
    pub more: usize,
}

/// The tracked slots of one pool, counted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolTracked {
    /// The pool's name.
    pub pool: String,
    /// How many slots are tracked.
    pub tracked: u32,
    /// Their share of the pool's 65,536 slots, percent.
    pub share: f64,
    /// How many by the reason that holds them, named as in [`Reason`].
    pub reasons: BTreeMap<String, u32>,
}

/// A tracked slot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TrackedSlot {
    /// The pool's name.
    pub pool: String,
    /// The slot's number in the pool's ring, 0 to 65,535.
    pub slot: u32,
    /// Where new flows go, `pool/backend`; nothing where there is no backend.
    pub current: Option<String>,
    /// Where flows without an entry are.
    pub origin: Option<String>,
    /// The origin before the last retirement.
    pub previous: Option<String>,
    /// `tracked`, `closing`, `udp_learn`.
    pub flags: Vec<String>,
    /// For how long it has been tracked, as far as this agent knows, seconds.
    pub tracked_s: f64,
    /// Why it still is.
    pub why: Reason,
}

/// Why a slot is still tracked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// Its planned change has been prepared and takes effect in a moment.
    Prepared,
    /// It changed after the last sweep of the flow table began, so nobody knows yet.
    Unswept,
    /// Nothing holds it: it retires after the next sweep.
    Closing,
    /// Nothing holds it on this node: it retires when all members say the same.
    Ready,
    /// UDP flows are still being learned.
    Learning,
    /// New flows go to another backend here than the slot is to retire to.
    OtherCurrent,
    /// It changed less than the idle timeout ago.
    Changed {
        /// Seconds that are left.
        left_s: f64,
    },
    /// Somebody used `origin` less than the idle timeout ago, and it is too early to tell whether that was a living
    /// flow.
    Seen {
        /// Seconds that are left.
        left_s: f64,
    },
    /// A living flow without an entry used `origin` less than twice the idle timeout ago.
    Stamped {
        /// Seconds that are left.
        left_s: f64,
    },
    /// Entries name another backend than `current`.
    Elsewhere {
        /// How many.
        entries: u32,
        /// One of them.
        example: Option<Example>,
    },
}

impl Reason {
    /// In a word, as in JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Unswept => "unswept",
            Self::Closing => "closing",
            Self::Ready => "ready",
            Self::Learning => "learning",
            Self::OtherCurrent => "other_current",
            Self::Changed { .. } => "changed",
            Self::Seen { .. } => "seen",
            Self::Stamped { .. } => "stamped",
            Self::Elsewhere { .. } => "elsewhere",
        }
    }

    /// Seconds until it no longer holds a slot, where that is known.
    pub const fn left(&self) -> Option<f64> {
        match self {
            Self::Changed { left_s } | Self::Seen { left_s } | Self::Stamped { left_s } => Some(*left_s),
            _ => None,
        }
    }
}

/// A flow that holds a slot.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Example {
    /// The flow.
    pub flow: FlowName,
    /// The backend that it is pinned to, `pool/backend`.
    pub backend: Option<String>,
    /// `probation`, `confirmed`, `closed`.
    pub state: String,
    /// Since when no packet of it came, seconds.
    pub idle_s: f64,
}

/// A flow by its ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
pub struct FlowName {
    /// The client, `address:port`.
    pub client: String,
    /// The VIP, `address:port`.
    pub vip: String,
    /// `tcp`, `udp`.
    pub protocol: String,
}

impl From<&Key> for FlowName {
    fn from(key: &Key) -> Self {
        let end = |addr, port| SocketAddr::new(IpAddr::from(addr), port).to_string();
        Self {
            client: end(key.src, key.sport.get()),
            vip: end(key.dst, key.dport.get()),
            protocol: match key.proto {
                proto::TCP => "tcp".to_owned(),
                proto::UDP => "udp".to_owned(),
                other => format!("#{other}"),
            },
        }
    }
}

/// The name of an entry's state.
pub fn state(state: u8) -> String {
    match state {
        PROBATION => "probation".to_owned(),
        CONFIRMED => "confirmed".to_owned(),
        CLOSED => "closed".to_owned(),
        other => format!("#{other}"),
    }
}

/// Seconds, with one digit: as exact as the clock of the flow table, a fifteenth of one.
pub fn seconds(ticks: u32) -> f64 {
    let seconds = f64::from(ticks) * f64::from(1u32 << 26) / 1e9;
    (seconds * 10.0).round() / 10.0
}

/// The names of a slot's flags; bits without a name are left out.
pub fn flags(flags: u16) -> Vec<String> {
    let names = [
        (TRACKED, "tracked"),
        (CLOSING, "closing"),
        (UDP_LEARN, "udp_learn"),
    ];
    let set = names.iter().filter(|(bit, _)| flags & bit != 0);
    set.map(|(_, name)| (*name).to_owned()).collect()
}

/// What is told of `held`, by the names in `contents`: of one pool where `only` names it, and at most `limit` slots one
/// by one. Pools without tracked slots are named too.
pub fn tracked(held: &[Held], contents: &Contents, only: Option<&str>, limit: usize, now: Tick) -> Tracked {
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let pools = contents
        .pools
        .iter()
        .map(|(&index, pool)| (index, untext(&pool.name)));
    let names: BTreeMap<u16, &str> = pools.filter(|(_, name)| wanted(name)).collect();
    let mut held: Vec<&Held> = held
        .iter()
        .filter(|held| names.contains_key(&held.pool))
        .collect();
    held.sort_unstable_by_key(|held| (names[&held.pool], held.number));
    let mut counted: BTreeMap<&str, BTreeMap<String, u32>> =
        names.values().map(|name| (*name, BTreeMap::new())).collect();
    for held in &held {
        let reasons = counted.entry(names[&held.pool]).or_default();
        // Without the example, which takes time to write.
        let reason = reason(held, None).name().to_owned();
        *reasons.entry(reason).or_insert(0) += 1;
    }
    let told = held
        .iter()
        .take(limit)
        .map(|held| slot(held, names[&held.pool], contents, now));
    Tracked {
        pools: counted
            .into_iter()
            .map(|(pool, reasons)| count(pool, reasons))
            .collect(),
        slots: told.collect(),
        more: held.len().saturating_sub(limit),
    }
}

fn count(pool: &str, reasons: BTreeMap<String, u32>) -> PoolTracked {
    let tracked = reasons.values().sum();
    PoolTracked {
        pool: pool.to_owned(),
        tracked,
        share: f64::from(tracked) * 100.0 / SLOTS as f64,
        reasons,
    }
}

fn slot(held: &Held, pool: &str, contents: &Contents, now: Tick) -> TrackedSlot {
    let backend = |index| backend(index, contents);
    let example = held.example.as_ref().map(|(key, entry)| Example {
        flow: FlowName::from(key),
        backend: backend(entry.backend),
        state: state(entry.state),
        idle_s: idle(entry, now),
    });
    TrackedSlot {
        pool: pool.to_owned(),
        slot: held.number,
        current: backend(held.slot.current()),
        origin: backend(held.slot.origin()),
        previous: backend(held.slot.previous()),
        flags: flags(held.slot.flags()),
        tracked_s: seconds(held.tracked),
        why: reason(held, example),
    }
}

/// Since when no packet of a flow came, seconds.
pub fn idle(entry: &Entry, now: Tick) -> f64 {
    seconds(now.since(entry.last))
}

/// `pool/backend`; `#7` for an index that nobody has, nothing for none.
pub fn backend(index: u16, contents: &Contents) -> Option<String> {
    if index == NO_BACKEND {
        return None;
    }
    let Some(backend) = contents.backends.get(&index) else {
        return Some(format!("#{index}"));
    };
    let pool = contents.pools.get(&backend.info.pool);
    let pool = pool.map_or("?", |pool| untext(&pool.name));
    Some(format!("{pool}/{}", untext(&backend.info.name)))
}

fn reason(held: &Held, example: Option<Example>) -> Reason {
    let hold = match held.why {
        Why::Prepared => return Reason::Prepared,
        Why::Unswept => return Reason::Unswept,
        Why::Closing => return Reason::Closing,
        Why::Ready => return Reason::Ready,
        Why::Held(hold) => hold,
    };
    match hold {
        Hold::Learning => Reason::Learning,
        Hold::OtherCurrent => Reason::OtherCurrent,
        Hold::Changed(left) => Reason::Changed {
            left_s: seconds(left),
        },
        Hold::Seen(left) => Reason::Seen {
            left_s: seconds(left),
        },
        Hold::Stamped(left) => Reason::Stamped {
            left_s: seconds(left),
        },
        Hold::Elsewhere(entries) => Reason::Elsewhere { entries, example },
    }
}
