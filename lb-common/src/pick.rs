//! The decision flow → backend: the same functions in the XDP program, the reference model and the exhaustive model
//! (`tests/slots`).
//!
//! [`tcp`] and [`udp`] ask for an entry only when the answer can matter: nothing in an untracked slot, one table for a
//! flow that has an own entry, all of them for one that has none.

use crate::flow::{CLOSED, CONFIRMED, Entry, PROBATION, REOPEN, TOUCH};
use crate::retire::Uses;
use crate::slot::{NO_BACKEND, Slot};
use crate::tcp::{Kind, Segment};
use crate::tick::{self, Tick};

/// A decision and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// Index of the backend; [`crate::slot::NO_BACKEND`] where there is none.
    pub backend: u16,
    /// What decided.
    pub by: By,
}

/// What decided a pick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum By {
    /// The slot alone: nothing has changed there lately.
    Slot,
    /// A confirmed entry of this node.
    Own,
    /// A peer's entry held here.
    Replica,
    /// An entry in probation.
    Probation,
    /// A new flow that was entered: `current`.
    New,
    /// A new flow that could not be entered: `origin`; for UDP where unknown flows go.
    Refused,
    /// A flow without an entry: `origin`.
    Origin,
    /// The same, but it had an entry that names a dead backend.
    Rehomed,
}

impl By {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Slot,
        Self::Own,
        Self::Replica,
        Self::Probation,
        Self::New,
        Self::Refused,
        Self::Origin,
        Self::Rehomed,
    ];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Own => "own",
            Self::Replica => "replica",
            Self::Probation => "probation",
            Self::New => "new",
            Self::Refused => "refused",
            Self::Origin => "origin",
            Self::Rehomed => "rehomed",
        }
    }
}

/// A new flow could not be entered while its slot retires: there is no backend for it, and its packet is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoEntry;

/// A miss stamps `origin` only when the flow is seen again after this, one second: late segments of closed flows
/// come in bursts.
pub const AGAIN: u32 = tick::seconds(1);

/// The entries of one flow, and what else a decision asks or leaves behind: the maps of the program, or a model's.
/// Every call is one map operation at most; none is made that the decision doesn't need.
pub trait Flows {
    /// The own entry, confirmed or closed.
    fn own(&mut self) -> Option<Entry>;
    /// The replica of a peer's entry, in any state.
    fn replica(&mut self) -> Option<Entry>;
    /// The own entry in probation.
    fn probation(&mut self) -> Option<Entry>;
    /// Whether the group's verdict on a backend is *dead*: entries that name it count as missing.
    fn is_dead(&mut self, backend: u16) -> bool;
    /// Writes an entry in probation and announces it; `false` if it may not be (budget, a full table) or the write
    /// failed.
    fn enter(&mut self, entry: Entry) -> bool;
    /// Writes a first own entry, out of probation or taken over, and announces it. Removes what it came from: the
    /// flow's entry in probation would open a closed flow again, its replica would outlive the entry. If the write
    /// fails both stay, and the flow's next packet tries again.
    fn confirm(&mut self, entry: Entry);
    /// Replaces the own entry; announced if its state changed.
    fn update(&mut self, entry: Entry);
    /// Who used `origin` of this slot.
    fn uses(&mut self) -> Uses;
    /// Somebody did.
    fn set_uses(&mut self, uses: Uses);
    /// When a miss of this flow was noted.
    fn missed(&mut self) -> Option<Tick>;
    /// Notes one; `false` if it may not be or the write failed.
    fn note(&mut self, now: Tick) -> bool;
}

/// Picks by the slot alone: an untracked slot, or a VIP whose flows are not tracked.
#[inline(always)]
pub const fn pick(slot: Slot) -> Pick {
    Pick {
        backend: slot.current(),
        by: By::Slot,
    }
}

/// Picks the backend of a TCP segment. `always`: the VIP's flows are entered in untracked slots too.
///
/// # Errors
/// [`NoEntry`] for a SYN: drop it.
#[inline(always)]
pub fn tcp<F: Flows>(
    slot: Slot,
    always: bool,
    segment: Segment,
    now: Tick,
    flows: &mut F,
) -> Result<Pick, NoEntry> {
    if !slot.is_tracked() && !always {
        Ok(pick(slot))
    } else if let Kind::Syn = segment.kind {
        syn(slot, segment.seq, now, flows)
    } else {
        Ok(later(slot, segment, now, flows))
    }
}

/// A SYN: follows what stands, else begins a flow at `current`. It never touches a confirmed entry, or anybody
/// could reset a flow with a forged SYN that its server would ignore (RFC 5961).
#[inline(always)]
fn syn<F: Flows>(slot: Slot, isn: u32, now: Tick, flows: &mut F) -> Result<Pick, NoEntry> {
    if let Some(entry) = live(flows.own(), flows) {
        reuse(entry, isn, now, flows);
        return Ok(follow(entry, By::Own));
    }
    if let Some(entry) = live(flows.replica(), flows) {
        if entry.state != PROBATION {
            reuse(entry, isn, now, flows);
            return Ok(follow(entry, By::Replica));
        }
        if let Some(result) = again(slot, entry, By::Replica, isn, now, flows) {
            return result;
        }
    }
    if let Some(entry) = live(flows.probation(), flows)
        && let Some(result) = again(slot, entry, By::Probation, isn, now, flows)
    {
        return result;
    }
    let backend = slot.current();
    if backend == NO_BACKEND {
        Ok(pick(slot))
    } else if flows.enter(Entry::probation(backend, isn, now)) {
        Ok(Pick { backend, by: By::New })
    } else {
        refused(slot, now, flows)
    }
}

/// A SYN where one is in probation: the same one follows it, and another one counts as refused while that is young,
/// since only one handshake of a flow can be remembered. `None`: it begins anew.
#[inline(always)]
fn again<F: Flows>(
    slot: Slot,
    entry: Entry,
    by: By,
    isn: u32,
    now: Tick,
    flows: &mut F,
) -> Option<Result<Pick, NoEntry>> {
    if entry.isn == isn {
        // Entered anew before it expires, and announced: a peer may have forgotten it.
        if !entry.is_held(now) {
            flows.enter(Entry::probation(entry.backend, isn, now));
        }
        Some(Ok(follow(entry, by)))
    } else if entry.is_held(now) {
        Some(refused(slot, now, flows))
    } else {
        None
    }
}

/// A SYN on a closed entry may be a new connection: its first segment then opens the entry again at once.
#[inline(always)]
fn reuse<F: Flows>(entry: Entry, isn: u32, now: Tick, flows: &mut F) {
    if entry.state != CLOSED {
        return;
    }
    let probation = live(flows.probation(), flows);
    if !probation.is_some_and(|p| p.isn == isn || p.is_held(now)) {
        flows.enter(Entry::probation(entry.backend, isn, now));
    }
}

/// A flow without an entry is at `origin`, so that is where one that can't be entered has to go, and its slot has to
/// stay tracked from now on. While the slot retires, `origin` may be another one on another node.
#[inline(always)]
fn refused<F: Flows>(slot: Slot, now: Tick, flows: &mut F) -> Result<Pick, NoEntry> {
    if slot.is_closing() {
        return Err(NoEntry);
    }
    if is_apart(slot) && !Uses::is_fresh(flows.uses().stamp, now) {
        flows.set_uses(Uses::by_flow(now));
    }
    Ok(Pick {
        backend: slot.origin(),
        by: By::Refused,
    })
}

/// Whether it matters who uses `origin`.
#[inline(always)]
const fn is_apart(slot: Slot) -> bool {
    slot.is_tracked() && slot.origin() != slot.current()
}

/// Any other segment: follows its entry, else it is at `origin`.
#[inline(always)]
fn later<F: Flows>(slot: Slot, segment: Segment, now: Tick, flows: &mut F) -> Pick {
    // Not read from the entries at the end: a field of an entry that is not there is no number to the verifier.
    let mut by = By::Origin;
    if let Some(entry) = flows.own() {
        if flows.is_dead(entry.backend) {
            by = By::Rehomed;
        } else {
            if entry.state == CLOSED
                && let Some(pick) = handshake(segment, now, flows)
            {
                return pick;
            }
            if let Some(next) = next(entry, segment.kind, now) {
                flows.update(next);
            }
            return follow(entry, By::Own);
        }
    }
    if let Some(entry) = flows.replica() {
        let is_dead = flows.is_dead(entry.backend);
        if entry.state == PROBATION {
            if !is_dead && segment.follows(entry.isn) {
                promote(entry, segment.kind, now, flows);
                return follow(entry, By::Replica);
            }
        } else if is_dead {
            by = By::Rehomed;
        } else {
            if entry.state == CLOSED
                && let Some(pick) = handshake(segment, now, flows)
            {
                return pick;
            }
            if segment.kind != Kind::Stray {
                flows.confirm(next(entry, segment.kind, now).unwrap_or(entry.used(now)));
            }
            return follow(entry, By::Replica);
        }
    }
    if let Some(pick) = handshake(segment, now, flows) {
        return pick;
    }
    if let By::Origin = by {
        miss(slot, segment.kind, now, flows);
    }
    Pick {
        backend: slot.origin(),
        by,
    }
}

/// The own entry in probation, if this segment belongs to the handshake that made it.
#[inline(always)]
fn handshake<F: Flows>(segment: Segment, now: Tick, flows: &mut F) -> Option<Pick> {
    let probation = flows.probation();
    let entry = live(probation, flows)?;
    if !segment.follows(entry.isn) {
        return None;
    }
    promote(entry, segment.kind, now, flows);
    Some(follow(entry, By::Probation))
}

#[inline(always)]
fn promote<F: Flows>(entry: Entry, kind: Kind, now: Tick, flows: &mut F) {
    match kind {
        Kind::Data => flows.confirm(entry.confirmed(now)),
        Kind::Fin => flows.confirm(entry.closed(now)),
        Kind::Syn | Kind::Rst | Kind::Denial | Kind::Stray => {}
    }
}

/// A confirmed or closed entry after a segment; `None` if there is nothing to write.
#[inline(always)]
fn next(entry: Entry, kind: Kind, now: Tick) -> Option<Entry> {
    match (kind, entry.state) {
        (Kind::Fin | Kind::Rst | Kind::Denial, CONFIRMED) => Some(entry.closed(now)),
        (Kind::Data, CLOSED) if now.since(entry.since) >= REOPEN => Some(entry.confirmed(now)),
        (Kind::Data, _) if now.since(entry.last) >= TOUCH => Some(entry.used(now)),
        _ => None,
    }
}

/// A flow without an entry: if it lives, its slot must stay tracked. RST and FIN end flows, so they prove nothing.
/// Where the miss can't be noted it counts at once: slots stay tracked for longer, but no flow is forgotten.
#[inline(always)]
fn miss<F: Flows>(slot: Slot, kind: Kind, now: Tick, flows: &mut F) {
    if !is_apart(slot) || kind != Kind::Data {
        return;
    }
    let uses = flows.uses();
    if Uses::is_fresh(uses.stamp, now) {
        return;
    }
    let lives = match flows.missed() {
        Some(first) => now.since(first) >= AGAIN,
        None => !flows.note(now),
    };
    if lives {
        flows.set_uses(Uses::by_flow(now));
    } else if !Uses::is_fresh(uses.seen, now) {
        flows.set_uses(uses.by_somebody(now));
    }
}

/// Picks the backend of a UDP packet of a VIP whose UDP flows are tracked, from maps of their own. Best effort: the
/// second packet of a flow enters it; what has no entry is old while the slot learns, and new afterwards. `origin` is
/// never stamped, so UDP holds no slot for longer than its entries live.
#[inline(always)]
pub fn udp<F: Flows>(slot: Slot, always: bool, now: Tick, flows: &mut F) -> Pick {
    if !slot.is_tracked() && !always {
        return pick(slot);
    }
    if let Some(entry) = live(flows.own(), flows) {
        if now.since(entry.last) >= TOUCH {
            flows.update(entry.used(now));
        }
        return follow(entry, By::Own);
    }
    if let Some(entry) = live(flows.replica(), flows) {
        flows.confirm(entry.confirmed(now));
        return follow(entry, By::Replica);
    }
    if let Some(entry) = live(flows.probation(), flows) {
        flows.confirm(entry.confirmed(now));
        return follow(entry, By::Probation);
    }
    let (backend, by) = if slot.is_learning() {
        (slot.origin(), By::Origin)
    } else {
        (slot.current(), By::New)
    };
    if backend == NO_BACKEND || flows.enter(Entry::probation(backend, 0, now)) {
        Pick { backend, by }
    } else {
        Pick {
            backend,
            by: By::Refused,
        }
    }
}

/// The entry, unless it names a dead backend.
#[inline(always)]
fn live<F: Flows>(entry: Option<Entry>, flows: &mut F) -> Option<Entry> {
    entry.filter(|entry| !flows.is_dead(entry.backend))
}

#[inline(always)]
const fn follow(entry: Entry, by: By) -> Pick {
    Pick {
        backend: entry.backend,
        by,
    }
}
