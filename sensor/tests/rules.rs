//! The shipped rules: their tests, and the field table of their README.
//!
//! In: `rules/`. Out: the tests of every rule, run by the built binary, and the table compared with the schema in the code. With
//! `EQL_SENSOR_UPDATE=1` the table is written instead.

use std::path::{Path, PathBuf};
use std::process::Command;

use sensor::commands::fields;
use sensor::rule;

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules")
}

#[test]
fn every_rule_passes_its_tests() {
    let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(["test", "--require", "2,3"])
        .arg(rules())
        .env_remove("EQL_SENSOR_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}{said}");
    let loaded = rule::load(&[rules()]);
    assert_eq!(loaded.problems, []);
    assert!(!loaded.rules.is_empty());
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
