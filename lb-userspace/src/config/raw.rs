//! The file as written: one type per mapping of the YAML, nothing checked beyond structure and field names.
//!
//! Every single value is text here, and what must be there is optional too: so the validation reports all wrong
//! and missing values at once, where serde stops at the first.

use std::fmt;

use serde::Deserialize;
use serde_yaml::Spanned;

/// A value with its place, or nothing: the field is absent or null.
pub(super) type Field<T> = Option<Spanned<T>>;

/// A list whose items have places.
pub(super) type List<T> = Vec<Spanned<T>>;

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Field<Node>,
    pub(super) group: Field<Group>,
    pub(super) capacity: Field<Capacity>,
    pub(super) encap: Field<Encap>,
    pub(super) pools: Option<List<Pool>>,
    pub(super) vips: Option<List<Vip>>,
}

/// The sections of a file.
pub(super) const SECTIONS: [&str; 6] = ["node", "group", "capacity", "encap", "pools", "vips"];

/// `node:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Field<String>,
    pub(super) interfaces: Field<List<String>>,
    pub(super) attach: Field<String>,
}

/// `group:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) nodes: Field<List<String>>,
    pub(super) key: Field<Secret>,
    pub(super) key_file: Field<String>,
}

/// `capacity:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capacity {
    pub(super) pools: Field<String>,
    pub(super) vips: Field<String>,
    pub(super) backends: Field<String>,
}

/// `encap:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encap {
    pub(super) source_ipv4: Field<String>,
    pub(super) source_ipv6: Field<String>,
}

/// One of `pools:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) name: Field<String>,
    pub(super) backends: Field<List<Backend>>,
}

/// One of a pool's `backends:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backend {
    pub(super) name: Field<String>,
    pub(super) address: Field<String>,
    pub(super) weight: Field<String>,
    pub(super) via: Field<Via>,
}

/// A backend's `via:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Via {
    pub(super) interface: Field<String>,
    pub(super) mac: Field<String>,
}

/// One of `vips:`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vip {
    pub(super) address: Field<String>,
    pub(super) port: Field<String>,
    pub(super) protocol: Field<String>,
    pub(super) pool: Field<String>,
}

/// Text that no message may show.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}
