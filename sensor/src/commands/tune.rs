//! `tune`: the narrowest exception that hides given alerts, what else it would hide, and whether the rule's tests still fire.
//!
//! In: alerts of one rule, as `run` and `replay` write them. Out: a file of exceptions on standard output, to be read, given a
//! reason and put into a drop-in directory; what it would hide on standard error. It changes nothing itself.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use serde_json::Value as Json;

use super::explain::{alerts, find};
use super::explained::{self, Recording};
use super::{Exit, Failure, OrExit as _, load_config, print};
use crate::cli::TuneArgs;
use crate::config::Config;
use crate::document::Source;
use crate::event::{FieldTable, Fields as _, Value, schema};
use crate::json_lines::{FlatEvent, Options, Reader};
use crate::rule::{Events, Rule};
use crate::tuning::{Gate, Tuning};

/// Fields that say who did what to what, and mean the same tomorrow; in the order in which they are written.
const FIELDS: &[&str] = &[
    "process.executable",
    "process.parent.executable",
    "process.working_directory",
    "process.command_line",
    "user.name",
    "file.path",
    "file.Ext.original.path",
    "destination.ip",
    "destination.port",
    "dns.question.name",
    "container.id",
];
/// Fields whose values share a directory or a beginning when they differ.
const PATHS: &[&str] = &[
    "process.executable",
    "process.working_directory",
    "file.path",
    "file.Ext.original.path",
];
/// Shortest beginning of a path that says anything: `/a/`.
const BEGINNING_MIN: usize = 3;
/// Other alerts that are described one by one.
const OTHERS_MAX: usize = 20;

/// Runs `tune`.
///
/// # Errors
/// There are no alerts, or they are of several rules, or no exception can be found.
pub fn tune(args: &TuneArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.settings)?;
    let given = read(&args.alerts, &args.numbers)?;
    let (first, _) = given
        .first()
        .context("there is no alert in what was given")?;
    if let Some((other, _)) = given.iter().find(|(id, _)| id != first) {
        return Err(Failure::from(anyhow!(
            "the alerts are of several rules, `{first}` and `{other}`: choose those of one, by --number"
        )));
    }
    let rule = find(first.as_ref(), &args.rules, &config)?;
    let events: Vec<&Recording> = given.iter().map(|(_, events)| events).collect();
    let queries = narrowest(&events)?;
    let text = exception(&rule, &queries, args);
    // What is proposed goes through the same reading and the same checks as any other.
    let source = Source {
        path: Arc::from(std::path::Path::new("exception.toml")),
        text: text.clone(),
    };
    let mut table = FieldTable::sensor();
    let (tuning, mut problems) = Tuning::exceptions_of(&source);
    let (mut gate, more) = Gate::new(&tuning, std::slice::from_ref(&rule), &mut table, 0);
    problems.extend(more);
    super::log(&problems);
    let wanted: Vec<_> = gate.needed_fields().collect();
    let mut reader = Reader::new(&table, &wanted, &Options::default());
    let mut hides = |events: &Recording| {
        let events: Vec<FlatEvent> = events
            .lines
            .iter()
            .filter_map(|(number, line)| reader.parse(line.as_bytes(), *number).ok())
            .collect();
        gate.hides(0, &events, i64::MIN).is_some()
    };
    if let Some(missed) = events.iter().find(|events| !hides(events)) {
        return Err(Failure::from(anyhow!(
            "no exception covers {}",
            missed.source
        )));
    }
    print(text.as_bytes())?;
    let mut exit = Exit::Ok;
    if let Some(path) = &args.others {
        let all = read(std::slice::from_ref(path), &[])?;
        let others = all.iter().filter(|(id, _)| *id == rule.id);
        let others = others.filter(|(_, other)| !events.iter().any(|e| e.lines == other.lines));
        let hidden: Vec<&Recording> = others.map(|(_, o)| o).filter(|o| hides(o)).collect();
        for other in hidden.iter().take(OTHERS_MAX) {
            tracing::warn!("it would also hide {}", other.source);
        }
        tracing::info!(
            "of the {} alerts in `{}` it would hide {} besides those given",
            all.len(),
            path.display(),
            hidden.len()
        );
    }
    let mut tried = 0;
    for example in rule.examples.iter().filter(|example| example.fires()) {
        let Events::Inline(lines, _) = &example.events else {
            continue;
        };
        let recording = Recording::of(String::new(), lines);
        for alert in of_example(&rule, &recording, &config)? {
            tried += 1;
            if hides(&alert) {
                tracing::error!("it would hide the rule's own test `{}`", example.name);
                exit = Exit::Problems;
            }
        }
    }
    tracing::info!("it was held against {tried} alerts of the rule's own tests");
    Ok(exit)
}

/// Alerts of files, only those with the numbers if there are any.
fn read(
    paths: &[std::path::PathBuf],
    numbers: &[u64],
) -> Result<Vec<(String, Recording)>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        let recording = Recording::read(path)?;
        let of_file = alerts(&recording);
        if of_file.is_empty() && !recording.lines.is_empty() {
            return Err(Failure::from(anyhow!(
                "`{}` holds no alerts",
                path.display()
            )));
        }
        found.extend(of_file.into_iter().filter(|(_, alert)| {
            numbers.is_empty()
                || numbers
                    .iter()
                    .any(|n| alert.source.ends_with(&format!("alert #{n}")))
        }));
    }
    Ok(found)
}

/// The events of each alert of a test.
fn of_example(
    rule: &Arc<Rule>,
    recording: &Recording,
    config: &Config,
) -> Result<Vec<Recording>, Failure> {
    let explained = explained::explain(rule, recording, config)?.explanation;
    let events = explained.explainer.events();
    let lines = |at: &usize| {
        let event = events.get(*at)?;
        Some((event.time_ns().unsigned_abs(), event.line().to_owned()))
    };
    let alerts = explained.matches.iter().map(|found| Recording {
        source: String::new(),
        lines: found.events.iter().filter_map(lines).collect(),
    });
    Ok(alerts.collect())
}

/// For each event of the alerts what all have in common there.
fn narrowest(alerts: &[&Recording]) -> Result<Vec<String>, Failure> {
    let count = alerts
        .iter()
        .map(|alert| alert.lines.len())
        .min()
        .unwrap_or(0);
    let mut table = FieldTable::sensor();
    let ids: Vec<_> = FIELDS.iter().map(|path| table.intern(path)).collect();
    let mut reader = Reader::new(&table, &ids, &Options::default());
    let mut queries = Vec::new();
    for at in 0..count {
        let mut parsed = Vec::new();
        for alert in alerts {
            let Some((number, line)) = alert.lines.get(at) else {
                continue;
            };
            let event = reader
                .parse(line.as_bytes(), *number)
                .or_exit(Exit::Problems)?;
            parsed.push((event, category(line)));
        }
        let Some((_, category)) = parsed.first() else {
            continue;
        };
        let mut clauses = Vec::new();
        for (path, id) in FIELDS.iter().zip(&ids) {
            let values: Option<Vec<String>> = parsed
                .iter()
                .map(|(event, _)| event.values(*id).get(0).and_then(literal))
                .collect();
            clauses.extend(values.and_then(|values| clause(path, &values)));
        }
        if !clauses.is_empty() {
            queries.push(format!("{category} where {}", clauses.join(" and ")));
        }
    }
    if queries.is_empty() {
        return Err(Failure::from(anyhow!(
            "the alerts have nothing in common that an exception could be made of"
        )));
    }
    Ok(queries)
}

fn category(line: &str) -> String {
    let document: Json = serde_json::from_str(line).unwrap_or_default();
    let category = document.pointer("/event/category");
    let first = category.and_then(|c| c.as_str().or_else(|| c.get(0)?.as_str()));
    match first {
        Some(name) if name.bytes().all(|b| b.is_ascii_lowercase()) => name.to_owned(),
        _ => "any".to_owned(),
    }
}

/// A value as text.
fn literal(value: Value<'_>) -> Option<String> {
    match value {
        Value::Str(text) => Some(text.to_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::Ip(ip) => Some(ip.to_string()),
        Value::Float(_) | Value::Bool(_) | Value::Date(_) => None,
    }
}

/// What the values have in common: all of it, or the directory they are below.
fn clause(path: &str, values: &[String]) -> Option<String> {
    let first = values.first()?;
    let is_number =
        schema::field(path).is_some_and(|row| row.ty == crate::event::FieldType::Number);
    if values.iter().all(|value| value == first) {
        return Some(match is_number {
            true => format!("{path} == {first}"),
            false => format!("{path} == {}", quoted(first)),
        });
    }
    if !PATHS.contains(&path) {
        return None;
    }
    let common = values.iter().fold(first.as_str(), |common, value| {
        let same = common
            .bytes()
            .zip(value.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        common.get(..same).unwrap_or("")
    });
    let directory = common.get(..=common.rfind('/')?)?;
    let usable = directory.len() >= BEGINNING_MIN && !directory.contains(['*', '?']);
    usable.then(|| format!("{path} like {}", quoted(&format!("{directory}*"))))
}

/// A string of the language.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => _ = write!(out, "\\u{{{:02x}}}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The whole entry.
fn exception(rule: &Rule, queries: &[String], args: &TuneArgs) -> String {
    let toml = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let queries: Vec<String> = queries
        .iter()
        .map(|query| format!("  {},\n", toml(query)))
        .collect();
    format!(
        "# {}\n[[exception]]\nrule_id = {}\nquery = [\n{}]\nreason = {}\nowner = {}\nexpires = {}\n",
        crate::alert::plain(&rule.name),
        toml(&rule.id),
        queries.concat(),
        toml(&args.reason),
        toml(&args.owner),
        toml(&args.expires),
    )
}
