//! Every EQL query of the public rule files beside the checkout parses and type-checks without a word.
//!
//! In: `../shared/rules-corpus`, read at run time. Where that folder is absent the test says so and passes.

use std::fs;
use std::path::{Path, PathBuf};

use sensor::eql::{self, Mode, OpenSchema, Origin, Severity};

fn toml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            toml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
}

/// Query of a rule file, when it is an EQL rule.
fn eql_query(path: &Path) -> anyhow::Result<Option<String>> {
    let file: toml::Table = fs::read_to_string(path)?.parse()?;
    let text_of = |key: &str| file.get("rule")?.get(key)?.as_str();
    // Endpoint artifacts name neither a type nor a language: they are all EQL.
    if text_of("type").unwrap_or("eql") != "eql" || text_of("language").unwrap_or("eql") != "eql" {
        return Ok(None);
    }
    Ok(text_of("query").map(str::to_owned))
}

#[test]
fn public_rules_check_without_a_word() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    let mut files = Vec::new();
    toml_files(&folder, &mut files);
    if files.is_empty() {
        eprintln!("SKIPPED: no public rules at {}", folder.display());
        return;
    }
    files.sort();
    let mut checked = 0;
    let mut complaints = String::new();
    for path in &files {
        let Some(query) = eql_query(path).unwrap() else {
            continue;
        };
        checked += 1;
        let name = path.display().to_string();
        let found = match eql::compile(&query, &OpenSchema, Mode::Live) {
            Ok(checked) => checked.warnings,
            Err(diagnostics) => diagnostics,
        };
        for diagnostic in found.iter().filter(|d| d.severity != Severity::Note) {
            complaints.push_str(&diagnostic.render(&query, &Origin::whole(&name)));
        }
    }
    eprintln!("{} rule files, {checked} EQL queries checked", files.len());
    assert!(checked >= 300, "only {checked} EQL queries found");
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn conformance_queries_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    let mut checked = 0;
    let mut complaints = String::new();
    for file in [
        "elasticsearch/test_queries.toml",
        "elasticsearch/additional_test_queries.toml",
        "elasticsearch/test_extra.toml",
        "python-eql/translated_queries.toml",
    ] {
        let path = folder.join(file);
        let Ok(text) = fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no {}", path.display());
            return;
        };
        let suite: toml::Table = text.parse().unwrap();
        for case in suite["queries"].as_array().unwrap() {
            let query = case["query"].as_str().unwrap();
            checked += 1;
            if let Err(found) = eql::compile(query, &OpenSchema, Mode::Replay) {
                let errors = found.iter().filter(|d| d.severity == Severity::Error);
                complaints.extend(errors.map(|d| d.render(query, &Origin::whole(file))));
            }
        }
    }
    eprintln!("{checked} conformance queries checked");
    assert_eq!(checked, 133 + 61 + 40 + 127);
    assert!(complaints.is_empty(), "\n{complaints}");
}
