//! The file as written: one type per mapping of the YAML, nothing checked beyond structure and field names.
//!
//! Every single value is text here, and what must be there is optional too: so the validation reports all wrong
//! and missing values at once, where serde stops at the first.
//!
//! The doc comments and `schemars` attributes of the fields are the reference: JSON Schema, `docs/CONFIG.md` and
//! `lbctl config explain` are made of them. `x-range` and `x-default` say in words what JSON Schema has no word for.

mod group;
mod health;

use std::fmt;
use std::net::IpAddr;

use lb_common::abi::MAX_INTERFACES;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml::Spanned;

pub(super) use group::{Member, Peer, Peering};
pub(super) use health::{Health, METHODS, TRUTH, TYPES, Tls, Type};

use crate::model::{self, Attach, Capacity as Sizes, INTERFACE_MAX, NAME_MAX, Protocol, Tracking};

/// A value with its place, or nothing: the field is absent or null.
pub(super) type Field<T> = Option<Spanned<T>>;

/// A list whose items have places.
pub(super) type List<T> = Vec<Spanned<T>>;

/// The words of `attach`.
pub(super) const ATTACH: [(&str, Attach); 3] = [
    ("auto", Attach::Auto),
    ("native", Attach::Native),
    ("generic", Attach::Generic),
];

/// The words of `protocol`.
pub(super) const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// The words of `tracking`.
pub(super) const TRACKING: [(&str, Tracking); 3] = [
    ("on-change", Tracking::OnChange),
    ("always", Tracking::Always),
    ("off", Tracking::Off),
];

/// Seconds of `idle_timeout`: by default, at least, at most.
pub(super) const IDLE: u64 = model::Vip::DEFAULT_IDLE.as_secs();
pub(super) const IDLE_MIN: u32 = model::Vip::IDLE_MIN.as_secs() as u32;
pub(super) const IDLE_MAX: u32 = model::Vip::IDLE_MAX.as_secs() as u32;

/// Seconds of `max_tracked`: by default, at least, at most.
pub(super) const MAX_TRACKED: u64 = model::Group::MAX_TRACKED.as_secs();
pub(super) const MAX_TRACKED_MIN: u32 = model::Group::MAX_TRACKED_MIN.as_secs() as u32;
pub(super) const MAX_TRACKED_MAX: u32 = model::Group::MAX_TRACKED_MAX.as_secs() as u32;

/// The word that stands for every port, and the number that it is.
pub(super) const ANY_PORT: (&str, u16) = ("any", 0);

/// The form of a name, see [`Name`](crate::model::Name).
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]*$";

/// The form of an interface's name, see [`interface`](crate::model::interface).
const INTERFACE: &str = "^[!-.0-9;-~]+$";

fn words<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

/// For a field that may be empty.
fn words_or_null<T>(choices: &[(&'static str, T)]) -> Vec<Option<&'static str>> {
    words(choices).into_iter().map(Some).chain([None]).collect()
}

/// The configuration of one node. Everything is checked before anything is changed: a file is taken as a whole or
/// refused with all its problems.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tandem")]
pub(super) struct File {
    /// This host.
    #[schemars(with = "Node")]
    pub(super) node: Field<Node>,
    /// The nodes that serve the same VIPs. Left out for a single node.
    #[schemars(with = "Option<Group>", extend("x-default" = "this node alone"))]
    pub(super) group: Field<Group>,
    /// Sizes of the maps, fixed when the program is loaded.
    #[schemars(with = "Option<Capacity>")]
    pub(super) capacity: Field<Capacity>,
    /// The source addresses of outer headers. Nothing else may have these addresses, and backends must accept them.
    #[schemars(with = "Option<Encap>")]
    pub(super) encap: Field<Encap>,
    /// Named sets of backends. Several VIPs may share one pool, and a backend's address may stand in several pools.
    #[schemars(with = "Option<Vec<Pool>>")]
    pub(super) pools: Option<List<Pool>>,
    /// What we serve.
    #[schemars(with = "Option<Vec<Vip>>")]
    pub(super) vips: Option<List<Vip>>,
    /// An endpoint for Prometheus.
    #[schemars(with = "Option<Metrics>", extend("x-default" = "no endpoint"))]
    pub(super) metrics: Field<Metrics>,
}

/// The sections of a file.
pub(super) const SECTIONS: [&str; 7] = ["node", "group", "capacity", "encap", "pools", "vips", "metrics"];

/// `node:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    /// The node's name in the group; one of `group.nodes`.
    #[schemars(with = "String", regex(pattern = NAME), length(max = NAME_MAX))]
    pub(super) name: Field<String>,
    /// The interfaces on which client traffic arrives; no duplicates.
    #[schemars(with = "Vec<String>", length(min = 1, max = MAX_INTERFACES))]
    #[schemars(inner(regex(pattern = INTERFACE), length(max = INTERFACE_MAX)))]
    pub(super) interfaces: Field<List<String>>,
    /// How the program is attached: `native` is the driver's XDP or nothing; `generic` is slow, for tests and odd
    /// drivers; `auto` is native where the driver has it, else generic with a warning; a running link keeps its
    /// mode where that fits.
    #[schemars(with = "Option<String>", extend("enum" = words_or_null(&ATTACH), "default" = ATTACH[0].0))]
    pub(super) attach: Field<String>,
}

/// `group:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    /// All nodes, this one included: names, or mappings of a name and an address. Nodes that have addresses talk to each
    /// other, and then all of them have one. The order is the same on all nodes, and new nodes are added at the end.
    #[schemars(with = "Option<Vec<Peer>>", length(min = 1, max = model::Group::NODES_MAX))]
    #[schemars(extend("x-default" = "this node alone"))]
    pub(super) nodes: Field<List<Member>>,
    /// The key of the flow hash: the same on all nodes, secret, and not changeable by a reload. With it a client
    /// could aim its flows at one backend. Make one with `openssl rand -hex 16`. More than one node needs it, here or
    /// in `key_file`; a single node makes its own.
    #[schemars(with = "Option<Secret>", extend("x-range" = "32 hex digits", "x-default" = "a single node's own"))]
    pub(super) key: Field<Secret>,
    /// A file that holds the key, instead of `key`, and that not everyone may read (mode 0600 or 0640). A relative
    /// path starts at the configuration's folder.
    #[schemars(with = "Option<String>", extend("x-default" = "no file"))]
    pub(super) key_file: Field<String>,
    /// Seconds for which a slot may be tracked after a change. Beyond that packets without an entry, which may be noise,
    /// hold it no longer; entries do as long as they live. A removed backend is kept for its flows no longer than this.
    #[schemars(with = "Option<u32>", range(min = MAX_TRACKED_MIN, max = MAX_TRACKED_MAX), extend("default" = MAX_TRACKED))]
    pub(super) max_tracked: Field<String>,
    /// How the nodes talk to each other; only where they have addresses.
    #[schemars(with = "Option<Peering>", extend("x-default" = "all of it by default"))]
    pub(super) peering: Field<Peering>,
}

/// `capacity:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Capacity {
    /// How many pools the maps can hold; each takes 512 KiB for its slots.
    #[schemars(with = "Option<u32>", range(min = 1, max = Sizes::POOLS_MAX))]
    #[schemars(extend("default" = Sizes::default().pools))]
    pub(super) pools: Field<String>,
    /// How many VIPs the maps can hold.
    #[schemars(with = "Option<u32>", range(min = 1, max = Sizes::VIPS_MAX))]
    #[schemars(extend("default" = Sizes::default().vips))]
    pub(super) vips: Field<String>,
    /// How many backends the maps can hold, over all pools. One is reserved, so one less fits.
    #[schemars(with = "Option<u32>", range(min = 1 + Sizes::BACKENDS_RESERVED, max = Sizes::BACKENDS_MAX))]
    #[schemars(extend("default" = Sizes::default().backends))]
    pub(super) backends: Field<String>,
    /// How many flows of slots that have changed lately can be remembered; each takes about 400 bytes, used or not.
    #[schemars(with = "Option<u32>", range(min = Sizes::FLOWS_MIN, max = Sizes::FLOWS_MAX))]
    #[schemars(extend("default" = Sizes::default().flows))]
    pub(super) flows: Field<String>,
}

/// `encap:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Encap {
    /// Outer IPv4 source: an address, or a prefix whose host bits carry flow entropy, so that the receive queues of
    /// the backends share the work.
    #[schemars(with = "Option<String>")]
    #[schemars(extend("x-range" = "IPv4 address or prefix", "x-default" = ROUTE_SOURCE))]
    pub(super) source_ipv4: Field<String>,
    /// Outer IPv6 source, in the same way.
    #[schemars(with = "Option<String>")]
    #[schemars(extend("x-range" = "IPv6 address or prefix", "x-default" = ROUTE_SOURCE))]
    pub(super) source_ipv6: Field<String>,
}

/// What stands for an outer source that is left out.
const ROUTE_SOURCE: &str = "the address that the route to the backend prefers";

/// One of `pools:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// The pool's name; no other pool has it.
    #[schemars(with = "String", regex(pattern = NAME), length(max = NAME_MAX))]
    pub(super) name: Field<String>,
    /// The pool's backends, all of one address family, not all of weight 0.
    #[schemars(with = "Vec<Backend>", length(min = 1))]
    pub(super) backends: Field<List<Backend>>,
    /// How its backends are checked.
    #[schemars(with = "Option<Health>", extend("x-default" = "not at all: every backend counts as up"))]
    pub(super) health: Field<Health>,
    /// How packets are wrapped: `ipip` puts an outer IP header before them; `gue` UDP, too, so that the backends' receive
    /// queues share the work, and a packet can get a second chance. `lbctl decap` takes both.
    #[schemars(with = "Option<String>", extend("enum" = words_or_null(&TUNNEL), "default" = TUNNEL[0].0))]
    pub(super) encap: Field<String>,
    /// With `encap: gue`: the UDP port of the backends.
    #[schemars(with = "Option<u16>", range(min = 1, max = u16::MAX))]
    #[schemars(extend("default" = model::Tunnel::DEFAULT_PORT))]
    pub(super) gue_port: Field<String>,
    /// With `encap: gue`: where a TCP connection may be at another backend, its packets name that one, and a backend that
    /// doesn't know the connection sends them there, once. Needs `lbctl decap` on every backend, in the network namespace
    /// of the service, that allows the other backends' addresses; 20 bytes more over IPv6, 8 over IPv4.
    #[schemars(with = "Option<bool>", extend("x-default" = "true with `encap: gue`"))]
    pub(super) second_chance: Field<String>,
}

/// The words of a pool's `encap`: whether it is GUE.
pub(super) const TUNNEL: [(&str, bool); 2] = [("ipip", false), ("gue", true)];

/// One of a pool's `backends:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    /// The backend's name, unique in its pool. `pool/name` is what it is known by: a renamed backend is another one.
    #[schemars(with = "String", regex(pattern = NAME), length(max = NAME_MAX))]
    pub(super) name: Field<String>,
    /// Where encapsulated packets go; unique in its pool, and no VIP.
    #[schemars(with = "IpAddr")]
    pub(super) address: Field<String>,
    /// The share of new flows, relative to the others' weights; 0 takes none.
    #[schemars(with = "Option<u16>", range(max = u16::MAX))]
    #[schemars(extend("default" = model::Backend::DEFAULT_WEIGHT))]
    pub(super) weight: Field<String>,
    /// A next hop that needs no route or neighbour.
    #[schemars(with = "Option<Via>", extend("x-default" = "from the kernel's tables"))]
    pub(super) via: Field<Via>,
}

/// A backend's `via:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Via {
    /// The interface that packets leave by.
    #[schemars(with = "String", regex(pattern = INTERFACE), length(max = INTERFACE_MAX))]
    pub(super) interface: Field<String>,
    /// The next hop's MAC address, with `:` or `-`; in quotes, since YAML may take it for a number.
    #[schemars(with = "String", extend("x-range" = "MAC address of one station"))]
    pub(super) mac: Field<String>,
}

/// One of `vips:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Vip {
    /// The address that clients know. Address, port and protocol together are unique.
    #[schemars(with = "IpAddr")]
    pub(super) address: Field<String>,
    /// The port; `any` (or 0) is every port that has no VIP of its own.
    #[schemars(with = "Option<u16>", range(max = u16::MAX))]
    #[schemars(extend("type" = ["integer", "string", "null"], "pattern" = "^any$", "default" = ANY_PORT.0))]
    #[schemars(extend("x-range" = "0 to 65535, or `any`"))]
    pub(super) port: Field<String>,
    /// The transport that is balanced.
    #[schemars(with = "String", extend("enum" = words(&PROTOCOLS)))]
    pub(super) protocol: Field<String>,
    /// The name of the pool that serves it; its address family may differ from the VIP's.
    #[schemars(with = "String", regex(pattern = NAME), length(max = NAME_MAX))]
    pub(super) pool: Field<String>,
    /// When this VIP's flows are remembered: `on-change` in the slots that have changed lately, `always` in every slot,
    /// which costs look-ups, `off` never, so that a change of the backends moves flows.
    #[schemars(with = "Option<String>", extend("enum" = words_or_null(&TRACKING)))]
    #[schemars(extend("x-default" = "on-change for TCP, off for UDP"))]
    pub(super) tracking: Field<String>,
    /// Seconds after which a silent flow is forgotten. Clients and servers have to send keepalives more often.
    #[schemars(with = "Option<u32>", range(min = IDLE_MIN, max = IDLE_MAX), extend("default" = IDLE))]
    pub(super) idle_timeout: Field<String>,
}

/// `metrics:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    /// The address and port that `GET /metrics` is answered on, over plain HTTP and without a password; `0.0.0.0:9400` is
    /// every IPv4 address of this host. An IPv6 address stands in brackets.
    #[schemars(with = "Option<String>", extend("x-range" = "IP address and port"))]
    #[schemars(extend("default" = model::Metrics::DEFAULT_LISTEN.to_string()))]
    pub(super) listen: Field<String>,
}

/// Text that no message may show.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct Secret(#[schemars(regex(pattern = "^[0-9A-Fa-f]{32}$"))] pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}
