//! Runs: nothing happens, everything happens, and what must not go unnoticed.

use std::collections::BTreeSet;

use lb_userspace::group::Input;
use lb_userspace::state::standing::Standing;

use crate::engine::BACKENDS;
use crate::net::pair;
use crate::rules;
use crate::world::{Broken, What, World};

fn count(world: &World) -> u8 {
    u8::try_from(world.nodes.len()).expect("few of them")
}

fn any_node(world: &mut World) -> u8 {
    let nodes = u64::from(count(world));
    u8::try_from(world.chance.within(0, nodes)).expect("few of them")
}

fn any_backend(world: &mut World) -> u16 {
    u16::try_from(world.chance.within(1, u64::from(BACKENDS) + 1)).expect("few of them")
}

fn cut(world: &mut World, a: u8, b: u8, length: u64) {
    let until = world.now + length;
    let known = world.net.cut.entry(pair(a, b)).or_insert(until);
    *known = (*known).max(until);
    let length = *known - world.now;
    world.disconnect(a, b, true);
    world.after(a, length, What::Heal(b));
}

fn crash(world: &mut World, n: u8, loses_power: bool) {
    let now = world.now;
    let node = &mut world.nodes[usize::from(n)];
    if node.machine.is_none() {
        return;
    }
    if loses_power {
        node.power_off(now);
    } else {
        node.crash(now);
    }
    world.disconnect_all(n);
    let longest = if loses_power { 6_000 } else { 2_000 };
    let delay = world.chance.within(100, longest);
    world.after(n, delay, What::Start);
}

fn charter(world: &mut World) {
    world.generation += 1;
    let generation = world.generation;
    for n in 0..count(world) {
        let delay = world.chance.within(1, 300);
        world.after(n, delay, What::Charter(generation));
    }
}

fn backend(world: &mut World) {
    let b = any_backend(world);
    if !world.dead.remove(&b) && world.dead.len() < 2 {
        world.dead.insert(b);
    }
    for n in 0..count(world) {
        let delay = world.chance.within(1, 400);
        world.after(n, delay, What::Truth);
    }
}

fn suspicion(world: &mut World) {
    let (n, b) = (any_node(world), any_backend(world));
    let is_dead = world.chance.within(0, 2) == 0;
    let standing = if is_dead {
        Standing::Dead
    } else {
        Standing::Suspect
    };
    world.nodes[usize::from(n)].engine.views[usize::from(b)] = standing;
    let delay = world.chance.within(100, 3_000);
    world.after(n, delay, What::Truth);
}

fn fault(world: &mut World) {
    let (a, b) = (any_node(world), any_node(world));
    match world.chance.within(0, 16) {
        0..=2 => crash(world, a, false),
        3 | 4 => crash(world, a, true),
        5 | 6 if a != b => {
            let length = world.chance.within(100, 2_000);
            cut(world, a, b, length);
        }
        7 | 8 if a != b => {
            world.disconnect(a, b, false);
            world.net.cut.insert(pair(a, b), world.now);
            world.after(a, 150, What::Heal(b));
        }
        9 => world.input(a, Input::Leave),
        10 | 11 => backend(world),
        12 | 13 => suspicion(world),
        14 | 15 => charter(world),
        _ => {
            // One half against the other.
            let longest = if world.chance.within(0, 3) == 0 {
                9_000
            } else {
                2_500
            };
            let length = world.chance.within(100, longest);
            for peer in (0..count(world)).filter(|peer| peer % 2 != a % 2) {
                cut(world, a, peer, length);
            }
        }
    }
}

fn story(world: &World) {
    for node in &world.nodes {
        println!("node {} {:?}", node.place, node.engine);
        for (at, line) in &node.log {
            println!("{at:>7} node {} {line}", node.place);
        }
    }
}

/// Faults for `length` milliseconds, then peace.
fn wild(nodes: u8, seed: u64, length: u64, broken: Option<Broken>) -> Result<World, (Box<World>, String)> {
    let mut world = World::new(nodes, seed);
    world.broken = broken;
    let go = |world: &mut World| -> Result<(), String> {
        world.run(8_000)?;
        let end = world.now + length;
        while world.now < end {
            for node in &mut world.nodes {
                node.engine.noes = 2;
            }
            fault(world);
            let pause = match world.chance.within(0, 4) {
                0 => world.chance.within(1, 60),
                1 => world.chance.within(1, 600),
                _ => world.chance.within(200, 4_000),
            };
            world.run(world.now + pause)?;
        }
        for n in 0..count(world) {
            world.after(n, 3_100, What::Truth);
        }
        for _ in 0..12 {
            world.run(world.now + 5_000)?;
            if rules::settled(world).is_ok() {
                break;
            }
        }
        rules::settled(world)
    };
    match go(&mut world) {
        Ok(()) => Ok(world),
        Err(why) => Err((Box::new(world), why)),
    }
}

/// `LB_SEEDS=60 cargo test -p lb-userspace --test group nodes_hold` runs sixty times as many.
fn must_hold(nodes: u8, seeds: u64) {
    let times = std::env::var("LB_SEEDS").map_or(1, |times| times.parse().expect("a number"));
    for seed in 0..seeds * times {
        if let Err((world, why)) = wild(nodes, seed, 40_000, None) {
            story(&world);
            panic!("seed {seed}, {nodes} nodes: {why}");
        }
    }
}

#[test]
fn a_group_is_founded_and_changes() {
    for nodes in 1..=4 {
        let mut world = World::new(nodes, 7);
        let go = |world: &mut World| {
            world.run(5_000)?;
            rules::settled(world)?;
            charter(world);
            world.run(15_000)?;
            rules::settled(world)?;
            world.dead.insert(2);
            for n in 0..nodes {
                world.after(n, 5, What::Truth);
            }
            world.run(25_000)?;
            rules::settled(world)
        };
        if let Err(why) = go(&mut world) {
            story(&world);
            panic!("{nodes} nodes: {why}");
        }
    }
}

/// Three of four backends are suspect to node 1 alone: it withdraws, and comes back when it sees them again. Where all
/// see the same nobody withdraws.
#[test]
fn who_is_alone_withdraws() {
    let mut world = World::new(3, 3);
    world.run(5_000).unwrap();
    let ready = |world: &World| world.nodes.iter().map(|node| node.ready).collect::<Vec<_>>();
    assert_eq!(ready(&world), [true; 3]);
    let suspects = |world: &mut World, n: usize| world.nodes[n].engine.views[1..4].fill(Standing::Suspect);
    suspects(&mut world, 1);
    world.run(8_000).unwrap();
    assert_eq!(ready(&world), [true, false, true]);
    // Most of the others see the same as each of these two: that may be the backends.
    suspects(&mut world, 0);
    world.run(20_000).unwrap();
    assert_eq!(ready(&world), [true; 3]);
    suspects(&mut world, 2);
    world.run(40_000).unwrap();
    assert_eq!(ready(&world), [true; 3]);
}

/// Each node sees another half of the backends down. None sees too much itself, but most votes would make three of four dead.
#[test]
fn a_group_doubts_what_none_of_its_nodes_doubts() {
    let mut world = World::new(3, 4);
    world.run(5_000).unwrap();
    world.nodes.iter_mut().for_each(|node| node.engine.fail_open = 50);
    for (node, silent) in [(0, [1, 2]), (1, [2, 3]), (2, [3, 1])] {
        for backend in silent {
            world.nodes[node].engine.views[backend] = Standing::Dead;
        }
    }
    let dead = |world: &World| world.nodes[1].engine.verdict.dead.clone();
    world.run(12_000).unwrap();
    assert_eq!(dead(&world), BTreeSet::new());
    // One answers again everywhere: two of four are most nodes' dead, which is no more than half, but more than four fifths of it.
    (0..3).for_each(|node| world.nodes[node].engine.views[1] = Standing::Up);
    world.run(20_000).unwrap();
    assert_eq!(dead(&world), BTreeSet::new());
    // The second one too: what is left is believed.
    (0..3).for_each(|node| world.nodes[node].engine.views[2] = Standing::Up);
    world.run(40_000).unwrap();
    assert_eq!(dead(&world), BTreeSet::from([3]));
}

/// All backends refuse work to all nodes: they are served, as one node would, and no verdict is in between. When most take work again those that
/// still refuse it are drained.
#[test]
fn a_pool_that_refuses_everywhere_is_served() {
    let mut world = World::new(3, 6);
    world.run(5_000).unwrap();
    world.nodes.iter_mut().for_each(|node| node.engine.fail_open = 50);
    for (at, node) in [(6_000, 0), (6_500, 1), (7_000, 2)] {
        world.nodes[node].engine.views[1..].fill(Standing::Draining);
        world.run(at).unwrap();
    }
    world.run(12_000).unwrap();
    let verdict = |world: &World| world.nodes[1].engine.verdict.clone();
    assert_eq!(verdict(&world).number, 0);
    (0..3).for_each(|node| world.nodes[node].engine.views[2..].fill(Standing::Up));
    world.run(20_000).unwrap();
    assert_eq!(verdict(&world).draining, BTreeSet::from([1]));
}

/// Node 2 is cut off, and a backend doesn't answer it: it suspects that by itself, and gives no verdict, which would be the group's when
/// it is back.
#[test]
fn who_is_cut_off_judges_nobody() {
    let mut world = World::new(3, 5);
    world.run(5_000).unwrap();
    for peer in 0..2 {
        cut(&mut world, 2, peer, 2_500);
    }
    world.nodes[2].engine.views[1] = Standing::Dead;
    let number = |world: &World, n: usize| world.nodes[n].engine.verdict.number;
    world.run(7_000).unwrap();
    assert_eq!(number(&world, 2), 0);
    world.nodes[2].engine.views[1] = Standing::Up;
    world.run(20_000).unwrap();
    assert_eq!([0, 1, 2].map(|n| number(&world, n)), [0; 3]);
    rules::settled(&world).unwrap();
}

#[test]
fn two_nodes_hold() {
    must_hold(2, 80);
}

#[test]
fn three_nodes_hold() {
    must_hold(3, 120);
}

#[test]
fn four_nodes_hold() {
    must_hold(4, 30);
}

fn must_break(broken: Broken) {
    let found = (0..400).find_map(|seed| wild(3, seed, 40_000, Some(broken)).err());
    let (_, why) = found.unwrap_or_else(|| panic!("{broken:?} goes unnoticed"));
    println!("{broken:?}: {why}");
    assert!(why.contains("slot"), "{broken:?}: {why}");
}

#[test]
fn origins_have_to_be_named() {
    must_break(Broken::OwnCurrent);
}

#[test]
fn a_joiner_must_not_make_its_ring_up() {
    must_break(Broken::OwnRing);
}

/// What a joiner would do without the rest these runs don't show: the next change brings `current` anew.
#[test]
fn whose_slots_differ_is_not_admitted() {
    for (broken, admitted) in [(None, true), (Some(Broken::OriginsTold), false)] {
        let mut world = World::new(3, 3);
        world.run(5_000).unwrap();
        // Slots are tracked at the coordinator.
        world.nodes[0].engine.views[1] = Standing::Suspect;
        world.run(6_000).unwrap();
        world.broken = broken;
        crash(&mut world, 2, true);
        world.run(30_000).unwrap();
        assert_eq!(world.nodes[2].ready, admitted, "{broken:?}");
    }
}

#[test]
fn all_have_to_acknowledge() {
    must_break(Broken::EarlyAnswer);
}

#[test]
fn who_is_adrift_is_waited_for() {
    must_break(Broken::Forget);
}

/// Its flows come to nodes that have not seen them: what is idle there is judged anew.
#[test]
fn idle_timeouts_begin_anew_when_a_node_is_adrift_no_more() {
    let mut world = World::new(3, 3);
    world.run(5_000).unwrap();
    for peer in [0, 1] {
        cut(&mut world, 2, peer, 8_000);
    }
    world.run(11_000).unwrap();
    let said = |world: &World, n: usize| {
        let told = world.nodes[n].log.iter();
        told.filter(|(_, what)| what.starts_with("Members(")).count()
    };
    let before = [0, 1].map(|n| said(&world, n));
    assert_eq!(world.nodes[0].dropped[&2], 1, "it is adrift");
    world.input(0, Input::Forget { peer: 2 });
    world.run(12_000).unwrap();
    assert_eq!([0, 1].map(|n| said(&world, n)), before.map(|n| n + 1));
}

#[test]
fn what_was_retired_is_finished() {
    must_break(Broken::Abandon);
}
