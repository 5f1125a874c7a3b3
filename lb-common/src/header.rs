//! Packet headers as typed values; offsets are fields, never numbers.

use crate::be::{Be16, Be32, wire};

/// EtherTypes.
pub mod ethertype {
    use crate::be::Be16;
    /// IPv4.
    pub const IPV4: Be16 = Be16::new(0x0800);
    /// IPv6.
    pub const IPV6: Be16 = Be16::new(0x86dd);
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: Be16 = Be16::new(0x8100);
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: Be16 = Be16::new(0x88a8);
}

/// IP protocol numbers.
pub mod proto {
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473).
    pub const IPV6: u8 = 41;
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTH: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;

    /// Whether an IPv6 next-header value is an extension header that hides the transport.
    #[inline(always)]
    pub const fn is_extension(next: u8) -> bool {
        matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTH | DESTINATION)
    }
}

wire! {
    /// An Ethernet header, 14 bytes.
    #[repr(C)]
    pub struct Ethernet {
        /// Destination.
        pub destination: [u8; 6],
        /// Source.
        pub source: [u8; 6],
        /// What follows.
        pub ethertype: Be16,
    }
}

wire! {
    /// The four bytes that a VLAN tag puts after an Ethernet header.
    #[repr(C)]
    pub struct Vlan {
        /// Priority and VLAN id.
        pub tci: Be16,
        /// What follows.
        pub ethertype: Be16,
    }
}

wire! {
    /// An IPv4 header without options, 20 bytes (RFC 791).
    #[repr(C)]
    pub struct Ipv4 {
        /// Version and header length in 32-bit words.
        pub version_ihl: u8,
        /// DSCP and ECN.
        pub tos: u8,
        /// Header and payload, bytes.
        pub total_len: Be16,
        /// Identification.
        pub id: Be16,
        /// Flags and fragment offset.
        pub frag: Be16,
        /// Time to live.
        pub ttl: u8,
        /// The payload's protocol.
        pub proto: u8,
        /// Header checksum, as it lies in memory.
        pub csum: u16,
        /// Source, as it lies in memory.
        pub src: u32,
        /// Destination, as it lies in memory.
        pub dst: u32,
    }
}

/// IPv4's *don't fragment*.
pub const IPV4_DF: Be16 = Be16::new(0x4000);
/// IPv4's *more fragments* and the fragment offset: not zero in every fragment.
pub const IPV4_FRAGMENT: Be16 = Be16::new(0x3fff);

impl Ipv4 {
    /// The version field.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length in bytes, options included: 0 to 60.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0xf) as usize * 4
    }

    /// Whether this is a fragment without the datagram's beginning.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.frag.get() & 0x1fff != 0
    }

    /// Whether this is a fragment of a datagram.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.frag.raw() & IPV4_FRAGMENT.raw() != 0
    }
}

wire! {
    /// An IPv6 header, 40 bytes (RFC 8200).
    #[repr(C)]
    pub struct Ipv6 {
        /// Version, traffic class, flow label.
        pub version_class_label: Be32,
        /// Everything after this header, bytes.
        pub payload_len: Be16,
        /// What follows.
        pub next: u8,
        /// Hop limit.
        pub hop_limit: u8,
        /// Source, four words as they lie in memory.
        pub src: [u32; 4],
        /// Destination, four words as they lie in memory.
        pub dst: [u32; 4],
    }
}

impl Ipv6 {
    /// The version field.
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        (self.version_class_label.get() >> 28) as u8
    }

    /// The traffic class: DSCP and ECN.
    #[inline(always)]
    pub const fn class(&self) -> u8 {
        (self.version_class_label.get() >> 20) as u8
    }
}

wire! {
    /// The first four bytes of TCP and of UDP.
    #[repr(C)]
    pub struct Ports {
        /// Source port.
        pub src: Be16,
        /// Destination port.
        pub dst: Be16,
    }
}

wire! {
    /// A UDP header, 8 bytes (RFC 768).
    #[repr(C)]
    pub struct Udp {
        /// Source port.
        pub src: Be16,
        /// Destination port.
        pub dst: Be16,
        /// Header and payload, bytes.
        pub len: Be16,
        /// Checksum as it lies in memory; 0: none.
        pub csum: u16,
    }
}

wire! {
    /// A TCP header without options, 20 bytes (RFC 9293 section 3.1).
    #[repr(C)]
    pub struct Tcp {
        /// The ports.
        pub ports: Ports,
        /// Sequence number.
        pub seq: Be32,
        /// Acknowledgement number.
        pub ack: Be32,
        /// Header length in 32-bit words, in the upper half.
        pub offset: u8,
        /// See [`crate::tcp`].
        pub flags: u8,
        /// Window.
        pub window: Be16,
        /// Checksum, as it lies in memory.
        pub csum: u16,
        /// Urgent pointer.
        pub urgent: Be16,
    }
}

/// Where the flags are in a TCP header, bytes.
pub const TCP_FLAGS: usize = core::mem::offset_of!(Tcp, flags);
/// The shortest TCP header, bytes.
pub const TCP_MIN: usize = 20;
/// A UDP header, bytes.
pub const UDP_MIN: usize = 8;

const _: () = assert!(size_of::<Ethernet>() == 14);
const _: () = assert!(size_of::<Vlan>() == 4);
const _: () = assert!(size_of::<Ipv4>() == 20);
const _: () = assert!(size_of::<Ipv6>() == 40);
const _: () = assert!(size_of::<Udp>() == UDP_MIN);
const _: () = assert!(size_of::<Tcp>() == TCP_MIN);
