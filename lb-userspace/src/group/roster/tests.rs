use std::time::Duration;

use super::*;
use crate::group::border::{Mismatch, Why};
use crate::group::order::{Cell, Order, Target};
use crate::group::wire::{Job, Numbered, decode};
use crate::group::{Settings, Start};
use crate::health::Mono;

fn term(number: u64, node: u8) -> Term {
    let epoch = 1;
    Term { number, node, epoch }
}

fn edition(number: u64, node: u8) -> Edition {
    let term = term(number, node);
    Edition { term, change: 1 }
}

/// A node of four that is ready and knows of term 5.
fn ready(me: u8, members: &[u8]) -> Machine {
    let settings = Settings {
        me,
        nodes: 4,
        key: 0,
        withdraw_after: Duration::from_secs(60),
        join_within: Duration::from_secs(60),
        pause: Duration::from_secs(1),
        leave_after: Duration::from_secs(1),
        max_tracked: Duration::from_hours(24),
    };
    let mut machine = Machine::new(settings, Start { epoch: 7, kept: true }, Mono::default());
    machine.phase = Phase::Ready;
    machine.members = members.iter().copied().collect();
    machine.term = term(5, members[0]);
    machine.edition = edition(5, members[0]);
    machine
}

fn state(of: u8, members: &[u8], number: u64) -> State {
    State {
        epoch: u64::from(of),
        phase: Phase::Ready,
        kept: true,
        serving: true,
        term: term(number, of),
        members: members.iter().copied().collect(),
        edition: edition(number, of),
        adrift: Nodes::default(),
        ready: members.iter().copied().collect(),
        target: Target::default(),
        verdict: 0,
        origins: 0,
        key: 0,
    }
}

#[test]
fn the_smaller_half_joins_the_larger_one_whichever_took_office_last() {
    for (larger, smaller) in [
        ([1, 2].as_slice(), [0].as_slice()),
        (&[0, 1], &[2]),
        (&[0, 1], &[2, 3]),
        (&[1, 2, 3], &[0]),
    ] {
        for number in [1, 9] {
            for (mine, theirs, wanted) in [(larger, smaller, Phase::Ready), (smaller, larger, Phase::Joining)]
            {
                for &me in mine {
                    let mut machine = ready(me, mine);
                    machine.on_state(theirs[0], state(theirs[0], theirs, number));
                    let words = format!("{me} of {mine:?} hears {theirs:?} with term {number}");
                    assert_eq!(machine.phase, wanted, "{words}");
                }
            }
        }
    }
}

#[test]
fn an_old_list_is_no_half() {
    // Node 0 coordinates what is left of the group, which node 3 has not heard of.
    let mut coordinator = ready(0, &[0, 1]);
    coordinator.on_state(3, state(3, &[1, 2, 3], 4));
    assert_eq!(coordinator.phase, Phase::Ready);
    let mut dropped = ready(3, &[1, 2, 3]);
    dropped.on_state(0, state(0, &[0, 1], 6));
    assert_eq!(dropped.phase, Phase::Joining);
}

#[test]
fn whom_its_own_coordinator_has_dropped_joins_again() {
    for (number, wanted) in [(9, Phase::Joining), (4, Phase::Ready)] {
        let mut machine = ready(2, &[0, 1, 2]);
        machine.on_state(0, state(0, &[0, 1], number));
        assert_eq!(machine.phase, wanted, "term {number}");
    }
}

#[test]
fn whoever_has_the_newest_list_says_who_is_a_member() {
    // Node 0 has dropped node 2, which reaches node 1 alone.
    for (number, wanted) in [(9, Phase::Joining), (4, Phase::Ready)] {
        let mut machine = ready(2, &[0, 1, 2]);
        let omitting = State {
            edition: edition(number, 0),
            ..state(1, &[0, 1], 9)
        };
        machine.on_state(1, omitting);
        assert_eq!(machine.phase, wanted, "list of term {number}");
    }
    // Node 1 has admitted node 2 while it didn't reach node 0, which reaches node 2 first.
    for (number, wanted) in [(9, 3), (4, 2)] {
        let mut machine = ready(0, &[0, 1]);
        let says = State {
            edition: edition(number, 1),
            ..state(2, &[0, 1, 2], number)
        };
        machine.on_state(2, says);
        assert_eq!(machine.members.len(), wanted, "list of term {number}");
        assert_eq!(machine.edition.term.number, number.max(5));
    }
}

#[test]
fn a_newer_list_of_another_half_is_joined_and_not_taken_over() {
    // Nodes 0 and 1 have dropped node 2, which has dropped node 0 alone so far.
    let mut machine = ready(1, &[0, 1]);
    machine.on_state(2, state(2, &[1, 2, 3], 9));
    assert_eq!(
        (machine.phase, machine.edition),
        (Phase::Joining, Edition::default())
    );
    assert!(machine.has_slots(), "others rank it as a founder by the same");
    assert_eq!(machine.members, [0, 1].into_iter().collect());
}

#[test]
fn who_coordinates_keeps_whom_it_admitted() {
    for epoch in [2, 3] {
        let mut machine = ready(0, &[0, 1, 2]);
        let peer = machine.peer_mut(2).unwrap();
        (peer.session, peer.alive, peer.admitted) = (Some(1), true, Some(2));
        peer.state = Some(State {
            epoch,
            ..state(2, &[0, 1, 2], 5)
        });
        // Another coordinator has admitted node 3, and has not heard of node 2.
        machine.on_state(1, state(1, &[0, 1, 3], 6));
        let wanted: Nodes = if epoch == 2 {
            [0, 1, 2, 3].as_slice()
        } else {
            &[0, 1, 3]
        }
        .iter()
        .copied()
        .collect();
        assert_eq!(machine.members, wanted, "epoch {epoch}");
        assert_eq!(machine.edition, edition(6, 1), "until it coordinates");
        machine.take_or_leave_office();
        let term = machine.term;
        let own = Edition { term, change: 1 };
        let expected = if epoch == 2 { own } else { edition(6, 1) };
        assert_eq!(machine.edition, expected, "epoch {epoch}");
    }
}

#[test]
fn who_coordinates_by_an_old_list_is_not_obeyed() {
    for (number, obeys) in [(5, true), (4, false)] {
        let mut machine = ready(2, &[0, 1, 2]);
        let order = Numbered {
            term: term(7, 0),
            number: 1,
            members: machine.members,
            edition: edition(number, 0),
            adrift: Nodes::default(),
            job: Job::Engine(Order::Fence(1)),
        };
        machine.obey(0, order);
        let does = std::iter::from_fn(|| machine.poll()).any(|a| matches!(a, Action::Do { .. }));
        assert_eq!(does, obeys, "list of term {number}");
    }
    // Nor one that this node doesn't count, however new its list is: from its state this node learns whether it has to join.
    let mut machine = ready(2, &[1, 2]);
    machine.obey(
        0,
        Numbered {
            term: term(7, 0),
            number: 1,
            members: [0, 1, 2].into_iter().collect(),
            edition: edition(7, 0),
            adrift: Nodes::default(),
            job: Job::Engine(Order::Fence(1)),
        },
    );
    assert_eq!(machine.members.len(), 2);
}

#[test]
fn who_does_not_reach_the_coordinator_leaves_it_in_office() {
    let mut machine = ready(1, &[0, 1, 2]);
    for (reaches, coordinator) in [(&[0, 1, 2][..], 0), (&[1, 2], 1)] {
        let peer = machine.peer_mut(2).unwrap();
        (peer.session, peer.alive) = (Some(1), true);
        peer.state = Some(State {
            ready: reaches.iter().copied().collect(),
            ..state(2, &[0, 1, 2], 5)
        });
        assert_eq!(machine.coordinator(), Some(coordinator), "{reaches:?}");
    }
}

/// Node 3 is dropped for its silence while node 0 coordinates: it is adrift until something says that it forwards nothing, or is back.
#[test]
fn nothing_retires_while_a_node_is_adrift() {
    let nodes = |places: &[u8]| places.iter().copied().collect::<Nodes>();
    let dropped = || {
        let mut machine = ready(0, &[0, 1, 2, 3]);
        for place in [1, 2, 3] {
            machine.peer_mut(place).unwrap().admitted = Some(u64::from(place));
        }
        machine.take_or_leave_office();
        machine.drop_member(3, Gone::Silent);
        assert_eq!(
            (machine.adrift(), machine.state().adrift),
            (nodes(&[3]), nodes(&[3]))
        );
        machine
    };
    type Event = (&'static str, fn(&mut Machine), bool);
    let events: [Event; 8] = [
        ("nothing", |_| {}, true),
        ("another one goes", |m| m.drop_member(2, Gone::Left), true),
        ("a good-bye that was late", |m| m.on_goodbye(3), false),
        ("an operator's word", |m| m.on_forget(3, true), false),
        ("it is admitted", |m| m.set_members(m.members.with(3)), false),
        ("it has kept its slots", |m| reaches(m, 3, true), true),
        (
            "another one has, too",
            |m| {
                m.on_forget(3, true);
                m.drop_member(2, Gone::Restarted);
                reaches(m, 2, true);
            },
            true,
        ),
        ("it has started without slots", |m| reaches(m, 3, false), false),
    ];
    for (what, happens, is_adrift) in events {
        let mut machine = dropped();
        happens(&mut machine);
        machine.look_adrift();
        assert_eq!(!machine.adrift().is_empty(), is_adrift, "{what}");
        let target = machine.local.target;
        machine.lead.as_mut().unwrap().committed = Some(target);
        machine.local.candidates = vec![Cell {
            pool: 1,
            slot: 2,
            backend: 3,
        }];
        assert_eq!(machine.next_retirement().is_none(), is_adrift, "{what}");
        // Whoever is no coordinator believes the one that is.
        let mut other = ready(1, &[0, 1, 2]);
        other.on_state(0, machine.state());
        assert_eq!(!other.adrift().is_empty(), is_adrift, "{what}");
    }
    let mut machine = dropped();
    for gone in [Gone::Left, Gone::Forgotten, Gone::Restarted] {
        let mut machine = ready(0, &[0, 1, 2, 3]);
        machine.drop_member(3, gone);
        assert_eq!(machine.adrift(), Nodes::default(), "{gone:?}");
    }
    machine.now = machine.now + machine.settings.max_tracked;
    machine.look_adrift();
    assert_eq!(machine.adrift(), Nodes::default(), "not for ever");
}

/// Node 0 doesn't reach node 3, and holds it for adrift; node 1 hears its good-bye.
#[test]
fn a_good_bye_is_passed_on() {
    let mut machine = ready(1, &[0, 1, 2]);
    let told = State {
        members: machine.members,
        edition: machine.edition,
        adrift: [3].into_iter().collect(),
        ..state(0, &[0, 1, 2], 5)
    };
    machine.on_state(0, told);
    assert_eq!(machine.adrift().len(), 1);
    machine.on_goodbye(3);
    let sent = std::iter::from_fn(|| machine.poll()).filter_map(|action| match action {
        Action::Send { peer, bytes } => Some((peer, decode(&bytes, 4).unwrap())),
        _ => None,
    });
    let passed: Vec<u8> = sent
        .filter_map(|(peer, msg)| (msg == Msg::Forget(3)).then_some(peer))
        .collect();
    assert_eq!(passed, [0, 2]);
    machine.on_state(0, told);
    assert_eq!(machine.adrift().len(), 0, "older news");
    let mut other = ready(0, &[0, 1, 2]);
    other.peer_mut(3).unwrap().adrift = Some(other.now);
    other.on_forget(3, false);
    assert_eq!(other.adrift().len(), 0);
}

/// A peer that is not a member is in reach, and joins.
fn reaches(machine: &mut Machine, place: u8, kept: bool) {
    let peer = machine.peer_mut(place).unwrap();
    (peer.session, peer.alive) = (Some(1), true);
    peer.state = Some(State {
        phase: Phase::Joining,
        kept,
        ..state(place, &[], 0)
    });
}

#[test]
fn lists_of_a_coordinator_are_newer_than_those_before() {
    let mut machine = ready(0, &[0, 1, 2]);
    machine.set_members([0, 1, 2, 3].into_iter().collect());
    assert_eq!(machine.edition, edition(5, 0), "whoever coordinates will say so");
    machine.take_or_leave_office();
    let term = machine.term;
    assert_eq!(term.number, 6);
    for change in [1, 2] {
        machine.set_members(machine.members.without(change));
        let change = change.into();
        assert_eq!(machine.edition, Edition { term, change });
    }
}

#[test]
fn who_joins_again_serves_for_as_long_as_a_join_may_take() {
    let mut machine = ready(2, &[0, 1, 2]);
    machine.on_state(0, state(0, &[0, 1], 9));
    assert_eq!((machine.phase, machine.readiness()), (Phase::Joining, Ok(())));
    machine.now = machine.now + machine.settings.join_within;
    assert!(
        machine.readiness().is_err(),
        "its slots don't change with the group's"
    );
}

#[test]
fn a_joiner_waits_for_every_member_that_the_coordinator_reaches() {
    let mut machine = starting(2, 0, &[(0, 0)]);
    let hears = |machine: &mut Machine, live: &[u8]| {
        let coordinator = State {
            ready: live.iter().copied().collect(),
            ..state(0, &[0, 1], 6)
        };
        machine.on_state(0, coordinator);
        machine.readiness()
    };
    assert_eq!(hears(&mut machine, &[0, 1]), Err(Why::Apart(1)));
    assert_eq!(
        hears(&mut machine, &[0]),
        Err(Why::Queue(0)),
        "it is silent to all"
    );
}

/// A node of three that has just started and hears these, each with its key, also just started.
fn starting(me: u8, key: u64, others: &[(u8, u64)]) -> Machine {
    let mut machine = ready(me, &[me]);
    (machine.phase, machine.members) = (Phase::Joining, Nodes::default());
    (machine.settings.nodes, machine.settings.key) = (3, key);
    machine.charter_equal = true;
    for &(place, key) in others {
        let peer = machine.peer_mut(place).unwrap();
        (peer.session, peer.alive, peer.synced) = (Some(1), true, true);
        peer.state = Some(State {
            key,
            phase: Phase::Joining,
            ..state(place, &[], 0)
        });
    }
    machine
}

fn founds(machine: &mut Machine) -> bool {
    for seconds in [150, 300] {
        machine.now = Mono::from_unix(Duration::from_secs(seconds));
        machine.join_on();
    }
    machine.phase == Phase::Ready
}

#[test]
fn who_has_another_key_than_most_founds_nothing_and_holds_up_nobody() {
    let mut wrong = starting(0, 9, &[(1, 0), (2, 0)]);
    assert!(!founds(&mut wrong));
    assert_eq!(wrong.readiness(), Err(Why::Key(1)));
    let mut right = starting(1, 0, &[(0, 9), (2, 0)]);
    assert!(founds(&mut right));
    assert!(!right.members.has(0), "it kept its slots, which are others");
    for (me, key, other) in [(0, 9, 0), (1, 0, 9)] {
        let mut one_of_two = starting(me, key, &[(1 - me, other)]);
        assert!(!founds(&mut one_of_two), "nobody knows which one is wrong");
    }
    let mut alone = starting(2, 9, &[(0, 0)]);
    alone.peer_mut(0).unwrap().state.as_mut().unwrap().phase = Phase::Ready;
    alone.serves_on = true;
    assert_eq!(alone.readiness(), Err(Why::Key(0)), "it sends flows elsewhere");
}

#[test]
fn whom_a_living_node_refuses_founds_nothing_unless_most_are_with_it() {
    let held = [Mismatch::Certificate, Mismatch::Nodes].map(|mismatch| (&[][..], Some(mismatch)));
    for (others, over) in held.into_iter().chain([(&[(1, 0)][..], None)]) {
        let mut machine = starting(0, 0, others);
        for seconds in [30, 70, 110] {
            let now = Mono::from_unix(Duration::from_secs(seconds));
            machine.now = now;
            machine.peer_mut(2).unwrap().refused = Some((now, over.unwrap_or(Mismatch::Certificate)));
            machine.join_on();
        }
        assert_eq!(machine.phase == Phase::Joining, over.is_some(), "{others:?}");
        if let Some(mismatch) = over {
            let why = match mismatch {
                Mismatch::Certificate => Why::Refused(2),
                Mismatch::Nodes => Why::Nodes(2),
            };
            assert_eq!(machine.readiness(), Err(why));
            machine.peer_mut(2).unwrap().is_gone = true;
            assert!(founds(&mut machine), "it was forgotten");
        }
    }
}

#[test]
fn who_has_slots_and_dies_is_waited_for() {
    let mut machine = starting(1, 0, &[(0, 0), (2, 0)]);
    machine.start.kept = false;
    for place in [0, 2] {
        machine.peer_mut(place).unwrap().state.as_mut().unwrap().kept = place == 0;
    }
    let founds_at = |machine: &mut Machine, seconds| {
        machine.now = Mono::from_unix(Duration::from_secs(seconds));
        machine.join_on();
        machine.phase == Phase::Ready
    };
    assert!(!founds_at(&mut machine, 100), "node 0 is the founder");
    machine.peer_mut(0).unwrap().alive = false;
    assert!(!founds_at(&mut machine, 159), "it may still forward");
    assert!(founds_at(&mut machine, 161));
}

#[test]
fn nobody_founds_a_group_beside_one_who_leaves_with_slots() {
    let mut machine = starting(0, 0, &[(1, 0), (2, 0)]);
    machine.peer_mut(1).unwrap().state.as_mut().unwrap().phase = Phase::Leaving;
    assert!(!founds(&mut machine));
    assert_eq!(machine.readiness(), Err(Why::Leaver(1)));
    machine.on_goodbye(1);
    machine.peer_mut(1).unwrap().alive = false;
    assert!(founds(&mut machine));
}

#[test]
fn the_last_one_with_slots_stays_until_a_joiner_has_them() {
    for (other, is_needed) in [
        (Phase::Joining, true),
        (Phase::Ready, false),
        (Phase::Leaving, false),
    ] {
        let mut machine = ready(0, &[0]);
        let peer = machine.peer_mut(1).unwrap();
        (peer.session, peer.alive) = (Some(1), true);
        peer.state = Some(State {
            phase: other,
            ..state(1, &[], 0)
        });
        machine.on_leave();
        machine.begin_to_leave();
        assert_eq!(machine.phase == Phase::Ready, is_needed, "{other:?}");
        assert_eq!(machine.readiness().is_ok(), is_needed, "it serves meanwhile");
        machine.now = machine.now + machine.settings.join_within;
        machine.begin_to_leave();
        assert_eq!(machine.phase, Phase::Leaving, "it has waited for long enough");
    }
}
