//! Links and addresses: facts from `RTM_NEWLINK` and `RTM_NEWADDR`.

use std::net::IpAddr;

use lb_common::stats::Counter;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

/// What a link is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Frames with an Ethernet header (`ARPHRD_ETHER`), a unicast MAC of its own.
    Ethernet {
        /// The link's own address.
        mac: [u8; 6],
    },
    /// Anything else: loopback, tun, ppp, IPIP.
    Other,
}

/// What the kernel says about a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index; a link that is made anew under the same name has another.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The largest IP packet that it sends, in bytes.
    pub mtu: u32,
    /// Ethernet or not.
    pub medium: Medium,
    /// Administratively up, with a carrier, and not waiting for anything (802.1X, bonding).
    pub up: bool,
}

impl Link {
    /// The facts of a link message; `None` if it lacks a name or an MTU.
    pub(super) fn read(message: &LinkMessage) -> Option<Self> {
        let (mut name, mut mtu, mut mac) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(value) => name = Some(value.clone()),
                LinkAttribute::Mtu(value) => mtu = Some(*value),
                LinkAttribute::Address(value) => mac = <[u8; 6]>::try_from(value.as_slice()).ok(),
                _ => {}
            }
        }
        let ether = message.header.link_layer_type == LinkLayerType::Ether;
        let medium = match mac {
            Some(mac) if ether => Medium::Ethernet { mac },
            _ => Medium::Other,
        };
        // Running alone lags behind a lost carrier by up to a second on a physical link.
        let ready = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
        let up = message.header.flags.contains(ready);
        Some(Self {
            ifindex: message.header.index,
            name: name?,
            mtu: mtu?,
            medium,
            up,
        })
    }
}

/// What the kernel has counted of a link, over all of its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The largest IP packet that it sends, in bytes.
    pub mtu: u32,
    /// Received.
    pub received: Counter,
    /// Received and dropped, for want of room or of a taker.
    pub received_dropped: u64,
    /// Sent.
    pub sent: Counter,
    /// To be sent and dropped.
    pub sent_dropped: u64,
}

impl Traffic {
    /// The counts of a link message, with the link's index; `None` if it lacks them.
    pub(super) fn read(message: &LinkMessage) -> Option<(u32, Self)> {
        let (mut mtu, mut counts) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(value) => mtu = Some(*value),
                LinkAttribute::Stats64(value) => counts = Some(*value),
                _ => {}
            }
        }
        let counts = counts?;
        let traffic = Self {
            mtu: mtu?,
            received: Counter {
                packets: counts.rx_packets,
                bytes: counts.rx_bytes,
            },
            received_dropped: counts.rx_dropped + counts.rx_missed_errors,
            sent: Counter {
                packets: counts.tx_packets,
                bytes: counts.tx_bytes,
            },
            sent_dropped: counts.tx_dropped,
        };
        Some((message.header.index, traffic))
    }
}

/// An address that packets may have as their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The link that has it.
    pub(super) ifindex: u32,
    /// The address itself, without the prefix length.
    pub(super) address: IpAddr,
    /// Usable as a default source: global scope, not deprecated, duplicate address detection passed.
    pub(super) preferred: bool,
}

impl Address {
    /// The facts of an address message; `None` if it has no address.
    pub(super) fn read(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(value) => local = Some(*value),
                AddressAttribute::Address(value) => address = Some(*value),
                AddressAttribute::Flags(value) => flags = *value,
                _ => {}
            }
        }
        let unfit = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
        let preferred = message.header.scope == AddressScope::Universe && !flags.intersects(unfit);
        // On a point-to-point link IFA_ADDRESS is the peer's, IFA_LOCAL ours.
        Some(Self {
            ifindex: message.header.index,
            address: local.or(address)?,
            preferred,
        })
    }
}

/// The first preferred address of `like`'s family on the link.
pub(super) fn source(addresses: &[Address], ifindex: u32, like: IpAddr) -> Option<IpAddr> {
    addresses
        .iter()
        .find(|a| a.ifindex == ifindex && a.preferred && a.address.is_ipv4() == like.is_ipv4())
        .map(|a| a.address)
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressHeaderFlags;

    use super::*;

    fn link(flags: LinkFlags, kind: LinkLayerType, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 4;
        message.header.flags = flags;
        message.header.link_layer_type = kind;
        message.attributes = attributes;
        message
    }

    fn attributes(mac: &[u8]) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(mac.to_vec()),
        ]
    }

    #[test]
    fn a_link_is_up_only_with_all_three_flags() {
        let all = LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running;
        for (flags, up) in [
            (all, true),
            (all - LinkFlags::Up, false),
            (all - LinkFlags::LowerUp, false),
            (all - LinkFlags::Running, false),
        ] {
            let link = Link::read(&link(flags, LinkLayerType::Ether, attributes(&[2; 6]))).expect("a link");
            assert_eq!(link.up, up, "{flags:?}");
        }
    }

    #[test]
    fn only_ethernet_has_a_mac() {
        let cases = [
            (LinkLayerType::Ether, vec![2; 6], Medium::Ethernet { mac: [2; 6] }),
            (LinkLayerType::Loopback, vec![0; 6], Medium::Other),
            (LinkLayerType::None, vec![], Medium::Other),
            (LinkLayerType::Ether, vec![2; 20], Medium::Other),
        ];
        for (kind, mac, medium) in cases {
            let link = Link::read(&link(LinkFlags::Up, kind, attributes(&mac))).expect("a link");
            assert_eq!(link.medium, medium, "{kind:?}");
        }
        assert_eq!(
            Link::read(&link(LinkFlags::Up, LinkLayerType::Ether, vec![])),
            None
        );
    }

    fn address(scope: AddressScope, flags: AddressHeaderFlags, text: &str) -> Address {
        let mut message = AddressMessage::default();
        message.header.index = 4;
        message.header.scope = scope;
        message.header.flags = flags;
        message.attributes = vec![AddressAttribute::Address(text.parse().expect("an address"))];
        Address::read(&message).expect("an address")
    }

    #[test]
    fn the_source_is_the_first_global_address_of_the_family() {
        let none = AddressHeaderFlags::empty();
        let addresses = [
            address(AddressScope::Link, none, "fe80::1"),
            address(
                AddressScope::Universe,
                AddressHeaderFlags::Tentative,
                "2001:db8::1",
            ),
            address(
                AddressScope::Universe,
                AddressHeaderFlags::Deprecated,
                "2001:db8::2",
            ),
            address(AddressScope::Universe, none, "10.0.0.1"),
            address(AddressScope::Universe, none, "2001:db8::3"),
            address(AddressScope::Universe, none, "2001:db8::4"),
        ];
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(source(&addresses, 4, ip("::1")), Some(ip("2001:db8::3")));
        assert_eq!(source(&addresses, 4, ip("1.1.1.1")), Some(ip("10.0.0.1")));
        assert_eq!(source(&addresses, 5, ip("1.1.1.1")), None);
    }

    #[test]
    fn on_a_point_to_point_link_the_local_address_counts() {
        let mut message = AddressMessage::default();
        let (ours, peer) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        message.attributes = vec![AddressAttribute::Address(peer), AddressAttribute::Local(ours)];
        assert_eq!(Address::read(&message).expect("an address").address, ours);
    }
}
