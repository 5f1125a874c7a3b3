//! What is known of the other nodes → samples.

use super::render::{Page, real, seconds, truth};
use super::table;
use crate::health::Mono;
use crate::peer::{Common, Life, Refusal, Status, View};

impl Page {
    pub(super) fn peers(&mut self, view: &View) {
        let Some(own) = &view.own else { return };
        let peers = || view.peers.iter().map(|peer| ([peer.name.as_str()], peer));
        let states = peers()
            .flat_map(|([name], peer)| Life::ALL.map(|life| ([name, life.name()], truth(life == peer.life))));
        self.put(&table::PEER_STATE, states);
        let since = |peer: &Status| u64::try_from(peer.since.unix().as_millis()).map_or(0.0, seconds);
        self.put(&table::PEER_SINCE, peers().map(|(l, peer)| (l, since(peer))));
        self.put(
            &table::PEER_SESSIONS,
            peers().map(|(l, peer)| (l, real(peer.sessions))),
        );
        let rtt = peers().filter_map(|(l, peer)| Some((l, peer.rtt?.as_secs_f64())));
        self.put(&table::PEER_RTT, rtt);
        self.put(
            &table::HEARTBEATS_SENT,
            peers().map(|(l, peer)| (l, real(peer.sent))),
        );
        self.put(
            &table::HEARTBEATS_HEARD,
            peers().map(|(l, peer)| (l, real(peer.heard))),
        );
        self.put(
            &table::HEARTBEATS_MISSED,
            peers().map(|(l, peer)| (l, real(peer.missed))),
        );
        let same = peers().filter_map(|([name], peer)| {
            let facts = peer.facts.as_ref().filter(|_| peer.life.is_heard())?;
            Some(Common::ALL.map(|what| ([name, what.name()], truth(what.is_same(facts, &own.facts)))))
        });
        self.put(&table::PEER_SAME, same.flatten());
        let differs = peers().flat_map(|([name], peer)| {
            let long = |since: Option<Mono>| since.map_or(0.0, |since| view.at.since(since).as_secs_f64());
            peer.differs
                .all()
                .map(move |(what, since)| ([name, what.name()], long(since)))
        });
        self.put(&table::PEER_DIFFERS, differs);
        let refused = |reason| view.refused.get(&reason).copied().unwrap_or_default();
        let reasons = Refusal::ALL.map(|reason| ([reason.name()], real(refused(reason))));
        self.put(&table::PEER_REFUSED, reasons);
        let peers =
            peers().filter_map(|([name], peer)| Some((format!("peer:{name}"), peer.certificate_until?)));
        let ours = [("ca", own.ca_until), ("own", own.certificate_until)];
        let all = ours
            .map(|(name, until)| (name.to_owned(), until))
            .into_iter()
            .chain(peers);
        let until = |until: i64| real(until.max(0).unsigned_abs());
        self.put(
            &table::CERTIFICATE_EXPIRY,
            all.map(|(name, at)| ([name], until(at))),
        );
        self.one(&table::CERTIFICATE_RELOAD, truth(!own.reload_failed));
    }
}
