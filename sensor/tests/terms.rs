//! Rules of the types `new_terms` and `threshold`: what they tell, when, and in which words.
//!
//! In: rule files as text and events as seconds and fields. Out: the alerts of each, and the same from a naive model for random
//! streams. The only clock is the events'.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

mod rng;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rng::Rng;
use sensor::alert;
use sensor::document::Source;
use sensor::engine::{Builder, Engine, Limits, RuleCounters, Snapshot};
use sensor::event::{Evidence, FieldTable};
use sensor::json_lines::{FlatEvent, Options, Reader};
use sensor::output::json;
use sensor::rule::{self, Loaded, Rule};
use serde_json::{Value as Json, json};

/// 2026-01-01, in seconds since the Unix epoch.
const START_S: i64 = 1_767_225_600;

fn load(rule: &str) -> Loaded {
    rule::load_source(&Source {
        path: Path::new("r.toml").into(),
        text: rule.to_owned(),
    })
}

fn loaded(ty: &str, rest: &str) -> Arc<Rule> {
    let text = format!(
        "[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"{ty}\"\nlanguage = \"kuery\"\n\
         query = 'event.category : process'\n{rest}"
    );
    let loaded = load(&text);
    assert_eq!(loaded.problems, [], "{text}");
    Arc::clone(&loaded.rules[0])
}

fn new_terms(fields: &[&str], history: &str) -> Arc<Rule> {
    loaded(
        "new_terms",
        &format!(
            "[rule.new_terms]\nfield = \"new_terms_fields\"\nvalue = {fields:?}\n\
             [[rule.new_terms.history_window_start]]\nfield = \"history_window_start\"\nvalue = \"now-{history}\"\n"
        ),
    )
}

/// `rest` are further keys of the threshold.
fn threshold(fields: &[&str], value: u64, window: &str, rest: &str) -> Arc<Rule> {
    loaded(
        "threshold",
        &format!(
            "from = \"now-{window}\"\n[rule.threshold]\nfield = {fields:?}\nvalue = {value}\n{rest}"
        ),
    )
}

fn engine(rule: &Rule, limits: &Limits) -> (Engine<Arc<FlatEvent>>, FieldTable) {
    let mut table = FieldTable::sensor();
    let mut builder = Builder::new(limits.clone());
    builder.add(0, &rule.query).unwrap();
    (builder.build(&mut table).unwrap(), table)
}

/// A rule over a stream.
struct Run {
    rule: Arc<Rule>,
    limits: Limits,
    engine: Engine<Arc<FlatEvent>>,
    reader: Reader,
    alerts: alert::Builder,
    documents: Vec<Json>,
}

impl Run {
    fn new(rule: &Arc<Rule>, limits: Limits) -> Run {
        let (engine, mut table) = engine(rule, &limits);
        let alerts = alert::Builder::new(&mut table);
        let mut wanted = engine.needed_fields().to_vec();
        wanted.extend(alerts.wanted());
        Run {
            rule: Arc::clone(rule),
            limits,
            reader: Reader::new(&table, &wanted, &Options::default()),
            engine,
            alerts,
            documents: Vec::new(),
        }
    }

    /// One event, some seconds after the start; the messages of the alerts it makes.
    fn event(&mut self, second: i64, fields: &Json) -> Vec<String> {
        let mut event = fields.as_object().unwrap().clone();
        let time = jiff::Timestamp::from_second(START_S + second).unwrap();
        event.insert("@timestamp".into(), json!(time.to_string()));
        event
            .entry("event.category")
            .or_insert_with(|| json!("process"));
        event.entry("event.action").or_insert_with(|| json!("exec"));
        let line = Json::from(event).to_string();
        let event = self.reader.parse(line.as_bytes(), 1).unwrap();
        let mut matches = Vec::new();
        self.engine.process(&Arc::new(event), &mut matches);
        let mut messages = Vec::new();
        for group in alert::merge(matches) {
            let events = group.events.into_iter().map(|e| e as Arc<dyn Evidence>);
            let alert =
                self.alerts
                    .build(&self.rule, &group.keys, events.collect(), group.tally, 0);
            let mut document = Vec::new();
            json::write_alert(&alert, &mut document);
            self.documents
                .push(serde_json::from_slice(&document).unwrap());
            messages.push(alert.message);
        }
        messages
    }

    /// Goes on in another engine, with what this one saved.
    fn restart(&mut self) {
        let snapshot = self.engine.save(|_| ());
        let text = serde_json::to_string(&snapshot).unwrap();
        let snapshot: Snapshot<()> = serde_json::from_str(&text).unwrap();
        (self.engine, _) = engine(&self.rule, &self.limits);
        self.engine.restore(snapshot, |()| None);
    }

    fn counters(&self) -> RuleCounters {
        self.engine.counters()[0]
    }
}

/// Events as seconds and fields, each with the messages it must bring.
fn check(rule: &Arc<Rule>, limits: Limits, events: &[(i64, Json, &[&str])]) -> Run {
    let mut run = Run::new(rule, limits);
    for (second, fields, expected) in events {
        let found = run.event(*second, fields);
        assert_eq!(found, *expected, "at {second}: {fields}");
    }
    run
}

const DAY: i64 = 86_400;

#[test]
fn a_term_is_new_when_the_history_lacks_it() {
    let name = |name: &str| json!({ "process.name": name });
    let run = check(
        &new_terms(&["process.name"], "2d"),
        Limits::default(),
        &[
            (
                0,
                name("a"),
                &["R: a, new since 2026-01-01T00:00:00Z: process.name a"],
            ),
            (10, name("a"), &[]),
            (
                20,
                name("b"),
                &["R: b, new since 2026-01-01T00:00:00Z: process.name b"],
            ),
            // Seeing it again makes the history begin anew.
            (DAY, name("a"), &[]),
            (3 * DAY, name("a"), &[]),
            (
                3 * DAY,
                name("b"),
                &["R: b, new since 2026-01-02T00:00:00Z: process.name b"],
            ),
            (
                5 * DAY + 1,
                name("a"),
                &["R: a, new since 2026-01-04T00:00:01Z: process.name a"],
            ),
            (6 * DAY, json!({ "process.pid": 4 }), &[]),
            (
                6 * DAY,
                json!({ "event.category": "file", "process.name": "z" }),
                &[],
            ),
        ],
    );
    assert_eq!(run.counters().terms, 1);
    let state = &run.documents[1]["eql_sensor"]["alert"];
    assert_eq!(
        state["new_terms"],
        json!({ "fields": ["process.name"], "since": "2026-01-01T00:00:00.000Z" })
    );
    assert_eq!(
        state["join"],
        json!([{ "fields": ["process.name"], "values": ["b"] }])
    );
}

#[test]
fn combinations_are_what_counts_and_every_value_of_an_array_makes_some() {
    let event = |host: &str, args: &[&str]| json!({ "host.id": host, "process.args": args });
    let rule = new_terms(&["host.id", "process.args"], "5d");
    let run = check(
        &rule,
        Limits::default(),
        &[
            (
                0,
                event("h", &["x", "y", "x"]),
                &[
                    "R: a process, new since 2026-01-01T00:00:00Z: host.id h, process.args x and 1 more",
                ],
            ),
            (1, event("h", &["y"]), &[]),
            (
                2,
                event("g", &["y"]),
                &["R: a process, new since 2026-01-01T00:00:00Z: host.id g, process.args y"],
            ),
            (
                3,
                event("h", &["y", "z"]),
                &["R: a process, new since 2026-01-01T00:00:00Z: host.id h, process.args z"],
            ),
            (4, json!({ "host.id": "h" }), &[]),
        ],
    );
    assert_eq!(run.counters().terms, 4);
}

#[test]
fn while_learning_terms_are_noted_and_not_told() {
    let name = |name: &str| json!({ "process.name": name });
    let limits = |seconds| Limits {
        learning: Duration::from_secs(seconds),
        ..Limits::default()
    };
    let run = check(
        &new_terms(&["process.name"], "5d"),
        limits(60),
        &[
            // Learning begins with the stream, not with the rule's first match.
            (0, json!({ "event.category": "file" }), &[]),
            (50, name("a"), &[]),
            (
                61,
                name("b"),
                &["R: b, new since 2026-01-01T00:00:00Z: process.name b"],
            ),
            (62, name("a"), &[]),
        ],
    );
    assert_eq!((run.counters().learned, run.counters().terms), (1, 2));
    // Never longer than the history.
    check(
        &new_terms(&["process.name"], "30s"),
        limits(3600),
        &[
            (0, name("a"), &[]),
            (
                31,
                name("b"),
                &["R: b, new since 2026-01-01T00:00:01Z: process.name b"],
            ),
        ],
    );
}

#[test]
fn beyond_the_bound_the_longest_unused_is_forgotten_and_counted() {
    let mut run = Run::new(
        &new_terms(&["process.name"], "5d"),
        Limits {
            terms: 3,
            ..Limits::default()
        },
    );
    let mut told = |second, name: &str| {
        !run.event(second, &json!({ "process.name": name }))
            .is_empty()
    };
    for (second, name) in (0..).zip(["a", "b", "c"]) {
        assert!(told(second, name));
    }
    assert!(!told(3, "a"));
    assert!(told(4, "d"));
    assert!(!told(5, "a"));
    // It was there, and had to go.
    assert!(told(6, "b"));
    assert_eq!((run.counters().forgotten, run.counters().terms), (2, 3));
}

#[test]
fn a_count_is_told_once_for_a_window_and_key() {
    let user = |name: &str| json!({ "user.name": name, "process.name": "kill", "process.pid": 5 });
    let run = check(
        &threshold(&["user.name", "process.name"], 3, "1m", ""),
        Limits::default(),
        &[
            (0, user("a"), &[]),
            (10, user("a"), &[]),
            (11, user("b"), &[]),
            (
                40,
                user("a"),
                &["R: kill (pid 5), 3 times within 40 s: user.name a, process.name kill"],
            ),
            (41, user("a"), &[]),
            (42, user("a"), &[]),
            (43, user("a"), &[]),
            (100, user("a"), &[]),
            // The window has passed, and counting begins anew.
            (101, user("a"), &[]),
            (102, user("a"), &[]),
            (
                103,
                user("a"),
                &["R: kill (pid 5), 3 times within 2000 ms: user.name a, process.name kill"],
            ),
            (200, user("b"), &[]),
            (201, user("b"), &[]),
            (
                260,
                user("b"),
                &["R: kill (pid 5), 3 times within 60 s: user.name b, process.name kill"],
            ),
        ],
    );
    let state = &run.documents[0]["eql_sensor"]["alert"];
    assert_eq!(
        state["threshold_result"],
        json!({ "count": 3, "from": "2026-01-01T00:00:00.000Z" })
    );
}

#[test]
fn the_window_slides() {
    let event = || json!({ "user.name": "a" });
    check(
        &threshold(&["user.name"], 3, "10s", ""),
        Limits::default(),
        &[
            (0, event(), &[]),
            (9, event(), &[]),
            (11, event(), &[]),
            (
                19,
                event(),
                &["R: a process, 3 times within 10 s: user.name a"],
            ),
        ],
    );
}

#[test]
fn without_fields_all_events_count_together() {
    let rule = threshold(&[], 2, "9m", "");
    check(
        &rule,
        Limits::default(),
        &[
            (0, json!({ "user.name": "a" }), &[]),
            (1, json!({}), &["R: a process, 2 times within 1000 ms"]),
        ],
    );
}

#[test]
fn different_values_of_a_field_can_be_counted() {
    let rule = threshold(
        &["host.id"],
        1,
        "9m",
        "[[rule.threshold.cardinality]]\nfield = \"process.args\"\nvalue = 3\n",
    );
    let args = |args: &[&str]| json!({ "host.id": "h", "process.args": args });
    let run = check(
        &rule,
        Limits::default(),
        &[
            (0, args(&["ping", "1"]), &[]),
            (1, args(&["ping", "1"]), &[]),
            (
                2,
                args(&["ping", "2"]),
                &["R: a process, 3 times with 3 values of process.args within 2000 ms: host.id h"],
            ),
            (3, args(&["x", "y", "z"]), &[]),
            // What has left the window is not among them.
            (600, args(&["1", "2"]), &[]),
            (1141, args(&["3"]), &[]),
            (
                1142,
                args(&["1", "2"]),
                &["R: a process, 2 times with 3 values of process.args within 1000 ms: host.id h"],
            ),
        ],
    );
    assert_eq!(
        run.documents[0]["eql_sensor"]["alert"]["threshold_result"]["cardinality"],
        json!([{ "field": "process.args", "value": 3 }])
    );
}

#[test]
fn keys_counted_by_are_bounded_and_leave_with_time() {
    let mut run = Run::new(
        &threshold(&["process.pid"], 2, "1m", ""),
        Limits {
            terms: 10,
            ..Limits::default()
        },
    );
    for pid in 0..100 {
        assert!(run.event(0, &json!({ "process.pid": pid })).is_empty());
    }
    assert_eq!((run.counters().terms, run.counters().forgotten), (10, 90));
    run.event(61, &json!({ "process.pid": 1 }));
    assert_eq!((run.counters().terms, run.counters().forgotten), (1, 90));
    // Many events of one key cost no more than the count asks for.
    let mut run = Run::new(
        &threshold(&["process.pid"], 1000, "1m", ""),
        Limits {
            terms: 10,
            ..Limits::default()
        },
    );
    for pid in 0..5 {
        for _ in 0..100 {
            run.event(0, &json!({ "process.pid": pid }));
        }
    }
    assert_eq!((run.counters().terms, run.counters().forgotten), (1, 4));
}

#[test]
fn what_was_counted_outlives_a_restart() {
    let rest = "[[rule.threshold.cardinality]]\nfield = \"process.args\"\nvalue = 3\n";
    let rule = threshold(&["user.name"], 4, "1m", rest);
    let mut run = Run::new(&rule, Limits::default());
    let event = |second: i64, arg: &str, run: &mut Run| {
        let fields = json!({ "user.name": "a", "process.args": ["x", arg] });
        run.event(second, &fields).len()
    };
    assert_eq!(event(0, "1", &mut run), 0);
    assert_eq!(event(1, "1", &mut run), 0);
    run.restart();
    assert_eq!(run.counters().terms, 1);
    assert_eq!(event(2, "1", &mut run), 0, "three events, two values");
    run.restart();
    assert_eq!(event(3, "2", &mut run), 1);
    let state = run.documents[0]["eql_sensor"]["alert"].take();
    assert_eq!(state["threshold_result"]["count"], 4, "{state}");
    // It is not told again within the window, and counts anew after it.
    run.restart();
    for second in 4..10 {
        assert_eq!(event(second, "3", &mut run), 0);
    }
    assert_eq!(event(63, "3", &mut run), 0, "up to the end of the window");
    for (second, arg, told) in [(64, "1", 0), (65, "2", 0), (66, "3", 0), (67, "3", 1)] {
        run.restart();
        assert_eq!(event(second, arg, &mut run), told, "at {second}");
    }
    // The bound of the engine that goes on holds: the keys used last stay.
    let mut run = Run::new(&threshold(&["process.pid"], 2, "1m", ""), Limits::default());
    for pid in 0..20 {
        assert!(run.event(0, &json!({ "process.pid": pid })).is_empty());
    }
    run.limits.terms = 5;
    run.restart();
    assert_eq!(run.counters().terms, 5);
    assert_eq!(run.event(1, &json!({ "process.pid": 19 })).len(), 1);
    assert_eq!(run.event(1, &json!({ "process.pid": 3 })).len(), 0);
}

/// What a threshold rule must tell, from all it has seen.
#[derive(Default)]
struct Naive {
    events: HashMap<String, Vec<i64>>,
    told: HashMap<String, i64>,
}

impl Naive {
    fn event(&mut self, key: &str, second: i64, value: usize, window: i64) -> bool {
        if self
            .told
            .get(key)
            .is_some_and(|told| second <= told + window)
        {
            return false;
        }
        let events = self.events.entry(key.to_owned()).or_default();
        events.push(second);
        if events.iter().filter(|s| **s >= second - window).count() < value {
            return false;
        }
        events.clear();
        self.told.insert(key.to_owned(), second);
        true
    }
}

#[test]
fn random_streams_agree_with_a_naive_model() {
    let mut told = (0, 0);
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let value = 1 + rng.below(4);
        let rule = threshold(&["user.name"], value as u64, "20s", "");
        let mut counted = Run::new(&rule, Limits::default());
        let mut fresh = Run::new(&new_terms(&["user.name"], "20s"), Limits::default());
        let (mut naive, mut last) = (Naive::default(), HashMap::new());
        let mut second = 0;
        for _ in 0..100 {
            second += [0, 1, 3, 9, 30][rng.below(5)];
            let user = ["a", "b", "c"][rng.below(3)];
            let event = json!({ "user.name": user });
            if rng.below(10) == 0 {
                counted.restart();
            }
            let expected = naive.event(user, second, value, 20);
            let found = counted.event(second, &event);
            assert_eq!(
                found.len(),
                usize::from(expected),
                "seed {seed}, at {second}"
            );
            told.0 += found.len();
            let before = last.insert(user, second);
            let expected = before.is_none_or(|before| before < second - 20);
            let found = fresh.event(second, &event);
            assert_eq!(
                found.len(),
                usize::from(expected),
                "seed {seed}, at {second}"
            );
            told.1 += found.len();
        }
    }
    assert!(told.0 > 300 && told.1 > 300, "{told:?}");
}

#[test]
fn every_problem_of_a_rule_is_told_at_once() {
    let text = |ty: &str, rest: &str| {
        format!(
            "[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"{ty}\"\nquery = 'process.name : (x'\n{rest}"
        )
    };
    for (rule, expected) in [
        (
            text(
                "new_terms",
                "[rule.new_terms]\nvalue = [\"process.nme\", \"a\", \"b\", \"c\"]\n\
                 [[rule.new_terms.history_window_start]]\nvalue = \"now+7d\"\n",
            ),
            "r.toml:5:25: error: this bracket is not closed; close it with `)`\n\
             r.toml:7:10: error: `rule.new_terms.value`: unknown field `process.nme`; did you mean `process.name`?\n\
             r.toml:7:25: error: `rule.new_terms.value`: unknown field `a`\n\
             r.toml:7:30: error: `rule.new_terms.value`: unknown field `b`\n\
             r.toml:7:35: error: `rule.new_terms.value` holds 4 fields, must hold 1 to 3\n\
             r.toml:7:35: error: `rule.new_terms.value`: unknown field `c`\n\
             r.toml:9:9: error: `rule.new_terms.history_window_start` is \"now+7d\", must be a time before now: now-9m, with s, m, h, d or w",
        ),
        (
            text(
                "threshold",
                "from = \"yesterday\"\n[rule.threshold]\nfield = [\"host.id\"]\nvalue = 0\n\
                 [[rule.threshold.cardinality]]\nfield = \"process.arg\"\nvalue = 3\n",
            ),
            "r.toml:5:25: error: this bracket is not closed; close it with `)`\n\
             r.toml:6:8: error: `rule.from` is \"yesterday\", must be a time before now: now-9m, with s, m, h, d or w\n\
             r.toml:9:9: error: `rule.threshold.value` is 0, must be a whole number from 1 to 100000\n\
             r.toml:11:9: error: `rule.threshold.cardinality.field`: unknown field `process.arg`; did you mean `process.args`?",
        ),
    ] {
        let found: Vec<String> = load(&rule)
            .problems
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.join("\n"), expected);
    }
}

#[test]
fn other_languages_and_filters_are_skipped_by_name() {
    let reason = |text: &str| {
        let loaded = load(&format!(
            "[rule]\nrule_id = \"r\"\nname = \"R\"\nquery = 'a : b'\n{text}"
        ));
        let skipped = loaded.skipped.first().map(|skipped| skipped.reason.clone());
        skipped.unwrap_or_else(|| format!("{:?}", loaded.problems))
    };
    for (text, expected) in [
        ("type = \"esql\"", "not supported: esql"),
        (
            "type = \"machine_learning\"",
            "not supported: machine_learning",
        ),
        (
            "type = \"threat_match\"\nlanguage = \"kuery\"",
            "not supported: threat_match",
        ),
        (
            "type = \"query\"\nlanguage = \"lucene\"",
            "not supported: query in \"lucene\"",
        ),
        (
            "type = \"query\"\n[[rule.filters]]\nquery = {}\n",
            "not supported: filters",
        ),
    ] {
        assert_eq!(reason(text), expected);
    }
    let off = "[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"query\"\nquery = 'process.name : b'\n\
               [[rule.filters]]\nmeta = { disabled = true }\n";
    assert_eq!(load(off).rules.len(), 1);
}
