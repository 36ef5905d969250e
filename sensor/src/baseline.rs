//! What `new_terms` rules have seen, kept in the state directory.
//!
//! In: an engine's baselines and the rules they belong to. Out: one file, replaced as a whole, and back. It holds hashes and
//! times, never the terms themselves. A baseline comes back only to the rule it was made for, with the same query, fields
//! and history; a file that can't be read is put aside, loudly, and the rules learn anew.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::commands;
use crate::engine::{self, Engine};
use crate::eql::query::Pipe;
use crate::event::Fields;
use crate::rule::Rule;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "new-terms.json";
/// What the file says it is.
const FORMAT: &str = "eql-sensor new terms";
const VERSION: u32 = 1;
/// No file of ours is larger: 10 000 terms of 1000 rules.
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: String,
    version: u32,
    /// When it was written, nanoseconds since the Unix epoch, as all times here.
    saved_ns: i64,
    rules: Vec<KeptRule>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptRule {
    rule: String,
    /// Of a rule on trial: a live one of the same id has a baseline of its own.
    #[serde(default)]
    on_trial: bool,
    /// Hash of what the baseline means: query, fields, history.
    made_for: String,
    since_ns: i64,
    /// Hash and time, the one seen longest ago first.
    terms: Vec<(String, i64)>,
}

/// What came of reading the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Rules that go on where they were.
    pub kept: usize,
    /// Rules that begin to learn, having nothing to go on.
    pub learning: usize,
}

/// Keeps baselines in one file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    writing: Option<JoinHandle<()>>,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is no baseline: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it holds `{format}` of version {version}, must be `{FORMAT}` of version {VERSION}")]
    Foreign { format: String, version: u32 },
    #[error("it has {0} bytes, at most {FILE_BYTES_MAX} are read")]
    TooLarge(u64),
}

impl Store {
    #[must_use]
    pub fn new(state_directory: &Path) -> Store {
        Store {
            path: state_directory.join(FILE_NAME),
            writing: None,
        }
    }

    /// Gives the engine what its rules had seen; the first `live` of them are live, the others on trial. `wall_offset_ns` is what event times lack to be wall time.
    pub fn restore<E: Fields + Clone>(
        &self,
        engine: &mut Engine<E>,
        (rules, live): (&[Arc<Rule>], usize),
        wall_offset_ns: i64,
        now_wall_ns: i64,
    ) -> Restored {
        let kept = match read(&self.path) {
            Ok(kept) => kept,
            Err(error) => {
                commands::put_aside(&self.path, &error, "rules for new terms learn anew");
                None
            }
        };
        let mut restored = Restored::default();
        let saved_ns = kept.as_ref().map_or(0, |kept| kept.saved_ns);
        let key = |id: &str, made_for: &str, on_trial: bool| {
            (id.to_owned(), made_for.to_owned(), on_trial)
        };
        let mut known: HashMap<(String, String, bool), KeptRule> = kept
            .into_iter()
            .flat_map(|kept| kept.rules)
            .map(|kept| (key(&kept.rule, &kept.made_for, kept.on_trial), kept))
            .collect();
        for (number, rule) in rules.iter().enumerate() {
            let Some(history_ns) = history_ns(rule) else {
                continue;
            };
            let found = known.remove(&key(&rule.id, &made_for(rule), number >= live));
            // After a pause as long as the history nothing is known of it.
            let found = found.filter(|_| now_wall_ns.saturating_sub(saved_ns) < history_ns);
            let Some(found) = found else {
                restored.learning += 1;
                continue;
            };
            let here = |wall_ns: i64| wall_ns.saturating_sub(wall_offset_ns);
            let terms = found.terms.iter().filter_map(|(key, seen_ns)| {
                Some((u128::from_str_radix(key, 16).ok()?, here(*seen_ns)))
            });
            engine.restore_baseline(engine::Baseline {
                rule: number,
                since_ns: here(found.since_ns),
                terms: terms.collect(),
            });
            restored.kept += 1;
        }
        restored
    }

    /// Writes what the rules have seen, beside everything else; not while an earlier write is still going on. Failure is
    /// logged: the next write comes.
    pub fn save<E: Fields + Clone>(
        &mut self,
        engine: &Engine<E>,
        rules: (&[Arc<Rule>], usize),
        wall_offset_ns: i64,
        now_wall_ns: i64,
    ) {
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished())
        {
            return;
        }
        let kept = keep(engine, rules, wall_offset_ns, now_wall_ns);
        let path = self.path.clone();
        self.writing = Some(std::thread::spawn(move || {
            if let Err(error) = write(&path, &kept) {
                tracing::error!("cannot write `{}`: {error}", path.display());
            }
        }));
    }

    /// Waits for a write that is going on.
    pub fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            // Its failure has been logged.
            let _ = writing.join();
        }
    }
}

fn keep<E: Fields + Clone>(
    engine: &Engine<E>,
    (rules, live): (&[Arc<Rule>], usize),
    wall_offset_ns: i64,
    saved_ns: i64,
) -> Kept {
    let there = |ns: i64| ns.saturating_add(wall_offset_ns);
    let of_rule = |baseline: engine::Baseline| {
        let rule = rules.get(baseline.rule)?;
        let terms = baseline.terms.iter();
        Some(KeptRule {
            rule: rule.id.clone(),
            on_trial: baseline.rule >= live,
            made_for: made_for(rule),
            since_ns: there(baseline.since_ns),
            terms: terms
                .map(|(key, seen_ns)| (format!("{key:032x}"), there(*seen_ns)))
                .collect(),
        })
    };
    Kept {
        format: FORMAT.to_owned(),
        version: VERSION,
        saved_ns,
        rules: engine.baselines().into_iter().filter_map(of_rule).collect(),
    }
}

/// `None` when there is no file.
fn read(path: &Path) -> Result<Option<Kept>, ReadError> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if size > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge(size));
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path)?)?;
    if kept.format != FORMAT || kept.version != VERSION {
        return Err(ReadError::Foreign {
            format: kept.format,
            version: kept.version,
        });
    }
    Ok(Some(kept))
}

/// Writes a file beside it, then puts that in its place.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

/// How long the rule remembers; `None` when it does not ask for what is new.
fn history_ns(rule: &Rule) -> Option<i64> {
    rule.query.pipes.iter().find_map(|pipe| match pipe {
        Pipe::NewTerms(terms) => Some(i64::try_from(terms.history.as_nanos()).unwrap_or(i64::MAX)),
        _ => None,
    })
}

/// Stands for what a baseline of the rule means.
fn made_for(rule: &Rule) -> String {
    let mut hash = Sha256::new();
    hash.update(rule.query_text.as_bytes());
    for field in rule.terms() {
        hash.update([0]);
        hash.update(field.path.as_bytes());
    }
    hash.update(history_ns(rule).unwrap_or_default().to_le_bytes());
    let bytes = hash.finalize();
    bytes
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;
    use crate::engine::{Builder, Limits, Match};
    use crate::event::FieldTable;
    use crate::json_lines::{FlatEvent, Options, Reader};
    use crate::rule;

    const DAY_NS: i64 = 86_400_000_000_000;
    const START: &str = "2026-01-01T00:00:00Z";
    const START_NS: i64 = 1_767_225_600_000_000_000;

    fn rule(history: &str) -> Arc<Rule> {
        let text = format!(
            "[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"new_terms\"\nquery = 'process.name : *'\n\
             [rule.new_terms]\nvalue = [\"process.name\"]\n\
             [[rule.new_terms.history_window_start]]\nvalue = \"now-{history}\"\n"
        );
        let source = Source {
            path: Path::new("r.toml").into(),
            text,
        };
        let loaded = rule::load_source(&source);
        assert_eq!(loaded.problems, []);
        Arc::clone(&loaded.rules[0])
    }

    struct Run {
        engine: Engine<Arc<FlatEvent>>,
        reader: Reader,
    }

    impl Run {
        fn new(rule: &Arc<Rule>) -> Run {
            let mut table = FieldTable::sensor();
            let mut builder = Builder::new(Limits::default());
            builder.add(0, &rule.query).unwrap();
            let engine: Engine<Arc<FlatEvent>> = builder.build(&mut table).unwrap();
            let reader = Reader::new(&table, engine.needed_fields(), &Options::default());
            Run { engine, reader }
        }

        fn event(&mut self, name: &str) -> bool {
            let line = format!(r#"{{"@timestamp": "{START}", "process.name": "{name}"}}"#);
            let event = self.reader.parse(line.as_bytes(), 1).unwrap();
            let mut matches: Vec<Match<_>> = Vec::new();
            self.engine.process(&Arc::new(event), &mut matches);
            !matches.is_empty()
        }
    }

    /// A directory in which `curl` has been seen, and was saved at the start of the events' time.
    fn seen(rule: &Arc<Rule>) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::new(directory.path());
        let mut run = Run::new(rule);
        assert!(run.event("curl"));
        store.save(&run.engine, (std::slice::from_ref(rule), 1), 0, START_NS);
        store.finish();
        (directory, store)
    }

    #[test]
    fn what_was_seen_before_a_restart_is_not_new_after_it() {
        let five_days = rule("5d");
        let (directory, store) = seen(&five_days);
        let text = fs::read_to_string(directory.path().join(FILE_NAME)).unwrap();
        assert!(!text.contains("curl"), "{text}");

        let mut run = Run::new(&five_days);
        let restored = store.restore(&mut run.engine, (&[Arc::clone(&five_days)], 1), 0, START_NS);
        let expected = Restored {
            kept: 1,
            learning: 0,
        };
        assert_eq!(restored, expected);
        assert_eq!(run.engine.counters()[0].terms, 1);
        assert!(!run.event("curl"));
        assert!(run.event("wget"));
    }

    #[test]
    fn a_rule_on_trial_and_the_live_one_of_its_id_have_seen_different_things() {
        let both = [rule("5d"), rule("5d")];
        let mut table = FieldTable::sensor();
        let mut builder = Builder::new(Limits::default());
        builder.add(0, &both[0].query).unwrap();
        builder.add(1, &both[1].query).unwrap();
        let engine: Engine<Arc<FlatEvent>> = builder.build(&mut table).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::new(directory.path());
        let seen = |engine: &mut Engine<_>, number: usize, terms: &[u128]| {
            engine.restore_baseline(engine::Baseline {
                rule: number,
                since_ns: START_NS,
                terms: terms.iter().map(|term| (*term, START_NS)).collect(),
            });
        };
        let mut before = engine;
        seen(&mut before, 0, &[1, 2, 3]);
        seen(&mut before, 1, &[4]);
        store.save(&before, (&both, 1), 0, START_NS);
        store.finish();
        let restored = |rules: &[Arc<Rule>], live: usize| {
            let mut builder = Builder::new(Limits::default());
            for (number, rule) in rules.iter().enumerate() {
                builder.add(number, &rule.query).unwrap();
            }
            let mut engine: Engine<Arc<FlatEvent>> =
                builder.build(&mut FieldTable::sensor()).unwrap();
            store.restore(&mut engine, (rules, live), 0, START_NS);
            let terms = engine.counters().iter().map(|rule| rule.terms);
            terms.collect::<Vec<u64>>()
        };
        assert_eq!(restored(&both, 1), [3, 1]);
        assert_eq!(restored(&both[..1], 1), [3]);
        assert_eq!(restored(&both[..1], 0), [1]);
    }

    #[test]
    fn a_rule_that_changed_and_one_long_unseen_learn_anew() {
        let five_days = rule("5d");
        let (_directory, store) = seen(&five_days);
        for (rule, now_ns) in [(rule("6d"), START_NS), (five_days, START_NS + 5 * DAY_NS)] {
            let mut run = Run::new(&rule);
            let restored = store.restore(&mut run.engine, (&[rule], 1), 0, now_ns);
            let expected = Restored {
                kept: 0,
                learning: 1,
            };
            assert_eq!(restored, expected);
            run.engine.set_learning(std::time::Duration::from_secs(60));
            assert!(!run.event("curl"));
            assert_eq!(run.engine.counters()[0].learned, 1);
        }
    }

    #[test]
    fn a_baseline_is_no_longer_learnt() {
        let five_days = rule("5d");
        let (_directory, store) = seen(&five_days);
        let mut run = Run::new(&five_days);
        // Saved a day ago by this run's clock: nothing is left to learn.
        store.restore(
            &mut run.engine,
            (&[Arc::clone(&five_days)], 1),
            DAY_NS,
            START_NS + DAY_NS,
        );
        run.engine
            .set_learning(std::time::Duration::from_secs(3600));
        assert!(run.event("wget"));
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let five_days = rule("5d");
        for text in [
            "",
            "{",
            "{\"format\":\"x\",\"version\":1,\"saved_ns\":0,\"rules\":[]}",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE_NAME);
            fs::write(&path, text).unwrap();
            let store = Store::new(directory.path());
            let mut run = Run::new(&five_days);
            let restored =
                store.restore(&mut run.engine, (&[Arc::clone(&five_days)], 1), 0, START_NS);
            assert_eq!(restored.learning, 1);
            assert!(!path.exists());
            let aside = directory.path().join(format!("{FILE_NAME}.broken"));
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
        }
    }
}
