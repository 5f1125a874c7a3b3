//! What the flow table says about one flow, and what a packet of it would do there.

use lb_common::admit::{FULL, Limits, UDP_FULL};
use lb_common::backend::DEAD;
use lb_common::flow::{Entry, Key};
use lb_common::header::proto;
use lb_common::pick::{self, Flows, NoEntry, Pick};
use lb_common::retire::Uses;
use lb_common::slot::Slot;
use lb_common::tcp::Segment;
use lb_common::tick::Tick;
use lb_common::vip;

use crate::state::contents::Contents;

/// One flow in the maps of its protocol. Budgets are taken as not used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The flow.
    pub key: Key,
    /// Its own entry.
    pub own: Option<Entry>,
    /// The replica of a peer's.
    pub replica: Option<Entry>,
    /// Its entry in probation.
    pub probation: Option<Entry>,
    /// When a miss was noted.
    pub missed: Option<Tick>,
    /// What may be written.
    pub limits: Limits,
}

impl Known {
    /// Whether a first entry may be written.
    fn is_open(&self) -> bool {
        let (flag, number) = if self.key.proto == proto::TCP {
            (FULL, 0)
        } else {
            (UDP_FULL, 1)
        };
        self.limits.flags & flag == 0 && self.limits.budgets[number] > 0
    }
}

impl Known {
    /// Which backend a packet of this flow would go to in `slot`; `vip` are its VIP's flags, `segment` is what its TCP
    /// header says.
    ///
    /// # Errors
    /// [`NoEntry`]: it is dropped, since it can't be entered.
    pub fn decide(
        self,
        slot: Slot,
        vip: u16,
        segment: Option<Segment>,
        contents: &Contents,
        now: Tick,
    ) -> Result<Pick, NoEntry> {
        if !is_asked(slot, vip) {
            return Ok(pick::pick(slot));
        }
        let always = vip & vip::ALWAYS != 0;
        let mut trial = Trial {
            known: self,
            contents,
        };
        match segment {
            Some(segment) => pick::tcp(slot, always, segment, now, &mut trial),
            None => Ok(pick::udp(slot, always, now, &mut trial)),
        }
    }
}

/// Whether the flow table is asked, by the slot and the flags of the VIP.
pub(super) fn is_asked(slot: Slot, vip: u16) -> bool {
    vip & vip::OFF == 0 && (slot.is_tracked() || vip & vip::ALWAYS != 0)
}

/// A flow under a packet that nobody sent: what would be written is written here.
struct Trial<'a> {
    known: Known,
    contents: &'a Contents,
}

impl Flows for Trial<'_> {
    fn own(&mut self) -> Option<Entry> {
        self.known.own
    }

    fn replica(&mut self) -> Option<Entry> {
        self.known.replica
    }

    fn probation(&mut self) -> Option<Entry> {
        self.known.probation
    }

    fn is_dead(&mut self, backend: u16) -> bool {
        let backend = self.contents.backends.get(&backend);
        backend.is_some_and(|backend| backend.entry.flags & DEAD != 0)
    }

    fn enter(&mut self, entry: Entry) -> bool {
        let is_open = self.known.is_open();
        if is_open {
            self.known.probation = Some(entry);
        }
        is_open
    }

    fn confirm(&mut self, entry: Entry) {
        self.known = Known {
            own: Some(entry),
            replica: None,
            probation: None,
            ..self.known
        };
    }

    fn update(&mut self, entry: Entry) {
        self.known.own = Some(entry);
    }

    // Marks of a slot decide on no packet.
    fn uses(&mut self) -> Uses {
        Uses::default()
    }

    fn set_uses(&mut self, _: Uses) {}

    fn missed(&mut self) -> Option<Tick> {
        self.known.missed
    }

    fn note(&mut self, now: Tick) -> bool {
        self.known.missed = Some(now);
        true
    }
}
