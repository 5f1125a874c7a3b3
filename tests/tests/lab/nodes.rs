//! Real agents under load: what happens to them, clients don't notice.

use std::time::Duration;

use lb_tests::node_config::NodeConfig;
use lb_tests::topo::Topology;
use lb_tests::{Family, Job, Lab, LabError, Load, Pace, Report};

const SOON: Duration = Duration::from_secs(10);

/// New connections, datagrams and long-lived connections, over IPv4 and IPv6.
fn mixed_load(lab: &Lab) -> Result<Load, LabError> {
    let rate = Pace::Rate { per_second: 100 };
    let every = Duration::from_millis(50);
    let jobs = Family::BOTH
        .into_iter()
        .flat_map(|f| [Job::http(f, rate), Job::udp(f, rate), Job::lines(f, 20, every)]);
    let mut load = lab.client().load(jobs.collect())?;
    more(&mut load)?;
    Ok(load)
}

/// Waits until some hundred further requests have been made.
fn more(load: &mut Load) -> Result<(), LabError> {
    let now = load.latest().requests();
    load.wait_requests(now + 600, SOON)
}

fn assert_nothing_lost(report: &Report) {
    assert_eq!(
        report.failed(),
        0,
        "{:?} {:#?}",
        report.failures(),
        report.errors()
    );
    assert!(report.jobs.iter().all(|job| job.requests > 50), "{report:#?}");
}

#[test]
fn an_agent_that_is_killed_and_comes_back_loses_nothing() {
    Lab::builder("agent-killed")
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            lab.node(0).kill9()?;
            lab.node(1).kill9()?;
            more(&mut load)?;
            lab.node(0).start()?;
            assert!(
                lab.node(0).log().contains("took over the running data plane"),
                "{}",
                lab.nodes()[0].log()
            );
            more(&mut load)?;
            lab.node(0).stop()?;
            more(&mut load)?;
            assert_nothing_lost(&load.stop()?);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_reload_that_leaves_the_pools_alone_loses_nothing() {
    Lab::builder("harmless-reload")
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            let mut config = lab.node(0).config().clone();
            let mut further = config.vips[0].clone();
            further.port = 8080;
            config.vips.push(further);
            let yaml = config.to_yaml()?;
            for _ in 0..3 {
                let mark = lab.node(0).reload(&yaml)?;
                lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
                more(&mut load)?;
            }
            assert_nothing_lost(&load.stop()?);
            let vips = lab.node(0).lbctl_json(&["vips"])?.to_string();
            assert!(vips.contains("8080"), "{vips}");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn control_a_reload_that_moves_connections_shows() {
    let topology = Topology::star(2, &[1, 2, 3]);
    let untracked = [0, 1].map(|index| {
        let mut config = NodeConfig::of(&topology, index);
        config.track("off", 900);
        config
    });
    Lab::builder("harmful-reload")
        .configs(untracked.into())
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            for node in [0, 1] {
                let mut config = lab.node(node).config().clone();
                config.pools.iter_mut().for_each(|pool| pool.backends.truncate(1));
                let mark = lab.node(node).reload(&config.to_yaml()?)?;
                lab.node(node).wait_log("configuration reloaded", mark, SOON)?;
            }
            more(&mut load)?;
            let report = load.stop()?;
            // Connections of be2 and be3, five sixths of 40, reach be1, which doesn't know them.
            assert!(report.failures().reset > 10, "{:?}", report.failures());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn control_a_data_plane_that_is_taken_off_shows() {
    Lab::builder("detached")
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            lab.node(0).kill9()?;
            let out = lab.node(0).lbctl(&["detach"])?;
            assert!(out.status.success(), "{out:?}");
            more(&mut load)?;
            let report = load.stop()?;
            assert!(report.failed() > 20, "{:?}", report.failures());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_bad_config_is_refused_while_traffic_flows() {
    Lab::builder("bad-config")
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            let good = lab.node(0).config().to_yaml()?;
            let mark = lab.node(0).reload(&good.replace("pool: web4", "pool: nowhere"))?;
            lab.node(0).wait_log("configuration refused", mark, SOON)?;
            more(&mut load)?;
            assert_nothing_lost(&load.stop()?);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn both_nodes_pick_the_same_backend_for_a_flow() {
    Lab::builder("same-pick")
        .run(|lab| {
            let ports = Pace::Ports {
                first: 20_000,
                count: 300,
            };
            for family in Family::BOTH {
                let mut picks = Vec::new();
                for node in [0, 1] {
                    lab.router().route_to(&[node])?;
                    let before = lab.node(node).packets()?;
                    let report = lab.client().run(vec![Job::udp(family, ports)])?;
                    assert_eq!(
                        (report.requests(), report.failed()),
                        (300, 0),
                        "{:?}",
                        report.errors()
                    );
                    assert_eq!(
                        lab.node(node).packets()? - before,
                        300,
                        "all of them through this node"
                    );
                    picks.push(report.picks());
                }
                assert_eq!(picks[0].len(), 300);
                assert_eq!(picks[0], picks[1], "{family:?}");
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_connection_survives_a_change_of_its_node() {
    Lab::builder("node-change")
        .run(|lab| {
            let mut load = mixed_load(lab)?;
            for nodes in [&[0][..], &[1], &[0, 1]] {
                lab.router().route_to(nodes)?;
                more(&mut load)?;
            }
            assert_nothing_lost(&load.stop()?);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn packets_leave_by_another_interface() {
    Lab::builder("redirect")
        .nodes(1)
        .second_link(0)
        .run(|lab| {
            let far_end_packets = |lab: &Lab, interface: &str| -> Result<u64, LabError> {
                let mut ip = std::process::Command::new("ip");
                ip.args([
                    "-n",
                    lab.router().namespace().name(),
                    "-j",
                    "-s",
                    "link",
                    "show",
                    "dev",
                    interface,
                ]);
                let out = lb_tests::command::check(&mut ip)?;
                let links: serde_json::Value = serde_json::from_str(&out).expect("ip writes JSON");
                Ok(links[0]["stats64"]["rx"]["packets"].as_u64().expect("a counter"))
            };
            for family in Family::BOTH {
                let before = far_end_packets(lab, "lb1-eth1")?;
                let report = lab.client().http(200, family)?;
                assert_eq!(
                    (report.requests(), report.failed()),
                    (200, 0),
                    "{:?}",
                    report.errors()
                );
                let sent = far_end_packets(lab, "lb1-eth1")? - before;
                assert!(sent >= 800, "only {sent} packets left by eth1");
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn lbctl_tells_whether_the_agent_lives_and_works_without_it() {
    Lab::builder("dead-agent")
        .run(|lab| {
            assert_eq!(lab.node(0).lbctl_json(&["status"])?["agent"], "alive");
            lab.node(0).kill9()?;
            assert_eq!(lab.node(0).lbctl_json(&["status"])?["agent"], "dead");
            lab.router().route_to(&[0])?;
            let before = lab.node(0).packets()?;
            let report = lab.client().udp(100, Family::V6)?;
            assert_eq!(report.failed(), 0, "{:?}", report.errors());
            assert_eq!(lab.node(0).packets()? - before, 100);
            for args in [
                &["vips"][..],
                &["backends"],
                &["ring", "web6"],
                &["maps"],
                &["maps", "lb_vips"],
            ] {
                let out = lab.node(0).lbctl(args)?;
                assert!(
                    out.status.success() && !out.stdout.is_empty(),
                    "{args:?}: {out:?}"
                );
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
