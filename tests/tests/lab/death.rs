//! A node of a group loses its power while backends change: nobody notices. Nodes that act alone break connections.

use lb_tests::scenario::{Campaign, tell_findings};
use lb_tests::wait::Interrupt;

/// As many as a client process and six backends open in a second.
const CONNECTIONS: u32 = 2000;

/// Runs it and its controls, and shows the figures.
pub(crate) fn judge(campaign: &Campaign) {
    let findings = campaign
        .run(&Interrupt::default(), |words| eprintln!("{words}"))
        .expect("the labs run");
    tell_findings(&findings, false).expect("somebody reads");
    // Among them that a control broke.
    let errors: Vec<&String> = findings.errors().collect();
    assert_eq!(findings.problems, Vec::<String>::new(), "{errors:#?}");
    assert!(findings.connections > u64::from(CONNECTIONS));
}

#[test]
fn a_node_that_dies_while_backends_change_breaks_nothing() {
    judge(&Campaign::death(CONNECTIONS));
}
