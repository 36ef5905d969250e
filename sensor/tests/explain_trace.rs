//! What `explain` traces against the engine, on random queries over random streams.
//!
//! In: seeds. Out: on a disagreement, the query and the stream. The two are written apart: the engine keeps as little as it can,
//! the explaining side everything. Each has to find the same events for an event query, and the same events and keys for a
//! sequence.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

#[expect(dead_code, reason = "nothing here is made smaller")]
mod random;
mod rng;
mod stream;

use std::sync::Arc;

use rng::Rng;
use sensor::engine::explain::{End, Explainer, Shape};
use sensor::engine::{Builder, Limits, Match};
use sensor::eql::{self, Mode, OpenSchema};
use sensor::event::{FieldTable, OwnedValue};
use stream::{Numbered, Source};

/// Queries tried.
const QUERIES: usize = 3_000;

type Found = Vec<(Vec<Option<OwnedValue>>, Vec<i64>)>;

fn sorted(mut found: Found) -> Vec<String> {
    // A number and its text are the same key; which of them stands for it is of no account.
    let text = |key: Option<OwnedValue>| match key {
        Some(OwnedValue::Str(text)) => format!("t{text}"),
        Some(OwnedValue::Int(number)) => format!("t{number}"),
        other => format!("{other:?}"),
    };
    let one = |(keys, ids): (Vec<_>, Vec<i64>)| {
        let keys: Vec<String> = keys.into_iter().map(text).collect();
        format!("{keys:?} {ids:?}")
    };
    let mut found: Vec<String> = found.drain(..).map(one).collect();
    found.sort();
    found
}

fn by_engine(query: &eql::query::Query, events: &[Source]) -> Found {
    let mut table = FieldTable::empty();
    let mut builder = Builder::new(Limits::default());
    builder.add(0, query).expect("a checked query compiles");
    let mut engine = builder.build(&mut table).expect("the automata fit");
    let mut matches: Vec<Match<Arc<Numbered>>> = Vec::new();
    for event in stream::number(events, &table) {
        engine.process(&event, &mut matches);
    }
    engine.finish(&mut matches);
    let ids = |m: &Match<Arc<Numbered>>| m.events.iter().map(|e| e.id).collect();
    matches.iter().map(|m| (m.keys.clone(), ids(m))).collect()
}

fn by_trace(query: &eql::query::Query, text: &str, events: &[Source]) -> Found {
    let mut table = FieldTable::empty();
    let mut explainer: Explainer<Arc<Numbered>> =
        Explainer::new(query, text, "event.category", Limits::default(), &mut table)
            .expect("a checked query can be taken apart");
    for event in stream::number(events, &table) {
        explainer.push(event);
    }
    let id = |at: usize| explainer.events()[at].id;
    if explainer.shape == Shape::Event {
        let found = explainer.satisfying(0);
        return found.map(|at| (Vec::new(), vec![id(at)])).collect();
    }
    let mut trace = explainer.trace();
    let done = trace.partials.iter().filter(|p| p.end == End::Completed);
    let done = done
        .map(|p| {
            let ids = p.events.iter().map(|(at, _)| id(*at)).collect();
            (trace.key(p).to_vec(), ids)
        })
        .collect();
    // Whatever there is to say of the rest must not fail.
    let _ = explainer.stop(&mut trace);
    done
}

#[test]
fn the_trace_and_the_engine_agree() {
    let (mut tried, mut matched, mut seed) = (0, 0, 0);
    while tried < QUERIES {
        seed += 1;
        let mut rng = Rng::new(seed);
        let text = random::spec(&mut rng).to_string();
        let mut events = random::events(&mut rng);
        events.sort_by_key(|event| event.time_ns);
        let Ok(checked) = eql::compile(&text, &OpenSchema, Mode::Replay) else {
            continue;
        };
        let query = checked.query;
        if !query.pipes.is_empty() || matches!(query.form, eql::query::Form::Sample(_)) {
            continue;
        }
        tried += 1;
        let expected = by_engine(&query, &events);
        matched += usize::from(!expected.is_empty());
        let found = by_trace(&query, &text, &events);
        let shown: Vec<String> = events
            .iter()
            .map(|e| format!("{} {} {:?}", e.id, e.time_ns / 1_000_000, e.fields))
            .collect();
        assert_eq!(
            sorted(found),
            sorted(expected),
            "seed {seed}: {text}\n{}",
            shown.join("\n")
        );
    }
    assert!(matched * 4 > tried, "only {matched} of {tried} matched");
}
