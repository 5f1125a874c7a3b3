//! Flow replication: the program's events of one node in the maps of another, over QUIC.

mod group;

use std::time::{Duration, Instant};

use lb_common::flow::{CLOSED, CONFIRMED, Entry, PROBATION};
use lb_common::slot::{HELD, TRACKED};
use lb_tests::wait::until;
use lb_userspace::agent::sync::{Command, Notice};
use lb_userspace::dataplane::batch::Walk;
use lb_userspace::dataplane::flows::Table;

use crate::fixture::BACKEND_V4;
use crate::kernel::say;
use group::{ACK, CURRENT, SYN, Site, all, confirmed, key, pair, wide};

const ISN: u32 = 1_000;

/// As the peer at a place owns it.
fn is(entry: Option<Entry>, state: u8, place: u8) -> bool {
    entry.is_some_and(|entry| (entry.state, entry.owner, entry.backend) == (state, place + 1, CURRENT))
}

#[test]
fn batches_write_and_delete_what_they_can() {
    let site = Site::new(1);
    let mut node = site.node(0, 1 << 10);
    let maps = &mut node.kernel.maps;
    let room = maps.room(Table::Flows) as usize;
    let keys: Vec<_> = (0..room as u16 + 100).map(|n| wide(1, n)).collect();
    let entries: Vec<Entry> = keys
        .iter()
        .enumerate()
        .map(|(n, _)| Entry {
            isn: n as u32,
            ..confirmed(1)
        })
        .collect();
    assert_eq!(
        maps.set_entries(Table::Flows, &[], &[]).expect("nothing"),
        Vec::<usize>::new()
    );
    let refused = maps.set_entries(Table::Flows, &keys, &entries).expect("written");
    assert_eq!(
        refused,
        (room..room + 100).collect::<Vec<_>>(),
        "a full table says which"
    );
    for n in [0, 1, room / 2, room - 1] {
        let found = maps.entry(Table::Flows, &keys[n]).expect("the map");
        assert_eq!(found, Some(entries[n]), "entry {n}");
    }
    // What is there is written also where the table is full.
    let newer = Entry { isn: 7, ..entries[0] };
    let refused = maps
        .set_entries(Table::Flows, &[keys[room], keys[3]], &[newer, newer])
        .expect("written");
    assert_eq!(refused, [0]);
    assert_eq!(maps.entry(Table::Flows, &keys[3]).expect("the map"), Some(newer));
    // Missing ones at the beginning, between and at the end.
    let some: Vec<_> = [room, 0, room + 1, room + 2, 1, 2, room + 3]
        .map(|n| keys[n])
        .to_vec();
    assert_eq!(maps.remove_entries(Table::Flows, &some).expect("deleted"), 3);
    assert_eq!(maps.remove_entries(Table::Flows, &some).expect("deleted"), 0);
    assert_eq!(maps.occupied(Table::Flows).expect("the map") as usize, room - 3);
    let mut walk = Walk::by(64);
    let mut walked = 0;
    while !walk.is_over() {
        walked += maps.walk(Table::Flows, &mut walk).expect("the map").len();
    }
    assert_eq!(walked, room - 3, "pieces as small as one likes");
}

#[test]
fn events_that_find_the_buffer_full_are_counted() {
    let site = Site::new(1);
    let node = site.node(0, 1 << 10);
    let ports: Vec<u16> = (1..=u16::MAX).collect();
    ports.iter().for_each(|&port| node.track(&key(port)));
    let made = |ports: &[u16]| ports.iter().for_each(|&port| node.packet(port, SYN, ISN));
    // 72 bytes each, header included.
    let room = lb_common::abi::EVENTS as usize / 72;
    made(&ports[..room - 100]);
    let lost = || node.kernel.maps.lost_events().expect("the map").packets;
    assert_eq!(lost(), 0);
    made(&ports[room - 100..room + 400]);
    assert!((399..=401).contains(&lost()), "{} of 400", lost());
}

#[test]
fn a_flow_is_known_to_the_peer_until_its_owner_forgets_it() {
    let (_site, a, mut b) = pair();
    let flow = key(4_000);
    a.track(&flow);
    assert_eq!(b.slot(&flow).flags(), 0);
    a.packet(4_000, SYN, ISN);
    b.await_replica(&flow, |entry| {
        is(entry, PROBATION, 0) && entry.is_some_and(|e| e.isn == ISN)
    });
    b.await_notice(|notice| *notice == Notice::Held);
    let slot = b.slot(&flow);
    assert_eq!(
        (slot.flags(), slot.current(), slot.origin()),
        (TRACKED | HELD, BACKEND_V4, BACKEND_V4)
    );
    a.packet(4_000, ACK, ISN + 1);
    b.await_replica(&flow, |entry| is(entry, CONFIRMED, 0));
    // The flow moves: B has it now, and A its replica.
    b.packet(4_000, ACK, ISN + 2);
    a.await_replica(&flow, |entry| is(entry, CONFIRMED, 1));
    // The replica comes first, so that the flow is held at every moment.
    let is_gone = || a.entry(Table::Flows, &flow).is_none();
    until(Duration::from_secs(5), "one owner", is_gone).expect("it has given the flow up");
    b.packet(4_000, 0x11, ISN + 3);
    a.await_replica(&flow, |entry| is(entry, CLOSED, 1));
    b.sweep(&[flow]);
    a.await_replica(&flow, |entry| entry.is_none());
}

#[test]
fn a_fence_comes_behind_everything_before_it() {
    let (_site, mut a, mut b) = pair();
    let ports = 10_000..14_000;
    ports.clone().for_each(|port| a.track(&key(port)));
    for round in 0..4u64 {
        for port in ports.clone().skip(round as usize * 1_000).take(1_000) {
            a.packet(port, SYN, ISN);
        }
        a.say(Command::Fence(round));
    }
    for round in 0..4u64 {
        b.await_notice(|notice| *notice == Notice::Fenced { peer: 0, id: round });
        let sent = ports.clone().take((round as usize + 1) * 1_000);
        let missing = sent.filter(|&port| b.entry(Table::Replicas, &key(port)).is_none());
        assert_eq!(missing.count(), 0, "behind fence {round}");
    }
    a.say(Command::Live {
        live: all(2),
        members: all(2),
    });
    a.say(Command::HandOver);
    a.await_notice(|notice| *notice == Notice::HandedOver);
    a.await_report(|report| report.peers[1].sent.acknowledged >= 4_000);
    let lag = a.report().peers[1]
        .sent
        .lag
        .quantile(0.99)
        .expect("records were sent");
    say(&format!(
        "replication: 4,000 records in bursts of 1,000, lag p99 {lag:?}"
    ));
}

#[test]
fn a_session_that_breaks_is_followed_by_everything() {
    let (site, mut a, mut b) = pair();
    let kept = [key(1), key(2)];
    let gone = key(3);
    a.set(Table::Flows, &gone, &confirmed(10));
    for flow in &kept {
        a.set(Table::Flows, flow, &confirmed(10));
    }
    b.stop();
    a.await_notice(|notice| *notice == Notice::Lost { peer: 1 });
    a.set(
        Table::Probation,
        &key(4),
        &Entry {
            isn: ISN,
            ..Entry::probation(CURRENT, ISN, confirmed(0).since)
        },
    );
    site.start(&mut b);
    b.await_synced(0);
    for flow in &kept {
        assert!(is(b.entry(Table::Replicas, flow), CONFIRMED, 0));
    }
    assert!(is(b.entry(Table::Replicas, &key(4)), PROBATION, 0));
    // What was deleted while nobody listened is found by the digests, and the peer counts as synced only then.
    b.stop();
    a.await_notice(|notice| *notice == Notice::Lost { peer: 1 });
    a.sweep(&[gone]);
    assert!(b.entry(Table::Replicas, &gone).is_some());
    let began = Instant::now();
    site.start(&mut b);
    b.await_synced(0);
    assert!(b.entry(Table::Replicas, &gone).is_none(), "it is not equal yet");
    say(&format!(
        "replication: a stale replica was deleted and digests were equal after {:?}",
        began.elapsed()
    ));
    assert!(is(b.entry(Table::Replicas, &kept[0]), CONFIRMED, 0));
}

#[test]
fn a_joiner_gets_what_nobody_owns_and_its_past_is_nobodys() {
    let site = Site::new(2);
    let (mut a, mut b) = (site.node(0, 1 << 10), site.node(1, 1 << 10));
    let (gone, past) = (key(1), key(2));
    a.set(
        Table::Replicas,
        &gone,
        &Entry {
            owner: 200,
            ..confirmed(5)
        },
    );
    a.set(
        Table::Replicas,
        &past,
        &Entry {
            owner: 2,
            ..confirmed(5)
        },
    );
    site.start(&mut a);
    a.say(Command::Live {
        live: all(2),
        members: all(2),
    });
    site.start(&mut b);
    b.say(Command::Joining(true));
    b.await_synced(0);
    for flow in [gone, past] {
        let entry = b.entry(Table::Replicas, &flow);
        assert_eq!(entry.map(|entry| entry.owner), Some(u8::MAX), "an orphan");
    }
    assert_eq!(
        a.entry(Table::Replicas, &past).map(|entry| entry.owner),
        Some(u8::MAX)
    );
}

#[test]
fn what_a_stream_did_not_say_is_repaired() {
    let (_site, mut a, mut b) = pair();
    let said = key(1);
    a.track(&said);
    a.packet(1, SYN, ISN);
    a.packet(1, ACK, ISN + 1);
    b.await_replica(&said, |entry| is(entry, CONFIRMED, 0));
    // Confirmed by the program, but the event was lost.
    let lost = key(2);
    a.set(Table::Flows, &lost, &confirmed(4));
    let took = b.await_replica(&lost, |entry| is(entry, CONFIRMED, 0));
    say(&format!("replication: a lost event was repaired after {took:?}"));
    a.await_report(|report| report.peers[1].sent.repairs > 0);
    b.await_report(|report| report.peers[0].drops.found > 0 && report.peers[0].differing == 0);
    assert!(is(b.entry(Table::Replicas, &said), CONFIRMED, 0));
}

#[test]
fn a_slow_peer_slows_nobody() {
    let site = Site::new(3);
    let (mut a, mut b) = (site.node(0, 1 << 13), site.node(1, 1 << 13));
    let deaf = site.deaf(2);
    site.start(&mut a);
    site.start(&mut b);
    a.await_synced(1);
    a.await_report(|report| report.connected.len() == 2);
    // Each is a batch of its own that the deaf one never acknowledges.
    for n in 0..9_000u16 {
        a.say(Command::Deleted(vec![(wide(9, n), confirmed(1))]));
    }
    a.await_report(|report| report.peers[2].is_degraded);
    assert!(!a.report().peers[1].is_degraded);
    assert!(a.report().peers[2].sent.dropped > 0);
    for port in 1..=50 {
        let flow = key(port);
        a.track(&flow);
        let began = Instant::now();
        a.packet(port, SYN, ISN);
        b.await_replica(&flow, |entry| is(entry, PROBATION, 0));
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
    drop(deaf);
}

/// How long a node with many entries takes to tell them; the whole million where the code is optimised.
#[test]
fn many_entries_are_told_at_once() {
    let many: u32 = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let site = Site::new(2);
    let room = many.next_power_of_two() + many / 8;
    let (mut a, mut b) = (site.node(0, room), site.node(1, room));
    let keys: Vec<_> = (0..many).map(|n| wide((n >> 16) as u8, n as u16)).collect();
    let entries = vec![confirmed(10); keys.len()];
    for (keys, entries) in keys.chunks(4096).zip(entries.chunks(4096)) {
        let refused = a
            .kernel
            .maps
            .set_entries(Table::Flows, keys, entries)
            .expect("written");
        assert!(refused.is_empty());
    }
    site.start(&mut a);
    let began = Instant::now();
    site.start(&mut b);
    b.await_synced(0);
    let took = began.elapsed();
    say(&format!(
        "replication: {many} entries told in {took:?}, the session's beginning included"
    ));
    assert_eq!(b.kernel.maps.occupied(Table::Replicas).expect("the map"), many);
    assert!(took < Duration::from_secs(20));
}
