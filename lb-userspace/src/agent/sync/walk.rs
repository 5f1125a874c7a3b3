//! Walks over the flow table: resyncs, digests, comparisons. Each goes on for a moment at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::flow::{self, Entry, PROBATION};
use lb_common::tick::Tick;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::Notice;
use super::core::{Core, Shared};
use super::names::{OWN_TABLES, Place, is_gone};
use crate::dataplane::batch::Walk;
use crate::dataplane::flows::{Descriptor, Table, now};
use crate::dataplane::maps::Maps;
use crate::sync::{Compare, Differences, Digest, Flow, Kind, ORPHAN, Range, Round, Scope};

/// Entries that are looked at in one go.
const CHUNK: u32 = 1024;

/// Entries that are read in one go where that happens aside.
const READ: u32 = 4096;

/// From one round to the next.
const EVERY: Duration = Duration::from_secs(1);

/// A walk may take one part in so many of the time.
const SHARE: u32 = 4;

/// Rounds that one walk can stand for, where walks take long.
const ROUNDS: u32 = 16;

/// Ranges that are repaired or asked for in one round.
const MOST: usize = 256;

/// A digest that is older says nothing any more.
const STALE: Duration = Duration::from_secs(2);

/// Tables with own entries, in an order in which none escapes: they move from the first ones to the last ones.
const OWN: [Table; 4] = [
    Table::Probation,
    Table::UdpProbation,
    Table::Flows,
    Table::UdpFlows,
];

/// The next entries of a walk; `None` where the kernel refuses, which ends it.
fn next(core: &mut Core, table: Table, walk: &mut Walk) -> Option<Vec<(flow::Key, Entry)>> {
    core.maps.walk(table, walk).map_err(|e| core.fail(&e)).ok()
}

/// A walk that another thread does the reading of. In a large table with few entries the kernel looks for the next ones for ten
/// milliseconds and more in one system call, and nothing else on this thread would have its turn. What it reads is a moment old.
struct Aside {
    table: Arc<Descriptor>,
    walk: Walk,
}

impl Aside {
    /// `None` where the kernel refuses.
    fn begin(core: &mut Core, table: Table) -> Option<Self> {
        let table = core.maps.descriptor(table).map_err(|e| core.fail(&e)).ok()?;
        Some(Self {
            table: Arc::new(table),
            walk: Walk::by(READ),
        })
    }

    const fn is_over(&self) -> bool {
        self.walk.is_over()
    }

    /// The next entries; `None` where the kernel refuses.
    async fn next(&mut self, shared: &Shared) -> Option<Vec<(flow::Key, Entry)>> {
        let (table, mut walk) = (Arc::clone(&self.table), self.walk);
        let read = spawn_blocking(move || {
            let start = cpu_time();
            let rows = table.walk(&mut walk);
            (rows, walk, cpu_time().saturating_sub(start))
        });
        let (rows, walk, time) = read.await.expect("a walk doesn't panic");
        self.walk = walk;
        let core = &mut *shared.borrow_mut();
        core.read += time;
        rows.map_err(|e| core.fail(&e)).ok()
    }
}

/// What this thread has had of a CPU.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Tells a peer all own entries; a joiner also those whose owner is gone.
pub(super) async fn resync(shared: Shared, (peer, session): (u8, u64), number: u64, scope: Scope) {
    let orphans = (scope == Scope::Orphans).then_some(Table::Replicas);
    for table in OWN.into_iter().chain(orphans) {
        let mut walk = Walk::by(CHUNK);
        while !walk.is_over() {
            let room = match shared.borrow_mut().link(peer, session) {
                Some(link) if !link.is_resyncing(number) => return,
                Some(link) if link.sender.has_room() => None,
                Some(link) => Some(Rc::clone(&link.room)),
                None => return,
            };
            if let Some(room) = room {
                room.notified().await;
                continue;
            }
            if !tell(&mut shared.borrow_mut(), (peer, session), table, &mut walk) {
                break;
            }
            yield_now().await;
        }
    }
    let core = &mut *shared.borrow_mut();
    if let Some(link) = core.link(peer, session)
        && link.is_resyncing(number)
    {
        link.end_resync();
        // The peer waits for a digest.
        core.hurry.notify_one();
    }
}

/// Tells a peer the next entries of a table. Whether the walk can go on.
fn tell(core: &mut Core, (peer, session): (u8, u64), table: Table, walk: &mut Walk) -> bool {
    let Some(rows) = next(core, table, walk) else {
        return false;
    };
    let (names, live) = (Arc::clone(&core.names), core.live.as_ref());
    let flows = rows.iter().filter_map(|(key, entry)| {
        let kind = match table {
            Table::Replicas if !is_orphan(live, entry) => return None,
            Table::Replicas => Kind::Orphan,
            _ => Kind::Snapshot,
        };
        names.flow(kind, key, entry)
    });
    let flows: Vec<Flow> = flows.collect();
    core.snapshot(peer, session, flows);
    true
}

/// Whether an entry's owner is gone. Of `live` nodes alone a joiner is told; in digests whoever is a member is there, since a silent one may
/// tell others that its flows have ended.
fn is_orphan(live: Option<&BTreeSet<u8>>, entry: &Entry) -> bool {
    entry.owner == ORPHAN || is_gone(live, entry.owner)
}

/// What a node once announced is nobody's any more: it has begun anew.
pub(super) async fn orphan(shared: &Shared, owner: u8) {
    let mut walk = Walk::by(CHUNK);
    while !walk.is_over() {
        {
            let core = &mut *shared.borrow_mut();
            let Some(rows) = next(core, Table::Replicas, &mut walk) else {
                return;
            };
            let owned = rows.into_iter().filter(|(_, entry)| entry.owner == owner);
            let orphaned = |entry| Entry {
                owner: ORPHAN,
                ..entry
            };
            let (keys, entries): (Vec<_>, Vec<_>) = owned.map(|(key, entry)| (key, orphaned(entry))).unzip();
            core.orphans |= !keys.is_empty();
            // A packet that takes one over meanwhile leaves an own entry, which counts more.
            if let Err(e) = core.maps.set_entries(Table::Replicas, &keys, &entries) {
                core.fail(&e);
            }
        }
        yield_now().await;
    }
}

/// Which own tables are empty, before anything is known of them.
pub(super) fn empty(maps: &Maps) -> [bool; 2] {
    OWN_TABLES.map(|table| is_empty(maps, table))
}

/// Whether a table is known to hold nothing.
pub(super) fn is_empty(maps: &Maps, table: Table) -> bool {
    let mut walk = Walk::default();
    maps.walk(table, &mut walk).is_ok_and(|rows| rows.is_empty())
}

/// Once a second, and when a resync has ended: digests, refreshes, and what peers have asked for. `report` is called after each round.
pub(super) async fn rounds(shared: Shared, report: impl Fn(&mut Core)) {
    let start = Instant::now();
    let (mut last, mut hurries) = (0, false);
    let hurry = Rc::clone(&shared.borrow().hurry);
    loop {
        let began = Instant::now();
        let number = u32::try_from(start.elapsed().as_millis() / 1000).unwrap_or(u32::MAX) + 1;
        if number > last || hurries {
            // A second round in the same second refreshes the same ones.
            let first = (last + 1).max(number.saturating_sub(ROUNDS - 1)).min(number);
            if !shared.borrow().links.is_empty() {
                Walker::round(&shared, first..=number).await;
            }
            last = number;
        }
        report(&mut shared.borrow_mut());
        let next = start + EVERY * last;
        let rest = next.saturating_duration_since(Instant::now());
        let pause = began.elapsed() * (SHARE - 1);
        sleep(pause).await;
        hurries = timeout(rest.saturating_sub(pause), hurry.notified())
            .await
            .is_ok();
    }
}

/// A walk over own entries, and over replicas where some may be orphans.
struct Walker {
    /// One for each second since the last walk: each has another share of entries to refresh.
    rounds: Vec<Round>,
    began: Tick,
    wanted: Wanted,
    /// Entries in [`OWN_TABLES`].
    counts: [usize; 2],
    orphans: Option<Orphans>,
}

/// What of a walk are orphans.
struct Orphans {
    round: Round,
    wanted: Wanted,
}

/// Ranges that peers have asked for.
struct Wanted {
    /// By peer.
    asked: BTreeMap<u8, BTreeSet<Range>>,
    found: HashMap<Range, Vec<Flow>>,
}

impl Wanted {
    fn of(core: &mut Core, scope: Scope) -> Self {
        let links = core.links.iter_mut();
        Self {
            asked: links
                .map(|(&peer, link)| (peer, link.take_asked(scope, MOST)))
                .collect(),
            found: HashMap::new(),
        }
    }

    fn wants(&self, range: Range) -> bool {
        self.asked.values().any(|ranges| ranges.contains(&range))
    }

    fn put(&mut self, range: Range, flow: Flow) {
        self.found.entry(range).or_default().push(flow);
    }

    /// For each peer and range the flows of it.
    fn all(&self) -> impl Iterator<Item = (u8, Range, Vec<Flow>)> {
        self.asked.iter().flat_map(|(&peer, ranges)| {
            let flows = |range| self.found.get(range).cloned().unwrap_or_default();
            ranges.iter().map(move |range| (peer, *range, flows(range)))
        })
    }
}

impl Walker {
    async fn round(shared: &Shared, numbers: std::ops::RangeInclusive<u32>) {
        let (mut walker, confirmed) = Self::begin(&mut shared.borrow_mut(), numbers);
        for (number, table) in OWN_TABLES.into_iter().enumerate() {
            if walker.walk(shared, number, table).await.is_none() {
                let core = &mut *shared.borrow_mut();
                core.deleted = None;
                core.orphans |= walker.orphans.is_some();
                return;
            }
        }
        if walker.orphans.is_some() && walker.walk_orphans(shared).await.is_none() {
            walker.orphans = None;
            shared.borrow_mut().orphans = true;
        }
        walker.end(&mut shared.borrow_mut(), confirmed);
    }

    /// `None` where the kernel refuses.
    async fn walk_orphans(&mut self, shared: &Shared) -> Option<()> {
        let mut walk = Aside::begin(&mut shared.borrow_mut(), Table::Replicas)?;
        while !walk.is_over() {
            let rows = walk.next(shared).await?;
            for rows in rows.chunks(CHUNK as usize) {
                let orphans = self.orphans.as_mut()?;
                rows.iter()
                    .for_each(|row| orphans.take(&mut shared.borrow_mut(), row));
                yield_now().await;
            }
        }
        Some(())
    }

    /// `None` where the kernel refuses.
    async fn walk(&mut self, shared: &Shared, number: usize, table: Table) -> Option<()> {
        let mut walk = Aside::begin(&mut shared.borrow_mut(), table)?;
        while !walk.is_over() {
            let rows = walk.next(shared).await?;
            self.counts[number] += rows.len();
            for rows in rows.chunks(CHUNK as usize) {
                {
                    let core = &mut *shared.borrow_mut();
                    rows.iter().for_each(|row| self.take(core, table, row));
                    core.transmit();
                }
                yield_now().await;
            }
        }
        Some(())
    }

    fn begin(core: &mut Core, numbers: std::ops::RangeInclusive<u32>) -> (Self, [u64; 2]) {
        let (began, lost) = (now(), core.take_lost());
        let wanted = Wanted::of(core, Scope::Own);
        let is_asked = wanted.asked.values().any(|ranges| !ranges.is_empty());
        core.deleted = is_asked.then(HashSet::new);
        let orphans = Orphans {
            round: Round::new(Scope::Orphans, *numbers.end(), began, false),
            // Asked of a node that has none any more: forgotten.
            wanted: Wanted::of(core, Scope::Orphans),
        };
        let round = |number| Round::new(Scope::Own, number, began, lost);
        let walker = Self {
            rounds: numbers.map(round).collect(),
            began,
            wanted,
            counts: [0; 2],
            // Whoever makes an orphan meanwhile says so again.
            orphans: std::mem::take(&mut core.orphans).then_some(orphans),
        };
        (walker, core.confirmed)
    }

    fn take(&mut self, core: &mut Core, table: Table, (key, entry): &(flow::Key, Entry)) {
        let Some((place, id)) = core.names.place(key).zip(core.names.id(entry.backend)) else {
            return;
        };
        let range = place.range;
        if let Some(round) = self.rounds.last_mut() {
            round.take(key, entry, range, id);
        }
        let period = place.idle / 3;
        if self
            .rounds
            .iter()
            .any(|round| round.is_refresh_due(entry, range, period))
        {
            refresh(core, table, key, &place);
        }
        if self.wanted.wants(range) {
            self.wanted
                .put(range, place.flow(Kind::Snapshot, *key, *entry, id));
        }
    }

    fn end(mut self, core: &mut Core, confirmed: [u64; 2]) {
        core.flush();
        for (number, count) in self.counts.into_iter().enumerate() {
            core.empty[number] = count == 0 && core.confirmed[number] == confirmed[number];
        }
        let deleted = core.deleted.take().unwrap_or_default();
        for flows in self.wanted.found.values_mut() {
            flows.retain(|flow| !deleted.contains(&flow.key));
        }
        for (peer, range, flows) in self.wanted.all() {
            core.repair(peer, range, self.began, flows);
        }
        if let Some(orphans) = self.orphans {
            for (peer, range, flows) in orphans.wanted.all() {
                core.tell_orphans(peer, range, flows);
            }
            // Before the other one, with which it is compared.
            send(core, &orphans.round.finish());
        }
        if let Some(round) = self.rounds.pop() {
            send(core, &round.finish());
        }
        if core.outbox.is_used_up() {
            core.start_anew();
        }
    }
}

impl Orphans {
    fn take(&mut self, core: &mut Core, (key, entry): &(flow::Key, Entry)) {
        if !is_orphan(core.members.as_ref(), entry) {
            return;
        }
        core.orphans = true;
        let Some((place, id)) = core.names.place(key).zip(core.names.id(entry.backend)) else {
            return;
        };
        let counts = self.round.take_orphan(key, entry, (place.range, place.idle), id);
        if counts && self.wanted.wants(place.range) {
            self.wanted
                .put(place.range, place.flow(Kind::Orphan, *key, *entry, id));
        }
    }
}

/// Sends a digest to every peer.
fn send(core: &mut Core, digest: &Digest) {
    let links = core.links.values_mut();
    links.for_each(|link| link.digest(digest.clone()));
}

/// Tells peers that an entry was used, if it is still there: told behind its deletion it would come back.
fn refresh(core: &mut Core, table: Table, key: &flow::Key, place: &Place) {
    let entry = core.maps.entry(table, key).map_err(|e| core.fail(&e));
    let Ok(Some(entry)) = entry else {
        return;
    };
    if let Some(id) = core.names.id(entry.backend) {
        let mono = core.mono();
        core.outbox
            .push(&place.flow(Kind::Refresh, *key, entry, id), now(), mono);
    }
}

/// Compares what peers say of their entries with what is held of them, whenever one says it.
pub(super) async fn comparisons(shared: Shared) {
    let ready = Rc::clone(&shared.borrow().compare);
    loop {
        ready.notified().await;
        let began = Instant::now();
        compare(&shared).await;
        sleep(began.elapsed() * (SHARE - 1)).await;
    }
}

/// One walk over all replicas, for every peer that has sent a digest.
async fn compare(shared: &Shared) {
    let mut compares = begin_compare(&mut shared.borrow_mut());
    if compares.is_empty() || look_at_all(shared, &mut compares).await.is_none() {
        return;
    }
    let core = &mut *shared.borrow_mut();
    for Comparison {
        peer,
        session,
        repaired,
        resyncs,
        compare,
        orphans,
    } in compares
    {
        let Some(link) = core.link(peer, session) else {
            continue;
        };
        let ranges = link.differences.judge(&compare, MOST);
        let all_asked = ranges.len() < MOST;
        link.ask(Scope::Own, ranges);
        // These prove nothing: what is an orphan to one may be the other's own.
        if let Some(orphans) = orphans {
            let ranges = link.differing_orphans.judge(&orphans, MOST);
            link.ask(Scope::Orphans, ranges);
        } else {
            link.differing_orphans = Differences::default();
        }
        let proof = if link.resyncs() == resyncs {
            link.proof.judge(&link.differences, all_asked)
        } else {
            None
        };
        // What ended meanwhile was not looked for in the whole table.
        if link.repaired == repaired {
            link.repairs.clear();
        }
        if let Some(differing) = proof {
            if differing > 0 {
                warn!(
                    peer,
                    differing, "flow entries still differ after digests and repairs"
                );
            }
            core.notify(Notice::Synced { peer, session });
        }
    }
}

/// `None` where the kernel refuses.
async fn look_at_all(shared: &Shared, compares: &mut [Comparison]) -> Option<()> {
    let mut walk = Aside::begin(&mut shared.borrow_mut(), Table::Replicas)?;
    while !walk.is_over() {
        let rows = walk.next(shared).await?;
        for rows in rows.chunks(CHUNK as usize) {
            {
                let core = &mut *shared.borrow_mut();
                rows.iter().for_each(|row| look(core, compares, row));
            }
            yield_now().await;
        }
    }
    Some(())
}

/// One peer's digest, compared.
struct Comparison {
    peer: u8,
    session: u64,
    /// Repairs that had ended before.
    repaired: u64,
    /// Resyncs that had.
    resyncs: u64,
    compare: Compare,
    orphans: Option<Compare>,
}

fn begin_compare(core: &mut Core) -> Vec<Comparison> {
    let links = core.links.iter_mut();
    let fresh = links.filter_map(|(&peer, link)| {
        let compare = link.compare.take()?;
        let orphans = link.compare_orphans.take();
        (link.digested.elapsed() < STALE).then_some(Comparison {
            peer,
            session: link.session,
            repaired: link.repaired,
            resyncs: link.resyncs(),
            compare,
            orphans,
        })
    });
    fresh.collect()
}

/// Looks at one replica.
fn look(core: &mut Core, compares: &mut [Comparison], (key, entry): &(flow::Key, Entry)) {
    // Neither in a sum nor ever stale; with many new flows most are.
    if entry.state == PROBATION {
        return;
    }
    let mut orphans = compares
        .iter_mut()
        .filter_map(|comparison| comparison.orphans.as_mut())
        .peekable();
    if orphans.peek().is_some()
        && is_orphan(core.members.as_ref(), entry)
        && let Some((place, id)) = core.names.place(key).zip(core.names.id(entry.backend))
    {
        orphans.for_each(|orphans| orphans.take_orphan(key, entry, (place.range, place.idle), id));
    }
    let Some(place_of) = entry.owner.checked_sub(1) else {
        return;
    };
    let Some(comparison) = compares.iter_mut().find(|comparison| comparison.peer == place_of) else {
        return;
    };
    let Some((place, id)) = core.names.place(key).zip(core.names.id(entry.backend)) else {
        return;
    };
    comparison.compare.take(key, entry, place.range, id);
    let is_stale = core
        .link(place_of, comparison.session)
        .is_some_and(|link| link.repairs.is_stale(entry.owner, key, entry, place.range));
    if is_stale
        && core.maps.entry(Table::Replicas, key).ok().flatten() == Some(*entry)
        && let Err(e) = core.maps.remove_entry(Table::Replicas, key)
    {
        core.fail(&e);
    }
}
