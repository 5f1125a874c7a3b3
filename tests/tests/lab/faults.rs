//! The kit's faults do what they say.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use lb_tests::host::Spread;
use lb_tests::{Family, Job, Lab, LabError, Pace};

/// What a router's detection of 3 × 10 ms takes.
const DETECTION: Duration = Duration::from_millis(30);

/// The share of packets that each node has forwarded since `before`.
fn since(lab: &Lab, before: &[u64]) -> Result<Vec<u64>, LabError> {
    let now = packets(lab)?;
    Ok(now.iter().zip(before).map(|(now, before)| now - before).collect())
}

fn packets(lab: &Lab) -> Result<Vec<u64>, LabError> {
    lab.nodes().iter().map(|node| node.packets()).collect()
}

fn echoes(lab: &Lab, family: Family) -> Result<(), LabError> {
    let report = lab.client().udp(300, family)?;
    assert_eq!(report.failed(), 0, "{family:?} {:?}", report.errors());
    Ok(())
}

/// Which node each source port reaches.
fn node_of_ports(lab: &Lab, ports: std::ops::Range<u16>) -> Result<Vec<usize>, LabError> {
    ports
        .map(|first| {
            let before = packets(lab)?;
            let one = Pace::Ports { first, count: 1 };
            lab.client().run(vec![Job::udp(Family::V4, one)])?;
            let since = since(lab, &before)?;
            Ok(since.iter().position(|n| *n > 0).expect("some node has it"))
        })
        .collect()
}

/// With nexthop groups: all nodes get their part, and the router moves traffic off a dead one fast; `keeps` says whether flows
/// of the others stay where they were.
fn dies_and_returns(name: &str, spread: Spread) -> Result<bool, LabError> {
    Lab::builder(name).nodes(3).spread(spread).run(|lab| {
        for family in Family::BOTH {
            let before = packets(lab)?;
            echoes(lab, family)?;
            let each = since(lab, &before)?;
            assert!(each.iter().all(|n| *n > 50), "{family:?}: {each:?}");
        }
        let ports = 30_000..30_024;
        let at_first = node_of_ports(lab, ports.clone())?;

        let moved = lab.power_loss(0, Instant::now(), DETECTION, &[1, 2])?.moved;
        // Within 50 ms where nothing else wants the CPUs.
        assert!(moved < Duration::from_millis(200), "moved only after {moved:?}");
        assert!(!lab.nodes()[0].pin_root().exists());
        let before: Vec<u64> = [1, 2]
            .map(|n| lab.nodes()[n].packets())
            .into_iter()
            .collect::<Result<_, _>>()?;
        Family::BOTH
            .into_iter()
            .try_for_each(|family| echoes(lab, family))?;
        let after = [lab.nodes()[1].packets()?, lab.nodes()[2].packets()?];
        assert!(
            after[0] > before[0] + 100 && after[1] > before[1] + 100,
            "{before:?} {after:?}"
        );

        lab.power_on(0)?;
        lab.node(0).wait_in_service()?;
        assert_eq!(lab.node(0).packets()?, 0, "the maps are new");
        let without = node_of_ports(lab, ports.clone())?;
        let stayed = at_first
            .iter()
            .zip(&without)
            .filter(|(at_first, _)| **at_first != 0);
        let stayed: Vec<bool> = stayed.map(|(at_first, now)| at_first == now).collect();
        assert!(stayed.len() > 6, "{at_first:?}");
        eprintln!("{name}: moved after {moved:?}, at first {at_first:?}, without {without:?}");

        lab.router().route_to(&[0, 1, 2])?;
        Family::BOTH
            .into_iter()
            .try_for_each(|family| echoes(lab, family))?;
        assert!(lab.node(0).packets()? > 100);
        // The other router takes most flows to another node.
        let back = node_of_ports(lab, ports.clone())?;
        lab.router_mut().cross()?;
        let crossed = node_of_ports(lab, ports)?;
        let other = back.iter().zip(&crossed).filter(|(a, b)| a != b).count();
        assert!(other > 12, "{back:?} {crossed:?}");
        Ok(stayed.iter().all(|stayed| *stayed))
    })
}

#[test]
fn a_resilient_group_leaves_the_flows_of_living_nodes_alone() {
    assert!(dies_and_returns("resilient", Spread::Resilient).expect("the lab runs"));
}

#[test]
fn a_plain_group_moves_flows_of_living_nodes_too() {
    assert!(!dies_and_returns("threshold", Spread::Threshold).expect("the lab runs"));
}

/// Whether a datagram passes from the first node to the second.
fn reaches(lab: &Lab) -> Result<bool, LabError> {
    let to = SocketAddr::from((lab.topology().node_address(1, Family::V4), 9));
    let receiver = lab.nodes()[1].namespace().within(|| UdpSocket::bind(to))?;
    let receiver = receiver.expect("a socket");
    let patience = Some(Duration::from_millis(500));
    receiver.set_read_timeout(patience).expect("a timeout");
    let send = || UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"hello", to));
    lab.nodes()[0].namespace().within(send)?.expect("it is sent");
    Ok(receiver.recv(&mut [0; 8]).is_ok())
}

#[test]
fn cut_frozen_and_slow_nodes_serve_on() {
    Lab::builder("cut")
        .run(|lab| {
            assert!(reaches(lab)?);
            lab.partition(0, 1)?;
            assert!(!reaches(lab)?, "nothing passes");
            Family::BOTH
                .into_iter()
                .try_for_each(|family| echoes(lab, family))?;
            lab.heal(0, 1)?;
            assert!(reaches(lab)?);

            lab.node(0).freeze()?;
            Family::BOTH
                .into_iter()
                .try_for_each(|family| echoes(lab, family))?;
            lab.node(0).thaw()?;
            assert_eq!(lab.node(0).lbctl_json(&["status"])?["agent"], "alive");

            lab.node(0).slow(Some("8kbit"))?;
            Family::BOTH
                .into_iter()
                .try_for_each(|family| echoes(lab, family))?;
            lab.node(0).slow(None)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
