//! `lbctl stats --watch`: rates that fit the load, whatever becomes of the agent.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::{Family, Job, Lab, LabError, Load, Pace, binary};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const PER_SECOND: u32 = 300;

/// A running watch, document by document.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(node: &Node, args: &[&str]) -> Result<Self, LabError> {
        let mut command = Command::new(binary::find("lbctl")?);
        command.arg("--pin-root").arg(node.pin_root());
        command.args(["--output", "json", "stats", "--watch"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("lbctl starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        Ok(Self { child, lines })
    }

    /// The next document; `None` after the last.
    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.expect("UTF-8");
        Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")))
    }

    /// The first document that is wanted.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = (0..60)
            .map_while(|_| self.next())
            .find(|document| wanted(document));
        found.expect("a document that is wanted among the next 60")
    }

    fn interrupt(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it has one"), Signal::INT).expect("it runs");
        self.child.wait().expect("it ends")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // An error = it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One packet per request through the first node.
fn load(lab: &Lab) -> Result<Load, LabError> {
    lab.router().route_to(&[0])?;
    let rate = Pace::Rate {
        per_second: PER_SECOND,
    };
    let mut load = lab.client().load(vec![Job::udp(Family::V4, rate)])?;
    load.wait_requests(100, SOON)?;
    Ok(load)
}

fn packets(of: &Value) -> f64 {
    of["packets_per_second"].as_f64().expect("a rate")
}

fn sum(rows: &Value) -> f64 {
    rows.as_array().expect("a list").iter().map(packets).sum()
}

#[test]
fn watched_rates_fit_the_load() {
    Lab::builder("rates")
        .nodes(1)
        .run(|lab| {
            let load = load(lab)?;
            let mut watch = Watch::start(lab.node(0), &["--count", "3"])?;
            let mut seen = Vec::new();
            while let Some(document) = watch.next() {
                seen.push((document, load.latest().requests()));
            }
            assert_eq!(watch.child.wait().expect("it ends").code(), Some(0));
            assert_eq!(seen.len(), 3, "{seen:#?}");
            for (document, _) in &seen {
                let forwarded = packets(&document["forwarded"]);
                let of_lists = (sum(&document["vips"]), sum(&document["backends"]));
                assert!((forwarded - of_lists.0).abs() < 1.0, "{document:#}");
                // The backends' counters are read a moment after those of the VIPs.
                assert!((forwarded - of_lists.1).abs() < 30.0, "{document:#}");
                assert_eq!(document["agent"], "alive");
                assert!(
                    document["stops"]
                        .as_array()
                        .is_some_and(|stops| !stops.is_empty())
                );
            }
            // From the first document to the last, against what the client says it has sent. Its figures are up to
            // 0.2 s old, and the machine may be busy: a quarter may be missing or too much.
            let requests = (seen[2].1 - seen[0].1) as f64;
            let watched: f64 = seen[1..]
                .iter()
                .map(|(d, _)| packets(&d["forwarded"]) * d["seconds"].as_f64().expect("a number"))
                .sum();
            assert!(
                (watched - requests).abs() < requests * 0.25,
                "{watched} watched, {requests} sent: {seen:#?}"
            );
            assert!(
                requests > f64::from(PER_SECOND),
                "{requests} requests in two seconds"
            );
            assert_eq!(load.stop()?.failed(), 0);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_watch_outlives_the_agent_and_its_maps() {
    Lab::builder("watch-restart")
        .nodes(1)
        .run(|lab| {
            let _load = load(lab)?;
            let mut watch = Watch::start(lab.node(0), &["0.2"])?;
            let flows = |document: &Value| packets(&document["forwarded"]) > 30.0;
            watch.until(|d| d["agent"] == "alive" && flows(d));
            lab.node(0).kill9()?;
            // The data plane goes on, and so do its rates: not one of them jumps.
            watch.until(|d| d["agent"] == "dead" && flows(d));
            lab.node(0).start()?;
            let again = watch.until(|d| d["agent"] == "alive" && flows(d));
            assert_eq!(again["renewed"], false);
            assert!(
                packets(&again["forwarded"]) < 10.0 * f64::from(PER_SECOND),
                "{again:#}"
            );
            // New maps under the same names, whose counters start at 0.
            lab.node(0).stop()?;
            assert!(lab.node(0).lbctl(&["detach"])?.status.success());
            // Pins go one after the other, so the first words may be that some are missing.
            let is_gone = |d: &Value| {
                let error = d["error"].as_str();
                error.is_some_and(|e| e.contains("nothing is loaded"))
            };
            watch.until(|d| d["loaded"] == false && is_gone(d));
            lab.node(0).start()?;
            let renewed = watch.until(|d| d["renewed"] == true);
            assert!(
                packets(&renewed["forwarded"]) < 10.0 * f64::from(PER_SECOND),
                "{renewed:#}"
            );
            watch.until(flows);
            assert_eq!(watch.interrupt().code(), Some(0));
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn a_watch_into_a_file_appends_and_into_a_closed_pipe_ends() {
    Lab::builder("watch-pipe")
        .nodes(1)
        .run(|lab| {
            let out = lab.node(0).lbctl(&["stats", "--watch", "0.1", "--count", "2"])?;
            let text = String::from_utf8_lossy(&out.stdout);
            assert_eq!(out.status.code(), Some(0), "{out:?}");
            let tables = text.lines().filter(|line| line.starts_with("VIP "));
            assert_eq!(tables.count(), 2, "{text}");
            assert!(!text.contains('\x1b'), "{text:?}");
            let mut watch = Watch::start(lab.node(0), &["0.1"])?;
            watch.next().expect("a document");
            let Watch { child, lines } = &mut watch;
            // Only a new reader of nothing can take the place of the old one.
            *lines = BufReader::new(closed()).lines();
            assert_eq!(child.wait().expect("it ends").code(), Some(0));
            // Nothing to watch.
            lab.node(0).stop()?;
            assert!(lab.node(0).lbctl(&["detach"])?.status.success());
            assert_eq!(lab.node(0).lbctl(&["stats", "--watch"])?.status.code(), Some(1));
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

/// The output of a process that writes none.
fn closed() -> ChildStdout {
    let mut child = Command::new("true")
        .stdout(Stdio::piped())
        .spawn()
        .expect("true starts");
    let out = child.stdout.take().expect("stdout is piped");
    child.wait().expect("it ends");
    out
}
