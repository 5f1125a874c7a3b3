//! `docs/METRICS.md`.

use lb_common::pick::By;
use lb_userspace::metrics::SECTIONS;

use super::{head, table};

pub(super) fn page() -> String {
    let mut page = head("Metrics", "the table by which the agent serves them");
    page.push_str(
        "`GET /metrics` in Prometheus's text format, on the address of [`metrics.listen`](CONFIG.md#metrics); without that\n\
         section nothing listens. Plain HTTP, no password, no other path; at most 8 connections at once, of one request and\n\
         5 seconds each, and scrapes within 200 ms share an answer. A scrape waits for nothing that the balancer needs.\n\n\
         [alerts.yml](../dist/alerts.yml) has alert rules, [tandem.json](../dist/grafana/tandem.json) a Grafana dashboard. Both\n\
         expect the scrape job `tandem`:\n\n\
         ```yaml\n\
         scrape_configs:\n  - job_name: tandem\n    static_configs:\n      - targets: [\"lb1:9400\", \"lb2:9400\"]\n\
         ```\n\n\
         A state set (`phase`, `standing`) has one series per state, 1 for the present one: `tandem_backend_phase{phase=\"dead\"} == 1`.\n\
         Labels never hold what a packet or a backend says: reasons are shortened to the agent's own words.\n\n",
    );
    page.push_str("Values of `by`, for packets in tracked slots: ");
    let by = By::ALL.into_iter().filter(|by| *by != By::Slot);
    let by: Vec<String> = by.map(|by| format!("`{}` {}", by.name(), meaning(by))).collect();
    page.push_str(&by.join("; "));
    page.push_str(
        ".\nReasons to stop are in [STOP-REASONS.md](STOP-REASONS.md), tables of flows in [MAPS.md](MAPS.md).\n",
    );
    for section in SECTIONS {
        page.push_str(&format!("\n## {}\n\n{}\n\n", section.title, section.about));
        let rows = section.rows.iter().map(|row| {
            let labels: Vec<String> = row.labels.iter().map(|label| format!("`{label}`")).collect();
            [
                format!("`{}`", row.name),
                row.kind.name().to_owned(),
                labels.join(", "),
                row.help.to_owned(),
            ]
        });
        page.push_str(&table(["metric", "type", "labels", "meaning"], rows));
    }
    page
}

fn meaning(by: By) -> &'static str {
    match by {
        By::Slot => "the slot alone",
        By::Own => "an entry of this node",
        By::Replica => "a peer's entry held here",
        By::Probation => "a flow whose handshake is under way",
        By::New => "a new flow that was entered",
        By::Refused => "a new flow that could not be entered, and went to `origin`",
        By::Origin => "a flow without an entry",
        By::Rehomed => "a flow whose backend is dead",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_metric_is_there() {
        let page = super::page();
        for row in lb_userspace::metrics::rows() {
            assert!(
                page.contains(&format!("| `{}` | {} |", row.name, row.kind.name())),
                "{}",
                row.name
            );
        }
    }
}
