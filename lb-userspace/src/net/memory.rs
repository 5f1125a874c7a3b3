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
