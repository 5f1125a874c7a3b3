//! Founding, joining, leaving: this node's side.

use std::time::Duration;

use super::border::{Action, Event, Mismatch, Why};
use super::machine::{Machine, Peer};
use super::nodes::Nodes;
use super::order::{Answer, Order, SlotImage, Verdict};
use super::wire::{Edition, Msg, Phase, State, Term};
use crate::health::Mono;
use crate::model::Capacity;

/// All nodes of the group are in sight and none is ready: heartbeats of a while, so that all say the same.
const SETTLE: Duration = Duration::from_millis(300);
/// Most are.
const MOST: Duration = Duration::from_secs(2);
/// A joiner asks again.
const ASK: Duration = Duration::from_millis(500);
/// A joiner that hears nothing more begins anew.
const STUCK: Duration = Duration::from_secs(10);
/// A peer that was refused, or refuses, is there for so long: it calls or is called several times a second.
const THERE: Duration = Duration::from_secs(5);
/// A leaving node says so again.
const SAY: Duration = Duration::from_millis(200);
/// And stops in the end, whether peers have heard it or not.
const ENOUGH: Duration = Duration::from_secs(2);

/// A node that is not ready yet.
#[derive(Debug)]
pub(super) struct Joiner {
    since: Mono,
    /// Since when nobody is ready.
    nobody: Option<Mono>,
    asked: Option<Mono>,
    offer: Option<Offer>,
    /// What was wrong with the last try.
    wrong: Option<Why>,
    told_overdue: bool,
}

/// Slots that are being taken over.
#[derive(Debug)]
struct Offer {
    from: u8,
    session: Option<u64>,
    number: u64,
    pools: u32,
    images: Vec<SlotImage>,
    verdict: Verdict,
    theirs: u64,
    ours: u64,
    last: Mono,
}

impl Joiner {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            since: now,
            nobody: None,
            asked: None,
            offer: None,
            wrong: None,
            told_overdue: false,
        }
    }

    pub(super) fn restart(&mut self, now: Mono) {
        *self = Self::new(now);
    }
}

/// A node that leaves.
#[derive(Debug, Default)]
pub(super) struct Leaver {
    /// When the operator said so.
    wanted: Option<Mono>,
    since: Option<Mono>,
    asked: bool,
    pub(super) handed_over: bool,
    said: Option<(Mono, Mono)>,
    pub(super) farewells: Nodes,
    done: bool,
}

impl Leaver {
    /// The operator has said so; it may have to stay for a while.
    pub(super) const fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Nothing is obeyed any more.
    pub(super) const fn said_goodbye(&self) -> bool {
        self.said.is_some()
    }
}

impl Machine {
    pub(super) fn readiness(&self) -> Result<(), Why> {
        match self.phase {
            Phase::Leaving => Err(Why::Leaving),
            Phase::Ready if self.alone.is_on => Err(Why::Alone),
            Phase::Ready => Ok(()),
            Phase::Joining if self.serves_on && self.other_key().is_none() && !self.is_late() => Ok(()),
            Phase::Joining => Err(self.obstacle()),
        }
    }

    /// Whether it forwards by slots that are the group's, or were.
    pub(super) fn has_slots(&self) -> bool {
        self.start.kept || self.serves_on
    }

    /// `join_within` is over.
    fn is_late(&self) -> bool {
        self.now.since(self.joiner.since) >= self.settings.join_within
    }

    /// Why this node isn't a member yet.
    fn obstacle(&self) -> Why {
        let Some(coordinator) = self.coordinator() else {
            let founder = self.founder();
            return if let Some(why) = self.refused() {
                why
            } else if let Some(peer) = self.leaving() {
                Why::Leaver(peer)
            } else if founder != self.settings.me {
                Why::Founder(founder)
            } else {
                self.lacks().unwrap_or(Why::Waiting)
            };
        };
        if let Some(why) = self.lacks() {
            return why;
        }
        match (&self.joiner.offer, self.joiner.wrong) {
            (Some(offer), _) => Why::Slots(offer.from),
            (None, Some(wrong)) => wrong,
            (None, None) => Why::Queue(coordinator),
        }
    }

    /// What has to be there before slots are taken over.
    fn lacks(&self) -> Option<Why> {
        if let Some(peer) = self.other_key() {
            return Some(Why::Key(peer));
        }
        if !self.charter_equal {
            return Some(Why::Charter);
        }
        let has_entries = |p: &Peer| p.reached().is_some_and(|s| s.kept || s.phase == Phase::Ready);
        // Whoever the coordinator reaches has entries, whether this node reaches it or not.
        let coordinator = self.coordinator().and_then(|place| self.peer(place));
        let live = coordinator
            .and_then(|p| p.reached())
            .map_or(Nodes::default(), |s| s.ready);
        let mut others = self.others();
        let missing = others.find(|(place, p)| (has_entries(p) || live.has(*place)) && !p.synced);
        missing.map(|(place, p)| {
            if p.is_reachable() {
                Why::Sync(place)
            } else {
                self.refuses(place, p).unwrap_or(Why::Apart(place))
            }
        })
    }

    /// A node with another key of the flow hash: one that is ready, or, where none is, one of as many as there are with this node's.
    fn other_key(&self) -> Option<u8> {
        let mine = self.settings.key;
        let reached: Vec<(u8, &State)> = self
            .others()
            .filter_map(|(place, p)| Some((place, p.reached()?)))
            .collect();
        let others = || reached.iter().filter(|(_, s)| s.key != mine);
        let mut ready = others().filter(|(_, s)| s.phase == Phase::Ready);
        let alike = 1 + reached.len() - others().count();
        let first = others().next().filter(|_| others().count() >= alike);
        ready.next().or(first).map(|&(place, _)| place)
    }

    pub(super) fn join_on(&mut self) {
        if self.phase != Phase::Joining {
            return;
        }
        if self.is_late() && !self.joiner.told_overdue {
            self.joiner.told_overdue = true;
            self.tell(Event::JoinOverdue(self.obstacle()));
        }
        let Some(coordinator) = self.coordinator() else {
            self.found_on();
            return;
        };
        self.joiner.nobody = None;
        let now = self.now;
        // Others may say first that they count this node, and look like the better group until the coordinator's own word comes.
        if let Some(offer) = &self.joiner.offer {
            let from = self.peer(offer.from);
            let is_ready = from
                .and_then(|p| p.reached())
                .is_some_and(|s| s.phase == Phase::Ready);
            let session = from.and_then(|p| p.session);
            if !is_ready || offer.session != session || now.since(offer.last) >= STUCK {
                self.joiner.offer = None;
            }
        }
        let is_due = self.joiner.asked.is_none_or(|asked| now.since(asked) >= ASK);
        if self.lacks().is_none() && self.joiner.offer.is_none() && is_due {
            self.joiner.asked = Some(now);
            let epoch = self.start.epoch;
            self.send(coordinator, &Msg::Join { epoch });
        }
    }

    /// Of those in sight: the first that has kept its slots, or the first.
    fn founder(&self) -> u8 {
        let others = self.others().filter_map(|(place, p)| Some((place, p.reached()?)));
        let joining = others.filter(|(_, s)| s.phase == Phase::Joining && s.key == self.settings.key);
        let others = joining.map(|(place, s)| (!s.kept, place));
        let me = (!self.has_slots(), self.settings.me);
        others
            .chain([me])
            .min()
            .map_or(self.settings.me, |(_, place)| place)
    }

    /// Somebody who is there and can't be asked: a group may run already. One bad certificate doesn't hold up most of the nodes, nor
    /// does that of a node that was forgotten.
    fn refused(&self) -> Option<Why> {
        if 2 * self.seen() > usize::from(self.settings.nodes) {
            return None;
        }
        let mut others = self.others().filter(|(_, p)| !p.is_reachable() && !p.is_gone);
        others.find_map(|(place, p)| self.refuses(place, p))
    }

    /// Why there is no session with a node that is there.
    fn refuses(&self, place: u8, p: &Peer) -> Option<Why> {
        let (at, mismatch) = p.refused?;
        (self.now.since(at) < THERE).then_some(match mismatch {
            Mismatch::Certificate => Why::Refused(place),
            Mismatch::Nodes => Why::Nodes(place),
        })
    }

    /// Somebody who leaves: until it has, it forwards by slots that nobody takes over any more.
    fn leaving(&self) -> Option<u8> {
        let mut others = self.others();
        let leaving = others.find(|(_, p)| p.reached().is_some_and(|s| s.phase == Phase::Leaving));
        leaving.map(|(place, _)| place)
    }

    /// How many are in sight, or known to forward nothing, with this node.
    fn seen(&self) -> usize {
        let seen = self.others().filter(|(_, p)| p.is_reachable() || p.is_gone);
        1 + seen.count()
    }

    /// Nobody is ready: waits for the others, and founds the group.
    fn found_on(&mut self) {
        let since = *self.joiner.nobody.get_or_insert(self.now);
        let founder = self.founder();
        if self
            .peer(founder)
            .and_then(|p| p.reached())
            .is_some_and(|s| s.kept)
        {
            // It forwards by its slots, also where its agent ends now: those that wait for silent ones begin anew.
            self.joiner.nobody = Some(self.now);
        }
        let waits = self.lacks().is_some() || self.refused().is_some() || self.leaving().is_some();
        if founder != self.settings.me || waits {
            return;
        }
        let seen = self.seen();
        let all = usize::from(self.settings.nodes);
        let wait = if seen >= all {
            SETTLE
        } else if !self.has_slots() {
            // Whoever is silent may forward by slots that aren't what this node would make up.
            self.settings.withdraw_after.max(self.settings.join_within)
        } else if 2 * seen > all {
            MOST
        } else {
            self.settings.join_within / 2
        };
        if self.now.since(since) < wait {
            return;
        }
        // A node that is silent may forward by slots that it has kept.
        let is_member = |p: &Peer| match p.reached() {
            Some(state) => state.kept && state.key == self.settings.key,
            None => !p.is_gone,
        };
        let others = self.others().filter(|(_, p)| is_member(p) && p.left.is_none());
        let members: Nodes = others.map(|(place, _)| place).collect();
        let members = members.with(self.settings.me);
        // Until now nobody could be heard as a member.
        self.vouch(members);
        self.phase = Phase::Ready;
        self.set_members(members);
        self.term = self.next_term();
        self.edition = Edition {
            term: self.term,
            change: 0,
        };
        self.tell(Event::Founded(members));
    }

    /// The verdict in force, digest of the coordinator's slots.
    pub(super) fn on_offer(&mut self, from: u8, number: u64, pools: u32, (verdict, theirs): (Verdict, u64)) {
        let is_mine = self.phase == Phase::Joining && self.coordinator() == Some(from);
        if !is_mine || self.lacks().is_some() || pools > Capacity::POOLS_MAX {
            return;
        }
        self.joiner.offer = Some(Offer {
            from,
            session: self.peer(from).and_then(|p| p.session),
            number,
            pools,
            images: Vec::new(),
            verdict,
            theirs,
            ours: 0,
            last: self.now,
        });
        self.install_if_whole();
    }

    pub(super) fn on_image(&mut self, from: u8, number: u64, image: SlotImage) {
        let now = self.now;
        let offer = self.joiner.offer.as_mut();
        let Some(offer) = offer.filter(|o| o.from == from && o.number == number) else {
            return;
        };
        // More than were announced: not from a coordinator that can count.
        if offer.images.len() >= offer.pools as usize {
            return;
        }
        offer.last = now;
        offer.images.push(image);
        self.send(from, &Msg::Taken { offer: number });
        self.install_if_whole();
    }

    fn install_if_whole(&mut self) {
        let offer = self.joiner.offer.as_mut();
        if let Some(offer) = offer.filter(|o| o.images.len() == o.pools as usize) {
            let images = std::mem::take(&mut offer.images);
            self.act(Action::Install(images));
        }
    }

    pub(super) fn on_installed(&mut self, slots: u64) {
        let now = self.now;
        let Some(offer) = &mut self.joiner.offer else {
            return;
        };
        if !offer.images.is_empty() {
            return;
        }
        (offer.ours, offer.last) = (slots, now);
        let verdict = offer.verdict.clone();
        self.take_verdict(&verdict);
        self.judge_to_join();
    }

    fn judge_to_join(&mut self) {
        self.put_off();
        let ticket = self.hire(Order::Judge(self.member.verdict.clone()));
        self.member.running = Some(super::member::Running::Join(ticket));
    }

    pub(super) fn on_join_judged(&mut self, answer: &Answer) {
        let now = self.now;
        if *answer == Answer::Later {
            // From the beginning, in a while.
            self.joiner.offer = None;
            self.joiner.asked = Some(now);
            return;
        }
        let Some(offer) = &mut self.joiner.offer else {
            return;
        };
        offer.last = now;
        self.member.judged = true;
        // `current` may follow a suspicion of the coordinator's: the change is made again.
        self.member.committed = None;
        let (from, number, ours) = (offer.from, offer.number, offer.ours);
        self.joiner.wrong = None;
        if ours != offer.theirs {
            self.joiner.wrong = Some(Why::Differs(from));
            self.joiner.offer = None;
        }
        let msg = Msg::Installed {
            offer: number,
            slots: ours,
        };
        self.send(from, &msg);
    }

    pub(super) fn on_welcome(
        &mut self,
        from: u8,
        term: Term,
        members: Nodes,
        (edition, adrift): (Edition, Nodes),
    ) {
        let is_mine = self.joiner.offer.as_ref().is_some_and(|o| o.from == from);
        if self.phase != Phase::Joining || !is_mine || !members.has(self.settings.me) || term < self.term {
            return;
        }
        self.term = term;
        self.phase = Phase::Ready;
        self.serves_on = false;
        self.joiner.restart(self.now);
        // What was known of another half says nothing.
        (self.members, self.edition) = (Nodes::default(), Edition::default());
        self.adopt(members, edition, adrift);
        for place in members.iter() {
            if let Some(peer) = self.peer_mut(place) {
                peer.admitted = peer.admitted.or(peer.state.map(|s| s.epoch));
            }
        }
        self.tell(Event::Admitted(self.settings.me));
    }

    pub(super) fn on_leave(&mut self) {
        self.leaver.wanted.get_or_insert(self.now);
    }

    /// Whoever is about to join would have nobody to take slots from, and make up its own.
    fn is_needed(&self, wanted: Mono) -> bool {
        let has_slots = self.phase == Phase::Ready || self.phase == Phase::Joining && self.has_slots();
        let others = || self.others().filter_map(|(_, p)| p.reached());
        has_slots
            && others().any(|s| s.phase == Phase::Joining)
            && !others().any(|s| s.phase == Phase::Ready)
            && self.now.since(wanted) < self.settings.join_within
    }

    /// Leaves as soon as it may.
    pub(super) fn begin_to_leave(&mut self) {
        if let Some(wanted) = self.leaver.wanted
            && self.leaver.since.is_none()
            && !self.is_needed(wanted)
        {
            self.phase = Phase::Leaving;
            self.leaver.since = Some(self.now);
        }
    }

    pub(super) fn leave_on(&mut self) {
        let Some(since) = self.leaver.since.filter(|_| !self.leaver.done) else {
            return;
        };
        let now = self.now;
        if now.since(since) < self.settings.leave_after {
            return;
        }
        if !self.leaver.asked {
            self.leaver.asked = true;
            self.act(Action::HandOver);
        }
        if !self.leaver.handed_over {
            return;
        }
        let peers: Vec<u8> = self
            .others()
            .filter(|(_, p)| p.is_reachable())
            .map(|(n, _)| n)
            .collect();
        let (began, said) = self.leaver.said.unwrap_or((now, Mono::default()));
        let left = peers
            .iter()
            .filter(|&&place| !self.leaver.farewells.has(place))
            .count();
        if left == 0 || now.since(began) >= ENOUGH {
            self.leaver.done = true;
            self.leaver.said = Some((began, now));
            self.act(Action::Left);
        } else if now.since(said) >= SAY {
            self.leaver.said = Some((began, now));
            for place in peers {
                self.send(place, &Msg::Goodbye);
            }
        }
    }
}
