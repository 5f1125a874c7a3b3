//! GUE: what `lb_xdp` puts before a packet, and which other backend it names.

use std::net::IpAddr;

use lb_common::backend::{CHANCE, DEAD, GUE, READY};
use lb_common::be::Be16;
use lb_common::gue;
use lb_common::slot::{Slot, TRACKED, of_hash};
use lb_common::stop::Stop;
use lb_tests::model::Verdict;
use lb_userspace::state::diff::Op;

use crate::fixture::{Fixture, Want, expected, flow_hash, request, wrapped_with};
use crate::frame::{Ip, TCP, UDP, VLAN, ip, parse};
use crate::world::entry;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Four backends of each family: 1, 11, 12, 13 over IPv4 and 2, 21, 22, 23 over IPv6.
fn fixture(flags: u16) -> Fixture {
    Fixture::with(|world, [ingress, _]| {
        for (index, place) in [(1, 0), (11, 1), (12, 2), (13, 3)] {
            let mut entry = entry(
                parse("10.0.0.5/32"),
                ip(&format!("10.0.1.{}", 1 + place)),
                ingress,
                1500,
            );
            entry.flags |= flags;
            entry.port = Be16::new(gue::PORT);
            world.backend(index, entry);
        }
        for (index, place) in [(2, 0), (21, 1), (22, 2), (23, 3)] {
            let address = format!("fd00:1::{}", 1 + place);
            let mut entry = entry(parse("fd00::5/128"), ip(&address), ingress, 1500);
            entry.flags |= flags;
            entry.port = Be16::new(gue::PORT);
            world.backend(index, entry);
        }
    })
}

/// A segment of [`request`]'s flow with these flags.
fn segment(v6: bool, flags: u8) -> Ip {
    let mut packet = request(v6, TCP);
    packet.payload[13] = flags;
    packet
}

impl Fixture {
    /// Stores the slot of a packet's flow, in the pool of its family.
    fn set(&mut self, packet: &Ip, slot: Slot) {
        let pool = u16::from(packet.src.is_ipv6());
        let number = of_hash(flow_hash(packet));
        self.kernel.maps.set_slot(pool, number, slot);
    }

    fn named(&self, packet: &Ip, tags: &[(u16, u16)], other: Option<u16>) -> Want {
        let (vip, backend) = expected(packet.src.is_ipv6(), packet.proto);
        let address = |index: u16| IpAddr::from(self.world.entry(index).dst);
        Want::Forward {
            verdict: Verdict::Tx,
            vip,
            backend,
            frame: wrapped_with(packet, tags, &[], self.world.entry(backend), other.map(address)),
        }
    }
}

#[test]
fn headers_of_all_kinds() {
    for flags in [GUE, GUE | CHANCE] {
        let fixture = fixture(flags);
        for v6 in [false, true] {
            for proto in [TCP, UDP] {
                let packet = request(v6, proto);
                fixture.check("plain", &packet.frame(), &fixture.named(&packet, &[], None));
                let want = fixture.named(&packet, &[(VLAN, 0xb123)], None);
                fixture.check("one tag", &packet.tagged(0xb123), &want);
            }
        }
    }
}

#[test]
fn who_is_named() {
    let mut fixture = fixture(GUE | CHANCE);
    for (v6, [home, b, c]) in [(false, [1, 11, 12]), (true, [2, 21, 22])] {
        let slot = |current, origin, previous, flags| Slot::new(current, origin, previous, flags);
        for (what, slot, other) in [
            ("untracked", slot(home, home, 0, 0), None),
            ("untracked, another before", slot(home, home, b, 0), Some(b)),
            ("untracked, the same before", slot(home, home, home, 0), None),
            ("tracked, on its way", slot(b, home, c, TRACKED), Some(b)),
            ("tracked, not changed", slot(home, home, 0, TRACKED), None),
            (
                "tracked, not changed, another before",
                slot(home, home, c, TRACKED),
                Some(c),
            ),
        ] {
            let packet = segment(v6, ACK);
            fixture.set(&packet, slot);
            for flags in [ACK, ACK | FIN, RST, ACK | RST, 0] {
                let packet = segment(v6, flags);
                let want = fixture.named(&packet, &[], other);
                fixture.check(&format!("{what}, flags {flags}"), &packet.frame(), &want);
                let want = fixture.named(&packet, &[(VLAN, 7)], other);
                fixture.check(&format!("{what}, tagged"), &packet.tagged(7), &want);
            }
            if slot.is_tracked() {
                continue;
            }
            for flags in [SYN, SYN | ACK, SYN | FIN] {
                let packet = segment(v6, flags);
                let want = fixture.named(&packet, &[], None);
                fixture.check(&format!("{what}, flags {flags}"), &packet.frame(), &want);
            }
        }
        let packet = request(v6, UDP);
        fixture.set(&packet, Slot::new(home, home, b, 0));
        fixture.check("UDP", &packet.frame(), &fixture.named(&packet, &[], None));
    }
}

#[test]
fn who_is_not_named() {
    for v6 in [false, true] {
        let (home, b) = if v6 { (2, 21) } else { (1, 11) };
        let change = |what: &str, edit: fn(&mut lb_common::backend::Entry)| {
            let mut fixture = fixture(GUE | CHANCE);
            let mut contents = fixture.world.contents.clone();
            edit(&mut contents.backends.get_mut(&b).expect("it is there").entry);
            let op = Op::SetBackend {
                index: b,
                backend: Box::new(contents.backends[&b]),
                new: false,
            };
            fixture.kernel.maps.apply(&op).expect("it is written");
            let packet = segment(v6, ACK);
            fixture.set(&packet, Slot::new(home, home, b, 0));
            fixture.check(what, &packet.frame(), &fixture.named(&packet, &[], None));
        };
        change("dead", |entry| entry.flags |= DEAD);
        change("not ready", |entry| entry.flags &= !READY);
        change("no second chance", |entry| entry.flags &= !CHANCE);
        change("IP in IP", |entry| entry.flags &= !(GUE | CHANCE));
        change("another port", |entry| entry.port = Be16::new(6081));
        // Beyond the map, or never written.
        let mut fixture = fixture(GUE | CHANCE);
        for nobody in [60, 5000, u16::MAX] {
            let packet = segment(v6, ACK);
            fixture.set(&packet, Slot::new(home, home, nobody, 0));
            fixture.check("nobody", &packet.frame(), &fixture.named(&packet, &[], None));
        }
        let mut fixture = self::fixture(GUE);
        let packet = segment(v6, ACK);
        fixture.set(&packet, Slot::new(home, home, b, 0));
        fixture.check(
            "without second chance",
            &packet.frame(),
            &fixture.named(&packet, &[], None),
        );
    }
}

/// All packets to a backend have room for the name of another one, those that carry none as well.
#[test]
fn room_to_the_byte() {
    for (flags, most) in [(GUE, [1468, 1448]), (GUE | CHANCE, [1460, 1428])] {
        let mut fixture = fixture(flags);
        for v6 in [false, true] {
            let (home, b) = if v6 { (2, 21) } else { (1, 11) };
            let most = most[usize::from(v6)];
            for previous in [0, b] {
                let mut packet = segment(v6, ACK);
                fixture.set(&packet, Slot::new(home, home, previous, 0));
                let header = packet.bytes().len() - packet.payload.len();
                packet.payload.resize(most - header, 9);
                let other = (previous != 0 && flags & CHANCE != 0).then_some(b);
                fixture.check("fits", &packet.frame(), &fixture.named(&packet, &[], other));
                packet.payload.push(9);
                fixture.check("too big", &packet.frame(), &Want::Stop(Stop::TooBig));
            }
        }
    }
}
