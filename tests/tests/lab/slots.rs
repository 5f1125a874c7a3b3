//! The slots of a node, and when they have settled.

use std::time::Duration;

use lb_tests::host::Node;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::pin::Root;

/// The slots of the pool `web4`, straight from the map.
pub(crate) fn slots(node: &Node) -> Vec<u16> {
    let maps = Maps::open(&Root::new(node.pin_root())).expect("its maps");
    let contents = maps.contents().expect("their contents");
    contents.rings[&0].to_vec()
}

/// The same, when what was ordered has been committed: a second after it was prepared.
pub(crate) fn settled(node: &Node) -> Vec<u16> {
    std::thread::sleep(Duration::from_millis(1_300));
    let mut before = slots(node);
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = slots(node);
        if now == before {
            return now;
        }
        before = now;
    }
}
