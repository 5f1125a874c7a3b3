//! Slot and backend: the hash decides, and what it decides on may be missing.

use lb_common::backend::READY;
use lb_common::slot::SLOTS;
use lb_common::stop::Stop;

use crate::fixture::{BACKEND_V4, Fixture, Want, flow_hash, request};
use crate::frame::{Ip, TCP, UDP, ip, parse, transport};
use crate::world::entry;

/// Backends of the spread pool, from index 10: neighbouring slots have different ones.
const SPREAD: usize = 37;

fn spread(slot: usize) -> u16 {
    10 + (slot % SPREAD) as u16
}

fn flows() -> impl Iterator<Item = Ip> {
    (0u16..400).map(|i| {
        let (v6, proto) = (i & 1 == 1, if i & 2 == 2 { UDP } else { TCP });
        let last = i % 250 + 1;
        let src = if v6 {
            format!("2001:db8:9:{i:x}::{last:x}")
        } else {
            format!("198.51.100.{last}")
        };
        Ip {
            src: ip(&src),
            payload: transport(proto, 1024 + i.wrapping_mul(151), 80),
            ..request(v6, proto)
        }
    })
}

#[test]
fn a_flow_has_the_slot_of_its_keyed_hash() {
    let fixture = Fixture::with(|world, [ingress, _]| {
        for i in 0..SPREAD as u16 {
            let (src, dst) = (parse("10.0.0.5/32"), ip(&format!("10.0.2.{i}")));
            world.backend(10 + i, entry(src, dst, ingress, 1500));
        }
        world.pool(0, spread);
        // Another arrangement, so that a mix-up of pools shows.
        world.pool(1, |slot| spread(SLOTS - 1 - slot));
    });
    let mut seen = std::collections::BTreeSet::new();
    for packet in flows() {
        let slot = (flow_hash(&packet) >> 16) as usize;
        let v6 = packet.src.is_ipv6();
        let backend = if v6 {
            spread(SLOTS - 1 - slot)
        } else {
            spread(slot)
        };
        let vip = u16::from(v6) * 2 + u16::from(packet.proto == UDP);
        let want = fixture.forward(&packet, vip, backend);
        fixture.check(&format!("slot {slot}"), &packet.frame(), &want);
        seen.insert(backend);
    }
    assert_eq!(seen.len(), SPREAD, "400 flows should reach every backend");
}

#[test]
fn the_first_and_the_last_slot() {
    // Only the slot of one flow names a backend; found by trying ports.
    let base = request(false, TCP);
    let with_port = |port| Ip {
        payload: transport(TCP, port, 80),
        ..base.clone()
    };
    let target = |slot: usize| {
        (1..=65_535)
            .map(with_port)
            .find(|p| flow_hash(p) as usize >> 16 == slot)
    };
    // A port reaches any one slot with probability 63 %, so take the lowest and highest slots that one reaches.
    let low = (0..SLOTS).find_map(|s| Some((s, target(s)?))).expect("some slot");
    let high = (0..SLOTS)
        .rev()
        .find_map(|s| Some((s, target(s)?)))
        .expect("some slot");
    for (slot, packet) in [low, high] {
        let fixture = Fixture::with(|world, _| world.pool(0, |s| if s == slot { BACKEND_V4 } else { 0 }));
        let want = fixture.forward(&packet, 0, BACKEND_V4);
        fixture.check(&format!("slot {slot}"), &packet.frame(), &want);
    }
}

#[test]
fn a_slot_without_backend() {
    let fixture = Fixture::with(|world, _| {
        world.pool(0, |_| 0);
        world.contents.rings.remove(&1);
        world.vip("192.0.2.60", 80, TCP, 3);
        // A pool that the map has no room for.
        world.vip("192.0.2.61", 80, TCP, 4);
        world.vip("192.0.2.62", 80, TCP, 65_535);
    });
    for dst in ["192.0.2.10", "192.0.2.60", "192.0.2.61", "192.0.2.62"] {
        let packet = Ip {
            dst: ip(dst),
            ..request(false, TCP)
        };
        fixture.check(dst, &packet.frame(), &Want::Stop(Stop::NoBackend));
    }
    fixture.check("v6", &request(true, UDP).frame(), &Want::Stop(Stop::NoBackend));
}

#[test]
fn a_backend_that_is_not_ready() {
    let fixture = Fixture::with(|world, _| {
        // Not ready, never written, beyond the map.
        let backend = world.contents.backends.get_mut(&BACKEND_V4).expect("it is there");
        backend.entry.flags &= !READY;
        world.pool(1, |_| 63);
        world.pool(2, |_| 64);
        world.pool(3, |_| 65_535);
        world.vip("192.0.2.70", 80, TCP, 2);
        world.vip("192.0.2.71", 80, TCP, 3);
    });
    fixture.check(
        "not ready",
        &request(false, TCP).frame(),
        &Want::Stop(Stop::NotReady),
    );
    fixture.check(
        "not written",
        &request(true, TCP).frame(),
        &Want::Stop(Stop::NotReady),
    );
    for dst in ["192.0.2.70", "192.0.2.71"] {
        let packet = Ip {
            dst: ip(dst),
            ..request(false, TCP)
        };
        fixture.check("beyond the map", &packet.frame(), &Want::Stop(Stop::NotReady));
    }
}
