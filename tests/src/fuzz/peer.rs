//! What comes from a peer, or from somebody who would be one, beside messages and flow records.

use lb_userspace::peer::pki;
use lb_userspace::peer::wire::{
    FRAME_HEADER, FRAME_MAX, HEARTBEAT_MAX, decode, encode, frame_header, frame_of,
};

/// Any bytes are a heartbeat or an error, the head of a frame that may be kept or an error, a certificate of a group or none.
///
/// # Panics
/// Where what was understood doesn't say the same when it is said again, or is more than is ever kept.
pub fn peer(bytes: &[u8]) {
    if let Ok(heartbeat) = decode(bytes) {
        assert!(bytes.len() <= HEARTBEAT_MAX);
        let again = encode(heartbeat.sequence, &heartbeat.facts);
        assert!(bytes.starts_with(&again), "{heartbeat:?}");
        assert_eq!(decode(&again), Ok(heartbeat));
    }
    for head in bytes.windows(FRAME_HEADER) {
        let head: [u8; FRAME_HEADER] = head.try_into().expect("as many bytes");
        if let Ok((channel, length)) = frame_of(head) {
            assert!(length <= FRAME_MAX);
            assert_eq!(frame_header(channel, length), Ok(head));
        }
    }
    if let Some(named) = pki::named(bytes) {
        assert!(!named.group.contains('.') || named.node.is_none(), "{named:?}");
    }
}
