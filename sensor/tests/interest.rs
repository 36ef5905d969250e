//! What is left out because nothing asks for it is never missed.
//!
//! In: random rules over the sensor's own fields, random streams of events shaped as the sensor's; `EQL_SENSOR_INTEREST_TRIALS`
//! says how many. Out: the same matches whether every event comes or only those of the kinds the rules are interested in
//! (and those that always flow). Must never pass because nothing was left out, or because nothing matched.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

mod rng;
mod stream;

use std::fmt::Write as _;

use rng::Rng;
use sensor::engine::{Builder, Limits};
use sensor::enrich::records::events_of;
use sensor::eql::query::Query;
use sensor::eql::{self, Mode};
use sensor::event::{FIELDS, FieldTable, FieldType, Kind, Kinds};
use sensor::rule::{interest, schema::TolerantSchema};
use serde_json::{Map, Value as Json, json};
use stream::Source;

const TRIALS: usize = 200;
/// Most rules in one engine.
const RULES: usize = 2;
const EVENTS: usize = 40;
/// Each is forked by an earlier one before anything else happens, as in a stream of the sensor's.
const PROCESSES: usize = 5;
const TEXTS: &[&str] = &["a", "b", "creation", "start", "exec"];

#[test]
fn leaving_out_what_no_rule_asks_for_changes_no_match() {
    let trials = std::env::var("EQL_SENSOR_INTEREST_TRIALS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(TRIALS);
    let (mut left_out, mut matched) = (0, 0);
    for seed in 0..trials as u64 {
        let mut rng = Rng::new(seed);
        let texts: Vec<String> = (0..=rng.below(RULES)).map(|_| rule(&mut rng)).collect();
        let rules: Vec<Query> = texts
            .iter()
            .filter_map(|text| eql::compile(text, &TolerantSchema, Mode::Live).ok())
            .map(|checked| checked.query)
            .collect();
        let all: Vec<(Kind, Source)> = (0..EVENTS).map(|i| event(&mut rng, i)).collect();
        let wanted = rules
            .iter()
            .fold(always(), |kinds, rule| kinds.and(interest(rule)));
        let some: Vec<Source> = all
            .iter()
            .filter(|(kind, _)| wanted.contains(*kind))
            .map(|(_, source)| source.clone())
            .collect();
        left_out += EVENTS - some.len();
        let all: Vec<Source> = all.into_iter().map(|(_, source)| source).collect();
        let (with_all, with_some) = (matches(&rules, &all), matches(&rules, &some));
        matched += with_all.len();
        assert_eq!(
            with_all,
            with_some,
            "seed {seed}: {wanted:?}\n{}",
            texts.join("\n")
        );
    }
    println!("{trials} trials: {left_out} events left out, {matched} matches, the same both ways");
    assert!(left_out > trials, "too few events left out: {left_out}");
    assert!(matched > trials, "too few matches: {matched}");
}

/// Kinds whose records flow whatever is asked for.
fn always() -> Kinds {
    use sensor_ebpf::Kind as Record;
    [Record::Fork, Record::Exec, Record::Exit]
        .into_iter()
        .fold(Kinds::NONE, |kinds, record| kinds.and(events_of(record)))
}

/// Rule and ids of the events of each match, sorted: a match that only the passing of time completes may come later.
fn matches(rules: &[Query], events: &[Source]) -> Vec<(usize, Vec<i64>)> {
    let mut table = FieldTable::sensor();
    let mut builder = Builder::new(Limits::default());
    for (index, rule) in rules.iter().enumerate() {
        builder.add(index, rule).expect("a checked query compiles");
    }
    let mut engine = builder.build(&mut table).expect("the automata fit");
    let mut found = Vec::new();
    for event in stream::number(events, &table) {
        engine.process(&event, &mut found);
    }
    engine.advance(i64::MAX / 2, &mut found);
    let mut found: Vec<_> = found
        .iter()
        .map(|m| (m.rule, m.events.iter().map(|event| event.id).collect()))
        .collect();
    found.sort();
    found
}

/// An event of some process as the sensor makes one: the constants of its kind, and of the fields its kind carries a few with a few values.
fn event(rng: &mut Rng, index: usize) -> (Kind, Source) {
    let (kind, process) = if index < PROCESSES {
        (Kind::Fork, index)
    } else {
        let kind = Kind::ALL[rng.below(Kind::ALL.len())];
        (kind, rng.below(PROCESSES))
    };
    let mut fields = Map::new();
    for row in FIELDS {
        if !row.kinds.contains(kind) || row.path.ends_with("entity_id") || !rng.chance(30) {
            continue;
        }
        fields.insert(row.path.to_owned(), value(rng, row.ty));
    }
    fields.insert("process.entity_id".into(), format!("p{process}").into());
    let parent = process.checked_sub(1).map_or(0, |above| above / 2);
    fields.insert(
        "process.parent.entity_id".into(),
        format!("p{parent}").into(),
    );
    fields.insert("event.action".into(), kind.action().into());
    fields.insert("event.category".into(), json!(kind.categories()));
    fields.insert("event.type".into(), json!(kind.types()));
    let index = i64::try_from(index).expect("few events");
    let source = Source {
        id: index,
        time_ns: index * 300_000_000,
        fields,
    };
    (kind, source)
}

fn value(rng: &mut Rng, ty: FieldType) -> Json {
    match ty {
        FieldType::Keyword => rng.pick(TEXTS).into(),
        FieldType::Number => rng.below(3).into(),
        FieldType::Boolean => rng.chance(50).into(),
        FieldType::Ip => ["10.0.0.1", "10.0.0.2"][rng.below(2)].into(),
        FieldType::Date => "2026-01-01T00:00:00Z".into(),
    }
}

fn rule(rng: &mut Rng) -> String {
    let mut text = String::new();
    let by = ["", " by process.entity_id", " by process.name"][rng.below(3)];
    match rng.below(4) {
        0 => text = filter(rng),
        1 if !by.is_empty() => {
            let _ = write!(text, "sample{by} [{}] [{}]", filter(rng), filter(rng));
        }
        _ => {
            let _ = write!(text, "sequence{by} with maxspan=3s [{}]", filter(rng));
            for _ in 0..=rng.below(2) {
                let missing = if rng.chance(25) { "!" } else { "" };
                let _ = write!(text, " {missing}[{}]", filter(rng));
            }
            if rng.chance(25) {
                let _ = write!(text, " until [{}]", filter(rng));
            }
        }
    }
    text
}

fn filter(rng: &mut Rng) -> String {
    let category = rng.pick(&[
        "any", "process", "process", "file", "file", "network", "network",
    ]);
    format!("{category} where {}", condition(rng, 2))
}

fn condition(rng: &mut Rng, depth: usize) -> String {
    if depth == 0 || rng.chance(30) {
        return leaf(rng);
    }
    let (a, b) = (condition(rng, depth - 1), condition(rng, depth - 1));
    match rng.below(5) {
        0 | 1 => format!("({a} and {b})"),
        2 => format!("({a} or {b})"),
        3 => format!("not ({a})"),
        _ => format!(
            "{} of [{}]",
            rng.pick(&["descendant", "child", "event"]),
            filter(rng)
        ),
    }
}

fn leaf(rng: &mut Rng) -> String {
    let action = Kind::ALL[rng.below(Kind::ALL.len())].action();
    let other = Kind::ALL[rng.below(Kind::ALL.len())].action();
    let types = rng.pick(&["start", "end", "creation", "info", "change"]);
    match rng.below(12) {
        0 => format!(r#"event.action == "{action}""#),
        1 => format!(r#"event.action != "{action}""#),
        2 => format!(r#"event.action in ("{action}", "{other}")"#),
        3 => format!(
            r#"event.action : ("{}*", "{other}")"#,
            &action[..2].to_uppercase()
        ),
        4 => format!(r#"event.type == "{types}""#),
        5 => format!(r#"event.type != "{types}""#),
        6 => format!(r#"event.action not in~ ("{}")"#, action.to_uppercase()),
        7 => "true".to_owned(),
        8 => format!(r#"event.type regex "{types}|x""#),
        _ => {
            let row = &FIELDS[rng.below(FIELDS.len())];
            match row.ty {
                FieldType::Keyword => match rng.below(4) {
                    0 => format!("{} == null", row.path),
                    1 => format!("{} != null", row.path),
                    2 => format!(r#"{} != "{}""#, row.path, rng.pick(TEXTS)),
                    _ => format!(r#"{} : "{}""#, row.path, rng.pick(TEXTS)),
                },
                FieldType::Number => format!("{} >= {}", row.path, rng.below(3)),
                _ => format!("{} != null", row.path),
            }
        }
    }
}
