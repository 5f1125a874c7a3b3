//! Full-size forms of labs, minutes each: `cargo xtask test long`.

use std::time::Duration;

use lb_tests::scenario::Changes;

use crate::{changes, restart};

#[test]
#[ignore = "five minutes; cargo xtask test long"]
fn overlapping_changes_with_an_idle_timeout_of_a_minute() {
    let summary = changes::run(&Changes::long(10_000, 1));
    changes::judge(&summary, 10_000);
}

#[test]
#[ignore = "more than a minute; cargo xtask test long"]
fn reloads_every_tenth_of_a_second_for_a_minute() {
    restart::reload_again_and_again("long-reloads", 10_000, Duration::from_secs(60));
}
