//! Commands of operators: each is done as a whole, or refused and nothing is changed.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::info::untext;
use lb_common::slot::NO_BACKEND;
use tracing::{info, warn};

use super::controller::{Controller, now};
use super::desk::Desk;
use super::store::{Draft, StoreError};
use crate::api::call::{About, Call, Command, Text, Verb, Who};
use crate::api::dto::{
    Applied, BackendState, Backends, Charter, Leaving, Ordered, Planned, RampState, Running,
};
use crate::api::refusal::Refusal;
use crate::api::tracked::{self, Tracked, Wanted};
use crate::config;
use crate::dataplane;
use crate::dataplane::flows::{self, Table};
use crate::journal::{Cause, Event};
use crate::model::{self, Model};
use crate::state::contents::Contents;
use crate::state::operator::{self, Admin, Order, Share};
use crate::state::plan::{Plan, slots_moved};
use crate::state::standing::Standings;
use crate::state::wall::Wall;

/// So many names are told to who has named none of them.
const NAMES: usize = 8;

/// How far a name may be from one that was meant, 0 to 1.
const LIKE: f64 = 0.6;

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Disk {
            path: error.path,
            why: error.why,
        }
    }
}

/// An order that changes something, and may.
pub(super) struct Weighed {
    pub(super) pool: String,
    /// Stable identity of the backend.
    pub(super) id: u64,
    /// `pool/backend`.
    name: String,
    order: Order,
    before: operator::Operator,
    /// All orders with this one.
    pub(super) after: operator::Operator,
    /// What the maps were to hold before.
    pub(super) held: Contents,
}

impl Weighed {
    /// In words.
    pub(super) fn what(&self) -> String {
        let mut event = event(&self.name, self.order, 0).to_string();
        event.truncate(event.rfind("; ").unwrap_or(event.len()));
        event
    }
}

impl Desk {
    /// Does what a call asks, and answers. Who has hung up gets no answer, but is obeyed.
    pub(super) async fn call(&mut self, controller: &mut Controller, call: Call) {
        let who = call.who;
        match call.command {
            Command::Order(ask) if self.keeper.is_some() => self.order_in_group(controller, who, ask).await,
            Command::Apply(ask) if self.keeper.is_some() => self.apply_in_group(controller, who, ask).await,
            Command::Rollback(ask) => self.rollback(controller, who, ask).await,
            Command::History(ask) => drop(ask.reply.send(self.history())),
            Command::Order(ask) => {
                drop(ask.reply.send(self.order(controller, who, &ask.what).await));
            }
            Command::Backends(ask) => drop(ask.reply.send(Ok(backends(controller)))),
            Command::Tracked(ask) => drop(ask.reply.send(tracked_slots(controller, &ask.what))),
            Command::Plan(ask) => drop(ask.reply.send(self.plan(controller, &ask.what).await)),
            Command::Apply(ask) => {
                drop(ask.reply.send(self.apply(controller, who, ask.what).await));
            }
            Command::Running(ask) => drop(ask.reply.send(Ok(self.running(controller)))),
            // Asked of whoever holds the way to the peers.
            Command::Ready(ask) => drop(ask.reply.send(Err(Refusal::NoPeers))),
            Command::Leave(ask) => drop(ask.reply.send(Err(Refusal::NoPeers))),
            Command::Forget(ask) => drop(ask.reply.send(Err(Refusal::NoPeers))),
            // Asked of whoever holds the way through the tunnel.
            Command::Doctor(ask) => drop(ask.reply.send(Err(Refusal::NoAnswer))),
        }
    }

    async fn order(
        &mut self,
        controller: &mut Controller,
        who: Who,
        about: &About,
    ) -> Result<Ordered, Refusal> {
        let weighed = match self.weigh(controller, about).await? {
            Ok(weighed) => weighed,
            Err(same) => return Ok(same),
        };
        // On disk first: what a restart would forget must not hold.
        self.save(&weighed.after)?;
        if let Err(e) = controller.obey(weighed.after.clone()).await {
            if let Err(e) = self.save(&weighed.before) {
                warn!("orders that failed stay on disk: {e}");
            }
            return Err(Refusal::Failed(e));
        }
        let moved = slots_moved(&weighed.pool, &weighed.held, controller.target());
        let event = event(&weighed.name, weighed.order, moved);
        info!(uid = who.uid, pid = who.pid, "{event}");
        let mut events = vec![event];
        events.append(&mut controller.take_news());
        self.record(controller.generation(), &cause(who), events);
        Ok(Ordered {
            changed: true,
            slots_moved: moved,
            backend: state_of(controller, &weighed.pool, weighed.id),
            without: Vec::new(),
        })
    }

    /// What an order would come to; the answer at once, where it holds already.
    ///
    /// # Errors
    /// What is refused before anybody is asked.
    pub(super) async fn weigh(
        &self,
        controller: &mut Controller,
        about: &About,
    ) -> Result<Result<Weighed, Ordered>, Refusal> {
        let (pool, backend) = find(controller.model(), (&about.pool, &about.backend))?;
        let (pool, id, configured) = (pool.name.to_string(), backend.id, backend.weight);
        let name = format!("{pool}/{}", backend.name);
        let now = now();
        let before = controller.operator().clone();
        let order = absolute(about.verb, now);
        let after = before.settled(now).with(id, &name, configured, order, now);
        let after = after.map_err(|why| Refusal::Contradiction {
            backend: name.clone(),
            why,
        })?;
        if after == before {
            return Ok(Err(Ordered {
                changed: false,
                slots_moved: 0,
                backend: state_of(controller, &pool, id),
                without: Vec::new(),
            }));
        }
        let held = controller.target().clone();
        if !is_forced(about.verb) {
            let model = controller.model().clone();
            let would = controller
                .foresee(&model, &after)
                .await
                .map_err(Refusal::Failed)?;
            if serves(&held, &pool) && !serves(&would, &pool) {
                return Err(Refusal::LastOne { pool });
            }
        }
        Ok(Ok(Weighed {
            pool,
            id,
            name,
            order,
            before,
            after,
            held,
        }))
    }

    async fn plan(&mut self, controller: &mut Controller, text: &Text) -> Result<Planned, Refusal> {
        let model = match self.keeper.is_some() {
            true => self.would_be(controller, text).await?,
            false => self.accept(controller, text).await?,
        };
        let plan = controller.plan(&model).await.map_err(Refusal::Failed)?;
        let leaving = leaving(controller, &plan).map_err(|e| Refusal::Failed(e.into()))?;
        Ok(Planned {
            generation: self.generation(controller),
            group: self.charter().map(|charter| charter.generation),
            plan,
            leaving,
        })
    }

    /// What a text may ask to be put in place of: the number of the group's generation, or this node's own count where it is in none.
    fn generation(&self, controller: &Controller) -> u64 {
        let charter = self.charter();
        charter.map_or(controller.generation(), |charter| charter.committed.number)
    }

    /// The model of a text, which this host can run.
    async fn accept(&self, controller: &Controller, text: &Text) -> Result<Model, Refusal> {
        let model = self.understand(controller, text)?;
        controller.check_links(&model).await.map_err(Refusal::Host)?;
        Ok(model)
    }

    /// The model of a text.
    pub(super) fn understand(&self, controller: &Controller, text: &Text) -> Result<Model, Refusal> {
        if let Some(wanted) = text.naming.generation
            && wanted != self.generation(controller)
        {
            return Err(Refusal::Generation {
                running: self.generation(controller),
                wanted,
            });
        }
        Ok(config::parse(&text.text, &self.config).map_err(|mut error| {
            if let Some(name) = &text.naming.name {
                error.file = name.into();
            }
            error
        })?)
    }

    async fn apply(&mut self, controller: &mut Controller, who: Who, text: Text) -> Result<Applied, Refusal> {
        let source = text
            .naming
            .name
            .clone()
            .unwrap_or_else(|| "(a request)".to_owned());
        let done = self.try_apply(controller, who, text).await;
        match &done {
            Ok(applied) => info!(
                uid = who.uid,
                pid = who.pid,
                generation = applied.generation,
                "configuration of {source} applied"
            ),
            Err(refusal) => {
                warn!(
                    uid = who.uid,
                    pid = who.pid,
                    "configuration of {source} refused, the running one stays:\n{refusal}"
                );
                let why = anyhow::anyhow!("{refusal}");
                self.refused(controller, &cause(who), &source, &why);
            }
        }
        done
    }

    async fn try_apply(
        &mut self,
        controller: &mut Controller,
        who: Who,
        text: Text,
    ) -> Result<Applied, Refusal> {
        let model = self.accept(controller, &text).await?;
        let refused = controller.fixed(&model).map_err(Refusal::Failed)?;
        if !refused.is_empty() {
            return Err(Refusal::Fixed(refused));
        }
        let path = self.real_config().map_err(|why| Refusal::Disk {
            path: self.config.clone(),
            why,
        })?;
        // The new file is on the disk before anything changes: a full disk is noticed in time.
        let draft = Draft::write(&path, text.text.as_bytes())?;
        let (old, old_text) = (controller.model().clone(), self.in_force.text.clone());
        let put = self.put(controller, model, text.text, &cause(who)).await;
        let plan = put.map_err(Refusal::Failed)?;
        let backup = match draft.publish_with_backup() {
            Ok(backup) => backup,
            Err(e) => {
                if let Err(back) = self.put(controller, old, old_text, &cause(who)).await {
                    warn!("the configuration of before could not be restored: {back:#}");
                }
                return Err(e.into());
            }
        };
        Ok(Applied {
            generation: controller.generation(),
            plan,
            file: path.display().to_string(),
            backup: backup.map(|path| path.display().to_string()),
            group: None,
            without: Vec::new(),
        })
    }

    fn running(&self, controller: &Controller) -> Running {
        let on_disk = config::text(&self.config);
        Running {
            generation: controller.generation(),
            file: self.config.display().to_string(),
            source: self.in_force.source.clone(),
            since: self.in_force.since.0,
            file_differs: on_disk.as_ref() != Ok(&self.in_force.text),
            text: config::masked(&self.in_force.text),
            charter: self.charter().map(|standing| Charter {
                generation: standing.generation,
                pending: standing.pending,
                equal: standing.equal,
                in_force: standing.in_force,
                drift: standing.drift,
            }),
        }
    }
}

/// The backends that a plan takes away, with the entries that name them.
fn leaving(controller: &mut Controller, plan: &Plan) -> Result<Vec<Leaving>, dataplane::Error> {
    let names: BTreeSet<(&str, &str)> = plan.leaving().collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let contents = controller.target();
    let named = contents.backends.iter().filter_map(|(&index, backend)| {
        let pool = untext(&contents.pools.get(&backend.info.pool)?.name);
        let name = (pool, untext(&backend.info.name));
        names
            .contains(&name)
            .then(|| (index, format!("{}/{}", name.0, name.1)))
    });
    let mut leaving: BTreeMap<u16, Leaving> = named
        .map(|(index, backend)| (index, Leaving { backend, entries: 0 }))
        .collect();
    let maps = &controller.balancer().maps;
    for table in Table::ALL {
        for (_, entry) in maps.entries(table)? {
            if let Some(one) = leaving.get_mut(&entry.backend) {
                one.entries += 1;
            }
        }
    }
    let mut leaving: Vec<Leaving> = leaving.into_values().collect();
    leaving.sort_unstable_by(|a, b| a.backend.cmp(&b.backend));
    Ok(leaving)
}

pub(super) fn cause(who: Who) -> Cause {
    Cause::Operator {
        uid: who.uid,
        pid: who.pid,
    }
}

fn is_forced(verb: Verb) -> bool {
    match verb {
        Verb::Drain(drain) => drain.force,
        Verb::Down(plain) => plain.force,
        Verb::Weight(weight) => weight.force,
        Verb::Undrain | Verb::Up | Verb::Ramp(_) => false,
    }
}

fn absolute(verb: Verb, now: Wall) -> Order {
    match verb {
        Verb::Drain(drain) => Order::Drain {
            deadline: drain.deadline_ms.map(|ms| Wall(now.0.saturating_add(ms))),
        },
        Verb::Undrain => Order::Undrain,
        Verb::Down(_) => Order::Down,
        Verb::Up => Order::Up,
        Verb::Weight(weight) => Order::Weight(weight.weight),
        Verb::Ramp(ramp) => Order::Ramp(operator::Ramp {
            start: now,
            steps: ramp.steps,
            over_ms: ramp.over_ms,
        }),
    }
}

fn event(name: &str, order: Order, slots_moved: u32) -> Event {
    let backend = name.to_owned();
    match order {
        Order::Drain { deadline } => Event::Drained {
            backend,
            deadline,
            slots_moved,
        },
        Order::Undrain => Event::Undrained { backend, slots_moved },
        Order::Down => Event::MarkedDown { backend, slots_moved },
        Order::Up => Event::MarkedUp { backend, slots_moved },
        Order::Weight(weight) => Event::WeightSet {
            backend,
            weight,
            slots_moved,
        },
        Order::Ramp(ramp) => Event::RampStarted {
            backend,
            steps: ramp.steps,
            over_ms: ramp.over_ms,
            slots_moved,
        },
    }
}

/// Whether a pool has somebody for new flows.
fn serves(contents: &Contents, pool: &str) -> bool {
    let index = contents.pools.iter().find(|(_, p)| untext(&p.name) == pool);
    let ring = index.and_then(|(index, _)| contents.rings.get(index));
    // Either all slots are empty or none is.
    ring.is_some_and(|ring| ring.first().is_some_and(|&slot| slot != NO_BACKEND))
}

/// A backend by the names of its pool and itself.
pub(super) fn find<'m>(
    model: &'m Model,
    (of, name): (&str, &str),
) -> Result<(&'m model::Pool, &'m model::Backend), Refusal> {
    let pools = || model.pools.iter().map(|pool| pool.name.as_str());
    let pool = model.pools.iter().find(|pool| pool.name.as_str() == of);
    let pool = pool.ok_or_else(|| Refusal::UnknownPool {
        name: of.to_owned(),
        near: near(of, pools()),
    })?;
    let names = || pool.backends.iter().map(|backend| backend.name.as_str());
    let backend = pool.backends.iter().find(|b| b.name.as_str() == name);
    let backend = backend.ok_or_else(|| Refusal::UnknownBackend {
        pool: of.to_owned(),
        name: name.to_owned(),
        near: near(name, names()),
    })?;
    Ok((pool, backend))
}

/// The name that was meant, or else some that there are.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    // A comparison takes time in proportion to both lengths, and names have at most 32 characters.
    let name: String = name.chars().take(2 * model::NAME_MAX).collect();
    let mut known: Vec<(f64, &str)> = known.map(|k| (strsim::jaro_winkler(&name, k), k)).collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = known.first().map_or(0.0, |(score, _)| *score);
    // Several that are alike, such as be1 and be2 for be9, are all told.
    let meant = known.iter().filter(|(score, _)| *score == best && best >= LIKE);
    let meant: Vec<String> = meant.take(NAMES).map(|(_, k)| (*k).to_owned()).collect();
    match meant.len() {
        0 => known.iter().take(NAMES).map(|(_, k)| (*k).to_owned()).collect(),
        _ => meant,
    }
}

fn tracked_slots(controller: &Controller, wanted: &Wanted) -> Result<Tracked, Refusal> {
    let contents = controller.target();
    let only = wanted.pool.as_deref();
    if let Some(name) = only {
        let known = || contents.pools.values().map(|pool| untext(&pool.name));
        if !known().any(|known| known == name) {
            return Err(Refusal::UnknownPool {
                name: name.to_owned(),
                near: near(name, known()),
            });
        }
    }
    let limit = wanted.limit.unwrap_or(tracked::LIMIT_DEFAULT);
    Ok(tracked::tracked(
        controller.held(),
        contents,
        only,
        limit,
        flows::now(),
    ))
}

fn backends(controller: &Controller) -> Backends {
    let view = Now::of(controller);
    let pools = controller.model().pools.iter();
    let all = pools.flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    Backends {
        backends: all.map(|(pool, backend)| view.state(pool, backend)).collect(),
    }
}

/// The state of a backend that the model has.
pub(super) fn state_of(controller: &Controller, pool: &str, id: u64) -> BackendState {
    let view = Now::of(controller);
    let pools = &controller.model().pools;
    let pool = pools.iter().find(|p| p.name.as_str() == pool);
    let pool = pool.expect("it was found in this model");
    let backend = pool.backends.iter().find(|b| b.id == id);
    view.state(pool, backend.expect("it was found in this pool"))
}

/// What is known of all backends at a moment.
struct Now<'c> {
    controller: &'c Controller,
    standings: Standings,
    /// By stable identity.
    slots: BTreeMap<u64, u32>,
    now: Wall,
}

impl<'c> Now<'c> {
    fn of(controller: &'c Controller) -> Self {
        let contents = controller.target();
        let mut slots = BTreeMap::new();
        for index in contents.rings.values().flat_map(|ring| ring.iter()) {
            if let Some(backend) = contents.backends.get(index) {
                *slots.entry(backend.info.id).or_insert(0) += 1;
            }
        }
        Self {
            controller,
            standings: controller.standings(),
            slots,
            now: now(),
        }
    }

    fn state(&self, pool: &model::Pool, backend: &model::Backend) -> BackendState {
        let orders = self.controller.operator().of(backend.id);
        let admin = orders.and_then(|orders| orders.admin);
        let share = orders.and_then(|orders| orders.share);
        BackendState {
            pool: pool.name.to_string(),
            name: backend.name.to_string(),
            standing: self.standings.of(backend.id).name().to_owned(),
            admin: admin.map(|admin| match admin {
                Admin::Drain { .. } => "drain".to_owned(),
                Admin::Down {} => "down".to_owned(),
            }),
            deadline: admin.and_then(|admin| match admin {
                Admin::Drain { deadline } => deadline.map(|wall| wall.0),
                Admin::Down {} => None,
            }),
            configured_weight: backend.weight,
            weight: share.and_then(|share| match share {
                Share::Weight(weight) => Some(weight),
                Share::Ramp(_) => None,
            }),
            ramp: share.and_then(|share| match share {
                Share::Ramp(ramp) => Some(RampState {
                    step: ramp.step(self.now),
                    steps: ramp.steps,
                    ends: ramp.start.0.saturating_add(ramp.over_ms),
                }),
                Share::Weight(_) => None,
            }),
            slots: self.slots.get(&backend.id).copied().unwrap_or(0),
        }
    }
}
