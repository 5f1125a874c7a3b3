//! What a new configuration would change, or has changed: in words of the configuration, never of local indexes.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::info::{next_hop, untext};
use lb_common::slot::SLOTS;
use lb_common::vip;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::contents::Contents;
use super::ids::vip_key;
use crate::model::{self, Model, Tracking};

/// The difference between two configurations and between the maps that they make.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Pools that change.
    pub pools: Vec<PoolPlan>,
    /// VIPs that come.
    pub vips_added: Vec<String>,
    /// VIPs that go.
    pub vips_removed: Vec<String>,
    /// VIPs that get another pool.
    pub vips_repointed: Vec<Repointed>,
    /// Interfaces that the program would be attached to.
    pub interfaces_added: Vec<String>,
    /// Interfaces that it would leave.
    pub interfaces_removed: Vec<String>,
    /// Sections of the configuration that differ in something else.
    pub other: Vec<String>,
    /// Backends that no packet can be sent to, with the reason; no change by themselves.
    pub next_hops_missing: Vec<Missing>,
    /// What can't be changed while the data plane lives: with any of these the configuration is refused.
    pub refused: Vec<String>,
}

/// What happens to one pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// Whether it comes, goes or stays.
    pub change: Change,
    /// How many of its 65,536 slots get another backend, or none; 0 of a pool that comes or goes.
    pub slots_moved: u32,
    /// Backends that come.
    pub added: Vec<String>,
    /// Backends that go.
    pub removed: Vec<String>,
    /// Backends with another weight.
    pub reweighted: Vec<Reweighted>,
    /// Backends with another address or next hop.
    pub readdressed: Vec<String>,
    /// Another encapsulation: from now on all packets to the pool's backends are wrapped so.
    #[serde(default)]
    pub rewrapped: Option<Rewrapped>,
    /// VIPs whose flows in the slots that move stay where they are; none where no slot moves.
    #[serde(default)]
    pub vips_protected: Vec<String>,
    /// VIPs whose flows in the slots that move go to other backends and break, since they aren't tracked.
    #[serde(default)]
    pub vips_unprotected: Vec<String>,
}

/// What becomes of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It comes.
    Added,
    /// It goes.
    Removed,
    /// It stays.
    Changed,
}

/// A backend with another configured weight.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Reweighted {
    /// Its name in the pool.
    pub backend: String,
    /// The weight of before.
    pub from: u16,
    /// The new one.
    pub to: u16,
}

/// A pool with another encapsulation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rewrapped {
    /// That of before.
    pub from: String,
    /// The new one.
    pub to: String,
}

/// A VIP with another pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Repointed {
    /// `address:port/protocol`.
    pub vip: String,
    /// The pool of before.
    pub from: String,
    /// The new one.
    pub to: String,
}

/// A backend without a next hop.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Missing {
    /// `pool/backend`.
    pub backend: String,
    /// Why.
    pub why: String,
}

impl Plan {
    /// Backends that go, as pool and name.
    pub fn leaving(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pools.iter().flat_map(|pool| {
            pool.removed
                .iter()
                .map(|name| (pool.name.as_str(), name.as_str()))
        })
    }

    /// Whether nothing would change; missing next hops are no change.
    pub fn is_empty(&self) -> bool {
        let missing = self.next_hops_missing.clone();
        *self
            == Self {
                next_hops_missing: missing,
                ..Self::default()
            }
    }
}

/// How many of a pool's slots have another backend, by stable identity, in `after` than in `before`; 0 where one of
/// them doesn't have the pool.
pub fn slots_moved(pool: &str, before: &Contents, after: &Contents) -> u32 {
    let ring = |contents: &Contents| {
        let (index, _) = contents.pools.iter().find(|(_, p)| untext(&p.name) == pool)?;
        contents.rings.get(index).cloned()
    };
    let (Some(old), Some(new)) = (ring(before), ring(after)) else {
        return 0;
    };
    let ids = |contents: &Contents| -> BTreeMap<u16, u64> {
        contents.backends.iter().map(|(&i, b)| (i, b.info.id)).collect()
    };
    let (old_ids, new_ids) = (ids(before), ids(after));
    let moved = old
        .iter()
        .zip(new.iter())
        .filter(|(o, n)| old_ids.get(o) != new_ids.get(n));
    u32::try_from(moved.count()).unwrap_or(SLOTS as u32)
}

/// What leads from one configuration to another. `before` and `after` are what the maps hold and would hold; `refused`
/// is left to the caller, who knows what the running data plane allows.
pub fn plan(old: &Model, new: &Model, before: &Contents, after: &Contents) -> Plan {
    let interfaces = |model: &Model| -> BTreeSet<String> { model.node.interfaces.iter().cloned().collect() };
    let (here, there) = (interfaces(old), interfaces(new));
    let mut plan = Plan {
        pools: pools(old, new, before, after),
        interfaces_added: there.difference(&here).cloned().collect(),
        interfaces_removed: here.difference(&there).cloned().collect(),
        other: other(old, new),
        next_hops_missing: missing(after),
        ..Plan::default()
    };
    let pool_of = |model: &Model| -> BTreeMap<String, String> {
        let name = |vip: &model::Vip| {
            let pool = model.pools.get(vip.pool);
            pool.map_or_else(String::new, |pool| pool.name.to_string())
        };
        model
            .vips
            .iter()
            .map(|vip| (vip.to_string(), name(vip)))
            .collect()
    };
    let (old_vips, new_vips) = (pool_of(old), pool_of(new));
    for (vip, to) in &new_vips {
        match old_vips.get(vip) {
            None => plan.vips_added.push(vip.clone()),
            Some(from) if from != to => plan.vips_repointed.push(Repointed {
                vip: vip.clone(),
                from: from.clone(),
                to: to.clone(),
            }),
            Some(_) => {}
        }
    }
    let gone = old_vips.keys().filter(|vip| !new_vips.contains_key(*vip));
    plan.vips_removed = gone.cloned().collect();
    plan
}

fn pools(old: &Model, new: &Model, before: &Contents, after: &Contents) -> Vec<PoolPlan> {
    let find = |model: &'_ Model, name: &str| model.pools.iter().position(|p| p.name.as_str() == name);
    let names: BTreeSet<&str> = old
        .pools
        .iter()
        .chain(&new.pools)
        .map(|p| p.name.as_str())
        .collect();
    let mut plans = Vec::new();
    for name in names {
        let (here, there) = (
            find(old, name).map(|i| &old.pools[i]),
            find(new, name).map(|i| &new.pools[i]),
        );
        let change = match (here, there) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        };
        let mut plan = PoolPlan {
            name: name.to_owned(),
            change,
            slots_moved: slots_moved(name, before, after),
            added: Vec::new(),
            removed: Vec::new(),
            reweighted: Vec::new(),
            readdressed: Vec::new(),
            rewrapped: rewrapped(here, there),
            vips_protected: Vec::new(),
            vips_unprotected: Vec::new(),
        };
        backends(here, there, &mut plan);
        if plan.slots_moved > 0 {
            flows(old, new, &mut plan);
        }
        let same = plan.added.is_empty()
            && plan.removed.is_empty()
            && plan.reweighted.is_empty()
            && plan.readdressed.is_empty();
        // Otherwise alike pools differ in fields that this page doesn't know by name.
        if change != Change::Changed || !same || plan.slots_moved > 0 || here != there {
            plans.push(plan);
        }
    }
    plans
}

fn rewrapped(here: Option<&model::Pool>, there: Option<&model::Pool>) -> Option<Rewrapped> {
    let (here, there) = (here?.tunnel, there?.tunnel);
    (here != there).then(|| Rewrapped {
        from: here.to_string(),
        to: there.to_string(),
    })
}

/// Which flows keep their backends while slots move: those of VIPs that are tracked. A VIP that is new has none.
fn flows(old: &Model, new: &Model, plan: &mut PoolPlan) {
    let known: BTreeSet<vip::Key> = old.vips.iter().map(vip_key).collect();
    let of_pool = |vip: &&model::Vip| {
        let pool = new.pools.get(vip.pool);
        pool.is_some_and(|pool| pool.name.as_str() == plan.name) && known.contains(&vip_key(vip))
    };
    let vips: Vec<&model::Vip> = new.vips.iter().filter(of_pool).collect();
    for vip in vips {
        let vips = match vip.tracking {
            Tracking::OnChange | Tracking::Always => &mut plan.vips_protected,
            Tracking::Off => &mut plan.vips_unprotected,
        };
        vips.push(vip.to_string());
    }
    plan.vips_protected.sort_unstable();
    plan.vips_unprotected.sort_unstable();
}

fn backends(here: Option<&model::Pool>, there: Option<&model::Pool>, plan: &mut PoolPlan) {
    let by_id = |pool: Option<&model::Pool>| -> BTreeMap<u64, model::Backend> {
        pool.into_iter()
            .flat_map(|pool| &pool.backends)
            .map(|b| (b.id, b.clone()))
            .collect()
    };
    let (old, new) = (by_id(here), by_id(there));
    for (id, backend) in &new {
        let name = backend.name.to_string();
        let Some(before) = old.get(id) else {
            plan.added.push(name);
            continue;
        };
        if before.weight != backend.weight {
            plan.reweighted.push(Reweighted {
                backend: name.clone(),
                from: before.weight,
                to: backend.weight,
            });
        }
        if (before.address, &before.via) != (backend.address, &backend.via) {
            plan.readdressed.push(name);
        }
    }
    let gone = old.iter().filter(|(id, _)| !new.contains_key(id));
    plan.removed = gone.map(|(_, backend)| backend.name.to_string()).collect();
    plan.added.sort_unstable();
    plan.removed.sort_unstable();
    plan.readdressed.sort_unstable();
    plan.reweighted.sort_unstable_by(|a, b| a.backend.cmp(&b.backend));
}

fn other(old: &Model, new: &Model) -> Vec<String> {
    let named = [
        ("node.name", old.node.name != new.node.name),
        ("node.attach", old.node.attach != new.node.attach),
        ("group.nodes", old.group.nodes != new.group.nodes),
        (
            "group.max_tracked",
            old.group.max_tracked != new.group.max_tracked,
        ),
        ("encap", old.encap != new.encap),
        ("metrics", old.metrics != new.metrics),
    ];
    let differs = named.into_iter().filter(|(_, differs)| *differs);
    let mut other: Vec<String> = differs.map(|(name, _)| name.to_owned()).collect();
    for vip in &new.vips {
        let before = old
            .vips
            .iter()
            .find(|before| before.to_string() == vip.to_string());
        let Some(before) = before else { continue };
        if before.tracking != vip.tracking {
            other.push(format!("vips.tracking of {vip}"));
        }
        if before.idle_timeout != vip.idle_timeout {
            other.push(format!("vips.idle_timeout of {vip}"));
        }
    }
    for pool in &new.pools {
        let before = old.pools.iter().find(|before| before.name == pool.name);
        if before.is_some_and(|before| before.health != pool.health) {
            other.push(format!("pools.health of {}", pool.name));
        }
    }
    other
}

fn missing(after: &Contents) -> Vec<Missing> {
    let lost = after
        .backends
        .values()
        .filter(|b| b.info.next_hop != next_hop::RESOLVED);
    let mut missing: Vec<Missing> = lost
        .map(|b| {
            let pool = after.pools.get(&b.info.pool).map_or("?", |p| untext(&p.name));
            Missing {
                backend: format!("{pool}/{}", untext(&b.info.name)),
                why: untext(&b.info.why).to_owned(),
            }
        })
        .collect();
    missing.sort_unstable_by(|a, b| a.backend.cmp(&b.backend));
    missing
}
