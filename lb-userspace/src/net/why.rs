//! Why there is no next hop, and what to do about it.

use std::fmt;
use std::io;
use std::net::IpAddr;

/// Why a target has no next hop; `Display` says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No route matches.
    NoRoute,
    /// An unreachable route matches.
    Unreachable,
    /// A prohibit route matches.
    Prohibited,
    /// A blackhole route matches.
    Blackhole,
    /// The address is this host's own.
    Local,
    /// A broadcast or multicast address.
    NotUnicast,
    /// The route itself encapsulates (`ip route … encap`), which XDP does not do.
    RouteWraps,
    /// The kernel refused the lookup with this error number.
    LookupRefused(i32),
    /// No interface of that name (or, for a route, index).
    NoInterface(String),
    /// The interface is down or has no carrier.
    InterfaceDown(String),
    /// The interface has no Ethernet header.
    NotEthernet(String),
    /// No address on this interface can be the outer source.
    NoSource(String),
    /// The neighbour was asked for and has not answered yet.
    NoNeighbour {
        /// Gateway or target.
        address: IpAddr,
        /// The interface that it should be on.
        interface: String,
        /// That interface's index.
        ifindex: u32,
    },
    /// The neighbour does not answer.
    NeighbourFailed {
        /// Gateway or target.
        address: IpAddr,
        /// The interface that it should be on.
        interface: String,
    },
    /// The kernel's neighbour table has no room for it.
    NeighbourTableFull {
        /// Gateway or target.
        address: IpAddr,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route to it: add one"),
            Self::Unreachable => f.write_str("its route says unreachable: change the route"),
            Self::Prohibited => f.write_str("its route says prohibit: change the route"),
            Self::Blackhole => f.write_str("its route is a blackhole: change the route"),
            Self::Local => f.write_str("it is an address of this host: a backend must be another host"),
            Self::NotUnicast => f.write_str("it is a broadcast or multicast address: use a unicast one"),
            Self::RouteWraps => f.write_str("its route encapsulates: use a plain route to it"),
            Self::LookupRefused(errno) => {
                write!(
                    f,
                    "the kernel refused the route lookup: {}",
                    io::Error::from_raw_os_error(*errno)
                )
            }
            Self::NoInterface(name) => write!(f, "no interface {name}: create it or name another"),
            Self::InterfaceDown(name) => write!(f, "interface {name} is down or has no carrier: bring it up"),
            Self::NotEthernet(name) => {
                write!(
                    f,
                    "interface {name} is not Ethernet: route it out of an Ethernet interface"
                )
            }
            Self::NoSource(name) => {
                write!(
                    f,
                    "no source address on {name}: give it one, or set the outer source in the config"
                )
            }
            Self::NoNeighbour {
                address, interface, ..
            } => {
                write!(
                    f,
                    "{address} on {interface} was asked for its MAC and has not answered yet"
                )
            }
            Self::NeighbourFailed { address, interface } => {
                write!(
                    f,
                    "{address} does not answer on {interface}: check that host and the cabling"
                )
            }
            Self::NeighbourTableFull { address } => {
                let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
                write!(
                    f,
                    "no room for {address} in the neighbour table: raise net.{family}.neigh.default.gc_thresh3"
                )
            }
        }
    }
}
