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
/// The longest IPv4 header, and room to see that a message is too long.
const ROOM: usize = 64;

pub(super) async fn ask(way: &Way, to: IpAddr) -> Result<(), Outcome> {
    ask_with(way, to, TOKEN).await
}

/// With so many bytes after the header, at least those of the token.
pub(super) async fn ask_with(way: &Way, to: IpAddr, bytes: usize) -> Result<(), Outcome> {
    let fault = |error| failed(&error);
    let (socket, has_header) = way.icmp(to).await.map_err(fault)?;
    let mut token = [0; TOKEN];
    rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed(&errno.into()))?;
    let bytes = bytes.max(TOKEN);
    socket.send(&request(to, token, bytes)).await.map_err(fault)?;
    let mut packet = vec![0; HEADER + bytes + ROOM];
    loop {
        // A raw socket also sees replies to others, and other messages of this host.
        let length = socket.recv(&mut packet).await.map_err(fault)?;
        if is_reply(to, &packet[..length], has_header, (token, bytes)) {
            return Ok(());
        }
    }
}

fn request(to: IpAddr, token: [u8; TOKEN], bytes: usize) -> Vec<u8> {
    let mut message = vec![0; HEADER + bytes];
    message[0] = if to.is_ipv4() { REQUEST.0 } else { REQUEST.1 };
    // Identifier: of a raw socket; for a ping socket the kernel writes its own.
    message[4..6].copy_from_slice(&token[..2]);
    message[7] = 1;
    message[HEADER..HEADER + TOKEN].copy_from_slice(&token);
    if to.is_ipv4() {
        // For IPv6 the kernel does it: the pseudo-header holds the source address.
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

fn is_reply(to: IpAddr, packet: &[u8], has_header: bool, (token, bytes): ([u8; TOKEN], usize)) -> bool {
    let start = match packet.first() {
        Some(first) if has_header => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if to.is_ipv4() { REPLY.0 } else { REPLY.1 };
    packet.get(start..).is_some_and(|message| {
        message.len() == HEADER + bytes
            && message[..2] == [kind, 0]
            && message[HEADER..HEADER + TOKEN] == token
    })
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
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
        assert_eq!(checksum(&request(V4, TOKEN, 16)), 0);
        assert_eq!(checksum(&request(V4, TOKEN, 1471)), 0);
        assert_eq!(request(V6, TOKEN, 16)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let mut reply = request(V4, TOKEN, 16);
        assert!(
            !is_reply(V4, &reply, false, (TOKEN, 16)),
            "the request itself, as on loopback"
        );
        reply[0] = 0;
        assert!(is_reply(V4, &reply, false, (TOKEN, 16)));
        assert!(!is_reply(V4, &reply, false, ([8; super::TOKEN], 16)));
        assert!(!is_reply(V4, &reply[..20], false, (TOKEN, 16)));
        let mut packet = [0; 24].to_vec();
        packet[0] = 0x46;
        packet.extend(&reply);
        assert!(is_reply(V4, &packet, true, (TOKEN, 16)));
        assert!(!is_reply(V4, &packet[..10], true, (TOKEN, 16)));
        assert!(!is_reply(V4, &[], true, (TOKEN, 16)));
        reply[0] = 129;
        assert!(is_reply(V6, &reply, false, (TOKEN, 16)));
    }
}
