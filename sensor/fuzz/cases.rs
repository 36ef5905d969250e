//! What must hold for any input, one function per fuzz target.
//!
//! In: bytes. Out: nothing, or a panic that says which promise was broken. Shared by the fuzz targets and by the ordinary
//! test that runs what they found.

#![allow(dead_code, reason = "each target uses one of them")]
#![allow(clippy::panic, reason = "a broken promise is reported by panicking")]

use std::path::Path;
use std::sync::Arc;

use sensor::document::Source;
use sensor::engine::{Builder, Engine, Limits, Match};
use sensor::eql::query::{FieldType, Query};
use sensor::eql::{self, Diagnostic, Mode, OpenSchema, Origin, Schema, Severity};
use sensor::event::{FieldTable, Fields as _};
use sensor::json_lines::{FlatEvent, Options, Reader};
use sensor::{kql as language, rule};

/// A closed schema over a few short names, so that inputs reach every type.
struct Few;

impl Schema for Few {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        Some(match path {
            "a" | "o.a" => FieldType::Any,
            "k" | "o.k" => FieldType::Keyword,
            "n" | "o.n" => FieldType::Number,
            "b" | "o.b" => FieldType::Boolean,
            "i" | "o.i" => FieldType::Ip,
            "d" | "o.d" => FieldType::Date,
            "v" | "o.v" => FieldType::Version,
            _ => return None,
        })
    }

    fn is_closed(&self) -> bool {
        true
    }

    fn suggest(&self, path: &str) -> Option<String> {
        eql::schema::closest(path, ["o.a", "o.k", "o.n"]).map(str::to_owned)
    }

    fn is_object(&self, path: &str) -> bool {
        path == "o"
    }
}

/// Any text compiles or is refused with at least one error; every diagnostic lies in the text and can be shown.
pub(crate) fn parse_check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (schema, mode) in [
        (&OpenSchema as &dyn Schema, Mode::Replay),
        (&Few, Mode::Live),
    ] {
        let outcome = eql::compile(&text, schema, mode);
        let (found, failed) = match &outcome {
            Ok(checked) => (&checked.warnings, false),
            Err(found) => (found, true),
        };
        assert_eq!(
            found.iter().any(|d| d.severity == Severity::Error),
            failed,
            "errors and outcome disagree"
        );
        assert!(
            found.len() <= eql::limits::DIAGNOSTICS_MAX + 1,
            "{} diagnostics",
            found.len()
        );
        for diagnostic in found {
            check_diagnostic(diagnostic, &text);
        }
        drop(outcome);
    }
}

/// The same for KQL.
pub(crate) fn kql(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for schema in [&OpenSchema as &dyn Schema, &Few] {
        match language::compile(&text, schema) {
            Ok(checked) => {
                let found = &checked.warnings;
                assert!(!found.iter().any(|d| d.severity == Severity::Error));
                found.iter().for_each(|d| check_diagnostic(d, &text));
                let mut builder = Builder::new(Limits::default());
                if let Err(error) = builder.add(0, &checked.query) {
                    panic!("a query that was checked is refused: {error}");
                }
            }
            Err(found) => {
                assert!(found.iter().any(|d| d.severity == Severity::Error));
                found.iter().for_each(|d| check_diagnostic(d, &text));
            }
        }
    }
}

fn check_diagnostic(diagnostic: &Diagnostic, text: &str) {
    let (start, end) = (diagnostic.span.start as usize, diagnostic.span.end as usize);
    assert!(
        start <= end && end <= text.len(),
        "{diagnostic:?} lies outside of the text"
    );
    assert!(
        text.is_char_boundary(start) && text.is_char_boundary(end),
        "{diagnostic:?} splits a character"
    );
    let rendered = diagnostic.render(
        text,
        &Origin {
            name: "q",
            line: 3,
            column: 5,
        },
    );
    let lines: Vec<&str> = rendered.lines().collect();
    assert!(
        lines.len() == 3 && lines.last().is_some_and(|l| l.ends_with('^')),
        "{diagnostic:?} renders as {rendered}"
    );
}

/// A query, a line of three dashes, and JSON lines: the engine gives the same with and without shared leaves.
pub(crate) fn compile_evaluate(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (query, events) = text.split_once("\n---\n").unwrap_or((&text, ""));
    for (schema, mode) in [
        (&OpenSchema as &dyn Schema, Mode::Replay),
        (&Few, Mode::Live),
    ] {
        let Ok(checked) = eql::compile(query, schema, mode) else {
            continue;
        };
        let shared = run(&checked.query, events, mode, true);
        let apart = run(&checked.query, events, mode, false);
        assert_eq!(
            shared, apart,
            "sharing leaves makes a difference for {query}"
        );
    }
}

/// Matches as the times of their events and their keys; `None` when the engine refuses the query.
type Found = Option<Vec<(Vec<i64>, String)>>;

fn run(query: &Query, events: &str, mode: Mode, sharing: bool) -> Found {
    let limits = Limits {
        keys_per_event: 16,
        partials: 32,
        alias_partials: 4,
        unique_keys: 8,
        processes: 8,
        ..Limits::default()
    };
    let mut builder = Builder::new(limits);
    if !sharing {
        builder.without_sharing();
    }
    // Twice, so that there is something to share.
    builder
        .add(0, query)
        .and_then(|()| builder.add(1, query))
        .ok()?;
    let mut table = FieldTable::empty();
    let mut engine: Engine<Arc<FlatEvent>> = builder.build(&mut table).ok()?;
    let mut reader = Reader::new(&table, engine.needed_fields(), &Options::default());
    let mut matches: Vec<Match<Arc<FlatEvent>>> = Vec::new();
    for (line, number) in events.lines().zip(1..) {
        match reader.parse(line.as_bytes(), number) {
            Ok(event) => engine.process(&Arc::new(event), &mut matches),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    match mode {
        Mode::Live => engine.advance(i64::MAX, &mut matches),
        Mode::Replay => engine.finish(&mut matches),
    }
    let by_rule = |rule| {
        matches
            .iter()
            .filter(move |m| m.rule == rule)
            .map(summary)
            .collect::<Vec<_>>()
    };
    let (first, second) = (by_rule(0), by_rule(1));
    assert_eq!(first, second, "two rules with one query differ");
    Some(first)
}

fn summary(found: &Match<Arc<FlatEvent>>) -> (Vec<i64>, String) {
    (
        found.events.iter().map(|e| e.time_ns()).collect(),
        format!("{:?}", found.keys),
    )
}

/// Any bytes as a rule file load, are skipped with a reason, or are refused with a problem.
pub(crate) fn rule_file(data: &[u8]) {
    let source = Source {
        path: Arc::from(Path::new("fuzz.toml")),
        text: String::from_utf8_lossy(data).into_owned(),
    };
    let loaded = rule::load_source(&source);
    let outcomes = loaded.rules.len() + loaded.skipped.len() + loaded.failed;
    assert_eq!(
        outcomes,
        1,
        "{} rules, {} skipped, {} failed",
        loaded.rules.len(),
        loaded.skipped.len(),
        loaded.failed
    );
    assert_eq!(
        loaded.errors().next().is_some(),
        loaded.failed == 1,
        "errors and outcome disagree"
    );
    for problem in &loaded.problems {
        assert!(!problem.to_string().is_empty());
    }
}
