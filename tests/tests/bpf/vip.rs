//! Which packets are for a VIP.

use lb_common::stop::Stop;

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, Want, expected, request};
use crate::frame::{Ip, TCP, UDP, ip, transport};

const ANY_V4: &str = "192.0.2.20";
const ANY_V6: &str = "2001:db8:1::20";
const TCP_ONLY: &str = "192.0.2.30";

/// A packet to another address or port.
fn to(base: &Ip, dst: &str, port: u16) -> Ip {
    Ip {
        dst: ip(dst),
        payload: transport(base.proto, 40_001, port),
        ..base.clone()
    }
}

#[test]
fn other_addresses() {
    let fixture = Fixture::new();
    for proto in [TCP, UDP] {
        for dst in [
            "192.0.2.11",
            "192.0.2.0",
            "10.2.0.192",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
        ] {
            let packet = to(&request(false, proto), dst, 80);
            fixture.check(dst, &packet.frame(), &Want::Stop(Stop::NotVip));
        }
        for dst in ["2001:db8:1::11", "::", "ff02::1", "::192.0.2.10"] {
            let packet = to(&request(true, proto), dst, 80);
            fixture.check(dst, &packet.frame(), &Want::Stop(Stop::NotVip));
        }
    }
}

#[test]
fn a_mapped_address_is_no_ipv4_address() {
    let fixture = Fixture::with(|world, _| {
        world.vip(ANY_V4, 0, TCP, 0);
    });
    for dst in ["::ffff:192.0.2.10", "::ffff:192.0.2.20"] {
        for proto in [TCP, UDP, 0, 43, 44] {
            let packet = to(&request(true, proto), dst, 80);
            fixture.check(dst, &packet.frame(), &Want::Stop(Stop::NotVip));
        }
    }
}

#[test]
fn unserved_ports_and_protocols() {
    let fixture = Fixture::with(|world, _| {
        world.vip("192.0.2.40", 443, TCP, 0);
    });
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let base = request(v6, proto);
            for port in [0, 1, 79, 81, 0x5000, 443, 65_535] {
                let packet = to(&base, &base.dst.to_string(), port);
                fixture.check(
                    &format!("port {port}"),
                    &packet.frame(),
                    &Want::Stop(Stop::Unserved),
                );
            }
        }
    }
    let udp = to(&request(false, UDP), "192.0.2.40", 443);
    fixture.check(
        "UDP where TCP is served",
        &udp.frame(),
        &Want::Stop(Stop::Unserved),
    );
}

#[test]
fn every_port_and_the_exact_one_before_it() {
    let mut vips = (0, 0, 0, 0);
    let fixture = Fixture::with(|world, _| {
        vips = (
            world.vip(ANY_V4, 0, TCP, 0),
            world.vip(ANY_V4, 443, TCP, 1),
            world.vip(ANY_V6, 0, UDP, 0),
            world.vip(ANY_V6, 53, UDP, 1),
        );
    });
    for port in [0, 1, 80, 442, 443, 444, 65_535] {
        let packet = to(&request(false, TCP), ANY_V4, port);
        let (vip, backend) = match port {
            443 => (vips.1, BACKEND_V6),
            _ => (vips.0, BACKEND_V4),
        };
        let want = fixture.forward(&packet, vip, backend);
        fixture.check(&format!("TCP port {port}"), &packet.frame(), &want);
    }
    for port in [0, 1, 53, 65_535] {
        let packet = to(&request(true, UDP), ANY_V6, port);
        let (vip, backend) = match port {
            53 => (vips.3, BACKEND_V6),
            _ => (vips.2, BACKEND_V4),
        };
        let want = fixture.forward(&packet, vip, backend);
        fixture.check(&format!("UDP port {port}"), &packet.frame(), &want);
    }
}

#[test]
fn every_port_of_one_protocol() {
    let mut vip = 0;
    let fixture = Fixture::with(|world, _| vip = world.vip(TCP_ONLY, 0, TCP, 0));
    let packet = to(&request(false, TCP), TCP_ONLY, 5000);
    let want = fixture.forward(&packet, vip, BACKEND_V4);
    fixture.check("TCP", &packet.frame(), &want);
    for port in [0, 80, 5000] {
        let packet = to(&request(false, UDP), TCP_ONLY, port);
        fixture.check("UDP", &packet.frame(), &Want::Stop(Stop::Unserved));
    }
}

#[test]
fn source_port_zero() {
    let fixture = Fixture::new();
    for v6 in [false, true] {
        let mut packet = request(v6, TCP);
        packet.payload = transport(TCP, 0, 80);
        let (vip, backend) = expected(v6, TCP);
        let want = fixture.forward(&packet, vip, backend);
        fixture.check("source port 0", &packet.frame(), &want);
    }
}

#[test]
fn ipv4_fragments() {
    let fixture = Fixture::with(|world, _| {
        world.vip("192.0.2.50", 53, UDP, 0);
        world.vip(ANY_V4, 0, TCP, 0);
    });
    // First, middle, last, the farthest, one with "don't fragment" and one with the reserved bit.
    for frag in [0x2000, 0x2001, 0x20b9, 0x0001, 0x00b9, 0x1fff, 0x6001, 0xa000] {
        for proto in [TCP, UDP, 1, 132] {
            for (dst, stop) in [
                ("192.0.2.10", Stop::Fragment),
                ("192.0.2.50", Stop::Fragment),
                (ANY_V4, Stop::Fragment),
                ("192.0.2.11", Stop::NotVip),
            ] {
                let mut packet = to(&request(false, proto), dst, 80);
                packet.frag = frag;
                fixture.check(&format!("{dst} {frag:04x}"), &packet.frame(), &Want::Stop(stop));
            }
        }
    }
    // The reserved bit and "don't fragment" alone make no fragment.
    for frag in [0x0000, 0x4000, 0x8000, 0xc000] {
        let mut packet = request(false, TCP);
        packet.frag = frag;
        let want = fixture.forward(&packet, 0, BACKEND_V4);
        fixture.check(&format!("flags {frag:04x}"), &packet.frame(), &want);
    }
}

#[test]
fn ipv6_extension_headers() {
    let fixture = Fixture::new();
    for (next, stop) in [
        (0, Stop::Extension),
        (43, Stop::Extension),
        (44, Stop::Fragment),
        (51, Stop::Extension),
        (60, Stop::Extension),
    ] {
        for inside in [TCP, UDP, 58] {
            // Eight bytes of extension header: what comes next, no more words, padding (or offset 0, an id).
            let mut packet = request(true, inside);
            packet.proto = next;
            packet.payload = [&[inside, 0, 0, 1, 0, 0, 0, 9], packet.payload.as_slice()].concat();
            fixture.check(&format!("header {next}"), &packet.frame(), &Want::Stop(stop));
            packet.dst = ip("2001:db8:1::11");
            fixture.check(
                &format!("{next}, no VIP"),
                &packet.frame(),
                &Want::Stop(Stop::NotVip),
            );
        }
    }
}
