//! What can be wrong with the nodes of a `group` and their `peering`: messages and hints.

use super::source::Excerpt;

/// What is wrong with a node or a field of `peering`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongGroup {
    /// Some nodes have an address, and this one has none.
    #[error("this node has no address, but the one in line {other} has")]
    AddressMissing {
        /// Line of a node that has one.
        other: u32,
    },
    /// A name that no certificate can hold.
    #[error("`{0}` can't be in a certificate, and nodes that talk have one each")]
    Name(Excerpt),
    /// Not an address with or without a port.
    #[error("`{0}` is neither an IP address nor an IP address and a port")]
    Address(Excerpt),
    /// Port 0, which nobody can reach.
    #[error("port 0 can't be reached")]
    Port,
    /// `peering` where nobody talks.
    #[error("no node has an address, so the nodes don't talk")]
    NobodyTalks,
    /// Too few heartbeats until a node is dead.
    #[error(
        "a node that is silent for {dead_after} may have lost but a heartbeat or two, which are {heartbeat} apart"
    )]
    Hasty {
        /// `dead_after`.
        dead_after: String,
        /// `heartbeat`.
        heartbeat: String,
    },
    /// A node that would leave before it is dead.
    #[error("a node would be withdrawn after {withdraw_after}, before it is dead after {dead_after}")]
    WithdrawnAlive {
        /// `withdraw_after`.
        withdraw_after: String,
        /// `dead_after`.
        dead_after: String,
    },
}

impl WrongGroup {
    /// What to do about it.
    pub(super) fn hint(&self) -> Option<String> {
        let fixed = match self {
            Self::AddressMissing { .. } => {
                "give every node an address, `{name: lb1, address: 192.0.2.1}`, or none"
            }
            Self::Name(_) => "letters, digits and inner hyphens, in parts of at most 63",
            Self::Address(_) => "write 192.0.2.1, 192.0.2.1:7946, 2001:db8::1 or [2001:db8::1]:7946",
            Self::Port => "write a port from 1 to 65535, or leave it out for 7946",
            Self::NobodyTalks => "write nodes as `{name: lb1, address: 192.0.2.1}`, or leave `peering` out",
            Self::Hasty { .. } => "make `dead_after` at least three times `heartbeat`",
            Self::WithdrawnAlive { .. } => "make `withdraw_after` at least `dead_after`",
        };
        Some(fixed.to_owned())
    }
}
