//! Routes: the kernel's answers to `RTM_GETROUTE`, and the choice among the gateways of a multipath route.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteLwEnCapType, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType, RouteVia,
};

use super::hop::Why;

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
