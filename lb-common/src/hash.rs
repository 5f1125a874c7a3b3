//! The keyed flow hash: which slot a flow falls into, for the XDP programs, the agent and every peer.
//!
//! Hash-then-PRF: the 40 bytes of a tuple are compressed by NH (Black et al., *UMAC*, CRYPTO 1999, section 3),
//! whose 32-bit multiplications are independent of each other, and the 64-bit result goes through the
//! permutation of SipHash-1-3 (Aumasson and Bernstein, INDOCRYPT 2012) under a second key. Clients see at most
//! which backend answered, never NH's output, so they can't aim at a slot. Why not SipHash over the whole
//! tuple: docs/adr/0003-flow-hash.md.

use crate::be::wire;

wire! { masked
    /// The expanded group key.
    #[derive(Default)]
    #[repr(C)]
    pub struct Key {
        /// The key of the outer permutation.
        pub sip: [u64; 2],
        /// NH's key, one word for each word of the input.
        pub nh: [u32; WORDS],
    }
}

/// Words of a hashed tuple: two addresses, the ports, the protocol.
pub const WORDS: usize = 10;

impl Key {
    /// Expands a 128-bit group key: SipHash-1-3 in counter mode.
    pub fn expand(group: &[u8; 16]) -> Self {
        let (k0, k1) = halves(group);
        let word = |i: u8| siphash13(k0, k1, &[i]);
        let mut key = Self {
            sip: [word(0), word(1)],
            nh: [0; WORDS],
        };
        for (i, pair) in (2u8..).zip(key.nh.chunks_exact_mut(2)) {
            let derived = word(i);
            pair[0] = derived as u32;
            pair[1] = (derived >> 32) as u32;
        }
        key
    }
}

/// The hash of a tuple's words ([`crate::tuple::Tuple::words`]). The upper 16 bits are the slot.
#[inline(always)]
pub fn flow(key: &Key, words: &[u32; WORDS]) -> u32 {
    permute(key.sip, nh(&key.nh, words)) as u32
}

#[inline(always)]
fn nh(key: &[u32; WORDS], words: &[u32; WORDS]) -> u64 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < WORDS {
        let a = u64::from(words[i].wrapping_add(key[i]));
        let b = u64::from(words[i + 1].wrapping_add(key[i + 1]));
        sum = sum.wrapping_add(a.wrapping_mul(b));
        i += 2;
    }
    sum
}

/// SipHash-1-3 of one 64-bit word of fixed length: one compression round, no length block, three final rounds.
#[inline(always)]
fn permute([k0, k1]: [u64; 2], word: u64) -> u64 {
    let mut v = init(k0, k1);
    absorb(&mut v, word);
    finish(v)
}

#[inline(always)]
fn init(k0: u64, k1: u64) -> [u64; 4] {
    [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ]
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn finish(mut v: [u64; 4]) -> u64 {
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// The two halves of a 128-bit key, little-endian as in the SipHash paper.
fn halves(key: &[u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*key);
    (whole as u64, (whole >> 64) as u64)
}

/// SipHash-1-3 of bytes: for stable identities and for expanding keys, not for packets.
pub fn siphash13(k0: u64, k1: u64, bytes: &[u8]) -> u64 {
    let mut v = init(k0, k1);
    let chunks = bytes.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        absorb(&mut v, little(chunk));
    }
    absorb(&mut v, little(rest) | ((bytes.len() as u64) << 56));
    finish(v)
}

/// Up to eight bytes as a little-endian number.
fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &b| (word << 8) | u64::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    const GROUP: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

    #[test]
    fn siphash13_is_the_published_function() {
        // The standard library's default hasher is SipHash-1-3 with a zero key.
        for len in 0..64u8 {
            let bytes: Vec<u8> = (0..len).collect();
            let mut std = std::hash::DefaultHasher::new();
            std.write(&bytes);
            assert_eq!(siphash13(0, 0, &bytes), std.finish(), "length {len}");
        }
    }

    #[test]
    fn golden() {
        let key = Key::expand(&GROUP);
        let words = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        assert_eq!(
            flow(&key, &words),
            GOLDEN,
            "the flow hash is part of the group's protocol: it may not change"
        );
        assert_ne!(flow(&Key::expand(&[0; 16]), &words), GOLDEN);
    }

    const GOLDEN: u32 = 4_080_700_635;

    #[test]
    fn slots_are_even_for_neighbouring_clients() {
        // Clients as they are in real life: one subnet, consecutive ports. Chi-square over 256 bins, 255 degrees
        // of freedom: mean 255, sd 22.6; 6 sd on both sides.
        let key = Key::expand(&GROUP);
        let mut bins = [0u32; 256];
        let n = 1 << 18;
        for i in 0..n as u32 {
            let words = [
                0,
                0,
                0xffff_0000,
                0x0a00_0000 | (i >> 10),
                0,
                0,
                0xffff_0000,
                7,
                (i & 0x3ff) << 16 | 80,
                6,
            ];
            bins[(flow(&key, &words) >> 24) as usize] += 1;
        }
        let mean = f64::from(n) / 256.0;
        let chi: f64 = bins.iter().map(|&b| (f64::from(b) - mean).powi(2) / mean).sum();
        assert!((120.0..390.0).contains(&chi), "chi-square {chi}");
    }

    #[test]
    fn every_bit_of_every_word_matters() {
        let key = Key::expand(&GROUP);
        let base = [0x0a00_0001u32; WORDS];
        for word in 0..WORDS {
            for bit in 0..32 {
                let mut other = base;
                other[word] ^= 1 << bit;
                assert_ne!(flow(&key, &base), flow(&key, &other), "word {word} bit {bit}");
            }
        }
    }
}
