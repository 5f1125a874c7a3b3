//! An echo request and its reply (RFC 792, RFC 4443 section 4).

use std::net::IpAddr;

use super::{Outcome, Way, failed};

/// Type of an echo request, IPv4 and IPv6.
const REQUEST: (u8, u8) = (8, 128);
/// Type of an echo reply.
const REPLY: (u8, u8) = (0, 129);
/// Type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// Random bytes by which a reply is known: the kernel may choose the identifier.
const TOKEN: usize = 16;
/// Longer than a reply with the longest IPv4 header.
const ROOM: usize = 256;

pub(super) async fn ask(way: &Way, to: IpAddr) -> Result<(), Outcome> {
    let fault = |error| failed(&error);
    let (socket, has_header) = way.icmp(to).await.map_err(fault)?;
    let mut token = [0; TOKEN];
    rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed(&errno.into()))?;
    socket.send(&request(to, token)).await.map_err(fault)?;
    let mut packet = [0; ROOM];
    loop {
        // A raw socket also sees replies to others, and other messages of this host.
        let length = socket.recv(&mut packet).await.map_err(fault)?;
        if is_reply(to, &packet[..length], has_header, token) {
            return Ok(());
        }
    }
}

fn request(to: IpAddr, token: [u8; TOKEN]) -> [u8; HEADER + TOKEN] {
    let mut message = [0; HEADER + TOKEN];
    message[0] = if to.is_ipv4() { REQUEST.0 } else { REQUEST.1 };
    // Identifier: of a raw socket; for a ping socket the kernel writes its own.
    message[4..6].copy_from_slice(&token[..2]);
    message[7] = 1;
    message[HEADER..].copy_from_slice(&token);
    if to.is_ipv4() {
        // For IPv6 the kernel does it: the pseudo-header holds the source address.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn is_reply(to: IpAddr, packet: &[u8], has_header: bool, token: [u8; TOKEN]) -> bool {
    let start = match packet.first() {
        Some(first) if has_header => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if to.is_ipv4() { REPLY.0 } else { REPLY.1 };
    packet.get(start..).is_some_and(|message| {
        message.len() == HEADER + TOKEN && message[..2] == [kind, 0] && message[HEADER..] == token
    })
}

/// RFC 1071, over an even number of bytes.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: [u8; super::TOKEN] = [7; super::TOKEN];
    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_sums_up_to_nothing() {
        assert_eq!(checksum(&request(V4, TOKEN)), 0);
        assert_eq!(request(V6, TOKEN)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let mut reply = request(V4, TOKEN);
        assert!(
            !is_reply(V4, &reply, false, TOKEN),
            "the request itself, as on loopback"
        );
        reply[0] = 0;
        assert!(is_reply(V4, &reply, false, TOKEN));
        assert!(!is_reply(V4, &reply, false, [8; super::TOKEN]));
        assert!(!is_reply(V4, &reply[..20], false, TOKEN));
        let mut packet = [0; 24].to_vec();
        packet[0] = 0x46;
        packet.extend(reply);
        assert!(is_reply(V4, &packet, true, TOKEN));
        assert!(!is_reply(V4, &packet[..10], true, TOKEN));
        assert!(!is_reply(V4, &[], true, TOKEN));
        reply[0] = 129;
        assert!(is_reply(V6, &reply, false, TOKEN));
    }
}
