//! What the bench and its programs tell each other: frames to restore or to make, flows to vary, what has arrived.

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

/// The generator of live frames: writes a whole frame and sends it to a link.
pub const GENERATE: &str = "bench_generate";
/// PERCPU_ARRAY of one [`Template`].
pub const TEMPLATE_MAP: &str = "bench_template";
/// DEVMAP of the links that the generator can send to.
pub const LINK_MAP: &str = "bench_links";
/// Entries of [`LINK_MAP`].
pub const LINKS: u32 = 2;

/// What counts live frames where they arrive, and drops them.
pub const SINK: &str = "bench_sink";
/// PERCPU_ARRAY [`arrival`] → [`crate::stats::Counter`].
pub const ARRIVED_MAP: &str = "bench_arrived";
/// ARRAY of [`Sample`].
pub const SAMPLE_MAP: &str = "bench_samples";
/// ARRAY of one u32: how many samples are still wanted.
pub const WANTED_MAP: &str = "bench_wanted";
/// Entries of [`SAMPLE_MAP`].
pub const SAMPLES: u32 = 64;

/// What a frame is where it arrives, by its first IP header.
pub mod arrival {
    /// IP in IP.
    pub const ENCAPSULATED: u32 = 0;
    /// TCP or UDP, as the generator makes it.
    pub const PLAIN: u32 = 1;
    /// Nothing that the bench has to do with.
    pub const OTHER: u32 = 2;
    /// Number of the above.
    pub const KINDS: u32 = 3;
}

wire! {
    /// Which flows packets belong to.
    #[repr(C)]
    pub struct Flows {
        /// State of the generator that picks flows.
        pub random: u64,
        /// Flows less one; the number of flows is a power of two, at most 2^30.
        pub mask: u32,
        /// Last word of the first client's address, as a number.
        pub client: u32,
    }
}

/// Longest frame of a [`Template`], bytes.
pub const TEMPLATE_LEN: usize = 80;
/// Length of the shorter ones, which are IPv4.
pub const TEMPLATE_LEN_V4: usize = 64;

wire! {
    /// What the generator makes.
    #[repr(C)]
    pub struct Template {
        /// Their flows.
        pub flows: Flows,
        /// Index of the link in [`LINK_MAP`].
        pub link: u32,
        /// 0: IPv4 without options, [`TEMPLATE_LEN_V4`] bytes; 1: IPv6, [`TEMPLATE_LEN`] bytes.
        pub v6: u32,
        /// The frame, with any client. Words, since a copy of bytes would be a loop.
        pub frame: [u64; TEMPLATE_LEN / 8],
    }
}

/// Longest part of a frame that a [`Sample`] holds, bytes.
pub const SAMPLE_LEN: usize = 128;

wire! {
    /// A frame as it arrived.
    #[repr(C)]
    pub struct Sample {
        /// Its length, bytes; a multiple of four, as all lengths of the bench are.
        pub len: u32,
        /// Its first bytes.
        pub frame: [u32; SAMPLE_LEN / 4],
    }
}

wire! {
    /// What the wrapper does to every frame.
    #[repr(C)]
    pub struct Case {
        /// Their flows.
        pub flows: Flows,
        /// Index of the program to call.
        pub program: u32,
        /// Bytes of the frame before any program has touched it.
        pub frame_len: u32,
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

impl Flows {
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
const _: () = assert!(size_of::<Template>() == 24 + TEMPLATE_LEN);
const _: () = assert!(size_of::<Sample>() == 4 + SAMPLE_LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn flows(mask: u32) -> Flows {
        Flows {
            random: 1,
            mask,
            client: 0x0a00_0000,
        }
    }

    #[test]
    fn one_flow_stays_the_same() {
        let mut flows = flows(0);
        let first = flows.next();
        assert_eq!(first, (0x0a00_0000u32.to_be(), Be16::new(FIRST_PORT)));
        assert!((0..100).all(|_| flows.next() == first));
    }

    #[test]
    fn every_flow_comes() {
        let mut flows = flows(0xffff);
        // A flow stays away from 16 × 65,536 draws with a probability of e^-16.
        let seen: HashSet<_> = (0..16 << 16)
            .map(|_| flows.next())
            .map(|(a, p)| (a, p.get()))
            .collect();
        assert_eq!(seen.len(), 1 << 16);
    }
}
