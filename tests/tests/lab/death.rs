//! A node of a group loses its power, is cut off, restarts or joins while backends change: nobody notices. Nodes that act
//! alone break connections.

use std::time::Duration;

use lb_tests::scenario::{Campaign, tell_findings};
use lb_tests::wait::Interrupt;

/// As many as a client process and six backends open in a second.
const CONNECTIONS: u32 = 2000;
/// Enough to break in the control, few enough for a machine that runs four agents at once.
const FEW: u32 = 600;
/// Longer than the others need to count the node as dead; the whole scenario takes half a minute.
const APART: Duration = Duration::from_secs(8);

/// Runs it and its controls, and shows the figures.
pub(crate) fn judge(campaign: &Campaign, connections: u32) {
    let findings = campaign
        .run(&Interrupt::default(), |words| eprintln!("{words}"))
        .expect("the labs run");
    tell_findings(&findings, false).expect("somebody reads");
    // Among them that a control broke.
    let errors: Vec<&String> = findings.errors().collect();
    assert_eq!(findings.problems, Vec::<String>::new(), "{errors:#?}");
    assert!(findings.connections > u64::from(connections));
}

#[test]
fn a_node_that_dies_while_backends_change_breaks_nothing() {
    judge(&Campaign::death(CONNECTIONS), CONNECTIONS);
}

#[test]
fn peers_that_are_cut_apart_during_a_change_break_nothing() {
    judge(&Campaign::partition(FEW, APART), FEW);
}

#[test]
fn a_rolling_restart_breaks_nothing() {
    judge(&Campaign::rolling(FEW), FEW);
}

#[test]
fn a_node_that_joins_while_slots_are_tracked_breaks_nothing() {
    judge(&Campaign::join(FEW), FEW);
}
