//! What one event costs the engine: by rules loaded, by pending sequences, and in the worst cases.
//!
//! In: a synthetic host stream and public rules beside the checkout, read at run time; without them those cases are left out
//! and that is said. Out: criterion's figures, per event, in processor time, so that other work on the machine counts
//! little, and for each case what the engine holds per open partial match, without the events. Every run starts with an engine that has seen nothing.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench states what it relies on"
)]

#[path = "../tests/counting/mod.rs"]
mod counting;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use counting::held;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use sensor::engine::{Builder, Engine, Limits, Match};
use sensor::eql::query::Query;
use sensor::eql::{self, Mode, OpenSchema};
use sensor::event::FieldTable;
use sensor::json_lines::{FlatEvent, Options, Reader};
use sensor::rule;

const FOUNDING: &str = r#"
sequence by host.id with maxspan=1m
[process where host.os.type == "linux" and event.action == "exec" and event.type == "start" and
process.name in ("gcc", "g++", "cc")] by process.args
[file where host.os.type == "linux" and event.action == "creation" and process.name == "ld"] by file.name
[process where host.os.type == "linux" and event.action == "exec" and event.type == "start"] by process.name
[network where host.os.type == "linux" and event.action == "connection_attempted"] by process.name"#;

/// Time the measuring thread spent on a processor.
struct ProcessorTime;

fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        now.tv_sec.try_into().unwrap(),
        now.tv_nsec.try_into().unwrap(),
    )
}

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        processor_time()
    }

    fn end(&self, start: Duration) -> Duration {
        processor_time() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Events read, and then let act, together: few enough that they are still in the processor's caches, as in the daemon an event is that
/// has just been made; enough that looking at the clock costs a nanosecond or two for each.
const TOGETHER: usize = 128;

fn shared(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared")
        .join(path)
}

/// The synthetic stream at a rate of events per second, made once and kept under `target`.
fn stream(eps: u32) -> Option<PathBuf> {
    let out =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/bench/stream-{eps}.ndjson"));
    if !out.exists() {
        let generator = shared("bench/engine_baseline.py");
        std::fs::create_dir_all(out.parent()?).ok()?;
        let made = Command::new("python3")
            .arg(generator)
            .args([
                "gen",
                "--events",
                "200000",
                "--eps",
                &eps.to_string(),
                "--out",
            ])
            .arg(&out)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!(
                "SKIPPED: the stream cannot be made, which takes python3 and ../shared/bench"
            );
            return None;
        }
    }
    Some(out)
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn read(reader: &mut Reader, lines: &[String]) -> Vec<Arc<FlatEvent>> {
    lines
        .iter()
        .map(|line| Arc::new(reader.parse(line.as_bytes(), 1).unwrap()))
        .collect()
}

fn compiled(text: &str) -> Query {
    eql::compile(text, &OpenSchema, Mode::Live).unwrap().query
}

fn engine(queries: &[Query], table: &mut FieldTable, limits: Limits) -> Engine<Arc<FlatEvent>> {
    let mut builder = Builder::new(limits);
    for (number, query) in queries.iter().enumerate() {
        builder.add(number, query).unwrap();
    }
    builder.build(table).unwrap()
}

/// Lets the events of all lines act. The time spent in the engine alone: events are made before and freed after, whoever held
/// them last.
fn run(
    engine: &mut Engine<Arc<FlatEvent>>,
    reader: &mut Reader,
    lines: &[String],
) -> (Duration, Vec<Match<Arc<FlatEvent>>>) {
    let (mut matches, mut spent) = (Vec::new(), Duration::ZERO);
    let mut acted = Vec::with_capacity(lines.len());
    for lines in lines.chunks(TOGETHER) {
        let events = read(reader, lines);
        let start = processor_time();
        for event in &events {
            engine.process(event, &mut matches);
        }
        spent += processor_time() - start;
        acted.extend(events);
    }
    (spent, matches)
}

/// Says what a case is made of: its matches, its open partials and what they take. Matches are dropped as they come.
fn describe(name: &str, mut engine: Engine<Arc<FlatEvent>>, events: &[Arc<FlatEvent>]) {
    let (mut found, mut most, mut bytes) = (0, 0, 0);
    let mut matches = Vec::new();
    // What is made once, with the first events, is no part of a partial.
    let mut before = held();
    for event in events {
        engine.process(event, &mut matches);
        found += matches.len();
        matches.clear();
        let partials: u64 = engine.counters().iter().map(|c| c.partials).sum();
        if partials == 0 {
            before = held();
        }
        if partials > most {
            (most, bytes) = (partials, held() - before);
        }
    }
    let each = bytes / isize::try_from(most.max(1)).unwrap();
    eprintln!(
        "{name}: {} events, {found} matches, at most {most} partials, {bytes} bytes then, {each} per partial",
        events.len()
    );
}

/// Runs all events through a fresh engine per iteration.
fn measure(
    c: &mut Criterion<ProcessorTime>,
    name: &str,
    queries: &[Query],
    limits: &Limits,
    lines: &[String],
) {
    let mut table = FieldTable::sensor();
    let wanted = engine(queries, &mut table, limits.clone())
        .needed_fields()
        .to_vec();
    let mut reader = Reader::new(&table, &wanted, &Options::default());
    let new = engine(queries, &mut table, limits.clone());
    describe(name, new, &read(&mut reader, lines));
    let mut group = c.benchmark_group("engine");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let once = |_| {
                let mut engine = engine(queries, &mut table, limits.clone());
                let (spent, matches) = run(&mut engine, &mut reader, lines);
                black_box((engine, matches));
                spent
            };
            (0..iterations).map(once).sum()
        });
    });
    group.finish();
}

/// (a) the founding rule, also with ten times the pending sequences.
fn founding(c: &mut Criterion<ProcessorTime>) {
    for eps in [200, 2000] {
        if let Some(path) = stream(eps) {
            let name = format!("founding/{eps}_per_s");
            measure(
                c,
                &name,
                &[compiled(FOUNDING)],
                &Limits::default(),
                &lines(&path),
            );
        }
    }
}

fn folders(path: &Path, found: &mut Vec<PathBuf>) {
    found.push(path.to_owned());
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            folders(&entry.path(), found);
        }
    }
}

/// Public rules for this system, the founding rule first.
fn corpus() -> Vec<Query> {
    let mut paths = Vec::new();
    folders(&shared("rules-corpus"), &mut paths);
    let mut queries = vec![compiled(FOUNDING)];
    queries.extend(rule::load(&paths).rules.iter().map(|r| r.query.clone()));
    queries
}

/// (b) public rules over the same stream, by their number.
fn rules(c: &mut Criterion<ProcessorTime>) {
    let (Some(path), all) = (stream(200), corpus()) else {
        return;
    };
    let lines = lines(&path);
    if all.len() < 100 {
        eprintln!("SKIPPED: no public rules beside the checkout");
        return;
    }
    for count in [1, 10, 100, all.len()] {
        let name = format!("rules/{count}");
        measure(c, &name, &all[..count], &Limits::default(), &lines);
    }
}

/// (c) worst cases.
fn worst(c: &mut Criterion<ProcessorTime>) {
    let limits = Limits::default();
    let line = |i: u64, rest: &str| {
        format!(
            r#"{{"@timestamp":{},"event":{{"category":"process","action":"exec"}},{rest}}}"#,
            1_767_225_600_000 + i
        )
    };
    let pair = compiled(
        "sequence by user.id with maxspan=10m [process where process.name == \"a\"] [process where process.name == \"b\"]",
    );
    let hot = |i: u64| {
        line(
            i,
            &format!(
                r#""user":{{"id":"1"}},"process":{{"name":"{}"}}"#,
                if i.is_multiple_of(2) { "a" } else { "b" }
            ),
        )
    };
    measure(
        c,
        "worst/one_hot_key",
        std::slice::from_ref(&pair),
        &limits,
        &(0..50_000).map(hot).collect::<Vec<_>>(),
    );
    let many = |i: u64| {
        line(
            i,
            &format!(r#""user":{{"id":"{i}"}},"process":{{"name":"a"}}"#),
        )
    };
    measure(
        c,
        "worst/unique_keys_at_the_bound",
        std::slice::from_ref(&pair),
        &limits,
        &(0..200_000).map(many).collect::<Vec<_>>(),
    );
    const OPEN: u64 = 65_536;
    let opened_then_completed = |i: u64| {
        let (user, name) = (i % OPEN, if i < OPEN { "a" } else { "b" });
        line(
            i,
            &format!(r#""user":{{"id":"{user}"}},"process":{{"name":"{name}"}}"#),
        )
    };
    measure(
        c,
        "worst/65536_open",
        &[pair],
        &limits,
        &(0..2 * OPEN).map(opened_then_completed).collect::<Vec<_>>(),
    );
    let runs = compiled(
        "sequence by user.id with maxspan=10m [process where process.name == \"a\"] with runs=60 [process where process.name == \"b\"]",
    );
    let hot = |i: u64| line(i, r#""user":{"id":"1"},"process":{"name":"a"}"#);
    measure(
        c,
        "worst/runs_60",
        &[runs],
        &limits,
        &(0..50_000).map(hot).collect::<Vec<_>>(),
    );
    let patterns: Vec<String> = (0..400)
        .map(|i| format!("\"*pattern {i} of*many{i}*\""))
        .collect();
    let patterns = compiled(&format!(
        "process where process.command_line like~ ({})",
        patterns.join(",")
    ));
    let long = |i: u64| {
        line(
            i,
            &format!(
                r#""process":{{"command_line":"{}"}}"#,
                "Pattern 12 of manx 77 ".repeat(32 * 1024 / 22)
            ),
        )
    };
    measure(
        c,
        "worst/400_patterns_over_32_KiB",
        &[patterns],
        &limits,
        &(0..1000).map(long).collect::<Vec<_>>(),
    );
    let arrays = compiled(
        "sequence by process.args with maxspan=10m [process where process.name == \"a\"] [process where process.name == \"b\"]",
    );
    let args: Vec<String> = (0..256).map(|i| format!("\"argument {i}\"")).collect();
    let wide = |i: u64| {
        line(
            i,
            &format!(r#""process":{{"name":"a","args":[{}]}}"#, args.join(",")),
        )
    };
    measure(
        c,
        "worst/256_args_as_keys",
        &[arrays],
        &limits,
        &(0..5000).map(wide).collect::<Vec<_>>(),
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = founding, rules, worst
}
criterion_main!(benches);
