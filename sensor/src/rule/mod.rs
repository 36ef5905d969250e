//! Rule files: metadata, query, examples that must and must not fire.
//!
//! In: paths of rule files and directories. Out: [`Loaded`]: rules with typed queries, the skipped ones with the reason,
//! and every problem of every file with its place. One bad file never hides another, and nothing here panics.

mod action;
mod actors;
mod acts;
pub mod coverage;
mod directory;
pub mod environment;
mod example;
mod fold;
mod format;
mod interest;
mod kuery;
mod lint;
mod literal;
mod load;
mod places;
pub mod schema;

use std::path::Path;
use std::sync::Arc;

pub use action::{Action, Whose};
pub use actors::{Actors, actors};
pub use coverage::{Judgement, Verdict};
pub use example::{Events, Example, Expected};
pub use format::digest;
pub use interest::interest;
pub use load::{Loaded, Skipped, drop_ins, load, load_installed, load_source};

use crate::eql;
use crate::eql::query::{Form, Key, Pipe};
use crate::event::{Kind, Kinds};

/// One rule that can be matched.
#[derive(Clone, Debug)]
pub struct Rule {
    pub path: Arc<Path>,
    pub shape: Shape,
    /// Unique among the loaded rules; a UUID in the public sets.
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    pub version: Option<String>,
    pub severity: Severity,
    /// 0 to 100.
    pub risk_score: u8,
    pub authors: Vec<String>,
    pub license: Option<String>,
    pub references: Vec<String>,
    pub false_positives: Vec<String>,
    pub tags: Vec<String>,
    /// Triage guide, Markdown.
    pub note: Option<String>,
    pub threats: Vec<Threat>,
    pub query_text: String,
    pub query: eql::query::Query,
    /// What `[[test]]` tables claim.
    pub examples: Vec<Example>,
    /// What is to be done about each alert, where that is allowed.
    pub actions: Vec<Action>,
    /// Of the file's whole text: two files of equal digest hold the same rule.
    pub digest: u64,
    /// Line of the rule's id, from 1.
    id_line: usize,
    places: places::Places,
    /// What keeps it from ever firing, on any kernel.
    never: Vec<coverage::Finding>,
}

impl Rule {
    /// Whether the query's text names a field; it may also stand in a comment or a string.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        self.query_text.contains(path)
    }

    /// Kinds of events that can make a difference to the rule.
    #[must_use]
    pub fn interest(&self) -> Kinds {
        let terms = self.terms();
        let reads = |names: &[&str]| {
            let named = |name| {
                self.query_text.contains(name) || terms.iter().any(|key| key.path.contains(name))
            };
            names.iter().any(|name| named(*name))
        };
        let mut kinds = interest(&self.query);
        // Known from changes alone: what other events say of them must be kept up to date.
        let ids = [
            "real",
            "saved",
            "capabilities",
            "parent.user",
            "parent.group",
        ];
        if reads(&ids) {
            kinds = kinds.with(Kind::UidChange).with(Kind::GidChange);
        }
        if reads(&["leader", "interactive", "tty"]) {
            kinds = kinds.with(Kind::SessionIdChange);
        }
        kinds
    }

    /// What it lacks where these kinds of events are given, and what comes of it.
    #[must_use]
    pub fn judge(&self, given: Kinds) -> Judgement {
        let mut found = coverage::judge(&self.query, &self.query_text, given);
        if !self.never.is_empty() {
            found.is_blind = true;
            found.is_positive = false;
            found.findings.extend(self.never.iter().cloned());
            found.findings.sort();
        }
        found
    }

    /// Line and column in the rule's file, both from 1, of where a part of the query starts.
    #[must_use]
    pub fn place(&self, span: eql::Span) -> (usize, usize) {
        self.places.of(&self.query_text, span)
    }

    /// Whether the rule asks for combinations of terms that were not there before.
    #[must_use]
    pub fn asks_for_new(&self) -> bool {
        let mut pipes = self.query.pipes.iter();
        pipes.any(|pipe| matches!(pipe, Pipe::NewTerms(_)))
    }

    /// Fields a rule of the type `new_terms` or `threshold` tells events apart by; no others have any.
    #[must_use]
    pub fn terms(&self) -> &[Key] {
        self.query.terms()
    }

    /// Fields whose different values a rule of the type `threshold` counts.
    pub fn counted(&self) -> impl Iterator<Item = &str> {
        let fields = self.query.pipes.iter().flat_map(|pipe| match pipe {
            Pipe::Threshold(threshold) => threshold.distinct.as_slice(),
            _ => &[],
        });
        fields.map(|(key, _)| &*key.path)
    }

    /// For each join key the fields that have to agree, step by step, each named once.
    #[must_use]
    pub fn join_fields(&self) -> Vec<Vec<Box<str>>> {
        let steps: Vec<&[Key]> = match &self.query.form {
            Form::Event(_) => vec![self.terms()],
            Form::Sequence(sequence) => sequence.steps.iter().map(|s| s.keys.as_slice()).collect(),
            Form::Sample(sample) => sample.steps.iter().map(|s| s.keys.as_slice()).collect(),
        };
        let keys = steps.first().map_or(0, |keys| keys.len());
        (0..keys)
            .map(|index| {
                let mut fields: Vec<Box<str>> = Vec::new();
                for key in steps.iter().filter_map(|keys| keys.get(index)) {
                    if !fields.contains(&key.path) {
                        fields.push(key.path.clone());
                    }
                }
                fields
            })
            .collect()
    }
}

/// The three shapes a rule file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `[rule]` with `rule_id` and `type`, written for this sensor: it names no index. Every field must exist here.
    Own,
    /// The same with `index`: written for an index of Elasticsearch, whose fields may differ from ours.
    Detection,
    /// `[rule]` with `id` and `os_list`: an endpoint behavior rule.
    Behavior,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 4] = [
        Severity::Low,
        Severity::Medium,
        Severity::High,
        Severity::Critical,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The risk score of a rule that gives none.
    #[must_use]
    pub fn risk_score(self) -> u8 {
        match self {
            Severity::Low => 21,
            Severity::Medium => 47,
            Severity::High => 73,
            Severity::Critical => 99,
        }
    }
}

/// One tactic of a framework, usually MITRE ATT&CK, and the techniques under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threat {
    pub framework: String,
    pub tactic: Reference,
    pub techniques: Vec<Technique>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Technique {
    pub reference: Reference,
    pub subtechniques: Vec<Reference>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    pub id: String,
    pub name: String,
    pub url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Source;

    #[test]
    fn what_only_changes_tell_is_asked_for() {
        let interest = |condition: &str| {
            let text = format!(
                "[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"eql\"\nquery = 'process where event.action == \"exec\" and {condition}'\n"
            );
            let path = Path::new("r.toml").into();
            let loaded = load_source(&Source { path, text });
            assert_eq!(loaded.rules.len(), 1, "{:?}", loaded.problems);
            let kinds = loaded.rules[0].interest();
            [Kind::Exec, Kind::UidChange, Kind::SessionIdChange].map(|kind| kinds.contains(kind))
        };
        let plain = interest("process.pid == 7");
        assert_eq!(plain, [true, false, false]);
        for field in ["process.real_user.id", "process.parent.user.id"] {
            let ids = interest(&format!("{field} == \"0\""));
            assert_eq!(ids, [true, true, false], "{field}");
        }
        let group = interest("process.group_leader.name == \"sh\"");
        assert_eq!(group, [true, false, true]);
    }
}
