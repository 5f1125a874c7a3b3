//! `lbctl sync`: what the replication of flows is doing.

use std::path::Path;

use anyhow::Result;

use crate::api::client::Client;
use crate::api::group::{Replicated, Replication};
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, table};

pub(super) fn run(socket: &Path) -> Result<Output> {
    let replication: Replication = wait(Client::new(socket).get("/v1/sync"))??;
    let head = [
        "NODE", "SESSION", "LAG P50", "LAG P99", "SENT", "UNACKED", "RECEIVED", "FOUND", "REPAIRS", "DIFFER",
        "DROPPED",
    ];
    let rows = replication.peers.iter().map(row);
    let mut text = table(head, rows);
    text.push_str(&format!(
        "\n\n{} events told by the program, {} lost",
        replication.events, replication.lost
    ));
    Ok(Output::yes(serde_json::to_value(&replication)?, text))
}

fn row(peer: &Replicated) -> [String; 11] {
    let lag = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
    let session = match (peer.connected, peer.degraded) {
        (false, _) => "none",
        (true, true) => "behind",
        (true, false) => "yes",
    };
    [
        peer.node.clone(),
        session.to_owned(),
        lag(peer.lag_p50_ms),
        lag(peer.lag_p99_ms),
        peer.sent.to_string(),
        peer.sent.saturating_sub(peer.acknowledged).to_string(),
        peer.received.to_string(),
        peer.found.to_string(),
        peer.repairs.to_string(),
        peer.differing.to_string(),
        peer.dropped.values().sum::<u64>().to_string(),
    ]
}
