//! What happens in the group, for the log, the journal and the metrics.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::id::stable;
use tracing::{debug, error, info, warn};

use super::{Group, Outcome};
use crate::agent::controller::Controller;
use crate::charter::written;
use crate::group::{Event, Gone, Nodes, Target, Verdict, Why};
use crate::journal::Event as Entry;
use crate::metrics;
use crate::model::{Model, Name};

/// What is counted. All of it is told from the start, since a rate needs a 0 to begin with.
const COUNTED: [&str; 20] = [
    "founded",
    "admitted",
    "left",
    "silent",
    "forgotten",
    "restarted",
    "coordinates",
    "yields",
    "change",
    "change_given_up",
    "verdict",
    "burial",
    "retirement",
    "reopening",
    "recovery",
    "waits",
    "slots_differ",
    "join_overdue",
    "rejoins",
    "garbage",
];

/// What the agent remembers of the group to tell of it.
pub(super) struct Told {
    counts: BTreeMap<&'static str, u64>,
    /// `join_within` has passed, and this node is still no member.
    join_overdue: bool,
    /// What was told last.
    ready: bool,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            counts: COUNTED.map(|what| (what, 0)).into(),
            join_overdue: false,
            ready: false,
        }
    }
}

/// As it is counted; a refusal to forget is an operator's business alone.
const fn counted(event: &Event) -> Option<&'static str> {
    Some(match event {
        Event::Coordinates { .. } => "coordinates",
        Event::Yields => "yields",
        Event::Founded(_) => "founded",
        Event::Admitted(_) => "admitted",
        Event::Gone { how, .. } => match how {
            Gone::Left => "left",
            Gone::Silent => "silent",
            Gone::Forgotten => "forgotten",
            Gone::Restarted => "restarted",
        },
        Event::Committed(_) => "change",
        Event::GivenUp(_) => "change_given_up",
        Event::Judged(_) => "verdict",
        Event::Buried(_) => "burial",
        Event::Retired(_) => "retirement",
        Event::Reopened(_) => "reopening",
        Event::Recovered { .. } => "recovery",
        Event::Waits(_) => "waits",
        Event::RingsDiffer(_) | Event::SlotsDiffer(_) => "slots_differ",
        Event::JoinOverdue(_) => "join_overdue",
        Event::Rejoins(_) => "rejoins",
        Event::Garbage(..) => "garbage",
        Event::NotSilent(_) | Event::Doubts(..) => return None,
    })
}

impl Group {
    /// Whether this node may attract traffic.
    pub(in crate::agent) fn is_ready(&self) -> bool {
        self.status().ready.is_ok()
    }

    /// How the group runs, for the metrics.
    pub(in crate::agent) fn standing(&self) -> metrics::Group {
        let status = self.status();
        let waits_since = status.waits_since.filter(|_| !status.waits_for.is_empty());
        metrics::Group {
            members: self.machine.facts().members.len(),
            live: status.live.len(),
            coordinates: status.coordinator == Some(self.own),
            phase: status.under_way,
            waits_for: status.waits_for.len(),
            adrift: status.adrift.len(),
            waiting: waits_since
                .map(|since| self.now().since(since))
                .unwrap_or_default(),
            join_overdue: self.told.join_overdue,
            events: self
                .told
                .counts
                .iter()
                .map(|(&event, &count)| (event, count))
                .collect(),
        }
    }

    pub(super) fn tell(&mut self, event: &Event, model: &Model) {
        if let Some(count) = counted(event).and_then(|what| self.told.counts.get_mut(what)) {
            *count += 1;
        }
        match event {
            Event::JoinOverdue(_) => self.told.join_overdue = true,
            Event::Founded(_) => self.told.join_overdue = false,
            Event::Admitted(node) if *node == self.own => self.told.join_overdue = false,
            _ => {}
        }
        let Some(entry) = self.entry(event, model) else {
            return self.log(event);
        };
        match event {
            Event::RingsDiffer(_) | Event::SlotsDiffer(_) => error!("{entry}"),
            Event::Gone { .. } | Event::Waits(_) | Event::JoinOverdue(_) | Event::Rejoins(_) => {
                warn!("{entry}");
            }
            _ => info!("{entry}"),
        }
        self.outcomes.push(Outcome::Told(entry));
    }

    /// Logs what is too frequent for the journal.
    fn log(&self, event: &Event) {
        match event {
            Event::GivenUp(target) => info!(rings = target.rings, "change of slots given up for a newer one"),
            Event::Judged(verdict) => info!(
                number = verdict.number,
                "verdict carried out by all members in reach"
            ),
            Event::Buried(slots) => info!(slots, "slots of dead backends have another origin"),
            // Counted; each may be of one slot.
            Event::Retired(slots) => debug!(slots, "slots retired"),
            Event::Reopened(slots) => debug!(slots, "slots stay tracked"),
            Event::Recovered { finished, reopened } => {
                info!(
                    finished,
                    reopened, "finished what an earlier coordinator had begun"
                );
            }
            Event::Garbage(node, count) => warn!(node = self.name(*node), count, "messages that are none"),
            Event::NotSilent(node) => warn!(node = self.name(*node), "not forgotten: it is not silent"),
            _ => {}
        }
    }

    /// As the journal has it. Not batches of slots, of which there may be many, nor what a peer can make up.
    fn entry(&self, event: &Event, model: &Model) -> Option<Entry> {
        let node = |place: u8| self.name(place).to_owned();
        let differ = |place: u8, what: &str| Entry::SlotsDiffer {
            node: node(place),
            what: what.to_owned(),
        };
        Some(match event {
            Event::Coordinates { term } => Entry::Coordinates { term: *term },
            Event::Yields => Entry::Yields,
            Event::Founded(nodes) => Entry::GroupFounded {
                members: self.names(*nodes),
            },
            Event::Admitted(place) => Entry::MemberAdmitted { node: node(*place) },
            Event::Gone { node: place, how } => Entry::MemberGone {
                node: node(*place),
                why: match how {
                    Gone::Left => "it has left",
                    Gone::Silent => "it has been silent for `withdraw_after`",
                    Gone::Forgotten => "an operator said so",
                    Gone::Restarted => "it has started anew",
                }
                .to_owned(),
            },
            Event::Committed(target) => self.committed(target),
            Event::Waits(nodes) => Entry::MembersAwaited {
                nodes: self.names(*nodes),
            },
            Event::RingsDiffer(place) => differ(*place, "rings for the same configuration"),
            Event::SlotsDiffer(place) => differ(*place, "slots after joining"),
            Event::Doubts(pool, doubted) => Entry::GroupDoubts {
                pool: pool_name(model, *pool),
                doubted: *doubted,
            },
            Event::JoinOverdue(why) => Entry::JoinOverdue { why: self.why(*why) },
            Event::Rejoins(place) => Entry::Rejoins { node: node(*place) },
            _ => return None,
        })
    }

    fn committed(&self, target: &Target) -> Entry {
        Entry::ChangeCommitted {
            charter: written(target.generation, &self.nodes),
            verdict: target.verdict,
            rings: format!("{:016x}", target.rings),
        }
    }

    /// The members are others.
    pub(super) fn tell_members(&mut self, members: Nodes) {
        let entry = Entry::MembersChanged {
            members: self.names(members),
        };
        info!("{entry}");
        self.outcomes.push(Outcome::Told(entry));
    }

    /// This node follows another verdict.
    pub(super) fn tell_verdict(&mut self, verdict: &Verdict, controller: &Controller) {
        let names = |ids: &BTreeSet<u64>| {
            ids.iter()
                .map(|&id| backend(controller.effective(), id))
                .collect()
        };
        let entry = Entry::VerdictTaken {
            number: verdict.number,
            dead: names(&verdict.dead),
            draining: names(&verdict.draining),
            returning: names(&verdict.returning),
        };
        info!("{entry}");
        self.outcomes.push(Outcome::Told(entry));
    }

    /// Whether this node may attract traffic. The journal is told when that changes, not each step of a join.
    pub(super) fn tell_ready(&mut self, ready: Result<(), Why>) {
        let entry = match ready {
            Ok(()) => Entry::Ready,
            Err(why) => Entry::NotReady { why: self.why(why) },
        };
        if ready.is_ok() == std::mem::replace(&mut self.told.ready, ready.is_ok()) {
            if let Err(why) = ready {
                info!("not ready for traffic: {}", self.why(why));
            }
            return;
        }
        match ready {
            Ok(()) => info!("{entry}"),
            Err(_) => warn!("{entry}"),
        }
        self.outcomes.push(Outcome::Told(entry));
    }

    /// Why this node may not, with names of nodes instead of places.
    pub(super) fn why(&self, why: Why) -> String {
        let of = |place: u8, text: &str| text.replace(&format!("node {place}"), self.name(place));
        let text = why.to_string();
        match why {
            Why::Founder(n)
            | Why::Refused(n)
            | Why::Nodes(n)
            | Why::Key(n)
            | Why::Sync(n)
            | Why::Apart(n)
            | Why::Leaver(n)
            | Why::Queue(n)
            | Why::Slots(n)
            | Why::Differs(n) => of(n, &text),
            Why::Waiting | Why::Charter | Why::Alone | Why::Leaving => text,
        }
    }

    pub(super) fn name(&self, place: u8) -> &str {
        self.nodes.get(usize::from(place)).map_or("?", Name::as_str)
    }

    pub(super) fn names(&self, nodes: Nodes) -> Vec<String> {
        nodes.iter().map(|place| self.name(place).to_owned()).collect()
    }
}

/// Name of a pool; its identity where nobody here has it.
fn pool_name(model: &Model, id: u64) -> String {
    let names = model.pools.iter().map(|pool| pool.name.as_str());
    let mut named = names.filter(|name| stable(name, "") == id);
    named.next().map_or_else(|| format!("{id:016x}"), str::to_owned)
}

/// `pool/name` of a backend; its identity where nobody here has it.
fn backend(model: &Model, id: u64) -> String {
    let pools = model.pools.iter();
    let mut all = pools.flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    match all.find(|(_, backend)| backend.id == id) {
        Some((pool, backend)) => format!("{}/{}", pool.name, backend.name),
        None => format!("{id:016x}"),
    }
}
