//! Rule files that are broken or suspicious, each with everything `check` says of it, word for word.
//!
//! In: `suspicious/*.toml`, each with a `.txt` of the same name: every problem in one go, notes included, then the verdict with what
//! the rule lacks. With `EQL_SENSOR_UPDATE=1` the texts are written instead; look at the difference.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sensor::document::Source;
use sensor::event::Kinds;
use sensor::rule;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suspicious")
}

fn names() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn said(name: &str) -> String {
    let source = Source {
        path: Arc::from(Path::new(&format!("{name}.toml"))),
        text: std::fs::read_to_string(folder().join(format!("{name}.toml"))).unwrap(),
    };
    let loaded = rule::load_source(&source);
    let mut said = String::new();
    for problem in &loaded.problems {
        write!(said, "{problem}\n{}", problem.excerpt).unwrap();
    }
    for rule in &loaded.rules {
        let found = rule.judge(Kinds::ALL);
        writeln!(said, "{}", found.verdict().name()).unwrap();
        for finding in &found.findings {
            let (line, column) = rule.place(finding.span);
            writeln!(said, "{line}:{column}: {}", finding.words(&rule.query_text)).unwrap();
        }
    }
    for skipped in &loaded.skipped {
        writeln!(said, "skipped: {}", skipped.reason).unwrap();
    }
    said
}

#[test]
fn everything_is_said_in_one_go() {
    let mut wrong = String::new();
    let names = names();
    for name in &names {
        let path = folder().join(format!("{name}.txt"));
        let said = said(name);
        if std::env::var_os("EQL_SENSOR_UPDATE").is_some() {
            std::fs::write(&path, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if said != expected {
            writeln!(wrong, "## {name}\nexpected\n{expected}found\n{said}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(names.len() >= 40, "only {} files", names.len());
}

#[test]
fn none_of_them_is_said_to_be_in_order() {
    for name in names() {
        assert_ne!(said(&name), "armed\n", "{name}");
    }
}
