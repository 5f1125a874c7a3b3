//! VIPs: what we serve.

use crate::addr::Addr;
use crate::be::{Be16, wire};

wire! {
    /// Key of the VIP map, 20 bytes.
    ///
    /// Port 0 stands for the address as a whole: for each protocol that is balanced there is always such a key,
    /// either a VIP for every port or a mark ([`SERVED`] not set) that only single ports are served. So a
    /// packet that finds neither its port nor port 0 is not for a VIP address at all, after two look-ups.
    #[derive(Default, Hash, PartialOrd, Ord)]
    #[repr(C)]
    pub struct Key {
        /// The VIP's address.
        pub addr: Addr,
        /// Its port, 0 = the address as a whole.
        pub port: Be16,
        /// IP protocol number, TCP or UDP.
        pub proto: u8,
        /// Zero.
        pub pad: u8,
    }
}

wire! {
    /// Value of the VIP map, 8 bytes.
    #[derive(Default)]
    #[repr(C)]
    pub struct Value {
        /// Index of the pool whose ring decides.
        pub pool: u16,
        /// Index of this VIP's counters.
        pub index: u16,
        /// [`SERVED`].
        pub flags: u16,
        /// Zero.
        pub pad: u16,
    }
}

/// The key is a VIP; not set on the marks of addresses without a VIP for every port.
pub const SERVED: u16 = 1;

impl Key {
    /// A key.
    #[inline(always)]
    pub const fn new(addr: Addr, port: Be16, proto: u8) -> Self {
        Self {
            addr,
            port,
            proto,
            pad: 0,
        }
    }

    /// The key of this key's address as a whole.
    #[inline(always)]
    pub const fn any_port(self) -> Self {
        Self {
            port: Be16::new(0),
            ..self
        }
    }
}

impl Value {
    /// Whether this is a VIP and not the mark of an address.
    #[inline(always)]
    pub const fn is_served(&self) -> bool {
        self.flags & SERVED != 0
    }
}

const _: () = assert!(size_of::<Key>() == 20 && align_of::<Key>() == 4);
const _: () = assert!(size_of::<Value>() == 8);
