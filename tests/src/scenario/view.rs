//! The summary as tables for people.

use super::summary::Summary;
use crate::demo::{aligned, table};

/// Samples in the table; the JSON has all.
const SAMPLES: usize = 16;

pub(super) fn tables(summary: &Summary) -> String {
    let mut parts = vec![figures(summary)];
    if !summary.steps.is_empty() {
        parts.push(steps(summary));
    }
    parts.push(tracked(summary));
    parts.join("\n\n")
}

fn figures(s: &Summary) -> String {
    let mut table = table(&["", "number", "broken or failed", "moved"]);
    let mut row = |name: &str, number: u64, failed: u64, moved: Option<u64>| {
        let moved = moved.map_or_else(|| "-".to_owned(), |n| n.to_string());
        table.add_row([name.to_owned(), number.to_string(), failed.to_string(), moved]);
    };
    row("long-lived connections", s.connections, s.broken, Some(s.moved));
    row(
        "the same without tracking",
        s.control_connections,
        s.control_broken,
        None,
    );
    row("new connections", s.new_connections, s.new_failed, None);
    row("UDP datagrams", s.udp.datagrams, s.udp.lost, Some(s.udp.moved));
    let gap = format!(
        "longest wait for an answer: {:.1} ms in {:.0} s, 99 % within {:.1} ms",
        s.longest_gap_ms, s.seconds, s.p99_ms
    );
    let settled = s.settled_s.map_or_else(
        || "not within two idle timeouts".to_owned(),
        |after| format!("{after:.1} s after the end of the long-lived connections"),
    );
    format!(
        "{}\n{gap}\nunder 1 % of the slots tracked: {settled}",
        aligned(table)
    )
}

fn steps(s: &Summary) -> String {
    let mut table = table(&["change", "s"]);
    for step in &s.steps {
        table.add_row([step.what.clone(), format!("{:.1}", step.t_s)]);
    }
    aligned(table)
}

fn tracked(s: &Summary) -> String {
    let mut table = table(&["s", "tracked %"]);
    let every = s.tracked.len().div_ceil(SAMPLES).max(1);
    for sample in s.tracked.iter().step_by(every) {
        table.add_row([
            format!("{:.1}", sample.t_s),
            format!("{:.2}", sample.tracked_percent),
        ]);
    }
    aligned(table)
}
