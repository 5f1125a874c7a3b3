//! The request socket: dumps, route lookups, and asking for neighbours.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use tokio::task::JoinHandle;

use super::error::{Error, errno};
use super::link::{Address, Link, Traffic};
use super::neigh::{self, Entry, Key};
use super::route::{self, Path};
use super::why::Why;

/// How long the kernel may take for one request; it takes microseconds, unless its reply was lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests under way at a time: each reply to a route lookup takes about 5 kB of the socket's 208 kB buffer, and a
/// reply that doesn't fit is lost.
const AT_ONCE: usize = 32;

/// What became of asking for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The kernel is at it.
    Yes,
    /// Its neighbour table is full.
    Full,
    /// It won't (the link has just gone, say); the next event tells more.
    No,
}

/// A netlink socket for requests. The task that drives it ends with it.
#[derive(Debug)]
pub(super) struct Socket {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// All links, by index.
    pub(super) async fn links(&self) -> Result<HashMap<u32, Link>, Error> {
        let replies = self.handle.link().get().execute();
        let messages = patiently("links", replies.try_collect::<Vec<_>>()).await?;
        Ok(messages
            .iter()
            .filter_map(Link::read)
            .map(|link| (link.ifindex, link))
            .collect())
    }

    /// What the kernel has counted, by index of the link.
    pub(super) async fn traffic(&self) -> Result<HashMap<u32, Traffic>, Error> {
        let replies = self.handle.link().get().execute();
        let messages = patiently("counts of links", replies.try_collect::<Vec<_>>()).await?;
        Ok(messages.iter().filter_map(Traffic::read).collect())
    }

    /// All addresses of this host, in the kernel's order.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let replies = self.handle.address().get().execute();
        let messages = patiently("addresses", replies.try_collect::<Vec<_>>()).await?;
        Ok(messages.iter().filter_map(Address::read).collect())
    }

    /// The kernel's IPv4 and IPv6 neighbours.
    pub(super) async fn neighbours(&self) -> Result<HashMap<Key, Entry>, Error> {
        let replies = self.handle.neighbours().get().execute();
        let messages = patiently("neighbours", replies.try_collect::<Vec<_>>()).await?;
        Ok(messages.iter().filter_map(neigh::read).collect())
    }

    /// Where the kernel would send packets to each of `addresses`, in the same order: policy rules and multipath
    /// hashing apply.
    pub(super) async fn routes(&self, addresses: &[IpAddr]) -> Result<Vec<Result<Path, Why>>, Error> {
        self.lookups(addresses, RouteFlags::empty(), route::read).await
    }

    /// All ways of the route to each of `addresses`; `Err` where there is none.
    pub(super) async fn ways(&self, addresses: &[IpAddr]) -> Result<Vec<Result<Vec<Path>, Why>>, Error> {
        self.lookups(addresses, RouteFlags::FibMatch, |reply| Ok(route::ways(reply)))
            .await
    }

    async fn lookups<T>(
        &self,
        addresses: &[IpAddr],
        flags: RouteFlags,
        read: fn(&RouteMessage) -> Result<T, Why>,
    ) -> Result<Vec<Result<T, Why>>, Error> {
        let lookups = addresses.iter().map(|address| self.lookup(*address, flags, read));
        stream::iter(lookups).buffered(AT_ONCE).try_collect().await
    }

    async fn lookup<T>(
        &self,
        address: IpAddr,
        flags: RouteFlags,
        read: fn(&RouteMessage) -> Result<T, Why>,
    ) -> Result<Result<T, Why>, Error> {
        const WHAT: &str = "a route";
        let mut replies = Box::pin(self.handle.route().get(query(address, flags)).execute());
        match tokio::time::timeout(PATIENCE, replies.next()).await {
            Err(_) => Err(Error::Silent(WHAT)),
            Ok(None) => Err(Error::Closed),
            Ok(Some(Ok(reply))) => Ok(read(&reply)),
            Ok(Some(Err(rtnetlink::Error::NetlinkError(error)))) => Ok(Err(route::refusal(errno(&error)))),
            Ok(Some(Err(error))) => Err(Error::of(WHAT, &error)),
        }
    }

    /// Has the kernel find the neighbours, or keep them (`NTF_USE`: as if a packet had just been sent to them).
    pub(super) async fn ask(&self, keys: &[Key]) -> Result<Vec<Asked>, Error> {
        let requests = keys.iter().map(|key| self.ask_one(*key));
        stream::iter(requests).buffered(AT_ONCE).try_collect().await
    }

    async fn ask_one(&self, key: Key) -> Result<Asked, Error> {
        const WHAT: &str = "a neighbour";
        let request = self.handle.neighbours().add(key.ifindex, key.address).replace();
        let request = request.state(NeighbourState::None).flags(NeighbourFlags::Use);
        match tokio::time::timeout(PATIENCE, request.execute()).await {
            Err(_) => Err(Error::Silent(WHAT)),
            Ok(Ok(())) => Ok(Asked::Yes),
            Ok(Err(rtnetlink::Error::NetlinkError(error))) => match errno(&error) {
                libc::ENOBUFS => Ok(Asked::Full),
                code @ libc::EPERM => Err(Error::Refused {
                    what: WHAT,
                    why: io::Error::from_raw_os_error(code),
                }),
                _ => Ok(Asked::No),
            },
            Ok(Err(error)) => Err(Error::of(WHAT, &error)),
        }
    }
}

async fn patiently<T>(
    what: &'static str,
    reply: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, reply).await {
        Err(_) => Err(Error::Silent(what)),
        Ok(reply) => reply.map_err(|error| Error::of(what, &error)),
    }
}

fn query(address: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.header.flags = flags;
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    message
}
