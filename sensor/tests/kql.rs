//! The meaning of KQL, as cases and against a naive evaluator.
//!
//! In: `kql/language.toml`, random queries over random events, and the KQL rules of `../shared/rules-corpus`, read at run time.
//! Out: one failure text with all cases that differ. Where that folder is absent the test says so and counts as skipped.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

#[path = "../fuzz/cases.rs"]
mod cases;
mod rng;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use rng::Rng;
use sensor::engine::{Builder, Engine, Limits};
use sensor::eql::query::FieldType;
use sensor::eql::{OpenSchema, Origin, Schema, Severity};
use sensor::event::FieldTable;
use sensor::json_lines::{FlatEvent, Options, Reader};
use sensor::{kql, rule};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

#[derive(Deserialize)]
struct File {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    event: String,
    #[serde(default)]
    schema: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    hold: Vec<String>,
    #[serde(default)]
    fail: Vec<String>,
    #[serde(default)]
    refused: Vec<(String, Vec<String>)>,
}

/// Types of some fields; all others are untyped.
struct Typed(std::collections::BTreeMap<String, String>);

impl Schema for Typed {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        Some(match self.0.get(path).map(String::as_str) {
            Some("keyword") => FieldType::Keyword,
            Some("number") => FieldType::Number,
            Some("date") => FieldType::Date,
            Some("ip") => FieldType::Ip,
            Some(other) => panic!("{other}"),
            None => FieldType::Any,
        })
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn suggest(&self, _: &str) -> Option<String> {
        None
    }
}

/// Whether the engine finds the event; the problems of the query when there are errors.
fn holds(query: &str, schema: &dyn Schema, event: &str) -> Result<bool, String> {
    let checked = kql::compile(query, schema).map_err(|found| {
        let shown = found
            .iter()
            .map(|d| d.render(query, &Origin::whole("query")));
        shown.collect::<String>()
    })?;
    let mut table = FieldTable::empty();
    let mut builder = Builder::new(Limits::default());
    builder.add(0, &checked.query).unwrap();
    let mut engine: Engine<Arc<FlatEvent>> = builder.build(&mut table).unwrap();
    let mut reader = Reader::new(&table, engine.needed_fields(), &Options::default());
    let mut matches = Vec::new();
    let event = reader.parse(event.as_bytes(), 1).unwrap();
    engine.process(&Arc::new(event), &mut matches);
    Ok(!matches.is_empty())
}

#[test]
fn the_language_means_what_the_cases_say() {
    let file: File = toml::from_str(include_str!("kql/language.toml")).unwrap();
    let (mut wrong, mut tried) = (String::new(), 0);
    for case in &file.case {
        let mut event: Map<String, Json> = serde_json::from_str(&case.event).unwrap();
        event.insert("@timestamp".into(), json!("2026-01-01T00:00:00Z"));
        let event = Json::from(event).to_string();
        let schema = Typed(case.schema.clone());
        let of = |queries: &[String], expected| {
            queries
                .iter()
                .map(|query| (query.clone(), expected))
                .collect::<Vec<_>>()
        };
        for (query, expected) in of(&case.hold, true)
            .into_iter()
            .chain(of(&case.fail, false))
        {
            tried += 1;
            let found = holds(&query, &schema, &event);
            if found != Ok(expected) {
                writeln!(wrong, "{}: {query}: {found:?}", case.name).unwrap();
            }
        }
        for (query, kinds) in &case.refused {
            tried += 1;
            let found: Vec<&str> = match kql::compile(query, &schema) {
                Ok(_) => Vec::new(),
                Err(found) => {
                    let errors = found.iter().filter(|d| d.severity == Severity::Error);
                    errors.map(|d| d.kind.name()).collect()
                }
            };
            if found != *kinds {
                writeln!(wrong, "{}: {query}: {found:?}", case.name).unwrap();
            }
        }
    }
    assert!(tried > 100, "only {tried} queries");
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn depth_and_size_are_bounded() {
    for (query, kind) in [
        ("(".repeat(100_000), "too-deep"),
        ("not ".repeat(100_000), "too-deep"),
        (format!("a : {}b", "(not ".repeat(5000)), "too-deep"),
        ("x".repeat(2 << 20), "query-too-long"),
        (
            (0..300)
                .map(|n| format!("a : {n}?*"))
                .collect::<Vec<_>>()
                .join(" or "),
            "too-many",
        ),
    ] {
        let found = kql::compile(&query, &OpenSchema).unwrap_err();
        let kinds: Vec<&str> = found.iter().map(|d| d.kind.name()).collect();
        assert!(kinds.contains(&kind), "{kinds:?}");
        assert!(found.len() <= 51, "{} diagnostics", found.len());
    }
}

/// A query as the naive evaluator knows it.
enum Tree {
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Not(Box<Tree>),
    /// Text, and whether it is in quotes.
    Equal(&'static str, &'static str, bool),
    Greater(&'static str, i64),
    /// The values of a list, as a tree whose leaves are of one field.
    List(Box<Tree>, &'static str),
}

const FIELDS: [&str; 3] = ["a", "b.c", "d"];
const VALUES: [&str; 9] = ["x", "xy", "x*", "*y", "*", "x*y", "y?", "*?*", "7"];

fn tree(rng: &mut Rng, depth: usize, field: Option<&'static str>) -> Tree {
    let choice = if depth == 0 { 4 } else { rng.below(7) };
    let parts = |rng: &mut Rng| {
        let count = 2 + rng.below(3);
        (0..count)
            .map(|_| tree(rng, depth - 1, field))
            .collect::<Vec<_>>()
    };
    match choice {
        0 => Tree::And(parts(rng)),
        1 | 2 => Tree::Or(parts(rng)),
        3 => Tree::Not(Box::new(tree(rng, depth - 1, field))),
        _ => {
            let path = field.unwrap_or_else(|| FIELDS[rng.below(3)]);
            match rng.below(6) {
                0 if field.is_none() => Tree::Greater(path, [0, 5, 7][rng.below(3)]),
                1 | 2 if field.is_none() && depth > 0 => {
                    Tree::List(Box::new(tree(rng, depth - 1, Some(path))), path)
                }
                3 => Tree::Equal(path, VALUES[rng.below(9)], true),
                _ => Tree::Equal(path, VALUES[rng.below(9)], false),
            }
        }
    }
}

/// Writes the tree, with more brackets than needed at times.
fn write(tree: &Tree, in_list: bool, level: u8, rng: &mut Rng, out: &mut String) {
    let own = match tree {
        Tree::Or(_) => 0,
        Tree::And(_) => 1,
        _ => 2,
    };
    let bracket = own < level || rng.below(8) == 0;
    if bracket {
        out.push('(');
    }
    let inner = if bracket { 0 } else { own };
    match tree {
        Tree::And(parts) | Tree::Or(parts) => {
            let word = if own == 0 { " or " } else { " and " };
            for (i, part) in parts.iter().enumerate() {
                if i > 0 {
                    out.push_str(word);
                }
                write(part, in_list, inner + 1, rng, out);
            }
        }
        Tree::Not(part) => {
            out.push_str("not ");
            write(part, in_list, 2, rng, out);
        }
        Tree::Equal(path, text, quoted) => {
            if !in_list {
                write!(out, "{path} : ").unwrap();
            }
            if *quoted {
                write!(out, "\"{text}\"").unwrap();
            } else {
                out.push_str(text);
            }
        }
        Tree::Greater(path, number) => write!(out, "{path} > {number}").unwrap(),
        Tree::List(values, path) => {
            write!(out, "{path}:(").unwrap();
            write(values, true, 0, rng, out);
            out.push(')');
        }
    }
    if bracket {
        out.push(')');
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, rest)) => text
            .strip_prefix(before)
            .is_some_and(|text| (0..=text.len()).any(|skip| glob(rest, &text[skip..]))),
    }
}

fn naive(tree: &Tree, event: &Map<String, Json>) -> bool {
    let values = |path: &str| match event.get(path) {
        None => Vec::new(),
        Some(Json::Array(several)) => several.clone(),
        Some(one) => vec![one.clone()],
    };
    let text = |value: &Json| match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    match tree {
        Tree::And(parts) => parts.iter().all(|part| naive(part, event)),
        Tree::Or(parts) => parts.iter().any(|part| naive(part, event)),
        Tree::Not(part) => !naive(part, event),
        Tree::Equal(path, wanted, true) => values(path).iter().any(|v| text(v) == *wanted),
        Tree::Equal(path, wanted, false) => values(path).iter().any(|v| glob(wanted, &text(v))),
        Tree::Greater(path, number) => {
            let numbers = values(path).into_iter().map(|v| text(&v).parse::<i64>());
            numbers.flatten().any(|n| n > *number)
        }
        Tree::List(values, _) => naive(values, event),
    }
}

#[test]
fn random_queries_agree_with_a_naive_evaluator() {
    let mut held = 0;
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let query = tree(&mut rng, 3, None);
        let mut text = String::new();
        write(&query, false, 0, &mut rng, &mut text);
        let mut event = Map::new();
        for path in FIELDS {
            let value = |rng: &mut Rng| ["x", "xy", "y", "y?", "xzy", "7", "*?*"][rng.below(7)];
            match rng.below(4) {
                0 => {}
                1 => _ = event.insert(path.into(), json!([value(&mut rng), value(&mut rng)])),
                2 => _ = event.insert(path.into(), json!(value(&mut rng))),
                _ => _ = event.insert(path.into(), json!(7)),
            }
        }
        let expected = naive(&query, &event);
        event.insert("@timestamp".into(), json!("2026-01-01T00:00:00Z"));
        let event = Json::from(event).to_string();
        let found = holds(&text, &OpenSchema, &event);
        assert_eq!(found, Ok(expected), "seed {seed}: {text}\n{event}");
        held += usize::from(expected);
    }
    assert!((500..2500).contains(&held), "{held} of 3000 hold");
}

#[test]
fn any_text_compiles_or_is_refused() {
    const PIECES: [&str; 26] = [
        "k",
        "o",
        "n.caseless",
        "k.caseless",
        "i",
        "d",
        ":",
        ":",
        ":",
        ">",
        "<=",
        "(",
        ")",
        "{",
        "}",
        "and",
        "or",
        "not",
        "\"",
        "*",
        "\\",
        "?",
        " ",
        "é",
        "7",
        "\\u00e9",
    ];
    for seed in 0..4000 {
        let mut rng = Rng::new(seed);
        let mut text = String::new();
        for _ in 0..rng.below(40) {
            text.push_str(PIECES[rng.below(PIECES.len())]);
            if rng.chance(60) {
                text.push(' ');
            }
        }
        cases::kql(text.as_bytes());
    }
    cases::kql(format!("k : {}", "*?".repeat(4000)).as_bytes());
}

#[test]
fn every_public_rule_in_kql_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    if !folder.is_dir() {
        eprintln!(
            "SKIPPED: public rules in KQL: no folder {}",
            folder.display()
        );
        return;
    }
    let loaded = rule::load(&[folder]);
    let errors: Vec<String> = loaded.errors().map(ToString::to_string).collect();
    assert_eq!(errors, [""; 0]);
    let mut skipped: Vec<String> = loaded
        .skipped
        .iter()
        .filter(|s| s.reason.starts_with("not supported"))
        .map(|s| s.reason.clone())
        .collect();
    skipped.sort();
    skipped.dedup();
    // Rules with filters besides the query are for Windows.
    let allowed = ["not supported: esql", "not supported: filters"];
    assert!(
        skipped
            .iter()
            .all(|reason| allowed.contains(&reason.as_str())),
        "{skipped:?}"
    );
    let mut kuery = (0, 0, 0);
    for rule in &loaded.rules {
        let text = std::fs::read_to_string(&rule.path).unwrap();
        let file: toml::Table = text.parse().unwrap();
        match file["rule"].get("type").and_then(toml::Value::as_str) {
            Some("query") => kuery.0 += 1,
            Some("threshold") => kuery.1 += 1,
            Some("new_terms") => kuery.2 += 1,
            _ => continue,
        }
        let ty = file["rule"]["type"].as_str().unwrap();
        assert_eq!(rule.query.pipes.len(), usize::from(ty != "query"));
    }
    let (query, threshold, new_terms) = kuery;
    eprintln!("loaded in KQL: {query} query, {threshold} threshold, {new_terms} new_terms");
    assert!(query > 15 && threshold >= 2 && new_terms > 30, "{kuery:?}");
}
