//! Nodes that leave their group, and nodes that it is told to forget.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lb_tests::node_config::{NodeConfig, Times};
use lb_tests::topo::Topology;
use lb_tests::traffic::Kind;
use lb_tests::wait::until_ok;
use lb_tests::{Family, Job, Lab, LabBuilder, LabError, Load};
use serde_json::json;

use crate::drained::{drain, slots};
use crate::joins::{mark, more, of, told, unready, wait_equal};

const SOON: Duration = Duration::from_secs(20);
/// The router notices a node that is gone.
const DETECTION: Duration = Duration::from_millis(100);

/// Three nodes that talk.
pub(crate) fn lab(name: &str, times: &Times, with: impl Fn(&mut NodeConfig)) -> LabBuilder {
    lab_of(3, name, times, with)
}

/// So many.
pub(crate) fn lab_of(nodes: usize, name: &str, times: &Times, with: impl Fn(&mut NodeConfig)) -> LabBuilder {
    let topology = Topology::star(nodes, &[1; 4]);
    let config = |index| {
        let mut config = NodeConfig::of(&topology, index);
        config.track("on-change", 60);
        config.peer(&topology, times);
        // A flow whose record is still on its way when the router moves it.
        config.gue(true);
        with(&mut config);
        config
    };
    Lab::builder(name)
        .nodes(nodes)
        .weights(&[1; 4])
        .configs((0..nodes).map(config).collect())
}

pub(crate) fn load(lab: &Lab) -> Result<Load, LabError> {
    let every = Duration::from_millis(250);
    let held = Family::BOTH.map(|family| Job::lines(family, 150, every));
    let new = Family::BOTH.map(|family| Job::churn(family, 50, every, Duration::from_secs(2)));
    let mut load = lab.client().load(held.into_iter().chain(new).collect())?;
    load.wait_held(300, SOON)?;
    Ok(load)
}

/// Ends the load: nobody has noticed anything.
pub(crate) fn judge(name: &str, load: Load) -> Result<(), LabError> {
    let report = load.stop()?;
    let held = report.held(Kind::Lines);
    println!("{name}: {held:?}");
    assert!(held.opened > 400, "{held:?}");
    assert_eq!(
        (held.broken, held.moved, held.unopened),
        (0, 0, 0),
        "{:?}",
        report.errors()
    );
    Ok(())
}

/// Waits until these nodes are ready and count those as members.
pub(crate) fn wait_members(lab: &Lab, of: &[usize], members: &[&str]) -> Result<(), LabError> {
    for index in of {
        let node = &lab.nodes()[*index];
        until_ok(SOON, &format!("members of {}", node.name()), || {
            // Whoever isn't ready yet says so by its exit code, too.
            let out = node.lbctl(&["ready", "--output", "json"])?;
            let ready: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
            Ok(ready["ready"] == true && ready["group"]["members"] == json!(members))
        })?;
    }
    Ok(())
}

/// What a command said that was refused.
fn refused(out: &Output) -> String {
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// `leaver` leaves under load, after a change whose slots are still tracked.
fn leaves(name: &str, leaver: usize) {
    let rest: Vec<usize> = (0..3).filter(|&index| index != leaver).collect();
    let times = Times {
        // For so long it forwards after it has said that it isn't ready.
        withdraw_after: Duration::from_secs(3),
        ..Times::default()
    };
    lab(name, &times, |_| {})
        .run(|lab| {
            let mut load = load(lab)?;
            drain(lab, rest[0], "be2", &[0, 1, 2])?;
            let start = Instant::now();
            let asked = lab.node(leaver).lbctl(&["leave"])?;
            assert!(asked.status.success(), "{asked:?}");
            let said = String::from_utf8_lossy(&asked.stdout);
            let takes = format!("in about {} s", times.withdraw_after.as_secs());
            assert!(said.contains(&takes), "{said}");
            // It says so first, and forwards until the router has heard.
            let node = &lab.nodes()[leaver];
            until_ok(SOON, "it is not ready any more", || {
                Ok(node.lbctl(&["ready"])?.status.code() == Some(1))
            })?;
            let unready = start.elapsed();
            assert_eq!(node.lbctl_json(&["status"])?["agent"], "alive", "it hands over");
            // Its word would be void in a moment.
            let file = node.config_file().to_str().expect("a path of ours");
            for order in [
                &["drain", "web4/be3"][..],
                &["config", "apply", file],
                &["config", "rollback"],
            ] {
                let why = refused(&node.lbctl(order)?);
                assert!(
                    why.contains("leaves its group") && why.contains("another node"),
                    "{why}"
                );
            }
            assert!(node.lbctl(&["leave"])?.status.success(), "it does already");
            lab.router().route_to(&rest)?;
            let end = lab.node(leaver).wait_end(SOON)?;
            println!(
                "{name}: not ready after {unready:?}, ended after {:?}",
                start.elapsed()
            );
            assert!(end.success(), "{end}");
            let names: Vec<String> = rest.iter().map(|&index| Topology::node_name(index)).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            wait_members(lab, &rest, &names)?;
            for index in &rest {
                assert!(lab.nodes()[*index].lbctl(&["ready"])?.status.success());
            }
            // Nobody waits for it.
            let took = drain(lab, rest[1], "be3", &rest)?;
            println!("{name}: the next change took {took:?}");
            // Its good-bye ended its membership, and not that nothing came from it any more.
            for index in &rest {
                let log = lab.nodes()[*index].log();
                assert!(
                    log.contains("it has left") && !log.contains("it has been silent"),
                    "{log}"
                );
            }
            let so_far = load.latest().requests();
            load.wait_requests(so_far + 600, SOON)?;
            judge(name, load)
        })
        .expect("the lab runs");
}

#[test]
fn a_node_that_leaves_is_missed_by_nobody() {
    leaves("leave", 2);
}

#[test]
fn the_coordinator_leaves_too() {
    leaves("leave-coordinator", 0);
}

#[test]
fn a_group_waits_for_a_silent_node_until_it_is_told_to_forget_it() {
    let times = Times {
        withdraw_after: Duration::from_secs(60),
        ..Times::default()
    };
    let name = "forget";
    lab(name, &times, |_| {})
        .run(|lab| {
            // Whoever lives is not forgotten.
            let why = refused(&lab.node(0).lbctl(&["forget", "lb3"])?);
            assert!(
                why.contains("lb3") && why.contains("silent") && why.contains("lbctl leave"),
                "{why}"
            );
            let why = refused(&lab.node(0).lbctl(&["forget", "lb9"])?);
            assert!(why.contains("lb9") && why.contains("lb2"), "{why}");
            wait_members(lab, &[0, 1], &["lb1", "lb2", "lb3"])?;
            let mut load = load(lab)?;
            lab.power_loss(2, Instant::now(), DETECTION, &[0, 1])?;
            let before = slots(&lab.nodes()[0], "be2")?;
            assert!(before > 20_000, "{before} slots");
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let change = scope.spawn(|| {
                    let took = drain(lab, 0, "be2", &[0, 1]);
                    done.store(true, Ordering::Relaxed);
                    took
                });
                // The control: by itself it waits.
                std::thread::sleep(Duration::from_secs(5));
                assert!(!done.load(Ordering::Relaxed), "nobody waited for lb3");
                for node in &lab.nodes()[..2] {
                    assert_eq!(slots(node, "be2")?, before, "{}", node.name());
                }
                // Another one may reach it, so only the coordinator can.
                let why = refused(&lab.nodes()[1].lbctl(&["forget", "lb3"])?);
                assert!(why.contains("lb1 coordinates the group"), "{why}");
                assert_eq!(slots(&lab.nodes()[0], "be2")?, before);
                let forgotten = lab.nodes()[0].lbctl(&["forget", "lb3"])?;
                assert!(forgotten.status.success(), "{forgotten:?}");
                let told = Instant::now();
                let took = change.join().expect("it doesn't panic")?;
                println!(
                    "{name}: the change took {took:?}, {:?} after the order",
                    told.elapsed()
                );
                // By itself it would have gone on for longer.
                assert!(told.elapsed() < SOON, "{:?}", told.elapsed());
                Ok::<(), LabError>(())
            })?;
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;
            let so_far = load.latest().requests();
            load.wait_requests(so_far + 600, SOON)?;
            judge(name, load)
        })
        .expect("the lab runs");
}

/// Those of the two others have changed since. Their agents begin anew after it has: the group is founded by what the others forward by.
#[test]
fn slots_of_a_node_that_has_left_found_no_group() {
    let times = Times {
        join_within: Duration::from_secs(8),
        ..Times::default()
    };
    let name = "leave-stale";
    lab(name, &times, |_| {})
        .run(|lab| {
            let all = ["lb1", "lb2", "lb3"];
            wait_members(lab, &[0, 1, 2], &all)?;
            let early = lab.node(0).lbctl(&["leave", "--wait", "100ms"])?;
            assert_eq!(early.status.code(), Some(1), "{early:?}");
            let left = lab.node(0).lbctl(&["leave", "--wait", "20s"])?;
            assert!(left.status.success(), "{left:?}");
            assert!(lab.node(0).wait_end(Duration::from_secs(1))?.success());
            lab.router().route_to(&[1, 2])?;
            wait_members(lab, &[1, 2], &all[1..])?;
            let mut load = load(lab)?;
            drain(lab, 1, "be2", &[1, 2])?;
            assert!(slots(&lab.nodes()[0], "be2")? > 20_000, "its own are of before");
            let founded =
                |lab: &Lab, index: usize| lab.nodes()[index].log().matches("founded its group").count();
            let (by_first, by_second) = (founded(lab, 0), founded(lab, 1));
            for index in [1, 2] {
                lab.node(index).kill9()?;
            }
            lab.node(0).start()?;
            // Longer than the first of most nodes waits that has slots.
            std::thread::sleep(Duration::from_secs(1));
            lab.node(1).start()?;
            lab.node(1).wait_in_service()?;
            assert_eq!(founded(lab, 1), by_second + 1);
            assert_eq!(founded(lab, 0), by_first, "by slots of before");
            lab.node(2).start()?;
            wait_members(lab, &[0, 1, 2], &all)?;
            wait_equal(lab)?;
            assert_eq!(slots(&lab.nodes()[0], "be2")?, 0, "the order to drain it holds");
            more(&mut load)?;
            judge(name, load)
        })
        .expect("the lab runs");
}

/// Its agent goes on, and hears that it was dropped when it is back in reach.
#[test]
fn a_node_that_was_forgotten_while_it_was_cut_off_joins_again() {
    let times = Times {
        withdraw_after: Duration::from_secs(60),
        ..Times::default()
    };
    let name = "forget-apart";
    let all = ["lb1", "lb2", "lb3"];
    lab(name, &times, |_| {})
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &all)?;
            let mut load = load(lab)?;
            let marks: Vec<u64> = lab.nodes().iter().map(mark).collect::<Result<_, _>>()?;
            for other in [0, 1] {
                lab.partition(other, 2)?;
            }
            until_ok(SOON, "lb3 is forgotten", || {
                Ok(lab.nodes()[0].lbctl(&["forget", "lb3"])?.status.success())
            })?;
            wait_members(lab, &[0, 1], &all[..2])?;
            for other in [0, 1] {
                lab.heal(other, 2)?;
            }
            let healed = Instant::now();
            wait_members(lab, &[0, 1, 2], &all)?;
            wait_equal(lab)?;
            println!("{name}: one list {:?} after the partition", healed.elapsed());
            drain(lab, 1, "be2", &[0, 1, 2])?;
            for (node, mark) in lab.nodes().iter().zip(marks) {
                let since = told(node, mark)?;
                // It was admitted every other second before; a session that breaks costs one try.
                let admitted = of(&since, "member_admitted").len();
                assert!(admitted <= 2, "{}: {since:?}", node.name());
            }
            more(&mut load)?;
            judge(name, load)
        })
        .expect("the lab runs");
}

/// One of three links is broken, so one of its ends can't be a member. The other one and whoever reaches both go on, and nobody takes
/// office in turn.
#[test]
fn one_broken_link_costs_one_node() {
    let times = Times {
        withdraw_after: Duration::from_secs(2),
        join_within: Duration::from_secs(4),
        ..Times::default()
    };
    let name = "one-link";
    lab(name, &times, |_| {})
        .run(|lab| {
            let all = ["lb1", "lb2", "lb3"];
            wait_members(lab, &[0, 1, 2], &all)?;
            let marks: Vec<u64> = lab.nodes().iter().map(mark).collect::<Result<_, _>>()?;
            lab.partition(0, 1)?;
            wait_members(lab, &[0, 2], &["lb1", "lb3"])?;
            until_ok(SOON, "lb2 isn't ready", || {
                Ok(lab.nodes()[1].lbctl(&["ready"])?.status.code() == Some(1))
            })?;
            let why = unready(&lab.nodes()[1])?["why"].to_string();
            assert!(why.contains("lb1 is a live member"), "{why}");
            lab.router().route_to(&[0, 2])?;
            let load = load(lab)?;
            drain(lab, 2, "be2", &[0, 2])?;
            for (node, mark) in lab.nodes().iter().zip(&marks) {
                let since = told(node, *mark)?;
                let offices = of(&since, "coordinates").len();
                assert!(offices <= 2, "{}: {since:?}", node.name());
            }
            lab.heal(0, 1)?;
            wait_members(lab, &[0, 1, 2], &all)?;
            wait_equal(lab)?;
            lab.router().route_to(&[0, 1, 2])?;
            let mut load = load;
            more(&mut load)?;
            judge(name, load)
        })
        .expect("the lab runs");
}
