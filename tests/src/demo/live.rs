//! Traffic until somebody says stop, with a table once a second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::keys::Keys;
use super::power::Power;
use super::summary::Summary;
use super::{summarise, view};
use crate::error::{IoContext, LabError};
use crate::host::Node;
use crate::lab::Lab;
use crate::topo::Family;
use crate::traffic::{Job, Kind, Load, Pace, Report};
use crate::wait::Interrupt;

const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// Long-lived connections over each IP version.
const CONNECTIONS: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// Sends about `rate` requests a second, HTTP and UDP over IPv4 and IPv6 in equal parts, until `interrupt` is
/// raised or nobody reads the output any more; and holds connections. Shows how it goes on standard output: in place on a
/// terminal, else a line a second. On a terminal the nodes' numbers take their power and give it back. Ends with the
/// whole summary.
pub fn live(lab: &mut Lab, rate: u32, interrupt: &Interrupt) -> Result<(), LabError> {
    let share = |nth: u32| Pace::Rate {
        per_second: (rate + nth) / 4,
    };
    let jobs = vec![
        Job::http(Family::V4, share(3)),
        Job::http(Family::V6, share(2)),
        Job::udp(Family::V4, share(1)).again(SECOND),
        Job::udp(Family::V6, share(0)).again(SECOND),
    ];
    let lines = Family::BOTH.map(|family| Job::lines(family, CONNECTIONS, SECOND));
    // Apart: connections that stay where they are would distort the shares.
    let mut traffic = Shown {
        load: lab.client().load(jobs)?,
        held: lab.client().load(lines.into())?,
    };
    let shown = traffic.show(lab, interrupt);
    match shown {
        Err(LabError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
        Ok(start) => {
            let held = traffic.held.stop()?;
            let report = traffic.load.stop()?;
            let summary = summarise(lab, &report, start.elapsed().as_secs_f64(), packets)?;
            let errors = [report.errors(), held.errors()].concat().join("\n");
            let text = format!(
                "{}\n{}\n{errors}",
                view::tables(&summary, None),
                connections(&held)
            );
            writeln!(io::stdout(), "\n{}", text.trim_end()).context(|| "write the summary".to_owned())
        }
    }
}

/// Of a node without power: none.
fn packets(node: &Node) -> Result<u64, LabError> {
    Ok(node.packets().unwrap_or(0))
}

fn connections(report: &Report) -> String {
    let held = report.held(Kind::Lines);
    format!(
        "{} long-lived connections   {} broken   {} moved",
        held.opened,
        held.broken + held.unopened,
        held.moved
    )
}

/// What is shown.
struct Shown {
    load: Load,
    held: Load,
}

impl Shown {
    /// Returns when the load began.
    fn show(&mut self, lab: &mut Lab, interrupt: &Interrupt) -> Result<Instant, LabError> {
        let keys = Keys::new();
        let mut power = Power::new(lab.nodes().len());
        let mut screen = Screen::new(keys.there() && lab.nodes().len() > 1);
        let start = Instant::now();
        let mut before: Option<Summary> = None;
        for nth in 1.. {
            let due = start + REFRESH_EVERY * nth;
            while !interrupt.raised() && Instant::now() < due {
                if let Some(key) = keys.until(due) {
                    power.press(lab, key)?;
                }
            }
            if interrupt.raised() || self.load.ended()? {
                break;
            }
            power.look(lab)?;
            let (report, held) = (self.load.latest(), self.held.latest());
            let now = summarise(lab, &report, start.elapsed().as_secs_f64(), packets)?;
            let notes = [
                vec![connections(&held), power.news.clone()],
                report.errors(),
                held.errors(),
            ];
            screen.show(&now, before.as_ref(), &notes.concat())?;
            before = Some(now);
        }
        Ok(start)
    }
}

/// Standard output, and how many lines of it the next table replaces.
struct Screen {
    terminal: bool,
    /// Whether keys do something.
    keys: bool,
    lines: usize,
}

impl Screen {
    fn new(keys: bool) -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            keys,
            lines: 0,
        }
    }

    fn show(&mut self, now: &Summary, before: Option<&Summary>, notes: &[String]) -> Result<(), LabError> {
        let mut out = io::stdout().lock();
        let text = if self.terminal {
            let mut text = view::tables(now, before);
            if self.keys {
                text.push_str("\n1, 2, ... (a node's number) takes its power, as a pulled plug does, and gives it back.");
            }
            text.push_str("\nCtrl-C ends it.");
            for note in notes.iter().filter(|note| !note.is_empty()) {
                text.push('\n');
                text.push_str(note);
            }
            let up = self.lines;
            self.lines = text.lines().count();
            // Cursor to the start of the last table, then clear to the end of the screen (ECMA-48 CPL, ED).
            if up > 0 {
                format!("\x1b[{up}F\x1b[J{text}")
            } else {
                text
            }
        } else {
            format!("{}; {}", view::line(now, before), notes[0])
        };
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .context(|| "write the table".to_owned())
    }
}
