//! Whether a connection comes about.

use std::net::SocketAddr;

use super::{Outcome, Way, failed};

pub(super) async fn ask(way: &Way, to: SocketAddr) -> Result<(), Outcome> {
    let stream = way.connect(to).await.map_err(|error| failed(&error))?;
    // Closed with a reset: nothing was said that could get lost, and thousands of checks would leave hundreds of
    // thousands of sockets in TIME_WAIT.
    stream.set_zero_linger().map_err(|error| failed(&error))
}
