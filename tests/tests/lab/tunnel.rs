//! Health checks that go through the tunnel find what checks of backends' own addresses can't see.

use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use lb_tests::node_config::{NodeConfig, PoolSection, TunnelSection, VipSection};
use lb_tests::serve::HEALTH_PATH;
use lb_tests::topo::{HTTP_PORT, Topology, VIP4, VIP6};
use lb_tests::{Family, Lab, LabError, wait};
use lb_userspace::dataplane::pin::Root;
use lb_userspace::dataplane::tunnel::{self, Hook};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(200);
const FALL: u32 = 3;
/// A question later than it should be, a change of the maps, and the other users of this machine.
const SLACK: Duration = Duration::from_millis(1500);

/// Fields of a check by HTTP, `more` beside them.
fn check(more: &Value) -> Value {
    let mut health = json!({
        "type": "http", "port": HTTP_PORT, "path": HEALTH_PATH,
        "interval": format!("{}ms", INTERVAL.as_millis()), "timeout": "150ms",
        "rise": 2, "fall": FALL, "death_grace": "500ms", "flap": {"limit": 0}, "fail_open": 100,
    });
    let all = health.as_object_mut().expect("a mapping");
    all.extend(more.as_object().expect("a mapping").clone());
    health
}

/// The lab's pools are checked through the tunnel; beside them stand the same backends, checked at their own addresses.
fn checked(config: &NodeConfig) -> Result<String, LabError> {
    let mut config = config.clone();
    let direct = config.pools.iter().map(|pool| PoolSection {
        name: pool.name.replace("web", "direct"),
        health: Some(check(&json!({}))),
        ..pool.clone()
    });
    let direct: Vec<PoolSection> = direct.collect();
    config.pools[0].health = Some(check(&json!({"through_tunnel": true})));
    config.pools[1].health = Some(check(&json!({"through_tunnel": true, "vip": VIP6})));
    config.pools.extend(direct);
    config.to_yaml()
}

/// One node that checks, when all backends have been found well.
fn start(lab: &mut Lab) -> Result<(), LabError> {
    let text = checked(lab.node(0).config())?;
    let mark = lab.node(0).reload(&text)?;
    lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
    for pool in ["web4", "web6", "direct4", "direct6"] {
        for backend in ["be1", "be2", "be3"] {
            let line = format!("backend {pool}/{backend}: up");
            lab.node(0).wait_log(&line, mark, SOON)?;
        }
    }
    Ok(())
}

fn log_mark(lab: &mut Lab) -> u64 {
    lab.node(0).log().len() as u64
}

/// What the agent has logged since.
fn log_since(lab: &mut Lab, mark: u64) -> String {
    let log = lab.node(0).log();
    log[usize::try_from(mark).expect("a short log")..].to_owned()
}

/// Waits until the checks through the tunnel have found be1 of both pools, and fails if that takes too long or anybody
/// else is found.
fn found_in_time(lab: &mut Lab, mark: u64, broken: Instant) -> Result<(), LabError> {
    for pool in ["web4", "web6"] {
        lab.node(0)
            .wait_log(&format!("backend {pool}/be1: suspect, was up"), mark, SOON)?;
    }
    let took = broken.elapsed();
    let due = INTERVAL * FALL + INTERVAL / 10 + Duration::from_millis(150) + SLACK;
    assert!(took < due, "{took:?}, due within {due:?}");
    // The control: by itself the host and its service are well, and nobody else is touched.
    let log = log_since(lab, mark);
    assert!(!log.contains("direct"), "{log}");
    assert!(!log.contains("be2") && !log.contains("be3"), "{log}");
    Ok(())
}

fn well_again(lab: &mut Lab, mark: u64) -> Result<(), LabError> {
    for pool in ["web4", "web6"] {
        let line = format!("backend {pool}/be1: up again");
        lab.node(0).wait_log(&line, mark, SOON)?;
    }
    Ok(())
}

fn decap(lab: &mut Lab, attached: bool) -> Result<(), LabError> {
    if attached {
        lab.backend(0).attach_decap()
    } else {
        lab.backend(0).detach_decap()
    }
}

#[test]
fn lost_decapsulation_is_found_and_only_there() {
    Lab::builder("tunnel-decap")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let mark = log_mark(lab);
            let broken = Instant::now();
            decap(lab, false)?;
            found_in_time(lab, mark, broken)?;
            // No client is sent there any more.
            lab.node(0).wait_log("backend web4/be1: dead", mark, SOON)?;
            wait::until_ok(SOON, "requests go elsewhere", || {
                let report = lab.client().http(100, Family::V4)?;
                Ok(report.failed() == 0 && report.answered_by("be1") == 0)
            })?;
            let mark = log_mark(lab);
            decap(lab, true)?;
            well_again(lab, mark)
        })
        .expect("the lab runs");
}

#[test]
fn a_lost_vip_is_found_and_only_there() {
    Lab::builder("tunnel-vip")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let vips = |verb: &str, tail: &str| {
                vec![
                    format!("addr {verb} {VIP4}/32 dev lo"),
                    format!("addr {verb} {VIP6}/128 dev lo{tail}"),
                ]
            };
            let mark = log_mark(lab);
            let broken = Instant::now();
            lab.backend(0).namespace().ip(&vips("del", ""))?;
            found_in_time(lab, mark, broken)?;
            let mark = log_mark(lab);
            lab.backend(0).namespace().ip(&vips("add", " nodad"))?;
            well_again(lab, mark)
        })
        .expect("the lab runs");
}

/// A backend that forwards sends what it can't keep to its router, which gives it to a balancer again: another backend
/// must not answer in its place.
#[test]
fn a_lost_vip_is_found_on_a_backend_that_forwards() {
    Lab::builder("tunnel-forwards")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            lab.backend(0).namespace().sysctl(&[
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
            ])?;
            let mark = log_mark(lab);
            let broken = Instant::now();
            lab.backend(0).namespace().ip(&[
                format!("addr del {VIP4}/32 dev lo"),
                format!("addr del {VIP6}/128 dev lo"),
            ])?;
            found_in_time(lab, mark, broken)
        })
        .expect("the lab runs");
}

/// Whether `lb_probe` is at the egress of the node's interface, by the kernel's word.
fn is_attached(lab: &mut Lab) -> Result<bool, LabError> {
    let name = || -> String { "eth0".to_owned() };
    if Hook::of_kernel() == Hook::Filter {
        let pins = tunnel::interfaces(&Root::new(lab.node(0).pin_root()));
        return Ok(pins.expect("a list") == [name()]);
    }
    let query = || SchedClassifier::query_tcx(&name(), TcAttachType::Egress).expect("a query");
    let (_, programs) = lab.node(0).namespace().within(query)?;
    Ok(programs.iter().any(|program| program.name() == b"lb_probe"))
}

#[test]
fn checks_survive_a_killed_agent_and_end_with_a_detached_one() {
    Lab::builder("tunnel-restart")
        .nodes(1)
        .run(|lab| {
            assert!(!is_attached(lab)?, "nobody asked through the tunnel yet");
            start(lab)?;
            assert!(is_attached(lab)?);
            lab.node(0).kill9()?;
            assert!(is_attached(lab)?, "what isn't marked passes");
            // It fails while nobody looks, and the next agent finds it.
            decap(lab, false)?;
            let mark = log_mark(lab);
            lab.node(0).start()?;
            // Whether the killed one has written down that it was up is a matter of milliseconds.
            for pool in ["web4", "web6"] {
                let line = format!("backend {pool}/be1: suspect, was");
                lab.node(0).wait_log(&line, mark, SOON)?;
            }
            let log = log_since(lab, mark);
            let mut warned = log.lines().filter(|line| line.contains("WARN"));
            assert!(
                !warned.any(|line| line.contains("direct") || line.contains("be2")),
                "{log}"
            );

            // A configuration without such checks takes the program off, and one with them attaches it again.
            let (with, without) = (checked(lab.node(0).config())?, lab.node(0).config().to_yaml()?);
            for (text, attached) in [(&without, false), (&with, true)] {
                lab.node(0).reload(text)?;
                wait::until_ok(SOON, "lb_probe follows", || Ok(is_attached(lab)? == attached))?;
            }
            lab.node(0).stop()?;
            assert!(is_attached(lab)?, "a stopped agent leaves the data plane");
            let out = lab.node(0).lbctl(&["detach"])?;
            assert!(out.status.success(), "{out:?}");
            wait::until_ok(SOON, "the end of the link", || Ok(!is_attached(lab)?))?;
            assert!(!lab.node(0).pin_root().join("probe").exists());
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// VIPs over backends of the other family: IPv4 in IPv6, and IPv6 in IPv4.
fn mixed(config: &NodeConfig) -> Result<String, LabError> {
    let mut config = config.clone();
    for (pool, other, vip) in [(0, 1, VIP4.to_string()), (1, 0, VIP6.to_string())] {
        let name = format!("mixed{pool}");
        config.pools.push(PoolSection {
            name: name.clone(),
            backends: config.pools[other].backends.clone(),
            encap: None,
            second_chance: None,
            health: Some(check(&json!({"through_tunnel": true}))),
            tunnel: TunnelSection::default(),
        });
        config.vips.push(VipSection {
            address: vip.parse().expect("an address"),
            port: 81,
            protocol: "tcp",
            pool: name,
            tracking: None,
            idle_timeout: None,
        });
    }
    config.to_yaml()
}

#[test]
fn families_may_differ() {
    Lab::builder("tunnel-mixed")
        .nodes(1)
        .run(|lab| {
            let text = mixed(lab.node(0).config())?;
            let mark = lab.node(0).reload(&text)?;
            for pool in ["mixed0", "mixed1"] {
                for backend in ["be1", "be2", "be3"] {
                    let line = format!("backend {pool}/{backend}: up");
                    lab.node(0).wait_log(&line, mark, SOON)?;
                }
            }
            decap(lab, false)?;
            for pool in ["mixed0", "mixed1"] {
                let line = format!("backend {pool}/be1: suspect, was up");
                lab.node(0).wait_log(&line, mark, SOON)?;
            }
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// Questions are IP in IP here as well, and the same `lb_decap` takes them that takes clients' packets over GUE.
#[test]
fn pools_of_gue_are_checked_like_others() {
    let mut config = NodeConfig::of(&Topology::star(1, &[1, 2, 3]), 0);
    config.gue(true);
    Lab::builder("tunnel-gue")
        .nodes(1)
        .configs(vec![config])
        .run(|lab| {
            start(lab)?;
            for family in Family::BOTH {
                let report = lab.client().http(100, family)?;
                assert_eq!(report.failed(), 0, "{:?}", report.errors());
            }
            // The control: they see what is lost.
            let mark = log_mark(lab);
            let broken = Instant::now();
            decap(lab, false)?;
            found_in_time(lab, mark, broken)?;
            decap(lab, true)?;
            well_again(lab, mark)
        })
        .expect("the lab runs");
}

/// Questions that never reach the backend blame nobody.
#[test]
fn a_vip_of_the_node_itself_is_its_own_fault() {
    Lab::builder("tunnel-own-vip")
        .nodes(1)
        .run(|lab| {
            start(lab)?;
            let mark = log_mark(lab);
            lab.node(0)
                .namespace()
                .ip(&[format!("addr add {VIP4}/32 dev lo")])?;
            let out = lab.node(0).lbctl(&["--output", "json", "doctor", "web4/be1"])?;
            let report: Value = serde_json::from_slice(&out.stdout).expect("a report");
            assert_eq!(report["verdicts"], json!(["not_asked"]), "{report:#}");
            assert!(
                report.to_string().contains("is an address of this node"),
                "{report:#}"
            );
            // The examination took longer than `fall` questions.
            let log = log_since(lab, mark);
            assert!(!log.contains("suspect"), "{log}");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
