//! `test`: the tests that rules carry, and recordings in which they must stay silent.
//!
//! In: rule files and recordings. Out: each failure with its reason, counts, and the exit code. A test runs through the same stages
//! as `replay`, its events put in order of time. A rule that does not load fails, too: nothing is passed over silently.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use super::explained::{self, Recording};
use super::{Exit, Failure, compile, load_config, log, print};
use crate::alert;
use crate::cli::{ReportFormat, TestArgs, TestCount};
use crate::config::Config;
use crate::document::{Problem, counted};
use crate::engine::{Engine, Match};
use crate::event::{Evidence, FieldId, FieldTable, Fields, OwnedValue, Values};
use crate::json_lines::{FlatEvent, Lines, Options, Reader};
use crate::loss;
use crate::output::explanation::{Explanation, Matched};
use crate::rule::{self, Events, Example, Expected, Rule};

/// Alerts of one baseline described one by one; the rest is only counted.
const ALERTS_SHOWN_MAX: usize = 20;
/// Broken lines of one test or baseline described one by one.
const BROKEN_SHOWN_MAX: usize = 10;

/// Runs `test`.
///
/// # Errors
/// A path can not be read, or there is no rule at all.
pub fn test(args: &TestArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.settings)?;
    for path in args.paths.iter().chain(&args.baselines) {
        std::fs::metadata(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    }
    let loaded = if args.paths.is_empty() {
        rule::load_installed(&config.rules.directories)
    } else {
        rule::load(&args.paths)
    };
    let errors: Vec<Problem> = loaded.errors().cloned().collect();
    log(&errors);
    if loaded.rules.is_empty() && errors.is_empty() {
        return Err(Failure {
            exit: Exit::Usage,
            error: anyhow::anyhow!("there is no rule to test; name one: eql-sensor test PATH"),
        });
    }
    let mut report = Report {
        rules: loaded.rules.len(),
        not_loaded: loaded.failed,
        ..Report::default()
    };
    for rule in &loaded.rules {
        of_rule(rule, args, &config, &mut report)?;
    }
    for path in &args.baselines {
        let baseline = baseline(path, &loaded.rules, &config)?;
        report.baselines.push(baseline);
    }
    match args.format {
        ReportFormat::Text => print(report.text(args.verbose).as_bytes())?,
        ReportFormat::Json => print(format!("{}\n", report.json()).as_bytes())?,
    }
    Ok(if report.failed() {
        Exit::Problems
    } else {
        Exit::Ok
    })
}

/// Everything that was tried.
#[derive(Default)]
struct Report {
    rules: usize,
    not_loaded: usize,
    outcomes: Vec<Outcome>,
    /// Rules without any test.
    untested: Vec<Arc<Rule>>,
    /// Rules with too few, and how many they have.
    too_few: Vec<(Arc<Rule>, TestCount)>,
    baselines: Vec<Baseline>,
}

/// One test.
struct Outcome {
    rule: Arc<Rule>,
    name: String,
    line: usize,
    /// What is wrong; empty when it passes.
    failures: Vec<String>,
}

/// A recording in which nothing must be found.
struct Baseline {
    path: PathBuf,
    events: u64,
    broken: Vec<String>,
    alerts: Vec<Unwanted>,
}

/// An alert where none must be.
struct Unwanted {
    rule: Arc<Rule>,
    lines: Vec<u64>,
    message: String,
}

fn of_rule(
    rule: &Arc<Rule>,
    args: &TestArgs,
    config: &Config,
    report: &mut Report,
) -> Result<(), Failure> {
    if rule.examples.is_empty() {
        report.untested.push(Arc::clone(rule));
    }
    if let Some(required) = args.require {
        let firing = rule.examples.iter().filter(|e| e.fires()).count();
        let has = TestCount {
            firing,
            silent: rule.examples.len() - firing,
        };
        if has.firing < required.firing || has.silent < required.silent {
            report.too_few.push((Arc::clone(rule), has));
        }
    }
    let wanted = args.filter.as_deref().map(str::to_lowercase);
    for example in &rule.examples {
        let is_wanted = wanted.as_deref().is_none_or(|wanted| {
            [&rule.id, &rule.name, &example.name]
                .into_iter()
                .any(|text| text.to_lowercase().contains(wanted))
        });
        if is_wanted {
            report.outcomes.push(Outcome {
                rule: Arc::clone(rule),
                name: example.name.clone(),
                line: example.line,
                failures: try_example(rule, example, config)?,
            });
        }
    }
    Ok(())
}

/// What is wrong with a rule by one of its tests; nothing when it passes.
///
/// # Errors
/// The engine does not take the rule.
pub(super) fn try_example(
    rule: &Arc<Rule>,
    example: &Example,
    config: &Config,
) -> Result<Vec<String>, Failure> {
    let recording = match &example.events {
        Events::Inline(text, _) => Recording::of("events of the test".to_owned(), text),
        Events::Recording(name) => match beside(&rule.path, name) {
            Ok(path) => Recording::read(&path)?,
            Err(problem) => return Ok(vec![problem]),
        },
    };
    let explained = explained::explain(rule, &recording, config)?;
    let mut failures: Vec<String> = explained
        .broken
        .iter()
        .take(BROKEN_SHOWN_MAX)
        .map(|(number, message)| {
            let place = match &example.events {
                Events::Inline(_, lines) => usize::try_from(*number)
                    .ok()
                    .and_then(|number| lines.get(number.checked_sub(1)?))
                    .map_or(String::new(), |line| {
                        format!(" ({}:{line})", rule.path.display())
                    }),
                Events::Recording(_) => String::new(),
            };
            format!("line {number}{place} is no event: {message}")
        })
        .collect();
    judge(example, &explained.explanation, &mut failures);
    Ok(failures)
}

/// The file of a recording, which no link may lead out of the rule's directory.
///
/// # Errors
/// In words why there is none.
fn beside(rule: &Path, name: &Path) -> Result<PathBuf, String> {
    let directory = match rule.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let path = directory.join(name);
    let real = |path: &Path| {
        path.canonicalize().map_err(|error| {
            let why = crate::document::os_text(&error);
            format!("cannot read the recording `{}`: {why}", path.display())
        })
    };
    if !real(&path)?.starts_with(real(directory)?) {
        return Err(format!(
            "the recording `{}` is a link that leads out of the rule's directory",
            path.display()
        ));
    }
    Ok(path)
}

fn judge(example: &Example, explanation: &Explanation, failures: &mut Vec<String>) {
    let found = explanation.matches.len();
    let wrong = match example.expected {
        Expected::Some if found == 0 => Some("expected an alert, found none".to_owned()),
        Expected::Alerts(0) if found > 0 => Some(format!(
            "expected no alert, found {}",
            counted(found, "alert")
        )),
        Expected::Alerts(count) if count != found as u64 => Some(format!(
            "expected {}, found {found}",
            counted(usize::try_from(count).unwrap_or(usize::MAX), "alert")
        )),
        _ => None,
    };
    if let Some(wrong) = wrong {
        failures.push(wrong);
        failures.extend(explanation.why());
        describe(explanation, failures);
        return;
    }
    if found == 0 {
        return;
    }
    if let Some(steps) = &example.steps {
        let wanted: Vec<u64> = steps.iter().map(|line| *line as u64).collect();
        let is_it = |found: &Matched| lines(explanation, found) == wanted;
        if !explanation.matches.iter().any(is_it) {
            failures.push(format!("expected an alert of lines {}", list(&wanted)));
            describe(explanation, failures);
        }
    }
    if let Some(keys) = &example.keys {
        let is_it = |found: &Matched| found.keys.iter().any(|found| same_keys(keys, found));
        if !explanation.matches.iter().any(is_it) {
            let wanted: Vec<Option<OwnedValue>> = keys.iter().cloned().map(Some).collect();
            failures.push(format!(
                "expected an alert with the key {}",
                key_text(&wanted)
            ));
            describe(explanation, failures);
        }
    }
}

/// Adds what was found: lines and keys of each alert.
fn describe(explanation: &Explanation, failures: &mut Vec<String>) {
    for found in explanation.matches.iter().take(ALERTS_SHOWN_MAX) {
        let keys: Vec<String> = found.keys.iter().map(|keys| key_text(keys)).collect();
        let keys = match keys.iter().all(String::is_empty) {
            true => String::new(),
            false => format!(", key {}", keys.join(" and ")),
        };
        let lines = lines(explanation, found);
        let s = if lines.len() == 1 { "" } else { "s" };
        failures.push(format!("found an alert of line{s} {}{keys}", list(&lines)));
    }
}

fn lines(explanation: &Explanation, found: &Matched) -> Vec<u64> {
    let lines = found.events.iter();
    lines
        .filter_map(|at| explanation.lines.get(*at).copied())
        .collect()
}

fn list(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(", ")
}

/// A number and the text it is written as are the same key.
fn same_keys(wanted: &[OwnedValue], found: &[Option<OwnedValue>]) -> bool {
    wanted.len() == found.len()
        && wanted
            .iter()
            .zip(found)
            .all(|(wanted, found)| found.as_ref().is_some_and(|f| text(f) == text(wanted)))
}

fn text(value: &OwnedValue) -> String {
    match value {
        OwnedValue::Str(text) => text.to_string(),
        OwnedValue::Int(number) => number.to_string(),
        OwnedValue::Float(number) => number.to_string(),
        OwnedValue::Bool(flag) => flag.to_string(),
        OwnedValue::Ip(ip) => ip.to_string(),
        OwnedValue::Date(ns) => crate::eql::time::format_ns(*ns),
    }
}

fn key_text(keys: &[Option<OwnedValue>]) -> String {
    let one = |key: &Option<OwnedValue>| key.as_ref().map_or("null".to_owned(), text);
    alert::plain(&keys.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// An event that knows its line.
struct Placed {
    line: u64,
    event: FlatEvent,
}

impl Fields for Placed {
    fn time_ns(&self) -> i64 {
        self.event.time_ns()
    }

    fn values(&self, field: FieldId) -> Values<'_> {
        self.event.values(field)
    }
}

/// All rules together over one recording, which may be of any size.
fn baseline(path: &Path, rules: &[Arc<Rule>], config: &Config) -> Result<Baseline, Failure> {
    let cannot = || format!("cannot read `{}`", path.display());
    let mut table = FieldTable::sensor();
    let (rules, mut engine): (_, Engine<Arc<Placed>>) =
        compile(rules.to_vec(), &mut table, config, true)?;
    let mut alerts = alert::Builder::new(&mut table);
    let options = Options::default();
    let mut reader = Reader::new(&table, engine.needed_fields(), &options);
    let mut whole = Reader::new(&table, &alerts.wanted(), &options);
    let mut found: Vec<Match<Arc<Placed>>> = Vec::new();
    let mut outcome = Baseline {
        path: path.to_owned(),
        events: 0,
        broken: Vec::new(),
        alerts: Vec::new(),
    };
    let mut lines = Lines::new(BufReader::with_capacity(
        1 << 20,
        File::open(path).with_context(cannot)?,
    ));
    loop {
        let next = lines.next_line().with_context(cannot)?;
        match next {
            Some((line, _)) if loss::read(line).is_some() => continue,
            Some((line, number)) => match reader.parse(line, number) {
                Ok(event) => {
                    outcome.events += 1;
                    let line = number;
                    engine.process(&Arc::new(Placed { line, event }), &mut found);
                }
                Err(error) => outcome.broken.push(error.to_string()),
            },
            None => engine.finish(&mut found),
        }
        for group in alert::merge(std::mem::take(&mut found)) {
            let Some(rule) = rules.get(group.rule) else {
                continue;
            };
            let lines = group.events.iter().map(|event| event.line).collect();
            let events = group.events.iter().filter_map(|event| {
                let event = whole.parse(event.event.line().as_bytes(), 0).ok()?;
                Some(Arc::new(event) as Arc<dyn Evidence>)
            });
            let alert = alerts.build(rule, &group.keys, events.collect(), group.tally, 0);
            outcome.alerts.push(Unwanted {
                rule: Arc::clone(rule),
                lines,
                message: alert.message,
            });
        }
        if next.is_none() {
            return Ok(outcome);
        }
    }
}

impl Report {
    fn failed(&self) -> bool {
        self.not_loaded > 0
            || !self.too_few.is_empty()
            || self.outcomes.iter().any(|o| !o.failures.is_empty())
            || self.baselines.iter().any(Baseline::failed)
    }

    fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        // A String takes any write.
        for outcome in &self.outcomes {
            let place = format!("{}:{}", outcome.rule.path.display(), outcome.line);
            let name = alert::plain(&outcome.name);
            if !outcome.failures.is_empty() {
                let _ = writeln!(out, "{place}: FAIL {name}");
                for failure in &outcome.failures {
                    let _ = writeln!(out, "  {failure}");
                }
            } else if verbose {
                let _ = writeln!(out, "{place}: ok {name}");
            }
        }
        for (rule, has) in &self.too_few {
            let _ = writeln!(
                out,
                "{}: FAIL too few tests: {} that fire, {} that do not",
                rule.path.display(),
                has.firing,
                has.silent
            );
        }
        for rule in &self.untested {
            let _ = writeln!(
                out,
                "{}: warning: the rule has no test",
                rule.path.display()
            );
        }
        for baseline in &self.baselines {
            baseline.text(verbose, &mut out);
        }
        let failed = self.outcomes.iter().filter(|o| !o.failures.is_empty());
        let failed = failed.count();
        let _ = write!(
            out,
            "{} of {}: {} passed, {failed} failed",
            counted(self.outcomes.len(), "test"),
            counted(self.rules, "rule"),
            self.outcomes.len() - failed,
        );
        if !self.untested.is_empty() {
            let _ = write!(
                out,
                "; {} without a test",
                counted(self.untested.len(), "rule")
            );
        }
        if self.not_loaded > 0 {
            let _ = write!(
                out,
                "; {} with errors",
                counted(self.not_loaded, "rule file")
            );
        }
        if !self.baselines.is_empty() {
            let alerts: usize = self.baselines.iter().map(|b| b.alerts.len()).sum();
            let _ = write!(
                out,
                "; {} in {}",
                counted(alerts, "alert"),
                counted(self.baselines.len(), "baseline")
            );
        }
        out.push('\n');
        out
    }

    fn json(&self) -> serde_json::Value {
        let tests: Vec<_> = self.outcomes.iter().map(Outcome::json).collect();
        let baselines: Vec<_> = self.baselines.iter().map(Baseline::json).collect();
        let untested = self
            .untested
            .iter()
            .map(|rule| rule.path.display().to_string());
        let too_few = self.too_few.iter().map(|(rule, has)| {
            json!({
                "path": rule.path.display().to_string(),
                "firing": has.firing,
                "silent": has.silent,
            })
        });
        let failed = self.outcomes.iter().filter(|o| !o.failures.is_empty());
        json!({
            "summary": {
                "rules": self.rules,
                "rule_files_with_errors": self.not_loaded,
                "tests": self.outcomes.len(),
                "failed": failed.count(),
                "rules_without_tests": self.untested.len(),
                "baselines": self.baselines.len(),
                "baseline_alerts": self.baselines.iter().map(|b| b.alerts.len()).sum::<usize>(),
            },
            "tests": tests,
            "baselines": baselines,
            "untested": untested.collect::<Vec<_>>(),
            "too_few": too_few.collect::<Vec<_>>(),
        })
    }
}

impl Outcome {
    fn json(&self) -> serde_json::Value {
        json!({
            "rule": {"id": self.rule.id, "name": self.rule.name},
            "path": self.rule.path.display().to_string(),
            "line": self.line,
            "name": self.name,
            "passed": self.failures.is_empty(),
            "failures": self.failures,
        })
    }
}

impl Baseline {
    fn failed(&self) -> bool {
        !self.alerts.is_empty() || !self.broken.is_empty()
    }

    fn text(&self, verbose: bool, out: &mut String) {
        let path = self.path.display();
        for broken in self.broken.iter().take(BROKEN_SHOWN_MAX) {
            let _ = writeln!(out, "{path}:{broken}");
        }
        for unwanted in self.alerts.iter().take(ALERTS_SHOWN_MAX) {
            let _ = writeln!(
                out,
                "{path}:{}: FAIL alert {} ({})\n  of lines {}, rule {}",
                unwanted.lines.last().copied().unwrap_or(0),
                unwanted.message,
                alert::plain(&unwanted.rule.id),
                list(&unwanted.lines),
                unwanted.rule.path.display(),
            );
        }
        let more = self.alerts.len().saturating_sub(ALERTS_SHOWN_MAX);
        if more > 0 {
            let _ = writeln!(out, "{path}: and {}", counted(more, "further alert"));
        }
        if !self.broken.is_empty() {
            let lines = counted(self.broken.len(), "line");
            let _ = writeln!(out, "{path}: FAIL {lines} without an event");
        }
        if self.events == 0 {
            let _ = writeln!(out, "{path}: warning: there are no events in it");
        } else if verbose && !self.failed() {
            let events = usize::try_from(self.events).unwrap_or(usize::MAX);
            let _ = writeln!(out, "{path}: ok silent over {}", counted(events, "event"));
        }
    }

    fn json(&self) -> serde_json::Value {
        let alerts = self.alerts.iter().map(|unwanted| {
            json!({
                "rule": {"id": unwanted.rule.id, "name": unwanted.rule.name},
                "lines": unwanted.lines,
                "message": unwanted.message,
            })
        });
        json!({
            "path": self.path.display().to_string(),
            "events": self.events,
            "broken": self.broken,
            "alerts": alerts.collect::<Vec<_>>(),
        })
    }
}
