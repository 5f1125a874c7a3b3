//! One file per command. Each reads the maps and returns an [`Output`](super::out::Output).

mod backends;
mod decap;
mod detach;
mod dump;
mod maps;
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
    match &args.command {
        Command::Decap(command) => return decap::run(&root, command),
        Command::Detach { force } => return detach::run(&root, *force),
        _ => {}
    }
    let maps = match Maps::open(&root) {
        Err(e @ Error::NotLoaded(_)) => {
            return Ok(Output::no(
                json!({ "loaded": false, "error": e.to_string() }),
                e.to_string(),
            ));
        }
        maps => maps?,
    };
    if let Command::Maps { name } = &args.command {
        return maps::run(&root, &maps, name.as_deref());
    }
    let view = View::read(&maps)?;
    match &args.command {
        Command::Status => status::run(&root, &maps, &view),
        Command::Vips => vips::run(&maps, &view),
        Command::Backends => backends::run(&maps, &view),
        Command::Ring(ring) => ring::run(&maps, &view, ring),
        Command::Stats => stats::run(&maps, &view),
        Command::Maps { .. } | Command::Decap(_) | Command::Detach { .. } => unreachable!("done above"),
    }
}
