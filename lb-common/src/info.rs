//! What `lbctl` shows when the agent is dead: maps that no program reads, written by the agent beside those that
//! one does.

use crate::addr::Addr;
use crate::be::wire;

/// Text of fixed width in a map, padded with zeros.
pub type Text<const N: usize> = [u8; N];

/// Text into a map's field, cut at a character border where it is too long.
pub fn text<const N: usize>(s: &str) -> Text<N> {
    let mut end = s.len().min(N);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = [0; N];
    out[..end].copy_from_slice(&s.as_bytes()[..end]);
    out
}

/// Text out of a map's field; what isn't UTF-8 is cut off.
pub fn untext(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    let bytes = &bytes[..end];
    match core::str::from_utf8(bytes) {
        Ok(s) => s,
        Err(e) => core::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or(""),
    }
}

wire! { masked
    /// The one entry of the map `lb_meta`: what these maps are and whose.
    #[derive(Default)]
    #[repr(C)]
    pub struct Meta {
        /// [`crate::abi::ABI_VERSION`]; 0 = never filled.
        pub abi: u32,
        /// Capacities that the maps were made with.
        pub pools: u32,
        /// The same for VIPs.
        pub vips: u32,
        /// The same for backends.
        pub backends: u32,
        /// The same for tracked flows.
        pub flows: u32,
        /// Entries of `lb_replicas`.
        pub replicas: u32,
        /// How many configurations were applied to these maps, starts of the agent included.
        pub generation: u64,
        /// When it was applied: seconds since 1970.
        pub applied_at: u64,
        /// The group's key. Secret: shown nowhere.
        pub group_key: [u8; 16],
        /// The node's name.
        pub node: Text<32>,
    }
}

wire! {
    /// Value of `lb_pool_info`: pool index → name.
    #[derive(Default)]
    #[repr(C)]
    pub struct Pool {
        /// Empty = the index is free.
        pub name: Text<32>,
    }
}

wire! {
    /// Value of `lb_be_info`: backend index → what the entry of `lb_backends` doesn't say.
    #[repr(C)]
    pub struct Backend {
        /// Stable identity ([`crate::id::stable`]); 0 together with an empty name = the index is free.
        pub id: u64,
        /// Counter of frees, of the last time this index was freed; 0 = never. The index freed longest ago is
        /// taken first.
        pub freed: u64,
        /// Its address.
        pub address: Addr,
        /// Index of its pool.
        pub pool: u16,
        /// Configured weight.
        pub weight: u16,
        /// [`next_hop`].
        pub next_hop: u16,
        /// Zero.
        pub pad: u16,
        /// Its name.
        pub name: Text<32>,
        /// Why there is no next hop.
        pub why: Text<136>,
    }
}

impl Default for Backend {
    fn default() -> Self {
        let addr = Addr([0; 4]);
        Self {
            id: 0,
            freed: 0,
            address: addr,
            pool: 0,
            weight: 0,
            next_hop: 0,
            pad: 0,
            name: [0; 32],
            why: [0; 136],
        }
    }
}

/// States of a backend's next hop.
pub mod next_hop {
    /// Not asked yet.
    pub const UNKNOWN: u16 = 0;
    /// Its slots are its own.
    pub const RESOLVED: u16 = 1;
    /// Its slots are lent to others.
    pub const UNRESOLVED: u16 = 2;

    /// The state in a word.
    pub const fn name(state: u16) -> &'static str {
        match state {
            RESOLVED => "resolved",
            UNRESOLVED => "unresolved",
            _ => "unknown",
        }
    }
}

wire! {
    /// Value of `lb_iface_info`: one attached interface.
    #[derive(Default)]
    #[repr(C)]
    pub struct Interface {
        /// Its index; 0 = unused.
        pub ifindex: u32,
        /// [`mode`].
        pub mode: u32,
        /// Its MTU at start, bytes.
        pub mtu: u32,
        /// Zero.
        pub pad: u32,
        /// Its name.
        pub name: Text<16>,
    }
}

/// How a program is attached.
pub mod mode {
    /// In the driver.
    pub const NATIVE: u32 = 1;
    /// In the kernel's generic layer.
    pub const GENERIC: u32 = 2;

    /// The mode in a word.
    pub const fn name(mode: u32) -> &'static str {
        match mode {
            NATIVE => "native",
            GENERIC => "generic",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_shown() {
        let meta = Meta {
            group_key: [0xab; 16],
            ..Meta::default()
        };
        let shown = format!("{meta:?} {:?}", crate::hash::Key::expand(&meta.group_key));
        assert_eq!(shown, "Meta(masked) Key(masked)");
    }

    #[test]
    fn text_round_trips_and_is_cut_between_characters() {
        assert_eq!(untext(&text::<8>("be1")), "be1");
        assert_eq!(untext(&text::<4>("12345")), "1234");
        assert_eq!(untext(&text::<4>("abcé")), "abc");
        assert_eq!(untext(&text::<0>("x")), "");
        assert_eq!(untext(b"ab\xff"), "ab");
    }
}
