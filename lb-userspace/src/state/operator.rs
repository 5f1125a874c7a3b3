//! What the operator ordered for backends, and what that means at a moment: a pure function of the orders, the model
//! and the time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::standing::{Standing, Standings};
use super::wall::Wall;
use crate::model::{Model, Pool};

/// The orders of the operator, by stable identity of the backend. Only backends with an order are named.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    backends: BTreeMap<u64, Orders>,
}

/// What holds for one backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// `pool/backend`, for people.
    pub name: String,
    /// Drained or down; neither where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// What its weight is; the configuration's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// An admin state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
pub enum Admin {
    /// No new flows; from the deadline on it counts as down.
    Drain {
        /// When that is; never where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Wall>,
    },
    /// Treated as dead.
    Down {},
}

/// A weight that is not the configuration's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// This one.
    Weight(u16),
    /// One that grows to the configuration's.
    Ramp(Ramp),
}

/// A weight that grows in even steps to the configured one: the first step at once, the last at `start + over`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// When it began.
    pub start: Wall,
    /// How many steps, at least 2.
    pub steps: u16,
    /// From the first step to the last, in milliseconds, at least 1.
    pub over_ms: u64,
}

/// One order, its times absolute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// No new flows; down from the deadline on.
    Drain {
        /// When that is.
        deadline: Option<Wall>,
    },
    /// Ends a drain.
    Undrain,
    /// Treated as dead at once.
    Down,
    /// Ends that.
    Up,
    /// Sets the weight, or gives it back to the configuration. Ends a ramp.
    Weight(Option<u16>),
    /// Lets the weight grow to the configured one. Ends a weight that was set.
    Ramp(Ramp),
}

/// Why an order makes no sense now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Contradiction {
    /// Of a backend that is down, neither drain nor its end can be ordered.
    #[error("it is marked down, which a drain would weaken")]
    Down,
    /// `up` of a backend that is drained.
    #[error("it is drained, not down")]
    Drained,
    /// A ramp to nothing.
    #[error("its configured weight is 0, so there is nothing to grow to")]
    NoWeight,
}

/// What happened by time alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passed {
    /// A drained backend counts as down from now on.
    DrainOver,
    /// A ramp took a step.
    Step {
        /// Which one, from 1.
        step: u16,
        /// Of how many.
        steps: u16,
    },
    /// A ramp is at its end: the weight is the configured one.
    RampOver,
}

impl Ramp {
    /// The step that holds at a moment, 1 to `steps`.
    pub fn step(&self, now: Wall) -> u16 {
        let last = u128::from(self.steps.saturating_sub(1));
        let gone = now.since(self.start).as_millis().saturating_mul(last) / u128::from(self.over_ms.max(1));
        u16::try_from(gone.min(last)).map_or(self.steps, |gone| gone + 1)
    }

    /// When a step begins.
    fn begins(&self, step: u16) -> Wall {
        let (gone, last) = (
            u128::from(step.saturating_sub(1)),
            u128::from(self.steps.max(2) - 1),
        );
        let millis = (gone * u128::from(self.over_ms)).div_ceil(last);
        Wall(
            self.start
                .0
                .saturating_add(u64::try_from(millis).unwrap_or(u64::MAX)),
        )
    }

    /// The weight at a step on the way to `target`.
    fn weight(&self, now: Wall, target: u32) -> u32 {
        (target * u32::from(self.step(now))).div_ceil(u32::from(self.steps.max(1)))
    }
}

impl Orders {
    /// The standing at a moment.
    pub fn standing(&self, now: Wall) -> Standing {
        match self.admin {
            Some(Admin::Drain { deadline: Some(end) }) if end <= now => Standing::Dead,
            Some(Admin::Drain { .. }) => Standing::Draining,
            Some(Admin::Down {}) => Standing::Dead,
            None => Standing::Up,
        }
    }

    fn is_empty(&self) -> bool {
        self.admin.is_none() && self.share.is_none()
    }

    fn ramp(&self) -> Option<Ramp> {
        match self.share {
            Some(Share::Ramp(ramp)) => Some(ramp),
            _ => None,
        }
    }
}

impl Operator {
    /// What holds for a backend.
    pub fn of(&self, id: u64) -> Option<&Orders> {
        self.backends.get(&id)
    }

    /// The orders after one more; equal to these where it holds already.
    ///
    /// # Errors
    /// [`Contradiction`], with the orders as they are.
    pub fn with(
        &self,
        id: u64,
        name: &str,
        configured: u16,
        order: Order,
        now: Wall,
    ) -> Result<Self, Contradiction> {
        let mut after = self.clone();
        let orders = after.backends.entry(id).or_insert_with(|| Orders {
            name: name.to_owned(),
            admin: None,
            share: None,
        });
        match (order, orders.admin) {
            (Order::Drain { .. } | Order::Undrain, Some(Admin::Down {})) => return Err(Contradiction::Down),
            (Order::Up, Some(Admin::Drain { .. })) => return Err(Contradiction::Drained),
            (Order::Ramp(_), _) if configured == 0 => return Err(Contradiction::NoWeight),
            (Order::Drain { deadline }, _) => orders.admin = Some(Admin::Drain { deadline }),
            (Order::Down, _) => orders.admin = Some(Admin::Down {}),
            (Order::Undrain | Order::Up, _) => orders.admin = None,
            (Order::Weight(weight), _) => orders.share = weight.map(Share::Weight),
            (Order::Ramp(new), _) => {
                let running = orders.ramp().filter(|ramp| {
                    (ramp.steps, ramp.over_ms) == (new.steps, new.over_ms) && ramp.step(now) < ramp.steps
                });
                orders.share = Some(Share::Ramp(running.unwrap_or(new)));
            }
        }
        if orders.is_empty() {
            after.backends.remove(&id);
        }
        Ok(after)
    }

    /// Standings and weights at a moment.
    pub fn standings(&self, model: &Model, now: Wall) -> Standings {
        let mut standings = Standings::default();
        for pool in &model.pools {
            let ordered = pool.backends.iter().filter_map(|b| Some((b.id, self.of(b.id)?)));
            for (id, orders) in ordered {
                let standing = orders.standing(now);
                if standing != Standing::Up {
                    standings.standing.insert(id, standing);
                }
            }
            self.weights(pool, now, &mut standings.weights);
        }
        standings
    }

    /// Weights of a pool that differ from the configured ones.
    ///
    /// While one of its backends is ramped, all weights of a pool are multiplied by a power of two, so that small
    /// weights have steps too. **Invariant:** that changes no slot: the ring depends on the proportions of weights, and
    /// powers of two keep its arithmetic exact.
    fn weights(&self, pool: &Pool, now: Wall, out: &mut BTreeMap<u64, u16>) {
        let ramped = |id| {
            self.of(id)
                .and_then(Orders::ramp)
                .filter(|ramp| ramp.step(now) < ramp.steps)
        };
        let fixed = |b: &crate::model::Backend| match self.of(b.id).and_then(|o| o.share) {
            Some(Share::Weight(weight)) => weight,
            _ => b.weight,
        };
        let most = pool.backends.iter().map(fixed).max().unwrap_or(0).max(1);
        let needed = |b: &crate::model::Backend| {
            ramped(b.id).map(|ramp| u32::from(ramp.steps).div_ceil(u32::from(b.weight.max(1))))
        };
        let needed = pool.backends.iter().filter_map(needed).max().unwrap_or(1);
        // 65,535 is the greatest weight.
        let room = (u32::from(u16::MAX) / u32::from(most)).ilog2();
        let scale = 1 << needed.next_power_of_two().ilog2().min(room);
        for backend in &pool.backends {
            let full = u32::from(fixed(backend)) * scale;
            let weight = ramped(backend.id).map_or(full, |ramp| ramp.weight(now, full));
            let weight = u16::try_from(weight).unwrap_or(u16::MAX);
            if weight != backend.weight {
                out.insert(backend.id, weight);
            }
        }
    }

    /// The next moment after `now` at which something changes by time alone.
    pub fn next_change(&self, now: Wall) -> Option<Wall> {
        let drains = self.backends.values().filter_map(|orders| match orders.admin {
            Some(Admin::Drain { deadline }) => deadline,
            _ => None,
        });
        let ramps = self.backends.values().filter_map(|orders| {
            let ramp = orders.ramp()?;
            let step = ramp.step(now);
            (step < ramp.steps).then(|| ramp.begins(step + 1))
        });
        drains.chain(ramps).filter(|&when| when > now).min()
    }

    /// What has changed by time alone after `from` and not after `to`, by backend's name.
    pub fn passed(&self, from: Wall, to: Wall) -> Vec<(String, Passed)> {
        let mut passed = Vec::new();
        for orders in self.backends.values() {
            let mut say = |what| passed.push((orders.name.clone(), what));
            if let Some(Admin::Drain { deadline: Some(end) }) = orders.admin
                && from < end
                && end <= to
            {
                say(Passed::DrainOver);
            }
            let Some(ramp) = orders.ramp() else { continue };
            let (before, after) = (ramp.step(from), ramp.step(to));
            match after {
                _ if before == after => {}
                step if step == ramp.steps => say(Passed::RampOver),
                step => say(Passed::Step {
                    step,
                    steps: ramp.steps,
                }),
            }
        }
        passed
    }

    /// Without ramps that are at their end: they mean nothing any more.
    pub fn settled(&self, now: Wall) -> Self {
        let mut after = self.clone();
        for orders in after.backends.values_mut() {
            if orders.ramp().is_some_and(|ramp| ramp.step(now) == ramp.steps) {
                orders.share = None;
            }
        }
        after.backends.retain(|_, orders| !orders.is_empty());
        after
    }

    /// Without backends that the model doesn't have, and the names of those.
    pub fn within(&self, model: &Model) -> (Self, Vec<String>) {
        let backends = || model.pools.iter().flat_map(|pool| &pool.backends);
        let known: std::collections::BTreeSet<u64> = backends().map(|backend| backend.id).collect();
        let gone = self.backends.iter().filter(|(id, _)| !known.contains(id));
        let gone = gone.map(|(_, orders)| orders.name.clone()).collect();
        let mut after = self.clone();
        after.backends.retain(|id, _| known.contains(id));
        (after, gone)
    }
}

/// The time between two steps of a ramp, for people.
pub fn pause(steps: u16, over: Duration) -> Duration {
    over / u32::from(steps.max(2) - 1)
}
