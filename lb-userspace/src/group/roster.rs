//! Who is a member, and who coordinates.
//!
//! Members are what the newest list says, which a coordinator changed last and anybody may tell. It alone takes nodes in, and out for
//! their silence; a good-bye and an operator's word take effect everywhere at once.

use super::border::{Action, Event, Gone};
use super::machine::{Machine, Peer};
use super::nodes::Nodes;
use super::wire::{Edition, Msg, Phase, State, Term};
use crate::health::Mono;

impl Machine {
    /// Members that can be reached, this node among them if it is one.
    pub(super) fn live(&self) -> Nodes {
        let reached = self.others().filter(|(_, p)| p.is_reachable());
        let reached: Nodes = reached.map(|(place, _)| place).collect();
        reached.with(self.settings.me).and(self.members)
    }

    /// Members that can't be.
    pub(super) fn silent(&self) -> Nodes {
        self.members.minus(self.live())
    }

    /// Those of the members in reach that are ready, this node among them if it is.
    pub(super) fn ready_members(&self) -> Nodes {
        let reached = self.others().filter_map(|(place, p)| Some((place, p.reached()?)));
        let ready = reached.filter(|(_, state)| state.phase == Phase::Ready);
        let ready: Nodes = ready.map(|(place, _)| place).collect();
        let me = Nodes::default().with(self.settings.me);
        let ready = if self.phase == Phase::Ready {
            ready.or(me)
        } else {
            ready
        };
        ready.and(self.members)
    }

    /// The first member by place that is ready and in reach of anybody in reach, for a member; for a joiner, that of the best group in
    /// sight. Where one link is broken both of its ends would take office in turn otherwise.
    pub(super) fn coordinator(&self) -> Option<u8> {
        let ready = |(place, state): &(u8, &State)| state.phase == Phase::Ready && state.members.has(*place);
        let reached = self.others().filter_map(|(place, p)| Some((place, p.reached()?)));
        let ready = reached.filter(ready);
        if self.phase == Phase::Joining {
            ready
                .min_by_key(|(place, s)| (rank(s.members), *place))
                .map(|(place, _)| place)
        } else {
            let me = self.settings.me;
            let members = ready.filter(|(place, s)| self.members.has(*place) && s.members.has(me));
            let told = members.fold(Nodes::default(), |all, (_, s)| all.or(s.ready));
            // Of those in reach this node knows better.
            let reached = self.others().filter(|(_, p)| p.is_reachable());
            let reached: Nodes = reached.map(|(place, _)| place).collect();
            let told = told.minus(reached.with(me)).or(self.ready_members());
            told.and(self.members).lowest()
        }
    }

    /// Takes over what a coordinator says of the members.
    pub(super) fn set_members(&mut self, members: Nodes) {
        let here = (0u8..).zip(&self.peers);
        let left = here.filter(|(_, p)| p.left.is_some() && p.left == p.admitted.or(p.left));
        let left = left
            .filter(|(_, p)| p.state.is_none_or(|s| Some(s.epoch) == p.left))
            .map(|(place, _)| place)
            .collect();
        let members = members.minus(left);
        if members != self.members {
            self.members = members;
            for place in members.iter() {
                if let Some(peer) = self.peer_mut(place) {
                    peer.adrift = None;
                }
            }
            self.count_edition();
            self.act(Action::Members(members));
            if let Some(lead) = &mut self.lead {
                lead.recover = true;
            }
        }
    }

    /// The list has changed. Lists of members that are no coordinators are as new as the one that they were told.
    fn count_edition(&mut self) {
        let Some(lead) = &self.lead else { return };
        if lead.term < self.edition.term {
            self.is_ahead = true;
        } else {
            let change = if lead.term == self.edition.term {
                self.edition.change.saturating_add(1)
            } else {
                1
            };
            let term = lead.term;
            self.edition = Edition { term, change };
        }
    }

    /// A member is none any more.
    pub(super) fn drop_member(&mut self, node: u8, how: Gone) {
        let now = self.now;
        if self.members.has(node) {
            if let Some(peer) = self.peer_mut(node) {
                peer.admitted = None;
                peer.is_dropped = true;
                peer.adrift = (how == Gone::Silent).then_some(now);
            }
            self.set_members(self.members.without(node));
            self.tell(Event::Gone { node, how });
        }
    }

    /// Nodes that are no members and may forward all the same: dropped for their silence in a partition, or about to join again. Changes don't
    /// wait for them, since those leave `origin` alone; retirements do, for up to `max_tracked`, and so slots are equal when they are back.
    pub(super) fn adrift(&self) -> Nodes {
        let is_one = |since: Mono| self.now.since(since) < self.settings.max_tracked;
        let adrift = self.others().filter(|(_, p)| p.adrift.is_some_and(is_one));
        adrift.map(|(place, _)| place).collect()
    }

    /// Routers may have moved the flows of a node that is adrift no more to others, which have not seen them before: the idle timeout of all
    /// slots begins anew.
    pub(super) fn look_back(&mut self) {
        let adrift = self.adrift();
        let back = self.was_adrift.minus(adrift);
        self.was_adrift = adrift;
        if !back.is_empty() {
            self.act(Action::Members(self.members));
        }
    }

    /// As the coordinator says. No member is.
    fn set_adrift(&mut self, adrift: Nodes) {
        let (now, adrift) = (self.now, adrift.minus(self.members));
        for place in 0..self.settings.nodes {
            if let Some(peer) = self.peer_mut(place) {
                let is_adrift = adrift.has(place) && !peer.is_gone;
                peer.adrift = is_adrift.then(|| peer.adrift.unwrap_or(now));
            }
        }
    }

    /// The coordinator looks who is adrift of those in reach: a node that has started without slots forwards nothing.
    fn look_adrift(&mut self) {
        let (now, members, key) = (self.now, self.members, self.settings.key);
        for place in 0..self.settings.nodes {
            let Some(peer) = self.peer_mut(place) else {
                continue;
            };
            let joins = |s: &&State| s.phase == Phase::Joining && !members.has(place);
            if let Some(state) = peer.reached().copied().filter(|s| joins(&s)) {
                let is_adrift = state.kept && state.key == key;
                peer.adrift = is_adrift.then(|| peer.adrift.unwrap_or(now));
            }
        }
    }

    /// The coordinator looks who is gone.
    pub(super) fn prune(&mut self) {
        if self.lead.is_none() || self.coordinator() != Some(self.settings.me) {
            return;
        }
        self.look_adrift();
        for node in self.members.without(self.settings.me).iter() {
            let Some(peer) = self.peer_mut(node) else { continue };
            let state = peer.state;
            if let Some(state) = state {
                let is_known = peer.admitted == Some(state.epoch);
                let is_new = state.phase == Phase::Joining || peer.admitted.is_some();
                if state.kept || !(is_known || is_new) {
                    peer.admitted = Some(state.epoch);
                } else if !is_known {
                    self.drop_member(node, Gone::Restarted);
                    continue;
                }
            }
            let Some(peer) = self.peer(node) else { continue };
            let last = peer.heard.max(peer.vouched);
            if !peer.alive && self.now.since(last) >= self.settings.withdraw_after {
                self.drop_member(node, Gone::Silent);
            }
        }
    }

    pub(super) fn on_state(&mut self, from: u8, state: State) {
        self.term = self.term.max(state.term).max(state.edition.term);
        let Some(peer) = self.peer_mut(from) else { return };
        let is_new = peer.state.is_none_or(|s| s.epoch != state.epoch);
        peer.state = Some(state);
        if is_new {
            peer.opinions = peer
                .opinions
                .take()
                .filter(|_| peer.admitted == Some(state.epoch));
            if let Some(lead) = self.lead.as_mut().filter(|_| self.members.has(from)) {
                lead.recover = true;
            }
        }
        if state.phase != Phase::Joining {
            self.weigh(from, &state);
        }
    }

    /// A peer that is ready, or leaves, counts these as members. The newest list counts, whoever says it. One of a coordinator that this node
    /// counts no more is another half's, whose slots may have changed apart.
    fn weigh(&mut self, from: u8, state: &State) {
        let me = self.settings.me;
        let is_coordinators = state.term == self.term && state.term.node == from && from != me;
        let is_newer = state.edition > self.edition;
        let is_foreign = is_newer && !self.members.has(state.edition.term.node);
        match self.phase {
            Phase::Ready if state.phase == Phase::Leaving && (is_foreign || !state.members.has(me)) => {}
            Phase::Ready if is_foreign && state.members.has(me) => self.rejoin(from),
            Phase::Ready if !state.members.has(me) => {
                // Halves that have dropped each other: terms say nothing, they count on in each by itself.
                let has_dropped = if self.members.and(state.members).is_empty() {
                    rank(self.members) > rank(state.members)
                } else {
                    is_newer
                };
                if has_dropped {
                    self.rejoin(from);
                }
            }
            Phase::Ready | Phase::Leaving if is_newer || is_coordinators && state.edition == self.edition => {
                self.adopt(state.members, state.edition, state.adrift);
            }
            Phase::Joining if is_coordinators && state.members.has(me) => {
                self.adopt(state.members, state.edition, state.adrift);
            }
            _ => {}
        }
    }

    /// As [`Machine::set_members`], from a peer. Who is about to coordinate itself keeps those that it admitted and reaches:
    /// another one that was out of its reach meanwhile has not heard of them, and slots would change without them.
    pub(super) fn adopt(&mut self, members: Nodes, edition: Edition, adrift: Nodes) {
        let kept = if self.coordinator() == Some(self.settings.me) {
            self.admitted().and(self.members)
        } else {
            Nodes::default()
        };
        let told = members;
        let members = told.or(kept);
        if edition > self.edition {
            self.greet(members);
            self.is_ahead = !kept.minus(told).is_empty();
        }
        self.vouch(members);
        self.set_members(members);
        self.set_adrift(adrift);
        self.edition = self.edition.max(edition);
    }

    /// Any of them may have been admitted elsewhere, with an epoch that is not known here; also who had left before.
    fn greet(&mut self, members: Nodes) {
        for place in members.iter() {
            if let Some(peer) = self.peer_mut(place) {
                (peer.admitted, peer.left) = (None, None);
            }
        }
    }

    /// Nodes in reach that are the ones that were admitted.
    fn admitted(&self) -> Nodes {
        let is_one = |p: &Peer| p.reached().is_some_and(|s| p.admitted == Some(s.epoch));
        let admitted = self.others().filter(|(_, p)| is_one(p));
        admitted.map(|(place, _)| place).collect()
    }

    /// From now on their silence counts.
    pub(super) fn vouch(&mut self, members: Nodes) {
        let now = self.now;
        for place in members.iter() {
            if let Some(peer) = self.peer_mut(place) {
                peer.vouched = now;
                peer.is_dropped = false;
            }
        }
    }

    /// This half changed its slots, or may have, while the other did: the other's count.
    fn rejoin(&mut self, whose: u8) {
        self.phase = Phase::Joining;
        self.serves_on = true;
        self.lead = None;
        // Its list is as old as any that a group in reach may have.
        self.edition = Edition::default();
        self.set_adrift(Nodes::default());
        self.joiner.restart(self.now);
        self.tell(Event::Rejoins(whose));
    }

    /// Nodes that other members count, and that this one has missed to be told of. Not those that would have to
    /// join first.
    pub(super) fn learn_members(&mut self, named: Nodes) {
        let me = self.settings.me;
        let is_one = |&place: &u8| {
            self.peer(place).is_some_and(|p| match p.reached() {
                Some(state) => state.phase == Phase::Ready && state.members.has(me),
                None => !p.is_dropped,
            })
        };
        let missed: Nodes = named.minus(self.members).iter().filter(is_one).collect();
        if !missed.is_empty() {
            self.greet(missed);
            self.vouch(missed);
            self.set_members(self.members.or(missed));
        }
    }

    /// What all members in reach that count this node say of members.
    pub(super) fn members_of_others(&self) -> Nodes {
        let me = self.settings.me;
        let reached = self.others().filter(|(place, _)| self.members.has(*place));
        let states = reached.filter_map(|(_, p)| p.reached());
        states
            .filter(|s| s.phase == Phase::Ready && s.members.has(me))
            .fold(Nodes::default(), |all, s| all.or(s.members))
    }

    pub(super) fn on_goodbye(&mut self, from: u8) {
        if let Some(peer) = self.peer_mut(from) {
            peer.left = peer.state.map(|s| s.epoch);
            peer.is_gone = true;
            peer.adrift = None;
        }
        self.drop_member(from, Gone::Left);
        self.send(from, &Msg::Farewell);
        // Whom it doesn't reach would wait for it. Those that hear it live take no notice.
        self.pass_on(from);
    }

    /// `asked` by the operator of this node, or by a peer.
    pub(super) fn on_forget(&mut self, node: u8, asked: bool) {
        let Some(peer) = self.peer_mut(node) else { return };
        if peer.alive {
            if asked {
                self.tell(Event::NotSilent(node));
            }
            return;
        }
        peer.left = peer.admitted.or(peer.state.map(|s| s.epoch));
        peer.is_gone = true;
        peer.adrift = None;
        self.drop_member(node, Gone::Forgotten);
        if asked {
            self.pass_on(node);
        }
    }

    /// Tells all others that this node forwards nothing.
    fn pass_on(&mut self, node: u8) {
        let told: Vec<u8> = self.others().map(|(place, _)| place).collect();
        for place in told.into_iter().filter(|&place| place != node) {
            self.send(place, &Msg::Forget(node));
        }
    }

    pub(super) fn next_term(&self) -> Term {
        Term {
            number: self.term.number.saturating_add(1),
            node: self.settings.me,
            epoch: self.start.epoch,
        }
    }
}

/// The larger group comes first, of equal ones that with the first node.
fn rank(members: Nodes) -> (u32, u8) {
    let places = u32::from(super::nodes::NODES_MAX);
    (
        places - members.len().min(places),
        members.lowest().unwrap_or(u8::MAX),
    )
}

#[cfg(test)]
mod tests;
