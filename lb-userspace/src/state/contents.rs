//! What the maps hold: read back it is *Applied*, computed it is *Desired*.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::{backend, info, vip};

/// The backend index in each of a pool's 65,536 slots.
pub type Ring = Arc<Vec<u16>>;

/// The contents of all maps that the agent writes.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct Contents {
    /// VIPs and the marks of their addresses.
    pub vips: BTreeMap<vip::Key, vip::Value>,
    /// Pools by index.
    pub pools: BTreeMap<u16, info::Pool>,
    /// Backends by index.
    pub backends: BTreeMap<u16, Backend>,
    /// Rings by pool index.
    pub rings: BTreeMap<u16, Ring>,
    /// Interfaces that packets can leave by.
    pub devices: BTreeSet<u32>,
    /// Free backend indexes that were in use once, with the counter of their freeing.
    pub freed: BTreeMap<u16, u64>,
}

/// One backend in both of its maps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backend {
    /// What the program reads.
    pub entry: backend::Entry,
    /// What `lbctl` shows.
    pub info: info::Backend,
}
