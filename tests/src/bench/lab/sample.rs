//! A look at frames that arrived: each has to be, byte for byte, what the reference model makes of a frame of the
//! generator.

use anyhow::{Context, Result, ensure};
use lb_common::bench::{TEMPLATE_LEN, TEMPLATE_LEN_V4};

use super::path::{IFINDEX, Lane};
use crate::bench::case::Case;
use crate::model::balance::{Tables, balance};
use crate::model::{Arrival, Verdict};

/// Bytes in front of a live frame (`XDP_PACKET_HEADROOM`, linux/bpf.h).
const HEADROOM: usize = 256;
const ETHERNET: usize = 14;

/// The generator's frame, with any client.
pub(super) fn template(case: &Case) -> Vec<u8> {
    let mut frame = case.frame();
    frame.resize(if case.v6 { TEMPLATE_LEN } else { TEMPLATE_LEN_V4 }, 0);
    frame
}

/// Whether `frame` is what `lane` makes of a frame of `case`.
///
/// # Errors
/// In what it differs.
pub(super) fn check(frame: &[u8], lane: Lane, case: &Case, tables: &Tables) -> Result<()> {
    let template = template(case);
    let outer = frame
        .len()
        .checked_sub(template.len())
        .context("a frame that is too short")?;
    let payload = frame.get(ETHERNET + outer..).context("no Ethernet header")?;
    let inner = [&template[..ETHERNET], payload].concat();
    let (client, port) = if case.v6 { (34, 54) } else { (26, 34) };
    let mut anonymous = inner.clone();
    for (at, len) in [(client, 4), (port, 2)] {
        anonymous[at..at + len].copy_from_slice(&template[at..at + len]);
    }
    ensure!(
        anonymous == template,
        "not a frame of the generator: {inner:02x?}"
    );
    let wanted = match lane {
        Lane::Floor => inner,
        Lane::Target => {
            let arrival = Arrival {
                frame: &inner,
                ingress: IFINDEX,
                headroom: HEADROOM,
            };
            let decision = balance(&arrival, tables);
            ensure!(
                decision.verdict == Verdict::Tx,
                "the model says {:?} ({:?}) to {inner:02x?}",
                decision.verdict,
                decision.stop
            );
            decision.frame
        }
    };
    ensure!(
        frame == wanted,
        "a frame arrived as\n{frame:02x?}\nand not as\n{wanted:02x?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::case::ALL;
    use crate::bench::programs::GROUP_KEY;
    use crate::bench::world;
    use lb_common::hash;

    fn tables() -> Tables {
        Tables {
            key: hash::Key::expand(&GROUP_KEY),
            contents: world::contents(IFINDEX),
        }
    }

    #[test]
    fn an_encapsulated_frame_of_any_client_is_taken_and_no_other() {
        let tables = tables();
        for case in [ALL[0], ALL[4]] {
            let mut sent = template(&case);
            let port = if case.v6 { 54 } else { 34 };
            sent[port] ^= 0x55;
            let arrival = Arrival {
                frame: &sent,
                ingress: IFINDEX,
                headroom: HEADROOM,
            };
            let left = balance(&arrival, &tables).frame;
            check(&left, Lane::Target, &case, &tables).expect("as the model says");
            check(&sent, Lane::Floor, &case, &tables).expect("as it was sent");
            assert!(
                check(&sent, Lane::Target, &case, &tables).is_err(),
                "no outer header"
            );
            assert!(
                check(&left, Lane::Floor, &case, &tables).is_err(),
                "an outer header"
            );
            // The last byte of the outer destination, and one of the payload.
            for at in [left.len() - sent.len() + ETHERNET - 1, left.len() - 12] {
                let mut spoiled = left.clone();
                spoiled[at] ^= 1;
                assert!(
                    check(&spoiled, Lane::Target, &case, &tables).is_err(),
                    "byte {at}"
                );
            }
        }
    }
}
