//! The event socket: the kernel's multicast messages, and the end of a burst of them.
//!
//! Read directly from the socket, not through rtnetlink's driver: that one has an unbounded queue, so a full routing
//! table in turmoil would fill memory while the agent is busy. Here the kernel's buffer is the bound, and its overrun
//! just means 'look again'.

use std::io;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::Instant;

use super::error::Error;

/// A burst is over when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(20);
/// A burst is cut after so long.
const LONGEST: Duration = Duration::from_millis(200);

/// The kernel's buffer for events not yet read, in bytes; more than the system's limit takes CAP_NET_ADMIN.
const KERNEL_BUFFER: usize = 4 << 20;
/// The largest datagram that the kernel sends to a multicast group is far below this.
const DATAGRAM: usize = 64 << 10;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// One event.
#[derive(Debug)]
pub(super) enum Event {
    /// A message that could be read.
    Message(RouteNetlinkMessage),
    /// Something that this version can't read (nexthop objects, say), or events were lost: anything may have changed.
    Unknown,
}

/// A socket that has joined the groups of everything that can change a next hop.
pub(super) struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group as u32)?;
        }
        // Without the capability the default size stays: more overruns, same results.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.socket_ref(), KERNEL_BUFFER);
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// The events of the next datagram. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                // Port 0 is the kernel; other processes of this host can write to us too.
                Ok(sender) if sender.port_number() == 0 => return Ok(parse(&self.buffer)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(vec![Event::Unknown]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn parse(mut datagram: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !datagram.is_empty() {
        let length = NetlinkBuffer::new_checked(datagram).map_or(0, |buffer| buffer.length() as usize);
        if length == 0 {
            events.push(Event::Unknown);
            break;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(NetlinkMessage {
                payload: NetlinkPayload::InnerMessage(message),
                ..
            }) => {
                events.push(Event::Message(message));
            }
            Ok(_) => {}
            Err(_) => events.push(Event::Unknown),
        }
        // Messages are aligned to four bytes (NLMSG_ALIGN).
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

/// A run of events that shall be answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    /// `burst` and one event more at `now`.
    pub(super) fn with(burst: Option<Self>, now: Instant) -> Self {
        Self {
            first: burst.map_or(now, |burst| burst.first),
            last: now,
        }
    }

    /// When to answer, if nothing more comes.
    pub(super) fn due(self) -> Instant {
        (self.last + QUIET).min(self.first + LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn a_burst_ends_in_quiet_or_at_its_longest() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut burst = Burst::with(None, at(0));
        assert_eq!(burst.due(), at(20));
        burst = Burst::with(Some(burst), at(15));
        assert_eq!(burst.due(), at(35));
        for ms in (15..=190).step_by(5) {
            burst = Burst::with(Some(burst), at(ms));
        }
        assert_eq!(burst.due(), at(200));
    }

    fn message() -> Vec<u8> {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(LinkMessage::default()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_holds_any_number_of_messages() {
        assert!(parse(&[]).is_empty());
        let two = [message(), message()].concat();
        assert!(matches!(
            parse(&two)[..],
            [
                Event::Message(RouteNetlinkMessage::NewLink(_)),
                Event::Message(RouteNetlinkMessage::NewLink(_))
            ]
        ));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let mut nexthop = message();
        nexthop[4] = 104; // RTM_NEWNEXTHOP
        assert!(matches!(parse(&nexthop)[..], [Event::Unknown]));
        let whole = message();
        for length in 1..whole.len() {
            assert!(
                matches!(parse(&whole[..length])[..], [Event::Unknown]),
                "{length} bytes"
            );
        }
        let mut endless = message();
        endless[..4].fill(0);
        assert!(matches!(parse(&endless)[..], [Event::Unknown]));
    }
}
