//! The exhaustive model of tracked slots: one slot, one 5-tuple, two nodes, the records between them, and everything
//! that can happen in every order. It runs the real transitions, votes and decisions of `lb_common`; no packet of an
//! established connection may reach another backend than its own while that one lives.
//!
//! Two losses are the protocol's own (docs/adr/0007-tracked-slots.md) and aren't counted: a connection that began
//! elsewhere than at `origin` and whose packets reach a node before its record does, and reuse of a tuple on another
//! node within that lag.

mod world;
mod rules;
mod tables;
mod steps;
mod phases;
mod search;

use rules::{ALL, Rules};
use search::{Found, replay, search};
use world::{CONNECTIONS, World};

#[test]
fn no_flow_breaks() {
    for backends in [2, 3] {
        match search(World::start(backends), &ALL, 3_000_000) {
            Found::Nothing(n) => println!("{backends} backends: no flow breaks in {n} worlds (complete)"),
            Found::GivenUp(n, depth) => {
                println!("{backends} backends: no flow breaks in {n} worlds, all that {depth} steps lead to");
                assert!(depth >= 7, "{depth} steps are few");
            }
            Found::Broken(story) => panic!("{backends} backends: {story}"),
        }
    }
}

/// Without deaths and planned changes, and with one connection, these are all worlds there are.
#[test]
fn no_flow_breaks_in_a_complete_small_world() {
    let rules = Rules {
        changes: false,
        ..ALL
    };
    let mut start = World::start(2);
    start.connections = CONNECTIONS - 1;
    match search(start, &rules, usize::MAX) {
        Found::Nothing(n) => println!("no flow breaks in {n} worlds (complete)"),
        Found::GivenUp(n, _) => panic!("{n} are not all"),
        Found::Broken(story) => panic!("{story}"),
    }
}

/// It takes more than twenty steps to see why members vote behind the fence.
#[test]
fn a_vote_needs_all_earlier_records() {
    const BEFORE: &str = "node0 dies; node1 alone goes from A to B; node1 alone goes from B to A; \
        SYN at node1 -> A; data at node1; node1 alone goes from A to B; node0 joins; \
        ECMP moves the flow to node0; data at node0; ECMP moves the flow to node1; \
        the client closes at node1; record 0->1; an old own entry expires at node0; record 0->1; \
        the idle timeout passes";
    for vote_behind_fence in [true, false] {
        let rules = Rules {
            vote_behind_fence,
            changes: false,
            ..ALL
        };
        let start = replay(World::start(2), &rules, BEFORE);
        match search(start, &rules, 400_000) {
            Found::Broken(story) if vote_behind_fence => panic!("{BEFORE}; {story}"),
            Found::Broken(story) => println!("BREAK without vote_behind_fence: {BEFORE}; {story}"),
            Found::Nothing(_) | Found::GivenUp(..) => assert!(vote_behind_fence),
        }
    }
}

/// A rule, how to switch it off, and the backends that it takes to see it; 0 where other rules cover for it.
type Switch = (&'static str, fn(&mut Rules), u8);

macro_rules! switches {
    ($($rule:ident $backends:literal)*) => {
        &[$((stringify!($rule), |rules: &mut Rules| rules.$rule = false, $backends)),*]
    };
}

const SWITCHES: &[Switch] = switches! {
    group_retire 2
    same_members_vote 2
    votes_age 2
    vote_counts_entries 2
    members_restart_idle 2
    retire_in_steps 2
    finish 2
    named 3
    closing_freezes 2
    closing_drops 2
    untrack_looks 2
    suspect_keeps_origin 2
    track_first 2
    // With a record that tracks its slot, the barrier only covers the record's lag.
    prepare_barrier 0
    refused_to_origin 2
    syn_looks_first 2
    syn_holds 2
    isn_window 2
    probation_replicated 2
    record_tracks 2
    all_records_kept 2
    record_demotes 2
    takeover_removes 2
    owner_expires 2
    join_slots 2
    join_entries 2
    verdict_in_steps 2
    verdict_deletes 2
    // A verdict deletes entries in one step here; in a map it takes a while.
    dead_is_missing 0
    dead_records_dropped 2
    fence 2
    return_by_all 2
};

#[test]
fn each_rule_is_needed() {
    let mut wrong = Vec::new();
    for (name, off, backends) in SWITCHES {
        let mut rules = ALL;
        off(&mut rules);
        let (start, limit) = match backends {
            0 => (World::start(2), 500_000),
            n => (World::start(*n), 6_000_000),
        };
        let breaks = match search(start, &rules, limit) {
            Found::Broken(story) => {
                println!("BREAK without {name}: {story}");
                true
            }
            Found::GivenUp(n, _) | Found::Nothing(n) => {
                println!("OK    without {name}: {n} worlds");
                false
            }
        };
        if breaks != (*backends > 0) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
