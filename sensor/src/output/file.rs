//! Alerts appended to a file as JSON lines.
//!
//! In: alerts. Out: one line each, in one write, so that lines of several writers never mix. It never truncates, and never
//! follows a link somebody planted in place of the file.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::OFlags;

use super::{Sink, json};
use crate::alert::Alert;

/// Readable by the group the file belongs to; the process's umask takes away more.
const MODE: u32 = 0o640;

/// An open alerts file.
pub struct File {
    file: std::fs::File,
    line: Vec<u8>,
    unsettled: bool,
}

impl File {
    /// Opens the file for appending, making it if need be; its directory must be there.
    ///
    /// # Errors
    /// The file can not be opened or made, or is a symbolic link.
    pub fn open(path: &Path) -> io::Result<File> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
            .open(path)?;
        Ok(File {
            file,
            line: Vec::new(),
            unsettled: false,
        })
    }
}

impl Sink for File {
    fn write(&mut self, alert: &Alert, _give_up: &AtomicBool) -> io::Result<()> {
        self.line.clear();
        json::write_alert(alert, &mut self.line);
        self.line.push(b'\n');
        self.unsettled = true;
        self.file.write_all(&self.line)
    }

    fn settle(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.unsettled) {
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

    #[test]
    fn alerts_are_appended_as_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let alert = sample::alert(&sample::rule("R", "r-1", "low"), sample::CHAIN, 0);
        for _ in 0..2 {
            let mut file = File::open(&path).unwrap();
            file.write(&alert, &AtomicBool::new(false)).unwrap();
            file.settle().unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(document["rule"]["id"], "r-1");
        }
    }

    #[test]
    fn a_planted_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        std::os::unix::fs::symlink(directory.path().join("elsewhere"), &path).unwrap();
        assert!(File::open(&path).is_err());
    }
}
