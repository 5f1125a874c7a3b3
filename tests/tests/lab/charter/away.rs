//! A node is away while the others change their configuration.

use std::time::{Duration, Instant};

use lb_tests::host::Node;
use lb_tests::{Lab, LabError};

use super::{ALL, agreed, apply, file, wait_runs, weighing, weight, with_group};

/// The router notices a node that is gone.
const DETECTION: Duration = Duration::from_millis(100);

/// Checks what lb3 has, which has just said that it is ready: the newest generation, of which it knew nothing.
fn has_caught_up(lab: &Lab, newest: &str, weighs: u64, missed: &str, events: usize) -> Result<(), LabError> {
    let node = &lab.nodes()[2];
    assert_eq!(weight(node)?, weighs);
    assert_eq!(file(node), weighing(missed, weighs));
    wait_runs(lab, &ALL, newest, weighs)?;
    let told = told(node)?.split_off(events);
    let place = |what: &str| told.iter().position(|one| one == what);
    let (applied, ready) = (place("config_applied"), place("ready"));
    assert!(applied.is_some() && applied < ready, "{told:?}");
    Ok(())
}

#[test]
fn who_was_away_has_the_newest_before_it_is_ready() {
    with_group("charter-away", |lab| {
        assert_eq!(agreed(&apply(&lab.nodes()[0], 2)?), "1/lb1");
        wait_runs(lab, &ALL, "1/lb1", 2)?;

        let (missed, events) = (file(&lab.nodes()[2]), told(&lab.nodes()[2])?.len());
        lab.power_loss(2, Instant::now(), DETECTION, &[0, 1])?;
        agreed(&apply(&lab.nodes()[0], 3)?);
        let newest = agreed(&apply(&lab.nodes()[1], 4)?);
        wait_runs(lab, &[0, 1], &newest, 4)?;
        assert_eq!(file(&lab.nodes()[2]), missed);
        lab.power_on(2)?;
        lab.node(2).wait_in_service()?;
        has_caught_up(lab, &newest, 4, &missed, events)?;

        // The newest is an order, which changes no file, and the text before it was missed.
        let (missed, events) = (file(&lab.nodes()[2]), told(&lab.nodes()[2])?.len());
        lab.node(2).stop()?;
        agreed(&apply(&lab.nodes()[0], 5)?);
        let done = lab.nodes()[1].lbctl(&["drain", "web4/be4"])?;
        assert!(done.status.success(), "{done:?}");
        let newest = lab.nodes()[1].lbctl_json(&["config", "show"])?["charter"]["generation"].clone();
        let newest = newest.as_str().expect("a generation");
        wait_runs(lab, &[0, 1], newest, 5)?;
        lab.node(2).spawn()?;
        lab.node(2).wait_in_service()?;
        has_caught_up(lab, newest, 5, &missed, events)
    });
}

/// Names of the events in a node's journal.
fn told(node: &Node) -> Result<Vec<String>, LabError> {
    let all = node.lbctl_json(&["events", "-n", "1000"])?;
    let all = all["events"].as_array().expect("a list").iter();
    Ok(all
        .map(|one| one["event"].as_str().expect("a word").to_owned())
        .collect())
}
