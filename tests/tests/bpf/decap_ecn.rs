//! `lb_decap` and congestion marks: figure 4 of RFC 6040, with right checksums.

use lb_common::stop::DecapStop;

use crate::decap::{Decap, NODES, Want, inner, wrap};
use crate::frame::{Ip, TCP, checksum};

/// Not-ECT, ECT(0), ECT(1), CE: the order of the figure.
const FIGURE_ORDER: [u8; 4] = [0b00, 0b10, 0b01, 0b11];

/// Rows by the inner mark, columns by the outer one; `None` = drop.
const FIGURE: [[Option<u8>; 4]; 4] = [
    [Some(0b00), Some(0b00), Some(0b00), None],
    [Some(0b10), Some(0b10), Some(0b01), Some(0b11)],
    [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
    [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
];

fn cases() -> impl Iterator<Item = (u8, u8, Option<u8>)> {
    (0..16).map(|i| (FIGURE_ORDER[i / 4], FIGURE_ORDER[i % 4], FIGURE[i / 4][i % 4]))
}

#[test]
fn figure_4() {
    let decap = Decap::new(&NODES);
    for (before, outside, after) in cases() {
        for src in ["10.0.0.5", "fd00::5"] {
            for v6 in [false, true] {
                for (inner_dscp, outer_dscp) in [(0, 0), (0b1011_1000, 0), (0b1111_1100, 0b0101_0100)] {
                    let inner = Ip {
                        class: inner_dscp | before,
                        ..inner(v6, TCP)
                    };
                    let outer = Ip {
                        class: outer_dscp | outside,
                        ..wrap(src, &inner)
                    };
                    let want = match after {
                        None => Want::Stop(DecapStop::EcnDrop),
                        // A fresh packet, so its checksum is computed, not updated.
                        Some(mark) => Want::Removed(
                            Ip {
                                class: inner_dscp | mark,
                                ..inner.clone()
                            }
                            .frame(),
                        ),
                    };
                    let what = format!("inner {before:02b} outer {outside:02b} from {src}, v6 {v6}");
                    decap.check(&what, &outer.frame(), &want);
                    if let Want::Removed(bytes) = &want {
                        decap.check(&what, &outer.tagged(3), &Want::Removed(retag(bytes)));
                    }
                }
            }
        }
    }
}

/// A plain frame with tag 3.
fn retag(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 3], &frame[12..]].concat()
}

/// All identifications: every checksum, the corners included, is updated rightly.
#[test]
fn checksum_of_every_value() {
    let decap = Decap::new(&NODES);
    for id in 0..=u16::MAX {
        let inner = Ip {
            id,
            class: 0b10,
            ..inner(false, TCP)
        };
        let outer = Ip {
            class: 0b11,
            ..wrap("10.0.0.5", &inner)
        };
        let (_, left) = decap.run(&outer.frame());
        let marked = Ip { class: 0b11, ..inner };
        assert_eq!(checksum(&left[14..34]), 0, "id {id:04x}");
        assert_eq!(left, marked.frame(), "id {id:04x}");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let decap = Decap::new(&NODES);
    let inner = Ip {
        class: 0b10,
        ..inner(false, TCP)
    };
    let mut outer = Ip {
        class: 0b11,
        ..wrap("10.0.0.5", &inner)
    };
    outer.payload[10] ^= 0x40;
    let (_, left) = decap.run(&outer.frame());
    assert_eq!(left[15] & 3, 0b11);
    assert_ne!(
        checksum(&left[14..34]),
        0,
        "the stack must still see that it is broken"
    );
}
