//! Network byte order as a type: the only byte swaps.

/// Derives what a map type needs in user space: checked at compile time to have no padding.
///
/// `masked` = a secret is in it: `Debug` shows the name alone.
macro_rules! wire {
    (masked $(#[$meta:meta])* pub struct $name:ident $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(
            feature = "user",
            derive(zerocopy::IntoBytes, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        pub struct $name $($rest)*

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(concat!(stringify!($name), "(masked)"))
            }
        }
    };
    ($(#[$meta:meta])* pub struct $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[cfg_attr(
            feature = "user",
            derive(zerocopy::IntoBytes, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        pub struct $($rest)*
    };
}
pub(crate) use wire;

wire! {
    /// A 16-bit number in network byte order, as it lies in memory.
    #[derive(Default, Hash, PartialOrd, Ord)]
    #[repr(transparent)]
    pub struct Be16(u16);
}

impl Be16 {
    /// From the host's order.
    #[inline(always)]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// In the host's order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The two bytes as they lie in memory, read as a native word (for checksums and hashes).
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Back from [`Be16::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

wire! {
    /// A 32-bit number in network byte order, as it lies in memory.
    #[derive(Default, Hash, PartialOrd, Ord)]
    #[repr(transparent)]
    pub struct Be32(u32);
}

impl Be32 {
    /// From the host's order.
    #[inline(always)]
    pub const fn new(host: u32) -> Self {
        Self(host.to_be())
    }

    /// In the host's order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The four bytes as they lie in memory, read as a native word.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Back from [`Be32::raw`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_network_order() {
        assert_eq!(Be16::new(0x1234).raw().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(Be32::new(0x0102_0304).raw().to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(Be16::new(0x1234).get(), 0x1234);
        assert_eq!(Be32::from_raw(Be32::new(7).raw()).get(), 7);
    }
}
