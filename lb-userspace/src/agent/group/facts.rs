//! What heartbeats say of this node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::hash::siphash13;
use tracing::debug;

use crate::agent::controller::Controller;
use crate::group::{self, View};
use crate::peer::{Facts, Phase, PoolRings};
use crate::rate::{Rates, Reading};

/// How often counters are read for the load: all CPUs' of every VIP, so not with each heartbeat.
const EVERY: Duration = Duration::from_secs(5);

/// How much the program forwards. Not the host's load average: that doesn't count the time of interrupts, in which it runs.
pub(super) struct Load {
    began: Instant,
    /// When counters are read again.
    due: Instant,
    last: Option<Reading>,
    per_second: u32,
}

impl Default for Load {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            due: now,
            last: None,
            per_second: 0,
        }
    }
}

impl Load {
    /// Packets per second, over the last seconds.
    pub(super) fn look(&mut self, controller: &Controller) -> u32 {
        let now = Instant::now();
        if now >= self.due {
            self.due = now + EVERY;
            // Nobody asks here for what single backends got.
            let (maps, vips) = (&controller.balancer.maps, &controller.applied.vips);
            match maps.reading(vips, &BTreeMap::new(), now - self.began) {
                Ok(reading) => self.take(reading),
                Err(e) => debug!("counters can't be read: {e}"),
            }
        }
        self.per_second
    }

    fn take(&mut self, reading: Reading) {
        if let Some(last) = &self.last {
            let forwarded = Rates::between(last, &reading).forwarded().packets;
            // Saturates; nobody forwards four billion.
            self.per_second = forwarded.round() as u32;
        }
        self.last = Some(reading);
    }
}

/// What the group's machine doesn't know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    /// Digest of the charter in force.
    pub(super) charter: u64,
    /// The file says something else.
    pub(super) drift: bool,
    /// [`crate::sync::Report::watermark`].
    pub(super) watermark: u64,
    /// Packets per second.
    pub(super) load: u32,
    /// Digests of rings.
    pub(super) pools: PoolRings,
}

/// All of it.
pub(super) fn facts(facts: &group::Facts, views: &[View], beside: Beside) -> Facts {
    let down = views
        .iter()
        .filter(|view| view.weight > 0 && !view.seen.takes_new_flows());
    let mut down: Vec<(u64, u8)> = down.map(|view| (view.backend, view.seen as u8)).collect();
    // Views come in each node's own order.
    down.sort_unstable();
    let down: Vec<u8> = down
        .into_iter()
        .flat_map(|(id, seen)| id.to_le_bytes().into_iter().chain([seen]))
        .collect();
    Facts {
        phase: match facts.phase {
            group::Phase::Joining => Phase::Joining,
            group::Phase::Ready => Phase::Ready,
            group::Phase::Leaving => Phase::Leaving,
        },
        drift: beside.drift,
        generation: facts.generation,
        config_digest: beside.charter,
        rings: facts.rings,
        pools: beside.pools,
        origins: facts.origins,
        down: siphash13(0, 0, &down),
        verdict: facts.verdict,
        watermark: beside.watermark,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        load: beside.load,
        epoch: facts.epoch,
    }
}

#[cfg(test)]
mod tests {
    use lb_common::stats::Counter;

    use super::*;
    use crate::rate::Source;

    #[test]
    fn the_load_is_what_was_forwarded_between_two_looks() {
        let reading = |at, packets| Reading {
            at: Duration::from_secs(at),
            maps: 1,
            counters: BTreeMap::from([(
                Source::Vip {
                    key: lb_common::vip::Key::new(
                        std::net::IpAddr::from([192, 0, 2, 1]).into(),
                        lb_common::be::Be16::new(80),
                        6,
                    ),
                    index: 1,
                },
                Counter { packets, bytes: 0 },
            )]),
        };
        let mut load = Load::default();
        let mut take = |reading| {
            load.take(reading);
            load.per_second
        };
        assert_eq!(take(reading(0, 1_000_000)), 0, "what was before is no rate");
        assert_eq!(take(reading(5, 1_002_502)), 500);
        assert_eq!(take(reading(10, 1_002_502)), 0);
    }
}
