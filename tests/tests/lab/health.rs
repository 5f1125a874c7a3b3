//! Health checks of real servers by real agents: what fails loses its slots in time, nobody else does, and what comes
//! back gets exactly its own again.

use std::time::{Duration, Instant};

use lb_tests::node_config::NodeConfig;
use lb_tests::serve::HEALTH_PATH;
use lb_tests::topo::HTTP_PORT;
use lb_tests::{Family, Lab, LabError, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(200);
const GRACE: Duration = Duration::from_millis(500);
const FALL: u32 = 3;
/// A question later than it should be, a change of the maps, and the other users of this machine.
const SLACK: Duration = Duration::from_millis(1500);

/// The IPv4 pool is asked over HTTP, the IPv6 one by echo requests.
fn checked(config: &NodeConfig) -> Result<String, LabError> {
    let mut config = config.clone();
    let times = json!({
        "interval": format!("{}ms", INTERVAL.as_millis()),
        "timeout": "150ms",
        "rise": 2,
        "fall": FALL,
        "death_grace": format!("{}ms", GRACE.as_millis()),
        // The labs come and go more often than any backend should.
        "flap": {"limit": 0},
    });
    let with = |fields: Value| {
        let mut health = times.clone();
        let all = health.as_object_mut().expect("a mapping");
        all.extend(fields.as_object().expect("a mapping").clone());
        Some(health)
    };
    config.pools[0].health = with(json!({"type": "http", "port": HTTP_PORT, "path": HEALTH_PATH}));
    config.pools[1].health = with(json!({"type": "icmp"}));
    config.to_yaml()
}

/// One node that checks, when all backends have been found well.
fn start(lab: &mut Lab) -> Result<(), LabError> {
    let text = checked(lab.node(0).config())?;
    let mark = lab.node(0).reload(&text)?;
    lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
    for pool in ["web4", "web6"] {
        for backend in ["be1", "be2", "be3"] {
            lab.node(0)
                .wait_log(&format!("backend {pool}/{backend}: up"), mark, SOON)?;
        }
    }
    Ok(())
}

/// How many slots a backend of the IPv4 pool has.
fn slots_of(lab: &mut Lab, name: &str) -> Result<u64, LabError> {
    let all = lab.node(0).lbctl_json(&["backends"])?;
    let rows = all["backends"].as_array().expect("a list");
    let row = rows
        .iter()
        .find(|row| row["pool"] == "web4" && row["name"] == name);
    Ok(row
        .and_then(|row| row["slots"].as_u64())
        .expect("a backend with slots"))
}

/// Who holds each slot of the IPv4 pool.
fn slots(lab: &mut Lab) -> Result<Vec<u64>, LabError> {
    let map = lab.node(0).lbctl_json(&["maps", "lb_slots"])?;
    let entries = map["entries"].as_array().expect("a list");
    let of_pool = entries.iter().filter(|entry| entry["key"]["pool"] == 0);
    Ok(of_pool
        .map(|entry| entry["value"]["current"].as_u64().expect("an index"))
        .collect())
}

fn index(lab: &mut Lab, name: &str) -> Result<u64, LabError> {
    let all = lab.node(0).lbctl_json(&["backends"])?;
    let rows = all["backends"].as_array().expect("a list");
    let row = rows
        .iter()
        .find(|row| row["pool"] == "web4" && row["name"] == name);
    Ok(row
        .and_then(|row| row["index"].as_u64())
        .expect("a backend with an index"))
}

fn log_mark(lab: &mut Lab) -> u64 {
    lab.node(0).log().len() as u64
}

/// `lent` differs from `home` in the slots of `backend` alone, and there in every one.
fn only_moved(home: &[u64], lent: &[u64], backend: u64) {
    for (slot, (home, lent)) in home.iter().zip(lent).enumerate() {
        assert_eq!(home == lent, *home != backend, "slot {slot}: {home} → {lent}");
        assert_ne!(*lent, backend, "slot {slot}");
    }
}

#[test]
fn a_dead_backend_loses_its_slots_in_time_and_gets_them_back_exactly() {
    Lab::builder("health-dead")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let home = slots(lab)?;
            let be1 = index(lab, "be1")?;

            let mark = log_mark(lab);
            let killed = Instant::now();
            lab.backend(0).kill9()?;
            wait::until_ok(SOON, "be1 has no slots", || Ok(slots_of(lab, "be1")? == 0))?;
            let took = killed.elapsed();
            let due = INTERVAL * FALL + INTERVAL / 10 + GRACE + SLACK;
            assert!(took < due, "{took:?}, due within {due:?}");
            lab.node(0).wait_log(
                "backend web4/be1: suspect, was up: Connection refused",
                mark,
                SOON,
            )?;
            lab.node(0)
                .wait_log("backend web4/be1: dead, was suspect", mark, SOON)?;
            // The host answers echoes whatever its servers do.
            assert!(
                !lab.node(0).log().contains("web6/be1: suspect"),
                "{}",
                lab.node(0).log()
            );
            let lent = slots(lab)?;
            only_moved(&home, &lent, be1);
            let report = lab.client().http(300, Family::V4)?;
            assert_eq!(
                (report.requests(), report.failed()),
                (300, 0),
                "{:?}",
                report.errors()
            );

            // The next agent knows at once, and moves nothing.
            lab.node(0).kill9()?;
            let mark = log_mark(lab);
            lab.node(0).start()?;
            assert_eq!(slots(lab)?, lent);
            let log = lab.node(0).log();
            let since = &log[usize::try_from(mark).expect("a short log")..];
            assert!(!since.contains("be1: suspect"), "{since}");

            let mark = log_mark(lab);
            lab.backend(0).start()?;
            lab.backend(0).wait_ready()?;
            lab.node(0)
                .wait_log("backend web4/be1: up again, was dead", mark, SOON)?;
            wait::until_ok(SOON, "be1 has its slots", || Ok(slots_of(lab, "be1")? > 0))?;
            assert_eq!(slots(lab)?, home);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn control_an_agent_that_knows_nothing_moves_slots_at_its_start() {
    Lab::builder("health-control")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            lab.backend(0).kill9()?;
            wait::until_ok(SOON, "be1 has no slots", || Ok(slots_of(lab, "be1")? == 0))?;
            lab.node(0).kill9()?;
            let state = lab.node(0).state_dir().to_owned();
            std::fs::remove_dir_all(&state).expect("the agent has kept its state");
            let mark = log_mark(lab);
            lab.node(0).start()?;
            lab.node(0)
                .wait_log("backend web4/be1: suspect, was unknown", mark, SOON)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_backend_that_refuses_is_drained() {
    Lab::builder("health-drain")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let home = slots(lab)?;
            let be2 = index(lab, "be2")?;
            let mark = log_mark(lab);
            lab.backend(1).refuse(true)?;
            lab.node(0)
                .wait_log("backend web4/be2: draining, was up: HTTP status 503", mark, SOON)?;
            wait::until_ok(SOON, "be2 has no slots", || Ok(slots_of(lab, "be2")? == 0))?;
            only_moved(&home, &slots(lab)?, be2);
            let report = lab.client().http(200, Family::V4)?;
            assert_eq!((report.failed(), report.answered_by("be2")), (0, 0), "{report:?}");
            assert!(!lab.node(0).log().contains("be2: suspect"));

            lab.backend(1).refuse(false)?;
            lab.node(0)
                .wait_log("backend web4/be2: up again, was draining", mark, SOON)?;
            wait::until_ok(SOON, "be2 has its slots", || Ok(slots_of(lab, "be2")? > 0))?;
            assert_eq!(slots(lab)?, home);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn when_all_look_down_all_are_served() {
    Lab::builder("health-open")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let home = slots(lab)?;
            let mark = log_mark(lab);
            for backend in 0..3 {
                lab.backend(backend).kill9()?;
            }
            for backend in ["be1", "be2", "be3"] {
                lab.node(0)
                    .wait_log(&format!("backend web4/{backend}: dead"), mark, SOON)?;
            }
            lab.node(0)
                .wait_log("so the checks are doubted: all backends are served", mark, SOON)?;
            wait::until_ok(SOON, "all have slots", || {
                let mut least = u64::MAX;
                for backend in ["be1", "be2", "be3"] {
                    least = least.min(slots_of(lab, backend)?);
                }
                Ok(least > 0)
            })?;
            assert_eq!(slots(lab)?, home);

            for backend in 0..3 {
                lab.backend(backend).start()?;
                lab.backend(backend).wait_ready()?;
            }
            lab.node(0)
                .wait_log("the checks are believed again", mark, SOON)?;
            for backend in ["be1", "be2", "be3"] {
                let line = format!("backend web4/{backend}: up again, was dead");
                lab.node(0).wait_log(&line, mark, SOON)?;
            }
            let report = lab.client().http(200, Family::V4)?;
            assert_eq!(
                (report.requests(), report.failed()),
                (200, 0),
                "{:?}",
                report.errors()
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn the_checks_are_told_while_the_agent_lives() {
    Lab::builder("health-told")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            lab.backend(0).kill9()?;
            lab.node(0)
                .wait_log("backend web4/be1: dead, was suspect", 0, SOON)?;
            let node = lab.node(0);
            let of = |args: &[&str]| node.lbctl_json(args);
            let all = of(&["health"])?;
            assert_eq!(all["backends"].as_array().map(Vec::len), Some(6));
            let web4 = of(&["health", "--pool", "web4"])?;
            let rows = web4["backends"].as_array().expect("a list");
            assert_eq!(rows.len(), 3);
            assert_eq!(
                (&web4["pools"][0]["check"], &web4["pools"][0]["fail_open"]),
                (&json!("http"), &json!("closed"))
            );
            let be1 = &rows[0];
            assert_eq!((&be1["name"], &be1["phase"]), (&json!("be1"), &json!("dead")));
            assert_eq!(be1["last"]["result"], "silent");
            assert_eq!(rows[1]["phase"], "up");
            let text = |args: &[&str]| {
                let out = node.lbctl(args)?;
                assert_eq!(out.status.code(), Some(0), "{out:?}");
                Ok::<_, LabError>(String::from_utf8(out.stdout).expect("UTF-8"))
            };
            let table = text(&["health", "--pool", "web4"])?;
            assert!(table.contains("web4: http check, 1 dead, 2 up"), "{table}");
            let backends = text(&["backends"])?;
            assert!(
                backends.contains("web4/be1: dead by its health check: Connection refused"),
                "{backends}"
            );
            let listed = of(&["backends"])?;
            assert_eq!(listed["backends"][0]["health"]["phase"], "dead");
            assert_eq!(node.lbctl(&["health", "--pool", "web5"])?.status.code(), Some(2));

            lab.node(0).kill9()?;
            let node = lab.node(0);
            let out = node.lbctl(&["health"])?;
            assert_eq!(out.status.code(), Some(2), "{out:?}");
            let listed = node.lbctl_json(&["backends"])?;
            assert_eq!(listed["backends"][0]["health"], Value::Null);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
