//! Orders of the operator as a pure function of time.

use std::time::Duration;

use lb_common::id::stable;
use lb_common::slot::SLOTS;
use lb_userspace::model::{Attach, Backend, Capacity, Encap, Group, Model, Node, Pool};
use lb_userspace::state::operator::{Contradiction, Operator, Order, Passed, Ramp};
use lb_userspace::state::ring::{Cache, Place};
use lb_userspace::state::standing::{Standing, Standings};
use lb_userspace::state::wall::Wall;
use proptest::prelude::*;

const START: Wall = Wall(1_790_000_000_000);

fn model(weights: &[u16]) -> Model {
    let backend = |(i, &weight): (usize, &u16)| Backend {
        name: format!("be{i}").parse().expect("it is valid"),
        id: id(i),
        address: format!("10.0.0.{}", i + 1).parse().expect("it is valid"),
        weight,
        via: None,
    };
    Model {
        path: "lb.yaml".into(),
        node: Node {
            name: "lb1".parse().expect("it is valid"),
            interfaces: vec!["eth0".to_owned()],
            attach: Attach::Auto,
        },
        group: Group {
            nodes: vec!["lb1".parse().expect("it is valid")],
            key: None,
            max_tracked: lb_userspace::model::Group::MAX_TRACKED,
            peering: None,
        },
        capacity: Capacity::default(),
        encap: Encap::default(),
        pools: vec![Pool {
            name: "web".parse().expect("it is valid"),
            backends: weights.iter().enumerate().map(backend).collect(),
            health: None,
            tunnel: lb_userspace::model::Tunnel::Ipip,
        }],
        vips: Vec::new(),
        metrics: None,
    }
}

fn id(backend: usize) -> u64 {
    stable("web", &format!("be{backend}"))
}

fn with(operator: &Operator, backend: usize, order: Order, now: Wall) -> Operator {
    operator
        .with(id(backend), &format!("web/be{backend}"), 1, order, now)
        .expect("it is valid")
}

fn after(ms: u64) -> Wall {
    START.after(Duration::from_millis(ms))
}

fn ring(model: &Model, standings: &Standings) -> Vec<u16> {
    let places = model.pools[0].backends.iter().enumerate().map(|(i, b)| Place {
        id: b.id,
        weight: standings.weight(b.id, b.weight),
        index: u16::try_from(i + 1).expect("it is valid"),
        up: standings.of(b.id).takes_new_flows(),
    });
    Cache::default().ring(places.collect()).to_vec()
}

fn ramp(steps: u16, over_ms: u64) -> Ramp {
    Ramp {
        start: START,
        steps,
        over_ms,
    }
}

#[test]
fn a_drain_is_down_from_its_deadline_on() {
    let model = model(&[1, 1]);
    let deadline = Some(after(1000));
    let operator = with(&Operator::default(), 0, Order::Drain { deadline }, START);
    for (ms, want) in [
        (0, Standing::Draining),
        (999, Standing::Draining),
        (1000, Standing::Dead),
        (u64::MAX, Standing::Dead),
    ] {
        assert_eq!(operator.standings(&model, after(ms)).of(id(0)), want, "{ms}");
        assert_eq!(operator.standings(&model, after(ms)).of(id(1)), Standing::Up);
    }
    assert_eq!(operator.next_change(START), deadline);
    assert_eq!(operator.next_change(after(1000)), None);
    let over = vec![("web/be0".to_owned(), Passed::DrainOver)];
    assert_eq!(operator.passed(after(999), after(1000)), over);
    assert_eq!(operator.passed(after(1000), after(2000)), []);
    assert_eq!(
        operator.settled(after(2000)),
        operator,
        "it stays until it is undrained"
    );
    assert_eq!(
        with(&operator, 0, Order::Undrain, after(2000)),
        Operator::default()
    );
}

#[test]
fn orders_are_idempotent_and_contradictions_are_told() {
    let none = Operator::default();
    let drain = Order::Drain { deadline: None };
    for (order, undo) in [
        (drain, Order::Undrain),
        (Order::Down, Order::Up),
        (Order::Weight(Some(9)), Order::Weight(None)),
        (Order::Ramp(ramp(4, 1000)), Order::Weight(None)),
    ] {
        let once = with(&none, 0, order, START);
        assert_ne!(once, none);
        assert_eq!(with(&once, 0, order, after(1)), once, "{order:?}");
        assert_eq!(with(&once, 0, undo, START), none);
        assert_eq!(with(&none, 0, undo, START), none);
    }
    let down = with(&with(&none, 0, drain, START), 0, Order::Down, START);
    let order = |operator: &Operator, order, weight| operator.with(id(0), "web/be0", weight, order, START);
    assert_eq!(order(&down, drain, 1), Err(Contradiction::Down));
    assert_eq!(order(&down, Order::Undrain, 1), Err(Contradiction::Down));
    assert_eq!(
        order(&with(&none, 0, drain, START), Order::Up, 1),
        Err(Contradiction::Drained)
    );
    assert_eq!(
        order(&none, Order::Ramp(ramp(4, 1000)), 0),
        Err(Contradiction::NoWeight)
    );
}

#[test]
fn a_weight_stays_through_a_drain() {
    let weighted = with(&Operator::default(), 0, Order::Weight(Some(7)), START);
    let drained = with(&weighted, 0, Order::Drain { deadline: None }, START);
    assert_eq!(drained.standings(&model(&[1, 1]), START).weight(id(0), 1), 7);
    assert_eq!(with(&drained, 0, Order::Undrain, START), weighted);
}

#[test]
fn a_ramp_walks_its_steps() {
    let ramp = ramp(5, 1000);
    let steps: Vec<u16> = [0, 249, 250, 500, 749, 750, 999, 1000, 99_999]
        .map(|ms| ramp.step(after(ms)))
        .into();
    assert_eq!(steps, [1, 1, 2, 3, 3, 4, 4, 5, 5]);
    assert_eq!(ramp.step(Wall(0)), 1, "a clock that was set back");
    let operator = with(&Operator::default(), 0, Order::Ramp(ramp), START);
    // Weight 1 of 2, times 8 so that five steps are possible.
    let weights: Vec<(u16, u16)> = [0, 250, 500, 750]
        .map(|ms| {
            let standings = operator.standings(&model(&[1, 1]), after(ms));
            (standings.weight(id(0), 1), standings.weight(id(1), 1))
        })
        .into();
    assert_eq!(weights, [(2, 8), (4, 8), (5, 8), (7, 8)]);
    assert_eq!(
        operator.standings(&model(&[1, 1]), after(1000)),
        Standings::default()
    );
    assert_eq!(operator.settled(after(1000)), Operator::default());
}

#[test]
fn orders_for_backends_that_left_are_named_and_dropped() {
    let operator = with(&Operator::default(), 0, Order::Down, START);
    let operator = with(&operator, 5, Order::Down, START);
    let (kept, gone) = operator.within(&model(&[1, 1]));
    assert_eq!(gone, ["web/be5"]);
    assert_eq!(kept, with(&Operator::default(), 0, Order::Down, START));
    let (same, none) = kept.within(&model(&[1, 1]));
    assert_eq!((same, none.len()), (kept, 0));
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![
        prop::option::of(0_u64..5000).prop_map(|ms| Order::Drain {
            deadline: ms.map(after)
        }),
        Just(Order::Undrain),
        Just(Order::Down),
        Just(Order::Up),
        prop::option::of(any::<u16>()).prop_map(Order::Weight),
        (2_u16..=1000, 1_u64..5000, 0_u64..5000).prop_map(|(steps, over_ms, start)| Order::Ramp(Ramp {
            start: after(start),
            steps,
            over_ms
        })),
    ]
}

fn orders() -> impl Strategy<Value = Operator> {
    prop::collection::vec((0_usize..4, order()), 0..12).prop_map(|all| {
        all.into_iter()
            .fold(Operator::default(), |operator, (backend, order)| {
                let name = format!("web/be{backend}");
                operator
                    .with(id(backend), &name, 1, order, START)
                    .unwrap_or(operator)
            })
    })
}

proptest! {
    /// Between two moments at which the next change is due, nothing changes; at each, something does or has.
    #[test]
    fn nothing_changes_before_it_is_due(operator in orders(), weights in prop::collection::vec(1_u16..300, 4), look in 0_u64..6000) {
        let model = model(&weights);
        let now = after(look);
        let until = operator.next_change(now).unwrap_or(Wall(u64::MAX));
        prop_assert!(until > now);
        let last = Wall(until.0 - 1);
        prop_assert_eq!(operator.standings(&model, now), operator.standings(&model, last));
        prop_assert_eq!(operator.passed(now, last), []);
        if until != Wall(u64::MAX) {
            prop_assert_ne!(operator.passed(last, until), []);
        }
    }

    /// What passed in two spans is what passed in both together, intermediate steps aside.
    #[test]
    fn no_end_is_lost(operator in orders(), cut in 0_u64..10_000) {
        let ends = |from, to| {
            let mut passed = operator.passed(from, to);
            passed.retain(|(_, what)| !matches!(what, Passed::Step { .. }));
            passed
        };
        let (from, end) = (Wall(0), after(20_000));
        let mut parts = ends(from, after(cut));
        parts.extend(ends(after(cut), end));
        let mut whole = ends(from, end);
        let by_name = |a: &(String, Passed), b: &(String, Passed)| format!("{a:?}").cmp(&format!("{b:?}"));
        parts.sort_by(by_name);
        whole.sort_by(by_name);
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn orders_survive_the_disk(operator in orders()) {
        let text = serde_json::to_string(&operator).unwrap();
        prop_assert_eq!(serde_json::from_str::<Operator>(&text).unwrap(), operator);
    }

    /// Forgetting ramps that are over changes no standing.
    #[test]
    fn settling_changes_nothing(operator in orders(), look in 0_u64..12_000, later in 0_u64..12_000) {
        let model = model(&[1, 2, 3, 50]);
        let settled = operator.settled(after(look));
        let then = after(look + later);
        prop_assert_eq!(settled.standings(&model, then), operator.standings(&model, then));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Weights times a power of two are the same ring: the last step of a ramp is where it ends, and a ramp moves slots
    /// of others only to and from the backend that is ramped.
    #[test]
    fn the_scale_of_a_ramp_moves_nothing(weights in prop::collection::vec(1_u16..200, 2..6), steps in 2_u16..200) {
        let model = model(&weights);
        let operator = with(&Operator::default(), 0, Order::Ramp(ramp(steps, 1000)), START);
        let standings = operator.standings(&model, START);
        let scale = standings.weight(id(1), weights[1]) / weights[1];
        prop_assert!(scale.is_power_of_two());
        let mut full = standings;
        full.weights.insert(id(0), weights[0] * scale);
        let plain = ring(&model, &Standings::default());
        prop_assert_eq!(&ring(&model, &full), &plain);
        let held = |slots: &[u16]| slots.iter().filter(|&&slot| slot == 1).count();
        let mut last = 0;
        for ms in (0..=1000).step_by(250) {
            let slots = ring(&model, &operator.standings(&model, after(ms)));
            prop_assert!(held(&slots) >= last && held(&slots) > 0);
            last = held(&slots);
        }
        prop_assert_eq!(last, held(&plain));
        prop_assert_eq!(plain.len(), SLOTS);
    }
}
