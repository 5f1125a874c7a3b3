//! What can be wrong with a pool's `health`: messages and hints.

use std::io::ErrorKind;
use std::net::IpAddr;

use super::source::Excerpt;
use super::what::Family;
use crate::model::Protocol;
use crate::model::health::Udp;

/// What is wrong with a field of `health`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongHealth {
    /// Not a duration.
    #[error("`{0}` is not a duration")]
    Duration(Excerpt),
    /// A duration too short or too long.
    #[error("{found} is out of range")]
    DurationRange {
        /// The duration.
        found: Excerpt,
        /// The shortest that is taken.
        min: String,
        /// The longest that is taken.
        max: String,
    },
    /// A timeout longer than the interval.
    #[error("an answer may not take longer ({timeout}) than the next question is away ({interval})")]
    Overlap {
        /// The timeout.
        timeout: String,
        /// The interval.
        interval: String,
    },
    /// A field of another type.
    #[error("a check of type `{kind}` has no `{field}`")]
    Foreign {
        /// The field.
        field: &'static str,
        /// The check's type.
        kind: &'static str,
    },
    /// Not a status code or a range of them.
    #[error("`{0}` is neither a status code nor a range of them")]
    Status(Excerpt),
    /// Not a path.
    #[error("`{0}` is not a path")]
    Path(Excerpt),
    /// Not a `Host` header.
    #[error("`{0}` is not a host")]
    Host(Excerpt),
    /// Not a name that TLS can verify.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    ServerName(Excerpt),
    /// Text that every answer holds.
    #[error("the text is empty")]
    Empty,
    /// Not pairs of hex digits.
    #[error("`{0}` is not pairs of hex digits")]
    Hex(Excerpt),
    /// Text and bytes for the same thing.
    #[error("`{text}` and `{hex}` are both given")]
    Twice {
        /// The field with text.
        text: &'static str,
        /// The field with bytes.
        hex: &'static str,
    },
    /// A datagram that may not fit.
    #[error("the datagram has {0} bytes, more than {max}", max = Udp::PAYLOAD_MAX)]
    Long(usize),
    /// The body of an answer that has none.
    #[error("the answer to HEAD has no body")]
    BodyOfHead,
    /// A source address of another family than the pool's backends.
    #[error("mixed families: {found} is {family}, but the pool's backends are {other}", other = family.other())]
    Source {
        /// The address.
        found: IpAddr,
        /// Its family.
        family: Family,
    },
    /// A VIP to ask where none is asked.
    #[error("`vip` is given, but questions go to the backends' own addresses")]
    Direct,
    /// Not the address of a VIP of the pool.
    #[error("{0} is not the address of a VIP of this pool")]
    NoVipOf(IpAddr),
    /// No VIP to ask.
    #[error("this pool has no{} VIP to ask through the tunnel", .0.map_or(String::new(), |protocol| format!(" {protocol}")))]
    NoVip(Option<Protocol>),
    /// A source address of another family than the VIP that is asked.
    #[error("mixed families: {found} is {family}, but {vip}, which is asked, is {other}", other = family.other())]
    SourceOfVip {
        /// The address.
        found: IpAddr,
        /// Its family.
        family: Family,
        /// What is asked.
        vip: IpAddr,
    },
    /// Authorities that nobody asks.
    #[error("`ca_file` is given, but certificates are not verified")]
    Unverified,
    /// The authorities' file can't be read.
    #[error("the file can't be read: {0}")]
    Unreadable(ErrorKind),
    /// It holds something else.
    #[error("the file holds no PEM certificate")]
    NoCertificate,
}

impl WrongHealth {
    /// What to do about it, where that isn't obvious from the message.
    pub(super) fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::DurationRange { min, max, .. } => return Some(format!("from {min} to {max}")),
            Self::Duration(_) => "write a whole number and its unit: 500ms, 2s, 5m or 1h",
            Self::Overlap { .. } => "make `timeout` at most `interval`",
            Self::Status(_) => "write codes from 100 to 599: [200, 204] or [200-399]",
            Self::Path(_) => "a path starts with `/` and has neither spaces nor letters beyond ASCII",
            Self::Host(_) => {
                "write a name, an address, or one of them with a port, as a client would send it"
            }
            Self::Empty => "leave the field out to take every answer",
            Self::Hex(_) => "write it like 0d0a, in quotes",
            Self::Twice { .. } => "keep one of them",
            Self::Long(_) => "a probe must fit into one packet on every link",
            Self::BodyOfHead => "ask with GET, or leave `body` out",
            Self::Source { .. } => {
                "probes go to the backends' own addresses, so source and backends share a family"
            }
            Self::Direct => "set `through_tunnel: true`, or leave `vip` out",
            Self::NoVipOf(_) => "name an address that `vips` gives to this pool",
            Self::NoVip(_) => {
                "give the pool such a VIP, or name the address of another of its VIPs: `vip: ADDRESS`"
            }
            Self::SourceOfVip { .. } => "through the tunnel, questions have the family of the VIP",
            Self::Unverified => "leave `ca_file` out, or set `verify: true`",
            Self::NoCertificate => "it should hold blocks that begin with `-----BEGIN CERTIFICATE-----`",
            Self::Foreign { .. } | Self::ServerName(_) | Self::Unreadable(_) => return None,
        };
        Some(fixed.to_owned())
    }
}
