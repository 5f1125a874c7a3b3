//! Tables for people.

use comfy_table::{CellAlignment, Table, presets};

use super::summary::Summary;
use crate::traffic::Kind;

/// All figures; rates are those since `before`, where there is one.
pub(super) fn tables(now: &Summary, before: Option<&Summary>) -> String {
    let mut parts = vec![heading(now, before)];
    if !now.nodes.is_empty() {
        parts.push(nodes(now, before));
    }
    parts.extend([backends(now, before), kinds(now)]);
    parts.join("\n\n")
}

/// One line, for output that isn't a terminal.
pub(super) fn line(now: &Summary, before: Option<&Summary>) -> String {
    let nodes = now
        .nodes
        .iter()
        .map(|n| format!("{} {}", n.name, n.packets))
        .collect::<Vec<_>>()
        .join(", ");
    let share =
        |b: &super::BackendShare| format!("{} {:.1}/{:.1} %", b.name, 100.0 * b.share, 100.0 * b.expected);
    let backends = now.backends.iter().map(share).collect::<Vec<_>>().join(", ");
    format!(
        "{:.0} s: {} requests/s, {} requests, {} failed; packets: {nodes}; shares/weights: {backends}",
        now.seconds,
        rate(now.requests, before.map(|b| b.requests), seconds(now, before)),
        now.requests,
        now.failed
    )
}

fn heading(now: &Summary, before: Option<&Summary>) -> String {
    format!(
        "{:.1} s   {} requests/s   {} requests   {} failed{}",
        now.seconds,
        rate(now.requests, before.map(|b| b.requests), seconds(now, before)),
        now.requests,
        now.failed,
        causes(now)
    )
}

fn causes(now: &Summary) -> String {
    let f = now.failures;
    let causes = [
        ("connect", f.connect),
        ("timeout", f.timeout),
        ("reset", f.reset),
        ("wrong answer", f.wrong),
    ];
    let told: Vec<String> = causes
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(cause, n)| format!("{cause}: {n}"))
        .collect();
    if told.is_empty() {
        String::new()
    } else {
        format!(" ({})", told.join(", "))
    }
}

fn nodes(now: &Summary, before: Option<&Summary>) -> String {
    let mut table = table(&["node", "packets/s", "packets"]);
    for (index, node) in now.nodes.iter().enumerate() {
        let earlier = before.map(|b| b.nodes[index].packets);
        let per_second = rate(node.packets, earlier, seconds(now, before));
        table.add_row([node.name.clone(), per_second, node.packets.to_string()]);
    }
    aligned(table)
}

fn backends(now: &Summary, before: Option<&Summary>) -> String {
    let mut table = table(&[
        "backend",
        "weight",
        "requests/s",
        "requests",
        "share",
        "by weight",
        "deviations",
    ]);
    for (index, backend) in now.backends.iter().enumerate() {
        let earlier = before.map(|b| b.backends[index].requests);
        table.add_row([
            backend.name.clone(),
            backend.weight.to_string(),
            rate(backend.requests, earlier, seconds(now, before)),
            backend.requests.to_string(),
            format!("{:.2} %", 100.0 * backend.share),
            format!("{:.2} %", 100.0 * backend.expected),
            format!("{:.1}", backend.deviations),
        ]);
    }
    aligned(table)
}

fn kinds(now: &Summary) -> String {
    let mut table = table(&["traffic", "requests", "failed", "p50 ms", "p99 ms", "max ms"]);
    for job in &now.kinds {
        let kind = match job.kind {
            Kind::Http => "HTTP",
            Kind::Udp => "UDP echo",
            Kind::Lines => "TCP lines",
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a lab are far below 2^52"
        )]
        let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
        table.add_row([
            format!("{kind}, IPv{}", job.family.digit()),
            job.requests.to_string(),
            job.failed.total().to_string(),
            ms(job.latency.p50_us),
            ms(job.latency.p99_us),
            ms(job.latency.max_us),
        ]);
    }
    aligned(table)
}

/// A plain table.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Words to the left, numbers to the right.
pub(crate) fn aligned(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn seconds(now: &Summary, before: Option<&Summary>) -> f64 {
    now.seconds - before.map_or(0.0, |b| b.seconds)
}

fn rate(now: u64, before: Option<u64>, seconds: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "counts of a lab are far below 2^52")]
    let count = now.saturating_sub(before.unwrap_or(0)) as f64;
    if seconds > 0.0 {
        format!("{:.0}", count / seconds)
    } else {
        "-".to_owned()
    }
}
