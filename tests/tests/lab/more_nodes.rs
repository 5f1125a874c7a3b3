//! A group gets another node while it runs: the files of all say so, and one agent after the other is restarted.

use std::time::Duration;

use lb_tests::node_config::{NodeConfig, Times};
use lb_tests::topo::Topology;
use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabError};
use serde_json::json;

use crate::drained::{drain, slots};

const SOON: Duration = Duration::from_secs(20);
const WEIGHTS: [u16; 2] = [1, 1];

/// Of node `index`, in a group of the first `nodes`.
fn config(index: usize, nodes: usize) -> NodeConfig {
    let topology = Topology::star(3, &WEIGHTS);
    let mut config = NodeConfig::of(&topology, index);
    config.peer(&topology, &Times::default());
    config.group.nodes.truncate(nodes);
    config
}

fn wait_members(lab: &Lab, of: &[usize], members: &[&str]) -> Result<(), LabError> {
    for index in of {
        let node = &lab.nodes()[*index];
        until_ok(SOON, &format!("members of {}", node.name()), || {
            let ready = node.lbctl_json(&["ready"])?;
            Ok(ready["ready"] == true && ready["group"]["members"] == json!(members))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_is_added_to_a_running_group() {
    // The third one knows nobody at first.
    let alone = NodeConfig::of(&Topology::star(3, &WEIGHTS), 2);
    Lab::builder("more-nodes")
        .nodes(3)
        .weights(&WEIGHTS)
        .configs(vec![config(0, 2), config(1, 2), alone])
        .run(|lab| {
            lab.node(2).stop()?;
            assert!(lab.node(2).lbctl(&["detach"])?.status.success());
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;
            // From now on there is a charter.
            drain(lab, 0, "be1", &[0, 1])?;
            // Who is in the group is not for an apply: it says what to do.
            let file = lab.node(0).config_file().with_extension("more.yaml");
            std::fs::write(&file, config(0, 3).to_yaml()?).expect("a file is written");
            let file = file.to_str().expect("a path");
            let out = lab.node(0).lbctl(&["config", "apply", file])?;
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!out.status.success() && said.contains("restart lbd"), "{said}");
            for index in 0..2 {
                lab.node(index).write_config(&config(index, 3).to_yaml()?)?;
                lab.node(index).stop()?;
                lab.node(index).spawn()?;
                lab.node(index).wait_in_service()?;
            }
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;
            lab.node(2).write_config(&config(2, 3).to_yaml()?)?;
            lab.node(2).spawn()?;
            let all = ["lb1", "lb2", "lb3"];
            wait_members(lab, &[0, 1, 2], &all)?;
            // It has what was ordered before it came, and now all files can say the same.
            until_ok(SOON, "the drain on lb3", || {
                Ok(slots(&lab.nodes()[2], "be1")? == 0)
            })?;
            let out = lab.node(2).lbctl(&["config", "apply", file])?;
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(!out.status.success(), "another node's file: {said}");
            let own = lab.node(2).config_file().to_owned();
            let out = lab
                .node(2)
                .lbctl(&["config", "apply", own.to_str().expect("a path")])?;
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            for index in 0..3 {
                let node = &lab.nodes()[index];
                until_ok(SOON, &format!("no drift on {}", node.name()), || {
                    let peers = node.lbctl_json(&["peers"])?;
                    Ok(peers["own"]["said"]["drift"] == false)
                })?;
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
