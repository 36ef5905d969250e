//! Entries for an output whose place is away, on disk until it is back.
//!
//! In: entries as they are to be sent, and the numbers of their alerts. Out: the same in order, after a restart too. It is one file
//! up to a size: a head that says how far it is done, then the entries, each with its length before it, so that a part of one is none.
//! It is not synced: it is for the end of this process, not of the machine; the alerts file is what outlives that. When all is sent
//! it is empty again. Reading it never panics; what is damaged is told and given up from there on.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"eqlspool";
/// Magic, where the first entry is that is not sent.
const HEAD_LEN: u64 = 16;
/// Before an entry: its alert's number, its length, and the same again turned over.
const ENTRY_HEAD_LEN: u64 = 16;
/// In the place of a number.
const NO_ALERT: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    file: File,
    bytes_max: u64,
    /// Where the first entry that is not sent begins, and where the last ends.
    first: u64,
    end: u64,
    count: u64,
    last: Option<u64>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Number of its alert, if it is one.
    pub sequence: Option<u64>,
    pub entry: Vec<u8>,
}

impl Spool {
    /// The file of an earlier run, or a new one.
    ///
    /// # Errors
    /// It can not be opened, read or written.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<Spool> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut spool = Spool {
            path: path.to_owned(),
            file,
            bytes_max,
            first: HEAD_LEN,
            end: HEAD_LEN,
            count: 0,
            last: None,
        };
        spool.take_up()?;
        Ok(spool)
    }

    /// Finds the entries that an earlier run left.
    fn take_up(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let mut head = [0; 16];
        let has_head = len >= HEAD_LEN && self.file.read_exact_at(&mut head, 0).is_ok();
        let (magic, first) = head.split_at(8);
        if !has_head || magic != MAGIC {
            if len > 0 {
                tracing::error!(
                    "`{}` is no file of entries for an output and is begun anew",
                    self.path.display()
                );
            }
            return self.clear();
        }
        self.first = number(first).max(HEAD_LEN);
        self.end = self.first;
        while self.end < len
            && let Some(spooled) = self.read(self.end, len)?
        {
            self.end += ENTRY_HEAD_LEN + spooled.entry.len() as u64;
            self.count += 1;
            self.last = spooled.sequence.or(self.last);
        }
        if self.end < len {
            tracing::error!(
                "`{}` is damaged: {} bytes behind its {} whole entries are given up",
                self.path.display(),
                len - self.end,
                self.count
            );
        }
        if self.count == 0 {
            return self.clear();
        }
        self.file.set_len(self.end)
    }

    /// Entries not sent.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Number of the last alert among them.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Adds an entry behind the others.
    ///
    /// # Errors
    /// It has no room within the bound or on the disk ([`io::ErrorKind::StorageFull`]), or can not be written. Nothing of it is there
    /// then.
    pub fn push(&mut self, sequence: Option<u64>, entry: &[u8]) -> io::Result<()> {
        let length = u32::try_from(entry.len()).map_err(|_| io::ErrorKind::StorageFull)?;
        let end = self.end + ENTRY_HEAD_LEN + u64::from(length);
        if end > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = Vec::with_capacity(entry.len() + 16);
        bytes.extend_from_slice(&sequence.unwrap_or(NO_ALERT).to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(entry);
        if let Err(error) = self.file.write_all_at(&bytes, self.end) {
            // What is behind the end is not read, and is written over by the next.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end = end;
        self.count += 1;
        self.last = sequence.or(self.last);
        Ok(())
    }

    /// The first entry, if there is one.
    ///
    /// # Errors
    /// It can not be read.
    pub fn front(&self) -> io::Result<Option<Spooled>> {
        if self.count == 0 {
            return Ok(None);
        }
        self.read(self.first, self.end)
    }

    /// Takes the first entry away.
    ///
    /// # Errors
    /// That can not be written: after a restart it is there again.
    pub fn pop(&mut self, front: &Spooled) -> io::Result<()> {
        self.first += ENTRY_HEAD_LEN + front.entry.len() as u64;
        self.count = self.count.saturating_sub(1);
        if self.count == 0 {
            return self.clear();
        }
        self.file.write_all_at(&self.first.to_le_bytes(), 8)
    }

    /// Gives up every entry.
    ///
    /// # Errors
    /// The file can not be written.
    pub fn clear(&mut self) -> io::Result<()> {
        self.first = HEAD_LEN;
        self.end = HEAD_LEN;
        self.count = 0;
        self.last = None;
        let mut head = [0; 16];
        let (magic, first) = head.split_at_mut(8);
        magic.copy_from_slice(MAGIC);
        first.copy_from_slice(&HEAD_LEN.to_le_bytes());
        // The head last: before it, an empty file is a new one.
        self.file.set_len(0)?;
        self.file.write_all_at(&head, 0)
    }

    /// The entry at a place of a file of that length. `None` where there is no whole one.
    fn read(&self, at: u64, len: u64) -> io::Result<Option<Spooled>> {
        let room = len.saturating_sub(at);
        let mut head = [0; 16];
        if room < ENTRY_HEAD_LEN {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, at)?;
        let (sequence, lengths) = head.split_at(8);
        let sequence = number(sequence);
        let lengths = number(lengths);
        let (length, turned) = (lengths & 0xffff_ffff, lengths >> 32);
        if turned != !length & 0xffff_ffff || room - ENTRY_HEAD_LEN < length {
            return Ok(None);
        }
        let mut entry = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut entry, at + ENTRY_HEAD_LEN)?;
        let sequence = (sequence != NO_ALERT).then_some(sequence);
        Ok(Some(Spooled { sequence, entry }))
    }
}

/// Eight bytes, the low one first.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(spool: &mut Spool) -> Vec<(Option<u64>, String)> {
        let mut texts = Vec::new();
        while let Some(front) = spool.front().unwrap() {
            spool.pop(&front).unwrap();
            texts.push((front.sequence, String::from_utf8(front.entry).unwrap()));
        }
        texts
    }

    #[test]
    fn entries_come_in_order_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path, 1 << 10).unwrap();
        assert_eq!(spool.front().unwrap(), None);
        for (sequence, text) in [(Some(1), "one"), (None, ""), (Some(3), "three")] {
            spool.push(sequence, text.as_bytes()).unwrap();
        }
        let front = spool.front().unwrap().unwrap();
        assert_eq!(front.sequence, Some(1));
        spool.pop(&front).unwrap();
        drop(spool);
        let mut spool = Spool::open(&path, 1 << 10).unwrap();
        assert_eq!(spool.count(), 2);
        spool.push(Some(4), b"four").unwrap();
        let expected = [(None, ""), (Some(3), "three"), (Some(4), "four")];
        let expected = expected.map(|(sequence, text)| (sequence, text.to_owned()));
        assert_eq!(texts(&mut spool), expected);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), HEAD_LEN);
    }

    #[test]
    fn it_is_bounded_and_empty_again_when_all_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path, HEAD_LEN + 3 * (ENTRY_HEAD_LEN + 4)).unwrap();
        for round in 0..3 {
            for sequence in 0..3 {
                spool.push(Some(sequence), b"text").unwrap();
            }
            let full = spool.push(Some(3), b"").unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{round}");
            assert_eq!(texts(&mut spool).len(), 3);
        }
    }

    #[test]
    fn what_is_not_whole_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path, 1 << 10).unwrap();
        for sequence in 1..=2 {
            spool.push(Some(sequence), b"entry").unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        let second = whole.len() - 21;
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut spool = Spool::open(&path, 1 << 10).unwrap();
            let count = u64::from(length >= second);
            assert_eq!(spool.count(), count, "{length} of {}", whole.len());
            spool.push(Some(9), b"behind").unwrap();
            assert_eq!(texts(&mut spool).len() as u64, count + 1);
        }
        // Any byte may be another.
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 0x41;
            std::fs::write(&path, &other).unwrap();
            let mut spool = Spool::open(&path, 1 << 10).unwrap();
            let count = spool.count();
            assert!(count <= 2, "byte {at}");
            // An entry that was never there may be among them only where its own bytes are what changed.
            while let Some(front) = spool.front().unwrap() {
                assert!(front.entry.len() == 5, "byte {at}: {front:?}");
                spool.pop(&front).unwrap();
            }
        }
    }
}
