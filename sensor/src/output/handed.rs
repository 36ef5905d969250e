//! Which alerts there were lately, and how far each output is, in memory that outlives the process.
//!
//! In: an alert's number and what it is about, when it is made; its number before and after each output writes it. Out: after a
//! kill, the number an alert had when it is raised again, and which outputs have it. An alert that an output was just writing
//! counts as not written: the file is looked into and the journal has given a receipt, any other output gets it again rather than not
//! at all.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use super::receipts::Receipts;
use crate::cli::Output;
use crate::fd_store::FdStore;

const NAME: &str = "alerts";
/// Outputs that are followed.
const LANES: u64 = 32;
/// Bytes for each: its name's hash, the alert it began, the last it has written.
const LANE_LEN: usize = 24;
/// Where the latest alerts begin, how many, and bytes for each: its number and what it is about.
const ALERTS_AT: u64 = LANES * LANE_LEN as u64;
const ALERTS: u64 = 65_536;
const ALERT_LEN: usize = 24;

/// See the module.
#[derive(Debug)]
pub struct Handed {
    file: File,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Earlier {
    /// Numbers of alerts by what they are about, the first one first.
    pub numbers: HashMap<u128, VecDeque<u64>>,
    /// The last of them.
    pub last: u64,
    lanes: HashMap<u64, (u64, u64)>,
    /// The last that the journal gave a receipt for.
    pub taken: Option<u64>,
}

/// How far one output is.
#[derive(Clone, Debug)]
pub struct Mark {
    handed: Arc<Handed>,
    at: u64,
}

impl Earlier {
    /// The alert an output has begun to write, and the last one it has written.
    #[must_use]
    pub fn of(&self, output: &Output) -> Option<(u64, u64)> {
        self.lanes.get(&hash(output)).copied()
    }
}

impl Handed {
    /// Memory of a run that had none before it.
    ///
    /// # Errors
    /// There is none, or nobody to keep it.
    pub fn begin(store: &mut FdStore) -> io::Result<Handed> {
        store.remove(NAME)?;
        let file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
        store.put(NAME, file.as_fd())?;
        Ok(Handed { file })
    }

    /// What an earlier run left, of alerts behind a number. `None` when it was not handed over.
    ///
    /// # Errors
    /// It can not be read.
    pub fn resume(store: &mut FdStore, behind: u64) -> io::Result<Option<(Handed, Earlier)>> {
        let Some(file) = store.take(NAME) else {
            return Ok(None);
        };
        Handed::reopen(file, behind, Receipts::left_in(store)).map(Some)
    }

    /// `taken` is the last alert that the journal gave a receipt for.
    fn reopen(file: OwnedFd, behind: u64, taken: Option<u64>) -> io::Result<(Handed, Earlier)> {
        let file = File::from(file);
        let len = file.metadata()?.len();
        let len = len.min(ALERTS_AT + ALERTS * ALERT_LEN as u64);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        let number = |bytes: &[u8], at: usize| {
            let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_le_bytes(bytes))
        };
        let split = usize::try_from(ALERTS_AT).unwrap_or(0).min(bytes.len());
        let (lanes, alerts) = bytes.split_at(split);
        let mut earlier = Earlier {
            last: behind,
            taken,
            ..Earlier::default()
        };
        let handed = Handed { file };
        let journal = hash(&Output::Journald);
        for (at, lane) in (0..).step_by(LANE_LEN).zip(lanes.chunks_exact(LANE_LEN)) {
            if let (Some(name), Some(begun), Some(mut done)) =
                (number(lane, 0), number(lane, 8), number(lane, 16))
            {
                if name == journal && begun > done && taken == Some(begun) {
                    done = begun;
                    // The receipt may be given up from now on.
                    handed.write(&done.to_le_bytes(), at + 16);
                }
                earlier.lanes.insert(name, (begun, done));
            }
        }
        let mut found: Vec<(u64, u128)> = Vec::new();
        for alert in alerts.chunks_exact(ALERT_LEN) {
            if let (Some(sequence), Some(low), Some(high)) =
                (number(alert, 0), number(alert, 8), number(alert, 16))
                && sequence > behind
            {
                found.push((sequence, u128::from(high) << 64 | u128::from(low)));
            }
        }
        found.sort_unstable();
        for (sequence, about) in found {
            earlier.last = sequence;
            earlier
                .numbers
                .entry(about)
                .or_default()
                .push_back(sequence);
        }
        Ok((handed, earlier))
    }

    /// Takes note of an alert before any output gets it.
    pub fn note(&self, sequence: u64, about: u128) {
        let mut bytes = [0; ALERT_LEN];
        let (number, rest) = bytes.split_at_mut(8);
        number.copy_from_slice(&sequence.to_le_bytes());
        rest.copy_from_slice(&about.to_le_bytes());
        self.write(&bytes, ALERTS_AT + sequence % ALERTS * ALERT_LEN as u64);
    }

    /// Follows an output, the `index`th, from a number on. One too many is not followed.
    #[must_use]
    pub fn follow(self: &Arc<Self>, index: usize, output: &Output, done: u64) -> Option<Mark> {
        let index = u64::try_from(index).ok().filter(|index| *index < LANES)?;
        let mark = Mark {
            handed: Arc::clone(self),
            at: index * LANE_LEN as u64,
        };
        self.write(&hash(output).to_le_bytes(), mark.at);
        mark.begin(done);
        mark.done(done);
        Some(mark)
    }

    fn write(&self, bytes: &[u8], at: u64) {
        if let Err(error) = self.file.write_all_at(bytes, at) {
            tracing::error!("what becomes of alerts can not be noted: {error}");
        }
    }
}

impl Mark {
    /// The output is about to write an alert.
    pub fn begin(&self, sequence: u64) {
        self.handed.write(&sequence.to_le_bytes(), self.at + 8);
    }

    /// It has written it.
    pub fn done(&self, sequence: u64) {
        self.handed.write(&sequence.to_le_bytes(), self.at + 16);
    }
}

/// Tells outputs apart.
pub(super) fn hash(output: &Output) -> u64 {
    let hash = Sha256::digest(output.to_string());
    hash.first_chunk::<8>()
        .map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_is_known_after_a_kill() {
        let memory = memfd_create("alerts", MemfdFlags::CLOEXEC).unwrap();
        let kept = memory.try_clone().unwrap();
        let (handed, earlier) = Handed::reopen(memory, 0, None).unwrap();
        assert_eq!(earlier.last, 0);
        let handed = Arc::new(handed);
        let file = Output::File("/a".into());
        let mark = handed.follow(0, &file, 0).unwrap();
        let journal = handed.follow(1, &Output::Journald, 0).unwrap();
        assert!(handed.follow(99, &Output::Stdout, 0).is_none());
        for (sequence, about) in [(1, 7), (2, u128::MAX - 3), (3, u128::MAX - 3), (4, 1 << 70)] {
            handed.note(sequence, about);
            if sequence < 4 {
                mark.begin(sequence);
                mark.done(sequence);
            }
        }
        mark.begin(4);
        journal.begin(1);
        let again = || kept.try_clone().unwrap();
        let (_, earlier) = Handed::reopen(again(), 1, None).unwrap();
        assert_eq!(earlier.last, 4);
        assert_eq!(earlier.numbers.len(), 2, "the first is behind the state");
        assert_eq!(earlier.numbers[&(u128::MAX - 3)], [2, 3]);
        assert_eq!(earlier.numbers[&(1 << 70)], [4]);
        assert_eq!(earlier.of(&file), Some((4, 3)));
        assert_eq!(earlier.of(&Output::Journald), Some((1, 0)));
        assert_eq!(earlier.of(&Output::Stdout), None);
        // A receipt for another alert says nothing of this one; what one said is known after it is given up.
        for (taken, done) in [(Some(4), 0), (Some(1), 1), (None, 1)] {
            let (_, earlier) = Handed::reopen(again(), 1, taken).unwrap();
            assert_eq!(earlier.of(&Output::Journald), Some((1, done)), "{taken:?}");
            assert_eq!(earlier.of(&file), Some((4, 3)), "{taken:?}");
        }
    }
}
