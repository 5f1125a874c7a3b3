//! `GET /v1/health`: what the health checks know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::health::fail_open::FailOpen;
use crate::health::monitor::Row;
use crate::health::task::Snapshot;

/// Whose health is wanted.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Whose {
    /// Only that of this pool.
    pub pool: Option<String>,
}

/// What the health checks know; pools without a check are not named.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Pools that are checked, in the configuration's order.
    pub pools: Vec<PoolHealth>,
    /// Their backends, in the configuration's order.
    pub backends: Vec<BackendHealth>,
}

/// A pool that is checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolHealth {
    /// Its name.
    pub pool: String,
    /// What is asked: `tcp`, `http`, `https`, `udp`, `icmp`, `grpc`.
    pub check: String,
    /// Whether its checks are believed: `closed` they are; `silent` too much of its weight looks down, so backends that
    /// don't answer are served; `all` those that refuse are served too.
    pub fail_open: String,
    /// Its backends by phase; phases that none is in are not named.
    pub phases: BTreeMap<String, u32>,
}

/// What is known of one backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackendHealth {
    /// The pool's name.
    pub pool: String,
    /// Its name in the pool.
    pub name: String,
    /// What its answers amount to: `unknown`, `up`, `draining`, `suspect`, `dead`.
    pub phase: String,
    /// Since when it is in this phase.
    pub since: u64,
    /// Why, or what was said last while it waits for another phase.
    pub reason: String,
    /// What it may get by its checks and its pool's `fail_open`, orders aside: `up`, `draining`, `suspect`, `dead`.
    pub standing: String,
    /// The last probe; nothing before the first.
    pub last: Option<LastProbe>,
    /// How much of its penalty for flapping is left, in falls.
    pub penalty: f64,
    /// Whether the penalty has reached its limit and holds it out until half of that is left.
    pub held: bool,
    /// Probes since the agent started.
    pub counts: Probes,
}

/// A probe and what came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LastProbe {
    /// `good`, `refuses`, `silent`, or `unasked` where this host could not ask.
    pub result: String,
    /// Why it isn't good.
    pub reason: Option<String>,
    /// From the question to the answer, or to giving up, microseconds.
    pub took_us: u64,
    /// When that was.
    pub at: u64,
}

/// Probes by result.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Probes {
    /// Good answers.
    pub good: u64,
    /// Answers that refuse.
    pub refuses: u64,
    /// No answer in time.
    pub silent: u64,
    /// Questions that this host could not ask.
    pub unasked: u64,
    /// Changes of the phase.
    pub changes: u64,
}

/// What is told of a snapshot: of one pool where `only` names it.
pub fn health(snapshot: &Snapshot, only: Option<&str>) -> Health {
    let mut health = Health::default();
    for row in &snapshot.backends {
        if only.is_some_and(|only| only != row.pool) {
            continue;
        }
        // Rows come pool by pool.
        if health.pools.last().is_none_or(|last| last.pool != row.pool) {
            health.pools.push(PoolHealth {
                pool: row.pool.clone(),
                check: row.check.to_owned(),
                fail_open: fail_open(snapshot, &row.pool).to_owned(),
                phases: BTreeMap::new(),
            });
        }
        if let Some(pool) = health.pools.last_mut() {
            *pool.phases.entry(row.phase.name().to_owned()).or_insert(0) += 1;
        }
        health.backends.push(backend(row));
    }
    health
}

fn fail_open(snapshot: &Snapshot, pool: &str) -> &'static str {
    let open = snapshot.open.iter().find(|(name, _)| name == pool);
    match open.map(|(_, state)| *state).unwrap_or_default() {
        FailOpen::Closed => "closed",
        FailOpen::Silent => "silent",
        FailOpen::All => "all",
    }
}

fn backend(row: &Row) -> BackendHealth {
    BackendHealth {
        pool: row.pool.clone(),
        name: row.name.clone(),
        phase: row.phase.name().to_owned(),
        since: row.since_unix_ms,
        reason: row.reason.clone(),
        standing: row.standing.to_owned(),
        last: row.last.as_ref().map(|last| LastProbe {
            result: last.outcome.to_owned(),
            reason: last.reason.clone(),
            took_us: last.took_us,
            at: last.at_unix_ms,
        }),
        penalty: row.penalty,
        held: row.held,
        counts: Probes {
            good: row.counts.good,
            refuses: row.counts.refuses,
            silent: row.counts.silent,
            unasked: row.counts.unasked,
            changes: row.counts.changes,
        },
    }
}
