//! Files of overrides and of exceptions.
//!
//! In: a [`Source`]. Out: what it says, added to a [`Tuning`], and every problem with its place. Unknown keys are refused. An entry
//! with a problem is left out as a whole, the others of the file count.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::{Exception, Override, Place, RateLimit, Selector, Tuning};
use crate::document::{Problem, Source, StringMap, Table};
use crate::eql::diagnostic::line_column;
use crate::eql::query::{Comparison, Condition, Expr, Form, Literal, Query};
use crate::eql::{self, Mode, pattern, time};
use crate::rule::Severity;
use crate::rule::schema::SensorSchema;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Overrides,
    Exceptions,
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            What::Overrides => "override file",
            What::Exceptions => "exception file",
        }
    }

    fn key(self) -> &'static str {
        match self {
            What::Overrides => "override",
            What::Exceptions => "exception",
        }
    }
}

pub(super) fn read(source: &Source, what: What, tuning: &mut Tuning) -> Vec<Problem> {
    let (document, mut problems) = source.parse();
    if !problems.is_empty() {
        return problems;
    }
    let mut root = Table::new(source, "", document.get_ref(), document.span());
    if !root.has(what.key()) {
        problems.push(source.problem(
            0..0,
            format!("there is no table `[[{}]]`", what.key()),
            None,
        ));
    }
    for mut table in root.tables(what.key(), &mut problems) {
        let before = problems.len();
        match what {
            What::Overrides => {
                let found = change(&mut table, &mut problems);
                table.refuse_unknown(&mut problems);
                if problems.len() == before {
                    tuning.overrides.extend(found);
                }
            }
            What::Exceptions => {
                let found = exception(&mut table, &mut problems);
                table.refuse_unknown(&mut problems);
                if !problems.iter().skip(before).any(Problem::is_error) {
                    tuning.exceptions.extend(found);
                }
            }
        }
    }
    root.refuse_unknown(&mut problems);
    problems.sort_by_key(|problem| problem.place);
    problems
}

fn place(table: &Table<'_>) -> Place {
    let source = table.source();
    let (line, column) = line_column(&source.text, table.span().start);
    Place {
        path: Arc::clone(&source.path),
        line,
        column,
    }
}

/// Exactly one of the three ways to name rules.
fn selector(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Selector> {
    let mut found = Vec::new();
    for key in ["rule_id", "rule_name", "tag"] {
        if table.has(key) {
            let text = table.required_string(key, problems)?;
            let text = text.0.to_owned();
            found.push(match key {
                "rule_id" => Selector::Id(text),
                "rule_name" => Selector::Name(text),
                _ => Selector::Tag(text),
            });
        } else {
            // Asked for, so that a misspelt key is told what is allowed.
            let _ = table.get(key);
        }
    }
    if found.len() == 1 {
        return found.pop();
    }
    let name = |key| table.name(key);
    problems.push(table.source().problem(
        table.span(),
        format!(
            "rules are named by {} of `{}`, `{}` and `{}`, must be by one",
            found.len(),
            name("rule_id"),
            name("rule_name"),
            name("tag")
        ),
        Some("`*` and `?` in it are wildcards; \"*\" is every rule".to_owned()),
    ));
    None
}

fn change(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Override> {
    let selector = selector(table, problems);
    let enabled = table.boolean("enabled", problems).map(|(flag, _)| flag);
    let severity = severity(table, problems);
    let risk_score = table.integer("risk_score", 0..=100, problems);
    let actions = table.boolean("actions", problems).map(|(flag, _)| flag);
    let alerts = table.integer("alerts_max", 1..=1_000_000, problems);
    let per = duration(table, "per", problems);
    let limit = match (alerts, per) {
        (Some((alerts, _)), Some(per)) => Some(RateLimit {
            alerts: u64::try_from(alerts).unwrap_or(1),
            per,
        }),
        (Some(_), None) if !table.has("per") => {
            problems.push(table.missing("per", "\"1h\""));
            None
        }
        (None, Some(_)) if !table.has("alerts_max") => {
            problems.push(table.missing("alerts_max", "10"));
            None
        }
        _ => None,
    };
    Some(Override {
        selector: selector?,
        enabled,
        severity,
        risk_score: risk_score.and_then(|(score, _)| u8::try_from(score).ok()),
        limit,
        actions,
        place: place(table),
    })
}

fn severity(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Severity> {
    let value = table.get("severity")?;
    let named = |severity: &Severity| value.get_ref().as_str() == Some(severity.name());
    let found = Severity::ALL.into_iter().find(named);
    if found.is_none() {
        let must = "\"low\", \"medium\", \"high\" or \"critical\"";
        problems.push(table.wrong("severity", value, must));
    }
    found
}

/// A number and a unit: `30s`, `10m`, `1h`, `7d`.
fn duration(
    table: &mut Table<'_>,
    key: &'static str,
    problems: &mut Vec<Problem>,
) -> Option<Duration> {
    let value = table.get(key)?;
    let parse = |text: &str| {
        let unit = text.chars().next_back()?;
        let count: u64 = text.get(..text.len() - unit.len_utf8())?.parse().ok()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        let seconds = count
            .checked_mul(seconds)
            .filter(|s| (1..=31_536_000).contains(s))?;
        Some(Duration::from_secs(seconds))
    };
    let found = value.get_ref().as_str().and_then(parse);
    if found.is_none() {
        let must =
            "a whole number with a unit, such as \"30s\", \"10m\", \"1h\" or \"7d\", up to a year";
        problems.push(table.wrong(key, value, must));
    }
    found
}

fn exception(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Exception> {
    let selector = selector(table, problems);
    let reason = table.required_string("reason", problems);
    let owner = table.required_string("owner", problems);
    let expires = expires(table, problems);
    let conditions = conditions(table, problems);
    let (texts, conditions) = conditions?.into_iter().unzip();
    Some(Exception {
        selector: selector?,
        conditions,
        texts,
        reason: reason?.0.trim().to_owned(),
        owner: owner?.0.trim().to_owned(),
        expires_ns: expires?,
        place: place(table),
    })
}

/// The end of the day named, in UTC; inner `None` is never.
fn expires(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Option<i64>> {
    const DAY_NS: i64 = 86_400_000_000_000;
    if !table.has("expires") {
        problems.push(table.missing("expires", "2030-12-31` or `expires = \"never\""));
        return None;
    }
    let value = table.get("expires")?;
    let text = match value.get_ref() {
        DeValue::String(text) if text == "never" => return Some(None),
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Datetime(date) => Some(date.to_string()),
        _ => None,
    };
    let day = text
        .filter(|text| text.len() == "2030-12-31".len())
        .and_then(|text| time::parse_ns(&text));
    if day.is_none() {
        let must = "the last day it holds, such as 2030-12-31, or \"never\"";
        problems.push(table.wrong("expires", value, must));
    }
    Some(Some(day?.saturating_add(DAY_NS)))
}

/// `query`: one event query, or several that all have to hold, each for some event.
fn conditions(table: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Vec<(String, Query)>> {
    let is_list = table
        .get("query")
        .is_some_and(|value| value.get_ref().is_array());
    let texts = if is_list {
        let texts = table.strings("query", problems)?;
        if texts.is_empty() {
            let value = table.get("query")?;
            problems.push(table.wrong("query", value, "at least one event query"));
            return None;
        }
        texts
    } else {
        vec![table.required_string("query", problems)?]
    };
    let mut found = Vec::with_capacity(texts.len());
    for (text, span) in texts {
        found.push((text.to_owned(), condition(table, text, span, problems)));
    }
    found
        .into_iter()
        .map(|(text, query)| Some((text, query?)))
        .collect()
}

fn condition(
    table: &Table<'_>,
    text: &str,
    span: Range<usize>,
    problems: &mut Vec<Problem>,
) -> Option<Query> {
    let source = table.source();
    let map = StringMap::new(&source.text, span.clone(), text);
    let (query, diagnostics) = match eql::compile(text, &SensorSchema, Mode::Live) {
        Ok(checked) => (Some(checked.query), checked.warnings),
        Err(diagnostics) => (None, diagnostics),
    };
    for diagnostic in diagnostics {
        let start = map.file_offset(diagnostic.span.start as usize);
        let end = map.file_offset(diagnostic.span.end as usize);
        let mut problem = source.problem(start..end, diagnostic.message, diagnostic.help);
        problem.severity = diagnostic.severity;
        problems.push(problem);
    }
    let query = query?;
    let mut refuse = |message: String, help: &str| {
        problems.push(source.problem(span.clone(), message, Some(help.to_owned())));
    };
    let Form::Event(filter) = &query.form else {
        refuse(
            "an exception holds for single events".to_owned(),
            "write an event query, such as `process where process.name == \"make\"`; several in an array must all hold",
        );
        return None;
    };
    if !query.pipes.is_empty() {
        refuse("an exception has no pipes".to_owned(), "leave them out");
        return None;
    }
    let mut odd = Vec::new();
    look(&filter.condition, &mut odd);
    for odd in odd {
        match odd {
            Odd::Lineage => refuse(
                "an exception can not ask about ancestors".to_owned(),
                "use the fields of process.parent or process.entry_leader",
            ),
            Odd::Wildcard(literal) => refuse(
                format!(
                    "\"{literal}\" can never match: `==` and `in` take wildcards as plain characters"
                ),
                "write `:` or `like` for a pattern",
            ),
        }
    }
    Some(query)
}

enum Odd {
    Lineage,
    Wildcard(Box<str>),
}

/// What can not be meant.
fn look(condition: &Condition, odd: &mut Vec<Odd>) {
    match condition {
        Condition::Const(_) => {}
        Condition::And(parts) | Condition::Or(parts) => parts.iter().for_each(|p| look(p, odd)),
        Condition::Not(part) => look(part, odd),
        Condition::Lineage(_) => odd.push(Odd::Lineage),
        Condition::Leaf(leaf) => {
            let literals: Vec<(&Expr, &Expr)> = match &leaf.expr {
                Expr::Compare {
                    op: Comparison::Equal,
                    left,
                    right,
                } => vec![(left, right), (right, left)],
                Expr::In { value, list, .. } => list.iter().map(|item| (&**value, item)).collect(),
                _ => Vec::new(),
            };
            for (field, literal) in literals {
                if let (Expr::Field(field), Expr::Literal(Literal::Str(text))) = (field, literal)
                    && pattern::has_wildcard(text)
                    && !may_hold_wildcards(&field.path)
                {
                    odd.push(Odd::Wildcard(text.clone()));
                }
            }
        }
    }
}

/// Fields in which people type wildcards.
fn may_hold_wildcards(path: &str) -> bool {
    path.ends_with("args") || path.ends_with("command_line") || path == "process.env_vars"
}
