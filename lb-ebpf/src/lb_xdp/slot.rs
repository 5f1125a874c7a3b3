//! Third stage: the slot of a flow in its pool's ring.

use lb_common::slot::{Slot, index, of_hash};
use lb_common::stop::Stop;
use lb_common::vip::Value;

use crate::maps;

/// The slot of a flow, by its hash.
#[inline(always)]
pub fn find(vip: &Value, hash: u32) -> Result<Slot, Stop> {
    maps::slot(index(vip.pool, of_hash(hash))).ok_or(Stop::NoBackend)
}
