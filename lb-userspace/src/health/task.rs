//! The thread that asks: clock, chance, sockets. It has a runtime of its own, so that neither thousands of questions
//! delay the agent nor a large change of the maps makes answers late.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use super::fail_open::FailOpen;
use super::monitor::{Event, Monitor, Question, Record, Row};
use super::{Mono, store};
use crate::model::{Health, Model};
use crate::probe::{Closed, Outcome, Prober, Way, Wrap};
use crate::state::standing::Standings;

/// Questions in flight at once: half of the file descriptors that a process may have by default.
pub const IN_FLIGHT: usize = 512;

/// The file is written no more often than this; only what happened within it is lost with a killed agent.
const SAVE_EVERY: Duration = Duration::from_millis(100);

/// Standings that differ from those of before, or something to tell.
#[derive(Clone, Debug)]
pub struct Update {
    /// All standings; backends that are not named are up.
    pub standings: Standings,
    /// What has happened, the oldest first.
    pub events: Vec<Event>,
}

/// What is known now.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// All checked backends, in the configuration's order.
    pub backends: Vec<Row>,
    /// Pools that are open, by name.
    pub open: Vec<(String, FailOpen)>,
}

enum Command {
    Configure(Box<Model>),
    Wrap(Arc<dyn Wrap>),
    Look(oneshot::Sender<Snapshot>),
    Stop,
}

/// The running checks. Dropped, they stop, and what is known is written down.
#[derive(Debug)]
pub struct Checks {
    reader: Reader,
    updates: mpsc::UnboundedReceiver<Update>,
    standings: Standings,
    thread: Option<JoinHandle<()>>,
}

/// Asks the running checks what they know.
#[derive(Clone, Debug)]
pub struct Reader {
    commands: mpsc::UnboundedSender<Command>,
}

impl Reader {
    /// What is known now; nothing when the checks have stopped.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        self.commands.send(Command::Look(answer)).ok()?;
        snapshot.await.ok()
    }
}

impl Checks {
    /// Begins to check a model's backends, with what is known from `saved`; `file` is where the next agent will find
    /// it.
    ///
    /// # Errors
    /// No thread, or no runtime for it.
    pub fn start(model: &Model, saved: &[Record], file: PathBuf) -> io::Result<Self> {
        let clock = Clock::start();
        let mut monitor = Monitor::new(IN_FLIGHT);
        monitor.configure(model, saved, clock.now());
        // What was taken over is no change.
        monitor.take_changed();
        let standings = monitor.standings().clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (out, updates) = mpsc::unbounded_channel();
        let task = Task {
            clock,
            monitor,
            probers: HashMap::new(),
            wrap: Arc::new(Closed("not yet".to_owned())),
            asked: JoinSet::new(),
            out,
            file,
            save: false,
            saving: JoinSet::new(),
        };
        let thread = std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || runtime.block_on(task.run(orders)))?;
        Ok(Self {
            reader: Reader { commands },
            updates,
            standings,
            thread: Some(thread),
        })
    }

    /// The standings that were taken over, before the first update.
    pub const fn taken_over(&self) -> &Standings {
        &self.standings
    }

    /// Waits for the next update. Nothing is lost when the wait is given up.
    pub async fn update(&mut self) -> Update {
        match self.updates.recv().await {
            Some(mut update) => {
                // What has come meanwhile is newer: to put every step into effect would move slots for nothing.
                while let Ok(next) = self.updates.try_recv() {
                    update.standings = next.standings;
                    update.events.extend(next.events);
                }
                update
            }
            // The thread is gone, which only a panic in it explains: the last verdicts stay.
            None => std::future::pending().await,
        }
    }

    /// Checks another model from here on.
    pub fn configure(&self, model: &Model) {
        self.order(Command::Configure(Box::new(model.clone())));
    }

    /// Sends questions through the tunnel by this way from here on.
    pub fn wrap(&self, wrap: Arc<dyn Wrap>) {
        self.order(Command::Wrap(wrap));
    }

    /// For whoever wants to look.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    fn order(&self, command: Command) {
        if self.reader.commands.send(command).is_err() {
            warn!("health checks have stopped; their last verdicts stay");
        }
    }
}

impl Drop for Checks {
    fn drop(&mut self) {
        self.order(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of the health checks had panicked");
        }
    }
}

/// Unix time at the start, and from there on a clock that never goes back.
struct Clock {
    start: Instant,
    unix: Duration,
}

impl Clock {
    fn start() -> Self {
        Self {
            start: Instant::now(),
            unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    fn now(&self) -> Mono {
        Mono::from_unix(self.unix + self.start.elapsed())
    }

    fn instant(&self, at: Mono) -> Instant {
        self.start + at.unix().saturating_sub(self.unix)
    }
}

struct Answer {
    id: u64,
    ticket: u64,
    outcome: Outcome,
    took: Duration,
}

struct Task {
    clock: Clock,
    monitor: Monitor,
    /// By the address of the check, which is kept so that nothing else gets it.
    probers: HashMap<usize, (Arc<Health>, Arc<Prober>)>,
    /// The way through the tunnel.
    wrap: Arc<dyn Wrap>,
    asked: JoinSet<Answer>,
    out: mpsc::UnboundedSender<Update>,
    file: PathBuf,
    /// What is known differs from the file.
    save: bool,
    saving: JoinSet<Result<(), store::Error>>,
}

impl Task {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.advance();
            let next = self.monitor.poll_timeout().map(|at| self.clock.instant(at));
            let sleep = tokio::time::sleep_until(next.unwrap_or_else(Instant::now).into());
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Command::Configure(model)) => self.configure(&model),
                    Some(Command::Wrap(wrap)) => self.wrap = wrap,
                    Some(Command::Look(to)) => drop(to.send(self.snapshot())),
                    Some(Command::Stop) | None => break,
                },
                Some(answer) = self.asked.join_next() => self.answered(answer),
                Some(saved) = self.saving.join_next() => complain(saved),
                () = sleep, if next.is_some() => {}
            }
        }
        self.asked.shutdown().await;
        while let Some(saved) = self.saving.join_next().await {
            complain(saved);
        }
        complain(Ok(store::write(
            &self.file,
            &self.monitor.records(self.clock.now()),
        )));
    }

    /// Does whatever is due.
    fn advance(&mut self) {
        while let Some(answer) = self.asked.try_join_next() {
            self.answered(answer);
        }
        let now = self.clock.now();
        self.monitor.handle_timeout(now);
        while let Some(question) = self.monitor.poll_question(now) {
            self.ask(question);
        }
        let mut events = Vec::new();
        while let Some(event) = self.monitor.poll_event() {
            events.push(event);
        }
        if self.monitor.take_changed() || !events.is_empty() {
            self.save = true;
            let standings = self.monitor.standings().clone();
            // Nobody listens when the agent is about to stop.
            let _ = self.out.send(Update { standings, events });
        }
        if self.save && self.saving.is_empty() {
            self.save = false;
            let (file, records) = (self.file.clone(), self.monitor.records(now));
            self.saving.spawn(async move {
                let written = tokio::task::spawn_blocking(move || store::write(&file, &records)).await;
                tokio::time::sleep(SAVE_EVERY).await;
                written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            });
        }
    }

    fn ask(&mut self, question: Question) {
        let Question {
            id,
            ticket,
            address,
            check,
        } = question;
        let key = Arc::as_ptr(&check).addr();
        let vip = check.vip;
        let (_, prober) = self.probers.entry(key).or_insert_with(|| {
            let way = Way::from(&check.from);
            let prober = Prober::new(Arc::clone(&check), way);
            (check, Arc::new(prober))
        });
        let (prober, wrap) = (Arc::clone(prober), Arc::clone(&self.wrap));
        self.asked.spawn(async move {
            let start = Instant::now();
            let outcome = match vip {
                Some(vip) => prober.ask_through(wrap.as_ref(), id, vip).await,
                None => prober.ask(address).await,
            };
            Answer {
                id,
                ticket,
                outcome,
                took: start.elapsed(),
            }
        });
    }

    fn answered(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        match answer {
            Ok(Answer {
                id,
                ticket,
                outcome,
                took,
            }) => {
                let now = self.clock.now();
                self.monitor.handle((id, ticket), outcome, took, now, chance());
            }
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {}
        }
    }

    fn configure(&mut self, model: &Model) {
        self.monitor.configure(model, &[], self.clock.now());
        self.save = true;
        // Checks that nobody asks any more; those in flight hold their own.
        self.probers.retain(|_, (check, _)| Arc::strong_count(check) > 2);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            backends: self.monitor.rows(self.clock.now()),
            open: self.monitor.open(),
        }
    }
}

fn complain(saved: Result<Result<(), store::Error>, tokio::task::JoinError>) {
    match saved {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("health is not kept for the next agent: {error}"),
        Err(error) => warn!("health is not kept for the next agent: {error}"),
    }
}

/// A random number from 0 to 1, exclusive: the hash of nothing under a random key.
fn chance() -> f64 {
    const BITS: u32 = 53;
    let random = RandomState::new().hash_one(());
    (random >> (u64::BITS - BITS)) as f64 / (1u64 << BITS) as f64
}
