//! From a command line to a running agent, and out again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{error, info, warn};

use super::args::Args;
use super::charter;
use super::command::cause;
use super::controller::Controller;
use super::desk::Desk;
use super::group::{Group, Happened, Outcome};
use super::health;
use super::log;
use super::metrics::Teller;
use super::tunnel::Tunnels;
use crate::api::call::{self, Call, Command};
use crate::api::group::{Done, Readiness};
use crate::api::refusal::Refusal;
use crate::api::routes::{Api, router};
use crate::api::server::Listener;
use crate::api::sync;
use crate::dataplane::load::{Balancer, Plan};
use crate::dataplane::pin::Root;
use crate::health::task::Checks;
use crate::journal::{Cause, Event};
use crate::metrics;
use crate::model::{GroupKey, Model, Pool};
use crate::net::{self, REFRESH_EVERY};
use crate::peer;

/// How often everything is looked up again: the kernel has no event for some changes, such as a learnt path MTU.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(60);

/// Pause before netlink sockets are opened anew after an error.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// The key in `dist/lb.example.yaml`.
const EXAMPLE_KEY: GroupKey = GroupKey::new(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes());

/// Runs the agent until SIGTERM or SIGINT; the data plane goes on without it.
pub async fn run(args: Args) -> Result<()> {
    // First of all: a SIGHUP without a handler ends the process.
    let mut signals = Signals::new()?;
    let (text, model) = crate::charter::text::load(&args.config)?;
    let charter::Opening { text, model, keeper } = charter::open(&args, text, model)?;
    if model.group.key.as_ref() == Some(&EXAMPLE_KEY) {
        warn!(
            "the group key is the example's, which everyone knows: make your own with openssl rand -hex 16"
        );
    }
    let root = Root::new(&args.pin_root);
    root.create()?;
    let _lock = root.lock()?;
    // Before anything is loaded: a socket that can't be had is no reason to leave half a start behind.
    let group = args.api_group.as_deref();
    let listener = args
        .socket()
        .map(|path| Listener::bind(path, group))
        .transpose()?;
    let metrics_on = metrics::bind(model.metrics.map(|metrics| metrics.listen))?;
    Group::check(&model)?;
    let (mut desk, operator) = Desk::open(&args, text, keeper);
    let balancer = load(&root, &model)?;
    let checks = health::start(&model, &args.state_dir)?;
    let mut controller = Controller::new(model, balancer, !args.no_attach, operator).await?;
    controller.health(checks.taken_over());
    start(&mut controller, &root).await?;
    let mut tunnels = Tunnels::new(&root, controller.model().capacity);
    tunnels.follow(&controller, &checks).await;
    let _log = log::bridge(controller.balancer().ebpf());
    let adopted = controller.balancer().adopted;
    desk.started(&mut controller, adopted);
    if desk.has_left() {
        controller.slots_are_old();
    }
    let group = Group::start(&root, &mut controller)?;
    let nodes = group
        .as_ref()
        .map_or_else(peer::Reader::nobody, |group| group.peers().reader());
    let records = group.as_ref().map_or_else(sync::Reader::nobody, Group::records);
    let readers = (checks.reader(), nodes.clone(), records.clone());
    let teller = Teller::start(
        (&mut desk, &controller),
        group.as_ref(),
        &root,
        readers,
        metrics_on,
    )
    .await?;
    desk.time_passed(&mut controller).await;
    let (calls, mut inbox) = call::channel();
    let context = Api {
        calls,
        state_dir: Arc::new(desk.state_dir().to_owned()),
        checks: checks.reader(),
        peers: nodes,
        records,
    };
    let server = listener.map(|listener| tokio::spawn(listener.serve(teller.count(router(context.clone())))));
    notify(&[NotifyState::Ready, NotifyState::Status("forwarding")]);
    info!("ready");
    let mut side = Side {
        checks,
        tunnels,
        teller,
        group,
    };
    serve(&mut desk, &mut controller, &mut side, &mut signals, &mut inbox).await;
    notify(&[NotifyState::Stopping]);
    desk.stopped(&controller);
    if let Some(server) = server {
        // Its end removes the socket.
        server.abort();
        drop(server.await);
    }
    info!("stopped; the data plane goes on without me (`lbctl detach` takes it off)");
    Ok(())
}

/// Loads the program, or takes over the one that runs.
fn load(root: &Root, model: &Model) -> Result<Balancer> {
    let plan = Plan {
        capacity: model.capacity,
        key: model.group.key.as_ref(),
        node: &model.node.name,
        log_level: log::program_level(),
    };
    let balancer = Balancer::load(root, &plan)?;
    info!(
        node = %model.node.name,
        object = &crate::dataplane::object::HASH[..12],
        pins = %root.path().display(),
        "{}",
        if balancer.adopted { "took over the running data plane" } else { "loaded a new data plane" }
    );
    Ok(balancer)
}

/// Fills the maps and attaches.
async fn start(controller: &mut Controller, root: &Root) -> Result<()> {
    let started = controller.start().await;
    if started.is_err() && !controller.balancer().adopted {
        // Nothing is attached, and nobody is helped by maps that nothing uses.
        root.remove()?;
    }
    started
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("signal handler");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

/// What runs beside the controller and follows it.
struct Side {
    checks: Checks,
    tunnels: Tunnels,
    teller: Teller,
    /// Where the nodes of the group talk.
    group: Option<Group>,
}

impl Side {
    /// Has everybody know what the controller does now; `checked` are the pools that the checks know of.
    async fn follow(&mut self, desk: &Desk, controller: &Controller, checked: &mut Vec<Pool>) {
        if controller.effective().pools != *checked {
            checked.clone_from(&controller.effective().pools);
            self.checks.configure(controller.effective());
        }
        self.tunnels.follow(controller, &self.checks).await;
        self.teller.tell(desk, controller, self.group.as_ref());
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Tells systemd's watchdog, where there is one, when it is time to: an agent that hangs blocks its group's changes, while the thread of
/// its peers goes on beating.
async fn feed(watchdog: &mut Option<Interval>) {
    match watchdog {
        Some(watchdog) => drop(watchdog.tick().await),
        None => std::future::pending().await,
    }
    notify(&[NotifyState::Watchdog]);
}

async fn serve(
    desk: &mut Desk,
    controller: &mut Controller,
    side: &mut Side,
    signals: &mut Signals,
    inbox: &mut mpsc::Receiver<Call>,
) {
    let mut refresh = every(REFRESH_EVERY);
    let mut again = every(LOOK_AGAIN_EVERY);
    again.reset();
    let mut watchdog = sd_notify::watchdog_enabled().map(|patience| every(patience / 3));
    let mut checked = controller.effective().pools.clone();
    side.checks.configure(controller.effective());
    loop {
        if let Some(group) = &mut side.group
            && agree(desk, controller, group).await == Some(Over)
        {
            return;
        }
        side.follow(desk, controller, &mut checked).await;
        let turn = controller.due();
        // The wall's clock may be set, so it is looked at again now and then.
        let due = desk
            .due(controller)
            .unwrap_or(LOOK_AGAIN_EVERY)
            .min(LOOK_AGAIN_EVERY);
        let charter = desk.charter_due();
        let went_well = tokio::select! {
            happened = happens(&mut side.group) => {
                if let Some(group) = &mut side.group {
                    group.take(happened, controller);
                }
                true
            }
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                if let Some(group) = &side.group {
                    group.peers().reload();
                }
                reload(desk, controller).await;
                true
            }
            Some(call) = inbox.recv() => {
                called(desk, controller, side, call).await;
                true
            }
            update = side.checks.update() => {
                desk.judged(controller, &update.events);
                controller.health(&update.standings);
                follow(desk, controller).await
            }
            () = sleep(due) => {
                desk.time_passed(controller).await;
                true
            }
            () = sleep_until(charter.unwrap_or_else(Instant::now).into()), if charter.is_some() => {
                desk.charter_tick(controller).await;
                true
            }
            () = sleep_until(turn.unwrap_or_else(Instant::now).into()), if turn.is_some() => {
                turned(desk, controller).await
            }
            () = feed(&mut watchdog) => true,
            _ = refresh.tick() => survive(controller.refresh().await, controller).await,
            _ = again.tick() => {
                desk.time_passed(controller).await;
                desk.look_for_drift();
                follow(desk, controller).await
            }
            changed = controller.changed() => match changed {
                Ok(()) => follow(desk, controller).await,
                failed => survive(failed, controller).await,
            },
        };
        if !went_well {
            again.reset_after(REOPEN_AFTER);
        }
    }
}

/// Slots are moved on. Whether whatever followed from that worked.
async fn turned(desk: &mut Desk, controller: &mut Controller) -> bool {
    match controller.turn() {
        Ok(false) => true,
        Ok(true) => follow(desk, controller).await,
        Err(e) => {
            error!("{e:#}");
            true
        }
    }
}

/// Somebody asks.
async fn called(desk: &mut Desk, controller: &mut Controller, side: &mut Side, call: Call) {
    let leaves = side.group.as_ref().is_some_and(Group::leaves);
    match call.command {
        Command::Order(ask) if leaves => drop(ask.reply.send(Err(Refusal::Leaves))),
        Command::Apply(ask) if leaves => drop(ask.reply.send(Err(Refusal::Leaves))),
        Command::Rollback(ask) if leaves => drop(ask.reply.send(Err(Refusal::Leaves))),
        Command::Leave(ask) if leaves => {
            let done = "this node leaves its group already".to_owned();
            drop(ask.reply.send(Ok(Done { done })));
        }
        Command::Ready(ask) => {
            let readiness = readiness(controller, side.group.as_ref());
            drop(ask.reply.send(Ok(readiness)));
        }
        Command::Leave(ask) => {
            let done = leave(controller, side.group.as_mut());
            if done.is_ok() {
                desk.record(
                    controller.generation(),
                    &cause(call.who),
                    vec![Event::LeaveOrdered],
                );
            }
            drop(ask.reply.send(done));
        }
        Command::Forget(ask) => {
            let done = forget(side.group.as_mut(), &ask.what);
            if done.is_ok() {
                let event = Event::ForgetOrdered { node: ask.what };
                desk.record(controller.generation(), &cause(call.who), vec![event]);
            }
            drop(ask.reply.send(done));
        }
        Command::Doctor(ask) => side.tunnels.doctor(controller, ask).await,
        command => desk.call(controller, Call { command, ..call }).await,
    }
}

/// This node has left its group.
#[derive(PartialEq)]
struct Over;

/// What happens next in the group; nothing, ever, where there is none.
async fn happens(group: &mut Option<Group>) -> Happened {
    match group {
        Some(group) => group.happens().await,
        None => std::future::pending().await,
    }
}

/// Has slots, charter and the group's machine know of each other, until none of them has anything to say.
async fn agree(desk: &mut Desk, controller: &mut Controller, group: &mut Group) -> Option<Over> {
    loop {
        let outcomes = group.agree(controller).await;
        if group.is_ready() {
            desk.note_left(false);
        }
        for outcome in &outcomes {
            match outcome {
                Outcome::Charter { peer, payload } => desk.peer_said(controller, *peer, payload).await,
                Outcome::Session { peer, up: true } => desk.peer_up(controller, *peer).await,
                Outcome::Session { peer, up: false } => desk.peer_down(controller, *peer).await,
                Outcome::Members(members) => desk.charter_members(controller, members.clone()).await,
                Outcome::Told(event) => {
                    desk.note(controller.generation(), &Cause::Peers, vec![event.clone()]);
                }
                Outcome::Left => {
                    desk.note_left(true);
                    return Some(Over);
                }
            }
        }
        let messages = desk.charter_messages();
        let said = messages.len();
        for (peer, payload) in messages {
            group.send_charter(peer, payload);
        }
        if let Some(charter) = desk.charter() {
            controller.set_charter(charter.committed);
            group.charter(charter.equal && charter.in_force, charter.digest, charter.drift);
        }
        if outcomes.is_empty() && said == 0 {
            return None;
        }
    }
}

/// Whether this node may attract traffic: one that is alone may as soon as it forwards.
fn readiness(controller: &Controller, group: Option<&Group>) -> Readiness {
    let mut readiness = group.map_or(
        Readiness {
            ready: true,
            why: None,
            group: None,
        },
        Group::readiness,
    );
    if !controller.is_attached() {
        let why = "lb_xdp is attached to none of `node.interfaces`: where they are there, restart lbd";
        (readiness.ready, readiness.why) = (false, Some(why.to_owned()));
    }
    readiness
}

fn leave(controller: &Controller, group: Option<&mut Group>) -> Result<Done, Refusal> {
    group.ok_or(Refusal::NoPeers)?.leave();
    let peering = controller.model().group.peering.as_ref();
    let takes = peering.map_or(Duration::ZERO, |peering| peering.withdraw_after);
    let done = format!(
        "this node leaves its group; its agent ends when its flows are handed over, in about {} s",
        takes.as_secs()
    );
    Ok(Done { done })
}

fn forget(group: Option<&mut Group>, node: &str) -> Result<Done, Refusal> {
    group.ok_or(Refusal::NoPeers)?.forget(node)?;
    let done = format!("{node} counts as a node that forwards nothing");
    Ok(Done { done })
}

/// Whether it worked.
async fn follow(desk: &mut Desk, controller: &mut Controller) -> bool {
    let done = controller.follow().await;
    if let Err(e) = &done {
        error!("could not follow a change of the network or of backends: {e:#}");
    }
    desk.followed(controller);
    done.is_ok()
}

/// A netlink error is no reason to die: the data plane is fine, and new sockets see everything anew.
/// There is nothing that has to be done again soon.
async fn survive(result: Result<(), net::Error>, controller: &mut Controller) -> bool {
    let Err(e) = result else { return true };
    warn!("netlink: {e}; opening it anew");
    sleep(REOPEN_AFTER).await;
    if let Err(e) = controller.reopen().await {
        error!("netlink: {e}");
    }
    true
}

async fn reload(desk: &mut Desk, controller: &mut Controller) {
    notify(&[NotifyState::Reloading]);
    match desk.reload(controller).await {
        Ok(()) => info!("configuration reloaded"),
        Err(e) => error!("configuration refused, the running one stays:\n{e:#}"),
    }
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("systemd was not told: {e}");
    }
}
