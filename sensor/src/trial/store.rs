//! How trials stand, kept over restarts.
//!
//! In: [`Trials`], now and then. Out: one file in the state directory, replaced as a whole, and back at the next start, also after
//! a boot. A file that can not be used is put aside, loudly; the trials then begin anew. It never holds back the daemon's start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::{About, Counts, Listed, MISSED_MAX, Missed, Trial, Trials, Would};
use crate::commands;
use crate::engine::Cost;

/// Name of the file in the state directory.
const FILE_NAME: &str = "trial.json";
/// What the file says it is.
const FORMAT: &str = "eql-sensor trial";
const VERSION: u32 = 1;
/// No file of ours is larger: what all alerts may take, escaped, and the counts of ten thousand rules.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Trials as the file has them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    format: String,
    version: u32,
    rules: Vec<KeptTrial>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptTrial {
    id: String,
    digest: u64,
    live: Option<u64>,
    since_ns: i64,
    worked_ns: u64,
    events: u64,
    nanoseconds: u64,
    counts: Counts,
    last: Vec<(bool, Shared<Would>)>,
    missed: Vec<Shared<Missed>>,
}

/// What the file holds as it is.
#[derive(Debug, Deserialize)]
#[serde(from = "T")]
struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(of: T) -> Shared<T> {
        Shared(Arc::new(of))
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no account of trials: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds `{format}` of version {version}, must be `{FORMAT}` of version {VERSION}")]
    Foreign { format: String, version: u32 },
    #[error("it has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
}

impl Trials {
    /// Everything a later run needs; `cost` is what the engine's account of each rule stands at.
    #[must_use]
    pub fn keep(&self, cost: impl Fn(usize) -> Cost, now_ns: u64) -> Kept {
        let of = |trial: &Trial, spent: Cost, worked_ns: u64| KeptTrial {
            id: trial.about.id.clone(),
            digest: trial.about.digest,
            live: trial.about.live,
            since_ns: trial.since_ns,
            worked_ns,
            events: spent.events,
            nanoseconds: spent.nanoseconds,
            counts: trial.counts,
            last: trial
                .last
                .iter()
                .map(|listed| (listed.both, Shared(Arc::clone(&listed.would))))
                .collect(),
            missed: trial
                .missed
                .iter()
                .map(|(_, missed)| Shared(Arc::clone(missed)))
                .collect(),
        };
        let at_work = self.rules.iter().enumerate();
        let at_work =
            at_work.map(|(at, trial)| of(trial, trial.cost(cost(at)), trial.worked_ns(now_ns)));
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|trial| of(trial, trial.spent, trial.worked_ns));
        Kept {
            format: FORMAT.to_owned(),
            version: VERSION,
            rules: at_work.chain(waiting).collect(),
        }
    }
}

impl Kept {
    /// The trials as they stood, for [`Trials::next`] to go on with. Which alerts the other side might still raise is forgotten.
    fn trials(self) -> Trials {
        let of = |kept: KeptTrial| {
            let about = About {
                id: kept.id,
                digest: kept.digest,
                live: kept.live,
            };
            let mut trial = Trial::new(about, kept.since_ns, 0);
            trial.counts = kept.counts;
            trial.worked_ns = kept.worked_ns;
            trial.spent = Cost {
                events: kept.events,
                nanoseconds: kept.nanoseconds,
            };
            for (both, Shared(would)) in kept.last {
                let number = trial.number();
                trial.list(Listed {
                    number,
                    both,
                    would,
                });
            }
            for Shared(missed) in kept.missed.into_iter().take(MISSED_MAX) {
                let number = trial.number();
                trial.missed.push_back((number, missed));
            }
            trial
        };
        let mut trials = Trials {
            rules: self.rules.into_iter().map(of).collect(),
            ..Trials::default()
        };
        trials.keep_bytes();
        trials
    }
}

/// Keeps trials in one file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
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

    /// How trials stood when an earlier run ended; none without a file.
    #[must_use]
    pub fn load(&self) -> Trials {
        match self.read() {
            Ok(kept) => kept.map(Kept::trials).unwrap_or_default(),
            Err(error) => {
                commands::put_aside(&self.path, &error, "trials of rules begin anew");
                Trials::default()
            }
        }
    }

    fn read(&self) -> Result<Option<Kept>, ReadError> {
        let Some(text) = commands::read_kept(&self.path, FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ReadError::TooLarge);
        }
        let kept: Kept = serde_json::from_slice(&text)?;
        if kept.format != FORMAT || kept.version != VERSION {
            let Kept {
                format, version, ..
            } = kept;
            return Err(ReadError::Foreign { format, version });
        }
        Ok(Some(kept))
    }

    /// Puts trials in the place of those before; without any there is no file.
    ///
    /// # Errors
    /// It can not be written; then the one before is still there.
    pub fn save(&self, kept: &Kept) -> io::Result<()> {
        if kept.rules.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        commands::replace_file(&self.path, &serde_json::to_vec(kept)?, 0o600)
    }
}
