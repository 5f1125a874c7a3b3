//! Backends that have left the configuration and whose flows are still there: they get no new flows, and go when nothing
//! names them any more.

use std::collections::BTreeMap;

use lb_common::addr::Addr;
use lb_common::id::stable;
use lb_common::info::{self, text, untext};
use lb_common::tick::Tick;

use super::contents::{Backend, Contents};
use super::ids::Ids;
use crate::model::{self, Capacity, Model, NAME_MAX};

/// One that leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leaver {
    /// Its pool's name.
    pub pool: String,
    /// As it was, with weight 0.
    pub backend: model::Backend,
    /// When it left.
    pub since: Tick,
    /// When something named it last.
    pub named: Tick,
}

/// All that leave, by index.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Linger {
    leavers: BTreeMap<u16, Leaver>,
}

impl Linger {
    /// Notes who is in the maps but not in a model, and forgets those that are in it again. `old` is the model of before,
    /// which knows more of a backend than the maps do.
    pub fn note(&mut self, old: &Model, model: &Model, applied: &Contents, now: Tick) {
        let configured = |id: u64| backends(model).any(|(_, backend)| backend.id == id);
        self.leavers
            .retain(|index, leaver| applied.backends.contains_key(index) && !configured(leaver.backend.id));
        for (&index, held) in applied.backends.iter().filter(|(_, b)| !configured(b.info.id)) {
            let known = backends(old).find(|(_, backend)| backend.id == held.info.id);
            let leaver = || {
                let (pool, backend) = match known {
                    Some((pool, backend)) => (pool.name.to_string(), Some(backend.clone())),
                    None => (pool_of(held, applied), from_maps(held)),
                };
                let backend = backend?;
                Some(Leaver {
                    pool,
                    backend: model::Backend { weight: 0, ..backend },
                    since: now,
                    named: now,
                })
            };
            if !self.leavers.contains_key(&index)
                && let Some(leaver) = leaver()
            {
                self.leavers.insert(index, leaver);
            }
        }
    }

    /// Keeps those that a model leaves indexes for, those that something named last before others. Who has to go at once.
    pub fn trim(&mut self, model: &Model, now: Tick) -> Vec<Leaver> {
        let indexes = model.capacity.backend_indexes() - Capacity::BACKENDS_RESERVED;
        let room = (indexes as usize).saturating_sub(backends(model).count());
        let mut oldest: Vec<(u16, Tick)> = self.leavers.iter().map(|(&i, l)| (i, l.named)).collect();
        oldest.sort_by_key(|&(_, named)| now.since(named));
        let last = oldest.split_off(oldest.len().min(room));
        last.into_iter()
            .filter_map(|(index, _)| self.release(index))
            .collect()
    }

    /// A model with those that leave, as members of weight 0 of the pools that are still there.
    pub fn with(&self, model: &Model) -> Model {
        let mut model = model.clone();
        for leaver in self.leavers.values() {
            if let Some(pool) = model.pools.iter_mut().find(|p| p.name.as_str() == leaver.pool) {
                pool.backends.push(leaver.backend.clone());
            }
        }
        model
    }

    /// Those that leave, by index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &Leaver)> {
        self.leavers.iter().map(|(&index, leaver)| (index, leaver))
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.leavers.is_empty()
    }

    /// Something still names this one.
    pub fn named(&mut self, index: u16, now: Tick) {
        if let Some(leaver) = self.leavers.get_mut(&index) {
            leaver.named = now;
        }
    }

    /// Nothing does: it may go.
    pub fn release(&mut self, index: u16) -> Option<Leaver> {
        self.leavers.remove(&index)
    }

    /// Backends of pools that are gone: their indexes wait, and nothing is sent there.
    pub fn homeless(&self, ids: &Ids) -> Vec<u16> {
        let has_home = |leaver: &Leaver| ids.backends.contains_key(&leaver.backend.id);
        let without = self.leavers.iter().filter(|(_, leaver)| !has_home(leaver));
        without.map(|(&index, _)| index).collect()
    }
}

/// Backends whose address a model changes, as others than those of the model: the flows of the old machine stay
/// there, under a name that nobody configures. By index, to be written to the maps before anything else.
pub fn parted(model: &Model, applied: &Contents) -> Vec<(u16, Backend)> {
    let moved = |held: &&Backend| {
        backends(model).any(|(_, b)| b.id == held.info.id && Addr::from(b.address) != held.info.address)
    };
    let all = applied.backends.iter().filter(|(_, held)| moved(held));
    all.map(|(&index, held)| {
        let (pool, name) = (pool_of(held, applied), untext(&held.info.name));
        let digits: String = held.info.address.bytes()[12..]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let room = NAME_MAX - digits.len() - 1;
        let name = format!("{}.{digits}", name.get(..room).unwrap_or(name));
        let info = info::Backend {
            id: stable(&pool, &name),
            name: text(&name),
            weight: 0,
            ..held.info
        };
        (index, Backend { info, ..*held })
    })
    .collect()
}

fn backends(model: &Model) -> impl Iterator<Item = (&model::Pool, &model::Backend)> {
    model
        .pools
        .iter()
        .flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)))
}

fn pool_of(held: &Backend, applied: &Contents) -> String {
    let pool = applied.pools.get(&held.info.pool);
    pool.map_or_else(String::new, |pool| untext(&pool.name).to_owned())
}

/// What the maps know of a backend: all but a static next hop.
fn from_maps(held: &Backend) -> Option<model::Backend> {
    Some(model::Backend {
        name: untext(&held.info.name).parse().ok()?,
        id: held.info.id,
        address: held.info.address.into(),
        weight: 0,
        via: None,
    })
}
