//! Queries that are too long, too deep or too many of something: each works or names its limit, quickly and in little stack.
//!
//! In: texts made here. Every case runs on a thread with half the stack that tokio's workers have.

use std::time::{Duration, Instant};

use sensor::eql::{self, Kind, Mode, OpenSchema, Schema};
use sensor::rule::schema::{SensorSchema, TolerantSchema};

/// Unoptimised code takes about ten times as long.
const ALLOWED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// Compiles a query that must have an error of kind `expected`, or none.
fn check(name: &str, query: String, expected: Option<Kind>) {
    let label = name.to_owned();
    run(name, move || {
        let start = Instant::now();
        let outcome = eql::compile(&query, &OpenSchema, Mode::Live);
        let first = match &outcome {
            Ok(_) => None,
            Err(found) => {
                let mut errors = found
                    .iter()
                    .filter(|d| d.severity == eql::Severity::Error)
                    .map(|d| d.kind);
                let any = errors.clone().find(|k| Some(*k) == expected);
                any.or_else(|| errors.next())
            }
        };
        drop(outcome);
        assert_eq!(first, expected, "{label}");
        let took = start.elapsed();
        assert!(took < ALLOWED, "{label} took {took:?}");
    });
}

/// Compiles a broken query; what is wrong with it does not matter.
fn check_fast(name: &str, query: String) {
    let label = format!("{name} behind {:.20}", query);
    run(name, move || {
        let start = Instant::now();
        let found = eql::compile(&query, &OpenSchema, Mode::Live)
            .err()
            .unwrap_or_default();
        assert!(
            found.iter().any(|d| d.severity == eql::Severity::Error),
            "{label} is accepted"
        );
        let rendered: usize = found
            .iter()
            .map(|d| d.render(&query, &eql::Origin::whole("q")).len())
            .sum();
        assert!(
            rendered < 64 << 10,
            "{label}: {rendered} bytes of diagnostics"
        );
        let took = start.elapsed();
        assert!(took < ALLOWED, "{label} took {took:?}");
    });
}

/// Runs a case on a small stack.
fn run(name: &str, case: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(1 << 20)
        .spawn(case);
    assert!(thread.is_ok_and(|t| t.join().is_ok()), "{name}");
}

fn wrapped(open: &str, inner: &str, close: &str, times: usize) -> String {
    format!(
        "process where {}{inner}{}",
        open.repeat(times),
        close.repeat(times)
    )
}

fn list(n: usize, item: impl Fn(usize) -> String) -> String {
    (0..n).map(item).collect::<Vec<_>>().join(", ")
}

#[test]
fn depth() {
    for n in [10_000, 100_000] {
        check(
            "parentheses",
            wrapped("(", "a == 1", ")", n),
            Some(Kind::TooDeep),
        );
        check("not", wrapped("not ", "a == 1", "", n), Some(Kind::TooDeep));
        check("minus", wrapped("-", "1 == a", "", n), Some(Kind::TooDeep));
        check(
            "calls",
            wrapped("length(", "a", ")", n),
            Some(Kind::TooDeep),
        );
    }
    check(
        "lineage",
        wrapped("descendant of [process where ", "true", "]", 10_000),
        Some(Kind::TooDeep),
    );
    check(
        "searches",
        wrapped("arraySearch(a, x, ", "true", ")", 10_000),
        Some(Kind::TooDeep),
    );
    check(
        "array of arrays",
        wrapped("arraySearch(a, x, ", "x == 1", ")", 150),
        None,
    );
    check(
        "sum",
        format!("process where {} == a", ["1"; 100_000].join(" + ")),
        Some(Kind::TooDeep),
    );
    check(
        "sums in sums",
        wrapped("(1 + ", "a", ") + 1 + 1 + 1 == 1", 5_000),
        Some(Kind::TooDeep),
    );
    check(
        "open parentheses",
        "process where ".to_owned() + &"(".repeat(1_000_000),
        Some(Kind::TooDeep),
    );
    check("just deep enough", wrapped("(", "a == 1", ")", 190), None);
    check(
        "just deep enough calls",
        wrapped("string(", "a", ")", 190) + " == \"1\"",
        None,
    );
    check(
        "just deep enough nots",
        wrapped("not (", "a == 1", ")", 95),
        None,
    );
}

#[test]
fn length() {
    let max = eql::limits::QUERY_BYTES_MAX;
    let filled = |text: &str, n: usize| format!("process where a == \"{}\"", text.repeat(n));
    let padded = |n: usize| filled("x", 1) + &" ".repeat(n - filled("x", 1).len());
    check("a string of almost 1 MiB", filled("x", max - 32), None);
    check(
        "one byte too many",
        padded(max + 1),
        Some(Kind::QueryTooLong),
    );
    check("exactly enough", padded(max), None);
    check("NUL in a string", filled("\0", 3), None);
    check(
        "NUL elsewhere",
        "process\0 where true".to_owned(),
        Some(Kind::UnexpectedCharacter),
    );
    check(
        "any character in a string",
        filled("ä\u{10ffff}\u{feff}\u{202e}", 1000),
        None,
    );
}

#[test]
fn breadth() {
    let strings = list(100_000, |i| format!("\"{i}\""));
    check(
        "in",
        format!(
            "process where a in ({})",
            list(80_000, |i| format!("\"x{i}\""))
        ),
        None,
    );
    check(
        "in with 100 000 numbers",
        format!("process where a in ({})", list(100_000, |i| i.to_string())),
        None,
    );
    check(
        "in with 100 000 strings",
        format!("process where a in ({})", strings.replace(", ", ",")),
        None,
    );
    check(
        "like",
        format!(
            "process where a like ({})",
            list(50_000, |i| format!("\"*x{i}*\""))
        ),
        None,
    );
    check(
        "or",
        format!("process where {}", ["a == 1"; 100_000].join(" or ")),
        None,
    );
    check(
        "positions",
        format!("process where a{} == 1", "[0]".repeat(300_000)),
        None,
    );
    check(
        "steps",
        format!("sequence {}", "[a where b]".repeat(90_000)),
        Some(Kind::TooMany),
    );
    check(
        "filters",
        format!("sample by k {}", "[a where b]".repeat(90_000)),
        Some(Kind::TooMany),
    );
    check(
        "pipes",
        format!("a where b {}", "| filter a".repeat(90_000)),
        Some(Kind::TooMany),
    );
    check(
        "keys",
        format!("sequence by {}", "a,".repeat(500_000)),
        Some(Kind::TooMany),
    );
    check(
        "expressions",
        format!(
            "a where b regex ({})",
            list(50_000, |i| format!("\"x{i}\""))
        ),
        Some(Kind::TooMany),
    );
    let large = list(256, |_| format!("\"{}\"", "(.{1,50}x){1,50}"));
    check(
        "large expressions",
        format!("a where b regex ({large})"),
        Some(Kind::InvalidRegex),
    );
    let unicode = list(256, |_| r#""""\pL{1,100}""""#.to_owned());
    check(
        "large classes",
        format!("a where b regex ({unicode})"),
        Some(Kind::InvalidRegex),
    );
    check(
        "one long expression",
        format!("a where b regex \"{}\"", "x".repeat(20_000)),
        Some(Kind::InvalidRegex),
    );
}

/// Unknown fields are compared with every known one to find what was meant; that must not take long either.
#[test]
fn unknown_fields() {
    let fields: Vec<String> = (0..50_000).map(|i| format!("process.x{i}")).collect();
    let query = format!("process where {}", fields.join(" or "));
    run("unknown fields", move || {
        let start = Instant::now();
        for schema in [&SensorSchema as &dyn Schema, &TolerantSchema] {
            drop(eql::compile(&query, schema, Mode::Live));
        }
        assert!(start.elapsed() < ALLOWED * 2, "took {:?}", start.elapsed());
    });
}

#[test]
fn rubbish() {
    for (text, kind) in [
        ("@#€%&/()=?[]{}", Kind::UnexpectedCharacter),
        ("\"a\n", Kind::UnterminatedString),
        ("'x", Kind::LegacyString),
        ("` ", Kind::UnexpectedToken),
        ("/*", Kind::UnterminatedComment),
        ("a.", Kind::UnexpectedToken),
        ("f(", Kind::UnexpectedToken),
        ("]", Kind::UnexpectedToken),
        (")", Kind::UnexpectedToken),
        ("![", Kind::UnexpectedToken),
        ("sequence ", Kind::UnexpectedToken),
        ("| head", Kind::UnexpectedToken),
        (",", Kind::UnexpectedToken),
        ("by ", Kind::UnexpectedToken),
    ] {
        check(text, text.repeat(1_000_000 / text.len()), Some(kind));
        let behind = |start: &str| start.to_owned() + &text.repeat(100_000 / text.len());
        for start in [
            "a where b ",
            "a where ",
            "sequence [a where b] ",
            "a where b in (",
            "a where f(",
            "sequence by a ",
        ] {
            check_fast(text, behind(start));
        }
    }
}
