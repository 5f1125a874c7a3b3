//! Frames cut off at every length: never forwarded, never changed, never anything but passed.

use lb_common::stop::Stop;

use crate::fixture::{Fixture, Want, expected, request};
use crate::frame::{Ip, TCP, UDP, VLAN, tagged};
use crate::kernel::SHORTEST;

/// The reason for which a frame of `len` bytes stops, its IP header starting at `link`.
fn reason(len: usize, link: usize) -> Stop {
    if len < link { Stop::NotIp } else { Stop::Malformed }
}

fn cut(fixture: &Fixture, packet: &Ip, tags: &[(u16, u16)], vip: u16, backend: u16) {
    let frame = tagged(tags, packet.kind(), &packet.bytes());
    let link = 14 + 4 * tags.len();
    for len in SHORTEST..frame.len() {
        fixture.check(
            &format!("{len} of {} bytes", frame.len()),
            &frame[..len],
            &Want::Stop(reason(len, link)),
        );
    }
    let want = fixture.forward_framed(packet, tags, &[], vip, backend);
    fixture.check("the whole frame", &frame, &want);
}

#[test]
fn at_every_length() {
    let fixture = Fixture::new();
    for v6 in [false, true] {
        for proto in [TCP, UDP] {
            let (vip, backend) = expected(v6, proto);
            cut(&fixture, &request(v6, proto), &[], vip, backend);
            cut(&fixture, &request(v6, proto), &[(VLAN, 0x6005)], vip, backend);
        }
    }
}

#[test]
fn with_options() {
    let fixture = Fixture::new();
    let mut packet = request(false, TCP);
    packet.options = vec![1; 40];
    let (vip, backend) = expected(false, TCP);
    cut(&fixture, &packet, &[], vip, backend);
}
