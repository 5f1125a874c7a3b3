//! Those who should not be there, and members that break the rules.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use lb_userspace::group::Mismatch;
use lb_userspace::peer::wire::{CONTROL, PROTOCOL, opening};
use lb_userspace::peer::{self, Event, Life, Refusal, no_streams, pki};
use tokio::time::{sleep, timeout};

use crate::kit::*;

/// Node 1 with the certificates in `pki`, seen by an honest node 0, which calls, and an honest node 2, which answers: nobody of
/// them ever has a session with it, and both count why.
async fn intruder(world: &World, by_caller: Refusal, by_answerer: Refusal) {
    let mut caller = world.start(0);
    let mut answerer = world.start(2);
    let mut bad = peer::start(&world.group("bad"), 1, no_streams()).expect("it works");
    refused(&caller, by_caller, 2).await;
    refused(&answerer, by_answerer, 2).await;
    assert!(!bad.send(0, 0, vec![]) && !caller.send(1, 0, vec![]) && !answerer.send(1, 0, vec![]));
    let silent = timeout(Duration::from_millis(100), async {
        wait(&mut bad, |event| {
            matches!(event, Event::Up { .. } | Event::Facts { .. }).then_some(())
        })
        .await;
    });
    assert!(silent.await.is_err(), "it gets nothing");
    for good in [&mut caller, &mut answerer] {
        assert!(
            good.status()
                .peers
                .iter()
                .all(|peer| peer.place != 1 || peer.facts.is_none())
        );
        up(good).await;
    }
    assert!(
        caller
            .status()
            .peers
            .iter()
            .any(|peer| peer.place == 1 && peer.trouble.is_some())
    );
}

#[tokio::test]
async fn another_authority_gets_nothing() {
    let world = World::new(3);
    pki::init(&world.path("other"), "blue", false).unwrap();
    world.issue("other", "lb1", "bad");
    // It trusts everybody, and nobody trusts it.
    fs::copy(world.path("ca/ca.pem"), world.path("bad/ca.pem")).unwrap();
    intruder(&world, Refusal::Authority, Refusal::Authority).await;
}

#[tokio::test]
async fn names_that_should_not_be_there_get_nothing() {
    let world = World::new(3);
    let good = world.start(1);
    let call = async |name: &str| {
        forge(&world, name, 10);
        let call = Stranger::new(&world, Some("bad")).call(world.addresses[1]).await;
        assert!(call.is_err(), "{name}: {call:?}");
    };
    // Another group, a node that isn't configured, this node itself.
    for (count, name) in (1..).zip(["lb0.green.tandem", "lb7.blue.tandem", "lb1.blue.tandem", "lb0"]) {
        call(name).await;
        refused(&good, Refusal::Name, count).await;
    }
    // A node that should be called instead.
    call("lb2.blue.tandem").await;
    refused(&good, Refusal::Protocol, 1).await;
    assert!(
        good.status()
            .peers
            .iter()
            .all(|peer| peer.session.is_none() && peer.facts.is_none())
    );
    // And who calls finds out, too: what answers at lb1's address is of another group.
    drop(good);
    forge(&world, "lb1.green.tandem", 10);
    let caller = world.start(0);
    let _bad = peer::start(&world.group("bad"), 1, no_streams()).unwrap();
    refused(&caller, Refusal::Name, 2).await;
    assert!(!caller.send(1, 0, vec![]));
}

#[tokio::test]
async fn an_expired_certificate_gets_nothing() {
    let world = World::new(3);
    forge(&world, "lb1.blue.tandem", -1);
    intruder(&world, Refusal::Expired, Refusal::Expired).await;
}

#[tokio::test]
async fn nodes_that_stand_in_another_order_get_no_session() {
    let world = World::new(3);
    // By its own list lb2 has the same place, and lb0 and lb1 have each other's; then it is the first; and lb0 and lb1 each think
    // that the other one is.
    for (who, order, place) in [(2, [1, 0, 2], 2), (2, [2, 0, 1], 0), (0, [1, 0, 2], 1)] {
        let mut good = world.start(1);
        let mut group = world.group(&name(who));
        let peering = group.peering.as_mut().unwrap();
        group.nodes = order.map(|node| name(node).parse().unwrap()).into();
        peering.addresses = order.map(|node| world.addresses[node]).into();
        let mut bad = peer::start(&group, place, no_streams()).unwrap();
        let its = (0..).zip(order).find(|(_, node)| *node == 1).unwrap().0;
        let whose = u8::try_from(who).unwrap();
        for (peers, peer) in [(&mut good, whose), (&mut bad, its)] {
            let mismatch = wait(peers, |event| match event {
                Event::Refused { peer: at, mismatch } => Some((at, mismatch)),
                Event::Up { peer, .. } | Event::Life { peer, .. } => panic!("{peer} is one of the group"),
                _ => None,
            });
            assert_eq!(mismatch.await, (peer, Mismatch::Nodes), "{order:?}");
        }
        for peers in [&good, &bad] {
            let told = async {
                let is_it = |why: &str| why == "`group.nodes` is not the same on both";
                let peers = || peers.status().peers.clone();
                while !peers()
                    .iter()
                    .any(|peer| peer.trouble.as_deref().is_some_and(is_it))
                {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(PATIENCE, told).await.expect("it says why");
        }
        refused(&good, Refusal::Nodes, 2).await;
    }
}

#[tokio::test]
async fn nodes_may_be_added_at_the_end() {
    let world = World::new(3);
    let mut group = world.group("lb0");
    group.nodes.truncate(2);
    group.peering.as_mut().unwrap().addresses.truncate(2);
    let mut old = peer::start(&group, 0, no_streams()).unwrap();
    let mut new = world.start(1);
    up(&mut old).await;
    up(&mut new).await;
}

#[tokio::test]
async fn a_node_can_not_pass_for_another() {
    // Node 2's certificate at node 1's address, and node 2 is away.
    let world = World::new(3);
    let mut caller = world.start(0);
    let mut group = world.group("lb2");
    let peering = group.peering.as_mut().unwrap();
    peering.addresses.swap(1, 2);
    let bad = peer::start(&group, 2, no_streams()).unwrap();
    refused(&caller, Refusal::Name, 2).await;
    let silent = timeout(Duration::from_millis(100), up(&mut caller));
    assert!(silent.await.is_err());
    assert!(!bad.send(0, 0, vec![]));
}

#[tokio::test]
async fn without_a_certificate_nobody_gets_in() {
    let world = World::new(2);
    let good = world.start(1);
    let call = Stranger::new(&world, None).call(world.addresses[1]).await;
    assert!(call.is_err(), "{call:?}");
    refused(&good, Refusal::NoCertificate, 1).await;
}

#[tokio::test]
async fn a_member_that_breaks_the_rules_is_cut_off() {
    let world = World::new(2);
    let good = world.start(1);
    let stranger = Stranger::new(&world, Some("lb0"));
    let address = world.addresses[1];
    let cut = |connection: quinn::Connection| async move {
        timeout(PATIENCE, connection.closed()).await.expect("cut off");
    };
    // A length beyond every frame; nothing of it is sent.
    let connection = stranger.call(address).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream
        .write_all(&[&opening(&[])[..], &[0, 0x80, 0, 1, 5]].concat())
        .await
        .unwrap();
    cut(connection).await;
    refused(&good, Refusal::Oversize, 1).await;
    // Another version of the protocol.
    let connection = stranger.call(address).await.unwrap();
    connection
        .open_uni()
        .await
        .unwrap()
        .write_all(&[CONTROL, PROTOCOL + 1])
        .await
        .unwrap();
    cut(connection).await;
    refused(&good, Refusal::Protocol, 1).await;
    // More nodes than a group may have, of which it says none.
    let connection = stranger.call(address).await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[CONTROL, PROTOCOL, 65]).await.unwrap();
    cut(connection).await;
    refused(&good, Refusal::Protocol, 2).await;
    // A second stream of a kind, be it control messages, flow records or something that nobody knows.
    for (count, kind) in (3..).zip([1, 2, 9]) {
        let connection = stranger.call(address).await.unwrap();
        for _ in 0..2 {
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&[kind, PROTOCOL]).await.unwrap();
        }
        cut(connection).await;
        refused(&good, Refusal::Protocol, count).await;
    }
    // A control stream that ends within a frame.
    for (count, reset) in [(6, false), (7, true)] {
        let connection = stranger.call(address).await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        stream
            .write_all(&[&opening(&[])[..], &[0, 0, 0, 9, 1, 7]].concat())
            .await
            .unwrap();
        if reset {
            // Only what has been read counts.
            sleep(Duration::from_millis(50)).await;
            stream.reset(0u32.into()).unwrap();
        } else {
            stream.finish().unwrap();
        }
        cut(connection).await;
        refused(&good, Refusal::Protocol, count).await;
    }
    // Datagrams that are no heartbeats: counted, and no sign of life.
    let connection = stranger.call(address).await.unwrap();
    for byte in 0..50u8 {
        connection
            .send_datagram(vec![byte; usize::from(byte)].into())
            .unwrap();
    }
    refused(&good, Refusal::Heartbeat, 40).await;
    assert!(!good.status().peers[0].life.is_heard());
    // As many streams as it may have open.
    for kind in 2..18 {
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&[kind]).await.unwrap();
    }
}

#[tokio::test]
async fn handshakes_in_numbers_are_refused_and_hold_nobody_up() {
    let world = World::new(2);
    let good = world.start(1);
    let stranger = Stranger::new(&world, None);
    let start = std::time::Instant::now();
    while !good.status().refused.contains_key(&Refusal::Flood) {
        let calls = (0..40).filter_map(|_| {
            stranger
                .endpoint
                .connect(world.addresses[1], "lb1.blue.tandem")
                .ok()
        });
        let calls: Vec<_> = calls.collect();
        sleep(Duration::from_millis(50)).await;
        drop(calls);
        assert!(start.elapsed() < PATIENCE);
    }
    // When they end the right one is taken soon.
    let mut other = world.start(0);
    up(&mut other).await;
}

#[tokio::test]
async fn a_flood_of_datagrams_keeps_no_heartbeat_back() {
    let world = World::new(3);
    let (good, mut other) = (world.start(1), world.start(2));
    good.update(ready(1));
    other.update(ready(2));
    life(&mut other, Life::Alive).await;
    let stranger = Stranger::new(&world, Some("lb0"));
    let connection = stranger.call(world.addresses[1]).await.unwrap();
    let sent = || good.status().peers[1].sent;
    let (before, second) = (sent(), Duration::from_secs(1));
    sleep(second).await;
    let (quiet, start) = (sent() - before, std::time::Instant::now());
    let before = sent();
    while start.elapsed() < second {
        let _ = connection.send_datagram_wait(vec![7; 9].into()).await;
    }
    let flooded = sent() - before;
    println!("{quiet} heartbeats in a quiet second, {flooded} under the flood");
    // This machine's two cores may be busy with something else, and are now with encryption.
    assert!(flooded > quiet / 8, "{flooded} of {quiet}");
    assert_eq!(other.status().peers[1].sessions, 1);
    refused(&good, Refusal::Heartbeat, 100).await;
}

#[tokio::test]
async fn garbage_changes_nothing() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    a.update(ready(1));
    b.update(ready(2));
    life(&mut a, Life::Alive).await;
    life(&mut b, Life::Alive).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 1u32;
    for round in 0..5000u32 {
        let bytes: Vec<u8> = (0..round % 1400)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for address in &world.addresses {
            socket.send_to(&bytes, address).unwrap();
        }
    }
    // From an address that no node has not even a handshake is answered.
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    // An Initial (RFC 9000, section 17.2.2) with no token, whose length field says the rest; a good part of them looks right until it
    // is decrypted.
    let mut initial = vec![0; 1200];
    initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
    initial[16..18].copy_from_slice(&(0x4000u16 | 1182).to_be_bytes());
    for number in 0..4000u64 {
        initial[6..14].copy_from_slice(&number.to_be_bytes());
        stranger.send_to(&initial, world.addresses[1]).unwrap();
        if number % 100 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    // The kernel drops most of them.
    let strangers = refused(&b, Refusal::Stranger, 5).await[&Refusal::Stranger];
    println!("{strangers} of 4,000 handshakes of a stranger were seen");
    assert!(strangers < 500, "{strangers}");
    for peers in [&a, &b] {
        let status = peers.status();
        assert_eq!((status.peers[0].life, status.peers[0].sessions), (Life::Alive, 1));
    }
}
