//! Fourth stage: the entry of the picked backend.

use lb_common::backend::{Entry, READY};
use lb_common::pick::Pick;
use lb_common::slot::NO_BACKEND;
use lb_common::stop::Stop;

use crate::maps;

/// The entry of the backend that was picked.
#[inline(always)]
pub fn find(pick: Pick) -> Result<&'static Entry, Stop> {
    if pick.backend == NO_BACKEND {
        return Err(Stop::NoBackend);
    }
    let entry = maps::backend(pick.backend).ok_or(Stop::NotReady)?;
    if entry.flags & READY == 0 {
        Err(Stop::NotReady)
    } else {
        Ok(entry)
    }
}
