//! `lbctl drain`, `undrain`, `weight`, `ramp`, `down`, `up`: orders about one backend, which the agent obeys.

use std::path::Path;

use anyhow::{Result, bail};
use lb_common::slot::SLOTS;

use crate::api::client::{Client, escaped};
use crate::api::dto::{BackendState, Drain, Ordered, Plain, Ramp, Weight};
use crate::ctl::args::{Command, Target};
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, percent};
use crate::state::operator::pause;
use crate::state::wall::{Wall, millis};

pub(super) fn run(socket: &Path, command: &Command) -> Result<Output> {
    let client = Client::new(socket);
    let plain = |force: bool| Plain { force };
    let ordered: Ordered = match command {
        Command::Drain {
            backend,
            deadline,
            force,
        } => {
            let drain = Drain {
                deadline_ms: deadline.map(millis),
                force: *force,
            };
            wait(client.post(&path(backend, "drain"), &drain))??
        }
        Command::Undrain { backend } => wait(client.post(&path(backend, "undrain"), &plain(false)))??,
        Command::Weight {
            backend,
            weight,
            force,
        } => {
            let weight = Weight {
                weight: weight.0,
                force: *force,
            };
            wait(client.post(&path(backend, "weight"), &weight))??
        }
        Command::Ramp { backend, steps, over } => {
            let ramp = Ramp {
                steps: *steps,
                over_ms: millis(*over),
            };
            wait(client.post(&path(backend, "ramp"), &ramp))??
        }
        Command::Down { backend, force } => wait(client.post(&path(backend, "down"), &plain(*force)))??,
        Command::Up { backend } => wait(client.post(&path(backend, "up"), &plain(false)))??,
        _ => bail!("no order"),
    };
    let text = text(command, &ordered);
    Ok(Output::yes(serde_json::to_value(&ordered)?, text))
}

pub(super) fn path(target: &Target, verb: &str) -> String {
    let (pool, backend) = (escaped(&target.pool), escaped(&target.backend));
    format!("/v1/backends/{pool}/{backend}/{verb}")
}

/// What was done, and what that means.
fn text(command: &Command, ordered: &Ordered) -> String {
    let state = &ordered.backend;
    let name = format!("{}/{}", state.pool, state.name);
    let done = match command {
        Command::Drain { .. } => {
            let until = state.deadline.map_or(String::new(), |end| {
                format!(
                    "\nafter {} it counts as down: flows that are left go to others, which reset them",
                    Wall(end).text()
                )
            });
            format!("{name} is drained: no new flows go there{until}")
        }
        Command::Undrain { .. } => format!("{name} is not drained"),
        Command::Weight { .. } => match state.weight {
            Some(weight) => format!(
                "{name} has weight {weight} (configured: {})",
                state.configured_weight
            ),
            None => format!("{name} has its configured weight {}", state.configured_weight),
        },
        Command::Ramp { over, .. } => match &state.ramp {
            Some(ramp) => format!(
                "{name} is at step {} of {}, a step every {}; it has its whole weight {} at {}",
                ramp.step,
                ramp.steps,
                humantime::format_duration(pause(ramp.steps, *over)),
                state.configured_weight,
                Wall(ramp.ends).text()
            ),
            None => format!("{name} has its configured weight {}", state.configured_weight),
        },
        Command::Down { .. } => format!("{name} is marked down: it is treated as dead"),
        _ => format!("{name} is not marked down"),
    };
    let was = if ordered.changed {
        String::new()
    } else {
        "nothing to do: ".to_owned()
    };
    let without = super::plan::without(&ordered.without);
    format!("{was}{done}\n{}{without}", share(ordered, state))
}

fn share(ordered: &Ordered, state: &BackendState) -> String {
    let of_all = |slots: u32| percent(f64::from(slots), SLOTS as f64);
    let others = match state.standing.as_str() {
        "up" | "draining" | "dead" if state.admin.is_some() || state.standing == "up" => String::new(),
        standing => format!("; it is {standing} by the health checks"),
    };
    format!(
        "{} of the slots of pool {} move; {} then holds {}{others}",
        of_all(ordered.slots_moved),
        state.pool,
        state.name,
        of_all(state.slots),
    )
}
