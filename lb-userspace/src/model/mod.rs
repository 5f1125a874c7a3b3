//! Domain types of which only valid values exist: the constructors are the validation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

pub mod health;
mod link;

pub use health::Health;
pub use link::{INTERFACE_MAX, InterfaceError, MacError, interface, mac};

/// A name: 1 to 32 characters, letters, digits, `-`, `_`, `.`; starts with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// The longest name, in bytes; names stand in pinned maps with a fixed width.
pub const NAME_MAX: usize = 32;

/// Why a string is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a name must not be empty")]
    Empty,
    /// More than [`NAME_MAX`] bytes.
    #[error("a name has at most {NAME_MAX} characters, this one has {0}")]
    Long(usize),
    /// A character that names don't have.
    #[error(
        "a name has only letters, digits, '-', '_' and '.', and starts with a letter or digit; found {0:?}"
    )]
    Character(char),
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let first = s.chars().next().ok_or(NameError::Empty)?;
        if s.len() > NAME_MAX {
            return Err(NameError::Long(s.chars().count()));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Character(first));
        }
        match s
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(s.to_owned())),
        }
    }
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The group's 128-bit key of the flow hash. Never shown: `Debug` prints `GroupKey(masked)`.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupKey([u8; 16]);

impl GroupKey {
    /// Length of the key as text, in hex digits.
    pub const DIGITS: usize = 32;

    /// A key from its bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the map and the hash alone.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Why a string is not a [`GroupKey`]; never holds a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not [`GroupKey::DIGITS`] characters, but this many.
    #[error("the group's key has {digits} hex digits, this one has {0} characters", digits = GroupKey::DIGITS)]
    Length(usize),
    /// A character that is no hex digit.
    #[error("the group's key has only hex digits (0-9, a-f); this one has another character")]
    Digit,
}

impl FromStr for GroupKey {
    type Err = KeyError;

    fn from_str(s: &str) -> Result<Self, KeyError> {
        let length = s.chars().count();
        if length != Self::DIGITS {
            return Err(KeyError::Length(length));
        }
        if !s.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(KeyError::Digit);
        }
        u128::from_str_radix(s, 16)
            .map(|key| Self(key.to_be_bytes()))
            .map_err(|_| KeyError::Digit)
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey(masked)")
    }
}

/// A whole, valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Where it was read from, for messages.
    pub path: PathBuf,
    /// This host.
    pub node: Node,
    /// The nodes that serve the same VIPs, this one included.
    pub group: Group,
    /// Sizes of the maps, fixed when the program is loaded.
    pub capacity: Capacity,
    /// How packets are wrapped.
    pub encap: Encap,
    /// Pools, in the order of the file; names are unique.
    pub pools: Vec<Pool>,
    /// VIPs, in the order of the file; (address, port, protocol) is unique.
    pub vips: Vec<Vip>,
    /// The endpoint for Prometheus; absent: none.
    pub metrics: Option<Metrics>,
}

/// An endpoint for Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// What it listens on; the port is not 0.
    pub listen: SocketAddr,
}

impl Metrics {
    /// What it listens on where the file doesn't say: this host alone can reach it.
    pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9400);
}

/// This host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name in the group.
    pub name: Name,
    /// The interfaces on which client traffic arrives; at least one, no duplicates, ≤ 15 bytes each.
    pub interfaces: Vec<String>,
    /// How the program is attached to them.
    pub attach: Attach,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Attach {
    /// Native; generic where the driver has no native mode, with a warning.
    #[default]
    Auto,
    /// Native or nothing.
    Native,
    /// Generic (slow, for tests and odd drivers).
    Generic,
}

/// The group of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Names of all nodes; holds at least this node's.
    pub nodes: Vec<Name>,
    /// The group's key; always there when `nodes` has more than one. A single node without one makes its own.
    pub key: Option<GroupKey>,
    /// For how long a slot may be tracked after a change, and a removed backend be kept for its flows.
    pub max_tracked: Duration,
    /// How the nodes talk; absent where there is one node, or where they don't.
    pub peering: Option<Peering>,
}

/// How the nodes of a group talk to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peering {
    /// The address and UDP port of each node, in the order of [`Group::nodes`].
    pub addresses: Vec<SocketAddr>,
    /// A folder with `ca.pem`, `node.pem` and `node.key`, as `lbctl pki` makes them.
    pub pki: PathBuf,
    /// From one heartbeat to the next.
    pub heartbeat: Duration,
    /// A peer that is silent for so long is dead.
    pub dead_after: Duration,
    /// A node that is silent for so long is no member: the routers send it nothing any more.
    pub withdraw_after: Duration,
    /// For how long a starting node tries to be admitted before it says that it can't.
    pub join_within: Duration,
}

impl Peering {
    /// The UDP port of an address without one.
    pub const DEFAULT_PORT: u16 = 7946;
    /// Where certificates are by default.
    pub const DEFAULT_PKI: &str = "/etc/tandem/pki";
    /// [`Peering::heartbeat`] by default.
    pub const HEARTBEAT: Duration = Duration::from_millis(10);
    /// [`Peering::dead_after`] by default.
    pub const DEAD_AFTER: Duration = Duration::from_millis(50);
    /// [`Peering::withdraw_after`] by default.
    pub const WITHDRAW_AFTER: Duration = Duration::from_secs(60);
    /// [`Peering::join_within`] by default.
    pub const JOIN_WITHIN: Duration = Duration::from_secs(60);
    /// The shortest [`Peering::heartbeat`].
    pub const HEARTBEAT_MIN: Duration = Duration::from_millis(1);
    /// The longest [`Peering::heartbeat`].
    pub const HEARTBEAT_MAX: Duration = Duration::from_secs(1);
    /// The shortest [`Peering::dead_after`].
    pub const DEAD_AFTER_MIN: Duration = Duration::from_millis(10);
    /// The longest [`Peering::dead_after`].
    pub const DEAD_AFTER_MAX: Duration = Duration::from_secs(10);
    /// The fewest heartbeats in [`Peering::dead_after`].
    pub const HEARTBEATS_MIN: u32 = 3;
    /// The shortest [`Peering::withdraw_after`] and [`Peering::join_within`].
    pub const LONG_MIN: Duration = Duration::from_secs(1);
    /// The longest [`Peering::withdraw_after`] and [`Peering::join_within`].
    pub const LONG_MAX: Duration = Duration::from_secs(3600);
}

impl Group {
    /// The most nodes of a group.
    pub const NODES_MAX: u32 = 64;
    /// The longest time where the file doesn't say: a day.
    pub const MAX_TRACKED: Duration = Duration::from_secs(86_400);
    /// The shortest that can be asked for.
    pub const MAX_TRACKED_MIN: Duration = Duration::from_secs(60);
    /// The longest: thirty days.
    pub const MAX_TRACKED_MAX: Duration = Duration::from_secs(30 * 86_400);
}

/// How many of each the maps can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Pools, 1 to 1,024; each takes 512 KiB for its slots.
    pub pools: u32,
    /// VIPs, 1 to 32,768.
    pub vips: u32,
    /// Backends, 2 to 32,768; the first is reserved, see [`Capacity::usable_backends`].
    pub backends: u32,
    /// Flows in tracked slots, 1,024 to 16,777,216; with what belongs to them about 400 bytes each.
    pub flows: u32,
}

impl Capacity {
    /// The most pools.
    pub const POOLS_MAX: u32 = 1024;
    /// The most VIPs.
    pub const VIPS_MAX: u32 = 32_768;
    /// The most backends, the reserved one included.
    pub const BACKENDS_MAX: u32 = 32_768;
    /// The fewest tracked flows.
    pub const FLOWS_MIN: u32 = 1024;
    /// The most tracked flows.
    pub const FLOWS_MAX: u32 = 1 << 24;
    /// Backend index 0 means "none" in slots, so no backend has it.
    pub const BACKENDS_RESERVED: u32 = 1;

    /// How many backends the configuration may name, over all pools.
    pub const fn usable_backends(&self) -> u32 {
        self.backends.saturating_sub(Self::BACKENDS_RESERVED)
    }

    /// How many indexes the maps of backends have, the reserved one included: enough to replace all backends in one
    /// change without giving an index to another backend in that change. At most 65,535.
    pub const fn backend_indexes(&self) -> u32 {
        2 * self.usable_backends() + Self::BACKENDS_RESERVED
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            pools: 64,
            vips: 512,
            backends: 4096,
            flows: lb_common::abi::FLOWS,
        }
    }
}

/// How packets are wrapped: outer sources. Host bits beyond the prefix carry flow entropy.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Encap {
    /// Outer IPv4 source; absent: the source address that the route to the backend prefers.
    pub source_ipv4: Option<Ipv4Net>,
    /// Outer IPv6 source; absent: the source address that the route to the backend prefers.
    pub source_ipv6: Option<Ipv6Net>,
}

/// A named set of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique in the file.
    pub name: Name,
    /// At least one, all of one address family, names and addresses unique, not all of weight 0.
    pub backends: Vec<Backend>,
    /// How its backends are checked; absent: not at all.
    pub health: Option<Health>,
    /// What stands between the outer IP header and the packet.
    pub tunnel: Tunnel,
}

/// What stands between the outer IP header and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tunnel {
    /// Nothing (RFC 2003, RFC 2473).
    #[default]
    Ipip,
    /// UDP and GUE (draft-ietf-intarea-gue).
    Gue {
        /// The UDP port of the backends; not 0.
        port: u16,
        /// Packets of TCP connections name another backend that may have them.
        second_chance: bool,
    },
}

impl Tunnel {
    /// The port where the file doesn't say.
    pub const DEFAULT_PORT: u16 = lb_common::gue::PORT;
    /// Whether GUE packets name another backend, where the file doesn't say.
    pub const DEFAULT_CHANCE: bool = true;
}

impl fmt::Display for Tunnel {
    /// `ipip`, `gue to port 6080 with second chance`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipip => f.pad("ipip"),
            Self::Gue { port, second_chance } => {
                let with = if *second_chance { "with" } else { "without" };
                write!(f, "gue to port {port} {with} second chance")
            }
        }
    }
}

/// One server address that takes encapsulated packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool; `pool/name` is its stable identity, so a renamed backend is another one.
    pub name: Name,
    /// `lb_common::id::stable(pool, name)`; unique over all pools.
    pub id: u64,
    /// Where encapsulated packets go.
    pub address: IpAddr,
    /// Share of the pool's slots, relative to the others'; 0 takes none.
    pub weight: u16,
    /// A next hop that needs no route or neighbour.
    pub via: Option<Via>,
}

impl Backend {
    /// The weight of a backend that has none in the file.
    pub const DEFAULT_WEIGHT: u16 = 1;
}

/// A static next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The interface that packets leave by.
    pub interface: String,
    /// The next hop's link-layer address.
    pub mac: [u8; 6],
}

/// Address, port and protocol that we serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address that clients know.
    pub address: IpAddr,
    /// The port; 0 = every port that has no VIP of its own.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Index into [`Model::pools`].
    pub pool: usize,
    /// When its flows are entered in the flow table.
    pub tracking: Tracking,
    /// A flow that is silent for longer is forgotten.
    pub idle_timeout: Duration,
}

impl Vip {
    /// The idle timeout of a VIP that has none in the file.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(900);
    /// The shortest idle timeout.
    pub const IDLE_MIN: Duration = Duration::from_secs(10);
    /// The longest: a day.
    pub const IDLE_MAX: Duration = Duration::from_secs(86_400);
}

/// When flows are entered in the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// In slots that have changed lately.
    OnChange,
    /// In every slot.
    Always,
    /// Never: a change of the backends moves flows.
    Off,
}

impl Tracking {
    /// What a VIP does that doesn't say: UDP has no handshake to learn from, so it has to be asked for.
    pub const fn default_of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::OnChange,
            Protocol::Udp => Self::Off,
        }
    }
}

/// A transport that is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, protocol 6.
    Tcp,
    /// UDP, protocol 17.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Vip {
    /// `192.0.2.1:80/tcp`, `[2001:db8::1]:53/udp`, and `192.0.2.1:any/tcp` for every port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        match self.port {
            0 => write!(f, "any/{}", self.protocol),
            port => write!(f, "{port}/{}", self.protocol),
        }
    }
}
