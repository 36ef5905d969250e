//! All public rules in one engine, against the naive matcher.
//!
//! In: the queries in `../shared/rules-corpus`, read at run time, and events made up from what they ask for: values that
//! satisfy their tests, sometimes spoilt a little. Out: for every rule the same matches from the engine that runs all of
//! them as from the naive matcher that runs one. Where that folder is absent the test says so and counts as skipped.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

mod naive;
mod rng;
mod stream;

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use naive::value::Val;
use rng::Rng;
use sensor::engine::{Builder, Engine, Limits, Match};
use sensor::eql::query::{
    Category, Condition, Expr, FieldType, Filter, Form, Function, Key, Literal, Query,
};
use sensor::eql::{self, Mode, OpenSchema};
use sensor::event::{FieldTable, OwnedValue};
use serde_json::{Map, Value as Json, json};
use stream::{Numbered, Source};

/// Rounds in which every rule has its turn once.
const ROUNDS: u64 = 3;

struct Rule {
    name: String,
    query: Query,
}

fn toml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            toml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
}

/// Every EQL rule of the folder, without the ones that are in another language.
fn rules() -> Vec<Rule> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    let mut paths = Vec::new();
    toml_files(&folder, &mut paths);
    paths.sort();
    if paths.is_empty() {
        let said = format!(
            "SKIPPED: public rules in one engine: no folder {}",
            folder.display()
        );
        _ = writeln!(std::io::stderr(), "{said}");
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a readable file");
        let file: toml::Table = text.parse().expect("a rule is TOML");
        let rule = file.get("rule")?;
        let text_of = |key: &str| rule.get(key).and_then(toml::Value::as_str);
        if text_of("type").unwrap_or("eql") != "eql"
            || text_of("language").unwrap_or("eql") != "eql"
        {
            return None;
        }
        let query = eql::compile(text_of("query")?, &OpenSchema, Mode::Live);
        let query = query
            .unwrap_or_else(|e| panic!("{}: {e:?}", path.display()))
            .query;
        Some(Rule {
            name: path.file_stem()?.to_string_lossy().into_owned(),
            query,
        })
    };
    paths.into_iter().filter_map(read).collect()
}

/// Makes up events that a rule asks for.
struct Maker {
    rng: Rng,
    time_ms: i64,
    events: Vec<Source>,
}

impl Maker {
    /// The events of one match, more or less.
    fn rule(&mut self, query: &Query) {
        let steps: Vec<(&Filter, &[Key], u32)> = match &query.form {
            Form::Event(filter) => vec![(filter, &[][..], 1)],
            Form::Sample(sample) => sample
                .steps
                .iter()
                .map(|s| (&s.filter, &s.keys[..], 1))
                .collect(),
            Form::Sequence(sequence) => {
                let steps = sequence.steps.iter();
                steps.map(|s| (&s.filter, &s.keys[..], s.runs)).collect()
            }
        };
        let mut shared: Vec<Json> = Vec::new();
        for (filter, keys, runs) in steps {
            for _ in 0..runs {
                let mut fields = Map::new();
                self.filter(filter, &mut fields);
                for (position, key) in keys.iter().enumerate() {
                    if shared.len() <= position {
                        let fresh = json!(format!("k{}", self.rng.below(3)));
                        shared.push(fields.get(&*key.path).cloned().unwrap_or(fresh));
                    }
                    if !self.rng.chance(5) {
                        fields.insert(key.path.to_string(), shared[position].clone());
                    }
                }
                self.event(fields);
            }
        }
    }

    fn event(&mut self, mut fields: Map<String, Json>) {
        for (path, count) in [
            ("process.entity_id", 6),
            ("process.parent.entity_id", 6),
            ("user.id", 2),
        ] {
            let value = json!(self.rng.below(count).to_string());
            fields.entry(path).or_insert(value);
        }
        self.time_ms += [0, 1, 200, 2000][self.rng.below(4)];
        let id = i64::try_from(self.events.len() + 1).expect("few events");
        self.events.push(Source {
            id,
            time_ns: self.time_ms * 1_000_000,
            fields,
        });
    }

    fn filter(&mut self, filter: &Filter, fields: &mut Map<String, Json>) {
        let category = match &filter.category {
            Category::Any => "process",
            Category::Named(name) => name,
        };
        fields.insert("event.category".into(), category.into());
        self.condition(&filter.condition, true, fields);
    }

    fn condition(&mut self, condition: &Condition, wanted: bool, fields: &mut Map<String, Json>) {
        match (condition, wanted) {
            (Condition::Const(_) | Condition::Lineage(_), _) => {}
            (Condition::Not(part), _) => self.condition(part, !wanted, fields),
            (Condition::And(parts), true) | (Condition::Or(parts), false) => {
                parts
                    .iter()
                    .for_each(|part| self.condition(part, wanted, fields));
            }
            (Condition::Or(parts), true) | (Condition::And(parts), false) => {
                let one = self.rng.below(parts.len());
                self.condition(&parts[one], wanted, fields);
            }
            // What must not hold mostly does not when nothing is there.
            (Condition::Leaf(leaf), false) => match &leaf.expr {
                Expr::IsNull(inner) => self.present(inner, fields),
                expr if self.rng.chance(4) => self.leaf(expr, fields),
                _ => {}
            },
            (Condition::Leaf(leaf), true) => self.leaf(&leaf.expr, fields),
        }
    }

    fn present(&mut self, expr: &Expr, fields: &mut Map<String, Json>) {
        if let Expr::Field(field) = expr {
            fields
                .entry(field.path.to_string())
                .or_insert("present".into());
        }
    }

    fn leaf(&mut self, expr: &Expr, fields: &mut Map<String, Json>) {
        let (subject, value) = match expr {
            Expr::Field(_) => (expr, json!(true)),
            Expr::Compare { left, right, .. } => match &**right {
                Expr::Literal(literal) => (&**left, self.near(literal)),
                _ => return,
            },
            Expr::In { value, list, .. } => match &list[self.rng.below(list.len())] {
                Expr::Literal(literal) => (&**value, json_of(literal)),
                _ => return,
            },
            Expr::Like {
                value, patterns, ..
            } => {
                let pattern = &patterns[self.rng.below(patterns.len())];
                let fill = ["", "x", "a/b", "é"][self.rng.below(4)];
                (
                    &**value,
                    pattern.replace('*', fill).replace('?', "q").into(),
                )
            }
            Expr::Regex {
                value, patterns, ..
            } => {
                let pattern = &patterns[self.rng.below(patterns.len())];
                (
                    &**value,
                    pattern
                        .replace(['\\', '^', '$', '(', ')'], "")
                        .replace(".*", "zz")
                        .into(),
                )
            }
            Expr::CidrMatch { value, blocks } => {
                let bits = blocks[self.rng.below(blocks.len())].prefix().0 | 1;
                (
                    &**value,
                    IpAddr::V6(Ipv6Addr::from(bits))
                        .to_canonical()
                        .to_string()
                        .into(),
                )
            }
            Expr::Call {
                function: Function::StartsWith | Function::StringContains | Function::EndsWith,
                args,
                ..
            } => match &args[1] {
                Expr::Literal(literal) => (&args[0], json_of(literal)),
                _ => return,
            },
            _ => return,
        };
        let Expr::Field(field) = subject else {
            return;
        };
        if field.step.is_some() {
            return;
        }
        let value = self.spoil(value);
        match fields.get_mut(&*field.path) {
            None => _ = fields.insert(field.path.to_string(), value),
            Some(Json::Array(values)) => values.push(value),
            Some(one) => *one = json!([one.clone(), value]),
        }
    }

    /// A value that a comparison with the literal is about.
    fn near(&mut self, literal: &Literal) -> Json {
        match literal {
            Literal::Int(i) => json!(i.saturating_add([0, 1, -1, 1000][self.rng.below(4)])),
            other => json_of(other),
        }
    }

    /// Now and then something that is nearly the same.
    fn spoil(&mut self, value: Json) -> Json {
        let Json::String(text) = &value else {
            return value;
        };
        match self.rng.below(24) {
            0 => text.to_uppercase().into(),
            1 => format!("{text}x").into(),
            2 => format!("x{text}").into(),
            3 => text.chars().skip(1).collect::<String>().into(),
            _ => value,
        }
    }
}

fn json_of(literal: &Literal) -> Json {
    match literal {
        Literal::Null => Json::Null,
        Literal::Bool(b) => json!(b),
        Literal::Int(i) => json!(i),
        Literal::Float(f) => json!(f),
        Literal::Str(s) => json!(s),
    }
}

type Found = Vec<(Vec<naive::KeyText>, Vec<i64>)>;

fn keys(keys: &[Option<OwnedValue>]) -> Vec<naive::KeyText> {
    let value = |key: &OwnedValue| Val::stored(key, FieldType::Any);
    keys.iter()
        .map(|key| naive::key_text(key.as_ref().map(value).as_ref()))
        .collect()
}

fn run_engine(rules: &[Rule], events: &[Source], sharing: bool) -> Vec<Found> {
    let mut builder = Builder::new(Limits::default());
    if !sharing {
        builder.without_sharing();
    }
    for (number, rule) in rules.iter().enumerate() {
        builder
            .add(number, &rule.query)
            .unwrap_or_else(|e| panic!("{}: {e}", rule.name));
    }
    let mut table = FieldTable::empty();
    let mut engine: Engine<Arc<Numbered>> = builder.build(&mut table).expect("the automata fit");
    let mut matches: Vec<Match<Arc<Numbered>>> = Vec::new();
    for event in stream::number(events, &table) {
        engine.process(&event, &mut matches);
    }
    let mut found = vec![Vec::new(); rules.len()];
    for m in matches {
        found[m.rule].push((keys(&m.keys), m.events.iter().map(|e| e.id).collect()));
    }
    found
}

fn run_naive(rule: &Rule, events: &[Source]) -> Found {
    let mut history = naive::History::default();
    events.iter().for_each(|e| history.event(e.clone()));
    let found = naive::matches(&rule.query, &history, false).into_iter();
    found
        .map(|m| (keys(&m.keys), m.events.iter().map(|e| e.id).collect()))
        .collect()
}

#[test]
fn all_public_rules_together_find_what_each_finds_alone() {
    let rules = rules();
    if rules.is_empty() {
        return;
    }
    let mut matched = vec![false; rules.len()];
    let (mut events_made, mut matches_found) = (0, 0);
    // Streams stay short, because the naive matcher looks at all of it for every event.
    for seed in 0..ROUNDS {
        for part in rules.chunks(60) {
            let mut maker = Maker {
                rng: Rng::new(seed),
                time_ms: 0,
                events: Vec::new(),
            };
            part.iter().for_each(|rule| maker.rule(&rule.query));
            let events = maker.events;
            events_made += events.len();
            let found = run_engine(&rules, &events, true);
            assert_eq!(
                found,
                run_engine(&rules, &events, false),
                "sharing makes a difference"
            );
            for (number, rule) in rules.iter().enumerate() {
                let expected = run_naive(rule, &events);
                matches_found += expected.len();
                matched[number] |= !expected.is_empty();
                if found[number] != expected {
                    let ids = found[number]
                        .iter()
                        .chain(&expected)
                        .flat_map(|(_, ids)| ids);
                    let ids: Vec<i64> = ids.copied().collect();
                    let shown = events.iter().filter(|e| ids.contains(&e.id));
                    let shown: Vec<String> = shown
                        .map(|e| format!("{}: {}", e.id, Json::from(e.fields.clone())))
                        .collect();
                    panic!(
                        "{}: found {:?}\n  the naive matcher found {expected:?}\n{}",
                        rule.name,
                        found[number],
                        shown.join("\n")
                    );
                }
            }
        }
    }
    let matched = matched.iter().filter(|m| **m).count();
    let said = format!(
        "{} public rules over {events_made} events: {matches_found} matches, of {matched} rules",
        rules.len()
    );
    _ = writeln!(std::io::stderr(), "{said}");
    assert!(
        matched * 2 > rules.len(),
        "only {matched} of {} rules matched",
        rules.len()
    );
}
