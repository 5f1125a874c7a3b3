//! A group of three: a node that can't join for a while, and a coordinator that dies in the middle of a change.

use std::fs;
use std::time::{Duration, Instant};

use lb_common::slot::Slot;
use lb_tests::host::{Node, Spread};
use lb_tests::node_config::Times;
use lb_tests::wait::until_ok;
use lb_tests::{Family, Lab, LabError, Load};
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;
use lb_userspace::peer::pki;
use serde_json::{Value, json};

use crate::drained::slots;
use crate::leave::{judge, lab, load, wait_members};
use crate::metrics::{LOCAL, scrape_at, with_endpoint};

const SOON: Duration = Duration::from_secs(20);
/// The router notices a node that is gone.
const DETECTION: Duration = Duration::from_millis(30);
/// Whoever wrongly said something would have said it.
const WHILE: Duration = Duration::from_secs(2);
const ALL: [&str; 3] = ["lb1", "lb2", "lb3"];

/// Everything that has happened among the nodes, as this one's journal has it from record `after` on.
pub(crate) fn told(node: &Node, after: u64) -> Result<Vec<Value>, LabError> {
    let journal = node.lbctl_json(&["events", "-n", "1000"])?;
    let records = journal["events"].as_array().expect("records").iter();
    let by_peers = records.filter(|one| one["cause"]["by"] == "peers" && one["seq"].as_u64() > Some(after));
    Ok(by_peers.cloned().collect())
}

/// The number of the journal's last record.
pub(crate) fn mark(node: &Node) -> Result<u64, LabError> {
    let journal = node.lbctl_json(&["events", "-n", "1"])?;
    Ok(journal["events"][0]["seq"].as_u64().expect("a record"))
}

/// Those of a kind.
pub(crate) fn of<'a>(told: &'a [Value], event: &str) -> Vec<&'a Value> {
    told.iter().filter(|one| one["event"] == event).collect()
}

/// Has every connection say something, also those on which that is due later.
pub(crate) fn more(load: &mut Load) -> Result<(), LabError> {
    let so_far = load.latest().requests();
    load.wait_requests(so_far + 1200, SOON)
}

/// Waits until all nodes find the others alive, with the same configuration, rings and origins.
pub(crate) fn wait_equal(lab: &Lab) -> Result<(), LabError> {
    for node in lab.nodes() {
        until_ok(SOON, &format!("{} finds all equal", node.name()), || {
            let peers = node.lbctl_json(&["peers"])?;
            let all = peers["peers"].as_array().expect("a list");
            let same = |peer: &Value| {
                let whats = ["same_config", "same_rings", "same_origins"];
                peer["state"] == "alive" && whats.iter().all(|what| peer[what] == true)
            };
            Ok(all.len() + 1 == lab.nodes().len() && all.iter().all(same))
        })?;
    }
    Ok(())
}

/// `lbctl ready` of a node that isn't: why not, and what it says of the group.
pub(crate) fn unready(node: &Node) -> Result<Value, LabError> {
    let out = node.lbctl(&["ready", "--output", "json"])?;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    Ok(serde_json::from_slice(&out.stdout).expect("lbctl writes JSON"))
}

/// lb3 starts anew and can't reach some of the others: it says why it isn't ready, and is when it reaches them.
fn late(name: &str, cut: &[usize], withdraw_after: Duration, why: &str) {
    let times = Times {
        join_within: Duration::from_secs(3),
        withdraw_after,
        ..Times::default()
    };
    lab(name, &times, |_| {})
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &ALL)?;
            lab.power_loss(2, Instant::now(), DETECTION, &[0, 1])?;
            until_ok(SOON, "lb3 is forgotten", || {
                Ok(lab.nodes()[0].lbctl(&["forget", "lb3"])?.status.success())
            })?;
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;
            for other in cut {
                lab.partition(*other, 2)?;
            }
            let yaml = with_endpoint(lab.node(2).config(), Some(LOCAL))?;
            lab.node(2).write_config(&yaml)?;
            let before = mark(&lab.nodes()[2])?;
            lab.power_on(2)?;
            lab.node(2).wait_ready()?;
            is_late(&lab.nodes()[2], before, why)?;
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;

            for other in cut {
                lab.heal(*other, 2)?;
            }
            let took = lab.node(2).wait_in_service()?;
            println!("{name}: ready {took:?} after the partition");
            wait_members(lab, &[0, 1, 2], &ALL)?;
            wait_equal(lab)?;
            let joiner = &lab.nodes()[2];
            let samples = scrape_at(joiner, LOCAL)?.1;
            for (sample, wanted) in [
                ("ready", 1.0),
                ("group_join_overdue", 0.0),
                ("group_events_total{event=\"join_overdue\"}", 1.0),
                ("group_events_total{event=\"founded\"}", 0.0),
            ] {
                assert_eq!(samples[&format!("tandem_{sample}")], wanted, "{sample}");
            }
            let since = told(joiner, before)?;
            let admitted = of(&since, "member_admitted");
            assert!(admitted.len() == 1 && admitted[0]["node"] == "lb3", "{since:?}");
            // It serves.
            lab.router().route_to(&[2])?;
            let answered = lab.client().http(100, Family::V4)?;
            assert_eq!(answered.failed(), 0, "{:?}", answered.errors());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// It isn't ready, and says so once `join_within` is over: in the API, in a metric and once in the journal.
fn is_late(joiner: &Node, before: u64, why: &str) -> Result<(), LabError> {
    let overdue = |wanted: f64| {
        until_ok(SOON, &format!("the metric is {wanted}"), || {
            let samples = scrape_at(joiner, LOCAL)?.1;
            Ok(samples["tandem_group_join_overdue"] == wanted)
        })
    };
    overdue(0.0)?;
    unready(joiner)?;
    overdue(1.0)?;
    let end = Instant::now() + WHILE;
    while Instant::now() < end {
        let ready = unready(joiner)?;
        assert_eq!((&ready["ready"], &ready["why"]), (&json!(false), &json!(why)));
        assert_eq!(scrape_at(joiner, LOCAL)?.1["tandem_ready"], 0.0);
    }
    let since = told(joiner, before)?;
    let told = of(&since, "join_overdue");
    assert!(told.len() == 1 && told[0]["why"] == why, "{since:?}");
    assert_eq!(of(&since, "ready"), Vec::<&Value>::new());
    Ok(())
}

/// It reaches lb2, which knows that lb1 lives and coordinates.
#[test]
fn a_node_that_can_not_reach_the_coordinator_says_so_until_it_can() {
    let why = "lb1 is a live member, and this node doesn't reach it";
    late("join-overdue", &[0], Duration::from_secs(1), why);
}

/// The coordinator would take it, but lb2's flows it would not know.
#[test]
fn a_node_that_can_not_reach_another_member_says_so_until_it_can() {
    let why = "lb2 is a live member, and this node doesn't reach it";
    late("join-apart", &[1], Duration::from_secs(1), why);
}

/// The others may forward by other slots than it would make up, so it founds no group of its own.
#[test]
fn a_node_that_hears_nobody_says_so_until_it_does() {
    let why = "waiting to see who else is there";
    late("join-alone", &[0, 1], Duration::from_secs(8), why);
}

/// Waits until a node isn't ready for this reason, and sees that it stays so for longer than it would take it to found a group.
///
/// Whichever of the others is named.
pub(crate) fn stays_out(node: &Node, why: &str, within: Duration) -> Result<(), LabError> {
    until_ok(SOON, &format!("{} says that {why}", node.name()), || {
        let out = node.lbctl(&["ready", "--output", "json"])?;
        Ok(String::from_utf8_lossy(&out.stdout).contains(why))
    })?;
    let end = Instant::now() + within;
    while Instant::now() < end {
        let ready = unready(node)?;
        assert!(ready["why"].to_string().contains(why), "{ready}");
    }
    Ok(())
}

/// Each would send flows elsewhere than the others: one by another key of the flow hash, one by slots of its own.
#[test]
fn a_node_of_another_key_or_authority_stays_out() {
    let times = Times {
        join_within: Duration::from_secs(4),
        ..Times::default()
    };
    let founds = times.join_within;
    lab("join-strange", &times, |_| {})
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &ALL)?;
            let right = lab.node(2).config().to_yaml()?;
            let mut wrong = lab.node(2).config().clone();
            wrong.group.key = "0123456789abcdef0123456789abcdef".to_owned();
            lab.power_loss(2, Instant::now(), DETECTION, &[0, 1])?;
            lab.node(2).write_config(&wrong.to_yaml()?)?;
            lab.power_on(2)?;
            lab.node(2).wait_ready()?;
            let why = " has another key: `group.key` is not the same on both";
            stays_out(&lab.nodes()[2], why, founds)?;
            lab.power_loss(2, Instant::now(), DETECTION, &[0, 1])?;
            lab.node(2).write_config(&right)?;
            lab.power_on(2)?;
            lab.node(2).wait_in_service()?;
            wait_members(lab, &[0, 1, 2], &ALL)?;

            // It keeps its slots, so it would found a group of those that are silent and itself.
            lab.node(2).stop()?;
            let folder = lab.node(2).config_file().with_extension("pki");
            let other = folder.with_file_name("other");
            let path = |path: &std::path::Path| path.to_str().expect("a path of ours").to_owned();
            let authority = pki::look(&folder.join("ca.pem")).expect("an authority");
            pki::init(&other, &authority.group, false).expect("an authority");
            let kept = folder.with_extension("kept");
            fs::rename(&folder, &kept).expect("it is renamed");
            pki::issue(&other, "lb3", &folder, 10, false).expect("a certificate");
            lab.node(2).spawn()?;
            lab.node(2).wait_ready()?;
            let why = " is there, and one of both refuses the other's certificate";
            stays_out(&lab.nodes()[2], why, founds)?;
            wait_members(lab, &[0, 1], &["lb1", "lb2"])?;
            for file in ["node.key", "node.pem", "ca.pem"] {
                fs::copy(kept.join(file), folder.join(file)).expect("it is copied");
            }
            println!("{} is right again", path(&folder));
            lab.node(2).wait_in_service()?;
            wait_members(lab, &[0, 1, 2], &ALL)?;
            wait_equal(lab)
        })
        .expect("the lab runs");
}

/// Has the group take all new flows off be2, in one change for both pools, by an order to node `index`.
pub(crate) fn change(lab: &Lab, index: usize) -> Result<(), LabError> {
    let node = &lab.nodes()[index];
    let mut config = node.config().clone();
    for pool in &mut config.pools {
        pool.backends[1].weight = 0;
    }
    let file = node.config_file().with_extension("change.yaml");
    fs::write(&file, config.to_yaml()?).expect("a file is written");
    let file = file.to_str().expect("a path of ours");
    // What the group can't decide at this moment is refused; an operator tries again.
    until_ok(SOON, "the change is ordered", || {
        Ok(node.lbctl(&["config", "apply", file])?.status.success())
    })
}

pub(crate) fn wait_changed(lab: &Lab, nodes: &[usize]) -> Result<(), LabError> {
    for index in nodes {
        let node = &lab.nodes()[*index];
        until_ok(SOON, &format!("{} leads nobody to be2", node.name()), || {
            Ok(slots(node, "be2")? == 0)
        })?;
    }
    Ok(())
}

/// Waits until slots of all pools are tracked; by the maps, since that lasts for a second.
fn wait_tracks(node: &Node) -> Result<(), LabError> {
    let maps = Maps::open(&Root::new(node.pin_root())).expect("its maps");
    let pools = maps.pools().expect("the pools");
    until_ok(SOON, &format!("{} tracks slots", node.name()), || {
        Ok(pools
            .keys()
            .all(|&pool| maps.ring(pool).into_iter().any(Slot::is_tracked)))
    })
}

#[test]
fn a_coordinator_that_dies_in_a_change_has_a_successor_that_finishes_it() {
    let name = "coordinator-death";
    lab(name, &Times::default(), |_| {})
        .spread(Spread::Resilient)
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &ALL)?;
            let mut load = load(lab)?;
            let marks: Vec<u64> = lab.nodes().iter().map(mark).collect::<Result<_, _>>()?;
            let ready = lab.nodes()[1].lbctl_json(&["ready"])?;
            assert_eq!(ready["group"]["coordinator"], "lb1");
            until_ok(SOON, "lb1 carries connections", || {
                Ok(lab.nodes()[0].packets()? > 500)
            })?;
            change(lab, 1)?;
            // Prepared; a second later it would be committed.
            lab.nodes().iter().try_for_each(wait_tracks)?;
            let loss = lab.power_loss(0, Instant::now(), DETECTION, &[1, 2])?;
            let left = slots(&lab.nodes()[1], "be2")?;
            assert!(left > 20_000, "it was over: {left} slots lead to be2");
            wait_changed(lab, &[1, 2])?;
            println!(
                "{name}: moved after {:?}, changed after {:?}",
                loss.moved,
                loss.death.elapsed()
            );
            wait_members(lab, &[1, 2], &["lb2", "lb3"])?;

            // Who did what, and that nobody else did.
            let committed = "change_committed";
            let since = |index: usize| told(&lab.nodes()[index], marks[index]);
            for index in [0, 2] {
                assert_eq!(of(&since(index)?, committed), Vec::<&Value>::new());
            }
            let mut second = Vec::new();
            until_ok(SOON, "lb2 says that it is committed", || {
                second = since(1)?;
                Ok(!of(&second, committed).is_empty())
            })?;
            let order = ["coordinates", "member_gone", committed];
            let is_step = |one: &&Value| order.iter().any(|event| one["event"] == *event);
            let steps: Vec<&Value> = second.iter().filter(is_step).collect();
            let events: Vec<&Value> = steps.iter().map(|one| &one["event"]).collect();
            assert_eq!(events, order, "{second:?}");
            assert_eq!(steps[1]["node"], "lb1");
            for index in [1, 2] {
                let peers = lab.nodes()[index].lbctl_json(&["peers"])?;
                assert_eq!(peers["own"]["said"]["rings"], steps[2]["rings"]);
            }

            more(&mut load)?;
            // Whatever one of them alone knew would break now.
            lab.router_mut().cross()?;
            more(&mut load)?;
            judge(name, load)
        })
        .expect("the lab runs");
}
