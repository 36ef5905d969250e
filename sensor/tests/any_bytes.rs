//! Whatever a rule or settings file holds, reading it ends, and with problems that point into it.
//!
//! In: random bytes, and sound files with random damage. Out: no panic, and places that exist. `PROPTEST_CASES` runs more.

use std::path::Path;

use proptest::prelude::*;
use sensor::config::{Config, DEFAULT_TEXT};
use sensor::document::{Problem, Source};
use sensor::rule;

const RULE: &str =
    include_str!("../../rules/execution_network_connection_via_recently_compiled_executable.toml");

/// A second rule, small, so that damage hits what matters.
const SMALL: &str = "[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nseverity = \"low\"\n\
    query = \"\"\"\nprocess where process.name == \\\"a\\\" \\\n   and process.pid > 1 // é\n\"\"\"\n";

/// Replaces a stretch of a text, given in thousandths of its length, by something else.
#[derive(Clone, Debug)]
struct Damage {
    at: usize,
    length: usize,
    by: String,
}

fn damage() -> impl Strategy<Value = Damage> {
    let pieces = prop_oneof![
        Just(String::new()),
        "[\"'\\\\\\[\\]{}=#\n\r\t., ()*?:]{1,4}",
        "\\PC{0,6}",
        Just("'''".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("\\u00e9".to_owned()),
        Just("9".repeat(30)),
        Just("(".repeat(400)),
        Just("[[rule]]".to_owned()),
    ];
    (0..1000_usize, 0..12_usize, pieces).prop_map(|(at, length, by)| Damage { at, length, by })
}

fn damaged(text: &str, damages: &[Damage]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for damage in damages {
        let at = (chars.len() * damage.at / 1000).min(chars.len());
        let end = (at + damage.length).min(chars.len());
        chars.splice(at..end, damage.by.chars());
    }
    chars.into_iter().collect()
}

fn check_places(text: &str, problems: &[Problem]) {
    for problem in problems {
        let shown = problem.to_string();
        assert!(shown.starts_with("any.toml:"), "{shown}");
        let Some((line, column)) = problem.place else {
            continue;
        };
        let lines: Vec<&str> = text.split('\n').collect();
        assert!((1..=lines.len()).contains(&line), "{shown}\n{text}");
        let columns = lines[line - 1].chars().count() + 1;
        assert!((1..=columns).contains(&column), "{shown}\n{text}");
        assert_eq!(problem.excerpt.lines().count(), 2, "{shown}\n{text}");
    }
}

fn source(text: &str) -> Source {
    Source {
        path: Path::new("any.toml").into(),
        text: text.to_owned(),
    }
}

fn read_as_rule(text: &str) {
    let loaded = rule::load_source(&source(text));
    check_places(text, &loaded.problems);
    let errors = loaded.errors().count();
    let outcomes = loaded.rules.len() + loaded.skipped.len() + usize::from(errors > 0);
    assert_eq!(outcomes, 1, "{:?}\n{text}", loaded.problems);
}

fn read_as_settings(text: &str) {
    if let Err(problems) = Config::parse(&source(text)) {
        assert!(problems.iter().any(Problem::is_error), "{text}");
        check_places(text, &problems);
    }
}

proptest! {
    #[test]
    fn damaged_rules(damages in prop::collection::vec(damage(), 1..4)) {
        read_as_rule(&damaged(RULE, &damages));
        read_as_rule(&damaged(SMALL, &damages));
    }

    #[test]
    fn damaged_settings(damages in prop::collection::vec(damage(), 1..4)) {
        read_as_settings(&damaged(DEFAULT_TEXT, &damages));
    }

    #[test]
    fn any_text(text in "(\\PC|[\"'\\[\\]=\n\r\t]){0,200}") {
        read_as_rule(&text);
        read_as_settings(&text);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let directory = tempfile::tempdir().map_err(|e| TestCaseError::fail(e.to_string()))?;
        let path = directory.path().join("any.toml");
        std::fs::write(&path, &bytes).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let loaded = rule::load(std::slice::from_ref(&path));
        prop_assert!(loaded.rules.is_empty());
        prop_assert!(loaded.errors().count() > 0);
        prop_assert!(Config::read(&path).is_err() || bytes.iter().all(|b| b.is_ascii()));
    }
}
