//! What the program tells of entries: the reader of the ring buffer `lb_events`.
//!
//! There can be one reader at a time; what it takes is gone. Events are made only while `lb_limits` says so
//! ([`lb_common::admit::EVENTS`]), and those that find the buffer full are counted ([`super::maps::Maps::lost_events`]).

#![expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{MapData, RingBuf};
use lb_common::abi::map;
use lb_common::flow::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes;

use super::Error;
use super::maps::open;
use super::pin::Root;

/// The ring buffer.
pub struct Events(RingBuf<MapData>);

/// The ring buffer, on a runtime that wakes its reader.
pub struct Reader(AsyncFd<Events>);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Events {
    /// Opens the buffer that is pinned under `root`. What an earlier reader has left is there.
    ///
    /// # Errors
    /// As [`super::maps::Maps::open`].
    pub fn open(root: &Root) -> Result<Self, Error> {
        open(root, map::EVENTS).map(Self)
    }

    /// To be read on the tokio runtime that this is called on.
    ///
    /// # Errors
    /// Where the runtime can't wait for it.
    pub fn register(self) -> io::Result<Reader> {
        // SAFETY: the descriptor is the map's, which the buffer owns and neither replaces nor closes before it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        registered.map(Reader).map_err(io::Error::from)
    }
}

impl Reader {
    /// Waits until there are events. Safe to give up. There may be some already that it doesn't tell of:
    /// [`Reader::drain`] first.
    ///
    /// # Errors
    /// Those of the runtime.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Hands over what there is, `most` events at most. How many there were.
    pub fn drain(&mut self, most: usize, mut take: impl FnMut(&Event)) -> usize {
        let ring = &mut self.0.get_mut().0;
        for taken in 0..most {
            let Some(bytes) = ring.next() else {
                return taken;
            };
            // A record of another length is not ours; there are none.
            if let Ok(event) = Event::read_from_bytes(&bytes) {
                take(&event);
            }
        }
        most
    }
}
