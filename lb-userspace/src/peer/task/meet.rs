//! Connections that come about, and those that don't: whose are they?

use std::net::SocketAddr;

use quinn::ConnectionError;

use super::Task;
use crate::group::Mismatch;
use crate::peer::dial::refusal;
use crate::peer::link::{OTHER_NODES, code, words};
use crate::peer::status::Refusal;
use crate::peer::{Event, tls};

impl Task {
    /// No connection came about.
    pub(super) fn failed(&mut self, called: Option<u8>, address: SocketAddr, error: &ConnectionError) {
        if let Some(refusal) = refusal(error, called.is_some()) {
            self.refuse(refusal, &error.to_string());
        }
        let mut peers = self.peers.iter_mut().flatten();
        let whose = peers.find(|peer| called.map_or(peer.address == address, |place| peer.place == place));
        let Some(peer) = whose else { return };
        // Another call may have come to something.
        if peer.session.as_ref().is_none_or(|session| !session.up) {
            peer.trouble = Some(words(error));
        }
        let peer = peer.place;
        self.unlike(peer, error);
    }

    /// Tells of a peer that is there, and with which there is no session since both have not the same.
    pub(super) fn unlike(&mut self, peer: u8, error: &ConnectionError) {
        let mismatch = if tls::is_certificate(error) {
            Mismatch::Certificate
        } else if matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == code::NODES)
        {
            Mismatch::Nodes
        } else {
            return;
        };
        self.tell(Event::Refused { peer, mismatch });
    }

    /// The same, where this node has found that out.
    pub(super) fn other_nodes(&mut self, place: u8) {
        let Some(peer) = &mut self.peers[usize::from(place)] else {
            return;
        };
        let what = format!("{}: {OTHER_NODES}", peer.name);
        peer.trouble = Some(OTHER_NODES.to_owned());
        self.refuse(Refusal::Nodes, &what);
        self.tell(Event::Refused {
            peer: place,
            mismatch: Mismatch::Nodes,
        });
    }

    /// A connection stands, and TLS is content: whose is it?
    pub(super) fn connected(&mut self, connection: quinn::Connection, called: Option<u8>) {
        let named = tls::other_end(&connection);
        let place = named.as_ref().and_then(|named| {
            let is_ours = named.group == self.certs.named.group;
            self.peers()
                .find(|peer| is_ours && Some(&peer.name) == named.node.as_ref())
                .map(|peer| peer.place)
        });
        let (Some(place), Some(named)) = (place.filter(|p| called.is_none_or(|c| c == *p)), named) else {
            connection.close(code::NAME, b"name");
            return self.refuse(Refusal::Name, &connection.remote_address().to_string());
        };
        if called.is_none() && named.node.as_ref() > Some(&self.name) {
            // It is to be called.
            connection.close(code::PROTOCOL, b"protocol");
            return self.refuse(Refusal::Protocol, &connection.remote_address().to_string());
        }
        // The handshake may have begun before the authority was taken away.
        if !self.certs.ends.trusts(&connection) {
            connection.close(code::AUTHORITY, b"authority");
            return self.refuse(Refusal::Authority, &connection.remote_address().to_string());
        }
        self.sessions += 1;
        let session = self.sessions;
        self.replaced(usize::from(place));
        if let Some(peer) = &mut self.peers[usize::from(place)] {
            peer.certificate_until = Some(named.until);
            peer.begin(session, connection, self.reports.0.clone(), &self.ways.mail);
        }
    }
}
