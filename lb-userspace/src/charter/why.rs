//! Why a charter came to nothing, with nodes by name.

use std::fmt;

use super::fsm::{Silence, Why};
use super::message::{Kind, MESSAGE_MAX, Origin, Rival};
use crate::group::Generation;
use crate::model::Name;

/// A [`Why`] for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct NotAgreed {
    /// What happened.
    pub why: Why,
    /// The group's nodes, in their places.
    pub nodes: Vec<Name>,
}

/// A generation as people write it: `12/lb2`.
pub fn written(generation: Generation, nodes: &[Name]) -> String {
    format!("{}/{}", generation.number, name(generation.node, nodes))
}

fn name(place: u8, nodes: &[Name]) -> String {
    let name = nodes.get(usize::from(place));
    name.map_or_else(|| format!("(node {place})"), Name::to_string)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Config => "config apply of",
            Kind::Order => "order:",
            Kind::Rollback => "rollback to",
            Kind::File => return write!(f, "{} as it was on {} before", self.what, self.node),
        };
        write!(f, "{what} {}, by uid {} on {}", self.what, self.uid, self.node)
    }
}

impl NotAgreed {
    fn rival(&self, rival: &Rival) -> String {
        format!("{} ({})", written(rival.generation, &self.nodes), rival.origin)
    }

    fn silence(&self, place: u8, silence: &Silence) -> String {
        let name = name(place, &self.nodes);
        match silence {
            Silence::Away => format!("{name} can't be reached"),
            Silence::Slow => format!("{name} has not answered"),
            Silence::Waits(rival) => {
                format!("{name} waits for what becomes of {}", self.rival(rival))
            }
        }
    }
}

impl fmt::Display for NotAgreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Busy(rival) => write!(f, "generation {} is not decided yet", self.rival(rival)),
            Why::Lost(rival) => write!(
                f,
                "generation {} was asked for at the same time and goes first",
                self.rival(rival)
            ),
            Why::Behind(rival) => {
                write!(f, "generation {} has come into force before", self.rival(rival))
            }
            Why::Refused { node, why } => write!(f, "{} refuses it: {why}", name(*node, &self.nodes)),
            Why::Silent(nodes) => {
                let nodes: Vec<String> = nodes
                    .iter()
                    .map(|(place, why)| self.silence(*place, why))
                    .collect();
                write!(
                    f,
                    "not all members of the group have answered: {}",
                    nodes.join("; ")
                )
            }
            Why::Disk(why) => write!(f, "it can't be written to this node's disk: {why}"),
            Why::Long(bytes) => write!(
                f,
                "it has {bytes} bytes with its orders, and nodes can send each other {MESSAGE_MAX}"
            ),
            Why::Exhausted => f.write_str("there are no more numbers for generations"),
        }
    }
}
