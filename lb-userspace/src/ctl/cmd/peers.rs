//! `lbctl peers`: the other nodes of the group.

use std::path::Path;

use anyhow::Result;

use super::pki::days;
use crate::api::client::Client;
use crate::api::dto::Backends;
use crate::api::peers::{Peer, Peers, among};
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, table};
use crate::state::wall::Wall;

pub(super) fn run(socket: &Path) -> Result<Output> {
    let peers: Peers = wait(Client::new(socket).get("/v1/peers"))??;
    let json = serde_json::to_value(&peers)?;
    if peers.peers.iter().all(|peer| peer.rings_differ_in.is_empty()) {
        return Ok(Output::yes(json, text(&peers, &[])));
    }
    // For their names alone, which peers don't tell.
    let backends: Backends = wait(Client::new(socket).get("/v1/backends"))??;
    let mut pools: Vec<&str> = backends.backends.iter().map(|one| one.pool.as_str()).collect();
    pools.dedup();
    Ok(Output::yes(json, text(&peers, &pools)))
}

fn text(peers: &Peers, pools: &[&str]) -> String {
    let Some(own) = &peers.own else {
        return "this node talks to nobody: give all of `group.nodes` an address (`lbctl config explain group.nodes`)"
            .to_owned();
    };
    let columns = [
        "NODE",
        "ADDRESS",
        "STATE",
        "SINCE",
        ">RTT",
        "CONFIG",
        "RINGS",
        "ORIGINS",
        "DOWN",
        ">PACKETS/S",
        "VERSION",
        ">CERTIFICATE",
    ];
    let mut text = table(columns, peers.peers.iter().map(|peer| row(peer, pools)));
    text.push_str(&format!(
        "\n\nthis node: {} of group {} at {}, {}; certificate {}, authority {}",
        own.node,
        own.group,
        own.address,
        own.said.phase,
        left(own.certificate_until),
        left(own.ca_until)
    ));
    if own.said.drift {
        text.push_str(
            "\nits file says something else than the group's configuration, which stays in force: `lbctl config show` is what runs, \
             `lbctl config apply FILE` makes it the group's",
        );
    }
    if own.reload_failed {
        text.push_str(
            "\nits certificates' files hold something that can't be used; the agent's log says what. They are read again by themselves, \
             but another group's than it was started with only by a restart of lbd",
        );
    }
    let troubles = peers.peers.iter().filter(|peer| peer.session.is_none());
    for (peer, why) in troubles.filter_map(|peer| Some((peer, peer.trouble.as_ref()?))) {
        text.push_str(&format!("\n{}: {why}", peer.node));
    }
    if !peers.refused.is_empty() {
        let refused = peers
            .refused
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        text.push_str(&format!("\nrefused: {}", refused.collect::<Vec<_>>().join(", ")));
    }
    text
}

fn row(peer: &Peer, pools: &[&str]) -> [String; 12] {
    let none = || "-".to_owned();
    let same = |same: Option<bool>| {
        let word = |same| if same { "equal" } else { "differs" };
        same.map_or_else(none, |same| word(same).to_owned())
    };
    [
        peer.node.clone(),
        peer.address.clone(),
        peer.state.clone(),
        Wall(peer.since).text(),
        peer.rtt_us
            .map_or_else(none, |us| format!("{}.{:03} ms", us / 1000, us % 1000)),
        config(
            same(peer.same_config),
            peer.said.as_ref().is_some_and(|said| said.drift),
        ),
        rings(
            same(peer.same_rings),
            &among(&peer.rings_differ_in, pools.iter().copied()),
        ),
        same(peer.same_origins),
        same(peer.same_down),
        peer.said.as_ref().map_or_else(none, |said| said.load.to_string()),
        peer.said.as_ref().map_or_else(none, |said| said.version.clone()),
        peer.certificate_until.map_or_else(none, left),
    ]
}

/// Whether the running one is equal, and whether the file is another one.
fn config(same: String, drift: bool) -> String {
    if drift { same + ", file drifts" } else { same }
}

/// Whether they are equal, and which aren't.
fn rings(same: String, differing: &[&str]) -> String {
    if differing.is_empty() {
        return same;
    }
    format!("{same}: {}", differing.join(", "))
}

/// What is left of a certificate that ends at this millisecond.
fn left(until: i64) -> String {
    match days(until / 1000) {
        left if left < 0 => "expired".to_owned(),
        1 => "1 day".to_owned(),
        left => format!("{left} days"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use lb_common::id::stable;

    use crate::api::peers::{Said, This};
    use crate::peer::PoolRings;

    #[test]
    fn nodes_that_do_not_talk_say_so() {
        assert!(text(&Peers::default(), &[]).starts_with("this node talks to nobody"));
    }

    #[test]
    fn the_table_says_who_lives_and_what_differs() {
        let peer = |node: &str, state: &str, same| Peer {
            node: node.to_owned(),
            address: "192.0.2.2:7946".to_owned(),
            state: state.to_owned(),
            since: 0,
            session: same,
            sessions: 1,
            rtt_us: same.map(|_| 1050),
            sent: 0,
            heard: 0,
            missed: 0,
            said: same.map(|_| Said {
                version: "1.2.3".to_owned(),
                load: 700,
                ..Said::default()
            }),
            same_config: same.map(|_| true),
            same_rings: same.map(|_| false),
            rings_differ_in: same
                .map(|_| PoolRings::bucket(stable("web", "")))
                .into_iter()
                .collect(),
            same_origins: same.map(|_| true),
            same_down: same.map(|_| true),
            certificate_until: Some(0),
            trouble: Some("no answer".to_owned()),
        };
        let peers = Peers {
            own: Some(This {
                node: "lb1".to_owned(),
                group: "blue".to_owned(),
                address: "192.0.2.1:7946".to_owned(),
                said: Said {
                    phase: "ready".to_owned(),
                    drift: true,
                    ..Said::default()
                },
                certificate_until: i64::MAX,
                ca_until: 0,
                reload_failed: true,
            }),
            peers: vec![peer("lb2", "alive", Some(7)), peer("lb3", "dead", None)],
            refused: BTreeMap::from([("name".to_owned(), 3)]),
        };
        let text = text(&peers, &["web", "dns"]);
        for words in [
            "1.050 ms  equal   differs: web  equal    equal        700  1.2.3",
            "lb1 of group blue",
            "its file says something else",
            "authority expired",
            "lb3: no answer",
            "refused: 3 name",
            "can't be used",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("lb2: no answer"), "{text}");
        assert_eq!(config("equal".to_owned(), true), "equal, file drifts");
    }
}
