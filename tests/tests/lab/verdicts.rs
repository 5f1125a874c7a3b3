//! A group of three that checks its backends: one dies for all, one is silent to a node alone, one node hears none of them.

use std::time::Duration;

use lb_tests::node_config::{NodeConfig, Times};
use lb_tests::serve::HEALTH_PATH;
use lb_tests::topo::{HTTP_PORT, Topology};
use lb_tests::traffic::Kind;
use lb_tests::wait::until_ok;
use lb_tests::{Family, Lab, LabError};
use serde_json::{Value, json};

use crate::drained::slots;
use crate::leave::{judge, lab, load};

const SOON: Duration = Duration::from_secs(30);
/// Whoever wrongly said something would have said it.
const WHILE: Duration = Duration::from_secs(3);

fn checked(config: &mut NodeConfig) {
    for pool in &mut config.pools {
        pool.health = Some(
            json!({"type": "http", "port": HTTP_PORT, "path": HEALTH_PATH, "interval": "400ms", "timeout": "400ms",
            "rise": 2, "fall": 3, "death_grace": "1s", "flap": {"limit": 0}}),
        );
    }
}

/// Whether a backend hears a node's checks. What the node sends it for clients is not answered to the node.
fn hears(lab: &Lab, node: usize, backend: usize, yes: bool) -> Result<(), LabError> {
    let change = if yes { "del" } else { "add" };
    let routes = Family::BOTH.map(|family| {
        let address = lab.topology().node_address(node, family);
        format!("route {change} blackhole {address}")
    });
    lab.backends()[backend].namespace().ip(&routes)
}

/// Waits until nodes give a backend new flows, or don't.
fn wait_served(lab: &Lab, nodes: &[usize], backend: usize, yes: bool) -> Result<(), LabError> {
    let backend = Topology::backend_name(backend);
    for index in nodes {
        let node = &lab.nodes()[*index];
        until_ok(SOON, &format!("{} serves {backend}: {yes}", node.name()), || {
            Ok((slots(node, &backend)? > 0) == yes)
        })?;
    }
    Ok(())
}

/// How a node calls a backend's state in its pools.
fn states(lab: &Lab, node: usize, backend: usize) -> Result<Vec<Value>, LabError> {
    let backends = lab.nodes()[node].lbctl_json(&["backends"])?;
    let all = backends["backends"].as_array().expect("a list").iter();
    let name = Topology::backend_name(backend);
    Ok(all
        .filter(|one| one["name"] == name)
        .map(|one| one["state"]["standing"].clone())
        .collect())
}

fn wait_state(lab: &Lab, nodes: &[usize], backend: usize, state: &str) -> Result<(), LabError> {
    for index in nodes {
        until_ok(SOON, &format!("node {index}, backend {backend}: {state}"), || {
            Ok(states(lab, *index, backend)? == [state, state])
        })?;
    }
    Ok(())
}

#[test]
fn what_is_silent_to_one_node_is_not_dead_and_what_is_dead_is_so_everywhere() {
    lab("verdict", &Times::default(), checked)
        .run(|lab| {
            let all = [0, 1, 2];
            wait_served(lab, &all, 1, true)?;
            let load_of_all = load(lab)?;
            // To lb2 alone be2 is silent: it leads new flows elsewhere, and nobody has it dead.
            hears(lab, 1, 1, false)?;
            wait_state(lab, &[1], 1, "suspect")?;
            wait_served(lab, &[1], 1, false)?;
            std::thread::sleep(WHILE);
            wait_state(lab, &[1], 1, "suspect")?;
            wait_state(lab, &[0, 2], 1, "up")?;
            // Whatever lb2 alone knew would break now.
            lab.router_mut().cross()?;
            std::thread::sleep(WHILE);
            hears(lab, 1, 1, true)?;
            wait_served(lab, &all, 1, true)?;
            judge("verdict: silent to one", load_of_all)?;

            // It dies: its own connections break, and nobody else's.
            let load = load(lab)?;
            lab.backend(1).kill9()?;
            wait_state(lab, &all, 1, "dead")?;
            wait_served(lab, &all, 1, false)?;
            lab.router_mut().cross()?;
            std::thread::sleep(WHILE);
            let report = load.stop()?;
            let held = report.held(Kind::Lines);
            println!("verdict: {} of {} broke with be2", held.broken, held.opened);
            assert_eq!(held.moved, 0, "{:?}", report.errors());
            let broken: Vec<_> = held.broken_by_backend.keys().collect();
            assert_eq!(broken, ["be2"], "{:?}", held.broken_by_backend);

            // It is back, for all.
            lab.backend(1).start()?;
            wait_served(lab, &all, 1, true)?;
            wait_state(lab, &all, 1, "up")?;
            let answered = lab.client().http(200, Family::V4)?;
            assert!(
                answered.failed() == 0 && answered.answered_by("be2") > 0,
                "{:?}",
                answered.errors()
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// Three of four backends are silent to lb2 alone, more than `fail_open` allows: it serves them all, and says that it had better get
/// no traffic. It comes back when it hears them.
#[test]
fn a_node_that_hears_few_backends_withdraws_and_comes_back() {
    lab("verdict-alone", &Times::default(), checked)
        .run(|lab| {
            wait_served(lab, &[0, 1, 2], 1, true)?;
            let load = load(lab)?;
            let is_ready = |lab: &Lab, index: usize| -> Result<bool, LabError> {
                Ok(lab.nodes()[index].lbctl(&["ready"])?.status.success())
            };
            for backend in 0..3 {
                hears(lab, 1, backend, false)?;
            }
            until_ok(SOON, "lb2 is not ready", || Ok(!is_ready(lab, 1)?))?;
            let out = lab.nodes()[1].lbctl(&["ready", "--output", "json"])?;
            let why: Value = serde_json::from_slice(&out.stdout).expect("lbctl writes JSON");
            assert_eq!(
                why["why"], "this node alone sees more than half of a pool down",
                "{why}"
            );
            std::thread::sleep(WHILE);
            for index in [0, 2] {
                assert!(is_ready(lab, index)?, "node {index} hears all backends");
                for backend in 0..4 {
                    assert_eq!(states(lab, index, backend)?, ["up", "up"]);
                }
            }
            for backend in 0..3 {
                hears(lab, 1, backend, true)?;
            }
            until_ok(SOON, "lb2 is ready", || is_ready(lab, 1))?;
            judge("verdict-alone", load)
        })
        .expect("the lab runs");
}
