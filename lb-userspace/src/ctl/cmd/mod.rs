//! One file per command. Each reads the maps, asks the agent, or needs neither, and returns an [`Output`](super::out::Output).

mod backends;
mod completion;
mod config;
mod decap;
mod detach;
mod dump;
mod events;
mod maps;
mod order;
mod plan;
mod ring;
mod stats;
mod status;
mod view;
mod vips;

use anyhow::Result;
use serde_json::json;

use super::args::{Args, Command};
use super::out::Output;
use crate::dataplane::Error;
use crate::dataplane::maps::Maps;
use crate::dataplane::pin::Root;
use view::View;

/// Does what the command line says.
pub fn run(args: Args) -> Result<Output> {
    let root = Root::new(args.pin_root);
    let read = |show: &dyn Fn(&Maps) -> Result<Output>| match Maps::open(&root) {
        Err(e @ Error::NotLoaded(_)) => {
            let json = json!({ "loaded": false, "error": e.to_string() });
            Ok(Output::no(json, e.to_string()))
        }
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
        Command::Events { follow, last } => events::run(&args.state_dir, args.output, *follow, *last),
        Command::Completion { shell } => Ok(completion::run(*shell)),
        Command::Detach { force } => detach::run(&root, *force),
        Command::Maps { name } => read(&|maps| maps::run(&root, maps, name.as_deref())),
        Command::Status => with_view(&|maps, view| status::run(&root, maps, view)),
        Command::Vips => with_view(&vips::run),
        Command::Backends => with_view(&backends::run),
        Command::Ring(ring) => with_view(&|maps, view| ring::run(maps, view, ring)),
        Command::Stats => with_view(&stats::run),
    }
}

/// Waits for an answer of the agent.
fn wait<T>(answer: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(answer))
}
