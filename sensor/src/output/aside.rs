//! Alerts files that were put aside: numbered, compressed by a thread of their own, the oldest dropped.
//!
//! In: a full alerts file. Out: `alerts.jsonl.1`, the newest, as it was, then `alerts.jsonl.2.gz` and so on. Alerts never wait for
//! a compression: one under way when the next file comes is given up, and done then. It never removes a file before the compressed
//! one is whole on the disk.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::OFlags;

use super::file::{MODE, RESERVE_BYTES};

/// Ending of a compressed file.
const GZIP: &str = ".gz";
/// Ending of one that is not whole.
const PART: &str = ".gz.part";
const CHUNK_BYTES: usize = 1 << 16;

/// What was put aside of one alerts file.
pub(super) struct Aside {
    path: PathBuf,
    keep: usize,
    gzip: bool,
    pressing: Option<Pressing>,
}

/// Files being compressed.
struct Pressing {
    thread: JoinHandle<()>,
    give_up: Arc<AtomicBool>,
}

impl Aside {
    /// Of the file `path`; at most `keep` are kept, all but the newest compressed if `gzip`.
    pub(super) fn new(path: &Path, keep: usize, gzip: bool) -> Aside {
        Aside {
            path: path.to_owned(),
            keep,
            gzip,
            pressing: None,
        }
    }

    /// Puts the file aside as the newest, and drops the oldest.
    pub(super) fn take(&mut self) -> io::Result<()> {
        self.end_pressing();
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for ending in ["", GZIP] {
            remove_if_there(&self.named(self.keep, ending))?;
        }
        for number in (1..self.keep).rev() {
            for ending in ["", GZIP] {
                let from = self.named(number, ending);
                if from.exists() {
                    fs::rename(&from, self.named(number + 1, ending))?;
                }
            }
        }
        fs::rename(&self.path, self.named(1, ""))
    }

    /// Has all but the newest compressed, meanwhile.
    pub(super) fn press(&mut self) {
        if !self.gzip || self.keep < 2 {
            return;
        }
        self.end_pressing();
        let plain: Vec<PathBuf> = (2..=self.keep)
            .map(|number| self.named(number, ""))
            .filter(|path| path.exists())
            .collect();
        let give_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&give_up);
        let work = move || {
            for path in plain {
                if let Err(error) = compress(&path, &told) {
                    tracing::warn!(
                        "{}: stays as it is, not compressed: {error}",
                        path.display()
                    );
                }
            }
        };
        match std::thread::Builder::new()
            .name("gzip".to_owned())
            .spawn(work)
        {
            Ok(thread) => self.pressing = Some(Pressing { thread, give_up }),
            Err(error) => tracing::warn!("old alerts are not compressed: {error}"),
        }
    }

    fn end_pressing(&mut self) {
        if let Some(Pressing { thread, give_up }) = self.pressing.take() {
            give_up.store(true, Ordering::Relaxed);
            // What it says when it panics is in the log already.
            let _ = thread.join();
        }
    }

    fn named(&self, number: usize, ending: &str) -> PathBuf {
        with_ending(&self.path, &format!(".{number}{ending}"))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.end_pressing();
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(ending);
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts a compressed file in the place of a plain one, or leaves that as it is.
fn compress(plain: &Path, give_up: &AtomicBool) -> io::Result<()> {
    let part = with_ending(plain, PART);
    remove_if_there(&part)?;
    let done = write_compressed(plain, &part, give_up);
    match done {
        Ok(true) => {
            fs::rename(&part, with_ending(plain, GZIP))?;
            fs::remove_file(plain)
        }
        other => {
            remove_if_there(&part)?;
            other.map(drop)
        }
    }
}

/// Whether all of it was written.
fn write_compressed(plain: &Path, part: &Path, give_up: &AtomicBool) -> io::Result<bool> {
    let mut from = File::open(plain)?;
    let to = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
        .open(part)?;
    let disk = rustix::fs::fstatvfs(&to)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < RESERVE_BYTES + from.metadata()?.len() {
        return Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "the disk has no room for both",
        ));
    }
    let mut encoder = GzEncoder::new(to, Compression::default());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            encoder.finish()?.sync_all()?;
            return Ok(true);
        }
        if give_up.load(Ordering::Relaxed) {
            return Ok(false);
        }
        encoder.write_all(chunk.get(..length).unwrap_or_default())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in a directory, by name, compressed or not.
    fn contents(directory: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut text = String::new();
            let file = File::open(&path).unwrap();
            if name.ends_with(GZIP) {
                flate2::read::GzDecoder::new(file)
                    .read_to_string(&mut text)
                    .unwrap();
            } else {
                { file }.read_to_string(&mut text).unwrap();
            }
            found.push((name, text));
        }
        found.sort();
        found
    }

    fn wait_until_pressed(aside: &mut Aside) {
        if let Some(pressing) = aside.pressing.take() {
            pressing.thread.join().unwrap();
        }
    }

    #[test]
    fn all_but_the_newest_are_compressed_and_the_oldest_dropped() {
        for (keep, gzip, expected) in [
            (
                3,
                true,
                &[("a.1", "5"), ("a.2.gz", "4"), ("a.3.gz", "3")] as &[_],
            ),
            (3, false, &[("a.1", "5"), ("a.2", "4"), ("a.3", "3")]),
            (1, true, &[("a.1", "5")]),
            (0, true, &[]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a");
            let mut aside = Aside::new(&path, keep, gzip);
            for number in 1..=5 {
                fs::write(&path, number.to_string()).unwrap();
                aside.take().unwrap();
                aside.press();
                wait_until_pressed(&mut aside);
            }
            let expected = expected
                .iter()
                .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            assert_eq!(contents(directory.path()), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_compression_that_is_given_up_is_done_with_the_next_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let mut aside = Aside::new(&path, 4, true);
        let named = |number: u32| directory.path().join(format!("a.{number}"));
        fs::write(named(2), "2").unwrap();
        // Left by a daemon that was killed over it.
        fs::write(directory.path().join("a.2.gz.part"), "half").unwrap();
        compress(&named(2), &AtomicBool::new(true)).unwrap();
        assert_eq!(
            contents(directory.path()),
            [("a.2".to_owned(), "2".to_owned())]
        );
        fs::write(&path, "1").unwrap();
        aside.take().unwrap();
        aside.press();
        wait_until_pressed(&mut aside);
        let expected =
            [("a.1", "1"), ("a.3.gz", "2")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(contents(directory.path()), expected);
    }
}
