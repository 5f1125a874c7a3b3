//! `lbctl health`: what the agent's health checks say.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::api::client::{Client, escaped};
use crate::api::health::{BackendHealth, Health, LastProbe, PoolHealth};
use crate::ctl::cmd::flows::span;
use crate::ctl::cmd::wait;
use crate::ctl::out::{Output, table};
use crate::state::wall::{Wall, millis};

pub(super) fn run(socket: &Path, pool: Option<&str>) -> Result<Output> {
    let path = match pool {
        Some(pool) => format!("/v1/health?pool={}", escaped(pool)),
        None => "/v1/health".to_owned(),
    };
    let health: Health = wait(Client::new(socket).get(&path))??;
    let text = if health.pools.is_empty() {
        match pool {
            Some(pool) => format!("pool {pool} has no health check: its backends count as up"),
            None => "no pool has a health check: all backends count as up".to_owned(),
        }
    } else {
        text(&health, now())
    };
    Ok(Output::yes(serde_json::to_value(&health)?, text))
}

fn now() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Wall(since.map_or(0, millis))
}

fn text(health: &Health, now: Wall) -> String {
    let rows = health.backends.iter().map(|backend| row(backend, now));
    let columns = [
        "POOL",
        "BACKEND",
        "PHASE",
        "SINCE",
        "LAST PROBE",
        ">TOOK",
        ">PENALTY",
        "REASON",
    ];
    let pools: Vec<String> = health.pools.iter().map(describe).collect();
    format!("{}\n\n{}", table(columns, rows), pools.join("\n"))
}

fn row(backend: &BackendHealth, now: Wall) -> [String; 8] {
    let (last, took) = match &backend.last {
        None => ("-".to_owned(), "-".to_owned()),
        Some(last) => (probe(last, now), took(last.took_us)),
    };
    let penalty = match (backend.penalty, backend.held) {
        (penalty, true) => format!("{penalty:.1}, held"),
        (penalty, false) if penalty < 0.05 => "-".to_owned(),
        (penalty, false) => format!("{penalty:.1}"),
    };
    // Served against its checks, or the other way round.
    let phase = match (backend.phase.as_str(), backend.standing.as_str()) {
        ("suspect" | "dead" | "draining", "up") => format!("{}, served", backend.phase),
        (phase, _) => phase.to_owned(),
    };
    [
        backend.pool.clone(),
        backend.name.clone(),
        phase,
        Wall(backend.since).text(),
        last,
        took,
        penalty,
        backend.reason.clone(),
    ]
}

fn probe(last: &LastProbe, now: Wall) -> String {
    let ago = span(now.since(Wall(last.at)).as_secs_f64());
    format!("{}, {ago} ago", last.result)
}

fn took(us: u64) -> String {
    format!("{:.1} ms", Duration::from_micros(us).as_secs_f64() * 1000.0)
}

fn describe(pool: &PoolHealth) -> String {
    let phases: Vec<String> = pool
        .phases
        .iter()
        .map(|(phase, count)| format!("{count} {phase}"))
        .collect();
    let open = match pool.fail_open.as_str() {
        "silent" => "; too much looks down, so backends that don't answer are served (fail_open)",
        "all" => "; all looks down, so all backends are served (fail_open)",
        _ => "",
    };
    format!("{}: {} check, {}{open}", pool.pool, pool.check, phases.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_the_checks_say_in_words() {
        let last = LastProbe {
            result: "silent".to_owned(),
            reason: Some("no answer within 1 s".to_owned()),
            took_us: 1_000_400,
            at: 97_500,
        };
        let backend = |phase: &str, standing: &str, penalty, held| BackendHealth {
            pool: "web".to_owned(),
            name: "be1".to_owned(),
            phase: phase.to_owned(),
            since: 0,
            reason: "no answer within 1 s".to_owned(),
            standing: standing.to_owned(),
            last: Some(last.clone()),
            penalty,
            held,
            counts: crate::api::health::Probes::default(),
        };
        let now = Wall(100_000);
        let cells = row(&backend("dead", "up", 3.25, true), now);
        assert_eq!(cells[2], "dead, served");
        assert_eq!(cells[4..7], ["silent, 2.5 s ago", "1000.4 ms", "3.1, held"]);
        let unasked = BackendHealth {
            last: None,
            ..backend("unknown", "up", 0.0, false)
        };
        let cells = row(&unasked, now);
        assert_eq!(cells[2], "unknown");
        assert_eq!(cells[4..7], ["-", "-", "-"]);
        let pool = PoolHealth {
            pool: "web".to_owned(),
            check: "tcp".to_owned(),
            fail_open: "silent".to_owned(),
            phases: BTreeMap::from([("dead".to_owned(), 2), ("up".to_owned(), 1)]),
        };
        assert_eq!(
            describe(&pool),
            "web: tcp check, 2 dead, 1 up; too much looks down, so backends that don't answer are served (fail_open)"
        );
    }
}
