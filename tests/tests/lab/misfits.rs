//! Nodes of a group that it can't use: one with another list of nodes, one that can keep nothing.

use std::fs;
use std::time::Duration;

use lb_tests::node_config::Times;

use crate::drained::drain;
use crate::joins::{stays_out, wait_equal};
use crate::leave::{judge, lab, load, wait_members};

const ALL: [&str; 3] = ["lb1", "lb2", "lb3"];
const SOON: Duration = Duration::from_secs(20);

/// Nodes name each other by their places in `group.nodes`.
#[test]
fn a_node_with_another_order_of_nodes_stays_out_and_says_why() {
    let times = Times {
        join_within: Duration::from_secs(4),
        ..Times::default()
    };
    let founds = times.join_within;
    lab("misfit-order", &times, |_| {})
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &ALL)?;
            let right = lab.node(2).config().to_yaml()?;
            let mut wrong = lab.node(2).config().clone();
            wrong.group.nodes.swap(0, 1);
            lab.router().route_to(&[0, 1])?;
            let load = load(lab)?;
            lab.node(2).write_config(&wrong.to_yaml()?)?;
            lab.node(2).stop()?;
            lab.node(2).start()?;
            let why = " is there, and its `group.nodes` are others, or stand in another order";
            stays_out(&lab.nodes()[2], why, founds * 2)?;
            for node in lab.nodes() {
                let peers = node.lbctl(&["peers"])?;
                let said = String::from_utf8_lossy(&peers.stdout).into_owned();
                assert!(said.contains("`group.nodes` is not the same on both"), "{said}");
                let log = node.log();
                let told = log.matches("`group.nodes`").count();
                assert!((1..=20).contains(&told), "{}: {told} lines: {log}", node.name());
            }
            // The others go on without it.
            wait_members(lab, &[0, 1], &ALL[..2])?;
            drain(lab, 0, "be2", &[0, 1])?;
            lab.node(2).stop()?;
            lab.node(2).write_config(&right)?;
            lab.node(2).start()?;
            lab.node(2).wait_in_service()?;
            wait_members(lab, &[0, 1, 2], &ALL)?;
            wait_equal(lab)?;
            judge("misfit-order", load)
        })
        .expect("the lab runs");
}

/// It would never answer, and hold up whatever the others agree on.
#[test]
fn a_node_that_can_keep_nothing_does_not_start() {
    lab("misfit-folder", &Times::default(), |_| {})
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &ALL)?;
            lab.router().route_to(&[0, 1])?;
            lab.node(2).stop()?;
            let folder = lab.node(2).state_dir().to_owned();
            let kept = folder.with_extension("kept");
            fs::rename(&folder, &kept).expect("it is renamed");
            fs::write(&folder, "in the way").expect("a file");
            lab.node(2).spawn()?;
            let end = lab.node(2).wait_end(SOON)?;
            assert_eq!(end.code(), Some(1), "{end}");
            let log = lab.node(2).log();
            for said in ["--state-dir", folder.to_str().expect("a path of ours")] {
                assert!(log.contains(said), "{log}");
            }
            drain(lab, 0, "be2", &[0, 1])?;
            fs::remove_file(&folder).expect("it is removed");
            fs::rename(&kept, &folder).expect("it is renamed");
            lab.node(2).start()?;
            lab.node(2).wait_in_service()?;
            wait_members(lab, &[0, 1, 2], &ALL)?;
            wait_equal(lab)
        })
        .expect("the lab runs");
}
