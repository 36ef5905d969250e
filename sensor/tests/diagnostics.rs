//! The whole text of every diagnostic, from `eql/diagnostics.toml`.
//!
//! In: cases of a query and what `check` prints about it. Every kind of diagnostic has at least one case.

use std::collections::BTreeSet;

use sensor::eql::query::FieldType;
use sensor::eql::schema::closest;
use sensor::eql::{self, Kind, Mode, OpenSchema, Origin, Schema};
use sensor::kql;

/// A few fields, so that the cases do not change with the sensor's own.
struct FewFields {
    closed: bool,
}

const FIELDS: &[(&str, FieldType)] = &[
    ("@timestamp", FieldType::Date),
    ("file.path", FieldType::Keyword),
    ("host.os.version", FieldType::Version),
    ("process.args", FieldType::Keyword),
    ("process.command_line", FieldType::Keyword),
    ("process.interactive", FieldType::Boolean),
    ("process.name", FieldType::Keyword),
    ("process.pid", FieldType::Number),
    ("source.ip", FieldType::Ip),
];

impl Schema for FewFields {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        FIELDS
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, ty)| *ty)
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn suggest(&self, path: &str) -> Option<String> {
        closest(path, FIELDS.iter().map(|(name, _)| *name)).map(str::to_owned)
    }

    fn is_object(&self, path: &str) -> bool {
        FIELDS.iter().any(|(name, _)| {
            name.strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }
}

/// Queries too long to be written into the file.
fn made(name: &str) -> String {
    match name {
        "long" => "x".repeat(eql::limits::QUERY_BYTES_MAX + 1),
        "deep" => format!("process where {}true", "(".repeat(300)),
        "steps" => format!("sequence {}", "[a where b] ".repeat(65)),
        "filters" => format!("sample by k {}", "[a where b] ".repeat(65)),
        "regexes" => format!("a where b regex ({})", vec!["\"x\""; 257].join(", ")),
        "many" => format!("a where {}", vec!["f(1)"; 60].join("\n or ")),
        other => other.to_owned(),
    }
}

struct Case {
    kind: String,
    query: String,
    rendered: String,
    kinds: Vec<&'static str>,
    expected: String,
}

fn run(case: &toml::Value) -> Case {
    let text = |key: &str| case.get(key).and_then(|v| v.as_str());
    let query = match text("made") {
        Some(name) => made(name),
        None => text("query").unwrap_or_default().to_owned(),
    };
    let mode = if text("mode") == Some("replay") {
        Mode::Replay
    } else {
        Mode::Live
    };
    let schema: &dyn Schema = match text("schema") {
        Some("closed") => &FewFields { closed: true },
        Some("suggesting") => &FewFields { closed: false },
        _ => &OpenSchema,
    };
    let kql = case.get("kql").and_then(toml::Value::as_bool) == Some(true);
    let compiled = if kql {
        kql::compile(&query, schema)
    } else {
        eql::compile(&query, schema, mode)
    };
    let found = match compiled {
        Ok(checked) => checked.warnings,
        Err(found) => found,
    };
    // Of a great many only the last lines are written down.
    let skip = case
        .get("last")
        .and_then(|v| v.as_integer())
        .map_or(0, |n| found.len() - usize::try_from(n).unwrap_or(0));
    let rendered: String = found
        .iter()
        .skip(skip)
        .map(|d| d.render(&query, &Origin::whole("query")))
        .collect();
    Case {
        kind: text("kind").unwrap_or_default().to_owned(),
        query,
        rendered,
        kinds: found.iter().map(|d| d.kind.name()).collect(),
        expected: text("text").unwrap_or_default().to_owned(),
    }
}

fn cases() -> Vec<Case> {
    let file: toml::Table = include_str!("eql/diagnostics.toml")
        .parse()
        .unwrap_or_default();
    file.get("case")
        .and_then(|c| c.as_array())
        .into_iter()
        .flatten()
        .map(run)
        .collect()
}

#[test]
fn whole_text() {
    let mut wrong = String::new();
    for case in cases() {
        if case.rendered != case.expected {
            let query: String = case.query.chars().take(200).collect();
            wrong.push_str(&format!(
                "--- {query}\nexpected\n{}found\n{}\n",
                case.expected, case.rendered
            ));
        }
        if !case.kinds.contains(&&*case.kind) {
            wrong.push_str(&format!(
                "--- reports {:?}, not {}: {:.200}\n",
                case.kinds, case.kind, case.query
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn every_kind_has_a_case() {
    let shown: BTreeSet<String> = cases().into_iter().map(|c| c.kind).collect();
    let missing: Vec<&str> = Kind::ALL
        .iter()
        .map(|k| k.name())
        .filter(|k| !shown.contains(*k))
        .collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn positions_point_into_the_file() {
    let query = "process where\n  nme ==";
    let found = eql::compile(query, &OpenSchema, Mode::Live).unwrap_err();
    let origin = Origin {
        name: "rules/x.toml",
        line: 7,
        column: 10,
    };
    let text: String = found.iter().map(|d| d.render(query, &origin)).collect();
    let expected = "\
rules/x.toml:8:9: error: expected a value or field, found the end of the query
 8 |   nme ==
   |         ^
";
    assert_eq!(text, expected);
    let found = eql::compile("proc wher", &OpenSchema, Mode::Live).unwrap_err();
    assert!(
        found[0]
            .render("proc wher", &origin)
            .starts_with("rules/x.toml:7:15: error: ")
    );
}

#[test]
fn a_long_line_is_shown_in_part() {
    let query = format!(
        "process where {} and näme == 1 and {}",
        "a == 1 and ".repeat(30) + "b",
        "c or ".repeat(50) + "d"
    );
    let found = eql::compile(&query, &OpenSchema, Mode::Live).unwrap_err();
    let text = found[0].render(&query, &Origin::whole("q"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[1].starts_with(" 1 | …") && lines[1].ends_with('…'),
        "{text}"
    );
    let caret = lines[2].find('^').unwrap();
    assert_eq!(
        lines[1].chars().nth(lines[2][..caret].chars().count()),
        Some('ä'),
        "{text}"
    );
}
