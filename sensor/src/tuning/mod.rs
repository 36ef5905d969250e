//! What an administrator changes about rules without touching their files: overrides and exceptions.
//!
//! In: drop-in files. Out: rules with their overrides applied, and a [`Gate`] that says of each match whether an exception or a rate
//! limit hides it. A file that is wrong changes nothing: of two evils, an alert too many is the smaller. What is hidden is
//! counted, always.

mod gate;
mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::document::{Problem, Severity as ProblemSeverity, Source};
use crate::eql::pattern;
use crate::eql::query::Query;
use crate::rule::{self, Rule, Severity};

pub use gate::{Gate, Hidden, cannot_match};

/// Which rules are meant. Letters' case does not matter, `*` and `?` are wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Id(String),
    Name(String),
    Tag(String),
}

impl Selector {
    #[must_use]
    pub fn selects(&self, rule: &Rule) -> bool {
        let fits = |wanted: &str, text: &str| pattern::like(wanted, text, true);
        match self {
            Selector::Id(wanted) => fits(wanted, &rule.id),
            Selector::Name(wanted) => fits(wanted, &rule.name),
            Selector::Tag(wanted) => rule.tags.iter().any(|tag| fits(wanted, tag)),
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, wanted) = match self {
            Selector::Id(wanted) => ("rule_id", wanted),
            Selector::Name(wanted) => ("rule_name", wanted),
            Selector::Tag(wanted) => ("tag", wanted),
        };
        write!(f, "{what} = \"{wanted}\"")
    }
}

/// Where something stands in its file; line and column from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: Arc<Path>,
    pub line: usize,
    pub column: usize,
}

impl Place {
    fn problem(&self, severity: ProblemSeverity, message: String, help: Option<&str>) -> Problem {
        Problem {
            severity,
            place: Some((self.line, self.column)),
            ..Problem::of_file(&self.path, message, help)
        }
    }
}

/// What is different about some rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub selector: Selector,
    pub enabled: Option<bool>,
    pub severity: Option<Severity>,
    pub risk_score: Option<u8>,
    pub limit: Option<RateLimit>,
    /// Whether what the rules ask to be done is done.
    pub actions: Option<bool>,
    pub place: Place,
}

/// At most so many alerts of a rule within a stretch of time, which begins with the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub alerts: u64,
    pub per: Duration,
}

/// Alerts that nobody needs to see.
#[derive(Clone, Debug)]
pub struct Exception {
    pub selector: Selector,
    /// Each has to hold for some event of the alert.
    pub conditions: Vec<Query>,
    /// Their texts.
    pub texts: Vec<String>,
    pub reason: String,
    pub owner: String,
    /// Unix time in nanoseconds from which on it does not hold any more; `None` is never.
    pub expires_ns: Option<i64>,
    pub place: Place,
}

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    pub overrides: Vec<Override>,
    pub exceptions: Vec<Exception>,
}

impl Tuning {
    /// Reads drop-in directories in order of precedence, as rules are read; a path that is a file is read as it is. Directories
    /// that do not exist are passed over.
    #[must_use]
    pub fn load(exceptions: &[PathBuf], overrides: &[PathBuf]) -> (Tuning, Vec<Problem>) {
        let mut tuning = Tuning::default();
        let mut problems = Vec::new();
        for (paths, what) in [
            (overrides, read::What::Overrides),
            (exceptions, read::What::Exceptions),
        ] {
            let (files, found) = rule::drop_ins(paths);
            problems.extend(found);
            for file in files {
                let read = if paths.contains(&file) {
                    Source::read(&file, what.name())
                } else {
                    Source::read_installed(&file, what.name())
                };
                match read {
                    Ok(source) => problems.extend(read::read(&source, what, &mut tuning)),
                    Err(problem) => problems.push(*problem),
                }
            }
        }
        (tuning, problems)
    }

    /// The exceptions of one file at hand.
    #[must_use]
    pub fn exceptions_of(source: &Source) -> (Tuning, Vec<Problem>) {
        let mut tuning = Tuning::default();
        let problems = read::read(source, read::What::Exceptions, &mut tuning);
        (tuning, problems)
    }

    /// What sort of file this is, if it is one of these: exceptions (true) or overrides (false).
    #[must_use]
    pub fn is_exceptions(source: &Source) -> Option<bool> {
        let (document, _) = source.parse();
        let has = |key: &str| document.get_ref().contains_key(key);
        match (has("rule"), has("exception"), has("override")) {
            (false, true, _) => Some(true),
            (false, false, true) => Some(false),
            _ => None,
        }
    }

    /// Applies overrides, in the order they were read: rules that are switched off leave, others take their severity and score, or
    /// lose their actions. Of two overrides of one thing the later counts.
    pub fn apply(&self, rules: &mut Vec<Arc<Rule>>) -> Vec<Problem> {
        self.apply_beside(rules, &mut [])
    }

    /// The same with rules on trial beside. None of those is switched off: their trial is to show what they would do.
    pub fn apply_beside(
        &self,
        rules: &mut Vec<Arc<Rule>>,
        on_trial: &mut [Arc<Rule>],
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for change in &self.overrides {
            let mut all = rules.iter().chain(on_trial.iter());
            if !all.any(|rule| change.selector.selects(rule)) {
                problems.push(change.place.problem(
                    ProblemSeverity::Warning,
                    format!("no loaded rule has {}", change.selector),
                    Some("the override changes nothing"),
                ));
            }
        }
        rules.retain(|rule| {
            let of_rule = self.overrides.iter().filter(|o| o.selector.selects(rule));
            of_rule.filter_map(|o| o.enabled).next_back() != Some(false)
        });
        for rule in rules.iter_mut().chain(on_trial) {
            let of_rule = self.overrides.iter().filter(|o| o.selector.selects(rule));
            let severity = of_rule.clone().filter_map(|o| o.severity).next_back();
            let risk_score = of_rule.clone().filter_map(|o| o.risk_score).next_back();
            let actions = of_rule.filter_map(|o| o.actions).next_back();
            if severity.is_none() && risk_score.is_none() && actions != Some(false) {
                continue;
            }
            // One that runs in its last good version is shared with the set before, which must stay as it is.
            let rule = Arc::make_mut(rule);
            if let Some(severity) = severity {
                rule.severity = severity;
                rule.risk_score = severity.risk_score();
            }
            if let Some(risk_score) = risk_score {
                rule.risk_score = risk_score;
            }
            if actions == Some(false) {
                rule.actions.clear();
            }
        }
        problems
    }

    /// The rate limit of a rule, the last that was read.
    fn limit_of(&self, rule: &Rule) -> Option<RateLimit> {
        let of_rule = self.overrides.iter().filter(|o| o.selector.selects(rule));
        of_rule.filter_map(|o| o.limit).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::load_source;

    #[test]
    fn an_override_takes_a_rules_actions_away() {
        let source = |path: &str, text: &str| Source {
            path: Path::new(path).into(),
            text: text.to_owned(),
        };
        let kills = "[rule]\nrule_id = \"r-1\"\nname = \"R\"\ntype = \"eql\"\nquery = 'process where true'\n\
                     [[actions]]\naction = \"kill_process\"\n";
        for (text, left) in [
            ("[[override]]\nrule_id = \"r-1\"\nseverity = \"high\"\n", 1),
            ("[[override]]\nrule_id = \"*\"\nactions = false\n", 0),
            // The later counts.
            (
                "[[override]]\nrule_id = \"*\"\nactions = false\n[[override]]\nrule_id = \"r-1\"\nactions = true\n",
                1,
            ),
        ] {
            let mut tuning = Tuning::default();
            let problems = read::read(&source("o.toml", text), read::What::Overrides, &mut tuning);
            assert_eq!(problems, []);
            let mut rules = load_source(&source("r.toml", kills)).rules;
            tuning.apply(&mut rules);
            assert_eq!(rules[0].actions.len(), left, "{text}");
        }
    }
}
