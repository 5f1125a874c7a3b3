//! Stable identities: what a backend is called on the wire, in digests and as the ring's input.

use crate::hash::siphash13;

/// The identity of backend `name` of `pool`: SipHash-1-3 with a zero key over `pool/name`.
///
/// Names never contain `/`. Renaming a backend or its pool therefore is removing one and adding another.
pub fn stable(pool: &str, name: &str) -> u64 {
    let mut text = [0u8; 2 * 255 + 1];
    let parts = [pool.as_bytes(), b"/", name.as_bytes()];
    let mut len = 0;
    for part in parts {
        let take = part.len().min(text.len() - len);
        text[len..len + take].copy_from_slice(&part[..take]);
        len += take;
    }
    siphash13(0, 0, &text[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_hash_of_pool_slash_name() {
        assert_eq!(stable("web", "be1"), siphash13(0, 0, b"web/be1"));
        assert_ne!(stable("web", "be1"), stable("web", "be2"));
        assert_ne!(stable("we", "b/be1"), stable("we", "be1"));
    }
}
