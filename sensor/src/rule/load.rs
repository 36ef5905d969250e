//! Files and directories to rules.
//!
//! In: paths. Out: [`Loaded`]. One bad file never hides another; of two rules that share an id the later one stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Rule, directory, format};
use crate::document::{Problem, Severity, Source};
use crate::drop_ins;

/// A file that is a rule, but not one for this sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub path: Arc<Path>,
    pub name: Option<String>,
    pub reason: String,
}

/// What came of reading rule files.
#[derive(Debug, Default)]
pub struct Loaded {
    pub rules: Vec<Arc<Rule>>,
    pub skipped: Vec<Skipped>,
    /// Errors, warnings and notes, by file in reading order.
    pub problems: Vec<Problem>,
    /// Rule files looked at.
    pub files: usize,
    /// Files with at least one error: none of them is in `rules`.
    pub failed: usize,
}

impl Loaded {
    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.is_error())
    }

    fn add(&mut self, source: Result<Source, Box<Problem>>) {
        self.files += 1;
        let outcome = match source {
            Ok(source) => format::read(&source),
            Err(problem) => format::Outcome {
                rule: None,
                skipped: None,
                problems: vec![*problem],
            },
        };
        if outcome.problems.iter().any(Problem::is_error) {
            self.failed += 1;
        }
        self.problems.extend(outcome.problems);
        self.skipped.extend(outcome.skipped);
        self.rules.extend(outcome.rule.map(Arc::new));
    }

    /// Drops every rule whose id a later one has, and says so where that one is.
    fn replace_duplicates(&mut self) {
        let mut last: HashMap<String, Arc<Rule>> = HashMap::new();
        let rules = self.rules.iter();
        last.extend(rules.map(|rule| (rule.id.clone(), Arc::clone(rule))));
        let (mut problems, mut skipped) = (Vec::new(), Vec::new());
        self.rules.retain(|rule| {
            let Some(later) = last.get(&rule.id).filter(|later| !Arc::ptr_eq(later, rule)) else {
                return true;
            };
            let (by, of) = (later.path.display(), rule.path.display());
            problems.push(Problem {
                severity: Severity::Warning,
                code: Some("duplicate-id"),
                place: Some((later.id_line, 1)),
                ..Problem::of_file(
                    &later.path,
                    format!("this rule replaces {of}:{}", rule.id_line),
                    Some(&format!(
                        "both have the id `{}`; the later file wins",
                        rule.id
                    )),
                )
            });
            skipped.push(Skipped {
                path: Arc::clone(&rule.path),
                name: Some(rule.name.clone()),
                reason: format!("replaced by {by}:{}", later.id_line),
            });
            false
        });
        self.problems.extend(problems);
        self.skipped.extend(skipped);
    }
}

/// Loads rule files and the `*.toml` files of directories and of all below them, in the order given; files of a directory in
/// order of path.
#[must_use]
pub fn load(paths: &[PathBuf]) -> Loaded {
    let mut loaded = Loaded::default();
    for path in paths {
        if path.is_dir() {
            let (files, problems) = directory::rule_files_below(path);
            loaded.problems.extend(problems);
            for file in files {
                loaded.add(Source::read(&file, "rule file"));
            }
        } else {
            loaded.add(Source::read(path, "rule file"));
        }
    }
    loaded.replace_duplicates();
    loaded
}

/// Loads the installed rules. Directories come in order of precedence: a file hides those of the same name in later ones,
/// an empty file hides without being a rule. Directories that do not exist are passed over, what others than root can write
/// is refused.
#[must_use]
pub fn load_installed(directories: &[PathBuf]) -> Loaded {
    let mut loaded = Loaded::default();
    let found = drop_ins::merged(directories);
    loaded.problems.extend(found.problems);
    for file in found.files {
        loaded.add(Source::read_installed(&file, "rule file"));
    }
    loaded.replace_duplicates();
    loaded
}

/// The `*.toml` files of drop-in directories, merged by name as [`load_installed`] does; a path that is a file counts by itself.
#[must_use]
pub fn drop_ins(paths: &[PathBuf]) -> (Vec<PathBuf>, Vec<Problem>) {
    let (files, directories): (Vec<PathBuf>, Vec<PathBuf>) =
        paths.iter().cloned().partition(|path| path.is_file());
    let mut found = drop_ins::merged(&directories);
    found.files.extend(files);
    (found.files, found.problems)
}

/// Loads one rule from text; for tests and tools.
#[must_use]
pub fn load_source(source: &Source) -> Loaded {
    let outcome = format::read(source);
    Loaded {
        failed: usize::from(outcome.problems.iter().any(Problem::is_error)),
        files: 1,
        problems: outcome.problems,
        skipped: outcome.skipped.into_iter().collect(),
        rules: outcome.rule.map(Arc::new).into_iter().collect(),
    }
}
