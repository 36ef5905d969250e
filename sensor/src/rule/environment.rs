//! Which environment variables rules test.
//!
//! In: typed queries. Out: patterns for the names, or for whole `NAME=value` texts, so that every variable is kept that some
//! test could hold for and as few others as can be told. It must never leave out one that a rule would match.

use std::collections::BTreeSet;

use super::Rule;
use crate::eql::query::{Condition, Expr, Filter, Form, Literal, Query};

const FIELD: &str = "process.env_vars";

/// What is kept when a test does not say what it looks for: the variables by which the dynamic linker is led astray.
const UNSAID: &[&str] = &["LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD"];

/// Patterns of everything that the rules test, sorted; empty when none looks at the environment.
pub fn patterns<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rule in rules {
        of_query(&rule.query, &mut found);
    }
    found.into_iter().collect()
}

fn of_query(query: &Query, found: &mut BTreeSet<String>) {
    let filters: Vec<&Filter> = match &query.form {
        Form::Event(filter) => vec![filter],
        Form::Sample(sample) => sample.steps.iter().map(|step| &step.filter).collect(),
        Form::Sequence(sequence) => {
            let steps = sequence.steps.iter().map(|step| &step.filter);
            steps
                .chain(sequence.until.iter().map(|until| &until.filter))
                .collect()
        }
    };
    let keys = match &query.form {
        Form::Event(_) => false,
        Form::Sample(sample) => sample
            .steps
            .iter()
            .flat_map(|s| &s.keys)
            .any(|k| &*k.path == FIELD),
        Form::Sequence(sequence) => sequence
            .steps
            .iter()
            .flat_map(|s| &s.keys)
            .any(|k| &*k.path == FIELD),
    };
    if keys {
        unsaid(found);
    }
    for filter in filters {
        of_condition(&filter.condition, found);
    }
}

fn of_condition(condition: &Condition, found: &mut BTreeSet<String>) {
    match condition {
        Condition::Const(_) => {}
        Condition::And(parts) | Condition::Or(parts) => {
            parts.iter().for_each(|part| of_condition(part, found));
        }
        Condition::Not(inner) => of_condition(inner, found),
        Condition::Lineage(lineage) => of_condition(&lineage.filter.condition, found),
        Condition::Leaf(leaf) => of_expr(&leaf.expr, found),
    }
}

fn of_expr(expr: &Expr, found: &mut BTreeSet<String>) {
    let is_field = |expr: &Expr| matches!(expr, Expr::Field(field) if &*field.path == FIELD);
    match expr {
        Expr::Like {
            value, patterns, ..
        } if is_field(value) => patterns.iter().for_each(|like| keep(like, found)),
        Expr::Compare { left, right, .. } if is_field(left) => match text(right) {
            Some(text) => keep(text, found),
            None => unsaid(found),
        },
        Expr::In { value, list, .. } if is_field(value) => {
            for item in list {
                match text(item) {
                    Some(text) => keep(text, found),
                    None => unsaid(found),
                }
            }
        }
        // Present or absent: of the ones that other tests name.
        Expr::IsNull(value) if is_field(value) => {}
        other => {
            if reads(other) {
                unsaid(found);
            }
        }
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(Literal::Str(text)) => Some(text),
        _ => None,
    }
}

/// A test of the whole text. Its part before `=` tells the name, where it tells one.
fn keep(like: &str, found: &mut BTreeSet<String>) {
    let only_wildcards = |text: &str| text.bytes().all(|b| matches!(b, b'*' | b'?'));
    match like.split_once('=') {
        Some((name, _)) if !only_wildcards(name) => {
            found.insert(name.to_owned());
            // A star may also reach over the sign.
            if name.contains('*') {
                found.insert(like.to_owned());
            }
        }
        Some(_) => _ = found.insert(like.to_owned()),
        None if only_wildcards(like) => unsaid(found),
        None => {
            found.insert(like.to_owned());
            // The same with the sign somewhere in one of its stars.
            for (at, _) in like.match_indices('*') {
                let (before, after) = like.split_at(at);
                found.insert(format!("{before}*=*{}", after.trim_start_matches('*')));
            }
        }
    }
}

fn unsaid(found: &mut BTreeSet<String>) {
    found.extend(UNSAID.iter().map(|name| (*name).to_owned()));
}

/// Whether the field stands anywhere in an expression.
fn reads(expr: &Expr) -> bool {
    let mut paths = Vec::new();
    super::fold::fields(expr, &mut paths);
    paths.iter().any(|(path, _)| *path == FIELD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eql::{self, Mode, OpenSchema};

    fn check(text: &str, expected: &[&str]) {
        let checked = eql::compile(text, &OpenSchema, Mode::Live);
        let query = checked.unwrap_or_else(|e| panic!("{text}: {e:?}")).query;
        let mut found = BTreeSet::new();
        of_query(&query, &mut found);
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn tests_tell_the_names() {
        check(r#"process where process.name == "x""#, &[]);
        check(
            r#"process where process.env_vars like~ ("http_proxy=socks5h://*", "ALL_PROXY=?*")"#,
            &["ALL_PROXY", "http_proxy"],
        );
        check(
            r#"process where not process.env_vars : "RUNNER*" and process.env_vars == "A=1""#,
            &["A", "RUNNER*", "RUNNER*=*"],
        );
        check(
            r#"process where process.env_vars : "*TUN=glibc.*=x""#,
            &["*TUN", "*TUN=glibc.*=x"],
        );
        check(
            r#"process where process.env_vars like "*=/tmp/*""#,
            &["*=/tmp/*"],
        );
        check(
            r#"sequence [file where true] as e0
                 [process where startswith~(process.env_vars, e0.file.path)]"#,
            &["LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD"],
        );
        check(
            r#"process where descendant of [process where process.env_vars == "B=2"]"#,
            &["B"],
        );
    }
}
