//! What the agent says of backends, for those who look: a note each, and nothing where no agent answers.

use std::path::Path;

use crate::api::dto::{BackendState, Backends};
use crate::ctl::cmd::look;
use crate::state::wall::Wall;

/// What the agent knows; `None` without an answer.
pub(super) fn ask(socket: &Path) -> Option<Vec<BackendState>> {
    let answer: Backends = look(socket, "/v1/backends").ok()?;
    Some(answer.backends)
}

/// What is not as configured, in a line.
pub(super) fn note(state: &BackendState) -> Option<String> {
    let mut parts = Vec::new();
    match (state.admin.as_deref(), state.standing.as_str()) {
        (Some("drain"), "dead") => parts.push("drained, and counts as down".to_owned()),
        (Some("drain"), _) => parts.push(match state.deadline {
            Some(end) => format!("drained, counts as down at {}", Wall(end).text()),
            None => "drained".to_owned(),
        }),
        (Some(_), _) => parts.push("marked down".to_owned()),
        (None, "up") => {}
        (None, other) => parts.push(other.to_owned()),
    }
    if let Some(weight) = state.weight {
        let configured = state.configured_weight;
        parts.push(format!("weight {weight} by order, {configured} by configuration"));
    }
    if let Some(ramp) = &state.ramp {
        parts.push(format!("step {} of {} of its ramp", ramp.step, ramp.steps));
    }
    (!parts.is_empty()).then(|| format!("{}/{}: {}", state.pool, state.name, parts.join("; ")))
}
