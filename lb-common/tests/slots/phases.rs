//! What the group does together, step by step and node by node, with the real votes and transitions.

use lb_common::retire::{self, Uses, View};
use lb_common::slot::{Slot, TRACKED};
use lb_common::tick::Tick;

use crate::rules::Rules;
use crate::steps::{self, Next, Step, add};
use crate::world::{IDLE, Member, NOW, Node, Phase, World, has};

/// What a node does in a phase.
pub(crate) fn name(phase: Phase) -> String {
    match phase {
        Phase::Idle => "nothing".to_owned(),
        Phase::Prepare(_) => "PREPARE".to_owned(),
        Phase::Commit(to) => format!("COMMIT to {}", steps::name(to)),
        Phase::Close(to) => format!("CLOSING for {}", steps::name(to)),
        Phase::Vote(to) => format!("vote for {}", steps::name(to)),
        Phase::Reopen(_) => "REOPEN".to_owned(),
        Phase::Origin(to) => format!("RETIRE: origin {}", steps::name(to)),
        Phase::Untrack(_) => "RETIRE: untrack".to_owned(),
        Phase::Dead { backend, .. } => format!("DEAD-1 of {}", steps::name(backend)),
        Phase::Bury { to, .. } => format!("DEAD-2, origin {}", steps::name(to)),
        Phase::Return(backend) => format!("RETURN of {}", steps::name(backend)),
    }
}

/// All steps of the group.
pub(crate) fn all(world: &World, rules: &Rules, next: &mut Next) {
    if world.phase == Phase::Idle {
        begin(world, rules, next);
    } else {
        for node in world.up().filter(|&n| !world.nodes[usize::from(n)].done) {
            let mut after = *world;
            after.node(node).done = true;
            act(&mut after, rules, node);
            let phase = world.phase;
            add(next, world, rules, Step::Does { node, phase }, after);
        }
        let may_stop = matches!(world.phase, Phase::Prepare(_) | Phase::Commit(_));
        if may_stop || !rules.finish {
            let mut after = *world;
            enter(&mut after, Phase::Idle);
            add(next, world, rules, Step::Abandoned, after);
        }
    }
    if !rules.group_retire {
        alone(world, rules, next);
    }
}

fn begin(world: &World, rules: &Rules, next: &mut Next) {
    let mut start = |step, phase| {
        let mut after = *world;
        enter(&mut after, phase);
        add(next, world, rules, step, after);
    };
    let members = || world.up().map(|n| &world.nodes[usize::from(n)]);
    for to in (1..8u8).filter(|b| has(world.known, u16::from(*b))) {
        let backend = u16::from(to);
        if world.is_condemned(backend) {
            if has(world.alive, backend) {
                start(Step::Return(to), Phase::Return(to));
            }
            continue;
        }
        if rules.changes && members().any(|m| m.slot.current() != backend) {
            let phase = if rules.prepare_barrier {
                Phase::Prepare(to)
            } else {
                Phase::Commit(to)
            };
            start(Step::Change(to), phase);
        }
        if members().any(|m| m.slot.is_tracked()) && members().any(|m| ballot(m, to, rules)) {
            start(Step::Retire(to), Phase::Close(to));
        }
        for dead in (1..8u8).filter(|b| rules.changes && has(world.known, u16::from(*b)) && *b != to) {
            if !world.is_condemned(u16::from(dead)) {
                let verdict = Phase::Dead { backend: dead, to };
                start(Step::Verdict { backend: dead, to }, verdict);
            }
        }
    }
}

pub(crate) fn enter(world: &mut World, phase: Phase) {
    world.phase = phase;
    for member in &mut world.nodes {
        member.done = false;
    }
}

/// A member's vote.
fn ballot(member: &Member, to: u8, rules: &Rules) -> bool {
    let to = u16::from(to);
    let elsewhere = if rules.vote_counts_entries {
        member.elsewhere(to)
    } else {
        0
    };
    let view = View {
        slot: member.slot,
        uses: if member.busy {
            Uses::by_flow(NOW)
        } else {
            Uses::default()
        },
        changed: Tick(NOW.0 - 2 * IDLE),
        elsewhere,
        alone: false,
    };
    retire::vote(&view, to, IDLE, NOW).is_ok()
}

/// One node's step.
fn act(world: &mut World, rules: &Rules, node: Node) {
    let member = *world.node(node);
    let slot = member.slot;
    let named = |to: u8| {
        if rules.named {
            u16::from(to)
        } else {
            slot.current()
        }
    };
    let new = match world.phase {
        Phase::Idle => slot,
        Phase::Prepare(_) => slot.track(),
        Phase::Commit(to) => commit(slot, u16::from(to), rules),
        Phase::Close(to) => {
            if !ballot(&member, to, rules) {
                return enter(world, Phase::Reopen(to));
            }
            if slot.is_tracked() || rules.closing_freezes {
                slot.close(u16::from(to)).expect("voted for it")
            } else {
                slot
            }
        }
        Phase::Vote(to) if !ballot(&member, to, rules) => return enter(world, Phase::Reopen(to)),
        Phase::Vote(_) => slot,
        Phase::Reopen(_) => slot.reopen().unwrap_or(slot),
        Phase::Origin(to) if !rules.retire_in_steps => Slot::untracked(named(to)),
        Phase::Origin(to) => slot.retire(named(to)).unwrap_or(slot),
        Phase::Untrack(to) => untrack(&member, named(to), rules),
        Phase::Dead { backend, to } => {
            condemn(world.node(node), rules, backend);
            let step1 = slot.dead(u16::from(backend), u16::from(to)).unwrap_or(slot);
            if rules.verdict_in_steps {
                step1
            } else {
                step1.bury(u16::from(backend), named(to)).unwrap_or(step1)
            }
        }
        Phase::Bury { backend, to } => slot.bury(u16::from(backend), named(to)).unwrap_or(slot),
        Phase::Return(backend) => {
            world.node(node).dead &= !(1 << backend);
            slot
        }
    };
    world.set_slot(node, new);
}

fn commit(slot: Slot, to: u16, rules: &Rules) -> Slot {
    if !rules.track_first {
        Slot::new(to, slot.origin(), 0, slot.flags())
    } else if !rules.prepare_barrier {
        slot.track().commit(to).unwrap_or(slot)
    } else {
        slot.commit(to).unwrap_or(slot)
    }
}

fn untrack(member: &Member, to: u16, rules: &Rules) -> Slot {
    let slot = member.slot;
    let elsewhere = if rules.untrack_looks {
        member.elsewhere(to)
    } else {
        0
    };
    if rules.closing_freezes {
        slot.finish(to, elsewhere).unwrap_or(slot)
    } else {
        Slot::untracked(slot.origin())
    }
}

fn condemn(member: &mut Member, rules: &Rules, backend: u8) {
    member.dead |= 1 << backend;
    if rules.verdict_deletes {
        for held in [&mut member.own, &mut member.replica, &mut member.probation] {
            *held = held.filter(|held| held.backend != backend);
        }
    }
}

/// One node's retirement without the others.
fn alone(world: &World, rules: &Rules, next: &mut Next) {
    for node in world.up() {
        let member = world.nodes[usize::from(node)];
        let current = member.slot.current();
        if member.slot.flags() & TRACKED != 0 && ballot(&member, current as u8, rules) {
            let mut after = *world;
            after.set_slot(node, Slot::untracked(current));
            add(next, world, rules, Step::Alone { node }, after);
        }
    }
}

/// What follows at once: connections that a verdict or a death ends, and the end of a step that all have made.
pub(crate) fn settle(world: &mut World, rules: &Rules) {
    let nodes = world.nodes;
    world.flow = world.flow.filter(|flow| {
        let backend = u16::from(flow.backend);
        has(world.alive, backend) && !has(nodes[usize::from(flow.node)].dead, backend)
    });
    let all_done = world.up().all(|n| world.nodes[usize::from(n)].done);
    if world.phase == Phase::Idle || !all_done || rules.fence && is_fenced(world) {
        return;
    }
    let next = match world.phase {
        Phase::Prepare(to) => Phase::Commit(to),
        Phase::Close(to) if rules.vote_behind_fence => Phase::Vote(to),
        Phase::Close(to) | Phase::Vote(to) => Phase::Origin(to),
        Phase::Origin(to) if rules.retire_in_steps => Phase::Untrack(to),
        Phase::Dead { backend, to } if rules.verdict_in_steps => Phase::Bury { backend, to },
        _ => Phase::Idle,
    };
    enter(world, next);
}

/// Whether records are on their way that were sent before their sender made the step.
fn is_fenced(world: &World) -> bool {
    let mut records = world.to_other.iter().flat_map(|channel| channel.records());
    match world.phase {
        Phase::Close(to) => records.any(|record| record.backend != to),
        Phase::Dead { backend, .. } => records.any(|record| record.backend == backend),
        _ => false,
    }
}
