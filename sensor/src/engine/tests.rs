//! The engine from outside: hand-built queries over hand-built events.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::eql::Span;
use crate::eql::query::*;
use crate::event::{Value, Values};

struct Row {
    time_ns: i64,
    id: i64,
    fields: Vec<Vec<OwnedValue>>,
}

impl Fields for Row {
    fn time_ns(&self) -> i64 {
        self.time_ns
    }

    fn values(&self, field: FieldId) -> Values<'_> {
        self.fields
            .get(usize::from(field.0))
            .map_or(Values::Missing, |v| Values::List(v))
    }
}

struct Stream {
    table: FieldTable,
    events: Vec<Arc<Row>>,
}

impl Stream {
    fn new() -> Self {
        Self {
            table: FieldTable::empty(),
            events: Vec::new(),
        }
    }

    /// Adds an event at a millisecond; values are separated by spaces.
    fn add(&mut self, ms: i64, category: &str, fields: &[(&str, &str)]) {
        let mut row = Row {
            time_ns: ms * 1_000_000,
            id: self.events.len() as i64 + 1,
            fields: Vec::new(),
        };
        for (path, values) in [("event.category", category)].iter().chain(fields) {
            let id = usize::from(self.table.intern(path).0);
            row.fields
                .resize_with(row.fields.len().max(id + 1), Vec::new);
            row.fields[id] = values
                .split_whitespace()
                .map(|v| OwnedValue::Str(v.into()))
                .collect();
        }
        self.events.push(Arc::new(row));
    }

    fn run(&mut self, query: &Query) -> Vec<(Vec<i64>, String)> {
        let mut builder = Builder::new(Limits::default());
        builder.add(0, query).unwrap();
        let mut engine = builder.build(&mut self.table).unwrap();
        let mut found = Vec::new();
        for event in &self.events {
            engine.process(event, &mut found);
        }
        engine.finish(&mut found);
        found
            .into_iter()
            .map(|m| (m.events.iter().map(|e| e.id).collect(), key_text(&m.keys)))
            .collect()
    }
}

fn key_text(keys: &[Option<OwnedValue>]) -> String {
    let text = |k: &Option<OwnedValue>| match k.as_ref().map(OwnedValue::as_value) {
        Some(Value::Str(s)) => s.to_owned(),
        other => format!("{other:?}"),
    };
    keys.iter().map(text).collect::<Vec<_>>().join(",")
}

fn is(path: &str, values: &[&str]) -> Condition {
    let field = Expr::Field(Field {
        path: path.into(),
        ty: FieldType::Any,
        step: None,
    });
    let list = values
        .iter()
        .map(|v| Expr::Literal(Literal::Str((*v).into())))
        .collect();
    Condition::Leaf(Leaf {
        expr: Expr::In {
            value: Box::new(field),
            list,
            fold: false,
        },
        span: Span::default(),
    })
}

fn filter(category: &str, condition: Condition) -> Filter {
    Filter {
        category: Category::Named(category.into()),
        condition,
        span: Span::default(),
    }
}

fn step(filter: Filter, keys: &[&str]) -> Step {
    let key = |path: &&str| Key {
        path: (*path).into(),
        ty: FieldType::Any,
        optional: false,
    };
    let keys = keys.iter().map(key).collect();
    Step {
        filter,
        keys,
        runs: 1,
        missing: false,
        alias: None,
        span: Span::default(),
    }
}

fn sequence(steps: Vec<Step>, span_ms: u64) -> Query {
    let sequence = crate::eql::query::Sequence {
        steps,
        maxspan: Some(Duration::from_millis(span_ms)),
        until: None,
    };
    Query {
        form: Form::Sequence(sequence),
        pipes: Vec::new(),
    }
}

/// The worked trace of the founding rule: array keys, overwriting, moving, consumption and an inclusive maxspan.
#[test]
fn founding_rule_trace() {
    let mut s = Stream::new();
    let exec = |s: &mut Stream, ms, name: &str, args: &str| {
        s.add(
            ms,
            "process",
            &[
                ("event.action", "exec"),
                ("host.id", "h1"),
                ("process.name", name),
                ("process.args", args),
            ],
        );
    };
    let file = |s: &mut Stream, ms, name: &str, file: &str| {
        s.add(
            ms,
            "file",
            &[
                ("event.action", "creation"),
                ("host.id", "h1"),
                ("process.name", name),
                ("file.name", file),
            ],
        );
    };
    let connect = |s: &mut Stream, ms, name: &str| {
        s.add(
            ms,
            "network",
            &[
                ("event.action", "connection_attempted"),
                ("host.id", "h1"),
                ("process.name", name),
            ],
        );
    };
    exec(&mut s, 0, "bash", "bash build.sh");
    exec(&mut s, 100, "gcc", "gcc -o exp exp.c");
    exec(&mut s, 120, "cc1", "cc1");
    file(&mut s, 300, "cc1", "ccA.s");
    exec(&mut s, 350, "ld", "ld");
    exec(&mut s, 400, "gcc", "gcc -c -o util.o util.c");
    file(&mut s, 450, "ld", "exp");
    file(&mut s, 500, "as", "util.o");
    exec(&mut s, 2000, "exp", "./exp");
    exec(&mut s, 2100, "curl", "curl");
    connect(&mut s, 2150, "curl");
    connect(&mut s, 2300, "exp");
    connect(&mut s, 2400, "exp");
    exec(&mut s, 3000, "gcc", "gcc -o exp exp.c");
    file(&mut s, 3200, "ld", "exp");
    exec(&mut s, 62900, "exp", "exp");
    connect(&mut s, 63100, "exp");
    let exec = |c| Condition::And(vec![is("event.action", &["exec"]), c]);
    let query = sequence(
        vec![
            step(
                filter("process", exec(is("process.name", &["gcc", "g++", "cc"]))),
                &["host.id", "process.args"],
            ),
            step(
                filter("file", is("process.name", &["ld"])),
                &["host.id", "file.name"],
            ),
            step(
                filter("process", is("event.action", &["exec"])),
                &["host.id", "process.name"],
            ),
            step(
                filter("network", Condition::Const(true)),
                &["host.id", "process.name"],
            ),
        ],
        60_000,
    );
    assert_eq!(s.run(&query), [(vec![2, 7, 9, 12], "h1,exp".to_owned())]);
}

#[test]
fn event_queries_any_category_and_negation() {
    let mut s = Stream::new();
    s.add(1, "process", &[("a", "x y")]);
    s.add(2, "file process", &[("a", "y")]);
    s.add(3, "", &[("a", "z")]);
    let event = |f| Query {
        form: Form::Event(f),
        pipes: Vec::new(),
    };
    let ids =
        |s: &mut Stream, q: Query| s.run(&q).into_iter().flat_map(|m| m.0).collect::<Vec<_>>();
    assert_eq!(
        ids(&mut s, event(filter("process", is("a", &["x", "q"])))),
        [1]
    );
    assert_eq!(
        ids(
            &mut s,
            event(filter("process", Condition::Not(Box::new(is("a", &["x"])))))
        ),
        [2]
    );
    let any = Filter {
        category: Category::Any,
        condition: is("a", &["y", "z"]),
        span: Span::default(),
    };
    assert_eq!(ids(&mut s, event(any)), [1, 2, 3]);
}

#[test]
fn a_sampled_rule_looks_at_one_event_in_sixteen_and_the_others_at_all() {
    let mut s = Stream::new();
    for ms in 0..160 {
        s.add(ms, "process", &[("a", "x")]);
    }
    let mut builder = Builder::new(Limits::default());
    for rule in 0..2 {
        let form = Form::Event(filter("process", is("a", &["x"])));
        let pipes = Vec::new();
        builder.add(rule, &Query { form, pipes }).unwrap();
    }
    let mut engine = builder.build(&mut s.table).unwrap();
    let matches_of = |engine: &mut Engine<Arc<Row>>| {
        let mut found = Vec::new();
        for event in &s.events {
            engine.process(event, &mut found);
        }
        [0, 1].map(|rule| found.iter().filter(|found| found.rule == rule).count())
    };
    assert_eq!(matches_of(&mut engine), [160, 160]);
    engine.sample(1, true);
    assert_eq!(engine.sampled(), [1]);
    assert_eq!(matches_of(&mut engine), [160, 10]);
    assert_eq!(engine.passed_over(), [0, 150]);
    engine.sample(1, false);
    assert_eq!(matches_of(&mut engine), [160, 160]);
    assert_eq!(engine.passed_over(), [0, 150]);
}

/// A pair of stages both satisfied by every event: descending order keeps one event out of two places of one match.
#[test]
fn one_event_never_fills_two_steps_of_a_match() {
    let mut s = Stream::new();
    for ms in 1..=4 {
        s.add(ms, "p", &[("k", "a")]);
    }
    let p = || step(filter("p", Condition::Const(true)), &["k"]);
    let pairs: Vec<_> = s
        .run(&sequence(vec![p(), p()], 100))
        .into_iter()
        .map(|m| m.0)
        .collect();
    assert_eq!(pairs, [[1, 2], [2, 3], [3, 4]]);
    let mut three = p();
    three.runs = 3;
    let runs: Vec<_> = s
        .run(&sequence(vec![three], 100))
        .into_iter()
        .map(|m| m.0)
        .collect();
    assert_eq!(runs, [[1, 2, 3], [2, 3, 4]]);
}

/// Unique keys that never complete: the bound holds, evictions are counted, what remains still completes.
#[test]
fn memory_is_bounded() {
    let mut s = Stream::new();
    for i in 0..1000 {
        s.add(i, "a", &[("k", &format!("k{i}"))]);
    }
    s.add(1000, "b", &[("k", "k999")]);
    s.add(1001, "b", &[("k", "k0")]);
    let query = sequence(
        vec![
            step(filter("a", Condition::Const(true)), &["k"]),
            step(filter("b", Condition::Const(true)), &["k"]),
        ],
        100_000,
    );
    let mut builder = Builder::new(Limits {
        partials: 64,
        ..Limits::default()
    });
    builder.add(3, &query).unwrap();
    let mut engine: Engine<Arc<Row>> = builder.build(&mut s.table).unwrap();
    let mut found = Vec::new();
    for event in &s.events {
        engine.process(event, &mut found);
        assert!(engine.counters()[3].partials <= 64);
    }
    assert_eq!(
        found.iter().map(|m| m.events[0].id).collect::<Vec<_>>(),
        [1000]
    );
    assert_eq!(engine.counters()[3].evicted, 1000 - 64);
    assert_eq!(engine.counters()[3].opened, 1000);
}
