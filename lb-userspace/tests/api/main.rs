//! The API over a real Unix socket, with an agent that notes what it is asked.

mod group;

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lb_userspace::api::call::{Command, Ready, Verb, channel};
use lb_userspace::api::client::{Client, Error, escaped};
use lb_userspace::api::dto::{BackendState, Backends, Drain, Events, Ordered, Plain, Planned};
use lb_userspace::api::group::{Done, Readiness};
use lb_userspace::api::health::Health;
use lb_userspace::api::refusal::Refusal;
use lb_userspace::api::routes::{Api, openapi, router};
use lb_userspace::api::server::{self, Listener};
use lb_userspace::api::tracked::Tracked;
use lb_userspace::config;
use lb_userspace::doctor::{Patient, Report, Verdict};
use lb_userspace::health::task::Checks;
use lb_userspace::journal::{Cause, Event, Journal, Record};
use lb_userspace::probe::Closed;
use lb_userspace::state::plan::Plan;
use lb_userspace::state::wall::Wall;
use serde_json::Value;

/// A served socket, in a folder of its own.
struct Served {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    server: tokio::task::JoinHandle<()>,
    _checks: Checks,
}

/// The first pool is asked at a port of loopback that nobody listens on, the second not at all.
const CHECKED: &str = "
node: {name: lb1, interfaces: [eth0]}
pools:
  - name: web
    health: {type: tcp, port: 1, interval: 100ms, timeout: 90ms, fall: 2, fail_open: 40}
    backends: [{name: be1, address: 192.0.2.1}, {name: be2, address: 192.0.2.2}]
  - name: api
    backends: [{name: be1, address: 192.0.2.3}]
vips:
  - {address: 203.0.113.1, port: 80, protocol: tcp, pool: web}
";

impl Served {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("it works");
        let (calls, mut inbox) = channel();
        let mut model = config::parse(CHECKED, Path::new("lb.yaml")).expect("it is valid");
        for (last, backend) in (1..).zip(model.pools.iter_mut().flat_map(|pool| &mut pool.backends)) {
            // No configuration may name loopback.
            backend.address = Ipv4Addr::new(127, 0, 0, last).into();
        }
        let checks = Checks::start(&model, &[], dir.path().join("health.json")).expect("it works");
        let api = Api {
            calls,
            state_dir: Arc::new(dir.path().to_owned()),
            checks: checks.reader(),
            peers: lb_userspace::peer::Reader::nobody(),
            records: lb_userspace::api::sync::Reader::nobody(),
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(call) = inbox.recv().await {
                notes
                    .lock()
                    .expect("it works")
                    .push(format!("{} {:?}", call.who.uid, what(&call.command)));
                answer(call.command);
            }
        });
        let listener = Listener::bind(&dir.path().join("run/lbd.sock"), None).expect("it works");
        let server = tokio::spawn(listener.serve(router(api)));
        Self {
            dir,
            asked,
            server,
            _checks: checks,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("run/lbd.sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.path())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("it works"))
    }

    /// Writes bytes and reads the whole answer.
    async fn raw(&self, request: Vec<u8>) -> String {
        let path = self.path();
        let talk = move || {
            let mut stream = UnixStream::connect(path).expect("it works");
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .expect("it works");
            // The server may refuse before it has read everything.
            let _ = stream.write_all(&request);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        tokio::task::spawn_blocking(talk).await.expect("it works")
    }

    async fn http(&self, head: &str, body: &[u8]) -> (u16, Value) {
        let request = format!(
            "{head} HTTP/1.1\r\nhost: lbd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let answer = self.raw([request.as_bytes(), body].concat()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let json = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
        (status, json)
    }
}

fn what(command: &Command) -> String {
    match command {
        Command::Order(ask) => format!("{:?}", ask.what),
        Command::Backends(_) => "backends".to_owned(),
        Command::Tracked(ask) => format!("tracked {:?}", ask.what),
        Command::Plan(ask) => format!("plan {:?}", ask.what),
        Command::Apply(ask) => format!("apply {:?}", ask.what),
        Command::Running(_) => "running".to_owned(),
        Command::History(_) => "history".to_owned(),
        Command::Ready(_) => "ready".to_owned(),
        Command::Leave(_) => "leave".to_owned(),
        Command::Forget(ask) => format!("forget {}", ask.what),
        Command::Rollback(ask) => format!("rollback {:?}", ask.what),
        Command::Doctor(ask) => format!("doctor {:?}", ask.what),
    }
}

fn state(pool: &str, name: &str) -> BackendState {
    BackendState {
        pool: pool.to_owned(),
        name: name.to_owned(),
        standing: "up".to_owned(),
        admin: None,
        deadline: None,
        configured_weight: 1,
        weight: None,
        ramp: None,
        slots: 65_536,
    }
}

/// Backends called `gone` are unknown, `last` is the last one, and a configuration kills the agent.
fn answer(command: Command) {
    match command {
        Command::Order(ask) => {
            let reply = match ask.what.backend.as_str() {
                "gone" => Err(Refusal::UnknownBackend {
                    pool: ask.what.pool,
                    name: "gone".to_owned(),
                    near: vec!["be1".to_owned()],
                }),
                "last" => Err(Refusal::LastOne { pool: ask.what.pool }),
                _ => Ok(Ordered {
                    changed: !matches!(ask.what.verb, Verb::Up),
                    slots_moved: 7,
                    without: Vec::new(),
                    backend: state(&ask.what.pool, &ask.what.backend),
                }),
            };
            drop(ask.reply.send(reply));
        }
        Command::Backends(ask) => drop(ask.reply.send(Ok(Backends {
            backends: vec![state("web", "be1")],
        }))),
        Command::Tracked(ask) => drop(ask.reply.send(match ask.what.pool.as_deref() {
            Some("gone") => Err(Refusal::UnknownPool {
                name: "gone".to_owned(),
                near: vec!["web".to_owned()],
            }),
            _ => Ok(Tracked::default()),
        })),
        Command::Plan(ask) => drop(ask.reply.send(Ok(Planned {
            generation: 1,
            group: None,
            plan: Plan::default(),
            leaving: Vec::new(),
        }))),
        Command::Apply(ask) => drop(ask),
        Command::History(ask) => drop(ask.reply.send(Err(Refusal::NoGroup))),
        Command::Ready(ask) => drop(ask.reply.send(Ok(Readiness {
            ready: false,
            why: Some("leaving".to_owned()),
            group: None,
        }))),
        Command::Leave(ask) => drop(ask.reply.send(Err(Refusal::NoPeers))),
        Command::Forget(ask) => drop(ask.reply.send(match ask.what.as_str() {
            "lb2" => Ok(Done {
                done: "lb2 counts as a node that forwards nothing".to_owned(),
            }),
            name => Err(Refusal::UnknownNode {
                name: name.to_owned(),
                others: vec!["lb2".to_owned()],
            }),
        })),
        Command::Rollback(ask) => drop(ask.reply.send(Err(Refusal::NoGroup))),
        Command::Running(ask) => drop(ask.reply.send(Err(Refusal::NoAnswer))),
        Command::Doctor(ask) if ask.what.backend == "gone" => {
            drop(ask.reply.send(Err(Refusal::NoVip { pool: ask.what.pool })));
        }
        Command::Doctor(ask) => {
            let patient = Patient {
                name: format!("{}/{}", ask.what.pool, ask.what.backend),
                id: 1,
                address: [198, 51, 100, 1].into(),
                vip: [203, 0, 113, 1].into(),
                port: 80,
                check: None,
                way: Err("no route to it".to_owned()),
            };
            let wrap = Arc::new(Closed("no".to_owned()));
            drop(ask.reply.send(Ok(Box::new(Ready { patient, wrap }))));
        }
    }
}

#[tokio::test]
async fn a_backend_is_examined_by_what_the_agent_knows_of_it() {
    let served = Served::start();
    let client = served.client();
    let path = "/v1/backends/web/be1/doctor";
    let report: Report = client
        .post(path, &Plain { force: false })
        .await
        .expect("a report");
    assert_eq!(report.verdicts, [Verdict::NoNextHop]);
    assert_eq!(report.evidence[0].detail, "no route to it");
    let path = "/v1/backends/web/gone/doctor";
    let refused = client.post::<Report>(path, &Plain { force: false }).await;
    let text = refused.expect_err("no VIP").to_string();
    assert!(text.contains("pool web has no VIP"), "{text}");
}

#[tokio::test]
async fn orders_reach_the_agent_with_who_gave_them() {
    let served = Served::start();
    let client = served.client();
    let drain = Drain {
        deadline_ms: Some(600_000),
        force: true,
    };
    let done: Ordered = client.post("/v1/backends/web/be1/drain", &drain).await.unwrap();
    assert_eq!(
        (done.changed, done.slots_moved, done.backend.name.as_str()),
        (true, 7, "be1")
    );
    let uid = rustix::process::getuid().as_raw();
    let want =
        format!("{uid} \"About {{ pool: \\\"web\\\", backend: \\\"be1\\\", verb: Drain({drain:?}) }}\"");
    assert_eq!(served.asked(), [want]);
    // Without a body, and with names that need escapes.
    let (status, json) = served.http("POST /v1/backends/web/be1/up", b"").await;
    assert_eq!((status, &json["changed"]), (200, &false.into()));
    let odd = format!("/v1/backends/{}/{}/undrain", escaped(".."), escaped("a/b %?#é"));
    let done: Ordered = client.post(&odd, &Drain::default()).await.unwrap();
    assert_eq!(
        (done.backend.pool.as_str(), done.backend.name.as_str()),
        ("..", "a/b %?#é")
    );
    let planned: Planned = client
        .post_yaml("/v1/config/plan?name=lb.yaml&generation=3", "node: {}".to_owned())
        .await
        .unwrap();
    assert_eq!(planned.generation, 1);
    let asked = served.asked().pop().unwrap();
    assert!(
        asked.contains("lb.yaml") && asked.contains("Some(3)") && asked.contains("node: {}"),
        "{asked}"
    );
}

#[tokio::test]
async fn refusals_say_what_and_what_to_do() {
    let served = Served::start();
    let client = served.client();
    let refused = |result: Result<Ordered, Error>| match result {
        Err(Error::Refused { status, problem }) => {
            (status.as_u16(), problem.error, problem.hint.unwrap_or_default())
        }
        other => panic!("{other:?}"),
    };
    let drain = Drain::default();
    let (status, error, hint) = refused(client.post("/v1/backends/web/gone/drain", &drain).await);
    assert_eq!(
        (status, error.as_str(), hint.as_str()),
        (404, "pool web has no backend \"gone\"", "did you mean be1?")
    );
    let (status, _, hint) = refused(client.post("/v1/backends/web/last/drain", &drain).await);
    assert_eq!((status, hint.as_str()), (409, "--force does it all the same"));
    // The agent ends while it is asked.
    let (status, error, _) = refused(client.post_yaml("/v1/config/apply", String::new()).await);
    assert_eq!((status, error.as_str()), (503, "the agent gave no answer"));
}

#[tokio::test]
async fn odd_requests_get_an_error_and_never_the_agent() {
    let served = Served::start();
    let long = vec![b'x'; 5000];
    let huge = vec![b'x'; (16 << 20) + 1];
    let order = "POST /v1/backends/web/be1";
    for (head, body, want) in [
        ("GET /".to_owned(), b"".as_slice(), 404),
        ("GET /v2/backends".to_owned(), b"", 404),
        ("POST /v1/backends/a/b/c/drain".to_owned(), b"", 404),
        ("POST /v1/backends/%ff/be1/drain".to_owned(), b"", 400),
        ("DELETE /v1/backends".to_owned(), b"", 405),
        (format!("GET {}/drain", &order[5..]), b"", 405),
        (format!("{order}/drain"), b"{", 400),
        (format!("{order}/drain"), b"[[[[", 400),
        (format!("{order}/drain"), b"\xff\xfe", 400),
        (format!("{order}/drain"), b"{\"deadline\": 1}", 400),
        (format!("{order}/drain"), b"{\"deadline_ms\": -1}", 400),
        (format!("{order}/drain"), b"{\"deadline_ms\": 1e99}", 400),
        (format!("{order}/drain"), b"{\"deadline_ms\": 2678400001}", 422),
        (format!("{order}/drain"), &long, 413),
        (format!("{order}/weight"), b"{\"weight\": 65536}", 400),
        (format!("{order}/ramp"), b"{\"steps\": 1}", 422),
        (format!("{order}/ramp"), b"{\"steps\": 1001}", 422),
        (format!("{order}/ramp"), b"{\"over_ms\": 0}", 422),
        ("POST /v1/config/plan".to_owned(), b"\xff", 400),
        ("POST /v1/config/plan".to_owned(), &huge, 413),
        ("POST /v1/config/plan?generation=x".to_owned(), b"", 400),
        ("POST /v1/config/plan?nmae=x".to_owned(), b"", 400),
        (
            format!("POST /v1/config/plan?name={}", "x".repeat(4097)),
            b"",
            422,
        ),
        ("GET /v1/events?limit=0".to_owned(), b"", 422),
        ("GET /v1/tracked?limit=131073".to_owned(), b"", 422),
        ("GET /v1/tracked?limit=-1".to_owned(), b"", 400),
        ("GET /v1/tracked?pol=web".to_owned(), b"", 400),
        ("GET /v1/health?backend=be1".to_owned(), b"", 400),
        ("POST /v1/health".to_owned(), b"", 405),
        ("GET /v1/events?limit=10001".to_owned(), b"", 422),
    ] {
        let (status, json) = served.http(&head, body).await;
        assert_eq!(status, want, "{head}: {json}");
        assert!(
            json["error"].as_str().is_some_and(|error| !error.is_empty()),
            "{head}: {json}"
        );
    }
    assert_eq!(served.asked(), [""; 0]);
    for garbage in [
        b"\0\0\0\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        vec![b'A'; 1 << 20],
    ] {
        let answer = served.raw(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let all: Backends = served.client().get("/v1/backends").await.unwrap();
    assert_eq!(all.backends.len(), 1, "it still answers");
}

#[tokio::test]
async fn tracked_slots_are_asked_of_the_agent() {
    let served = Served::start();
    let told: Tracked = served.client().get("/v1/tracked?pool=web&limit=5").await.unwrap();
    assert_eq!(told, Tracked::default());
    let asked = served.asked().pop().unwrap();
    assert!(
        asked.contains(r#"tracked Wanted { pool: Some(\"web\"), limit: Some(5) }"#),
        "{asked}"
    );
    let refused = served.client().get::<Tracked>("/v1/tracked?pool=gone").await;
    let Err(Error::Refused { status, problem }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (status.as_u16(), problem.hint.as_deref()),
        (404, Some("did you mean web?"))
    );
}

#[tokio::test]
async fn health_is_read_from_the_checks() {
    let served = Served::start();
    let found = async {
        loop {
            let health: Health = served.client().get("/v1/health").await.unwrap();
            if health.pools[0].fail_open != "closed" {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let health = tokio::time::timeout(Duration::from_secs(20), found)
        .await
        .expect("both are found silent");
    assert_eq!(health.pools.len(), 1, "a pool without a check is not named");
    let pool = &health.pools[0];
    assert_eq!((pool.pool.as_str(), pool.check.as_str()), ("web", "tcp"));
    assert_eq!(pool.phases.values().sum::<u32>(), 2);
    for (backend, name) in health.backends.iter().zip(["be1", "be2"]) {
        assert_eq!((backend.pool.as_str(), backend.name.as_str()), ("web", name));
        let last = backend.last.as_ref().expect("it was asked");
        assert_ne!(last.result, "good");
        assert!(last.reason.is_some() && last.at >= backend.since.saturating_sub(1000));
        assert_eq!(backend.counts.good, 0);
    }
    let down = health.backends.iter().find(|one| one.phase != "unknown").unwrap();
    assert_eq!(
        (down.standing.as_str(), down.counts.changes),
        ("up", 1),
        "{down:?}"
    );
    assert!(down.penalty > 0.5 && !down.held, "{down:?}");

    let api: Health = served.client().get("/v1/health?pool=api").await.unwrap();
    assert_eq!(api, Health::default());
    let web: Health = served.client().get("/v1/health?pool=web").await.unwrap();
    assert_eq!(web.backends.len(), 2);
    let gone = served.client().get::<Health>("/v1/health?pool=gone").await;
    assert!(
        matches!(&gone, Err(Error::Refused { status, .. }) if status.as_u16() == 404),
        "{gone:?}"
    );
}

#[tokio::test]
async fn many_at_once_are_all_answered() {
    let served = Served::start();
    // Connections that say nothing take places, but not all.
    let idle: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(served.path()).unwrap())
        .collect();
    let mut tasks = Vec::new();
    for at in 0..200 {
        let client = served.client();
        tasks.push(tokio::spawn(async move {
            let path = format!("/v1/backends/web/be{at}/undrain");
            client
                .post::<Ordered>(&path, &Drain::default())
                .await
                .unwrap()
                .backend
                .name
        }));
    }
    for (at, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("be{at}"));
    }
    drop(idle);
}

#[tokio::test]
async fn events_are_read_from_the_journal() {
    let served = Served::start();
    let mut journal = Journal::open(served.dir.path()).unwrap();
    for backend in 1..=3 {
        let record = Record {
            seq: 0,
            time: Wall(5),
            generation: 1,
            cause: Cause::Health,
            event: Event::NextHopFound {
                backend: format!("web/be{backend}"),
            },
        };
        journal.append(record).unwrap();
    }
    for (query, want) in [
        ("", vec![1, 2, 3]),
        ("?limit=1", vec![3]),
        ("?after=1", vec![2, 3]),
        ("?after=1&limit=1", vec![2]),
        ("?after=9", vec![]),
    ] {
        let read: Events = served.client().get(&format!("/v1/events{query}")).await.unwrap();
        let seqs: Vec<u64> = read.events.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, want, "{query}");
    }
}

#[tokio::test]
async fn the_document_is_served_and_names_every_route() {
    let served = Served::start();
    let document: Value = served.client().get("/v1/openapi.json").await.unwrap();
    assert_eq!(document, serde_json::to_value(openapi()).unwrap());
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "backends/{pool}/{backend}/drain",
        "backends/{pool}/{backend}/ramp",
        "config/apply",
        "health",
        "tracked",
        "events",
    ] {
        assert!(paths.contains_key(&format!("/v1/{path}")), "{path}");
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    // Every reference leads somewhere.
    let text = document.to_string();
    for name in text.split("#/components/schemas/").skip(1) {
        let name = name.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn a_socket_is_private_replaced_when_stale_and_refused_when_alive() {
    let served = Served::start();
    let path = served.path();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    assert!(matches!(
        Listener::bind(&path, None),
        Err(server::Error::InUse(_))
    ));
    assert!(
        served.client().get::<Backends>("/v1/backends").await.is_ok(),
        "the living one is left alone"
    );
    // It takes its file with it.
    served.server.abort();
    while path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let gone = served.client().get::<Backends>("/v1/backends").await.unwrap_err();
    assert!(gone.to_string().contains("no agent answers on"), "{gone}");
    // One that nobody listens on any more.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Listener::bind(&path, None).unwrap());
    assert!(!path.exists());
    fs::write(&path, "a file").unwrap();
    let refused = Listener::bind(&path, None).unwrap_err();
    assert!(matches!(refused, server::Error::NotASocket(_)), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"a file");
    let other = path.with_file_name("other.sock");
    let refused = Listener::bind(&other, Some("no-such-group")).unwrap_err();
    assert!(matches!(refused, server::Error::NoGroup(_)), "{refused}");
    assert!(!other.exists());
    let own = rustix::process::getegid().as_raw().to_string();
    let listener = Listener::bind(&other, Some(&own)).unwrap();
    assert_eq!(fs::metadata(&other).unwrap().gid().to_string(), own);
    drop(listener);
}

#[tokio::test]
async fn a_client_understands_a_server_that_speaks_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    for answer in [
        "",
        "SSH-2.0-x\r\n",
        "HTTP/1.1 500 no\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 ok\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let error = talk(&path, answer).await.unwrap_err();
        assert!(
            matches!(error, Error::Broken(_) | Error::Refused { .. }),
            "{answer}: {error:?}"
        );
    }
}

async fn talk(path: &Path, answer: &'static str) -> Result<Backends, Error> {
    drop(fs::remove_file(path));
    let listener = UnixListener::bind(path).expect("it works");
    let server = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().expect("it works");
        let mut request = [0; 4096];
        assert_ne!(stream.read(&mut request).expect("it works"), 0);
        stream.write_all(answer.as_bytes()).expect("it works");
    });
    let result = Client::new(path).get("/v1/backends").await;
    server.await.expect("it works");
    result
}
