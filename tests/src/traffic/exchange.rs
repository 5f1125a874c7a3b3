//! One request of each kind, and why it failed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::plan::Kind;
use super::report::Failure;

/// The answering backend's name and how long it took, or why not.
pub(super) type Answer = Result<(String, Duration), (Failure, String)>;

/// A request of a kind that is one exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) kind: Kind,
    pub(super) to: SocketAddr,
    /// The client's address, where it matters.
    pub(super) from: Option<IpAddr>,
    pub(super) within: Duration,
    /// A datagram is sent again after so long.
    pub(super) again: Option<Duration>,
}

impl Exchange {
    /// What to bind to, if anything.
    pub(super) fn source(self, port: Option<u16>) -> Option<SocketAddr> {
        match (self.from, port) {
            (None, None) => None,
            (None, Some(port)) => Some(any(self.to, port)),
            (Some(from), port) => Some((from, port.unwrap_or(0)).into()),
        }
    }

    /// Sends request `number` from the port (any free one for `None`) and waits for its answer.
    pub(super) async fn send(self, number: u64, port: Option<u16>) -> Answer {
        let start = Instant::now();
        let source = self.source(port);
        let answer = async {
            match self.kind {
                Kind::Http => http(self.to, number, source).await,
                Kind::Udp => udp(self, number, source).await,
                Kind::Lines => line(self.to, number, source).await,
            }
        };
        match timeout(self.within, answer).await {
            Ok(result) => result.map(|name| (name, start.elapsed())),
            Err(_) => Err(late(self.within)),
        }
    }
}

pub(super) fn late(within: Duration) -> (Failure, String) {
    (Failure::Timeout, format!("no answer within {within:?}"))
}

pub(super) async fn connect(
    to: SocketAddr,
    source: Option<SocketAddr>,
) -> Result<TcpStream, (Failure, String)> {
    let connected = async {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source {
            // The port's last connection may still be in TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        socket.connect(to).await
    };
    let stream = connected
        .await
        .map_err(|e| (Failure::Connect, format!("connect: {e}")))?;
    // Small requests and answers: Nagle would wait for acknowledgements.
    stream.set_nodelay(true).map_err(|e| broken(&e))?;
    Ok(stream)
}

pub(super) fn any(to: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    (address, port).into()
}

/// An error on a socket that was connected.
pub(super) fn broken(error: &io::Error) -> (Failure, String) {
    let failure = if error.kind() == io::ErrorKind::TimedOut {
        Failure::Timeout
    } else {
        Failure::Reset
    };
    (failure, error.to_string())
}

/// The backend's name in an answer `NAME TEXT`.
pub(super) fn name_in(answer: &[u8], text: &str) -> Result<String, (Failure, String)> {
    let answer = String::from_utf8_lossy(answer);
    match answer.trim_end().split_once(' ') {
        Some((name, echoed)) if echoed == text => Ok(name.to_owned()),
        _ => Err((Failure::Wrong, format!("sent {text:?}, the answer is {answer:?}"))),
    }
}

async fn http(to: SocketAddr, number: u64, source: Option<SocketAddr>) -> Result<String, (Failure, String)> {
    let stream = connect(to, source).await?;
    let reset = |e: hyper::Error| (Failure::Reset, format!("HTTP: {e}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(reset)?;
    let path = format!("/{number}");
    let request = Request::get(&path)
        .header(HOST, to.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("a request of constants and a number is valid");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(reset)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(reset)?.to_bytes();
        if !status.is_success() {
            return Err((Failure::Wrong, format!("status {status}")));
        }
        name_in(&body, &path)
    };
    // The connection does the work; its own error also reaches the exchange.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

async fn udp(
    exchange: Exchange,
    number: u64,
    source: Option<SocketAddr>,
) -> Result<String, (Failure, String)> {
    let to = exchange.to;
    let refused = |e: io::Error| (Failure::Connect, e.to_string());
    let socket = UdpSocket::bind(source.unwrap_or_else(|| any(to, 0)))
        .await
        .map_err(refused)?;
    socket.connect(to).await.map_err(refused)?;
    let text = format!("datagram {number}");
    let mut answer = [0; 128];
    loop {
        socket.send(text.as_bytes()).await.map_err(refused)?;
        // An ICMP error ends the wait.
        let received = socket.recv(&mut answer);
        let received = match exchange.again {
            Some(again) => timeout(again, received).await,
            None => Ok(received.await),
        };
        if let Ok(length) = received {
            return name_in(&answer[..length.map_err(refused)?], &text);
        }
    }
}

async fn line(to: SocketAddr, number: u64, source: Option<SocketAddr>) -> Result<String, (Failure, String)> {
    let mut lines = Lines::open(to, source).await?;
    lines.exchange(number).await
}

/// A connection that exchanges numbered lines.
pub(super) struct Lines {
    stream: BufReader<TcpStream>,
    answer: String,
}

impl Lines {
    pub(super) async fn open(to: SocketAddr, source: Option<SocketAddr>) -> Result<Self, (Failure, String)> {
        Ok(Self {
            stream: BufReader::new(connect(to, source).await?),
            answer: String::new(),
        })
    }

    /// Sends one line and returns the name in its answer.
    pub(super) async fn exchange(&mut self, number: u64) -> Result<String, (Failure, String)> {
        let text = format!("line {number}");
        self.stream
            .get_mut()
            .write_all(format!("{text}\n").as_bytes())
            .await
            .map_err(|e| broken(&e))?;
        self.answer.clear();
        if self
            .stream
            .read_line(&mut self.answer)
            .await
            .map_err(|e| broken(&e))?
            == 0
        {
            return Err((Failure::Reset, "closed by the other end".to_owned()));
        }
        name_in(self.answer.as_bytes(), &text)
    }

    /// Ends only when something comes that nobody asked for: an end, an error or a line.
    pub(super) async fn silence(&mut self) -> (Failure, String) {
        match self.stream.fill_buf().await {
            Ok([]) => (Failure::Reset, "closed by the other end".to_owned()),
            Ok(bytes) => (
                Failure::Wrong,
                format!("{} bytes that nobody asked for", bytes.len()),
            ),
            Err(e) => broken(&e),
        }
    }
}
