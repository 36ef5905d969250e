//! Rules on trial: what they would have told, had they been among those that count.
//!
//! In: each alert that a rule on trial would have raised, and each one that the live rule of its id did raise. Out: counts since the
//! trial began, the last of those alerts, and what only one of the two saw. It never raises an alert itself, reads no clock, and
//! keeps no more than its bounds allow: beyond them it counts.

mod store;

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::Cost;
use crate::event::{Event, Kind};

pub use store::{Kept, Store};

/// Alerts kept of one rule, the last ones.
pub const ALERTS_MAX: usize = 50;
/// Alerts kept of one rule that only its live version raised.
pub const MISSED_MAX: usize = 50;
/// What all kept alerts may take, in bytes.
const BYTES_MAX: usize = 4 << 20;
/// Alerts of one rule that are put into words within a second: a rule that is too loud costs little more than its matching.
const WORDED_PER_SECOND: u32 = 10;
/// Alerts of one rule that still wait for the other version to raise the same.
const ALONE_MAX: usize = 256;
const SECOND_NS: u64 = 1_000_000_000;

/// One event, told from all others of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    kind: Kind,
    boot_ns: u64,
    pid: u32,
    start_ns: u64,
}

impl Act {
    #[must_use]
    pub fn of(event: &Event) -> Act {
        let facts = &event.process.facts;
        Act {
            kind: event.kind,
            boot_ns: event.boot_ns,
            pid: facts.pid,
            start_ns: facts.start_ns,
        }
    }
}

/// Which rule is on trial, and beside which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub id: String,
    /// Of its file.
    pub digest: u64,
    /// Of the file of the live rule of its id.
    pub live: Option<u64>,
}

/// What hides an alert of a rule on trial, as it would if the rule were live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenBy {
    Exception,
    RateLimit,
}

/// An alert that a rule on trial would have raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// Time of its last event, nanoseconds since the Unix epoch.
    pub wall_ns: i64,
    pub message: String,
    pub hidden: Option<HiddenBy>,
    /// What hides it, in words.
    pub because: Option<String>,
    /// What the rule's actions would come to, if they were carried out.
    #[serde(default)]
    pub actions: Vec<String>,
    /// What the alerts file would hold.
    pub document: String,
}

/// An alert of the live rule that the one on trial would not have raised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    pub wall_ns: i64,
    /// Its number in the outputs.
    pub number: u64,
    pub message: String,
}

/// What is counted of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Alerts it would have raised.
    pub alerts: u64,
    /// Matches that exceptions and rate limits would have hidden.
    pub excepted: u64,
    pub limited: u64,
    /// Alerts that the live rule of its id raised, too; those it did not; and those that only that one raised.
    pub both: u64,
    pub only_trial: u64,
    pub only_live: u64,
}

/// How one rule does.
#[derive(Clone, Debug)]
pub struct Trial {
    pub about: About,
    /// Since when, nanoseconds since the Unix epoch.
    pub since_ns: i64,
    pub counts: Counts,
    /// Time it was at work, and what it cost, before `begun_ns` (boot clock), when the engine's own account stood at `base`.
    worked_ns: u64,
    spent: Cost,
    begun_ns: u64,
    base: Cost,
    /// The oldest first, and what they take in bytes.
    last: VecDeque<Listed>,
    bytes: usize,
    missed: VecDeque<(u64, Arc<Missed>)>,
    alone: VecDeque<Alone>,
    /// Alerts of both sides so far: each has a number of its own.
    numbered: u64,
    /// The second in which so many were put into words.
    worded: (u64, u32),
}

/// An alert in the list of the last ones.
#[derive(Clone, Debug)]
pub struct Listed {
    number: u64,
    /// The live rule raised it, too.
    pub both: bool,
    pub would: Arc<Would>,
}

impl Listed {
    fn bytes(&self) -> usize {
        self.would.document.len() + self.would.message.len()
    }
}

/// An alert of one side which the other has not raised yet.
#[derive(Clone, Debug)]
struct Alone {
    number: u64,
    is_live: bool,
    acts: Arc<[Act]>,
}

impl Alone {
    /// Whether two alerts are about the same: one of them ends within the other, whatever steps either has besides.
    fn is_same(&self, acts: &[Act]) -> bool {
        let holds = |all: &[Act], last: Option<&Act>| last.is_some_and(|last| all.contains(last));
        holds(&self.acts, acts.last()) || holds(acts, self.acts.last())
    }
}

impl Trial {
    fn new(about: About, wall_ns: i64, now_ns: u64) -> Trial {
        Trial {
            about,
            since_ns: wall_ns,
            counts: Counts::default(),
            worked_ns: 0,
            spent: Cost::default(),
            begun_ns: now_ns,
            base: Cost::default(),
            last: VecDeque::new(),
            bytes: 0,
            missed: VecDeque::new(),
            alone: VecDeque::new(),
            numbered: 0,
            worded: (0, 0),
        }
    }

    /// How long it was at work, in nanoseconds: the time in which no daemon ran is left out.
    #[must_use]
    pub fn worked_ns(&self, now_ns: u64) -> u64 {
        self.worked_ns
            .saturating_add(now_ns.saturating_sub(self.begun_ns))
    }

    /// What it has cost, where the engine's account stands at `cost`.
    #[must_use]
    pub fn cost(&self, cost: Cost) -> Cost {
        let all = |spent: u64, now: u64, base: u64| spent.saturating_add(now.saturating_sub(base));
        let (spent, base) = (self.spent, self.base);
        Cost {
            events: all(spent.events, cost.events, base.events),
            nanoseconds: all(spent.nanoseconds, cost.nanoseconds, base.nanoseconds),
        }
    }

    /// The last alerts, the oldest first.
    pub fn last(&self) -> impl DoubleEndedIterator<Item = &Listed> {
        self.last.iter()
    }

    /// The last alerts that only the live rule raised, the oldest first.
    pub fn missed(&self) -> impl DoubleEndedIterator<Item = &Missed> {
        self.missed.iter().map(|(_, missed)| &**missed)
    }

    /// The number of one more alert.
    fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    /// Puts an alert at the end of the list, at the cost of the first.
    fn list(&mut self, listed: Listed) {
        if self.last.len() >= ALERTS_MAX {
            self.forget_one();
        }
        self.bytes += listed.bytes();
        self.last.push_back(listed);
    }

    /// Takes the first alert off the list; gives the bytes it took.
    fn forget_one(&mut self) -> usize {
        let bytes = self.last.pop_front().map_or(0, |first| first.bytes());
        self.bytes -= bytes;
        bytes
    }

    /// Closes the engine's account, as of now.
    fn settle(&mut self, cost: Cost, now_ns: u64) {
        self.spent = self.cost(cost);
        self.worked_ns = self.worked_ns(now_ns);
        self.begun_ns = now_ns;
        self.base = cost;
    }

    /// Forgets how it compared with another live version.
    fn compare_anew(&mut self, live: Option<u64>) {
        self.about.live = live;
        self.counts.both = 0;
        self.counts.only_trial = 0;
        self.counts.only_live = 0;
        self.missed.clear();
        self.alone.clear();
        for listed in &mut self.last {
            listed.both = false;
        }
    }

    /// Notes an alert of one side; true when the other one had raised it.
    fn pair(&mut self, number: u64, is_live: bool, acts: Vec<Act>) -> bool {
        let found = self
            .alone
            .iter()
            .position(|other| other.is_live != is_live && other.is_same(&acts));
        let Some(other) = found.and_then(|at| self.alone.remove(at)) else {
            if self.alone.len() >= ALONE_MAX {
                self.alone.pop_front();
            }
            self.alone.push_back(Alone {
                number,
                is_live,
                acts: acts.into(),
            });
            let only = if is_live {
                &mut self.counts.only_live
            } else {
                &mut self.counts.only_trial
            };
            count_one(only);
            return false;
        };
        count_one(&mut self.counts.both);
        let only = if is_live {
            &mut self.counts.only_trial
        } else {
            &mut self.counts.only_live
        };
        *only = only.saturating_sub(1);
        if is_live {
            let listed = self.last.iter_mut().find(|l| l.number == other.number);
            if let Some(listed) = listed {
                listed.both = true;
            }
        } else {
            self.missed.retain(|(number, _)| *number != other.number);
        }
        true
    }

    /// Whether one more alert may be put into words in this second.
    fn may_word(&mut self, now_ns: u64) -> bool {
        let second = now_ns / SECOND_NS;
        if self.worded.0 != second {
            self.worded = (second, 0);
        }
        self.worded.1 += 1;
        self.worded.1 <= WORDED_PER_SECOND
    }
}

/// A file may hold any count.
fn count_one(count: &mut u64) {
    *count = count.saturating_add(1);
}

/// All rules on trial, in the order of the rule set.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    pub rules: Vec<Trial>,
    /// Of an earlier run, for rules that could not be read at the start.
    waiting: Vec<Trial>,
    /// Raised by whatever is worth keeping.
    changes: u64,
}

impl Trials {
    /// The rules that are on trial from now on; none where they could not be read, which ends no trial. Those that were before, with
    /// the same file, go on; `cost` is what the engine's account of each stands at.
    #[must_use]
    pub fn next(
        mut self,
        rules: Option<Vec<About>>,
        cost: impl Fn(usize) -> Cost,
        wall_ns: i64,
        now_ns: u64,
    ) -> Trials {
        self.rules.append(&mut self.waiting);
        let changes = self.changes + 1;
        let Some(rules) = rules else {
            return Trials {
                rules: Vec::new(),
                waiting: self.rules,
                changes,
            };
        };
        let mut next = Trials {
            rules: Vec::with_capacity(rules.len()),
            waiting: Vec::new(),
            changes,
        };
        for (at, about) in rules.into_iter().enumerate() {
            let same =
                |trial: &Trial| trial.about.id == about.id && trial.about.digest == about.digest;
            let mut trial = match self.rules.iter().position(same) {
                Some(found) => self.rules.swap_remove(found),
                None => Trial::new(about.clone(), wall_ns, now_ns),
            };
            if trial.about.live != about.live {
                trial.compare_anew(about.live);
            }
            trial.begun_ns = now_ns;
            trial.base = cost(at);
            next.rules.push(trial);
        }
        next
    }

    /// Closes the engine's accounts before another engine takes over.
    pub fn settle(&mut self, cost: impl Fn(usize) -> Cost, now_ns: u64) {
        for (at, trial) in self.rules.iter_mut().enumerate() {
            trial.settle(cost(at), now_ns);
        }
    }

    /// Takes an alert of a rule on trial. `word` puts it into words, if it is to be listed.
    pub fn would(
        &mut self,
        at: usize,
        acts: Vec<Act>,
        hidden: Option<HiddenBy>,
        now_ns: u64,
        word: impl FnOnce() -> Would,
    ) {
        let Some(trial) = self.rules.get_mut(at) else {
            return;
        };
        self.changes += 1;
        count_one(match hidden {
            None => &mut trial.counts.alerts,
            Some(HiddenBy::Exception) => &mut trial.counts.excepted,
            Some(HiddenBy::RateLimit) => &mut trial.counts.limited,
        });
        let number = trial.number();
        let is_compared = trial.about.live.is_some() && hidden != Some(HiddenBy::Exception);
        let both = is_compared && trial.pair(number, false, acts);
        if !trial.may_word(now_ns) {
            return;
        }
        trial.list(Listed {
            number,
            both,
            would: Arc::new(word()),
        });
        self.keep_bytes();
    }

    /// Takes an alert of the live rule beside one on trial; without words where a rate limit hid it.
    pub fn raised(&mut self, at: usize, acts: Vec<Act>, word: Option<Missed>) {
        let Some(trial) = self.rules.get_mut(at) else {
            return;
        };
        self.changes += 1;
        let number = trial.number();
        if trial.pair(number, true, acts) {
            return;
        }
        if let Some(missed) = word {
            if trial.missed.len() >= MISSED_MAX {
                trial.missed.pop_front();
            }
            trial.missed.push_back((number, Arc::new(missed)));
        }
    }

    /// Lets go of the oldest alerts of the rule with most of them, until all find room.
    fn keep_bytes(&mut self) {
        let mut all: usize = self.rules.iter().map(|trial| trial.bytes).sum();
        while all > BYTES_MAX {
            let largest = self.rules.iter_mut().max_by_key(|trial| trial.bytes);
            let gone = largest.map_or(0, Trial::forget_one);
            if gone == 0 {
                return;
            }
            all -= gone;
        }
    }

    /// Raised by each alert of either side and by each new rule set.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests;
