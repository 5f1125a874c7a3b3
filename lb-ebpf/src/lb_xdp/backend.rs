//! Fifth stage: the entry of the picked backend.

use lb_common::backend::{DEAD, Entry, READY};
use lb_common::slot::NO_BACKEND;
use lb_common::stop::Stop;

use crate::maps;

/// The entry of the backend that was picked.
#[inline(always)]
pub fn find(backend: u16) -> Result<&'static Entry, Stop> {
    if backend == NO_BACKEND {
        return Err(Stop::NoBackend);
    }
    let entry = maps::backend(backend).ok_or(Stop::NotReady)?;
    match entry.flags & (READY | DEAD) {
        READY => Ok(entry),
        flags if flags & DEAD != 0 => Err(Stop::Dead),
        _ => Err(Stop::NotReady),
    }
}
