//! `lbctl sync`: flow records between this node and the others.

use std::path::Path;

use anyhow::Result;

use super::look;
use crate::api::sync::{Sync, SyncPeer};
use crate::ctl::out::{Output, table};

pub(super) fn run(socket: &Path) -> Result<Output> {
    let sync: Sync = look(socket, "/v1/sync")?;
    Ok(Output::yes(serde_json::to_value(&sync)?, text(&sync)))
}

fn text(sync: &Sync) -> String {
    if !sync.talks {
        return "this node talks to nobody: give all of `group.nodes` an address (`lbctl config explain group.nodes`)"
            .to_owned();
    }
    let columns = [
        "NODE",
        "STATE",
        ">LAG P50",
        ">P99",
        ">OUT/S",
        ">IN/S",
        ">UNACKNOWLEDGED",
        ">DIFFERING",
        ">FOUND",
        ">REPAIRS OUT",
        ">IN",
    ];
    let mut text = table(columns, sync.peers.iter().map(row));
    text.push_str(&format!("\n\nevents: {}", sync.events));
    if sync.events_lost > 0 {
        text.push_str(&format!(
            "; {} were lost since the program was loaded, as the agent did not read fast enough",
            sync.events_lost
        ));
    }
    for peer in &sync.peers {
        remarks(peer, &mut text);
    }
    text
}

fn row(peer: &SyncPeer) -> [String; 11] {
    let state = match peer {
        SyncPeer { connected: false, .. } => "no session",
        SyncPeer { degraded: true, .. } => "too slow",
        SyncPeer {
            resyncs_received: 0, ..
        } => "resync",
        _ => "in sync",
    };
    let ms = |lag: Option<u64>| {
        lag.map_or_else(
            || "-".to_owned(),
            |us| format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        )
    };
    [
        peer.node.clone(),
        state.to_owned(),
        ms(peer.lag_p50_us),
        ms(peer.lag_p99_us),
        format!("{:.0}", peer.sent_per_s),
        format!("{:.0}", peer.received_per_s),
        peer.unacknowledged.to_string(),
        peer.differing.to_string(),
        peer.found.to_string(),
        peer.repairs_sent.to_string(),
        peer.repairs_received.to_string(),
    ]
}

/// What should not be, or not for long.
fn remarks(peer: &SyncPeer, text: &mut String) {
    let node = &peer.node;
    if peer.lasting > 0 {
        text.push_str(&format!(
            "\n{node}: entries of {} ranges of slots have differed for half a minute; is its flow table larger than the room for replicas here?",
            peer.lasting
        ));
    }
    if peer.degradations > 0 {
        text.push_str(&format!(
            "\n{node}: was too slow {} times, and got everything anew; {} records were skipped",
            peer.degradations, peer.skipped
        ));
    }
    if !peer.dropped.is_empty() {
        let reasons = peer.dropped.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        text.push_str(&format!(
            "\n{node}: its records that changed nothing here: {}",
            reasons.join(", ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_table_says_how_late_and_what_is_wrong() {
        let peer = SyncPeer {
            node: "lb2".to_owned(),
            connected: true,
            lag_p50_us: Some(812),
            lag_p99_us: Some(4_050),
            sent_per_s: 49_999.7,
            resyncs_received: 1,
            unacknowledged: 12,
            dropped: BTreeMap::from([("dead_backend".to_owned(), 3)]),
            lasting: 2,
            ..SyncPeer::default()
        };
        let slow = SyncPeer {
            node: "lb3".to_owned(),
            connected: true,
            degraded: true,
            degradations: 1,
            skipped: 77,
            ..SyncPeer::default()
        };
        let gone = SyncPeer {
            node: "lb4".to_owned(),
            ..SyncPeer::default()
        };
        let text = text(&Sync {
            talks: true,
            events: 5,
            events_lost: 6,
            peers: vec![peer, slow, gone],
        });
        for words in [
            "lb2   in sync     0.81 ms  4.05 ms  50000",
            "lb3   too slow",
            "lb4   no session",
            "events: 5; 6 were lost",
            "lb2: entries of 2 ranges",
            "lb2: its records that changed nothing here: 3 dead_backend",
            "lb3: was too slow 1 times, and got everything anew; 77 records",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(super::text(&Sync::default()).starts_with("this node talks to nobody"));
    }
}
