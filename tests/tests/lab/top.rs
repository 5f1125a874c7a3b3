//! `lbctl top` on a terminal of its own, before a data plane with traffic.

use std::process::Command;
use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::{Family, Job, Lab, LabError, Pace, binary};

use crate::terminal::Terminal;

const SOON: Duration = Duration::from_secs(10);

/// `lbctl top` of a node on a terminal.
fn top(node: &Node, rows: u16, columns: u16) -> Result<Terminal, LabError> {
    let mut command = Command::new(binary::find("lbctl")?);
    command
        .arg("--pin-root")
        .arg(node.pin_root())
        .args(["top", "--interval", "0.5"]);
    Ok(Terminal::start(&command, rows, columns))
}

/// The figure in a column of the row that begins with `name`: 1,230 for `1.23 k`.
fn figure(screen: &str, name: &str, column: usize) -> Option<f64> {
    let row = screen.lines().find(|line| line.starts_with(name))?;
    let cells: Vec<&str> = row
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    let (number, unit) = cells.get(column)?.split_once(' ').unwrap_or((cells[column], ""));
    let unit = [("", 1.0), ("k", 1e3), ("M", 1e6), ("%", 0.01)]
        .into_iter()
        .find(|(u, _)| *u == unit)?
        .1;
    Some(number.parse::<f64>().ok()? * unit)
}

#[test]
fn top_shows_the_rates_of_the_load() {
    Lab::builder("top")
        .run(|lab| {
            lab.router().route_to(&[0])?;
            let rate = |per_second| Pace::Rate { per_second };
            let mut load = lab.client().load(vec![
                Job::udp(Family::V4, rate(400)),
                Job::http(Family::V6, rate(40)),
            ])?;
            load.wait_requests(100, SOON)?;
            let mut terminal = top(lab.node(0), 30, 90)?;
            const ECHO: &str = "10.200.1.1:7/udp";
            // Half of the load's rate and twice it: other tests may run on this machine.
            let fits = |screen: &str| {
                figure(screen, ECHO, 2).is_some_and(|packets| (200.0..800.0).contains(&packets))
            };
            let screen = terminal.wait(SOON, "the rate of the load", fits)?;
            for text in ["lb1", "agent alive", "on eth0", "q quit"] {
                assert!(screen.contains(text), "{text}: {screen}");
            }
            // Half of the packets, as chance has it, beside exactly half of the weights.
            for (column, wanted) in [(2, 70.0..450.0), (4, 0.25..0.75), (5, 0.5..0.501)] {
                let found = figure(&screen, "web4/be3", column);
                assert!(
                    found.is_some_and(|found| wanted.contains(&found)),
                    "{column}: {screen}"
                );
            }

            lab.node(0).kill9()?;
            terminal.wait(SOON, "a dead agent and rates", |screen| {
                screen.contains("agent dead") && fits(screen)
            })?;
            lab.node(0).start()?;
            terminal.wait(SOON, "a living agent", |screen| screen.contains("agent alive"))?;

            terminal.press("p");
            terminal.wait(SOON, "a pause", |screen| screen.contains("PAUSED"))?;
            terminal.press("p\t\t");
            terminal.wait(SOON, "the view of backends", |screen| {
                !screen.contains("PAUSED") && screen.contains("web6/be1") && !screen.contains(ECHO)
            })?;
            terminal.press("s");
            terminal.wait(SOON, "rows sorted by packets", |screen| {
                let backend = |name: &str| screen.lines().position(|line| line.starts_with(name));
                screen.contains("s sort (packets)") && backend("web4/be3") < backend("web4/be1")
            })?;
            terminal.resize(10, 40);
            terminal.wait(SOON, "fewer rows and columns", |screen| {
                screen.contains("BACKEND 1-4 of 6") && !screen.contains("NEXT HOP")
            })?;
            terminal.resize(1, 5);
            terminal.resize(30, 90);
            terminal.wait(SOON, "all columns again", |screen| screen.contains("NEXT HOP"))?;
            terminal.press("q");
            assert_eq!(terminal.ended(SOON)?.code(), Some(0));
            assert_eq!(load.stop()?.failed(), 0);
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}

#[test]
fn top_gives_the_terminal_back_when_it_is_terminated() {
    Lab::builder("top-term")
        .nodes(1)
        .run(|lab| {
            for end in ["SIGTERM", "Ctrl-C"] {
                let mut terminal = top(lab.node(0), 24, 80)?;
                terminal.wait(SOON, "a screen", |screen| screen.contains("q quit"))?;
                if end == "SIGTERM" {
                    terminal.terminate();
                } else {
                    terminal.press("\x03");
                }
                assert_eq!(terminal.ended(SOON)?.code(), Some(0), "{end}");
            }
            // Without a terminal it says what to use instead.
            let out = lab.node(0).lbctl(&["top"])?;
            assert_eq!((out.status.code(), out.stdout.len()), (Some(2), 0));
            assert!(
                String::from_utf8_lossy(&out.stderr).contains("stats --watch"),
                "{out:?}"
            );
            Ok::<(), LabError>(())
        })
        .expect("the lab runs");
}
