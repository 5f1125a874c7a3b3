//! The running checks, with a clock and sockets of this host's loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use lb_userspace::config;
use lb_userspace::health::monitor::{Event, Row};
use lb_userspace::health::task::{Checks, Update};
use lb_userspace::health::{Phase, store};
use lb_userspace::model::Model;
use lb_userspace::state::standing::{Standing, Standings};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

/// A pool of so many backends, all at addresses of 127.0.0.0/8, which no configuration may name.
fn model(backends: usize, health: &str) -> Model {
    let list: Vec<String> = (0..backends)
        .map(|b| format!("{{name: be{b}, address: 10.0.{}.{}}}", b / 250, b % 250 + 1))
        .collect();
    let text = format!(
        "node: {{name: a, interfaces: [eth0]}}\n\
         pools: [{{name: p, backends: [{}], health: {{{health}}}}}]\n",
        list.join(", ")
    );
    let mut model = config::parse(&text, Path::new("a.yaml")).unwrap_or_else(|error| panic!("{error}"));
    for backend in &mut model.pools[0].backends {
        let IpAddr::V4(address) = backend.address else {
            unreachable!()
        };
        let [_, _, c, d] = address.octets();
        backend.address = Ipv4Addr::new(127, 0, c, d).into();
    }
    model
}

/// Accepts connections to every address of 127.0.0.0/8 at one port, until it is dropped.
async fn server() -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
        .await
        .expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let accept = async move {
        loop {
            let _ = listener.accept().await;
        }
    };
    (port, tokio::spawn(accept))
}

async fn next(checks: &mut Checks) -> Update {
    timeout(SOON, checks.update()).await.expect("an update")
}

async fn rows(checks: &Checks) -> Vec<Row> {
    checks.reader().snapshot().await.expect("they run").backends
}

#[tokio::test]
async fn from_a_dead_server_to_the_next_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(store::FILE);
    let (port, server) = server().await;
    let text = format!(
        "type: tcp, port: {port}, interval: 100ms, timeout: 50ms, rise: 1, fall: 2, death_grace: 200ms, fail_open: 100"
    );
    let model = model(1, &text);
    let id = model.pools[0].backends[0].id;
    let mut checks = Checks::start(&model, &[], file.clone()).unwrap();
    assert_eq!(checks.taken_over(), &Standings::default());
    let update = next(&mut checks).await;
    assert!(
        matches!(
            &update.events[..],
            [Event::Backend {
                from: Phase::Unknown,
                to: Phase::Up,
                ..
            }]
        ),
        "{update:?}"
    );

    server.abort();
    let _ = server.await;
    assert_eq!(next(&mut checks).await.standings.of(id), Standing::Suspect);
    let dead = next(&mut checks).await;
    assert_eq!(dead.standings.of(id), Standing::Dead);
    let row = rows(&checks).await.remove(0);
    assert_eq!(
        (row.phase, row.reason.as_str()),
        (Phase::Dead, "Connection refused")
    );
    drop(checks);

    let saved = store::read(&file).unwrap();
    assert_eq!((saved.len(), saved[0].phase), (1, Phase::Dead));
    let checks = Checks::start(&model, &saved, file).unwrap();
    assert_eq!(checks.taken_over(), &dead.standings);
    assert_eq!(rows(&checks).await[0].since_unix_ms, row.since_unix_ms);
}

#[tokio::test]
async fn a_verdict_is_on_disk_when_the_agent_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(store::FILE);
    // Nobody listens there.
    let text = "type: tcp, port: 1, interval: 100ms, timeout: 50ms, fall: 1, fail_open: 100";
    let mut checks = Checks::start(&model(1, text), &[], file.clone()).unwrap();
    next(&mut checks).await;
    let written = async {
        while store::read(&file)
            .unwrap()
            .first()
            .is_none_or(|record| record.phase == Phase::Unknown)
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, written)
        .await
        .expect("written without being asked to stop");
}

#[tokio::test]
async fn two_thousand_backends_are_asked_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (port, _server) = server().await;
    let model = model(2000, &format!("type: tcp, port: {port}, interval: 2s, rise: 1"));
    let checks = Checks::start(&model, &[], folder.path().join(store::FILE)).unwrap();
    // Two intervals and a bit: two or three questions each, where the machine has the time.
    sleep(Duration::from_secs(5)).await;
    let rows = rows(&checks).await;
    assert_eq!(rows.len(), 2000);
    let counts = || rows.iter().map(|row| row.counts);
    assert!(counts().all(|c| c.silent + c.refuses + c.unasked == 0));
    assert!(
        counts().all(|c| (1..=3).contains(&c.good)),
        "left out, or asked too often"
    );
    let asked: u64 = counts().map(|c| c.good).sum();
    assert!(asked >= 3600, "{asked} questions to 2000 backends");
}
