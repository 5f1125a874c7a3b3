//! Those without a certificate of the group, at an address of a node and elsewhere.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lb_tests::stranger::{Stranger, forge};
use lb_tests::topo::Topology;
use lb_tests::{Family, LabError};
use lb_userspace::peer::pki;
use tokio::time::timeout;

use super::ground::{Ground, HOSTILE};

const SOON: Duration = Duration::from_secs(10);
const FLOOD: Duration = Duration::from_secs(1);
/// Handshakes that are begun at once, again and again.
const AT_ONCE: usize = 200;

/// Somebody at the free place's address.
fn stranger(ground: &Ground<'_>, papers: Option<&Path>) -> Result<Stranger, LabError> {
    let namespace = ground.lab.nodes()[HOSTILE].namespace();
    Stranger::new(namespace, ground.own_address(), &ground.path("authority"), papers)
}

fn name(index: usize) -> String {
    format!("{}.lab.tandem", Topology::node_name(index))
}

async fn is_refused(stranger: &Stranger, to: (SocketAddr, String), what: &str) {
    let call = timeout(SOON, stranger.call(to.0, &to.1))
        .await
        .expect("an answer");
    assert!(call.is_err(), "{what}: {call:?}");
}

/// A certificate of another authority that has the same names.
fn other_authority(ground: &Ground<'_>) -> Result<PathBuf, LabError> {
    let (authority, papers) = (ground.path("other"), ground.path("other.pki"));
    pki::init(&authority, "lab", true)?;
    pki::issue(&authority, "lb1", &papers, 10, true)?;
    Ok(papers)
}

/// Each certificate that is wrong in one way, shown to both nodes; and the control, one that is right.
pub(super) async fn wrong_certificates(ground: &Ground<'_>) -> Result<(), LabError> {
    let (authority, papers) = (ground.path("authority"), ground.path("forged.pki"));
    let other = other_authority(ground)?;
    for good in ground.good() {
        let to = || (ground.at(good), name(good));
        is_refused(&stranger(ground, None)?, to(), "no certificate").await;
        for _ in 0..10 {
            is_refused(&stranger(ground, Some(&other))?, to(), "another authority").await;
        }
        for (what, named, expired) in [
            ("another group", "lb1.green.tandem", false),
            ("a node that isn't configured", "lb9.lab.tandem", false),
            ("the node itself", &*name(good), false),
            ("another node, that doesn't call", "lb3.lab.tandem", false),
            ("expired", "lb1.lab.tandem", true),
        ] {
            forge(&authority, named, expired, &papers)?;
            is_refused(&stranger(ground, Some(&papers))?, to(), what).await;
        }
        forge(&authority, "lb1.lab.tandem", false, &papers)?;
        let right = stranger(ground, Some(&papers))?;
        let (connection, _) = timeout(SOON, right.call(to().0, &to().1))
            .await
            .expect("an answer")
            .expect("its certificate is good");
        connection.close(0u32.into(), b"");
    }
    Ok(())
}

/// Handshakes in numbers, begun and never finished: at a node's address, and at the client's.
pub(super) async fn handshakes(ground: &Ground<'_>) -> Result<(), LabError> {
    let other = other_authority(ground)?;
    let near = stranger(ground, Some(&other))?;
    let client = ground.lab.topology().client_address(0, Family::V4);
    let namespace = ground.lab.client().namespace();
    let far = Stranger::new(namespace, client, &ground.path("authority"), None)?;
    let start = Instant::now();
    while start.elapsed() < 2 * FLOOD {
        for good in ground.good() {
            let within = Duration::from_millis(200);
            near.knock(ground.at(good), &name(good), AT_ONCE, within).await;
            far.knock(ground.at(good), &name(good), AT_ONCE, within).await;
        }
    }
    Ok(())
}

/// Datagrams of nonsense, some like the beginning of a handshake, at the peers' port.
pub(super) fn datagrams(ground: &Ground<'_>) -> Result<(), LabError> {
    let client: IpAddr = ground.lab.topology().client_address(0, Family::V4);
    let node = ground.lab.nodes()[HOSTILE].namespace();
    let others = ground.good().map(|good| ground.at(good));
    let flood = |from: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).expect("a socket");
        let mut state = 7u32;
        let (start, mut sent) = (Instant::now(), 0u64);
        while start.elapsed() < FLOOD {
            for length in [1, 20, 300, 1200, 1350] {
                let mut bytes: Vec<u8> = Vec::with_capacity(length);
                bytes.resize_with(length, || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                });
                if length > 1000 {
                    bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
                }
                for to in others {
                    sent += u64::from(socket.send_to(&bytes, to).is_ok());
                }
            }
        }
        sent
    };
    let near = node.within(|| flood(ground.own_address()))?;
    let far = ground.lab.client().namespace().within(|| flood(client))?;
    println!("{near} datagrams from a node's address, {far} from another one");
    assert!(near > 1000 && far > 1000);
    Ok(())
}
