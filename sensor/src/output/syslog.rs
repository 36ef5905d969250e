//! Alerts to a syslog daemon on this host, as RFC 5424 has it.
//!
//! In: alerts. Out: one datagram each, to a unix socket. It passes no control character and waits for room in the socket, for a moment;
//! what is not taken then waits outside.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::journald::{IDENTIFIER, connect};
use super::waiting::{Remote, is_full};
use super::{deed, json};
use crate::alert::Alert;
use crate::response::Deed;
use crate::rule::Severity;

/// Security messages that not everybody may read.
const AUTHPRIV: u8 = 10;
/// Name of our structured data: 32473 is the number set aside for those who registered none.
const DATA_ID: &str = "alert@32473";

/// A writer to one socket; connects when first needed.
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// The daemon behind a datagram socket.
    #[must_use]
    pub fn at(path: &Path) -> Syslog {
        Syslog {
            path: path.to_owned(),
            socket: None,
        }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        socket.send(message)?;
        self.socket = Some(socket);
        Ok(())
    }
}

impl Remote for Syslog {
    fn name(&self) -> String {
        format!("the syslog daemon at `{}`", self.path.display())
    }

    fn spell(&self, alert: &Alert, entry: &mut Vec<u8>) {
        entry.extend_from_slice(message(alert).as_bytes());
    }

    fn spell_deed(&self, deed: &Deed, entry: &mut Vec<u8>) {
        entry.extend_from_slice(deed::syslog_message(deed).as_bytes());
    }

    fn attempt(&mut self, _sequence: Option<u64>, message: &[u8]) -> io::Result<()> {
        match self.send(message) {
            // A daemon that was restarted has another socket behind the same name.
            Err(error) if !is_full(&error) => self.send(message),
            other => other,
        }
    }
}

/// An alert as one message; the message id is the rule's id.
#[must_use]
pub fn message(alert: &Alert) -> String {
    let rule = &alert.rule;
    let subject = &alert.subject;
    let process = alert.tree.first();
    Parts {
        level: level(rule.severity),
        wall_ns: alert.wall_ns,
        host: subject.host_name.as_deref(),
        id: &rule.id,
        data_id: DATA_ID,
        text: &alert.message,
    }
    .message([
        ("seq", Some(alert.sequence.to_string())),
        ("rule", Some(rule.name.clone())),
        ("ruleId", Some(rule.id.clone())),
        ("severity", Some(rule.severity.name().to_owned())),
        ("risk", Some(rule.risk_score.to_string())),
        ("lost", Some(alert.lost.to_string())),
        (
            "exe",
            process.and_then(|process| process.executable.clone()),
        ),
        (
            "pid",
            process
                .and_then(|process| process.pid)
                .map(|pid| pid.to_string()),
        ),
        ("user", subject.user_name.clone()),
    ])
}

/// What every message has.
pub(super) struct Parts<'a> {
    pub(super) level: u8,
    pub(super) wall_ns: i64,
    pub(super) host: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) data_id: &'a str,
    pub(super) text: &'a str,
}

impl Parts<'_> {
    /// `<PRI>1 TIME HOST eql-sensor PID MSGID [DATA] MESSAGE`, with those of the parameters that have a value.
    pub(super) fn message<const N: usize>(
        &self,
        parameters: [(&str, Option<String>); N],
    ) -> String {
        let mut text = format!(
            "<{}>1 {} {} {IDENTIFIER} {} {} [{}",
            AUTHPRIV * 8 + self.level,
            timestamp(self.wall_ns),
            header(self.host, 255),
            std::process::id(),
            header(Some(self.id), 32),
            self.data_id,
        );
        for (name, value) in parameters {
            if let Some(value) = value {
                // A String takes any write.
                let _ = write!(text, " {name}=\"{}\"", parameter(&value));
            }
        }
        text.push_str("] ");
        text.push_str(self.text);
        text
    }
}

/// Milliseconds will do; microseconds are the finest the format allows.
fn timestamp(wall_ns: i64) -> String {
    let mut time = Vec::new();
    json::write_date(wall_ns - wall_ns.rem_euclid(1_000_000), &mut time);
    String::from_utf8_lossy(&time).into_owned()
}

/// Printable ASCII without spaces, or `-`.
fn header(value: Option<&str>, length_max: usize) -> String {
    let text: String = value
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_graphic)
        .take(length_max)
        .collect();
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// A value in quotes, as the format escapes it.
fn parameter(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => text.extend(['\\', c]),
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    text
}

/// Never 0, which goes to every terminal.
fn level(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 2,
        Severity::High => 3,
        Severity::Medium => 4,
        Severity::Low => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::super::Sink as _;
    use super::super::waiting::Waiting;
    use super::*;
    use crate::alert::sample;

    #[test]
    fn an_alert_is_one_message_of_the_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Waiting::new(Syslog::at(&path), None, Arc::default());
        let alert = sample::alert(
            &sample::rule("A \"]\" rule", "r-1", "high"),
            sample::CHAIN,
            2,
        );
        syslog.write(&alert, &AtomicBool::new(false)).unwrap();
        let mut bytes = vec![0; 1 << 16];
        let length = daemon.recv(&mut bytes).unwrap();
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let pid = std::process::id();
        assert_eq!(
            text,
            format!(
                "<83>1 2026-01-01T00:00:06.000Z - eql-sensor {pid} r-1 [alert@32473 seq=\"1\" rule=\"A \\\"\\]\\\" rule\" \
                 ruleId=\"r-1\" severity=\"high\" risk=\"73\" lost=\"2\" exe=\"/tmp/w/rev\" pid=\"267\" user=\"root\"] {}",
                alert.message
            )
        );
    }

    #[test]
    fn a_daemon_that_comes_back_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let first = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Waiting::new(Syslog::at(&path), None, Arc::default());
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0);
        syslog.write(&alert, &AtomicBool::new(false)).unwrap();
        drop(first);
        std::fs::remove_file(&path).unwrap();
        assert!(syslog.write(&alert, &AtomicBool::new(true)).is_err());
        let second = UnixDatagram::bind(&path).unwrap();
        syslog.write(&alert, &AtomicBool::new(false)).unwrap();
        assert!(second.recv(&mut [0; 1 << 12]).unwrap() > 0);
    }
}
