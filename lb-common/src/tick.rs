//! Coarse time of flow entries: cheap to make from the kernel's clock, four bytes wide, safe over a wrap.

use crate::be::wire;

/// Nanoseconds of one tick, as a shift: 2^26 ns = 67.1 ms.
const SHIFT: u32 = 26;

wire! {
    /// A moment of CLOCK_MONOTONIC in ticks of 2^26 ns. Wraps after nine years of uptime; only differences
    /// count, and those are right up to four and a half years. Never leaves the host: ages do.
    #[derive(Default, Hash)]
    #[repr(transparent)]
    pub struct Tick(pub u32);
}

impl Tick {
    /// From CLOCK_MONOTONIC, nanoseconds (`bpf_ktime_get_ns`).
    #[inline(always)]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos >> SHIFT) as u32)
    }

    /// Ticks since `earlier`; 0 where that is later, as another CPU's clock may be ahead by one tick.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let ticks = self.0.wrapping_sub(earlier.0);
        if ticks > i32::MAX as u32 { 0 } else { ticks }
    }

    /// This moment, or the next one where this is zero, for places in which zero means *never*.
    #[inline(always)]
    pub const fn or_one(self) -> Self {
        if self.0 == 0 { Self(1) } else { self }
    }

    /// The moment `ticks` later.
    #[inline(always)]
    pub const fn after(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }
}

/// Ticks that are surely no shorter than `seconds`; the longest period that can be measured where they are more.
#[inline(always)]
pub const fn seconds(seconds: u32) -> u32 {
    // A difference of n ticks may be a little more than n - 1 ticks of time.
    let ticks = (seconds as u64 * 1_000_000_000).div_ceil(1 << SHIFT) + 1;
    if ticks > i32::MAX as u64 {
        i32::MAX as u32
    } else {
        ticks as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_a_wrap_and_a_clock_that_is_behind() {
        assert_eq!(Tick(5).since(Tick(u32::MAX - 4)), 10);
        assert_eq!(Tick(4).since(Tick(5)), 0);
        assert_eq!(Tick(u32::MAX).since(Tick(2)), 0);
        assert_eq!(Tick(u32::MAX).after(3), Tick(2));
    }

    #[test]
    fn a_period_in_ticks_is_never_too_short() {
        for s in [1, 5, 60, 900, 7_900] {
            for offset in [0u64, 1, 40_000_000, 67_108_863] {
                let start = Tick::from_nanos(offset);
                let just_before = Tick::from_nanos(offset + u64::from(s) * 1_000_000_000 - 1);
                assert!(just_before.since(start) < seconds(s), "{s} s");
                let surely_after = Tick::from_nanos(offset + u64::from(s) * 1_000_000_000 + (2 << SHIFT));
                assert!(surely_after.since(start) >= seconds(s), "{s} s");
            }
        }
        assert_eq!(seconds(u32::MAX), i32::MAX as u32);
    }
}
