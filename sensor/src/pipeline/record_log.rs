//! Records taken from the ring since the last state was kept: what the next run takes up if this one is killed.
//!
//! In: every record, before its place in the ring is given back. Out: after a kill, the records that no kept state covers, in their
//! order. A record is copied into a file in memory that the service manager keeps: one write, no mapping, so that it costs neither
//! resident memory nor unsafe code. The alternative, to leave records in the ring until a state covers them, would need a ring for
//! five seconds of the worst storm; a log on the disk would wait for the disk. There are two files, in turn: while a state is
//! being written, the records behind it go to the other one, and what the state covers is cut off. It never grows over its
//! bound: a state is asked for when half of it is used, and if that does not come in time, the log says from where on it is of no use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::fd_store::FdStore;

const NAMES: [&str; 2] = ["log.0", "log.1"];
/// Most bytes of one file.
const BYTES_MAX: u64 = 64 << 20;
/// Bytes before a record: its number, its length, and the same again turned over, which tells a whole one.
const HEAD_LEN: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct RecordLog {
    files: [Half; 2],
    /// Which one is written to.
    at: usize,
    /// Records written since the programs were loaded.
    number: u64,
    /// Number up to which a kept state covers.
    covered: Arc<AtomicU64>,
    /// Some record is missing since the last state.
    torn: bool,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Half {
    file: File,
    len: u64,
    /// Number of its last record.
    last: u64,
}

/// What a log holds behind a state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) records: Vec<Vec<u8>>,
    /// The last record that was taken from the ring: its place there may not have been given back.
    pub(super) last: Option<Vec<u8>>,
    /// All of them are there.
    pub(super) whole: bool,
}

impl RecordLog {
    /// A log that begins with the programs.
    ///
    /// # Errors
    /// There is no memory for it, or nobody to keep it.
    pub(super) fn begin(store: &mut FdStore) -> io::Result<RecordLog> {
        store.remove("log.")?;
        let mut half = |name| {
            let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
            store.put(name, file.as_fd())?;
            Ok::<Half, io::Error>(Half {
                file,
                len: 0,
                last: 0,
            })
        };
        Ok(RecordLog::over([half(NAMES[0])?, half(NAMES[1])?]))
    }

    fn over(files: [Half; 2]) -> RecordLog {
        let [first, second] = &files;
        RecordLog {
            at: usize::from(second.last > first.last),
            number: first.last.max(second.last),
            files,
            covered: Arc::default(),
            torn: false,
            buffer: Vec::new(),
        }
    }

    /// The log of an earlier run, and what it holds behind a state that covers `covered` records. `None` when it was not
    /// handed over.
    ///
    /// # Errors
    /// It can not be read.
    pub(super) fn resume(
        store: &mut FdStore,
        covered: u64,
    ) -> io::Result<Option<(RecordLog, Behind)>> {
        let [first, second] = NAMES.map(|name| store.take(name));
        let (Some(first), Some(second)) = (first, second) else {
            return Ok(None);
        };
        RecordLog::reopen([first, second], covered).map(Some)
    }

    fn reopen(files: [OwnedFd; 2], covered: u64) -> io::Result<(RecordLog, Behind)> {
        let mut records: Vec<(u64, Vec<u8>)> = Vec::new();
        let [first, second] = files;
        let mut half = |file: OwnedFd| {
            let mut half = Half {
                file: file.into(),
                len: 0,
                last: 0,
            };
            let len = half.file.metadata()?.len().min(2 * BYTES_MAX);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
            half.file.read_exact_at(&mut bytes, 0)?;
            for (number, record) in entries(&bytes) {
                half.len += (HEAD_LEN + record.len()) as u64;
                half.last = number;
                records.push((number, record.to_vec()));
            }
            // The last one was not whole: it is in the ring still.
            ftruncate(&half.file, half.len)?;
            Ok::<Half, io::Error>(half)
        };
        let mut log = RecordLog::over([half(first)?, half(second)?]);
        log.number = log.number.max(covered);
        log.covered.store(covered, Ordering::Release);
        records.sort_unstable_by_key(|(number, _)| *number);
        let last = records.last().map(|(_, record)| record.clone());
        records.retain(|(number, _)| *number > covered);
        let expected = covered + 1..;
        let whole = records
            .iter()
            .zip(expected)
            .all(|((number, _), n)| *number == n);
        let behind = Behind {
            records: records.into_iter().map(|(_, record)| record).collect(),
            last,
            whole,
        };
        Ok((log, behind))
    }

    /// Takes a copy of a record. After this its place in the ring may be given back.
    #[inline]
    pub(super) fn append(&mut self, record: &[u8]) {
        self.number += 1;
        if self.torn {
            return;
        }
        let Some(half) = self.files.get_mut(self.at) else {
            return;
        };
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.number.to_le_bytes());
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&(!length).to_le_bytes());
        self.buffer.extend_from_slice(record);
        let size = self.buffer.len() as u64;
        let written = match half.len + size <= BYTES_MAX {
            true => half.file.write_all_at(&self.buffer, half.len),
            false => Err(io::ErrorKind::StorageFull.into()),
        };
        match written {
            Ok(()) => {
                half.len += size;
                half.last = self.number;
            }
            Err(error) => {
                // Half a record is none.
                let _ = ftruncate(&half.file, half.len);
                self.torn = true;
                tracing::warn!(
                    "no more room to keep records until the state is kept, so what comes now would be lost in a kill: {error}"
                );
            }
        }
    }

    /// Records taken so far, since the programs were loaded.
    #[must_use]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// For whoever keeps states: to say up to which number one covers.
    #[must_use]
    pub(super) fn covered(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.covered)
    }

    /// Whether a state should be kept soon.
    #[must_use]
    pub(super) fn is_pressing(&self) -> bool {
        self.torn
            || self
                .files
                .get(self.at)
                .is_some_and(|half| half.len >= BYTES_MAX / 2)
    }

    /// Goes on in the other file, when a state of this moment is taken. Without effect while records in it are not covered.
    pub(super) fn turn(&mut self) {
        let other = 1 - self.at;
        let covered = self.covered.load(Ordering::Acquire);
        let Some(half) = self.files.get_mut(other) else {
            return;
        };
        if half.last > covered || ftruncate(&half.file, 0).is_err() {
            return;
        }
        half.len = 0;
        half.last = 0;
        self.at = other;
        self.torn = false;
    }
}

/// The whole entries at the begin of a file.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
        let (number, lengths) = head.split_at(8);
        let number = u64::from_le_bytes(number.try_into().ok()?);
        let (length, turned) = lengths.split_at(4);
        let length = u32::from_le_bytes(length.try_into().ok()?);
        if u32::from_le_bytes(turned.try_into().ok()?) != !length {
            return None;
        }
        let (record, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        Some((number, record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> OwnedFd {
        memfd_create("log", MemfdFlags::CLOEXEC).unwrap()
    }

    /// A log, and further descriptors of its files, as the service manager has them.
    fn log() -> (RecordLog, [OwnedFd; 2]) {
        let files = [memory(), memory()];
        let again = files.each_ref().map(|file| file.try_clone().unwrap());
        (RecordLog::reopen(files, 0).unwrap().0, again)
    }

    fn texts(behind: &Behind) -> Vec<String> {
        let text = |record: &Vec<u8>| String::from_utf8_lossy(record).into_owned();
        behind.records.iter().map(text).collect()
    }

    #[test]
    fn what_no_state_covers_comes_back_in_order() {
        let (mut log, kept) = log();
        for text in ["a", "b", ""] {
            log.append(text.as_bytes());
        }
        // A state of this moment, written while records go on.
        let covers = log.number();
        log.turn();
        log.append(b"d");
        log.turn();
        log.append(b"e");
        let again = kept.each_ref().map(|file| file.try_clone().unwrap());
        let (resumed, behind) = RecordLog::reopen(again, 0).unwrap();
        assert_eq!(texts(&behind), ["a", "b", "", "d", "e"]);
        assert!(behind.whole);
        assert_eq!(resumed.number(), 5);
        // It is written: the next turn cuts off what it covers.
        log.covered().store(covers, Ordering::Release);
        log.turn();
        log.append(b"f");
        let (mut resumed, behind) = RecordLog::reopen(kept, covers).unwrap();
        assert_eq!(texts(&behind), ["d", "e", "f"]);
        assert_eq!(behind.last.as_deref(), Some(&b"f"[..]));
        assert!(behind.whole);
        resumed.append(b"g");
        assert_eq!(resumed.number(), 7);
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let (mut log, kept) = log();
        log.append(b"first");
        log.append(b"second");
        let file = File::from(kept[0].try_clone().unwrap());
        let whole = file.metadata().unwrap().len();
        for length in (0..whole).rev() {
            ftruncate(&file, length).unwrap();
            let again = kept.each_ref().map(|file| file.try_clone().unwrap());
            let (log, behind) = RecordLog::reopen(again, 0).unwrap();
            let count = usize::from(length >= whole - 22);
            assert_eq!(behind.records.len(), count, "{length} of {whole}");
            assert!(behind.whole);
            assert_eq!(log.number(), count as u64);
        }
    }

    #[test]
    fn missing_records_are_told() {
        let (mut log, kept) = log();
        log.append(b"first");
        log.append(b"second");
        let (_, behind) = RecordLog::reopen(kept, 0).unwrap();
        assert!(behind.whole);
        let (mut log, kept) = self::log();
        log.append(b"first");
        log.number += 1;
        log.append(b"third");
        let (_, behind) = RecordLog::reopen(kept, 0).unwrap();
        assert!(!behind.whole);
    }

    #[test]
    fn a_full_log_asks_for_a_state_and_goes_on_with_it() {
        let (mut log, kept) = log();
        let record = vec![7; 1 << 20];
        let mut pressing = 0;
        for _ in 0..70 {
            log.append(&record);
            pressing += u32::from(log.is_pressing());
        }
        assert_eq!(pressing, 39);
        assert!(log.torn);
        assert!(log.files[0].len <= BYTES_MAX);
        log.turn();
        assert!(!log.is_pressing());
        log.append(b"behind");
        let (_, behind) = RecordLog::reopen(kept, 70).unwrap();
        assert_eq!(texts(&behind), ["behind"]);
        assert!(behind.whole);
    }
}
