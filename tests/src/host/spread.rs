//! How the router spreads the VIPs over the nodes, as `ip` commands.
//!
//! With nexthop groups there are two of them per IP version, which list the nodes in another order: what two routers would
//! make of the same packets, since their hash of a flow leads to another node. IPv4 begins at one, IPv6 at the other;
//! [`super::Router::cross`] sends either to the other router, as an upstream change does.

use crate::topo::{Family, Topology};

/// Buckets of a resilient group: a multiple of the nodes' number, so that they have equal shares.
const BUCKETS: usize = 504;

/// The algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// A route with several next hops. A node that leaves moves flows of others too.
    #[default]
    Route,
    /// Resilient nexthop groups: a node that leaves moves its own flows alone. One that comes moves flows at once, used or
    /// not (`idle_timer 0`).
    Resilient,
    /// Plain nexthop groups (hash-threshold): a node that leaves or comes moves flows of others too.
    Threshold,
}

/// One of the routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    A,
    B,
}

impl Path {
    /// The other one.
    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Lines that make the VIPs go to these nodes, whatever was there before; those of `paths` are IPv4's and IPv6's.
pub(super) fn lines(topology: &Topology, spread: Spread, paths: [Path; 2], nodes: &[usize]) -> Vec<String> {
    if topology.nodes.is_empty() || spread == Spread::Route {
        return topology.vip_lines(nodes);
    }
    let hops = Family::BOTH.into_iter().flat_map(|family| {
        nodes.iter().map(move |node| {
            format!(
                "nexthop replace id {} via {} dev {}",
                hop(*node, family),
                topology.node_address(*node, family),
                Topology::node_far(*node)
            )
        })
    });
    let groups = move_lines(topology, spread, nodes);
    hops.chain(groups).chain(path_lines(paths)).collect()
}

/// Lines that leave only these nodes in the groups, of which all are there already.
pub(super) fn move_lines(topology: &Topology, spread: Spread, nodes: &[usize]) -> Vec<String> {
    let kind = match spread {
        Spread::Route => return topology.vip_lines(nodes),
        Spread::Resilient => format!(" type resilient buckets {BUCKETS} idle_timer 0 unbalanced_timer 0"),
        Spread::Threshold => String::new(),
    };
    let each = |(family, path): (Family, Path)| {
        let mut hops: Vec<String> = nodes.iter().map(|n| hop(*n, family).to_string()).collect();
        if path == Path::B {
            hops.rotate_left(1);
        }
        let (group, hops) = (group(path, family), hops.join("/"));
        format!("nexthop replace id {group} group {hops}{kind}")
    };
    let both = [Path::A, Path::B].map(|path| Family::BOTH.map(|family| (family, path)));
    both.into_iter().flatten().map(each).collect()
}

/// Lines after which a path's traffic takes the other's groups.
pub(super) fn path_lines(paths: [Path; 2]) -> Vec<String> {
    let to = |(family, path): (Family, Path)| {
        format!(
            "route replace {} nhid {}",
            family.vip(0).ip(),
            group(path, family)
        )
    };
    Family::BOTH.into_iter().zip(paths).map(to).collect()
}

fn hop(node: usize, family: Family) -> usize {
    1 + node + if family == Family::V4 { 0 } else { 100 }
}

fn group(path: Path, family: Family) -> usize {
    1000 + match (path, family) {
        (Path::A, Family::V4) => 0,
        (Path::B, Family::V4) => 1,
        (Path::A, Family::V6) => 2,
        (Path::B, Family::V6) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_routers_list_the_nodes_in_another_order() {
        let topology = Topology::star(3, &[1]);
        let lines = lines(&topology, Spread::Threshold, [Path::A, Path::B], &[0, 2]);
        for wanted in [
            "nexthop replace id 3 via 10.9.13.2 dev lb3",
            "nexthop replace id 1000 group 1/3",
            "nexthop replace id 1001 group 3/1",
            "route replace 10.200.1.1 nhid 1000",
            "nexthop replace id 101 via fd00:9:11::2 dev lb1",
            "route replace fd00:200:1::1 nhid 1003",
        ] {
            assert!(lines.iter().any(|l| l == wanted), "{wanted} in {lines:#?}");
        }
        assert!(!lines.iter().any(|l| l.contains("10.9.12.2")), "{lines:#?}");
    }

    #[test]
    fn a_lab_without_nodes_spreads_by_routes() {
        let topology = Topology::star(0, &[1, 2]);
        let lines = lines(&topology, Spread::Resilient, [Path::A, Path::B], &[]);
        assert_eq!(lines, topology.vip_lines(&[]));
    }
}
