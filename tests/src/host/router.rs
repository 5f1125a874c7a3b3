//! The router between all others.

use std::path::Path;

use super::spread::{self, Path as Way, Spread};
use crate::command::{self, IpBatch};
use crate::error::LabError;
use crate::netns::Netns;
use crate::pass;
use crate::topo::{Family, Link, Topology};

/// Rules of faults come before all others but that of local addresses.
const FAULT_PRIORITY: u32 = 10;

/// Both addresses, the protocol, both ports (FIB_MULTIPATH_HASH_FIELD_ in include/net/ip_fib.h).
const ADDRESSES_AND_PORTS: &str = "0x0037";

/// The router: forwards, and spreads the VIPs over the nodes by the hash of addresses and ports.
#[derive(Debug)]
pub struct Router {
    namespace: Netns,
    topology: Topology,
    spread: Spread,
    /// Of IPv4 and IPv6.
    ways: [Way; 2],
}

impl Router {
    pub(crate) fn new(namespace: Netns, topology: Topology, spread: Spread) -> Self {
        Self {
            namespace,
            topology,
            spread,
            ways: [Way::A, Way::B],
        }
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
        ])?;
        if self.spread == Spread::Route {
            return Ok(());
        }
        // Policy 1 takes the hash that a packet brings along, and a packet of a socket of this machine brings the socket's own
        // random one, which changes with each timeout. Policy 3 looks at the packet, as a router does.
        self.namespace.sysctl(&[
            ("net/ipv4/fib_multipath_hash_policy", "3"),
            ("net/ipv4/fib_multipath_hash_fields", ADDRESSES_AND_PORTS),
            ("net/ipv6/fib_multipath_hash_policy", "3"),
            ("net/ipv6/fib_multipath_hash_fields", ADDRESSES_AND_PORTS),
        ])
    }

    pub(crate) fn set_up(&self, links: &[Link], pins: &Path) -> Result<(), LabError> {
        let mut lines: Vec<String> = vec!["link set dev lo up".to_owned()];
        lines.extend(links.iter().flat_map(|link| self.topology.router_lines(link)));
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

    /// Routes the VIPs for the first time, over all nodes. Both ends of all links are up: a next hop needs its carrier.
    pub(crate) fn begin(&self) -> Result<(), LabError> {
        let all: Vec<usize> = (0..self.topology.nodes.len()).collect();
        self.route_to(&all).map_err(|error| match (&error, self.spread) {
            (LabError::Failed { .. }, Spread::Resilient) => LabError::Resilient(Box::new(error)),
            _ => error,
        })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Spreads the VIPs over these nodes only (indexes from 0, at least one): the others get no more traffic.
    pub fn route_to(&self, nodes: &[usize]) -> Result<(), LabError> {
        let lines = spread::lines(&self.topology, self.spread, self.ways, nodes);
        self.namespace.ip(&lines)
    }

    /// Prepares to take the traffic off all nodes but these.
    pub(crate) fn prepare_move(&self, nodes: &[usize]) -> Result<Prepared, LabError> {
        Ok(Prepared(vec![(
            IpBatch::prepare(Some(self.namespace.name()), None)?,
            spread::move_lines(&self.topology, self.spread, nodes),
        )]))
    }

    /// Sends IPv4 to IPv6's router and the other way round: most flows come to another node. Only with nexthop groups.
    pub fn cross(&mut self) -> Result<(), LabError> {
        self.ways = self.ways.map(Way::other);
        match self.spread {
            Spread::Route => Ok(()),
            Spread::Resilient | Spread::Threshold => self.namespace.ip(&spread::path_lines(self.ways)),
        }
    }

    /// Prepares that nothing that node `index` sends arrives anywhere, while what is sent to it is as good as lost: the
    /// moment of its death for all others. Its link stays up, so that the router learns of it no sooner than it is told.
    pub(crate) fn prepare_silence(&self, index: usize, silent: bool) -> Result<Prepared, LabError> {
        let far = Topology::node_far(index);
        let rules = Family::BOTH.map(|family| (family, format!("iif {far}")));
        self.rules(&rules, silent)
    }

    /// Lets nothing pass between these two nodes, or again. What nodes and backends send each other is not touched.
    pub(crate) fn cut(&self, pair: (usize, usize), apart: bool) -> Result<(), LabError> {
        let mut rules = Vec::new();
        for (from, to) in [pair, (pair.1, pair.0)] {
            for family in Family::BOTH {
                let to = self.topology.node_address(to, family);
                rules.push((family, format!("iif {} to {to}", Topology::node_far(from))));
            }
        }
        self.rules(&rules, apart)?.run()
    }

    /// A rule that there is already isn't added again, and one that there isn't can't be removed: the caller knows.
    fn rules(&self, rules: &[(Family, String)], add: bool) -> Result<Prepared, LabError> {
        let verb = if add { "add" } else { "del" };
        let of = |wanted: Family| {
            let own = rules.iter().filter(|(family, _)| *family == wanted);
            // Silently, unlike `unreachable` and `prohibit`.
            let lines = own.map(|(_, rule)| format!("rule {verb} pref {FAULT_PRIORITY} {rule} blackhole"));
            let batch = IpBatch::prepare(Some(self.namespace.name()), Some(wanted))?;
            Ok((batch, lines.collect()))
        };
        Family::BOTH
            .into_iter()
            .map(of)
            .collect::<Result<_, LabError>>()
            .map(Prepared)
    }
}

/// Commands that wait for their moment.
#[derive(Debug)]
pub(crate) struct Prepared(Vec<(IpBatch, Vec<String>)>);

impl Prepared {
    /// All of them at the same time.
    pub(crate) fn run(self) -> Result<(), LabError> {
        let start = |(batch, lines): (IpBatch, Vec<String>)| std::thread::spawn(move || batch.run(&lines));
        let running: Vec<_> = self.0.into_iter().map(start).collect();
        running.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
