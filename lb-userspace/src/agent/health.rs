//! The health checks, as the agent starts them and tells of them.

use std::path::Path;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::health::Phase;
use crate::health::monitor::Event;
use crate::health::store;
use crate::health::task::Checks;
use crate::journal;
use crate::model::Model;

/// So many events of one moment are told one by one; of more, their number.
const TOLD: usize = 20;

/// Starts the checks with what the last agent left in `state_dir`.
pub(super) fn start(model: &Model, state_dir: &Path) -> Result<Checks> {
    let file = state_dir.join(store::FILE);
    let saved = store::read(&file).unwrap_or_else(|error| {
        warn!("what the last agent knew of backends can't be used, all count as up until checked: {error}");
        Vec::new()
    });
    Checks::start(model, &saved, file).context("starting the health checks")
}

/// The same for the journal.
pub(super) fn event(event: &Event) -> journal::Event {
    match event {
        Event::Backend {
            backend,
            from,
            to,
            reason,
            ..
        } => journal::Event::Judged {
            backend: backend.clone(),
            from: from.name().to_owned(),
            to: to.name().to_owned(),
            reason: reason.clone(),
        },
        Event::Pool { pool, state, down } => journal::Event::ChecksDoubted {
            pool: pool.clone(),
            doubted: state.is_open(),
            down: *down,
        },
    }
}

/// Logs what the checks have found.
pub(super) fn tell(events: &[Event]) {
    for event in events.iter().take(TOLD) {
        match event {
            Event::Backend {
                backend,
                from: Phase::Unknown,
                to: Phase::Up,
                ..
            } => info!("backend {backend}: up"),
            Event::Backend {
                backend,
                from,
                to: Phase::Up,
                ..
            } => info!("backend {backend}: up again, was {}", from.name()),
            Event::Backend {
                backend,
                from,
                to,
                reason,
                ..
            } => warn!("backend {backend}: {}, was {}: {reason}", to.name(), from.name()),
            Event::Pool { pool, state, down } if state.is_open() => warn!(
                "pool {pool}: {down} % of its weight looks down, so the checks are doubted: {}",
                state.name()
            ),
            Event::Pool { pool, down, .. } => {
                info!("pool {pool}: {down} % of its weight looks down, the checks are believed again");
            }
        }
    }
    if events.len() > TOLD {
        warn!("and {} more changes of backends and pools", events.len() - TOLD);
    }
}
