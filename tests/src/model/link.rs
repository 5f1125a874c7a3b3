//! The link layer: Ethernet (IEEE 802.3) and VLAN tags (IEEE 802.1Q).

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a customer VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a service VLAN tag.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// A frame, split behind its first tag.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// The tag's four bytes as they lie in the frame: `81 00` and the tag control information. Empty without a tag.
    pub tag: &'a [u8],
    /// EtherType of what follows.
    pub kind: u16,
    /// What follows, padding included.
    pub payload: &'a [u8],
}

/// The 16-bit number at `at`, in network order.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

impl<'a> Link<'a> {
    /// Splits a frame; `None` where it ends before its EtherType.
    pub fn split(frame: &'a [u8]) -> Option<Self> {
        let tagged = be16(frame, 12)? == VLAN;
        let end = if tagged { 18 } else { 14 };
        Some(Self {
            tag: frame.get(12..end - 2)?,
            kind: be16(frame, end - 2)?,
            payload: &frame[end..],
        })
    }

    /// A frame with this one's tag and other addresses, EtherType and payload.
    pub fn rebuild(&self, destination: &[u8], source: &[u8], kind: u16, payload: &[&[u8]]) -> Vec<u8> {
        [
            destination,
            source,
            self.tag,
            &kind.to_be_bytes(),
            &payload.concat(),
        ]
        .concat()
    }
}
