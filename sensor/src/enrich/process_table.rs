//! Which processes there are: (tgid, start time) to what is known of each.
//!
//! In: processes as records and the start-up scan describe them. Out: shared [`Process`]es. Ended ones stay for a grace
//! period, because records of theirs may still come. It never holds more than its bound; what had to go is counted.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::procfs::TICK_NS;
use crate::event::{Facts, Process};

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Most processes kept, ended ones in their grace period included.
    pub processes_max: usize,
    /// How long an ended process stays known, nanoseconds of event time.
    pub grace_ns: u64,
    /// Bytes of executable, argument and path text above which only the start of each is kept.
    pub image_bytes_max: usize,
}

impl Default for TableLimits {
    fn default() -> TableLimits {
        TableLimits {
            processes_max: 32_768,
            grace_ns: 10_000_000_000,
            image_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Where an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A record: its start time is exact, and it wins over a scan.
    Record,
    /// `/proc`: its start time is exact to the tick.
    Scan,
}

/// The table counts start times in ticks, so that scanned and recorded processes meet under one key; entries from records
/// know the exact time and answer to no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    tgid: u32,
    start_ticks: u64,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    source: Source,
    exited: bool,
    /// Event time of the last record about it.
    seen_ns: u64,
}

/// An entry of a table, as it is kept.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) process: Arc<Process>,
    pub(super) source: Source,
    pub(super) ended_ns: Option<u64>,
    pub(super) seen_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct ProcessTable {
    limits: TableLimits,
    entries: HashMap<Key, Entry>,
    /// The latest process of each tgid.
    current: HashMap<u32, Key>,
    /// Ended processes, oldest end first.
    exited: VecDeque<(u64, Key)>,
    evicted: u64,
}

impl ProcessTable {
    #[must_use]
    pub fn new(limits: TableLimits) -> ProcessTable {
        ProcessTable {
            limits,
            entries: HashMap::new(),
            current: HashMap::new(),
            exited: VecDeque::new(),
            evicted: 0,
        }
    }

    #[must_use]
    pub fn limits(&self) -> TableLimits {
        self.limits
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Processes that had to go to keep the bound.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The process of a record. A start time of 0 is one the kernel could not read: the latest process of the tgid.
    pub fn find(&mut self, tgid: u32, start_ns: u64, now_ns: u64) -> Option<Arc<Process>> {
        let key = match start_ns {
            0 => *self.current.get(&tgid)?,
            start_ns => Key::of(tgid, start_ns),
        };
        let entry = self.entries.get_mut(&key)?;
        if start_ns != 0 && entry.process.facts.start_ns != start_ns {
            if entry.source == Source::Record {
                return None;
            }
            // The scan knew the tick; the record knows the moment.
            let mut process = (*entry.process).clone();
            process.facts = Arc::new(Facts {
                start_ns,
                ..(*process.facts).clone()
            });
            entry.process = Arc::new(process);
            entry.source = Source::Record;
        }
        entry.seen_ns = entry.seen_ns.max(now_ns);
        Some(entry.process.clone())
    }

    /// The latest process of a tgid, ended or not.
    #[must_use]
    pub fn latest(&self, tgid: u32) -> Option<&Arc<Process>> {
        let key = self.current.get(&tgid)?;
        Some(&self.entries.get(key)?.process)
    }

    /// Puts a process in, or in place of itself. A scan never replaces what a record said; an end stays an end.
    pub fn insert(&mut self, process: Arc<Process>, source: Source, now_ns: u64) {
        let facts = &process.facts;
        let key = Key::of(facts.pid, facts.start_ns);
        let mut exited = false;
        if let Some(known) = self.entries.get(&key) {
            if source == Source::Scan && known.source == Source::Record {
                return;
            }
            let same =
                known.source == Source::Scan || known.process.facts.start_ns == facts.start_ns;
            exited = known.exited && same;
        } else {
            self.make_room();
        }
        self.supersede(key, now_ns);
        let entry = Entry {
            process,
            source,
            exited,
            seen_ns: now_ns,
        };
        self.entries.insert(key, entry);
    }

    /// Replaces what is known of a process that is in the table; where that came from, and when, stays.
    pub fn update(&mut self, process: Arc<Process>) {
        let key = Key::of(process.facts.pid, process.facts.start_ns);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.process = process;
        }
    }

    /// Everything in it.
    pub(super) fn save(&self) -> Vec<Saved> {
        let mut ended: HashMap<Key, u64> = HashMap::with_capacity(self.exited.len());
        for (ended_ns, key) in &self.exited {
            ended.entry(*key).or_insert(*ended_ns);
        }
        let entries = self.entries.iter();
        entries
            .map(|(key, entry)| Saved {
                process: entry.process.clone(),
                source: entry.source,
                ended_ns: ended.get(key).copied().filter(|_| entry.exited),
                seen_ns: entry.seen_ns,
            })
            .collect()
    }

    /// Puts in what another table saved, the latest seen as far as there is room.
    pub(super) fn restore(&mut self, mut saved: Vec<Saved>) {
        saved.sort_unstable_by_key(|saved| std::cmp::Reverse(saved.seen_ns));
        saved.truncate(self.limits.processes_max);
        let mut ended = Vec::new();
        for saved in saved {
            let facts = &saved.process.facts;
            let key = Key::of(facts.pid, facts.start_ns);
            let current = self.current.entry(key.tgid).or_insert(key);
            if current.start_ticks < key.start_ticks {
                *current = key;
            }
            ended.extend(saved.ended_ns.map(|ended_ns| (ended_ns, key)));
            let entry = Entry {
                process: saved.process,
                source: saved.source,
                exited: saved.ended_ns.is_some(),
                seen_ns: saved.seen_ns,
            };
            self.entries.insert(key, entry);
        }
        ended.sort_unstable_by_key(|(ended_ns, _)| *ended_ns);
        self.exited.extend(ended);
    }

    /// Processes that have not ended.
    pub(super) fn living(&self) -> Vec<Arc<Process>> {
        let living = self.entries.values().filter(|entry| !entry.exited);
        living.map(|entry| entry.process.clone()).collect()
    }

    /// Marks the end of a process.
    pub fn exit(&mut self, tgid: u32, start_ns: u64, now_ns: u64) {
        let key = match start_ns {
            0 => self.current.get(&tgid).copied(),
            start_ns => Some(Key::of(tgid, start_ns)),
        };
        if let Some(key) = key {
            self.end(key, now_ns);
        }
    }

    /// Forgets processes whose grace period is over at `now_ns`.
    pub fn retire(&mut self, now_ns: u64) {
        while let Some((ended_ns, key)) = self.exited.front().copied() {
            if now_ns.saturating_sub(ended_ns) < self.limits.grace_ns {
                break;
            }
            self.exited.pop_front();
            if self.entries.get(&key).is_some_and(|entry| entry.exited) {
                self.remove(key);
            }
        }
    }

    /// A new process under a tgid ends the one before it: its own end was lost.
    fn supersede(&mut self, key: Key, now_ns: u64) {
        match self.current.get(&key.tgid).copied() {
            Some(before) if before.start_ticks < key.start_ticks => self.end(before, now_ns),
            // A late record about an older process: the newer one stays current.
            Some(before) if before.start_ticks > key.start_ticks => return,
            _ => {}
        }
        self.current.insert(key.tgid, key);
    }

    fn end(&mut self, key: Key, now_ns: u64) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.exited
        {
            entry.exited = true;
            self.exited.push_back((now_ns, key));
        }
    }

    fn remove(&mut self, key: Key) {
        self.entries.remove(&key);
        if self.current.get(&key.tgid) == Some(&key) {
            self.current.remove(&key.tgid);
        }
    }

    /// Ended processes go first, then those longest without a record; a sixteenth at a time, so that it costs little each.
    fn make_room(&mut self) {
        if self.entries.len() < self.limits.processes_max.max(1) {
            return;
        }
        while let Some((_, key)) = self.exited.pop_front() {
            // A key may stand here twice, or for a process that took the place of the ended one.
            if self.entries.get(&key).is_some_and(|entry| entry.exited) {
                self.remove(key);
                self.evicted += 1;
                return;
            }
        }
        let mut by_age: Vec<(u64, Key)> =
            self.entries.iter().map(|(k, e)| (e.seen_ns, *k)).collect();
        let count = (by_age.len() / 16).max(1);
        let last = count.min(by_age.len()) - 1;
        by_age.select_nth_unstable_by_key(last, |(seen_ns, key)| {
            (*seen_ns, key.start_ticks, key.tgid)
        });
        for (_, key) in by_age.into_iter().take(count) {
            self.remove(key);
            self.evicted += 1;
        }
    }
}

impl Key {
    fn of(tgid: u32, start_ns: u64) -> Key {
        Key {
            tgid,
            start_ticks: start_ns / TICK_NS,
        }
    }
}
