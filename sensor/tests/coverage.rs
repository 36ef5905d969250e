//! How many of the public rules the sensor covers, by the strict measure.
//!
//! In: the rules in `../shared/rules-corpus`, read at run time, and the schema in the code. Out: every rule that reads something
//! no event brings, with what that is, and the share of those that read nothing in vain, which must not fall. Where that
//! folder is absent the test says so and counts as skipped.

#![allow(clippy::unwrap_used, reason = "tests state what they rely on")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use sensor::rule::coverage::{self, Gap};
use sensor::rule::{self, Rule, Shape};

/// Rules that must be covered, of every thousand.
const FLOOR: usize = 970;

/// Whether a rule is written for endpoint events, and not for audit records, logs or another product alone.
fn reads_endpoint_events(rule: &Rule) -> bool {
    if rule.shape == Shape::Behavior {
        return true;
    }
    let text = std::fs::read_to_string(&rule.path).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let index = file["rule"].get("index").and_then(toml::Value::as_array);
    let names = |index: &Vec<toml::Value>| {
        let mut texts = index.iter().filter_map(toml::Value::as_str);
        texts.any(|name| name.contains("endpoint.events"))
    };
    index.is_none_or(names)
}

#[test]
fn public_rules_read_nothing_in_vain() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    if !folder.is_dir() {
        let said = format!("SKIPPED: coverage: no folder {}", folder.display());
        _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    let loaded = rule::load(&[folder]);
    let mut text = String::new();
    let (mut all, mut strict) = (0, 0);
    let mut by_gap: BTreeMap<String, usize> = BTreeMap::new();
    for rule in &loaded.rules {
        if !reads_endpoint_events(rule) || !coverage::is_for_linux(&rule.query) {
            continue;
        }
        all += 1;
        let gaps = coverage::gaps(&rule.query);
        if gaps.is_empty() {
            strict += 1;
            continue;
        }
        let file = rule.path.file_stem().unwrap().to_string_lossy();
        let lines: Vec<String> = gaps.iter().map(Gap::to_string).collect();
        writeln!(text, "{file}: {}", lines.join("; ")).unwrap();
        for gap in gaps {
            let name = match gap {
                Gap::Action { action, .. } => format!("event `{action}`"),
                Gap::Field { path, .. } => format!("field `{path}`"),
                Gap::Nothing { .. } => "an event at all".to_owned(),
            };
            *by_gap.entry(name).or_default() += 1;
        }
    }
    let mut by_gap: Vec<(String, usize)> = by_gap.into_iter().collect();
    by_gap.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), name.clone()));
    for (name, count) in by_gap {
        writeln!(text, "{count:4} times missing: {name}").unwrap();
    }
    let share = strict * 1000 / all;
    writeln!(
        text,
        "strict: {strict} of {all} public rules, {}.{} %",
        share / 10,
        share % 10
    )
    .unwrap();
    _ = write!(std::io::stderr(), "{text}");
    assert!(all > 200, "only {all} rules");
    assert!(share >= FLOOR, "{share} of 1000, must be {FLOOR}\n{text}");
}
