//! The way from a model to the writes, as a whole: a sequence of configurations and of network states over a stand-in
//! for the maps, checked after every single write.

mod maps;
mod plain;
mod protect;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use lb_userspace::model::Model;
use lb_userspace::net::NextHop;
use lb_userspace::state::contents::Contents;
use lb_userspace::state::diff::{Op, diff};
use lb_userspace::state::ids;
use lb_userspace::state::reduce::{World, reduce};
use lb_userspace::state::ring::Cache;
use lb_userspace::state::standing::Standings;
use proptest::prelude::*;

use maps::Maps;
use world::{Network, Step, model_of, steps};

/// What the agent does with a model: from what the maps hold to what they should hold.
fn desire(model: &Model, hops: &[NextHop], applied: &Contents) -> Contents {
    desire_with(model, hops, &Standings::default(), applied)
}

/// The same, where operator or health checks have something to say.
fn desire_with(model: &Model, hops: &[NextHop], standings: &Standings, applied: &Contents) -> Contents {
    let ids = ids::assign(model, applied);
    let world = World {
        model,
        ids: &ids,
        hops,
        standings,
        applied,
        barred: &BTreeSet::new(),
        waiting: &[],
    };
    reduce(&world, &mut Cache::default())
}

/// Writes until Applied equals Desired, looking at the maps after every write; the writes.
fn program(maps: &mut Maps, model: &Model, network: &Network) -> Vec<Op> {
    let applied = maps.contents();
    let desired = desire(model, &network.hops(model), &applied);
    let ops = diff(&applied, &desired);
    maps.apply_watched(&ops);
    assert_eq!(maps.contents(), desired);
    maps.check();
    ops
}

/// Indexes by what has them: backends by identity, pools by name, VIPs by key.
#[derive(Debug, PartialEq)]
struct Indexes {
    backends: BTreeMap<u64, u16>,
    pools: BTreeMap<[u8; 32], u16>,
    vips: BTreeMap<lb_common::vip::Key, u16>,
}

impl Indexes {
    fn of(contents: &Contents) -> Self {
        let served = contents.vips.iter().filter(|(_, v)| v.is_served());
        Self {
            backends: contents.backends.iter().map(|(&i, b)| (b.info.id, i)).collect(),
            pools: contents.pools.iter().map(|(&i, p)| (p.name, i)).collect(),
            vips: served.map(|(&k, v)| (k, v.index)).collect(),
        }
    }
}

fn unmoved<K: Ord + std::fmt::Debug>(before: &BTreeMap<K, u16>, after: &BTreeMap<K, u16>) {
    for (what, index) in after {
        assert!(before.get(what).is_none_or(|b| b == index), "{what:?} moved");
    }
    let distinct: BTreeSet<_> = after.values().collect();
    assert_eq!(distinct.len(), after.len(), "two have one index");
}

/// Backend indexes, the oldest free first, then those that no backend ever had.
#[derive(Default)]
struct Frees {
    used: BTreeSet<u16>,
    freed: Vec<u16>,
}

impl Frees {
    /// Notes one change; panics where an index was taken out of turn.
    fn change(&mut self, model: &Model, before: &Contents, after: &Contents) {
        let new: BTreeSet<u16> = after
            .backends
            .iter()
            .filter(|(i, b)| before.backends.get(i).is_none_or(|old| old.info.id != b.info.id))
            .map(|(&i, _)| i)
            .collect();
        let never: BTreeSet<u16> = (1..model.capacity.backend_indexes() as u16)
            .filter(|i| !self.used.contains(i))
            .collect();
        let (taken, reused): (BTreeSet<u16>, BTreeSet<u16>) = new.iter().partition(|i| never.contains(i));
        assert!(
            reused.is_empty() || taken == never,
            "{reused:?} taken before {never:?}"
        );
        assert!(!new.contains(&0));
        // Those that were freed in one change are equally old, so only that none older is left counts.
        let oldest: BTreeSet<u16> = self.freed.iter().take(reused.len()).copied().collect();
        assert_eq!(reused, oldest, "of {:?}", self.freed);
        self.freed.retain(|i| !new.contains(i));
        self.freed
            .extend(before.backends.keys().filter(|i| !after.backends.contains_key(i)));
        self.used.extend(new);
    }
}

/// A change that its agent does not survive: the first writes are done, the rest is the next agent's.
fn die_after(maps: &mut Maps, model: &Model, network: &Network, writes: usize) {
    let applied = maps.contents();
    let ops = diff(&applied, &desire(model, &network.hops(model), &applied));
    maps.apply_watched(&ops[..writes.min(ops.len())]);
}

fn shuffled(model: &Model) -> Model {
    let mut model = model.clone();
    let last = model.pools.len().saturating_sub(1);
    model.pools.reverse();
    for pool in &mut model.pools {
        pool.backends.reverse();
    }
    for vip in &mut model.vips {
        vip.pool = last - vip.pool;
    }
    let middle = model.vips.len() / 2;
    model.vips.rotate_left(middle);
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn every_change_arrives_and_breaks_no_path(steps in steps()) {
        let (mut maps, mut frees) = (Maps::default(), Frees::default());
        for Step { config, network, .. } in &steps {
            let model = model_of(config);
            let before = maps.contents();
            program(&mut maps, &model, network);
            let after = maps.contents();
            let (old, new) = (Indexes::of(&before), Indexes::of(&after));
            unmoved(&old.backends, &new.backends);
            unmoved(&old.pools, &new.pools);
            unmoved(&old.vips, &new.vips);
            frees.change(&model, &before, &after);
        }
    }

    #[test]
    fn nothing_to_do_is_nothing_done(steps in steps()) {
        let mut maps = Maps::default();
        for Step { config, network, .. } in &steps {
            let model = model_of(config);
            program(&mut maps, &model, network);
            // The same again, in another order, by an agent that knows nothing but the maps.
            prop_assert_eq!(program(&mut maps, &model, network), vec![]);
            prop_assert_eq!(program(&mut maps, &shuffled(&model), network), vec![]);
        }
    }

    #[test]
    fn the_order_of_the_file_never_matters(steps in steps()) {
        // Pools and VIPs take their first index in the file's order, so whoever looks goes by names.
        let (mut maps, mut mirror) = (Maps::default(), Maps::default());
        for Step { config, network, .. } in &steps {
            let model = model_of(config);
            program(&mut maps, &model, network);
            program(&mut mirror, &shuffled(&model), network);
            prop_assert_eq!(maps.by_name(), mirror.by_name());
        }
    }

    #[test]
    fn an_agent_may_die_after_any_write(steps in steps()) {
        let mut maps = Maps::default();
        for Step { config, network, dies_after } in &steps {
            die_after(&mut maps, &model_of(config), network, *dies_after);
        }
        let Step { config, network, .. } = steps.last().expect("there is one");
        program(&mut maps, &model_of(config), network);
        prop_assert_eq!(program(&mut maps, &model_of(config), network), vec![]);
    }
}
