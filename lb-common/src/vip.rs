//! VIPs: what we serve.

use crate::addr::Addr;
use crate::be::{Be16, wire};

wire! {
    /// What a VIP is known by, 20 bytes.
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
    /// What a VIP's packets need, 8 bytes.
    #[derive(Default)]
    #[repr(C)]
    pub struct Value {
        /// Index of the pool whose ring decides.
        pub pool: u16,
        /// Index of this VIP's counters.
        pub index: u16,
        /// [`SERVED`], [`ALWAYS`], [`OFF`].
        pub flags: u16,
        /// Zero.
        pub pad: u16,
    }
}

/// The key is a VIP; not set on the marks of addresses without a VIP for every port.
pub const SERVED: u16 = 1;
/// Flows are entered in untracked slots too.
pub const ALWAYS: u16 = 2;
/// Flows are never looked up or entered: the slot alone decides.
pub const OFF: u16 = 4;

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

wire! {
    /// One cell of the VIP table, 32 bytes: a key with its value, and the seed of a bucket.
    ///
    /// The table is a perfect hash that the agent builds in an array (hash and displace: Belazzougui, Botelho and
    /// Dietzfelbinger, ESA 2009), since an array access is a few instructions where a kernel hash map is a call. A key's
    /// [`Key::hash`] names a bucket ([`bucket`]); the seed in the bucket's cell names the key's only possible cell
    /// ([`place`]). Most buckets are empty, so most packets that are for no VIP end after one load.
    ///
    /// Words are stored whole and in order: address, then `tail`, then the seed that leads there.
    #[derive(Default)]
    #[repr(C)]
    pub struct Cell {
        /// The key's address.
        pub addr: [u64; 2],
        /// [`Key::tail`] in the lower half, flags in its upper 8 bits; pool and counter index above. 0 = no key.
        pub tail: u64,
        /// Seed of the bucket with this cell's number, odd; 0 = no key hashes there.
        pub seed: u64,
    }
}

impl Key {
    /// The address as two words.
    #[inline(always)]
    pub const fn addr_words(&self) -> [u64; 2] {
        let [a, b, c, d] = self.addr.0;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// Port and protocol, 24 bits; never 0.
    #[inline(always)]
    pub const fn tail(&self) -> u32 {
        self.port.raw() as u32 | (self.proto as u32) << 16
    }

    /// The table's hash: its upper bits are spread evenly (multiply-shift: Dietzfelbinger et al., J. Algorithms 1997).
    ///
    /// It has no key: only the agent puts keys in, and a packet for no VIP costs the same wherever it hashes to.
    #[inline(always)]
    pub const fn hash(&self) -> u64 {
        let [a, b] = self.addr_words();
        a.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f))
            .wrapping_add((self.tail() as u64).wrapping_mul(0xd6e8_feb8_6659_fd93))
    }
}

impl Cell {
    /// The cell of a key, without a seed.
    pub const fn new(key: &Key, value: &Value) -> Self {
        let low = key.tail() as u64 | (value.flags as u64 & 0xff) << 24;
        Self {
            addr: key.addr_words(),
            tail: low | (value.pool as u64) << 32 | (value.index as u64) << 48,
            seed: 0,
        }
    }

    /// What is in the cell; `None` where there is no key.
    pub const fn get(&self) -> Option<(Key, Value)> {
        if self.tail == 0 {
            return None;
        }
        let [a, b] = self.addr;
        let addr = Addr([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
        let key = Key::new(addr, Be16::from_raw(self.tail as u16), (self.tail >> 16) as u8);
        Some((key, value(self.tail)))
    }
}

/// The value in a cell's `tail`.
#[inline(always)]
pub const fn value(tail: u64) -> Value {
    Value {
        pool: (tail >> 32) as u16,
        index: (tail >> 48) as u16,
        flags: (tail >> 24) as u16 & 0xff,
        pad: 0,
    }
}

/// Whether a cell's `tail` is that of a key with this [`Key::tail`].
#[inline(always)]
pub const fn is_tail_of(tail: u64, key_tail: u32) -> bool {
    tail as u32 & 0xff_ffff == key_tail
}

/// The bucket of a hash; `shift` is 64 less the binary logarithm of the table's size.
#[inline(always)]
pub const fn bucket(hash: u64, shift: u32) -> u32 {
    (hash >> shift) as u32
}

/// The only cell that a key of this hash can be in, by its bucket's seed.
#[inline(always)]
pub const fn place(hash: u64, seed: u64, shift: u32) -> u32 {
    (hash.wrapping_mul(seed) >> shift) as u32
}

/// Cells of a table for so many VIPs, a power of two. Each VIP may bring an address of its own with two marks, and new
/// keys are written before old ones go; twice as many cells as that keep seeds easy to find.
pub const fn cells(vips: u32) -> u32 {
    (vips * 12).next_power_of_two()
}

/// What [`bucket`] and [`place`] need to know of a table of `cells`.
pub const fn shift(cells: u32) -> u32 {
    64 - cells.trailing_zeros()
}

const _: () = assert!(size_of::<Cell>() == 32 && align_of::<Cell>() == 8);
const _: () = assert!(size_of::<Key>() == 20 && align_of::<Key>() == 4);
const _: () = assert!(size_of::<Value>() == 8);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cell_holds_what_was_put_in(
            addr: [u32; 4], port: u16, proto in 1u8.., pool: u16, index: u16, flags in 0u16..256,
        ) {
            let key = Key::new(Addr(addr), Be16::new(port), proto);
            let value = Value { pool, index, flags, pad: 0 };
            let cell = Cell::new(&key, &value);
            prop_assert_eq!(cell.get(), Some((key, value)));
            prop_assert!(is_tail_of(cell.tail, key.tail()));
            let other = Key { port: Be16::new(port ^ 1), ..key };
            prop_assert!(!is_tail_of(cell.tail, other.tail()));
        }
    }

    #[test]
    fn neighbours_spread() {
        // 1,024 addresses of one subnet with two ports each, in a table that is as full as it gets.
        let shift = shift(cells(1024 * 2 / 6));
        let mut buckets = std::collections::HashMap::<u32, u32>::new();
        for i in 0..1024u32 {
            for port in [80, 443] {
                let key = Key::new(Addr::v4((0x0a00_0000 | i).to_be()), Be16::new(port), 6);
                *buckets.entry(bucket(key.hash(), shift)).or_default() += 1;
            }
        }
        let most = buckets.values().max().copied();
        assert!(most <= Some(8), "{most:?} of 2,048 keys in one of 4,096 buckets");
    }

    #[test]
    fn sizes() {
        assert_eq!((cells(1), cells(512), cells(32_768)), (16, 8192, 524_288));
        assert_eq!(bucket(u64::MAX, shift(16)), 15);
    }
}
