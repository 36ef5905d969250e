//! What the engine takes and holds of memory, also when somebody tries to make it hold too much.
//!
//! In: streams in which nothing matches, or nothing ever completes. Out: memory, partial matches and evictions, which must
//! stay at their bounds and be counted for the rule concerned, while what is still held completes as ever; an event that no
//! rule wants takes none. Memory is what the allocator gave out.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they rely on"
)]

mod counting;
mod stream;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use counting::{asked, held};
use sensor::engine::{Builder, Engine, Limits, Match};
use sensor::eql::{self, Mode, OpenSchema};
use sensor::event::FieldTable;
use serde_json::{Value as Json, json};
use stream::{Numbered, Source};

type Event = Arc<Numbered>;

struct Run {
    engine: Engine<Event>,
    table: FieldTable,
    matches: Vec<Match<Event>>,
    count: i64,
}

impl Run {
    fn new(limits: Limits, queries: &[&str]) -> Run {
        let mut builder = Builder::new(limits);
        for (rule, text) in queries.iter().enumerate() {
            let checked = eql::compile(text, &OpenSchema, Mode::Live);
            let query = checked.unwrap_or_else(|e| panic!("{text}: {e:?}")).query;
            builder.add(rule, &query).expect("it compiles");
        }
        let mut table = FieldTable::empty();
        let engine = builder.build(&mut table).expect("the automata fit");
        Run {
            engine,
            table,
            matches: Vec::new(),
            count: 0,
        }
    }

    fn event(&mut self, at_ms: i64, fields: Json) {
        self.count += 1;
        let Json::Object(fields) = fields else {
            panic!("an event is an object");
        };
        let source = Source {
            id: self.count,
            time_ns: at_ms * 1_000_000,
            fields,
        };
        for event in stream::number(std::slice::from_ref(&source), &self.table) {
            self.engine.process(&event, &mut self.matches);
        }
    }

    fn partials(&self, rule: usize) -> u64 {
        self.engine.counters()[rule].partials
    }

    fn evicted(&self, rule: usize) -> u64 {
        self.engine.counters()[rule].evicted
    }
}

#[test]
fn unique_keys_that_never_complete_hold_a_bounded_amount() {
    const PARTIALS: i64 = 1000;
    let limits = Limits {
        partials: 1000,
        ..Limits::default()
    };
    let query = "sequence by k with maxspan=1h [any where a == 1] [any where b == 1]";
    let mut run = Run::new(limits, &[query]);
    let mut after_some = 0;
    for n in 0..40 * PARTIALS {
        if n == 4 * PARTIALS {
            after_some = held();
        }
        run.event(n, json!({"a": 1, "k": format!("key {n:>8}")}));
    }
    let grown = held() - after_some;
    assert!(
        grown < after_some / 50,
        "{grown} bytes more than {after_some}"
    );
    assert_eq!((run.partials(0), run.evicted(0)), (1000, 39_000));

    for n in 38 * PARTIALS..40 * PARTIALS {
        run.event(40 * PARTIALS, json!({"b": 1, "k": format!("key {n:>8}")}));
    }
    let first: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    let youngest: Vec<i64> = (39 * PARTIALS + 1..=40 * PARTIALS).collect();
    assert_eq!(
        first, youngest,
        "what is still held completes, what was evicted does not"
    );
    assert_eq!(run.partials(0), 0);
}

/// Bytes one open partial takes: the engine's own, and those of the event it keeps alive.
fn bytes_per_partial(query: &str, event: impl Fn(i64) -> Json) -> (isize, isize) {
    const PARTIALS: i64 = 20_000;
    let mut run = Run::new(Limits::default(), &[query]);
    let source = |n: i64| {
        let Json::Object(fields) = event(n) else {
            panic!("an event is an object");
        };
        Source {
            id: n,
            time_ns: n * 1_000_000,
            fields,
        }
    };
    let sources: Vec<Source> = (0..PARTIALS).map(source).collect();
    let before = held();
    let events = stream::number(&sources, &run.table);
    let of_events = held() - before;
    let before = held();
    for event in &events {
        run.engine.process(event, &mut run.matches);
    }
    let of_engine = held() - before;
    assert_eq!(run.partials(0), PARTIALS.cast_unsigned());
    let each = |bytes: isize| bytes / isize::try_from(PARTIALS).expect("small");
    (each(of_engine), each(of_events))
}

/// The budget counts every partial at `partial_bytes` and its event. That is no less than one that has just begun really takes,
/// and not many times more.
#[test]
fn a_partial_that_begins_takes_what_the_budget_counts() {
    let pair = "sequence by h, k with maxspan=1h [any where a == 1] [any where b == 1]";
    let chain = "sequence by k with maxspan=1h [any where a == 1] [any where b == 1] [any where b == 2] [any where b == 3]
        [any where b == 4] [any where b == 5] until [any where c == 1]";
    let keyed = |n: i64| json!({"a": 1, "h": "0a1b2c3d-4e5f-6071", "k": format!("entity {n:>20}")});
    let counted = isize::try_from(Limits::default().partial_bytes).expect("small");
    for query in [pair, chain] {
        let (engine, event) = bytes_per_partial(query, keyed);
        println!("{engine} bytes and an event of {event} per partial of {query}");
        assert!(
            engine <= counted && engine * 4 > counted,
            "{engine} bytes and an event of {event}, counted at {counted}: {query}"
        );
    }
}

#[test]
fn all_rules_together_hold_a_bounded_amount() {
    // So much for one that the events count for little.
    let limits = Limits {
        bytes: 301 << 20,
        partial_bytes: 1 << 20,
        ..Limits::default()
    };
    let greedy = "sequence by k with maxspan=1h [any where a == 1] [any where b == 1]";
    let modest = "sequence by k with maxspan=1h [any where c == 1] [any where b == 1]";
    let sample = "sample by k [any where a == 1] [any where b == 1]";
    let mut run = Run::new(limits, &[greedy, modest, sample]);
    for n in 0..50 {
        run.event(n, json!({"c": 1, "k": n}));
    }
    for n in 0..5000 {
        run.event(100 + n, json!({"a": 1, "k": 100 + n}));
    }
    let total: u64 = (0..3).map(|rule| run.partials(rule)).sum();
    assert_eq!(total, 300);
    assert_eq!(
        (run.partials(1), run.evicted(1)),
        (50, 0),
        "the rule that holds most gives up first"
    );
    assert_eq!(run.evicted(0) + run.evicted(2), 10_000 - 250);
    run.event(6000, json!({"b": 1, "k": 7}));
    assert_eq!(run.matches.len(), 1);
}

/// Steps after the first hold events as well, and large ones: the budget is for all of it.
#[test]
fn events_that_later_steps_hold_are_part_of_the_budget() {
    const BUDGET: usize = 4 << 20;
    let limits = Limits {
        bytes: BUDGET,
        ..Limits::default()
    };
    let steps = |n| format!("[any where s == {n} and t != null]");
    let steps: Vec<String> = (0..4).map(steps).collect();
    let sequence = format!("sequence by k with maxspan=1h {}", steps.join(" "));
    let sample = "sample by k [any where s == 0 and t != null] [any where s == 9]";
    let mut run = Run::new(limits, &[&sequence, sample]);
    // What is made once, and tables of the size they come to.
    run.event(0, json!({"s": 0, "k": 0, "t": ""}));
    let before = held();
    let text = "x".repeat(10_000);
    let mut most = 0;
    for k in 0..500 {
        for s in 0..3 {
            run.event(1 + 3 * k + s, json!({"s": s, "k": k, "t": text}));
            most = most.max(held() - before);
        }
    }
    assert!(
        most <= BUDGET.cast_signed() && most * 2 > BUDGET.cast_signed(),
        "{most} bytes at a budget of {BUDGET}"
    );
    assert!(run.evicted(0) > 300 && run.partials(0) > 10);
    run.event(2000, json!({"s": 3, "k": 499, "t": text}));
    run.event(2000, json!({"s": 3, "k": 0, "t": text}));
    let found: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    assert_eq!(
        found,
        [2 + 3 * 499],
        "the youngest is still held, the oldest is not"
    );
}

#[test]
fn a_sample_holds_a_bounded_number_of_events() {
    let limits = Limits {
        partials: 100,
        ..Limits::default()
    };
    let mut run = Run::new(
        limits,
        &["sample by k [any where a == 1] [any where b == 1]"],
    );
    for n in 0..1000 {
        run.event(n, json!({"a": 1, "k": n}));
    }
    assert_eq!((run.partials(0), run.evicted(0)), (100, 900));
    // What no longer has its first event waits as well, and makes room for itself: so the youngest first.
    for n in [999, 900, 899] {
        run.event(2000, json!({"b": 1, "k": n}));
    }
    let first: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    assert_eq!(first, [1000, 901]);
}

#[test]
fn the_keys_of_one_event_are_bounded() {
    let query = "sequence [any where a == 1] by l [any where b == 1] by k";
    let mut run = Run::new(Limits::default(), &[query]);
    let list: Vec<String> = (0..1000).map(|n| format!("key {n}")).collect();
    run.event(1, json!({"a": 1, "l": list}));
    let counters = run.engine.counters()[0];
    assert_eq!(
        (counters.partials, counters.truncated_keys > 0),
        (256, true)
    );
    run.event(2, json!({"b": 1, "k": "key 255"}));
    run.event(3, json!({"b": 1, "k": "key 256"}));
    assert_eq!(run.matches.len(), 1);
}

#[test]
fn a_product_of_array_keys_is_bounded() {
    let query = "sequence by l, m [any where a == 1] [any where b == 1]";
    let mut run = Run::new(Limits::default(), &[query]);
    let list: Vec<i64> = (0..100).collect();
    run.event(1, json!({"a": 1, "l": list.clone(), "m": list}));
    let counters = run.engine.counters()[0];
    assert_eq!(
        (counters.partials, counters.truncated_keys),
        (256, 10_000 - 256)
    );
}

#[test]
fn partials_that_wait_for_an_alias_are_bounded() {
    let query = "sequence with maxspan=1h [any where a == 1] as e0 [any where b == e0.n]";
    let mut run = Run::new(Limits::default(), &[query]);
    for n in 0..100 {
        run.event(n, json!({"a": 1, "n": n}));
    }
    assert_eq!((run.partials(0), run.evicted(0)), (64, 36));
    for n in [35, 36, 99] {
        run.event(200, json!({"b": n}));
    }
    let first: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    assert_eq!(first, [37, 100]);
}

#[test]
fn without_a_span_a_partial_goes_after_being_idle() {
    let limits = Limits {
        idle: Duration::from_secs(10),
        ..Limits::default()
    };
    let query = "sequence by k [any where a == 1] [any where b == 1] [any where c == 1]";
    let mut run = Run::new(limits, &[query]);
    run.event(0, json!({"a": 1, "k": 1}));
    run.event(0, json!({"a": 1, "k": 2}));
    run.event(9_000, json!({"b": 1, "k": 1}));
    run.event(18_000, json!({"c": 1, "k": 1}));
    run.event(18_000, json!({"b": 1, "k": 2}));
    run.event(18_000, json!({"c": 1, "k": 2}));
    assert_eq!(run.matches.len(), 1, "each advance begins the wait anew");
    assert_eq!(run.partials(0), 0);
}

#[test]
fn a_span_frees_what_it_ended() {
    let query = "sequence by k with maxspan=1s [any where a == 1] [any where b == 1]";
    let mut run = Run::new(Limits::default(), &[query]);
    let mut most = 0;
    for n in 0..20_000 {
        run.event(n, json!({"a": 1, "k": n}));
        most = most.max(run.partials(0));
    }
    assert!(
        most < 2_100,
        "{most} partials, about one per millisecond of the span and what may be late"
    );
    assert_eq!(run.evicted(0), 0);
}

#[test]
fn unique_remembers_a_bounded_number_of_keys() {
    let limits = Limits {
        unique_keys: 100,
        ..Limits::default()
    };
    let mut run = Run::new(limits, &["any where true | unique k"]);
    for n in 0..1000 {
        run.event(n, json!({"k": n}));
    }
    let all = run.matches.len();
    run.event(2000, json!({"k": 999}));
    run.event(2000, json!({"k": 0}));
    assert_eq!((all, run.matches.len(), run.evicted(0)), (1000, 1001, 901));
}

#[test]
fn what_is_replaced_or_closed_is_no_eviction() {
    let query = "sequence by k with maxspan=1h [any where a == 1] [any where b == 1] until [any where u == 1]";
    let mut run = Run::new(Limits::default(), &[query]);
    for n in 0..10 {
        run.event(n, json!({"a": 1, "k": 1}));
    }
    run.event(10, json!({"u": 1, "k": 1}));
    let counters = run.engine.counters()[0];
    assert_eq!(
        (counters.opened, counters.replaced, counters.closed),
        (10, 9, 1)
    );
    assert_eq!((counters.evicted, counters.partials), (0, 0));
}

#[test]
fn keys_that_come_back_evict_nothing() {
    let limits = Limits {
        partials: 3,
        ..Limits::default()
    };
    let query = "sequence by k with maxspan=1h [any where a == 1] [any where b == 1]";
    let mut run = Run::new(limits, &[query]);
    for n in 0..1000 {
        run.event(n, json!({"a": 1, "k": n % 3}));
    }
    run.event(1000, json!({"b": 1, "k": 1}));
    let first: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    assert_eq!(first, [998], "the newest with the key");
    let counters = run.engine.counters()[0];
    assert_eq!((counters.opened, counters.replaced), (1000, 997));
    assert_eq!((counters.evicted, counters.partials), (0, 2));
}

#[test]
fn what_nobody_asked_for_completes_or_expires() {
    let query = "sequence by k with maxspan=1m [any where a == 1] [any where b == 1]";
    let mut run = Run::new(Limits::default(), &[query]);
    for n in 0..100 {
        run.event(n * 1000, json!({"a": 1, "k": format!("key {n}")}));
    }
    // Sixty seconds, and one for what comes late.
    assert_eq!((run.partials(0), run.evicted(0)), (62, 0));
    assert_eq!(run.engine.counters()[0].expired, 38);
    for key in [20, 39, 40, 99] {
        run.event(99_000, json!({"b": 1, "k": format!("key {key}")}));
    }
    let first: Vec<i64> = run.matches.iter().map(|m| m.events[0].id).collect();
    assert_eq!(first, [40, 41, 100]);
    run.event(300_000, json!({"a": 2}));
    assert_eq!(run.partials(0), 0);
}

/// Every kind of test and every form of query, none of which the quiet events satisfy. Only what builds a new text, as `concat`
/// does, has to ask for memory.
const QUERIES: &[&str] = &[
    r#"process where process.name == "gcc" and process.args : ("*-o", "*.c")"#,
    r#"process where process.name in ("a", "b", "c") or process.name like~ ("ld*", "*cc")"#,
    r#"process where process.command_line regex "curl .*\\|.*sh" and not user.id == "0""#,
    r#"process where length(process.command_line) > 4000 or process.args == user.id"#,
    r#"process where startsWith~(process.executable, "/TMP/") or endsWith(process.executable, ".sh")"#,
    r#"process where stringContains(process.command_line, "LD_PRELOAD=") and process.pid > 100"#,
    r#"any where cidrMatch(destination.ip, "203.0.113.0/24", "2001:db8::/32")"#,
    r#"any where destination.port > 60000 and destination.port < 60010"#,
    r#"process where process.parent.name == null and process.entity_id == "never""#,
    r#"process where process.pid % 7 == 9 or indexOf(process.name, "!") > 3"#,
    r#"process where descendant of [process where process.name == "sshd-never"]"#,
    r#"sequence by process.entity_id with maxspan=1m [process where process.name == "never"] [any where true]"#,
    r#"sequence with maxspan=1m [file where true] as e0 [process where process.name == e0.file.name]"#,
    r#"sequence by user.id with maxspan=1m ![process where process.name == "y"] [file where true] [any where true]"#,
    r#"sample by user.id [file where true] [file where true]"#,
    r#"file where file.path : "/etc/*" | unique file.path"#,
];

fn quiet_events() -> Vec<Source> {
    let event = |id: i64| {
        let name = ["ls", "bash", "systemd-journald"][usize::try_from(id % 3).expect("small")];
        let fields = json!({
            "event.category": if id % 5 == 0 { "network" } else { "process" },
            "event.type": ["start"],
            "process.name": name,
            "process.executable": "/usr/bin/ls",
            "process.args": ["ls", "-l", format!("/home/user/{id}")],
            "process.command_line": format!("ls -l --color=auto /home/user/{id} {}", "x".repeat(300)),
            "process.pid": 1000 + id,
            "process.entity_id": format!("p{}", id % 50),
            "process.parent.name": "bash",
            "process.parent.entity_id": "p0",
            "destination.ip": "192.168.1.7",
            "destination.port": 443,
            "user.id": "1000",
        });
        let Json::Object(fields) = fields else {
            panic!("an object");
        };
        Source {
            id,
            time_ns: id * 1_000_000,
            fields,
        }
    };
    (0..400).map(event).collect()
}

/// Allocations for 300 events that match nothing.
fn taken_by_quiet_events(queries: &[&str]) -> u64 {
    let mut run = Run::new(Limits::default(), queries);
    let events = stream::number(&quiet_events(), &run.table);
    let (first, rest) = events.split_at(100);
    // Scratch space grows to its size, and lineage meets every process once.
    for event in first {
        run.engine.process(event, &mut run.matches);
    }
    let before = asked();
    for event in rest {
        run.engine.process(event, &mut run.matches);
    }
    let taken = asked() - before;
    assert_eq!(run.matches.len(), 0, "the events are quiet");
    taken
}

#[test]
fn an_event_that_matches_nothing_allocates_nothing() {
    assert_eq!(taken_by_quiet_events(QUERIES), 0);
    for query in QUERIES {
        assert_eq!(taken_by_quiet_events(&[query]), 0, "{query}");
    }
}

#[test]
fn an_event_that_no_public_rule_wants_allocates_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/rules-corpus");
    let mut queries = Vec::new();
    collect(&folder, &mut queries);
    if queries.is_empty() {
        let said = format!(
            "SKIPPED: allocations with public rules: no folder {}",
            folder.display()
        );
        _ = writeln!(std::io::stderr(), "{said}");
        return;
    }
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    assert_eq!(
        taken_by_quiet_events(&queries),
        0,
        "with {} rules",
        queries.len()
    );
}

/// The EQL queries of all rule files below a folder.
fn collect(folder: &Path, queries: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, queries);
        } else if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let file: toml::Table = text.parse().expect("a rule is TOML");
            let text_of = |key: &str| file.get("rule")?.get(key)?.as_str();
            let is_eql = |key: &str| text_of(key).is_none_or(|value| value == "eql");
            if is_eql("type") && is_eql("language") {
                queries.extend(text_of("query").map(str::to_owned));
            }
        }
    }
}

#[test]
fn long_lists_find_what_is_in_them() {
    let quoted = |prefix: &str, suffix: &str, n: usize| {
        let one = |i| format!("\"{prefix}{i}{suffix}\"");
        (0..n).map(one).collect::<Vec<_>>().join(", ")
    };
    let exact = format!("any where s in ({})", quoted("value ", "", 50_000));
    let folded = format!("any where s in~ ({})", quoted("Value ", "", 50_000));
    let patterns = format!("any where s like~ ({})", quoted("*part ", " end*", 5_000));
    let mut run = Run::new(Limits::default(), &[&exact, &folded, &patterns]);
    for s in [
        "value 49999",
        "VALUE 7",
        "value 50000",
        "x Part 4999 END",
        "part 5000 end",
    ] {
        run.event(1, json!({"s": s}));
    }
    let found: Vec<(usize, i64)> = run
        .matches
        .iter()
        .map(|m| (m.rule, m.events[0].id))
        .collect();
    assert_eq!(found, [(0, 1), (1, 1), (1, 2), (2, 4)]);
}
