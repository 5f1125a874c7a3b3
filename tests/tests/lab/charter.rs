//! One configuration for a group of three: applied on any node, taken back on any other, refused by one.

mod at_once;
mod away;
mod drift;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::node_config::Times;
use lb_tests::wait::until_ok;
use lb_tests::{Lab, LabError};
use serde_json::{Value, json};

use crate::drained::drain;
use crate::leave;

const SOON: Duration = Duration::from_secs(20);
const ALL: [usize; 3] = [0, 1, 2];

/// Runs a lab of three nodes that talk. Each has something of its own in its file: an interface and an address for metrics.
fn with_group(name: &str, job: impl FnOnce(&mut Lab) -> Result<(), LabError>) {
    let own = |lab: &mut Lab| {
        for index in ALL {
            bring_link(&lab.nodes()[index], index)?;
            let node = lab.node(index);
            let mut config = node.config().clone();
            config.node.interfaces.push(link(index));
            let metrics = format!(
                "# Of {} alone.\nmetrics: {{listen: \"{}\"}}\n",
                node.name(),
                endpoint(index)
            );
            let mark = node.reload(&(config.to_yaml()? + &metrics))?;
            node.wait_log("configuration reloaded", mark, SOON)?;
        }
        job(lab)
    };
    leave::lab(name, &Times::default(), |_| {})
        .run(own)
        .expect("the lab runs");
}

/// The interface that only node `index` has.
fn link(index: usize) -> String {
    format!("own{index}")
}

fn bring_link(node: &Node, index: usize) -> Result<(), LabError> {
    let link = link(index);
    node.namespace().ip(&[
        format!("link add {link} type veth peer name far"),
        format!("link set {link} up"),
    ])
}

fn endpoint(index: usize) -> String {
    format!("127.0.0.1:940{index}")
}

/// A file with another weight of `web4/be1`, which stands first.
fn weighing(text: &str, weight: u64) -> String {
    let (before, rest) = text.split_once("weight: ").expect("a weight");
    let (_, after) = rest.split_once('\n').expect("a line");
    format!("{before}weight: {weight}\n{after}")
}

fn file(node: &Node) -> String {
    fs::read_to_string(node.config_file()).expect("a file")
}

/// What the files of all nodes say.
fn files(lab: &Lab) -> Vec<Value> {
    let all = lab.nodes().iter();
    all.map(|node| serde_yaml::from_str(&file(node)).expect("YAML"))
        .collect()
}

/// Where a file lies that a node is asked for.
fn asked(node: &Node, name: &str) -> PathBuf {
    node.config_file().with_extension(name)
}

/// Asks a node for its own file with another weight, and doesn't wait for the answer.
fn ask(node: &Node, name: &str, weight: u64) -> Result<Child, LabError> {
    let path = asked(node, name);
    fs::write(&path, weighing(&file(node), weight)).expect("a file is written");
    let mut lbctl = node.lbctl_command()?;
    lbctl.args(["--output", "json", "config", "apply"]).arg(path);
    lbctl.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(lbctl.spawn().expect("it starts"))
}

/// The same, and its answer.
fn apply(node: &Node, weight: u64) -> Result<Output, LabError> {
    Ok(ask(node, "new", weight)?.wait_with_output().expect("it ends"))
}

/// As what the group has what was asked for.
fn agreed(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let applied: Value = serde_json::from_slice(&out.stdout).expect("lbctl writes JSON");
    applied["group"].as_str().expect("a generation").to_owned()
}

/// Why it has not.
fn refused(out: &Output) -> String {
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// The weight of `web4/be1` by a node's maps.
fn weight(node: &Node) -> Result<u64, LabError> {
    let all = node.lbctl_json(&["backends"])?;
    let mut all = all["backends"].as_array().expect("a list").iter();
    let found = all.find(|one| one["pool"] == "web4" && one["name"] == "be1");
    Ok(found.expect("a backend")["weight"].as_u64().expect("a number"))
}

/// How nodes stand to the charter, and what they run.
fn wait_runs(lab: &Lab, of: &[usize], generation: &str, weighs: u64) -> Result<(), LabError> {
    let want =
        json!({"generation": generation, "pending": null, "equal": true, "in_force": true, "drift": false});
    for index in of {
        let node = &lab.nodes()[*index];
        until_ok(SOON, &format!("{} runs {generation}", node.name()), || {
            Ok(node.lbctl_json(&["config", "show"])?["charter"] == want)
        })?;
        assert_eq!(weight(node)?, weighs, "{}", node.name());
    }
    Ok(())
}

/// Generations that a node remembers, the newest first, with what was asked, whether that was another text, and whether it is in
/// force.
fn history(node: &Node) -> Result<Vec<Value>, LabError> {
    let history = node.lbctl_json(&["config", "history"])?;
    let all = history["generations"].as_array().expect("a list").iter();
    let row = |past: &Value| ["generation", "what", "new_text", "in_force"].map(|field| past[field].clone());
    Ok(all.map(|past| json!(row(past))).collect())
}

/// The same without what the node ran before.
fn agreed_on(node: &Node) -> Result<Vec<Value>, LabError> {
    let mut all = history(node)?;
    all.retain(|past| !past[0].as_str().is_some_and(|name| name.starts_with("0/")));
    Ok(all)
}

/// What the history says of an apply.
fn was_applied(node: &Node, name: &str) -> String {
    let path = asked(node, name);
    format!("config apply of {}, by uid 0 on {}", path.display(), node.name())
}

fn restart(node: &mut Node) -> Result<(), LabError> {
    node.stop()?;
    node.spawn()?;
    node.wait_in_service().map(drop)
}

#[test]
fn what_one_node_is_asked_for_all_run_remember_and_take_back() {
    with_group("charter", |lab| {
        let mut want = files(lab);
        let (at_first, weighed) = (want.clone(), weight(&lab.nodes()[0])?);
        let mut weigh = |weight: u64| {
            for file in &mut want {
                file["pools"][0]["backends"][0]["weight"] = json!(weight);
            }
            want.clone()
        };
        for node in lab.nodes() {
            assert_eq!(history(node)?, Vec::<Value>::new(), "{}", node.name());
        }
        let nothing = refused(&lab.nodes()[0].lbctl(&["config", "rollback"])?);
        assert!(nothing.contains("nothing was agreed on"), "{nothing}");

        assert_eq!(agreed(&apply(&lab.nodes()[1], 5)?), "1/lb2");
        wait_runs(lab, &ALL, "1/lb2", 5)?;
        assert_eq!(files(lab), weigh(5));
        assert_eq!(agreed(&apply(&lab.nodes()[2], 7)?), "2/lb3");
        wait_runs(lab, &ALL, "2/lb3", 7)?;
        assert_eq!(files(lab), weigh(7));
        restart(lab.node(0))?;
        wait_runs(lab, &ALL, "2/lb3", 7)?;

        let back = lab.nodes()[0].lbctl(&["--output", "json", "config", "rollback"])?;
        assert_eq!(agreed(&back), "3/lb1");
        wait_runs(lab, &ALL, "3/lb1", 5)?;
        assert_eq!(files(lab), weigh(5));
        let back = lab.nodes()[1].lbctl(&["--output", "json", "config", "rollback", "2/lb3"])?;
        assert_eq!(agreed(&back), "4/lb2");
        wait_runs(lab, &ALL, "4/lb2", 7)?;
        assert_eq!(files(lab), weigh(7));
        let wrong = refused(&lab.nodes()[1].lbctl(&["config", "rollback", "9"])?);
        assert!(wrong.contains("4/lb2, 3/lb1, 2/lb3, 1/lb2, 0/lb2"), "{wrong}");

        restart(lab.node(2))?;
        wait_runs(lab, &ALL, "4/lb2", 7)?;
        let remembered = [
            json!(["4/lb2", "rollback to 2/lb3, by uid 0 on lb2", true, true]),
            json!(["3/lb1", "rollback to 1/lb2, by uid 0 on lb1", true, false]),
            json!(["2/lb3", was_applied(&lab.nodes()[2], "new"), true, false]),
            json!(["1/lb2", was_applied(&lab.nodes()[1], "new"), true, false]),
        ];
        for node in lab.nodes() {
            let (name, path) = (node.name(), node.config_file().display());
            let first = json!([
                format!("0/{name}"),
                format!("{path} as it was on {name} before"),
                true,
                false
            ]);
            let remembered = [&remembered[..], &[first]].concat();
            assert_eq!(history(node)?, remembered, "{name}");
            assert!(file(node).contains(&format!("# Of {name} alone.\n")));
        }
        let back = lab.nodes()[0].lbctl(&["--output", "json", "config", "rollback", "0"])?;
        assert_eq!(agreed(&back), "5/lb1");
        wait_runs(lab, &ALL, "5/lb1", weighed)?;
        assert_eq!(files(lab), at_first);
        Ok(())
    });
}

/// Orders are generations too.
#[test]
fn where_only_orders_were_given_there_is_no_text_to_go_back_to() {
    with_group("charter-orders", |lab| {
        drain(lab, 0, "be1", &ALL)?;
        let history = history(&lab.nodes()[0])?;
        assert!(history.len() > 1, "{history:?}");
        let why = refused(&lab.nodes()[0].lbctl(&["config", "rollback"])?);
        assert!(
            why.contains("no generation of the history has another text"),
            "{why}"
        );
        Ok(())
    });
}

/// Another node's file is neither planned nor applied, and both say the same of it.
#[test]
fn a_file_of_another_node_is_refused() {
    with_group("charter-other", |lab| {
        let file = lab.nodes()[0].config_file().display().to_string();
        let before = files(lab);
        for verb in ["plan", "apply"] {
            let why = refused(&lab.nodes()[1].lbctl(&["config", verb, &file])?);
            assert!(
                why.contains("`node.name` is lb1, and this node is lb2"),
                "{verb}: {why}"
            );
        }
        assert_eq!(files(lab), before);
        // Only its own generation counts in a group.
        let own = lab.nodes()[1].config_file().display().to_string();
        let plan = lab.nodes()[1].lbctl_json(&["config", "plan", &own])?;
        assert_eq!(
            (&plan["generation"], &plan["group"]),
            (&json!(0), &json!("0/lb1"))
        );
        let why = refused(&lab.nodes()[1].lbctl(&["config", "apply", "--generation", "7", &own])?);
        assert!(why.contains("has generation 0, not 7"), "{why}");
        Ok(())
    });
}

#[test]
fn what_one_node_refuses_no_node_runs() {
    with_group("charter-refused", |lab| {
        assert_eq!(agreed(&apply(&lab.nodes()[0], 5)?), "1/lb1");
        wait_runs(lab, &ALL, "1/lb1", 5)?;
        // With a program on it, it could not be attached again.
        let gone = vec![format!("link del {}", link(2))];
        lab.nodes()[2].namespace().ip(&gone)?;
        let all = |lab: &Lab| -> Result<Vec<_>, LabError> {
            let of = |node: &Node| {
                let shown = node.lbctl_json(&["config", "show"])?;
                Ok((file(node), shown, history(node)?, weight(node)?))
            };
            lab.nodes().iter().map(of).collect()
        };
        let before = all(lab)?;
        for (index, who) in [(0, "lb3 refuses it: "), (1, "lb3 refuses it: "), (2, "")] {
            let why = refused(&apply(&lab.nodes()[index], 9)?);
            let want = format!("{who}no such interface: {} (`node.interfaces`)", link(2));
            assert!(why.contains(&want), "{why}");
            wait_runs(lab, &ALL, "1/lb1", 5)?;
            assert_eq!(all(lab)?, before);
        }
        // Each tells it once, also who had said yes already.
        for node in lab.nodes() {
            let events = node.lbctl_json(&["events", "-n", "1000"])?;
            let events = events["events"].as_array().expect("a list").iter();
            let is_it = |one: &&Value| one["event"] == "charter_dropped" && one["charter"] == "2/lb1";
            assert_eq!(events.filter(is_it).count(), 1, "{}", node.name());
        }
        // The control.
        bring_link(&lab.nodes()[2], 2)?;
        let generation = agreed(&apply(&lab.nodes()[0], 9)?);
        wait_runs(lab, &ALL, &generation, 9)
    });
}

#[test]
fn what_is_no_nodes_own_may_be_applied_on_any() {
    with_group("charter-shared", |lab| {
        let mut want = files(lab);
        for file in &mut want {
            file["pools"][0]["backends"][0]["weight"] = json!(8);
        }
        let shared = json!({"pools": want[0]["pools"], "vips": want[0]["vips"]});
        let path = asked(&lab.nodes()[2], "shared");
        fs::write(&path, serde_yaml::to_string(&shared)?).expect("a file is written");
        let path = path.to_str().expect("UTF-8");
        let out = lab.nodes()[2].lbctl(&["--output", "json", "config", "apply", path])?;
        assert_eq!(agreed(&out), "1/lb3");
        wait_runs(lab, &ALL, "1/lb3", 8)?;
        assert_eq!(files(lab), want);
        Ok(())
    });
}
