//! What the agent keeps on disk beside the maps: the operator's orders, the journal, the configuration file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{error, info};

use super::args::Args;
use super::charter::Keeper;
use super::controller::{Controller, now};
use super::health;
use super::store::{Loaded, Store, StoreError};
use crate::config;
use crate::health::monitor;
use crate::journal::{Cause, Event, Journal, Record};
use crate::metrics::{Endpoint, Loads};
use crate::model::Model;
use crate::state::contents::Contents;
use crate::state::operator::{Operator, Passed};
use crate::state::plan::{Plan, plan};
use crate::state::wall::Wall;

/// The operator's orders, in the state folder.
const ORDERS: &str = "operator.json";

/// The content of [`ORDERS`].
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// Up to when it is known what time alone has changed.
    seen: Wall,
    operator: Operator,
}

/// The configuration that is in force, as text.
pub(super) struct InForce {
    pub(super) text: String,
    pub(super) source: String,
    pub(super) since: Wall,
}

/// Keeps state, journal and configuration file.
pub(super) struct Desk {
    state_dir: PathBuf,
    pub(super) config: PathBuf,
    journal: Option<Journal>,
    pub(super) in_force: InForce,
    seen: Wall,
    /// What became of configurations.
    pub(super) loads: Loads,
    /// Where metrics are served; there is none before the start is done.
    pub(super) endpoint: Option<Endpoint>,
    /// Told of what was found on disk, to be recorded when there is a generation.
    findings: Vec<Event>,
    /// The group's charter, in a group.
    pub(super) keeper: Option<Keeper>,
}

impl Desk {
    /// Opens the state folder. One that can't be used is told, and without a group no reason not to balance: orders are refused
    /// then, since they would not survive.
    pub(super) fn open(args: &Args, text: String, keeper: Option<Keeper>) -> (Self, Operator) {
        let mut desk = Self {
            state_dir: args.state_dir.clone(),
            config: args.config.clone(),
            journal: None,
            in_force: InForce {
                text,
                source: "start".to_owned(),
                since: now(),
            },
            seen: now(),
            loads: Loads::default(),
            endpoint: None,
            findings: Vec::new(),
            keeper,
        };
        desk.loads.applied(now());
        let saved = desk.load().unwrap_or_else(|e| {
            error!(
                "the operator's orders can't be read, nothing is drained, down or reweighted by them: {e} (--state-dir)"
            );
            Saved::default()
        });
        if saved.seen != Wall::default() {
            desk.seen = saved.seen.min(now());
        }
        desk.open_journal();
        let of_group = desk.keeper.as_ref().and_then(Keeper::orders);
        let operator = of_group.cloned().unwrap_or(saved.operator);
        desk.findings.extend(
            desk.keeper
                .as_mut()
                .map(Keeper::take_findings)
                .unwrap_or_default(),
        );
        (desk, operator)
    }

    fn load(&mut self) -> Result<Saved, StoreError> {
        match Store::open(&self.state_dir)?.load(ORDERS)? {
            Loaded::Nothing => Ok(Saved::default()),
            Loaded::Value(saved) => Ok(saved),
            Loaded::Unreadable { kept, why } => {
                error!(
                    "the operator's orders can't be understood, nothing is drained, down or reweighted by them: {why}; \
                     the file is kept as {}",
                    kept.display()
                );
                let kept = kept.display().to_string();
                self.findings.push(Event::OrdersUnreadable { kept, why });
                Ok(Saved::default())
            }
        }
    }

    /// Replaces the orders on disk.
    pub(super) fn save(&self, operator: &Operator) -> Result<(), StoreError> {
        let saved = Saved {
            seen: self.seen,
            operator: operator.clone(),
        };
        Store::open(&self.state_dir)?.save(ORDERS, &saved)
    }

    /// The same where there is nobody to tell.
    pub(super) fn save_or_log(&self, operator: &Operator) {
        if let Err(e) = self.save(operator) {
            error!("the operator's orders could not be written: {e}");
        }
    }

    fn open_journal(&mut self) {
        if self.journal.is_some() {
            return;
        }
        let opened = Store::open(&self.state_dir)
            .map_err(|e| e.to_string())
            .and_then(|store| Journal::open(store.dir()).map_err(|e| e.to_string()));
        match opened {
            Ok(journal) => self.journal = Some(journal),
            Err(e) => error!("no journal: {e} (--state-dir)"),
        }
    }

    /// Writes events that an operator, a configuration or the agent's life caused, and waits for the disk.
    pub(super) fn record(&mut self, generation: u64, cause: &Cause, events: Vec<Event>) {
        self.write(generation, cause, events, true);
    }

    /// Writes events that have no one who waits; the kernel brings them to the disk.
    pub(super) fn note(&mut self, generation: u64, cause: &Cause, events: Vec<Event>) {
        self.write(generation, cause, events, false);
    }

    fn write(&mut self, generation: u64, cause: &Cause, events: Vec<Event>, sync: bool) {
        if events.is_empty() {
            return;
        }
        self.open_journal();
        let Some(journal) = &mut self.journal else { return };
        let time = now();
        let mut written = Ok(());
        for event in events {
            let record = Record {
                seq: 0,
                time,
                generation,
                cause: cause.clone(),
                event,
            };
            written = written.and_then(|()| journal.append(record));
        }
        if sync {
            written = written.and_then(|()| journal.sync());
        }
        if let Err(e) = written {
            error!("{e}; some events are missing there");
            // A file that was moved or removed is made anew.
            self.journal = None;
        }
    }

    /// What the start found and did, once the data plane is right.
    pub(super) fn started(&mut self, controller: &mut Controller, adopted: bool) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let mut events = vec![Event::Started { version, adopted }];
        events.append(&mut self.findings);
        // That all others were found is what a start is.
        let lost = |event: &Event| matches!(event, Event::NextHopLost { .. });
        events.extend(controller.take_news().into_iter().filter(lost));
        self.record(controller.generation(), &Cause::Start, events);
        self.drop_gone(controller, &Cause::Start);
    }

    /// Forgets orders for backends that the configuration no longer has.
    fn drop_gone(&mut self, controller: &mut Controller, cause: &Cause) {
        let (operator, gone) = controller.operator().within(controller.model());
        if gone.is_empty() {
            return;
        }
        self.save_or_log(&operator);
        controller.tidy_orders(operator);
        for backend in &gone {
            info!("backend {backend} left the configuration: the operator's orders for it are dropped");
        }
        let events = gone.into_iter().map(|backend| Event::OrdersDropped { backend });
        self.record(controller.generation(), cause, events.collect());
    }

    /// Notes whether this node has left its group.
    pub(super) fn note_left(&mut self, left: bool) {
        if let Some(keeper) = &mut self.keeper {
            keeper.note_left(left);
        }
    }

    /// What was noted last.
    pub(super) fn has_left(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::has_left)
    }

    /// Reads the configuration file again and puts it into effect.
    pub(super) async fn reload(&mut self, controller: &mut Controller) -> anyhow::Result<()> {
        let path = self.config.clone();
        if self.keeper.is_some() {
            let done = self.reload_local(controller).await;
            return done
                .inspect_err(|e| self.refused(controller, &Cause::Reload, &path.display().to_string(), e));
        }
        let loaded = config::text(&path).and_then(|text| Ok((config::parse(&text, &path)?, text)));
        let done = match loaded {
            Ok((model, text)) => self.put(controller, model, text, &Cause::Reload).await,
            Err(e) => Err(e.into()),
        };
        match done {
            Ok(_) => Ok(()),
            Err(e) => {
                self.refused(controller, &Cause::Reload, &path.display().to_string(), &e);
                Err(e)
            }
        }
    }

    /// Records a refused configuration.
    pub(super) fn refused(
        &mut self,
        controller: &Controller,
        cause: &Cause,
        source: &str,
        why: &anyhow::Error,
    ) {
        self.loads.refused();
        let event = Event::ConfigRefused {
            source: source.to_owned(),
            why: format!("{why:#}").chars().take(2000).collect(),
        };
        self.record(controller.generation(), cause, vec![event]);
    }

    /// Puts a configuration into effect, and says what that changed.
    pub(super) async fn put(
        &mut self,
        controller: &mut Controller,
        model: Model,
        text: String,
        cause: &Cause,
    ) -> anyhow::Result<Plan> {
        let (old, before): (Model, Contents) = (controller.model().clone(), controller.target().clone());
        self.reload_with_endpoint(controller, model).await?;
        self.loads.applied(now());
        let plan = plan(&old, controller.model(), &before, controller.target());
        self.in_force = InForce {
            text,
            source: cause.to_string(),
            since: now(),
        };
        let mut events = vec![Event::ConfigApplied {
            source: controller.model().path.display().to_string(),
            slots_moved: plan.pools.iter().map(|pool| pool.slots_moved).sum(),
            changed: !plan.is_empty(),
        }];
        events.append(&mut controller.take_news());
        self.record(controller.generation(), cause, events);
        self.drop_gone(controller, cause);
        Ok(plan)
    }

    /// Records what the network did.
    pub(super) fn followed(&mut self, controller: &mut Controller) {
        let news = controller.take_news();
        self.note(controller.generation(), &Cause::Network, news);
    }

    /// Records what the health checks have found.
    pub(super) fn judged(&mut self, controller: &Controller, events: &[monitor::Event]) {
        health::tell(events);
        let events = events.iter().map(health::event).collect();
        self.note(controller.generation(), &Cause::Health, events);
    }

    /// How long it is until time alone changes something.
    pub(super) fn due(&self, controller: &Controller) -> Option<Duration> {
        let when = controller.operator().next_change(self.seen)?;
        Some(when.since(now()))
    }

    /// Puts into effect what time alone has changed: a drain's deadline, a step of a ramp.
    pub(super) async fn time_passed(&mut self, controller: &mut Controller) {
        let now = now();
        let passed = controller.operator().passed(self.seen, now);
        self.seen = now;
        if passed.is_empty() {
            return;
        }
        let operator = controller.operator().settled(now);
        self.save_or_log(&operator);
        if let Err(e) = controller.obey(operator).await {
            error!(
                "what is due now could not be put into effect, the next change of the network tries again: {e:#}"
            );
        }
        let event = |(backend, what)| match what {
            Passed::DrainOver => Event::DrainOver { backend },
            Passed::Step { step, steps } => Event::RampStep { backend, step, steps },
            Passed::RampOver => Event::RampOver { backend },
        };
        let mut events: Vec<Event> = passed.into_iter().map(event).collect();
        for event in &events {
            info!("{event}");
        }
        events.append(&mut controller.take_news());
        self.record(controller.generation(), &Cause::Time, events);
    }

    /// Records the end.
    pub(super) fn stopped(&mut self, controller: &Controller) {
        self.record(controller.generation(), &Cause::Stop, vec![Event::Stopped]);
    }

    /// The configuration file, behind links.
    pub(super) fn real_config(&self) -> io::Result<PathBuf> {
        match self.config.canonicalize() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(self.config.clone()),
            path => path,
        }
    }

    /// The journal's folder.
    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}
