//! Two readings of the counters → rates.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use lb_common::stats::Counter;
use lb_common::stop::{Action, Stop};
use lb_common::vip;

/// What a counter counts. A local index belongs to it: its counter starts at 0 whenever the agent gives the index
/// to something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the fields are the maps' keys")]
pub enum Source {
    /// Packets that were forwarded for a VIP.
    Vip { key: vip::Key, index: u16 },
    /// Packets that were forwarded to a backend, by its stable identity.
    Backend { id: u64, index: u16 },
    /// Packets that stopped, by the number of their [`Stop`].
    Stop(u32),
}

impl From<Stop> for Source {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop as u32)
    }
}

/// All counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// When: time since any moment of a monotonic clock, the same moment for all readings that are compared.
    pub at: Duration,
    /// The kernel's number of the maps: in others, all counters have started at 0.
    pub maps: u32,
    /// Totals over all CPUs.
    pub counters: BTreeMap<Source, Counter>,
}

/// Packets and bytes of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets.
    pub packets: f64,
    /// Bytes of the frames as they arrived.
    pub bytes: f64,
}

impl Rate {
    /// Bits of a second.
    pub fn bits(self) -> f64 {
        self.bytes * 8.0
    }
}

impl AddAssign for Rate {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl std::iter::Sum for Rate {
    fn sum<I: Iterator<Item = Self>>(rates: I) -> Self {
        rates.fold(Self::default(), |mut sum, rate| {
            sum += rate;
            sum
        })
    }
}

/// What happened between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// The time between them.
    pub over: Duration,
    /// The maps were made anew in between: what the old ones had counted since the first reading is unknown, so
    /// these rates are too small.
    pub renewed: bool,
    rates: BTreeMap<Source, Rate>,
}

impl Rates {
    /// The rates between two readings. A counter that was not there before, that is less than before or that is in
    /// other maps has started at 0 in between. Readings of the same moment have no rates.
    pub fn between(before: &Reading, after: &Reading) -> Self {
        let over = after.at.saturating_sub(before.at);
        let renewed = before.maps != after.maps;
        let rate = |(&source, &now): (&Source, &Counter)| {
            let then = before.counters.get(&source).copied();
            let then = then.filter(|then| !renewed && then.packets <= now.packets && then.bytes <= now.bytes);
            (source, per_second(then.unwrap_or_default(), now, over))
        };
        let rates = if over.is_zero() {
            BTreeMap::new()
        } else {
            after.counters.iter().map(rate).collect()
        };
        Self { over, renewed, rates }
    }

    /// That of one counter; zero where it isn't known.
    pub fn of(&self, source: impl Into<Source>) -> Rate {
        self.rates.get(&source.into()).copied().unwrap_or_default()
    }

    /// Packets that were forwarded, over all VIPs.
    pub fn forwarded(&self) -> Rate {
        let vips = self.rates.iter().filter(|(s, _)| matches!(s, Source::Vip { .. }));
        vips.map(|(_, rate)| *rate).sum()
    }

    /// Packets that stopped in this way, over all reasons.
    pub fn stopped(&self, action: Action) -> Rate {
        let stops = Stop::ALL.iter().filter(|stop| stop.action() == action);
        stops.map(|&stop| self.of(stop)).sum()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate of 2^53 packets is not met")]
fn per_second(then: Counter, now: Counter, over: Duration) -> Rate {
    let of = |then: u64, now: u64| (now - then) as f64 / over.as_secs_f64();
    Rate {
        packets: of(then.packets, now.packets),
        bytes: of(then.bytes, now.bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKEND: Source = Source::Backend { id: 7, index: 1 };

    fn reading(millis: u64, maps: u32, counters: &[(Source, u64, u64)]) -> Reading {
        let counter = |&(source, packets, bytes): &(Source, u64, u64)| (source, Counter { packets, bytes });
        Reading {
            at: Duration::from_millis(millis),
            maps,
            counters: counters.iter().map(counter).collect(),
        }
    }

    fn rate(packets: f64, bytes: f64) -> Rate {
        Rate { packets, bytes }
    }

    /// The rate of one counter over half a second.
    fn between(before: &[(Source, u64, u64)], after: &[(Source, u64, u64)], maps: (u32, u32)) -> Rates {
        Rates::between(&reading(10_000, maps.0, before), &reading(10_500, maps.1, after))
    }

    #[test]
    fn a_counter_that_goes_on() {
        let rates = between(&[(BACKEND, 100, 6_000)], &[(BACKEND, 150, 9_000)], (1, 1));
        assert_eq!(rates.of(BACKEND), rate(100.0, 6_000.0));
        assert_eq!(rates.of(BACKEND).bits(), 48_000.0);
        assert_eq!((rates.over, rates.renewed), (Duration::from_millis(500), false));
    }

    #[test]
    fn counters_that_have_started_at_zero() {
        let after = [(BACKEND, 50, 3_000)];
        let want = rate(100.0, 6_000.0);
        // It went back, it is new, its index is new, or the maps are.
        assert_eq!(between(&[(BACKEND, 60, 3_600)], &after, (1, 1)).of(BACKEND), want);
        assert_eq!(between(&[(BACKEND, 50, 3_600)], &after, (1, 1)).of(BACKEND), want);
        assert_eq!(between(&[], &after, (1, 1)).of(BACKEND), want);
        let moved = Source::Backend { id: 7, index: 2 };
        assert_eq!(between(&[(moved, 10, 600)], &after, (1, 1)).of(BACKEND), want);
        let renewed = between(&[(BACKEND, 10, 600)], &after, (1, 2));
        assert_eq!((renewed.of(BACKEND), renewed.renewed), (want, true));
    }

    #[test]
    fn what_is_gone_or_was_read_twice_at_once_has_no_rate() {
        let gone = between(&[(BACKEND, 100, 6_000)], &[], (1, 1));
        assert_eq!(gone.of(BACKEND), Rate::default());
        let (first, second) = (
            reading(5, 1, &[(BACKEND, 1, 1)]),
            reading(5, 1, &[(BACKEND, 2, 2)]),
        );
        assert_eq!(Rates::between(&first, &second), Rates::default());
        // Never given the wrong way round by a monotonic clock; no panic all the same.
        assert_eq!(
            Rates::between(&reading(6, 1, &[]), &first).of(BACKEND),
            Rate::default()
        );
    }

    #[test]
    fn sums() {
        let vip = |index| Source::Vip {
            key: vip::Key::default(),
            index,
        };
        let after = [
            (vip(0), 10, 1_000),
            (vip(1), 20, 2_000),
            (BACKEND, 30, 3_000),
            (Stop::NotVip.into(), 4, 400),
            (Stop::NotIp.into(), 1, 100),
            (Stop::NoBackend.into(), 3, 300),
        ];
        let rates = between(&[], &after, (1, 1));
        assert_eq!(rates.forwarded(), rate(60.0, 6_000.0));
        assert_eq!(rates.stopped(Action::Pass), rate(10.0, 1_000.0));
        assert_eq!(rates.stopped(Action::Drop), rate(6.0, 600.0));
    }

    proptest! {
        /// Whatever the counters did: no rate is below zero, endless or no number.
        #[test]
        fn rates_are_sane(
            then in any::<(u64, u64, u64)>(), now in any::<(u64, u64, u64)>(), maps in any::<(bool, bool)>()
        ) {
            let maps = (u32::from(maps.0), u32::from(maps.1));
            let before = reading(then.0, maps.0, &[(BACKEND, then.1, then.2)]);
            let after = reading(now.0, maps.1, &[(BACKEND, now.1, now.2)]);
            let rate = Rates::between(&before, &after).of(BACKEND);
            prop_assert!(rate.packets >= 0.0 && rate.packets.is_finite());
            prop_assert!(rate.bytes >= 0.0 && rate.bytes.is_finite());
        }
    }
}
