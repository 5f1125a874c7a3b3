//! A copy of `lbd` whose program differs: what an upgrade to another version brings.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lb_tests::binary;
use lb_userspace::dataplane::object::LB_XDP;

/// `r = imm` in 64 and in 32 bits (RFC 9669, table 4).
const MOV64: u8 = 0xb7;
const MOV32: u8 = 0xb4;
/// A load of 64 bits takes two instructions' room.
const LOAD64: u8 = 0x18;
/// Sections of program text: SHT_PROGBITS with SHF_EXECINSTR.
const PROGBITS: u32 = 1;
const EXECUTABLE: u64 = 4;

/// Writes the copy to `dir`. The object inside has one instruction changed into another that does the same, `r = imm`
/// with an immediate that is not negative: for the kernel it is another program, with another tag, for packets it is the
/// same. (What a new version does differently is that version's own affair; whether the exchange loses something can be
/// seen only if both do the same.)
pub(crate) fn write(dir: &Path) -> PathBuf {
    let original = binary::find("lbd").expect("lbd is built");
    let mut bytes = fs::read(&original).expect("lbd can be read");
    let place = place_of(&bytes, LB_XDP).expect("lbd holds the object");
    let instruction = place + first_move(LB_XDP);
    assert_eq!(bytes[instruction], MOV64);
    bytes[instruction] = MOV32;
    assert_eq!(place_of(&bytes, LB_XDP), None, "there is no second copy");
    let path = dir.join("lbd");
    fs::write(&path, bytes).expect("the copy is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
    path
}

fn place_of(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    // The object's first bytes are those of any ELF file of its kind: the whole decides.
    let starts = haystack
        .windows(16)
        .enumerate()
        .filter(|(_, w)| *w == &needle[..16]);
    starts
        .map(|(at, _)| at)
        .find(|at| haystack[*at..].starts_with(needle))
}

/// Where in the object (ELF64, little-endian) the first `r = imm` of its program text is.
fn first_move(object: &[u8]) -> usize {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([object[at], object[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes(object[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(object[at..at + 8].try_into().expect("eight bytes"));
    let size_at = |at: usize| usize::try_from(u64_at(at)).expect("a file in memory");
    let (table, width, count) = (size_at(0x28), u16_at(0x3a), u16_at(0x3c));
    for header in (0..count).map(|n| table + n * width) {
        if u32_at(header + 4) != PROGBITS || u64_at(header + 8) & EXECUTABLE == 0 {
            continue;
        }
        let (mut at, size) = (size_at(header + 0x18), size_at(header + 0x20));
        let end = at + size;
        while at < end {
            let immediate = i32::from_le_bytes(object[at + 4..at + 8].try_into().expect("four bytes"));
            match object[at] {
                MOV64 if immediate >= 0 => return at,
                LOAD64 => at += 16,
                _ => at += 8,
            }
        }
    }
    panic!("no `r = imm` in the object");
}
