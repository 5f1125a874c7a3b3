//! Breaks frames, mostly where a parser looks.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::kernel::SHORTEST;

/// The largest frame that the kernel takes for a test run, less what stands in front of it.
const LONGEST: usize = 3000;

/// Changes a frame in one to three ways.
pub(crate) fn mutate(rng: &mut Xoshiro256PlusPlus, frame: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..=3) {
        once(rng, frame);
    }
    frame.truncate(LONGEST);
    while frame.len() < SHORTEST {
        frame.push(rng.random());
    }
}

fn once(rng: &mut Xoshiro256PlusPlus, frame: &mut Vec<u8>) {
    // Where the IP header of an untagged or a tagged frame begins.
    let ip = if rng.random() { 14 } else { 18 };
    let headers = frame.len().min(100);
    match rng.random_range(0..11) {
        0 => flip(rng, frame, 0..headers),
        1 => flip(rng, frame, ip..(ip + 8).min(headers)),
        2 => frame.truncate(rng.random_range(0..=frame.len())),
        3 => frame.truncate(rng.random_range(0..=headers)),
        4 => {
            let more = rng.random_range(1..100);
            frame.extend((0..more).map(|_| rng.random::<u8>()));
        }
        // Length fields: IPv4's, IPv6's, by a little or to anything.
        5 => length(rng, frame, ip + 2),
        6 => length(rng, frame, ip + 4),
        // Version and header length.
        7 => put(frame, ip, rng.random()),
        // The other family's EtherType, or a tag that isn't one.
        8 => {
            let kind = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]][rng.random_range(0..4)];
            put(frame, ip - 2, kind[0]);
            put(frame, ip - 1, kind[1]);
        }
        // Headers in the wrong order: a range moves to the front of another.
        9 if headers > 40 => {
            let at = rng.random_range(14..headers - 20);
            frame[at..headers].rotate_left(4 * rng.random_range(1..=4));
        }
        _ => {
            let (at, value) = (rng.random_range(0..headers.max(1)), rng.random());
            put(frame, at, value);
        }
    }
}

fn put(frame: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}

fn flip(rng: &mut Xoshiro256PlusPlus, frame: &mut [u8], range: std::ops::Range<usize>) {
    if !range.is_empty() {
        frame[rng.random_range(range)] ^= 1 << rng.random_range(0..8);
    }
}

fn length(rng: &mut Xoshiro256PlusPlus, frame: &mut [u8], at: usize) {
    let Some(field) = frame.get_mut(at..at + 2) else {
        return;
    };
    let old = u16::from_be_bytes([field[0], field[1]]);
    let new = match rng.random_range(0..3) {
        0 => rng.random(),
        1 => old.wrapping_add(rng.random_range(0..9)).wrapping_sub(4),
        _ => rng.random_range(0..120),
    };
    field.copy_from_slice(&new.to_be_bytes());
}
