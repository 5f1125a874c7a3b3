//! One packet: the real decision over the model's tables.

use lb_common::flow::Entry;
use lb_common::pick::{self, By, Flows, NoEntry};
use lb_common::retire::Uses;
use lb_common::tcp::{Kind, Segment};
use lb_common::tick::{Tick, seconds};

use crate::rules::Rules;
use crate::world::{Held, Member, NOW, Node, World, has};

/// The tables of one node, for one segment.
struct Tables<'a> {
    member: &'a mut Member,
    rules: &'a Rules,
    segment: Segment,
    admit: bool,
    sent: Option<Held>,
}

impl Tables<'_> {
    fn look(&self, held: Option<Held>, owner: u8) -> Option<Entry> {
        let blind = self.segment.kind == Kind::Syn && !self.rules.syn_looks_first;
        let mut entry = held.filter(|_| !blind)?.entry(owner);
        if self.segment.kind == Kind::Syn && !self.rules.syn_holds {
            entry.since = Tick(NOW.0 - seconds(60));
        }
        if self.segment.kind != Kind::Syn && !self.rules.isn_window {
            entry.isn = self.segment.seq.wrapping_sub(1);
        }
        Some(entry)
    }
}

impl Flows for Tables<'_> {
    fn own(&mut self) -> Option<Entry> {
        self.look(self.member.own, 0)
    }

    fn replica(&mut self) -> Option<Entry> {
        self.look(self.member.replica, 1)
    }

    fn probation(&mut self) -> Option<Entry> {
        self.look(self.member.probation, 0)
    }

    fn is_dead(&mut self, backend: u16) -> bool {
        self.rules.dead_is_missing && has(self.member.dead, backend)
    }

    fn enter(&mut self, entry: Entry) -> bool {
        if self.admit {
            if !self.rules.syn_looks_first {
                (self.member.own, self.member.replica) = (None, None);
            }
            self.member.probation = Some(Held::of(&entry));
            self.sent = self.member.probation.filter(|_| self.rules.probation_replicated);
        }
        self.admit
    }

    fn confirm(&mut self, entry: Entry) {
        self.member.own = Some(Held::of(&entry));
        self.member.probation = None;
        if self.rules.takeover_removes {
            self.member.replica = None;
        }
        self.sent = self.member.own;
    }

    fn update(&mut self, entry: Entry) {
        let new = Some(Held::of(&entry));
        if self.member.own != new {
            self.sent = new;
        }
        self.member.own = new;
    }

    fn uses(&mut self) -> Uses {
        Uses::default()
    }

    fn set_uses(&mut self, _: Uses) {
        self.member.busy = true;
    }

    fn missed(&mut self) -> Option<Tick> {
        Some(Tick(NOW.0 - seconds(60)))
    }

    fn note(&mut self, _: Tick) -> bool {
        true
    }
}

/// Where a node sends a segment, and what that leaves in its tables and on the way to the other node. `None`: dropped.
pub(crate) fn segment(
    world: &mut World,
    rules: &Rules,
    node: Node,
    segment: Segment,
    admit: bool,
) -> Option<(u16, By)> {
    let member = world.node(node);
    let slot = member.slot;
    let mut tables = Tables {
        member,
        rules,
        segment,
        admit,
        sent: None,
    };
    let result = pick::tcp(slot, false, segment, NOW, &mut tables);
    if let Some(record) = tables.sent {
        world.send(node, record);
    }
    match result {
        Ok(pick) if pick.by == By::Refused && !rules.refused_to_origin => Some((slot.current(), pick.by)),
        Ok(pick) => Some((pick.backend, pick.by)),
        Err(NoEntry) if !rules.closing_drops => Some((slot.origin(), By::Refused)),
        Err(NoEntry) => None,
    }
}
