//! One file per command. Each reads the maps, asks the agent, or needs neither, and returns an [`Output`]; those that
//! go on until they are ended write by themselves.

mod backends;
mod completion;
mod config;
mod decap;
mod detach;
mod doctor;
mod dump;
mod events;
mod flows;
mod group;
mod health;
mod maps;
mod order;
mod peers;
mod pki;
mod plan;
mod ring;
mod states;
mod stats;
mod status;
mod sync;
mod trace;
mod view;
mod vips;
mod watch;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use lb_common::abi::map;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::args::{self, Args, Command};
use super::out::Output;
use super::top;
use crate::api::client::Client;
use crate::dataplane::Error;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use view::View;

/// Does what the command line says.
pub fn run(args: Args) -> Result<Output> {
    let root = Root::new(args.pin_root);
    let read = |show: &dyn Fn(&Maps) -> Result<Output>| match Maps::open(&root) {
        Err(e @ Error::NotLoaded(_)) => Ok(Output::not_loaded(&e)),
        maps => show(&maps?),
    };
    let with_view =
        |show: &dyn Fn(&Maps, &View) -> Result<Output>| read(&|maps| show(maps, &View::read(maps)?));
    match &args.command {
        Command::Decap(command) => decap::run(&root, command),
        Command::Config(command) => config::run(&args.api_socket, command),
        Command::Drain { .. }
        | Command::Undrain { .. }
        | Command::Weight { .. }
        | Command::Ramp { .. }
        | Command::Down { .. }
        | Command::Up { .. } => order::run(&args.api_socket, &args.command),
        Command::Ready { wait } => group::ready(&args.api_socket, wait.unwrap_or_default()),
        Command::Sync => sync::run(&args.api_socket),
        Command::Leave { wait } => group::leave(&args.api_socket, *wait),
        Command::Forget { node } => group::forget(&args.api_socket, node),
        Command::Doctor { backend } => doctor::run(&args.api_socket, backend),
        Command::Events { follow, last } => events::run(&args.state_dir, args.output, *follow, *last),
        Command::Completion { shell } => Ok(completion::run(*shell)),
        Command::Detach { force } => detach::run(&root, *force),
        Command::Maps { name: None, .. } => maps::list(&root),
        Command::Maps { name: Some(name), .. } if map::DECAP.contains(&name.as_str()) => {
            maps::of_decap(&root, name, args.output)
        }
        Command::Maps {
            name: Some(name),
            all,
        } => with_view(&|maps, view| maps::entries(maps, view, name, *all, args.output)),
        Command::Status => with_view(&|maps, view| status::run(&root, maps, view)),
        Command::Vips => with_view(&vips::run),
        Command::Backends => with_view(&|maps, view| backends::run(maps, view, &args.api_socket)),
        Command::Ring(ring) => with_view(&|maps, view| ring::run(maps, view, ring, &args.api_socket)),
        Command::Flows(flows) => with_view(&|maps, view| flows::run(maps, view, flows, args.output)),
        Command::Health { pool } => health::run(&args.api_socket, pool.as_deref()),
        Command::Peers => peers::run(&args.api_socket),
        Command::Pki(command) => pki::run(command),
        Command::Trace(trace) => trace::run(&root, trace),
        Command::Stats(args::Stats { watch: None, .. }) => with_view(&stats::run),
        Command::Stats(args::Stats {
            watch: Some(every),
            count,
        }) => watch::run(&root, *every, *count, args.output),
        Command::Top { interval } => top::run(&root, *interval, args.output),
    }
}

/// Looking must not wait for an agent that is busy.
const WITHIN: Duration = Duration::from_secs(2);

/// Asks the agent for what completes a look at the maps, and doesn't wait for long.
fn look<A: DeserializeOwned>(socket: &Path, path: &str) -> Result<A> {
    let client = Client::new(socket);
    let asked = async { timeout(WITHIN, client.get::<A>(path)).await };
    let answer = wait(asked)?;
    Ok(answer.with_context(|| format!("the agent gave no answer for {} s", WITHIN.as_secs()))??)
}

/// Waits for an answer of the agent.
fn wait<T>(answer: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(answer))
}
