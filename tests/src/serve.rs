//! The servers of a backend (`lb-lab serve`): HTTP, UDP echo and numbered lines, each naming the backend.
//!
//! After SIGUSR1 it refuses work: HTTP answers 503 at [`HEALTH_PATH`], until SIGUSR2.
//! HTTP answers `NAME PATH`, the UDP echo `NAME DATAGRAM`, and a line on a TCP connection `NAME LINE`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::error::{IoContext, LabError};
use crate::limit;
use crate::topo::{ECHO_PORT, HTTP_PORT};

/// The line in the log that says that all sockets are bound.
pub const READY: &str = "ready";
/// What health checks ask for.
pub const HEALTH_PATH: &str = "/health";
/// Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn).
const BACKLOG: u32 = 65_535;

/// Serves on these addresses until the process ends.
pub fn run(name: &str, addresses: &[IpAddr]) -> Result<(), LabError> {
    limit::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .context(|| "start tokio".to_owned())?
        .block_on(serve(name.to_owned(), addresses))
}

async fn serve(name: String, addresses: &[IpAddr]) -> Result<(), LabError> {
    let mut servers = JoinSet::new();
    let refuses = Arc::new(AtomicBool::new(false));
    heed(SignalKind::user_defined1(), &refuses, true)?;
    heed(SignalKind::user_defined2(), &refuses, false)?;
    for address in addresses {
        let at = |port| SocketAddr::from((*address, port));
        let socket = |port| move || format!("bind {}", SocketAddr::from((*address, port)));
        let web = listen(at(HTTP_PORT)).context(socket(HTTP_PORT))?;
        let lines = listen(at(ECHO_PORT)).context(socket(ECHO_PORT))?;
        let echo = UdpSocket::bind(at(ECHO_PORT)).await.context(socket(ECHO_PORT))?;
        servers.spawn(http(web, name.clone(), Arc::clone(&refuses)));
        servers.spawn(accept_lines(lines, name.clone()));
        servers.spawn(echo_datagrams(echo, name.clone()));
    }
    println!("{READY}");
    match servers.join_next().await {
        Some(Ok(result)) => result.context(|| format!("servers of {name}")),
        Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        None => Ok(()),
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// Sets `refuses` to `value` whenever the signal comes.
fn heed(kind: SignalKind, refuses: &Arc<AtomicBool>, value: bool) -> Result<(), LabError> {
    let mut signals = signal(kind).context(|| "handle signals".to_owned())?;
    let refuses = Arc::clone(refuses);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            refuses.store(value, Ordering::Relaxed);
        }
    });
    Ok(())
}

async fn http(listener: TcpListener, name: String, refuses: Arc<AtomicBool>) -> io::Result<()> {
    let answer = async |State((name, refuses)): State<(String, Arc<AtomicBool>)>, uri: Uri| {
        let refused = uri.path() == HEALTH_PATH && refuses.load(Ordering::Relaxed);
        let status = if refused {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        };
        (status, format!("{name} {uri}\n"))
    };
    axum::serve(
        listener,
        Router::new().fallback(answer).with_state((name, refuses)),
    )
    .await
}

async fn echo_datagrams(socket: UdpSocket, name: String) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    let mut answer = Vec::new();
    loop {
        // An ICMP error about an earlier answer shows up here; it is the client's affair.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        answer.clear();
        answer.extend_from_slice(name.as_bytes());
        answer.push(b' ');
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, from).await;
    }
}

async fn accept_lines(listener: TcpListener, name: String) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let name = name.clone();
        // A connection's end, however it comes about, is the client's to judge.
        tokio::spawn(async move { answer_lines(stream, &name).await });
    }
}

async fn answer_lines(stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = format!("{name} {line}");
        stream.get_mut().write_all(answer.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
