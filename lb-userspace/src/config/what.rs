//! The kinds of problems, their messages and their hints.

use std::io::ErrorKind;
use std::net::IpAddr;

use ipnet::IpNet;

use super::source::Excerpt;
use super::wrong_group::WrongGroup;
use super::wrong_health::WrongHealth;
use crate::model::{Capacity, InterfaceError, KeyError, MacError, NameError};

/// What is wrong. Text from the file is always an [`Excerpt`]; the group's key is never in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// The file can't be opened or read.
    #[error("can't be read: {0}")]
    Unreadable(ErrorKind),
    /// The path leads to a directory.
    #[error("is a directory, not a file")]
    Directory,
    /// More than `limit` bytes.
    #[error("is larger than {limit} bytes")]
    TooLarge {
        /// What is read at most.
        limit: u64,
    },
    /// Bytes that are no text.
    #[error("the file is not UTF-8 text")]
    Encoding,
    /// Nothing but comments, or no section.
    #[error("the file is empty")]
    Empty,
    /// Not YAML, with the parser's reason.
    #[error("not valid YAML: {0}")]
    Syntax(Excerpt),
    /// Not YAML, where the reason would repeat what may be the group's key.
    #[error("not valid YAML; the text here is not shown, since it may hold the group's key")]
    SecretSyntax,
    /// Nested beyond what a configuration needs.
    #[error("the brackets or lists here are nested too deeply")]
    Nesting,
    /// More values, aliases or anchors than a configuration needs.
    #[error("the file has more values or aliases than any configuration needs")]
    Volume,
    /// A second `---` document.
    #[error("the file holds more than one YAML document")]
    Documents,
    /// A list where a mapping stands, and the like.
    #[error("expected {expected}, found {found}")]
    Structure {
        /// What the field takes.
        expected: Shape,
        /// What stands there.
        found: Shape,
    },
    /// A field that doesn't exist.
    #[error("unknown field `{field}`")]
    UnknownField {
        /// Its name.
        field: Excerpt,
        /// The fields that exist here.
        known: Vec<&'static str>,
    },
    /// A field given twice.
    #[error("the field `{0}` is given twice")]
    RepeatedField(Excerpt),
    /// A field that must be there.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A list that needs an item.
    #[error("the list is empty; it needs at least one item")]
    EmptyList,
    /// Not a whole decimal number.
    #[error("`{found}` is not a whole number")]
    Number {
        /// What stands there.
        found: Excerpt,
    },
    /// Digits in quotes.
    #[error("{found:?} is text, not a number", found = found.to_string())]
    QuotedNumber {
        /// The text.
        found: Excerpt,
    },
    /// A number too small or too large.
    #[error("{found} is out of range")]
    Range {
        /// The number.
        found: Excerpt,
        /// The smallest that is taken.
        min: u32,
        /// The largest that is taken.
        max: u32,
    },
    /// None of a few words.
    #[error("`{found}` is not one of {}", list(.valid))]
    Choice {
        /// What stands there.
        found: Excerpt,
        /// The words.
        valid: Vec<&'static str>,
    },
    /// Not a name.
    #[error(transparent)]
    Name(NameError),
    /// Not an interface's name.
    #[error(transparent)]
    Interface(InterfaceError),
    /// Not a next hop's MAC.
    #[error("`{found}` {error}")]
    Mac {
        /// What stands there.
        found: Excerpt,
        /// Why it isn't one.
        error: MacError,
    },
    /// Something that must be unique is there before.
    #[error("the {kind} `{value}` is already in line {first}")]
    Duplicate {
        /// What must be unique.
        kind: Kind,
        /// Which one.
        value: Excerpt,
        /// The line of the first.
        first: u32,
    },
    /// Not an IP address.
    #[error("`{0}` is not an IP address")]
    Address(Excerpt),
    /// Neither an IP address nor a prefix.
    #[error("`{0}` is neither an IP address nor a prefix")]
    Prefix(Excerpt),
    /// A prefix with bits set beyond its length.
    #[error("the prefix {0} has bits set beyond its length")]
    HostBits(IpNet),
    /// An address that can't be routed to one host.
    #[error("{address} is {class}")]
    Unusable {
        /// The address.
        address: IpAddr,
        /// Why it can't be used.
        class: Class,
    },
    /// IPv6 where IPv4 belongs, or the other way round.
    #[error("mixed families: {found} is {family}")]
    OtherFamily {
        /// The address or prefix.
        found: IpNet,
        /// Its family.
        family: Family,
    },
    /// A pool of both families.
    #[error("mixed families: {found} is {family}, but the pool's first backend, in line {first}, is {other}", other = family.other())]
    MixedPool {
        /// The backend's address.
        found: IpAddr,
        /// Its family.
        family: Family,
        /// Line of the first backend.
        first: u32,
    },
    /// A field that says something of GUE, in a pool without it.
    #[error("`{0}` needs `encap: gue`, and this pool has `ipip`: set that, or remove the field")]
    GueAlone(&'static str),
    /// A VIP's pool doesn't exist.
    #[error("there is no pool `{found}`")]
    UnknownPool {
        /// The name.
        found: Excerpt,
        /// A pool whose name is nearly the same.
        near: Option<Excerpt>,
    },
    /// No backend of a pool takes any flow.
    #[error("all backends of this pool have weight 0, so no flow could go anywhere")]
    AllWeightsZero,
    /// More than the maps can hold.
    #[error("{count} {kind}s are too many: there is room for {room}")]
    TooMany {
        /// Of what.
        kind: Kind,
        /// How many there are.
        count: usize,
        /// How many there may be.
        room: u32,
    },
    /// A VIP's address is a backend's.
    #[error("overlap: {address} is also the address of the backend in line {line}")]
    VipIsBackend {
        /// The address.
        address: IpAddr,
        /// Line of the backend.
        line: u32,
    },
    /// An address that outer headers would carry as their source.
    #[error("overlap: {address} lies inside {field} ({prefix})")]
    InsideSource {
        /// The VIP's or backend's address.
        address: IpAddr,
        /// The field of `encap`.
        field: &'static str,
        /// Its value.
        prefix: IpNet,
    },
    /// Not a group key.
    #[error(transparent)]
    Key(KeyError),
    /// Several nodes and no key.
    #[error("a group of {nodes} nodes needs a key that they share")]
    KeyMissing {
        /// How many nodes.
        nodes: usize,
    },
    /// Both `key` and `key_file`.
    #[error("`key` and `key_file` are both given")]
    KeyTwice,
    /// The key's file can't be used.
    #[error(transparent)]
    KeyFile(KeyFileError),
    /// This node isn't a member of its own group.
    #[error("this node, `{0}`, is not in the list")]
    NotInGroup(Excerpt),
    /// Something about the nodes of a group and how they talk.
    #[error(transparent)]
    Group(WrongGroup),
    /// Something about a health check.
    #[error(transparent)]
    Health(WrongHealth),
    /// Nothing that can be listened on.
    #[error("`{0}` is not an address and a port to listen on")]
    Listen(Excerpt),
    /// Two backends whose stable identities are the same number.
    #[error("the stable identity of this backend is also that of `{other}`")]
    IdCollision {
        /// The other, as `pool/name`.
        other: Excerpt,
    },
}

/// Why the file that holds the group's key can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be opened or read.
    #[error("the key file can't be read: {0}")]
    Unreadable(ErrorKind),
    /// A directory, a pipe, a device.
    #[error("the key file is not a regular file")]
    NotAFile,
    /// Everyone on this host may read or replace the key.
    #[error("the key file is open to every user of this host (mode {mode:04o})")]
    Open {
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("the key file holds no key: {0}")]
    Key(KeyError),
}

/// The shape of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `a: 1` lines or `{a: 1}`.
    Mapping,
    /// `- a` lines or `[a]`.
    List,
    /// A word, a number, a text.
    Scalar,
}

/// Things that are counted and must be unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node's name.
    Node,
    /// An interface.
    Interface,
    /// A pool's name.
    Pool,
    /// A backend's name, in its pool.
    Backend,
    /// A backend's address, in its pool.
    Address,
    /// A VIP: address, port and protocol.
    Vip,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Why an address can't be a VIP, a backend or an outer source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 0.0.0.0 and ::
    Unspecified,
    /// 0.0.0.0/8 (RFC 1122, section 3.2.1.3)
    ThisNetwork,
    /// 127.0.0.0/8 and ::1
    Loopback,
    /// 169.254.0.0/16 and fe80::/10
    LinkLocal,
    /// 224.0.0.0/4 and ff00::/8
    Multicast,
    /// 255.255.255.255
    Broadcast,
    /// ::ffff:0:0/96 (RFC 4291, section 2.5.5.2)
    Mapped,
}

/// Implements `Display` as fixed words.
macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(Shape { Mapping => "a mapping", List => "a list", Scalar => "a single value" });
words!(Kind {
    Node => "node", Interface => "interface", Pool => "pool", Backend => "backend", Address => "address", Vip => "VIP",
});
words!(Family { V4 => "IPv4", V6 => "IPv6" });
words!(Class {
    Unspecified => "the unspecified address",
    ThisNetwork => "an address of 0.0.0.0/8, which no host has",
    Loopback => "a loopback address",
    LinkLocal => "a link-local address, which routers don't forward",
    Multicast => "a multicast address",
    Broadcast => "the broadcast address",
    Mapped => "an IPv4 address written as IPv6",
});

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The one that this one isn't.
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

impl Shape {
    const fn hint(self) -> &'static str {
        match self {
            Self::List => "write `[a, b]`, or one `- item` per line",
            Self::Mapping => "write `{field: value}`, or one `field: value` per line, indented",
            Self::Scalar => "write one value, without brackets",
        }
    }
}

impl What {
    /// What to do about it, where that isn't obvious from the message.
    pub(super) fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::UnknownField { field, known } => return Some(unknown_field(field, known)),
            Self::Choice { found, valid } => {
                let word = nearest(&found.to_string(), valid.iter().copied())?;
                return Some(format!("did you mean `{word}`?"));
            }
            Self::UnknownPool { near: Some(near), .. } => return Some(format!("did you mean `{near}`?")),
            Self::Range { min, max, .. } => return Some(format!("from {min} to {max}")),
            Self::HostBits(prefix) => return Some(host_bits(prefix)),
            Self::Health(wrong) => return wrong.hint(),
            Self::Group(wrong) => return wrong.hint(),
            Self::OtherFamily { family, .. } => {
                return Some(format!("it belongs to `{}`", source_field(*family)));
            }
            Self::TooMany { kind, count, .. } => return too_many(*kind, *count),
            Self::Unusable {
                address: IpAddr::V6(address),
                class: Class::Mapped,
            } => {
                return address.to_ipv4_mapped().map(|v4| format!("write {v4}"));
            }
            Self::Unreadable(ErrorKind::NotFound) => "there is no such file; check the path",
            Self::Unreadable(ErrorKind::PermissionDenied) => "run as a user who may read it",
            Self::Directory => "name the file inside it",
            Self::TooLarge { .. } | Self::Volume => "is this the right file?",
            Self::Encoding => "save the file as UTF-8",
            Self::Empty => "dist/lb.example.yaml shows every field",
            Self::Syntax(message) => return Some(syntax(&message.to_string()).to_owned()),
            Self::SecretSyntax => "write the key as 32 hex digits without anything else: `key: \"...\"`",
            Self::Nesting => "look for brackets that are never closed",
            Self::Documents => "remove the `---` and what follows it",
            Self::Structure { expected, .. } => expected.hint(),
            Self::RepeatedField(_) => "remove one of them",
            Self::QuotedNumber { .. } => "write it without quotes",
            Self::Number { .. } => "write decimal digits alone",
            Self::Mac {
                error: MacError::Form,
                ..
            } => "write six pairs of hex digits: \"02:00:00:00:00:13\"",
            Self::Address(_) => {
                "write one address alone, such as 192.0.2.10 or 2001:db8::10: no port, no prefix length"
            }
            Self::Prefix(_) => "write an address, such as 192.0.2.1, or a prefix, such as 192.0.2.0/28",
            Self::MixedPool { .. } => "make one pool for each family",
            Self::UnknownPool { near: None, .. } => "a VIP names one of `pools`",
            Self::AllWeightsZero => "give at least one backend a weight above 0",
            Self::VipIsBackend { .. } => {
                "backends need an address of their own, beside the VIP on their loopback interface"
            }
            Self::InsideSource { .. } => {
                "outer headers carry these addresses as their source; nothing else may have them"
            }
            Self::Key(_) | Self::KeyFile(KeyFileError::Key(_)) => "make one with `openssl rand -hex 16`",
            Self::KeyMissing { .. } => {
                "make one with `openssl rand -hex 16` and give it to all nodes as `key` or `key_file`"
            }
            Self::KeyTwice => "keep one of them",
            Self::KeyFile(KeyFileError::Open { .. }) => {
                "make it private: `chmod 0600`; if the key was in use, make a new one"
            }
            Self::NotInGroup(_) => "`nodes` names all nodes of the group, this one included",
            Self::Listen(_) => {
                "write an IP address of this host and a port, such as 127.0.0.1:9400 or [::1]:9400; 0.0.0.0 is every address"
            }
            Self::IdCollision { .. } => "rename one of the two; only their names matter",
            _ => return None,
        };
        Some(fixed.to_owned())
    }
}

/// The field of `encap` that takes addresses of this family.
pub(super) const fn source_field(family: Family) -> &'static str {
    match family {
        Family::V4 => "source_ipv4",
        Family::V6 => "source_ipv6",
    }
}

/// The candidate that `word` is most likely meant to be, if any is near.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    let word = word.to_lowercase();
    let near = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, candidate)| candidate)
}

fn unknown_field(field: &Excerpt, known: &[&'static str]) -> String {
    match nearest(&field.to_string(), known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("the fields here are {}", list(known)),
    }
}

fn host_bits(prefix: &IpNet) -> String {
    let whole = prefix.trunc();
    format!(
        "write {whole} for the whole prefix, or {} for this one address",
        prefix.addr()
    )
}

fn too_many(kind: Kind, count: usize) -> Option<String> {
    let (field, max, needed) = match kind {
        Kind::Pool => ("pools", Capacity::POOLS_MAX, count),
        Kind::Vip => ("vips", Capacity::VIPS_MAX, count),
        Kind::Backend => (
            "backends",
            Capacity::BACKENDS_MAX,
            count + Capacity::BACKENDS_RESERVED as usize,
        ),
        Kind::Node => return Some("make two groups of them, each with VIPs of its own".to_owned()),
        Kind::Interface | Kind::Address => return None,
    };
    Some(match u32::try_from(needed) {
        Ok(needed) if needed <= max => format!("set `capacity: {{{field}: {needed}}}` or more"),
        _ => format!("`capacity.{field}` is at most {max}"),
    })
}

fn syntax(message: &str) -> &'static str {
    if message.contains("tab") {
        "indent with spaces"
    } else if message.contains("unclosed") {
        "close it on the line where it should end"
    } else if message.contains("anchor") {
        "put values that begin with `*` or `&` in quotes"
    } else if message.contains("unexpected character") {
        "put the value in quotes"
    } else {
        "check indentation, colons, commas and brackets on this line and the one above"
    }
}

/// `a`, `b` and `c`
fn list(words: &[&'static str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}
