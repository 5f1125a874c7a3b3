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

/// What `lb_decap` counts, beside its stops: indexes in its counters.
pub mod decap {
    /// Outer headers removed.
    pub const REMOVED: u32 = 0;
    /// Packets of a connection that isn't here, sent on to the backend that they name.
    pub const SECOND_CHANCE: u32 = 1;
    /// The same, but that backend is no allowed source, so it would not take them: given to the service here.
    pub const STRANGER: u32 = 2;
    /// How many there are.
    pub const COUNT: u32 = 3;
}

impl core::ops::AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }
}
