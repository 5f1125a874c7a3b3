//! One address type for both families.

use crate::be::wire;

wire! {
    /// An IPv6 address, or an IPv4 address in its v4-mapped form (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
    ///
    /// Four native words over the 16 bytes in network order, so that a key with an address in it is aligned to
    /// 4 bytes and the hash reads words.
    #[derive(Default, Hash, PartialOrd, Ord)]
    #[repr(transparent)]
    pub struct Addr(pub [u32; 4]);
}

/// The third word of a v4-mapped address: `00 00 ff ff` in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// From the four bytes of an IPv4 address, read as a native word.
    #[inline(always)]
    pub const fn v4(raw: u32) -> Self {
        Self([0, 0, MAPPED, raw])
    }

    /// From the sixteen bytes of an IPv6 address in network order.
    pub const fn v6(bytes: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut i = 0;
        while i < 4 {
            words[i] =
                u32::from_ne_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]);
            i += 1;
        }
        Self(words)
    }

    /// The sixteen bytes in network order.
    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// The IPv4 address as a native word over its bytes; what it returns for an IPv6 address means nothing.
    #[inline(always)]
    pub const fn v4_raw(self) -> u32 {
        self.0[3]
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Self::V4(core::net::Ipv4Addr::from(addr.v4_raw().to_ne_bytes()))
        } else {
            Self::V6(core::net::Ipv6Addr::from(addr.bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    #[test]
    fn both_families_round_trip() {
        for text in ["10.1.2.3", "0.0.0.0", "2001:db8::1", "::1", "ffff::"] {
            let ip: IpAddr = text.parse().expect("an address");
            let addr = Addr::from(ip);
            assert_eq!(IpAddr::from(addr), ip);
            assert_eq!(addr.is_v4(), ip.is_ipv4());
        }
        assert_eq!(
            Addr::from("10.1.2.3".parse::<IpAddr>().expect("v4")).bytes()[10..],
            [255, 255, 10, 1, 2, 3]
        );
    }
}
