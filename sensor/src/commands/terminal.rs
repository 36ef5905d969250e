//! A terminal that is looked at while something goes on: keys without Enter, size, colours.
//!
//! In: standard input and output. Out: whether somebody wants to quit. The terminal is always given back as it was found, also when
//! the command ends by an error. Elsewhere than on a terminal all of this does nothing.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// What ends it: q, and what the terminal would have made signals of.
const QUIT: [u8; 4] = [b'q', b'Q', 0x03, 0x04];

/// Rows and columns where a terminal does not tell.
const SIZE: (usize, usize) = (24, 80);

/// Whether to colour what goes to standard output.
pub(super) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Rows and columns of standard output.
pub(super) fn size() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => SIZE,
    }
}

/// Keys of standard input as they are pressed; given back when dropped.
pub(super) struct Keys {
    found: Option<Termios>,
}

impl Keys {
    pub(super) fn take() -> Keys {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let found = is_terminal.then(|| tcgetattr(io::stdin()).ok()).flatten();
        if let Some(found) = &found {
            let mut raw = found.clone();
            raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
        }
        Keys { found }
    }

    /// Whether there are keys at all.
    pub(super) fn are_there(&self) -> bool {
        self.found.is_some()
    }

    /// Waits for a key that means to quit; false when none came in time.
    pub(super) fn quit_within(&self, time: Duration) -> bool {
        if !self.are_there() {
            std::thread::sleep(time);
            return false;
        }
        quit_pressed_within(time)
    }
}

/// Waits for a key that means to quit, on a terminal whose keys were taken.
pub(super) fn quit_pressed_within(time: Duration) -> bool {
    let stdin = io::stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut watched, Some(&time)) {
        Ok(count) if count > 0 => {
            let mut keys = [0; 16];
            let count = stdin.lock().read(&mut keys).unwrap_or(0);
            let pressed = keys.get(..count).unwrap_or_default();
            // A terminal that went away is at its end.
            count == 0 || pressed.iter().any(|key| QUIT.contains(key))
        }
        _ => false,
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(found) = &self.found {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, found);
        }
    }
}
