//! `GET /v1/peers`: the other nodes of the group.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::peer::{Common, Facts, Life, Own, PoolRings, Status, View};

/// What is known of the group's nodes. Digests are hexadecimal.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Peers {
    /// This node; nothing where the nodes don't talk.
    pub own: Option<This>,
    /// The others, in the order of `group.nodes`.
    pub peers: Vec<Peer>,
    /// How often somebody was refused since the agent started, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// What a node says of itself.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Said {
    /// `joining`, `ready`, `leaving`.
    pub phase: String,
    /// Whether its file says something else than the charter.
    pub drift: bool,
    /// Of the charter: `NUMBER.NODE`, the node by its place.
    pub generation: String,
    /// Digest of the charter in force, configuration and orders.
    pub config_digest: String,
    /// Digest of all rings.
    pub rings: String,
    /// Digest of all origins.
    pub origins: String,
    /// Digest of the backends that it sees down.
    pub down: String,
    /// Number of the verdict that it follows.
    pub verdict: u64,
    /// So many of its program's events (`events` of `/v1/sync` there) have been merged by every peer that it has a session with.
    pub watermark: u64,
    /// Of its program.
    pub version: String,
    /// Packets per second that it forwards.
    pub load: u32,
    /// A number that each start of its agent makes anew.
    pub epoch: String,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct This {
    /// Its name.
    pub node: String,
    /// The group's name in certificates.
    pub group: String,
    /// Where the others reach it.
    pub address: String,
    /// What it says of itself.
    pub said: Said,
    /// Until when its certificate is good, Unix time in milliseconds.
    pub certificate_until: i64,
    /// Until when the authority's is.
    pub ca_until: i64,
    /// Whether the certificates' files hold something that can't be used, so that older ones are.
    pub reload_failed: bool,
}

/// Another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Where it is reached.
    pub address: String,
    /// `unknown` (never heard), `joining`, `alive`, `suspect`, `dead`.
    pub state: String,
    /// Since when, Unix time in milliseconds.
    pub since: u64,
    /// Number of the session; nothing while there is none.
    pub session: Option<u64>,
    /// Sessions since the agent started.
    pub sessions: u64,
    /// Round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// Heartbeats that were sent to it.
    pub sent: u64,
    /// Heartbeats that came from it.
    pub heard: u64,
    /// Heartbeats of it that were lost, or came late.
    pub missed: u64,
    /// What it said last.
    pub said: Option<Said>,
    /// Whether it has the same configuration as this node.
    pub same_config: Option<bool>,
    /// Whether its rings are the same as this node's.
    pub same_rings: Option<bool>,
    /// Where they aren't: pools whose identity modulo 64 is one of these.
    pub rings_differ_in: Vec<u8>,
    /// Whether its slots' origins are; they differ for a moment while slots retire.
    pub same_origins: Option<bool>,
    /// Whether the same backends are down to its checks as to this node's.
    pub same_down: Option<bool>,
    /// Until when its certificate is good, Unix time in milliseconds.
    pub certificate_until: Option<i64>,
    /// Why there is no session.
    pub trouble: Option<String>,
}

/// Of these pools those whose rings may be what differs.
pub fn among<'a>(buckets: &[u8], pools: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let is_in = |pool: &&str| buckets.contains(&PoolRings::bucket(lb_common::id::stable(pool, "")));
    pools.into_iter().filter(is_in).collect()
}

/// What the nodes' agents know → what the API says.
pub fn peers(view: &View) -> Peers {
    let refused = view.refused.iter();
    Peers {
        own: view.own.as_ref().map(this),
        peers: view
            .peers
            .iter()
            .map(|status| peer(status, view.own.as_ref()))
            .collect(),
        refused: refused
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect(),
    }
}

fn this(own: &Own) -> This {
    This {
        node: own.name.clone(),
        group: own.group.clone(),
        address: own.address.to_string(),
        said: said(&own.facts),
        certificate_until: own.certificate_until.saturating_mul(1000),
        ca_until: own.ca_until.saturating_mul(1000),
        reload_failed: own.reload_failed,
    }
}

fn peer(status: &Status, own: Option<&Own>) -> Peer {
    // What a dead node said is of no use.
    let both = status
        .facts
        .as_ref()
        .filter(|_| !matches!(status.life, Life::Dead | Life::Unknown))
        .zip(own.map(|own| &own.facts));
    let same = |what: Common| both.map(|(its, ours)| what.is_same(its, ours));
    let small = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Peer {
        node: status.name.clone(),
        address: status.address.to_string(),
        state: status.life.name().to_owned(),
        since: small(status.since.unix()) / 1000,
        session: status.session,
        sessions: status.sessions,
        rtt_us: status.rtt.map(small),
        sent: status.sent,
        heard: status.heard,
        missed: status.missed,
        said: status.facts.as_ref().map(said),
        same_config: same(Common::Config),
        same_rings: same(Common::Rings),
        rings_differ_in: both.map_or_else(Vec::new, |(its, ours)| ours.pools.differing(&its.pools)),
        same_origins: same(Common::Origins),
        same_down: same(Common::Down),
        certificate_until: status.certificate_until.map(|until| until.saturating_mul(1000)),
        trouble: status.trouble.clone(),
    }
}

fn said(facts: &Facts) -> Said {
    let hex = |number: u64| format!("{number:016x}");
    Said {
        phase: facts.phase.name().to_owned(),
        generation: format!("{}.{}", facts.generation.number, facts.generation.node),
        config_digest: hex(facts.config_digest),
        rings: hex(facts.rings),
        origins: hex(facts.origins),
        down: hex(facts.down),
        verdict: facts.verdict,
        watermark: facts.watermark,
        version: facts.version.clone(),
        load: facts.load,
        drift: facts.drift,
        epoch: hex(facts.epoch),
    }
}
