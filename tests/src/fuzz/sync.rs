//! A peer's stream of flow records, from its bytes to the operations on the maps.

use lb_common::be::Be16;
use lb_common::flow::{self, CLOSED, CONFIRMED, Entry, PROBATION};
use lb_common::header::proto;
use lb_common::slot::{Slot, index};
use lb_common::tick::Tick;
use lb_common::vip;
use lb_userspace::sync::{Inbound, Merger, Names, Plan, Receiver, Record, Tables, View};

/// The peer's place; ours is 0.
const PEER: u8 = 1;
const NOW: Tick = Tick(1_000_000);

/// A node that holds an entry of every third flow, and knows every backend but those of odd identity.
struct Node;

impl Tables for Node {
    fn own(&mut self, key: &flow::Key) -> Option<Entry> {
        let entry = Entry::probation(1, 9, NOW).confirmed(NOW);
        key.sport.get().is_multiple_of(3).then_some(entry)
    }

    fn replica(&mut self, key: &flow::Key) -> Option<Entry> {
        let entry = Entry {
            owner: (key.sport.get() % 5) as u8 + 1,
            ..Entry::probation(2, 9, NOW)
        };
        key.sport.get().is_multiple_of(2).then_some(entry)
    }
}

impl View for Node {
    fn vip(&self, vip: &vip::Key) -> Option<u16> {
        (vip.proto == proto::TCP).then_some(0)
    }

    fn backend(&self, id: u64) -> Option<u16> {
        id.is_multiple_of(2).then_some((id % 8) as u16)
    }

    fn is_home(&self, backend: u16, _: u16) -> bool {
        backend != 4
    }

    fn is_dead(&self, backend: u16) -> bool {
        backend == 6
    }

    fn place(&self, pool: u16, key: &flow::Key) -> u32 {
        index(pool, u32::from(key.sport.get()))
    }

    fn slot(&self, _: u32) -> Slot {
        Slot::untracked(2)
    }

    fn is_gone(&self, owner: u8) -> bool {
        owner == 3
    }
}

/// The bytes as a stream, in one piece and in small ones: the same is understood, and nothing that is not allowed is done.
///
/// # Panics
/// Where that doesn't hold.
pub fn sync(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    assert_eq!(whole, read(data, 7), "however it is cut");
}

fn read(data: &[u8], piece: usize) -> (Vec<Inbound>, bool) {
    let mut receiver = Receiver::new(PEER);
    let (mut all, mut plan) = (Vec::new(), Plan::default());
    for piece in data.chunks(piece) {
        receiver.handle(piece);
        loop {
            match receiver.poll(NOW) {
                Err(_) => return (all, false),
                Ok(None) => break,
                Ok(Some(inbound)) => {
                    if let Inbound::Records { records, sent, .. } = &inbound {
                        merge(records, *sent, receiver.names(), &mut plan);
                    }
                    all.push(inbound);
                }
            }
        }
    }
    (all, true)
}

fn merge(records: &[Record], sent: Tick, names: &Names, plan: &mut Plan) {
    for record in records {
        again(record, names);
    }
    plan.clear();
    Merger::new(0, PEER).merge(records, sent, names, &Node, &mut Node, NOW, plan);
    assert!(plan.upserts.len() + plan.removed.len() <= records.len());
    for (key, entry) in &plan.upserts {
        assert!(matches!(entry.state, PROBATION | CONFIRMED | CLOSED));
        assert!(entry.owner == PEER + 1 || entry.owner == lb_userspace::sync::ORPHAN);
        assert!(![4, 6].contains(&entry.backend), "another pool's, or dead");
        assert_eq!(key.proto, proto::TCP);
    }
    for key in &plan.demoted {
        assert!(plan.upserts.iter().any(|(upsert, _)| upsert == key) || plan.removed.contains(key));
    }
}

/// What was understood says the same when it is said again, within the bounds of a record.
fn again(record: &Record, names: &Names) {
    let mut bytes = bytes::BytesMut::new();
    let vip = names.vip(record.vip).expect("it was declared");
    record.encode(vip.port == Be16::new(0), &mut bytes);
    let longest = if record.key.src.is_v4() {
        20
    } else {
        Record::LONGEST
    };
    assert!(bytes.len() <= longest, "{record:?}");
    assert_eq!(Record::decode(&mut &bytes[..], names).as_ref(), Ok(record));
}
