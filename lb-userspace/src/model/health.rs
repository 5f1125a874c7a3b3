//! What is asked of a pool's backends, and what the answers mean.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The health check of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Where questions leave from.
    pub from: From,
    /// The VIP address that is asked through the tunnel, of the family of `from`; absent: each backend at its own address.
    pub vip: Option<IpAddr>,
    /// From one question to the next; 100 ms to 1 h.
    pub interval: Duration,
    /// How long an answer may take; 10 ms to `interval`.
    pub timeout: Duration,
    /// So many good answers in a row and a backend is up; 1 to 100.
    pub rise: u32,
    /// So many failures in a row and it isn't; 1 to 100.
    pub fall: u32,
    /// A question is late by up to this share of `interval`, in percent; 0 to 50.
    pub jitter: u32,
    /// How long a suspect that never answers stays one before it is dead; up to 1 h.
    pub death_grace: Duration,
    /// What becomes of backends that come and go.
    pub flap: Flap,
    /// When more than this share of the pool's weight looks down, in percent, all are served; 100 = never.
    pub fail_open: u32,
}

impl Health {
    /// The shortest interval.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// The shortest timeout.
    pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
    /// The longest of all durations here.
    pub const DURATION_MAX: Duration = Duration::from_secs(3600);
    /// The most answers in a row that may be asked for.
    pub const RUN_MAX: u32 = 100;
    /// The most jitter, in percent.
    pub const JITTER_MAX: u32 = 50;
    /// The interval where none is given.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// The timeout where none is given, unless the interval is shorter.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// The grace where none is given.
    pub const DEATH_GRACE: Duration = Duration::from_secs(3);
    /// Good answers in a row, where not given.
    pub const RISE: u32 = 2;
    /// Failures in a row, where not given.
    pub const FALL: u32 = 3;
    /// Jitter where not given, in percent.
    pub const JITTER: u32 = 10;
    /// Share where not given, in percent.
    pub const FAIL_OPEN: u32 = 50;
}

/// Where questions leave from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct From {
    /// The source address; absent: the one that the route prefers. Of the family of what is asked.
    pub source: Option<IpAddr>,
    /// The interface; absent: the route's.
    pub interface: Option<String>,
}

/// How often a backend may fall before it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flap {
    /// A backend with this many falls in its penalty stays out; 0 = never, up to 100.
    pub limit: u32,
    /// The time in which a penalty halves; 1 s to 1 h.
    pub half_life: Duration,
}

impl Flap {
    /// The highest limit.
    pub const LIMIT_MAX: u32 = 100;
    /// The shortest half-life.
    pub const HALF_LIFE_MIN: Duration = Duration::from_secs(1);
}

impl Default for Flap {
    fn default() -> Self {
        Self {
            limit: 3,
            half_life: Duration::from_secs(60),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection comes about.
    Tcp {
        /// The port.
        port: u16,
    },
    /// An HTTP/1.1 request.
    Http(Http),
    /// A datagram.
    Udp(Udp),
    /// An echo request.
    Icmp,
    /// `grpc.health.v1.Health/Check`.
    Grpc(Grpc),
}

impl Probe {
    /// The type, as the configuration says it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Http(http) if http.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// An HTTP request and the answer that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// The port.
    pub port: u16,
    /// `GET`, `HEAD`, ...
    pub method: Method,
    /// Path and query; starts with `/`, visible ASCII.
    pub path: String,
    /// The `Host` header; absent: the address and port that are asked.
    pub host: Option<String>,
    /// Good status codes; at least one.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the first 64 KiB of a good body hold.
    pub body: Option<String>,
    /// HTTPS.
    pub tls: Option<Tls>,
}

/// The method of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`, whose answer has no body.
    Head,
    /// `OPTIONS`
    Options,
    /// `POST`, with an empty body.
    Post,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
        })
    }
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whose certificates are good.
    pub trust: Trust,
    /// The name in the handshake and the certificate; absent: the `Host` header's, else the backend's address.
    pub server_name: Option<String>,
}

/// Whose certificates are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everyone's.
    Anyone,
    /// Those of the authorities that this host trusts.
    System,
    /// Those of these authorities, as DER.
    Authorities(Vec<Vec<u8>>),
}

/// A datagram and the answer that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    /// The port.
    pub port: u16,
    /// What is sent; at most [`Udp::PAYLOAD_MAX`] bytes.
    pub request: Vec<u8>,
    /// What a good answer holds somewhere; absent: anything.
    pub response: Option<Vec<u8>>,
}

impl Udp {
    /// The longest payload, in bytes: with its headers it fits every link.
    pub const PAYLOAD_MAX: usize = 1200;
}

/// A gRPC health check, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// The port.
    pub port: u16,
    /// The service; empty = the server as a whole.
    pub service: String,
    /// The `:authority`; absent: the backend's address and port.
    pub host: Option<String>,
    /// TLS in place of plain HTTP/2.
    pub tls: Option<Tls>,
}
