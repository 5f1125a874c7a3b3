//! A file that was edited by hand: everybody sees it, and nothing comes of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabError, promtool};
use serde_json::{Value, json};

use super::{ALL, agreed, apply, endpoint, file, restart, wait_runs, weighing, weight, with_group};
use crate::metrics::{scrape_at, with_endpoint};

const SOON: Duration = Duration::from_secs(20);
const METRIC: &str = "tandem_charter_drift";

/// Waits until all see lb2's file so, and nobody else's otherwise than right.
fn wait_drift(lab: &Lab, is_other: bool) -> Result<(), LabError> {
    for index in [0, 2] {
        let node = &lab.nodes()[index];
        let want = if is_other { "equal, file drifts" } else { "equal " };
        until_ok(SOON, &format!("{} sees {want}", node.name()), || {
            let out = node.lbctl(&["peers"])?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let row = |name: &str| {
                text.lines()
                    .find(|line| line.starts_with(name))
                    .map(str::to_owned)
            };
            let other = row(if index == 0 { "lb3" } else { "lb1" }).expect("a row");
            let words = row("lb2").expect("a row");
            Ok(words.contains(want) && words.contains("drifts") == is_other && !other.contains("drifts"))
        })?;
    }
    // What it shows of itself may be a moment older than what it has told.
    until_ok(SOON, &format!("lb2 says of itself: drift {is_other}"), || {
        let own = lab.nodes()[1].lbctl(&["peers"])?;
        let own = String::from_utf8_lossy(&own.stdout).into_owned();
        Ok(own.contains("its file says something else") == is_other)
    })?;
    for index in ALL {
        let (_, samples) = scrape_at(&lab.nodes()[index], &endpoint(index))?;
        let want = f64::from(u8::from(is_other && index == 1));
        assert_eq!(samples[METRIC], want, "{index}");
    }
    Ok(())
}

/// Whether the alert fires where the metric has this value for a while; nothing where promtool is missing.
fn fires(value: u8) -> Result<Option<bool>, LabError> {
    let alert = r#"ALERTS{alertname="TandemConfigDrift", alertstate="firing", severity="ticket"}"#;
    let samples = json!([{"labels": alert, "value": 1}]);
    let tests = json!({
        "rule_files": [Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/alerts.yml")],
        "tests": [{
            "interval": "1m",
            "input_series": [{"series": METRIC, "values": format!("{value}x20")}],
            "promql_expr_test": [{"expr": alert, "eval_time": "10m", "exp_samples": samples}],
        }],
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tests.yml");
    fs::write(&path, tests.to_string()).expect("a file is written");
    let out = promtool::run(&["test", "rules", path.to_str().expect("UTF-8")], b"")?;
    Ok(out.map(|out| out.status.success()))
}

#[test]
fn a_file_that_was_edited_by_hand_is_seen_by_all_and_changes_nothing() {
    with_group("charter-drift", |lab| {
        assert_eq!(agreed(&apply(&lab.nodes()[0], 5)?), "1/lb1");
        wait_runs(lab, &ALL, "1/lb1", 5)?;
        let text = file(&lab.nodes()[1]);
        // A comment is none.
        let mark = lab.node(1).reload(&format!("{text}# A note.\n"))?;
        lab.node(1).wait_log("configuration reloaded", mark, SOON)?;
        wait_drift(lab, false)?;
        let mark = lab.node(1).reload(&weighing(&text, 9))?;
        lab.node(1)
            .wait_log("the rest differs from what the group runs", mark, SOON)?;
        wait_drift(lab, true)?;
        restart(lab.node(1))?;
        wait_drift(lab, true)?;
        for node in lab.nodes() {
            assert_eq!(weight(node)?, 5, "{}", node.name());
        }
        if let Some(fires_at) = fires(1)? {
            assert!(fires_at && fires(0)? == Some(false));
        }
        // It was a mistake.
        let mark = lab.node(1).reload(&text)?;
        lab.node(1).wait_log("configuration reloaded", mark, SOON)?;
        wait_drift(lab, false)?;
        wait_runs(lab, &ALL, "1/lb1", 5)
    });
}

/// What an operator has written into a file as its node's own, and has not had taken yet, stays when others change the rest.
#[test]
fn what_a_node_is_about_to_have_as_its_own_stays() {
    with_group("charter-own", |lab| {
        let text = file(&lab.nodes()[1]);
        let edited = text.replace(&endpoint(1), "127.0.0.1:9499");
        assert_ne!(edited, text);
        lab.node(1).write_config(&edited)?;
        for (name, weight) in [("1/lb1", 5), ("2/lb1", 7)] {
            assert_eq!(agreed(&apply(&lab.nodes()[0], weight)?), name);
            wait_runs(lab, &ALL, name, weight)?;
            let values = |text: &str| serde_yaml::from_str::<Value>(text).expect("YAML");
            let now = file(&lab.nodes()[1]);
            assert_eq!(values(&now), values(&weighing(&edited, weight)), "{now}");
        }
        // What runs is what was taken.
        scrape_at(&lab.nodes()[1], &endpoint(1))?;
        let mark = lab.node(1).reload(&weighing(&edited, 7))?;
        lab.node(1).wait_log("configuration reloaded", mark, SOON)?;
        scrape_at(&lab.nodes()[1], "127.0.0.1:9499").map(|_| ())
    });
}

#[test]
fn what_is_applied_ends_drift() {
    with_group("charter-drift-ends", |lab| {
        assert_eq!(agreed(&apply(&lab.nodes()[0], 5)?), "1/lb1");
        wait_runs(lab, &ALL, "1/lb1", 5)?;
        let text = file(&lab.nodes()[1]);
        // The others' file is right, and says nothing new to anybody.
        let mark = lab.node(1).reload(&weighing(&text, 9))?;
        lab.node(1)
            .wait_log("the rest differs from what the group runs", mark, SOON)?;
        wait_drift(lab, true)?;
        assert_eq!(agreed(&apply(&lab.nodes()[0], 5)?), "2/lb1");
        wait_runs(lab, &ALL, "2/lb1", 5)?;
        assert_eq!(file(&lab.nodes()[1]), text);
        wait_drift(lab, false)?;
        // What was edited is not lost, whatever comes next.
        assert_eq!(agreed(&apply(&lab.nodes()[0], 6)?), "3/lb1");
        assert_eq!(agreed(&apply(&lab.nodes()[0], 5)?), "4/lb1");
        wait_runs(lab, &ALL, "4/lb1", 5)?;
        let kept = lab.nodes()[1].config_file().with_extension("yaml.edited-1");
        let kept = fs::read_to_string(&kept).expect("a copy");
        assert_eq!(kept, weighing(&text, 9));
        assert!(
            !lab.nodes()[0]
                .config_file()
                .with_extension("yaml.edited-1")
                .exists()
        );
        // The edited one is.
        lab.node(1).write_config(&weighing(&text, 9))?;
        let path = lab.nodes()[1].config_file().to_str().expect("UTF-8").to_owned();
        let out = lab.nodes()[1].lbctl(&["--output", "json", "config", "apply", &path])?;
        assert_eq!(agreed(&out), "5/lb2");
        wait_runs(lab, &ALL, "5/lb2", 9)?;
        wait_drift(lab, false)
    });
}

/// An agent that was killed between a commit and its file: what the file says is an earlier generation, not somebody's edit.
#[test]
fn a_file_that_was_left_behind_is_written_at_the_next_start() {
    with_group("charter-behind", |lab| {
        for (name, weight) in [("1/lb1", 5), ("2/lb1", 7)] {
            assert_eq!(agreed(&apply(&lab.nodes()[0], weight)?), name);
            wait_runs(lab, &ALL, name, weight)?;
        }
        let written = lab.nodes()[1].state_dir().join("charter/written");
        let (text, noted) = (
            file(&lab.nodes()[1]),
            fs::read_to_string(&written).expect("a note"),
        );
        for is_edited in [false, true] {
            lab.node(1).stop()?;
            lab.node(1).write_config(&weighing(&text, 5))?;
            if !is_edited {
                let before = noted.replace("\"number\": 2", "\"number\": 1");
                assert_ne!(before, noted);
                fs::write(&written, before).expect("a note is written");
            }
            lab.node(1).spawn()?;
            lab.node(1).wait_in_service()?;
            // The control: an edit looks the same but for the note.
            wait_drift(lab, is_edited)?;
            let now = if is_edited {
                weighing(&text, 5)
            } else {
                text.clone()
            };
            assert_eq!(file(&lab.nodes()[1]), now);
            assert_eq!(weight(&lab.nodes()[1])?, 7);
        }
        Ok(())
    });
}

/// An empty file, or a pipe that broke, is no configuration.
#[test]
fn nothing_is_not_applied() {
    with_group("charter-nothing", |lab| {
        let before = file(&lab.nodes()[0]);
        for verb in ["plan", "apply"] {
            let out = lab.nodes()[0].lbctl(&["config", verb, "/dev/null"])?;
            let why = super::refused(&out);
            assert!(why.contains("neither `pools` nor `vips`"), "{verb}: {why}");
        }
        assert_eq!(file(&lab.nodes()[0]), before);
        // Nor what this node alone could not run.
        let node = &lab.nodes()[0];
        let elsewhere = with_endpoint(node.config(), Some("203.0.113.9:9400"))?;
        let path = node.config_file().with_extension("elsewhere.yaml");
        std::fs::write(&path, elsewhere).expect("it is written");
        let path = path.to_str().expect("a path of ours");
        for verb in ["plan", "apply"] {
            let why = super::refused(&node.lbctl(&["config", verb, path])?);
            assert!(
                why.contains("this host has no address 203.0.113.9"),
                "{verb}: {why}"
            );
        }
        assert_eq!(file(&lab.nodes()[0]), before);
        Ok(())
    });
}
