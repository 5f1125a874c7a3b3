use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::*;
use crate::config;
use crate::dataplane::pin::Root;
use crate::health::task::Checks;
use crate::metrics::{Meters, Told};

/// An endpoint over a node without maps.
struct Bench {
    endpoint: Endpoint,
    told: watch::Sender<Told>,
    _checks: Checks,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = "node: {name: lb1, interfaces: [eth0]}\n";
        let model = config::parse(text, &folder.path().join("lb.yaml")).unwrap();
        let checks = Checks::start(&model, &[], folder.path().join("health.json")).unwrap();
        let (told, heard) = watch::channel(Told::default());
        let sources = Sources {
            root: Root::new(folder.path()),
            health: checks.reader(),
            peers: crate::peer::Reader::nobody(),
            records: crate::api::sync::Reader::nobody(),
            told: heard,
            meters: Meters::default(),
        };
        Self {
            endpoint: Endpoint::start(sources).unwrap(),
            told,
            _checks: checks,
            _folder: folder,
        }
    }

    async fn reload(&mut self, wanted: Option<SocketAddr>) -> Result<(), Error> {
        let next = self.endpoint.prepare(wanted).await?;
        self.endpoint.put(next).await;
        Ok(())
    }
}

/// A port that is free, on this address.
fn free(address: [u8; 4]) -> SocketAddr {
    let bound = Bound::bind((Ipv4Addr::from(address), 0)).unwrap();
    bound.local_addr().unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

async fn status(address: SocketAddr, method: &str, path: &str) -> Option<u16> {
    let answer = ask(address, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await?;
    answer.split(' ').nth(1)?.parse().ok()
}

async fn serves(address: SocketAddr) -> bool {
    status(address, "GET", "/metrics").await == Some(200)
}

#[tokio::test]
async fn an_address_is_checked_beforehand() {
    let mut bench = Bench::new();
    let (own, other) = (free([127, 0, 0, 1]), free([127, 0, 0, 1]));
    bench.reload(Some(own)).await.unwrap();
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, own.port()));
    for wanted in [None, Some(own), Some(other), Some(all)] {
        assert!(bench.endpoint.check(wanted).is_ok(), "{wanted:?}");
    }
    let _holder = Bound::bind(other).unwrap();
    assert!(matches!(bench.endpoint.check(Some(other)), Err(Error::Taken(_))));
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 9400));
    assert!(matches!(
        bench.endpoint.check(Some(elsewhere)),
        Err(Error::NoAddress(_))
    ));
    assert!(serves(own).await, "nothing has changed");
}

#[tokio::test]
async fn only_metrics_are_served() {
    let mut bench = Bench::new();
    let address = free([127, 0, 0, 1]);
    bench.reload(Some(address)).await.unwrap();
    assert_eq!(status(address, "GET", "/metrics").await, Some(200));
    for path in ["/", "/metrics/", "/metricsx", "/v1/backends"] {
        assert_eq!(status(address, "GET", path).await, Some(404), "{path}");
    }
    assert_eq!(status(address, "POST", "/metrics").await, Some(405));
    let answer = ask(address, "GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(answer.contains(FORMAT), "{answer}");
    assert!(
        answer.contains("tandem_scrape_part_success{part=\"maps\"} 0\n"),
        "{answer}"
    );
    assert!(
        answer.contains("tandem_scrape_part_success{part=\"health\"} 1\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_the_agent_says_is_told() {
    let mut bench = Bench::new();
    let address = free([127, 0, 0, 1]);
    bench.reload(Some(address)).await.unwrap();
    bench.told.send_modify(|told| told.generation = 42);
    let answer = ask(address, "GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(answer.contains("\ntandem_generation_desired 42\n"), "{answer}");
}

#[tokio::test]
async fn a_reload_moves_it_and_stops_it() {
    let mut bench = Bench::new();
    let (first, second) = (free([127, 0, 0, 1]), free([127, 0, 0, 2]));
    assert!(!serves(first).await, "off as long as nobody asks for it");
    bench.reload(Some(first)).await.unwrap();
    assert!(serves(first).await && !serves(second).await);
    bench.reload(Some(second)).await.unwrap();
    assert!(!serves(first).await && serves(second).await);
    // The same port on every address of this host holds the old one.
    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, second.port()));
    bench.reload(Some(every)).await.unwrap();
    assert!(serves(second).await && serves(SocketAddr::from(([127, 0, 0, 3], second.port()))).await);
    bench.reload(Some(second)).await.unwrap();
    assert!(serves(second).await && !serves(SocketAddr::from(([127, 0, 0, 3], second.port()))).await);
    bench.reload(None).await.unwrap();
    assert!(!serves(second).await);
    bench.reload(Some(second)).await.unwrap();
    assert!(serves(second).await);
}

#[tokio::test]
async fn what_is_taken_is_refused_and_the_old_one_stays() {
    let mut bench = Bench::new();
    let old = free([127, 0, 0, 1]);
    bench.reload(Some(old)).await.unwrap();
    let other = Bound::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = other.local_addr().unwrap();
    let error = bench.reload(Some(taken)).await.unwrap_err();
    assert!(matches!(error, Error::Taken(_)), "{error}");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
    assert!(serves(old).await);
    // The same port as ours, and somebody else has it on another address.
    let _other = Bound::bind((Ipv4Addr::new(127, 0, 0, 5), old.port())).unwrap();
    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, old.port()));
    assert!(matches!(bench.reload(Some(every)).await, Err(Error::Taken(_))));
    assert!(serves(old).await);
    let far: SocketAddr = "192.0.2.77:9400".parse().unwrap();
    assert!(matches!(bench.reload(Some(far)).await, Err(Error::NoAddress(_))));
    assert!(serves(old).await);
}

#[tokio::test]
async fn what_was_prepared_and_is_not_to_be_leaves_the_old_one() {
    let mut bench = Bench::new();
    let old = free([127, 0, 0, 1]);
    bench.reload(Some(old)).await.unwrap();
    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, old.port()));
    for wanted in [None, Some(old), Some(every), Some(free([127, 0, 0, 1]))] {
        let next = bench.endpoint.prepare(wanted).await.unwrap();
        bench.endpoint.give_up(next);
        assert!(serves(old).await, "{wanted:?}");
        if let Some(address) = wanted.filter(|address| address.port() != old.port()) {
            assert!(!serves(address).await, "{wanted:?}");
        }
    }
}

#[tokio::test]
async fn idle_connections_hold_nobody_up_for_long() {
    let mut bench = Bench::new();
    let address = free([127, 0, 0, 1]);
    bench.reload(Some(address)).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let start = std::time::Instant::now();
    let answer = timeout(CONNECTION_MAX * 3, status(address, "GET", "/metrics")).await;
    assert_eq!(answer, Ok(Some(200)));
    let waited = start.elapsed();
    assert!(
        waited > CONNECTION_MAX / 2,
        "{waited:?}: there are no more places than that"
    );
    assert!(waited < CONNECTION_MAX * 2, "{waited:?}");
}
