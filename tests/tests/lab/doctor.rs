//! `lbctl doctor` names what is wrong with a backend, each fault made on purpose.

use std::time::Duration;

use lb_tests::node_config::NodeConfig;
use lb_tests::serve::HEALTH_PATH;
use lb_tests::topo::{HTTP_PORT, VIP4, VIP6};
use lb_tests::{Family, Lab, LabError};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// What the doctor says of be1 in the pool of this family, with the exit code.
fn doctor(lab: &mut Lab, family: Family) -> Result<(Value, Option<i32>), LabError> {
    let name = format!("web{}/be1", family.digit());
    let out = lab.node(0).lbctl(&["--output", "json", "doctor", &name])?;
    let report = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    Ok((report, out.status.code()))
}

/// Fails unless the doctor says exactly this, and says what it saw.
fn says(lab: &mut Lab, family: Family, verdicts: &[&str]) -> Result<Value, LabError> {
    let (report, code) = doctor(lab, family)?;
    assert_eq!(report["verdicts"], json!(verdicts), "{report:#}");
    let is_healthy = verdicts == ["healthy"];
    assert_eq!(code, Some(if is_healthy { 0 } else { 1 }), "{report:#}");
    let advice = report["advice"].as_array().expect("a list");
    assert_eq!(advice.is_empty(), is_healthy, "{report:#}");
    let evidence = report["evidence"].as_array().expect("a list");
    assert!(evidence.len() > 2, "{report:#}");
    Ok(report)
}

fn both(lab: &mut Lab, verdicts: &[&str]) -> Result<(), LabError> {
    for family in Family::BOTH {
        says(lab, family, verdicts)?;
    }
    Ok(())
}

fn backend_ip(lab: &mut Lab, lines: &[&str]) -> Result<(), LabError> {
    let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    lab.backend(0).namespace().ip(&lines)
}

#[test]
fn the_healthy_and_faults_of_the_way() {
    Lab::builder("doctor")
        .nodes(1)
        .run(|lab| {
            both(lab, &["healthy"])?;

            lab.backend(0).detach_decap()?;
            both(lab, &["no_decapsulation"])?;
            lab.backend(0).attach_decap()?;

            let vips = [format!("{VIP4}/32 dev lo"), format!("{VIP6}/128 dev lo")];
            let each = |verb: &str, tail: &str| vips.each_ref().map(|vip| format!("addr {verb} {vip}{tail}"));
            lab.backend(0).namespace().ip(&each("del", ""))?;
            both(lab, &["vip_not_bound"])?;
            lab.backend(0).namespace().ip(&each("add", " nodad"))?;

            // The router doesn't say a word: the packet is too long for the link's far end.
            backend_ip(lab, &["link set dev eth0 mtu 1400"])?;
            for family in Family::BOTH {
                let report = says(lab, family, &["mtu_too_small"])?;
                let needed = if family == Family::V4 { 1520 } else { 1540 };
                assert!(
                    report["advice"][0]
                        .as_str()
                        .expect("text")
                        .contains(&format!("mtu {needed}")),
                    "{report:#}"
                );
            }
            backend_ip(lab, &["link set dev eth0 mtu 1600"])?;
            both(lab, &["healthy"])?;

            backend_ip(lab, &["link set dev eth0 down"])?;
            both(lab, &["no_answer"])?;

            let unknown = lab.node(0).lbctl(&["doctor", "web4/be9"])?;
            assert_eq!(unknown.status.code(), Some(2));
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// Both pools are checked over HTTP, the IPv6 one through the tunnel.
fn checked(config: &NodeConfig) -> Result<String, LabError> {
    let mut config = config.clone();
    let check = |tunnel: bool| {
        let health = json!({"type": "http", "port": HTTP_PORT, "path": HEALTH_PATH, "through_tunnel": tunnel,
            "interval": "200ms", "timeout": "150ms", "flap": {"limit": 0}});
        Some(health)
    };
    config.pools[0].health = check(false);
    config.pools[1].health = check(true);
    config.to_yaml()
}

#[test]
fn faults_of_the_service() {
    Lab::builder("doctor-service")
        .nodes(1)
        .run(|lab| {
            let text = checked(lab.node(0).config())?;
            let mark = lab.node(0).reload(&text)?;
            lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
            both(lab, &["healthy"])?;
            lab.backend(0).refuse(true)?;
            for family in Family::BOTH {
                let report = says(lab, family, &["service_refuses"])?;
                assert!(report.to_string().contains("HTTP status 503"), "{report:#}");
            }
            lab.backend(0).kill9()?;
            both(lab, &["service_refuses"])?;
            // Checks that go through the tunnel all the time use up the host's errors, of which it sends one in a second.
            lab.backend(0).detach_decap()?;
            both(lab, &["no_decapsulation"])
        })
        .expect("the lab runs");
}

/// As with a tunnel device of the kernel's, unwrapped packets come in by another interface than the one that leads back to
/// their sender. IPv6 has no such filter in the kernel.
#[test]
fn a_reverse_path_filter() {
    Lab::builder("doctor-rp-filter")
        .nodes(1)
        .run(|lab| {
            lab.backend(0).detach_decap()?;
            backend_ip(
                lab,
                &[
                    "link add t0 type veth peer name t1",
                    "link set dev t0 mtu 1600 up",
                    "link set dev t1 address 02:00:00:00:00:01 mtu 1600 up",
                    "neigh add 10.9.21.2 lladdr 02:00:00:00:00:01 dev t0 nud permanent",
                    "route add default dev t0 table 200",
                    "rule add pref 10 lookup local",
                    "rule add pref 5 iif eth0 ipproto 4 lookup 200",
                    "rule del pref 0",
                ],
            )?;
            let sysctl = |filter| {
                [
                    ("net/ipv4/ip_forward", "1"),
                    ("net/ipv4/conf/t1/rp_filter", filter),
                ]
            };
            lab.backend(0).namespace().sysctl(&sysctl("0"))?;
            lab.backend(0).attach_decap_to("t1")?;
            // The control: without the filter all is well.
            says(lab, Family::V4, &["healthy"])?;
            lab.backend(0).namespace().sysctl(&sysctl("1"))?;
            let report = says(lab, Family::V4, &["reverse_path_filter"])?;
            assert!(
                report["advice"][0].as_str().expect("text").contains("rp_filter"),
                "{report:#}"
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
