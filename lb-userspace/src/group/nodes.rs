//! Sets of nodes, by their places in `group.nodes`.

use serde::{Deserialize, Serialize};

use crate::model::Group;

/// The most nodes of a group: as many as a set has bits. A configuration with more is refused.
pub const NODES_MAX: u8 = 64;
const _: () = assert!(NODES_MAX as u32 == Group::NODES_MAX && NODES_MAX as u32 == u64::BITS);

/// A set of nodes; bit n is the node at place n.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Nodes(pub u64);

impl Nodes {
    /// The first `count` nodes; all 64 if it is more.
    pub const fn first(count: u8) -> Self {
        if count >= NODES_MAX {
            Self(u64::MAX)
        } else {
            Self((1 << count) - 1)
        }
    }

    /// One node; none if the place is too high.
    pub const fn one(place: u8) -> Self {
        if place < NODES_MAX {
            Self(1 << place)
        } else {
            Self(0)
        }
    }

    /// Whether the node is among them.
    pub const fn has(self, place: u8) -> bool {
        self.0 & Self::one(place).0 != 0
    }

    /// With one more.
    pub const fn with(self, place: u8) -> Self {
        Self(self.0 | Self::one(place).0)
    }

    /// Without one.
    pub const fn without(self, place: u8) -> Self {
        Self(self.0 & !Self::one(place).0)
    }

    /// Those in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those in either.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not in `other`.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// All of them, by place.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..NODES_MAX).filter(move |&place| self.has(place))
    }

    /// The first by place.
    pub fn lowest(self) -> Option<u8> {
        self.iter().next()
    }
}

impl FromIterator<u8> for Nodes {
    fn from_iter<T: IntoIterator<Item = u8>>(places: T) -> Self {
        places.into_iter().fold(Self::default(), Self::with)
    }
}
