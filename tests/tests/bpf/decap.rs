//! `lb_decap`: what it takes off, what it leaves alone.

use lb_common::gue;
use lb_common::stats::Counter;
use lb_common::stop::{Action, DecapStop};
use lb_tests::model::{Arrival, Verdict};
use lb_tests::pins::Pins;
use lb_userspace::dataplane::decap::{self, Status};
use lb_userspace::model::Attach;
use lb_userspace::net::{Link, Medium};

use crate::frame::{
    IPV4, IPV6, Ip, MACS, SERVICE_VLAN, TCP, UDP, VLAN, ethernet, hex, ip, parse, tagged, transport,
};
use crate::kernel::{HEADROOM, Program, SHORTEST};
use crate::net::{self, VETH};

/// A loaded decapsulator.
pub(crate) struct Decap {
    pub(crate) program: Program,
    pub(crate) ingress: u32,
    pins: Pins,
}

/// What a frame is expected to become.
pub(crate) enum Want {
    Stop(DecapStop),
    Removed(Vec<u8>),
    /// Sent on to another backend.
    SentOn(Vec<u8>),
    /// The same, but that backend is no allowed source.
    Stranger(Vec<u8>),
}

impl Decap {
    /// Loads it by the way of `lbctl decap attach`, on an interface that carries nothing.
    pub(crate) fn new(allow: &[&str]) -> Self {
        let [ingress, _] = net::enter();
        let pins = net::pins();
        let link = Link {
            ifindex: ingress,
            name: VETH[0].into(),
            mtu: 1500,
            medium: Medium::Ethernet { mac: MACS[0] },
            up: false,
        };
        let allow: Vec<ipnet::IpNet> = allow.iter().map(|p| parse(p)).collect();
        decap::attach(&pins.0, &link, &allow, gue::PORT, Attach::Generic).unwrap_or_else(|e| {
            panic!("lb_decap can't be attached (CAP_BPF, CAP_NET_ADMIN are needed): {e:?}")
        });
        Self {
            program: Program::open(&pins.0.decap().program()),
            ingress,
            pins,
        }
    }

    pub(crate) fn status(&self) -> Status {
        decap::status(&self.pins.0).expect("it is loaded")
    }

    pub(crate) fn run(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        self.program.run(&Arrival {
            frame,
            ingress: self.ingress,
            headroom: HEADROOM,
        })
    }

    pub(crate) fn check(&self, what: &str, frame: &[u8], want: &Want) {
        let mut expected = self.status();
        let (verdict, left) = self.run(frame);
        let one = Counter {
            packets: 1,
            bytes: frame.len() as u64,
        };
        let (want_verdict, bytes) = match want {
            Want::Removed(bytes) => {
                expected.removed += one;
                (Verdict::Pass, Some(bytes.as_slice()))
            }
            Want::SentOn(bytes) => {
                expected.second_chance += one;
                (Verdict::Tx, Some(bytes.as_slice()))
            }
            Want::Stranger(bytes) => {
                expected.removed += one;
                expected.stranger += one;
                (Verdict::Pass, Some(bytes.as_slice()))
            }
            Want::Stop(stop) => {
                expected.stops[*stop as usize].1 += one;
                match stop.action() {
                    Action::Pass => (Verdict::Pass, Some(frame)),
                    Action::Drop => (Verdict::Drop, None),
                }
            }
        };
        let status = self.status();
        assert_eq!(
            status.removed,
            expected.removed,
            "{what}: removed, of\n{}",
            hex(frame)
        );
        assert_eq!(
            (status.second_chance, status.stranger),
            (expected.second_chance, expected.stranger),
            "{what}: sent on, of\n{}",
            hex(frame)
        );
        assert_eq!(status.stops, expected.stops, "{what}: stops, of\n{}", hex(frame));
        assert_eq!(verdict, want_verdict, "{what}: verdict of\n{}", hex(frame));
        if let Some(bytes) = bytes {
            let (arrived, left, wanted) = (hex(frame), hex(&left), hex(bytes));
            assert!(
                left == wanted,
                "{what}\narrived\n{arrived}\nleft\n{left}\nwanted\n{wanted}"
            );
        }
    }
}

pub(crate) const NODES: [&str; 2] = ["10.0.0.0/24", "fd00::/112"];

pub(crate) fn inner(v6: bool, proto: u8) -> Ip {
    let (src, dst) = match v6 {
        false => ("198.51.100.7", "192.0.2.10"),
        true => ("2001:db8:9::7", "2001:db8:1::10"),
    };
    Ip::new(ip(src), ip(dst), proto, transport(proto, 40_001, 80))
}

/// `inner` as a node of this address sends it.
pub(crate) fn wrap(src: &str, inner: &Ip) -> Ip {
    let src = ip(src);
    let dst = ip(if src.is_ipv4() { "10.0.1.1" } else { "fd00:1::1" });
    let proto = if inner.kind() == IPV4 { 4 } else { 41 };
    Ip {
        class: inner.class,
        ..Ip::new(src, dst, proto, inner.bytes())
    }
}

#[test]
fn all_four_combinations() {
    let decap = Decap::new(&NODES);
    for src in ["10.0.0.5", "fd00::5"] {
        for v6 in [false, true] {
            for proto in [TCP, UDP, 1, 132] {
                let inner = inner(v6, proto);
                let outer = wrap(src, &inner);
                decap.check("plain", &outer.frame(), &Want::Removed(inner.frame()));
                let (frame, want) = (outer.tagged(0xb123), inner.tagged(0xb123));
                decap.check("one tag", &frame, &Want::Removed(want));
                let padded = |frame: Vec<u8>| [frame, vec![9; 7]].concat();
                decap.check(
                    "padding",
                    &padded(outer.frame()),
                    &Want::Removed(padded(inner.frame())),
                );
            }
        }
    }
}

#[test]
fn sources_at_the_borders_of_prefixes() {
    let decap = Decap::new(&[
        "10.0.0.0/24",
        "10.1.2.3/32",
        "172.16.0.0/12",
        "fd00::/112",
        "fd01::7/128",
        "fd02::/15",
    ]);
    let inner = inner(false, TCP);
    for (src, allowed) in [
        ("10.0.0.0", true),
        ("10.0.0.255", true),
        ("9.255.255.255", false),
        ("10.0.1.0", false),
        ("10.1.2.3", true),
        ("10.1.2.2", false),
        ("10.1.2.4", false),
        ("172.16.0.0", true),
        ("172.31.255.255", true),
        ("172.15.255.255", false),
        ("172.32.0.0", false),
        ("fd00::", true),
        ("fd00::ffff", true),
        ("fd00::1:0", false),
        ("fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ("fd01::7", true),
        ("fd01::6", false),
        ("fd01::8", false),
        ("fd02::", true),
        ("fd03:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true),
        ("fd04::", false),
    ] {
        let want = if allowed {
            Want::Removed(inner.frame())
        } else {
            Want::Stop(DecapStop::NotAllowed)
        };
        decap.check(src, &wrap(src, &inner).frame(), &want);
    }
}

#[test]
fn prefixes_of_one_family_say_nothing_about_the_other() {
    let inner = inner(false, TCP);
    let (v4, v6) = (wrap("10.0.0.5", &inner).frame(), wrap("fd00::5", &inner).frame());
    let mapped = wrap("::ffff:10.0.0.5", &inner).frame();
    let removed = || Want::Removed(inner.frame());
    let refused = || Want::Stop(DecapStop::NotAllowed);

    let decap = Decap::new(&["::/0"]);
    decap.check("::/0, from IPv4", &v4, &refused());
    decap.check("::/0, from IPv6", &v6, &removed());
    let decap = Decap::new(&["::/64"]);
    decap.check("::/64, from IPv4", &v4, &refused());
    decap.check("::/64, from IPv6", &wrap("::5", &inner).frame(), &removed());
    for prefix in ["0.0.0.0/0", "10.0.0.5/32"] {
        let decap = Decap::new(&[prefix]);
        decap.check("from IPv4", &v4, &removed());
        decap.check("from IPv6", &v6, &refused());
        // An IPv4 source in an IPv6 header is nobody's address.
        decap.check("from a mapped address", &mapped, &refused());
    }
    let decap = Decap::new(&["0.0.0.0/0", "::/0"]);
    decap.check("all, from IPv4", &v4, &removed());
    decap.check("all, from IPv6", &v6, &removed());
    let nobody = Decap::new(&[]);
    nobody.check("none, from IPv4", &v4, &refused());
    nobody.check("none, from IPv6", &v6, &refused());
}

#[test]
fn outer_options() {
    let decap = Decap::new(&NODES);
    for words in 0..=10 {
        for v6 in [false, true] {
            let inner = inner(v6, UDP);
            let mut outer = wrap("10.0.0.5", &inner);
            outer.options = vec![1; 4 * words];
            decap.check("options", &outer.frame(), &Want::Removed(inner.frame()));
        }
    }
}

#[test]
fn what_is_no_tunnel() {
    let decap = Decap::new(&["0.0.0.0/0", "::/0"]);
    let not = Want::Stop(DecapStop::NotTunnel);
    for v6 in [false, true] {
        for proto in [TCP, UDP, 1, 2, 47, 50, 58, 132, 0, 43, 44, 60] {
            decap.check(&format!("protocol {proto}"), &inner(v6, proto).frame(), &not);
        }
    }
    let body = wrap("10.0.0.5", &inner(false, TCP)).bytes();
    for kind in [0x0806, 0x88cc, 0x8864, 0x0026] {
        decap.check("other EtherType", &ethernet(kind, &body), &not);
    }
    for stack in [
        &[(VLAN, 1), (VLAN, 2)][..],
        &[(SERVICE_VLAN, 1)],
        &[(SERVICE_VLAN, 1), (VLAN, 2)],
    ] {
        decap.check("more tags", &tagged(stack, IPV4, &body), &not);
    }
    decap.check(
        "SSH to the host",
        &ethernet(IPV4, &inner(false, TCP).bytes()),
        &not,
    );
}

#[test]
fn outer_fragments() {
    let decap = Decap::new(&NODES);
    for frag in [0x2000, 0x2001, 0x0001, 0x1fff, 0x6000] {
        let mut outer = wrap("10.0.0.5", &inner(false, TCP));
        outer.frag = frag;
        decap.check("fragment", &outer.frame(), &Want::Stop(DecapStop::Fragment));
    }
    let inner = inner(false, TCP);
    for frag in [0x0000, 0x4000, 0x8000] {
        let mut outer = wrap("10.0.0.5", &inner);
        outer.frag = frag;
        decap.check("whole", &outer.frame(), &Want::Removed(inner.frame()));
    }
    // A fragment inside is the service's business.
    let fragment = Ip {
        frag: 0x2001,
        ..inner
    };
    let outer = wrap("10.0.0.5", &fragment);
    decap.check("inner fragment", &outer.frame(), &Want::Removed(fragment.frame()));
}

#[test]
fn truncated_at_every_length() {
    let decap = Decap::new(&NODES);
    for src in ["10.0.0.5", "fd00::5"] {
        for v6 in [false, true] {
            for tags in [&[][..], &[(VLAN, 5)]] {
                let outer = wrap(src, &inner(v6, TCP));
                let frame = tagged(tags, outer.kind(), &outer.bytes());
                let link = 14 + 4 * tags.len();
                for len in SHORTEST..frame.len() {
                    let stop = if len < link {
                        DecapStop::NotTunnel
                    } else {
                        DecapStop::Malformed
                    };
                    decap.check(&format!("{len} bytes"), &frame[..len], &Want::Stop(stop));
                }
            }
        }
    }
}

#[test]
fn inner_garbage() {
    let decap = Decap::new(&NODES);
    let malformed = || Want::Stop(DecapStop::Malformed);
    for src in ["10.0.0.5", "fd00::5"] {
        for (proto, v6) in [(4, false), (41, true)] {
            let good = inner(v6, TCP).bytes();
            let with = |payload: Vec<u8>| Ip {
                proto,
                ..wrap(
                    src,
                    &Ip {
                        payload,
                        ..inner(v6, TCP)
                    },
                )
            };
            let packet = |payload: Vec<u8>| Ip {
                payload,
                ..with(Vec::new())
            };
            // Cut off, with the outer length saying so: at every length.
            for len in 0..good.len() {
                let frame = packet(good[..len].to_vec()).frame();
                decap.check(&format!("{len} inner bytes"), &frame, &malformed());
                // What follows the outer packet is padding, not the rest of the inner one.
                let padded = [frame, good[len..].to_vec()].concat();
                decap.check(&format!("{len} inner bytes, padded"), &padded, &malformed());
            }
            for version in (0..16u8).filter(|&v| v != if v6 { 6 } else { 4 }) {
                let mut bytes = good.clone();
                bytes[0] = bytes[0] & 15 | version << 4;
                decap.check("inner version", &packet(bytes).frame(), &malformed());
            }
            // The other family inside than the outer header says.
            let other = inner(!v6, TCP).bytes();
            decap.check("the other family", &packet(other).frame(), &malformed());
            // Inner padding: shorter than the outer packet.
            let longer = [good.clone(), vec![3; 5]].concat();
            let kind = if v6 { IPV6 } else { IPV4 };
            let want = Want::Removed(ethernet(kind, &longer));
            decap.check("inner padding", &packet(longer).frame(), &want);
        }
        for words in 0..5 {
            let mut bytes = inner(false, TCP).bytes();
            bytes[0] = 0x40 | words;
            let frame = Ip {
                payload: bytes,
                ..wrap(src, &inner(false, TCP))
            }
            .frame();
            decap.check("inner header length", &frame, &malformed());
        }
    }
}

#[test]
fn outer_header_garbage() {
    let decap = Decap::new(&["0.0.0.0/0", "::/0"]);
    let malformed = || Want::Stop(DecapStop::Malformed);
    for src in ["10.0.0.5", "fd00::5"] {
        let outer = wrap(src, &inner(false, TCP));
        let own = if src.contains(':') { 6 } else { 4 };
        for version in (0..16u8).filter(|&v| v != own) {
            let mut bytes = outer.bytes();
            bytes[0] = bytes[0] & 15 | version << 4;
            decap.check("version", &ethernet(outer.kind(), &bytes), &malformed());
        }
        // One byte more than there is.
        let mut bytes = outer.bytes();
        let at = if own == 4 { 3 } else { 5 };
        bytes[at] += 1;
        decap.check("length", &ethernet(outer.kind(), &bytes), &malformed());
    }
    for words in 0..5 {
        let mut bytes = wrap("10.0.0.5", &inner(false, TCP)).bytes();
        bytes[0] = 0x40 | words;
        decap.check("header length", &ethernet(IPV4, &bytes), &malformed());
    }
}
