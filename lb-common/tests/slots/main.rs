//! The exhaustive model of tracked slots: one slot, one 5-tuple, two nodes, records between them.

mod world;
mod rules;
mod tables;
mod steps;
mod phases;
mod search;

use rules::{ALL, Rules};
use search::{Found, search};
use world::World;

#[test]
fn no_flow_breaks() {
    for backends in [2, 3] {
        let begun = std::time::Instant::now();
        match search(World::start(backends), &rules::ALL, 4_000_000) {
            Found::Nothing(n) => println!("OK {n} worlds (complete), {backends} backends {:?}", begun.elapsed()),
            Found::GivenUp(n) => println!("more than {n} worlds, {backends} backends {:?}", begun.elapsed()),
            Found::Broken(story) => panic!("{story}"),
        }
    }
}

macro_rules! switches {
    ($($rule:ident)*) => { &[$((stringify!($rule), |r: &mut Rules| r.$rule = false)),*] };
}

const SWITCHES: &[(&str, fn(&mut Rules))] = switches! {
    group_retire same_members_vote votes_age vote_counts_entries members_restart_idle retire_in_steps finish named
    closing_freezes closing_drops suspect_keeps_origin track_first prepare_barrier refused_to_origin syn_looks_first
    syn_holds isn_window probation_replicated record_tracks all_records_kept untrack_looks takeover_removes record_demotes
    owner_expires join_slots join_entries verdict_in_steps verdict_deletes dead_is_missing dead_records_dropped fence
    return_by_all
};

#[test]
fn each_rule_is_needed() {
    for (name, off) in SWITCHES {
        let mut rules = ALL;
        off(&mut rules);
        let mut line = String::new();
        for backends in [2, 3] {
            line = match search(World::start(backends), &rules, 2_000_000) {
                Found::Nothing(n) => format!("OK    {name}: {n} worlds (complete)"),
                Found::GivenUp(n) => format!("OK    {name}: more than {n} worlds"),
                Found::Broken(story) => format!("BREAK {name} ({backends}): {story}"),
            };
            if line.starts_with("BREAK") {
                break;
            }
        }
        println!("{line}");
    }
}
