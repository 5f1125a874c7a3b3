use std::time::Duration;

use super::sim::{Fault, World};
use super::{PATIENCE, Silence, Why};
use crate::group::Generation;

const LIVES: u64 = 400;
const EVENTS: usize = 400;

fn well(world: &mut World) {
    world.heal();
    world.wait(Duration::from_secs(20));
    world.check();
    assert_eq!(world.broken, Vec::<String>::new());
}

fn at(number: u64, node: u8) -> Generation {
    Generation { number, node }
}

#[test]
fn whatever_happens_a_group_agrees() {
    let mut committed = 0;
    for seed in 0..LIVES {
        let count = 2 + u8::try_from(seed % 3).unwrap();
        let mut world = World::new(count, seed, Fault::default());
        world.live(EVENTS, [1, 4, 20][usize::try_from(seed / 3 % 3).unwrap()]);
        assert_eq!(world.broken, Vec::<String>::new(), "seed {seed}, {count} nodes");
        committed += world.history.len();
    }
    println!("{committed} charters came about");
    assert!(
        committed > 1000,
        "only {committed} charters came about: nothing was tried"
    );
}

/// Whether a fault is found in any life.
fn is_found(fault: Fault) -> bool {
    (0..LIVES).any(|seed| {
        let mut world = World::new(3, seed, fault);
        world.live(EVENTS, 4);
        !world.broken.is_empty()
    })
}

#[test]
fn every_rule_is_needed() {
    for fault in [
        Fault {
            alone: true,
            ..Fault::default()
        },
        Fault {
            forgets_pending: true,
            ..Fault::default()
        },
        Fault {
            decides_in_memory: true,
            ..Fault::default()
        },
    ] {
        assert!(is_found(fault), "{fault:?} breaks nothing");
    }
}

#[test]
fn a_charter_is_agreed_on_by_all() {
    let mut world = World::new(3, 1, Fault::default());
    let call = world.apply(1, "good").unwrap();
    world.settle();
    assert_eq!(world.answers[&call], Ok(at(1, 1)));
    well(&mut world);
    let call = world.apply(2, "good").unwrap();
    world.settle();
    assert_eq!(world.answers[&call], Ok(at(2, 2)));
    well(&mut world);
}

#[test]
fn a_node_that_cant_run_it_is_named() {
    let mut world = World::new(3, 1, Fault::default());
    let call = world.apply(0, "bad for 2").unwrap();
    world.settle();
    let why = Why::Refused {
        node: 2,
        why: "no".to_owned(),
    };
    assert_eq!(world.answers[&call], Err(why));
    let call = world.apply(0, "bad for 0").unwrap();
    let why = Why::Refused {
        node: 0,
        why: "no".to_owned(),
    };
    assert_eq!(
        world.answers[&call],
        Err(why),
        "nobody is asked what this node can't run"
    );
    well(&mut world);
    assert!(world.history.is_empty());
}

#[test]
fn what_no_message_can_hold_is_refused_at_once() {
    let mut world = World::new(2, 1, Fault::default());
    let call = world
        .apply(0, &"x".repeat(crate::charter::message::MESSAGE_MAX))
        .unwrap();
    assert!(matches!(world.answers[&call], Err(Why::Long(_))));
    well(&mut world);
}

#[test]
fn of_two_at_once_the_lower_wins_and_the_other_is_told() {
    for seed in 0..200 {
        let mut world = World::new(3, seed, Fault::default());
        let first = world.apply(2, "good").unwrap();
        // None, some or all of the first's messages have arrived.
        world.step(usize::try_from(seed % 9).unwrap());
        let second = world.apply(1, "good").unwrap();
        world.settle();
        let (first, second) = (&world.answers[&first], &world.answers[&second]);
        match (first, second) {
            (Ok(winner), Err(Why::Busy(rival) | Why::Lost(rival) | Why::Behind(rival)))
            | (Err(Why::Busy(rival) | Why::Lost(rival) | Why::Behind(rival)), Ok(winner)) => {
                assert_eq!(rival.generation, *winner, "seed {seed}");
            }
            // One after the other.
            (Ok(first), Ok(second)) => assert!(first < second, "seed {seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
        well(&mut world);
    }
}

#[test]
fn who_has_not_answered_is_named() {
    let mut world = World::new(3, 1, Fault::default());
    world.settle();
    world.crash(2);
    let call = world.apply(0, "good").unwrap();
    world.wait(PATIENCE / 2);
    assert!(!world.answers.contains_key(&call), "it may come back");
    world.wait(PATIENCE);
    assert_eq!(world.answers[&call], Err(Why::Silent(vec![(2, Silence::Away)])));
    assert_eq!(world.machine(1).pending(), None, "nothing of it stays");
    well(&mut world);
}

#[test]
fn a_member_that_comes_back_in_time_is_asked() {
    let mut world = World::new(3, 1, Fault::default());
    world.crash(2);
    let call = world.apply(0, "good").unwrap();
    world.wait(PATIENCE / 2);
    world.restart(2);
    world.link(0, 2);
    world.settle();
    assert_eq!(world.answers[&call], Ok(at(1, 0)));
    well(&mut world);
}

#[test]
fn a_node_that_was_away_gets_the_newest() {
    let mut world = World::new(3, 1, Fault::default());
    world.settle();
    world.crash(2);
    world.withdraw(2);
    let call = world.apply(0, "good").unwrap();
    world.settle();
    assert_eq!(world.answers[&call], Ok(at(1, 0)), "it is no member");
    world.broken.clear();
    world.restart(2);
    world.link(1, 2);
    assert!(!world.machine(2).is_equal());
    world.settle();
    assert_eq!(world.machine(2).generation(), at(1, 0));
    assert!(world.machine(2).is_equal());
    well(&mut world);
}

#[test]
fn a_proposer_that_crashes_before_its_decision_drops_it() {
    let mut world = World::new(3, 1, Fault::default());
    world.settle();
    let call = world.apply(0, "good").unwrap();
    // Proposed to both, decided by nobody.
    world.step(2);
    world.crash(0);
    world.settle();
    assert!(world.machine(1).pending().is_some() || world.machine(2).pending().is_some());
    world.wait(3 * PATIENCE);
    assert!(
        world.machine(1).pending().is_some() || world.machine(2).pending().is_some(),
        "only the proposer knows"
    );
    well(&mut world);
    assert!(!world.answers.contains_key(&call) && world.history.is_empty());
}

#[test]
fn what_a_withdrawn_proposer_left_is_dropped() {
    let mut world = World::new(3, 1, Fault::default());
    world.settle();
    world.apply(0, "good").unwrap();
    world.step(2);
    world.crash(0);
    world.settle();
    world.withdraw(0);
    world.wait(Duration::from_secs(2));
    for node in [1, 2] {
        assert_eq!(world.machine(node).pending(), None);
    }
    let call = world.apply(1, "good").unwrap();
    world.settle();
    assert!(world.answers[&call].is_ok());
    world.broken.clear();
    well(&mut world);
}

/// Two sides of a group that is cut apart each make generation 10; then one makes one more, and has the last word.
#[test]
fn what_was_made_apart_is_told_where_it_gives_way() {
    use crate::charter::fsm::{Event, Input, Kept, Machine, Output};
    use crate::charter::message::{Charter, Held, Message};
    use crate::health::Mono;

    let held = |generation: Generation, base: Generation| Held {
        generation,
        base,
        charter: Charter::default(),
    };
    let mine = held(at(10, 0), at(9, 0));
    for (base, is_told) in [
        (at(10, 0), false),
        (at(11, 2), false),
        (at(10, 2), true),
        (at(8, 2), true),
    ] {
        let kept = Kept {
            committed: Some(mine.clone()),
            ..Kept::default()
        };
        let (mut machine, _) = Machine::new(0, [0, 2].into(), kept, 0, Mono::default());
        machine.handle(Mono::default(), Input::Up(2));
        let message = Message::Give(held(at(12, 2), base));
        let outputs = machine.handle(Mono::default(), Input::Message { from: 2, message });
        let told = outputs
            .iter()
            .any(|output| matches!(output, Output::Told(Event::Replaced { former, .. }) if former.generation == at(10, 0)));
        assert_eq!(told, is_told, "on {base:?}");
        assert_eq!(machine.generation(), at(12, 2));
    }
}
