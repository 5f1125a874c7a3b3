//! Real endpoints on the loopback: how nodes talk, and how fast a death is noticed.

mod kit;
mod rogue;

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use lb_userspace::model::{Group, Peering};
use lb_userspace::peer::{self, Event, Life, Peers, Phase, Refusal, Status, no_streams, pki};
use tokio::time::sleep;

use kit::*;

#[tokio::test]
async fn three_nodes_find_each_other_and_talk() {
    let world = World::new(3);
    let mut all: Vec<Peers> = (0..3).map(|place| world.start(place)).collect();
    for (epoch, peers) in (1..).zip(&all) {
        peers.update(ready(epoch));
    }
    for (place, peers) in all.iter_mut().enumerate() {
        let mut seen = BTreeMap::new();
        while seen.len() < 2 {
            let (peer, facts) = wait(peers, |event| match event {
                Event::Facts { peer, facts } if facts.phase == Phase::Ready => Some((peer, facts)),
                _ => None,
            })
            .await;
            seen.insert(peer, facts.epoch);
        }
        let want = (0..3u8)
            .filter(|p| usize::from(*p) != place)
            .map(|p| (p, u64::from(p) + 1));
        assert_eq!(seen, want.collect());
    }
    let large = vec![7; 3 << 20];
    for channel in 0..20 {
        assert!(all[2].send(0, channel, vec![channel; 3]));
    }
    assert!(all[2].send(0, 20, large.clone()));
    for channel in 0..21 {
        let message = wait(&mut all[0], |event| match event {
            Event::Message {
                peer,
                channel,
                payload,
            } => Some((peer, channel, payload)),
            _ => None,
        })
        .await;
        let payload = if channel == 20 {
            large.clone()
        } else {
            vec![channel; 3]
        };
        assert!(message == (2, channel, payload), "channel {channel}");
    }
    assert!(!all[2].send(0, 0, vec![0; (8 << 20) + 1]), "larger than a frame");
    assert!(
        !all[2].send(2, 0, vec![]) && !all[2].send(9, 0, vec![]),
        "nobody there"
    );
    // What is shown is a moment old.
    let start = Instant::now();
    let is_told = |peer: &Status| peer.rtt.is_some() && peer.heard > 0 && peer.sent > 0;
    while !all[0].status().peers.iter().all(is_told) {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    let status = all[0].status();
    assert_eq!(status.own.as_ref().unwrap().group, "blue");
    for peer in &status.peers {
        assert_eq!((peer.life, peer.sessions), (Life::Alive, 1), "{peer:?}");
        assert!(peer.rtt.unwrap() < Duration::from_secs(1) && peer.heard > 0 && peer.sent > 0);
        assert!(peer.certificate_until.is_some() && peer.trouble.is_none());
    }
    assert!(status.refused.is_empty(), "{:?}", status.refused);
}

/// Whoever sends counts on what was sent before: where something can't be, everything begins anew.
#[tokio::test]
async fn a_full_outbox_says_no_and_ends_the_session() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    up(&mut a).await;
    up(&mut b).await;
    // Nobody takes messages at the other end, so at some point there is no room.
    let mut taken = 0;
    while a.send(1, 1, vec![1; 1 << 20]) {
        taken += 1;
        assert!(taken <= 100, "memory has a bound");
        sleep(Duration::from_millis(2)).await;
    }
    wait(&mut a, |event| matches!(event, Event::Down { .. }).then_some(())).await;
    up(&mut a).await;
    assert!(a.send(1, 2, vec![2]), "room again");
    // What came before is not behind it, and none of it comes twice.
    let mut came = 0;
    loop {
        let channel = wait(&mut b, |event| match event {
            Event::Message { channel, .. } => Some(channel),
            _ => None,
        });
        match channel.await {
            1 => came += 1,
            _ => break,
        }
    }
    assert!(came <= taken, "{came} of {taken}");
}

#[tokio::test]
async fn silence_is_noticed_in_time_and_a_joiner_is_one() {
    let mut world = World::new(2);
    world.dead_after = Peering::DEAD_AFTER;
    let (mut a, b) = (world.start(0), world.start(1));
    life(&mut a, Life::Joining).await;
    b.update(ready(1));
    life(&mut a, Life::Alive).await;
    // A good-bye is noticed at once.
    let start = Instant::now();
    drop(b);
    life(&mut a, Life::Dead).await;
    assert!(
        start.elapsed() < Duration::from_millis(250),
        "{:?}",
        start.elapsed()
    );
    assert!(!a.send(1, 0, vec![]));
    let mut b = world.start(1);
    b.update(ready(2));
    life(&mut a, Life::Alive).await;
    up(&mut b).await;
    assert_eq!(a.status().peers[0].sessions, 2);
}

#[tokio::test]
async fn a_silent_peer_is_suspect_and_then_dead_though_the_connection_stands() {
    // The real address is a relay's, which can be told to swallow everything.
    let mut world = World::new(2);
    world.dead_after = Duration::from_millis(100);
    let relay = Relay::start(world.addresses[1]);
    let mut seen_by_a = world.group("lb0");
    seen_by_a.peering.as_mut().unwrap().addresses[1] = relay.address;
    let mut a = peer::start(&seen_by_a, 0, no_streams()).unwrap();
    let b = world.start(1);
    b.update(ready(1));
    life(&mut a, Life::Alive).await;
    let session = a.status().peers[0].session;
    relay.swallow(true);
    let start = Instant::now();
    life(&mut a, Life::Suspect).await;
    let suspect = start.elapsed();
    life(&mut a, Life::Dead).await;
    let dead = start.elapsed();
    assert!(
        suspect >= Duration::from_millis(35) && dead >= Duration::from_millis(85),
        "{suspect:?} {dead:?}"
    );
    assert!(dead < Duration::from_millis(250), "{dead:?}");
    relay.swallow(false);
    life(&mut a, Life::Alive).await;
    assert_eq!(a.status().peers[0].session, session, "the same connection");
}

#[tokio::test]
async fn renewed_certificates_are_taken_and_connections_stay() {
    let world = World::new(2);
    let (mut a, mut b) = (world.start(0), world.start(1));
    let session = up(&mut a).await;
    up(&mut b).await;
    let before = b.status().own.clone().unwrap().certificate_until;
    // A new authority takes over: first both are trusted, then the nodes get certificates by the new one.
    pki::init(&world.path("new"), "blue", false).unwrap();
    let both = [
        fs::read(world.path("new/ca.pem")).unwrap(),
        fs::read(world.path("ca/ca.pem")).unwrap(),
    ]
    .concat();
    for folder in ["lb0", "lb1"] {
        fs::write(world.path(folder).join("ca.pem"), &both).unwrap();
    }
    a.reload();
    b.reload();
    pki::issue(&world.path("new"), "lb1", &world.path("lb1"), 20, true).unwrap();
    fs::write(world.path("lb1/ca.pem"), &both).unwrap();
    b.reload();
    let start = Instant::now();
    while b.status().own.as_ref().unwrap().certificate_until <= before {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        a.status().peers[0].session,
        Some(session),
        "the connection goes on"
    );
    // The next connection is made with the new one.
    drop(a);
    let mut a = world.start(0);
    up(&mut a).await;
    let until = b.status().own.as_ref().unwrap().certificate_until;
    let start = Instant::now();
    while a.status().peers[0].certificate_until.is_none() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(a.status().peers[0].certificate_until, Some(until));
    // Broken files change nothing.
    fs::write(world.path("lb1/node.pem"), "-----BEGIN").unwrap();
    b.reload();
    while !b.status().own.as_ref().unwrap().reload_failed {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    drop(a);
    let mut a = world.start(0);
    up(&mut a).await;
}

#[tokio::test]
async fn a_session_ends_with_the_trust_in_its_authority_and_no_earlier() {
    let world = World::new(3);
    let mut a = world.start(0);
    let (mut b, mut c) = (world.start(1), world.start(2));
    for peers in [&mut b, &mut c] {
        up(peers).await;
    }
    let sessions = |peers: &Peers| peers.status().peers.iter().map(|p| p.session).collect::<Vec<_>>();
    let start = Instant::now();
    while sessions(&a).iter().any(Option::is_none) {
        assert!(start.elapsed() < PATIENCE);
        up(&mut a).await;
    }
    let before = sessions(&a);
    // One more that is trusted changes nothing.
    pki::init(&world.path("new"), "blue", false).unwrap();
    let (old, new) = (world.path("ca/ca.pem"), world.path("new/ca.pem"));
    let both = [fs::read(&new).unwrap(), fs::read(&old).unwrap()].concat();
    fs::write(world.path("lb0/ca.pem"), &both).unwrap();
    a.reload();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(sessions(&a), before);
    // The old one is taken away: lb1 has a certificate of the new one meanwhile, lb2 has not.
    fs::write(world.path("lb1/ca.pem"), &both).unwrap();
    pki::issue(&world.path("new"), "lb1", &world.path("lb1"), 20, true).unwrap();
    fs::write(world.path("lb1/ca.pem"), &both).unwrap();
    drop(b);
    let mut b = world.start(1);
    up(&mut b).await;
    while sessions(&a)[0] == before[0] || sessions(&a)[0].is_none() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    let with_b = sessions(&a)[0];
    fs::copy(&new, world.path("lb0/ca.pem")).unwrap();
    a.reload();
    while sessions(&a)[1].is_some() {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sessions(&a)[0], with_b, "its authority is trusted");
    refused(&a, Refusal::Authority, 1).await;
}

#[tokio::test]
async fn changed_files_are_found_without_being_told() {
    let world = World::new(2);
    let a = world.start(0);
    let before = a.status().own.clone();
    pki::renew(&world.path("ca"), &world.path("lb0"), 30).unwrap();
    let start = Instant::now();
    let until = |own: &Option<peer::Own>| own.as_ref().map(|own| own.certificate_until);
    while until(&a.status().own) <= until(&before)
        || until(&before).is_none() && start.elapsed().as_secs() < 4
    {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_can_not_start() {
    let world = World::new(2);
    let fails = |group: &Group, own: usize| peer::start(group, own, no_streams()).unwrap_err().to_string();
    let mut group = world.group("lb0");
    assert!(fails(&group, 7).contains("don't talk"));
    assert!(fails(&world.group("nowhere"), 0).contains("nowhere/ca.pem"));
    assert!(fails(&world.group("lb1"), 0).contains("is the certificate of `lb1`, and this node is `lb0`"));
    let _taken = UdpSocket::bind(world.addresses[0]).unwrap();
    assert!(fails(&group, 0).contains("can't listen for peers"));
    group.peering = None;
    assert!(fails(&group, 0).contains("don't talk"));
    fs::copy(world.path("lb1/node.key"), world.path("lb0/node.key")).unwrap();
    assert!(
        fails(&world.group("lb0"), 0).contains("is not the key of the certificate"),
        "a key of another certificate"
    );
}
