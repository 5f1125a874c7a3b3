//! Backends: everything that encapsulating towards one needs, ready to copy.

use crate::addr::Addr;
use crate::be::{Be16, wire};

wire! {
    /// Value of the backend map: one cache line, written as a whole by the agent.
    #[derive(Default)]
    #[repr(C, align(8))]
    pub struct Entry {
        /// The next hop's link-layer address.
        pub destination_mac: [u8; 6],
        /// That of the interface that packets leave by.
        pub source_mac: [u8; 6],
        /// [`READY`], [`OUTER_V6`], [`DEAD`], [`GUE`], [`CHANCE`].
        pub flags: u16,
        /// Sum of the constant words of an outer IPv4 header, see [`crate::encap::base`]; 0 for IPv6.
        pub csum_base: u16,
        /// Outer source; the host bits under `entropy` are zero.
        pub src: Addr,
        /// Outer destination: the backend's address.
        pub dst: Addr,
        /// The interface that packets leave by.
        pub ifindex: u32,
        /// Host bits of the last word of `src` that the flow's hash fills, as they lie in memory.
        pub entropy: u32,
        /// The largest outer packet that the next hop takes, bytes from the outer IP header on.
        pub mtu: u16,
        /// The UDP port of [`GUE`], else 0.
        pub port: Be16,
        /// Zero.
        pub pad: [u8; 4],
    }
}

/// The entry is complete; without it a packet that was steered here stops.
pub const READY: u16 = 1;
/// The outer header is IPv6.
pub const OUTER_V6: u16 = 2;
/// The group's verdict: flow entries that name this backend count as missing, and nothing is sent to it.
pub const DEAD: u16 = 4;
/// UDP and GUE headers follow the outer IP header, see [`crate::gue`].
pub const GUE: u16 = 8;
/// With [`GUE`]: packets of TCP connections name another backend that may have them. Never without it.
pub const CHANCE: u16 = 16;

const _: () = assert!(size_of::<Entry>() == 64);
