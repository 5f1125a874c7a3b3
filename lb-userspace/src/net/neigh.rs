//! Neighbours: facts from `RTM_NEWNEIGH`, and what is remembered of them from pass to pass.

use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

/// Which neighbour: the link and the address on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The link.
    pub(super) ifindex: u32,
    /// The gateway, or the target itself where it is on the link.
    pub(super) address: IpAddr,
}

/// The kernel's entry for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// PERMANENT, NOARP, REACHABLE, STALE, DELAY or PROBE, with an address: the kernel would send to it.
    Usable([u8; 6]),
    /// NONE or INCOMPLETE: nobody has answered yet.
    Asking,
    /// FAILED: asked several times, no answer.
    Failed,
}

/// What we hold about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The kernel was asked to find it; no answer yet.
    Asked,
    /// The kernel's neighbour table had no room for it.
    Full,
    /// Its MAC, as of the last usable entry.
    Resolved([u8; 6]),
    /// It did not answer; it may come back.
    Failed,
}

/// What we hold after having seen the kernel's `entry` (`None`: there is none).
///
/// An entry that is gone or being asked for anew changes nothing: the kernel collects entries that no packet of its
/// own uses, and moving slots because of that would cost connections. Only FAILED takes a MAC away. A neighbour that
/// we see for the first time is `Asked` whatever old verdict the kernel has on it.
pub(super) fn step(known: Option<Known>, entry: Option<Entry>) -> Known {
    match (known, entry) {
        (_, Some(Entry::Usable(mac))) => Known::Resolved(mac),
        (None, _) | (Some(Known::Full), Some(Entry::Asking)) => Known::Asked,
        (Some(_), Some(Entry::Failed)) => Known::Failed,
        (Some(known), None | Some(Entry::Asking)) => known,
    }
}

/// The facts of a neighbour message; `None` if it is not about an IP neighbour.
pub(super) fn read(message: &NeighbourMessage) -> Option<(Key, Entry)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(a) => mac = <[u8; 6]>::try_from(a.as_slice()).ok(),
            _ => {}
        }
    }
    let key = Key {
        ifindex: message.header.ifindex,
        address: address?,
    };
    let usable = matches!(
        message.header.state,
        NeighbourState::Permanent
            | NeighbourState::Noarp
            | NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    );
    let entry = match mac.filter(|mac| usable && *mac != [0; 6]) {
        Some(mac) => Entry::Usable(mac),
        None if message.header.state == NeighbourState::Failed => Entry::Failed,
        None => Entry::Asking,
    };
    Some((key, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    #[test]
    fn a_mac_is_lost_only_to_failed() {
        use Entry::{Asking, Failed as Dead, Usable};
        use Known::{Asked, Failed, Full, Resolved};
        let cases = [
            (None, None, Asked),
            (None, Some(Asking), Asked),
            (None, Some(Dead), Asked),
            (None, Some(Usable(A)), Resolved(A)),
            (Some(Asked), None, Asked),
            (Some(Asked), Some(Asking), Asked),
            (Some(Asked), Some(Dead), Failed),
            (Some(Asked), Some(Usable(A)), Resolved(A)),
            (Some(Full), None, Full),
            (Some(Full), Some(Asking), Asked),
            (Some(Full), Some(Dead), Failed),
            (Some(Full), Some(Usable(A)), Resolved(A)),
            (Some(Resolved(A)), None, Resolved(A)),
            (Some(Resolved(A)), Some(Asking), Resolved(A)),
            (Some(Resolved(A)), Some(Dead), Failed),
            (Some(Resolved(A)), Some(Usable(B)), Resolved(B)),
            (Some(Failed), None, Failed),
            (Some(Failed), Some(Asking), Failed),
            (Some(Failed), Some(Dead), Failed),
            (Some(Failed), Some(Usable(A)), Resolved(A)),
        ];
        for (known, entry, after) in cases {
            assert_eq!(step(known, entry), after, "{known:?} sees {entry:?}");
        }
    }

    #[test]
    fn every_state_has_its_entry() {
        use NeighbourState as S;
        let cases = [
            (S::Permanent, Some(A), Entry::Usable(A)),
            (S::Noarp, Some(A), Entry::Usable(A)),
            (S::Reachable, Some(A), Entry::Usable(A)),
            (S::Stale, Some(A), Entry::Usable(A)),
            (S::Delay, Some(A), Entry::Usable(A)),
            (S::Probe, Some(A), Entry::Usable(A)),
            (S::Probe, None, Entry::Asking),
            (S::Noarp, Some([0; 6]), Entry::Asking),
            (S::Incomplete, Some(A), Entry::Asking),
            (S::None, None, Entry::Asking),
            (S::Failed, Some(A), Entry::Failed),
            (S::Failed, None, Entry::Failed),
        ];
        for (state, mac, entry) in cases {
            let address = IpAddr::from([10, 0, 0, 1]);
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 3;
            message.header.state = state;
            message.attributes = vec![NeighbourAttribute::Destination(address.into())];
            message
                .attributes
                .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
            assert_eq!(
                read(&message),
                Some((Key { ifindex: 3, address }, entry)),
                "{state} {mac:?}"
            );
        }
        assert_eq!(read(&NeighbourMessage::default()), None);
    }
}
