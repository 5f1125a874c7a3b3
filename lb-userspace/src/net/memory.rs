//! What one pass remembers for the next, and which of the kernel's events can change its result.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteFlags, RouteMessage};

use super::hop;
use super::link::Link;
use super::neigh::{self, Entry, Key, Known};
use super::route::{self, Path};

/// The state between passes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// All links, by index.
    pub(super) links: HashMap<u32, Link>,
    /// The way taken to each target's address.
    pub(super) paths: HashMap<IpAddr, Path>,
    /// What we hold about the neighbours on these ways.
    pub(super) neighbours: HashMap<Key, Known>,
    /// Targets' addresses that need a route, whether they have one or not.
    pub(super) watched: HashSet<IpAddr>,
}

impl Memory {
    /// Takes in the links. Neighbours on a link that can't send are forgotten: who is there when it comes back, the
    /// kernel has to find out.
    pub(super) fn see_links(&mut self, links: HashMap<u32, Link>) {
        self.links = links;
        let links = &self.links;
        self.neighbours.retain(|key, _| {
            links
                .get(&key.ifindex)
                .is_some_and(|link| hop::ready(link).is_ok())
        });
    }

    /// Takes in the kernel's entries for the neighbours that we hold. Returns whether anything changed.
    pub(super) fn see_neighbours(&mut self, entries: &HashMap<Key, Entry>) -> bool {
        let mut changed = false;
        for (key, known) in &mut self.neighbours {
            let after = neigh::step(Some(*known), entries.get(key).copied());
            changed |= after != *known;
            *known = after;
        }
        changed
    }

    /// Whether the neighbour on this way does not answer, or the link can't send.
    pub(super) fn is_broken(&self, path: &Path, target: IpAddr) -> bool {
        let ready = self
            .links
            .get(&path.ifindex)
            .is_some_and(|link| hop::ready(link).is_ok());
        !ready || self.neighbours.get(&key(path, target)) == Some(&Known::Failed)
    }

    /// Whether the kernel's message can change the result of a pass.
    pub(super) fn matters(&self, message: &RouteNetlinkMessage) -> bool {
        use RouteNetlinkMessage as M;
        match message {
            M::NewLink(message) => self.link_differs(message),
            M::NewRoute(message) | M::DelRoute(message) => self.route_matters(message),
            M::NewNeighbour(message) => self.neighbour_differs(message),
            // It is asked for again.
            M::DelNeighbour(message) => {
                neigh::read(message).is_some_and(|(key, _)| self.neighbours.contains_key(&key))
            }
            M::DelLink(_) | M::NewAddress(_) | M::DelAddress(_) | M::NewRule(_) | M::DelRule(_) => true,
            _ => false,
        }
    }

    fn link_differs(&self, message: &LinkMessage) -> bool {
        self.links.get(&message.header.index) != Link::read(message).as_ref()
    }

    /// A host with a full table sees hundreds of route changes a second; few are about backends.
    fn route_matters(&self, message: &RouteMessage) -> bool {
        let destination = route::destination(message);
        let length = message.header.destination_prefix_length;
        !message.header.flags.contains(RouteFlags::Cloned)
            && self
                .watched
                .iter()
                .any(|address| route::covers(destination, length, *address))
    }

    fn neighbour_differs(&self, message: &NeighbourMessage) -> bool {
        neigh::read(message).is_some_and(|(key, entry)| {
            self.neighbours
                .get(&key)
                .is_some_and(|known| neigh::step(Some(*known), Some(entry)) != *known)
        })
    }
}

/// The neighbour that `path` to `target` leads to.
pub(super) fn key(path: &Path, target: IpAddr) -> Key {
    Key {
        ifindex: path.ifindex,
        address: hop::neighbour(path, target),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressMessage;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};
    use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourState};
    use rtnetlink::packet_route::route::RouteAttribute;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn gateway() -> Key {
        Key {
            ifindex: 2,
            address: [10, 0, 0, 1].into(),
        }
    }

    fn link(mtu: u32, up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::LowerUp | LinkFlags::Running;
        message.header.flags.set(LinkFlags::Up, up);
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(vec![2; 6]),
        ];
        message
    }

    fn links(up: bool) -> HashMap<u32, Link> {
        HashMap::from([(2, Link::read(&link(1500, up)).expect("a link"))])
    }

    fn memory() -> Memory {
        let mut memory = Memory {
            watched: HashSet::from([[10, 1, 0, 9].into()]),
            ..Memory::default()
        };
        memory.neighbours.insert(gateway(), Known::Resolved(MAC));
        memory.see_links(links(true));
        memory
    }

    fn neighbour(address: [u8; 4], state: NeighbourState, mac: [u8; 6]) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(IpAddr::from(address).into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        message
    }

    fn route(destination: [u8; 4], flags: RouteFlags) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = 16;
        message.header.flags = flags;
        message.attributes = vec![RouteAttribute::Destination(IpAddr::from(destination).into())];
        message
    }

    #[test]
    fn only_what_can_change_a_next_hop_matters() {
        use NeighbourState::{Delay, Failed, Incomplete, Reachable};
        use RouteNetlinkMessage as M;
        let none = RouteFlags::empty();
        let cases = [
            (M::NewLink(link(1500, true)), false),
            (M::NewLink(link(1400, true)), true),
            (M::NewLink(link(1500, false)), true),
            (M::DelLink(link(1500, true)), true),
            (M::NewAddress(AddressMessage::default()), true),
            (M::NewRoute(route([10, 1, 0, 0], none)), true),
            (M::DelRoute(route([10, 1, 0, 0], none)), true),
            (M::NewRoute(route([10, 1, 0, 0], RouteFlags::Cloned)), false),
            (M::NewRoute(route([10, 2, 0, 0], none)), false),
            (M::NewRoute(RouteMessage::default()), true),
            (M::NewNeighbour(neighbour([10, 0, 0, 1], Delay, MAC)), false),
            (M::NewNeighbour(neighbour([10, 0, 0, 1], Incomplete, MAC)), false),
            (M::NewNeighbour(neighbour([10, 0, 0, 1], Reachable, [2; 6])), true),
            (M::NewNeighbour(neighbour([10, 0, 0, 1], Failed, MAC)), true),
            (M::DelNeighbour(neighbour([10, 0, 0, 1], Reachable, MAC)), true),
            (M::NewNeighbour(neighbour([10, 0, 0, 7], Failed, MAC)), false),
            (M::DelNeighbour(neighbour([10, 0, 0, 7], Failed, MAC)), false),
        ];
        let memory = memory();
        for (message, expected) in cases {
            assert_eq!(memory.matters(&message), expected, "{message:?}");
        }
    }

    #[test]
    fn neighbours_go_with_their_link() {
        for (after, kept) in [
            (links(true), true),
            (links(false), false),
            (HashMap::new(), false),
        ] {
            let mut memory = memory();
            memory.see_links(after);
            assert_eq!(memory.neighbours.contains_key(&gateway()), kept);
        }
    }

    #[test]
    fn a_failed_neighbour_or_a_dead_link_breaks_a_path() {
        let mut memory = memory();
        let target = [10, 1, 0, 9].into();
        let path = Path {
            ifindex: 2,
            gateway: Some(gateway().address),
            source: None,
            mtu: None,
        };
        assert!(!memory.is_broken(&path, target));
        assert!(
            !memory.see_neighbours(&HashMap::new()),
            "an absent entry changes nothing"
        );
        assert!(memory.see_neighbours(&HashMap::from([(gateway(), Entry::Failed)])));
        assert!(memory.is_broken(&path, target));
        let direct = Path {
            gateway: None,
            ..path
        };
        assert!(!memory.is_broken(&direct, target));
        memory.see_links(links(false));
        assert!(memory.is_broken(&direct, target));
    }
}
