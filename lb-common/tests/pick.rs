//! The decision flow → backend, row by row.

use lb_common::flow::{CLOSED, CONFIRMED, Entry, HOLD, PROBATION, REOPEN, TOUCH};
use lb_common::pick::{AGAIN, By, Flows, NoEntry, Pick, tcp, udp};
use lb_common::retire::{MARK_EVERY, Uses};
use lb_common::slot::{CLOSING, Slot, TRACKED, UDP_LEARN};
use lb_common::tcp::{ACK, FIN, RST, SYN, Segment};
use lb_common::tick::Tick;

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;
const ISN: u32 = 1_000;
const NOW: Tick = Tick(500_000);

/// Tables of one flow, and a count of the questions that were asked.
#[derive(Clone, Default)]
struct Tables {
    own: Option<Entry>,
    replica: Option<Entry>,
    probation: Option<Entry>,
    dead: Option<u16>,
    is_full: bool,
    uses: Uses,
    missed: Option<Tick>,
    asked: usize,
}

impl Flows for Tables {
    fn own(&mut self) -> Option<Entry> {
        self.asked += 1;
        self.own
    }
    fn replica(&mut self) -> Option<Entry> {
        self.asked += 1;
        self.replica
    }
    fn probation(&mut self) -> Option<Entry> {
        self.asked += 1;
        self.probation
    }
    fn is_dead(&mut self, backend: u16) -> bool {
        self.dead == Some(backend)
    }
    fn enter(&mut self, entry: Entry) -> bool {
        if !self.is_full {
            self.probation = Some(entry);
        }
        !self.is_full
    }
    fn confirm(&mut self, entry: Entry) {
        self.own = Some(entry);
        (self.probation, self.replica) = (None, None);
    }
    fn update(&mut self, entry: Entry) {
        self.own = Some(entry);
    }
    fn uses(&mut self) -> Uses {
        self.uses
    }
    fn set_uses(&mut self, uses: Uses) {
        self.uses = uses;
    }
    fn missed(&mut self) -> Option<Tick> {
        self.missed
    }
    fn note(&mut self, now: Tick) -> bool {
        if !self.is_full {
            self.missed = Some(now);
        }
        !self.is_full
    }
}

/// New flows to B, old ones at A.
fn moved() -> Slot {
    Slot::new(B, A, 0, TRACKED)
}

fn entry(backend: u16, state: u8) -> Option<Entry> {
    Some(Entry {
        state,
        ..Entry::probation(backend, ISN, NOW)
    })
}

fn at(now: Tick, slot: Slot, flags: u8, seq: u32, tables: &mut Tables) -> Result<Pick, NoEntry> {
    tcp(slot, false, Segment::new(flags, seq), now, tables)
}

fn go(slot: Slot, flags: u8, seq: u32, tables: &mut Tables) -> (u16, By) {
    let pick = at(NOW, slot, flags, seq, tables).expect("a backend");
    (pick.backend, pick.by)
}

fn own(entry: Option<Entry>) -> Tables {
    Tables {
        own: entry,
        ..Tables::default()
    }
}

fn replica(entry: Option<Entry>) -> Tables {
    Tables {
        replica: entry,
        ..Tables::default()
    }
}

fn probation(entry: Option<Entry>) -> Tables {
    Tables {
        probation: entry,
        ..Tables::default()
    }
}

#[test]
fn an_untracked_slot_asks_for_nothing() {
    let mut tables = own(entry(C, CONFIRMED));
    for flags in [SYN, ACK, FIN | ACK, RST] {
        assert_eq!(go(Slot::untracked(A), flags, 7, &mut tables), (A, By::Slot));
    }
    assert_eq!(tables.asked, 0);
    let pick = tcp(Slot::untracked(A), true, Segment::new(ACK, 7), NOW, &mut tables);
    assert_eq!(pick.map(|p| p.backend), Ok(C), "unless the VIP tracks always");
}

#[test]
fn an_own_flow_asks_once() {
    let mut tables = own(entry(C, CONFIRMED));
    assert_eq!(go(moved(), ACK, 7, &mut tables), (C, By::Own));
    assert_eq!(tables.asked, 1);
}

#[test]
fn a_connection_from_syn_to_close() {
    let mut tables = Tables::default();
    assert_eq!(go(moved(), SYN, ISN, &mut tables), (B, By::New));
    assert_eq!(tables.own, None, "a SYN touches probation alone");
    // The slot moves on; the SYN comes again, then the answer.
    let moved = Slot::new(C, A, 0, TRACKED);
    assert_eq!(go(moved, SYN, ISN, &mut tables), (B, By::Probation));
    assert_eq!(go(moved, ACK, ISN + 1, &mut tables), (B, By::Probation));
    assert_eq!((tables.own, tables.probation), (entry(B, CONFIRMED), None));
    assert_eq!(go(moved, ACK, ISN + 90_000, &mut tables), (B, By::Own));
    assert_eq!(go(moved, FIN | ACK, ISN + 90_000, &mut tables), (B, By::Own));
    assert_eq!(tables.own, entry(B, CLOSED));
    // The last ACK comes at once; somebody who sends a second later is alive.
    assert_eq!(go(moved, ACK, ISN + 90_001, &mut tables), (B, By::Own));
    assert_eq!(tables.own.map(|e| e.state), Some(CLOSED));
    let later = NOW.after(REOPEN);
    at(later, moved, ACK, ISN + 90_001, &mut tables).unwrap();
    assert_eq!(tables.own.map(|e| (e.state, e.since)), Some((CONFIRMED, later)));
}

/// A server that still has an old connection of the same ports answers a SYN with a question, and has to hear that there is none.
#[test]
fn a_denial_goes_where_the_syn_went() {
    let far = ISN.wrapping_add(1 << 31);
    for (flags, expected) in [
        (RST, (B, By::Probation)),
        (RST | ACK, (A, By::Origin)),
        (ACK, (A, By::Origin)),
    ] {
        let mut tables = Tables::default();
        assert_eq!(go(moved(), SYN, ISN, &mut tables), (B, By::New));
        assert_eq!(go(moved(), flags, far, &mut tables), expected, "{flags:#x}");
        assert_eq!(tables.probation, entry(B, PROBATION), "the SYN comes again");
        assert_eq!(go(moved(), SYN, ISN, &mut tables), (B, By::Probation));
    }
    let mut told = replica(entry(C, PROBATION));
    assert_eq!(go(moved(), RST, far, &mut told), (C, By::Replica));
    assert_eq!(told.own, None);
}

#[test]
fn what_a_syn_follows() {
    let other_isn = ISN + 5;
    for (mut tables, isn, expected) in [
        (own(entry(C, CONFIRMED)), other_isn, (C, By::Own)),
        (replica(entry(C, CONFIRMED)), other_isn, (C, By::Replica)),
        (replica(entry(C, PROBATION)), ISN, (C, By::Replica)),
        (probation(entry(C, PROBATION)), ISN, (C, By::Probation)),
        (replica(entry(C, PROBATION)), other_isn, (A, By::Refused)),
        (probation(entry(C, PROBATION)), other_isn, (A, By::Refused)),
        (Tables::default(), ISN, (B, By::New)),
    ] {
        let before = tables.own;
        assert_eq!(go(moved(), SYN, isn, &mut tables), expected);
        assert_eq!(tables.own, before, "never a confirmed entry");
    }
    let mut old = probation(entry(C, PROBATION));
    let pick = at(NOW.after(HOLD), moved(), SYN, other_isn, &mut old);
    assert_eq!(
        pick.map(|p| (p.backend, p.by)),
        Ok((B, By::New)),
        "an old handshake is over"
    );
    let mut old = replica(entry(C, PROBATION));
    at(NOW.after(HOLD), moved(), SYN, ISN, &mut old).unwrap();
    assert_eq!(
        old.probation.map(|e| e.backend),
        Some(C),
        "entered and announced anew"
    );
}

#[test]
fn a_new_connection_on_a_closed_entry() {
    for mut tables in [own(entry(C, CLOSED)), replica(entry(C, CLOSED))] {
        let backend = go(moved(), SYN, 70_000, &mut tables).0;
        assert_eq!(backend, C);
        assert_eq!(go(moved(), ACK, 70_001, &mut tables), (C, By::Probation));
        assert_eq!(tables.own.map(|e| (e.backend, e.state)), Some((C, CONFIRMED)));
    }
}

#[test]
fn a_refused_syn_goes_to_origin_and_holds_the_slot() {
    let full = Tables {
        is_full: true,
        ..Tables::default()
    };
    let mut tables = full.clone();
    assert_eq!(go(moved(), SYN, ISN, &mut tables), (A, By::Refused));
    assert_eq!(tables.uses, Uses::by_flow(NOW));
    assert_eq!(
        go(moved(), ACK, ISN + 1, &mut tables),
        (A, By::Origin),
        "and so does its ACK"
    );
    let closing = Slot::new(B, A, 0, TRACKED | CLOSING);
    assert_eq!(at(NOW, closing, SYN, ISN, &mut full.clone()), Err(NoEntry));
    let mut tables = full;
    go(Slot::new(A, A, 0, TRACKED), SYN, ISN, &mut tables);
    assert_eq!(
        tables.uses,
        Uses::default(),
        "origin = current: it doesn't matter"
    );
}

#[test]
fn probation_matches_by_sequence_number() {
    for (seq, flags, expected) in [
        (ISN, ACK, A),
        (ISN + 1, ACK, C),
        (ISN + 65_536, ACK, C),
        (ISN + 65_537, ACK, A),
        (ISN - 1, ACK, A),
        (ISN + 1, RST, C),
    ] {
        for mut tables in [probation(entry(C, PROBATION)), replica(entry(C, PROBATION))] {
            assert_eq!(go(moved(), flags, seq, &mut tables).0, expected, "{seq} {flags}");
            assert_eq!(tables.own.is_some(), expected == C && flags == ACK);
        }
    }
}

#[test]
fn a_replica_is_taken_over() {
    let mut tables = replica(Some(Entry {
        owner: 3,
        ..entry(C, CONFIRMED).unwrap()
    }));
    assert_eq!(go(moved(), SYN | ACK, 5, &mut tables), (C, By::Replica));
    assert_eq!(tables.own, None, "not by backscatter");
    assert_eq!(go(moved(), ACK, 5, &mut tables), (C, By::Replica));
    assert_eq!((tables.own, tables.replica), (entry(C, CONFIRMED), None));
}

#[test]
fn entries_that_name_a_dead_backend_are_missing() {
    let dead = |tables: Tables| Tables {
        dead: Some(C),
        ..tables
    };
    for mut tables in [dead(own(entry(C, CONFIRMED))), dead(replica(entry(C, CONFIRMED)))] {
        assert_eq!(go(moved(), ACK, 7, &mut tables), (A, By::Rehomed));
        assert_eq!(tables.uses, Uses::default(), "its connection is over");
        assert_eq!(go(moved(), SYN, 7, &mut tables), (B, By::New));
        assert_eq!(go(moved(), ACK, 8, &mut tables), (B, By::Probation));
    }
    let mut tables = dead(probation(entry(C, PROBATION)));
    assert_eq!(go(moved(), ACK, ISN + 1, &mut tables), (A, By::Origin));
}

/// Hole 13: what stamps `origin` and what doesn't.
#[test]
fn only_living_flows_stamp() {
    let miss = |flags: u8, missed: Option<u32>, slot: Slot, is_full: bool| {
        let mut tables = Tables {
            missed: missed.map(|ticks| Tick(NOW.0 - ticks)),
            is_full,
            ..Tables::default()
        };
        assert_eq!(go(slot, flags, 7, &mut tables).0, slot.origin());
        tables.uses
    };
    let (nobody, somebody, living) = (
        Uses::default(),
        Uses::default().by_somebody(NOW),
        Uses::by_flow(NOW),
    );
    assert_eq!(miss(ACK, None, moved(), false), somebody);
    assert_eq!(miss(ACK, Some(AGAIN - 1), moved(), false), somebody, "a burst");
    assert_eq!(miss(ACK, Some(AGAIN), moved(), false), living);
    assert_eq!(miss(ACK, None, moved(), true), living, "it can't be noted");
    for flags in [RST, RST | ACK, FIN | ACK, SYN | ACK, 0] {
        assert_eq!(miss(flags, Some(AGAIN), moved(), true), nobody, "{flags}");
    }
    let back = Slot::new(A, A, 0, TRACKED);
    assert_eq!(miss(ACK, Some(AGAIN), back, false), nobody, "there and back");
}

#[test]
fn marks_are_not_written_for_every_packet() {
    let stamped = |ticks| Tables {
        uses: Uses::by_flow(Tick(NOW.0 - ticks)),
        missed: Some(Tick(NOW.0 - 10_000)),
        ..Tables::default()
    };
    let mut tables = stamped(MARK_EVERY - 1);
    go(moved(), ACK, 7, &mut tables);
    assert_eq!(tables.uses.stamp, Tick(NOW.0 - MARK_EVERY + 1));
    let mut tables = stamped(MARK_EVERY);
    go(moved(), ACK, 7, &mut tables);
    assert_eq!(tables.uses.stamp, NOW);

    let mut tables = own(entry(C, CONFIRMED));
    at(NOW.after(TOUCH - 1), moved(), ACK, 7, &mut tables).unwrap();
    assert_eq!(tables.own.unwrap().last, NOW);
    at(NOW.after(TOUCH), moved(), ACK, 7, &mut tables).unwrap();
    assert_eq!(tables.own.unwrap().last, NOW.after(TOUCH));
}

#[test]
fn closing_in_every_place() {
    for (mut tables, flags) in [
        (own(entry(C, CONFIRMED)), RST),
        (own(entry(C, CONFIRMED)), FIN | ACK),
        (replica(entry(C, CONFIRMED)), FIN | ACK),
        (probation(entry(C, PROBATION)), FIN | ACK),
    ] {
        assert_eq!(go(moved(), flags, ISN + 1, &mut tables).0, C);
        assert_eq!(tables.own, entry(C, CLOSED));
    }
}

/// Hole 21.
#[test]
fn udp_is_admitted_with_its_second_packet() {
    let learning = Slot::new(A, A, 0, TRACKED | UDP_LEARN);
    let mut tables = Tables::default();
    let go = |slot, tables: &mut Tables| {
        let pick = udp(slot, false, NOW, tables);
        (pick.backend, pick.by)
    };
    assert_eq!(go(Slot::untracked(A), &mut tables), (A, By::Slot));
    assert_eq!(tables.asked, 0);
    assert_eq!(go(learning, &mut tables), (A, By::Origin));
    assert_eq!(tables.own, None, "one packet may be forged");
    assert_eq!(
        go(moved(), &mut tables),
        (A, By::Probation),
        "an old flow, after COMMIT"
    );
    assert_eq!(go(moved(), &mut tables), (A, By::Own));

    let mut fresh = Tables::default();
    assert_eq!(go(moved(), &mut fresh), (B, By::New), "nobody knows it: new");
    let mut full = Tables {
        is_full: true,
        ..Tables::default()
    };
    assert_eq!(go(learning, &mut full), (A, By::Refused));
    assert_eq!(go(moved(), &mut full), (B, By::Refused));
    assert_eq!(full.uses, Uses::default(), "UDP never stamps");
    assert_eq!(go(moved(), &mut replica(entry(C, CONFIRMED))), (C, By::Replica));
}

#[test]
fn a_slot_without_a_backend_enters_nothing() {
    let mut tables = Tables::default();
    assert_eq!(
        go(Slot::new(0, A, 0, TRACKED), SYN, ISN, &mut tables),
        (0, By::Slot)
    );
    assert_eq!(tables.probation, None);
}
