//! Backends that a group drains together.

use std::time::{Duration, Instant};

use lb_tests::host::Node;
use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabError};

const SOON: Duration = Duration::from_secs(20);

/// Has the group drain a backend of both pools, by orders to node `index`, and waits until all of `members` lead new flows
/// elsewhere.
pub(crate) fn drain(lab: &Lab, index: usize, backend: &str, members: &[usize]) -> Result<Duration, LabError> {
    let start = Instant::now();
    for pool in ["web4", "web6"] {
        let target = format!("{pool}/{backend}");
        // What the group can't decide at this moment is refused; an operator tries again.
        until_ok(SOON, &format!("{target} is ordered to drain"), || {
            Ok(lab.nodes()[index].lbctl(&["drain", &target])?.status.success())
        })?;
    }
    for member in members {
        let node = &lab.nodes()[*member];
        until_ok(
            SOON,
            &format!("{} leads nobody to {backend}", node.name()),
            || Ok(slots(node, backend)? == 0),
        )?;
    }
    Ok(start.elapsed())
}

/// How many slots of all pools lead new flows to a backend.
pub(crate) fn slots(node: &Node, backend: &str) -> Result<u64, LabError> {
    let backends = node.lbctl_json(&["backends"])?;
    let all = backends["backends"].as_array().expect("a list").iter();
    let of_it = all.filter(|one| one["name"] == backend);
    Ok(of_it.map(|one| one["slots"].as_u64().expect("a number")).sum())
}
