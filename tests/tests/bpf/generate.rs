//! Random frames: whole packets of all kinds, to VIPs and to others; what is broken is made in `mutate`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::frame::{IPV4, IPV6, Ip, SERVICE_VLAN, TCP, UDP, VLAN, tagged, tcp, udp};
use crate::kernel::HEADROOM;
use crate::mutate::mutate;

/// One service: address, port (0 = every port), protocol.
pub(crate) type Target = (IpAddr, u16, u8);

/// A source of frames.
pub(crate) struct Generator {
    pub(crate) rng: Xoshiro256PlusPlus,
    targets: Vec<Target>,
}

impl Generator {
    pub(crate) fn new(seed: u64, targets: Vec<Target>) -> Self {
        Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            targets,
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())]
    }

    pub(crate) fn mac(&mut self) -> [u8; 6] {
        self.rng.random()
    }

    /// An address of a family, anywhere; now and then a v4-mapped one.
    pub(crate) fn address(&mut self, v6: bool) -> IpAddr {
        match (v6, self.one_in(50)) {
            (false, _) => Ipv4Addr::from(self.rng.random::<u32>()).into(),
            (true, false) => Ipv6Addr::from(self.rng.random::<u128>()).into(),
            (true, true) => Ipv4Addr::from(self.rng.random::<u32>()).to_ipv6_mapped().into(),
        }
    }

    /// Where a packet goes: mostly a service, sometimes its address with another port or protocol, sometimes elsewhere.
    fn target(&mut self) -> Target {
        let targets = self.targets.clone();
        let (mut address, mut port, mut proto) = self.pick(&targets);
        if port == 0 || self.one_in(8) {
            port = self.rng.random();
        }
        if self.one_in(10) {
            proto = self.pick(&[TCP, UDP]);
        }
        if self.one_in(8) {
            let any = self.rng.random();
            proto = self.pick(&[1, 2, 4, 41, 47, 50, 58, 132, any]);
        }
        if self.one_in(60) {
            port = 0;
        }
        if self.one_in(7) {
            address = self.address(address.is_ipv6());
        } else if let (IpAddr::V4(v4), true) = (address, self.one_in(40)) {
            address = v4.to_ipv6_mapped().into();
        }
        (address, port, proto)
    }

    fn data(&mut self) -> Vec<u8> {
        let len = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(0..1600),
            1 => self.rng.random_range(1380..1470),
            2 => self.rng.random_range(480..560),
            _ => self.rng.random_range(0..90),
        };
        (0..len).map(|_| self.rng.random()).collect()
    }

    fn transport(&mut self, proto: u8, dport: u16) -> Vec<u8> {
        let (sport, data) = (if self.one_in(50) { 0 } else { self.rng.random() }, self.data());
        match proto {
            TCP => {
                let mut segment = tcp(sport, dport, &data);
                // Sequence numbers, offset, flags: nothing that a router may look at.
                self.rng.fill(&mut segment[4..16]);
                segment
            }
            UDP => udp(sport, dport, &data),
            _ => data,
        }
    }

    /// A whole IP packet, with everything that RFC 791 and RFC 8200 let a sender choose.
    pub(crate) fn packet(&mut self) -> Ip {
        let (dst, port, proto) = self.target();
        let v6 = dst.is_ipv6();
        let payload = self.transport(proto, port);
        let mut packet = Ip::new(self.address(v6), dst, proto, payload);
        packet.class = self.rng.random();
        packet.ttl = self.rng.random();
        packet.id = self.rng.random();
        packet.label = self.rng.random::<u32>() >> 12;
        packet.frag = self.pick(&[0, 0x4000, 0x4000, 0x8000]);
        if self.one_in(10) {
            packet.frag = self.rng.random();
        }
        if self.one_in(6) {
            let words: usize = self.rng.random_range(1..=10);
            packet.options = (0..4 * words).map(|_| self.rng.random()).collect();
        }
        if v6 && self.one_in(8) {
            let (next, id) = (packet.proto, self.rng.random());
            packet.proto = self.pick(&[0, 43, 44, 51, 60]);
            packet.payload = [&[next, 0, 0, 1, 0, 0, 0, id], packet.payload.as_slice()].concat();
        }
        packet
    }

    /// A frame around IP bytes: tags, padding.
    pub(crate) fn framed(&mut self, kind: u16, bytes: &[u8]) -> Vec<u8> {
        let mut tags = Vec::new();
        if self.one_in(4) {
            tags.push((VLAN, self.rng.random()));
        }
        if self.one_in(25) {
            tags.push((self.pick(&[VLAN, SERVICE_VLAN]), self.rng.random()));
        }
        let kind = if self.one_in(40) {
            self.pick(&[0x0806, 0x88cc, 0x8864, 0x0030, IPV4, IPV6])
        } else {
            kind
        };
        let mut frame = tagged(&tags, kind, bytes);
        self.rng.fill(&mut frame[..12]);
        if self.one_in(4) {
            let padding = self.rng.random_range(1..40);
            frame.extend((0..padding).map(|_| self.rng.random::<u8>()));
        }
        frame
    }

    /// A frame for the balancer: whole two times out of three.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let packet = self.packet();
        let mut frame = self.framed(packet.kind(), &packet.bytes());
        if self.one_in(3) {
            mutate(&mut self.rng, &mut frame);
        }
        frame
    }

    /// A frame for the decapsulator; `sources` are addresses that nodes of the group have.
    pub(crate) fn tunnel(&mut self, sources: &[IpAddr]) -> Vec<u8> {
        let mut inner = self.packet();
        if self.one_in(2) {
            inner.frag = 0x4000;
        }
        let src = self.pick(sources);
        let src = if self.one_in(8) {
            self.address(src.is_ipv6())
        } else {
            src
        };
        let mut bytes = inner.bytes();
        if self.one_in(5) {
            // Inner padding, or an inner packet that is cut off.
            let len = self.rng.random_range(0..bytes.len() + 8);
            bytes.resize(len, 0x11);
        }
        let mut proto = if inner.kind() == IPV4 { 4 } else { 41 };
        if self.one_in(12) {
            proto = self.pick(&[4, 41, TCP, UDP, 47, 44]);
        }
        let dst = self.address(src.is_ipv6());
        if self.one_in(2) {
            bytes = self.gue(proto, &bytes, src, sources);
            proto = UDP;
        }
        let mut outer = Ip::new(src, dst, proto, bytes);
        if self.one_in(10) {
            outer.ttl = self.pick(&[0, 1, 2]);
        }
        outer.class = self.rng.random();
        if self.one_in(12) {
            outer.frag = self.rng.random();
        }
        if self.one_in(8) {
            outer.options = vec![1; 4 * self.rng.random_range(1..=10)];
        }
        let mut frame = self.framed(outer.kind(), &outer.bytes());
        if self.one_in(3) {
            mutate(&mut self.rng, &mut frame);
        }
        frame
    }

    /// UDP and GUE around a packet, with private data of all kinds.
    fn gue(&mut self, proto: u8, inner: &[u8], src: IpAddr, sources: &[IpAddr]) -> Vec<u8> {
        let mut alike: Vec<IpAddr> = sources.to_vec();
        alike.retain(|other| other.is_ipv4() == src.is_ipv4());
        let other = if self.one_in(6) {
            self.address(src.is_ipv6())
        } else {
            self.pick(&alike)
        };
        let mut private = match other {
            IpAddr::V4(other) => [&[0x7a, 0x1d, 1, 0], &other.octets()[..]].concat(),
            IpAddr::V6(other) => [&[0x7a, 0x1d, 1, 0], &other.octets()[..]].concat(),
        };
        match self.rng.random_range(0..12) {
            0..3 => private.clear(),
            3 => private[2] = 2,
            4 => private[self.rng.random_range(0..4)] ^= 1,
            5 => private.extend([0; 4]),
            _ => {}
        }
        let mut header = vec![(private.len() / 4) as u8, proto, 0, 0];
        if self.one_in(10) {
            header[self.rng.random_range(0..4)] = self.rng.random();
        }
        let port = if self.one_in(15) { 6081 } else { 6080 };
        let mut len = 8 + header.len() + private.len() + inner.len();
        if self.one_in(10) {
            len = self.rng.random_range(0..len + 4);
        }
        let (source, len) = (self.rng.random::<u16>(), len as u16);
        let csum: u16 = self.pick(&[0, 0, 0x1234]);
        let udp = [source, port, len, csum].map(u16::to_be_bytes).concat();
        [&udp, &header, &private, inner].concat()
    }

    /// Room in front of a frame: nearly always all of it.
    pub(crate) fn headroom(&mut self) -> usize {
        if self.one_in(60) {
            4 * self.rng.random_range(0..=12)
        } else {
            HEADROOM
        }
    }
}
