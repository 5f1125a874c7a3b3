//! What the bench tells its wrapper program: the frame to restore, the flows to vary, the program to call.

use crate::be::{Be16, wire};

/// The wrapper: restores the frame, then tail-calls the program that is measured.
pub const WRAP: &str = "bench_wrap";
/// A program that only returns `XDP_TX`: with the wrapper around it, the cost of measuring.
pub const FLOOR: &str = "bench_floor";
/// The frozen yardstick.
pub const REFERENCE: &str = "bench_reference";

/// PERCPU_ARRAY of one [`Case`].
pub const CASE_MAP: &str = "bench_case";
/// PROG_ARRAY of what can be called.
pub const PROGRAM_MAP: &str = "bench_programs";
/// Entries of [`PROGRAM_MAP`].
pub const PROGRAMS: u32 = 4;

wire! {
    /// What the wrapper does to every frame.
    #[repr(C)]
    pub struct Case {
        /// State of the generator that picks flows.
        pub random: u64,
        /// Index of the program to call.
        pub program: u32,
        /// Bytes of the frame before any program has touched it.
        pub frame_len: u32,
        /// Flows less one; the number of flows is a power of two, at most 2^30.
        pub mask: u32,
        /// Last word of the first client's address, as a number.
        pub client: u32,
        /// The word beside the client's, as it lies in memory: the destination behind an IPv4 client's address, the
        /// third of the four words of an IPv6 client's.
        pub beside: u32,
        /// The destination port.
        pub port: Be16,
        /// The frame's EtherType.
        pub ethertype: Be16,
        /// Its link-layer addresses, destination first. Words, since a copy of bytes would be a loop.
        pub macs: [u32; 3],
        /// 0: IPv4 without options; 1: IPv6.
        pub v6: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

/// Source ports of one client, from [`FIRST_PORT`] on.
const PORT_BITS: u32 = 14;
const FIRST_PORT: u16 = 16_384;

impl Case {
    /// The next flow: the last word of its client's address as it lies in memory, and its source port.
    ///
    /// A linear congruential generator (Knuth, *The Art of Computer Programming* 2, section 3.3.4); its upper bits
    /// are good enough to defeat caches.
    #[inline(always)]
    pub const fn next(&mut self) -> (u32, Be16) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let flow = (self.random >> 32) as u32 & self.mask;
        let port = FIRST_PORT + (flow as u16 & ((1 << PORT_BITS) - 1));
        (
            self.client.wrapping_add(flow >> PORT_BITS).to_be(),
            Be16::new(port),
        )
    }
}

const _: () = assert!(size_of::<Case>() == 48);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn case(mask: u32) -> Case {
        Case {
            random: 1,
            program: 0,
            frame_len: 0,
            mask,
            client: 0x0a00_0000,
            ethertype: Be16::new(0),
            macs: [0; 3],
            beside: 0,
            port: Be16::new(0),
            v6: 0,
            pad: [0; 3],
        }
    }

    #[test]
    fn one_flow_stays_the_same() {
        let mut case = case(0);
        let first = case.next();
        assert_eq!(first, (0x0a00_0000u32.to_be(), Be16::new(FIRST_PORT)));
        assert!((0..100).all(|_| case.next() == first));
    }

    #[test]
    fn every_flow_comes() {
        let mut case = case(0xffff);
        // A flow stays away from 16 × 65,536 draws with a probability of e^-16.
        let seen: HashSet<_> = (0..16 << 16)
            .map(|_| case.next())
            .map(|(a, p)| (a, p.get()))
            .collect();
        assert_eq!(seen.len(), 1 << 16);
    }
}
