//! The group's charter in the agent: drives the machine, keeps what it says, puts it into force.

mod force;
mod call;
pub(super) mod shelf;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_common::hash::siphash13;
use tracing::{error, info, warn};

use self::call::Waiting;
use self::shelf::{Shelf, Unreadable};
use super::args::Args;
use super::controller::Controller;
use super::desk::Desk;
use super::store::StoreError;
use crate::charter::fsm::{self, Input, Machine, Output, Save};
use crate::charter::message::{Held, Message, Origin};
use crate::charter::text::{self, Local, TextError};
use crate::charter::written;
use crate::config;
use crate::group::Generation;
use crate::health::Mono;
use crate::journal::{Cause, Event};
use crate::model::{Model, Name};
use crate::state::operator::Operator;

/// What could not be put into force is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the charter of the group that this node is in.
pub(super) struct Keeper {
    machine: Machine,
    shelf: Shelf,
    left: bool,
    me: u8,
    nodes: Vec<Name>,
    began: Instant,
    /// What is to be sent, by place of the peer.
    outbox: Vec<(u8, Vec<u8>)>,
    waiting: BTreeMap<u64, Waiting>,
    calls: u64,
    /// The local part that comes with what this node proposes.
    fresh: Option<Local>,
    /// What putting the last one into force did.
    done: Option<force::Done>,
    /// The generation that this node runs; another one than the machine's where that could not be put into force.
    in_force: Generation,
    /// [`Held::sum`] of what it runs, where any was agreed on.
    sum: u64,
    retry: Option<Instant>,
    /// Whether this node has left is not noted before this, since it couldn't be.
    note_again: Instant,
    /// The file says something else than the charter.
    drift: bool,
    /// It says what an earlier generation did: this agent's predecessor ended before it had written the file.
    stale_file: bool,
    /// Messages that were none.
    malformed: u64,
    findings: Vec<Event>,
}

/// How a node stands to its group's charter.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// As people write it; `0/…` where nothing was agreed on.
    pub(super) generation: String,
    /// The same as a value.
    pub(super) committed: Generation,
    /// What waits for a decision.
    pub(super) pending: Option<String>,
    /// All live peers have the same.
    pub(super) equal: bool,
    /// This node runs it.
    pub(super) in_force: bool,
    /// Digest of what this node runs: of the charter, or of the configuration alone where nothing was agreed on.
    pub(super) digest: u64,
    /// The file says something else.
    pub(super) drift: bool,
    /// Messages of peers that could not be read.
    pub(super) malformed: u64,
}

/// What a start makes of the file and of what is kept: text and model that are to run, and the keeper in a group.
pub(super) struct Opening {
    pub(super) text: String,
    pub(super) model: Model,
    pub(super) keeper: Option<Keeper>,
}

/// Whether the nodes of this configuration talk to each other.
fn is_group(model: &Model) -> bool {
    model.group.peering.is_some() && model.group.nodes.len() > 1
}

fn place(model: &Model) -> Option<u8> {
    let at = model
        .group
        .nodes
        .iter()
        .position(|name| *name == model.node.name)?;
    u8::try_from(at).ok()
}

/// Takes what the disk has kept of the charter in place of the file's shared part.
///
/// # Errors
/// No place for it in a group: a node that answers nobody would hold up whatever the others want to agree on.
pub(super) fn open(args: &Args, text: String, model: Model) -> anyhow::Result<Opening> {
    let alone = |text, model| Opening {
        text,
        model,
        keeper: None,
    };
    let Some(me) = place(&model).filter(|_| is_group(&model)) else {
        // The slots of a node that serves alone are its own, and will be, whatever it had left before.
        if let Err(e) = Shelf::forget_left(&args.state_dir) {
            warn!("{e}");
        }
        return Ok(alone(text, model));
    };
    let (mut keeper, digest) = Keeper::open(args, me, &text, &model)
        .context("a node of a group keeps on disk what the group has agreed on, and can't (--state-dir)")?;
    let Some(held) = keeper.machine.committed().cloned() else {
        return Ok(Opening {
            keeper: Some(keeper),
            ..alone(text, model)
        });
    };
    Ok(match joined(&held, &text, &model, args) {
        Ok((merged, of_group)) => {
            keeper.runs(&held);
            keeper.drift = text::digest(&held.charter.text) != Ok(digest);
            keeper.stale_file =
                keeper.drift && keeper.said(digest).is_some_and(|then| then < held.generation);
            if keeper.stale_file {
                info!(
                    "{} is what an earlier generation was, and is written anew",
                    args.config.display()
                );
                keeper.retry = Some(Instant::now());
            } else if keeper.drift {
                drifted(
                    &args.config.display().to_string(),
                    &written(held.generation, &keeper.nodes),
                );
            }
            Opening {
                text: merged,
                model: of_group,
                keeper: Some(keeper),
            }
        }
        Err(e) => {
            error!(
                "the group's charter can't be run with this node's own part, its file is run instead: {e:#}"
            );
            keeper.drift = true;
            keeper.retry = Some(Instant::now() + RETRY);
            Opening {
                keeper: Some(keeper),
                ..alone(text, model)
            }
        }
    })
}

fn joined(held: &Held, text: &str, model: &Model, args: &Args) -> anyhow::Result<(String, Model)> {
    let parts = text::split(text, model.group.key.as_ref())?;
    let merged = text::merge(&held.charter.text, &parts.local)?;
    let model = config::parse(&merged, &args.config)?;
    Ok((merged, model))
}

fn everybody(model: &Model) -> BTreeSet<u8> {
    (0..=u8::MAX).take(model.group.nodes.len()).collect()
}

fn drifted(file: &str, generation: &str) {
    warn!(
        "{file} says something else than the group's configuration of generation {generation}, which stays in force: \
         `lbctl config apply {file}` makes it the group's"
    );
}

impl Keeper {
    /// Notes whether this node has left the group: its pinned slots are then those of a moment that is past.
    pub(super) fn note_left(&mut self, left: bool) {
        // That it is there again is said in every round.
        if self.left == left || !left && Instant::now() < self.note_again {
            return;
        }
        match self.shelf.note_left(left) {
            Ok(()) => self.left = left,
            Err(e) => {
                warn!("{e}");
                self.note_again = Instant::now() + RETRY;
            }
        }
    }

    /// What was noted last.
    pub(super) const fn has_left(&self) -> bool {
        self.left
    }

    /// With what is on the disk, and the digest of the file's shared part.
    fn open(args: &Args, me: u8, text: &str, model: &Model) -> Result<(Self, u64), StoreError> {
        let shelf = Shelf::open(&args.state_dir)?;
        let left = shelf.has_left();
        // Whether anything can be written there.
        shelf.note_left(left)?;
        let (kept, lost) = shelf.load()?;
        let unreadable = |file: Unreadable| {
            error!(
                "the group's charter can't be understood, the peers are asked for it: {}; the file is kept as {}",
                file.why, file.kept
            );
            let Unreadable { kept, why } = file;
            Event::CharterUnreadable { kept, why }
        };
        let findings = lost.into_iter().map(unreadable).collect();
        let parts = text::split(text, model.group.key.as_ref());
        let digest = parts.and_then(|parts| text::digest(&parts.shared));
        let digest = digest.unwrap_or_else(|e| {
            warn!("{}: {e}", args.config.display());
            // No other node has it.
            siphash13(0, 0, text.as_bytes())
        });
        let (machine, outputs) = Machine::new(me, everybody(model), kept, digest, Mono::default());
        let keeper = Self {
            machine,
            left,
            shelf,
            me,
            nodes: model.group.nodes.clone(),
            began: Instant::now(),
            outbox: Vec::new(),
            waiting: BTreeMap::new(),
            calls: 0,
            fresh: None,
            done: None,
            in_force: Generation::default(),
            sum: 0,
            retry: None,
            note_again: Instant::now(),
            drift: false,
            stale_file: false,
            malformed: 0,
            findings,
        };
        for output in outputs {
            if let Output::Persist(save) = output {
                keeper.write(&save).unwrap_or_else(|e| warn!("{e}"));
            }
        }
        Ok((keeper, digest))
    }

    /// The generation that this node's file was written for, where that text has this digest.
    fn said(&self, digest: u64) -> Option<Generation> {
        let written = self.shelf.written().unwrap_or_default();
        let history = self.shelf.history().unwrap_or_default();
        let mut texts = history.iter().filter(|held| match written.number {
            // What the node ran before anything was agreed on.
            0 => held.generation.number == 0,
            _ => held.generation == written,
        });
        texts
            .any(|held| text::digest(&held.charter.text) == Ok(digest))
            .then_some(written)
    }

    fn now(&self) -> Mono {
        Mono::from_unix(self.began.elapsed())
    }

    fn write(&self, save: &Save) -> Result<(), String> {
        self.shelf.save(save).map_err(|e| e.to_string())
    }

    /// This node runs it.
    fn runs(&mut self, held: &Held) {
        (self.in_force, self.sum) = (held.generation, held.sum());
    }

    /// What the orders of the group are, where any were agreed on.
    pub(super) fn orders(&self) -> Option<&Operator> {
        let held = self.machine.committed()?;
        (held.generation == self.in_force).then_some(&held.charter.orders)
    }

    /// Told of what was found on disk.
    pub(super) fn take_findings(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.findings)
    }

    fn standing(&self) -> Standing {
        let committed = self.machine.generation();
        let pending = self.machine.pending();
        Standing {
            generation: written(committed, &self.nodes),
            committed,
            pending: pending.map(|held| written(held.generation, &self.nodes)),
            equal: self.machine.is_equal(),
            in_force: self.in_force == committed,
            digest: match self.in_force.number {
                0 => self.machine.status().digest,
                _ => self.sum,
            },
            drift: self.drift,
            malformed: self.malformed,
        }
    }
}

/// What the loop and the peers' thread tell the charter.
impl Desk {
    /// How this node stands to the charter; `None` where it is in no group.
    pub(super) fn charter(&self) -> Option<Standing> {
        self.keeper.as_ref().map(Keeper::standing)
    }

    /// A session with the peer in this place began.
    pub(super) async fn peer_up(&mut self, controller: &mut Controller, peer: u8) {
        self.drive(controller, Input::Up(peer)).await;
    }

    /// It ended.
    pub(super) async fn peer_down(&mut self, controller: &mut Controller, peer: u8) {
        self.drive(controller, Input::Down(peer)).await;
    }

    /// A peer said something on the charter's channel.
    pub(super) async fn peer_said(&mut self, controller: &mut Controller, from: u8, bytes: &[u8]) {
        match Message::decode(bytes) {
            Ok(message) => self.drive(controller, Input::Message { from, message }).await,
            Err(e) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.malformed += 1;
                    // However many come, the log stays short.
                    if keeper.malformed.is_power_of_two() {
                        warn!(peer = from, count = keeper.malformed, "about the charter: {e}");
                    }
                }
            }
        }
    }

    /// These have to accept from now on, this node included.
    pub(super) async fn charter_members(&mut self, controller: &mut Controller, members: BTreeSet<u8>) {
        self.drive(controller, Input::Members(members)).await;
    }

    /// What is to be sent since it was asked for last, by place of the peer.
    pub(super) fn charter_messages(&mut self) -> Vec<(u8, Vec<u8>)> {
        let keeper = self.keeper.as_mut();
        keeper
            .map(|keeper| std::mem::take(&mut keeper.outbox))
            .unwrap_or_default()
    }

    /// When [`Desk::charter_tick`] has something to do.
    pub(super) fn charter_due(&self) -> Option<Instant> {
        let keeper = self.keeper.as_ref()?;
        let due = keeper.machine.due().map(|due| keeper.began + due.unix());
        [due, keeper.retry].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(super) async fn charter_tick(&mut self, controller: &mut Controller) {
        self.drive(controller, Input::Tick).await;
        let Some(keeper) = &mut self.keeper else { return };
        if keeper.retry.is_some_and(|when| when <= Instant::now()) {
            keeper.retry = None;
            if let Some(held) = keeper.machine.committed().cloned() {
                self.enforce(controller, held).await;
            }
        }
    }

    /// Gives the machine an input, and does what it says until it has no more to say.
    async fn drive(&mut self, controller: &mut Controller, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(keeper) = &mut self.keeper else { return };
            let now = keeper.now();
            for output in keeper.machine.handle(now, input) {
                inputs.extend(self.act(controller, output).await);
            }
        }
    }

    /// Does one thing; what the machine has to know of it.
    async fn act(&mut self, controller: &mut Controller, output: Output) -> Option<Input> {
        let keeper = self.keeper.as_mut()?;
        match output {
            Output::Send { to, message } => {
                keeper.outbox.push((to, message.encode()));
                None
            }
            Output::Validate(held) => {
                let generation = held.generation;
                let verdict = self.judge(controller, &held).await.map_err(|e| format!("{e:#}"));
                Some(Input::Validated { generation, verdict })
            }
            Output::Persist(save) => {
                if matches!(save, Save::Committed(_)) {
                    self.remember_file(controller);
                }
                let done = self.keeper.as_ref()?.write(&save);
                if let Err(e) = &done {
                    error!("the group's charter could not be written: {e}");
                }
                let (generation, committed) = match &save {
                    Save::Pending(held) => (held.generation, false),
                    Save::Committed(held) => (held.generation, true),
                    Save::Dropped { .. } => return None,
                };
                Some(Input::Persisted {
                    generation,
                    committed,
                    done,
                })
            }
            Output::PutIntoForce(held) => {
                self.enforce(controller, held).await;
                None
            }
            Output::Answer { call, answer } => {
                self.answer(controller, call, answer);
                None
            }
            Output::Told(event) => {
                self.told(controller, event);
                None
            }
        }
    }

    fn told(&mut self, controller: &Controller, event: fsm::Event) {
        let Some(keeper) = &self.keeper else { return };
        let (rival, is_dropped) = match event {
            fsm::Event::Pending(rival) => (rival, false),
            fsm::Event::Dropped(rival) => (rival, true),
            fsm::Event::Replaced { former, by } => {
                let charter = written(former.generation, &keeper.nodes);
                let by = format!("{} ({})", written(by.generation, &keeper.nodes), by.origin);
                let event = Event::CharterReplaced {
                    charter,
                    what: former.origin.to_string(),
                    by,
                };
                warn!("{event}");
                let Origin { node, uid, .. } = former.origin;
                self.record(controller.generation(), &Cause::Group { node, uid }, vec![event]);
                return;
            }
        };
        let generation = written(rival.generation, &keeper.nodes);
        let what = rival.origin.to_string();
        if !is_dropped {
            info!(
                "generation {generation} of the group's configuration is on this disk and waits for the others: {what}"
            );
            return;
        }
        info!("generation {generation} of the group's configuration came to nothing: {what}");
        let event = Event::CharterDropped {
            charter: generation,
            what,
        };
        let cause = Cause::Group {
            node: rival.origin.node,
            uid: rival.origin.uid,
        };
        self.record(controller.generation(), &cause, vec![event]);
    }

    /// The text that this node runs, in two parts.
    fn running_parts(&self, controller: &Controller) -> Result<text::Parts, TextError> {
        text::split(&self.in_force.text, controller.model().group.key.as_ref())
    }
}
