//! A flow's 5-tuple as the client sends it.

use crate::addr::Addr;
use crate::be::Be16;
use crate::hash;

/// The 5-tuple of a flow: client to VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tuple {
    /// The client.
    pub src: Addr,
    /// The VIP.
    pub dst: Addr,
    /// The client's port.
    pub sport: Be16,
    /// The VIP's port.
    pub dport: Be16,
    /// IP protocol number.
    pub proto: u8,
}

impl Tuple {
    /// What the flow hash reads.
    #[inline(always)]
    pub const fn words(&self) -> [u32; hash::WORDS] {
        let ports = self.sport.raw() as u32 | (self.dport.raw() as u32) << 16;
        let (s, d) = (&self.src.0, &self.dst.0);
        [
            s[0],
            s[1],
            s[2],
            s[3],
            d[0],
            d[1],
            d[2],
            d[3],
            ports,
            self.proto as u32,
        ]
    }

    /// The keyed hash of this flow.
    #[inline(always)]
    pub fn hash(&self, key: &hash::Key) -> u32 {
        hash::flow(key, &self.words())
    }
}
