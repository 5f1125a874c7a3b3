//! Joining: the coordinator's side.

use std::collections::BTreeMap;
use std::time::Duration;

use super::border::Event;
use super::machine::Machine;
use super::order::SlotImage;
use super::phase::Step;
use super::wire::{Msg, Phase};

/// A joiner that takes longer for the next slots has to ask again.
const PATIENCE: Duration = Duration::from_secs(20);
/// A joiner whose offer is younger than this asked before it came.
const FRESH: Duration = Duration::from_secs(2);
/// A joiner that failed is not taken again sooner: everything else goes on meanwhile.
const REST: Duration = Duration::from_secs(5);
/// Images on their way to a joiner: what waits to be sent is bounded.
const WINDOW: usize = 8;

impl Machine {
    pub(super) fn on_join(&mut self, from: u8, epoch: u64) {
        let Some(lead) = &mut self.lead else { return };
        let is_under_way = lead.step.joiner() == Some((from, epoch));
        if !is_under_way {
            lead.joiners.insert(from, epoch);
            return;
        }
        // It would not ask again if the offer were still good; but it has asked many times by now, if this node was busy.
        let is_old = self.now.since(lead.since) >= FRESH;
        if is_old && matches!(lead.step, Step::Offer(..)) {
            lead.joiners.insert(from, epoch);
            self.give_admission_up();
        }
    }

    /// Who asked, is there, and is still the one that asked.
    pub(super) fn next_joiner(&mut self) -> Option<(u8, u64)> {
        let lead = self.lead.as_mut()?;
        let joiners = std::mem::take(&mut lead.joiners);
        let wants = |(place, epoch): &(u8, u64)| {
            let state = self.peer(*place).and_then(|p| p.reached());
            state.is_some_and(|s| s.epoch == *epoch && s.phase == Phase::Joining)
        };
        let mut joiners: BTreeMap<u8, u64> = joiners.into_iter().filter(wants).collect();
        let (lead, now) = (self.lead.as_mut()?, self.now);
        lead.rests.retain(|_, until| *until > now);
        let mut rested = joiners
            .iter()
            .filter(|(place, _)| !lead.rests.contains_key(place));
        let first = rested.next().map(|(&place, &epoch)| (place, epoch));
        if let Some((place, _)) = first {
            joiners.remove(&place);
        }
        lead.joiners = joiners;
        first
    }

    pub(super) fn on_snapshot(&mut self, images: Vec<SlotImage>, slots: u64) {
        let Some(lead) = &mut self.lead else { return };
        let Step::Snapshot(node, epoch) = lead.step else {
            return;
        };
        lead.offers += 1;
        // No other coordinator's offer has the same number.
        let offer = lead.term.number << 24 | lead.offers & 0xff_ffff;
        lead.step = Step::Offer(node, epoch, offer, slots);
        lead.since = self.now;
        let offered = Msg::Offer {
            epoch,
            offer,
            pools: u32::try_from(images.len()).unwrap_or(u32::MAX),
            verdict: self.member.verdict.clone(),
            slots,
        };
        lead.images = images.into();
        self.send(node, &offered);
        for _ in 0..WINDOW {
            self.send_image(node, offer);
        }
    }

    /// The joiner has taken one.
    pub(super) fn on_taken(&mut self, from: u8, number: u64) {
        let now = self.now;
        let Some(lead) = &mut self.lead else { return };
        if let Step::Offer(node, _, offer, _) = lead.step
            && (node, offer) == (from, number)
        {
            lead.since = now;
            self.send_image(node, offer);
        }
    }

    fn send_image(&mut self, node: u8, offer: u64) {
        let image = self.lead.as_mut().and_then(|lead| lead.images.pop_front());
        if let Some(image) = image {
            self.send(node, &Msg::Image { offer, image });
        }
    }

    pub(super) fn on_joiner_installed(&mut self, from: u8, number: u64, theirs: u64) {
        let Some(lead) = &mut self.lead else { return };
        let Step::Offer(node, epoch, offer, slots) = lead.step else {
            return;
        };
        if (from, number) != (node, offer) {
            return;
        }
        if theirs != slots {
            self.tell(Event::SlotsDiffer(from));
            self.rest(from);
            self.give_admission_up();
            return;
        }
        lead.judged.insert(node, self.member.verdict.number);
        lead.todo = [Step::Admit(node, epoch)].into();
        self.end_step();
    }

    /// From now on its acknowledgements are needed.
    pub(super) fn count_in(&mut self, node: u8, epoch: u64) {
        if let Some(peer) = self.peer_mut(node) {
            peer.admitted = Some(epoch);
            peer.left = None;
            peer.is_dropped = false;
        }
        let recover = self.lead.as_ref().is_some_and(|lead| lead.recover);
        self.set_members(self.members.with(node));
        if let Some(lead) = &mut self.lead {
            lead.recover = recover;
        }
    }

    pub(super) fn welcome(&mut self, node: u8, epoch: u64) {
        let Some(lead) = &mut self.lead else { return };
        // The joiner's engine learns by that to what `current` may go.
        lead.committed = None;
        let welcome = Msg::Welcome {
            epoch,
            term: lead.term,
            members: self.members,
            edition: self.edition,
            adrift: self.adrift(),
        };
        self.send(node, &welcome);
        self.tell(Event::Admitted(node));
    }

    pub(super) fn interrupt_admission(&mut self) {
        let Some(lead) = &self.lead else { return };
        let Some((node, epoch)) = lead.step.joiner() else {
            return;
        };
        let state = self.peer(node).and_then(|p| p.reached());
        let is_there = state.is_some_and(|s| s.epoch == epoch && s.phase == Phase::Joining);
        let is_late = self.now.since(lead.since) >= PATIENCE;
        let is_lost = matches!(lead.step, Step::Admit(..)) && !self.members.has(node);
        if is_late {
            self.rest(node);
        }
        if !is_there || is_late || is_lost {
            self.give_admission_up();
        }
    }

    fn rest(&mut self, node: u8) {
        let until = self.now + REST;
        if let Some(lead) = &mut self.lead {
            lead.rests.insert(node, until);
        }
    }

    /// The joiner tries again. It is no member, unless it forwards anyway.
    fn give_admission_up(&mut self) {
        let Some(lead) = &self.lead else { return };
        let Some((node, epoch)) = lead.step.joiner() else {
            return;
        };
        let is_admitting = matches!(lead.step, Step::Admit(..));
        let state = self.peer(node).and_then(|p| p.state);
        let is_fresh = state.is_none_or(|s| !s.kept && !s.serving && s.epoch == epoch);
        if let Some(lead) = &mut self.lead {
            lead.images.clear();
        }
        self.abandon();
        if is_admitting && is_fresh && self.members.has(node) {
            if let Some(peer) = self.peer_mut(node) {
                peer.admitted = None;
            }
            self.set_members(self.members.without(node));
            // Its session broke: whether it had slots is not known any more.
            let now = self.now;
            if let Some(peer) = self.peer_mut(node).filter(|_| state.is_none()) {
                peer.adrift = Some(now);
            }
        }
    }
}
