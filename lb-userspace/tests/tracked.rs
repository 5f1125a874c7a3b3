//! What the API tells of tracked slots.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::addr::Addr;
use lb_common::be::Be16;
use lb_common::flow::{Entry, Key};
use lb_common::info::{self, text};
use lb_common::retire::Hold;
use lb_common::slot::{CLOSING, Slot, TRACKED, UDP_LEARN};
use lb_common::tick::{Tick, seconds};
use lb_userspace::api::tracked::{Reason, Tracked, tracked};
use lb_userspace::state::contents::{Backend, Contents};
use lb_userspace::state::track::{Held, Why};
use serde_json::{Value, json};

/// Pools `web` (index 1) with `be1` and `be2`, and `api` (index 0).
fn contents() -> Contents {
    let backend = |name: &str| Backend {
        entry: lb_common::backend::Entry::default(),
        info: info::Backend {
            pool: 1,
            name: text(name),
            ..info::Backend::default()
        },
    };
    Contents {
        pools: BTreeMap::from([
            (0, info::Pool { name: text("api") }),
            (1, info::Pool { name: text("web") }),
        ]),
        backends: BTreeMap::from([(7, backend("be1")), (8, backend("be2"))]),
        ..Contents::default()
    }
}

const NOW: Tick = Tick(100_000);

fn ago(secs: u32) -> Tick {
    Tick(NOW.0 - seconds(secs))
}

fn held(pool: u16, number: u32, why: Why) -> Held {
    Held {
        pool,
        number,
        slot: Slot::new(8, 7, 0, TRACKED),
        tracked: seconds(30),
        why,
        example: None,
    }
}

fn example() -> (Key, Entry) {
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().expect("an address"));
    let key = Key {
        src: addr("2001:db8::7"),
        dst: addr("2001:db8:1::10"),
        sport: Be16::new(40_000),
        dport: Be16::new(443),
        proto: 6,
        pad: [0; 3],
    };
    let entry = Entry {
        last: ago(3),
        ..Entry::probation(7, 99, ago(60)).confirmed(ago(50))
    };
    (key, entry)
}

#[test]
fn every_reason_has_its_word_and_figures() {
    let reasons = [
        (Why::Prepared, json!({ "reason": "prepared" })),
        (Why::Unswept, json!({ "reason": "unswept" })),
        (Why::Closing, json!({ "reason": "closing" })),
        (Why::Held(Hold::Learning), json!({ "reason": "learning" })),
        (
            Why::Held(Hold::OtherCurrent),
            json!({ "reason": "other_current" }),
        ),
        (
            Why::Held(Hold::Changed(15)),
            json!({ "reason": "changed", "left_s": 1.0 }),
        ),
        (
            Why::Held(Hold::Seen(30)),
            json!({ "reason": "seen", "left_s": 2.0 }),
        ),
        (
            Why::Held(Hold::Stamped(150)),
            json!({ "reason": "stamped", "left_s": 10.1 }),
        ),
        (
            Why::Held(Hold::Elsewhere(4)),
            json!({ "reason": "elsewhere", "entries": 4, "example": null }),
        ),
    ];
    let slots: Vec<Held> = (0..)
        .zip(&reasons)
        .map(|(n, (why, _))| held(1, n, *why))
        .collect();
    let told = tracked(&slots, &contents(), None, 100, NOW);
    for (slot, (_, want)) in told.slots.iter().zip(&reasons) {
        let found = serde_json::to_value(&slot.why).expect("JSON");
        assert_eq!(found, *want);
        assert_eq!(found["reason"], slot.why.name());
        assert_eq!(
            serde_json::from_value::<Reason>(found).expect("it reads back"),
            slot.why
        );
    }
    assert_eq!(told.slots.len(), reasons.len());
    assert_eq!(told.pools[1].reasons.len(), reasons.len());
}

#[test]
fn a_slot_names_its_backends_and_the_flow_that_holds_it() {
    let one = Held {
        slot: Slot::new(8, 7, 444, TRACKED | CLOSING | UDP_LEARN),
        example: Some(example()),
        ..held(1, 65_535, Why::Held(Hold::Elsewhere(2)))
    };
    let told = tracked(&[one], &contents(), None, 100, NOW);
    let want = json!({
        "pool": "web", "slot": 65_535, "current": "web/be2", "origin": "web/be1", "previous": "#444",
        "flags": ["tracked", "closing", "udp_learn"], "tracked_s": 30.1,
        "why": {
            "reason": "elsewhere", "entries": 2,
            "example": {
                "flow": { "client": "[2001:db8::7]:40000", "vip": "[2001:db8:1::10]:443", "protocol": "tcp" },
                "backend": "web/be1", "state": "confirmed", "idle_s": 3.1,
            },
        },
    });
    let found = serde_json::to_value(&told.slots[0]).expect("JSON");
    assert_eq!(found, want);
}

fn counts(told: &Tracked) -> Value {
    let rows = told.pools.iter();
    rows.map(|pool| json!([pool.pool, pool.tracked, pool.reasons]))
        .collect()
}

#[test]
fn slots_are_counted_by_pool_and_reason_also_beyond_the_limit() {
    let changed = Why::Held(Hold::Changed(9));
    let slots = [
        held(1, 9, changed),
        held(0, 3, Why::Unswept),
        held(1, 2, changed),
        held(1, 5, Why::Closing),
    ];
    let told = tracked(&slots, &contents(), None, 2, NOW);
    let places: Vec<(&str, u32)> = told.slots.iter().map(|s| (s.pool.as_str(), s.slot)).collect();
    assert_eq!((places, told.more), (vec![("api", 3), ("web", 2)], 2));
    assert_eq!(
        counts(&told),
        json!([["api", 1, { "unswept": 1 }], ["web", 3, { "changed": 2, "closing": 1 }]])
    );
    assert!((told.pools[1].share - 300.0 / 65_536.0).abs() < 1e-9);

    let web = tracked(&slots, &contents(), Some("web"), 0, NOW);
    assert_eq!((web.slots.len(), web.more), (0, 3));
    assert_eq!(counts(&web), json!([["web", 3, { "changed": 2, "closing": 1 }]]));
    let none = tracked(&[], &contents(), Some("api"), 100, NOW);
    assert_eq!(counts(&none), json!([["api", 0, {}]]));
}
