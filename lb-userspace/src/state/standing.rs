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
}

impl Standings {
    /// What a backend may get.
    pub fn of(&self, id: u64) -> Standing {
        self.standing.get(&id).copied().unwrap_or_default()
    }

    /// The weight that counts.
    pub fn weight(&self, id: u64, configured: u16) -> u16 {
        self.weights.get(&id).copied().unwrap_or(configured)
    }
}

/// The view of operator and health checks together: the worse of the two counts. So what the operator takes out
/// stays out however well it answers, and a backend that is being drained is still found dead. Where the operator
/// names a backend [`Standing::Up`], that is an order too, and its checks don't count. Weights are the operator's.
pub fn merge(operator: &Standings, health: &Standings) -> Standings {
    let mut both = operator.clone();
    for (&id, &seen) in &health.standing {
        let ordered = operator.standing.get(&id);
        if ordered != Some(&Standing::Up) {
            both.standing.insert(id, seen.max(operator.of(id)));
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Dead, Draining, Suspect, Up};

    #[test]
    fn the_worse_view_counts_and_an_order_to_be_up_most() {
        for (operator, health, want) in [
            (None, None, Up),
            (None, Some(Dead), Dead),
            (Some(Draining), None, Draining),
            (Some(Draining), Some(Up), Draining),
            (Some(Draining), Some(Suspect), Suspect),
            (Some(Draining), Some(Dead), Dead),
            (Some(Dead), Some(Draining), Dead),
            (Some(Dead), Some(Up), Dead),
            (Some(Up), Some(Dead), Up),
            (Some(Up), None, Up),
        ] {
            let view = |standing: Option<Standing>| Standings {
                standing: standing.map(|standing| (7, standing)).into_iter().collect(),
                ..Standings::default()
            };
            let both = merge(&view(operator), &view(health));
            assert_eq!(both.of(7), want, "{operator:?} {health:?}");
        }
    }

    #[test]
    fn weights_are_the_operators() {
        let operator = Standings {
            weights: BTreeMap::from([(7, 3)]),
            ..Standings::default()
        };
        assert_eq!(merge(&operator, &Standings::default()), operator);
    }
}
