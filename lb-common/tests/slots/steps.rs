//! What may happen next: packets, failures, records, views. What the group does together is in `phases`.

use std::fmt;

use lb_common::pick::By;
use lb_common::slot::Slot;
use lb_common::tcp::{Kind, Segment};

use crate::phases;
use crate::rules::Rules;
use crate::tables::segment;
use crate::world::{
    CONNECTIONS, DOWN, FORGED, Flow, GONE, Held, Member, NODES, NOW, Node, Phase, World, has, number,
};

/// A step from one world to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Start,
    Syn { node: Node, admit: bool, to: u8 },
    Data { node: Node },
    Duplicate { node: Node, forged: bool, admit: bool },
    Fin { node: Node },
    Ecmp { to: Node },
    Expire { node: Node, table: Table },
    Record { from: Node },
    Cut,
    Crash { node: Node },
    Join { node: Node },
    Dies(u8),
    Back(u8),
    View { node: Node, from: u8, to: u8 },
    Idle,
    Change(u8),
    Verdict { backend: u8, to: u8 },
    Return(u8),
    Retire(u8),
    Alone { node: Node },
    Does { node: Node, phase: Phase },
    Abandoned,
}

/// A table of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    Own,
    Replica,
    Probation,
}

/// A backend's name.
pub(crate) fn name(backend: u8) -> char {
    char::from(b'A' - 1 + backend)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = |admit| if admit { "" } else { ", insert refused" };
        match *self {
            Self::Start => f.write_str("start"),
            Self::Syn { node, admit, to: 0 } => write!(f, "SYN at node{node}{}, dropped", refused(admit)),
            Self::Syn { node, admit, to } => write!(f, "SYN at node{node}{} -> {}", refused(admit), name(to)),
            Self::Data { node } => write!(f, "data at node{node}"),
            Self::Duplicate { node, forged, admit } => {
                let what = if forged { "forged" } else { "duplicate" };
                write!(f, "{what} SYN of the live flow at node{node}{}", refused(admit))
            }
            Self::Fin { node } => write!(f, "the client closes at node{node}"),
            Self::Ecmp { to } => write!(f, "ECMP moves the flow to node{to}"),
            Self::Expire { node, table } => {
                let table = match table {
                    Table::Own => "own entry",
                    Table::Replica => "replica",
                    Table::Probation => "entry in probation",
                };
                write!(f, "an old {table} expires at node{node}")
            }
            Self::Record { from } => write!(f, "record {from}->{}", 1 - from),
            Self::Cut => f.write_str("the session breaks"),
            Self::Crash { node } => write!(f, "node{node} dies"),
            Self::Join { node } => write!(f, "node{node} joins"),
            Self::Dies(backend) => write!(f, "{} dies", name(backend)),
            Self::Back(backend) => write!(f, "{} is back (empty)", name(backend)),
            Self::View { node, from, to } => {
                write!(f, "node{node} alone goes from {} to {}", name(from), name(to))
            }
            Self::Idle => f.write_str("the idle timeout passes"),
            Self::Change(to) => write!(f, "planned change to {}", name(to)),
            Self::Verdict { backend, to } => {
                write!(f, "verdict: {} is dead, {} takes over", name(backend), name(to))
            }
            Self::Return(backend) => write!(f, "verdict on {} is lifted", name(backend)),
            Self::Retire(to) => write!(f, "RETIRE to {} starts", name(to)),
            Self::Alone { node } => write!(f, "node{node} retires alone"),
            Self::Does { node, phase } => write!(f, "node{node} does {}", phases::name(phase)),
            Self::Abandoned => f.write_str("coordinator crashes, phase abandoned"),
        }
    }
}

/// Steps to other worlds, as they are found.
pub(crate) type Next = Vec<(Step, World)>;

/// Adds a step, unless it changes nothing or has to wait.
pub(crate) fn add(next: &mut Next, before: &World, rules: &Rules, step: Step, mut after: World) {
    phases::settle(&mut after, rules);
    if !after.overflow && after != *before {
        next.push((step, after));
    }
}

/// All next steps.
pub(crate) fn all(world: &World, rules: &Rules, next: &mut Next) {
    client(world, rules, next);
    if let Some(flow) = world.flow {
        traffic(world, rules, flow, next);
    }
    records(world, rules, next);
    nodes(world, rules, next);
    if rules.changes {
        backends(world, rules, next);
    }
    phases::all(world, rules, next);
}

/// Whether the flow's next segment reaches another backend than its own. Nothing is sent to one under the verdict.
pub(crate) fn is_broken(world: &World, rules: &Rules) -> bool {
    world.flow.is_some_and(|flow| {
        let mut after = *world;
        let pick = segment(&mut after, rules, flow.node, data(flow, Kind::Data), true);
        let dead = world.nodes[usize::from(flow.node)].dead;
        pick.is_some_and(|(backend, _)| {
            backend != u16::from(flow.backend) && has(world.alive, backend) && !has(dead, backend)
        })
    })
}

fn data(flow: Flow, kind: Kind) -> Segment {
    let sent = if flow.young { 1 } else { 1 << 20 };
    Segment {
        kind,
        seq: number(flow.isn) + sent,
    }
}

fn syn(isn: u8) -> Segment {
    Segment {
        kind: Kind::Syn,
        seq: number(isn),
    }
}

/// The client opens a connection, unless that could cross what is left of its last one.
fn client(world: &World, rules: &Rules, next: &mut Next) {
    if world.flow.is_some() || world.connections == CONNECTIONS || is_crossed(world) {
        return;
    }
    for node in world.up() {
        for admit in [true, false] {
            let mut after = *world;
            let isn = world.connections + 1;
            let is_away = |to| {
                world
                    .up()
                    .any(|n| world.nodes[usize::from(n)].slot.origin() != to)
            };
            let picked = segment(&mut after, rules, node, syn(isn), admit);
            if picked.is_some_and(|(_, by)| by == By::Refused) == admit {
                continue;
            }
            let to = picked.map_or(0, |(backend, _)| backend);
            let me = *after.node(node);
            let young = [me.replica, me.probation]
                .iter()
                .flatten()
                .any(|held| held.isn == isn);
            after.connections += 1;
            if has(world.alive, to) {
                after.flow = Some(Flow {
                    backend: to as u8,
                    node,
                    isn,
                    away: is_away(to),
                    young,
                });
            }
            let to = to as u8;
            add(next, world, rules, Step::Syn { node, admit, to }, after);
        }
    }
}

/// Whether a record of the last connection is on its way that will count where it arrives, or a member that has not
/// heard of a verdict yet holds an entry that the verdict deletes: reuse of a tuple within that lag may be lost.
fn is_crossed(world: &World) -> bool {
    let counts = |from: usize| {
        let dead = world.nodes[1 - from].dead;
        let mut records = world.to_other[from].records();
        records.any(|record| !has(dead, u16::from(record.backend)))
    };
    let holds = |member: &Member, backend: u8| {
        let held = [member.own, member.replica, member.probation];
        held.iter().flatten().any(|held| held.backend == backend)
    };
    let is_split = match world.phase {
        Phase::Dead { backend, .. } => world.nodes.iter().any(|member| holds(member, backend)),
        _ => false,
    };
    counts(0) || counts(1) || is_split
}

/// Segments of the connection, and forged ones.
fn traffic(world: &World, rules: &Rules, flow: Flow, next: &mut Next) {
    let node = flow.node;
    let mut after = *world;
    segment(&mut after, rules, node, data(flow, Kind::Data), true);
    after.flow = Some(Flow { young: false, ..flow });
    add(next, world, rules, Step::Data { node }, after);

    for (forged, admit) in [(false, true), (false, false), (true, true), (true, false)] {
        // A copy of a SYN that left no entry here is what the gap between PREPARE and COMMIT is for.
        let me = &world.nodes[usize::from(node)];
        let is_known = [me.own, me.replica, me.probation]
            .iter()
            .flatten()
            .any(|held| world.is_live(*held));
        if !forged && !is_known {
            continue;
        }
        let mut after = *world;
        let isn = if forged { FORGED } else { flow.isn };
        segment(&mut after, rules, node, syn(isn), admit);
        add(next, world, rules, Step::Duplicate { node, forged, admit }, after);
    }

    let mut after = *world;
    segment(&mut after, rules, node, data(flow, Kind::Fin), true);
    after.flow = None;
    add(next, world, rules, Step::Fin { node }, after);

    let to = 1 - node;
    if world.nodes[usize::from(to)].up && !is_exposed(world, flow) {
        let mut after = *world;
        after.flow = Some(Flow { node: to, ..flow });
        add(next, world, rules, Step::Ecmp { to }, after);
    }
}

/// Whether the flow's record has not reached the other node, which doesn't send it to the right backend by itself: if
/// the flow goes there it is lost, which is the one loss that the protocol admits.
fn is_exposed(world: &World, flow: Flow) -> bool {
    let other = &world.nodes[usize::from(1 - flow.node)];
    let is_misled = other.elsewhere(u16::from(flow.backend)) > 0;
    (flow.away || is_misled) && world.is_coming(1 - flow.node, flow.backend)
}

fn records(world: &World, rules: &Rules, next: &mut Next) {
    for from in 0..NODES as u8 {
        let mut after = *world;
        if let Some(record) = after.to_other[usize::from(from)].pop() {
            receive(&mut after, rules, 1 - from, record);
            add(next, world, rules, Step::Record { from }, after);
        }
    }
    let is_under_way = world
        .to_other
        .iter()
        .any(|channel| channel.records().next().is_some());
    if rules.cuts && is_under_way {
        let mut after = *world;
        cut(&mut after, rules);
        add(next, world, rules, Step::Cut, after);
    }
    for node in world.up() {
        expire(world, rules, node, next);
    }
}

/// What is on its way is lost. The next session says all own entries again, and of deletions that were lost digests tell. For how long the
/// nodes are apart is a matter of when these records arrive.
fn cut(world: &mut World, rules: &Rules) {
    let lost = std::mem::take(&mut world.to_other);
    for (from, lost) in (0..).zip(lost).filter(|_| rules.resync) {
        let gone = lost.records().find(|record| *record == GONE);
        let Member { own, probation, .. } = *world.node(from);
        for record in [gone, own, probation].into_iter().flatten() {
            world.send(from, record);
        }
    }
}

fn receive(world: &mut World, rules: &Rules, node: Node, record: Held) {
    let member = world.node(node);
    if record == GONE {
        member.replica = None;
        return;
    }
    let backend = u16::from(record.backend);
    if rules.dead_records_dropped && has(member.dead, backend) {
        return;
    }
    let slot = member.slot;
    let tracked = slot.record(backend);
    let is_needless = !rules.all_records_kept && tracked == slot;
    if !slot.is_tracked() && (!rules.record_tracks || is_needless) {
        return;
    }
    world.set_slot(node, tracked);
    let member = world.node(node);
    let entry = record.entry(1);
    let yields =
        |held: Option<Held>, owner| held.is_none_or(|held| held.entry(owner).yields_to(&entry, false, NOW));
    let (own, replica) = (yields(member.own, 0), yields(member.replica, 1));
    let displaced = [member.own.filter(|_| own), member.replica.filter(|_| replica)];
    // Whose entry goes may be at `origin` without one from now on, and has not been seen there.
    member.busy |= rules.displacing_stamps && displaced.iter().flatten().any(|held| !held.names(backend));
    if own && rules.record_demotes {
        member.own = None;
    }
    if replica {
        member.replica = Some(record);
    }
}

/// Entries of connections that are over may expire at any time: an owner's before its replicas, and orphans, which have
/// the same age everywhere, together.
fn expire(world: &World, rules: &Rules, node: Node, next: &mut Next) {
    let (me, other) = (
        &world.nodes[usize::from(node)],
        &world.nodes[usize::from(1 - node)],
    );
    let mut forget = |table: Table, change: fn(&mut World, Node)| {
        let mut after = *world;
        change(&mut after, node);
        add(next, world, rules, Step::Expire { node, table }, after);
    };
    if me.own.is_some_and(|held| !world.is_live(held)) {
        if rules.owner_expires {
            forget(Table::Own, |w, n| {
                w.node(n).own = None;
                w.send(n, GONE);
            });
        } else {
            forget(Table::Own, |w, n| w.node(n).own = None);
        }
    }
    if me.probation.is_some_and(|held| !world.is_live(held)) {
        forget(Table::Probation, |w, n| w.node(n).probation = None);
    }
    let is_orphan = other.own.is_none() && world.to_other[usize::from(1 - node)].records().next().is_none();
    let is_over = |member: &Member| member.replica.is_none_or(|held| !world.is_live(held));
    if me.replica.is_some() && is_over(me) && is_over(other) && (is_orphan || !rules.owner_expires) {
        if rules.owner_expires {
            forget(Table::Replica, |w, n| {
                w.node(n).replica = None;
                if w.node(n).own.is_none() {
                    w.node(1 - n).replica = None;
                }
            });
        } else {
            forget(Table::Replica, |w, n| w.node(n).replica = None);
        }
    }
}

/// Nodes die and join, and each has its own view of the backends.
fn nodes(world: &World, rules: &Rules, next: &mut Next) {
    for node in 0..NODES as u8 {
        let (me, other) = (world.nodes[usize::from(node)], world.nodes[usize::from(1 - node)]);
        if me.up && other.up {
            let mut after = *world;
            crash(&mut after, rules, node);
            add(next, world, rules, Step::Crash { node }, after);
        }
        if !me.up {
            let mut after = *world;
            join(&mut after, rules, node);
            add(next, world, rules, Step::Join { node }, after);
        }
        if me.up {
            let from = me.slot.current() as u8;
            for to in usable(world, rules, node) {
                let mut after = *world;
                if let Some(slot) = view(me.slot, u16::from(to), rules) {
                    after.set_slot(node, slot);
                }
                add(next, world, rules, Step::View { node, from, to }, after);
            }
        }
    }
    let mut after = *world;
    idle(&mut after, rules);
    add(next, world, rules, Step::Idle, after);
}

/// Backends to which a node may send new flows.
pub(crate) fn usable(world: &World, rules: &Rules, node: Node) -> Vec<u8> {
    let dead = world.nodes[usize::from(node)].dead;
    let is_usable = |b: &u8| {
        let backend = u16::from(*b);
        if rules.return_by_all {
            !world.is_condemned(backend)
        } else {
            !has(dead, backend)
        }
    };
    (1..8)
        .filter(|b| has(world.known, u16::from(*b)))
        .filter(is_usable)
        .collect()
}

fn view(slot: Slot, to: u16, rules: &Rules) -> Option<Slot> {
    if !rules.suspect_keeps_origin {
        Some(Slot::untracked(to))
    } else if !rules.closing_freezes && slot.is_closing() || !rules.track_first {
        Some(Slot::new(to, slot.origin(), 0, slot.flags()))
    } else {
        slot.suspect(to).ok()
    }
}

fn crash(world: &mut World, rules: &Rules, node: Node) {
    if let Some(flow) = world.flow
        && flow.node == node
    {
        let lost = is_exposed(world, flow);
        world.flow = Some(Flow {
            node: 1 - node,
            ..flow
        })
        .filter(|_| !lost);
    }
    *world.node(node) = DOWN;
    world.to_other = Default::default();
    members_changed(world, rules);
}

fn join(world: &mut World, rules: &Rules, node: Node) {
    let other = *world.node(1 - node);
    let slot = if rules.join_slots {
        other.slot
    } else {
        Slot::untracked(other.slot.current())
    };
    let known = other.own.or(other.replica).or(other.probation);
    *world.node(node) = Member {
        up: true,
        slot,
        replica: known.filter(|_| rules.join_entries),
        dead: other.dead,
        ..DOWN
    };
    members_changed(world, rules);
}

fn members_changed(world: &mut World, rules: &Rules) {
    if let Phase::Close(to) | Phase::Vote(to) = world.phase
        && rules.same_members_vote
    {
        phases::enter(world, Phase::Reopen(to));
    }
    for member in &mut world.nodes {
        member.busy |= rules.members_restart_idle && member.up && member.slot.is_tracked();
    }
}

/// An idle timeout without changes passes; a living flow has sent something in it.
fn idle(world: &mut World, rules: &Rules) {
    if let Phase::Close(to) | Phase::Vote(to) = world.phase
        && rules.votes_age
    {
        phases::enter(world, Phase::Reopen(to));
    }
    for member in &mut world.nodes {
        member.busy = false;
    }
    if let Some(flow) = world.flow {
        let mut sent = *world;
        segment(&mut sent, rules, flow.node, data(flow, Kind::Data), true);
        world.node(flow.node).busy = sent.node(flow.node).busy;
    }
}

/// Backends die with their connections and come back without.
fn backends(world: &World, rules: &Rules, next: &mut Next) {
    for backend in 1..8u8 {
        if !has(world.known, u16::from(backend)) {
            continue;
        }
        let mut after = *world;
        after.alive ^= 1 << backend;
        let step = if has(world.alive, u16::from(backend)) {
            Step::Dies(backend)
        } else {
            Step::Back(backend)
        };
        add(next, world, rules, step, after);
    }
}
