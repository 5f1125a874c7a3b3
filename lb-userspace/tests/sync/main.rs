//! Replication between nodes in virtual time: what is told, lost, cut off and repaired.

mod merge;
mod node;
mod speed;
mod stream;
mod world;

use std::collections::BTreeSet;

use lb_common::flow::{CONFIRMED, Key};
use lb_userspace::sync::{Limits, ORPHAN};

use world::World;

const SEEDS: [u64; 3] = [1, 2, 3];

fn quiet(world: &mut World, seconds: u64) {
    world.run(seconds * 1_000, 0);
}

fn settle(world: &mut World, seed: u64) {
    // Closed entries of somebody who has given them up stay for a minute.
    for _ in 0..8 {
        quiet(world, 10);
        if world.differences().is_empty() && world.claimed_twice() == 0 {
            break;
        }
    }
    for (of, at, ..) in world.differences() {
        world.explain(of, at);
    }
    assert_eq!(world.differences(), [], "seed {seed}");
    assert_eq!(world.claimed_twice(), 0, "seed {seed}");
    assert!(
        world.nodes.iter().all(|node| node.maps.own.len() > 100),
        "seed {seed}"
    );
}

#[test]
fn everybody_learns_everything() {
    for (seed, nodes) in SEEDS.into_iter().zip([2, 3, 4]) {
        let mut world = World::new(nodes, seed);
        world.run(10_000, 3);
        settle(&mut world, seed);
        let drops = world.nodes[0].drops;
        assert_eq!((drops.vip, drops.backend, drops.foreign), (0, 0, 0));
        assert!(
            !world.nodes[0].maps.held.is_empty(),
            "records of other backends hold slots"
        );
    }
}

#[test]
fn what_the_ring_buffer_lost_is_repaired() {
    for seed in SEEDS {
        let mut world = World::new(3, seed);
        world.ring_loss = 20;
        world.run(10_000, 3);
        settle(&mut world, seed);
        assert!(world.nodes.iter().any(|node| node.drops.found > 0));
    }
}

/// The control: nobody compares.
#[test]
fn without_repair_what_was_lost_stays_lost() {
    let mut world = World::new(3, 1);
    world.ring_loss = 20;
    for node in &mut world.nodes {
        node.repair = false;
    }
    world.run(10_000, 3);
    quiet(&mut world, 30);
    let missing: usize = world.differences().iter().map(|(_, _, missing, _)| missing).sum();
    assert!(missing > 50, "{missing}");
}

#[test]
fn sessions_break_and_old_bytes_come_late() {
    for seed in SEEDS {
        let mut world = World::new(3, seed);
        for link in world.links.values_mut() {
            (link.delay, link.jitter) = (10, 40);
        }
        for _ in 0..40 {
            let ms = 50 + world.random.below(400);
            world.run(ms, 3);
            let (a, b) = [(0, 1), (1, 2), (2, 0)][world.random.below(3) as usize];
            world.disconnect(a, b);
            let ms = world.random.below(30);
            world.run(ms, 3);
            world.connect();
        }
        assert!(world.late > 1_000, "{}", world.late);
        settle(&mut world, seed);
    }
}

#[test]
fn a_partition_heals() {
    for seed in SEEDS {
        let mut world = World::new(4, seed);
        world.run(3_000, 3);
        for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
            world.cut(a, b, false);
        }
        world.run(10_000, 3);
        for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
            world.cut(a, b, true);
        }
        world.connect();
        world.run(3_000, 3);
        settle(&mut world, seed);
    }
}

#[test]
fn a_slow_peer_is_cut_to_a_snapshot_and_delays_nobody() {
    for seed in SEEDS {
        let mut world = World::new(3, seed);
        world.keys = 8_000;
        let limits = Limits {
            bytes: 32 << 10,
            ..Limits::default()
        };
        world.limit(limits);
        world.links.get_mut(&(0, 2)).unwrap().rate = 4;
        world.run(8_000, 8);
        let sender = |world: &World, to| world.nodes[0].sessions[&to].sender.sent().clone();
        let slow = sender(&world, 2);
        assert!(slow.degraded > 0 && slow.dropped > 0, "{slow:?}");
        let fast = sender(&world, 1);
        assert_eq!(fast.degraded, 0);
        let lag = fast.lag.quantile(1.0).unwrap();
        assert!(lag.as_millis() <= 15, "{lag:?}");
        let most = limits.bytes + (40 << 10);
        assert!(world.backlog <= most, "{}", world.backlog);
        world.links.get_mut(&(0, 2)).unwrap().rate = 1 << 20;
        settle(&mut world, seed);
    }
}

#[test]
fn a_full_table_stays_different_and_quiet() {
    let mut world = World::new(3, 1);
    world.nodes[2].capacity = 200;
    world.run(10_000, 3);
    quiet(&mut world, 30);
    let differences = world.differences();
    assert!(differences.iter().all(|&(_, at, ..)| at == 2), "{differences:?}");
    assert!(!differences.is_empty());
    let repairs = |world: &World| world.nodes[0].sessions[&2].sender.sent().repairs;
    let before = repairs(&world);
    quiet(&mut world, 64);
    let more = repairs(&world) - before;
    let differing = differences[0].2 as u64;
    assert!(
        more <= 6 * differing,
        "{more} repairs in a minute, {differing} missing"
    );
}

/// A node that starts anew gets what it once announced, and nobody loses it.
#[test]
fn a_joiner_gets_orphans_too() {
    for seed in SEEDS {
        let mut world = World::new(3, seed);
        world.run(5_000, 3);
        quiet(&mut world, 10);
        let lost = world.nodes[1].settled(1, world.ms);
        assert!(lost.len() > 100);
        world.crash(1);
        world.run(100, 0);
        for node in [0, 2] {
            world.nodes[node].gone.push(lb_userspace::sync::owner(1));
        }
        world.connect();
        quiet(&mut world, 10);
        for node in &world.nodes {
            for key in lost.keys() {
                let held = node.maps.replicas[key];
                assert_eq!(held.owner, ORPHAN, "node {} seed {seed}", node.place);
            }
        }
        assert_eq!(world.differences(), []);
        world.nodes[1].joins = false;
        world.run(3_000, 3);
        settle(&mut world, seed);
    }
}

/// A node dies while its last records are on their way to one of two others; what only one of them holds in the end.
fn orphans_of_one(seed: u64, repair: bool) -> usize {
    let mut world = World::new(3, seed);
    for node in &mut world.nodes {
        node.repair = repair;
    }
    world.run(3_000, 3);
    world.links.get_mut(&(1, 2)).expect("a link").delay = 10_000;
    world.run(2_000, 3);
    world.crash(1);
    for node in [0, 2] {
        world.nodes[node].gone.push(lb_userspace::sync::owner(1));
    }
    let flows = |world: &World, node: usize| -> BTreeSet<Key> {
        let flows = world.nodes[node]
            .orphans()
            .filter(|(_, entry)| entry.state == CONFIRMED);
        flows.map(|(key, _)| key).collect()
    };
    let differ = |world: &World| flows(world, 0).symmetric_difference(&flows(world, 2)).count();
    assert!(differ(&world) > 50, "seed {seed}: {}", differ(&world));
    // Where one has closed the flow and the other knows nothing of it, it takes a minute.
    for _ in 0..8 {
        quiet(&mut world, 10);
        if differ(&world) == 0 {
            break;
        }
    }
    assert!(flows(&world, 0).len() > 100, "seed {seed}");
    differ(&world)
}

/// Nobody else would tell them.
#[test]
fn orphans_that_one_of_two_holds_come_to_the_other() {
    for seed in SEEDS {
        assert_eq!(orphans_of_one(seed, true), 0, "seed {seed}");
    }
}

/// The control: nobody compares.
#[test]
fn without_repair_orphans_stay_where_they_are() {
    let differing = orphans_of_one(1, false);
    assert!(differing > 50, "{differing}");
}

#[test]
fn fences_come_behind_everything_also_what_was_dropped() {
    let mut world = World::new(2, 1);
    world.keys = 8_000;
    world.limit(Limits {
        bytes: 16 << 10,
        ..Limits::default()
    });
    world.links.get_mut(&(0, 1)).unwrap().rate = 4;
    while !world.nodes[0].sessions[&1].sender.is_degraded() {
        world.run(1, 8);
        assert!(world.ms < 60_000, "it is never too slow");
    }
    world.nodes[0].sessions.get_mut(&1).unwrap().sender.fence(7);
    let before = world.nodes[0].maps.own.clone();
    world.links.get_mut(&(0, 1)).unwrap().rate = 1 << 20;
    while world.nodes[1].sessions[&0].fences.is_empty() {
        world.step();
        assert!(world.ms < 60_000, "the fence never came");
    }
    let held = &world.nodes[1].maps;
    let missing = before
        .keys()
        .filter(|key| !held.replicas.contains_key(key) && !held.own.contains_key(key));
    assert_eq!(missing.count(), 0);
}
