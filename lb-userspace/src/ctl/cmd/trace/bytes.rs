//! A frame as bytes: hexadecimal digits, and headers in words.

use etherparse::{Ipv4Header, Ipv6Header};

use crate::ctl::name;
use crate::trace::Link;

/// Bytes on a line.
const LINE: usize = 16;

/// Lines of bytes, each with its offset in the frame.
pub(super) fn dump(bytes: &[u8], offset: usize) -> Vec<String> {
    let line = |(i, bytes): (usize, &[u8])| {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", offset + i * LINE, digits.join(" "))
    };
    bytes.chunks(LINE).enumerate().map(line).collect()
}

/// Bytes as digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// DSCP and ECN in words (RFC 2474, RFC 3168).
pub(super) fn class(class: u8) -> String {
    format!("DSCP {}, ECN {}", class >> 2, ecn(class))
}

/// The ECN field in words.
pub(super) fn ecn(class: u8) -> &'static str {
    match class & 3 {
        0 => "Not-ECT",
        1 => "ECT(1)",
        2 => "ECT(0)",
        _ => "CE",
    }
}

/// A link layer in words.
pub(super) fn ethernet(link: &Link) -> String {
    let tag = link.tag.map_or(String::new(), |tci| {
        format!(", VLAN {} (priority {})", tci & 0xfff, tci >> 13)
    });
    format!(
        "to {}, from {}{tag}, EtherType {:#06x}",
        name::mac(&link.destination),
        name::mac(&link.source),
        link.kind
    )
}

/// An outer IP header in words, read from the bytes that the program left.
pub(super) fn outer(bytes: &[u8]) -> String {
    let protocol = |number: u8| match number {
        4 => "protocol 4 (IPv4)".to_owned(),
        41 => "protocol 41 (IPv6)".to_owned(),
        other => format!("protocol {other}"),
    };
    if let Ok((ip, _)) = Ipv4Header::from_slice(bytes) {
        let checksum = if ip.calc_header_checksum() == ip.header_checksum {
            "checksum right"
        } else {
            "CHECKSUM WRONG"
        };
        format!(
            "IPv4 {} → {}, {}, {} bytes, {}, TTL {}, {checksum}",
            std::net::Ipv4Addr::from(ip.source),
            std::net::Ipv4Addr::from(ip.destination),
            protocol(ip.protocol.0),
            ip.total_len,
            if ip.dont_fragment {
                "don't fragment"
            } else {
                "may be fragmented"
            },
            ip.time_to_live,
        )
    } else if let Ok((ip, _)) = Ipv6Header::from_slice(bytes) {
        format!(
            "IPv6 {} → {}, {}, payload {} bytes, flow label {:#07x}, hop limit {}",
            std::net::Ipv6Addr::from(ip.source),
            std::net::Ipv6Addr::from(ip.destination),
            protocol(ip.next_header.0),
            ip.payload_length,
            ip.flow_label.value(),
            ip.hop_limit,
        )
    } else {
        "no IP header".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_their_offset_in_the_frame() {
        let bytes: Vec<u8> = (0..18).collect();
        assert_eq!(
            dump(&bytes, 14),
            [
                "000e  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f",
                "001e  10 11"
            ]
        );
        assert_eq!(hex(&[0, 0xab]), "00ab");
        assert_eq!(class(0xb9), "DSCP 46, ECN ECT(1)");
    }

    #[test]
    fn an_outer_header_in_words() {
        let mut header = [
            0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        assert!(outer(&header).ends_with("TTL 64, CHECKSUM WRONG"));
        header[10..12].copy_from_slice(&[0x26, 0xbc]);
        assert_eq!(
            outer(&header),
            "IPv4 10.0.0.1 → 10.0.0.2, protocol 4 (IPv4), 60 bytes, don't fragment, TTL 64, checksum right"
        );
        assert_eq!(outer(&header[..19]), "no IP header");
        let mut header = [0; 40];
        header[..8].copy_from_slice(&[0x60, 0x0a, 0xbc, 0xde, 0, 60, 41, 64]);
        assert_eq!(
            outer(&header),
            "IPv6 :: → ::, protocol 41 (IPv6), payload 60 bytes, flow label 0xabcde, hop limit 64"
        );
    }
}
