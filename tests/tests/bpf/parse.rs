//! Link layer and IP header.

use lb_common::stop::Stop;

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, Want, expected, request};
use crate::frame::{IPV4, IPV6, SERVICE_VLAN, TCP, UDP, VLAN, checksum, ethernet, tagged};

#[test]
fn plain_packets() {
    let fixture = Fixture::new();
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let packet = request(v6, proto);
            let (vip, backend) = expected(v6, proto);
            let want = fixture.forward(&packet, vip, backend);
            fixture.check(&format!("v6 {v6} protocol {proto}"), &packet.frame(), &want);
        }
    }
}

#[test]
fn ipv4_options_of_every_length() {
    let fixture = Fixture::new();
    for words in 0..=10 {
        for proto in [TCP, UDP] {
            let mut packet = request(false, proto);
            packet.options = vec![1; 4 * words];
            let (vip, backend) = expected(false, proto);
            let want = fixture.forward(&packet, vip, backend);
            fixture.check(&format!("header of {} words", 5 + words), &packet.frame(), &want);
        }
    }
}

#[test]
fn one_tag_is_kept() {
    let fixture = Fixture::new();
    // Priority 5, "drop eligible", VLAN 100; a priority tag alone; all ones.
    for tci in [0xb064, 0xe000, 0x0001, 0xffff] {
        for v6 in [false, true] {
            let packet = request(v6, TCP);
            let (vip, backend) = expected(v6, TCP);
            let want = fixture.forward_framed(&packet, &[(VLAN, tci)], &[], vip, backend);
            fixture.check(&format!("tag {tci:04x}"), &packet.tagged(tci), &want);
        }
    }
}

#[test]
fn other_tags_are_left_alone() {
    let fixture = Fixture::new();
    let stacks: [&[(u16, u16)]; 5] = [
        &[(VLAN, 1), (VLAN, 2)],
        &[(VLAN, 1), (SERVICE_VLAN, 2)],
        &[(SERVICE_VLAN, 1), (VLAN, 2)],
        &[(SERVICE_VLAN, 1)],
        &[(VLAN, 1), (VLAN, 2), (VLAN, 3)],
    ];
    for stack in stacks {
        for v6 in [false, true] {
            let packet = request(v6, TCP);
            let frame = tagged(stack, packet.kind(), &packet.bytes());
            fixture.check(&format!("{stack:x?}"), &frame, &Want::Stop(Stop::VlanStacked));
        }
    }
}

#[test]
fn what_is_not_ip() {
    let fixture = Fixture::new();
    let body = request(false, TCP).bytes();
    // ARP, LLDP, PPPoE, MPLS, EAPOL, flow control, the old QinQ, an 802.3 length.
    for kind in [
        0x0806, 0x88cc, 0x8864, 0x8847, 0x888e, 0x8808, 0x9100, 0x0026, 0x0000, 0xffff,
    ] {
        let plain = ethernet(kind, &body);
        fixture.check(&format!("EtherType {kind:04x}"), &plain, &Want::Stop(Stop::NotIp));
        let tagged = tagged(&[(VLAN, 7)], kind, &body);
        fixture.check(&format!("tagged {kind:04x}"), &tagged, &Want::Stop(Stop::NotIp));
    }
}

#[test]
fn other_protocols_to_a_vip() {
    let fixture = Fixture::new();
    // ICMP, IGMP, IPIP, IPv6, GRE, ESP, ICMPv6, none, OSPF, VRRP, SCTP, UDP-Lite; mobility, HIP, Shim6.
    for proto in [1, 2, 4, 41, 47, 50, 58, 59, 89, 112, 132, 136, 135, 139, 140, 255] {
        for v6 in [false, true] {
            let packet = request(v6, proto);
            fixture.check(
                &format!("protocol {proto}"),
                &packet.frame(),
                &Want::Stop(Stop::OtherProto),
            );
        }
    }
    for proto in [0, 43, 44, 51, 60] {
        let packet = request(false, proto);
        fixture.check(
            &format!("IPv4 with protocol {proto}"),
            &packet.frame(),
            &Want::Stop(Stop::OtherProto),
        );
    }
}

#[test]
fn wrong_versions_and_header_lengths() {
    let fixture = Fixture::new();
    for v6 in [false, true] {
        let packet = request(v6, TCP);
        for version in (0..16).filter(|&v| v != if v6 { 6 } else { 4 }) {
            let mut bytes = packet.bytes();
            bytes[0] = bytes[0] & 15 | version << 4;
            let frame = ethernet(packet.kind(), &bytes);
            fixture.check(
                &format!("version {version}"),
                &frame,
                &Want::Stop(Stop::Malformed),
            );
        }
    }
    for words in 0..5 {
        let mut bytes = request(false, TCP).bytes();
        bytes[0] = 0x40 | words;
        fixture.check(
            &format!("header of {words} words"),
            &ethernet(IPV4, &bytes),
            &Want::Stop(Stop::Malformed),
        );
    }
    let (v4, v6) = (request(false, TCP).bytes(), request(true, TCP).bytes());
    fixture.check("v4 as v6", &ethernet(IPV6, &v4), &Want::Stop(Stop::Malformed));
    fixture.check("v6 as v4", &ethernet(IPV4, &v6), &Want::Stop(Stop::Malformed));
}

/// Every value of the length field that is near an edge, in a frame that has the packet and 6 bytes of padding.
#[test]
fn total_length() {
    let fixture = Fixture::new();
    for (v6, proto, header) in [
        (false, TCP, 20),
        (false, UDP, 20),
        (true, TCP, 40),
        (true, UDP, 40),
    ] {
        let packet = request(v6, proto);
        let whole = packet.bytes().len();
        let least = header + if proto == TCP { 20 } else { 8 };
        let lengths = (header..=whole + 12).chain([whole + 1000, 65_535]);
        for len in lengths {
            let (mut bytes, mut shorter) = (packet.bytes(), packet.clone());
            if v6 {
                bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            } else {
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                bytes[10..12].fill(0);
                let sum = checksum(&bytes[..20]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            bytes.extend([0xee; 6]);
            let frame = ethernet(packet.kind(), &bytes);
            let want = if len < least || len > bytes.len() {
                Want::Stop(Stop::Malformed)
            } else {
                // What the length leaves out is padding: it stays, and the outer length doesn't count it.
                let data = bytes[header..].to_vec();
                shorter.payload = data[..len - header].to_vec();
                let backend = if v6 { BACKEND_V6 } else { BACKEND_V4 };
                fixture.forward_framed(&shorter, &[], &bytes[len..], expected(v6, proto).0, backend)
            };
            fixture.check(&format!("v6 {v6} protocol {proto} length {len}"), &frame, &want);
        }
        for len in (0..header).filter(|_| !v6) {
            let mut bytes = packet.bytes();
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let frame = ethernet(packet.kind(), &bytes);
            fixture.check(&format!("length {len}"), &frame, &Want::Stop(Stop::Malformed));
        }
    }
}

#[test]
fn options_that_reach_into_the_transport() {
    let fixture = Fixture::new();
    // The header says 60 bytes, the packet has 20 + 20 + 32: twelve are left for TCP.
    let mut bytes = request(false, TCP).bytes();
    bytes[0] = 0x4f;
    fixture.check("TCP", &ethernet(IPV4, &bytes), &Want::Stop(Stop::Malformed));
    // And 20 + 8 + 32, header 60: none is left for UDP.
    let mut bytes = request(false, UDP).bytes();
    bytes[0] = 0x4f;
    fixture.check("UDP", &ethernet(IPV4, &bytes), &Want::Stop(Stop::Malformed));
}
