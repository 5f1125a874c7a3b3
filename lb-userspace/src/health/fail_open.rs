//! One pool: when too much of it looks down, the checks are doubted and not the backends.
//!
//! Down is what isn't up, by configured weight. Above the share the pool *opens*: silent backends are served again.
//! Those that refuse work stay drained, as they say so themselves, unless no backend of the pool is really up: then all are
//! served, and that stays so until the pool closes, since the first that recovers could not carry the load alone.
//! It closes when the down share has sunk to four fifths of the limit: a pool on the edge doesn't swing.

use super::Phase;
use crate::state::standing::Standing;

/// Whether a pool believes its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailOpen {
    /// It does.
    #[default]
    Closed,
    /// Silent backends are served.
    Silent,
    /// All are served.
    All,
}

impl FailOpen {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Silent => "silent backends are served",
            Self::All => "all backends are served",
        }
    }

    /// Whether backends that look down are served.
    pub const fn is_open(self) -> bool {
        !matches!(self, Self::Closed)
    }

    /// The state that follows, given all backends with their weights; `limit` in percent.
    pub fn next(self, limit: u32, backends: impl Iterator<Item = (u16, Phase)>) -> Self {
        let (mut down, mut all) = (0u64, 0u64);
        for (weight, phase) in backends {
            all += u64::from(weight);
            if !phase.is_up() {
                down += u64::from(weight);
            }
        }
        // In fifths of percents, for the four fifths of the limit.
        let share = down * 500;
        let opens = share > u64::from(limit) * 5 * all;
        let stays = share > u64::from(limit) * 4 * all;
        // 100 is never, whatever the hysteresis says.
        let stays = stays && limit < 100;
        match self {
            Self::Closed if !opens => Self::Closed,
            _ if !(opens || stays) => Self::Closed,
            Self::All => Self::All,
            _ if down == all => Self::All,
            _ => Self::Silent,
        }
    }

    /// What a backend in this phase may get.
    pub const fn standing(self, phase: Phase) -> Standing {
        match (self, phase) {
            (_, Phase::Unknown | Phase::Up) | (Self::All, _) => Standing::Up,
            (Self::Silent, Phase::Suspect | Phase::Dead) => Standing::Up,
            (_, Phase::Draining) => Standing::Draining,
            (Self::Closed, Phase::Suspect) => Standing::Suspect,
            (Self::Closed, Phase::Dead) => Standing::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Phase::{Dead, Draining, Suspect, Unknown, Up};

    fn next(from: FailOpen, limit: u32, backends: &[(u16, Phase)]) -> FailOpen {
        from.next(limit, backends.iter().copied())
    }

    #[test]
    fn opens_above_the_limit_by_weight() {
        use FailOpen::{All, Closed, Silent};
        for (limit, backends, want) in [
            (50, vec![(1, Up), (1, Dead)], Closed),
            (50, vec![(1, Up), (2, Dead)], Silent),
            (50, vec![(1, Unknown), (2, Suspect)], Silent),
            (50, vec![(1, Up), (2, Draining)], Silent),
            (50, vec![(1, Dead)], All),
            (50, vec![(1, Draining), (3, Dead)], All),
            (50, vec![(1, Up), (1, Up), (1, Dead)], Closed),
            // A backend that takes nothing says nothing.
            (50, vec![(1, Up), (0, Dead), (0, Dead)], Closed),
            (50, vec![], Closed),
            (0, vec![(99, Up), (1, Dead)], Silent),
            (0, vec![(99, Up)], Closed),
            (100, vec![(1, Dead)], Closed),
        ] {
            assert_eq!(next(Closed, limit, &backends), want, "{limit} {backends:?}");
        }
    }

    #[test]
    fn closes_a_fifth_below_the_limit() {
        use FailOpen::{All, Closed, Silent};
        assert_eq!(next(Silent, 50, &[(50, Up), (50, Dead)]), Silent);
        assert_eq!(next(Silent, 50, &[(59, Up), (41, Dead)]), Silent);
        assert_eq!(next(Silent, 50, &[(60, Up), (40, Dead)]), Closed);
        assert_eq!(next(All, 50, &[(59, Up), (41, Dead)]), All);
        assert_eq!(next(All, 50, &[(60, Up), (40, Dead)]), Closed);
        assert_eq!(next(Silent, 50, &[(60, Draining), (40, Dead)]), All);
        assert_eq!(
            next(All, 100, &[(1, Dead)]),
            Closed,
            "the limit was raised to never"
        );
    }

    #[test]
    fn who_refuses_stays_drained_while_another_is_up() {
        assert_eq!(FailOpen::Silent.standing(Draining), Standing::Draining);
        assert_eq!(FailOpen::Silent.standing(Dead), Standing::Up);
        assert_eq!(FailOpen::All.standing(Draining), Standing::Up);
        assert_eq!(FailOpen::Closed.standing(Dead), Standing::Dead);
    }

    fn phase() -> impl Strategy<Value = Phase> {
        prop_oneof![Just(Unknown), Just(Up), Just(Draining), Just(Suspect), Just(Dead)]
    }

    proptest! {
        #[test]
        fn somebody_is_served_unless_told_otherwise(
            backends in proptest::collection::vec((0u16..5, phase()), 1..12),
            limit in 0u32..100,
            from in prop_oneof![Just(FailOpen::Closed), Just(FailOpen::Silent), Just(FailOpen::All)],
        ) {
            let open = next(from, limit, &backends);
            prop_assert_eq!(next(open, limit, &backends), open, "the same again changes nothing");
            let weight: u32 = backends.iter().map(|(w, _)| u32::from(*w)).sum();
            let served = backends.iter().any(|(w, p)| *w > 0 && open.standing(*p).takes_new_flows());
            prop_assert_eq!(served, weight > 0, "{:?}", open);
        }
    }
}
