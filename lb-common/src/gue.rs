//! Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue-09 section 3), and the second chance in its private data.
//!
//! After the outer IP header: UDP, the four bytes of [`Header`], and, where a packet names another backend, [`Chance`]
//! with that backend's address. No flags, so no extension fields: whatever the header's length leaves is private data.

use crate::addr::Addr;
use crate::backend::{CHANCE, DEAD, Entry, GUE, OUTER_V6, READY};
use crate::be::{Be16, wire};
use crate::header::{Udp, proto};
use crate::slot::{NO_BACKEND, Slot};

/// The destination port (IANA: `gue`).
pub const PORT: u16 = 6080;

/// The first of the 16,384 source ports: the dynamic ones (RFC 6335 section 6).
pub const FIRST_SOURCE: u16 = 49_152;

wire! {
    /// The fixed part of the header, 4 bytes.
    #[repr(C)]
    pub struct Header {
        /// Two bits of variant, one for control messages, five for the length of what follows in 32-bit words.
        pub control: u8,
        /// The protocol of the packet inside: [`proto::IPV4`] or [`proto::IPV6`].
        pub proto: u8,
        /// Which extension fields follow; we send none and take none.
        pub flags: Be16,
    }
}

wire! {
    /// Private data: what is said of the address that follows it, 4 or 16 bytes of the outer header's family.
    #[repr(C)]
    pub struct Chance {
        /// [`MARK`]: other private data means nothing to us.
        pub mark: Be16,
        /// [`ALTERNATIVE`] or [`SPENT`].
        pub kind: u8,
        /// Zero.
        pub pad: u8,
    }
}

/// How our private data begins.
pub const MARK: Be16 = Be16::new(0x7a1d);
/// The address is of the backend to ask where this one has no such connection.
pub const ALTERNATIVE: u8 = 1;
/// The address is of the backend that had no such connection: this packet is not sent on again.
pub const SPENT: u8 = 2;

const _: () = assert!(size_of::<Header>() == 4);
const _: () = assert!(size_of::<Chance>() == 4);

/// Length of the private data that names a backend, bytes.
#[inline(always)]
pub const fn chance_len(v6: bool) -> u16 {
    size_of::<Chance>() as u16 + if v6 { 16 } else { 4 }
}

/// Length of UDP and GUE headers of a packet that names no other backend, bytes.
pub const PLAIN: u16 = (size_of::<Udp>() + size_of::<Header>()) as u16;

/// Length of UDP and GUE headers of the longest packet to a backend, bytes; 0 where GUE isn't spoken.
#[inline(always)]
pub const fn longest(entry: &Entry) -> u16 {
    match entry.flags & (GUE | CHANCE) {
        0 | CHANCE => 0,
        GUE => PLAIN,
        _ => PLAIN + chance_len(entry.flags & OUTER_V6 != 0),
    }
}

/// The UDP header of `len` bytes, itself included. No checksum, over IPv6 neither (RFC 6935): the packet inside has its own, and a header that was
/// damaged on the way finds no connection, or an address that isn't allowed (RFC 6936 section 3.1).
///
/// The port's entropy comes from the low end of the hash: its upper half is the slot, which is the same for all flows of
/// a backend.
#[inline(always)]
pub const fn udp(entry: &Entry, len: u16, hash: u32) -> Udp {
    Udp {
        src: Be16::new(FIRST_SOURCE | hash as u16 & !FIRST_SOURCE),
        dst: entry.port,
        len: Be16::new(len),
        csum: 0,
    }
}

/// The header around a packet of this protocol, with so many bytes of private data behind it.
#[inline(always)]
pub const fn header(proto: u8, private: u16) -> Header {
    Header {
        control: (private / 4) as u8,
        proto,
        flags: Be16::new(0),
    }
}

impl Header {
    /// Bytes after it, of extension fields and private data.
    #[inline(always)]
    pub const fn rest(self) -> usize {
        (self.control & 0x1f) as usize * 4
    }

    /// Whether it is variant 0, no control message, without extension fields, and around an IP packet.
    #[inline(always)]
    pub const fn is_ours(self) -> bool {
        self.control & 0xe0 == 0 && self.flags.raw() == 0 && matches!(self.proto, proto::IPV4 | proto::IPV6)
    }
}

impl Chance {
    /// Private data of this kind.
    #[inline(always)]
    pub const fn new(kind: u8) -> Self {
        Self {
            mark: MARK,
            kind,
            pad: 0,
        }
    }

    /// Whether it names a backend that may still be asked.
    #[inline(always)]
    pub const fn is_open(self) -> bool {
        self.mark.raw() == MARK.raw() && self.kind == ALTERNATIVE && self.pad == 0
    }
}

/// Which other backend may have a flow whose packet goes to `picked`: in a tracked slot the other one of `origin` and
/// `current`, and where that is the same one, or the slot untracked, `previous`. [`NO_BACKEND`] where there is none.
#[inline(always)]
pub const fn alternative(slot: Slot, picked: u16) -> u16 {
    let (current, origin) = (slot.current(), slot.origin());
    let other = if !slot.is_tracked() || current == origin && current == picked {
        slot.previous()
    } else if current == picked {
        origin
    } else {
        current
    };
    if other == picked { NO_BACKEND } else { other }
}

/// The address that a packet to `entry` names when `other` is its [`alternative`]; `None` where nobody could send it on:
/// one of them is not asked so, they are of two families or ports, or the other one is dead or unknown.
#[inline(always)]
pub const fn address(entry: &Entry, other: &Entry) -> Option<Addr> {
    const SAME: u16 = GUE | CHANCE | OUTER_V6;
    let alike = entry.flags & SAME == other.flags & SAME && entry.port.raw() == other.port.raw();
    if alike && entry.flags & CHANCE != 0 && other.flags & (READY | DEAD) == READY {
        Some(other.dst)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::TRACKED;

    #[test]
    fn source_ports_are_dynamic_and_spread() {
        let entry = Entry {
            port: Be16::new(PORT),
            ..Entry::default()
        };
        for (hash, port) in [
            (0, 49_152),
            (0xffff_0000, 49_152),
            (0x3fff, 65_535),
            (0x1234_c001, 49_153),
            (u32::MAX, 65_535),
        ] {
            let udp = udp(&entry, 112, hash);
            assert_eq!((udp.src.get(), udp.dst.get(), udp.len.get()), (port, 6080, 112));
        }
    }

    #[test]
    fn who_else_may_have_a_flow() {
        let (a, b, c) = (1, 2, 3);
        let slot = |current, origin, previous, flags| Slot::new(current, origin, previous, flags);
        for (slot, picked, other) in [
            (slot(a, a, 0, 0), a, NO_BACKEND),
            (slot(a, a, b, 0), a, b),
            (slot(a, a, a, 0), a, NO_BACKEND),
            // No entry: at origin, and current may know it.
            (slot(b, a, c, TRACKED), a, b),
            // An entry, or a VIP that isn't tracked.
            (slot(b, a, c, TRACKED), b, a),
            // An entry of a change before the last.
            (slot(b, a, c, TRACKED), c, b),
            (slot(b, b, a, TRACKED), c, b),
            (slot(b, b, a, TRACKED), b, a),
            (slot(b, b, 0, TRACKED), b, NO_BACKEND),
            (slot(b, 0, 0, TRACKED), b, NO_BACKEND),
        ] {
            assert_eq!(alternative(slot, picked), other, "{slot:?}, {picked}");
        }
    }

    #[test]
    fn who_is_named() {
        let entry = |flags, port| Entry {
            flags,
            port: Be16::new(port),
            dst: Addr::v4(7),
            ..Entry::default()
        };
        let all = READY | GUE | CHANCE;
        let named = |a, b| address(&a, &b).is_some();
        assert!(named(entry(all, 6080), entry(all, 6080)));
        assert!(named(entry(all | OUTER_V6, 6080), entry(all | OUTER_V6, 6080)));
        for flags in [all | DEAD, all & !READY, all & !CHANCE, READY, all | OUTER_V6, 0] {
            assert!(!named(entry(all, 6080), entry(flags, 6080)), "{flags}");
        }
        assert!(!named(entry(all, 6080), entry(all, 6081)));
        assert!(!named(entry(READY, 0), entry(READY, 0)));
        assert!(!named(entry(READY | GUE, 6080), entry(READY | GUE, 6080)));
    }

    #[test]
    fn lengths() {
        let longest = |flags| {
            longest(&Entry {
                flags,
                ..Entry::default()
            })
        };
        assert_eq!([longest(0), longest(OUTER_V6), longest(CHANCE)], [0; 3]);
        assert_eq!([longest(GUE), longest(GUE | OUTER_V6)], [12; 2]);
        assert_eq!(
            [longest(GUE | CHANCE), longest(GUE | CHANCE | OUTER_V6)],
            [20, 32]
        );
        let header = header(41, 20);
        assert_eq!((header.control, header.proto, header.rest()), (5, 41, 20));
        assert!(header.is_ours());
        for control in [0x20, 0x40, 0x80, 0xc0] {
            assert!(!Header { control, ..header }.is_ours());
        }
    }
}
