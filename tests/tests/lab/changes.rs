//! Backends come, go and change while ten thousand connections talk: none breaks, none moves.

use lb_tests::scenario::{self, Changes, Summary};
use lb_tests::wait::Interrupt;

/// As many as one client and four backends hold here.
const CONNECTIONS: u32 = 10_000;

/// Runs the changes and their control, and shows the figures.
pub(crate) fn run(changes: &Changes) -> Summary {
    let progress = |words: &str| eprintln!("{words}");
    let summary = scenario::run(changes, &Interrupt::default(), progress).expect("the labs run");
    scenario::tell(&summary, false).expect("somebody reads");
    summary
}

/// What has to be true of every run.
pub(crate) fn judge(summary: &Summary, connections: u32) {
    assert_eq!(summary.connections, u64::from(connections));
    // Among them that the control broke.
    assert_eq!(summary.problems, Vec::<String>::new(), "{:#?}", summary.errors);
    assert!(summary.new_connections > 10_000, "{}", summary.new_connections);
    // Slots were tracked as long as connections needed it; after their end no longer.
    let during = summary.tracked.iter().filter(|s| s.t_s < summary.seconds);
    let most = during.map(|s| s.tracked_percent).fold(0.0, f64::max);
    assert!(most > 10.0, "at most {most} % of the slots were tracked");
    assert!(
        summary.settled_s.is_some(),
        "{} % of the slots are tracked two idle timeouts after the last connection's end",
        summary.tracked_percent_at_end
    );
}

#[test]
fn overlapping_changes_break_nothing() {
    let summary = run(&Changes::short(CONNECTIONS, 1));
    judge(&summary, CONNECTIONS);
}
