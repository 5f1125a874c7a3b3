//! What the labs about lasting connections share.

use std::time::{Duration, Instant};

use lb_tests::node_config::NodeConfig;
use lb_tests::scenario::{Fleet, Work};
use lb_tests::topo::{HTTP_PORT, Topology};
use lb_tests::traffic::{Held, Kind};
use lb_tests::{Lab, LabBuilder, Report};
use serde_json::json;

pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Of all VIPs.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
/// Of a health check; see [`checked`].
pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// Every connection has a line a second, so that each that breaks learns of it.
pub(crate) const WORK: Work = Work {
    connections: 2_000,
    every: Duration::from_secs(1),
    new_per_second: 500,
    flows: 20,
};

/// One node over four backends that all are configured from the start.
pub(crate) fn lab(
    name: &str,
    tracking: &'static str,
    change: impl Fn(&mut NodeConfig),
) -> (LabBuilder, Fleet) {
    let weights = [1; 4];
    let mut config = NodeConfig::of(&Topology::star(1, &weights), 0);
    config.track(tracking, IDLE.as_secs().try_into().expect("seconds"));
    change(&mut config);
    let fleet = Fleet::new(vec![config.clone()], weights.len());
    let builder = Lab::builder(name)
        .nodes(1)
        .weights(&weights)
        .configs(vec![config]);
    (builder, fleet)
}

/// A TCP check of all backends five times a second: suspect after three failures, dead after `death_grace` more.
pub(crate) fn checked(config: &mut NodeConfig, death_grace: Duration) {
    for pool in &mut config.pools {
        pool.health = Some(json!({
            "type": "tcp",
            "port": HTTP_PORT,
            "interval": format!("{}ms", INTERVAL.as_millis()),
            "timeout": "150ms",
            "rise": 2,
            "fall": 3,
            "death_grace": format!("{}ms", death_grace.as_millis()),
            "flap": {"limit": 0},
        }));
    }
}

/// Waits until the node has found all backends well.
pub(crate) fn wait_up(lab: &mut Lab) {
    for pool in ["web4", "web6"] {
        for backend in ["be1", "be2", "be3", "be4"] {
            let line = format!("backend {pool}/{backend}: up");
            lab.node(0).wait_log(&line, 0, SOON).expect("it is up");
        }
    }
}

/// The long-lived TCP connections of a report.
pub(crate) fn lines(report: &Report) -> Held {
    report.held(Kind::Lines)
}

/// Nothing broke, moved or failed, and enough was tried.
pub(crate) fn assert_unbroken((held, new): &(Report, Report), connections: u32) {
    let (found, errors) = (lines(held), held.errors());
    assert_eq!(
        (found.opened, found.unopened),
        (connections.into(), 0),
        "{errors:#?}"
    );
    assert_eq!(
        (found.broken, found.moved),
        (0, 0),
        "{:?} {errors:#?}",
        found.broken_by_backend
    );
    assert_eq!(new.failed(), 0, "of {}: {:#?}", new.requests(), new.errors());
    assert!(new.requests() > 1000, "only {} new connections", new.requests());
}

/// Sleeps until `time` after `start`.
pub(crate) fn sleep_until(start: Instant, time: Duration) {
    std::thread::sleep((start + time).saturating_duration_since(Instant::now()));
}
