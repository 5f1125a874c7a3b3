//! The star: client, nodes and backends, each on a veth of its own at one router.
//!
//! ```text
//!              client
//!                |  10.9.1.0/24
//!     lb1 ---- router ---- be1      10.9.21.0/24
//!     10.9.11.0/24 | \ ---- be2     10.9.22.0/24
//!     lb2 ---------+           ...
//!     10.9.12.0/24
//! ```
//! A host is `.2` (and `::2`) of its subnet, the router `.1`. A node with a second link has `10.9.111.0/24`
//! on it (lb1). The router spreads the VIPs over the nodes by ECMP; backends answer the client directly.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// The IPv4 VIP of every lab.
pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
/// The IPv6 VIP of every lab.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 1, 0, 0, 0, 0, 1);
/// TCP: HTTP.
pub const HTTP_PORT: u16 = 80;
/// UDP: echo. TCP: numbered lines on long-lived connections.
pub const ECHO_PORT: u16 = 7;

/// Room for an outer IPv6 header and more on the nodes' and backends' links.
const MTU_FABRIC: u16 = 1600;
const MTU_CLIENT: u16 = 1500;
const MOST_NODES: usize = 9;
const MOST_BACKENDS: usize = 70;
/// Further addresses of the client, each with source ports of its own.
const CLIENT_MORE: u8 = 10;
/// How many.
pub const CLIENT_ADDRESSES: u8 = 10;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The VIP of this family with a port.
    pub fn vip(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => (VIP4, port).into(),
            Self::V6 => (VIP6, port).into(),
        }
    }

    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `4` or `6`, as in the pools' names `web4` and `web6`.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// What a lab consists of besides one client and one router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Load balancers, named `lb1`, `lb2` and so on. Without any the router spreads the VIPs over the backends
    /// itself: the lab's own floor, without Tandem.
    pub nodes: Vec<NodeSpec>,
    /// Weights of the backends, which are named `be1`, `be2` and so on.
    pub weights: Vec<u16>,
}

/// One load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// Whether it has a second interface, `eth1`, through which it reaches the backends.
    pub second_link: bool,
}

/// One veth pair between a host and the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The host's role: `client`, `lb1`, `be1`.
    pub(crate) host: String,
    /// The interface's name on the host.
    pub(crate) interface: &'static str,
    /// The interface's name on the router.
    pub(crate) far: String,
    /// The third octet of the IPv4 subnet; the same digits are the third group of the IPv6 subnet.
    subnet: u8,
    mtu: u16,
    /// The default route goes this way.
    default_route: bool,
    /// The host sends by `XDP_TX` or redirect, which the veth driver delivers only to a far end with XDP.
    pub(crate) far_pass: bool,
    /// The host looks at packets by XDP that a socket behind the router has sent: their checksums must be
    /// finished before, so the far end must not offload them.
    pub(crate) far_tx_off: bool,
}

impl Link {
    /// The host's address.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        self.nth(family, 2)
    }

    fn gateway(&self, family: Family) -> IpAddr {
        self.nth(family, 1)
    }

    fn nth(&self, family: Family, host: u8) -> IpAddr {
        let subnet = self.subnet;
        match family {
            Family::V4 => Ipv4Addr::new(10, 9, subnet, host).into(),
            Family::V6 => {
                let digits =
                    u16::from_str_radix(&subnet.to_string(), 16).expect("decimal digits are hex digits");
                Ipv6Addr::new(0xfd00, 9, digits, 0, 0, 0, 0, host.into()).into()
            }
        }
    }
}

impl Topology {
    /// So many nodes with one link each, and backends of these weights.
    pub fn star(nodes: usize, weights: &[u16]) -> Self {
        Self {
            nodes: vec![NodeSpec::default(); nodes],
            weights: weights.to_vec(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), LabError> {
        let limit = |what, most, asked| {
            if asked > most {
                Err(LabError::TooMany { what, most, asked })
            } else {
                Ok(())
            }
        };
        limit("nodes", MOST_NODES, self.nodes.len())?;
        limit("backends", MOST_BACKENDS, self.weights.len())
    }

    /// `lb1` for node 0.
    pub fn node_name(index: usize) -> String {
        format!("lb{}", index + 1)
    }

    /// `be1` for backend 0.
    pub fn backend_name(index: usize) -> String {
        format!("be{}", index + 1)
    }

    /// The address to which nodes send encapsulated packets for backend `index`.
    pub fn backend_address(&self, index: usize, family: Family) -> IpAddr {
        backend_link(index).address(family)
    }

    /// The address at which its peers reach node `index`.
    pub fn node_address(&self, index: usize, family: Family) -> IpAddr {
        node_link(index, "eth0", 11).address(family)
    }

    /// The router's end of node `index`'s first link.
    pub(crate) fn node_far(index: usize) -> String {
        node_link(index, "eth0", 11).far
    }

    /// The links of node `index`.
    pub(crate) fn node_links(&self, index: usize) -> Vec<Link> {
        let name = Self::node_name(index);
        let own = |link: &Link| link.host == name;
        self.links().into_iter().filter(own).collect()
    }

    /// The client's address number `nth` beside its first one.
    pub fn client_address(&self, nth: u8, family: Family) -> IpAddr {
        client_link().nth(family, CLIENT_MORE + nth)
    }

    /// The interfaces of node `index`.
    pub fn node_interfaces(&self, index: usize) -> Vec<&'static str> {
        if self.nodes[index].second_link {
            vec!["eth0", "eth1"]
        } else {
            vec!["eth0"]
        }
    }

    /// The roles of all hosts, each a namespace.
    pub(crate) fn roles(&self) -> Vec<String> {
        let nodes = (0..self.nodes.len()).map(Self::node_name);
        let backends = (0..self.weights.len()).map(Self::backend_name);
        ["client", "router"]
            .map(str::to_owned)
            .into_iter()
            .chain(nodes)
            .chain(backends)
            .collect()
    }

    pub(crate) fn links(&self) -> Vec<Link> {
        let mut links = vec![client_link()];
        for (index, node) in self.nodes.iter().enumerate() {
            links.push(node_link(index, "eth0", 11));
            if node.second_link {
                links.push(Link {
                    default_route: false,
                    ..node_link(index, "eth1", 111)
                });
            }
        }
        links.extend((0..self.weights.len()).map(backend_link));
        links
    }

    /// `ip` commands for the host's side of the link; the interface exists.
    pub(crate) fn host_lines(&self, link: &Link) -> Vec<String> {
        let dev = link.interface;
        let mut lines = vec![format!("link set dev {dev} mtu {} up", link.mtu)];
        for family in Family::BOTH {
            lines.push(address_line(link.address(family), dev));
            if link.default_route {
                lines.push(format!(
                    "route add {} via {} dev {dev}",
                    everything(family),
                    link.gateway(family)
                ));
            } else {
                let backends = (0..self.weights.len()).map(|i| self.backend_address(i, family));
                lines.extend(
                    backends.map(|b| format!("route add {b} via {} dev {dev}", link.gateway(family))),
                );
            }
        }
        // After the first one, which sockets use that don't ask.
        if link.host == "client" {
            let more = (0..CLIENT_ADDRESSES).flat_map(|nth| Family::BOTH.map(|family| (nth, family)));
            lines.extend(more.map(|(nth, family)| address_line(self.client_address(nth, family), dev)));
        }
        lines
    }

    /// `ip` commands for the router's side of the link.
    pub(crate) fn router_lines(&self, link: &Link) -> Vec<String> {
        let mut lines = vec![format!("link set dev {} mtu {} up", link.far, link.mtu)];
        lines.extend(Family::BOTH.map(|family| address_line(link.gateway(family), &link.far)));
        lines
    }

    /// `ip` commands that spread the VIPs over the nodes (or, in a lab without nodes, over the backends by weight).
    pub(crate) fn vip_lines(&self, nodes: &[usize]) -> Vec<String> {
        let hops = |family| -> Vec<String> {
            if self.nodes.is_empty() {
                let weighted = self.weights.iter().enumerate();
                let hop = |(i, w)| format!("nexthop via {} weight {w}", backend_link(i).address(family));
                weighted.map(hop).collect()
            } else {
                let hop = |i: &usize| format!("nexthop via {}", node_link(*i, "eth0", 11).address(family));
                nodes.iter().map(hop).collect()
            }
        };
        Family::BOTH
            .into_iter()
            .map(|family| format!("route replace {} {}", family.vip(0).ip(), hops(family).join(" ")))
            .collect()
    }
}

fn client_link() -> Link {
    Link {
        host: "client".to_owned(),
        interface: "eth0",
        far: "client".to_owned(),
        subnet: 1,
        mtu: MTU_CLIENT,
        default_route: true,
        far_pass: false,
        far_tx_off: false,
    }
}

/// `base` is the third octet of lb1's subnet on this interface.
fn node_link(index: usize, interface: &'static str, base: u8) -> Link {
    let name = Topology::node_name(index);
    Link {
        far: if interface == "eth0" {
            name.clone()
        } else {
            format!("{name}-{interface}")
        },
        host: name,
        interface,
        subnet: base + u8::try_from(index).expect("few nodes"),
        mtu: MTU_FABRIC,
        default_route: true,
        far_pass: true,
        far_tx_off: true,
    }
}

fn backend_link(index: usize) -> Link {
    let name = Topology::backend_name(index);
    Link {
        far: name.clone(),
        host: name,
        interface: "eth0",
        subnet: 21 + u8::try_from(index).expect("few backends"),
        mtu: MTU_FABRIC,
        default_route: true,
        far_pass: true,
        far_tx_off: false,
    }
}

/// Without duplicate address detection, which would make an IPv6 address unusable for a second.
fn address_line(address: IpAddr, dev: &str) -> String {
    match address {
        IpAddr::V4(a) => format!("addr add {a}/24 dev {dev}"),
        IpAddr::V6(a) => format!("addr add {a}/64 dev {dev} nodad"),
    }
}

fn everything(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_largest_lab_has_no_address_or_name_twice() {
        let nodes = vec![NodeSpec { second_link: true }; MOST_NODES];
        let topology = Topology {
            nodes,
            weights: vec![1; MOST_BACKENDS],
        };
        topology.check().expect("within the limits");
        let links = topology.links();
        let mut seen = HashSet::new();
        for link in &links {
            assert!(link.far.len() < 16, "{} is too long for an interface", link.far);
            assert!(seen.insert(link.far.clone()), "{} twice", link.far);
            for family in Family::BOTH {
                assert!(seen.insert(link.address(family).to_string()), "{link:?}");
            }
        }
        assert!(Topology::star(MOST_NODES + 1, &[1]).check().is_err());
    }

    #[test]
    fn addresses_follow_the_plan() {
        let topology = Topology::star(2, &[1, 2]);
        assert_eq!(topology.backend_address(0, Family::V4).to_string(), "10.9.21.2");
        assert_eq!(
            topology.backend_address(1, Family::V6).to_string(),
            "fd00:9:22::2"
        );
        assert_eq!(
            topology.vip_lines(&[0, 1])[0],
            "route replace 10.200.1.1 nexthop via 10.9.11.2 nexthop via 10.9.12.2"
        );
    }

    #[test]
    fn a_second_link_carries_only_the_way_to_the_backends() {
        let topology = Topology {
            nodes: vec![NodeSpec { second_link: true }],
            weights: vec![1],
        };
        let links = topology.links();
        let second = links.iter().find(|l| l.interface == "eth1").expect("eth1");
        let lines = topology.host_lines(second);
        assert!(
            lines.contains(&"route add 10.9.21.2 via 10.9.111.1 dev eth1".to_owned()),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|l| l.contains("0.0.0.0/0")), "{lines:?}");
    }

    #[test]
    fn without_nodes_the_router_spreads_by_weight() {
        let lines = Topology::star(0, &[1, 3]).vip_lines(&[]);
        assert!(
            lines[0].ends_with("nexthop via 10.9.21.2 weight 1 nexthop via 10.9.22.2 weight 3"),
            "{lines:?}"
        );
    }
}
