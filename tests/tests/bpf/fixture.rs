//! One balancer in the kernel and what a frame is expected to become there.

use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::backend::{Entry, GUE, OUTER_V6};
use lb_common::be::Be16;
use lb_common::hash;
use lb_common::stop::{Action, Stop};
use lb_common::tuple::Tuple;
use lb_tests::model::{Arrival, Verdict};
use lb_userspace::model::Capacity;

use crate::frame::{IPV4, IPV6, Ip, TCP, UDP, hex, ip, parse, transport};
use crate::kernel::{HEADROOM, Kernel};
use crate::net;
use crate::world::{GROUP_KEY, World, entry};

/// What a frame is expected to become.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    /// Stopped for this reason; untouched if it is passed.
    Stop(Stop),
    /// Forwarded to a backend and counted for a VIP, with these bytes.
    Forward {
        verdict: Verdict,
        vip: u16,
        backend: u16,
        frame: Vec<u8>,
    },
}

/// Pool 0 of [`Fixture::new`]: an IPv4 backend behind the interface that packets come in by.
pub(crate) const BACKEND_V4: u16 = 1;
/// Pool 1 of [`Fixture::new`]: an IPv6 backend there.
pub(crate) const BACKEND_V6: u16 = 2;

/// VIPs of [`Fixture::new`], with the indexes of their counters. Both serve port 80 TCP and UDP.
pub(crate) const VIP_V4: &str = "192.0.2.10";
pub(crate) const VIP_V6: &str = "2001:db8:1::10";
pub(crate) const CLIENT_V4: &str = "198.51.100.7";
pub(crate) const CLIENT_V6: &str = "2001:db8:9::7";

/// A loaded balancer.
pub(crate) struct Fixture {
    pub(crate) kernel: Kernel,
    pub(crate) world: World,
    pub(crate) ingress: u32,
}

/// The world of most fixtures: four VIPs over two pools of one backend each.
pub(crate) fn world(ingress: u32) -> World {
    let mut world = World::default();
    let (v4, v6) = (
        entry(parse("10.0.0.5/32"), ip("10.0.1.1"), ingress, 1500),
        entry(parse("fd00::5/128"), ip("fd00:1::1"), ingress, 1500),
    );
    world.backend(BACKEND_V4, v4);
    world.backend(BACKEND_V6, v6);
    world.pool(0, |_| BACKEND_V4);
    world.pool(1, |_| BACKEND_V6);
    world.vip(VIP_V4, 80, TCP, 0);
    world.vip(VIP_V4, 80, UDP, 0);
    world.vip(VIP_V6, 80, TCP, 1);
    world.vip(VIP_V6, 80, UDP, 1);
    world
}

impl Fixture {
    /// A balancer over [`world`], in a namespace of its own.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// The same, with changes: of the world, given the indexes of two interfaces, the first being the ingress.
    pub(crate) fn with(change: impl FnOnce(&mut World, [u32; 2])) -> Self {
        let links = net::enter();
        let mut world = world(links[0]);
        change(&mut world, links);
        let capacity = Capacity {
            pools: 4,
            vips: 16,
            backends: 64,
            flows: 1024,
        };
        Self {
            kernel: Kernel::load(&world, capacity),
            world,
            ingress: links[0],
        }
    }

    /// Runs the program over a frame and checks verdict, bytes and every counter.
    pub(crate) fn check(&self, what: &str, frame: &[u8], want: &Want) {
        self.check_with_headroom(what, frame, HEADROOM, want);
    }

    /// The same, for a frame that has only this much room in front of it.
    pub(crate) fn check_with_headroom(&self, what: &str, frame: &[u8], headroom: usize, want: &Want) {
        let mut expected = self.kernel.counters();
        let arrival = Arrival {
            frame,
            ingress: self.ingress,
            headroom,
        };
        let (verdict, left) = self.kernel.program.run(&arrival);
        let (want_verdict, bytes) = match want {
            Want::Stop(stop) => {
                expected.count(None, None, Some(*stop), frame.len());
                match stop.action() {
                    Action::Pass => (Verdict::Pass, Some(frame)),
                    Action::Drop => (Verdict::Drop, None),
                }
            }
            Want::Forward {
                verdict,
                vip,
                backend,
                frame: wanted,
            } => {
                expected.count(Some(*vip), Some(*backend), None, frame.len());
                (*verdict, Some(wanted.as_slice()))
            }
        };
        self.kernel.counters().assert_equals(&expected, what);
        assert_eq!(verdict, want_verdict, "{what}: verdict of\n{}", hex(frame));
        if let Some(bytes) = bytes {
            assert!(
                left == bytes,
                "{what}\narrived\n{}\nleft\n{}\nwanted\n{}",
                hex(frame),
                hex(&left),
                hex(bytes)
            );
        }
    }

    /// What is wanted of `packet`, in an untagged frame without padding, that backend `backend` gets for VIP `vip`.
    pub(crate) fn forward(&self, packet: &Ip, vip: u16, backend: u16) -> Want {
        self.forward_framed(packet, &[], &[], vip, backend)
    }

    /// The same for a frame with tags and padding.
    pub(crate) fn forward_framed(
        &self,
        packet: &Ip,
        tags: &[(u16, u16)],
        padding: &[u8],
        vip: u16,
        backend: u16,
    ) -> Want {
        let entry = self.world.entry(backend);
        let verdict = if entry.ifindex == self.ingress {
            Verdict::Tx
        } else {
            Verdict::Redirect
        };
        Want::Forward {
            verdict,
            vip,
            backend,
            frame: wrapped(packet, tags, padding, entry),
        }
    }
}

/// A TCP or UDP packet from a client to port 80 of the VIP of this family.
pub(crate) fn request(v6: bool, proto: u8) -> Ip {
    let (src, dst) = if v6 {
        (CLIENT_V6, VIP_V6)
    } else {
        (CLIENT_V4, VIP_V4)
    };
    Ip::new(ip(src), ip(dst), proto, transport(proto, 40_001, 80))
}

/// The VIP of [`request`] and its backend.
pub(crate) fn expected(v6: bool, proto: u8) -> (u16, u16) {
    let backend = if v6 { BACKEND_V6 } else { BACKEND_V4 };
    (u16::from(v6) * 2 + u16::from(proto == UDP), backend)
}

/// The flow hash of a packet, whose ports are the first four bytes of its payload.
pub(crate) fn flow_hash(packet: &Ip) -> u32 {
    let port = |at: usize| Be16::new(u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]]));
    Tuple {
        src: Addr::from(packet.src),
        dst: Addr::from(packet.dst),
        sport: port(0),
        dport: port(2),
        proto: packet.proto,
    }
    .hash(&hash::Key::expand(&GROUP_KEY))
}

/// Private data that names another backend, by an outer header of this family.
pub(crate) fn private(other: Option<IpAddr>, v6: bool) -> Vec<u8> {
    let Some(other) = other else { return Vec::new() };
    assert_eq!(other.is_ipv6(), v6);
    let address = Addr::from(other).bytes();
    let address = if v6 { &address[..] } else { &address[12..] };
    [&[0x7a, 0x1d, 1, 0], address].concat()
}

/// The frame that a backend's entry makes of a packet, written from the RFCs.
pub(crate) fn wrapped(packet: &Ip, tags: &[(u16, u16)], padding: &[u8], entry: &Entry) -> Vec<u8> {
    wrapped_with(packet, tags, padding, entry, None)
}

/// The same, naming another backend.
pub(crate) fn wrapped_with(
    packet: &Ip,
    tags: &[(u16, u16)],
    padding: &[u8],
    entry: &Entry,
    other: Option<IpAddr>,
) -> Vec<u8> {
    let hash = flow_hash(packet);
    // The host bits of the source's last four bytes, in the order in which they lie in memory.
    let mut src = entry.src.bytes();
    for (byte, bits) in src[12..]
        .iter_mut()
        .zip((hash.to_be() & entry.entropy).to_le_bytes())
    {
        *byte |= bits;
    }
    let dst = entry.dst.bytes();
    let v6 = entry.flags & OUTER_V6 != 0;
    let (src, dst) = if v6 {
        (IpAddr::from(src), IpAddr::from(dst))
    } else {
        let last = |b: [u8; 16]| IpAddr::from([b[12], b[13], b[14], b[15]]);
        (last(src), last(dst))
    };
    let mut proto = if packet.kind() == IPV4 { 4 } else { 41 };
    let mut payload = packet.bytes();
    if entry.flags & GUE != 0 {
        let private = private(other, v6);
        let len = (12 + private.len() + payload.len()) as u16;
        let source = 49_152 + (hash % 16_384) as u16;
        let udp = [source, entry.port.get(), len, 0].map(u16::to_be_bytes).concat();
        let header = [(private.len() / 4) as u8, proto, 0, 0];
        payload = [&udp[..], &header, &private, &payload].concat();
        proto = UDP;
    }
    let outer = Ip {
        src,
        dst,
        class: packet.class,
        ttl: 64,
        proto,
        id: 0,
        frag: 0x4000,
        options: Vec::new(),
        label: hash & 0xf_ffff,
        payload,
    };
    let mut frame = [entry.destination_mac, entry.source_mac].concat();
    for (tpid, tci) in tags {
        frame.extend([tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    frame.extend(if v6 { IPV6 } else { IPV4 }.to_be_bytes());
    frame.extend(outer.bytes());
    frame.extend(padding);
    frame
}
