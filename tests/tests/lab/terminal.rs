//! A program on a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lb_tests::{LabError, wait};
use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const SOON: Duration = Duration::from_secs(10);

/// The terminal, with the program on it until both are dropped.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts a program with these arguments.
    pub(crate) fn start(program: &Command, rows: u16, columns: u16) -> Self {
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
        // A session of its own: otherwise size and signals would be those of the terminal that the tests run in.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program());
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        command
            .args(program.get_args())
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
        terminal
    }

    /// The program's process: `setsid` replaces itself by it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn text(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = screen.screen().rows(0, u16::MAX);
        rows.collect::<Vec<_>>().join("\n")
    }

    /// Waits until the screen is as wanted, and returns it.
    pub(crate) fn wait(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, LabError> {
        let mut text = String::new();
        let waited = wait::until(within, what, || {
            text = self.text();
            wanted(&text)
        });
        waited.inspect_err(|_| eprintln!("{text}"))?;
        Ok(text)
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the pty takes it");
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let mut screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.screen_mut().set_size(rows, columns);
        drop(screen);
        resize(&self.master, rows, columns);
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("it has one"), Signal::TERM).expect("it runs");
    }

    /// Waits for the end; the terminal must be as it was.
    pub(crate) fn ended(&mut self, within: Duration) -> Result<ExitStatus, LabError> {
        let mut status = None;
        wait::until(within, "the end of the program", || {
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
        // In order if it can: a lab would stay. An error = it has ended.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if matches!(self.child.try_wait(), Ok(None))
            && pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok())
        {
            let _ = wait::until(SOON, "its end", || !matches!(self.child.try_wait(), Ok(None)));
        }
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
