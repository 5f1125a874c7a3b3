//! Two agents that talk to each other.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lb_tests::wait::until;
use lb_tests::{Lab, LabError};
use serde_json::{Value, json};

use crate::metrics::{LOCAL, scrape};

const SOON: Duration = Duration::from_secs(10);

/// Where node `index` is reached by the others.
fn address(lab: &mut Lab, index: usize) -> IpAddr {
    let text = lab.node(index).config().to_yaml().expect("a configuration");
    assert!(text.contains("lb1"), "{text}");
    IpAddr::from([10, 9, 11 + u8::try_from(index).expect("few nodes"), 2])
}

/// The folder of a node's certificates.
fn pki(lab: &mut Lab, index: usize) -> PathBuf {
    lab.node(index).config_file().with_extension("pki")
}

/// Runs `lbctl` of the first node, which must say yes.
fn done(lab: &mut Lab, args: &[&str]) -> Result<(), LabError> {
    let out = lab.node(0).lbctl(args)?;
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// Makes an authority and certificates, and starts both nodes with addresses.
fn introduce(lab: &mut Lab) -> Result<(), LabError> {
    let ca = pki(lab, 0).with_file_name("ca");
    let ca = ca.to_str().expect("a path of ours").to_owned();
    done(lab, &["pki", "init", &ca, "--group", "lab"])?;
    let nodes: Vec<Value> = (0..2)
        .map(|index| json!({ "name": format!("lb{}", index + 1), "address": address(lab, index) }))
        .collect();
    for index in 0..2 {
        let folder = pki(lab, index);
        let folder = folder.to_str().expect("a path of ours").to_owned();
        done(
            lab,
            &["pki", "issue", &ca, &format!("lb{}", index + 1), "--out", &folder],
        )?;
        let mut config = serde_json::to_value(lab.node(index).config()).expect("a configuration");
        config["group"]["nodes"] = json!(nodes);
        // These two cores have more to do than to send heartbeats.
        config["group"]["peering"] = json!({ "pki": folder, "dead_after": "250ms" });
        config["metrics"] = json!({ "listen": LOCAL });
        lab.node(index).stop()?;
        lab.node(index).write_config(&serde_yaml::to_string(&config)?)?;
        lab.node(index).start()?;
    }
    Ok(())
}

fn state(lab: &mut Lab, of: usize) -> Option<String> {
    let peers = lab.node(of).lbctl_json(&["peers"]).ok()?;
    peers["peers"][0]["state"].as_str().map(str::to_owned)
}

fn wait_state(lab: &mut Lab, of: usize, wanted: &str) -> Result<(), LabError> {
    until(SOON, &format!("a peer that is {wanted}"), || {
        state(lab, of).as_deref() == Some(wanted)
    })
}

/// Waits until both nodes run the same charter, and another one than `before`; its digest.
fn digest(lab: &mut Lab, before: &str) -> Result<String, LabError> {
    let mut found = String::new();
    until(SOON, "an equal digest of the charter", || {
        let Ok(peers) = lab.node(0).lbctl_json(&["peers"]) else {
            return false;
        };
        let own = peers["own"]["said"]["config_digest"].as_str().unwrap_or(before);
        own.clone_into(&mut found);
        own != before && peers["peers"][0]["same_config"] == true
    })?;
    Ok(found)
}

/// Waits until the journal of a node has these events of its group.
fn told(lab: &mut Lab, of: usize, events: &[&str]) -> Result<(), LabError> {
    until(SOON * 6, &format!("{events:?} in the journal"), || {
        let Ok(journal) = lab.node(of).lbctl_json(&["events"]) else {
            return false;
        };
        let records = journal["events"].as_array().expect("records");
        let by_peers = records.iter().filter(|record| record["cause"]["by"] == "peers");
        let seen: Vec<&str> = by_peers.filter_map(|record| record["event"].as_str()).collect();
        events.iter().all(|event| seen.contains(event))
    })
}

#[test]
fn nodes_see_each_other_live_and_die() {
    Lab::builder("peers")
        .run(|lab| {
            let out = lab.node(0).lbctl(&["peers"])?;
            assert!(
                String::from_utf8_lossy(&out.stdout).contains("talks to nobody"),
                "{out:?}"
            );
            introduce(lab)?;
            wait_state(lab, 0, "alive")?;
            wait_state(lab, 1, "alive")?;
            let peers = lab.node(0).lbctl_json(&["peers"])?;
            let peer = &peers["peers"][0];
            assert_eq!(
                (&peer["node"], &peer["address"]),
                (&json!("lb2"), &json!("10.9.12.2:7946"))
            );
            assert!(peer["rtt_us"].as_u64().is_some_and(|us| us < 1_000_000), "{peer}");
            assert_eq!(peers["own"]["group"], "lab");
            let out = lab.node(0).lbctl(&["peers"])?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains("alive") && text.contains("equal"), "{text}");
            told(lab, 0, &["coordinates", "members_changed", "ready"])?;
            told(lab, 1, &["member_admitted", "ready"])?;
            let (_, samples) = scrape(lab)?;
            for (sample, want) in [
                ("ready", 1.0),
                ("group_members", 2.0),
                ("group_members_live", 2.0),
                ("group_coordinates", 1.0),
                ("group_join_overdue", 0.0),
                ("group_events_total{event=\"coordinates\"}", 1.0),
            ] {
                assert_eq!(samples[&format!("tandem_{sample}")], want, "{sample}");
            }
            let before = digest(lab, "0000000000000000")?;
            done(lab, &["drain", "web4/be1"])?;
            digest(lab, &before)?;
            lab.node(1).kill9()?;
            wait_state(lab, 0, "dead")?;
            lab.node(1).start()?;
            wait_state(lab, 0, "alive")?;
            wait_state(lab, 1, "alive")?;
            lab.node(0).kill9()?;
            wait_state(lab, 1, "dead")?;
            lab.node(0).start()?;
            wait_state(lab, 1, "alive")
        })
        .expect("the lab runs");
}

#[test]
fn a_node_with_a_wrong_certificate_is_refused_and_counted() {
    Lab::builder("wrong-certificate")
        .run(|lab| {
            introduce(lab)?;
            wait_state(lab, 0, "alive")?;
            let other = pki(lab, 0).with_file_name("other");
            let other = other.to_str().expect("a path of ours").to_owned();
            done(lab, &["pki", "init", &other, "--group", "lab"])?;
            let folder = pki(lab, 1);
            let folder = folder.to_str().expect("a path of ours").to_owned();
            let again = lab
                .node(0)
                .lbctl(&["pki", "issue", &other, "lb2", "--out", &folder])?;
            assert_eq!(
                again.status.code(),
                Some(2),
                "never overwrites unasked: {again:?}"
            );
            done(lab, &["pki", "issue", &other, "lb2", "--out", &folder, "--force"])?;
            lab.node(1).stop()?;
            lab.node(1).start()?;
            until(SOON, "a refusal", || {
                let peers = lab.node(0).lbctl_json(&["peers"]);
                peers.is_ok_and(|peers| peers["refused"]["authority"].as_u64() > Some(1))
            })?;
            assert_eq!(state(lab, 0).as_deref(), Some("dead"));
            assert_ne!(state(lab, 1).as_deref(), Some("alive"));
            // The right one is taken without a restart.
            let ca = pki(lab, 0).with_file_name("ca");
            let ca = ca.to_str().expect("a path of ours").to_owned();
            done(lab, &["pki", "issue", &ca, "lb2", "--out", &folder, "--force"])?;
            wait_state(lab, 0, "alive")?;
            done(lab, &["pki", "show", &folder])
        })
        .expect("the lab runs");
}

/// Appends one file to another.
fn append(from: &Path, to: &Path) {
    let text = |path: &Path| std::fs::read_to_string(path).expect("a file");
    std::fs::write(to, text(to) + &text(from)).expect("a file is written");
}

/// Nodes of which the first has been told by whom the second one's session is: its certificate's end, and sessions so far.
fn session(lab: &mut Lab) -> Result<(i64, u64), LabError> {
    let peers = lab.node(0).lbctl_json(&["peers"])?;
    let until = peers["peers"][0]["certificate_until"]
        .as_i64()
        .unwrap_or_default();
    Ok((until, peers["peers"][0]["sessions"].as_u64().unwrap_or_default()))
}

/// Has the files in a node's folder changed, and waits until its agent has read them.
fn reads(
    lab: &mut Lab,
    index: usize,
    mut job: impl FnMut(&mut Lab) -> Result<(), LabError>,
) -> Result<(), LabError> {
    let mark = lab.node(index).log_mark()?;
    job(lab)?;
    lab.node(index).wait_log("certificates read again", mark, SOON)
}

/// Renews both nodes' certificates by an authority.
fn renew(lab: &mut Lab, authority: &Path, days: &str) -> Result<(), LabError> {
    for index in 0..2 {
        let folder = pki(lab, index);
        let (authority, folder) = (text(authority), text(&folder));
        reads(lab, index, |lab| {
            done(
                lab,
                &["pki", "renew", &authority, "--out", &folder, "--days", days],
            )
        })?;
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of ours").to_owned()
}

#[test]
fn certificates_are_renewed_and_their_authority_is_changed_under_way() {
    Lab::builder("renewal")
        .run(|lab| {
            introduce(lab)?;
            wait_state(lab, 0, "alive")?;
            let folders = [pki(lab, 0), pki(lab, 1)];
            let beside = |name: &str| folders[0].with_file_name(name);
            let before = session(lab)?;
            renew(lab, &beside("ca"), "20")?;
            assert_eq!(session(lab)?, before, "no session ends");
            // Another group's authority.
            let other = text(&beside("other"));
            done(lab, &["pki", "init", &other, "--group", "elsewhere"])?;
            let folder = text(&folders[0]);
            let wrong = lab.node(0).lbctl(&["pki", "renew", &other, "--out", &folder])?;
            assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
            done(lab, &["pki", "show", &folder])?;

            // A new authority: first everybody trusts both.
            let next = beside("next");
            done(lab, &["pki", "init", &text(&next), "--group", "lab"])?;
            for (index, folder) in folders.iter().enumerate() {
                reads(lab, index, |_| {
                    append(&next.join("ca.pem"), &folder.join("ca.pem"));
                    Ok(())
                })?;
            }
            renew(lab, &next, "90")?;
            assert_eq!(session(lab)?, before, "no session ends");
            // Then nobody the old one any more, and sessions begin anew with the new certificates.
            for (index, folder) in folders.iter().enumerate() {
                reads(lab, index, |_| {
                    std::fs::copy(next.join("ca.pem"), folder.join("ca.pem")).expect("a file is copied");
                    Ok(())
                })?;
            }
            let days = |until: i64| (before.0 - until) / 86_400_000;
            until(SOON, "a session with the new certificate", || {
                session(lab).is_ok_and(|(until, sessions)| sessions > before.1 && days(until) > 270)
            })?;
            wait_state(lab, 0, "alive")?;
            // It was good for a year, and is for ninety days.
            let (until, _) = session(lab)?;
            assert!((274..=275).contains(&days(until)), "{until} {before:?}");
            Ok::<_, LabError>(())
        })
        .expect("the lab runs");
}
