//! What nodes say to each other about charters. Decoding is total: any bytes are a message or an error.

use serde::{Deserialize, Serialize};

use crate::group::Generation;
use crate::state::operator::Operator;
use crate::state::wall::Wall;
use lb_common::hash::siphash13;

/// The longest encoded message, in bytes: what the nodes' sessions take as one. 32,768 backends and as many VIPs need
/// two thirds of it.
pub const MESSAGE_MAX: usize = 8 << 20;

/// The greatest number of a generation; a million years of one per millisecond fit.
pub const NUMBER_MAX: u64 = 1 << 53;

/// The longest text for people, in bytes; longer ones are cut before they are sent.
pub const WHY_MAX: usize = 16 << 10;

/// What the group shares: the configuration's text without what is a node's own, and the operators' orders.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Charter {
    /// [`super::text::Parts::shared`].
    pub text: String,
    /// What operators ordered for backends.
    #[serde(with = "orders")]
    pub orders: Operator,
    /// Who proposed it, when and why.
    pub origin: Origin,
}

/// Where a charter comes from, for people.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The node's name.
    pub node: String,
    /// The operator's user there.
    pub uid: u32,
    /// By that node's clock.
    pub at: Wall,
    /// What was asked for.
    pub kind: Kind,
    /// The same in words: `lb.yaml`, `web/be1 drained`, `1/lb2`.
    pub what: String,
}

/// What an operator asked for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Another text.
    #[default]
    Config,
    /// An order about a backend; the text is as before.
    Order,
    /// A text of the history.
    Rollback,
    /// Nothing: it is what a node ran before anything was agreed on. In its own history alone.
    File,
}

/// A charter under its generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its generation.
    pub generation: Generation,
    /// The generation that it replaces.
    pub base: Generation,
    /// What it says.
    pub charter: Charter,
}

/// How far a node is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// What it has committed; the default where nothing was agreed on.
    pub committed: Generation,
    /// What it has accepted and not yet committed or dropped.
    pub pending: Option<Generation>,
    /// The highest number that it has seen.
    pub last: u64,
    /// [`super::text::digest`] of what is in force there; tells whether files are equal while nothing was agreed on.
    pub digest: u64,
}

/// One message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// From its proposer: write it down, if you can live with it.
    Propose(Held),
    /// It is on this node's disk.
    Accept {
        /// Whose.
        generation: Generation,
    },
    /// No.
    Refuse {
        /// What was proposed.
        generation: Generation,
        /// Why not.
        why: No,
    },
    /// Not before this node knows what became of another one.
    Later {
        /// What was proposed.
        generation: Generation,
        /// The one that it waits for.
        pending: Rival,
    },
    /// From its proposer: every member has it.
    Commit {
        /// Whose.
        generation: Generation,
        /// [`Held::sum`].
        sum: u64,
    },
    /// From its proposer: drop it.
    Abort {
        /// Whose.
        generation: Generation,
    },
    /// How far this node is.
    Tell(Status),
    /// Give me what you have committed.
    Ask,
    /// What this node has committed.
    Give(Held),
}

/// Why a node doesn't accept a charter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum No {
    /// It can't run it, or can't write it down.
    Invalid(String),
    /// Another one came first, and is on its way.
    Busy(Rival),
    /// Another one is in force already.
    Behind(Rival),
}

/// The other one.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rival {
    /// Its generation.
    pub generation: Generation,
    /// Where it comes from.
    pub origin: Origin,
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MESSAGE_MAX`].
    #[error("{0} bytes, more than a message may have")]
    Long(usize),
    /// Not the encoding of a message.
    #[error("no message: {0}")]
    Malformed(#[from] postcard::Error),
    /// More than a message.
    #[error("{0} bytes behind the message")]
    Behind(usize),
    /// A value that no node sends.
    #[error("a value out of its range")]
    Range,
}

impl Held {
    /// What tells two charters apart.
    pub fn sum(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("plain values can be encoded");
        siphash13(0, 0, &bytes)
    }

    /// Whether it surely was made without knowing this earlier one. Where it stands on another one of a higher number that can't be told.
    pub fn is_apart(&self, former: &Self) -> bool {
        self.base < former.generation
            || self.base.number == former.generation.number && self.base.node != former.generation.node
    }

    /// Its generation and where it comes from.
    pub fn rival(&self) -> Rival {
        Rival {
            generation: self.generation,
            origin: self.charter.origin.clone(),
        }
    }
}

impl Message {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain values can be encoded")
    }

    /// The message that the bytes are.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(DecodeError::Long(bytes.len()));
        }
        let (message, rest): (Self, &[u8]) = postcard::take_from_bytes(bytes)?;
        if !rest.is_empty() {
            return Err(DecodeError::Behind(rest.len()));
        }
        if message.is_in_range() {
            Ok(message)
        } else {
            Err(DecodeError::Range)
        }
    }

    fn is_in_range(&self) -> bool {
        let known = |generation: &Generation| generation.number <= NUMBER_MAX;
        let real = |generation: &Generation| known(generation) && generation.number > 0;
        let rival = |rival: &Rival| known(&rival.generation) && origin(&rival.origin);
        match self {
            Self::Propose(held) | Self::Give(held) => {
                real(&held.generation)
                    && known(&held.base)
                    && held.base < held.generation
                    && origin(&held.charter.origin)
            }
            Self::Accept { generation } | Self::Commit { generation, .. } | Self::Abort { generation } => {
                real(generation)
            }
            Self::Later { generation, pending } => real(generation) && rival(pending),
            Self::Refuse { generation, why } => {
                real(generation)
                    && match why {
                        No::Invalid(why) => why.len() <= WHY_MAX,
                        No::Busy(other) | No::Behind(other) => rival(other),
                    }
            }
            Self::Tell(status) => {
                known(&status.committed)
                    && status.last <= NUMBER_MAX
                    && status.pending.as_ref().is_none_or(real)
            }
            Self::Ask => true,
        }
    }
}

fn origin(origin: &Origin) -> bool {
    origin.node.len() <= crate::model::NAME_MAX && origin.what.len() <= WHY_MAX
}

/// Orders are made for JSON: as text within messages, and as they are within files.
mod orders {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::state::operator::Operator;

    pub(super) fn serialize<S: Serializer>(orders: &Operator, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return orders.serialize(serializer);
        }
        let text = serde_json::to_string(orders).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Operator, D::Error> {
        if deserializer.is_human_readable() {
            return Operator::deserialize(deserializer);
        }
        let text: &str = Deserialize::deserialize(deserializer)?;
        serde_json::from_str(text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
