//! Commands of operators: what they move, that they survive, and that the journal tells of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;
use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::node_config::{BackendSection, NodeConfig};
use lb_tests::process::Process;
use lb_tests::{Family, Lab, LabError, command, wait};
use serde_json::Value;

use crate::slots::{settled, slots};

const SOON: Duration = Duration::from_secs(15);

/// Runs a lab of one node with the backends `be1`, `be2`, `be3` of weights 1, 2, 3.
fn with_node(name: &str, job: impl FnOnce(&mut Node) -> Result<(), LabError>) {
    Lab::builder(name)
        .nodes(1)
        .run(|lab| job(lab.node(0)))
        .expect("the lab runs");
}

/// The index of a backend of `web4`.
fn index(node: &Node, name: &str) -> Result<u16, LabError> {
    let all = node.lbctl_json(&["backends"])?;
    let rows = all["backends"].as_array().expect("a list");
    let found = rows
        .iter()
        .find(|row| row["pool"] == "web4" && row["name"] == name);
    let index = found.expect("a backend")["index"].as_u64().expect("an index");
    Ok(u16::try_from(index).expect("16 bits"))
}

fn moved(before: &[u16], after: &[u16]) -> Vec<usize> {
    let pairs = before.iter().zip(after).enumerate();
    pairs.filter(|(_, (b, a))| b != a).map(|(slot, _)| slot).collect()
}

fn held_by(slots: &[u16], index: u16) -> Vec<usize> {
    let all = slots.iter().enumerate();
    all.filter(|(_, holder)| **holder == index)
        .map(|(slot, _)| slot)
        .collect()
}

fn says(out: &Output, code: i32, words: &str) {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "{words:?} is not in {text}");
}

fn events(node: &Node) -> Result<Vec<Value>, LabError> {
    let all = node.lbctl_json(&["events", "-n", "1000"])?;
    Ok(all["events"].as_array().expect("a list").clone())
}

/// Names of events with their causes, in order.
fn told(node: &Node) -> Result<Vec<(String, String)>, LabError> {
    let word = |event: &Value, field: &str| event[field].as_str().expect("a word").to_owned();
    let events = events(node)?;
    Ok(events
        .iter()
        .map(|event| (word(event, "event"), word(&event["cause"], "by")))
        .collect())
}

#[test]
fn a_drain_moves_its_own_slots_survives_and_comes_back_exactly() {
    with_node("op-drain", |node| {
        let home = slots(node);
        let be2 = index(node, "be2")?;
        let own = held_by(&home, be2);
        assert!(
            (21_844..=21_847).contains(&own.len()),
            "{} of weight 2 in 6",
            own.len()
        );

        let done = node.lbctl_json(&["drain", "web4/be2"])?;
        assert_eq!(
            (&done["changed"], &done["backend"]["standing"]),
            (&true.into(), &"draining".into())
        );
        assert_eq!(done["slots_moved"], own.len());
        let drained = settled(node);
        assert_eq!(moved(&home, &drained), own, "be2's slots and no others");
        assert_eq!(held_by(&drained, be2), [0; 0]);
        says(
            &node.lbctl(&["drain", "web4/be2"])?,
            0,
            "nothing to do: web4/be2 is drained",
        );
        assert_eq!(slots(node), drained);

        says(&node.lbctl(&["backends"])?, 0, "web4/be2: drained");

        node.kill9()?;
        assert_eq!(slots(node), drained);
        says(&node.lbctl(&["undrain", "web4/be2"])?, 2, "no agent answers");
        node.start()?;
        assert_eq!(slots(node), drained, "a restart moves nothing");
        // Nor does a reload.
        let yaml = node.config().to_yaml()?;
        let mark = node.reload(&yaml)?;
        node.wait_log("configuration reloaded", mark, SOON)?;
        assert_eq!(slots(node), drained);

        says(&node.lbctl(&["up", "web4/be2"])?, 2, "it is drained, not down");
        says(
            &node.lbctl(&["undrain", "web4/be2"])?,
            0,
            "33.33 % of the slots of pool web4 move",
        );
        assert_eq!(settled(node), home);
        says(&node.lbctl(&["undrain", "web4/be2"])?, 0, "nothing to do");

        let want = [
            ("started", "start"),
            ("drained", "operator"),
            ("started", "start"),
            ("config_applied", "reload"),
            ("undrained", "operator"),
        ];
        assert_eq!(
            told(node)?,
            want.map(|(what, by)| (what.to_owned(), by.to_owned()))
        );
        let all = events(node)?;
        assert_eq!(
            (&all[1]["backend"], &all[1]["cause"]["uid"]),
            (&"web4/be2".into(), &0.into())
        );
        assert!(all[1]["cause"]["pid"].as_i64().is_some_and(|pid| pid > 1));
        Ok(())
    });
}

#[test]
fn clients_of_other_backends_notice_nothing_of_a_drain() {
    Lab::builder("op-drain-traffic")
        .nodes(1)
        .run(|lab| {
            lab.node(0).lbctl_json(&["drain", "web4/be3"])?;
            settled(lab.node(0));
            let report = lab.client().http(300, Family::V4)?;
            assert_eq!(
                (report.requests(), report.failed()),
                (300, 0),
                "{:?}",
                report.errors()
            );
            assert_eq!(report.answered_by("be3"), 0, "no new flow goes there");
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_drain_with_a_deadline_ends_as_down_and_also_while_the_agent_is_dead() {
    with_node("op-deadline", |node| {
        let home = slots(node);
        let done = node.lbctl_json(&["drain", "web4/be1", "--deadline", "1s"])?;
        assert!(done["backend"]["deadline"].is_u64(), "{done}");
        wait::until(SOON, "the drain is over", || {
            told(node).is_ok_and(|told| told.contains(&("drain_over".to_owned(), "time".to_owned())))
        })?;
        let state = node.lbctl_json(&["drain", "web4/be1", "--deadline", "1s"])?;
        assert_eq!(state["backend"]["standing"], "draining", "a new deadline");
        node.kill9()?;
        std::thread::sleep(Duration::from_millis(1_100));
        node.start()?;
        wait::until(SOON, "the end is told after the start", || {
            told(node).is_ok_and(|told| told.iter().filter(|(what, _)| what == "drain_over").count() == 2)
        })?;
        says(&node.lbctl(&["down", "web4/be1"])?, 0, "is marked down");
        says(
            &node.lbctl(&["undrain", "web4/be1"])?,
            2,
            "`lbctl up web4/be1` first",
        );
        says(&node.lbctl(&["up", "web4/be1"])?, 0, "not marked down");
        // It was dead, so it gets its slots with the next sweep.
        wait::until(SOON, "all slots are where they were", || slots(node) == home)?;
        Ok(())
    });
}

#[test]
fn weights_and_the_last_backend_of_a_pool() {
    with_node("op-weight", |node| {
        let home = slots(node);
        let [be1, be2, be3] = [index(node, "be1")?, index(node, "be2")?, index(node, "be3")?];
        node.lbctl_json(&["weight", "web4/be1", "5"])?;
        let half = settled(node);
        // 5 of 5 + 2 + 3.
        assert_eq!(held_by(&half, be1).len(), 32_768);
        says(&node.lbctl(&["weight", "web4/be1", "5"])?, 0, "nothing to do");
        node.kill9()?;
        node.start()?;
        assert_eq!(slots(node), half);
        says(
            &node.lbctl(&["weight", "web4/be1", "default"])?,
            0,
            "its configured weight 1",
        );
        assert_eq!(settled(node), home);

        node.lbctl_json(&["weight", "web4/be1", "0"])?;
        node.lbctl_json(&["down", "web4/be2"])?;
        let before = settled(node);
        assert_eq!(held_by(&before, be3).len(), before.len());
        for last in [
            ["drain", "web4/be3"].as_slice(),
            &["down", "web4/be3"],
            &["weight", "web4/be3", "0"],
        ] {
            says(&node.lbctl(last)?, 2, "would have no backend for new flows");
            assert_eq!(slots(node), before);
        }
        let forced = node.lbctl_json(&["drain", "web4/be3", "--force"])?;
        assert_eq!(forced["slots_moved"], 65_536);
        assert!(settled(node).iter().all(|&slot| slot == 0));
        for undo in [
            ["undrain", "web4/be3"].as_slice(),
            &["up", "web4/be2"],
            &["weight", "web4/be1", "default"],
        ] {
            node.lbctl_json(undo)?;
        }
        assert_eq!(settled(node), home);
        assert_ne!(held_by(&home, be2).len(), 0);

        says(
            &node.lbctl(&["drain", "web4/bee1"])?,
            2,
            "pool web4 has no backend \"bee1\"\n  hint: did you mean be1?",
        );
        says(&node.lbctl(&["drain", "wbe4/be1"])?, 2, "did you mean web4?");
        says(&node.lbctl(&["drain", "be1"])?, 2, "POOL/BACKEND is needed");
        says(
            &node.lbctl(&["weight", "web4/be1", "65536"])?,
            2,
            "a number from 0 to 65535",
        );
        Ok(())
    });
}

#[test]
fn a_ramp_takes_its_steps_and_ends_where_it_would_have_been() {
    with_node("op-ramp", |node| {
        let home = slots(node);
        let be1 = index(node, "be1")?;
        let full = held_by(&home, be1).len();
        // Weight 1 in 6, in eight steps, of which the first is at once.
        let begun = node.lbctl_json(&["ramp", "web4/be1", "--steps", "8", "--over", "2s"])?;
        let first = begun["backend"]["slots"].as_u64().expect("a number");
        // 1 of 1 + 8 × 5.
        assert!((1_598..=1_599).contains(&first), "{first}");
        says(
            &node.lbctl(&["ramp", "web4/be1", "--steps", "8", "--over", "2s"])?,
            0,
            "nothing to do",
        );
        let mut sizes = BTreeSet::new();
        node.kill9()?;
        node.start()?;
        wait::until(SOON, "the ramp is over", || {
            sizes.insert(held_by(&slots(node), be1).len());
            told(node).is_ok_and(|told| told.contains(&("ramp_over".to_owned(), "time".to_owned())))
        })?;
        assert_eq!(settled(node), home, "its end moves nothing beside its last step");
        assert!(sizes.len() >= 3 && sizes.last() <= Some(&full), "{sizes:?}");
        assert_eq!(
            node.lbctl_json(&["up", "web4/be1"])?["backend"]["ramp"],
            Value::Null
        );
        Ok(())
    });
}

/// The pool `web4` of a plan or of what was applied.
fn pool4(answer: &Value) -> Value {
    let pools = answer["plan"]["pools"].as_array().expect("a list");
    pools
        .iter()
        .find(|pool| pool["name"] == "web4")
        .cloned()
        .unwrap_or_default()
}

fn plan(node: &Node, file: &str, code: i32) -> Result<Value, LabError> {
    let out = node.lbctl(&["--output", "json", "config", "plan", file])?;
    says(&out, code, "");
    Ok(serde_json::from_slice(&out.stdout).expect("JSON"))
}

/// `be2` goes and a backend without next hop comes, `be1` weighs more, a VIP goes, one comes, one gets another pool.
fn other_than(config: &NodeConfig) -> NodeConfig {
    let mut config = config.clone();
    config.pools[0].backends.remove(1);
    config.pools[0].backends[0].weight = 4;
    let ghost = config.pools[0].backends[0].clone();
    config.pools[0].backends.push(BackendSection {
        name: "ghost".to_owned(),
        address: "10.9.11.77".parse().expect("an address"),
        ..ghost
    });
    let vip = config.vips.pop().expect("a VIP");
    (config.vips[0].pool, config.vips[0].tracking) = ("web6".to_owned(), Some("off"));
    let mut new_vip = vip;
    new_vip.port = 4443;
    config.vips.push(new_vip);
    config
}

#[test]
fn a_plan_says_what_apply_then_does() {
    with_node("op-apply", |node| {
        let file = node.state_dir().join("new.yaml");
        let name = file.to_str().expect("text").to_owned();
        let yaml = node.config().to_yaml()?;
        fs::write(&file, &yaml).expect("a file");
        assert_eq!(plan(node, &name, 0)?["plan"]["pools"], serde_json::json!([]));

        let config = other_than(node.config());
        fs::write(&file, config.to_yaml()?).expect("a file");
        node.lbctl_json(&["drain", "web4/be2"])?;
        let before = (
            settled(node),
            fs::read(node.config_file()).expect("a file"),
            node.lbctl_json(&["status"])?,
        );
        let planned = plan(node, &name, 1)?;
        let after = (
            slots(node),
            fs::read(node.config_file()).expect("a file"),
            node.lbctl_json(&["status"])?,
        );
        assert_eq!(before, after, "a plan touches nothing");
        let of_pool = pool4(&planned);
        assert_eq!(
            (&of_pool["added"], &of_pool["removed"]),
            (&serde_json::json!(["ghost"]), &serde_json::json!(["be2"]))
        );
        assert_eq!(
            of_pool["reweighted"],
            serde_json::json!([{"backend": "be1", "from": 1, "to": 4}])
        );
        let list = |field: &str| planned["plan"][field].as_array().map(Vec::len);
        assert_eq!(
            (list("vips_added"), list("vips_removed"), list("vips_repointed")),
            (Some(1), Some(1), Some(1))
        );
        assert_eq!(planned["plan"]["next_hops_missing"][0]["backend"], "web4/ghost");

        let generation = planned["generation"].to_string();
        let applied = node.lbctl_json(&["config", "apply", &name, "--generation", &generation])?;
        assert_eq!(applied["plan"], planned["plan"]);
        let now = settled(node);
        assert_eq!(of_pool["slots_moved"], moved(&before.0, &now).len());
        assert_eq!(
            fs::read(node.config_file()).expect("a file"),
            fs::read(&file).expect("a file")
        );
        let backup = applied["backup"].as_str().expect("a path");
        assert_eq!(fs::read(backup).expect("a file"), before.1);
        assert!(
            told(node)?.contains(&("orders_dropped".to_owned(), "operator".to_owned())),
            "be2 was drained"
        );
        says(
            &node.lbctl(&["config", "apply", &name, "--generation", &generation])?,
            2,
            "somebody else applied one",
        );

        let shown = node.lbctl_json(&["config", "show"])?;
        assert_eq!(
            (&shown["file_differs"], shown["generation"].as_u64()),
            (&false.into(), applied["generation"].as_u64())
        );
        let text = shown["text"].as_str().expect("text");
        assert!(
            text.contains("ghost") && text.contains("****") && !text.contains("000102"),
            "{text}"
        );
        // The file is what a restart runs.
        node.kill9()?;
        node.start()?;
        assert_eq!(slots(node), now);
        Ok(())
    });
}

#[test]
fn bad_files_change_nothing_and_are_told() {
    with_node("op-refused", |node| {
        let file = node.state_dir().join("new.yaml");
        let name = file.to_str().expect("text").to_owned();
        let yaml = node.config().to_yaml()?;
        let on_disk = fs::read(node.config_file()).expect("a file");
        let before = (slots(node), node.lbctl_json(&["status"])?);
        for (bad, words) in [
            (yaml.replace("pool: web4", "pool: wbe4"), "new.yaml:"),
            (
                yaml.replace("0e0f", "0eff"),
                "`group.key` can't be changed by a reload",
            ),
            (format!("{yaml}capacity: {{pools: 9}}\n"), "`capacity` is fixed"),
            (yaml.replace("eth0", "nope0"), "no such interface: nope0"),
            (String::new(), "new.yaml"),
            ("\u{0}[{".to_owned(), "new.yaml"),
        ] {
            fs::write(&file, bad).expect("a file");
            says(&node.lbctl(&["config", "plan", &name])?, 2, words);
            says(&node.lbctl(&["config", "apply", &name])?, 2, words);
            assert_eq!((slots(node), node.lbctl_json(&["status"])?), before);
            assert_eq!(fs::read(node.config_file()).expect("a file"), on_disk);
        }
        fs::write(&file, [0xff, 0xfe]).expect("a file");
        says(&node.lbctl(&["config", "apply", &name])?, 2, "not UTF-8");
        let refused = told(node)?
            .into_iter()
            .filter(|(what, _)| what == "config_refused");
        assert_eq!(refused.count(), 6);
        let key = "000102030405060708090a0b0c0d0e0f";
        let journal = fs::read_to_string(node.state_dir().join("events.jsonl")).expect("a file");
        assert!(!journal.contains(key) && !journal.contains(&key.replace("0e0f", "0eff")));
        Ok(())
    });
}

#[test]
fn applies_at_once_come_one_after_the_other() {
    with_node("op-concurrent", |node| {
        let mut running = Vec::new();
        let yaml = node.config().to_yaml()?;
        let texts: Vec<String> = (10..18)
            .map(|weight| yaml.replacen("weight: 1\n", &format!("weight: {weight}\n"), 1))
            .collect();
        for (at, text) in texts.iter().enumerate() {
            let file = node.state_dir().join(format!("new{at}.yaml"));
            fs::write(&file, text).expect("a file");
            let mut lbctl = node.lbctl_command()?;
            lbctl.args(["config", "apply"]).arg(file);
            running.push(
                lbctl
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .expect("it starts"),
            );
        }
        for mut one in running {
            assert!(one.wait().expect("it ends").success());
        }
        let file = fs::read_to_string(node.config_file()).expect("a file");
        assert!(texts.contains(&file), "one of them, whole");
        let shown = node.lbctl_json(&["config", "show"])?;
        assert_eq!(
            (&shown["file_differs"], &shown["generation"]),
            (&false.into(), &9.into())
        );
        let now = slots(node);
        let mark = node.reload(&file)?;
        node.wait_log("configuration reloaded", mark, SOON)?;
        assert_eq!(slots(node), now, "what runs is what the file says");
        Ok(())
    });
}

#[test]
fn the_socket_is_roots_alone_and_of_one_agent() {
    with_node("op-socket", |node| {
        let meta = fs::metadata(node.api_socket()).expect("a socket");
        assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o660, 0));
        assert_eq!(
            fs::metadata(node.state_dir())
                .expect("a folder")
                .permissions()
                .mode()
                & 0o777,
            0o700
        );
        // Past the file's mode, the kernel's word on who it is still counts.
        fs::set_permissions(node.api_socket(), fs::Permissions::from_mode(0o666)).expect("its mode");
        let lbctl = node.lbctl_command()?;
        let as_user = |uid: &str| {
            let mut command = node.namespace().command("setpriv");
            command.args([&format!("--reuid={uid}"), "--clear-groups", "--regid=65534"]);
            command.arg(lbctl.get_program()).args(lbctl.get_args());
            command::output(command.args(["config", "show"]))
        };
        says(&as_user("65534")?, 2, "user 65534 may not command this agent");
        says(&as_user("0")?, 0, "generation 1");
        // Another agent, with pins of its own.
        let dir = tempfile::tempdir().expect("a folder");
        let mut second = node.namespace().command("timeout");
        second.arg("20").arg(lb_tests::binary::find("lbd")?);
        second.arg("--config").arg(node.config_file());
        second
            .arg("--pin-root")
            .arg(node.pin_root().with_file_name("second"));
        second.arg("--state-dir").arg(dir.path());
        second.arg("--api-socket").arg(node.api_socket());
        says(&command::output(&mut second)?, 1, "another lbd answers on");
        drop(fs::remove_dir(
            node.pin_root().with_file_name("second").join("maps"),
        ));
        drop(fs::remove_dir(
            node.pin_root().with_file_name("second").join("links"),
        ));
        drop(fs::remove_dir(node.pin_root().with_file_name("second")));
        says(&node.lbctl(&["config", "show"])?, 0, "generation 1");
        // A dead one's is replaced, a stopped one's is gone.
        node.kill9()?;
        assert!(node.api_socket().exists());
        node.start()?;
        says(&node.lbctl(&["config", "show"])?, 0, "generation 2");
        node.stop()?;
        assert!(!node.api_socket().exists());
        let told = told(node)?;
        let last = told.last().expect("an event");
        assert_eq!((last.0.as_str(), last.1.as_str()), ("stopped", "stop"));
        node.start()
    });
}

#[test]
fn orders_that_cannot_be_read_are_kept_aside() {
    with_node("op-corrupt", |node| {
        let home = slots(node);
        node.lbctl_json(&["drain", "web4/be2"])?;
        node.stop()?;
        let orders = node.state_dir().join("operator.json");
        fs::write(&orders, "{\"version\": 1, \"da").expect("a file");
        node.start()?;
        assert_eq!(slots(node), home);
        assert!(node.log().contains("the file is kept as"), "{}", node.log());
        assert!(orders.with_file_name("operator.json.unreadable").exists());
        assert!(told(node)?.contains(&("orders_unreadable".to_owned(), "start".to_owned())));
        node.lbctl_json(&["drain", "web4/be2"])?;
        Ok(())
    });
}

#[test]
fn without_a_state_folder_there_is_balancing_but_no_order() {
    with_node("op-no-state", |node| {
        let home = slots(node);
        node.stop()?;
        fs::remove_dir_all(node.state_dir()).expect("a folder");
        fs::write(node.state_dir(), "in the way").expect("a file");
        node.start()?;
        assert_eq!(slots(node), home);
        says(&node.lbctl(&["drain", "web4/be2"])?, 2, "nothing was changed");
        assert_eq!(slots(node), home);
        fs::remove_file(node.state_dir()).expect("a file");
        node.lbctl_json(&["drain", "web4/be2"])?;
        assert_eq!(
            told(node)?.pop(),
            Some(("drained".to_owned(), "operator".to_owned()))
        );
        Ok(())
    });
}

#[test]
fn events_are_followed_and_read_without_an_agent() {
    with_node("op-follow", |node| {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = node.lbctl_command()?;
        command.args(["events", "--follow"]);
        let mut follower = Process::spawn("lbctl", command, &dir.path().join("log"))?;
        follower.wait_for_line("loaded a new data plane", 0, SOON)?;
        node.lbctl_json(&["drain", "web4/be3"])?;
        follower.wait_for_line("operator (uid 0, pid ", 0, SOON)?;
        follower.wait_for_line("web4/be3 drained", 0, SOON)?;
        let line = "link set dev eth0 down".to_owned();
        node.namespace().ip(&[line])?;
        follower.wait_for_line("network: web4/be1: no next hop", 0, SOON)?;
        follower.kill9()?;
        node.kill9()?;
        says(&node.lbctl(&["events", "-n", "200"])?, 0, "web4/be3 drained");
        Ok(())
    });
}
