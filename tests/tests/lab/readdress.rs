//! Backends get other addresses, a VIP is taken out for a moment: what is connected stays connected.

use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::node_config::NodeConfig;
use lb_tests::topo::ECHO_PORT;
use lb_tests::{Family, Job, Lab, LabError, Report};

use crate::slots::settled;

const SOON: Duration = Duration::from_secs(15);

/// Connections to `web4`, each with a line ten times a second, that begin after `before` and see `change` happen.
fn under_load(
    name: &str,
    tracking: &'static str,
    before: impl FnOnce(&mut Node) -> Result<(), LabError>,
    change: impl FnOnce(&mut Node) -> Result<(), LabError>,
) -> Report {
    let mut report = None;
    Lab::builder(name)
        .nodes(1)
        .run(|lab| {
            let configured = tracked(lab.node(0), tracking);
            reload(lab.node(0), &configured)?;
            before(lab.node(0))?;
            let job = Job::lines(Family::V4, 120, Duration::from_millis(100));
            let mut load = lab.client().load(vec![job])?;
            load.wait_requests(600, SOON)?;
            change(lab.node(0))?;
            load.wait_requests(3_000, SOON)?;
            report = Some(load.stop()?);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
    report.expect("it ended well")
}

fn reload(node: &mut Node, config: &NodeConfig) -> Result<(), LabError> {
    let mark = node.reload(&config.to_yaml()?)?;
    node.wait_log("configuration reloaded", mark, SOON)
}

fn tracked(node: &Node, tracking: &'static str) -> NodeConfig {
    let mut config = node.config().clone();
    config.track(tracking, 60);
    config
}

/// The addresses of be1 and be2 change places.
fn swap(node: &mut Node, tracking: &'static str) -> Result<(), LabError> {
    let mut config = tracked(node, tracking);
    let backends = &mut config.pools[0].backends;
    (backends[0].address, backends[1].address) = (backends[1].address, backends[0].address);
    reload(node, &config)?;
    settled(node);
    Ok(())
}

#[test]
fn another_address_breaks_nothing() {
    let swap = |node: &mut Node| swap(node, "on-change");
    let report = under_load("readdress", "on-change", |_| Ok(()), swap);
    assert_eq!(report.failed(), 0, "{:?}", report.errors());
}

#[test]
fn control_another_address_without_tracking_breaks() {
    let swap = |node: &mut Node| swap(node, "off");
    let report = under_load("readdress-off", "off", |_| Ok(()), swap);
    assert!(report.failures().reset > 10, "{:?}", report.failures());
}

#[test]
fn a_vip_that_is_gone_for_a_moment_finds_its_flows_again() {
    // What begins while be1 is drained is elsewhere than at `origin`, and only its entries know.
    let drain = |node: &mut Node| {
        node.lbctl_json(&["drain", "web4/be1"])?;
        settled(node);
        Ok(())
    };
    let blink = |node: &mut Node| {
        node.lbctl_json(&["undrain", "web4/be1"])?;
        settled(node);
        let with = tracked(node, "on-change");
        let mut without = with.clone();
        without.vips.retain(|vip| vip.port != ECHO_PORT);
        reload(node, &without)?;
        // A sweep comes by, and no line waits for three seconds.
        std::thread::sleep(Duration::from_millis(1_200));
        reload(node, &with)
    };
    let report = under_load("vip-blink", "on-change", drain, blink);
    assert_eq!(report.failed(), 0, "{:?}", report.errors());
}
