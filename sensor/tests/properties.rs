//! The engine against the naive matcher, on random queries over random streams.
//!
//! In: seeds; `EQL_SENSOR_PROPERTY_PAIRS` says how many (query, stream) pairs to try. Out: on a disagreement, the smallest
//! query and stream that still show it, ready to become a case in `eql/`. Keys and events of every match must be the same, in
//! the same order, however the engine is run: one rule alone, many rules that share tests, many that do
//! not, with answers remembered by the values of every field, and with events that arrive out of order.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

mod naive;
mod random;
mod rng;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use naive::value::Val;
use random::Spec;
use rng::Rng;
use sensor::engine::{Builder, Engine, Limits, Match, Reorder, Snapshot};
use sensor::eql::query::{FieldType, Pipe, Query};
use sensor::eql::{self, Mode, OpenSchema, Schema};
use sensor::event::{FieldTable, OwnedValue};
use serde_json::{Map, Value as Json};
use stream::{Numbered, Source};

/// Pairs tried when the environment says nothing.
const PAIRS: usize = 20_000;
/// Queries that run over one stream, and in one engine.
const TOGETHER: usize = 8;

/// Declares a date and a version; everything else is as in foreign data.
struct Types;

impl Schema for Types {
    fn field_type(&self, path: &str) -> Option<FieldType> {
        match path {
            "d" => Some(FieldType::Date),
            "v" => Some(FieldType::Version),
            other => OpenSchema.field_type(other),
        }
    }

    fn is_closed(&self) -> bool {
        false
    }

    fn suggest(&self, _path: &str) -> Option<String> {
        None
    }
}

/// Some queries over one stream.
#[derive(Clone)]
struct Trial {
    specs: Vec<Spec>,
    events: Vec<Source>,
    /// The clock moves this far past the last event.
    rest_ns: i64,
    /// The end of the input is known.
    ended: bool,
    seed: u64,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let ended = rng.chance(50);
        let specs = (0..TOGETHER).map(|_| random::spec(&mut rng)).collect();
        let events = random::events(&mut rng);
        let rest_ns = [0, 0, 20_000_000, 1_000_000_000][rng.below(4)];
        Trial {
            specs,
            events,
            rest_ns,
            ended,
            seed,
        }
    }

    /// Queries the type checker accepts, by their place.
    fn queries(&self) -> Vec<(usize, Query)> {
        let mode = if self.ended { Mode::Replay } else { Mode::Live };
        let checked = |spec: &Spec| eql::compile(&spec.to_string(), &Types, mode).ok();
        let all = self.specs.iter().enumerate();
        all.filter_map(|(i, spec)| checked(spec).map(|c| (i, c.query)))
            .collect()
    }

    fn last_clock(&self) -> Option<i64> {
        let last = self.events.last()?.time_ns;
        (self.rest_ns > 0).then(|| last + self.rest_ns)
    }

    fn history(&self) -> naive::History {
        let mut history = naive::History::default();
        self.events.iter().for_each(|e| history.event(e.clone()));
        if let Some(now_ns) = self.last_clock() {
            history.clock(now_ns);
        }
        history
    }
}

/// Matches of each query: keys as they compare, and ids of the events.
type Found = BTreeMap<usize, Vec<(Vec<naive::KeyText>, Vec<i64>)>>;

fn keys(keys: &[Option<OwnedValue>]) -> Vec<naive::KeyText> {
    let value = |key: &OwnedValue| Val::stored(key, FieldType::Any);
    keys.iter()
        .map(|key| naive::key_text(key.as_ref().map(value).as_ref()))
        .collect()
}

fn run_naive(trial: &Trial, queries: &[(usize, Query)]) -> Found {
    let history = trial.history();
    let one = |query| -> Vec<_> {
        let matches = naive::matches(query, &history, trial.ended).into_iter();
        matches
            .map(|m| (keys(&m.keys), m.events.iter().map(|e| e.id).collect()))
            .collect()
    };
    queries.iter().map(|(i, query)| (*i, one(query))).collect()
}

type Running = Engine<Arc<Numbered>>;

fn build(queries: &[(usize, Query)], sharing: bool, steady: bool) -> (Running, FieldTable) {
    let mut table = FieldTable::empty();
    let mut builder = Builder::new(Limits::default());
    if steady {
        builder.with_all_fields_steady();
    }
    if !sharing {
        builder.without_sharing();
    }
    for (i, query) in queries {
        builder.add(*i, query).expect("a checked query compiles");
    }
    (builder.build(&mut table).expect("the automata fit"), table)
}

fn found(queries: &[(usize, Query)], matches: &[Match<Arc<Numbered>>]) -> Found {
    let mut found: Found = queries.iter().map(|(i, _)| (*i, Vec::new())).collect();
    for m in matches {
        let ids = m.events.iter().map(|e| e.id).collect();
        found
            .get_mut(&m.rule)
            .expect("a rule that was added")
            .push((keys(&m.keys), ids));
    }
    found
}

fn finish(trial: &Trial, engine: &mut Running, matches: &mut Vec<Match<Arc<Numbered>>>) {
    if let Some(now_ns) = trial.last_clock() {
        engine.advance(now_ns, matches);
    }
    if trial.ended {
        engine.finish(matches);
    }
}

fn run_engine(trial: &Trial, queries: &[(usize, Query)], sharing: bool, steady: bool) -> Found {
    let (mut engine, table) = build(queries, sharing, steady);
    let mut matches = Vec::new();
    for event in stream::number(&trial.events, &table) {
        engine.process(&event, &mut matches);
    }
    finish(trial, &mut engine, &mut matches);
    found(queries, &matches)
}

/// Events arrive out of order, each late by less than the bound of the reorder stage; those of equal times keep their order.
fn run_shuffled(trial: &Trial, queries: &[(usize, Query)]) -> Found {
    const BOUND_MS: usize = 50;
    let mut rng = Rng::new(trial.seed);
    let mut late: BTreeMap<i64, usize> = BTreeMap::new();
    for event in &trial.events {
        late.entry(event.time_ns)
            .or_insert_with(|| rng.below(BOUND_MS));
    }
    let mut arrival = trial.events.clone();
    arrival
        .sort_by_key(|e| e.time_ns + i64::try_from(late[&e.time_ns]).expect("small") * 1_000_000);
    let (mut engine, table) = build(queries, true, true);
    let mut reorder = Reorder::new(Duration::from_millis(BOUND_MS as u64), 1000);
    let mut matches = Vec::new();
    for event in stream::number(&arrival, &table) {
        reorder.push(event, None, |event| engine.process(&event, &mut matches));
    }
    reorder.finish(|event| engine.process(&event, &mut matches));
    assert_eq!(reorder.late(), 0, "every event came within the bound");
    finish(trial, &mut engine, &mut matches);
    found(queries, &matches)
}

fn run_alone(trial: &Trial, queries: &[(usize, Query)]) -> Found {
    let alone =
        |query: &(usize, Query)| run_engine(trial, std::slice::from_ref(query), true, false);
    queries.iter().flat_map(alone).collect()
}

/// Half way through, the state moves by way of text into an engine with the rules in another order.
fn run_restored(trial: &Trial, queries: &[(usize, Query)]) -> Found {
    // What a pipe holds back until the end of the input is not saved: that end is known to a replay only.
    let holds_back =
        |pipe: &Pipe| !matches!(pipe, Pipe::Head(_) | Pipe::Filter(_) | Pipe::Unique(_));
    let streaming = queries
        .iter()
        .filter(|(_, q)| !q.pipes.iter().any(holds_back));
    let mut queries: Vec<(usize, Query)> = streaming.cloned().collect();
    let (mut engine, table) = build(&queries, true, true);
    let half = Rng::new(trial.seed).below(trial.events.len() + 1);
    let mut matches = Vec::new();
    let first = stream::number(&trial.events, &table);
    for event in first.iter().take(half) {
        engine.process(event, &mut matches);
    }
    let at = |event: &Arc<Numbered>| {
        first
            .iter()
            .position(|e| e.id == event.id)
            .expect("an event")
    };
    let text = serde_json::to_string(&engine.save(at)).expect("a snapshot is JSON");
    queries.reverse();
    let (mut engine, table) = build(&queries, true, true);
    let second = stream::number(&trial.events, &table);
    let snapshot: Snapshot<usize> = serde_json::from_str(&text).expect("it reads back");
    let restored = engine.restore(snapshot, |at| second.get(*at).cloned());
    assert_eq!(restored.left, 0, "every rule is still there");
    for event in second.iter().skip(half) {
        engine.process(event, &mut matches);
    }
    finish(trial, &mut engine, &mut matches);
    found(&queries, &matches)
}

/// The first way of running that disagrees, and how.
fn disagreement(trial: &Trial) -> Option<String> {
    let queries = trial.queries();
    let expected = run_naive(trial, &queries);
    let ways = [
        ("one rule alone", run_alone(trial, &queries)),
        (
            "rules that share tests",
            run_engine(trial, &queries, true, false),
        ),
        (
            "rules that share nothing",
            run_engine(trial, &queries, false, false),
        ),
        (
            "answers remembered by value",
            run_engine(trial, &queries, true, true),
        ),
        ("events out of order", run_shuffled(trial, &queries)),
        ("state saved and restored", run_restored(trial, &queries)),
    ];
    for (way, found) in ways {
        for (i, expected) in &expected {
            let Some(found) = found.get(i) else { continue };
            if found != &expected[..] {
                return Some(format!(
                    "{way}: query {i} found {found:?}\n  the naive matcher found {expected:?}"
                ));
            }
        }
    }
    None
}

/// Makes a disagreement smaller as long as one remains.
fn shrink(mut trial: Trial) -> Trial {
    loop {
        let next = smaller(&trial).find(|t| disagreement(t).is_some());
        match next {
            Some(smaller) => trial = smaller,
            None => return trial,
        }
    }
}

fn smaller(trial: &Trial) -> impl Iterator<Item = Trial> {
    let fewer_specs = (0..trial.specs.len()).map(|i| {
        let mut less = trial.clone();
        less.specs.remove(i);
        less
    });
    let fewer_events = (0..trial.events.len()).map(|i| {
        let mut less = trial.clone();
        less.events.remove(i);
        less
    });
    let no_rest = (trial.rest_ns > 0).then(|| Trial {
        rest_ns: 0,
        ..trial.clone()
    });
    let simpler_specs = (0..trial.specs.len()).flat_map(move |i| {
        random::simpler(&trial.specs[i])
            .into_iter()
            .map(move |spec| {
                let mut less = trial.clone();
                less.specs[i] = spec;
                less
            })
    });
    let fewer_fields = (0..trial.events.len()).flat_map(move |i| {
        let names: Vec<String> = trial.events[i].fields.keys().cloned().collect();
        names.into_iter().map(move |name| {
            let mut less = trial.clone();
            less.events[i].fields.remove(&name);
            less
        })
    });
    fewer_specs
        .chain(fewer_events)
        .chain(no_rest)
        .chain(simpler_specs)
        .chain(fewer_fields)
}

/// A trial as a person wants to see it: close to a case in `eql/`.
fn show(trial: &Trial) -> String {
    let mut text = format!("seed {}, ended {}\n", trial.seed, trial.ended);
    for (i, spec) in trial.specs.iter().enumerate() {
        text += &format!("query {i}: {spec}\n");
    }
    for event in &trial.events {
        let mut fields: Map<String, Json> = event.fields.clone();
        fields.entry("category").or_insert(Json::Null);
        fields.insert("id".into(), event.id.into());
        fields.insert("at".into(), (event.time_ns / 1_000_000).into());
        text += &format!("{}\n", Json::from(fields));
    }
    if let Some(now_ns) = trial.last_clock() {
        text += &format!("{{\"clock\":{}}}\n", now_ns / 1_000_000);
    }
    text
}

#[test]
fn the_engine_and_the_naive_matcher_agree() {
    let pairs = match std::env::var("EQL_SENSOR_PROPERTY_PAIRS") {
        Ok(text) => text.parse().expect("EQL_SENSOR_PROPERTY_PAIRS is a number"),
        Err(_) => PAIRS,
    };
    let (mut tried, mut matched, mut refused, mut seed) = (0, 0, 0, 0);
    let mut features: BTreeMap<&str, usize> = BTreeMap::new();
    while tried < pairs {
        seed += 1;
        let trial = Trial::new(seed);
        let queries = trial.queries();
        tried += queries.len();
        refused += trial.specs.len() - queries.len();
        for (i, _) in run_naive(&trial, &queries)
            .iter()
            .filter(|(_, f)| !f.is_empty())
        {
            matched += 1;
            for feature in trial.specs[*i].features() {
                *features.entry(feature).or_default() += 1;
            }
        }
        if disagreement(&trial).is_some() {
            let small = shrink(trial);
            let how = disagreement(&small).expect("still there");
            panic!("after {tried} pairs:\n{}{how}", show(&small));
        }
    }
    println!("{tried} pairs agree; {matched} had matches, {refused} queries were refused");
    println!("pairs with matches, by what the query uses: {features:?}");
    for (feature, count) in features {
        assert!(
            count * 500 > tried,
            "only {count} pairs with matches use {feature}"
        );
    }
    assert!(
        matched * 4 > tried,
        "only {matched} of {tried} pairs had matches"
    );
    assert!(
        refused * 4 < tried,
        "{refused} queries were refused beside {tried}"
    );
}
