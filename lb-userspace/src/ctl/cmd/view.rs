//! What the commands read from the maps, put together by name.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use lb_common::info::{Meta, untext};
use lb_common::slot::NO_BACKEND;
use lb_common::vip;

use crate::api::tracked;
use crate::dataplane::maps::Maps;
use crate::state::contents::{Backend, Contents};

/// Everything in the maps, counters aside.
pub(super) struct View {
    pub(super) meta: Meta,
    pub(super) contents: Contents,
    /// Slots that each backend holds, by its index.
    pub(super) slots: BTreeMap<u16, u32>,
}

impl View {
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let contents = maps.contents()?;
        let mut slots = BTreeMap::new();
        for &index in contents.rings.values().flat_map(|ring| ring.iter()) {
            *slots.entry(index).or_insert(0) += 1;
        }
        Ok(Self {
            meta: maps.meta()?,
            contents,
            slots,
        })
    }

    /// A pool's name.
    pub(super) fn pool(&self, index: u16) -> &str {
        self.contents
            .pools
            .get(&index)
            .map_or("?", |pool| untext(&pool.name))
    }

    /// The name of the backend that an index stands for, `#7` where it has none; `None` for no backend.
    pub(super) fn holder(&self, index: u16) -> Option<String> {
        let name = |backend: &Backend| untext(&backend.info.name).to_owned();
        let found = || {
            self.contents
                .backends
                .get(&index)
                .map_or(format!("#{index}"), name)
        };
        (index != NO_BACKEND).then(found)
    }

    /// `pool/backend` of an index, `#7` where it has no name; `None` for no backend.
    pub(super) fn full_name(&self, index: u16) -> Option<String> {
        tracked::backend(index, &self.contents)
    }

    /// VIPs without the marks of addresses.
    pub(super) fn vips(&self) -> impl Iterator<Item = (&vip::Key, &vip::Value)> {
        self.contents.vips.iter().filter(|(_, value)| value.is_served())
    }

    /// What serves a VIP's key: its own VIP, else that for every port of its address.
    pub(super) fn serving(&self, key: &vip::Key) -> Option<(vip::Key, vip::Value)> {
        let served = |key: vip::Key| {
            let value = self.contents.vips.get(&key).filter(|value| value.is_served());
            value.map(|value| (key, *value))
        };
        served(*key).or_else(|| served(key.any_port()))
    }

    /// The index of a pool.
    pub(super) fn pool_index(&self, name: &str) -> Result<u16> {
        let pools = &self.contents.pools;
        if let Some((&index, _)) = pools.iter().find(|(_, pool)| untext(&pool.name) == name) {
            return Ok(index);
        }
        let names: Vec<&str> = pools.values().map(|pool| untext(&pool.name)).collect();
        bail!("no pool {name:?}; there are: {}", names.join(", "))
    }

    /// The index of a backend of a pool.
    pub(super) fn backend_index(&self, pool: u16, name: &str) -> Result<u16> {
        let of_pool = self.backends().into_iter().filter(|(_, b)| b.info.pool == pool);
        let all: Vec<(u16, &str)> = of_pool.map(|(index, b)| (index, untext(&b.info.name))).collect();
        if let Some((index, _)) = all.iter().find(|(_, other)| *other == name) {
            return Ok(*index);
        }
        let names: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
        bail!(
            "no backend {name:?} in pool {:?}; there are: {}",
            self.pool(pool),
            names.join(", ")
        )
    }

    /// Backends by pool and name, as people look for them.
    pub(super) fn backends(&self) -> Vec<(u16, &Backend)> {
        let mut rows: Vec<_> = self
            .contents
            .backends
            .iter()
            .map(|(&index, backend)| (index, backend))
            .collect();
        rows.sort_by_key(|(_, b)| (self.pool(b.info.pool), untext(&b.info.name)));
        rows
    }

    /// Sum of the weights of a pool.
    pub(super) fn weight(&self, pool: u16) -> u32 {
        self.contents
            .backends
            .values()
            .filter(|b| b.info.pool == pool)
            .map(|b| u32::from(b.info.weight))
            .sum()
    }
}
