//! The cases: frames and flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::bench::Flows;
use lb_common::header::proto;

/// The VIPs of every case; port 80, TCP and UDP.
pub const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
/// See [`VIP_V4`].
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10));
/// The port that is served.
pub const PORT: u16 = 80;
/// An address that is no VIP.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));
/// Last word of the first client's address.
const CLIENT: u32 = 0xc633_6400;

/// What is sent to the program, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Name on the command line and in the report.
    pub name: &'static str,
    /// IPv6.
    pub v6: bool,
    /// IP protocol number.
    pub proto: u8,
    /// Flows, a power of two; the next packet's is drawn at random.
    pub flows: u32,
    /// Whether the packet is for a VIP.
    pub vip: bool,
}

const fn case(name: &'static str, v6: bool, proto: u8, flows: u32, vip: bool) -> Case {
    Case {
        name,
        v6,
        proto,
        flows,
        vip,
    }
}

/// All cases. The first one is what the others are compared with.
pub const ALL: [Case; 7] = [
    case("tcp4-hot", false, proto::TCP, 1, true),
    case("tcp4-64k", false, proto::TCP, 1 << 16, true),
    case("tcp4-1m", false, proto::TCP, 1 << 20, true),
    case("udp4-hot", false, proto::UDP, 1, true),
    case("tcp6-hot", true, proto::TCP, 1, true),
    case("tcp6-1m", true, proto::TCP, 1 << 20, true),
    case("not-a-vip", false, proto::TCP, 1, false),
];

impl Case {
    /// The case that the reference, which knows IPv4 alone, is measured with.
    pub const fn for_reference(self) -> Self {
        if self.v6 { ALL[0] } else { self }
    }

    /// Its flows, drawn from this seed on.
    pub const fn drawn(&self, seed: u64) -> Flows {
        Flows {
            random: seed,
            mask: self.flows - 1,
            client: CLIENT,
        }
    }

    /// The frame, in its shortest form. The wrapper varies source address and port, so checksums are left out:
    /// a balancer doesn't look at them.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let transport = self.transport();
        if self.v6 {
            frame.extend(0x86ddu16.to_be_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([self.proto, 61]);
            let mut client = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            client[12..].copy_from_slice(&CLIENT.to_be_bytes());
            frame.extend(client);
        } else {
            frame.extend(0x0800u16.to_be_bytes());
            frame.extend([0x45, 0]);
            frame.extend((20 + transport.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 61, self.proto, 0, 0]);
            frame.extend(CLIENT.to_be_bytes());
        }
        match self.destination() {
            IpAddr::V4(v4) => frame.extend(v4.octets()),
            IpAddr::V6(v6) => frame.extend(v6.octets()),
        }
        frame.extend(transport);
        // Ethernet's shortest frame, without its check sequence.
        frame.resize(frame.len().max(60), 0);
        frame
    }

    const fn destination(&self) -> IpAddr {
        match (self.vip, self.v6) {
            (false, _) => OTHER,
            (true, false) => VIP_V4,
            (true, true) => VIP_V6,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [40_001u16, PORT].map(u16::to_be_bytes).concat();
        if self.proto == proto::UDP {
            bytes.extend([0, 26, 0, 0]);
            bytes.resize(26, 0);
        } else {
            // Sequence numbers, then an ACK without options.
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
        }
        bytes
    }
}
