//! One cell of a ring.

use crate::be::wire;

/// Slots of one ring.
pub const SLOTS: usize = 65_536;

/// The backend index that means *no backend*; the backend map's first entry is never used.
pub const NO_BACKEND: u16 = 0;

wire! {
    /// `{current, origin, previous, flags: u16}` in one aligned u64: one load per packet, one atomic store per
    /// change, never torn. Written by the agent alone.
    #[derive(Default)]
    #[repr(transparent)]
    pub struct Slot(pub u64);
}

impl Slot {
    /// A slot that hasn't changed lately: new flows and old ones go to `backend`.
    #[inline(always)]
    pub const fn untracked(backend: u16) -> Self {
        Self(backend as u64 | (backend as u64) << 16)
    }

    /// Where new flows go.
    #[inline(always)]
    pub const fn current(self) -> u16 {
        self.0 as u16
    }

    /// Where flows without an entry are.
    #[inline(always)]
    pub const fn origin(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The origin before the last retirement.
    #[inline(always)]
    pub const fn previous(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// TRACKED and its like; none are set yet.
    #[inline(always)]
    pub const fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// The slot of a flow hash, within its ring.
#[inline(always)]
pub const fn of_hash(hash: u32) -> u32 {
    hash >> 16
}

/// Where a pool's slot lies in the flat array of all rings.
#[inline(always)]
pub const fn index(pool: u16, slot: u32) -> u32 {
    (pool as u32) << 16 | (slot & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing() {
        let slot = Slot(0x0004_0003_0002_0001);
        assert_eq!(
            (slot.current(), slot.origin(), slot.previous(), slot.flags()),
            (1, 2, 3, 4)
        );
        let plain = Slot::untracked(0xffff);
        assert_eq!(
            (plain.current(), plain.origin(), plain.previous(), plain.flags()),
            (0xffff, 0xffff, 0, 0)
        );
        assert_eq!(Slot::default().current(), NO_BACKEND);
    }

    #[test]
    fn slots_of_pools_do_not_overlap() {
        assert_eq!(index(0, of_hash(u32::MAX)), 65_535);
        assert_eq!(index(1, of_hash(0)), 65_536);
        assert_eq!(index(63, 0xffff), 64 * 65_536 - 1);
    }
}
