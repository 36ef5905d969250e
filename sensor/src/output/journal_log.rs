//! The sensor's own log as native journal entries, when it runs as a service.
//!
//! In: log messages. Out: entries with a priority by level and, for lifecycle messages, the message id the catalog explains.
//! What the journal does not take at once goes to standard error, and where that ends in the same journal it is kept until there is
//! one again. It never ends a thread because nobody takes what it says.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::journald::{IDENTIFIER, SOCKET, connect, field};
use super::lifecycle;

/// Messages kept for a journal that is away; beyond it the oldest are given up, and counted.
const KEPT_MAX: usize = 256;

/// A writer of log messages to one journal socket.
pub struct JournalLog {
    path: PathBuf,
    /// Takes what the journal does not.
    second: fn(&str) -> io::Result<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    socket: Option<UnixDatagram>,
    kept: VecDeque<Vec<u8>>,
    given_up: u64,
}

impl JournalLog {
    /// The journal, if standard error goes there already: the service manager says so in `JOURNAL_STREAM`.
    #[must_use]
    pub fn of_this_service() -> Option<JournalLog> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
        let is_it = named == format!("{}:{}", stderr.st_dev, stderr.st_ino);
        is_it.then(|| JournalLog::at(Path::new(SOCKET)))
    }

    /// The journal behind another socket.
    #[must_use]
    pub fn at(path: &Path) -> JournalLog {
        JournalLog {
            path: path.to_owned(),
            // Not by a macro: that panics when the reader of a pipe is gone, as the journal may be.
            second: |message| writeln!(io::stderr(), "{message}"),
            state: Mutex::default(),
        }
    }

    fn tell(&self, message: &str, entry: Vec<u8>) {
        // What a thread that panicked left is whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.send_kept(&self.path) && state.send(&self.path, &entry) {
            return;
        }
        if (self.second)(message).is_ok() {
            return;
        }
        if state.kept.len() == KEPT_MAX {
            state.kept.pop_front();
            state.given_up += 1;
        }
        state.kept.push_back(entry);
    }
}

impl State {
    /// Whether nothing is kept any more.
    fn send_kept(&mut self, path: &Path) -> bool {
        if self.given_up > 0 {
            let message = format!(
                "{} messages were lost while there was no journal",
                self.given_up
            );
            if !self.send(path, &entry_of(&message, Level::WARN)) {
                return false;
            }
            self.given_up = 0;
        }
        while let Some(entry) = self.kept.pop_front() {
            if !self.send(path, &entry) {
                self.kept.push_front(entry);
                return false;
            }
        }
        true
    }

    /// Whether the journal took the entry.
    fn send(&mut self, path: &Path, entry: &[u8]) -> bool {
        for _ in 0..2 {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None => match connect(path) {
                    Ok(socket) => socket,
                    Err(_) => return false,
                },
            };
            if socket.send(entry).is_ok() {
                self.socket = Some(socket);
                return true;
            }
        }
        false
    }
}

/// The begin of an entry, which every entry has.
fn entry_of(message: &str, level: Level) -> Vec<u8> {
    let mut entry = Vec::with_capacity(256);
    field(&mut entry, "MESSAGE", message);
    field(&mut entry, "PRIORITY", priority(level));
    field(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
    entry
}

impl<S: Subscriber> Layer<S> for JournalLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let message = format!("{}{}", text.message, text.facts);
        let metadata = event.metadata();
        let mut entry = entry_of(&message, *metadata.level());
        if let Some(moment) = lifecycle::moment(metadata.target()) {
            field(&mut entry, "MESSAGE_ID", moment.message_id);
        }
        for (name, value) in &text.fields {
            field(&mut entry, name, value);
        }
        self.tell(&message, entry);
    }
}

/// Never 0 to 2: what is critical is in alerts.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Message and fields of one event.
#[derive(Default)]
struct Text {
    message: String,
    /// ` name=value` for each field.
    facts: String,
    fields: Vec<(String, String)>,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // A String takes any write.
            let _ = write!(self.message, "{value:?}");
            return;
        }
        let value = format!("{value:?}");
        let _ = write!(self.facts, " {}={value}", field.name());
        let name = field.name().to_ascii_uppercase();
        if name.len() < 48 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            self.fields.push((format!("SENSOR_{name}"), value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn logged(write: impl FnOnce()) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(JournalLog::at(&path));
        tracing::subscriber::with_default(subscriber, write);
        let mut bytes = vec![0; 1 << 16];
        let length = journal.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_lifecycle_message_has_its_id_and_fields() {
        let entry = logged(|| tracing::warn!(target: lifecycle::GAP, lost = 3, "lost {}", 3));
        let id = lifecycle::moment(lifecycle::GAP).unwrap().message_id;
        assert_eq!(
            entry,
            format!(
                "MESSAGE=lost 3 lost=3\nPRIORITY=4\nSYSLOG_IDENTIFIER=eql-sensor\nMESSAGE_ID={id}\nSENSOR_LOST=3\n"
            )
        );
    }

    #[test]
    fn what_nobody_takes_is_kept_in_its_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let log = JournalLog {
            second: |_| Err(io::ErrorKind::BrokenPipe.into()),
            ..JournalLog::at(&path)
        };
        let subscriber = tracing_subscriber::registry().with(log);
        tracing::subscriber::with_default(subscriber, || {
            for number in 1..=KEPT_MAX + 2 {
                tracing::info!("number {number}");
            }
            let journal = UnixDatagram::bind(&path).unwrap();
            let (read, write) = (journal.try_clone().unwrap(), || tracing::info!("back"));
            let mut expected = vec!["2 messages were lost while there was no journal".to_owned()];
            expected.extend((3..=KEPT_MAX + 2).map(|number| format!("number {number}")));
            expected.push("back".to_owned());
            // The socket takes few datagrams at a time: it is read while the messages come.
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                expected.into_iter().for_each(|message| {
                    let length = read.recv(&mut bytes).unwrap();
                    let entry = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    assert!(
                        entry.starts_with(&format!("MESSAGE={message}\n")),
                        "{entry}"
                    );
                });
            });
            write();
            reader.join().unwrap();
        });
    }

    #[test]
    fn another_message_has_none() {
        let entry = logged(|| tracing::info!("an {}", "x"));
        assert_eq!(
            entry,
            "MESSAGE=an x\nPRIORITY=6\nSYSLOG_IDENTIFIER=eql-sensor\n"
        );
    }
}
