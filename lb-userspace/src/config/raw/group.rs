//! The nodes of a `group:`, and how they talk to each other.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Field, NAME};
use crate::config::duration::DURATION;
use crate::model::{NAME_MAX, Peering as Model};

/// One of `nodes:`, a name alone or a mapping.
#[derive(Debug)]
pub(in crate::config) enum Member {
    /// Text.
    Name(String),
    /// A name that YAML takes for a number or a truth value; its text stands in the file.
    Plain,
    /// A mapping.
    Peer(Peer),
    /// What stands there is no member at all.
    List,
}

/// One of `nodes:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("type" = ["string", "object"], "pattern" = NAME, "minLength" = 1, "maxLength" = NAME_MAX))]
pub(in crate::config) struct Peer {
    /// The node's name, as its own `node.name` says it.
    #[schemars(with = "String", regex(pattern = NAME), length(max = NAME_MAX))]
    pub(in crate::config) name: Field<String>,
    /// Where the node can be reached by the others, over UDP. A port stands behind a colon, and an IPv6 address with a port in
    /// brackets; without one it is 7946.
    #[schemars(with = "Option<String>", extend("x-range" = "IP address, or IP address and port"))]
    #[schemars(extend("x-default" = "none: the nodes don't talk"))]
    pub(in crate::config) address: Field<String>,
}

/// `peering:`
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Peering {
    /// A folder with `ca.pem`, `node.pem` and `node.key`, as `lbctl pki issue` makes them. A relative path starts at the
    /// configuration's folder.
    #[schemars(with = "Option<String>", extend("default" = Model::DEFAULT_PKI))]
    pub(in crate::config) pki: Field<String>,
    /// From one heartbeat to the next.
    #[schemars(with = "Option<String>", regex(pattern = DURATION), extend("default" = "10ms"))]
    #[schemars(extend("x-range" = "1ms to 1s"))]
    pub(in crate::config) heartbeat: Field<String>,
    /// A peer that is silent for so long is dead; half of it makes it suspect. At least three heartbeats.
    #[schemars(with = "Option<String>", regex(pattern = DURATION), extend("default" = "50ms"))]
    #[schemars(extend("x-range" = "10ms to 10s"))]
    pub(in crate::config) dead_after: Field<String>,
    /// A node that is silent for so long is no member of the group: the routers send it nothing any more. It has to be
    /// longer than they need to notice that a node is gone, and at least `dead_after`.
    #[schemars(with = "Option<String>", regex(pattern = DURATION), extend("default" = "1m"))]
    #[schemars(extend("x-range" = "1s to 1h"))]
    pub(in crate::config) withdraw_after: Field<String>,
    /// For how long a starting node tries to be admitted before it says that it can't.
    #[schemars(with = "Option<String>", regex(pattern = DURATION), extend("default" = "1m"))]
    #[schemars(extend("x-range" = "1s to 1h"))]
    pub(in crate::config) join_within: Field<String>,
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// Takes text or a mapping.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Member;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or a mapping of name and address")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Member, E> {
        Ok(Member::Name(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Member, E> {
        Ok(Member::Plain)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Member, E> {
        Ok(Member::Plain)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Member, E> {
        Ok(Member::Plain)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Member, E> {
        Ok(Member::Plain)
    }

    fn visit_unit<E: Error>(self) -> Result<Member, E> {
        Ok(Member::Plain)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Member, A::Error> {
        Peer::deserialize(MapAccessDeserializer::new(map)).map(Member::Peer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Member, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Member::List)
    }
}
