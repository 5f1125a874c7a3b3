//! Flap damping: a backend that has fallen out often lately waits longer before it is up again.
//!
//! The idea is that of RFC 2439 for routes: each fall adds 1 to a penalty, which halves with every half-life. A
//! backend whose penalty has reached the limit is held out until it has decayed to half the limit. The penalty is
//! capped at four times the limit, so nobody is held for longer than three half-lives (4 → ½ is 8 times).

use std::time::Duration;

use super::Mono;
use crate::model::health::Flap;

/// The most that a penalty can be, in limits.
const CAP: f64 = 4.0;

/// Below this share of the limit a held backend is let go.
const REUSE: f64 = 0.5;

/// How often a backend has fallen lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Penalty {
    /// In falls, at `at`.
    value: f64,
    at: Mono,
    /// Whether the limit was reached and the penalty has not decayed since.
    held: bool,
}

impl Penalty {
    /// A penalty as it was at a moment; what is no number counts as 0.
    pub fn of(value: f64, held: bool, at: Mono) -> Self {
        let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
        Self { value, at, held }
    }

    /// How much of it is left, in falls.
    pub fn at(&self, flap: Flap, now: Mono) -> f64 {
        self.value * (-decays(now.since(self.at), flap)).exp2()
    }

    /// Whether the limit was reached, as of the last look.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// Counts a fall.
    pub fn fall(&mut self, flap: Flap, now: Mono) {
        if flap.limit == 0 {
            return;
        }
        let limit = f64::from(flap.limit);
        self.value = (self.at(flap, now) + 1.0).min(CAP * limit);
        self.at = now;
        // A fall shortly after another has decayed a little: without slack two at once would not count as two.
        self.held |= self.value > limit - 0.5;
    }

    /// How long a backend that would come back now has to wait yet; nothing if it need not.
    pub fn wait(&mut self, flap: Flap, now: Mono) -> Option<Duration> {
        if !self.held || flap.limit == 0 {
            self.held = false;
            return None;
        }
        let over = self.at(flap, now) / (REUSE * f64::from(flap.limit));
        if over <= 1.0 {
            self.held = false;
            return None;
        }
        Some(flap.half_life.mul_f64(over.log2()))
    }
}

/// How many half-lives a time is.
fn decays(time: Duration, flap: Flap) -> f64 {
    time.as_secs_f64() / flap.half_life.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLAP: Flap = Flap {
        limit: 3,
        half_life: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Mono {
        Mono::from_unix(Duration::from_secs(seconds))
    }

    #[test]
    fn a_single_fall_costs_nothing() {
        let mut penalty = Penalty::default();
        penalty.fall(FLAP, at(100));
        assert_eq!(penalty.wait(FLAP, at(100)), None);
    }

    #[test]
    fn three_falls_within_a_half_life_hold_until_half_the_limit() {
        let mut penalty = Penalty::default();
        for second in [100, 101, 102] {
            penalty.fall(FLAP, at(second));
        }
        let wait = penalty.wait(FLAP, at(102)).expect("held");
        // From just under 3 to 1.5: a half-life.
        assert!((58.0..=60.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(penalty.wait(FLAP, at(150)).is_some());
        assert_eq!(penalty.wait(FLAP, at(163)), None);
        assert_eq!(penalty.wait(FLAP, at(163)), None);
    }

    #[test]
    fn falls_that_are_far_apart_never_hold() {
        let mut penalty = Penalty::default();
        for fall in 0..100 {
            penalty.fall(FLAP, at(fall * 120));
            assert_eq!(penalty.wait(FLAP, at(fall * 120)), None);
        }
    }

    #[test]
    fn a_limit_of_0_never_holds() {
        let mut penalty = Penalty::default();
        let never = Flap { limit: 0, ..FLAP };
        for _ in 0..100 {
            penalty.fall(never, at(1));
        }
        assert_eq!(penalty.wait(never, at(1)), None);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_three_half_lives(
            falls in proptest::collection::vec(0u64..100, 0..200),
            limit in 1u32..20,
        ) {
            let flap = Flap { limit, ..FLAP };
            let mut penalty = Penalty::default();
            let mut now = 1000;
            for pause in falls {
                now += pause;
                penalty.fall(flap, at(now));
                if let Some(wait) = penalty.wait(flap, at(now)) {
                    prop_assert!(wait <= flap.half_life * 3 + Duration::from_millis(1));
                    // And the wait that is told is the wait that is.
                    let mut later = penalty;
                    let end = at(now) + wait;
                    prop_assert_eq!(later.wait(flap, end + Duration::from_millis(1)), None);
                }
            }
        }
    }
}
