//! How soon nodes notice that one of them is dead, with the times that a configuration has which says nothing about them; and that they
//! call nobody dead who lives.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_tests::host::Node;
use lb_tests::node_config::{NodeConfig, Times};
use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabBuilder, LabError};
use serde_json::Value;

use crate::leave;

const SOON: Duration = Duration::from_secs(10);
/// From the loss of power until the others call the node dead; an unoptimised build on a busy machine gets more time.
const DEAD_WITHIN: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });
/// Where a process may not run for longer than the default; see [`Times`].
const PATIENT: Option<&str> = if cfg!(debug_assertions) {
    Some("300ms")
} else {
    None
};
/// Nobody is called dead for so long.
const CALM: Duration = Duration::from_secs(10);

/// Three nodes that talk, with the default times, or with another `dead_after`.
fn lab(name: &str, dead_after: Option<&str>) -> LabBuilder {
    leave::lab(name, &Times::default(), |config: &mut NodeConfig| {
        let peering = config.group.peering.as_mut().expect("they talk");
        let times = [
            &mut peering.heartbeat,
            &mut peering.dead_after,
            &mut peering.withdraw_after,
            &mut peering.join_within,
        ];
        for time in times {
            *time = None;
        }
        peering.dead_after = dead_after.map(str::to_owned);
    })
}

/// What a node knows of the others, by name.
fn peers(node: &Node) -> Result<Vec<Value>, LabError> {
    let peers = node.lbctl_json(&["peers"])?;
    Ok(peers["peers"].as_array().expect("a list").clone())
}

fn wait_alive(lab: &Lab) -> Result<(), LabError> {
    for node in lab.nodes() {
        until_ok(SOON, &format!("{} finds all alive", node.name()), || {
            Ok(peers(node)?.iter().all(|peer| peer["state"] == "alive"))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_without_power_is_dead_to_the_others_at_once() {
    lab("detection", None)
        .run(|lab| {
            wait_alive(lab)?;
            let loss = lab.power_loss(2, Instant::now(), Duration::ZERO, &[0, 1])?;
            let death = SystemTime::now() - loss.death.elapsed();
            let death = death.duration_since(UNIX_EPOCH).expect("it is after 1970");
            for node in &lab.nodes()[..2] {
                let mut since = Duration::ZERO;
                until_ok(SOON, &format!("lb3 is dead to {}", node.name()), || {
                    let all = peers(node)?;
                    let its = all
                        .iter()
                        .find(|peer| peer["node"] == "lb3")
                        .expect("it is known");
                    since = Duration::from_millis(its["since"].as_u64().expect("a moment"));
                    Ok(its["state"] == "dead")
                })?;
                assert!(since > death, "dead to {} before that", node.name());
                let took = since.saturating_sub(death);
                println!("detection: dead to {} after {took:?}", node.name());
                assert!(took <= DEAD_WITHIN, "{took:?}");
                let ready = node.lbctl_json(&["ready"])?;
                assert_eq!(ready["group"]["live"], serde_json::json!(["lb1", "lb2"]));
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_node_with_a_slow_line_is_not_dead() {
    lab("slow-line", PATIENT)
        .run(|lab| {
            wait_alive(lab)?;
            // A third of it is heartbeats.
            lab.nodes()[2].slow(Some("600kbit"))?;
            let marks: Vec<usize> = lab.nodes().iter().map(|node| node.log().len()).collect();
            let sessions = |node: &Node| -> Result<Vec<Value>, LabError> {
                Ok(peers(node)?.iter().map(|peer| peer["sessions"].clone()).collect())
            };
            let before: Vec<Vec<Value>> = lab.nodes().iter().map(sessions).collect::<Result<_, _>>()?;
            std::thread::sleep(CALM);
            for ((node, mark), before) in lab.nodes().iter().zip(marks).zip(before) {
                let log = node.log().split_off(mark);
                assert!(!log.contains("dead"), "{}: {log}", node.name());
                assert_eq!(sessions(node)?, before, "{}", node.name());
            }
            wait_alive(lab)
        })
        .expect("the lab runs");
}
