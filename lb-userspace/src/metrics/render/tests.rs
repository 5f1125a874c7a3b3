use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::pick::By;
use lb_common::stats::Counter as Count;
use lb_common::stop::Stop;

use super::*;
use crate::api::sync::Shown;
use crate::health::Mono;
use crate::health::fail_open::FailOpen;
use crate::health::monitor::{Counts, Last};
use crate::metrics::{
    Backend, Build, Charter, Group, Interface, Loads, Meters, Pool, Programmed, Row as Entry, Slots, Vip,
    Work, rows,
};
use crate::net::Traffic;
use crate::peer::{Differs, Facts, Life, Own, Refusal, Status, View};
use crate::state::standing::Standings;
use crate::state::track::Census;
use crate::state::wall::Wall;
use crate::sync::{self, Rates, Report};

/// An answer as a scraper takes it in: strictly by the text format, or not at all.
#[derive(Debug, Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    /// By name and labels.
    samples: BTreeMap<String, f64>,
}

impl Parsed {
    fn of(text: &str) -> Self {
        let mut parsed = Self::default();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help");
                assert!(!help.is_empty() && !parsed.types.contains_key(name), "{line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, family, "a type follows its help");
                assert_eq!(parsed.types.insert(name.to_owned(), kind.to_owned()), None);
            } else {
                parsed.sample(line, &family);
            }
        }
        assert!(text.ends_with('\n'));
        parsed
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (key, value) = line.rsplit_once(' ').expect("a value");
        let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        let name = key.split('{').next().expect("a name");
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .filter(|base| *base == family);
        assert_eq!(
            base.unwrap_or(name),
            family,
            "samples stand with their family: {line}"
        );
        if let Some(labels) = key.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
            let mut rest = labels.unwrap_or_else(|| panic!("{line}"));
            while !rest.is_empty() {
                let (label, after) = rest.split_once("=\"").expect("a label");
                assert!(
                    label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{line}"
                );
                let end = closing(after).unwrap_or_else(|| panic!("{line}"));
                rest = after[end + 1..].trim_start_matches(',');
            }
        }
        assert_eq!(self.samples.insert(key.to_owned(), value), None, "{line} twice");
    }

    fn value(&self, key: &str) -> f64 {
        let found = self.samples.get(key);
        *found.unwrap_or_else(|| panic!("no {key} in {:#?}", self.samples.keys()))
    }
}

/// Where a label's value ends: a quotation mark that is not escaped.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

fn count(packets: u64) -> Count {
    Count {
        packets,
        bytes: packets * 100,
    }
}

fn backend(name: &str, id: u64) -> Backend {
    Backend {
        pool: "web".into(),
        name: name.into(),
        id,
        weight: 3,
        reachable: id != 2,
        slots: 1000,
        counter: count(id),
    }
}

fn checked(name: &str, phase: Phase, reason: &str) -> Row {
    Row {
        pool: "web".into(),
        name: name.into(),
        id: 1,
        check: "https",
        phase,
        standing: "dead",
        reason: reason.into(),
        since_unix_ms: 1_700_000_000_500,
        last: Some(Last {
            outcome: "silent",
            reason: Some(reason.into()),
            took_us: 1500,
            at_unix_ms: 1_700_000_001_000,
        }),
        penalty: 0.5,
        held: false,
        counts: Counts {
            good: 5,
            silent: 3,
            changes: 2,
            ..Counts::default()
        },
    }
}

fn programmed() -> Programmed {
    Programmed {
        generation: 6,
        applied_at: 1_700_000_000,
        vips: vec![Vip {
            name: "[2001:db8::1]:80/tcp".into(),
            pool: "web".into(),
            counter: count(1 << 40),
        }],
        backends: vec![backend("be1", 1), backend("be2", 2)],
        pools: vec![Pool {
            name: "web".into(),
            backends: 2,
            slots: Slots {
                empty: 1,
                tracked: 7,
                closing: 3,
            },
        }],
        stops: Stop::ALL.iter().map(|&stop| (stop, count(stop as u64))).collect(),
        picks: vec![(By::Refused, count(9))],
    }
}

fn peers() -> View {
    let facts = Facts {
        rings: 7,
        ..Facts::default()
    };
    let at = Mono::from_unix(Duration::from_secs(1_700_000_100));
    let ready = |rings| Facts {
        phase: crate::peer::Phase::Ready,
        rings,
        ..Facts::default()
    };
    let mut differs = Differs::default();
    let since = Mono::from_unix(Duration::from_secs(1_700_000_090));
    differs.look(&ready(0), Some(&ready(7)), since);
    let peer = |place, name: &str, life| Status {
        place,
        name: name.to_owned(),
        address: "192.0.2.2:7946".parse().unwrap(),
        life,
        since: Mono::from_unix(Duration::from_millis(1_700_000_000_500)),
        session: Some(1),
        sessions: 3,
        rtt: Some(Duration::from_micros(250)),
        sent: 100,
        heard: 98,
        missed: 2,
        bytes: (0, 0),
        certificate_until: Some(1_800_000_000),
        facts: Some(facts.clone()),
        differs,
        trouble: None,
    };
    View {
        at,
        own: Some(Own {
            place: 0,
            name: "lb1".to_owned(),
            group: "blue".to_owned(),
            address: "192.0.2.1:7946".parse().unwrap(),
            facts: Facts::default(),
            certificate_until: 1_900_000_000,
            ca_until: 2_000_000_000,
            reload_failed: false,
        }),
        peers: vec![peer(1, "lb2", Life::Alive), peer(2, "lb3", Life::Dead)],
        refused: BTreeMap::from([(Refusal::Expired, 4)]),
    }
}

fn records() -> Shown {
    let mut status = sync::Status::default();
    (status.sent.records, status.sent.acknowledged) = (500, 480);
    status.sent.lag.add(Duration::from_millis(2), 10);
    (status.drops.dead, status.drops.found, status.lasting) = (5, 6, 7);
    status.asked = 8;
    let report = Report {
        peers: vec![sync::Status::default(), status],
        rates: vec![Rates::default(); 2],
        connected: BTreeSet::from([1]),
        events: 9,
        lost: 3,
        read: Duration::ZERO,
    };
    Shown {
        nodes: ["lb1", "lb2"].map(str::to_owned).into(),
        own: 0,
        report: Arc::new(report),
    }
}

fn group() -> Group {
    Group {
        members: 3,
        live: 2,
        coordinates: true,
        phase: Some("retirement"),
        waits_for: 1,
        adrift: 2,
        waiting: Duration::from_millis(2500),
        join_overdue: false,
        events: vec![("founded", 1), ("silent", 0)],
    }
}

fn full() -> Snapshot {
    let told = Told {
        node: "lb1".into(),
        generation: 7,
        work: Work {
            rings: 4,
            writes: 12,
            slots: 99,
            in_step: true,
        },
        loads: Loads {
            applied: 2,
            refused: 1,
            last_applied: false,
            applied_at: Wall(1_700_000_000_250),
        },
        census: Census {
            entries: [10, 0, 3, 0, 0],
            room: [100, 200, 50, 0, 0],
            overdue: 5,
            sweeps: 8,
            expired: 6,
            purged: 4,
            retired: 3,
            reopened: 2,
            ..Census::default()
        },
        standings: Standings {
            standing: BTreeMap::from([(2, Standing::Dead)]),
            ..Standings::default()
        },
        charter: Some(Charter {
            generation: 12,
            pending: false,
            equal: true,
            in_force: true,
            drift: true,
            malformed: 3,
        }),
        ready: true,
        group: Some(group()),
    };
    Snapshot {
        build: Build {
            version: "1.2.3".into(),
            object: "abc".into(),
        },
        maps: Some(programmed()),
        interfaces: Some(vec![Interface {
            name: "eth0".into(),
            mode: "native",
            traffic: Some(Traffic {
                mtu: 1500,
                received: count(11),
                sent: count(12),
                ..Traffic::default()
            }),
        }]),
        health: Some(task::Snapshot {
            backends: vec![
                checked("be1", Phase::Up, "answers \\ \"well\"\n"),
                checked("be2", Phase::Dead, "HTTP status 503"),
            ],
            open: vec![("web".into(), FailOpen::Silent)],
        }),
        peers: Arc::new(peers()),
        records: Some(records()),
        told,
        own: Meters::default().collect(),
        took: Duration::from_millis(3),
    }
}

/// What is told of [`full`].
const TOLD: &[(&str, f64)] = &[
    ("tandem_charter_generation", 12.0),
    ("tandem_charter_drift", 1.0),
    ("tandem_charter_pending", 0.0),
    ("tandem_charter_malformed_messages_total", 3.0),
    ("tandem_ready", 1.0),
    ("tandem_group_members", 3.0),
    ("tandem_group_members_live", 2.0),
    ("tandem_group_coordinates", 1.0),
    ("tandem_group_phase{phase=\"retirement\"}", 1.0),
    ("tandem_group_phase{phase=\"change\"}", 0.0),
    ("tandem_group_waits_for", 1.0),
    ("tandem_group_adrift", 2.0),
    ("tandem_group_waiting_seconds", 2.5),
    ("tandem_group_join_overdue", 0.0),
    ("tandem_group_events_total{event=\"founded\"}", 1.0),
    ("tandem_group_events_total{event=\"silent\"}", 0.0),
    ("tandem_peer_same{peer=\"lb2\",what=\"origins\"}", 1.0),
    ("tandem_peer_differs_seconds{peer=\"lb2\",what=\"rings\"}", 10.0),
    ("tandem_peer_differs_seconds{peer=\"lb2\",what=\"origins\"}", 0.0),
    ("tandem_sync_repairs_pending{peer=\"lb2\"}", 8.0),
    ("tandem_sync_events_total", 9.0),
    ("tandem_sync_events_lost_total", 3.0),
    ("tandem_sync_session{peer=\"lb2\"}", 1.0),
    ("tandem_sync_records_unacknowledged{peer=\"lb2\"}", 20.0),
    (
        "tandem_sync_records_dropped_total{peer=\"lb2\",reason=\"dead_backend\"}",
        5.0,
    ),
    ("tandem_sync_entries_found_total{peer=\"lb2\"}", 6.0),
    ("tandem_sync_ranges_differing_long{peer=\"lb2\"}", 7.0),
    ("tandem_peer_state{peer=\"lb2\",state=\"alive\"}", 1.0),
    ("tandem_peer_state{peer=\"lb3\",state=\"alive\"}", 0.0),
    ("tandem_peer_rtt_seconds{peer=\"lb2\"}", 0.00025),
    ("tandem_peer_heartbeats_missed_total{peer=\"lb2\"}", 2.0),
    ("tandem_peer_same{peer=\"lb2\",what=\"config\"}", 1.0),
    ("tandem_peer_same{peer=\"lb2\",what=\"rings\"}", 0.0),
    ("tandem_peer_refused_total{reason=\"expired\"}", 4.0),
    ("tandem_peer_refused_total{reason=\"name\"}", 0.0),
    (
        "tandem_certificate_expiry_timestamp_seconds{certificate=\"peer:lb3\"}",
        1_800_000_000.0,
    ),
    (
        "tandem_certificate_expiry_timestamp_seconds{certificate=\"ca\"}",
        2_000_000_000.0,
    ),
    (
        "tandem_vip_packets_total{vip=\"[2001:db8::1]:80/tcp\",pool=\"web\"}",
        1_099_511_627_776.0,
    ),
    ("tandem_backend_bytes_total{pool=\"web\",backend=\"be2\"}", 200.0),
    (
        "tandem_stop_packets_total{reason=\"no_backend\",action=\"drop\"}",
        Stop::NoBackend as u32 as f64,
    ),
    (
        "tandem_stop_packets_total{reason=\"not_ip\",action=\"pass\"}",
        0.0,
    ),
    ("tandem_pick_packets_total{by=\"refused\"}", 9.0),
    ("tandem_interface_info{interface=\"eth0\",mode=\"native\"}", 1.0),
    ("tandem_interface_mtu_bytes{interface=\"eth0\"}", 1500.0),
    (
        "tandem_interface_transmit_packets_total{interface=\"eth0\"}",
        12.0,
    ),
    ("tandem_pool_slots_tracked{pool=\"web\"}", 7.0),
    ("tandem_pool_slots_closing{pool=\"web\"}", 3.0),
    ("tandem_pool_slots_empty{pool=\"web\"}", 1.0),
    ("tandem_pool_fail_open{pool=\"web\"}", 1.0),
    (
        "tandem_backend_next_hop_resolved{pool=\"web\",backend=\"be2\"}",
        0.0,
    ),
    (
        "tandem_backend_standing{pool=\"web\",backend=\"be1\",standing=\"up\"}",
        1.0,
    ),
    (
        "tandem_backend_standing{pool=\"web\",backend=\"be2\",standing=\"up\"}",
        0.0,
    ),
    (
        "tandem_backend_standing{pool=\"web\",backend=\"be2\",standing=\"dead\"}",
        1.0,
    ),
    ("tandem_flow_table_entries{table=\"lb_probation\"}", 3.0),
    ("tandem_flow_table_capacity{table=\"lb_flows\"}", 100.0),
    ("tandem_flow_entries_purged_total", 4.0),
    ("tandem_slots_overdue", 5.0),
    (
        "tandem_backend_phase{pool=\"web\",backend=\"be2\",phase=\"dead\"}",
        1.0,
    ),
    (
        "tandem_backend_phase{pool=\"web\",backend=\"be2\",phase=\"up\"}",
        0.0,
    ),
    (
        "tandem_backend_health_info{pool=\"web\",backend=\"be2\",check=\"https\",reason=\"HTTP status 503\"}",
        1.0,
    ),
    (
        "tandem_probe_results_total{pool=\"web\",backend=\"be1\",outcome=\"silent\"}",
        3.0,
    ),
    (
        "tandem_probe_last_duration_seconds{pool=\"web\",backend=\"be1\"}",
        0.0015,
    ),
    ("tandem_generation_desired", 7.0),
    ("tandem_generation_applied", 6.0),
    ("tandem_slots_changed_total", 99.0),
    ("tandem_config_last_reload_successful", 0.0),
    (
        "tandem_config_last_reload_success_timestamp_seconds",
        1_700_000_000.25,
    ),
    ("tandem_config_reloads_total{result=\"refused\"}", 1.0),
    (
        "tandem_build_info{version=\"1.2.3\",object=\"abc\",node=\"lb1\"}",
        1.0,
    ),
    ("tandem_scrape_part_success{part=\"maps\"}", 1.0),
    ("tandem_loop_delay_seconds_count", 0.0),
];

#[test]
fn everything_is_told_as_it_is() {
    let parsed = Parsed::of(&render(&full()));
    for &(key, want) in TOLD {
        assert_eq!(parsed.value(key), want, "{key}");
    }
    assert!(
        !parsed.types.contains_key("tandem_api_requests_total"),
        "nobody has asked yet"
    );
    assert!(
        !parsed.samples.keys().any(|key| key.contains("lb_udp_flows")),
        "no room, no table"
    );
}

#[test]
fn what_is_told_is_what_the_table_says() {
    let parsed = Parsed::of(&render(&full()));
    for (name, kind) in &parsed.types {
        let row: &Entry = rows()
            .find(|row| row.name == name)
            .unwrap_or_else(|| panic!("{name} is in no row"));
        assert_eq!(row.kind.name(), kind, "{name}");
    }
    let silent: Vec<&str> = rows()
        .map(|row| row.name)
        .filter(|name| !parsed.types.contains_key(*name))
        .collect();
    assert_eq!(silent, ["tandem_api_requests_total"], "rows that nothing fills");
}

#[test]
fn parts_that_are_missing_are_left_out_and_told() {
    let parsed = Parsed::of(&render(&Snapshot::default()));
    for part in ["maps", "interfaces", "health"] {
        assert_eq!(
            parsed.value(&format!("tandem_scrape_part_success{{part=\"{part}\"}}")),
            0.0
        );
    }
    assert!(!parsed.types.contains_key("tandem_vip_packets_total"));
    assert!(!parsed.types.contains_key("tandem_backend_phase"));
    assert_eq!(parsed.value("tandem_generation_desired"), 0.0);
}

#[test]
fn the_same_labels_twice_are_one_sample() {
    let mut snapshot = full();
    if let Some(maps) = &mut snapshot.maps {
        maps.backends.push(backend("be1", 1));
    }
    // The parser refuses a second sample, as Prometheus does with the whole answer.
    let parsed = Parsed::of(&render(&snapshot));
    assert_eq!(
        parsed.value("tandem_backend_packets_total{pool=\"web\",backend=\"be1\"}"),
        2.0
    );
}

#[test]
fn a_state_set_has_one_member() {
    let parsed = Parsed::of(&render(&full()));
    for set in ["tandem_backend_phase{", "tandem_backend_standing{"] {
        let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
        for (key, value) in parsed.samples.iter().filter(|(key, _)| key.starts_with(set)) {
            let backend = key
                .split("backend=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            *sums.entry(backend.expect("a backend")).or_default() += value;
        }
        assert_eq!(sums, BTreeMap::from([("be1", 1.0), ("be2", 1.0)]), "{set}");
    }
}

#[test]
fn no_series_comes_of_a_backends_own_words() {
    let reasons: BTreeSet<String> = (0..1000)
        .map(|i| {
            let mut snapshot = full();
            if let Some(health) = &mut snapshot.health {
                health.backends = vec![checked("be1", Phase::Dead, &format!("wrong body `session {i}`"))];
            }
            let text = render(&snapshot);
            let line = text
                .lines()
                .find(|line| line.starts_with("tandem_backend_health_info"));
            line.expect("it is told").to_owned()
        })
        .collect();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}
