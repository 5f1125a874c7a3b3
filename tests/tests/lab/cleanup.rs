//! `lb-lab` cleans up however it ends, and what it couldn't, the next run does.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use lb_tests::{netns, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::traces;

/// A run of `lb-lab` that is under way.
struct Run {
    child: Child,
    messages: Lines<BufReader<ChildStderr>>,
}

impl Run {
    /// Starts `lb-lab` without Tandem nodes, which cleaning up has nothing to do with.
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb-lab"));
        command
            .args(["--nodes", "0"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("lb-lab starts");
        let messages = BufReader::new(child.stderr.take().expect("piped")).lines();
        Self { child, messages }
    }

    fn id(&self) -> String {
        self.child.id().to_string()
    }

    fn wait_message(&mut self, text: &str) {
        let mut seen = Vec::new();
        for line in self.messages.by_ref().map_while(Result::ok) {
            if line.contains(text) {
                return;
            }
            seen.push(line);
        }
        panic!("no {text:?} in {seen:#?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

fn lb_lab(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lb-lab"))
        .args(args)
        .output()
        .expect("lb-lab runs")
}

fn processes_in(id: &str) -> Vec<i32> {
    netns::pids(&netns::list(|name| name.starts_with(&format!("tandem.{id}."))))
}

#[test]
fn signals_end_the_live_mode_and_leave_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut run = Run::start(&["--rate", "100"]);
        run.wait_message("is up");
        run.signal(signal);
        assert_eq!(run.exit_code(), Some(0), "after {signal:?}");
        assert_eq!(traces::of(&run.id()), Vec::<String>::new(), "after {signal:?}");
    }
}

#[test]
fn a_signal_during_the_set_up_leaves_nothing() {
    let mut run = Run::start(&[]);
    run.wait_message("Setting up");
    run.signal(Signal::TERM);
    assert_eq!(run.exit_code(), Some(1));
    assert_eq!(traces::of(&run.id()), Vec::<String>::new());
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    let mut run = Run::start(&["--rate", "100"]);
    run.wait_message("is up");
    run.signal(Signal::KILL);
    run.exit_code();
    let id = run.id();
    assert!(traces::of(&id).len() >= 7, "{:?}", traces::of(&id));
    // The three servers; the client's process ends by itself with its parent.
    assert!(processes_in(&id).len() >= 3, "{:?}", processes_in(&id));
    let once = lb_lab(&["--nodes", "0", "--once", "--requests", "5"]);
    let messages = String::from_utf8_lossy(&once.stderr).into_owned();
    wait::until(Duration::from_secs(5), "the end of all traces", || {
        traces::of(&id).is_empty()
    })
    .unwrap_or_else(|e| panic!("{e}: {messages}"));
}

#[test]
fn a_kept_lab_stands_until_clean() {
    let mut run = Run::start(&["--once", "--requests", "5", "--keep"]);
    run.wait_message("curl");
    run.exit_code();
    let id = run.id();
    lb_lab(&["--nodes", "0", "--once", "--requests", "5"]);
    assert!(
        traces::of(&id).len() >= 7,
        "another run removed the kept lab: {:?}",
        traces::of(&id)
    );
    let curl = netns::Netns::named(format!("tandem.{id}.client"))
        .command("curl")
        .args(["-sg", "--max-time", "5", "http://[fd00:200:1::1]/hello"])
        .output()
        .expect("curl runs");
    let answer = String::from_utf8_lossy(&curl.stdout).into_owned();
    assert!(
        answer.starts_with("be") && answer.ends_with(" /hello\n"),
        "{answer:?}"
    );
    // By its id: others on this machine may have kept theirs.
    let clean = lb_lab(&[&format!("--clean={id}")]);
    assert!(clean.status.success(), "{clean:?}");
    assert_eq!(traces::of(&id), Vec::<String>::new());
    assert_eq!(processes_in(&id), Vec::<i32>::new());
}

#[test]
fn the_json_summary_is_one_document() {
    let out = lb_lab(&["--nodes", "0", "--once", "--requests", "50", "--output", "json"]);
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON document");
    // 50 over IPv4, 50 over IPv6, 25 + 25 echoes.
    assert_eq!(summary["requests"], 150);
    assert_eq!(summary["failed"], 0, "{summary:#}");
    let backends = summary["backends"].as_array().expect("a list");
    let weights: Vec<_> = backends.iter().map(|b| b["weight"].as_u64()).collect();
    assert_eq!(weights, [Some(1), Some(2), Some(3)]);
    assert_eq!(
        backends
            .iter()
            .filter_map(|b| b["requests"].as_u64())
            .sum::<u64>(),
        150
    );
}
