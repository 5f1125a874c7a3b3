//! Slots as the group names them, by stable identities, and as the maps do, by indexes.

use std::collections::BTreeMap;

use lb_common::id::stable;
use lb_common::info::untext;
use lb_common::slot::{NO_BACKEND, index};

use crate::group::Cell;
use crate::state::contents::Contents;
use crate::state::track::Ordered;

/// Stable identities and indexes.
pub(super) struct Names {
    pub(super) pools: BTreeMap<u64, u16>,
    names_of_pools: BTreeMap<u16, u64>,
    pub(super) ids: BTreeMap<u16, u64>,
    indexes: BTreeMap<u64, u16>,
}

impl Names {
    pub(super) fn of(applied: &Contents) -> Self {
        let pools = applied.pools.iter();
        let pools: BTreeMap<u64, u16> = pools
            .map(|(&i, pool)| (stable(untext(&pool.name), ""), i))
            .collect();
        let backends = applied.backends.iter();
        let ids: BTreeMap<u16, u64> = backends.map(|(&i, backend)| (i, backend.info.id)).collect();
        Self {
            names_of_pools: pools.iter().map(|(&id, &pool)| (pool, id)).collect(),
            pools,
            indexes: ids.iter().map(|(&i, &id)| (id, i)).collect(),
            ids,
        }
    }

    /// The identity of a backend; 0 where nobody has the index.
    pub(super) fn id(&self, index: u16) -> u64 {
        self.ids.get(&index).copied().unwrap_or(0)
    }

    pub(super) fn index(&self, id: u64) -> u16 {
        self.indexes.get(&id).copied().unwrap_or(NO_BACKEND)
    }

    pub(super) fn cell(&self, ordered: Ordered) -> Option<Cell> {
        Some(Cell {
            pool: *self.names_of_pools.get(&((ordered.place >> 16) as u16))?,
            slot: (ordered.place & 0xffff) as u16,
            backend: self.id(ordered.to),
        })
    }

    pub(super) fn place(&self, cell: Cell) -> Option<Ordered> {
        let pool = *self.pools.get(&cell.pool)?;
        let to = match cell.backend {
            0 => NO_BACKEND,
            id => *self.indexes.get(&id)?,
        };
        Some(Ordered {
            place: index(pool, cell.slot.into()),
            to,
        })
    }
}
