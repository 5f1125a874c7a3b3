//! What a client is to send.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::topo::{ECHO_PORT, Family, HTTP_PORT};

/// Everything that one client process sends, all jobs at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The jobs; the report has one entry for each, in this order.
    pub jobs: Vec<Job>,
    /// The names that an answer may bear; any other is a wrong answer.
    pub backends: Vec<String>,
    /// A request without an answer after this long has failed.
    pub timeout: Duration,
}

/// One kind of traffic to one address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// What is sent.
    pub kind: Kind,
    /// Where to.
    pub to: SocketAddr,
    /// How much and how fast.
    pub pace: Pace,
    /// Where from; the address that the kernel picks for `None`.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// A datagram of [`Kind::Udp`] without an answer is sent again after so long, as resolvers do; not for [`Pace::Hold`] and
    /// [`Pace::Beat`].
    #[serde(default)]
    pub again: Option<Duration>,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// HTTP GET over a new TCP connection.
    Http,
    /// One datagram, echoed: from a new socket each, or, with [`Pace::Hold`], from the flow's own.
    Udp,
    /// A numbered line on a long-lived TCP connection, echoed. The backend must stay the same.
    Lines,
}

/// How much and how fast. For [`Kind::Lines`] only [`Pace::Hold`] and [`Pace::Churn`] make sense, and they not for
/// [`Kind::Http`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// So many requests, `workers` at a time, as fast as the answers come.
    Count {
        /// In all.
        requests: u32,
        /// At a time.
        workers: u32,
    },
    /// So many requests a second until the load is stopped, whether or not answers come.
    Rate {
        /// Requests a second.
        per_second: u32,
    },
    /// One request from each source port `first .. first + count`; the report says who answered which.
    Ports {
        /// The first port.
        first: u16,
        /// How many.
        count: u16,
    },
    /// So many connections or UDP flows, each with a line or datagram every `every` until the load is stopped.
    Hold {
        /// Connections or flows.
        connections: u32,
        /// From one line to the next of a connection.
        every: Duration,
    },
    /// So many new connections a second until the load is stopped, each with a line every `every` for the time `lives`, after
    /// which the client closes it.
    Churn {
        /// New connections a second.
        per_second: u32,
        /// From one line to the next of a connection.
        every: Duration,
        /// How long a connection lives.
        lives: Duration,
    },
    /// A datagram every `every` from one socket until the load is stopped, whether or not answers come: the longest time
    /// without any answer is the gap that a client would see. For [`Kind::Udp`] alone.
    Beat {
        /// From one datagram to the next.
        every: Duration,
    },
}

impl Job {
    /// HTTP to the lab's VIP.
    pub fn http(family: Family, pace: Pace) -> Self {
        Self {
            kind: Kind::Http,
            to: family.vip(HTTP_PORT),
            pace,
            from: None,
            again: None,
        }
    }

    /// UDP echoes from the lab's VIP.
    pub fn udp(family: Family, pace: Pace) -> Self {
        Self {
            kind: Kind::Udp,
            to: family.vip(ECHO_PORT),
            pace,
            from: None,
            again: None,
        }
    }

    /// Long-lived connections to the lab's VIP.
    pub fn lines(family: Family, connections: u32, every: Duration) -> Self {
        Self {
            kind: Kind::Lines,
            to: family.vip(ECHO_PORT),
            pace: Pace::Hold { connections, every },
            from: None,
            again: None,
        }
    }

    /// New connections to the lab's VIP that live for a while.
    pub fn churn(family: Family, per_second: u32, every: Duration, lives: Duration) -> Self {
        let pace = Pace::Churn {
            per_second,
            every,
            lives,
        };
        Self {
            pace,
            ..Self::lines(family, 0, every)
        }
    }

    /// The probe that looks for gaps.
    pub fn beat(family: Family, every: Duration) -> Self {
        Self::udp(family, Pace::Beat { every })
    }

    /// The same from this address.
    pub fn from(mut self, address: IpAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// The same with datagrams that are sent again.
    pub fn again(mut self, after: Duration) -> Self {
        self.again = Some(after);
        self
    }

    /// UDP flows to the lab's VIP, each from a socket that it keeps.
    pub fn flows(family: Family, flows: u32, every: Duration) -> Self {
        let pace = Pace::Hold {
            connections: flows,
            every,
        };
        Self::udp(family, pace)
    }

    /// For people: `HTTP over IPv4`.
    pub fn label(&self) -> String {
        let kind = match self.kind {
            Kind::Http => "HTTP",
            Kind::Udp => "UDP echo",
            Kind::Lines => "TCP lines",
        };
        format!("{kind} over IPv{}", Family::of(self.to.ip()).digit())
    }
}
