//! Full-size forms of labs, minutes each: `cargo xtask test long`.

use std::time::Duration;

use lb_tests::scenario::{APART, Campaign, Changes};

use crate::{changes, death, restart};

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

#[test]
#[ignore = "two minutes; cargo xtask test long"]
fn a_partition_of_half_a_minute_breaks_nothing() {
    death::judge(&Campaign::partition(2000, APART), 2000);
}

#[test]
#[ignore = "two minutes; cargo xtask test long"]
fn a_rolling_restart_breaks_nothing() {
    death::judge(&Campaign::rolling(2000), 2000);
}

#[test]
#[ignore = "a minute; cargo xtask test long"]
fn a_node_that_joins_breaks_nothing() {
    death::judge(&Campaign::join(2000), 2000);
}

#[test]
#[ignore = "an hour; cargo xtask test long"]
fn the_matrix_of_deaths_breaks_nothing() {
    death::judge(&Campaign::death_matrix(20_000, 5), 20_000);
}
