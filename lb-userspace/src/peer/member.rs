//! One peer, as the thread's loop knows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, RecvStream};

use super::facts::{Differs, Facts};
use super::fsm::Liveness;
use super::link::{Link, Mail, Reports};
use super::status::Status;
use super::wire::{self, Heartbeat};
use crate::health::Mono;

/// A session: one connection.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) connection: Connection,
    /// Its control streams are open.
    pub(super) up: bool,
    /// Streams that were opened before: at most as many as a peer may open.
    pub(super) waiting: Vec<(u8, RecvStream)>,
    sent: u64,
    /// The newest heartbeat's number.
    heard: Option<u64>,
}

/// What a heartbeat or time has changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) life: bool,
    pub(super) facts: bool,
}

pub(super) struct Peer {
    pub(super) place: u8,
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// Who is in the group, by place.
    nodes: Arc<[u64]>,
    pub(super) liveness: Liveness,
    pub(super) session: Option<Session>,
    pub(super) sessions: u64,
    pub(super) facts: Option<Facts>,
    differs: Differs,
    pub(super) certificate_until: Option<i64>,
    pub(super) trouble: Option<String>,
    sent: u64,
    heard: u64,
    missed: u64,
}

impl Peer {
    pub(super) fn new(
        place: u8,
        name: &str,
        address: SocketAddr,
        nodes: Arc<[u64]>,
        dead_after: Duration,
        now: Mono,
    ) -> Self {
        Self {
            place,
            name: name.to_owned(),
            address,
            nodes,
            liveness: Liveness::new(dead_after, now),
            session: None,
            sessions: 0,
            facts: None,
            differs: Differs::default(),
            certificate_until: None,
            trouble: None,
            sent: 0,
            heard: 0,
            missed: 0,
        }
    }

    /// A connection becomes its session.
    pub(super) fn begin(&mut self, number: u64, connection: Connection, reports: Reports, mail: &Mail) {
        let link = Link {
            peer: self.place,
            session: number,
            connection: connection.clone(),
            reports,
            nodes: Arc::clone(&self.nodes),
        };
        link.start(mail);
        self.session = Some(Session {
            number,
            connection,
            up: false,
            waiting: Vec::new(),
            sent: 0,
            heard: None,
        });
    }

    /// Sends a heartbeat.
    pub(super) fn beat(&mut self, facts: &Facts) {
        let Some(session) = self.session.as_mut().filter(|session| session.up) else {
            return;
        };
        session.sent += 1;
        let datagram = wire::encode(session.sent, facts).into();
        // What can't be sent is as good as lost.
        if session.connection.send_datagram(datagram).is_ok() {
            self.sent += 1;
        }
    }

    /// A heartbeat of its session. One that comes after a newer one says nothing.
    pub(super) fn heard(&mut self, heartbeat: Heartbeat, now: Mono) -> Change {
        let nothing = Change {
            life: false,
            facts: false,
        };
        // Before that it may be none of the group, and isn't called alive.
        let Some(session) = self.session.as_mut().filter(|session| session.up) else {
            return nothing;
        };
        let last = session.heard.unwrap_or_default();
        if heartbeat.sequence <= last {
            return nothing;
        }
        // Before the first one that came others may have been sent before the session was known here.
        if session.heard.is_some() {
            self.missed = self.missed.saturating_add(heartbeat.sequence - last - 1);
        }
        session.heard = Some(heartbeat.sequence);
        self.heard += 1;
        let facts = self.facts.as_ref() != Some(&heartbeat.facts);
        let life = self.liveness.handle(heartbeat.facts.phase, now);
        if facts {
            self.facts = Some(heartbeat.facts);
        }
        Change { life, facts }
    }

    /// Compares what it says with what this node says.
    pub(super) fn compare(&mut self, own: &Facts, now: Mono) {
        let its = self.facts.as_ref().filter(|_| self.liveness.life().is_heard());
        self.differs.look(own, its, now);
    }

    pub(super) fn status(&self) -> Status {
        let session = self.session.as_ref().filter(|session| session.up);
        let stats = session.map(|session| session.connection.stats());
        let bytes = stats.map(|stats| (stats.udp_tx.bytes, stats.udp_rx.bytes));
        Status {
            place: self.place,
            name: self.name.clone(),
            address: self.address,
            life: self.liveness.life(),
            since: self.liveness.since(),
            session: session.map(|session| session.number),
            sessions: self.sessions,
            rtt: session.map(|session| session.connection.rtt()),
            sent: self.sent,
            heard: self.heard,
            missed: self.missed,
            bytes: bytes.unwrap_or_default(),
            certificate_until: self.certificate_until,
            facts: self.facts.clone(),
            differs: self.differs,
            trouble: self.trouble.clone(),
        }
    }
}
