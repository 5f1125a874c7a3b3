//! What can go wrong with the netlink sockets.

use std::io;

/// A netlink socket failed. After any of them [`Resolver::reopen`](super::Resolver::reopen) starts afresh.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made, bound or read.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The task that drives the request socket has ended.
    #[error("the netlink socket is closed")]
    Closed,
    /// The kernel did not answer in time: its reply did not fit the socket's buffer.
    #[error("the kernel did not answer a request for {0} in time")]
    Silent(&'static str),
    /// The kernel refused a request.
    #[error("the kernel refused a request for {what}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's error number.
        why: io::Error,
    },
    /// The kernel answered with something else than what was asked for.
    #[error("the kernel answered a request for {0} with something else")]
    Unexpected(&'static str),
}

impl Error {
    /// `error` of rtnetlink, for a request for `what`.
    pub(super) fn of(what: &'static str, error: &rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused {
                what,
                why: io::Error::from_raw_os_error(errno(message)),
            },
            rtnetlink::Error::RequestFailed => Self::Closed,
            _ => Self::Unexpected(what),
        }
    }
}

/// The error number of a refusal, positive as in errno.h.
pub(super) fn errno(message: &rtnetlink::packet_core::ErrorMessage) -> i32 {
    message.code.map_or(0, |code| code.get().saturating_neg())
}
