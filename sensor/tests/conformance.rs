//! The public suites of the two other EQL engines, run through this one.
//!
//! In: the cases and events in `../shared/conformance`, read at run time. Out: counts of what passed, compared with the figures
//! that its README gives; a change in either direction fails. Where the folder is absent, every suite says so on standard
//! error and counts as skipped. Nothing of the suites is copied here.
//!
//! Every case runs as a stream (results as they appear), as a replay (the end of the input is known), as a stream that arrives
//! out of order within the reorder bound, through `eql-sensor query`, and through the naive matcher of the tests.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

mod naive;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sensor::engine::{Builder, Engine, Limits, Match, Reorder};
use sensor::eql::query::{FieldType, Query};
use sensor::eql::{self, Kind, Mode, OpenSchema, Schema, Severity};
use sensor::event::{FieldTable, OwnedValue};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use stream::{Numbered, Source};

#[derive(Deserialize)]
struct File {
    queries: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: Option<String>,
    index: Option<usize>,
    query: String,
    expected_event_ids: Vec<i64>,
    join_keys: Option<Vec<String>>,
}

impl Case {
    fn label(&self, position: usize) -> String {
        match (&self.name, self.index) {
            (Some(name), _) => name.clone(),
            (None, Some(index)) => format!("upstream {index}"),
            (None, None) => format!("number {position}"),
        }
    }
}

/// Prints past the capturing of the test harness.
fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}

/// Text of a file of the suites; `None`, said loudly, when there are no suites here.
fn suite_file(path: &str) -> Option<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    if !folder.is_dir() {
        say(&format!(
            "SKIPPED: conformance suite {path}: no folder {}",
            folder.display()
        ));
        return None;
    }
    Some(std::fs::read_to_string(folder.join(path)).expect("a readable file of the suites"))
}

/// Only the types named here; everything else is untyped.
struct Types(BTreeMap<&'static str, FieldType>);

impl Schema for Types {
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

/// What a run gave: ids of each match, and its keys as text.
#[derive(Debug, PartialEq)]
struct Found(Vec<(Vec<i64>, Vec<String>)>);

impl Found {
    fn new(matches: impl Iterator<Item = (Vec<i64>, Vec<Option<OwnedValue>>)>) -> Found {
        let text = |key: &Option<OwnedValue>| match key {
            None => "null".to_owned(),
            Some(OwnedValue::Str(s)) => s.to_string(),
            Some(OwnedValue::Int(i)) => i.to_string(),
            Some(OwnedValue::Date(ns)) => eql::time::format_ns(*ns),
            Some(other) => format!("{other:?}"),
        };
        Found(
            matches
                .map(|(ids, keys)| (ids, keys.iter().map(text).collect()))
                .collect(),
        )
    }

    fn ids(&self) -> Vec<i64> {
        self.0.iter().flat_map(|(ids, _)| ids.clone()).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.0.iter().flat_map(|(_, keys)| keys.clone()).collect()
    }
}

/// The suites hold years between two events of a sequence without maxspan, so nothing may expire for being idle.
fn engine(query: &Query, set: impl Fn(&mut Builder)) -> (Engine<Arc<Numbered>>, FieldTable) {
    let mut table = FieldTable::empty();
    let mut builder = Builder::new(Limits {
        idle: Duration::MAX,
        ..Limits::default()
    });
    set(&mut builder);
    builder.add(0, query).expect("a checked query compiles");
    let engine = builder.build(&mut table).expect("the automata fit");
    (engine, table)
}

fn found(matches: &[Match<Arc<Numbered>>]) -> Found {
    Found::new(
        matches
            .iter()
            .map(|m| (m.events.iter().map(|e| e.id).collect(), m.keys.clone())),
    )
}

fn run(query: &Query, events: &[Source], ended: bool) -> Found {
    run_with(query, events, ended, |_| {})
}

fn run_with(query: &Query, events: &[Source], ended: bool, set: impl Fn(&mut Builder)) -> Found {
    let (mut engine, table) = engine(query, set);
    let mut matches = Vec::new();
    for event in stream::number(events, &table) {
        engine.process(&event, &mut matches);
    }
    if ended {
        engine.finish(&mut matches);
    }
    found(&matches)
}

fn run_naive(query: &Query, events: &[Source]) -> Found {
    let mut history = naive::History::default();
    events.iter().for_each(|e| history.event(e.clone()));
    let matches = naive::matches(query, &history, true);
    Found::new(
        matches
            .into_iter()
            .map(|m| (m.events.iter().map(|e| e.id).collect(), m.keys)),
    )
}

/// The same events in another order of arrival, each late by less than the bound of the reorder stage before the engine.
/// Events of equal times keep their order: nothing else tells which came first.
fn run_shuffled(query: &Query, events: &[Source], seed: u64) -> Found {
    const BOUND_NS: i64 = 2_000_000_000;
    let mut rng = seed;
    let mut arrival = Vec::new();
    let mut previous: Option<(i64, i64)> = None;
    for event in events {
        rng = rng
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let late_ns = i64::try_from(rng >> 33).expect("31 bits") % BOUND_NS;
        let at_ns = match previous {
            Some((time_ns, at_ns)) if time_ns == event.time_ns => at_ns,
            _ => event.time_ns + late_ns,
        };
        previous = Some((event.time_ns, at_ns));
        arrival.push((at_ns, event.clone()));
    }
    arrival.sort_by_key(|(at_ns, _)| *at_ns);
    let shuffled: Vec<Source> = arrival.into_iter().map(|(_, event)| event).collect();

    let (mut engine, table) = engine(query, |_| {});
    let mut reorder = Reorder::new(Duration::from_nanos(BOUND_NS.unsigned_abs()), 10_000);
    let mut matches = Vec::new();
    for event in stream::number(&shuffled, &table) {
        reorder.push(event, None, |event| engine.process(&event, &mut matches));
    }
    reorder.finish(|event| engine.process(&event, &mut matches));
    assert_eq!(reorder.late(), 0, "every event came within the bound");
    found(&matches)
}

/// What `eql-sensor query` prints for the events as JSON lines, in the order of the file.
fn run_command(query: &str, input: &Input) -> Result<Found, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args([
            "query",
            query,
            "--field-category",
            "event_type",
            "--field-tiebreaker",
            input.id,
        ])
        .arg(input.lines.path())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).map_err(|e| e.to_string())?;
    let found = text.lines().map(|line| {
        let line: Json = serde_json::from_str(line).expect("a match is one line of JSON");
        let list = |key: &str| line[key].as_array().expect("an array").clone();
        let ids = list("events")
            .iter()
            .map(|e| e[input.id].as_i64().expect("an id"))
            .collect();
        let keys = list("keys").iter().map(stream::scalar).collect();
        (ids, keys)
    });
    Ok(Found::new(found))
}

/// Events of a suite: in memory, in order; and as a file, as they come.
struct Input {
    events: Vec<Source>,
    lines: tempfile::NamedTempFile,
    /// The field that names an event and orders those of equal times.
    id: &'static str,
}

impl Input {
    fn new(objects: &[Map<String, Json>], events: Vec<Source>, id: &'static str) -> Input {
        let mut lines = tempfile::NamedTempFile::new().expect("a temporary file");
        for object in objects {
            let line = serde_json::to_string(object).expect("JSON");
            writeln!(lines, "{line}").expect("space for a small file");
        }
        Input { events, lines, id }
    }
}

/// How a suite went.
#[derive(Debug, Default, PartialEq)]
struct Score {
    cases: usize,
    /// Ran as a stream and gave what the suite expects.
    live: usize,
    /// Ran with the end of the input known and gave what the suite expects.
    replay: usize,
    /// Cannot run as a stream because a pipe needs the end of the input.
    needs_end: usize,
    failed: Vec<String>,
}

fn check(
    case: &Case,
    input: &Input,
    schema: &dyn Schema,
    declared: bool,
    score: &mut Score,
) -> Result<(), String> {
    let events = &input.events;
    let problems = |problems: Vec<eql::Diagnostic>| {
        problems
            .iter()
            .map(|d| format!("\n    {d}"))
            .collect::<String>()
    };
    let verify = |how: &str, found: &Found| {
        if found.ids() != case.expected_event_ids {
            return Err(format!(
                "{how}: {:?}, expected {:?}",
                found.ids(),
                case.expected_event_ids
            ));
        }
        match &case.join_keys {
            Some(keys) if *keys != found.keys() => {
                Err(format!("{how}: keys {:?}, expected {keys:?}", found.keys()))
            }
            _ => Ok(()),
        }
    };
    let replay = eql::compile(&case.query, schema, Mode::Replay)
        .map_err(problems)?
        .query;
    verify("replay", &run(&replay, events, true))?;
    verify("naive matcher", &run_naive(&replay, events))?;
    // The command knows no declared types but the sensor's own.
    if !declared {
        verify("command", &run_command(&case.query, input)?)?;
    }
    score.replay += 1;
    match eql::compile(&case.query, schema, Mode::Live) {
        Ok(live) => {
            verify("stream", &run(&live.query, events, false))?;
            for seed in 1..=5 {
                let how = format!("stream shuffled by seed {seed}");
                verify(&how, &run_shuffled(&live.query, events, seed))?;
            }
            score.live += 1;
            Ok(())
        }
        Err(found)
            if found
                .iter()
                .filter(|d| d.severity == Severity::Error)
                .all(|d| d.kind == Kind::PipeNeedsEnd) =>
        {
            score.needs_end += 1;
            Ok(())
        }
        Err(found) => Err(problems(found)),
    }
}

fn run_suite(path: &str, input: &Input, types: Option<Types>) -> Option<(Score, String)> {
    let file: File = toml::from_str(&suite_file(path)?).expect("the suite is TOML");
    let declared = types.is_some();
    let types = types.unwrap_or(Types(BTreeMap::new()));
    let schema: &dyn Schema = &types;
    let (mut score, mut report) = (Score::default(), String::new());
    for (position, case) in file.queries.iter().enumerate() {
        score.cases += 1;
        if let Err(e) = check(case, input, schema, declared, &mut score) {
            report += &format!("\n{}: {e}", case.label(position));
            score.failed.push(case.label(position));
        }
    }
    say(&format!(
        "conformance: {path}: {} of {} cases pass on replay, {} as a stream, {} need the end of the input",
        score.replay, score.cases, score.live, score.needs_end
    ));
    Some((score, report))
}

fn expect(
    score: Option<(Score, String)>,
    cases: usize,
    live: usize,
    needs_end: usize,
    failed: &[&str],
) {
    let Some((score, report)) = score else {
        return;
    };
    let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
    let replay = cases - failed.len();
    let expected = Score {
        cases,
        live,
        replay,
        needs_end,
        failed,
    };
    assert_eq!(score, expected, "{report}");
}

/// Objects as events, in order of time and id.
fn in_order(objects: &[Map<String, Json>], id: &str, time_ms: fn(&Json) -> i64) -> Vec<Source> {
    let mut events: Vec<Source> = objects
        .iter()
        .map(|object| {
            let mut fields = object.clone();
            let category = fields.get("event_type").cloned().unwrap_or(Json::Null);
            fields.insert("event.category".into(), category);
            Source {
                id: object[id].as_i64().expect("an integer"),
                time_ns: time_ms(&object["@timestamp"]) * 1_000_000,
                fields,
            }
        })
        .collect();
    events.sort_by_key(|e| (e.time_ns, e.id));
    events
}

/// The shared recording of a Windows host; its times count 100 ns since 1601.
fn recording() -> Option<Input> {
    let text = suite_file("python-eql/test_data.json")?;
    let mut objects: Vec<Map<String, Json>> =
        serde_json::from_str(&text).expect("an array of objects");
    for object in &mut objects {
        let time = object["timestamp"].as_i64().expect("an integer");
        let time_ms = time.div_euclid(10_000) - 11_644_473_600_000;
        object.insert("@timestamp".into(), time_ms.into());
    }
    let id = "serial_event_id";
    let events = in_order(&objects, id, |time| time.as_i64().expect("milliseconds"));
    Some(Input::new(&objects, events, id))
}

fn extra_events() -> Option<Input> {
    let text = suite_file("elasticsearch/data/extra.data")?;
    let objects: Vec<Map<String, Json>> = serde_json::from_str(&text).expect("an array of objects");
    let parse = |time: &Json| {
        time.as_str()
            .and_then(|t| t.parse().ok())
            .expect("milliseconds")
    };
    let events = in_order(&objects, "sequence", parse);
    Some(Input::new(&objects, events, "sequence"))
}

#[test]
fn elasticsearch_test_queries() {
    let Some(input) = recording() else { return };
    let score = run_suite("elasticsearch/test_queries.toml", &input, None);
    expect(score, 133, 124, 9, &[]);
}

#[test]
fn elasticsearch_additional_test_queries() {
    let Some(input) = recording() else { return };
    let score = run_suite("elasticsearch/additional_test_queries.toml", &input, None);
    expect(score, 61, 61, 0, &[]);
}

/// Cases that rely on what an index mapping says about nulls; a stream has no mapping.
const NEED_A_MAPPING: [&str; 3] = [
    "optionalDefaultNullValueFieldEqualNull",
    "optionalDefaultNullValueFieldEqualDefaultValue",
    "sequenceOptionalFieldAsQueryKeysOnly",
];

#[test]
fn elasticsearch_test_extra() {
    let Some(input) = extra_events() else { return };
    let path = "elasticsearch/test_extra.toml";
    let mut failed = NEED_A_MAPPING.to_vec();
    failed.extend([
        "sequenceWithVersionRangeCheck",
        "sequenceWithVersionRangeCheck2",
    ]);
    expect(run_suite(path, &input, None), 40, 35, 0, &failed);
}

#[test]
fn elasticsearch_test_extra_with_a_declared_version() {
    let Some(input) = extra_events() else { return };
    let path = "elasticsearch/test_extra.toml";
    let types = BTreeMap::from([
        ("version", FieldType::Version),
        ("date_tags", FieldType::Date),
    ]);
    expect(
        run_suite(path, &input, Some(Types(types))),
        40,
        37,
        0,
        &NEED_A_MAPPING,
    );
}

#[test]
fn python_translated() {
    let Some(input) = recording() else { return };
    let score = run_suite("python-eql/translated_queries.toml", &input, None);
    expect(score, 127, 118, 9, &[]);
}

/// Cases of the old dialect whose features this language has too, beside the translated ones.
const PYTHON_LISTS: [&str; 6] = [
    "array_functions",
    "array_index",
    "unique_pipe",
    "filter_pipe",
    "needs_end_of_stream",
    "process_lineage",
];

/// Of those, the ones that expect something else than the rules of this language say.
const PYTHON_DIFFERENT: [(usize, &str); 6] = [
    (65, "sorts without regard to case"),
    (
        133,
        "event of: the event that makes its process a source counts here only for later ones",
    ),
    (148, "reads a count that unique_count adds to the event"),
    (149, "reads a share that unique_count adds to the event"),
    (150, "arrayContains without regard to case"),
    (151, "arrayContains without regard to case"),
];

#[derive(Deserialize)]
struct PythonFile {
    queries: Vec<PythonCase>,
}

#[derive(Deserialize)]
struct PythonCase {
    query: String,
    expected_event_ids: Vec<i64>,
    #[serde(default)]
    case_sensitive: bool,
}

/// The old dialect's text in this one: strings in double quotes, its `==` on strings (a pattern, in any case) as `:`, a bare
/// field as a test for null, arguments of pipes separated by commas.
fn translate(case: &PythonCase) -> String {
    let mut text = case.query.replace('\'', "\"");
    let mut replace = |pattern: &str, with: &str| {
        let pattern = regex::Regex::new(pattern).expect("a pattern");
        text = pattern.replace_all(&text, with).into_owned();
    };
    let (equal, member) = if case.case_sensitive {
        ("==", "in")
    } else {
        (":", "in~")
    };
    let operand = r#"([\w.\[\]]+|\w+\([^()]*\))"#;
    replace(r#"("[^"]*")\s*==?\s*([\w.]+)"#, &format!("$2 {equal} $1"));
    replace(
        &format!(r#"{operand}\s*!=\s*("[^"]*")"#),
        &format!("not $1 {equal} $2"),
    );
    replace(
        &format!(r#"{operand}\s*==?\s*("[^"]*")"#),
        &format!("$1 {equal} $2"),
    );
    replace(r"(\w)\s*=\s*(\d)", "$1 == $2");
    replace(r#"\bin\s*\(\s*""#, &format!(r#"{member} (""#));
    replace(
        r"where mysterious_field\b",
        "where mysterious_field != null",
    );
    for function in [
        "endsWith",
        "startsWith",
        "stringContains",
        "indexOf",
        "between",
    ] {
        replace(&format!(r"{function}\("), &format!("{function}~("));
    }
    let pipe =
        regex::Regex::new(r"\| (unique|unique_count|sort|count) ([^|]*)").expect("a pattern");
    let argument = regex::Regex::new(r"(\w)\s+(\w)").expect("a pattern");
    let commas = |found: &regex::Captures<'_>| match found[2].starts_with("not ") {
        true => found[0].to_owned(),
        false => format!(
            "| {} {}\n",
            &found[1],
            argument.replace_all(found[2].trim(), "$1, $2")
        ),
    };
    pipe.replace_all(&text, commas).into_owned()
}

#[test]
fn python_features_beyond_the_translated() {
    let Some(input) = recording() else { return };
    let Some(lists) = suite_file("python-eql/classification.toml") else {
        return;
    };
    let Some(text) = suite_file("python-eql/test_queries.toml") else {
        return;
    };
    let lists: toml::Table = lists.parse().expect("TOML");
    let list = |name: &str| -> Vec<usize> {
        let list = lists["test_queries"][name].as_array().expect("a list");
        list.iter()
            .map(|i| {
                i.as_integer()
                    .expect("a position")
                    .try_into()
                    .expect("small")
            })
            .collect()
    };
    let translated = list("translated_same_result");
    let positions: BTreeSet<usize> = PYTHON_LISTS
        .iter()
        .flat_map(|name| list(name))
        .filter(|i| !translated.contains(i) && PYTHON_DIFFERENT.iter().all(|(d, _)| d != i))
        .collect();
    let cases = toml::from_str::<PythonFile>(&text)
        .expect("the suite is TOML")
        .queries;
    let mut failed = Vec::new();
    for position in &positions {
        let case = &cases[*position];
        let query = translate(case);
        let found = match eql::compile(&query, &OpenSchema, Mode::Replay) {
            Ok(checked) => run_with(&checked.query, &input.events, true, |builder| {
                builder.process_fields("unique_pid", "unique_ppid");
            }),
            Err(problems) => {
                failed.push(format!("{position}: {query}: {problems:?}"));
                continue;
            }
        };
        if found.ids() != case.expected_event_ids {
            let expected = &case.expected_event_ids;
            failed.push(format!(
                "{position}: {query}: {:?}, expected {expected:?}",
                found.ids()
            ));
        }
    }
    say(&format!(
        "conformance: python-eql/test_queries.toml: {} of {} cases pass that use arrays, positions, pipes or lineage",
        positions.len() - failed.len(),
        positions.len()
    ));
    assert_eq!((positions.len(), failed), (61, Vec::new()));
}

/// One case of the series: events by stage, and the matches to come, each with its key and event names.
#[derive(Default)]
struct Series {
    name: String,
    stages: Vec<Vec<String>>,
    matches: Vec<String>,
}

fn series(text: &str) -> Vec<Series> {
    let mut all = Vec::new();
    let mut current = Series::default();
    let mut semicolons = 0;
    for line in text.lines().map(str::trim) {
        match line {
            "" => {}
            comment if comment.starts_with("//") => {}
            ";" if semicolons == 0 => semicolons = 1,
            ";" => {
                all.push(std::mem::take(&mut current));
                semicolons = 0;
            }
            name if current.name.is_empty() => current.name = name.to_owned(),
            expected if semicolons == 1 => current.matches.push(expected.to_owned()),
            events => {
                current
                    .stages
                    .push(events.split_whitespace().map(str::to_owned).collect());
            }
        }
    }
    all
}

fn check_series(case: &Series) -> Result<(), String> {
    let mut events = Vec::new();
    let mut names = BTreeMap::new();
    for (stage, list) in case.stages.iter().enumerate() {
        for written in list {
            let (key, name) = match written.split_once('|') {
                Some((key, name)) => (Json::from(key), name),
                None => (Json::Null, written.as_str()),
            };
            let number: i64 = name
                .trim_start_matches(char::is_alphabetic)
                .parse()
                .expect("a time");
            names.insert(number, name.to_owned());
            let fields = serde_json::json!({"stage": stage, "key": key});
            let fields = fields.as_object().expect("an object").clone();
            events.push(Source {
                id: number,
                time_ns: number * 1_000_000,
                fields,
            });
        }
    }
    events.sort_by_key(|e| e.time_ns);
    let steps: String = (0..case.stages.len())
        .map(|stage| format!(" [any where stage == {stage}]"))
        .collect();
    let text = format!("sequence by ?key{steps}");
    let compiled = |mode| match eql::compile(&text, &OpenSchema, mode) {
        Ok(checked) => checked.query,
        Err(problems) => panic!("{text}: {problems:?}"),
    };
    let (live, replay) = (compiled(Mode::Live), compiled(Mode::Replay));
    let written = |found: &Found| -> Vec<String> {
        let one = |(ids, keys): &(Vec<i64>, Vec<String>)| {
            let names: Vec<&str> = ids.iter().map(|id| names[id].as_str()).collect();
            let key = keys
                .iter()
                .filter(|k| *k != "null")
                .map(|k| format!("{k}|"));
            key.collect::<String>() + &names.join(" ")
        };
        found.0.iter().map(one).collect()
    };
    let runs = [
        ("stream".to_owned(), run(&live, &events, false)),
        ("replay".to_owned(), run(&replay, &events, true)),
        ("naive matcher".to_owned(), run_naive(&live, &events)),
        (
            "stream shuffled".to_owned(),
            run_shuffled(&live, &events, 1),
        ),
    ];
    for (how, found) in runs {
        if written(&found) != case.matches {
            return Err(format!(
                "{how}: {:?}, expected {:?}",
                written(&found),
                case.matches
            ));
        }
    }
    Ok(())
}

#[test]
fn elasticsearch_series() {
    let Some(text) = suite_file("elasticsearch/sequences.series-spec") else {
        return;
    };
    let cases = series(&text);
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            check_series(case)
                .err()
                .map(|e| format!("{}: {e}", case.name))
        })
        .collect();
    say(&format!(
        "conformance: elasticsearch/sequences.series-spec: {} of {} cases pass, as a stream and on replay",
        cases.len() - failed.len(),
        cases.len()
    ));
    assert_eq!((cases.len(), failed), (25, Vec::new()));
}
