//! Alerts as native journal entries.
//!
//! In: alerts. Out: datagrams of the journal's native protocol. A send waits for the journal to have room, for a moment; what it does
//! not take then waits outside. A journal that was killed has lost what it had taken and not yet written: the last entries before are sent again, marked.
//! It never passes a control character in `MESSAGE`, nor a priority that is broadcast to terminals.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sha2::{Digest as _, Sha256};

use super::receipts::Receipts;
use super::waiting::{Remote, is_away, is_full};
use super::{deed, json};
use crate::alert::Alert;
use crate::response::Deed;
use crate::rule::Severity;

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// What entries are filed under.
pub const IDENTIFIER: &str = "eql-sensor";

/// Asked of the kernel for datagrams that wait for the journal; it may grant less.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// How long one send may wait before the end of the sensor is looked for.
const SEND_WAIT: Duration = Duration::from_millis(200);
/// A link the service manager makes anew with each start of the journal: it names the invocation.
const INVOCATION: &str = "/run/systemd/units/invocation:systemd-journald.service";
/// Entries kept for a journal that is killed: what it had in its hand is behind all that its socket queues. The service manager
/// raises that queue to 512 datagrams (`net.unix.max_dgram_qlen`); twice as many.
const RECENT_MAX: usize = 1024;
/// Longest entry kept for that, and all of them together: no more bytes than the send buffer has room for are on their way.
const RECENT_BYTES_MAX: usize = 256 << 10;
const RECENT_TOTAL_MAX: usize = SEND_BUFFER_BYTES;
/// How long before its next start, or before it was first seen to be away, a journal may have been killed.
const KILLED_BEFORE: Duration = Duration::from_secs(5);
/// What marks an entry that may be there already.
const RESENT: &[u8] = b"SENSOR_RESENT=1\n";

/// Whether this system has a journal that takes entries.
#[must_use]
pub fn is_there() -> bool {
    Path::new(SOCKET).exists()
}

/// A writer to one journal socket; connects when first needed.
pub struct Journald {
    path: PathBuf,
    /// As [`INVOCATION`], for a journal that has one.
    link: Option<PathBuf>,
    socket: Option<UnixDatagram>,
    /// Where it is noted that an alert was taken, as soon as it is known whether there is a place.
    receipts: Arc<OnceLock<Option<Receipts>>>,
    /// Which start of the journal took the last entry, where that can be told.
    invocation: Option<(OsString, SystemTime)>,
    recent: Recent,
    /// What it may never have written, to be sent again.
    owed: VecDeque<Vec<u8>>,
}

/// What the journal took last, and when; nothing that would not be sent again.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(SystemTime, Vec<u8>)>,
    bytes: usize,
    /// Since when it has been away, until it is known which start of it took entries again.
    away: Option<SystemTime>,
}

impl Recent {
    fn push(&mut self, sent: SystemTime, entry: &[u8]) {
        if entry.len() > RECENT_BYTES_MAX {
            return;
        }
        // The next start of the journal is to come.
        let since = self.doubtful_since(sent);
        while let Some((sent, oldest)) = self.entries.front()
            && (self.entries.len() >= RECENT_MAX
                || self.bytes + entry.len() > RECENT_TOTAL_MAX
                || since.is_some_and(|since| *sent < since))
        {
            self.bytes -= oldest.len();
            self.entries.pop_front();
        }
        self.bytes += entry.len();
        self.entries.push_back((sent, entry.to_vec()));
    }

    /// From when on it is not known whether the journal wrote what it took, when it was started then.
    fn doubtful_since(&self, started: SystemTime) -> Option<SystemTime> {
        let ended = self.away.map_or(started, |away| away.min(started));
        ended.checked_sub(KILLED_BEFORE)
    }

    /// Gives away what a journal that was started then may never have written.
    fn take(&mut self, started: SystemTime) -> impl Iterator<Item = Vec<u8>> + use<> {
        let since = self.doubtful_since(started);
        self.away = None;
        self.bytes = 0;
        let entries = std::mem::take(&mut self.entries).into_iter();
        let doubtful = entries.filter(move |(sent, _)| since.is_none_or(|since| *sent >= since));
        doubtful.map(|(_, entry)| entry)
    }
}

impl Journald {
    /// The journal of this system.
    #[must_use]
    pub fn system(receipts: Arc<OnceLock<Option<Receipts>>>) -> Journald {
        Journald {
            link: Some(INVOCATION.into()),
            receipts,
            ..Journald::at(Path::new(SOCKET))
        }
    }

    /// The journal behind another socket.
    #[must_use]
    pub fn at(path: &Path) -> Journald {
        Journald {
            path: path.to_owned(),
            link: None,
            socket: None,
            receipts: Arc::default(),
            invocation: None,
            recent: Recent::default(),
            owed: VecDeque::new(),
        }
    }

    /// One attempt to hand over an entry.
    fn send(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
        let receipts = self.receipts.get().and_then(Option::as_ref);
        if let (Some(receipts), Some(sequence)) = (receipts, sequence) {
            return send_whole(entry, |parts, control| {
                receipts.send(&self.path, parts, control, sequence)
            });
        }
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.path)?,
        };
        let sent = send_whole(entry, |parts, control| {
            rustix::net::sendmsg(&socket, parts, control, SendFlags::NOSIGNAL)?;
            Ok(())
        });
        // A socket whose other end went away stays useless; a full one does not.
        if sent.as_ref().err().is_none_or(is_full) {
            self.socket = Some(socket);
        }
        sent
    }
}

impl Journald {
    /// Owes the last entries again when the journal has been started anew since: only it knows whether it wrote them.
    fn look_for_a_new_start(&mut self) {
        // The service manager takes the link away between two starts: what was known of the first is needed then.
        let Some(found) = self.link.as_deref().and_then(invocation) else {
            return;
        };
        if self.invocation.as_ref() == Some(&found) {
            self.recent.away = None;
            return;
        }
        if self.invocation.is_some() {
            self.owed.extend(self.recent.take(found.1));
        }
        self.invocation = Some(found);
    }

    fn send_noting(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
        let sent = self.send(sequence, entry);
        if sent.as_ref().is_err_and(is_away) && self.link.is_some() {
            self.recent.away.get_or_insert_with(SystemTime::now);
        }
        sent
    }
}

impl Remote for Journald {
    fn name(&self) -> String {
        "the journal".to_owned()
    }

    fn spell(&self, alert: &Alert, entry: &mut Vec<u8>) {
        write_entry(alert, entry);
    }

    fn spell_deed(&self, deed: &Deed, entry: &mut Vec<u8>) {
        deed::write_entry(deed, entry);
    }

    fn attempt(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
        self.pay()?;
        let left = self.receipts.get().and_then(Option::as_ref);
        if sequence.is_some() && left.and_then(Receipts::left) == sequence {
            // Its receipt was the last thing that an earlier run lived to see.
            return Ok(());
        }
        self.send_noting(sequence, entry)?;
        if self.recent.away.is_some() {
            // Not with the next alert only: there may be none for long.
            self.look_for_a_new_start();
        }
        self.recent.push(SystemTime::now(), entry);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.receipts.get().is_some()
    }

    fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    fn pay(&mut self) -> io::Result<()> {
        self.look_for_a_new_start();
        while let Some(mut entry) = self.owed.pop_front() {
            let length = entry.len();
            entry.extend_from_slice(RESENT);
            // They have their receipts.
            if let Err(error) = self.send_noting(None, &entry) {
                entry.truncate(length);
                self.owed.push_front(entry);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Which start of the journal runs, and since when.
fn invocation(link: &Path) -> Option<(OsString, SystemTime)> {
    let started = std::fs::symlink_metadata(link).ok()?.modified().ok()?;
    Some((std::fs::read_link(link).ok()?.into(), started))
}

pub(super) fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    prepare(&socket)?;
    Ok(socket)
}

/// Has a socket wait for the journal, and hold much.
pub(super) fn prepare(socket: &UnixDatagram) -> io::Result<()> {
    socket.set_write_timeout(Some(SEND_WAIT))?;
    // A smaller buffer works too, it only waits more often.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES);
    Ok(())
}

fn is_too_large(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(Errno::MSGSIZE.raw_os_error()) || errno == Some(Errno::NOBUFS.raw_os_error())
}

/// Sends an entry: as one datagram, or as a memory file where it is too large for that.
fn send_whole(
    entry: &[u8],
    send: impl Fn(&[IoSlice<'_>], &mut SendAncillaryBuffer<'_, '_, '_>) -> io::Result<()>,
) -> io::Result<()> {
    match send(&[IoSlice::new(entry)], &mut SendAncillaryBuffer::default()) {
        Err(error) if is_too_large(&error) => {}
        other => return other,
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = std::fs::File::from(rustix::fs::memfd_create("eql-sensor-alert", flags)?);
    file.write_all(entry)?;
    // The journal takes only files nobody can change while it reads them.
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a file descriptor"));
    }
    send(&[IoSlice::new(&[])], &mut control)
}

/// Appends an alert as one entry of the native protocol.
pub fn write_entry(alert: &Alert, out: &mut Vec<u8>) {
    let rule = &alert.rule;
    let subject = &alert.subject;
    let process = alert.tree.first();
    field(out, "MESSAGE", &alert.message);
    field(out, "MESSAGE_ID", &message_id(&rule.id));
    field(out, "PRIORITY", priority(rule.severity));
    field(out, "SYSLOG_IDENTIFIER", IDENTIFIER);
    field(out, "SENSOR_ALERT_SEQ", &alert.sequence.to_string());
    if alert.generation > 0 {
        field(out, "SENSOR_GENERATION", &alert.generation.to_string());
    }
    field(out, "SENSOR_RULE_ID", &rule.id);
    field(out, "SENSOR_RULE_NAME", &rule.name);
    field(out, "SENSOR_SEVERITY", rule.severity.name());
    field(out, "SENSOR_RISK_SCORE", &rule.risk_score.to_string());
    field(out, "SENSOR_LOST", &alert.lost.to_string());
    let repeats = alert.repeats.as_ref();
    maybe(
        out,
        "SENSOR_REPEATS",
        repeats.map(|repeats| repeats.count.to_string()).as_deref(),
    );
    let executable = process.and_then(|process| process.executable.as_deref());
    maybe(out, "PROCESS_EXECUTABLE", executable);
    let pid = process.and_then(|process| process.pid);
    maybe(
        out,
        "PROCESS_PID",
        pid.map(|pid| pid.to_string()).as_deref(),
    );
    let entity_id = process.and_then(|process| process.entity_id.as_deref());
    maybe(out, "PROCESS_ENTITY_ID", entity_id);
    maybe(out, "USER_NAME", subject.user_name.as_deref());
    maybe(out, "HOST_ID", subject.host_id.as_deref());
    maybe(out, "CONTAINER_ID", subject.container_id.as_deref());
    let mut document = Vec::new();
    json::write_alert(alert, &mut document);
    field_bytes(out, "SENSOR_ECS", &document);
}

pub(super) fn maybe(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        field(out, name, value);
    }
}

pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    field_bytes(out, name, value.as_bytes());
}

/// `NAME=value` and a line end; a value that holds line ends goes with its length before it, so that it can not make up
/// fields of its own.
pub(super) fn field_bytes(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Never 0, which goes to every terminal.
fn priority(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "2",
        Severity::High => "3",
        Severity::Medium => "4",
        Severity::Low => "5",
    }
}

/// The id under which the journal files a rule's alerts: a UUID without its dashes; any other rule id is hashed into one.
#[must_use]
pub fn message_id(rule_id: &str) -> String {
    let digits: String = rule_id.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return digits.to_ascii_lowercase();
    }
    let hash = Sha256::digest(rule_id.as_bytes());
    hash.iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read as _, Seek as _};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::AtomicBool;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    use super::super::Sink as _;
    use super::super::waiting::Waiting;
    use super::*;
    use crate::alert::sample;

    /// Reads an entry of the native protocol back.
    fn fields(entry: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut rest = entry;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'=' || *b == b'\n').unwrap();
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let (value, after) = if rest[end] == b'=' {
                let line = &rest[end + 1..];
                let length = line.iter().position(|b| *b == b'\n').unwrap();
                (&line[..length], &line[length..])
            } else {
                let (length, tail) = rest[end + 1..].split_at(8);
                let length = u64::from_le_bytes(length.try_into().unwrap());
                tail.split_at(usize::try_from(length).unwrap())
            };
            assert_eq!(after[0], b'\n');
            fields.push((name, value.to_vec()));
            rest = &after[1..];
        }
        fields
    }

    fn value<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> &'a str {
        let found = fields.iter().find(|(known, _)| known == name);
        let (_, value) = found.unwrap_or_else(|| panic!("no field {name}"));
        std::str::from_utf8(value).unwrap()
    }

    /// Without a place to wait in.
    fn output(journald: Journald) -> Waiting<Journald> {
        Waiting::new(journald, None, Arc::default())
    }

    fn journal() -> (tempfile::TempDir, UnixDatagram, Waiting<Journald>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let writer = output(Journald::at(&path));
        (directory, journal, writer)
    }

    #[test]
    fn what_was_sent_lately_is_kept_within_bounds() {
        let mut recent = Recent::default();
        let begun = SystemTime::now();
        for second in 0..10 {
            recent.push(begun + Duration::from_secs(second), b"entry");
        }
        assert_eq!(
            (recent.entries.len(), recent.bytes),
            (6, 30),
            "five seconds"
        );
        let now = begun + Duration::from_secs(9);
        for _ in 0..2 * RECENT_MAX {
            recent.push(now, b"entry");
        }
        assert_eq!(recent.entries.len(), RECENT_MAX);
        recent.push(now, &vec![0; RECENT_BYTES_MAX + 1]);
        assert_eq!(recent.bytes, RECENT_MAX * 5);
        for _ in 0..100 {
            recent.push(now, &vec![0; RECENT_BYTES_MAX]);
        }
        let whole = RECENT_TOTAL_MAX / RECENT_BYTES_MAX;
        assert_eq!(recent.entries.len(), whole);
        assert_eq!(recent.take(now).count(), whole);
        assert_eq!((recent.entries.len(), recent.bytes), (0, 0));
    }

    static NOT_ENDING: AtomicBool = AtomicBool::new(false);

    #[test]
    fn an_alert_arrives_as_structured_fields() {
        let (_directory, journal, mut writer) = journal();
        let id = "64CFCA9E-0f6f-4048-8251-9ec56a055e9e";
        let alert = sample::alert(&sample::rule("Rule", id, "critical"), sample::CHAIN, 0);
        writer.write(&alert, &NOT_ENDING).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let length = journal.recv(&mut bytes).unwrap();
        let found = fields(&bytes[..length]);
        for (name, expected) in [
            (
                "MESSAGE",
                "Rule: gcc (pid 262) → ld wrote /tmp/w/rev → ./rev (pid 267) → 203.0.113.5:4444",
            ),
            ("MESSAGE_ID", "64cfca9e0f6f404882519ec56a055e9e"),
            ("PRIORITY", "2"),
            ("SYSLOG_IDENTIFIER", "eql-sensor"),
            ("SENSOR_ALERT_SEQ", "1"),
            ("SENSOR_RULE_ID", id),
            ("SENSOR_RULE_NAME", "Rule"),
            ("SENSOR_SEVERITY", "critical"),
            ("SENSOR_RISK_SCORE", "99"),
            ("SENSOR_LOST", "0"),
            ("PROCESS_EXECUTABLE", "/tmp/w/rev"),
            ("PROCESS_PID", "267"),
            ("PROCESS_ENTITY_ID", "rev-267"),
            ("USER_NAME", "root"),
            ("HOST_ID", "h1"),
        ] {
            assert_eq!(value(&found, name), expected);
        }
        let document: serde_json::Value =
            serde_json::from_str(value(&found, "SENSOR_ECS")).unwrap();
        assert_eq!(document["rule"]["id"], id);
        for (name, _) in &found {
            assert!(name.len() <= 64 && !name.starts_with('_'), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn a_line_end_in_a_value_makes_no_field() {
        let (_directory, journal, mut writer) = journal();
        let events: &[&[(&str, &str)]] = &[&[
            ("process.executable", "/tmp/a\nMESSAGE=forged"),
            ("process.name", "a\nPRIORITY=0"),
        ]];
        let alert = sample::alert(&sample::rule("R", "not-a-uuid", "low"), events, 0);
        writer.write(&alert, &NOT_ENDING).unwrap();
        let mut bytes = vec![0; 1 << 20];
        let length = journal.recv(&mut bytes).unwrap();
        let found = fields(&bytes[..length]);
        assert_eq!(
            value(&found, "PROCESS_EXECUTABLE"),
            "/tmp/a\nMESSAGE=forged"
        );
        assert_eq!(value(&found, "MESSAGE"), "R: a\\nPRIORITY=0 event");
        assert_eq!(
            found.iter().filter(|(name, _)| name == "MESSAGE").count(),
            1
        );
        assert_eq!(
            found.iter().filter(|(name, _)| name == "PRIORITY").count(),
            1
        );
    }

    #[test]
    fn an_entry_too_large_for_a_datagram_goes_as_a_sealed_file() {
        let (_directory, journal, mut writer) = journal();
        let long = "x".repeat(24 << 20);
        let events: &[&[(&str, &str)]] = &[&[("process.executable", &long)]];
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), events, 0);
        writer.write(&alert, &NOT_ENDING).unwrap();

        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0_u8; 16];
        let received = rustix::net::recvmsg(
            &journal,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::empty(),
        )
        .unwrap();
        assert_eq!(received.bytes, 0);
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(found) = message {
                descriptors.extend(found);
            }
        }
        assert_eq!(descriptors.len(), 1);
        let mut file = std::fs::File::from(descriptors.pop().unwrap());
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW));
        let mut entry = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut entry).unwrap();
        assert_eq!(
            value(&fields(&entry), "PROCESS_EXECUTABLE").len(),
            long.len()
        );
    }

    #[test]
    fn a_journal_that_comes_back_gets_the_alert() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixDatagram::bind(&path).unwrap());
        let mut writer = output(Journald::at(&path));
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0);
        let refused = writer.write(&alert, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write(&alert, &NOT_ENDING));
            std::fs::remove_file(&path).unwrap();
            let journal = UnixDatagram::bind(&path).unwrap();
            let mut bytes = vec![0; 1 << 20];
            let length = journal.recv(&mut bytes).unwrap();
            assert_eq!(value(&fields(&bytes[..length]), "SENSOR_RULE_ID"), "r-1");
            writing.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_journal_that_was_away_for_long_gets_the_last_alerts_before_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (
            directory.path().join("socket"),
            directory.path().join("link"),
        );
        let mut writer = output(Journald {
            link: Some(link.clone()),
            ..Journald::at(&path)
        });
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0);
        let started = |name: &str| std::os::unix::fs::symlink(name, &link).unwrap();
        started("first");
        let journal = UnixDatagram::bind(&path).unwrap();
        writer.write(&alert, &NOT_ENDING).unwrap();
        drop(journal);
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&link).unwrap();
        let ending = AtomicBool::new(true);
        writer.write(&alert, &ending).unwrap_err();
        // A minute later its socket is there first, then the journal.
        let minute = Duration::from_secs(60);
        let away = writer.remote.recent.away.as_mut().unwrap();
        *away -= minute;
        let entries = writer.remote.recent.entries.iter_mut();
        entries.for_each(|(sent, _)| *sent -= minute);
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let mut sent = || {
            writer.write(&alert, &NOT_ENDING).unwrap();
            let mut bytes = vec![0; 1 << 20];
            let mut marks = Vec::new();
            while let Ok(length) = journal.recv(&mut bytes) {
                marks.push(bytes[..length].ends_with(RESENT));
            }
            marks
        };
        assert_eq!(sent(), [false]);
        started("second");
        assert_eq!(sent(), [true, true, false]);
        assert_eq!(sent(), [false]);
    }

    #[test]
    fn a_journal_started_anew_gets_the_last_alerts_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (
            directory.path().join("socket"),
            directory.path().join("link"),
        );
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_nonblocking(true).unwrap();
        let mut writer = output(Journald {
            link: Some(link.clone()),
            ..Journald::at(&path)
        });
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0);
        let mut sent = || {
            writer.write(&alert, &NOT_ENDING).unwrap();
            let mut bytes = vec![0; 1 << 20];
            let mut marks = Vec::new();
            while let Ok(length) = journal.recv(&mut bytes) {
                marks.push(bytes[..length].ends_with(RESENT));
            }
            marks
        };
        std::os::unix::fs::symlink("first", &link).unwrap();
        assert_eq!(sent(), [false]);
        // Between two starts there is no link.
        std::fs::remove_file(&link).unwrap();
        assert_eq!(sent(), [false]);
        std::os::unix::fs::symlink("second", &link).unwrap();
        assert_eq!(sent(), [true, true, false]);
        assert_eq!(sent(), [false]);
    }

    #[test]
    fn message_ids_are_uuids() {
        assert_eq!(
            message_id("64cfca9e-0f6f-4048-8251-9ec56a055e9e"),
            "64cfca9e0f6f404882519ec56a055e9e"
        );
        let hashed = message_id("my_rule");
        assert_eq!(hashed.len(), 32);
        assert!(hashed.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(hashed, message_id("my_rule"));
        assert_ne!(hashed, message_id("my_rule2"));
    }
}
