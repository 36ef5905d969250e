//! Alerts, and what was done about them, appended to a file as JSON lines.
//!
//! In: alerts and deeds. Out: one line each, in one write, so that lines of several writers never mix. It never truncates what was
//! written, leaves no half line behind on a full disk, and never follows a link somebody planted in place of the file.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;

use super::aside::Aside;
use super::{Sink, deed, json};
use crate::alert::Alert;
use crate::response::Deed;

/// Readable by the group the file belongs to; the process's umask takes away more.
pub(super) const MODE: u32 = 0o640;
/// Longest that a written alert waits to be made sure of.
const SYNC_EVERY: Duration = Duration::from_millis(200);
/// How often the room left on the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Room that is left to others, in bytes: an alerts file must not be what fills a disk.
pub(super) const RESERVE_BYTES: u64 = 16 << 20;

/// Raised by each request to open files anew.
static REOPEN: AtomicU64 = AtomicU64::new(0);

/// Has every alerts file opened anew before its next alert, for those who moved it away.
pub fn reopen() {
    REOPEN.fetch_add(1, Ordering::Relaxed);
}

/// When a file is put aside for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Largest size, in bytes; 0 is never.
    pub bytes: u64,
    /// Largest age, looked at with each alert; zero is never.
    pub age: Duration,
    /// How many old ones are kept, as `alerts.jsonl.1` (the newest) and so on.
    pub keep: usize,
    /// Whether all of those but the newest are compressed.
    pub gzip: bool,
}

/// An open alerts file.
pub struct File {
    path: PathBuf,
    file: std::fs::File,
    rotation: Rotation,
    aside: Aside,
    reserve_bytes: u64,
    line: Vec<u8>,
    bytes: u64,
    /// When the file was made; where its file system does not know, when it was opened.
    born: SystemTime,
    /// Device and inode, by which a file moved away is told.
    identity: (u64, u64),
    is_plain: bool,
    opened_at: u64,
    unsettled_since: Option<Instant>,
    looked: Option<Instant>,
}

impl File {
    /// Opens the file for appending, making it if need be; its directory must be there.
    ///
    /// # Errors
    /// The file can not be opened or made, or is a symbolic link.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<File> {
        let opened_at = REOPEN.load(Ordering::Relaxed);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
            .open(path)?;
        let metadata = file.metadata()?;
        let bytes = if metadata.is_file() {
            cut_half_line(path, &file, metadata.len())?
        } else {
            metadata.len()
        };
        Ok(File {
            path: path.to_owned(),
            file,
            rotation,
            aside: Aside::new(path, rotation.keep, rotation.gzip),
            reserve_bytes: RESERVE_BYTES,
            line: Vec::new(),
            bytes,
            born: metadata.created().unwrap_or_else(|_| SystemTime::now()),
            identity: (metadata.dev(), metadata.ino()),
            is_plain: metadata.is_file(),
            opened_at,
            unsettled_since: None,
            looked: None,
        })
    }

    /// The same file under its name again, or a new one.
    fn open_anew(&mut self) -> io::Result<()> {
        self.settle()?;
        let anew = File::open(&self.path, self.rotation)?;
        self.file = anew.file;
        self.bytes = anew.bytes;
        self.born = anew.born;
        self.identity = anew.identity;
        self.is_plain = anew.is_plain;
        self.opened_at = anew.opened_at;
        Ok(())
    }

    /// Whether somebody asked for a new one, or moved this one away.
    fn is_gone(&self) -> bool {
        if REOPEN.load(Ordering::Relaxed) != self.opened_at {
            return true;
        }
        let same = |found: std::fs::Metadata| (found.dev(), found.ino()) == self.identity;
        self.is_plain && !self.path.symlink_metadata().is_ok_and(same)
    }

    /// Whether there is something to put aside, and no room for so many bytes more, or no time.
    fn is_over(&self, more: u64) -> bool {
        let Rotation { bytes, age, .. } = self.rotation;
        let is_full = bytes > 0 && self.bytes + more > bytes;
        // A clock that was set back makes no file older.
        let is_old = || !age.is_zero() && self.born.elapsed().is_ok_and(|found| found >= age);
        self.is_plain && self.bytes > 0 && (is_full || is_old())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.settle()?;
        self.aside.take()?;
        self.open_anew()?;
        self.aside.press();
        Ok(())
    }

    /// Appends the line at hand.
    fn append(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        if self.is_gone() {
            self.open_anew()?;
        }
        let length = self.line.len() as u64;
        if self.is_over(length) {
            self.rotate()?;
        }
        self.look_for_room()?;
        if let Err(error) = self.file.write_all(&self.line) {
            // Half a line would spoil the next one, too.
            if self.is_plain {
                let _ = self.file.set_len(self.bytes);
            }
            self.looked = None;
            return Err(error);
        }
        self.bytes += length;
        let since = *self.unsettled_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= SYNC_EVERY {
            self.settle()?;
        }
        Ok(())
    }

    /// Refuses to write when what is left on the disk is for others.
    fn look_for_room(&mut self) -> io::Result<()> {
        if !self.is_plain
            || self
                .looked
                .is_some_and(|looked| looked.elapsed() < LOOK_EVERY)
        {
            return Ok(());
        }
        let disk = rustix::fs::fstatvfs(&self.file)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < self.reserve_bytes {
            let error = format!(
                "the disk is full: {free} bytes are free, of which {} are left to others",
                self.reserve_bytes
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        self.looked = Some(Instant::now());
        Ok(())
    }
}

/// Longest line looked for at the end of a file.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// The last of a file, up to its end at `length`.
fn tail(path: &Path, length: u64) -> io::Result<Vec<u8>> {
    let from = length.saturating_sub(LINE_BYTES_MAX);
    let mut tail = vec![0; usize::try_from(length - from).unwrap_or(0)];
    std::fs::File::open(path)?.read_exact_at(&mut tail, from)?;
    Ok(tail)
}

/// Takes away half a line that a killed writer left at the end. Returns the length there is then.
fn cut_half_line(path: &Path, file: &std::fs::File, length: u64) -> io::Result<u64> {
    let mut last = [0];
    if length == 0 {
        return Ok(0);
    }
    // Not read through the descriptor that appends: it can not.
    let whole =
        std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut last, length - 1));
    if whole.is_err() || last == *b"\n" {
        return Ok(length);
    }
    let tail = tail(path, length)?;
    let Some(end) = tail.iter().rposition(|byte| *byte == b'\n') else {
        // Not a file of lines, or one whose first is half: nothing before it is worth keeping whole.
        return Ok(length);
    };
    let half = (tail.len() - end - 1) as u64;
    file.set_len(length - half)?;
    Ok(length - half)
}

/// Number of the last alert in a file.
#[must_use]
pub fn last_sequence(path: &Path) -> Option<u64> {
    let length = std::fs::metadata(path).ok()?.len();
    let tail = tail(path, length).ok()?;
    let lines = tail.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n');
    for line in lines {
        let document: serde_json::Value = serde_json::from_slice(line).ok()?;
        // Between alerts stands what was done about them.
        if document.pointer("/event/kind")?.as_str() == Some("alert") {
            return document.pointer("/event/sequence")?.as_u64();
        }
    }
    None
}

impl Sink for File {
    fn write(&mut self, alert: &Alert, _give_up: &AtomicBool) -> io::Result<()> {
        self.line.clear();
        json::write_alert(alert, &mut self.line);
        self.append()
    }

    fn tell(&mut self, deed: &Deed, _give_up: &AtomicBool) -> io::Result<()> {
        self.line.clear();
        deed::write_document(deed, &mut self.line);
        self.append()
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.unsettled_since.take().is_none() {
            return Ok(());
        }
        match self.file.sync_data() {
            // Pipes and terminals have nothing to sync.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                Ok(())
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sample;

    const NEVER: Rotation = Rotation {
        bytes: 0,
        age: Duration::ZERO,
        keep: 0,
        gzip: false,
    };
    static NOT_ENDING: AtomicBool = AtomicBool::new(false);

    fn alert() -> Alert {
        sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0)
    }

    fn lines(path: &Path) -> usize {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(document["rule"]["id"], "r-1");
        }
        text.lines().count()
    }

    #[test]
    fn alerts_are_appended_as_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        for _ in 0..2 {
            let mut file = File::open(&path, NEVER).unwrap();
            file.write(&alert(), &NOT_ENDING).unwrap();
            file.settle().unwrap();
        }
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn half_a_line_of_a_killed_writer_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let mut file = File::open(&path, NEVER).unwrap();
        assert_eq!(last_sequence(&path), None);
        let mut last = alert();
        last.sequence = 41;
        file.write(&last, &NOT_ENDING).unwrap();
        assert_eq!(last_sequence(&path), Some(41));
        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..whole.len() / 2]);
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(last_sequence(&path), None);
        let mut file = File::open(&path, NEVER).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        file.write(&alert(), &NOT_ENDING).unwrap();
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn the_last_alert_is_found_behind_what_was_done_about_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let mut file = File::open(&path, NEVER).unwrap();
        let deed = deed::tests::deed();
        file.tell(&deed, &NOT_ENDING).unwrap();
        assert_eq!(last_sequence(&path), None);
        let mut last = alert();
        last.sequence = 41;
        file.write(&last, &NOT_ENDING).unwrap();
        for _ in 0..2 {
            file.tell(&deed, &NOT_ENDING).unwrap();
        }
        assert_eq!(last_sequence(&path), Some(41));
        assert_eq!(lines(&path), 4, "each a document of its own");
    }

    #[test]
    fn a_planted_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
        assert!(File::open(&path, NEVER).is_err());
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let mut one = Vec::new();
        json::write_alert(&alert(), &mut one);
        let two_lines = 2 * (one.len() as u64 + 1);
        let rotation = Rotation {
            bytes: two_lines,
            keep: 2,
            ..NEVER
        };
        let mut file = File::open(&path, rotation).unwrap();
        for _ in 0..7 {
            file.write(&alert(), &NOT_ENDING).unwrap();
        }
        let aside = |number| directory.path().join(format!("alerts.jsonl.{number}"));
        assert_eq!(
            [lines(&path), lines(&aside(1)), lines(&aside(2))],
            [1, 2, 2]
        );
        assert!(!aside(3).exists());
    }

    #[test]
    fn an_old_file_is_put_aside_before_the_next_alert() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let rotation = Rotation {
            age: Duration::from_secs(3600),
            keep: 2,
            ..NEVER
        };
        let mut file = File::open(&path, rotation).unwrap();
        let aside = directory.path().join("alerts.jsonl.1");
        for (age, expected) in [(0, 1), (3599, 2), (3601, 1)] {
            assert!(!aside.exists());
            file.born = SystemTime::now() - Duration::from_secs(age);
            file.write(&alert(), &NOT_ENDING).unwrap();
            assert_eq!(lines(&path), expected);
        }
        assert_eq!(lines(&aside), 2);
        // Its age is its own, whoever opened it when; one that is empty waits.
        file.born = SystemTime::now() + Duration::from_secs(3600);
        file.write(&alert(), &NOT_ENDING).unwrap();
        assert_eq!(lines(&path), 2, "the clock was set back");
        let file = File::open(&path, rotation).unwrap();
        assert!(file.born.elapsed().unwrap() < Duration::from_secs(60));
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let mut file = File::open(&path, NEVER).unwrap();
        file.write(&alert(), &NOT_ENDING).unwrap();
        let moved = directory.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        file.write(&alert(), &NOT_ENDING).unwrap();
        assert_eq!([lines(&moved), lines(&path)], [1, 1]);
        std::fs::remove_file(&path).unwrap();
        file.write(&alert(), &NOT_ENDING).unwrap();
        reopen();
        file.write(&alert(), &NOT_ENDING).unwrap();
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn a_disk_without_room_is_told_and_used_again_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let mut file = File::open(&path, NEVER).unwrap();
        file.reserve_bytes = u64::MAX;
        let error = file.write(&alert(), &NOT_ENDING).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(
            error.to_string().starts_with("the disk is full: "),
            "{error}"
        );
        assert_eq!(lines(&path), 0);
        file.reserve_bytes = 0;
        file.write(&alert(), &NOT_ENDING).unwrap();
        assert_eq!(lines(&path), 1);

        let mut full = File::open(Path::new("/dev/full"), NEVER).unwrap();
        let error = full.write(&alert(), &NOT_ENDING).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
