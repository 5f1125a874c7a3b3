//! Records and frames as bytes; how fast they go.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use lb_common::be::Be16;
use lb_common::flow::{self, CLOSED, CONFIRMED, Entry, PROBATION};
use lb_common::tick::Tick;
use lb_userspace::sync::{
    Flow, Frame, Hello, Inbound, Kind, Limits, Names, Outbox, Receiver, Record, Scope, Sender, VERSION, Wrong,
};
use proptest::prelude::*;

use crate::node::vips;

fn hello() -> Hello {
    Hello {
        place: 1,
        joins: false,
        connected: vec![0, 2],
    }
}

fn flow(n: u32, kind: Kind, entry: Entry) -> Flow {
    let vip = vips()[0];
    let key = flow::Key {
        src: std::net::IpAddr::from(n.to_be_bytes()).into(),
        dst: vip.addr,
        sport: Be16::new(n as u16),
        dport: vip.port,
        proto: vip.proto,
        pad: [0; 3],
    };
    let backend = u64::from(entry.backend);
    Flow {
        kind,
        key,
        vip,
        backend,
        entry,
    }
}

fn names() -> Names {
    let mut names = Names::default();
    for (name, vip) in (0..).zip(vips()) {
        names.declare_vip(name, vip);
        names.declare_backend(name, 5);
    }
    names
}

fn any_record() -> impl Strategy<Value = Record> {
    let kinds = [
        Kind::Announce,
        Kind::Refresh,
        Kind::Delete,
        Kind::Snapshot,
        Kind::Orphan,
    ];
    let kind = prop::sample::select(kinds.to_vec());
    let state = prop::sample::select(vec![PROBATION, CONFIRMED, CLOSED]);
    (kind, state, any::<(u128, u16, u16, u32, u32, u32, bool)>()).prop_map(|(kind, state, rest)| {
        let (src, sport, dport, isn, since, last, is_v6) = rest;
        let vip = vips()[usize::from(is_v6)];
        let ip = if is_v6 {
            std::net::Ipv6Addr::from(src | 1 << 127).into()
        } else {
            std::net::Ipv4Addr::from(src as u32).into()
        };
        let key = flow::Key {
            src: std::net::IpAddr::into(ip),
            dst: vip.addr,
            sport: Be16::new(sport),
            dport: if is_v6 { Be16::new(dport) } else { vip.port },
            proto: vip.proto,
            pad: [0; 3],
        };
        let now = Tick(77);
        let entry = Entry {
            isn,
            since: Tick(now.0.wrapping_sub(since)),
            last: Tick(now.0.wrapping_sub(last)),
            backend: 0,
            state: if kind == Kind::Refresh {
                state.max(CONFIRMED)
            } else {
                state
            },
            owner: 0,
        };
        Record::new(key, &entry, kind, u16::from(is_v6), 1, now)
    })
}

proptest! {
    #[test]
    fn records_come_back_as_they_were_and_are_short(record in any_record()) {
        let mut bytes = BytesMut::new();
        record.encode(record.vip == 1, &mut bytes);
        let longest = if record.vip == 0 { 20 } else { Record::LONGEST };
        prop_assert!(bytes.len() <= longest);
        let mut rest = &bytes[..];
        let record = if record.kind == Kind::Delete { Record { backend: 0, ..record } } else { record };
        prop_assert_eq!(Record::decode(&mut rest, &names()), Ok(record));
        prop_assert!(rest.is_empty());
        for cut in 0..bytes.len() {
            prop_assert_eq!(Record::decode(&mut &bytes[..cut], &names()), Err(Wrong::Short));
        }
    }

    #[test]
    fn garbage_is_an_error_or_something(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut receiver = Receiver::new(1);
        receiver.handle(&Frame::Hello(hello()).bytes());
        receiver.handle(&bytes);
        while let Ok(Some(_)) = receiver.poll(Tick(1)) {}
    }
}

fn session(frames: &[Frame]) -> Result<Vec<Inbound>, Wrong> {
    let mut receiver = Receiver::new(1);
    let mut all = Vec::new();
    for frame in frames {
        receiver.handle(&frame.bytes());
    }
    while let Some(inbound) = receiver.poll(Tick(9))? {
        all.push(inbound);
    }
    Ok(all)
}

#[test]
fn a_session_begins_with_its_hello() {
    let of = |place| Frame::Hello(Hello { place, ..hello() });
    assert_eq!(session(&[of(1)]), Ok(vec![Inbound::Hello(hello())]));
    assert_eq!(session(&[Frame::Ack(1)]), Err(Wrong::Hello));
    assert_eq!(session(&[of(1), of(1)]), Err(Wrong::Hello));
    assert_eq!(session(&[of(2)]), Err(Wrong::Place { place: 2 }));
    let mut other = BytesMut::from(&of(1).bytes()[..]);
    other[4] += 1;
    let mut receiver = Receiver::new(1);
    receiver.handle(&other);
    let theirs = VERSION + 1;
    assert_eq!(receiver.poll(Tick(0)), Err(Wrong::Version { theirs }));
}

#[test]
fn records_that_come_again_end_the_session() {
    let records = |first| Frame::Records {
        first,
        now: Tick(1),
        count: 0,
        body: bytes::Bytes::new(),
    };
    let start = Frame::Hello(hello());
    assert!(session(&[start.clone(), records(0), records(0)]).is_ok());
    assert_eq!(
        session(&[start, records(1)]),
        Err(Wrong::Sequence { first: 1, next: 0 })
    );
}

/// Sent as a whole or in pieces, by one outbox to two peers, of which one begins later.
#[test]
fn names_are_declared_once_to_each_peer() {
    let mut outbox = Outbox::default();
    let now = Tick(50);
    let entry = |backend| Entry::probation(backend, 1, now).confirmed(now);
    let mut first = Sender::new(&hello(), outbox.declarations(), Limits::default());
    outbox.push(&flow(1, Kind::Announce, entry(4)), now, Duration::ZERO);
    assert_eq!(outbox.poll_timeout(), Some(Duration::from_millis(1)));
    assert!(outbox.take(Duration::ZERO).is_none(), "it waits for more");
    let batch = outbox.take(Duration::from_millis(1)).unwrap();
    first.enqueue(&batch);
    let mut second = Sender::new(&hello(), outbox.declarations(), Limits::default());
    // Learnt by a snapshot for one of them alone.
    let mut one = [flow(2, Kind::Snapshot, entry(5))].into_iter();
    let snapshot = outbox.snapshot(&mut one, now, Duration::ZERO).unwrap();
    second.snapshot(snapshot);
    outbox.push(&flow(3, Kind::Announce, entry(5)), now, Duration::ZERO);
    outbox.flush();
    let batch = outbox.take(Duration::ZERO).unwrap();
    for (sender, expected) in [(&mut first, [1, 3]), (&mut second, [2, 3])] {
        sender.enqueue(&batch);
        let mut receiver = Receiver::new(1);
        let mut came = Vec::new();
        while let Some(bytes) = sender.poll_transmit() {
            for byte in bytes {
                receiver.handle(&[byte]);
                while let Some(inbound) = receiver.poll(Tick(9)).unwrap() {
                    if let Inbound::Records { records, sent, .. } = inbound {
                        assert_eq!(sent, Tick(9));
                        came.extend(records.iter().map(|r| u32::from(r.key.sport.get())));
                    }
                }
            }
        }
        assert_eq!(came, expected);
    }
}

#[test]
fn acknowledgements_measure_and_make_room() {
    let mut outbox = Outbox::default();
    let limits = Limits {
        bytes: 1_000,
        batches: 10,
    };
    let mut sender = Sender::new(&hello(), outbox.declarations(), limits);
    let now = Tick(50);
    let mut batch = |ms| {
        outbox.push(
            &flow(1, Kind::Announce, Entry::probation(1, 1, now)),
            now,
            Duration::from_millis(ms),
        );
        outbox.flush();
        outbox.take(Duration::ZERO).unwrap()
    };
    for ms in 0..10 {
        sender.enqueue(&batch(ms));
    }
    while sender.poll_transmit().is_some() {}
    sender.on_ack(4, Duration::from_millis(20));
    assert_eq!(sender.sent().acknowledged, 4);
    let lag = sender.sent().lag.quantile(1.0).unwrap();
    assert!((19..=21).contains(&lag.as_millis()), "{lag:?}");
    assert!(!sender.is_degraded());
    for ms in 20..25 {
        sender.enqueue(&batch(ms));
    }
    assert!(sender.is_degraded() && !sender.wants_resync());
    sender.on_ack(10, Duration::from_millis(30));
    assert!(sender.wants_resync(), "what was sent is in, the rest is dropped");
    assert_eq!((sender.sent().dropped, sender.backlog()), (5, 0));
}

#[test]
fn a_peer_has_merged_what_it_acknowledged_and_nothing_while_it_lacks_entries() {
    let mut outbox = Outbox::default();
    let mut sender = Sender::new(&hello(), outbox.declarations(), Limits::default());
    let now = Tick(50);
    let mut batch = || {
        let entry = Entry::probation(1, 1, now);
        outbox.push(&flow(1, Kind::Announce, entry), now, Duration::ZERO);
        outbox.flush();
        outbox.take(Duration::ZERO).unwrap()
    };
    let merged = |sender: &Sender| sender.sent().merged;
    let send = |sender: &mut Sender| while sender.poll_transmit().is_some() {};
    send(&mut sender);
    sender.mark(5);
    assert_eq!(merged(&sender), 0, "nothing was told of what was before");
    sender.begin_resync(Scope::Own, batch().declarations);
    sender.snapshot(batch());
    sender.mark(6);
    sender.enqueue(&batch());
    sender.end_resync();
    sender.mark(7);
    send(&mut sender);
    sender.on_ack(1, Duration::ZERO);
    assert_eq!(merged(&sender), 0, "the rest is on its way");
    sender.on_ack(2, Duration::ZERO);
    assert_eq!(merged(&sender), 7);
    sender.mark(8);
    assert_eq!(merged(&sender), 8, "events without records for this peer");
    sender.enqueue(&batch());
    sender.mark(9);
    send(&mut sender);
    sender.enqueue(&batch());
    sender.mark(10);
    assert_eq!(merged(&sender), 8);
    sender.on_ack(3, Duration::ZERO);
    assert_eq!(merged(&sender), 9, "the last one has not been sent");
    send(&mut sender);
    sender.on_ack(4, Duration::ZERO);
    assert_eq!(merged(&sender), 10);
}

#[test]
fn a_fence_waits_for_what_an_earlier_session_may_have_lost() {
    let mut outbox = Outbox::default();
    let mut sender = Sender::new(&hello(), outbox.declarations(), Limits::default());
    sender.fence(7);
    let mut receiver = Receiver::new(hello().place);
    let mut said = |sender: &mut Sender| {
        while let Some(bytes) = sender.poll_transmit() {
            receiver.handle(&bytes);
        }
        let mut said = Vec::new();
        while let Some(inbound) = receiver.poll(Tick(50)).unwrap() {
            said.push(inbound);
        }
        said
    };
    assert_eq!(said(&mut sender), [Inbound::Hello(hello())]);
    sender.begin_resync(Scope::Own, outbox.declarations());
    assert_eq!(said(&mut sender), [Inbound::ResyncBegin(Scope::Own)]);
    sender.end_resync();
    assert_eq!(
        said(&mut sender),
        [Inbound::Resynced(Scope::Own), Inbound::Fence(7)]
    );
}

/// One core, no sockets: `cargo test --release -p lb-userspace --test sync -- --ignored --nocapture records_per_second`.
#[test]
#[ignore = "measures; in a release build"]
fn records_per_second() {
    const RECORDS: u32 = 4_000_000;
    let now = Tick(1_000_000);
    let entry = Entry::probation(3, 7, now).confirmed(now);
    let flows: Vec<Flow> = (0..RECORDS).map(|n| flow(n, Kind::Announce, entry)).collect();
    let mut outbox = Outbox::default();
    let limits = Limits {
        bytes: usize::MAX,
        batches: usize::MAX,
    };
    let mut peers = [0, 1].map(|_| Sender::new(&hello(), outbox.declarations(), limits));
    let mut out = Vec::new();
    let begin = Instant::now();
    for flow in &flows {
        outbox.push(flow, now, Duration::ZERO);
        while let Some(batch) = (outbox.poll_timeout() == Some(Duration::ZERO))
            .then(|| outbox.take(Duration::ZERO))
            .flatten()
        {
            for peer in &mut peers {
                peer.enqueue(&batch);
            }
        }
        for peer in &mut peers {
            out.extend(std::iter::from_fn(|| peer.poll_transmit()));
        }
    }
    let took = begin.elapsed().as_secs_f64();
    let bytes: usize = out.iter().map(bytes::Bytes::len).sum();
    println!(
        "sender, 2 peers: {:.0} records/s, {:.1} bytes each",
        f64::from(RECORDS) / took,
        bytes as f64 / 2.0 / f64::from(RECORDS)
    );
    crate::speed::receive(&flows, now);
}
