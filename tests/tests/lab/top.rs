//! `lbctl top` on a terminal of its own, before a data plane with traffic.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_tests::host::Node;
use lb_tests::{Family, Job, Lab, LabError, Pace, binary, wait};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const SOON: Duration = Duration::from_secs(10);

/// A terminal with `lbctl top` on it.
struct Terminal {
    child: Child,
    master: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn top(node: &Node, rows: u16, columns: u16) -> Result<Self, LabError> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a pty");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let name = name.into_string().expect("ASCII");
        let no_control = i32::try_from(OFlags::NOCTTY.bits()).expect("a flag");
        let slave = File::options()
            .read(true)
            .write(true)
            .custom_flags(no_control)
            .open(name);
        let slave = slave.expect("the pty's other end");
        let master = File::from(master);
        // A session of its own: otherwise the size would be that of the terminal that the tests run in.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(binary::find("lbctl")?);
        command
            .arg("--pin-root")
            .arg(node.pin_root())
            .args(["top", "--interval", "0.5"]);
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let terminal = Self {
            child: {
                resize(&master, rows, columns);
                command.spawn().expect("setsid starts")
            },
            master,
            screen: Arc::clone(&screen),
        };
        let mut output = terminal.master.try_clone().expect("a descriptor");
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error = the other end is closed.
            while let Ok(n @ 1..) = output.read(&mut bytes) {
                screen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .process(&bytes[..n]);
            }
        });
        Ok(terminal)
    }

    fn text(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = screen.screen().rows(0, u16::MAX);
        rows.collect::<Vec<_>>().join("\n")
    }

    /// Waits until the screen is as wanted, and returns it.
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String, LabError> {
        let waited = wait::until(SOON, what, || wanted(&self.text()));
        waited.inspect_err(|_| eprintln!("{}", self.text()))?;
        Ok(self.text())
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the pty takes it");
    }

    fn resize(&mut self, rows: u16, columns: u16) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen_mut().set_size(rows, columns);
        drop(screen);
        resize(&self.master, rows, columns);
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it has one"), Signal::TERM).expect("it runs");
    }

    /// Waits for the end; the terminal must be as it was.
    fn ended(&mut self) -> Result<ExitStatus, LabError> {
        let mut status = None;
        wait::until(SOON, "the end of top", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        })?;
        let modes = tcgetattr(&self.master).expect("a terminal").local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON), "{modes:?}");
        wait::until(SOON, "the screen as it was", || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            !screen.screen().alternate_screen() && !screen.screen().hide_cursor()
        })?;
        Ok(status.expect("the wait ends with one"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error = it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: &File, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).expect("a terminal");
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
            let mut top = Terminal::top(lab.node(0), 30, 90)?;
            const ECHO: &str = "10.200.1.1:7/udp";
            // Half of the load's rate and twice it: other tests may run on this machine.
            let fits = |screen: &str| {
                figure(screen, ECHO, 2).is_some_and(|packets| (200.0..800.0).contains(&packets))
            };
            let screen = top.wait("the rate of the load", fits)?;
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
            top.wait("a dead agent and rates", |screen| {
                screen.contains("agent dead") && fits(screen)
            })?;
            lab.node(0).start()?;
            top.wait("a living agent", |screen| screen.contains("agent alive"))?;

            top.press("p");
            top.wait("a pause", |screen| screen.contains("PAUSED"))?;
            top.press("p\t\t");
            top.wait("the view of backends", |screen| {
                !screen.contains("PAUSED") && screen.contains("web6/be1") && !screen.contains(ECHO)
            })?;
            top.press("s");
            top.wait("rows sorted by packets", |screen| {
                let backend = |name: &str| screen.lines().position(|line| line.starts_with(name));
                screen.contains("s sort (packets)") && backend("web4/be3") < backend("web4/be1")
            })?;
            top.resize(10, 40);
            top.wait("fewer rows and columns", |screen| {
                screen.contains("BACKEND 1-4 of 6") && !screen.contains("NEXT HOP")
            })?;
            top.resize(1, 5);
            top.resize(30, 90);
            top.wait("all columns again", |screen| screen.contains("NEXT HOP"))?;
            top.press("q");
            assert_eq!(top.ended()?.code(), Some(0));
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
                let mut top = Terminal::top(lab.node(0), 24, 80)?;
                top.wait("a screen", |screen| screen.contains("q quit"))?;
                if end == "SIGTERM" {
                    top.terminate();
                } else {
                    top.press("\x03");
                }
                assert_eq!(top.ended()?.code(), Some(0), "{end}");
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
