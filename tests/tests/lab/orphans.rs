//! Flow entries of a node that is gone, of which not all others have heard.

use std::time::{Duration, Instant};

use lb_tests::host::Node;
use lb_tests::node_config::Times;
use lb_tests::wait::until_ok;
use lb_tests::{Family, Job, LabError};

use crate::leave::{lab, wait_members};

const SOON: Duration = Duration::from_secs(20);
/// Connections that say nothing while this lasts, so that nobody takes them over.
const SILENT: Duration = Duration::from_secs(120);
/// Over each address family.
const EACH: u32 = 50;
/// Over both.
const ALL: u64 = 2 * EACH as u64;

/// Confirmed flows that a node knows, its own and others'.
fn known(node: &Node) -> Result<u64, LabError> {
    let counted = node.lbctl_json(&["flows", "--count", "--state", "confirmed"])?;
    Ok(counted["matching"].as_u64().expect("a number"))
}

/// lb1's agent dies while it can't reach lb3, so lb2 alone has heard of its flows.
#[test]
fn what_one_of_two_holds_of_a_dead_node_comes_to_the_other() {
    lab("orphans", &Times::default(), |config| config.track("always", 300))
        .run(|lab| {
            wait_members(lab, &[0, 1, 2], &["lb1", "lb2", "lb3"])?;
            lab.router().route_to(&[0])?;
            lab.partition(0, 2)?;
            let lines = Family::BOTH.map(|family| Job::lines(family, EACH, SILENT));
            let mut load = lab.client().load(lines.to_vec())?;
            load.wait_held(ALL, SOON)?;
            until_ok(SOON, "lb2 has heard of all flows", || {
                Ok(known(&lab.nodes()[1])? == ALL)
            })?;
            // The control: while lb1 lives nobody else tells lb3.
            std::thread::sleep(Duration::from_secs(8));
            assert_eq!(known(&lab.nodes()[2])?, 0);
            lab.node(0).kill9()?;
            lab.router().route_to(&[1, 2])?;
            let start = Instant::now();
            until_ok(SOON, "lb3 has them, too", || Ok(known(&lab.nodes()[2])? == ALL))?;
            println!("orphans: lb3 had them after {:?}", start.elapsed());
            let report = load.stop()?;
            assert_eq!(report.failed(), 0, "{:?}", report.errors());
            Ok::<_, LabError>(())
        })
        .expect("the lab runs");
}
