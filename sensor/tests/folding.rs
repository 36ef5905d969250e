//! Constant folding against the two fold suites of the conformance data.
//!
//! In: `../shared/conformance/python-eql/test_{string_functions,folding}.toml`, read at run time. Where they are absent the
//! test says so and passes. Where the language here gives another value than the suite's engine, `OTHER` says which.

use std::fs;
use std::path::Path;

use sensor::eql::query::{Expr, Literal};
use sensor::eql::{OpenSchema, parser, typecheck};
use toml::Value;

/// Section, positions inside it, and the value expected here.
const OTHER: &[(&str, &[usize], Expected)] = &[
    ("between", &[4, 5, 8, 9], Expected::Str("")),
    (
        "between",
        &[10, 12, 13],
        Expected::Str("welcome to the planet"),
    ),
    ("substring", &[4], Expected::Str("hello world")),
    ("endswith_insensitive", &[0], Expected::Bool(false)),
    (
        "startswith_case_insensitive",
        &[1, 2],
        Expected::Bool(false),
    ),
    (
        "string_case_insensitive_match_comparison",
        &[2, 3, 4, 6, 9, 11],
        Expected::Opposite,
    ),
    ("in_set_case_insensitive", &[0], Expected::Bool(false)),
    // Functions without `~` are exact, the ones kept from the older dialect too.
    ("wildcard_case_insensitive", &[0], Expected::Bool(false)),
];

/// Cases in method syntax, which the language here does not have.
const ELSEWHERE: &[(&str, &[usize])] = &[("complex", &[0, 1])];

#[derive(Clone, Copy)]
enum Expected {
    Str(&'static str),
    Bool(bool),
    Opposite,
}

impl Expected {
    fn value(self, suite: &Value) -> Value {
        match self {
            Expected::Str(s) => Value::String(s.to_owned()),
            Expected::Bool(b) => Value::Boolean(b),
            Expected::Opposite => Value::Boolean(!suite.as_bool().unwrap_or(false)),
        }
    }
}

/// The constant an expression folds to; an error message otherwise.
fn fold(expression: &str) -> Result<Literal, String> {
    let expression = modern(expression);
    let (tree, diagnostics) = parser::parse_expression(&expression);
    if !diagnostics.is_empty() {
        return Err(format!("{expression}: {diagnostics:?}"));
    }
    match typecheck::check_expression(&tree, &OpenSchema) {
        (Some(Expr::Literal(literal)), _) => Ok(literal),
        (other, diagnostics) => Err(format!("{expression}: {other:?} {diagnostics:?}")),
    }
}

/// The suite writes some strings in single quotes, which are of an older dialect.
fn modern(expression: &str) -> String {
    if expression.contains('"') {
        expression.to_owned()
    } else {
        expression.replace('\'', "\"")
    }
}

fn same(found: &Literal, expected: Option<&Value>) -> bool {
    match (found, expected) {
        (Literal::Null, None) => true,
        (Literal::Bool(a), Some(Value::Boolean(b))) => a == b,
        (Literal::Int(a), Some(Value::Integer(b))) => a == b,
        (Literal::Float(a), Some(Value::Float(b))) => (a - b).abs() < 1e-12,
        (Literal::Str(a), Some(Value::String(b))) => **a == **b,
        _ => false,
    }
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    /// Same value as the suite.
    same: usize,
    /// Another value, as documented.
    other: usize,
    /// Refused as the suite demands.
    refused: usize,
    /// Not of this language.
    elsewhere: usize,
}

fn run_case(
    section: &str,
    position: usize,
    case: &Value,
    tally: &mut Tally,
    wrong: &mut Vec<String>,
) {
    let expression = case["expression"].as_str().unwrap_or_default();
    let expected = case.get("expected").cloned();
    let is_here =
        |(name, positions): &(&str, &[usize])| *name == section && positions.contains(&position);
    if ELSEWHERE.iter().any(is_here) {
        tally.elsewhere += 1;
        return;
    }
    let other = OTHER
        .iter()
        .find(|(name, positions, _)| is_here(&(name, positions)));
    let (count, expected) = match other {
        Some((_, _, ours)) => {
            let suite = expected.clone().unwrap_or(Value::Boolean(false));
            (&mut tally.other, Some(ours.value(&suite)))
        }
        None => (&mut tally.same, expected),
    };
    match fold(expression) {
        Ok(found) if same(&found, expected.as_ref()) => *count += 1,
        Ok(found) => wrong.push(format!(
            "{section}[{position}] {expression}: {found:?}, expected {expected:?}"
        )),
        Err(error) => wrong.push(format!("{section}[{position}] {error}")),
    }
}

/// Literals a template is filled with, per type.
fn samples(ty: &str) -> &'static [&'static str] {
    match ty {
        "bool" => &["true", "false"],
        "int" => &["100", "0", "-1"],
        "float" => &["100.5", "0.0", "-1.5"],
        "string" => &["\"\"", "\"null\"", "\"text\""],
        _ => &["null"],
    }
}

fn run_loop(section: &str, template: &Value, wrong: &mut Vec<String>) -> usize {
    let mut count = 0;
    for ty in template["param"]["type"].as_array().into_iter().flatten() {
        for case in template["fold"]["tests"].as_array().into_iter().flatten() {
            count += 1;
            for sample in samples(ty.as_str().unwrap_or_default()) {
                let expression = case["expression"]
                    .as_str()
                    .unwrap_or_default()
                    .replace("$value", sample);
                match fold(&expression) {
                    Ok(found) if same(&found, case.get("expected")) => {}
                    found => wrong.push(format!("{section} {expression}: {found:?}")),
                }
            }
        }
    }
    count
}

fn run_suite(file: &str, wrong: &mut Vec<String>) -> Option<(Tally, usize)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/conformance/python-eql")
        .join(file);
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("SKIPPED: no {}", path.display());
        return None;
    };
    let suite: toml::Table = text.parse().unwrap_or_default();
    let (mut tally, mut looped) = (Tally::default(), 0);
    for (section, content) in &suite {
        // Two cases of one section lack a level in the file and are never run by its engine; they hold here.
        let cases = content
            .get("fold")
            .and_then(|f| f.get("tests"))
            .or_else(|| content.get("tests"));
        for (position, case) in cases
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            run_case(section, position, case, &mut tally, wrong);
        }
        for template in content
            .get("loop")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            looped += run_loop(section, template, wrong);
        }
        let refused = content.get("verifier").and_then(|v| v.get("failures"));
        for case in refused.and_then(Value::as_array).into_iter().flatten() {
            let expression = case["expression"].as_str().unwrap_or_default();
            match fold(expression) {
                Err(_) => tally.refused += 1,
                Ok(found) => wrong.push(format!(
                    "{section} {expression} must be refused, is {found:?}"
                )),
            }
        }
    }
    eprintln!("{file}: {tally:?}, {looped} template cases");
    Some((tally, looped))
}

#[test]
fn string_functions() {
    let mut wrong = Vec::new();
    let Some((tally, looped)) = run_suite("test_string_functions.toml", &mut wrong) else {
        return;
    };
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // 102 fold cases and 2 that the file hides; 10 rejections.
    assert_eq!(
        (
            tally.same + tally.other + tally.elsewhere,
            tally.refused,
            looped
        ),
        (104, 10, 0)
    );
    assert_eq!(tally.other, 4 + 3 + 1 + 1 + 2 + 1);
}

#[test]
fn folding() {
    let mut wrong = Vec::new();
    let Some((tally, looped)) = run_suite("test_folding.toml", &mut wrong) else {
        return;
    };
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // 106 fold cases and 12 templates for 4 types each.
    assert_eq!(
        (
            tally.same + tally.other + tally.elsewhere,
            tally.refused,
            looped
        ),
        (106, 0, 48)
    );
    assert_eq!((tally.other, tally.elsewhere), (6 + 1, 2));
}
