//! Traffic until somebody says stop, with a table once a second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::summary::Summary;
use super::{summarise, view};
use crate::error::{IoContext, LabError};
use crate::lab::Lab;
use crate::topo::Family;
use crate::traffic::{Job, Load, Pace};
use crate::wait::Interrupt;

const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// Sends about `rate` requests a second, HTTP and UDP over IPv4 and IPv6 in equal parts, until `interrupt` is
/// raised or nobody reads the output any more. Shows how it goes on standard output: in place on a terminal,
/// else a line a second. Ends with the whole summary.
pub fn live(lab: &Lab, rate: u32, interrupt: &Interrupt) -> Result<(), LabError> {
    let share = |nth: u32| Pace::Rate {
        per_second: (rate + nth) / 4,
    };
    let jobs = vec![
        Job::http(Family::V4, share(3)),
        Job::http(Family::V6, share(2)),
        Job::udp(Family::V4, share(1)),
        Job::udp(Family::V6, share(0)),
    ];
    let mut load = lab.client().load(jobs)?;
    let shown = show(lab, &mut load, interrupt);
    match shown {
        Err(LabError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
        Ok(start) => {
            let report = load.stop()?;
            let summary = summarise(lab, &report, start.elapsed().as_secs_f64())?;
            let text = format!("{}\n{}", view::tables(&summary, None), report.errors().join("\n"));
            writeln!(io::stdout(), "\n{}", text.trim_end()).context(|| "write the summary".to_owned())
        }
    }
}

/// Returns when the load began.
fn show(lab: &Lab, load: &mut Load, interrupt: &Interrupt) -> Result<Instant, LabError> {
    let mut screen = Screen::new();
    let start = Instant::now();
    let mut before: Option<Summary> = None;
    for nth in 1.. {
        interrupt.sleep_until(start + REFRESH_EVERY * nth);
        if interrupt.raised() || load.ended()? {
            break;
        }
        let report = load.latest();
        let now = summarise(lab, &report, start.elapsed().as_secs_f64())?;
        screen.show(&now, before.as_ref(), &report.errors())?;
        before = Some(now);
    }
    Ok(start)
}

/// Standard output, and how many lines of it the next table replaces.
struct Screen {
    terminal: bool,
    lines: usize,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            lines: 0,
        }
    }

    fn show(&mut self, now: &Summary, before: Option<&Summary>, errors: &[String]) -> Result<(), LabError> {
        let mut out = io::stdout().lock();
        let text = if self.terminal {
            let mut text = view::tables(now, before);
            text.push_str("\nCtrl-C ends it.");
            for error in errors {
                text.push('\n');
                text.push_str(error);
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
            view::line(now, before)
        };
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .context(|| "write the table".to_owned())
    }
}
