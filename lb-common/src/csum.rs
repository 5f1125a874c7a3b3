//! The Internet checksum (RFC 1071) over native words; byte order cancels out (RFC 1071 section 2(B)).

/// Folds a sum of 16-bit words to 16 bits. Correct for every `u32` input.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// The two 16-bit halves of a word, added.
#[inline(always)]
pub const fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// A checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624 equation 3).
#[inline(always)]
pub const fn update(csum: u16, old: u16, new: u16) -> u16 {
    !fold((!csum) as u32 + (!old) as u32 + new as u32)
}

/// The same for a 32-bit word.
#[inline(always)]
pub const fn update_word(csum: u16, old: u32, new: u32) -> u16 {
    !fold((!csum) as u32 + halves(!old) + halves(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: 16-bit one's complement sum, word by word, with the carry added at once.
    fn definition(words: &[u16]) -> u16 {
        !words.iter().fold(0u16, |sum, &w| {
            let (s, carry) = sum.overflowing_add(w);
            s + u16::from(carry)
        })
    }

    /// 0x0000 and 0xffff are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn fold_is_the_definition(words in proptest::collection::vec(any::<u16>(), 1..60)) {
            let sum: u32 = words.iter().map(|&w| u32::from(w)).sum();
            prop_assert_eq!(!fold(sum), definition(&words));
        }

        #[test]
        fn update_is_a_new_sum(mut words in proptest::collection::vec(any::<u16>(), 2..30), new: u16) {
            let before = definition(&words);
            let old = std::mem::replace(&mut words[0], new);
            prop_assert!(same(update(before, old, new), definition(&words)));
        }
    }

    #[test]
    fn a_word_is_two_halves() {
        let half = |word: u32, n: u32| (word >> (16 * n)) as u16;
        for (csum, old, new) in [
            (0x1234, 0x0a00_0105, 0x0a00_0207),
            (0xffff, u32::MAX, 0),
            (0, 0, u32::MAX),
        ] {
            let one = update(csum, half(old, 0), half(new, 0));
            let two = update(one, half(old, 1), half(new, 1));
            assert!(same(update_word(csum, old, new), two), "{csum:x} {old:x} {new:x}");
        }
    }

    #[test]
    fn fold_has_no_corner() {
        assert_eq!(fold(u32::MAX), 0xffff);
        assert_eq!(fold(0xffff_0000), 0xffff);
        assert_eq!(fold(0x0001_ffff), 1);
        assert_eq!(fold(0), 0);
    }
}
