//! What the fuzz targets once found, run by the ordinary tests.
//!
//! In: every file of `regressions/TARGET/`. Out: the same promises as in `fuzz/cases.rs`, on the same bytes.

#[path = "../fuzz/cases.rs"]
mod cases;

use std::fs;
use std::path::Path;

/// Runs every file of a target's folder; a panic names the file.
fn run(target: &str, case: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/regressions")
        .join(target);
    let entries = fs::read_dir(&folder);
    let mut paths: Vec<_> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no files in {}", folder.display());
    for path in paths {
        eprintln!("{}", path.display());
        case(&fs::read(&path).unwrap_or_default());
    }
}

#[test]
fn parse_check() {
    run("parse_check", cases::parse_check);
}

#[test]
fn compile_evaluate() {
    run("compile_evaluate", cases::compile_evaluate);
}

#[test]
fn rule_file() {
    run("rule_file", cases::rule_file);
}
