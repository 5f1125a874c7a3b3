//! The link layer: Ethernet with at most one VLAN tag.

use lb_common::be::Be16;
use lb_common::header::{Ethernet, Vlan, ethertype};

use crate::packet::Packet;

/// The link layer of a frame.
#[derive(Clone, Copy)]
pub struct Link {
    /// Where the IP header begins: 14, or 18 with a tag.
    pub len: usize,
    /// The tag's priority and VLAN id.
    pub tag: Option<Be16>,
}

impl Link {
    /// The link layer and the EtherType behind it; `None` where the frame is shorter than that.
    #[inline(always)]
    pub fn read(packet: &Packet) -> Option<(Self, Be16)> {
        let ethernet: Ethernet = packet.read(0)?;
        if ethernet.ethertype != ethertype::VLAN {
            return Some((
                Self {
                    len: size_of::<Ethernet>(),
                    tag: None,
                },
                ethernet.ethertype,
            ));
        }
        let vlan: Vlan = packet.read(size_of::<Ethernet>())?;
        let len = size_of::<Ethernet>() + size_of::<Vlan>();
        Some((
            Self {
                len,
                tag: Some(vlan.tci),
            },
            vlan.ethertype,
        ))
    }

    /// Writes a link layer like this one to the head of `packet`, with other addresses and another EtherType.
    #[inline(always)]
    pub fn write(self, packet: &mut Packet, destination: [u8; 6], source: [u8; 6], kind: Be16) -> Option<()> {
        match self.tag {
            None => packet.write(
                0,
                Ethernet {
                    destination,
                    source,
                    ethertype: kind,
                },
            ),
            Some(tci) => {
                packet.write(
                    0,
                    Ethernet {
                        destination,
                        source,
                        ethertype: ethertype::VLAN,
                    },
                )?;
                packet.write(size_of::<Ethernet>(), Vlan { tci, ethertype: kind })
            }
        }
    }
}
