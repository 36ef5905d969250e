//! The meaning of EQL, as cases: a query, events, and what must come of them.
//!
//! In: every `eql/*.toml` that holds `[[cases]]` or `[[conditions]]`. Out: one failure text with all cases that differ. Each
//! case runs through the engine, live and on replay, and through the naive matcher of the tests; the three must agree with
//! what the case says. Each case names the rule of the language it shows (`RULES` below); a rule without a case fails.
//!
//! ```toml
//! [[streams]]                   # events that several cases share
//! name = "compiler"
//! events = '''
//! {"event.category": "process", "process.name": "gcc"}
//! '''
//!
//! [[cases]]
//! name = "a newer partial replaces the older one"
//! rule = "6.1 one slot per key and stage"
//! query = 'sequence [process where a == 1] [process where b == 2]'
//! stream = "compiler"           # or `events`, in the case itself
//! expected = [[2, 3]]           # ids of each match in order; an event query may write [2, 3]
//! keys = [["x", "null"]]        # join keys of each match as text; left out: not compared
//! modes = ["live"]              # default: both "live" (the input goes on) and "replay" (it ends)
//! schema = { "source.ip" = "ip" }  # declared types; everything else is untyped
//! warnings = ["null-ordering"]  # kinds of warnings and notes, in order; default none
//!
//! [[cases]]                     # a query that must be refused
//! name = "join is not supported"
//! rule = "9 join is refused"
//! query = 'join [a where true] [b where true]'
//! errors = ["join-unsupported"] # kinds of errors, in order
//!
//! [[conditions]]                # many conditions on one event
//! name = "a missing field under not"
//! rule = "3.2 the skeleton is two-valued"
//! event = '{"a": 1}'
//! hold = ['a == 1', 'not b == 1']
//! fail = ['b == 1']
//! warned = [['a < null', "null-ordering"]]   # of the above those that warn, with the kinds in order
//! refused = [['a == ', "unexpected-token"]]  # conditions with errors
//! ```
//!
//! An event is one line of JSON. `id` (default: its position from 1) and `at` (milliseconds, default: 1000 times the position)
//! are not fields of it; `category` is short for `event.category`, which is `process` when neither is given and missing when
//! `category` is null. The line `{"clock": 5000}` moves the clock without an event.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

mod naive;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sensor::engine::{Builder, Engine, Limits, Match};
use sensor::eql::{self, Checked, Mode, OpenSchema, Schema, Severity, query::FieldType};
use sensor::event::FieldTable;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use stream::{Numbered, Source};

/// Every rule of the language, named by its section. A case's `rule` is one of these.
const RULES: &[&str] = &[
    "1.1 block comments nest",
    "1.2 keywords need backquotes as names",
    "1.3 identifiers and paths",
    "1.3 array positions",
    "1.3 how a path finds its values",
    "1.4 numbers",
    "1.5 string escapes",
    "1.5 a quote escape is accepted with a warning",
    "1.5 raw strings may span lines",
    "1.5 old string forms are refused",
    "1.6 precedence",
    "1.6 trailing commas are accepted with a warning",
    "1.7 static checks",
    "2 categories",
    "2 a bare field means true",
    "3.1 what is missing",
    "3.2 three values inside a leaf",
    "3.2 a leaf holds for some choice of values",
    "3.2 the skeleton is two-valued",
    "3.3 null literals",
    "3.3 the question mark has no effect in conditions",
    "3.4 arrays",
    "3.5 number and string",
    "3.5 booleans",
    "3.5 string order",
    "3.5 addresses",
    "3.5 dates",
    "3.5 versions",
    "3.5 patterns on other kinds",
    "3.5 type errors at load time",
    "4 equality and membership",
    "4 wildcards",
    "4 case folding is ASCII",
    "4 regular expressions",
    "4 arithmetic",
    "4 field against field",
    "5 add, subtract, multiply, divide, modulo",
    "5 between",
    "5 cidrMatch",
    "5 concat",
    "5 endsWith and startsWith",
    "5 indexOf",
    "5 length",
    "5 number",
    "5 string",
    "5 stringContains",
    "5 substring",
    "5 array functions",
    "5 the tilde only where it means something",
    "5 positions are characters",
    "6.1 one slot per key and stage",
    "6.1 advancing consumes",
    "6.1 an event is never twice in a match",
    "6.1 no backtracking",
    "6.1 runs slide",
    "6.2 shared and own keys",
    "6.2 missing and optional keys",
    "6.2 array keys",
    "6.2 keys are typed",
    "6.2 order of keys",
    "6.2 key filters are not copied",
    "6.3 maxspan is inclusive",
    "6.4 until",
    "6.5 order is time, then arrival",
    "6.6 aliases",
    "7 inner missing events",
    "7 leading missing events",
    "7 trailing missing events",
    "7 missing events on both sides",
    "7 missing events compare ordinals",
    "8 sample",
    "9 join is refused",
    "10 live pipes",
    "10 replay pipes",
    "11 lineage",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    cases: Vec<Case>,
    #[serde(default)]
    conditions: Vec<Conditions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stream {
    name: String,
    events: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    rule: String,
    query: String,
    stream: Option<String>,
    events: Option<String>,
    expected: Option<Expected>,
    keys: Option<Vec<Vec<String>>>,
    modes: Option<Vec<String>>,
    #[serde(default)]
    schema: BTreeMap<String, String>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    errors: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Ids(Vec<i64>),
    Matches(Vec<Vec<i64>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conditions {
    name: String,
    rule: String,
    event: String,
    #[serde(default)]
    hold: Vec<String>,
    #[serde(default)]
    fail: Vec<String>,
    #[serde(default)]
    schema: BTreeMap<String, String>,
    #[serde(default)]
    warned: Vec<Vec<String>>,
    #[serde(default)]
    refused: Vec<Vec<String>>,
}

/// Declared types over an otherwise open schema.
struct Declared(BTreeMap<String, FieldType>);

impl Declared {
    fn new(types: &BTreeMap<String, String>) -> Declared {
        let ty = |name: &str| match name {
            "any" => FieldType::Any,
            "keyword" => FieldType::Keyword,
            "number" => FieldType::Number,
            "boolean" => FieldType::Boolean,
            "ip" => FieldType::Ip,
            "date" => FieldType::Date,
            "version" => FieldType::Version,
            other => panic!("no type is called {other}"),
        };
        Declared(
            types
                .iter()
                .map(|(path, name)| (path.clone(), ty(name)))
                .collect(),
        )
    }
}

impl Schema for Declared {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        self.0
            .get(path)
            .copied()
            .or_else(|| OpenSchema.field_type(path))
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn suggest(&self, _path: &str) -> Option<String> {
        None
    }
}

/// What happens next: an event, or the clock moves.
enum Moment {
    Event(Source),
    Clock(i64),
}

fn moments(text: &str) -> Vec<Moment> {
    let mut count = 0;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let mut fields: Map<String, Json> =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if let Some(clock) = fields.get("clock") {
                return Moment::Clock(clock.as_i64().expect("milliseconds") * 1_000_000);
            }
            count += 1;
            let mut own = |key: &str, default: i64| {
                fields
                    .remove(key)
                    .map_or(default, |v| v.as_i64().expect("an integer"))
            };
            let (id, at) = (own("id", count), own("at", count * 1000));
            match fields.remove("category") {
                Some(category) => _ = fields.insert("event.category".into(), category),
                None if !fields.contains_key("event.category") => {
                    fields.insert("event.category".into(), "process".into());
                }
                None => {}
            }
            Moment::Event(Source {
                id,
                time_ns: at * 1_000_000,
                fields,
            })
        })
        .collect()
}

/// Ids and key texts of each match.
type Found = Vec<(Vec<i64>, Vec<String>)>;

fn key_text(key: Option<&sensor::event::OwnedValue>) -> String {
    use sensor::event::OwnedValue as V;
    match key {
        None => "null".into(),
        Some(V::Str(s)) => s.to_string(),
        Some(V::Int(i)) => i.to_string(),
        Some(V::Float(f)) => format!("{f:?}"),
        Some(V::Bool(b)) => b.to_string(),
        Some(V::Ip(ip)) => ip.to_string(),
        Some(V::Date(ns)) => eql::time::format_ns(*ns),
    }
}

fn run_engine(query: &eql::query::Query, moments: &[Moment], mode: Mode) -> Found {
    let mut table = FieldTable::empty();
    let mut builder = Builder::new(Limits::default());
    builder.add(0, query).expect("a checked query compiles");
    let mut engine: Engine<std::sync::Arc<Numbered>> =
        builder.build(&mut table).expect("the automata fit");
    let mut matches: Vec<Match<std::sync::Arc<Numbered>>> = Vec::new();
    for moment in moments {
        match moment {
            Moment::Event(source) => {
                for event in stream::number(std::slice::from_ref(source), &table) {
                    engine.process(&event, &mut matches);
                }
            }
            Moment::Clock(now_ns) => engine.advance(*now_ns, &mut matches),
        }
    }
    if mode == Mode::Replay {
        engine.finish(&mut matches);
    }
    matches
        .iter()
        .map(|m| {
            let ids = m.events.iter().map(|e| e.id).collect();
            (ids, m.keys.iter().map(|k| key_text(k.as_ref())).collect())
        })
        .collect()
}

fn run_naive(query: &eql::query::Query, moments: &[Moment], mode: Mode) -> Found {
    let mut history = naive::History::default();
    for moment in moments {
        match moment {
            Moment::Event(source) => history.event(source.clone()),
            Moment::Clock(now_ns) => history.clock(*now_ns),
        }
    }
    naive::matches(query, &history, mode == Mode::Replay)
        .into_iter()
        .map(|m| {
            let ids = m.events.iter().map(|e| e.id).collect();
            (ids, m.keys.iter().map(|k| key_text(k.as_ref())).collect())
        })
        .collect()
}

/// Kinds of the problems of one severity class, errors or the rest.
fn kinds(problems: &[eql::Diagnostic], errors: bool) -> Vec<&'static str> {
    problems
        .iter()
        .filter(|d| (d.severity == Severity::Error) == errors)
        .map(|d| d.kind.name())
        .collect()
}

fn texts(problems: &[eql::Diagnostic]) -> String {
    problems.iter().map(|d| format!("\n    {d}")).collect()
}

/// Compiles, and compares the diagnostics: `Err` is a difference, `Ok(None)` a refusal as expected.
fn compiled(
    text: &str,
    schema: &Declared,
    mode: Mode,
    errors: &[String],
    warnings: &[String],
) -> Result<Option<Checked>, String> {
    match eql::compile(text, schema, mode) {
        Ok(checked) if !errors.is_empty() => Err(format!(
            "accepted, must be refused; warnings:{}",
            texts(&checked.warnings)
        )),
        Ok(checked) if kinds(&checked.warnings, false) != warnings => {
            Err(format!("warnings differ:{}", texts(&checked.warnings)))
        }
        Ok(checked) => Ok(Some(checked)),
        Err(problems) if errors.is_empty() => Err(format!("refused:{}", texts(&problems))),
        Err(problems) if kinds(&problems, true) != errors => {
            Err(format!("errors differ:{}", texts(&problems)))
        }
        Err(_) => Ok(None),
    }
}

fn check_case(case: &Case, streams: &BTreeMap<String, String>) -> Result<(), String> {
    let schema = Declared::new(&case.schema);
    let modes = case
        .modes
        .clone()
        .unwrap_or_else(|| vec!["live".into(), "replay".into()]);
    for name in &modes {
        let mode = match name.as_str() {
            "live" => Mode::Live,
            "replay" => Mode::Replay,
            other => return Err(format!("no mode is called {other}")),
        };
        let in_mode = |e: String| format!("{name}: {e}");
        let checked = compiled(&case.query, &schema, mode, &case.errors, &case.warnings);
        let Some(checked) = checked.map_err(in_mode)? else {
            continue;
        };
        let text = match (&case.stream, &case.events) {
            (Some(name), None) => streams.get(name).ok_or("the stream is not in this file")?,
            (None, Some(events)) => events,
            _ => return Err("needs either `stream` or `events`".into()),
        };
        let expected = match &case.expected {
            Some(Expected::Ids(ids)) => ids.iter().map(|id| vec![*id]).collect(),
            Some(Expected::Matches(matches)) => matches.clone(),
            None => return Err("needs `expected`".into()),
        };
        let moments = moments(text);
        for (who, found) in [
            ("naive matcher", run_naive(&checked.query, &moments, mode)),
            ("engine", run_engine(&checked.query, &moments, mode)),
        ] {
            let (ids, keys): (Vec<_>, Vec<_>) = found.into_iter().unzip();
            if ids != expected {
                return Err(format!(
                    "{name}, {who}: found {ids:?}, expected {expected:?}"
                ));
            }
            if let Some(expected) = &case.keys
                && keys != *expected
            {
                return Err(format!(
                    "{name}, {who}: keys {keys:?}, expected {expected:?}"
                ));
            }
        }
    }
    Ok(())
}

fn check_conditions(group: &Conditions, problems: &mut Vec<String>) {
    let schema = Declared::new(&group.schema);
    let moments = moments(&group.event);
    let none: Vec<String> = Vec::new();
    let listed = group
        .hold
        .iter()
        .map(|c| (c, true))
        .chain(group.fail.iter().map(|c| (c, false)));
    for (condition, expected) in listed {
        let text = format!("any where {condition}");
        let warned = group.warned.iter().find(|w| w.first() == Some(condition));
        let warnings = warned.map_or(&none[..], |w| &w[1..]);
        match compiled(&text, &schema, Mode::Live, &[], warnings) {
            Err(e) => problems.push(format!("{}: `{condition}`: {e}", group.name)),
            Ok(None) => {}
            Ok(Some(checked)) => {
                for (who, found) in [
                    (
                        "naive matcher",
                        run_naive(&checked.query, &moments, Mode::Live),
                    ),
                    ("engine", run_engine(&checked.query, &moments, Mode::Live)),
                ] {
                    let holds = !found.is_empty();
                    if holds != expected {
                        problems.push(format!(
                            "{}: `{condition}`: {who}: holds is {holds}",
                            group.name
                        ));
                    }
                }
            }
        }
    }
    for refused in &group.refused {
        let (condition, errors) = refused.split_first().expect("a condition and its errors");
        let text = format!("any where {condition}");
        if let Err(e) = compiled(&text, &schema, Mode::Live, errors, &none) {
            problems.push(format!("{}: `{condition}`: {e}", group.name));
        }
    }
}

/// The case files: TOML files beside others that hold something else.
fn files() -> Vec<(PathBuf, File)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/eql");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of the cases")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "diagnostics"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let file = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (path, file)
        })
        .collect()
}

#[test]
fn cases() {
    let (mut problems, mut shown, mut count) = (Vec::new(), BTreeSet::new(), 0);
    for (path, file) in files() {
        let file_name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let streams = file
            .streams
            .into_iter()
            .map(|s| (s.name, s.events))
            .collect();
        let mut rule = |rule: &str, name: &str, problems: &mut Vec<String>| {
            if !RULES.contains(&rule) {
                problems.push(format!("{file_name}: {name}: no rule is called `{rule}`"));
            }
            shown.insert(rule.to_owned());
        };
        for case in &file.cases {
            count += 1;
            rule(&case.rule, &case.name, &mut problems);
            if let Err(e) = check_case(case, &streams) {
                problems.push(format!("{file_name}: {}: {e}", case.name));
            }
        }
        for group in &file.conditions {
            count += group.hold.len() + group.fail.len() + group.refused.len();
            rule(&group.rule, &group.name, &mut problems);
            check_conditions(group, &mut problems);
        }
    }
    let unshown = RULES.iter().filter(|rule| !shown.contains(**rule));
    problems.extend(unshown.map(|rule| format!("no case shows the rule `{rule}`")));
    println!("{count} cases for {} rules", RULES.len());
    assert!(
        problems.is_empty(),
        "{} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}
