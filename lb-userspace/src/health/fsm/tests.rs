//! The table of transitions, and what holds whatever the answers are.

use proptest::prelude::*;

use super::*;
use crate::model::health::Flap;

const RULES: Rules = Rules {
    rise: 2,
    fall: 3,
    death_grace: Duration::from_secs(3),
    flap: Flap {
        limit: 0,
        half_life: Duration::from_secs(60),
    },
};

fn at(seconds: u64) -> Mono {
    Mono::from_unix(Duration::from_secs(seconds))
}

fn outcome(letter: char) -> Outcome {
    match letter {
        'g' => Outcome::Good,
        'r' => Outcome::Refuses("503".into()),
        's' => Outcome::Silent("nothing".into()),
        'u' => Outcome::Unasked("no file descriptor".into()),
        _ => panic!("{letter}"),
    }
}

fn machine(phase: Phase) -> Fsm {
    Fsm::resume(RULES, phase, at(0), String::new(), Penalty::default(), at(0))
}

#[test]
fn every_row_of_the_table() {
    use Phase::{Dead, Draining, Suspect, Unknown, Up};
    for (from, answers, to) in [
        (Unknown, "g", Unknown),
        (Unknown, "gg", Up),
        (Unknown, "gsg", Unknown),
        (Unknown, "ss", Unknown),
        (Unknown, "sss", Suspect),
        (Unknown, "rrr", Draining),
        (Up, "ss", Up),
        (Up, "ssgss", Up),
        (Up, "sss", Suspect),
        (Up, "susus", Suspect),
        (Up, "uuuuuuuu", Up),
        (Up, "rrr", Draining),
        // Mixed: it does answer sometimes, so it isn't silent.
        (Up, "rss", Draining),
        (Up, "srs", Draining),
        (Up, "ssr", Draining),
        (Up, "rsss", Suspect),
        (Draining, "g", Draining),
        (Draining, "grg", Draining),
        (Draining, "gg", Up),
        (Draining, "ss", Draining),
        (Draining, "ssrss", Draining),
        (Draining, "sss", Suspect),
        (Suspect, "sssss", Suspect),
        (Suspect, "r", Suspect),
        (Suspect, "rsr", Suspect),
        (Suspect, "rr", Draining),
        (Suspect, "gg", Up),
        (Suspect, "gr", Suspect),
        (Dead, "ssss", Dead),
        (Dead, "gsg", Dead),
        (Dead, "gg", Up),
        (Dead, "rr", Draining),
    ] {
        let mut fsm = machine(from);
        for answer in answers.chars() {
            fsm.handle(&outcome(answer), at(0));
        }
        assert_eq!(fsm.phase(), to, "{from:?} {answers}");
    }
}

#[test]
fn a_suspect_that_stays_silent_dies_after_its_grace() {
    let mut fsm = machine(Phase::Up);
    for second in [10, 12, 14] {
        fsm.handle(&outcome('s'), at(second));
    }
    assert_eq!(
        (fsm.phase(), fsm.since(), fsm.reason()),
        (Phase::Suspect, at(14), "nothing")
    );
    assert_eq!(fsm.poll_timeout(), Some(at(17)));
    fsm.handle(&outcome('s'), at(16));
    assert!(!fsm.handle_timeout(at(16)));
    assert!(fsm.handle_timeout(at(17)));
    assert_eq!((fsm.phase(), fsm.reason()), (Phase::Dead, "nothing"));
    assert_eq!(fsm.poll_timeout(), None);
    assert!(!fsm.handle_timeout(at(99)));
}

#[test]
fn a_suspect_that_answers_at_all_does_not_die() {
    let mut fsm = machine(Phase::Suspect);
    fsm.handle(&outcome('g'), at(2));
    assert!(!fsm.handle_timeout(at(4)));
    fsm.handle(&outcome('s'), at(4));
    assert_eq!(fsm.poll_timeout(), Some(at(5)));
    assert!(fsm.handle_timeout(at(5)));
}

#[test]
fn without_grace_a_suspect_is_dead_at_once() {
    let rules = Rules {
        death_grace: Duration::ZERO,
        ..RULES
    };
    let mut fsm = Fsm::new(rules, at(0));
    for _ in 0..3 {
        fsm.handle(&outcome('s'), at(1));
    }
    assert_eq!(fsm.poll_timeout(), Some(at(1)));
    assert!(fsm.handle_timeout(at(1)));
}

#[test]
fn a_backend_that_flaps_is_held_out_and_let_in_again() {
    let flap = Flap {
        limit: 2,
        half_life: Duration::from_secs(60),
    };
    let mut fsm = Fsm::new(Rules { flap, ..RULES }, at(0));
    let mut now = 0;
    let mut feed = |fsm: &mut Fsm, answers: &str| {
        for answer in answers.chars() {
            now += 1;
            fsm.handle(&outcome(answer), at(now));
        }
        now
    };
    feed(&mut fsm, "ggrrrgg");
    assert_eq!(fsm.phase(), Phase::Up, "the first fall costs nothing");
    feed(&mut fsm, "rrrggggg");
    assert_eq!(fsm.phase(), Phase::Draining, "the second within a half-life does");
    assert!(fsm.reason().contains("flapping"), "{}", fsm.reason());
    feed(&mut fsm, &"g".repeat(60));
    assert_eq!(fsm.phase(), Phase::Up);
}

#[test]
fn other_rules_keep_a_bad_verdict_and_ask_anew_after_a_good_one() {
    let other = Rules { rise: 1, ..RULES };
    let mut fsm = machine(Phase::Dead).under(other, at(9));
    assert_eq!((fsm.phase(), fsm.since()), (Phase::Dead, at(0)));
    assert!(fsm.handle(&outcome('g'), at(10)));
    assert_eq!(fsm.phase(), Phase::Up);
    assert_eq!(fsm.under(RULES, at(11)).phase(), Phase::Unknown);
    assert_eq!(
        machine(Phase::Suspect).under(other, at(9)).poll_timeout(),
        Some(at(12))
    );
}

proptest! {
    /// Against a model that looks at the whole history instead of counting.
    #[test]
    fn verdicts_are_earned(
        answers in proptest::collection::vec(prop_oneof![Just('g'), Just('r'), Just('s'), Just('u')], 0..200),
        rise in 1u32..5,
        fall in 1u32..5,
    ) {
        let rules = Rules { rise, fall, ..RULES };
        let mut fsm = Fsm::new(rules, at(0));
        let mut heard = Vec::new();
        for (second, answer) in (0u64..).zip(answers) {
            let now = at(second);
            let died = fsm.poll_timeout().is_some_and(|dies| dies <= now);
            prop_assert_eq!(fsm.handle_timeout(now), died);
            let before = fsm.phase();
            let changed = fsm.handle(&outcome(answer), now);
            prop_assert_eq!(changed, before != fsm.phase());
            if answer != 'u' {
                heard.push(answer);
            }
            let last = |n: u32, fits: &dyn Fn(char) -> bool| {
                let n = n as usize;
                heard.len() >= n && heard[heard.len() - n..].iter().all(|a| fits(*a))
            };
            match fsm.phase() {
                Phase::Up if changed => prop_assert!(last(rise, &|a| a == 'g')),
                Phase::Suspect if changed => prop_assert!(last(fall, &|a| a == 's')),
                Phase::Draining if changed => prop_assert!(
                    last(fall, &|a| a != 'g') && !last(fall, &|a| a == 's') || last(rise, &|a| a == 'r')
                ),
                Phase::Dead => prop_assert!(!changed),
                _ => {}
            }
            if last(rise, &|a| a == 'g') {
                prop_assert_eq!(fsm.phase(), Phase::Up);
            }
            if last(fall, &|a| a != 'g') {
                prop_assert!(!fsm.phase().is_up());
            }
            if last(fall, &|a| a == 's') {
                prop_assert!(fsm.phase().is_silent());
            }
        }
    }
}
