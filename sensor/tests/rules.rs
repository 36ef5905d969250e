//! The shipped rules: their examples, and the field table of their README.
//!
//! In: `rules/`. Out: every example replayed through the built binary, and the table compared with the schema in the code. With
//! `EQL_SENSOR_UPDATE=1` the table is written instead.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use sensor::commands::fields;
use sensor::rule;

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules")
}

/// Alerts of one rule over events given as JSON lines.
fn alerts(rules: &Path, id: &str, events: &str) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("events.jsonl");
    std::fs::write(&file, events).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .arg("replay")
        .arg("--rules")
        .arg(rules)
        .arg(&file)
        .env_remove("EQL_SENSOR_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let alerts = text.lines().map(|line| {
        let alert: serde_json::Value = serde_json::from_str(line).unwrap();
        alert
    });
    alerts.filter(|alert| alert["rule"]["id"] == id).count()
}

#[test]
fn every_rule_fires_where_its_examples_say_so_and_nowhere_else() {
    let loaded = rule::load(&[rules()]);
    assert_eq!(loaded.problems, []);
    assert!(!loaded.rules.is_empty());
    for rule in &loaded.rules {
        for wanted in [true, false] {
            assert!(
                rule.examples.iter().any(|example| example.fires == wanted),
                "{}: no example that has `fires = {wanted}`",
                rule.path.display()
            );
        }
        for example in &rule.examples {
            let found = alerts(&rule.path, &rule.id, &example.events);
            let place = format!("{}:{}", rule.path.display(), example.line);
            assert_eq!(found > 0, example.fires, "{place}: {}", example.name);
        }
    }
}

const BEGIN: &str = "<!-- fields: written by a test, do not edit -->\n";
const END: &str = "<!-- end of fields -->\n";

#[test]
fn the_readme_lists_every_field() {
    let path = rules().join("README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = text.find(BEGIN).unwrap() + BEGIN.len();
    let end = text.find(END).unwrap();
    let table = fields::table();
    if std::env::var_os("EQL_SENSOR_UPDATE").is_some() {
        let updated = format!("{}{table}{}", &text[..begin], &text[end..]);
        std::fs::write(&path, updated).unwrap();
        return;
    }
    assert_eq!(
        &text[begin..end],
        table,
        "{} is not what the schema says; run: EQL_SENSOR_UPDATE=1 cargo test -p sensor --test rules",
        path.display()
    );
}
