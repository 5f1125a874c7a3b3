//! What the operator and the health checks think of backends, as the ring needs it.

use std::collections::BTreeMap;

/// What a backend may get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Standing {
    /// New flows and old ones.
    #[default]
    Up,
    /// Old flows alone: the operator drains it, or it answers but refuses work.
    Draining,
    /// It doesn't answer, by this node's own view: new flows go elsewhere, nothing is forgotten.
    Suspect,
    /// It is gone, by verdict: its flows are re-homed.
    Dead,
}

impl Standing {
    /// Whether new flows go there.
    pub const fn takes_new_flows(self) -> bool {
        matches!(self, Self::Up)
    }

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
        }
    }
}

/// Standings and weights that differ from the configuration's, by stable identity of the backend.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Standings {
    /// What each may get; [`Standing::Up`] where it is not named.
    pub standing: BTreeMap<u64, Standing>,
    /// Weights that the operator set or a ramp has reached.
    pub weights: BTreeMap<u64, u16>,
    /// What the checks say of backends whose pool doubts them: nothing for rings, one voice of several for a group.
    pub doubted: BTreeMap<u64, Standing>,
}

impl Standings {
    /// What a backend may get.
    pub fn of(&self, id: u64) -> Standing {
        self.standing.get(&id).copied().unwrap_or_default()
    }

    /// What a backend looks like, doubted or not.
    pub fn seen(&self, id: u64) -> Standing {
        self.doubted.get(&id).copied().unwrap_or_else(|| self.of(id))
    }

    /// The weight that counts.
    pub fn weight(&self, id: u64, configured: u16) -> u16 {
        self.weights.get(&id).copied().unwrap_or(configured)
    }
}

/// Both views as one. An admin state is a floor: no probe lifts it, though a drained backend that dies is dead. Weights
/// are the operator's where both name one.
pub fn merge(operator: &Standings, health: &Standings) -> Standings {
    let mut merged = health.clone();
    for (&id, &standing) in &operator.standing {
        let seen = merged.standing.entry(id).or_default();
        *seen = standing.max(*seen);
    }
    merged.weights.extend(&operator.weights);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_state_is_a_floor() {
        use Standing::{Dead, Draining, Suspect, Up};
        for (operator, health, want) in [
            (Up, Up, Up),
            (Draining, Up, Draining),
            (Dead, Up, Dead),
            (Up, Suspect, Suspect),
            (Draining, Dead, Dead),
            (Dead, Draining, Dead),
        ] {
            let of = |standing| Standings {
                standing: BTreeMap::from([(7, standing)]),
                ..Standings::default()
            };
            assert_eq!(merge(&of(operator), &of(health)).of(7), want);
            assert_eq!(merge(&Standings::default(), &of(health)).of(7), health);
            assert_eq!(merge(&of(operator), &Standings::default()).of(7), operator);
        }
    }

    #[test]
    fn the_operators_weight_wins() {
        let of = |weights: &[(u64, u16)]| Standings {
            weights: weights.iter().copied().collect(),
            ..Standings::default()
        };
        let merged = merge(&of(&[(1, 5), (2, 0)]), &of(&[(2, 9), (3, 4)]));
        assert_eq!(merged.weights, of(&[(1, 5), (2, 0), (3, 4)]).weights);
    }
}
