//! The endpoint for Prometheus: where it listens and where not, and that what it says is so.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use lb_tests::host::Node;
use lb_tests::node_config::NodeConfig;
use lb_tests::serve::HEALTH_PATH;
use lb_tests::topo::HTTP_PORT;
use lb_tests::{Family, Job, Lab, LabError, Pace, promtool, wait};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
pub(crate) const LOCAL: &str = "127.0.0.1:9400";
/// TCP_LISTEN in `/proc/net/tcp` (`man 5 proc`).
const LISTEN: &str = "0A";

/// The lab's configuration with an endpoint, where there is to be one.
pub(crate) fn with_endpoint(config: &NodeConfig, listen: Option<&str>) -> Result<String, LabError> {
    let section = listen.map(|listen| format!("metrics: {{listen: \"{listen}\"}}\n"));
    Ok(config.to_yaml()? + &section.unwrap_or_default())
}

fn reload(lab: &mut Lab, listen: Option<&str>, outcome: &str) -> Result<(), LabError> {
    let text = with_endpoint(lab.node(0).config(), listen)?;
    let mark = lab.node(0).reload(&text)?;
    lab.node(0).wait_log(outcome, mark, SOON)
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.unwrap_or(0), body.to_owned()))
}

/// The status of `GET /metrics` from inside the node; 0 where nobody listens.
fn status(lab: &mut Lab, address: &str) -> Result<u16, LabError> {
    let address: SocketAddr = address.parse().expect("an address");
    let answer = lab.node(0).namespace().within(|| get(address, "/metrics"))?;
    Ok(answer.map_or(0, |(status, _)| status))
}

/// What the first node tells, and its samples by name and labels.
pub(crate) fn scrape(lab: &mut Lab) -> Result<(String, BTreeMap<String, f64>), LabError> {
    scrape_at(lab.node(0), LOCAL)
}

/// What a node tells there, and its samples by name and labels.
pub(crate) fn scrape_at(node: &Node, address: &str) -> Result<(String, BTreeMap<String, f64>), LabError> {
    let address: SocketAddr = address.parse().expect("an address");
    let answer = node.namespace().within(|| get(address, "/metrics"))?;
    let (status, text) = answer.expect("an endpoint");
    assert_eq!(status, 200, "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (key, value) = line.rsplit_once(' ').expect("a sample");
        (key.to_owned(), value.parse().expect("a number"))
    });
    let samples = samples.collect();
    Ok((text, samples))
}

/// Waits until a sample is `want`.
fn until(lab: &mut Lab, key: &str, want: f64) -> Result<(), LabError> {
    wait::until_ok(SOON, &format!("{key} is {want}"), || {
        Ok(scrape(lab)?.1.get(key) == Some(&want))
    })
}

/// Sockets that listen for TCP inside the node.
fn listening(lab: &mut Lab) -> Result<usize, LabError> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let tables = lab.node(0).namespace().within(|| [read("tcp"), read("tcp6")])?;
    let lines = |table: std::io::Result<String>| {
        let table = table.expect("a table of sockets");
        let state = |line: &str| line.split_whitespace().nth(3) == Some(LISTEN);
        table.lines().filter(|line| state(line)).count()
    };
    Ok(tables.into_iter().map(lines).sum())
}

/// Everything that `lbctl stats` and the endpoint both count; empty where they agree.
fn differences(lab: &mut Lab) -> Result<Vec<String>, LabError> {
    let stats = lab.node(0).lbctl_json(&["stats"])?;
    let (_, samples) = scrape(lab)?;
    let rows = |what: &str| stats[what].as_array().expect("rows").clone();
    let text = |row: &Value, field: &str| row[field].as_str().expect("text").to_owned();
    let mut pairs = Vec::new();
    for row in rows("vips") {
        let pool = if text(&row, "vip").starts_with('[') {
            "web6"
        } else {
            "web4"
        };
        pairs.push((
            format!("vip_N_total{{vip=\"{}\",pool=\"{pool}\"}}", text(&row, "vip")),
            row,
        ));
    }
    for row in rows("backends") {
        let name = text(&row, "backend");
        let (pool, name) = name.split_once('/').expect("pool/name");
        pairs.push((
            format!("backend_N_total{{pool=\"{pool}\",backend=\"{name}\"}}"),
            row,
        ));
    }
    for row in rows("stops") {
        let labels = format!(
            "reason=\"{}\",action=\"{}\"",
            text(&row, "reason"),
            text(&row, "action")
        );
        pairs.push((format!("stop_N_total{{{labels}}}"), row));
    }
    assert!(pairs.len() > 20, "{pairs:?}");
    let mut found = Vec::new();
    for (key, row) in pairs {
        for unit in ["packets", "bytes"] {
            let key = format!("tandem_{}", key.replace('N', unit));
            let (told, counted) = (samples.get(&key).copied(), row[unit].as_f64());
            if told != counted {
                found.push(format!("{key}: {told:?}, lbctl says {counted:?}"));
            }
        }
    }
    Ok(found)
}

/// A last frame may be on its way, and scrapes within a moment share an answer.
fn agrees_with_lbctl(lab: &mut Lab) -> Result<(), LabError> {
    let mut last = Vec::new();
    let agreed = wait::until_ok(SOON, "metrics and lbctl agree", || {
        last = differences(lab)?;
        Ok(last.is_empty())
    });
    assert!(agreed.is_ok(), "{last:#?}");
    Ok(())
}

/// All that was forwarded.
fn forwarded(lab: &mut Lab) -> Result<f64, LabError> {
    let (_, samples) = scrape(lab)?;
    let vips = samples
        .iter()
        .filter(|(key, _)| key.starts_with("tandem_vip_packets_total"));
    Ok(vips.map(|(_, value)| value).sum())
}

#[test]
fn it_listens_where_it_is_told_and_nowhere_else() {
    Lab::builder("metrics-listen")
        .nodes(1)
        .weights(&[1])
        .run(|lab| {
            assert_eq!(listening(lab)?, 0, "off without its section");
            // Its address towards the router.
            let near = "10.9.11.2:9400";
            reload(lab, Some(LOCAL), "metrics on http://127.0.0.1:9400/metrics")?;
            assert_eq!((status(lab, LOCAL)?, status(lab, near)?), (200, 0));
            assert_eq!(listening(lab)?, 1);
            reload(lab, Some("0.0.0.0:9400"), "metrics are open to whoever reaches")?;
            assert_eq!((status(lab, LOCAL)?, status(lab, near)?), (200, 200));

            let taken = "127.0.0.1:9555";
            let other = lab.node(0).namespace().within(|| TcpListener::bind(taken))?;
            let other = other.expect("a free port");
            let refusal = "`metrics.listen`: 127.0.0.1:9555 is taken by another process";
            reload(lab, Some(taken), refusal)?;
            assert_eq!(
                (status(lab, LOCAL)?, status(lab, near)?),
                (200, 200),
                "the old one stays"
            );
            until(lab, "tandem_config_last_reload_successful", 0.0)?;
            until(lab, "tandem_config_reloads_total{result=\"refused\"}", 1.0)?;

            lab.node(0).kill9()?;
            let text = with_endpoint(lab.node(0).config(), Some(taken))?;
            lab.node(0).write_config(&text)?;
            let start = lab.node(0).log().len();
            lab.node(0).spawn()?;
            wait::until(SOON, "the start is refused", || {
                lab.node(0).log()[start..].contains(refusal)
            })?;
            assert!(lab.node(0).wait_ready().is_err());
            drop(other);
            lab.node(0).start()?;
            assert_eq!((status(lab, taken)?, status(lab, LOCAL)?), (200, 0));
            reload(lab, None, "metrics are off")?;
            assert_eq!(listening(lab)?, 0);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn what_it_says_is_what_lbctl_says_also_after_a_kill() {
    Lab::builder("metrics-agree")
        .nodes(1)
        .run(|lab| {
            reload(lab, Some(LOCAL), "configuration reloaded")?;
            for family in Family::BOTH {
                let report = lab.client().http(200, family)?;
                assert_eq!((report.requests(), report.failed()), (200, 0));
                lab.client().udp(100, family)?;
            }
            agrees_with_lbctl(lab)?;
            let (text, samples) = scrape(lab)?;
            assert!(samples["tandem_vip_packets_total{vip=\"10.200.1.1:80/tcp\",pool=\"web4\"}"] > 600.0);
            assert_eq!(samples["tandem_ready"], 1.0, "it is alone");
            assert!(!samples.contains_key("tandem_group_members"));
            assert_eq!(samples["tandem_generation_desired"], 2.0);
            assert_eq!(samples["tandem_generation_applied"], 2.0);
            assert_eq!(samples["tandem_maps_in_step"], 1.0);
            assert!(samples["tandem_ring_builds_total"] >= 2.0 && samples["tandem_slots_changed_total"] >= 131_072.0);
            let slots: f64 = ["be1", "be2", "be3"]
                .map(|name| samples[&format!("tandem_backend_slots{{pool=\"web4\",backend=\"{name}\"}}")])
                .iter()
                .sum();
            assert_eq!(slots, 65_536.0);
            let interface = lab.topology().node_interfaces(0)[0].to_owned();
            assert!(samples[&format!("tandem_interface_receive_packets_total{{interface=\"{interface}\"}}")] > 600.0);
            assert_eq!(samples[&format!("tandem_interface_info{{interface=\"{interface}\",mode=\"native\"}}")], 1.0);
            assert!(samples["process_resident_memory_bytes"] > 1e6);
            if let Some(out) = promtool::run(&["check", "metrics"], text.as_bytes())? {
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }
            let key = lab.node(0).config().group.key.clone();
            assert!(!text.contains(&key), "a secret is told");

            let before = forwarded(lab)?;
            lab.node(0).kill9()?;
            let report = lab.client().http(100, Family::V4)?;
            assert_eq!((report.requests(), report.failed()), (100, 0), "nobody notices");
            lab.node(0).start()?;
            let after = forwarded(lab)?;
            assert!(after > before + 300.0, "{before} → {after}");
            agrees_with_lbctl(lab)?;
            assert_eq!(scrape(lab)?.1["tandem_generation_applied"], 3.0);

            // A command is a request to the API.
            let (_, samples) = scrape(lab)?;
            assert!(!samples.keys().any(|key| key.starts_with("tandem_api_requests_total")));
            lab.node(0).lbctl_json(&["drain", "web4/be1"])?;
            let drains = "tandem_api_requests_total{code=\"200\",method=\"POST\",path=\"/v1/backends/{pool}/{backend}/drain\"}";
            until(lab, drains, 1.0)?;
            until(lab, "tandem_backend_standing{pool=\"web4\",backend=\"be1\",standing=\"draining\"}", 1.0)?;
            until(lab, "tandem_backend_standing{pool=\"web4\",backend=\"be1\",standing=\"up\"}", 0.0)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_backends_death_shows() {
    Lab::builder("metrics-death")
        .nodes(1)
        .run(|lab| {
            let mut config = lab.node(0).config().clone();
            config.pools[0].health = Some(json!({
                "type": "http", "port": HTTP_PORT, "path": HEALTH_PATH,
                "interval": "200ms", "timeout": "150ms", "fall": 3, "death_grace": "300ms",
            }));
            let text = with_endpoint(&config, Some(LOCAL))?;
            let mark = lab.node(0).reload(&text)?;
            lab.node(0).wait_log("configuration reloaded", mark, SOON)?;
            let phase = |name: &str, phase: &str| {
                format!("tandem_backend_phase{{pool=\"web4\",backend=\"{name}\",phase=\"{phase}\"}}")
            };
            for name in ["be1", "be2", "be3"] {
                until(lab, &phase(name, "up"), 1.0)?;
            }
            let (_, samples) = scrape(lab)?;
            assert_eq!(samples["tandem_pool_fail_open{pool=\"web4\"}"], 0.0);
            assert!(!samples.keys().any(|key| key.contains("phase=") && key.contains("web6")), "no check there");
            lab.backend(0).kill9()?;
            until(lab, &phase("be1", "dead"), 1.0)?;
            until(lab, "tandem_backend_slots{pool=\"web4\",backend=\"be1\"}", 0.0)?;
            until(lab, "tandem_backend_standing{pool=\"web4\",backend=\"be1\",standing=\"dead\"}", 1.0)?;
            let (_, samples) = scrape(lab)?;
            assert_eq!((samples[&phase("be1", "up")], samples[&phase("be2", "up")]), (0.0, 1.0));
            let why = "tandem_backend_health_info{pool=\"web4\",backend=\"be1\",check=\"http\",reason=\"Connection refused\"}";
            assert_eq!(samples.get(why), Some(&1.0), "{samples:#?}");
            let probes = |outcome: &str| {
                samples[&format!("tandem_probe_results_total{{pool=\"web4\",backend=\"be1\",outcome=\"{outcome}\"}}")]
            };
            assert!(probes("silent") >= 3.0 && probes("good") >= 2.0 && probes("unasked") == 0.0);

            lab.backend(1).kill9()?;
            lab.backend(2).kill9()?;
            until(lab, "tandem_pool_fail_open{pool=\"web4\"}", 1.0)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn scrapes_by_the_hundred_disturb_no_traffic() {
    const PER_SECOND: u32 = 100;
    const FOR: Duration = Duration::from_secs(3);
    Lab::builder("metrics-load")
        .nodes(1)
        .run(|lab| {
            reload(lab, Some(LOCAL), "configuration reloaded")?;
            let jobs = vec![
                Job::http(Family::V4, Pace::Rate { per_second: 200 }),
                Job::lines(Family::V6, 50, Duration::from_millis(20)),
            ];
            let mut load = lab.client().load(jobs)?;
            load.wait_requests(200, SOON)?;
            let address: SocketAddr = LOCAL.parse().expect("an address");
            let scraped = lab.node(0).namespace().within(|| {
                let start = Instant::now();
                (0..PER_SECOND * FOR.as_secs() as u32)
                    .filter(|&i| {
                        let due = FOR * i / (PER_SECOND * FOR.as_secs() as u32);
                        std::thread::sleep(due.saturating_sub(start.elapsed()));
                        get(address, "/metrics").is_ok_and(|(status, _)| status == 200)
                    })
                    .count()
            })?;
            assert_eq!(scraped, 300);
            let report = load.stop()?;
            assert!(report.requests() > 500, "{report:?}");
            assert_eq!(report.failed(), 0, "{:?}", report.errors());
            agrees_with_lbctl(lab)?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
