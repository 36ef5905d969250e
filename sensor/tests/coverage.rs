//! The verdicts on the public rules, against the strict measure computed on its own.
//!
//! In: the rules in `../shared/rules-corpus` and the field table in `../shared/reference`, read at run time. Out: every rule that is
//! not armed, with what it lacks. A rule is taken to be strict when its text names only fields that the table says Linux can
//! give and in every step only acts that endpoints report; that must agree with the verdict, rule by rule. Where the folders are
//! absent the test says so and counts as skipped.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use regex::Regex;

use sensor::event::Kinds;
use sensor::rule::coverage;
use sensor::rule::{self, Rule, Shape, Verdict};

/// Of every thousand rules in EQL, those that must be armed; and of all, in either language.
const FLOOR: usize = 981;
const ALL_FLOOR: usize = 980;

/// What endpoints call the acts they report; other words in a list beside one of these are other products' for the same act.
const ACTIONS: &[&str] = &[
    "exec",
    "fork",
    "end",
    "uid_change",
    "gid_change",
    "session_id_change",
    "memfd_create",
    "load_module",
    "ptrace",
    "already_running",
    "creation",
    "rename",
    "deletion",
    "modification",
    "open",
    "connection_attempted",
    "connection_accepted",
    "disconnect_received",
    "lookup_requested",
    "lookup_result",
];

fn shared(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    folder.join(name)
}

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

/// What `rule.type` says; endpoint artifacts name none and are EQL.
fn rule_type(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let ty = file["rule"].get("type").and_then(toml::Value::as_str);
    ty.unwrap_or("eql").to_owned()
}

/// Whether a rule says that it is for Linux.
fn is_tagged_linux(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap();
    let file: toml::Table = text.parse().unwrap();
    let names = |key: &str, name: &str| {
        let list = file["rule"].get(key).and_then(toml::Value::as_array);
        list.is_some_and(|list| list.iter().any(|entry| entry.as_str() == Some(name)))
    };
    names("tags", "OS: Linux") || names("os_list", "linux")
}

/// Of every thousand public rules for Linux, those that must load.
const LOADED_FLOOR: usize = 970;

#[test]
fn most_public_rules_for_linux_load() {
    let folder = shared("rules-corpus");
    if !folder.is_dir() {
        let said = format!("SKIPPED: coverage: no {}", folder.display());
        _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    let loaded = rule::load(&[folder]);
    let mut by_type: BTreeMap<String, usize> = BTreeMap::new();
    for rule in loaded.rules.iter().filter(|r| is_tagged_linux(&r.path)) {
        *by_type.entry(rule_type(&rule.path)).or_default() += 1;
    }
    let skipped = loaded.skipped.iter().filter(|skipped| {
        skipped.reason.starts_with("not supported") && is_tagged_linux(&skipped.path)
    });
    let skipped = skipped.count();
    let count: usize = by_type.values().sum();
    let share = |part: usize| part * 1000 / (count + skipped);
    let eql = by_type.get("eql").copied().unwrap_or_default();
    let text = format!(
        "{count} of {} public rules for Linux load, {} of 1000 (EQL alone: {}): {by_type:?}\n",
        count + skipped,
        share(count),
        share(eql),
    );
    _ = write!(std::io::stderr(), "{text}");
    assert!(count > 200, "{text}");
    assert!(share(count) >= LOADED_FLOOR, "{text}");
}

/// The table's fields with their class, and whether only branches of another system read them.
fn field_table(path: &Path) -> BTreeMap<String, (char, bool)> {
    let text = std::fs::read_to_string(path).unwrap();
    let class = Regex::new(r",([ABCD]),").unwrap();
    let mut lines = text.lines();
    lines.next();
    let rows = lines.map(|line| {
        let name = line.split(',').next().unwrap().to_owned();
        let found = class.captures(line).unwrap_or_else(|| panic!("{line}"));
        let letter = found[1].chars().next().unwrap();
        (
            name,
            (letter, line.contains("only inside a Windows branch")),
        )
    });
    rows.collect()
}

/// What a query's text names, read without the parser: fields, and for each test of `event.action` its words.
struct Named {
    fields: BTreeSet<String>,
    actions: Vec<Vec<String>>,
}

fn named(query: &str) -> Named {
    let comments =
        Regex::new(r#"(?s)("""(?:.*?)"""+|"(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/"#).unwrap();
    let query = comments.replace_all(query, "$1");
    // A filter on ancestors is one branch among others.
    let lineage = Regex::new(r"descendant of\s*\[[^\]]*\]").unwrap();
    let whole = lineage.replace_all(&query, "");
    let actions =
        Regex::new(r#"event\.action\s*(?:==|:|in~?|like~?)\s*(\([^)]*\)|"[^"]*")"#).unwrap();
    let word = Regex::new(r#""([^"]*)""#).unwrap();
    let actions = actions.captures_iter(&whole).map(|list| {
        let words = word.captures_iter(list.get(1).unwrap().as_str());
        words.map(|word| word[1].to_owned()).collect()
    });
    let actions = actions.collect();
    let strings = Regex::new(r#"(?s)"""(?:.*?)"""+|"(?:\\.|[^"\\])*""#).unwrap();
    let bare = strings.replace_all(&query, " ");
    let path = Regex::new(r"[A-Za-z_@][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_/-]*)+").unwrap();
    let alias = Regex::new(r"^event\d+\.").unwrap();
    let fields = path
        .find_iter(&bare)
        .map(|found| alias.replace(found.as_str(), "").into_owned());
    Named {
        fields: fields.collect(),
        actions,
    }
}

/// Why a rule is not strict by the table; `None` when it is.
fn unmet(rule: &Rule, table: &BTreeMap<String, (char, bool)>) -> Option<String> {
    let named = named(&rule.query_text);
    for field in &named.fields {
        match table.get(field) {
            None => return Some(format!("`{field}` is in no table")),
            Some(('D', false)) => return Some(format!("`{field}` needs data from outside")),
            Some(_) => {}
        }
    }
    for words in &named.actions {
        if !words.iter().any(|word| ACTIONS.contains(&word.as_str())) {
            return Some(format!("no endpoint reports `{}`", words.join("`, `")));
        }
    }
    None
}

#[test]
fn verdicts_agree_with_the_strict_measure() {
    let (folder, table) = (shared("rules-corpus"), shared("reference/rule-fields.csv"));
    if !folder.is_dir() || !table.is_file() {
        let said = format!(
            "SKIPPED: coverage: no {} or no {}",
            folder.display(),
            table.display()
        );
        _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    let table = field_table(&table);
    let loaded = rule::load(&[folder]);
    let (mut text, mut wrong) = (String::new(), String::new());
    let (mut all, mut counts) = (0, BTreeMap::<&str, usize>::new());
    for rule in &loaded.rules {
        if !reads_endpoint_events(rule) || !coverage::is_for_linux(&rule.query) {
            continue;
        }
        all += 1;
        let found = rule.judge(Kinds::ALL);
        *counts.entry(found.verdict().name()).or_default() += 1;
        if found.is_positive {
            *counts.entry("positive").or_default() += 1;
        }
        let file = rule.path.file_stem().unwrap().to_string_lossy();
        let expected = unmet(rule, &table);
        // The text is read as EQL; a rule in KQL has its verdict alone.
        let in_eql = rule_type(&rule.path) == "eql";
        if in_eql {
            *counts.entry("in EQL").or_default() += 1;
            let armed = usize::from(found.verdict() == Verdict::Armed);
            *counts.entry("in EQL, armed").or_default() += armed;
        }
        if in_eql && (found.verdict() == Verdict::Armed) != expected.is_none() {
            let verdict = found.verdict().name();
            let expected = expected.as_deref().unwrap_or("strict");
            writeln!(wrong, "{file}: {verdict}, but by the table: {expected}").unwrap();
        }
        for finding in &found.findings {
            let words = finding.words(&rule.query_text);
            writeln!(text, "{}: {file}: {words}", found.verdict().name()).unwrap();
        }
    }
    writeln!(text, "{all} public rules on endpoint events: {counts:?}").unwrap();
    _ = write!(std::io::stderr(), "{text}");
    assert!(wrong.is_empty(), "\n{wrong}\n{text}");
    assert!(all > 200, "only {all} rules");
    let of = |name| counts.get(name).copied().unwrap_or_default();
    let share = of("armed") * 1000 / all;
    assert!(
        share >= ALL_FLOOR,
        "{share} of 1000, must be {ALL_FLOOR}\n{text}"
    );
    let armed = of("in EQL, armed") * 1000 / of("in EQL").max(1);
    assert!(armed >= FLOOR, "{armed} of 1000, must be {FLOOR}\n{text}");
}

#[test]
fn the_text_of_a_query_is_read_as_it_stands() {
    let named = named(
        r#"process where event.action in ("exec", "x.y") and /* no.field */ not ?a.b : "c.d" // e.f
           and event0.file.path == """g.h""""#,
    );
    let fields: Vec<&str> = named.fields.iter().map(String::as_str).collect();
    assert_eq!(fields, ["a.b", "event.action", "file.path"]);
    assert_eq!(named.actions, [["exec", "x.y"]]);
}
