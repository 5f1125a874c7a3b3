//! What must hold after each step, and what must have come true in the end.

use lb_userspace::group::{Facts, Phase};

use crate::engine::{Engine, SLOTS};
use crate::node::Node;
use crate::world::World;

fn facts(node: &Node) -> Option<Facts> {
    node.machine.as_ref().map(|m| m.facts())
}

/// Whether both forward, and each counts the other: one whose agent is down or starts anew can't tell.
fn are_members(a: &Node, b: &Node) -> bool {
    let counts = |a: &Node, b: &Node| match facts(a) {
        Some(facts) if facts.phase == Phase::Ready => facts.members.has(b.place),
        _ => true,
    };
    let is_ready = |n: &Node| facts(n).is_some_and(|f| f.phase == Phase::Ready);
    a.forwards && b.forwards && counts(a, b) && counts(b, a) && (is_ready(a) || is_ready(b))
}

fn is_dead(engine: &Engine, backend: u16) -> bool {
    let id = u64::from(backend);
    engine.verdict.dead.contains(&id) || engine.verdict.returning.contains(&id)
}

/// Whether all that forward count each other: whoever was another half has taken the group's slots over.
pub(crate) fn is_whole(world: &World) -> bool {
    let forward = || world.nodes.iter().filter(|node| node.forwards);
    let counts_all = |node: &Node| {
        facts(node).is_some_and(|facts| {
            facts.phase == Phase::Ready && forward().all(|other| facts.members.has(other.place))
        })
    };
    forward().all(counts_all)
}

/// One origin per slot on all members, on all nodes that attract traffic, and on all that forward while halves are apart; but while all are
/// closing, or while it is dead.
pub(crate) fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        // Once, and once more for each other coordinator that still counted it.
        if node.dropped.values().any(|&times| times > 3) {
            let (now, place) = (world.now, node.place);
            return Err(format!(
                "at {now}: node {place} drops silent nodes again and again: {:?}",
                node.dropped
            ));
        }
    }
    for (n, a) in world.nodes.iter().enumerate() {
        let is_apart = |a: &Node, b: &Node| a.made_up || b.made_up;
        let agree = |b: &&Node| {
            let both = |is: fn(&Node) -> bool| is(a) && is(b);
            let forward = world.split && both(|node| node.forwards);
            (are_members(a, b) || both(|node| node.ready) || forward) && !is_apart(a, b)
        };
        for b in world.nodes[..n].iter().filter(agree) {
            for slot in 0..SLOTS {
                let of = |node: &Node| node.engine.slots[usize::from(slot)];
                let (x, y) = (of(a), of(b));
                // What has begun is finished without those that were dropped before they heard of it.
                let is_halfway = world.split && world.halfway.contains(&slot);
                if x.origin() == y.origin() || is_halfway {
                    continue;
                }
                let are_tracked = x.is_tracked() && y.is_tracked();
                let are_closing = x.is_closing() && y.is_closing();
                // Who starts anew has forgotten the verdict, and who joins again has not heard of it.
                let is_joining = [a, b]
                    .iter()
                    .any(|node| !node.ready || facts(node).is_none_or(|f| f.phase != Phase::Ready));
                let has_forgotten = |backend: u16| is_joining && world.judged.contains(&backend.into());
                let knows = |backend| {
                    is_dead(&a.engine, backend) || is_dead(&b.engine, backend) || has_forgotten(backend)
                };
                let in_half =
                    world.split && world.nodes.iter().any(|node| node.engine.buried.contains(&slot));
                let is_buried = knows(x.origin()) || knows(y.origin()) || in_half;
                // One half judges for itself, and the other has not heard of it.
                if !(are_tracked && are_closing || (are_tracked || world.split) && is_buried) {
                    return Err(format!(
                        "at {}: slot {slot} is {x:?} on node {} and {y:?} on node {}",
                        world.now, a.place, b.place
                    ));
                }
            }
        }
    }
    Ok(())
}

/// A while after the last fault: all are ready, all changes made, everything forgotten.
pub(crate) fn settled(world: &World) -> Result<(), String> {
    let first = &world.nodes[0];
    for node in &world.nodes {
        let wrong = |what: &str| Err(format!("at {}: node {} {what}", world.now, node.place));
        if !node.ready {
            return wrong(&format!(
                "is not ready: {:?}",
                node.machine.as_ref().map(|m| m.status())
            ));
        }
        let dead: Vec<u64> = world.dead.iter().map(|&b| b.into()).collect();
        let verdict = &node.engine.verdict;
        if verdict.dead.iter().copied().collect::<Vec<_>>() != dead || !verdict.returning.is_empty() {
            return wrong(&format!("has another verdict: {verdict:?}, {dead:?} are dead"));
        }
        for slot in 0..SLOTS {
            let is = node.engine.slots[usize::from(slot)];
            let want = node.engine.want(slot);
            if is.is_tracked() || is.origin() != want || is.current() != want {
                return wrong(&format!("has slot {slot} at {is:?}, {want} is wanted"));
            }
        }
        if node.engine.origins() != first.engine.origins() || node.members != first.members {
            return wrong("differs from node 0");
        }
    }
    Ok(())
}
