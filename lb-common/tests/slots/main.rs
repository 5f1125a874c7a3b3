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
        match search(World::start(backends), &ALL, 2_000_000) {
            Found::Nothing(n) => println!("{backends} backends: no flow breaks in {n} worlds (complete)"),
            Found::GivenUp(n, depth) => {
                println!("{backends} backends: no flow breaks in {n} worlds, all that {depth} steps lead to");
                assert!(depth >= 7, "{depth} steps are few");
            }
            Found::Broken(story) => panic!("{backends} backends: {story}"),
        }
    }
}

/// Without deaths of backends and planned changes, and with one connection, these are all worlds there are: nodes die and join, and sessions
/// between them break at any time, so that records are lost, or stay away for as long as it takes.
#[test]
fn no_flow_breaks_in_a_complete_small_world() {
    let rules = Rules {
        changes: false,
        cuts: true,
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

/// The same with backends that die and planned changes, where sessions break.
#[test]
fn no_flow_breaks_where_sessions_break() {
    let rules = Rules { cuts: true, ..ALL };
    match search(World::start(2), &rules, 1_000_000) {
        Found::Nothing(n) => println!("no flow breaks in {n} worlds (complete)"),
        Found::GivenUp(n, depth) => {
            println!("no flow breaks in {n} worlds, all that {depth} steps lead to");
            assert!(depth >= 7, "{depth} steps are few");
        }
        Found::Broken(story) => panic!("{story}"),
    }
}

#[test]
fn what_a_session_lost_has_to_be_said_again() {
    let rules = Rules {
        changes: false,
        cuts: true,
        resync: false,
        ..ALL
    };
    match search(World::start(2), &rules, 6_000_000) {
        Found::Broken(story) => println!("BREAK without resync: {story}"),
        Found::Nothing(_) | Found::GivenUp(..) => panic!("a resync is not needed"),
    }
}

/// A rule, how to switch it off, and how its counterexample begins.
type Deep = (&'static str, fn(&mut Rules), &'static str);

/// Rules whose counterexamples take more than twenty steps.
const DEEP: &[Deep] = &[
    (
        "vote_behind_fence",
        |rules| rules.vote_behind_fence = false,
        "node0 dies; node1 alone goes from A to B; node1 alone goes from B to A; SYN at node1 -> A; data at node1; \
         node1 alone goes from A to B; node0 joins; ECMP moves the flow to node0; data at node0; \
         ECMP moves the flow to node1; the client closes at node1; record 0->1; \
         an old own entry expires at node0; record 0->1; the idle timeout passes",
    ),
    (
        "displacing_stamps",
        |rules| rules.displacing_stamps = false,
        "node0 dies; node1 alone goes from A to B; node1 alone goes from B to A; SYN at node1 -> A; data at node1; \
         node1 alone goes from A to B; node0 joins; ECMP moves the flow to node0; data at node0; \
         ECMP moves the flow to node1; the client closes at node1; record 0->1; \
         an old own entry expires at node0; record 0->1; record 1->0; SYN at node1, insert refused -> A; \
         forged SYN of the live flow at node1; ECMP moves the flow to node0; the idle timeout passes",
    ),
];

#[test]
fn each_deep_rule_is_needed() {
    for (name, off, before) in DEEP {
        let all = Rules {
            changes: false,
            ..ALL
        };
        let mut rules = all;
        off(&mut rules);
        let start = replay(World::start(2), &all, before);
        if let Found::Broken(story) = search(start, &all, 300_000) {
            panic!("{before}; {story}");
        }
        match search(start, &rules, 300_000) {
            Found::Broken(story) => println!("BREAK without {name}: {before}; {story}"),
            Found::Nothing(_) | Found::GivenUp(..) => panic!("{name} is not needed"),
        }
    }
}

/// Where a rule's counterexample is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Without deaths and planned changes.
    Small,
    /// With them, and with so many backends.
    Whole(u8),
    /// Nowhere: other rules cover for it here.
    Not,
}

/// A rule, how to switch it off, and where that is seen.
type Switch = (&'static str, fn(&mut Rules), Seen);

macro_rules! switches {
    ($($rule:ident $seen:expr,)*) => {
        &[$((stringify!($rule), |rules: &mut Rules| rules.$rule = false, $seen)),*]
    };
}

const SWITCHES: &[Switch] = switches! {
    group_retire Seen::Small,
    // Everybody has voted once before the last vote, in which those who stay see that the group has changed.
    same_members_vote Seen::Not,
    votes_age Seen::Small,
    vote_counts_entries Seen::Small,
    members_restart_idle Seen::Small,
    retire_in_steps Seen::Small,
    finish Seen::Whole(2),
    named Seen::Whole(3),
    closing_freezes Seen::Small,
    closing_drops Seen::Small,
    untrack_looks Seen::Small,
    suspect_keeps_origin Seen::Small,
    track_first Seen::Small,
    // With a record that tracks its slot, the barrier only covers the record's lag.
    prepare_barrier Seen::Not,
    refused_to_origin Seen::Small,
    syn_looks_first Seen::Small,
    syn_holds Seen::Small,
    isn_window Seen::Small,
    probation_replicated Seen::Small,
    record_tracks Seen::Small,
    all_records_kept Seen::Small,
    record_demotes Seen::Small,
    takeover_removes Seen::Small,
    owner_expires Seen::Small,
    join_slots Seen::Small,
    join_entries Seen::Small,
    verdict_in_steps Seen::Whole(2),
    verdict_deletes Seen::Whole(2),
    // A verdict deletes entries in one step here; in a map it takes a while.
    dead_is_missing Seen::Not,
    dead_records_dropped Seen::Whole(2),
    fence Seen::Whole(2),
    return_by_all Seen::Whole(2),
};

#[test]
fn each_rule_is_needed() {
    let mut wrong = Vec::new();
    for (name, off, seen) in SWITCHES {
        let mut rules = ALL;
        off(&mut rules);
        let (backends, limit) = match seen {
            Seen::Small => (2, 6_000_000),
            Seen::Whole(n) => (*n, 6_000_000),
            Seen::Not => (2, 500_000),
        };
        rules.changes = *seen != Seen::Small;
        let breaks = match search(World::start(backends), &rules, limit) {
            Found::Broken(story) => {
                println!("BREAK without {name}: {story}");
                true
            }
            Found::GivenUp(n, _) | Found::Nothing(n) => {
                println!("OK    without {name}: {n} worlds");
                false
            }
        };
        if breaks == (*seen == Seen::Not) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
