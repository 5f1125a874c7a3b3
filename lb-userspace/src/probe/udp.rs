//! A datagram and its answer. A port that nobody listens on shows by an ICMP error.

use std::net::SocketAddr;

use super::{Outcome, Way, excerpt, failed};
use crate::model::health::Udp;

/// The longest datagram.
const LONGEST: usize = 65_535;

pub(super) async fn ask(way: &Way, to: SocketAddr, udp: &Udp) -> Result<(), Outcome> {
    let fault = |error| failed(&error);
    let socket = way.datagrams(to).await.map_err(fault)?;
    socket.send(&udp.request).await.map_err(fault)?;
    let mut answer = vec![0; LONGEST];
    let length = socket.recv(&mut answer).await.map_err(fault)?;
    let answer = &answer[..length];
    match &udp.response {
        Some(wanted) if !holds(answer, wanted) => Err(Outcome::Refuses(format!(
            "unexpected answer `{}`",
            excerpt(answer)
        ))),
        _ => Ok(()),
    }
}

/// Whether `wanted`, which is not empty, is somewhere in `bytes`.
pub(super) fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len().max(1)).any(|window| window == wanted)
}
