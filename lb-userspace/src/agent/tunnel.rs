//! Keeps `lb_probe` where health checks that go through the tunnel leave this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::encap::outer_len;
use lb_common::info::{next_hop, untext};
use lb_common::probe;
use tracing::{info, warn};

use super::command::find;
use super::controller::Controller;
use crate::api::call::{Ask, Named, Ready};
use crate::api::refusal::Refusal;
use crate::dataplane::pin::Root;
use crate::dataplane::tunnel::{self, Hook, Tunnel, Wrapped};
use crate::doctor::{Outer, Patient};
use crate::health::task::Checks;
use crate::model::health::Probe;
use crate::model::{Capacity, Model, Protocol};
use crate::net;
use crate::probe::{Closed, NoWay, Wrap};
use crate::state::contents::Contents;

/// Routes are looked at again after so long, and whenever the data plane has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A VIP that somebody wants to examine is kept for so long.
const GUESTS_STAY: Duration = Duration::from_secs(60);

/// The program, as far as anybody needs it.
pub(super) struct Tunnels {
    root: Root,
    capacity: Capacity,
    loaded: Option<(Tunnel, Arc<Wrapped>)>,
    /// Interfaces that it is attached to, with their indexes.
    interfaces: BTreeMap<String, u32>,
    /// VIPs that checks don't ask, and until when they are kept.
    guests: BTreeMap<IpAddr, Instant>,
    /// What the last look was made for.
    seen: Option<(u64, Instant)>,
    /// The way that the checks were told of.
    told: Option<BTreeMap<u64, Way>>,
    /// What went wrong last, told once.
    wrong: Option<String>,
}

impl Tunnels {
    pub(super) fn new(root: &Root, capacity: Capacity) -> Self {
        Self {
            root: root.clone(),
            capacity,
            loaded: None,
            interfaces: BTreeMap::new(),
            guests: BTreeMap::new(),
            seen: None,
            told: None,
            wrong: None,
        }
    }

    /// Follows the controller: where the program is attached, and what checks know of backends.
    pub(super) async fn follow(&mut self, controller: &Controller, checks: &Checks) {
        let now = Instant::now();
        self.guests.retain(|_, until| *until > now);
        let due = self.seen.is_none_or(|(generation, at)| {
            generation != controller.generation() || now.duration_since(at) >= LOOK_EVERY
        });
        let vips = self.vips(controller.model());
        if due {
            self.seen = Some((controller.generation(), now));
            self.attach(&vips).await;
        }
        if vips.is_empty() {
            return;
        }
        let ways = ways(controller.target());
        if self.told.as_ref() != Some(&ways) {
            checks.wrap(self.wrap(ways.clone()));
            self.told = Some(ways);
        }
    }

    /// Gets a backend ready to be examined.
    pub(super) async fn doctor(&mut self, controller: &Controller, ask: Ask<Named, Box<Ready>>) {
        let ready = match patient(controller, &ask.what) {
            Ok(patient) => {
                let wrap = self.admit(controller, patient.vip).await;
                Ok(Box::new(Ready { patient, wrap }))
            }
            Err(refusal) => Err(refusal),
        };
        // Who has hung up needs no answer.
        drop(ask.reply.send(ready));
    }

    /// The way through the tunnel for questions to `vip`, whether checks ask there or not.
    async fn admit(&mut self, controller: &Controller, vip: IpAddr) -> Arc<dyn Wrap> {
        self.guests.insert(vip, Instant::now() + GUESTS_STAY);
        let vips = self.vips(controller.model());
        self.attach(&vips).await;
        self.wrap(ways(controller.target()))
    }

    /// The addresses that are asked.
    fn vips(&self, model: &Model) -> Vec<IpAddr> {
        let checks = model.pools.iter().filter_map(|pool| pool.health.as_ref());
        let asked: BTreeSet<IpAddr> = checks.filter_map(|health| health.vip).collect();
        asked.into_iter().chain(self.guests.keys().copied()).collect()
    }

    async fn attach(&mut self, vips: &[IpAddr]) {
        let done = self.try_attach(vips).await;
        let wrong = done.err().map(|error| format!("{error:#}"));
        if let Some(error) = &wrong
            && self.wrong != wrong
        {
            warn!("health checks can't go through the tunnel: {error}");
        }
        if self.wrong != wrong {
            // The checks hear of it, too.
            self.told = None;
            self.wrong = wrong;
        }
    }

    async fn try_attach(&mut self, vips: &[IpAddr]) -> anyhow::Result<()> {
        if vips.is_empty() {
            if self.loaded.take().is_some() || !tunnel::interfaces(&self.root)?.is_empty() {
                tunnel::detach(&self.root)?;
                self.interfaces.clear();
                info!("no check goes through the tunnel any more, lb_probe is taken off");
            }
            return Ok(());
        }
        let wanted = net::interfaces_towards(vips).await?;
        if self.loaded.is_none() {
            let (tunnel, wrapped) = Tunnel::load(&self.root, self.capacity, Hook::of_kernel())?;
            self.loaded = Some((tunnel, Arc::new(wrapped)));
            self.interfaces.clear();
            self.told = None;
        }
        let pinned: BTreeSet<String> = tunnel::interfaces(&self.root)?.into_iter().collect();
        if let Some((tunnel, _)) = &mut self.loaded
            && (wanted != self.interfaces || !pinned.iter().eq(wanted.keys()))
        {
            let names: Vec<String> = wanted.keys().cloned().collect();
            tunnel.attach(&names)?;
            info!("lb_probe is attached to {}", names.join(", "));
            self.interfaces = wanted;
        }
        Ok(())
    }

    fn wrap(&self, ways: BTreeMap<u64, Way>) -> Arc<dyn Wrap> {
        match &self.loaded {
            Some((_, wrapped)) => Arc::new(Ways {
                ways,
                wrapped: Arc::clone(wrapped),
                wrong: self.wrong.clone(),
            }),
            None => Arc::new(Closed(self.wrong.clone().unwrap_or_default())),
        }
    }
}

/// What is known of a backend that is to be examined.
fn patient(controller: &Controller, named: &Named) -> Result<Patient, Refusal> {
    let model = controller.model();
    let (pool, backend) = find(model, (&named.pool, &named.backend))?;
    let place = model.pools.iter().position(|other| other.name == pool.name);
    let of_pool = || model.vips.iter().filter(|vip| Some(vip.pool) == place);
    let check = pool.health.as_ref();
    let asked = check.and_then(|check| check.vip);
    let wanted = check.map_or(Protocol::Tcp, |check| transport(&check.probe));
    // As the configuration chooses it for a check, and any rather than none.
    let vip = of_pool()
        .find(|vip| asked.map_or(vip.protocol == wanted, |asked| vip.address == asked))
        .or_else(|| of_pool().next())
        .ok_or_else(|| Refusal::NoVip {
            pool: named.pool.clone(),
        })?;
    let port = check.and_then(|check| port(&check.probe)).unwrap_or(vip.port);
    let held = controller
        .target()
        .backends
        .values()
        .find(|held| held.info.id == backend.id);
    Ok(Patient {
        name: format!("{}/{}", named.pool, named.backend),
        id: backend.id,
        address: backend.address,
        vip: vip.address,
        // Any answers, be it by a refusal.
        port: if port == 0 { 9 } else { port },
        check: check.cloned().map(Arc::new),
        way: match held {
            Some(held) if held.info.next_hop == next_hop::RESOLVED => Ok(Outer {
                source: held.entry.src.into(),
                varies: held.entry.entropy != 0,
                len: outer_len(&held.entry),
                mtu: held.entry.mtu,
            }),
            Some(held) => Err(untext(&held.info.why).to_owned()),
            None => Err("the data plane doesn't have it".to_owned()),
        },
    })
}

fn transport(probe: &Probe) -> Protocol {
    match probe {
        Probe::Udp(_) => Protocol::Udp,
        Probe::Tcp { .. } | Probe::Http(_) | Probe::Grpc(_) | Probe::Icmp => Protocol::Tcp,
    }
}

fn port(probe: &Probe) -> Option<u16> {
    match probe {
        Probe::Tcp { port } => Some(*port),
        Probe::Http(http) => Some(http.port),
        Probe::Grpc(grpc) => Some(grpc.port),
        Probe::Udp(udp) => Some(udp.port),
        Probe::Icmp => None,
    }
}

/// A backend's index, or why it can't be reached.
type Way = Result<u16, String>;

/// Backends by stable identity.
fn ways(contents: &Contents) -> BTreeMap<u64, Way> {
    let way = |(index, backend): (&u16, &crate::state::contents::Backend)| {
        let info = &backend.info;
        let way = match info.next_hop {
            next_hop::RESOLVED => Ok(*index),
            _ => Err(untext(&info.why).to_owned()),
        };
        (info.id, way)
    };
    contents.backends.iter().map(way).collect()
}

/// The way through the tunnel, as it is at a moment.
struct Ways {
    ways: BTreeMap<u64, Way>,
    wrapped: Arc<Wrapped>,
    wrong: Option<String>,
}

impl std::fmt::Debug for Ways {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ways")
            .field("ways", &self.ways)
            .finish_non_exhaustive()
    }
}

impl Wrap for Ways {
    fn mark(&self, backend: u64) -> Result<u32, NoWay> {
        if let Some(wrong) = &self.wrong {
            return Err(NoWay::NotAttached(wrong.clone()));
        }
        match self.ways.get(&backend) {
            Some(Ok(index)) => Ok(probe::mark(*index)),
            Some(Err(why)) => Err(NoWay::NoNextHop(why.clone())),
            None => Err(NoWay::Unknown),
        }
    }

    fn wrapped(&self, mark: u32) -> Option<u64> {
        let index = probe::backend(mark)?;
        self.wrapped.counter(index).ok().map(|counter| counter.packets)
    }
}
