//! One look at a running data plane: what it is, and all of its counters.

use std::time::Instant;

use lb_common::info::{next_hop, untext};

use super::name;
use crate::dataplane::Error;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use crate::rate::{Reading, Source};

/// A data plane at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The node's name.
    pub(super) node: String,
    /// Whether an agent lives.
    pub(super) agent: bool,
    /// Attached interfaces.
    pub(super) interfaces: Vec<String>,
    /// Configurations that were applied.
    pub(super) generation: u64,
    /// VIPs by address.
    pub(super) vips: Vec<Vip>,
    /// Backends by pool and name.
    pub(super) backends: Vec<Backend>,
    /// Slots of all pools.
    pub(super) slots: usize,
    /// Those that are tracked.
    pub(super) tracked: usize,
    /// The counters.
    pub(super) reading: Reading,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Vip {
    /// Whose counter is its.
    pub(super) source: Source,
    /// As people write it.
    pub(super) name: String,
    /// Its pool's name.
    pub(super) pool: String,
}

/// A backend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Backend {
    /// Whose counter is its.
    pub(super) source: Source,
    /// Its pool's name.
    pub(super) pool: String,
    /// Its name.
    pub(super) name: String,
    /// Its weight.
    pub(super) weight: u16,
    /// Slots that new flows reach it by.
    pub(super) slots: usize,
    /// The state of its next hop in a word.
    pub(super) next_hop: &'static str,
}

impl Sample {
    /// Looks through the pins, which may be others than a moment ago; `start` is the zero of the reading's clock.
    pub(super) fn read(root: &Root, start: Instant) -> Result<Self, Error> {
        let maps = Maps::open(root)?;
        let (meta, pools, vips) = (maps.meta()?, maps.pools()?, maps.vips()?);
        let (backends, _) = maps.backends()?;
        let rings: Vec<_> = pools.keys().flat_map(|&pool| maps.ring(pool)).collect();
        let mut held = vec![0; usize::from(u16::MAX) + 1];
        for slot in &rings {
            held[usize::from(slot.current())] += 1;
        }
        let pool = |index: u16| {
            pools
                .get(&index)
                .map_or("?", |pool| untext(&pool.name))
                .to_owned()
        };
        let vip = |(&key, value): (&_, &lb_common::vip::Value)| Vip {
            source: Source::Vip {
                key,
                index: value.index,
            },
            name: name::vip(&key),
            pool: pool(value.pool),
        };
        let backend = |(&index, backend): (&u16, &crate::state::contents::Backend)| {
            let info = &backend.info;
            Backend {
                source: Source::Backend { id: info.id, index },
                pool: pool(info.pool),
                name: untext(&info.name).to_owned(),
                weight: info.weight,
                slots: held[usize::from(index)],
                next_hop: next_hop::name(info.next_hop),
            }
        };
        let mut rows: Vec<Backend> = backends.iter().map(backend).collect();
        rows.sort_by(|a, b| (&a.pool, &a.name).cmp(&(&b.pool, &b.name)));
        Ok(Self {
            node: untext(&meta.node).to_owned(),
            agent: root.is_locked()?,
            interfaces: root.linked()?,
            generation: meta.generation,
            vips: vips.iter().filter(|(_, v)| v.is_served()).map(vip).collect(),
            backends: rows,
            slots: rings.len(),
            tracked: rings.iter().filter(|&&slot| slot.is_tracked()).count(),
            // Last, so that little time lies between the clock and the counters.
            reading: maps.reading(&vips, &backends, start.elapsed())?,
        })
    }
}
