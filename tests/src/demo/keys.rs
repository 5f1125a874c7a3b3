//! Single keys from a terminal, without Enter and without echo.

use std::io::{self, IsTerminal, Read};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Whoever asks wants to look at other things too.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The keyboard, until it is dropped; signals such as Ctrl-C work as ever.
pub(super) struct Keys {
    pressed: Receiver<u8>,
    before: Option<Termios>,
}

impl Keys {
    /// Where standard input is no terminal, no key is ever pressed.
    pub(super) fn new() -> Self {
        let (press, pressed) = channel();
        let before = io::stdin().is_terminal().then(single_keys).flatten();
        if before.is_some() {
            // It waits for a key for ever; the end of the process ends it.
            thread::spawn(move || {
                for byte in io::stdin().lock().bytes().map_while(Result::ok) {
                    if press.send(byte).is_err() {
                        return;
                    }
                }
            });
        }
        Self { pressed, before }
    }

    /// Whether there is a keyboard.
    pub(super) fn there(&self) -> bool {
        self.before.is_some()
    }

    /// The next key; `None` where none comes for a moment, at most until `end`.
    pub(super) fn until(&self, end: Instant) -> Option<char> {
        let left = end.saturating_duration_since(Instant::now());
        let pressed = self.pressed.recv_timeout(left.min(LOOK_EVERY)).ok();
        if pressed.is_none() {
            // Without a keyboard that didn't wait.
            thread::sleep(LOOK_EVERY.min(end.saturating_duration_since(Instant::now())));
        }
        pressed.map(char::from)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn single_keys() -> Option<Termios> {
    let before = tcgetattr(io::stdin()).ok()?;
    let mut single = before.clone();
    single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(io::stdin(), OptionalActions::Now, &single).ok()?;
    Some(before)
}
