//! An event that matches nothing allocates nothing.
//!
//! In: one engine with rules of every kind of test, and events that satisfy no step. Out: the number of allocations while they
//! pass, which is none once buffers have grown. A binary of its own, because the counter sees the whole process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests state what they rely on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use sensor::engine::{Builder, Limits};
use sensor::eql::{self, Mode, OpenSchema};
use sensor::event::FieldTable;
use sensor::json_lines::{FlatEvent, Options, Reader};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; counting touches no memory it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's guarantees are those this function asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const QUERIES: &[&str] = &[
    r#"sequence by host.id with maxspan=1m
       [process where event.action == "exec" and process.name in ("gcc", "g++", "cc")] by process.args
       [file where event.action == "creation" and process.name == "ld"] by file.name
       [process where event.action == "exec"] by process.name
       [network where event.action == "connection_attempted"] by process.name"#,
    r#"process where process.args : ("*--evil*", "bad?") and not process.parent.name like ("a*", "*b")"#,
    r#"process where process.command_line regex~ "no.*such [0-9]+" or user.id == "4711""#,
    r#"network where cidrMatch(destination.ip, "10.0.0.0/8", "::1") and destination.port > 60000"#,
    r#"process where length(process.name) > 100 or startsWith~(process.executable, process.parent.name)"#,
    r#"file where file.path : "/etc/*" and not file.extension in~ ("tmp", "swp")"#,
    r#"sequence by process.pid with maxspan=1s [process where process.name == "x"] with runs=3 [file where true]"#,
    r#"sample by user.id [process where process.name == "y"] [file where file.name == "z"]"#,
];

const EVENTS: &[&str] = &[
    r#"{"@timestamp":1000,"event":{"category":["process"],"type":["start"],"action":"exec"},"host":{"id":"h"},"process":{"pid":7,"name":"bash","executable":"/usr/bin/bash","args":["bash","-c","ls"],"command_line":"bash -c ls","parent":{"name":"sshd"}},"user":{"id":"1000"}}"#,
    r#"{"@timestamp":1001,"event":{"category":["file"],"type":["creation"],"action":"creation"},"host":{"id":"h"},"process":{"pid":7,"name":"bash","executable":"/usr/bin/bash"},"file":{"path":"/home/u/.bash_history","name":".bash_history"},"user":{"id":"1000"}}"#,
    r#"{"@timestamp":1002,"event":{"category":["network"],"type":["start"],"action":"connection_attempted"},"host":{"id":"h"},"process":{"pid":8,"name":"curl"},"destination":{"ip":"192.0.2.1","port":443}}"#,
    r#"{"@timestamp":1003,"event":{"category":["process"],"type":["end"],"action":"end"},"host":{"id":"h"},"process":{"pid":7,"name":"bash","exit_code":0}}"#,
    r#"{"@timestamp":1004,"event":{"category":["dns"],"action":"lookup"},"message":"of no interest"}"#,
];

#[test]
fn events_that_match_nothing_allocate_nothing() {
    let mut table = FieldTable::sensor();
    let mut builder = Builder::new(Limits::default());
    for (number, query) in QUERIES.iter().enumerate() {
        let query = eql::compile(query, &OpenSchema, Mode::Live).unwrap().query;
        builder.add(number, &query).unwrap();
    }
    let mut engine = builder.build(&mut table).unwrap();
    let mut reader = Reader::new(&table, engine.needed_fields(), &Options::default());
    let mut read = |line: &str| Arc::new(reader.parse(line.as_bytes(), 1).unwrap());
    let events: Vec<Arc<FlatEvent>> = EVENTS.iter().map(|line| read(line)).collect();
    let mut matches = Vec::new();
    // Buffers grow, classes of events are met, regular expressions build their automata.
    for _ in 0..10 {
        events
            .iter()
            .for_each(|event| engine.process(event, &mut matches));
    }
    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        events
            .iter()
            .for_each(|event| engine.process(event, &mut matches));
    }
    let allocations = ALLOCATIONS.get() - before;
    assert!(matches.is_empty(), "the events were meant to match nothing");
    assert_eq!(
        allocations, 0,
        "allocations by 5000 events that match nothing"
    );
    // The counter counts: an event that starts a sequence is remembered, which takes memory.
    let starts = read(
        r#"{"@timestamp":2000,"event":{"category":"process","action":"exec"},"host":{"id":"h"},"process":{"name":"gcc","args":["gcc"]}}"#,
    );
    let before = ALLOCATIONS.get();
    engine.process(&starts, &mut matches);
    assert!(ALLOCATIONS.get() > before, "a partial match takes memory");
}
