//! The control socket: what `status`, `reload`, `tail`, `top`, `rules`, `metrics` and `explain` talk to a running daemon by.
//!
//! In: one JSON object on one line, the [`Request`]. Out: JSON objects, one a line, until the daemon closes. The daemon's threads
//! for it never hold up the pipeline: they leave an [`Ask`] at its [`Desk`], which it looks at between two batches of events, and
//! wait for the answer themselves.

pub mod client;
pub mod front;
pub mod metrics;
pub mod recent;
pub mod server;
pub mod state;
mod tail;
mod trials;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::event::Event;
use crate::reload::{Set, Swapped};
use recent::Kept;
use state::State;

/// Name of the socket in the runtime directory.
const NAME: &str = "control";
/// Where systemd puts the unit's runtime directory.
const RUNTIME_DIRECTORY: &str = "/run/eql-sensor";
/// Asks that may lie at the desk.
const ASKS_MAX: usize = 64;
/// For the pipeline to look at its desk. It does so once a batch, and is rung for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Status,
    Rules,
    Reload,
    Top,
    Metrics,
    /// The last events.
    Recent,
    Trial {
        /// The file of one, to hear of its alerts, too; without it all.
        path: Option<String>,
    },
    Tail {
        /// An EQL query; all events without one.
        query: Option<String>,
    },
}

/// Which socket to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// `control` in `$RUNTIME_DIRECTORY`, else in `/run/eql-sensor`.
    #[default]
    Auto,
    None,
    At(PathBuf),
}

impl Socket {
    /// The path, `None` when there shall be no socket.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Socket::None => None,
            Socket::At(path) => Some(path.clone()),
            Socket::Auto => {
                let directory = std::env::var_os("RUNTIME_DIRECTORY").filter(|d| !d.is_empty());
                let directory = directory.map_or_else(|| RUNTIME_DIRECTORY.into(), PathBuf::from);
                Some(directory.join(NAME))
            }
        }
    }
}

impl AsRef<OsStr> for Socket {
    /// As it is written.
    fn as_ref(&self) -> &OsStr {
        match self {
            Socket::Auto => OsStr::new("auto"),
            Socket::None => OsStr::new("none"),
            Socket::At(path) => path.as_os_str(),
        }
    }
}

impl std::str::FromStr for Socket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Socket, &'static str> {
        match text {
            "auto" => Ok(Socket::Auto),
            "none" => Ok(Socket::None),
            _ if Path::new(text).is_absolute() => Ok(Socket::At(text.into())),
            _ => Err("must be an absolute path, \"auto\" or \"none\""),
        }
    }
}

/// Something the pipeline's own thread has to do.
pub enum Ask {
    /// How things stand.
    State(SyncSender<State>),
    /// The same, and processes counted by program from now on for a while.
    Top(SyncSender<State>),
    /// The events of the last minutes.
    Recent(SyncSender<Kept>),
    /// Copies of the events a query matches.
    Tail(Box<Tail>),
    /// New rules in place of the old.
    Swap(Box<Set>, SyncSender<Swapped>),
}

/// Somebody who wants to see events as they come.
pub struct Tail {
    /// With one rule; every event without.
    pub engine: Option<Engine<Arc<Event>>>,
    pub to: SyncSender<Arc<Event>>,
    /// Events that did not fit into `to`.
    pub dropped: Arc<AtomicU64>,
}

/// The pipeline does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("the daemon is ending")]
    Ending,
    #[error("the daemon did not answer in {} s", PATIENCE.as_secs())]
    Late,
}

/// The other threads' side: leaves asks, and rings.
#[derive(Clone)]
pub struct Bell {
    asks: SyncSender<Ask>,
    ring: Arc<Notify>,
}

impl Bell {
    /// Leaves an ask; does not wait.
    ///
    /// # Errors
    /// Nobody looks at the desk any more, or it is full.
    pub fn leave(&self, ask: Ask) -> Result<(), NoAnswer> {
        let left = self.asks.try_send(ask).map_err(|error| match error {
            TrySendError::Full(_) => NoAnswer::Late,
            TrySendError::Disconnected(_) => NoAnswer::Ending,
        });
        self.ring.notify_one();
        left
    }

    /// Leaves an ask and waits for its answer, for ten seconds at most.
    ///
    /// # Errors
    /// As [`Bell::leave`], or the answer does not come.
    pub fn ask<T>(&self, ask: impl FnOnce(SyncSender<T>) -> Ask) -> Result<T, NoAnswer> {
        let (to, answer) = sync_channel(1);
        self.leave(ask(to))?;
        answer.recv_timeout(PATIENCE).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => NoAnswer::Late,
            std::sync::mpsc::RecvTimeoutError::Disconnected => NoAnswer::Ending,
        })
    }
}

/// The pipeline's side.
pub struct Desk {
    asks: Receiver<Ask>,
    ring: Arc<Notify>,
}

impl Desk {
    #[must_use]
    pub fn new() -> (Bell, Desk) {
        let (to, asks) = sync_channel(ASKS_MAX);
        let ring = Arc::new(Notify::new());
        let bell = Bell {
            asks: to,
            ring: Arc::clone(&ring),
        };
        (bell, Desk { asks, ring })
    }

    /// Rings when something was left.
    #[must_use]
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.ring)
    }

    /// The oldest ask, if there is one. Never waits.
    pub fn take(&mut self) -> Option<Ask> {
        self.asks.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_small_object() {
        for (text, expected) in [
            (r#"{"verb":"status"}"#, Some(Request::Status)),
            (r#"{"verb":"tail"}"#, Some(Request::Tail { query: None })),
            (r#"{"verb":"trial"}"#, Some(Request::Trial { path: None })),
            (r#"{"verb":"fly"}"#, None),
            (r#"{"verb":"tail","quarry":"any where true"}"#, None),
            (r#""status""#, None),
        ] {
            let found = serde_json::from_str::<Request>(text).ok();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_socket_is_a_path_or_a_word() {
        assert_eq!("auto".parse(), Ok(Socket::Auto));
        assert_eq!("/a/b".parse(), Ok(Socket::At("/a/b".into())));
        assert_eq!("none".parse::<Socket>().unwrap().path(), None);
        assert!("a/b".parse::<Socket>().is_err());
    }

    #[test]
    fn nobody_waits_at_a_desk_that_is_gone() {
        let (bell, mut desk) = Desk::new();
        assert!(desk.take().is_none());
        drop(desk);
        assert_eq!(bell.ask(Ask::State).err(), Some(NoAnswer::Ending));
    }
}
