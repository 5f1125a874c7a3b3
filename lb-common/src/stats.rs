//! Counters.

use crate::be::wire;

wire! {
    /// One counter of one CPU.
    #[derive(Default)]
    #[repr(C)]
    pub struct Counter {
        /// Packets.
        pub packets: u64,
        /// Bytes of the frames as they arrived: Ethernet header included, before encapsulation.
        pub bytes: u64,
    }
}

impl core::ops::AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}
