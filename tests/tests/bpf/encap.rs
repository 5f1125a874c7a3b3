//! The outer header.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::id;
use lb_common::stop::Stop;
use lb_tests::model::Arrival;
use lb_userspace::model::{self, Attach, Capacity, Encap, Group, Model, Node, Protocol};
use lb_userspace::net::{Hop, NextHop};
use lb_userspace::state::contents::Contents;
use lb_userspace::state::ids::assign;
use lb_userspace::state::reduce::{World as Reduce, reduce, targets};
use lb_userspace::state::ring::Cache;
use lb_userspace::state::standing::Standings;

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, Want, expected, flow_hash, request};
use crate::frame::{Ip, TCP, UDP, VLAN, checksum, ip, parse, transport};
use crate::kernel::{HEADROOM, say};
use crate::world::entry;

/// A fixture whose VIPs of both families have backends of both families: pool 0 IPv4, pool 1 IPv6.
fn all_four() -> Fixture {
    Fixture::with(|world, _| {
        world.vip("192.0.2.10", 81, TCP, 1);
        world.vip("2001:db8:1::10", 81, TCP, 0);
    })
}

/// Requests with the VIP and the backend that they belong to, for all four combinations.
fn combinations() -> [(Ip, u16, u16); 4] {
    let other_port = |v6: bool| Ip {
        payload: transport(TCP, 40_001, 81),
        ..request(v6, TCP)
    };
    [
        (request(false, TCP), 0, BACKEND_V4),
        (request(true, TCP), 2, BACKEND_V6),
        (other_port(false), 4, BACKEND_V6),
        (other_port(true), 5, BACKEND_V4),
    ]
}

#[test]
fn four_combinations() {
    let fixture = all_four();
    for (packet, vip, backend) in combinations() {
        for padding in [0, 1, 6, 46] {
            for tags in [&[][..], &[(VLAN, 0xa00c)]] {
                let padding = vec![0x77; padding];
                let mut frame = crate::frame::tagged(tags, packet.kind(), &packet.bytes());
                frame.extend(&padding);
                let want = fixture.forward_framed(&packet, tags, &padding, vip, backend);
                fixture.check(&format!("{} to backend {backend}", packet.dst), &frame, &want);
            }
        }
    }
}

#[test]
fn every_class_is_copied() {
    let fixture = all_four();
    for (packet, vip, backend) in combinations() {
        for class in 0..=255 {
            let packet = Ip {
                class,
                ..packet.clone()
            };
            let want = fixture.forward(&packet, vip, backend);
            fixture.check(&format!("class {class:#04x}"), &packet.frame(), &want);
        }
    }
}

#[test]
fn inner_ttl_and_identification_do_not_matter() {
    let fixture = Fixture::new();
    for (ttl, id, frag) in [(0, 0, 0), (1, 1, 0x4000), (255, 0xffff, 0x8000), (64, 0, 0x4000)] {
        let packet = Ip {
            ttl,
            id,
            frag,
            ..request(false, TCP)
        };
        let want = fixture.forward(&packet, 0, BACKEND_V4);
        fixture.check(&format!("ttl {ttl} id {id}"), &packet.frame(), &want);
    }
}

/// The fields of an outer IPv4 header one by one, and its checksum, for many flows, lengths and entropy bits.
#[test]
fn outer_ipv4_checksum_is_right() {
    let sources = [
        "10.0.0.0/8",
        "255.255.0.0/16",
        "0.0.0.0/0",
        "172.16.3.4/32",
        "10.9.8.254/31",
    ];
    let fixture = Fixture::with(|world, [ingress, _]| {
        for (i, source) in sources.into_iter().enumerate() {
            let dst = ["10.0.1.1", "255.255.255.255", "0.0.0.1"][i % 3];
            world.backend(20 + i as u16, entry(parse(source), ip(dst), ingress, 1500));
        }
        world.pool(0, |slot| 20 + (slot % sources.len()) as u16);
    });
    for i in 0u16..3000 {
        let data: Vec<u8> = (0..i % 700).map(|n| n as u8).collect();
        let packet = Ip {
            class: i as u8,
            payload: crate::frame::tcp(i.wrapping_mul(21), 80, &data),
            ..request(false, TCP)
        };
        let frame = packet.frame();
        let arrival = Arrival {
            frame: &frame,
            ingress: fixture.ingress,
            headroom: HEADROOM,
        };
        let (_, left) = fixture.kernel.program.run(&arrival);
        let outer = &left[14..34];
        assert_eq!(checksum(outer), 0, "checksum of {}", crate::frame::hex(outer));
        assert_eq!(outer[..2], [0x45, i as u8], "version and class");
        assert_eq!(
            outer[2..4],
            (20 + packet.bytes().len() as u16).to_be_bytes(),
            "length"
        );
        assert_eq!(
            outer[4..10],
            [0, 0, 0x40, 0, 64, 4],
            "id, don't fragment, TTL, protocol"
        );
    }
}

#[test]
fn entropy_fills_the_host_bits_of_the_source() {
    let prefixes = [
        "10.64.0.0/10",
        "10.0.7.0/24",
        "10.0.0.6/31",
        "10.0.0.9/32",
        "0.0.0.0/0",
        "fd00:7::/32",
        "fd00:8::/64",
        "fd00:9::1:0/112",
        "fd00:a::a0/124",
        "fd00:b::c/128",
        "fd00:c::8000:0/97",
    ];
    let fixture = Fixture::with(|world, [ingress, _]| {
        for (i, prefix) in (20u16..).zip(prefixes) {
            let dst = if prefix.contains(':') {
                "fd00:1::9"
            } else {
                "10.0.1.9"
            };
            world.backend(i, entry(parse(prefix), ip(dst), ingress, 1500));
        }
        world.pool(0, |slot| 20 + (slot % prefixes.len()) as u16);
    });
    let mut seen: BTreeMap<usize, std::collections::BTreeSet<IpAddr>> = BTreeMap::new();
    for port in 1..=600 {
        let packet = Ip {
            payload: transport(TCP, port, 80),
            ..request(false, TCP)
        };
        let hash = flow_hash(&packet);
        let which = (hash >> 16) as usize % prefixes.len();
        let frame = packet.frame();
        let want = fixture.forward(&packet, 0, 20 + which as u16);
        fixture.check(prefixes[which], &frame, &want);
        // `forward` computes the address from the entry's mask; here from the prefix as it was configured.
        let Want::Forward { frame: left, .. } = want else {
            panic!("it is forwarded")
        };
        let source = match prefixes[which].contains(':') {
            false => IpAddr::from(<[u8; 4]>::try_from(&left[26..30]).unwrap()),
            true => IpAddr::from(<[u8; 16]>::try_from(&left[22..38]).unwrap()),
        };
        let net: ipnet::IpNet = parse(prefixes[which]);
        assert!(net.contains(&source), "{source} is not in {net}");
        seen.entry(which).or_default().insert(source);
    }
    for (which, prefix) in prefixes.into_iter().enumerate() {
        let sources = seen[&which].len();
        match prefix.rsplit('/').next().unwrap() {
            "32" if !prefix.contains(':') => assert_eq!(sources, 1, "{prefix}"),
            "128" => assert_eq!(sources, 1, "{prefix}"),
            "31" => assert_eq!(sources, 2, "{prefix}"),
            "124" => assert!(sources > 8, "{prefix}: {sources}"),
            _ => assert!(sources > 25, "{prefix}: {sources}"),
        }
    }
}

#[test]
fn the_mtu_to_the_byte() {
    let (mtu_v4, mtu_v6) = (600, 700);
    let fixture = Fixture::with(|world, [ingress, _]| {
        world.backend(
            BACKEND_V4,
            entry(parse("10.0.0.5/32"), ip("10.0.1.1"), ingress, mtu_v4),
        );
        world.backend(
            BACKEND_V6,
            entry(parse("fd00::5/128"), ip("fd00:1::1"), ingress, mtu_v6),
        );
        world.vip("192.0.2.10", 81, TCP, 1);
        world.vip("2001:db8:1::10", 81, TCP, 0);
    });
    for (packet, vip, backend) in combinations() {
        let (mtu, outer) = match backend {
            BACKEND_V4 => (mtu_v4, 20),
            _ => (mtu_v6, 40),
        };
        let header = packet.bytes().len() - packet.payload.len();
        for over in [-1i32, 0, 1, 2, 500] {
            let len = (i32::from(mtu) - outer + over) as usize;
            let mut packet = packet.clone();
            packet.payload.resize(len - header, 0x42);
            let want = if over > 0 {
                Want::Stop(Stop::TooBig)
            } else {
                fixture.forward(&packet, vip, backend)
            };
            fixture.check(&format!("mtu {over:+}"), &packet.frame(), &want);
            // Padding is no part of the packet, whatever it makes of the frame's length.
            let padding = [0; 64];
            let frame = [packet.frame(), padding.to_vec()].concat();
            let want = match want {
                Want::Stop(stop) => Want::Stop(stop),
                Want::Forward { .. } => fixture.forward_framed(&packet, &[], &padding, vip, backend),
            };
            fixture.check(&format!("mtu {over:+}, padded"), &frame, &want);
        }
    }
}

#[test]
fn headroom_to_the_byte() {
    let fixture = Fixture::new();
    if fixture.kernel.program.least_headroom() > 0 {
        say("NOT RUN: encap::headroom_to_the_byte: frames of a test run always have room on this kernel");
        return;
    }
    for (v6, outer) in [(false, 20), (true, 40)] {
        let packet = request(v6, TCP);
        let (vip, backend) = expected(v6, TCP);
        // Metadata comes in words of four bytes.
        for headroom in [0, outer - 4, outer, outer + 4] {
            let want = if headroom < outer {
                Want::Stop(Stop::NoRoom)
            } else {
                fixture.forward(&packet, vip, backend)
            };
            fixture.check_with_headroom(&format!("{headroom} bytes"), &packet.frame(), headroom, &want);
        }
    }
}

/// A model of four VIPs, from which the agent makes the entries: 4in4, 4in6, 6in4, 6in6.
fn agents_model() -> Model {
    let pool = |name: &str, address: &str| model::Pool {
        name: parse(name),
        backends: vec![model::Backend {
            name: parse("be"),
            id: id::stable(name, "be"),
            address: ip(address),
            weight: 1,
            via: None,
        }],
        health: None,
        tunnel: model::Tunnel::Ipip,
    };
    let vip = |address: &str, port, protocol, pool| model::Vip {
        address: ip(address),
        port,
        protocol,
        pool,
        tracking: model::Tracking::OnChange,
        idle_timeout: model::Vip::DEFAULT_IDLE,
    };
    Model {
        path: "test.yaml".into(),
        node: Node {
            name: parse("test"),
            interfaces: Vec::new(),
            attach: Attach::Auto,
        },
        group: Group {
            nodes: Vec::new(),
            key: None,
            max_tracked: lb_userspace::model::Group::MAX_TRACKED,
            peering: None,
        },
        capacity: Capacity::default(),
        encap: Encap {
            source_ipv4: Some(parse("10.64.0.0/12")),
            source_ipv6: Some(parse("fd00:64::/104")),
        },
        pools: vec![pool("four", "10.0.1.1"), pool("six", "fd00:1::1")],
        vips: vec![
            vip("192.0.2.10", 80, Protocol::Tcp, 0),
            vip("192.0.2.10", 80, Protocol::Udp, 1),
            vip("2001:db8:1::10", 80, Protocol::Tcp, 0),
            vip("2001:db8:1::10", 80, Protocol::Udp, 1),
        ],
        metrics: None,
    }
}

#[test]
fn entries_as_the_agent_writes_them() {
    let model = agents_model();
    let mut contents = Contents::default();
    let fixture = Fixture::with(|world, [ingress, _]| {
        let ids = assign(&model, &Contents::default());
        let hop = |(i, target): (usize, lb_userspace::net::Target)| {
            NextHop::Resolved(Hop {
                ifindex: ingress,
                interface: "veth-a".into(),
                destination_mac: [2, 9, 9, 9, 9, i as u8],
                source_mac: [2, 8, 8, 8, 8, i as u8],
                mtu: 1500,
                source: target.source.expect("both families have one"),
            })
        };
        let hops: Vec<NextHop> = targets(&model).into_iter().enumerate().map(hop).collect();
        let asked = Reduce {
            model: &model,
            ids: &ids,
            hops: &hops,
            standings: &Standings::default(),
            applied: &Contents::default(),
            barred: &std::collections::BTreeSet::new(),
            waiting: &[],
        };
        contents = reduce(&asked, &mut Cache::default());
        world.contents = contents.clone();
    });
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            for port in 1000..1040 {
                let packet = Ip {
                    payload: transport(proto, port, 80),
                    ..request(v6, proto)
                };
                let dst = ip(if proto == TCP { "10.0.1.1" } else { "fd00:1::1" });
                let (&backend, held) = contents
                    .backends
                    .iter()
                    .find(|(_, b)| b.info.address == Addr::from(dst))
                    .expect("it is there");
                // What the configuration asks for, made by the tests' own code.
                let net = ["10.64.0.0/12", "fd00:64::/104"][usize::from(proto == UDP)];
                let mut own = entry(parse(net), dst, fixture.ingress, 1500);
                own.destination_mac = [2, 9, 9, 9, 9, u8::from(proto == UDP)];
                own.source_mac = [2, 8, 8, 8, 8, u8::from(proto == UDP)];
                assert_eq!(held.entry, own);
                let vip = contents.vips.iter().find(|(key, value)| {
                    value.is_served() && key.addr == Addr::from(packet.dst) && key.proto == proto
                });
                let want = fixture.forward(&packet, vip.expect("it is there").1.index, backend);
                fixture.check(&format!("v6 {v6} protocol {proto}"), &packet.frame(), &want);
            }
        }
    }
}
