//! `eql-sensor query` from outside.
//!
//! In: a query and JSON lines, in files or on standard input. Out: one line of JSON per match, or their number, and how the
//! command ends. What queries mean is for `eql.rs`; whether the public suites pass this way for `conformance.rs`.

#![allow(clippy::expect_used, reason = "tests state what they rely on")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const EVENTS: &str = r#"{"@timestamp":"2024-01-01T00:00:02Z","event.category":"file","process":{"entity_id":"p1"},"n":2}
{"@timestamp":"2024-01-01T00:00:01Z","event.category":["process"],"process":{"entity_id":"p1","name":"a\"b"},"n":1}
{"@timestamp":"2024-01-01T00:00:02Z","event.category":"network","process.entity_id":"p1","n":3}
"#;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs the command with the text on standard input.
fn query(args: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .arg("query")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // A query that is refused ends the command before it reads anything.
    _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes());
    ran(child.wait_with_output().expect("the command ends"))
}

/// Numbers `n` of the events of every match.
fn numbers(out: &str) -> Vec<Vec<i64>> {
    let number = |event: &serde_json::Value| event["n"].as_i64().expect("a number");
    out.lines()
        .map(|line| {
            let found: serde_json::Value = serde_json::from_str(line).expect("JSON");
            found["events"]
                .as_array()
                .expect("events")
                .iter()
                .map(number)
                .collect()
        })
        .collect()
}

#[test]
fn a_match_is_one_line_with_its_keys_and_its_events_as_they_were_read() {
    let text =
        "sequence by process.entity_id with maxspan=1s [process where true] [file where true]";
    let found = query(&[text], EVENTS);
    assert_eq!((found.code, found.err.as_str()), (Some(0), ""));
    let lines: Vec<&str> = EVENTS.lines().collect();
    let expected = format!(
        "{{\"keys\":[\"p1\"],\"events\":[{},{}]}}\n",
        lines[1], lines[0]
    );
    assert_eq!(found.out, expected);
}

#[test]
fn events_are_put_in_order_of_time_then_tiebreaker_then_input() {
    assert_eq!(
        numbers(&query(&["any where true"], EVENTS).out),
        [[1], [2], [3]]
    );
    let reversed = EVENTS.lines().rev().collect::<Vec<_>>().join("\n");
    assert_eq!(
        numbers(&query(&["any where true"], &reversed).out),
        [[1], [3], [2]]
    );
    let args = ["any where true", "--field-tiebreaker", "n"];
    assert_eq!(numbers(&query(&args, &reversed).out), [[1], [2], [3]]);
}

#[test]
fn other_fields_can_hold_time_and_category() {
    let events = r#"{"when":2000,"kind":"file","n":2}
{"when":1000,"kind":"process","n":1}
"#;
    let args = ["--field-timestamp", "when", "--field-category", "kind"];
    let text = "sequence with maxspan=1s [process where true] [file where true]";
    let found = query(&[&[text][..], &args].concat(), events);
    assert_eq!(
        (found.code, numbers(&found.out)),
        (Some(0), vec![vec![1, 2]])
    );
    let found = query(
        &[
            &["sequence with maxspan=999ms [process where true] [file where true]"][..],
            &args,
        ]
        .concat(),
        events,
    );
    assert_eq!((found.code, found.out.as_str()), (Some(0), ""));
}

#[test]
fn several_files_are_one_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<&str> = EVENTS.lines().collect();
    let paths: Vec<String> = lines
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let path = folder.path().join(format!("{i}.jsonl"));
            std::fs::write(&path, line).expect("a file");
            path.display().to_string()
        })
        .collect();
    let mut args = vec!["sequence [process where true] [file where true] [network where true]"];
    args.extend(paths.iter().map(String::as_str));
    assert_eq!(numbers(&query(&args, "").out), [[1, 2, 3]]);
    args.push("/nowhere/at/all");
    let found = query(&args, "");
    assert_ne!(found.code, Some(0));
    assert!(found.err.contains("/nowhere/at/all"), "{}", found.err);
}

#[test]
fn count_prints_the_number_alone() {
    let found = query(&["any where n > 1", "--count"], EVENTS);
    assert_eq!((found.code, found.out.as_str()), (Some(0), "2\n"));
    assert_eq!(query(&["any where n > 9", "--count"], EVENTS).out, "0\n");
}

#[test]
fn pipes_that_need_the_end_have_one_here() {
    assert_eq!(
        numbers(&query(&["any where true | sort -n | tail 2"], EVENTS).out),
        [[2], [1]]
    );
}

#[test]
fn a_missing_event_at_the_end_is_known_to_be_missing() {
    let text =
        "sequence with maxspan=1h [process where true] [file where true] ![network where n == 9]";
    assert_eq!(numbers(&query(&[text], EVENTS).out), [[1, 2]]);
}

#[test]
fn a_wrong_query_is_shown_with_its_place() {
    let found = query(&["process where name = \"x\" and (n >"], EVENTS);
    assert_eq!((found.code, found.out.as_str()), (Some(1), ""));
    assert!(found.err.contains("query:1:20: error:"), "{}", found.err);
    assert!(
        found.err.matches("error:").count() >= 2,
        "all problems at once: {}",
        found.err
    );
}

#[test]
fn the_sensors_schema_knows_its_fields_only() {
    let misspelt = [
        "process where process.comand_line == \"x\"",
        "--schema",
        "sensor",
    ];
    let found = query(&misspelt, EVENTS);
    assert_eq!(found.code, Some(1));
    assert!(
        found.err.contains("did you mean `process.command_line`"),
        "{}",
        found.err
    );
    assert_eq!(
        query(&["process where process.comand_line == \"x\""], EVENTS).code,
        Some(0)
    );
}

#[test]
fn broken_lines_are_named_and_passed_over() {
    let events = format!("{}not json\n{{\"n\":4}}\n", EVENTS);
    let found = query(&["process where true"], &events);
    assert_eq!((found.code, numbers(&found.out)), (Some(1), vec![vec![1]]));
    assert!(found.err.contains(":4:"), "{}", found.err);
}

#[test]
fn nobody_reading_the_output_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(["query", "any where true"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    drop(child.stdout.take());
    let line = EVENTS.lines().next().expect("an event");
    let mut input = child.stdin.take().expect("a pipe");
    for _ in 0..20_000 {
        // It may end while there still is something to say to it.
        if writeln!(input, "{line}").is_err() {
            break;
        }
    }
    drop(input);
    let found = ran(child.wait_with_output().expect("the command ends"));
    assert_eq!((found.code, found.err.as_str()), (Some(0), ""));
}
