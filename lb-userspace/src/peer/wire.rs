//! Bytes ↔ messages. All numbers are in network order.
//!
//! Heartbeat, one QUIC datagram (RFC 9221):
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, [`VERSION`] |
//! | 1 | phase: 0 joining, 1 ready, 2 leaving; with 128 where the file has drifted |
//! | 8 | sequence number, counts up within a session |
//! | 8, 1 | generation: number, node |
//! | 8 × 6 | digests of configuration, rings, origins, down set; verdict; watermark |
//! | 4 | load |
//! | 8 | epoch |
//! | 1, n | length and text of the program's version |
//! | 4 × 64 | digests of rings by pool, in buckets ([`PoolRings`]) |
//!
//! What follows is ignored: a later program may append fields without a new version.
//!
//! A stream begins with its kind, one byte ([`CONTROL`], ...). On the control stream [`PROTOCOL`] follows, then who the sender thinks is in the
//! group ([`opening`]), then frames: length (4), channel (1), payload.

use super::facts::{Facts, Phase, PoolRings, VERSION_MAX};
use crate::group::Generation;

/// Version of heartbeats.
pub const VERSION: u8 = 2;

/// The largest heartbeat that is looked at, in bytes.
pub const HEARTBEAT_MAX: usize = 512;

/// Version of the control stream.
pub const PROTOCOL: u8 = 5;

/// Kind of the control stream.
pub const CONTROL: u8 = 1;

/// Kind of streams of flow records.
pub const RECORDS: u8 = 2;

/// Bytes before a frame's payload.
pub const FRAME_HEADER: usize = 5;

/// The largest payload of a frame, in bytes.
pub const FRAME_MAX: usize = 8 << 20;

/// Bytes of one node in an opening: its name's `lb_common::id::stable`.
pub const NODE: usize = 8;

/// The first bytes of a control stream: kind, version, how many nodes the sender's `group.nodes` has (1), and each of them (8).
///
/// # Panics
/// More nodes than a group may have.
pub fn opening(nodes: &[u64]) -> Vec<u8> {
    let count = u8::try_from(nodes.len()).expect("at most `NODES_MAX`");
    let mut bytes = vec![CONTROL, PROTOCOL, count];
    bytes.extend(nodes.iter().flat_map(|node| node.to_be_bytes()));
    bytes
}

/// The nodes of an opening, after its count.
pub fn nodes_of(bytes: &[u8]) -> Vec<u64> {
    let (nodes, _) = bytes.as_chunks::<NODE>();
    nodes.iter().copied().map(u64::from_be_bytes).collect()
}

/// Whether both lists give every node the same place: nodes are added at the end, on one node after the other.
pub fn is_one_group(own: &[u64], its: &[u64]) -> bool {
    own.iter().zip(its).all(|(own, its)| own == its)
}

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Counts up within a session.
    pub sequence: u64,
    /// What the sender says of itself.
    pub facts: Facts,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Bytes are missing.
    #[error("too short")]
    Short,
    /// More bytes than any message has.
    #[error("too long")]
    Long,
    /// Another version.
    #[error("version {0}, not {VERSION}")]
    Version(u8),
    /// A phase that doesn't exist.
    #[error("phase {0}")]
    Phase(u8),
    /// Text that is none.
    #[error("the version's text")]
    Text,
}

/// Set in the phase's byte: the node's file has drifted.
const DRIFT: u8 = 0x80;

/// A heartbeat's bytes. A version that is too long is cut.
pub fn encode(sequence: u64, facts: &Facts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEARTBEAT_MAX);
    bytes.push(VERSION);
    let phase = match facts.phase {
        Phase::Joining => 0,
        Phase::Ready => 1,
        Phase::Leaving => 2,
    };
    bytes.push(if facts.drift { phase | DRIFT } else { phase });
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(facts.generation.number.to_be_bytes());
    bytes.push(facts.generation.node);
    for number in [
        facts.config_digest,
        facts.rings,
        facts.origins,
        facts.down,
        facts.verdict,
        facts.watermark,
    ] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(facts.load.to_be_bytes());
    bytes.extend(facts.epoch.to_be_bytes());
    let version = &facts.version.as_bytes()[..facts.version.floor_char_boundary(VERSION_MAX)];
    bytes.push(u8::try_from(version.len()).expect("at most VERSION_MAX"));
    bytes.extend(version);
    bytes.extend(facts.pools.0.iter().flat_map(|sum| sum.to_be_bytes()));
    bytes
}

/// A heartbeat from its bytes.
///
/// # Errors
/// Bytes of another kind; no input panics.
pub fn decode(bytes: &[u8]) -> Result<Heartbeat, Malformed> {
    if bytes.len() > HEARTBEAT_MAX {
        return Err(Malformed::Long);
    }
    let mut rest = bytes;
    let version = number::<1>(&mut rest)?[0];
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let phase = number::<1>(&mut rest)?[0];
    let drift = phase & DRIFT != 0;
    let phase = match phase & !DRIFT {
        0 => Phase::Joining,
        1 => Phase::Ready,
        2 => Phase::Leaving,
        other => return Err(Malformed::Phase(other)),
    };
    let mut next = || number::<8>(&mut rest).map(u64::from_be_bytes);
    let (sequence, generation) = (next()?, next()?);
    let node = number::<1>(&mut rest)?[0];
    let mut next = || number::<8>(&mut rest).map(u64::from_be_bytes);
    let [config_digest, rings, origins, down, verdict, watermark] =
        [next()?, next()?, next()?, next()?, next()?, next()?];
    let load = u32::from_be_bytes(number(&mut rest)?);
    let epoch = u64::from_be_bytes(number(&mut rest)?);
    let length = usize::from(number::<1>(&mut rest)?[0]);
    if length > VERSION_MAX {
        return Err(Malformed::Text);
    }
    let text = rest.get(..length).ok_or(Malformed::Short)?;
    let version = str::from_utf8(text).map_err(|_| Malformed::Text)?.to_owned();
    if version.chars().any(char::is_control) {
        return Err(Malformed::Text);
    }
    rest = &rest[length..];
    let mut pools = PoolRings::default();
    for sum in &mut pools.0 {
        *sum = u32::from_be_bytes(number(&mut rest)?);
    }
    let generation = Generation {
        number: generation,
        node,
    };
    let facts = Facts {
        phase,
        drift,
        generation,
        config_digest,
        rings,
        pools,
        origins,
        down,
        verdict,
        watermark,
        version,
        load,
        epoch,
    };
    Ok(Heartbeat { sequence, facts })
}

fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (number, behind) = rest.split_first_chunk::<N>().ok_or(Malformed::Short)?;
    *rest = behind;
    Ok(*number)
}

/// The beginning of a frame.
///
/// # Errors
/// [`Malformed::Long`] for more than [`FRAME_MAX`] bytes.
pub fn frame_header(channel: u8, length: usize) -> Result<[u8; FRAME_HEADER], Malformed> {
    let short = u32::try_from(length).ok().filter(|_| length <= FRAME_MAX);
    let [a, b, c, d] = short.ok_or(Malformed::Long)?.to_be_bytes();
    Ok([a, b, c, d, channel])
}

/// Channel and length of a frame, which is checked before anything is kept of it.
///
/// # Errors
/// [`Malformed::Long`] for more than [`FRAME_MAX`] bytes.
pub fn frame_of(header: [u8; FRAME_HEADER]) -> Result<(u8, usize), Malformed> {
    let [a, b, c, d, channel] = header;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok();
    let length = length.filter(|length| *length <= FRAME_MAX);
    Ok((channel, length.ok_or(Malformed::Long)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_opening_names_all_nodes() {
        let nodes: Vec<u64> = (1..=64).collect();
        let bytes = opening(&nodes);
        assert_eq!(bytes[..3], [CONTROL, PROTOCOL, 64]);
        assert_eq!(nodes_of(&bytes[3..]), nodes);
    }

    #[test]
    fn a_longer_list_is_of_the_same_group_and_another_order_is_not() {
        assert!(is_one_group(&[1, 2, 3], &[1, 2, 3]));
        assert!(is_one_group(&[1, 2], &[1, 2, 3]) && is_one_group(&[1, 2, 3], &[1, 2]));
        assert!(!is_one_group(&[1, 2, 3], &[1, 3, 2]));
        assert!(!is_one_group(&[1, 2, 3], &[1, 3]));
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let phase = prop_oneof![Just(Phase::Joining), Just(Phase::Ready), Just(Phase::Leaving)];
        let version = "[ -~]{0,32}";
        (
            phase,
            any::<(u64, u8, bool)>(),
            any::<[u64; 6]>(),
            version,
            any::<(u32, u64)>(),
            prop::collection::vec(any::<u32>(), PoolRings::BUCKETS),
        )
            .prop_map(
                |(phase, (number, node, drift), digests, version, (load, epoch), pools)| {
                    let pools = pools.try_into().expect("as many as there are buckets");
                    let [config_digest, rings, origins, down, verdict, watermark] = digests;
                    Facts {
                        phase,
                        drift,
                        generation: Generation { number, node },
                        config_digest,
                        rings,
                        pools: PoolRings(pools),
                        origins,
                        down,
                        verdict,
                        watermark,
                        version,
                        load,
                        epoch,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(facts in facts(), sequence: u64, tail in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = encode(sequence, &facts);
            let whole = bytes.len();
            bytes.extend(tail);
            prop_assert_eq!(decode(&bytes), Ok(Heartbeat { sequence, facts }));
            for cut in 0..whole {
                prop_assert!(decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(heartbeat) = decode(&bytes) {
                prop_assert!(heartbeat.facts.version.len() <= VERSION_MAX);
                prop_assert!(bytes.starts_with(&encode(heartbeat.sequence, &heartbeat.facts)));
            }
        }

        #[test]
        fn frames_have_a_limit(header: [u8; FRAME_HEADER]) {
            match frame_of(header) {
                Ok((channel, length)) => prop_assert_eq!(frame_header(channel, length), Ok(header)),
                Err(e) => prop_assert_eq!(e, Malformed::Long),
            }
        }
    }

    #[test]
    fn the_largest_heartbeat_fits_into_every_datagram() {
        let facts = Facts {
            version: "v".repeat(100),
            ..Facts::default()
        };
        let bytes = encode(0, &facts);
        assert!(bytes.len() < HEARTBEAT_MAX, "{}", bytes.len());
        assert_eq!(decode(&bytes).unwrap().facts.version.len(), VERSION_MAX);
    }

    #[test]
    fn other_versions_and_phases_are_refused() {
        let mut bytes = encode(7, &Facts::default());
        bytes[1] = 3;
        assert_eq!(decode(&bytes), Err(Malformed::Phase(3)));
        bytes[0] = 1;
        assert_eq!(decode(&bytes), Err(Malformed::Version(1)));
        assert_eq!(decode(&vec![VERSION; 513]), Err(Malformed::Long));
        assert_eq!(frame_header(0, FRAME_MAX + 1), Err(Malformed::Long));
        assert_eq!(frame_of([0xff; 5]), Err(Malformed::Long));
    }
}
