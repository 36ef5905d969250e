//! The daemon's state in one file, so that the next run goes on where this one stopped.
//!
//! In: what the stages remember at one moment between two records. Out: a file in the state directory, replaced as a whole, and
//! the same again at the next start. A file that is not whole, or of another form, is put aside and told loudly; one of an earlier
//! boot means nothing any more. It is not synced to the disk: it is for the end of this process, not of the machine. Reading it
//! never panics and never takes half of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::commands;
use crate::engine::Snapshot;
use crate::enrich::Memory;
use crate::event::{Event, Gauge, Host};
use crate::keep::{Broken, Keep, Reader, Writer, keep};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "state.bin";
/// What the file begins with.
const MAGIC: &[u8; 16] = b"eql-sensor state";
/// Of the form of everything in it. Raised with every change of a type that is kept: a test holds a sample against it.
const VERSION: u32 = 2;
/// Magic, version, length, hash.
const HEAD_LEN: usize = 16 + 4 + 8 + 32;
/// Longest file that is written or read: the engine's and the table's own bounds are far below.
const FILE_BYTES_MAX: usize = 512 << 20;

/// Everything at one moment.
#[derive(Debug)]
pub struct Saved {
    pub taken: Taken,
    pub memory: Memory,
    pub engine: Snapshot<Arc<Event>>,
    /// Number of the last alert.
    pub alerts: u64,
    /// Alerts by rule id.
    pub by_rule: Vec<(String, u64)>,
    /// What rules for new terms have seen.
    pub baselines: Vec<Baseline>,
    /// Counts the images in it.
    pub images: Gauge,
}

/// The moment, and how the run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub boot_id: Arc<str>,
    /// Boot clock, nanoseconds.
    pub at_ns: u64,
    /// Of a run that was told to end.
    pub last: bool,
    /// The process that took it.
    pub pid: u32,
    /// Records it covers, of those that came since the kernel programs were loaded, and those that were lost.
    pub number: u64,
    pub lost: u64,
}

/// What one rule for new terms has seen, on the boot clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baseline {
    pub rule: String,
    /// Of the rule's file: another text, another baseline.
    pub digest: u64,
    pub since_ns: i64,
    pub terms: Vec<(u128, i64)>,
}

keep! {
    Taken { boot_id, at_ns, last, pid, number, lost }
    Baseline { rule, digest, since_ns, terms }
}

/// Why a file can not be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no state of this sensor")]
    Foreign,
    #[error("its form is {0}, this build reads {VERSION}")]
    Version(u32),
    #[error("it has {found} bytes behind its head, must have {expected}")]
    Length { found: usize, expected: u64 },
    #[error("it is damaged: its hash is not that of its contents")]
    Hash,
    #[error("it can not be read back: {0}")]
    Broken(#[from] Broken),
    #[error("its partial matches can not be read back: {0}")]
    Engine(#[from] serde_json::Error),
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Saved {
    /// As the file has it, head included.
    ///
    /// # Errors
    /// The engine's part can not be written as JSON.
    pub fn write(&self) -> serde_json::Result<Vec<u8>> {
        let mut to = Writer::default();
        to.raw(&[0; HEAD_LEN]);
        let Saved {
            taken,
            memory,
            engine,
            alerts,
            by_rule,
            baselines,
            images: _,
        } = self;
        taken.write(&mut to);
        memory.write(&mut to);
        alerts.write(&mut to);
        by_rule.write(&mut to);
        baselines.write(&mut to);
        // An event that several partial matches hold is written once.
        let mut events = Vec::new();
        let mut numbers = std::collections::HashMap::new();
        let numbered = engine.map(|event| {
            *numbers.entry(Arc::as_ptr(event)).or_insert_with(|| {
                events.push(Arc::clone(event));
                events.len() - 1
            })
        });
        events.write(&mut to);
        serde_json::to_string(&numbered)?.write(&mut to);
        let mut bytes = to.bytes();
        let (head, body) = bytes.split_at_mut(HEAD_LEN);
        let mut parts = Vec::with_capacity(HEAD_LEN);
        parts.extend_from_slice(MAGIC);
        parts.extend_from_slice(&VERSION.to_le_bytes());
        parts.extend_from_slice(&(body.len() as u64).to_le_bytes());
        parts.extend_from_slice(&Sha256::digest(body));
        head.copy_from_slice(&parts);
        Ok(bytes)
    }

    /// Reads a file back. `None` when it is of an earlier boot.
    ///
    /// # Errors
    /// The bytes are not a whole file of this form.
    pub fn read(bytes: &[u8], host: &Arc<Host>) -> Result<Option<Saved>, ReadError> {
        let (head, body) = bytes.split_at_checked(HEAD_LEN).ok_or(ReadError::Foreign)?;
        let mut head = Reader::plain(head);
        if head.raw(MAGIC.len())? != MAGIC {
            return Err(ReadError::Foreign);
        }
        let version = u32::from_le_bytes(<[u8; 4]>::read(&mut head)?);
        if version != VERSION {
            return Err(ReadError::Version(version));
        }
        let expected = u64::from_le_bytes(<[u8; 8]>::read(&mut head)?);
        if body.len() as u64 != expected {
            let found = body.len();
            return Err(ReadError::Length { found, expected });
        }
        if *head.raw(32)? != *Sha256::digest(body) {
            return Err(ReadError::Hash);
        }
        Saved::read_body(body, host)
    }

    fn read_body(body: &[u8], host: &Arc<Host>) -> Result<Option<Saved>, ReadError> {
        let images = Gauge::default();
        let mut from = Reader::new(body, Arc::clone(host), images.clone());
        let taken = Taken::read(&mut from)?;
        if taken.boot_id != host.boot_id {
            return Ok(None);
        }
        let memory = Keep::read(&mut from)?;
        let (alerts, by_rule) = (Keep::read(&mut from)?, Keep::read(&mut from)?);
        let baselines = Keep::read(&mut from)?;
        let events: Vec<Arc<Event>> = Keep::read(&mut from)?;
        let numbered = String::read(&mut from)?;
        from.end()?;
        let numbered: Snapshot<usize> = serde_json::from_str(&numbered)?;
        let event = |number: &usize| events.get(*number).cloned();
        let engine = numbered.try_map(|number| event(number).ok_or(Broken::No("event")))?;
        Ok(Some(Saved {
            taken,
            memory,
            engine,
            alerts,
            by_rule,
            baselines,
            images,
        }))
    }
}

impl Store {
    #[must_use]
    pub fn below(state_directory: &Path) -> Store {
        Store {
            path: state_directory.join(FILE_NAME),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What an earlier run of this boot left, if anything. A file that can not be used is put aside, loudly.
    #[must_use]
    pub fn load(&self, host: &Arc<Host>) -> Option<Saved> {
        let error = match self.read(host) {
            Ok(state) => return state,
            Err(error) => error,
        };
        let consequence = "sequences that were under way are forgotten";
        commands::put_aside(&self.path, &error, consequence);
        None
    }

    fn read(&self, host: &Arc<Host>) -> Result<Option<Saved>, ReadError> {
        match commands::read_kept(&self.path, FILE_BYTES_MAX as u64)? {
            Some(bytes) => Saved::read(&bytes, host),
            None => Ok(None),
        }
    }

    /// Puts a state in the place of the one before. Returns its size in bytes.
    ///
    /// # Errors
    /// It can not be written; then the one before is still there.
    pub fn save(&self, state: &Saved) -> io::Result<usize> {
        let bytes = state.write()?;
        if bytes.len() > FILE_BYTES_MAX {
            let error = format!("{} bytes, at most {FILE_BYTES_MAX}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, error));
        }
        let mut new = self.path.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // Half a file is of no use, and on a full disk it is in the way.
            let _ = fs::remove_file(&new);
        }
        written.map(|()| bytes.len())
    }
}

#[cfg(test)]
mod tests;
