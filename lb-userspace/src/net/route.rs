//! Routes: the kernel's answers to `RTM_GETROUTE`, and the choice among the gateways of a multipath route.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType, RouteVia,
};

use super::why::Why;

/// Where the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Out of this link.
    pub(super) ifindex: u32,
    /// To this router, maybe of the other address family; `None`: the target itself is on the link.
    pub(super) gateway: Option<IpAddr>,
    /// From this address, where the route or the kernel names one.
    pub(super) source: Option<IpAddr>,
    /// The route's MTU, configured or learnt by path MTU discovery, in bytes.
    pub(super) mtu: Option<u32>,
}

impl Path {
    /// Whether packets take the same way, whatever source and MTU.
    pub(super) fn same_way(&self, other: &Self) -> bool {
        self.ifindex == other.ifindex && self.gateway == other.gateway
    }
}

/// The path in the answer to a route lookup.
///
/// # Errors
/// Why packets to that address can't be sent to another host.
pub(super) fn read(reply: &RouteMessage) -> Result<Path, Why> {
    match reply.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Err(Why::Local),
        RouteType::Unreachable => return Err(Why::Unreachable),
        RouteType::Prohibit => return Err(Why::Prohibited),
        RouteType::BlackHole => return Err(Why::Blackhole),
        RouteType::Broadcast | RouteType::Multicast => return Err(Why::NotUnicast),
        _ => return Err(Why::NoRoute),
    }
    let facts = Facts::of(&reply.attributes);
    if facts.wrapped {
        return Err(Why::RouteWraps);
    }
    Ok(Path {
        ifindex: facts.ifindex.ok_or(Why::NoRoute)?,
        gateway: facts.gateway,
        source: facts.source,
        mtu: facts.mtu,
    })
}

/// Why the kernel refused a route lookup with `errno`.
pub(super) fn refusal(errno: i32) -> Why {
    match errno {
        libc::ENETUNREACH | libc::ESRCH => Why::NoRoute,
        libc::EHOSTUNREACH => Why::Unreachable,
        libc::EACCES => Why::Prohibited,
        libc::EINVAL => Why::Blackhole,
        other => Why::LookupRefused(other),
    }
}

/// All living ways of the route in `reply` (a lookup with `RTM_F_FIB_MATCH`).
pub(super) fn ways(reply: &RouteMessage) -> Vec<Path> {
    if reply.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let whole = Facts::of(&reply.attributes);
    let mut ways = Vec::new();
    if let Some(ifindex) = whole
        .ifindex
        .filter(|_| !whole.wrapped && !dead(reply.header.flags))
    {
        let Facts {
            gateway, source, mtu, ..
        } = whole;
        ways.push(Path {
            ifindex,
            gateway,
            source,
            mtu,
        });
    }
    let hops = reply.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    for hop in hops.flatten() {
        let facts = Facts::of(&hop.attributes);
        let dead = hop
            .flags
            .intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown);
        let way = Path {
            ifindex: hop.interface_index,
            gateway: facts.gateway,
            source: whole.source,
            mtu: whole.mtu,
        };
        // IPv6 names the first way twice: at the top and in the list.
        if !dead && !facts.wrapped && !ways.iter().any(|other| other.same_way(&way)) {
            ways.push(way);
        }
    }
    ways
}

/// Whether more than the kernel's pick must be known to choose: the present way differs, or the pick is broken.
pub(super) fn must_choose(previous: Option<&Path>, pick: &Path, broken: impl Fn(&Path) -> bool) -> bool {
    previous.is_some_and(|previous| !previous.same_way(pick)) || broken(pick)
}

/// Which way to take: the previous one while the route still has it, else the kernel's pick, else any other of the
/// route; one that is not broken goes before one that is.
///
/// The kernel's pick is a hash that moves when a gateway joins the route, and moving is not free here. `is_ours` says
/// whether an address is still one of this host's.
pub(super) fn choose(
    previous: Option<&Path>,
    pick: Path,
    ways: &[Path],
    broken: impl Fn(&Path) -> bool,
    is_ours: impl Fn(IpAddr) -> bool,
) -> Path {
    let present = previous.and_then(|previous| {
        let way = ways.iter().find(|way| way.same_way(previous))?;
        let source = way
            .source
            .or(previous.source.filter(|source| is_ours(*source)))
            .or(pick.source);
        Some(Path {
            source,
            ..way.clone()
        })
    });
    if let Some(present) = present.filter(|present| !present.same_way(&pick) && !broken(present)) {
        return present;
    }
    if !broken(&pick) {
        return pick;
    }
    match ways.iter().find(|way| !broken(way)) {
        Some(way) => Path {
            source: way.source.or(pick.source),
            ..way.clone()
        },
        None => pick,
    }
}

/// Whether a changed route to `destination`/`length` may change the way to `address`.
pub(super) fn covers(destination: Option<IpAddr>, length: u8, address: IpAddr) -> bool {
    match destination {
        None => true,
        Some(destination) => {
            ipnet::IpNet::new(destination, length).map_or(true, |network| network.contains(&address))
        }
    }
}

/// The destination of a route message; `None`: the default route.
pub(super) fn destination(message: &RouteMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    })
}

fn dead(flags: RouteFlags) -> bool {
    flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown)
}

#[derive(Default)]
struct Facts {
    ifindex: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    mtu: Option<u32>,
    /// The route itself encapsulates (`ip route … encap`).
    wrapped: bool,
}

impl Facts {
    fn of(attributes: &[RouteAttribute]) -> Self {
        let mut facts = Self::default();
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(value) => facts.ifindex = Some(*value),
                RouteAttribute::Gateway(address) => facts.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => facts.gateway = Some((*address).into()),
                RouteAttribute::Via(RouteVia::Inet6(address)) => facts.gateway = Some((*address).into()),
                RouteAttribute::PrefSource(address) => facts.source = ip(address),
                RouteAttribute::EncapType(kind) => facts.wrapped = *kind != RouteLwEnCapType::None,
                RouteAttribute::Metrics(metrics) => facts.mtu = mtu(metrics),
                _ => {}
            }
        }
        facts
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(value) if *value > 0 => Some(*value),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
    .filter(|address: &IpAddr| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn reply(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn way(ifindex: u32, gateway: &str) -> Path {
        Path {
            ifindex,
            gateway: Some(ip(gateway)),
            source: None,
            mtu: None,
        }
    }

    #[test]
    fn only_unicast_routes_have_a_path() {
        let cases = [
            (RouteType::Local, Why::Local),
            (RouteType::Anycast, Why::Local),
            (RouteType::Unreachable, Why::Unreachable),
            (RouteType::Prohibit, Why::Prohibited),
            (RouteType::BlackHole, Why::Blackhole),
            (RouteType::Broadcast, Why::NotUnicast),
            (RouteType::Multicast, Why::NotUnicast),
            (RouteType::Throw, Why::NoRoute),
        ];
        for (kind, why) in cases {
            assert_eq!(
                read(&reply(kind, vec![RouteAttribute::Oif(2)])),
                Err(why),
                "{kind:?}"
            );
        }
        let wraps = vec![
            RouteAttribute::Oif(2),
            RouteAttribute::EncapType(RouteLwEnCapType::Ip),
        ];
        assert_eq!(read(&reply(RouteType::Unicast, wraps)), Err(Why::RouteWraps));
        assert_eq!(read(&reply(RouteType::Unicast, vec![])), Err(Why::NoRoute));
    }

    #[test]
    fn a_gateway_may_be_of_either_family() {
        let source = RouteAttribute::PrefSource(ip("10.0.0.2").into());
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Window(9), RouteMetric::Mtu(1400)]);
        let cases = [
            (
                Some(RouteAttribute::Gateway(ip("10.0.0.1").into())),
                Some(ip("10.0.0.1")),
            ),
            (
                Some(RouteAttribute::Via(RouteVia::Inet6(
                    "fe80::1".parse().expect("an address"),
                ))),
                Some(ip("fe80::1")),
            ),
            (None, None),
        ];
        for (attribute, gateway) in cases {
            let mut attributes = vec![RouteAttribute::Oif(2), source.clone(), metrics.clone()];
            attributes.extend(attribute);
            let path = Path {
                ifindex: 2,
                gateway,
                source: Some(ip("10.0.0.2")),
                mtu: Some(1400),
            };
            assert_eq!(read(&reply(RouteType::Unicast, attributes)), Ok(path));
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let cases = [
            (libc::ENETUNREACH, Why::NoRoute),
            (libc::EHOSTUNREACH, Why::Unreachable),
            (libc::EACCES, Why::Prohibited),
            (libc::EINVAL, Why::Blackhole),
            (libc::EOPNOTSUPP, Why::LookupRefused(libc::EOPNOTSUPP)),
        ];
        for (errno, why) in cases {
            assert_eq!(refusal(errno), why);
        }
    }

    fn next_hop(ifindex: u32, gateway: &str, flags: RouteNextHopFlags) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = ifindex;
        hop.flags = flags;
        hop.attributes = vec![RouteAttribute::Gateway(ip(gateway).into())];
        hop
    }

    #[test]
    fn ways_are_the_living_gateways_once_each() {
        let none = RouteNextHopFlags::empty();
        let hops = vec![
            next_hop(2, "10.0.0.1", none),
            next_hop(3, "10.0.1.1", RouteNextHopFlags::Linkdown),
            next_hop(4, "10.0.2.1", RouteNextHopFlags::Dead),
            next_hop(5, "10.0.3.1", none),
        ];
        let list = vec![RouteAttribute::MultiPath(hops.clone())];
        let expected = vec![way(2, "10.0.0.1"), way(5, "10.0.3.1")];
        assert_eq!(ways(&reply(RouteType::Unicast, list)), expected);
        let with_first = vec![
            RouteAttribute::Oif(2),
            RouteAttribute::Gateway(ip("10.0.0.1").into()),
            RouteAttribute::MultiPath(hops),
        ];
        assert_eq!(ways(&reply(RouteType::Unicast, with_first)), expected);
        assert_eq!(
            ways(&reply(RouteType::Local, vec![RouteAttribute::Oif(1)])),
            vec![]
        );
    }

    #[test]
    fn a_way_is_kept_while_it_is_one_of_the_routes_and_answers() {
        let (a, b, c) = (way(2, "10.0.0.1"), way(3, "10.0.1.1"), way(4, "10.0.2.1"));
        let all = [a.clone(), b.clone(), c.clone()];
        // Present way, the kernel's pick, the route's ways, the broken ones, the choice.
        type Case<'a> = (Option<&'a Path>, &'a Path, &'a [Path], &'a [&'a Path], &'a Path);
        let cases: &[Case<'_>] = &[
            (None, &a, &all, &[], &a),
            (Some(&a), &a, &all, &[], &a),
            (Some(&b), &a, &all, &[], &b),
            (Some(&b), &a, &all, &[&a], &b),
            (Some(&b), &a, &all, &[&b], &a),
            (Some(&b), &a, &all, &[&a, &b], &c),
            (Some(&a), &a, &all, &[&a], &b),
            (Some(&b), &a, &all, &[&a, &b, &c], &a),
            (Some(&b), &a, &[a.clone(), c.clone()], &[], &a),
            (Some(&b), &a, &[], &[], &a),
            (None, &a, &all, &[&a], &b),
        ];
        for (present, pick, ways, broken, choice) in cases {
            let is_broken = |path: &Path| broken.contains(&path);
            let chosen = choose(*present, (*pick).clone(), ways, is_broken, |_| true);
            assert_eq!(chosen, **choice, "{present:?} {pick:?} {ways:?} {broken:?}");
            if !must_choose(*present, pick, is_broken) {
                assert_eq!(
                    chosen, **pick,
                    "the kernel's pick is the choice where no more is asked"
                );
            }
        }
    }

    #[test]
    fn a_kept_way_keeps_its_source_while_that_is_ours() {
        let sourced = |path: Path, source: &str| Path {
            source: Some(ip(source)),
            ..path
        };
        let present = sourced(way(3, "10.0.1.1"), "10.0.1.2");
        let pick = sourced(way(2, "10.0.0.1"), "10.0.0.2");
        let ways = [way(2, "10.0.0.1"), way(3, "10.0.1.1")];
        let source = |ways: &[Path], ours: bool| {
            choose(Some(&present), pick.clone(), ways, |_| false, |_| ours)
                .source
                .expect("a source")
        };
        assert_eq!(source(&ways, true), ip("10.0.1.2"));
        assert_eq!(source(&ways, false), ip("10.0.0.2"));
        let named = ways.map(|way| sourced(way, "10.7.0.1"));
        assert_eq!(source(&named, true), ip("10.7.0.1"));
    }

    #[test]
    fn a_route_covers_its_prefix() {
        let cases = [
            (None, 0, "10.0.0.1", true),
            (Some("10.0.0.0"), 8, "10.1.2.3", true),
            (Some("10.0.0.0"), 16, "10.1.2.3", false),
            (Some("2001:db8::"), 32, "2001:db8::1", true),
            (Some("2001:db8::"), 32, "10.1.2.3", false),
            (Some("10.0.0.0"), 99, "192.0.2.1", true),
        ];
        for (destination, length, address, expected) in cases {
            assert_eq!(
                covers(destination.map(ip), length, ip(address)),
                expected,
                "{destination:?}/{length}"
            );
        }
    }
}
