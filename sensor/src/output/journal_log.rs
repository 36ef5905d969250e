//! The sensor's own log as native journal entries, when it runs as a service.
//!
//! In: log messages. Out: entries with a priority by level and, for lifecycle messages, the message id the catalog explains.
//! It never loses a message because the journal is away: what the journal does not take at once goes to standard error.

use std::fmt::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::journald::{IDENTIFIER, SOCKET, connect, field};
use super::lifecycle;

/// A writer of log messages to one journal socket.
pub struct JournalLog {
    path: PathBuf,
    socket: Mutex<Option<UnixDatagram>>,
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
            socket: Mutex::new(None),
        }
    }

    /// Whether the journal took the entry.
    fn send(&self, entry: &[u8]) -> bool {
        let Ok(mut held) = self.socket.lock() else {
            return false;
        };
        for _ in 0..2 {
            let socket = match held.take() {
                Some(socket) => socket,
                None => match connect(&self.path) {
                    Ok(socket) => socket,
                    Err(_) => return false,
                },
            };
            if socket.send(entry).is_ok() {
                *held = Some(socket);
                return true;
            }
        }
        false
    }
}

impl<S: Subscriber> Layer<S> for JournalLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let message = format!("{}{}", text.message, text.facts);
        let mut entry = Vec::with_capacity(256);
        field(&mut entry, "MESSAGE", &message);
        let metadata = event.metadata();
        field(&mut entry, "PRIORITY", priority(*metadata.level()));
        field(&mut entry, "SYSLOG_IDENTIFIER", IDENTIFIER);
        if let Some(moment) = lifecycle::moment(metadata.target()) {
            field(&mut entry, "MESSAGE_ID", moment.message_id);
        }
        for (name, value) in &text.fields {
            field(&mut entry, name, value);
        }
        if !self.send(&entry) {
            eprintln!("{message}");
        }
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
    fn another_message_has_none() {
        let entry = logged(|| tracing::info!("an {}", "x"));
        assert_eq!(
            entry,
            "MESSAGE=an x\nPRIORITY=6\nSYSLOG_IDENTIFIER=eql-sensor\n"
        );
    }
}
