//! A backend without a next hop: its slots are lent to others, it shows, and they come back exactly.

use std::time::Duration;

use lb_tests::node_config::{BackendSection, NodeConfig, ViaSection};
use lb_tests::{Family, Lab, LabError, wait};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// On the node's own link, and nobody is there.
const GHOST: &str = "10.9.11.77";
const NOBODY: &str = "02:00:00:00:00:77";

fn with_ghost(config: &NodeConfig, via: Option<ViaSection>) -> Result<String, LabError> {
    let mut config = config.clone();
    config.pools[0].backends.push(BackendSection {
        name: "ghost".to_owned(),
        address: GHOST.parse().expect("an address"),
        weight: 3,
        via,
    });
    config.to_yaml()
}

/// What `lbctl backends` says of a backend of the IPv4 pool.
fn backend(lab: &mut Lab, name: &str) -> Result<Value, LabError> {
    let all = lab.node(0).lbctl_json(&["backends"])?;
    let rows = all["backends"].as_array().expect("a list");
    let found = rows
        .iter()
        .find(|row| row["pool"] == "web4" && row["name"] == name);
    Ok(found.cloned().unwrap_or_default())
}

fn slots(lab: &mut Lab) -> Result<Vec<String>, LabError> {
    let map = lab.node(0).lbctl_json(&["maps", "lb_slots", "--all"])?;
    let entries = map["entries"].as_array().expect("a list");
    let of_pool = entries.iter().filter(|entry| entry["key"]["pool"] == "web4");
    Ok(of_pool
        .map(|entry| entry["value"]["current"].as_str().expect("a backend").to_owned())
        .collect())
}

#[test]
fn an_unresolved_backend_lends_its_slots_and_takes_them_back() {
    Lab::builder("overlay")
        .nodes(1)
        .run(|lab| {
            let config = lab.node(0).config().clone();
            let mark = lab.node(0).reload(&with_ghost(&config, None)?)?;
            lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
            lab.node(0).wait_log("change of slots committed", mark, SOON)?;
            assert!(
                lab.node(0).log().contains("backend web4/ghost: no next hop"),
                "{}",
                lab.node(0).log()
            );

            let ghost = backend(lab, "ghost")?;
            assert_eq!(ghost["next_hop"]["state"], "unresolved");
            assert!(
                ghost["next_hop"]["why"]
                    .as_str()
                    .is_some_and(|why| why.contains(GHOST)),
                "{ghost}"
            );
            assert_eq!(ghost["slots"], 0);
            let lent = slots(lab)?;
            let report = lab.client().http(300, Family::V4)?;
            assert_eq!(
                (report.requests(), report.failed()),
                (300, 0),
                "{:?}",
                report.errors()
            );

            // The neighbour appears: half of all slots are at home there (weight 3 of 1 + 2 + 3 + 3 = 9: a third).
            let line = format!("neigh replace {GHOST} lladdr {NOBODY} dev eth0 nud permanent");
            let mark = lab.node(0).log().len() as u64;
            lab.node(0).namespace().ip(&[line])?;
            lab.node(0).wait_log("change of slots committed", mark, SOON)?;
            let home = slots(lab)?;
            let at_home = home.iter().filter(|slot| *slot == "ghost").count();
            assert!(
                (21_844..=21_847).contains(&at_home),
                "{at_home} of 65,536 slots for a weight of 3 in 9"
            );
            // Nothing but the ghost's slots was lent, so nothing else moves when they come back.
            let moved = lent.iter().zip(&home).filter(|(lent, home)| lent != home).count();
            assert_eq!(moved, at_home);

            lab.node(0)
                .namespace()
                .ip(&[format!("neigh del {GHOST} dev eth0")])?;
            lab.node(0)
                .namespace()
                .ip(&[format!("neigh replace {GHOST} dev eth0 nud failed")])?;
            wait::until(SOON, "the slots are lent again", || {
                backend(lab, "ghost").is_ok_and(|ghost| ghost["next_hop"]["state"] == "unresolved")
            })?;
            assert_eq!(
                slots(lab)?,
                lent,
                "the same slots are lent to the same backends again"
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn control_slots_that_are_not_lent_lose_their_packets() {
    Lab::builder("overlay-control")
        .nodes(1)
        .run(|lab| {
            let config = lab.node(0).config().clone();
            let via = ViaSection {
                interface: "eth0".to_owned(),
                mac: NOBODY.to_owned(),
            };
            let mark = lab.node(0).reload(&with_ghost(&config, Some(via))?)?;
            lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
            lab.node(0).wait_log("change of slots committed", mark, SOON)?;
            let report = lab.client().http(60, Family::V4)?;
            let failed = report.failed();
            assert!(
                (5..=40).contains(&failed),
                "{failed} of 60 failed, a third of the slots go to nobody"
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
