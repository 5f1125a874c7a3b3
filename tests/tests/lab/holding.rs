//! Slots stay tracked as long as something needs it, which they name, and no longer.

use std::time::{Duration, Instant};

use lb_tests::scenario::{Step, Work, share};
use lb_tests::{LabError, wait};
use serde_json::Value;

use crate::steady::{self, IDLE, WORK, assert_unbroken, sleep_until};

/// Reasons that name a flow or the mark that one left.
const NAMED: [&str; 3] = ["elsewhere", "stamped", "seen"];
/// What a slot goes through once nothing holds it: a sweep or two.
const ENDING: [&str; 2] = ["closing", "unswept"];

#[test]
fn what_stays_tracked_names_its_holder_until_that_ends() {
    let (builder, mut fleet) = steady::lab("holding", "on-change", |_| {});
    let half = Work {
        connections: WORK.connections / 2,
        new_per_second: WORK.new_per_second / 2,
        flows: 0,
        ..WORK
    };
    builder
        .run(|lab| {
            let before = half.start(lab)?;
            fleet.make(lab, &Step::Drain("be2".to_owned()))?;
            sleep_until(Instant::now(), Duration::from_secs(2));
            let after = half.start(lab)?;
            fleet.make(lab, &Step::Reweigh(vec![("be1".to_owned(), 3)]))?;
            sleep_until(Instant::now(), 2 * IDLE + Duration::from_secs(2));

            let document = lab.node(0).lbctl_json(&["ring", "--tracked"])?;
            let slots = document["slots"].as_array().expect("what the agent says of each");
            let reason = |slot: &Value| slot["why"]["reason"].as_str().unwrap_or("none").to_owned();
            let named = slots.iter().filter(|slot| NAMED.contains(&reason(slot).as_str()));
            // be2's connections alone are some hundred in as many slots.
            let named = named.count();
            assert!(named > 100, "{named} named");
            let ending = slots
                .iter()
                .filter(|slot| ENDING.contains(&reason(slot).as_str()));
            assert_eq!(named + ending.count(), slots.len(), "{:#}", document["pools"]);
            for slot in slots.iter().filter(|slot| reason(slot) == "elsewhere") {
                assert!(slot["why"]["example"].is_object(), "{slot}");
            }
            // Nothing that the map has is missing there.
            let tracked = share(lab.node(0))?;
            assert!(tracked > 0.1, "{tracked} %");

            assert_unbroken(&before.stop()?, half.connections);
            assert_unbroken(&after.stop()?, half.connections);
            wait::until_ok(2 * IDLE, "less than 1 % of the slots are tracked", || {
                Ok(share(lab.node(0))? < 1.0)
            })?;
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
