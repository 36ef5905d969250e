//! Holds the source to what the style page says and a compiler does not check.
//!
//! In: the workspace's Rust files. Out: every place that breaks an arrow between stages, lacks its header, has grown too
//! long or carries unfinished work. Must never be silenced from inside a file: the exceptions are the table here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Lines after which a file should be split at a seam.
const LINES_MAX: usize = 900;

/// Lines of header that a file needs; one is enough for a file that fits on two screens, and for tests beside the code.
const HEADER_MIN: usize = 3;
const SHORT_FILE: usize = 100;

/// Which other modules of the `sensor` library each module may name. A stage may name the types it takes and gives.
/// What is not listed here joins stages (pipeline, commands, the binary) and may name all of them.
const ARROWS: &[(&str, &[&str])] = &[
    // Vocabulary: names nothing of ours.
    ("event", &[]),
    // A language and nothing more: no events, files or clocks.
    ("eql", &[]),
    // A second language with the same meaning of values: it gives the same typed query.
    ("kql", &["eql"]),
    // Only the wire, which lives in its own crate.
    ("kernel", &["config"]),
    ("decode", &[]),
    // Record to Event.
    ("enrich", &["decode", "event"]),
    // Events from outside, in the same vocabulary; text is a date there when the language reads it as one.
    ("json_lines", &["eql", "event"]),
    // A rule holds a typed query, checked against the event table.
    ("rule", &["eql", "event", "kql"]),
    // Typed queries and events to matches.
    ("engine", &["eql", "event"]),
    // Match and its rule to Alert.
    ("alert", &["engine", "event", "rule"]),
    // Alert to what is done about it: processes are known as `enrich` knows them.
    ("response", &["alert", "config", "enrich", "event", "rule"]),
    // Alert, what was done about it, and events for recordings, to the outside.
    (
        "output",
        &["alert", "engine", "event", "json_lines", "response", "rule"],
    ),
    // What hides matches: conditions over events, of rules.
    ("tuning", &["engine", "eql", "event", "rule"]),
    ("metrics", &[]),
    ("config", &[]),
];

/// Text that marks unfinished work. Split so that this file does not name it whole.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("#[ig", "nore"),
];

/// `cargo xtask tidy`.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    for folder in ["sensor", "sensor-ebpf", "xtask"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut problems = Vec::new();
    for path in &files {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(path)
            .to_string_lossy()
            .into_owned();
        problems.extend(check(&name, &text));
    }
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!(
            "{} of {} files are not as the style page says",
            by_file(&problems).len(),
            files.len()
        );
    }
    println!("tidy: {} files, no problem", files.len());
    Ok(())
}

fn by_file(problems: &[String]) -> BTreeMap<&str, usize> {
    let mut files = BTreeMap::new();
    for problem in problems {
        *files
            .entry(problem.split(':').next().unwrap_or_default())
            .or_default() += 1;
    }
    files
}

/// Rust files below a folder, without build output.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Problems of one file, each as `file:line: what`.
fn check(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut report = |line: usize, what: String| problems.push(format!("{name}:{line}: {what}"));
    let lines = text.lines().count();
    if lines > LINES_MAX {
        report(
            lines,
            format!("{lines} lines, at most {LINES_MAX}; split it at a seam"),
        );
    }
    let header = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .count();
    let is_test = name.ends_with("/tests.rs") || name.ends_with("/testing.rs");
    let needed = if is_test || lines < SHORT_FILE {
        1
    } else {
        HEADER_MIN
    };
    if header < needed {
        report(
            1,
            format!(
                "header of {header} lines, at least {needed}; say in `//!` what comes in, what goes out and what it must never do"
            ),
        );
    }
    let own = library_module(name);
    let allowed = own
        .and_then(|own| ARROWS.iter().find(|(module, _)| *module == own))
        .map(|(_, allowed)| *allowed);
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(word) = UNFINISHED.iter().find(|word| line.contains(**word)) {
            report(
                number,
                format!("`{word}`: finish it, or say in the documentation what is not there"),
            );
        }
        let (Some(own), Some(allowed)) = (own, allowed) else {
            continue;
        };
        if line.trim_start().starts_with("//") {
            continue;
        }
        for module in crate_paths(line) {
            if module != own
                && ARROWS.iter().any(|(known, _)| *known == module)
                && !allowed.contains(&module)
            {
                report(
                    number,
                    format!(
                        "`{own}` names `crate::{module}`; it may name {}",
                        listed(allowed)
                    ),
                );
            }
        }
    }
    problems
}

fn listed(modules: &[&str]) -> String {
    if modules.is_empty() {
        "no other stage".to_owned()
    } else {
        modules.join(", ")
    }
}

/// First-level module of the library that a file belongs to.
fn library_module(name: &str) -> Option<&str> {
    let inside = name.strip_prefix("sensor/src/")?;
    Some(inside.split('/').next()?.trim_end_matches(".rs"))
}

/// Modules named as `crate::module` in a line of code, also inside `use crate::{a, b::c}` on one line.
fn crate_paths(line: &str) -> Vec<&str> {
    let word = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = line.get(at + "crate::".len()..).unwrap_or_default();
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut start = true;
            for (offset, c) in group.char_indices() {
                if start && depth == 0 && c.is_alphabetic() {
                    let name = group.get(offset..).unwrap_or_default();
                    found.push(name.get(..word(name)).unwrap_or_default());
                    start = false;
                }
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    _ => {}
                }
            }
        } else {
            found.push(rest.get(..word(rest)).unwrap_or_default());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "//! In.\n//! Out.\n//! Never.\n";

    fn found(name: &str, body: &str) -> Vec<String> {
        check(name, &format!("{HEADER}{body}"))
    }

    #[test]
    fn an_arrow_against_the_flow_is_reported_with_its_line() {
        let problems = found("sensor/src/enrich/procfs.rs", "use crate::engine::Match;\n");
        assert_eq!(
            problems,
            [
                "sensor/src/enrich/procfs.rs:4: `enrich` names `crate::engine`; it may name decode, event"
            ]
        );
    }

    #[test]
    fn arrows_along_the_flow_and_joining_modules_are_fine() {
        assert_eq!(
            found(
                "sensor/src/enrich/mod.rs",
                "use crate::decode::Record;\nuse crate::event::Event;\n"
            ),
            [""; 0]
        );
        assert_eq!(
            found("sensor/src/pipeline.rs", "use crate::engine::Match;\n"),
            [""; 0]
        );
        assert_eq!(
            found(
                "sensor/src/eql/mod.rs",
                "// see crate::engine\nuse crate::eql::query;\n"
            ),
            [""; 0]
        );
    }

    #[test]
    fn grouped_imports_are_read() {
        assert_eq!(
            crate_paths("use crate::{alert::{Alert, x}, event, rule::Rule};"),
            ["alert", "event", "rule"]
        );
        assert_eq!(
            crate_paths("fn f(x: &crate::engine::Match) -> crate::alert::Alert"),
            ["engine", "alert"]
        );
        assert_eq!(crate_paths("$crate::engine my_crate::x"), [""; 0]);
    }

    #[test]
    fn a_missing_header_a_long_file_and_unfinished_work_are_reported() {
        let problems = check("xtask/src/x.rs", &"\n".repeat(LINES_MAX + 1));
        assert_eq!(problems.len(), 2, "{problems:?}");
        let problems = found("xtask/src/x.rs", concat!("fn f() { todo", "!() }\n"));
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
