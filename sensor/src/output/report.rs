//! What `check` found, for people or for programs.
//!
//! In: problems, rules with their verdicts, skipped files. Out: text that is read in ten seconds, or in full, or one JSON document.
//! It decides nothing. The keys of the document are described in `rules/README.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::json::Json;
use crate::document::{Problem, Severity, counted};
use crate::rule::coverage::{Finding, Gap};
use crate::rule::{Judgement, Rule, Shape, Skipped, Verdict};

/// Warnings up to this many are shown one by one.
const WARNINGS_SHOWN_MAX: usize = 8;
/// Places named of one thing.
const PLACES_SHOWN_MAX: usize = 3;
/// Reasons to skip that are told apart.
const REASONS_SHOWN_MAX: usize = 8;

/// A rule that loads, and how far it can do its work.
pub struct Judged {
    pub rule: Arc<Rule>,
    pub judgement: Judgement,
    /// What the hooks in use do not see of its events.
    pub limits: Vec<&'static str>,
    /// Share of the events of a recording that it has to look at, of a thousand; `None` when nothing was replayed.
    pub wakes: Option<u32>,
    /// It raises no alert.
    pub on_trial: bool,
}

/// How it is known what the kernel gives.
#[derive(Clone, Debug, Default)]
pub struct Basis {
    pub name: &'static str,
    /// In words.
    pub words: String,
}

/// Everything `check` looked at.
#[derive(Default)]
pub struct Report {
    pub problems: Vec<Problem>,
    pub rules: Vec<Judged>,
    pub skipped: Vec<Skipped>,
    /// Settings files read.
    pub settings: usize,
    /// Rule files read.
    pub files: usize,
    /// Rule files that can not be used.
    pub failed: usize,
    pub basis: Basis,
}

impl Report {
    /// Problems of one severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.of(severity).count()
    }

    fn of(&self, severity: Severity) -> impl Iterator<Item = &Problem> {
        self.problems
            .iter()
            .filter(move |problem| problem.severity == severity)
    }

    fn judged(&self, verdict: Verdict) -> impl Iterator<Item = &Judged> {
        self.rules
            .iter()
            .filter(move |judged| judged.judgement.verdict() == verdict)
    }

    /// Text for people. `verbose` leaves nothing out; else alike things are told together, and what is as it should be is only
    /// counted.
    #[must_use]
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let few = self.count(Severity::Warning) <= WARNINGS_SHOWN_MAX;
        for problem in &self.problems {
            let is_shown = match problem.severity {
                Severity::Error => true,
                Severity::Warning => verbose || few,
                Severity::Note => verbose,
            };
            if is_shown {
                let _ = write!(out, "{problem}\n{}", problem.excerpt);
            }
        }
        if verbose {
            self.each(&mut out);
        } else {
            if !few {
                self.warnings(&mut out);
            }
            self.attention(&mut out);
        }
        if !self.rules.is_empty() && !self.basis.words.is_empty() {
            let _ = writeln!(out, "{}", self.basis.words);
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    /// Every rule and every skipped file.
    fn each(&self, out: &mut String) {
        for judged in &self.rules {
            let rule = &judged.rule;
            let verdict = judged.judgement.verdict().name();
            let (path, name, id) = (rule.path.display(), &rule.name, &rule.id);
            let trial = if judged.on_trial { ", on trial" } else { "" };
            let _ = writeln!(out, "{path}: {verdict}{trial}: {name} ({id})");
            for finding in &judged.judgement.findings {
                let (line, column) = rule.place(finding.span);
                let words = finding.words(&rule.query_text);
                let _ = writeln!(out, "{path}:{line}:{column}: {words}");
            }
            for limit in &judged.limits {
                let _ = writeln!(out, "{path}: not seen by the hooks in use: {limit}");
            }
            if let Some(wakes) = judged.wakes {
                let (whole, tenth) = (wakes / 10, wakes % 10);
                let _ = writeln!(out, "{path}: looks at {whole}.{tenth} % of all events");
            }
        }
        for skipped in &self.skipped {
            let (path, reason) = (skipped.path.display(), &skipped.reason);
            let _ = writeln!(out, "{path}: skipped: {reason}");
        }
    }

    fn warnings(&self, out: &mut String) {
        let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for problem in self.of(Severity::Warning) {
            let line = problem.place.map(|(line, _)| line);
            let places = groups.entry(problem.code.unwrap_or("other")).or_default();
            places.push(place(&problem.path, line));
        }
        let _ = writeln!(out, "warnings, each with --verbose:");
        for (code, places) in groups {
            let _ = writeln!(out, "  {} × {code}: {}", places.len(), listed(&places));
        }
    }

    /// What a person should know of, alike things together.
    fn attention(&self, out: &mut String) {
        for (verdict, head) in [
            (Verdict::Blind, "blind, can never fire"),
            (Verdict::Degraded, "degraded, fires but lacks something"),
        ] {
            let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for judged in self.judged(verdict) {
                let findings = judged.judgement.decisive();
                let line = findings
                    .first()
                    .map(|first| judged.rule.place(first.span).0);
                let places = groups.entry(reason(&findings, verdict)).or_default();
                places.push(place(&judged.rule.path, line));
            }
            if groups.is_empty() {
                continue;
            }
            let _ = writeln!(out, "{head}:");
            for (reason, places) in groups {
                let _ = writeln!(out, "  {reason}: {}", listed(&places));
            }
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for skipped in &self.skipped {
            *reasons.entry(&skipped.reason).or_default() += 1;
        }
        if !reasons.is_empty() {
            let mut reasons: Vec<(&str, usize)> = reasons.into_iter().collect();
            reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
            let more = reasons.len().saturating_sub(REASONS_SHOWN_MAX);
            reasons.truncate(REASONS_SHOWN_MAX);
            let mut words: Vec<String> = reasons
                .iter()
                .map(|(reason, count)| format!("{count} {reason}"))
                .collect();
            if more > 0 {
                words.push(format!("{more} other reasons"));
            }
            let _ = writeln!(out, "skipped: {}", words.join("; "));
        }
    }

    /// Counts by verdict, the best first.
    fn counts(&self) -> [(&'static str, usize); 5] {
        let of = |verdict| self.judged(verdict).count();
        [
            ("armed", of(Verdict::Armed)),
            ("degraded", of(Verdict::Degraded)),
            ("blind", of(Verdict::Blind)),
            ("skipped", self.skipped.len()),
            ("failed", self.failed),
        ]
    }

    fn on_trial(&self) -> usize {
        self.rules.iter().filter(|judged| judged.on_trial).count()
    }

    fn summary(&self) -> String {
        let mut parts = Vec::new();
        if self.files > 0 || self.settings == 0 {
            let mut counts = self.counts().to_vec();
            counts.retain(|(_, count)| *count > 0);
            let words: Vec<String> = counts.iter().map(|(of, n)| format!("{n} {of}")).collect();
            let colon = if words.is_empty() { "" } else { ": " };
            let files = counted(self.files, "rule file");
            parts.push(format!("{files}{colon}{}", words.join(", ")));
            let on_trial = self.on_trial();
            if on_trial > 0 {
                parts.push(format!("{on_trial} of the rules on trial"));
            }
        }
        if self.settings > 0 {
            parts.push(counted(self.settings, "settings file"));
        }
        parts.push(counted(self.count(Severity::Error), "error"));
        parts.push(counted(self.count(Severity::Warning), "warning"));
        parts.join("; ")
    }

    /// One JSON document, its line ended.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out);
        json.open_object();
        json.object("summary", |json| {
            json.number("rule_files", self.files);
            json.number("settings_files", self.settings);
            json.number("loaded", self.rules.len());
            for (name, count) in self.counts() {
                json.number(name, count);
            }
            json.number("on_trial", self.on_trial());
            json.number("errors", self.count(Severity::Error));
            json.number("warnings", self.count(Severity::Warning));
            json.number("notes", self.count(Severity::Note));
            json.text("judged_by", self.basis.name);
        });
        json.objects("problems", &self.problems, problem_of);
        json.objects("rules", &self.rules, rule_of);
        json.objects("skipped", &self.skipped, |json, skipped| {
            json.text("path", &skipped.path.display().to_string());
            json.maybe("name", skipped.name.as_deref());
            json.text("reason", &skipped.reason);
        });
        json.close_object();
        out.push(b'\n');
        out
    }
}

/// What is missing, without where.
fn name(gap: &Gap) -> String {
    match gap {
        Gap::Field { path, .. } => format!("no `{path}`"),
        other => other.to_string(),
    }
}

fn reason(findings: &[&Finding], verdict: Verdict) -> String {
    let mut names: Vec<String> = findings.iter().map(|finding| name(&finding.gap)).collect();
    names.sort_unstable();
    names.dedup();
    let mut effects: Vec<&str> = findings
        .iter()
        .map(|finding| finding.effect.words())
        .collect();
    effects.sort_unstable();
    effects.dedup();
    let names = names.join(", ");
    match verdict {
        // That it can never fire is said already.
        Verdict::Blind => names,
        _ => format!("{names}: {}", effects.join("; ")),
    }
}

fn place(path: &Path, line: Option<usize>) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    match line {
        Some(line) => format!("{name}:{line}"),
        None => name.into_owned(),
    }
}

/// The first few of them.
fn listed(places: &[String]) -> String {
    let shown: Vec<&str> = places
        .iter()
        .take(PLACES_SHOWN_MAX)
        .map(String::as_str)
        .collect();
    let more = places.len() - shown.len();
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}

fn problem_of(json: &mut Json<'_>, problem: &Problem) {
    json.text("path", &problem.path.display().to_string());
    if let Some((line, column)) = problem.place {
        json.number("line", line);
        json.number("column", column);
    }
    json.text("severity", &problem.severity.to_string());
    json.maybe("code", problem.code);
    json.text("message", &problem.message);
    json.maybe("help", problem.help.as_deref());
}

fn rule_of(json: &mut Json<'_>, judged: &Judged) {
    let (rule, judgement) = (&judged.rule, &judged.judgement);
    json.text("path", &rule.path.display().to_string());
    json.text("id", &rule.id);
    json.text("name", &rule.name);
    json.text("severity", rule.severity.name());
    json.text("shape", shape_name(rule.shape));
    json.text("verdict", judgement.verdict().name());
    json.boolean("on_trial", judged.on_trial);
    json.boolean(
        "strict",
        judgement.findings.is_empty() && !judgement.is_blind,
    );
    json.boolean("positive", judgement.is_positive);
    json.boolean("lenient", !judgement.is_blind);
    json.objects("findings", &judgement.findings, |json, finding| {
        let (line, column) = rule.place(finding.span);
        json.number("step", finding.step);
        json.number("line", line);
        json.number("column", column);
        json.text("clause", &finding.clause(&rule.query_text));
        match &finding.gap {
            Gap::Action(action) => json.text("action", action),
            Gap::Field { path, actions, .. } => {
                json.text("field", path);
                json.strings("events", actions.iter().copied());
            }
            Gap::Value(path) => json.text("field", path),
            Gap::Category(name) => json.text("category", name),
            Gap::Nothing | Gap::Impossible(_) => {}
        }
        json.text("effect", finding.effect.name());
        json.text("words", &finding.words(&rule.query_text));
    });
    if !judged.limits.is_empty() {
        json.strings("limits", judged.limits.iter().copied());
    }
    if let Some(wakes) = judged.wakes {
        json.number("wakes_per_thousand", wakes);
    }
}

fn shape_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Own => "own",
        Shape::Detection => "detection-rules",
        Shape::Behavior => "endpoint behavior",
    }
}
