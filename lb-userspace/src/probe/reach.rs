//! Whether anything at all answers at an address, whatever it says.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Outcome, Way, failed, icmp};

/// Bytes of an ICMP header.
const ICMP: usize = 8;

/// An echo request in an IP packet of so many bytes, or the smallest that there is.
pub async fn echo(way: &Way, to: IpAddr, bytes: usize, within: Duration) -> Outcome {
    let headers = if to.is_ipv4() { 20 } else { 40 } + ICMP;
    let asked = icmp::ask_with(way, to, bytes.saturating_sub(headers));
    match tokio::time::timeout(within, asked).await {
        Ok(Ok(())) => Outcome::Good,
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::Silent("no reply".to_owned()),
    }
}

/// A connection, which is closed at once. A refused one is an answer, too.
pub async fn touch(way: &Way, to: SocketAddr, within: Duration) -> Outcome {
    match tokio::time::timeout(within, way.connect(to)).await {
        Ok(Ok(stream)) => {
            // With a reset, as in checks.
            let _ = stream.set_zero_linger();
            Outcome::Good
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Outcome::Refuses("connection refused".to_owned())
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => Outcome::Silent("no answer".to_owned()),
    }
}
