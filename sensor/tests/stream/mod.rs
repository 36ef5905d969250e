//! Events in memory: JSON objects the engine and the naive matcher both read.
//!
//! In: JSON objects with an id and a time. Out: events that resolve any field path the slow, obvious way, and a view of them
//! that is numbered by a `FieldTable` for the engine. It shares nothing with the reader of JSON lines.

#![allow(
    dead_code,
    reason = "every test binary that includes this module uses another part of it"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

use std::sync::Arc;

use sensor::event::{FieldId, FieldTable, Fields, OwnedValue, Values};
use serde_json::{Map, Value as Json};

/// One event: what it is called, when it happened, and its fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    pub(crate) id: i64,
    pub(crate) time_ns: i64,
    pub(crate) fields: Map<String, Json>,
}

impl Source {
    /// All values at a path: scalars in stored order, nulls left out, objects left out.
    pub(crate) fn values(&self, path: &str) -> Vec<OwnedValue> {
        self.at(path)
            .iter()
            .filter_map(|json| scalar(json))
            .collect()
    }

    /// Whether anything at all is present at or below a path.
    pub(crate) fn present(&self, path: &str) -> bool {
        fn any(json: &Json) -> bool {
            match json {
                Json::Null => false,
                Json::Object(fields) => fields.values().any(any),
                Json::Array(elements) => elements.iter().any(any),
                _ => true,
            }
        }
        self.at(path).into_iter().any(any)
    }

    /// Elements of the array at a path as stored, for array functions; a single value is an array of one.
    pub(crate) fn elements(&self, path: &str) -> Vec<&Json> {
        let found = self.at(path);
        found.into_iter().filter(|json| !json.is_null()).collect()
    }

    /// What is stored at a path, arrays opened.
    pub(crate) fn at(&self, path: &str) -> Vec<&Json> {
        let segments: Vec<&str> = path.split('.').collect();
        let mut found = Vec::new();
        descend(&self.fields, &segments, &mut found);
        found
    }
}

/// The literal key with dots first, then object by object.
fn descend<'a>(fields: &'a Map<String, Json>, segments: &[&str], found: &mut Vec<&'a Json>) {
    for head in (1..=segments.len()).rev() {
        let key = segments[..head].join(".");
        let (name, indices) = match key.split_once('[') {
            // A position further left belongs to a shorter key.
            Some((_, indices)) if indices.contains('.') => continue,
            Some((name, indices)) => (name, Some(indices)),
            None => (key.as_str(), None),
        };
        let Some(mut json) = fields.get(name) else {
            continue;
        };
        // `a[1][2]`: each position picks one stored element.
        for index in indices.iter().flat_map(|i| i.split('[')) {
            let index: usize = index.trim_end_matches(']').parse().expect("a position");
            json = json.get(index).unwrap_or(&Json::Null);
        }
        let before = found.len();
        below(json, &segments[head..], found);
        if found.len() > before {
            return;
        }
    }
}

fn below<'a>(json: &'a Json, segments: &[&str], found: &mut Vec<&'a Json>) {
    match json {
        Json::Array(elements) => elements.iter().for_each(|e| below(e, segments, found)),
        Json::Object(fields) if !segments.is_empty() => descend(fields, segments, found),
        _ if segments.is_empty() => found.push(json),
        _ => {}
    }
}

/// A JSON scalar as the vocabulary of events has it; null and objects are no values.
pub(crate) fn scalar(json: &Json) -> Option<OwnedValue> {
    match json {
        Json::Null | Json::Object(_) | Json::Array(_) => None,
        Json::Bool(b) => Some(OwnedValue::Bool(*b)),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Some(OwnedValue::Int(i)),
            None => n.as_f64().map(OwnedValue::Float),
        },
        Json::String(s) => Some(OwnedValue::Str(s.as_str().into())),
    }
}

/// An event as the engine reads it: every field the table knows, looked up beforehand.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) id: i64,
    time_ns: i64,
    values: Vec<Held>,
}

#[derive(Debug)]
enum Held {
    Values(Vec<OwnedValue>),
    /// Something is below the path, but no value is at it.
    Object,
}

impl Fields for Numbered {
    fn bytes(&self) -> usize {
        let value = |value: &OwnedValue| match value {
            OwnedValue::Str(text) => text.len() + 48,
            _ => 0,
        };
        let held = |held: &Held| match held {
            Held::Values(values) => {
                size_of_val(&**values) + values.iter().map(value).sum::<usize>()
            }
            Held::Object => 0,
        };
        let values = size_of_val(&*self.values) + self.values.iter().map(held).sum::<usize>();
        size_of::<Self>() + values
    }

    fn time_ns(&self) -> i64 {
        self.time_ns
    }

    fn values(&self, field: FieldId) -> Values<'_> {
        match self.values.get(usize::from(field.0)) {
            Some(Held::Values(values)) if !values.is_empty() => Values::List(values),
            Some(Held::Object) => Values::Object,
            _ => Values::Missing,
        }
    }
}

/// Looks up every path of the table in every event.
pub(crate) fn number(sources: &[Source], table: &FieldTable) -> Vec<Arc<Numbered>> {
    let paths: Vec<&str> = (0..table.len())
        .map(|n| table.path(FieldId(u16::try_from(n).expect("few fields"))))
        .collect();
    sources
        .iter()
        .map(|source| {
            Arc::new(Numbered {
                id: source.id,
                time_ns: source.time_ns,
                values: paths.iter().map(|path| held(source, path)).collect(),
            })
        })
        .collect()
}

/// What the engine asks about elements: their numbers at `a[#]`, and at `a[].b` the element of `a` each value of `a.b` is in.
fn numbers(source: &Source, path: &str) -> Option<Vec<usize>> {
    let (path, elements) = match path.strip_suffix("[#]") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let Some((base, rest)) = path.split_once("[]") else {
        return elements.then(|| (0..source.elements(path).len()).collect());
    };
    let rest: Vec<&str> = rest.split('.').skip(1).collect();
    let mut numbers = Vec::new();
    for (number, element) in source.elements(base).into_iter().enumerate() {
        let mut found = Vec::new();
        below(element, &rest, &mut found);
        let counts = |json: &&&Json| match elements {
            true => !json.is_null(),
            false => scalar(json).is_some(),
        };
        numbers.extend(found.iter().filter(counts).map(|_| number));
    }
    Some(numbers)
}

fn held(source: &Source, path: &str) -> Held {
    if let Some(numbers) = numbers(source, path) {
        let number = |n| OwnedValue::Int(i64::try_from(n).expect("few"));
        return Held::Values(numbers.into_iter().map(number).collect());
    }
    let values = source.values(path);
    match values.is_empty() && source.present(path) {
        true => Held::Object,
        false => Held::Values(values),
    }
}
