//! What a rule that remembers or counts found out, in words.
//!
//! In: the tally of a match and the terms it is about. Out: the end of the alert's sentence, on one line and without control
//! characters.

use std::fmt::Write as _;

use super::{Join, piece};
use crate::engine::Tally;
use crate::event::OwnedValue;
use crate::rule::Rule;

/// Appends it to the message. Times are nanoseconds since the Unix epoch.
pub(super) fn say(
    tally: &Tally,
    rule: &Rule,
    join: &[Join],
    since_ns: i64,
    until_ns: i64,
    message: &mut String,
) {
    match tally {
        Tally::New { .. } => {
            let _ = write!(message, ", new since {}: {}", moment(since_ns), terms(join));
        }
        Tally::Count {
            events, distinct, ..
        } => {
            let _ = match events {
                1 => write!(message, ", once"),
                events => write!(message, ", {events} times"),
            };
            for (path, values) in rule.counted().zip(distinct) {
                let _ = write!(message, " with {values} values of {}", piece(path));
            }
            let _ = write!(message, " within {}", length(until_ns - since_ns));
            if !join.is_empty() {
                let _ = write!(message, ": {}", terms(join));
            }
        }
    }
}

fn terms(join: &[Join]) -> String {
    let one = |join: &Join| {
        let field = join.fields.first().map_or("", |field| field);
        let first = join.values.first().and_then(Option::as_ref);
        let mut text = format!("{field} {}", first.map_or_else(String::new, value));
        if join.values.len() > 1 {
            let _ = write!(text, " and {} more", join.values.len() - 1);
        }
        text
    };
    join.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn value(value: &OwnedValue) -> String {
    match value {
        OwnedValue::Str(text) => piece(text),
        OwnedValue::Int(number) => number.to_string(),
        OwnedValue::Float(number) => number.to_string(),
        OwnedValue::Bool(truth) => truth.to_string(),
        OwnedValue::Ip(ip) => ip.to_string(),
        OwnedValue::Date(ns) => moment(*ns),
    }
}

/// To the second.
fn moment(ns: i64) -> String {
    let time = jiff::Timestamp::from_second(ns.div_euclid(1_000_000_000));
    time.map_or_else(|_| "the beginning".to_owned(), |time| time.to_string())
}

fn length(ns: i64) -> String {
    let milliseconds = ns / 1_000_000;
    match milliseconds {
        0..10_000 => format!("{milliseconds} ms"),
        _ => format!("{} s", milliseconds / 1000),
    }
}
