//! From a command line to a running agent, and out again.

use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};

use super::args::Args;
use super::controller::Controller;
use super::health;
use super::log;
use crate::config;
use crate::dataplane::load::{Balancer, Plan};
use crate::dataplane::pin::Root;
use crate::health::task::Checks;
use crate::model::GroupKey;
use crate::net::{self, REFRESH_EVERY};

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
    let model = config::load(&args.config)?;
    if model.group.key.as_ref() == Some(&EXAMPLE_KEY) {
        warn!(
            "the group key is the example's, which everyone knows: make your own with openssl rand -hex 16"
        );
    }
    let root = Root::new(&args.pin_root);
    root.create()?;
    let _lock = root.lock()?;
    let plan = Plan {
        capacity: model.capacity,
        key: model.group.key.as_ref(),
        node: &model.node.name,
        log_level: log::program_level(),
    };
    let balancer = Balancer::load(&root, &plan)?;
    info!(
        node = %model.node.name,
        object = &crate::dataplane::object::HASH[..12],
        pins = %root.path().display(),
        "{}",
        if balancer.adopted { "took over the running data plane" } else { "loaded a new data plane" }
    );
    let mut checks = health::start(&model, &args.state_dir)?;
    let mut controller = Controller::new(model, balancer, !args.no_attach).await?;
    controller.health(checks.taken_over());
    if let Err(e) = controller.start().await {
        if !controller.balancer().adopted {
            // Nothing is attached, and nobody is helped by maps that nothing uses.
            root.remove()?;
        }
        return Err(e);
    }
    let _log = log::bridge(controller.balancer().ebpf());
    notify(&[NotifyState::Ready, NotifyState::Status("forwarding")]);
    info!("ready");
    serve(&args, &mut controller, &mut checks, &mut signals).await;
    notify(&[NotifyState::Stopping]);
    info!("stopped; the data plane goes on without me (`lbctl detach` takes it off)");
    Ok(())
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

async fn serve(args: &Args, controller: &mut Controller, checks: &mut Checks, signals: &mut Signals) {
    let mut refresh = interval(REFRESH_EVERY);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut again = interval(LOOK_AGAIN_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    again.reset();
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => reload(args, controller, checks).await,
            update = checks.update() => {
                health::tell(&update.events);
                controller.health(&update.standings);
                follow(controller).await;
            }
            _ = refresh.tick() => survive(controller.refresh().await, controller).await,
            _ = again.tick() => follow(controller).await,
            changed = controller.changed() => match changed {
                Ok(()) => follow(controller).await,
                failed => survive(failed, controller).await,
            },
        }
    }
}

async fn follow(controller: &mut Controller) {
    if let Err(e) = controller.follow().await {
        error!("could not follow a change of the network or of backends: {e:#}");
    }
}

/// A netlink error is no reason to die: the data plane is fine, and new sockets see everything anew.
async fn survive(result: Result<(), net::Error>, controller: &mut Controller) {
    let Err(e) = result else { return };
    warn!("netlink: {e}; opening it anew");
    sleep(REOPEN_AFTER).await;
    if let Err(e) = controller.reopen().await {
        error!("netlink: {e}");
    }
}

async fn reload(args: &Args, controller: &mut Controller, checks: &Checks) {
    notify(&[NotifyState::Reloading]);
    let result = match config::load(&args.config) {
        Ok(model) => controller.reload(model).await,
        Err(e) => Err(e.into()),
    };
    match result {
        Ok(()) => {
            checks.configure(controller.model());
            info!("configuration reloaded");
        }
        Err(e) => error!("configuration refused, the running one stays:\n{e:#}"),
    }
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("systemd was not told: {e}");
    }
}
