//! The sockets that questions are asked through.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::model::health::From as FromModel;

/// Hops that a question through the tunnel may take once it is unwrapped: to the service's own namespace, and no
/// further. A backend without the VIP that forwards would else send it back to a balancer, and another backend would answer.
const HOPS: u32 = 2;

/// The longest segment of a connection through the tunnel, in bytes: wrapped it fits the smallest IPv6 link.
const SEGMENT: u32 = 1180;

/// How packets of a question leave this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The source address; absent: the one that the route prefers.
    pub source: Option<IpAddr>,
    /// The interface; absent: the route's.
    pub interface: Option<String>,
    /// The mark (`SO_MARK`), which needs CAP_NET_ADMIN: packets go through the tunnel.
    pub mark: Option<u32>,
}

impl From<&FromModel> for Way {
    fn from(from: &FromModel) -> Self {
        Self {
            source: from.source,
            interface: from.interface.clone(),
            mark: None,
        }
    }
}

impl Way {
    /// A connection.
    pub(super) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.socket(to.ip(), Type::STREAM, Protocol::TCP)?;
        socket.set_tcp_nodelay(true)?;
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// A socket for datagrams, which takes only those from there.
    pub(super) async fn datagrams(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.socket(to.ip(), Type::DGRAM, Protocol::UDP)?;
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(to).await?;
        Ok(socket)
    }

    /// A socket for ICMP messages, which takes only those from there; and whether they come with their IPv4 header.
    /// The kernel's ping sockets need no capability, but the group of the process must be in
    /// `net.ipv4.ping_group_range`; a raw socket needs CAP_NET_RAW.
    pub(super) async fn icmp(&self, to: IpAddr) -> io::Result<(UdpSocket, bool)> {
        let protocol = match to {
            IpAddr::V4(_) => Protocol::ICMPV4,
            IpAddr::V6(_) => Protocol::ICMPV6,
        };
        let (socket, is_raw) = match self.socket(to, Type::DGRAM, protocol) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (self.socket(to, Type::RAW, protocol)?, true)
            }
            other => (other?, false),
        };
        // To tokio both are sockets that datagrams go through.
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(SocketAddr::new(to, 0)).await?;
        Ok((socket, is_raw && to.is_ipv4()))
    }

    fn socket(&self, to: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let domain = Domain::for_address(SocketAddr::new(to, 0));
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
            match to {
                IpAddr::V4(_) => socket.set_ttl_v4(HOPS)?,
                IpAddr::V6(_) => socket.set_unicast_hops_v6(HOPS)?,
            }
            if protocol == Protocol::TCP {
                socket.set_tcp_mss(SEGMENT)?;
            }
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }
}
