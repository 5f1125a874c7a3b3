//! How many new entries a CPU may write: what keeps a flood from washing handshakes out of an LRU map.

use crate::abi;
use crate::be::wire;
use crate::tick::Tick;

/// Ticks of one window of handshakes, as a shift: 1.07 s.
const WINDOW: u32 = 4;

/// Windows that five seconds can touch.
const TOUCHED: u32 = 6;

/// Ticks of one window of misses, as a shift: 68.7 s. Misses are noted for as long as an idle timeout, so with windows of a
/// second a CPU's share of each would round to nothing.
const WIDE_WINDOW: u32 = 10;

wire! {
    /// What one CPU has written in its present window: a second, for misses a minute. Starts as zeros.
    #[derive(Default)]
    #[repr(C)]
    pub struct Budget {
        /// The window's number.
        pub window: u32,
        /// Entries written in it.
        pub used: u32,
    }
}

wire! {
    /// The one entry of the map `lb_limits`: what the agent lets the program write into the flow table. All zeros, as it
    /// is before the agent writes it: nothing new, and no events.
    #[derive(Default)]
    #[repr(C)]
    pub struct Limits {
        /// [`FULL`], [`UDP_FULL`], [`EVENTS`].
        pub flags: u32,
        /// Entries per window and CPU, by number of the budget ([`crate::abi::budget`]).
        pub budgets: [u32; 3],
    }
}

/// The table of confirmed TCP flows is full ([`crate::flow::is_full`]): a SYN counts as refused.
pub const FULL: u32 = 1;
/// The same for UDP flows.
pub const UDP_FULL: u32 = 2;
/// Somebody reads the ring buffer: without this flag no event is made.
pub const EVENTS: u32 = 4;

impl Budget {
    /// Takes one entry out of the budget with this number ([`crate::abi::budget`]), `limit` per window; `None` where it is
    /// used up.
    #[inline(always)]
    pub const fn take(self, number: u32, limit: u32, now: Tick) -> Option<Self> {
        let shift = if number == abi::budget::MISSES {
            WIDE_WINDOW
        } else {
            WINDOW
        };
        let window = now.0 >> shift;
        let used = if self.window == window { self.used } else { 0 };
        if used < limit {
            Some(Self {
                window,
                used: used + 1,
            })
        } else {
            None
        }
    }
}

/// Entries per window and CPU by which an admitted SYN outlives its handshake: in any five seconds at most
/// `capacity` are written, the entries of the LRU map that this CPU can use. For a map without a common list that is
/// its size divided by the number of *possible* CPUs.
pub const fn handshakes(capacity: u32) -> u32 {
    capacity / TOUCHED
}

/// Entries per window and CPU by which a noted miss is still there when its flow comes again after `idle` ticks:
/// `capacity` is this CPU's share of the map. At least one, so where the share is smaller than the windows (with
/// [`abi::misses`] an idle timeout of more than two hours) notes may be washed out before their time.
pub const fn misses(capacity: u32, idle: u32) -> u32 {
    let share = capacity / ((idle >> WIDE_WINDOW) + 2);
    if share == 0 { 1 } else { share }
}

impl Limits {
    /// The limits for a flow table of so many entries on a machine with so many possible CPUs; `idle` is the longest idle
    /// timeout of the VIPs, ticks.
    pub const fn new(flags: u32, flows: u32, cpus: u32, idle: u32) -> Self {
        let cpus = if cpus == 0 { 1 } else { cpus };
        Self {
            flags,
            budgets: [
                handshakes(abi::probation(flows, cpus)),
                handshakes(abi::udp_probation(flows, cpus)),
                misses(abi::misses(flows, cpus) / cpus - abi::MISSES_ASIDE, idle),
            ],
        }
    }
}

const _: () = assert!(size_of::<Budget>() == 8);
const _: () = assert!(size_of::<Limits>() == 16 && abi::budget::COUNT == 3);
const _: () = assert!(abi::budget::HANDSHAKES == 0 && abi::budget::UDP == 1 && abi::budget::MISSES == 2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tick;

    /// The most entries that are admitted in any `span` ticks when every tick asks for `per_tick`.
    fn most(number: u32, limit: u32, span: u32, per_tick: u32) -> u32 {
        let mut budget = Budget::default();
        let admitted: Vec<u32> = (0..span * 3)
            .map(|t| {
                let mut n = 0;
                for _ in 0..per_tick {
                    if let Some(next) = budget.take(number, limit, Tick(u32::MAX - span).after(t)) {
                        budget = next;
                        n += 1;
                    }
                }
                n
            })
            .collect();
        let mut sum: u32 = admitted[..span as usize].iter().sum();
        let mut most = sum;
        for (old, new) in admitted.iter().zip(&admitted[span as usize..]) {
            sum = sum + new - old;
            most = most.max(sum);
        }
        most
    }

    #[test]
    fn an_admitted_syn_outlives_its_handshake() {
        let five = tick::seconds(5);
        let most = |limit| most(abi::budget::HANDSHAKES, limit, five, 1_000);
        for capacity in [600, 4_096, 16_384] {
            let most = most(handshakes(capacity));
            assert!(most <= capacity, "{most} of {capacity} within five seconds");
            assert!(most > capacity / 2, "{most} of {capacity}: the budget is used");
        }
        assert!(most(1_000) > 4_096, "a budget that is too large is noticed");
    }

    #[test]
    fn a_noted_miss_outlives_the_idle_timeout() {
        for (seconds, capacity) in [(60, 8_192), (900, 8_192), (900, 640), (7_200, 8_192)] {
            let idle = tick::seconds(seconds);
            let most = most(abi::budget::MISSES, misses(capacity, idle), idle, 100);
            assert!(
                most <= capacity && most > capacity / 3,
                "{most} of {capacity} within {seconds} s"
            );
        }
    }

    #[test]
    fn misses_have_a_budget_however_many_cpus_there_are() {
        for flows in [1 << 10, abi::FLOWS, 1 << 24] {
            for cpus in [1, 2, 28, 64, 128, 512, 8_192] {
                for seconds in [10, 900, 7_200] {
                    let idle = tick::seconds(seconds);
                    let limits = Limits::new(0, flows, cpus, idle);
                    let budget = limits.budgets[abi::budget::MISSES as usize];
                    assert!(budget > 0, "{flows} flows, {cpus} CPUs, {seconds} s");
                    let noted = budget * ((idle >> WIDE_WINDOW) + 2) * cpus;
                    let room = abi::misses(flows, cpus) - cpus * abi::MISSES_ASIDE;
                    assert!(
                        noted <= room,
                        "{noted} of {room}: {flows} flows, {cpus} CPUs, {seconds} s"
                    );
                }
                let day = Limits::new(0, flows, cpus, tick::seconds(86_400));
                assert!(day.budgets[abi::budget::MISSES as usize] > 0);
            }
        }
    }

    #[test]
    fn a_new_window_has_the_whole_budget() {
        let full = Budget { window: 0, used: 3 };
        for (number, last) in [(abi::budget::UDP, 15), (abi::budget::MISSES, 1_023)] {
            assert_eq!(full.take(number, 3, Tick(last)), None);
            let next = Budget { window: 1, used: 1 };
            assert_eq!(full.take(number, 3, Tick(last + 1)), Some(next));
            assert_eq!(full.take(number, 0, Tick(last + 1)), None);
        }
    }
}
