//! The decision: path, link and neighbour → next hop, or why there is none.

use std::net::IpAddr;

use super::link::{Link, Medium};
use super::neigh::Known;
use super::route::Path;
use super::why::Why;
use crate::model::Via;

/// An address that packets shall be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The outer destination.
    pub address: IpAddr,
    /// A static next hop: no route and no neighbour is needed, only the link.
    pub via: Option<Via>,
    /// The outer source where the configuration fixes it; `None`: the address that the route prefers.
    pub source: Option<IpAddr>,
}

/// All that a frame to a target needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The link that it leaves by.
    pub ifindex: u32,
    /// That link's name.
    pub interface: String,
    /// The gateway's or the target's own MAC.
    pub destination_mac: [u8; 6],
    /// The link's MAC.
    pub source_mac: [u8; 6],
    /// The largest IP packet (outer header included) that may be sent, in bytes: the link's MTU or the route's, if less.
    pub mtu: u32,
    /// The outer source: [`Target::source`], or the one that the route prefers, or for `via` the link's first global
    /// address of the target's family.
    pub source: IpAddr,
}

/// The next hop of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Packets can be sent.
    Resolved(Hop),
    /// They can't.
    Unresolved(Why),
}

impl NextHop {
    /// The hop, if there is one.
    pub fn hop(&self) -> Option<&Hop> {
        match self {
            Self::Resolved(hop) => Some(hop),
            Self::Unresolved(_) => None,
        }
    }
}

/// The neighbour that a target's path leads to.
pub(super) fn neighbour(path: &Path, target: IpAddr) -> IpAddr {
    path.gateway.unwrap_or(target)
}

/// The next hop of `target` along `path`.
pub(super) fn decide(target: &Target, path: &Path, link: Option<&Link>, known: Option<Known>) -> NextHop {
    let link = link.ok_or_else(|| Why::NoInterface(format!("with index {}", path.ifindex)));
    let hop = link.and_then(|link| {
        let source_mac = ready(link)?;
        let destination_mac = mac(neighbour(path, target.address), link, known)?;
        let source = target
            .source
            .or(path.source)
            .ok_or_else(|| Why::NoSource(link.name.clone()))?;
        let mtu = path.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Ok(hop(link, source_mac, destination_mac, mtu, source))
    });
    hop.map_or_else(NextHop::Unresolved, NextHop::Resolved)
}

/// The next hop of `target` by the static `via`; `preferred` is the link's own choice of a source.
pub(super) fn decide_via(
    target: &Target,
    via: &Via,
    link: Option<&Link>,
    preferred: Option<IpAddr>,
) -> NextHop {
    let link = link.ok_or_else(|| Why::NoInterface(via.interface.clone()));
    let hop = link.and_then(|link| {
        let source_mac = ready(link)?;
        let source = target
            .source
            .or(preferred)
            .ok_or_else(|| Why::NoSource(link.name.clone()))?;
        Ok(hop(link, source_mac, via.mac, link.mtu, source))
    });
    hop.map_or_else(NextHop::Unresolved, NextHop::Resolved)
}

/// The MAC of a link that can send; else why not.
pub(super) fn ready(link: &Link) -> Result<[u8; 6], Why> {
    match link.medium {
        Medium::Other => Err(Why::NotEthernet(link.name.clone())),
        Medium::Ethernet { .. } if !link.up => Err(Why::InterfaceDown(link.name.clone())),
        Medium::Ethernet { mac } => Ok(mac),
    }
}

fn mac(address: IpAddr, link: &Link, known: Option<Known>) -> Result<[u8; 6], Why> {
    let interface = link.name.clone();
    match known {
        Some(Known::Resolved(mac)) => Ok(mac),
        Some(Known::Failed) => Err(Why::NeighbourFailed { address, interface }),
        Some(Known::Full) => Err(Why::NeighbourTableFull { address }),
        Some(Known::Asked) | None => Err(Why::NoNeighbour {
            address,
            interface,
            ifindex: link.ifindex,
        }),
    }
}

fn hop(link: &Link, source_mac: [u8; 6], destination_mac: [u8; 6], mtu: u32, source: IpAddr) -> Hop {
    Hop {
        ifindex: link.ifindex,
        interface: link.name.clone(),
        destination_mac,
        source_mac,
        mtu,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn link(medium: Medium, up: bool) -> Link {
        Link {
            ifindex: 7,
            name: "eth0".into(),
            mtu: 1500,
            medium,
            up,
        }
    }

    fn path(gateway: Option<&str>, source: Option<&str>, mtu: Option<u32>) -> Path {
        Path {
            ifindex: 7,
            gateway: gateway.map(ip),
            source: source.map(ip),
            mtu,
        }
    }

    fn target(source: Option<&str>) -> Target {
        Target {
            address: ip("10.1.0.9"),
            via: None,
            source: source.map(ip),
        }
    }

    fn resolved(mtu: u32, source: &str) -> NextHop {
        NextHop::Resolved(Hop {
            ifindex: 7,
            interface: "eth0".into(),
            destination_mac: MAC,
            source_mac: OURS,
            mtu,
            source: ip(source),
        })
    }

    #[test]
    fn path_link_and_neighbour_make_the_hop() {
        let good = link(Medium::Ethernet { mac: OURS }, true);
        let down = link(Medium::Ethernet { mac: OURS }, false);
        let other = link(Medium::Other, false);
        let known = Some(Known::Resolved(MAC));
        let usual = path(Some("10.0.0.1"), Some("10.0.0.2"), None);
        let no = NextHop::Unresolved;
        let name = || "eth0".to_owned();
        let neighbour = ip("10.0.0.1");
        let cases = [
            (
                target(None),
                usual.clone(),
                Some(&good),
                known,
                resolved(1500, "10.0.0.2"),
            ),
            (
                target(None),
                path(None, Some("10.0.0.2"), Some(1400)),
                Some(&good),
                known,
                resolved(1400, "10.0.0.2"),
            ),
            (
                target(None),
                path(None, Some("10.0.0.2"), Some(9000)),
                Some(&good),
                known,
                resolved(1500, "10.0.0.2"),
            ),
            (
                target(Some("10.9.0.1")),
                usual.clone(),
                Some(&good),
                known,
                resolved(1500, "10.9.0.1"),
            ),
            (
                target(Some("10.9.0.1")),
                path(None, None, None),
                Some(&good),
                known,
                resolved(1500, "10.9.0.1"),
            ),
            (
                target(None),
                path(None, None, None),
                Some(&good),
                known,
                no(Why::NoSource(name())),
            ),
            (
                target(None),
                usual.clone(),
                None,
                known,
                no(Why::NoInterface("with index 7".into())),
            ),
            (
                target(None),
                usual.clone(),
                Some(&down),
                known,
                no(Why::InterfaceDown(name())),
            ),
            (
                target(None),
                usual.clone(),
                Some(&other),
                known,
                no(Why::NotEthernet(name())),
            ),
            (
                target(None),
                usual.clone(),
                Some(&good),
                None,
                no(Why::NoNeighbour {
                    address: neighbour,
                    interface: name(),
                    ifindex: good.ifindex,
                }),
            ),
            (
                target(None),
                path(None, None, None),
                Some(&good),
                Some(Known::Asked),
                no(Why::NoNeighbour {
                    address: ip("10.1.0.9"),
                    interface: name(),
                    ifindex: good.ifindex,
                }),
            ),
            (
                target(None),
                usual.clone(),
                Some(&good),
                Some(Known::Failed),
                no(Why::NeighbourFailed {
                    address: neighbour,
                    interface: name(),
                }),
            ),
            (
                target(None),
                usual,
                Some(&good),
                Some(Known::Full),
                no(Why::NeighbourTableFull { address: neighbour }),
            ),
        ];
        for (target, path, link, known, expected) in cases {
            assert_eq!(
                decide(&target, &path, link, known),
                expected,
                "{target:?} {path:?} {link:?} {known:?}"
            );
        }
    }

    #[test]
    fn a_static_via_asks_only_the_link() {
        let via = Via {
            interface: "eth0".into(),
            mac: MAC,
        };
        let good = link(Medium::Ethernet { mac: OURS }, true);
        let down = link(Medium::Ethernet { mac: OURS }, false);
        let own = Some(ip("10.0.0.2"));
        let no = NextHop::Unresolved;
        let cases = [
            (target(None), Some(&good), own, resolved(1500, "10.0.0.2")),
            (
                target(Some("10.9.0.1")),
                Some(&good),
                own,
                resolved(1500, "10.9.0.1"),
            ),
            (
                target(Some("10.9.0.1")),
                Some(&good),
                None,
                resolved(1500, "10.9.0.1"),
            ),
            (target(None), Some(&good), None, no(Why::NoSource("eth0".into()))),
            (
                target(None),
                Some(&down),
                own,
                no(Why::InterfaceDown("eth0".into())),
            ),
            (target(None), None, own, no(Why::NoInterface("eth0".into()))),
        ];
        for (target, link, preferred, expected) in cases {
            assert_eq!(
                decide_via(&target, &via, link, preferred),
                expected,
                "{target:?} {link:?}"
            );
        }
    }
}
