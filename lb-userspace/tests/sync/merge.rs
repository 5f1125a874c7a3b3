//! What becomes of one record, over every kind of entry that may be held.

use lb_common::be::Be16;
use lb_common::flow::{self, CLOSED, CONFIRMED, Entry, OWN, PROBATION};
use lb_common::slot::{Slot, TRACKED, index};
use lb_common::tick::{Tick, seconds};
use lb_common::{header::proto, vip};
use lb_userspace::sync::{Drops, Kind, Merger, Names, ORPHAN, Plan, Record, Tables, View};

const NOW: Tick = Tick(100_000);
const SLOT: u32 = 77;

struct Node {
    own: Option<Entry>,
    replica: Option<Entry>,
    current: u16,
    dead: u16,
}

impl Tables for Node {
    fn own(&mut self, _: &flow::Key) -> Option<Entry> {
        self.own
    }

    fn replica(&mut self, _: &flow::Key) -> Option<Entry> {
        self.replica
    }
}

struct Knows {
    current: u16,
    dead: u16,
}

impl View for Knows {
    fn vip(&self, vip: &vip::Key) -> Option<u16> {
        (vip.port == Be16::new(443)).then_some(0)
    }

    fn backend(&self, id: u64) -> Option<u16> {
        (id < 10).then_some(id as u16)
    }

    fn is_home(&self, backend: u16, _: u16) -> bool {
        backend < 5
    }

    fn is_dead(&self, backend: u16) -> bool {
        backend == self.dead
    }

    fn place(&self, pool: u16, _: &flow::Key) -> u32 {
        index(pool, SLOT)
    }

    fn slot(&self, _: u32) -> Slot {
        Slot::new(self.current, self.current, 0, TRACKED)
    }

    fn is_gone(&self, owner: u8) -> bool {
        owner == 4
    }
}

fn names() -> Names {
    let mut names = Names::default();
    let addr = crate::node::vips()[0].addr;
    names.declare_vip(0, vip::Key::new(addr, Be16::new(443), proto::TCP));
    names.declare_vip(1, vip::Key::new(addr, Be16::new(80), proto::TCP));
    for name in 0..12 {
        names.declare_backend(name, u64::from(name));
    }
    names
}

fn record(kind: Kind, entry: Entry) -> Record {
    let vip = names().vip(0).expect("declared");
    let key = flow::Key {
        src: vip.addr,
        dst: vip.addr,
        sport: Be16::new(1),
        dport: vip.port,
        proto: vip.proto,
        pad: [0; 3],
    };
    Record::new(key, &entry, kind, 0, entry.backend, NOW)
}

const FREE: Node = Node {
    own: None,
    replica: None,
    current: 1,
    dead: 0,
};

/// An entry, confirmed and used so many seconds ago.
fn entry(backend: u16, state: u8, owner: u8, used: u32) -> Entry {
    let ago = |s| Tick(NOW.0 - seconds(s));
    let isn = if state == PROBATION { 7 } else { 0 };
    Entry {
        isn,
        since: if state == PROBATION { NOW } else { ago(used + 10) },
        last: if state == PROBATION { NOW } else { ago(used) },
        backend,
        state,
        owner,
    }
}

/// This node is at place 1 (owner 2), the peer at place 2 (owner 3), a node that is gone at place 3 (owner 4).
fn merge(mut node: Node, records: &[Record]) -> Plan {
    let knows = Knows {
        current: node.current,
        dead: node.dead,
    };
    let mut plan = Plan::default();
    Merger::new(1, 2).merge(records, NOW, &names(), &knows, &mut node, NOW, &mut plan);
    plan
}

#[test]
fn a_new_flow_is_written_and_holds_its_slot_where_it_is_elsewhere() {
    for state in [PROBATION, CONFIRMED, CLOSED] {
        let told = entry(2, state, OWN, 0);
        let plan = merge(FREE, &[record(Kind::Announce, told)]);
        assert_eq!(plan.upserts.len(), 1);
        assert_eq!(plan.upserts[0].1, Entry { owner: 3, ..told });
        assert_eq!(plan.holds, [(index(0, SLOT), 2)]);
        assert_eq!(
            (plan.stamps.len(), plan.demoted.len(), plan.removed.len()),
            (0, 0, 0)
        );
    }
    let plan = merge(FREE, &[record(Kind::Announce, entry(1, CONFIRMED, OWN, 0))]);
    assert_eq!(
        (plan.upserts.len(), plan.holds.len()),
        (1, 0),
        "kept, but the slot says the same"
    );
}

/// What the exhaustive model does: `yields_to` decides for both entries, whose backend differs stamps.
#[test]
fn announcements_do_what_the_model_does() {
    let states = [PROBATION, CONFIRMED, CLOSED];
    let held = states
        .iter()
        .flat_map(|&state| [1, 2].map(|backend| (backend, state)));
    let held: Vec<Option<(u16, u8)>> = held.map(Some).chain([None]).collect();
    for (own, replica) in held
        .iter()
        .flat_map(|own| held.iter().map(move |replica| (own, replica)))
    {
        for (owner, told) in [3, 4, 5, ORPHAN].into_iter().flat_map(|o| states.map(|s| (o, s))) {
            let own = own
                .map(|(b, s)| entry(b, s, OWN, 5))
                .filter(|e| e.state != PROBATION);
            let replica = replica.map(|(b, s)| entry(b, s, owner, 5));
            let told = entry(2, told, OWN, 0);
            let plan = merge(Node { own, replica, ..FREE }, &[record(Kind::Announce, told)]);

            let arrived = Entry { owner: 3, ..told };
            let is_orphan = owner == 4 || owner == ORPHAN;
            let own_goes = own.is_some_and(|e| e.yields_to(&arrived, false, NOW));
            let replica_goes = replica.is_none_or(|e| e.yields_to(&arrived, is_orphan, NOW));
            let displaced = [own.filter(|_| own_goes), replica.filter(|_| replica_goes)];
            let stamps = displaced.iter().flatten().any(|e| e.backend != 2);
            let case = format!("{own:?} {replica:?} {told:?}");
            assert_eq!(!plan.demoted.is_empty(), own_goes, "{case}");
            assert_eq!(!plan.upserts.is_empty(), replica_goes, "{case}");
            assert_eq!(!plan.stamps.is_empty(), stamps, "{case}");
            assert_eq!(plan.holds.len(), 1, "{case}");
        }
    }
}

#[test]
fn deletes_and_refreshes_count_from_the_owner_alone() {
    for (kind, owner) in [Kind::Delete, Kind::Refresh]
        .into_iter()
        .flat_map(|kind| [3, 4, 5, 2, ORPHAN].map(|owner| (kind, owner)))
    {
        let told = record(kind, entry(1, CONFIRMED, OWN, 0));
        let replica = Some(entry(1, CONFIRMED, owner, 50));
        let plan = merge(Node { replica, ..FREE }, &[told]);
        assert_eq!(plan.is_empty(), owner != 3, "{kind:?} {owner}");
        assert_eq!(plan.drops.not_owner, u64::from(owner != 3));
        assert_eq!(
            plan.removed.len(),
            usize::from(kind == Kind::Delete && owner == 3)
        );
        let own = Some(entry(1, CONFIRMED, OWN, 500));
        assert!(merge(Node { own, ..FREE }, &[told]).is_empty(), "{kind:?}");
    }
    let plan = merge(FREE, &[record(Kind::Refresh, entry(1, CONFIRMED, OWN, 0))]);
    assert_eq!(
        (plan.upserts.len(), plan.drops.found),
        (1, 1),
        "nobody knows better"
    );
}

#[test]
fn a_snapshot_displaces_what_was_used_earlier() {
    let told = record(Kind::Snapshot, entry(1, CONFIRMED, OWN, 20));
    for (held, yields) in [
        (entry(1, CONFIRMED, OWN, 30), true),
        (entry(2, CONFIRMED, OWN, 30), true),
        (entry(2, CONFIRMED, OWN, 10), false),
        (entry(1, CONFIRMED, OWN, 20), false),
        (entry(1, CLOSED, OWN, 10), true),
        (entry(2, CLOSED, OWN, 10), false),
        (entry(1, CONFIRMED, 3, 10), true),
        (entry(2, CONFIRMED, 4, 10), true),
        (entry(2, CONFIRMED, ORPHAN, 10), true),
        (entry(1, CONFIRMED, 5, 30), true),
        (entry(1, CONFIRMED, 5, 20), true),
        (entry(1, CONFIRMED, 1, 20), true),
        (entry(2, CLOSED, 1, 19), true),
        (entry(1, CONFIRMED, 5, 10), false),
    ] {
        let is_own = held.owner == OWN;
        let node = Node {
            own: Some(held).filter(|_| is_own),
            replica: Some(held).filter(|_| !is_own),
            ..FREE
        };
        let plan = merge(node, &[told]);
        assert_eq!(plan.upserts.len() == 1, yields, "{held:?}");
        assert_eq!(plan.demoted.len() == 1, yields && is_own, "{held:?}");
        assert_eq!(plan.drops.unyielding, u64::from(!yields), "{held:?}");
    }
}

#[test]
fn orphans_displace_nobody_living() {
    let told = record(Kind::Orphan, entry(1, CONFIRMED, OWN, 20));
    let plan = merge(FREE, &[told]);
    assert_eq!(plan.upserts[0].1.owner, ORPHAN);
    for (held, yields) in [
        (entry(1, CONFIRMED, 3, 900), false),
        (entry(1, CONFIRMED, 5, 900), false),
        (entry(1, CONFIRMED, 4, 30), true),
        (entry(1, CONFIRMED, ORPHAN, 30), true),
        (entry(1, CONFIRMED, ORPHAN, 10), false),
    ] {
        let replica = Some(held);
        assert_eq!(
            !merge(Node { replica, ..FREE }, &[told]).is_empty(),
            yields,
            "{held:?}"
        );
    }
    let own = Some(entry(1, CLOSED, OWN, 900));
    assert!(merge(Node { own, ..FREE }, &[told]).is_empty());
}

#[test]
fn what_this_node_does_not_know_is_dropped_and_counted() {
    let of = |backend| record(Kind::Announce, entry(backend, CONFIRMED, OWN, 0));
    let elsewhere = Record { vip: 1, ..of(1) };
    let plan = merge(Node { dead: 3, ..FREE }, &[of(11), of(7), of(3), elsewhere]);
    assert!(plan.is_empty());
    let expected = Drops {
        vip: 1,
        backend: 1,
        foreign: 1,
        dead: 1,
        ..Drops::default()
    };
    assert_eq!(plan.drops, expected);
}

#[test]
fn later_records_of_a_batch_see_earlier_ones() {
    let told = record(Kind::Announce, entry(1, CONFIRMED, OWN, 0));
    let gone = record(Kind::Delete, entry(1, CONFIRMED, OWN, 0));
    let own = Some(entry(1, CONFIRMED, OWN, 5));
    let plan = merge(Node { own, ..FREE }, &[told, gone]);
    assert_eq!(
        (plan.upserts.len(), plan.removed.len(), plan.demoted.len()),
        (0, 1, 1)
    );
    let plan = merge(FREE, &[told, gone, told]);
    assert_eq!((plan.upserts.len(), plan.removed.len()), (1, 0));
}
