//! `probe` against real servers on loopback, good and bad ones.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lb_userspace::config;
use lb_userspace::model::Health;
use lb_userspace::probe::{Closed, NoWay, Outcome, Prober, Way, Wrap};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The check of a pool whose `health` has these fields.
fn check(fields: &str) -> Health {
    let text = format!(
        "node: {{name: a, interfaces: [eth0]}}\n\
         pools: [{{name: p, backends: [{{name: b, address: 198.51.100.1}}], health: {{{fields}}}}}]\n"
    );
    let model = config::parse(&text, Path::new("a.yaml")).unwrap_or_else(|error| panic!("{error}"));
    model.pools[0].health.clone().expect("a check")
}

async fn ask_at(address: IpAddr, fields: &str) -> Outcome {
    let check = check(fields);
    let way = Way::from(&check.from);
    Prober::new(Arc::new(check), way).ask(address).await
}

async fn ask(fields: &str) -> Outcome {
    ask_at(V4, fields).await
}

fn refuses(text: &str) -> Outcome {
    Outcome::Refuses(text.to_owned())
}

fn silent(text: &str) -> Outcome {
    Outcome::Silent(text.to_owned())
}

/// A port of 127.0.0.1 that nobody listens on.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind((V4, 0))
        .await
        .expect("loopback and certificates work");
    listener
        .local_addr()
        .expect("loopback and certificates work")
        .port()
}

/// A server that reads a request, answers with fixed bytes and closes; with `None` it never answers.
async fn answering(answer: Option<&'static [u8]>) -> u16 {
    let listener = TcpListener::bind((V4, 0))
        .await
        .expect("loopback and certificates work");
    let port = listener
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("loopback and certificates work");
            tokio::spawn(async move { talk(&mut stream, answer).await });
        }
    });
    port
}

async fn talk(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: Option<&[u8]>) {
    let mut request = vec![0; 4096];
    let _ = stream.read(&mut request).await;
    match answer {
        Some(answer) => {
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
        }
        None => std::future::pending().await,
    }
}

#[tokio::test]
async fn tcp() {
    let port = answering(None).await;
    assert_eq!(ask(&format!("type: tcp, port: {port}")).await, Outcome::Good);
    let port = closed_port().await;
    assert_eq!(
        ask(&format!("type: tcp, port: {port}")).await,
        silent("Connection refused")
    );
}

/// A listener whose queue is full drops further SYNs: to a client it looks like a host that is gone.
#[tokio::test]
async fn a_connection_that_never_comes_about() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("loopback and certificates work");
    socket
        .bind(&std::net::SocketAddr::new(V4, 0).into())
        .expect("loopback and certificates work");
    socket.listen(0).expect("loopback and certificates work");
    let address = socket
        .local_addr()
        .expect("loopback and certificates work")
        .as_socket()
        .expect("loopback and certificates work");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let stream = tokio::time::timeout(
            Duration::from_millis(100),
            tokio::net::TcpStream::connect(address),
        );
        waiting.push(stream.await);
    }
    let start = Instant::now();
    let outcome = ask(&format!("type: tcp, port: {}, timeout: 200ms", address.port())).await;
    assert_eq!(outcome, silent("no answer within 200ms"));
    assert!(
        (200..1000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn http() {
    let ok = answering(Some(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall good\n")).await;
    let busy = answering(Some(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
    ))
    .await;
    let endless = answering(Some(b"HTTP/1.1 200 OK\r\n\r\nuntil the connection ends")).await;
    let garbage = answering(Some(b"220 mail.example ESMTP\r\n")).await;
    let nothing = answering(Some(b"")).await;
    let mute = answering(None).await;
    let closed = closed_port().await;
    for (port, more, want) in [
        (ok, "", Outcome::Good),
        (ok, "body: good", Outcome::Good),
        (ok, "body: bad", refuses("wrong body `all good\\n`")),
        (ok, "status: [204, 300-599]", refuses("HTTP status 200")),
        (ok, "method: HEAD", Outcome::Good),
        (busy, "", refuses("HTTP status 503")),
        (busy, "status: [503]", Outcome::Good),
        (endless, "body: connection ends", Outcome::Good),
        (nothing, "", silent("closed the connection without an answer")),
        (mute, "timeout: 100ms", silent("no answer within 100ms")),
        (closed, "", silent("Connection refused")),
    ] {
        assert_eq!(
            ask(&format!("type: http, port: {port}, {more}")).await,
            want,
            "{more}"
        );
    }
    let outcome = ask(&format!("type: http, port: {garbage}")).await;
    assert!(
        matches!(&outcome, Outcome::Refuses(why) if why.starts_with("spoke no HTTP")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_http_request_says_what_the_check_says() {
    let listener = TcpListener::bind((V6, 0))
        .await
        .expect("loopback and certificates work");
    let port = listener
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("loopback and certificates work");
            let mut request = vec![0; 4096];
            let length = stream
                .read(&mut request)
                .await
                .expect("loopback and certificates work");
            requests
                .push(String::from_utf8(request[..length].to_vec()).expect("loopback and certificates work"));
            stream
                .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
                .await
                .expect("loopback and certificates work");
        }
        requests
    });
    let plain = format!("type: http, port: {port}");
    assert_eq!(ask_at(V6, &plain).await, Outcome::Good);
    let full = format!("{plain}, method: POST, path: /a?b=c, host: w.example");
    assert_eq!(ask_at(V6, &full).await, Outcome::Good);
    let requests = server.await.expect("loopback and certificates work");
    assert!(requests[0].starts_with("GET / HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(
        requests[0].contains(&format!("host: [::1]:{port}\r\n")),
        "{}",
        requests[0]
    );
    assert!(requests[0].contains("connection: close\r\n"), "{}", requests[0]);
    assert!(
        requests[1].starts_with("POST /a?b=c HTTP/1.1\r\n"),
        "{}",
        requests[1]
    );
    assert!(requests[1].contains("host: w.example\r\n"), "{}", requests[1]);
}

/// An authority, and servers with certificates of it.
struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("loopback and certificates work");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(
            params,
            KeyPair::generate().expect("loopback and certificates work"),
        )
        .expect("loopback and certificates work");
        let folder = tempfile::tempdir().expect("loopback and certificates work");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("loopback and certificates work");
        Self { issuer, folder }
    }

    fn ca_file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    fn acceptor(&self, name: &str, alpn: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("loopback and certificates work");
        let params = CertificateParams::new([name.to_owned()]).expect("loopback and certificates work");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("loopback and certificates work");
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("loopback and certificates work")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("loopback and certificates work");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn https(&self, name: &str) -> u16 {
        let acceptor = self.acceptor(name, &[]);
        let listener = TcpListener::bind((V4, 0))
            .await
            .expect("loopback and certificates work");
        let port = listener
            .local_addr()
            .expect("loopback and certificates work")
            .port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("loopback and certificates work");
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    talk(
                        &mut stream,
                        Some(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
                    )
                    .await;
                });
            }
        });
        port
    }
}

#[tokio::test]
async fn https() {
    let pki = Pki::new();
    let ca = pki.ca_file();
    let by_name = pki.https("w.example").await;
    let by_address = pki.https("127.0.0.1").await;
    let expect_tls_error = |outcome: &Outcome| {
        assert!(
            matches!(outcome, Outcome::Refuses(why) if why.starts_with("TLS: ")),
            "{outcome:?}"
        );
    };
    for (port, more) in [
        (
            by_name,
            format!("body: ok, tls: {{ca_file: {ca}, server_name: w.example}}"),
        ),
        (
            by_name,
            format!("host: \"w.example:{by_name}\", tls: {{ca_file: {ca}}}"),
        ),
        (by_name, "tls: {verify: false}".to_owned()),
        (by_address, format!("tls: {{ca_file: {ca}}}")),
    ] {
        let fields = format!("type: https, port: {port}, {more}");
        assert_eq!(ask(&fields).await, Outcome::Good, "{more}");
    }
    // The wrong name, and an authority that the check doesn't trust.
    expect_tls_error(&ask(&format!("type: https, port: {by_name}, tls: {{ca_file: {ca}}}")).await);
    let stranger = Pki::new();
    let fields = format!(
        "type: https, port: {by_address}, tls: {{ca_file: {}}}",
        stranger.ca_file()
    );
    expect_tls_error(&ask(&fields).await);
    // A server without TLS answers, but not what is meant; one that closes or is mute doesn't answer.
    let plain = answering(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    expect_tls_error(&ask(&format!("type: https, port: {plain}, tls: {{verify: false}}")).await);
    let nothing = answering(Some(b"")).await;
    let outcome = ask(&format!("type: https, port: {nothing}, tls: {{verify: false}}")).await;
    assert_eq!(outcome, silent("closed the connection during the TLS handshake"));
}

#[tokio::test]
async fn udp() {
    let socket = UdpSocket::bind((V4, 0))
        .await
        .expect("loopback and certificates work");
    let port = socket
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (length, from) = socket
                .recv_from(&mut buffer)
                .await
                .expect("loopback and certificates work");
            if &buffer[..length] != b"hush" {
                socket
                    .send_to(&[b"you said ", &buffer[..length]].concat(), from)
                    .await
                    .expect("loopback and certificates work");
            }
        }
    });
    for (more, want) in [
        ("request: ping", Outcome::Good),
        ("request: ping, response: said ping", Outcome::Good),
        (
            "request_hex: \"70696e67\", response_hex: \"70696e67\"",
            Outcome::Good,
        ),
        (
            "request: ping, response: pong",
            refuses("unexpected answer `you said ping`"),
        ),
        ("request: hush, timeout: 100ms", silent("no answer within 100ms")),
    ] {
        assert_eq!(
            ask(&format!("type: udp, port: {port}, {more}")).await,
            want,
            "{more}"
        );
    }
    let closed = UdpSocket::bind((V4, 0))
        .await
        .expect("loopback and certificates work")
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    let outcome = ask(&format!("type: udp, port: {closed}, request: ping")).await;
    assert_eq!(outcome, silent("Connection refused"));
}

/// A server of `grpc.health.v1.Health` that knows the server itself, `busy` and nothing else.
async fn grpc_server(tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind((V4, 0))
        .await
        .expect("loopback and certificates work");
    let port = listener
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("loopback and certificates work");
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => {
                        serve_grpc(tls.accept(stream).await.expect("loopback and certificates work")).await;
                    }
                    None => serve_grpc(stream).await,
                }
            });
        }
    });
    port
}

async fn serve_grpc(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = builder
        .serve_connection(TokioIo::new(stream), service_fn(answer_grpc))
        .await;
}

type GrpcBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer_grpc(request: Request<Incoming>) -> Result<Response<GrpcBody>, Infallible> {
    let (head, body) = request.into_parts();
    if head.uri.path() != "/grpc.health.v1.Health/Check" || head.headers["content-type"] != "application/grpc"
    {
        let mut response = Response::new(Full::default().boxed());
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let body = body
        .collect()
        .await
        .expect("loopback and certificates work")
        .to_bytes();
    let service = String::from_utf8_lossy(body.get(7..).unwrap_or_default()).into_owned();
    let mut trailers = HeaderMap::new();
    let mut frames = Vec::new();
    let status = match service.as_str() {
        "" => Some(1),
        "busy" => Some(2),
        _ => None,
    };
    match status {
        Some(status) => {
            frames.push(Ok(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]))));
            trailers.insert(
                "grpc-status",
                "0".parse().expect("loopback and certificates work"),
            );
        }
        None => {
            trailers.insert(
                "grpc-status",
                "5".parse().expect("loopback and certificates work"),
            );
            trailers.insert(
                "grpc-message",
                "unknown service".parse().expect("loopback and certificates work"),
            );
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed();
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .expect("loopback and certificates work"))
}

#[tokio::test]
async fn grpc() {
    let port = grpc_server(None).await;
    let mute = answering(None).await;
    let closed = closed_port().await;
    for (port, more, want) in [
        (port, "", Outcome::Good),
        (port, "service: busy", refuses("gRPC health NOT_SERVING")),
        (
            port,
            "service: nobody",
            refuses("gRPC status 5 (unknown service)"),
        ),
        (mute, "timeout: 100ms", silent("no answer within 100ms")),
        (closed, "", silent("Connection refused")),
    ] {
        assert_eq!(
            ask(&format!("type: grpc, port: {port}, {more}")).await,
            want,
            "{more}"
        );
    }
    let http1 = answering(Some(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")).await;
    let outcome = ask(&format!("type: grpc, port: {http1}")).await;
    assert!(matches!(&outcome, Outcome::Refuses(_)), "{outcome:?}");
}

#[tokio::test]
async fn grpc_over_tls() {
    let pki = Pki::new();
    let port = grpc_server(Some(pki.acceptor("w.example", &[b"h2"]))).await;
    let ca = pki.ca_file();
    let tls = format!("type: grpc, port: {port}, tls: {{ca_file: {ca}, server_name: w.example}}");
    assert_eq!(ask(&tls).await, Outcome::Good);
    let busy = format!("{tls}, service: busy");
    assert_eq!(ask(&busy).await, refuses("gRPC health NOT_SERVING"));
}

#[tokio::test]
async fn a_fault_of_this_host_says_nothing_of_the_backend() {
    let port = answering(None).await;
    for more in ["source: 192.0.2.77", "interface: nowhere0"] {
        let outcome = ask(&format!("type: tcp, port: {port}, {more}")).await;
        assert!(matches!(&outcome, Outcome::Unasked(_)), "{more}: {outcome:?}");
    }
}

#[tokio::test]
async fn the_source_address_is_the_one_that_was_set() {
    let listener = TcpListener::bind((V4, 0))
        .await
        .expect("loopback and certificates work");
    let port = listener
        .local_addr()
        .expect("loopback and certificates work")
        .port();
    let asked =
        tokio::spawn(async move { ask(&format!("type: tcp, port: {port}, source: 127.0.0.99")).await });
    let (_, from) = listener.accept().await.expect("loopback and certificates work");
    assert_eq!(from.ip().to_string(), "127.0.0.99");
    assert_eq!(
        asked.await.expect("loopback and certificates work"),
        Outcome::Good
    );
}

/// A way through the tunnel of which this many packets are wrapped whenever somebody looks.
#[derive(Debug, Default)]
struct Wrapper {
    wraps: bool,
    looks: std::sync::atomic::AtomicU64,
}

impl Wrap for Wrapper {
    fn mark(&self, backend: u64) -> Result<u32, NoWay> {
        // No mark at all: loopback has no `lb_probe`, and it needs no privilege.
        if backend == 1 { Ok(0) } else { Err(NoWay::Unknown) }
    }

    fn wrapped(&self, _: u32) -> Option<u64> {
        let looks = self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(if self.wraps { looks } else { 7 })
    }
}

#[tokio::test]
async fn an_answer_to_what_was_not_wrapped_counts_for_nothing() {
    let listener = TcpListener::bind((V4, 0)).await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let check = check(&format!("type: tcp, port: {port}, timeout: 500ms"));
    let prober = Prober::new(Arc::new(check), Way::default());
    let ask = async |wraps: bool, backend| {
        let wrapper = Wrapper {
            wraps,
            ..Wrapper::default()
        };
        prober.ask_through(&wrapper, backend, V4).await
    };
    assert_eq!(ask(true, 1).await, Outcome::Good);
    let Outcome::Unasked(why) = ask(false, 1).await else {
        panic!("it answered for the backend");
    };
    assert!(why.contains("127.0.0.1 is an address of this node"), "{why}");
    assert!(matches!(ask(true, 2).await, Outcome::Unasked(_)));
    let closed = Closed("why not".to_owned());
    let outcome = prober.ask_through(&closed, 1, V4).await;
    assert_eq!(
        outcome,
        Outcome::Unasked("lb_probe is not attached: why not".to_owned())
    );
}
