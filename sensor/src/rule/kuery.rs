//! Rules that are not EQL: `query`, `threshold` and `new_terms`, written in KQL.
//!
//! In: the table `[rule]`. Out: the type of the rule and what it makes of the events its query lets through, or what is wrong
//! with its keys. Keys of a schedule are read as lengths of time: a stream has no other use for them.

use std::ops::Range;
use std::time::Duration;

use crate::document::{Problem, Table};
use crate::eql::Schema;
use crate::eql::query::{FieldType, Key, NewTerms, Pipe, Threshold};

/// Fields whose combination may be new.
const NEW_TERMS_MAX: usize = 3;
/// Fields a threshold may count by.
const THRESHOLD_FIELDS_MAX: usize = 5;
/// Events, or values of a field, a threshold may ask for.
const COUNT_MAX: i64 = 100_000;
/// What a rule without `from` looks back.
const LOOK_BACK: &str = "now-6m";

/// What `rule.type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Eql,
    Query,
    Threshold,
    NewTerms,
}

impl Type {
    pub(super) fn named(name: &str) -> Option<Type> {
        Some(match name {
            "eql" => Type::Eql,
            "query" => Type::Query,
            "threshold" => Type::Threshold,
            "new_terms" => Type::NewTerms,
            _ => return None,
        })
    }

    /// What the rule's query is written in, by the name rules have for it.
    pub(super) fn language(self) -> &'static str {
        match self {
            Type::Eql => "eql",
            Type::Query | Type::Threshold | Type::NewTerms => "kuery",
        }
    }
}

/// Whether the rule has a filter besides its query that is not switched off.
pub(super) fn has_filters(table: &mut Table<'_>) -> bool {
    let filters = table.tables("filters", &mut Vec::new());
    filters.into_iter().any(|mut filter| {
        let meta = filter.table("meta", &mut Vec::new());
        let disabled = meta.and_then(|mut meta| meta.boolean("disabled", &mut Vec::new()));
        !disabled.is_some_and(|(disabled, _)| disabled)
    })
}

/// What follows the rule's filter; `None` when something is wrong, which has been noted.
pub(super) fn pipes(
    ty: Type,
    table: &mut Table<'_>,
    schema: &dyn Schema,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Pipe>> {
    match ty {
        Type::Eql | Type::Query => Some(Vec::new()),
        Type::NewTerms => new_terms(table, schema, problems).map(|pipe| vec![pipe]),
        Type::Threshold => threshold(table, schema, problems).map(|pipe| vec![pipe]),
    }
}

fn new_terms(
    rule: &mut Table<'_>,
    schema: &dyn Schema,
    problems: &mut Vec<Problem>,
) -> Option<Pipe> {
    if !rule.has("new_terms") {
        problems.push(rule.missing(
            "new_terms",
            "{ value = [\"…\"], history_window_start = […] }",
        ));
    }
    let mut table = rule.table("new_terms", problems)?;
    if !table.has("value") {
        problems.push(table.missing("value", "[\"host.id\"]"));
    }
    let names = table.strings("value", problems);
    let fields = names.and_then(|names| {
        let allowed = 1..=NEW_TERMS_MAX;
        keys(&table, "value", &names, allowed, schema, problems)
    });
    let start = history_start(&mut table, problems);
    let history = start.and_then(|(text, span)| match before_now(text) {
        Some(history) => Some(history),
        None => {
            problems.push(not_before_now(&table, "history_window_start", text, span));
            None
        }
    });
    Some(Pipe::NewTerms(NewTerms {
        fields: fields?,
        history: history?,
    }))
}

/// `history_window_start` is an array with one table whose `value` it is, or that text itself.
fn history_start<'t>(
    table: &mut Table<'t>,
    problems: &mut Vec<Problem>,
) -> Option<(&'t str, Range<usize>)> {
    const FORM: &str = "[{ field = \"history_window_start\", value = \"now-7d\" }]";
    match table.get("history_window_start") {
        None => {
            problems.push(table.missing("history_window_start", FORM));
            None
        }
        Some(value) if value.get_ref().as_str().is_some() => {
            table.string("history_window_start", problems)
        }
        Some(value) => {
            let mut entries = table.tables("history_window_start", problems);
            match entries.first_mut() {
                Some(entry) => entry.required_string("value", problems),
                None => {
                    problems.push(table.wrong("history_window_start", value, FORM));
                    None
                }
            }
        }
    }
}

fn threshold(
    rule: &mut Table<'_>,
    schema: &dyn Schema,
    problems: &mut Vec<Problem>,
) -> Option<Pipe> {
    let window = match rule.string("from", problems) {
        None => before_now(LOOK_BACK),
        Some((text, span)) => {
            let window = before_now(text);
            if window.is_none() {
                problems.push(not_before_now(rule, "from", text, span));
            }
            window
        }
    };
    if !rule.has("threshold") {
        problems.push(rule.missing("threshold", "{ field = [\"…\"], value = 10 }"));
    }
    let mut table = rule.table("threshold", problems)?;
    let one = table.get("field").and_then(|v| v.get_ref().as_str());
    let names = match one {
        Some(_) => table.string("field", problems).map(|found| vec![found]),
        None if table.has("field") => table.strings("field", problems),
        None => Some(Vec::new()),
    };
    let fields = names.and_then(|mut names| {
        names.retain(|(name, _)| !name.is_empty());
        let allowed = 0..=THRESHOLD_FIELDS_MAX;
        keys(&table, "field", &names, allowed, schema, problems)
    });
    if !table.has("value") {
        problems.push(table.missing("value", "10"));
    }
    let events = table.integer("value", 1..=COUNT_MAX, problems);
    let mut distinct = Some(Vec::new());
    for mut entry in table.tables("cardinality", problems) {
        let field = entry.required_string("field", problems);
        if !entry.has("value") {
            problems.push(entry.missing("value", "10"));
        }
        let values = entry.integer("value", 1..=COUNT_MAX, problems);
        let field = field
            .and_then(|field| keys(&entry, "field", &[field], 1..=1, schema, problems))
            .and_then(|mut keys| keys.pop());
        match (&mut distinct, field, values) {
            (Some(distinct), Some(field), Some((values, _))) => {
                distinct.push((field, values.unsigned_abs()));
            }
            (distinct, ..) => *distinct = None,
        }
    }
    Some(Pipe::Threshold(Threshold {
        fields: fields?,
        events: events?.0.unsigned_abs(),
        window: window?,
        distinct: distinct?,
    }))
}

/// Names of fields with their types, as many as are allowed.
fn keys(
    table: &Table<'_>,
    key: &'static str,
    names: &[(&str, Range<usize>)],
    allowed: std::ops::RangeInclusive<usize>,
    schema: &dyn Schema,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Key>> {
    let before = problems.len();
    if !allowed.contains(&names.len()) {
        let span = names.last().map_or(table.span(), |(_, span)| span.clone());
        let message = format!(
            "`{}` holds {} fields, must hold {} to {}",
            table.name(key),
            names.len(),
            allowed.start(),
            allowed.end()
        );
        problems.push(table.source().problem(span, message, None));
    }
    let mut keys = Vec::with_capacity(names.len());
    for (path, span) in names {
        let known = schema.field_type(path);
        if known.is_none() && schema.is_closed() {
            let help = schema.suggest(path);
            problems.push(table.source().problem(
                span.clone(),
                format!("`{}`: unknown field `{path}`", table.name(key)),
                help.map(|near| format!("did you mean `{near}`?")),
            ));
        }
        keys.push(Key {
            path: (*path).into(),
            ty: known.unwrap_or(FieldType::Any),
            optional: false,
        });
    }
    (problems.len() == before).then_some(keys)
}

/// The length of time of `now-7d`: seconds, minutes, hours, days or weeks.
fn before_now(text: &str) -> Option<Duration> {
    let length = text.strip_prefix("now-")?;
    let unit = length.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let number: u64 = length.strip_suffix(unit)?.parse().ok()?;
    let length = Duration::from_secs(number.checked_mul(seconds)?);
    // Beyond this it is no length of time that a sensor could know.
    (!length.is_zero() && length <= Duration::from_secs(10 * 366 * 86_400)).then_some(length)
}

fn not_before_now(table: &Table<'_>, key: &str, text: &str, span: Range<usize>) -> Problem {
    let message = format!(
        "`{}` is \"{}\", must be a time before now: now-9m, with s, m, h, d or w",
        table.name(key),
        text.escape_debug()
    );
    table.source().problem(span, message, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_now() {
        for (text, seconds) in [
            ("now-30s", Some(30)),
            ("now-9m", Some(540)),
            ("now-7d", Some(604_800)),
            ("now-2w", Some(1_209_600)),
            ("now-0m", None),
            ("now", None),
            ("now-1M", None),
            ("now-é", None),
            ("now-99999999999999999999d", None),
            ("now-9000d", None),
            ("2026-01-01", None),
        ] {
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(before_now(text), expected, "{text}");
        }
    }
}
