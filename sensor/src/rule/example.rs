//! `[[test]]` tables: events that must, or must not, make the rule fire, and how.
//!
//! In: the tables of a rule file. Out: [`Example`]s, and every problem of them with its place. Events stand in the file, one JSON
//! document a line, or in a recording beside it; a recording is only named here, never opened, because a rule may be
//! installed without it.

use std::path::{Component, Path};

use toml::Spanned;
use toml::de::DeValue;

use crate::document::{self, Found, Problem, StringMap, Table};
use crate::eql::diagnostic::line_column;
use crate::event::OwnedValue;

/// Most alerts a test can expect.
const ALERTS_MAX: i64 = 1_000_000;

/// Events that must, or must not, make the rule fire.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub name: String,
    pub expected: Expected,
    pub events: Events,
    /// Numbers of the lines, from 1, whose events an alert must consist of, in the order of the rule's steps.
    pub steps: Option<Vec<usize>>,
    /// Key values an alert must have, in the order of the rule's `by`.
    pub keys: Option<Vec<OwnedValue>>,
    /// Line in the rule file, from 1.
    pub line: usize,
}

impl Example {
    /// Whether the rule has to fire.
    #[must_use]
    pub fn fires(&self) -> bool {
        self.expected != Expected::Alerts(0)
    }
}

/// How many alerts there have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One or more.
    Some,
    Alerts(u64),
}

/// Where the events of a test stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events {
    /// ECS events, one JSON document per line; and for each line its number in the rule file.
    Inline(String, Vec<usize>),
    /// A file of such lines, relative to the directory of the rule and inside it.
    Recording(Box<Path>),
}

pub(super) fn read<'t>(root: &mut Table<'t>, problems: &mut Vec<Problem>) -> Vec<Example> {
    let tables = root.tables("test", problems);
    tables
        .into_iter()
        .filter_map(|mut test| example(&mut test, problems))
        .collect()
}

fn example(test: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Example> {
    let line = line_column(&test.source().text, test.span().start).0;
    let name = test.required_string("name", problems);
    let events = events(test, problems);
    let expected = expected(test, problems);
    let steps = steps(test, problems);
    let keys = keys(test, problems);
    test.refuse_unknown(problems);
    let (events, expected) = (events?, expected?);
    for (key, span) in [
        ("steps", steps.as_ref().map(|s| &s.1)),
        ("keys", keys.as_ref().map(|k| &k.1)),
    ] {
        if let Some(span) = span
            && expected == Expected::Alerts(0)
        {
            problems.push(test.source().problem(
                span.clone(),
                format!(
                    "`{}` describes an alert, but there must be none",
                    test.name(key)
                ),
                Some("leave it out, or expect an alert by `fires = true`".to_owned()),
            ));
        }
    }
    if let (Some((steps, span)), Events::Inline(_, lines)) = (&steps, &events)
        && let Some(beyond) = steps.iter().find(|line| **line > lines.len())
    {
        problems.push(test.source().problem(
            span.clone(),
            format!(
                "`{}` names line {beyond}, but there are only {}",
                test.name("steps"),
                lines.len()
            ),
            None,
        ));
    }
    Some(Example {
        name: name?.0.to_owned(),
        expected,
        events,
        steps: steps.map(|(steps, _)| steps),
        keys: keys.map(|(keys, _)| keys),
        line,
    })
}

fn expected(test: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Expected> {
    let both = test.has("fires") && test.has("alerts");
    let fires = test.boolean("fires", problems);
    let alerts_span = test.get("alerts").map(Spanned::span);
    let alerts = test.integer("alerts", 0..=ALERTS_MAX, problems);
    if let (true, Some(span)) = (both, alerts_span) {
        problems.push(test.source().problem(
            span,
            format!(
                "`{}` and `{}` both say whether the rule fires",
                test.name("fires"),
                test.name("alerts")
            ),
            Some("one of them is enough".to_owned()),
        ));
        return None;
    }
    if !test.has("fires") && !test.has("alerts") {
        problems.push(test.missing("fires", "true` or `fires = false"));
    }
    match (fires, alerts) {
        (_, Some((count, _))) => Some(Expected::Alerts(u64::try_from(count).unwrap_or(0))),
        (Some((true, _)), None) => Some(Expected::Some),
        (Some((false, _)), None) => Some(Expected::Alerts(0)),
        (None, None) => None,
    }
}

fn events(test: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Events> {
    match (test.has("events"), test.has("recording")) {
        (false, true) => {
            // Asked for, so that a misspelt key is told what is allowed.
            let _ = test.get("events");
            return recording(test, problems);
        }
        (true, true) => {
            let span = test
                .get("recording")
                .map_or_else(|| test.span(), Spanned::span);
            problems.push(test.source().problem(
                span,
                format!(
                    "`{}` and `{}` both give the events",
                    test.name("events"),
                    test.name("recording")
                ),
                Some("one of them is enough".to_owned()),
            ));
        }
        (_, false) => {
            let _ = test.get("recording");
        }
    }
    let (text, span) = test.required_string("events", problems)?;
    let source = test.source();
    let map = StringMap::new(&source.text, span, text);
    let mut lines = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let at = map.file_offset(offset);
        lines.push(line_column(&source.text, at).0);
        let json = line.trim();
        if !json.is_empty()
            && let Err((column, message)) = object(json)
        {
            let blank = line.len() - line.trim_start().len();
            let from = map.file_offset(offset + blank + column);
            problems.push(source.problem(
                from..from + 1,
                format!(
                    "line {} of `{}` is no event: {message}",
                    lines.len(),
                    test.name("events")
                ),
                Some("each line must be one JSON object".to_owned()),
            ));
        }
        offset += line.len();
    }
    Some(Events::Inline(text.to_owned(), lines))
}

/// # Errors
/// Byte offset, and what is wrong there.
fn object(json: &str) -> Result<(), (usize, String)> {
    if !json.starts_with('{') {
        return Err((0, "it does not begin with `{`".to_owned()));
    }
    match serde_json::from_str::<serde::de::IgnoredAny>(json) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let text = text.split(" at line ").next().unwrap_or(&text).to_owned();
            Err((error.column().saturating_sub(1).min(json.len() - 1), text))
        }
    }
}

fn recording(test: &mut Table<'_>, problems: &mut Vec<Problem>) -> Option<Events> {
    let (text, span) = test.required_string("recording", problems)?;
    let path = Path::new(text);
    if path
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Some(Events::Recording(path.into()));
    }
    problems.push(test.source().problem(
        span,
        format!(
            "`{}` is {}, must be a file beside the rule or below its directory",
            test.name("recording"),
            document::shown(&DeValue::String(text.into()))
        ),
        Some("it is relative to the rule and can not lead out by `..` or `/`".to_owned()),
    ));
    None
}

fn steps<'t>(test: &mut Table<'t>, problems: &mut Vec<Problem>) -> Option<Found<'t, Vec<usize>>> {
    let value = test.get("steps")?;
    let must = "numbers of lines, from 1, one for each event of the alert";
    let numbers = match value.get_ref() {
        DeValue::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .filter(|number| *number > 0),
                _ => None,
            })
            .collect::<Option<Vec<usize>>>(),
        _ => None,
    };
    if numbers.is_none() {
        problems.push(test.wrong("steps", value, must));
    }
    Some((numbers?, value.span()))
}

fn keys<'t>(
    test: &mut Table<'t>,
    problems: &mut Vec<Problem>,
) -> Option<Found<'t, Vec<OwnedValue>>> {
    let value = test.get("keys")?;
    let must = "an array of strings, whole numbers and booleans, in the order of the rule's `by`";
    let values = match value.get_ref() {
        DeValue::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Some(OwnedValue::Str(text.as_ref().into())),
                DeValue::Boolean(flag) => Some(OwnedValue::Bool(*flag)),
                DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                    .ok()
                    .map(OwnedValue::Int),
                _ => None,
            })
            .collect::<Option<Vec<OwnedValue>>>(),
        _ => None,
    };
    if values.is_none() {
        problems.push(test.wrong("keys", value, must));
    }
    Some((values?, value.span()))
}
