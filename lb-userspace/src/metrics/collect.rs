//! Maps, checks and the agent's own words → snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::header::proto;
use lb_common::info::{mode, next_hop, untext};
use lb_common::pick::By;
use lb_common::slot::{NO_BACKEND, Slot};
use lb_common::stop::Stop;
use lb_common::vip;
use tokio::sync::watch;
use tracing::debug;

use super::meters::Meters;
use super::snapshot::{Backend, Build, Interface, Pool, Programmed, Slots, Snapshot, Told, Vip};
use crate::api::sync;
use crate::dataplane::maps::Maps;
use crate::dataplane::object;
use crate::dataplane::pin::Root;
use crate::dataplane::{self, read};
use crate::health::task::{self, Reader};
use crate::net;
use crate::peer;

/// The thread of the checks answers within microseconds, unless thousands of answers wait before us.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many digits of the programs' hash are told, as in the agent's log.
const OBJECT_DIGITS: usize = 12;

/// Where it all comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The pinned maps.
    pub root: Root,
    /// The health checks.
    pub health: Reader,
    /// The other nodes.
    pub peers: peer::Reader,
    /// Flow records.
    pub records: sync::Reader,
    /// What the agent's loop says.
    pub told: watch::Receiver<Told>,
    /// What the process counts.
    pub meters: Meters,
}

/// Collects, with the maps at hand.
pub(super) struct Collector {
    sources: Sources,
    /// Opened once: the agent writes the same ones as long as it lives.
    maps: Option<Maps>,
}

impl Collector {
    pub(super) const fn new(sources: Sources) -> Self {
        Self { sources, maps: None }
    }

    /// Everything as it is now; what can't be had is left out.
    pub(super) async fn collect(&mut self) -> Snapshot {
        let start = Instant::now();
        // First: what the agent says is older than what is read, never newer.
        let told = self.sources.told.borrow().clone();
        let health = self.health().await;
        let interfaces = self.interfaces().await;
        let maps = self.with_maps(programmed);
        Snapshot {
            build: Build {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                object: object::HASH[..OBJECT_DIGITS].to_owned(),
            },
            maps,
            interfaces,
            health,
            peers: self.sources.peers.view(),
            records: self.sources.records.shown(),
            told,
            own: self.sources.meters.collect(),
            took: start.elapsed(),
        }
    }

    async fn health(&self) -> Option<task::Snapshot> {
        let asked = self.sources.health.snapshot();
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
    }

    async fn interfaces(&mut self) -> Option<Vec<Interface>> {
        let attached = self.with_maps(Maps::interfaces)?;
        let traffic = net::traffic().await;
        let traffic = traffic.map_err(|e| debug!("metrics: interfaces: {e}")).ok()?;
        let row = |row: &lb_common::info::Interface| Interface {
            name: untext(&row.name).to_owned(),
            mode: mode::name(row.mode),
            traffic: traffic.get(&row.ifindex).copied(),
        };
        Some(attached.iter().map(row).collect())
    }

    /// What a job makes of the maps; they are opened anew after an error.
    fn with_maps<T>(&mut self, job: impl FnOnce(&Maps) -> Result<T, dataplane::Error>) -> Option<T> {
        let done = match self.maps.take() {
            Some(maps) => Ok(maps),
            None => Maps::open(&self.sources.root),
        };
        let done = done.and_then(|maps| {
            let made = job(&maps)?;
            self.maps = Some(maps);
            Ok(made)
        });
        done.map_err(|e| debug!("metrics: maps: {e}")).ok()
    }
}

fn programmed(maps: &Maps) -> Result<Programmed, dataplane::Error> {
    let meta = maps.meta()?;
    let rows = maps.pools()?;
    let name = |index: u16| rows.get(&index).map_or("?", |row| untext(&row.name)).to_owned();
    let mut held = vec![0; usize::from(u16::MAX) + 1];
    let mut pools = BTreeMap::new();
    for &index in rows.keys() {
        let pool = Pool {
            name: name(index),
            backends: 0,
            slots: slots(&maps.ring(index), &mut held),
        };
        pools.insert(index, pool);
    }
    let (found, _): read::Backends = maps.backends()?;
    let mut backends = Vec::new();
    for (&index, backend) in &found {
        let info = &backend.info;
        if let Some(pool) = pools.get_mut(&info.pool) {
            pool.backends += 1;
        }
        backends.push(Backend {
            pool: name(info.pool),
            name: untext(&info.name).to_owned(),
            id: info.id,
            weight: info.weight,
            reachable: info.next_hop == next_hop::RESOLVED,
            slots: held[usize::from(index)],
            counter: maps.backend_counter(index)?,
        });
    }
    let mut vips = Vec::new();
    for (key, value) in maps.vips()?.iter().filter(|(_, value)| value.is_served()) {
        vips.push(Vip {
            name: vip_name(key),
            pool: name(value.pool),
            counter: maps.vip_counter(value.index)?,
        });
    }
    let stops = Stop::ALL.iter().map(|&stop| Ok((stop, maps.stop_counter(stop)?)));
    // The program doesn't count what a slot alone decides: it would be one more write for every packet.
    let picks = By::ALL.into_iter().filter(|by| *by != By::Slot);
    let picks = picks.map(|by| Ok((by, maps.pick_counter(by)?)));
    Ok(Programmed {
        generation: meta.generation,
        applied_at: meta.applied_at,
        vips,
        backends,
        pools: pools.into_values().collect(),
        stops: stops.collect::<Result<_, dataplane::Error>>()?,
        picks: picks.collect::<Result<_, dataplane::Error>>()?,
    })
}

/// Counts slots by state, and adds to `held` who has them, by backend index.
fn slots(ring: &[Slot], held: &mut [u32]) -> Slots {
    let mut slots = Slots::default();
    for slot in ring {
        held[usize::from(slot.current())] += 1;
        slots.empty += u32::from(slot.current() == NO_BACKEND);
        slots.tracked += u32::from(slot.is_tracked());
        slots.closing += u32::from(slot.is_closing());
    }
    slots
}

/// As the configuration's messages and `lbctl` write it.
fn vip_name(key: &vip::Key) -> String {
    let address = match IpAddr::from(key.addr) {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let port = match key.port.get() {
        0 => "any".to_owned(),
        port => port.to_string(),
    };
    let protocol = match key.proto {
        proto::TCP => "tcp",
        proto::UDP => "udp",
        _ => "?",
    };
    format!("{address}:{port}/{protocol}")
}

#[cfg(test)]
mod tests {
    use lb_common::slot::{CLOSING, TRACKED};

    use super::*;

    #[test]
    fn slots_are_counted_by_state() {
        let mut held = vec![0; 4];
        let ring = [
            Slot::untracked(1),
            Slot::untracked(NO_BACKEND),
            Slot::new(2, 1, 0, TRACKED),
            Slot::new(2, 2, 0, TRACKED | CLOSING),
        ];
        let counted = slots(&ring, &mut held);
        assert_eq!(
            counted,
            Slots {
                empty: 1,
                tracked: 2,
                closing: 1
            }
        );
        assert_eq!(held, [1, 1, 2, 0]);
    }
}
