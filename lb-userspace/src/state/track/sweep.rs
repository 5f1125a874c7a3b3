//! One walk over all entries of the flow table: what expires, what has to go, what holds which slot.

use std::collections::{BTreeMap, HashMap};

use lb_common::flow::{Entry, Key, OWN};
use lb_common::hash;
use lb_common::slot::{index, of_hash};
use lb_common::tick::{self, Tick};
use lb_common::vip;

use super::super::contents::Contents;
use super::super::ids::vip_key;
use super::steer::{Fitness, Fits};
use super::{Slots, TABLES};
use crate::model::{Model, Tracking, Vip};

/// Where flows belong.
#[derive(Clone, Debug)]
pub struct Finder {
    key: hash::Key,
    vips: HashMap<vip::Key, Option<Served>>,
    /// Pools of backends.
    homes: HashMap<u16, u16>,
    /// The longest idle timeout of all VIPs, ticks.
    longest: u32,
}

/// Where a flow belongs.
enum Place {
    /// To this slot, in the flat array of all rings.
    Slot(u32, Served),
    /// To a VIP whose flows aren't tracked.
    Off,
    /// To no VIP. One that is taken out for a moment finds its flows again.
    Nowhere,
}

/// What a VIP says of its flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Served {
    pub(super) pool: u16,
    /// Its idle timeout, ticks.
    pub(super) idle: u32,
}

impl Finder {
    /// For the VIPs of a model that `applied` holds.
    pub fn new(model: &Model, applied: &Contents, key: hash::Key) -> Self {
        let vips = model.vips.iter().filter_map(|vip| {
            let key = vip_key(vip);
            let pool = applied.vips.get(&key)?.pool;
            let idle = tick::seconds(u32::try_from(vip.idle_timeout.as_secs()).unwrap_or(u32::MAX));
            Some((
                key,
                (vip.tracking != Tracking::Off).then_some(Served { pool, idle }),
            ))
        });
        let homes = applied.backends.iter();
        let homes = homes.map(|(&index, backend)| (index, backend.info.pool));
        let longest = model.vips.iter().map(|vip| vip.idle_timeout).max();
        let longest = longest.unwrap_or(Vip::DEFAULT_IDLE).as_secs();
        Self {
            key,
            vips: vips.collect(),
            homes: homes.collect(),
            longest: tick::seconds(u32::try_from(longest).unwrap_or(u32::MAX)),
        }
    }

    fn find(&self, flow: &Key) -> Place {
        let exact = vip::Key::new(flow.dst, flow.dport, flow.proto);
        let found = self.vips.get(&exact).or_else(|| self.vips.get(&exact.any_port()));
        match found {
            None => Place::Nowhere,
            Some(None) => Place::Off,
            Some(Some(served)) => {
                let slot = of_hash(flow.tuple().hash(&self.key));
                Place::Slot(index(served.pool, slot), *served)
            }
        }
    }

    /// Whether a backend is one of this pool's.
    fn is_home(&self, backend: u16, pool: u16) -> bool {
        self.homes.get(&backend) == Some(&pool)
    }
}

/// What a walk has seen so far.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// When it began.
    pub(super) began: Tick,
    /// Entries that stay, by table.
    pub(super) entries: [u32; TABLES],
    /// Entries by backend, whatever becomes of them.
    named: BTreeMap<u16, u32>,
    /// Entries of tracked slots by backend, and one of each.
    pins: HashMap<u32, Vec<Pin>>,
    pub(super) expired: u64,
    pub(super) purged: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    backend: u16,
    entries: u32,
    example: (Key, Entry),
}

impl Sweep {
    /// A walk that begins now.
    pub fn new(now: Tick) -> Self {
        Self {
            began: now,
            entries: [0; TABLES],
            named: BTreeMap::new(),
            pins: HashMap::new(),
            expired: 0,
            purged: 0,
        }
    }

    /// Looks at one entry of table number `table`. Whether it is to be deleted.
    pub fn take(
        &mut self,
        table: usize,
        (key, entry): (Key, Entry),
        (finder, fits): (&Finder, &Fits),
        slots: &impl Slots,
        now: Tick,
    ) -> bool {
        *self.named.entry(entry.backend).or_default() += 1;
        let is_dead = |backend| fits.get(&backend).is_none_or(|fit| *fit == Fitness::Dead);
        let found = finder.find(&key);
        let (is_wrong, idle) = match &found {
            Place::Slot(_, served) => (!finder.is_home(entry.backend, served.pool), served.idle),
            Place::Off => (true, 0),
            Place::Nowhere => (false, finder.longest),
        };
        if is_wrong || is_dead(entry.backend) {
            self.purged += 1;
            return true;
        }
        // A replica outlives its owner's entry, whose last use it knows only from the last refresh.
        let idle = if entry.owner == OWN { idle } else { idle + idle / 3 };
        if entry.is_expired(idle, now) {
            self.expired += 1;
            return true;
        }
        self.entries[table] += 1;
        if let Place::Slot(place, _) = found
            && slots.slot(place).is_tracked()
        {
            self.pin(place, key, entry);
        }
        false
    }

    fn pin(&mut self, place: u32, key: Key, entry: Entry) {
        let pins = self.pins.entry(place).or_default();
        match pins.iter_mut().find(|pin| pin.backend == entry.backend) {
            Some(pin) => pin.entries += 1,
            None => pins.push(Pin {
                backend: entry.backend,
                entries: 1,
                example: (key, entry),
            }),
        }
    }

    /// Entries of a slot that name another backend than this, and one of them.
    pub(super) fn elsewhere(&self, place: u32, backend: u16) -> (u32, Option<(Key, Entry)>) {
        let pins = self.pins.get(&place).into_iter().flatten();
        let mut others = pins.filter(|pin| pin.backend != backend).peekable();
        let example = others.peek().map(|pin| pin.example);
        (others.map(|pin| pin.entries).sum(), example)
    }

    /// Entries that name a backend, whatever became of them.
    pub fn count(&self, backend: u16) -> u32 {
        self.named.get(&backend).copied().unwrap_or(0)
    }

    /// Whether everything that was so at `when` is in it. A packet may act on what it read a moment before.
    pub const fn is_after(&self, when: Tick) -> bool {
        self.began.since(when) >= 2
    }
}
