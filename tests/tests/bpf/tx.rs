//! Where a packet leaves.

use lb_common::stop::Stop;
use lb_tests::model::Verdict;

use crate::fixture::{BACKEND_V4, BACKEND_V6, Fixture, Want, expected, request};
use crate::frame::{TCP, UDP, ip, parse};
use crate::world::entry;

#[test]
fn back_by_the_same_interface() {
    let fixture = Fixture::new();
    for v6 in [false, true] {
        let packet = request(v6, TCP);
        let (vip, backend) = expected(v6, TCP);
        let want = fixture.forward(&packet, vip, backend);
        assert!(matches!(
            want,
            Want::Forward {
                verdict: Verdict::Tx,
                ..
            }
        ));
        fixture.check("transmit", &packet.frame(), &want);
    }
}

#[test]
fn to_another_interface() {
    let fixture = Fixture::with(|world, [_, other]| {
        world.device(other);
        for (index, src, dst) in [
            (BACKEND_V4, "10.0.0.5/32", "10.0.1.1"),
            (BACKEND_V6, "fd00::5/128", "fd00:1::1"),
        ] {
            world.backend(index, entry(parse(src), ip(dst), other, 1500));
        }
    });
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let packet = request(v6, proto);
            let (vip, backend) = expected(v6, proto);
            let want = fixture.forward(&packet, vip, backend);
            assert!(matches!(
                want,
                Want::Forward {
                    verdict: Verdict::Redirect,
                    ..
                }
            ));
            fixture.check("redirect", &packet.frame(), &want);
        }
    }
}

#[test]
fn the_same_interface_needs_no_device() {
    // The ingress is in the map too, as the agent puts it there: still a plain transmit.
    let fixture = Fixture::with(|world, [ingress, _]| world.device(ingress));
    let packet = request(false, TCP);
    let want = fixture.forward(&packet, 0, BACKEND_V4);
    assert!(matches!(
        want,
        Want::Forward {
            verdict: Verdict::Tx,
            ..
        }
    ));
    fixture.check("transmit", &packet.frame(), &want);
}

#[test]
fn an_interface_that_is_not_in_the_map() {
    let fixture = Fixture::with(|world, [ingress, other]| {
        world.device(ingress);
        world.backend(
            BACKEND_V4,
            entry(parse("10.0.0.5/32"), ip("10.0.1.1"), other, 1500),
        );
        world.backend(
            BACKEND_V6,
            entry(parse("fd00::5/128"), ip("fd00:1::1"), 9999, 1500),
        );
    });
    // `check` compares all counters: nothing is counted as forwarded.
    fixture.check("v4", &request(false, TCP).frame(), &Want::Stop(Stop::NoDevice));
    fixture.check("v6", &request(true, TCP).frame(), &Want::Stop(Stop::NoDevice));
}
