//! The outer header, as a pure function of the backend's entry and the inner packet.

use crate::backend::{Entry, OUTER_V6};
use crate::be::{Be16, Be32};
use crate::header::{IPV4_DF, Ipv4, Ipv6, proto};
use crate::{csum, gue};

/// Hop limit of every outer header.
pub const TTL: u8 = 64;

/// What the outer header takes from the inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Length of the inner IP packet, header included, bytes.
    pub len: u16,
    /// DSCP and ECN, both copied (RFC 2983 section 3, RFC 6040 section 4.1).
    pub class: u8,
    /// [`crate::header::proto::IPV4`] or [`crate::header::proto::IPV6`].
    pub proto: u8,
}

impl Inner {
    /// What the outer IP header takes where UDP and GUE headers of `len` bytes follow it.
    #[inline(always)]
    pub const fn in_udp(&self, len: u16) -> Self {
        Self {
            len: self.len.wrapping_add(len),
            class: self.class,
            proto: proto::UDP,
        }
    }
}

/// Length of the outer IP header, bytes.
#[inline(always)]
pub const fn ip_len(entry: &Entry) -> u16 {
    if entry.flags & OUTER_V6 != 0 {
        size_of::<Ipv6>() as u16
    } else {
        size_of::<Ipv4>() as u16
    }
}

/// Length of all that comes before the longest packet to a backend, bytes: the same for each, or the MTU that clients
/// learn would change with every change of a slot.
#[inline(always)]
pub const fn outer_len(entry: &Entry) -> u16 {
    ip_len(entry) + gue::longest(entry)
}

/// Whether the encapsulated packet fits the next hop's MTU.
#[inline(always)]
pub const fn fits(entry: &Entry, inner: &Inner) -> bool {
    inner.len as u32 + outer_len(entry) as u32 <= entry.mtu as u32
}

/// The sum of the words of an outer IPv4 header that are the same for every packet to a backend: version, TTL,
/// *don't fragment* and both addresses, host bits of the source aside.
pub const fn base(src: u32, dst: u32) -> u16 {
    let version = Be16::new(0x4500).raw() as u32;
    let ttl = Be16::new((TTL as u16) << 8).raw() as u32;
    csum::fold(version + ttl + IPV4_DF.raw() as u32 + csum::halves(src) + csum::halves(dst))
}

/// The outer IPv4 header: no options, id 0, *don't fragment* (RFC 6864 section 4.1 allows any id then).
#[inline(always)]
pub const fn ipv4(entry: &Entry, inner: &Inner, hash: u32) -> Ipv4 {
    let total_len = Be16::new(inner.len.wrapping_add(size_of::<Ipv4>() as u16));
    let host_bits = host_bits(entry, hash);
    // In memory the class follows the version and the protocol the TTL: both are the second byte of their word.
    let second_bytes = ((inner.class as u32) << 8) + ((inner.proto as u32) << 8);
    let sum = entry.csum_base as u32 + total_len.raw() as u32 + second_bytes + csum::halves(host_bits);
    Ipv4 {
        version_ihl: 0x45,
        tos: inner.class,
        total_len,
        id: Be16::new(0),
        frag: IPV4_DF,
        ttl: TTL,
        proto: inner.proto,
        csum: !csum::fold(sum),
        src: entry.src.v4_raw() | host_bits,
        dst: entry.dst.v4_raw(),
    }
}

/// The host bits of the outer source. They come from the low end of the hash: its upper half is the slot, so all flows
/// of a backend would share them.
#[inline(always)]
const fn host_bits(entry: &Entry, hash: u32) -> u32 {
    hash.to_be() & entry.entropy
}

/// The outer IPv6 header; the flow label carries the flow's entropy (RFC 6438).
#[inline(always)]
pub const fn ipv6(entry: &Entry, inner: &Inner, hash: u32) -> Ipv6 {
    let [a, b, c, d] = entry.src.0;
    // Word by word: LLVM makes a loop over bytes of an array's copy into a packet.
    let [e, f, g, h] = entry.dst.0;
    Ipv6 {
        version_class_label: Be32::new(6 << 28 | (inner.class as u32) << 20 | hash & 0xf_ffff),
        payload_len: Be16::new(inner.len),
        next: inner.proto,
        hop_limit: TTL,
        src: [a, b, c, d | host_bits(entry, hash)],
        dst: [e, f, g, h],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Addr;
    use crate::backend::{CHANCE, GUE};
    use proptest::prelude::*;

    /// RFC 1071 word by word over the 20 bytes.
    fn checksum_is_right(header: &Ipv4) -> bool {
        let (src, dst) = (header.src.to_ne_bytes(), header.dst.to_ne_bytes());
        let [len, id, frag] = [header.total_len, header.id, header.frag].map(Be16::get);
        let be = |a, b| u32::from(u16::from_be_bytes([a, b]));
        let sum = be(header.version_ihl, header.tos)
            + u32::from(len)
            + u32::from(id)
            + u32::from(frag)
            + be(header.ttl, header.proto)
            + u32::from(u16::from_be(header.csum))
            + be(src[0], src[1])
            + be(src[2], src[3])
            + be(dst[0], dst[1])
            + be(dst[2], dst[3]);
        sum % 0xffff == 0
    }

    fn entry(src: u32, dst: u32, entropy: u32) -> Entry {
        let src = src & !entropy;
        Entry {
            src: Addr::v4(src),
            dst: Addr::v4(dst),
            csum_base: base(src, dst),
            entropy,
            ..Entry::default()
        }
    }

    proptest! {
        #[test]
        fn outer_checksum_is_right(
            src: u32, dst: u32, entropy: u32, hash: u32, len in 20u16..=65_515, class: u8, v6: bool,
        ) {
            let inner = Inner { len, class, proto: if v6 { 41 } else { 4 } };
            let header = ipv4(&entry(src, dst, entropy), &inner, hash);
            prop_assert!(checksum_is_right(&header), "{header:?}");
        }
    }

    #[test]
    fn checksum_of_corner_sums() {
        for (src, dst) in [(0, 0), (u32::MAX, u32::MAX), (0, u32::MAX), (0xffff, 0xffff_0000)] {
            for len in [20, 0xffeb] {
                let inner = Inner {
                    len,
                    class: 0xff,
                    proto: 41,
                };
                let header = ipv4(&entry(src, dst, 0), &inner, u32::MAX);
                assert!(checksum_is_right(&header), "{header:?}");
            }
        }
    }

    #[test]
    fn outer_ipv6_fields() {
        let entry = Entry {
            src: Addr([1, 2, 3, 0]),
            dst: Addr([5, 6, 7, 8]),
            entropy: 0xff00_0000,
            ..Entry::default()
        };
        let header = ipv6(
            &entry,
            &Inner {
                len: 1400,
                class: 0xb9,
                proto: 4,
            },
            0xabcd_ef01,
        );
        assert_eq!(header.version(), 6);
        assert_eq!(header.class(), 0xb9);
        assert_eq!(header.version_class_label.get() & 0xf_ffff, 0xd_ef01);
        assert_eq!(header.payload_len.get(), 1400);
        assert_eq!(
            header.src,
            [1, 2, 3, 0x0100_0000],
            "the last byte of the hash in the last byte of the address"
        );
    }

    #[test]
    fn what_udp_and_gue_take() {
        let entry = |flags| Entry {
            mtu: 1500,
            flags,
            ..Entry::default()
        };
        let (plain, chance) = (GUE, GUE | CHANCE);
        for (flags, most) in [
            (plain, 1468),
            (chance, 1460),
            (plain | OUTER_V6, 1448),
            (chance | OUTER_V6, 1428),
        ] {
            let fits = |len| {
                let inner = Inner {
                    len,
                    class: 0,
                    proto: 4,
                };
                fits(&entry(flags), &inner)
            };
            assert!(fits(most) && !fits(most + 1), "{flags}");
        }
    }

    #[test]
    fn fits_to_the_byte() {
        let v4 = Entry {
            mtu: 1500,
            ..Entry::default()
        };
        let v6 = Entry {
            mtu: 1500,
            flags: OUTER_V6,
            ..Entry::default()
        };
        let inner = |len| Inner {
            len,
            class: 0,
            proto: 4,
        };
        assert!(fits(&v4, &inner(1480)) && !fits(&v4, &inner(1481)));
        assert!(fits(&v6, &inner(1460)) && !fits(&v6, &inner(1461)));
        assert!(!fits(&v4, &inner(u16::MAX)));
    }
}
