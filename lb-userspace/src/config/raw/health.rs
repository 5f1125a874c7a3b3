//! A pool's `health:`

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Field, INTERFACE, List, words, words_or_null};
use crate::config::duration::DURATION;
use crate::model::INTERFACE_MAX;
use crate::model::health::{Flap as FlapModel, Health as Model, Method};

/// The words of `type`.
pub(in crate::config) const TYPES: [(&str, Type); 6] = [
    ("tcp", Type::Tcp),
    ("http", Type::Http),
    ("https", Type::Https),
    ("udp", Type::Udp),
    ("icmp", Type::Icmp),
    ("grpc", Type::Grpc),
];

/// The words of `method`.
pub(in crate::config) const METHODS: [(&str, Method); 4] = [
    ("GET", Method::Get),
    ("HEAD", Method::Head),
    ("OPTIONS", Method::Options),
    ("POST", Method::Post),
];

/// The words of a truth value.
pub(in crate::config) const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Type {
    Tcp,
    Http,
    Https,
    Udp,
    Icmp,
    Grpc,
}

/// The form of a duration that may be nothing.
const DURATION_OR_0: &str = "^(0s|[1-9][0-9]*(ms|s|m|h))$";

/// A pool's `health:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Health {
    /// What is asked of each backend, at its own address or through the tunnel. `tcp`: a connection; `http`, `https`: a request; `udp`: a
    /// datagram; `icmp`: an echo; `grpc`: `grpc.health.v1.Health/Check`. No answer (also a refused connection) makes a
    /// backend suspect and then dead; an answer that refuses (an unexpected status, `NOT_SERVING`, a wrong body)
    /// drains it.
    #[schemars(with = "String", extend("enum" = words(&TYPES)))]
    #[serde(rename = "type")]
    pub(in crate::config) kind: Field<String>,
    /// The port that is asked; every type but `icmp` needs it.
    #[schemars(with = "Option<u16>", range(min = 1, max = u16::MAX))]
    #[schemars(extend("x-default" = "none, and `icmp` has none"))]
    pub(in crate::config) port: Field<String>,
    /// The request's method (`http`, `https`).
    #[schemars(with = "Option<String>", extend("enum" = words_or_null(&METHODS), "default" = METHODS[0].0))]
    pub(in crate::config) method: Field<String>,
    /// The request's path and query (`http`, `https`).
    #[schemars(with = "Option<String>", regex(pattern = "^/[!-~]*$"), extend("default" = "/"))]
    pub(in crate::config) path: Field<String>,
    /// The `Host` header or `:authority` (`http`, `https`, `grpc`).
    #[schemars(with = "Option<String>", regex(pattern = "^[!-~]+$"))]
    #[schemars(extend("x-default" = "the address and port that are asked"))]
    pub(in crate::config) host: Field<String>,
    /// Status codes that are good (`http`, `https`): numbers and ranges.
    #[schemars(with = "Option<Vec<Status>>", length(min = 1))]
    #[schemars(extend("x-range" = "100 to 599, such as `[200-299, 404]`", "x-default" = "[200-399]"))]
    pub(in crate::config) status: Field<List<String>>,
    /// Text that the first 64 KiB of a good answer's body hold (`http`, `https`).
    #[schemars(with = "Option<String>", length(min = 1), extend("x-range" = "any text"))]
    #[schemars(extend("x-default" = "any body"))]
    pub(in crate::config) body: Field<String>,
    /// How TLS is spoken (`https`; `grpc` speaks it where this stands, `{}` is enough).
    #[schemars(with = "Option<Tls>", extend("x-default" = "verified (`https`), none (`grpc`)"))]
    pub(in crate::config) tls: Field<Tls>,
    /// The datagram that is sent, as text (`udp`); this or `request_hex` must be there.
    #[schemars(with = "Option<String>", extend("x-default" = "none"))]
    pub(in crate::config) request: Field<String>,
    /// The datagram that is sent, as pairs of hex digits (`udp`).
    #[schemars(with = "Option<String>", regex(pattern = "^([0-9A-Fa-f]{2})*$"), extend("x-default" = "none"))]
    pub(in crate::config) request_hex: Field<String>,
    /// Text that a good answer holds (`udp`).
    #[schemars(with = "Option<String>", length(min = 1), extend("x-range" = "any text"))]
    #[schemars(extend("x-default" = "any answer"))]
    pub(in crate::config) response: Field<String>,
    /// Bytes that a good answer holds, as pairs of hex digits (`udp`).
    #[schemars(with = "Option<String>", regex(pattern = "^([0-9A-Fa-f]{2})+$"))]
    #[schemars(extend("x-default" = "any answer"))]
    pub(in crate::config) response_hex: Field<String>,
    /// The service that is asked after (`grpc`).
    #[schemars(with = "Option<String>", extend("x-default" = "the server as a whole"))]
    pub(in crate::config) service: Field<String>,
    /// From one question to the next, for each backend: a number with `ms`, `s`, `m` or `h`. Questions to different
    /// backends are spread over it.
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    #[schemars(extend("x-range" = "100ms to 1h", "x-default" = text(Model::INTERVAL)))]
    pub(in crate::config) interval: Field<String>,
    /// How long an answer may take; at most `interval`.
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    #[schemars(extend("x-range" = "10ms to `interval`"))]
    #[schemars(extend("x-default" = format!("{}, or `interval` if that is shorter", text(Model::TIMEOUT))))]
    pub(in crate::config) timeout: Field<String>,
    /// So many good answers in a row and a backend is up. Before its first verdict it counts as up.
    #[schemars(with = "Option<u32>", range(min = 1, max = Model::RUN_MAX), extend("default" = Model::RISE))]
    pub(in crate::config) rise: Field<String>,
    /// So many failures in a row and a backend is suspect (no answers) or draining (among them answers that refuse).
    #[schemars(with = "Option<u32>", range(min = 1, max = Model::RUN_MAX), extend("default" = Model::FALL))]
    pub(in crate::config) fall: Field<String>,
    /// Each question is late by a random time up to this share of `interval`, in percent.
    #[schemars(with = "Option<u32>", range(max = Model::JITTER_MAX), extend("default" = Model::JITTER))]
    pub(in crate::config) jitter: Field<String>,
    /// How long a suspect backend may stay without any answer before it is dead: its connections are given up.
    #[schemars(with = "Option<String>", regex(pattern = DURATION_OR_0))]
    #[schemars(extend("x-range" = "0s to 1h", "x-default" = text(Model::DEATH_GRACE)))]
    pub(in crate::config) death_grace: Field<String>,
    /// The source address of questions, of the family of what is asked: the backends, or the VIP.
    #[schemars(with = "Option<std::net::IpAddr>", extend("x-default" = "the route's choice"))]
    pub(in crate::config) source: Field<String>,
    /// The interface that questions leave by.
    #[schemars(with = "Option<String>", regex(pattern = INTERFACE), length(max = INTERFACE_MAX))]
    #[schemars(extend("x-default" = "the route's choice"))]
    pub(in crate::config) interface: Field<String>,
    /// Whether questions go to an address of a VIP, encapsulated towards the backend as clients' packets are, so that
    /// a backend that has lost its decapsulation or its VIP is found. The service must then answer at that address and
    /// `port`. It takes a route to the VIP (the default route is enough), and the VIP must not be an address of this
    /// node.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub(in crate::config) through_tunnel: Field<String>,
    /// The address that is asked through the tunnel: that of a VIP of this pool.
    #[schemars(with = "Option<std::net::IpAddr>")]
    #[schemars(extend("x-default" = "that of the pool's first VIP with the check's protocol"))]
    pub(in crate::config) vip: Field<String>,
    /// What becomes of backends that come and go.
    #[schemars(with = "Option<Flap>", extend("x-default" = "as below"))]
    pub(in crate::config) flap: Field<Flap>,
    /// When more than this share of the pool's configured weight looks down, in percent, the checks are doubted: silent
    /// backends are served again, those that refuse only where no other is up, and a warning is logged. It ends when
    /// the share is a fifth below. 100 = never.
    #[schemars(with = "Option<u32>", range(max = 100), extend("default" = Model::FAIL_OPEN))]
    pub(in crate::config) fail_open: Field<String>,
}

/// `tls:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tls {
    /// Whether the certificate must be good.
    #[schemars(with = "Option<bool>", extend("default" = true))]
    pub(in crate::config) verify: Field<String>,
    /// The name in handshake and certificate.
    #[schemars(with = "Option<String>", extend("x-default" = "that of `host`, else the address that is asked"))]
    pub(in crate::config) server_name: Field<String>,
    /// A PEM file with the authorities that are trusted. A relative path starts at the configuration's folder; the
    /// file is read with the configuration.
    #[schemars(with = "Option<String>", extend("x-default" = "those that this host trusts"))]
    pub(in crate::config) ca_file: Field<String>,
}

/// `flap:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Flap {
    /// Each fall adds 1 to a backend's penalty. A backend whose penalty has reached this stays out, also with good
    /// answers, until the penalty is half of this. 0 = never held out.
    #[schemars(with = "Option<u32>", range(max = FlapModel::LIMIT_MAX))]
    #[schemars(extend("default" = FlapModel::default().limit))]
    pub(in crate::config) limit: Field<String>,
    /// The time in which a penalty halves. A penalty is at most four times the limit, so nobody waits longer than three
    /// half-lives.
    #[schemars(with = "Option<String>", regex(pattern = DURATION))]
    #[schemars(extend("x-range" = "1s to 1h", "x-default" = text(FlapModel::default().half_life)))]
    pub(in crate::config) half_life: Field<String>,
}

/// An item of `status:`
#[derive(JsonSchema)]
#[schemars(transparent, extend("type" = ["integer", "string"], "pattern" = "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"))]
#[schemars(extend("minimum" = 100, "maximum" = 599))]
#[expect(dead_code, reason = "the schema of an item that is text in the raw type")]
struct Status(String);

/// A duration as a file would say it.
fn text(duration: std::time::Duration) -> String {
    super::super::duration::text(duration)
}
