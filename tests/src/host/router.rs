//! The router between all others.

use std::path::Path;

use crate::command;
use crate::error::LabError;
use crate::netns::Netns;
use crate::pass;
use crate::topo::{Link, Topology};

/// The router: forwards, and spreads the VIPs over the nodes by the hash of addresses and ports.
#[derive(Debug)]
pub struct Router {
    namespace: Netns,
    topology: Topology,
}

impl Router {
    pub(crate) fn new(namespace: Netns, topology: Topology) -> Self {
        Self { namespace, topology }
    }

    /// Before the links are made: new interfaces take their settings from `default`.
    pub(crate) fn set_sysctls(&self) -> Result<(), LabError> {
        self.namespace.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // Answers come from backends, while the route to their source, the VIP, leads to the nodes.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/fib_multipath_hash_policy", "1"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
        ])
    }

    pub(crate) fn set_up(&self, links: &[Link], pins: &Path) -> Result<(), LabError> {
        let all_nodes: Vec<usize> = (0..self.topology.nodes.len()).collect();
        let mut lines: Vec<String> = vec!["link set dev lo up".to_owned()];
        lines.extend(links.iter().flat_map(|link| self.topology.router_lines(link)));
        lines.extend(self.topology.vip_lines(&all_nodes));
        self.namespace.ip(&lines)?;
        for link in links.iter().filter(|l| l.far_tx_off) {
            command::check(
                self.namespace
                    .command("ethtool")
                    .args(["-K", &link.far, "tx", "off"]),
            )?;
        }
        let far_ends: Vec<&str> = links
            .iter()
            .filter(|l| l.far_pass)
            .map(|l| l.far.as_str())
            .collect();
        pass::attach(&self.namespace, &far_ends, pins)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Spreads the VIPs over these nodes only (indexes from 0, at least one): the others get no more traffic.
    pub fn route_to(&self, nodes: &[usize]) -> Result<(), LabError> {
        self.namespace.ip(&self.topology.vip_lines(nodes))
    }
}
