//! What files hold: read when somebody asks, and only then.
//!
//! In: a C program that makes, moves and changes files of known contents. Out: size, first bytes, entropy and hash of each, and
//! of the program itself. Must never accept a value for a file that was gone, nor an open of the daemon's own as an event.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::daemon::{BINARY, Daemon, at, is, text};
use crate::scope::Scope;
use crate::tiers;

const ACTOR: &str = include_str!("actors/contents.c");
const FIELDS: [&str; 4] = [
    "file.size",
    "file.Ext.header_bytes",
    "file.hash.sha256",
    "file.Ext.entropy",
];

/// The program, and the files it finds.
fn prepare(scope: &Scope) {
    scope.write("actor.c", ACTOR);
    let mut gcc = Command::new("gcc");
    gcc.args(["-Wall", "-Werror", "actor.c", "-o", "actor"]);
    let built = gcc.current_dir(scope.folder()).status();
    assert!(built.unwrap().success());
    for name in ["source", "old", "mode"] {
        scope.write(name, "aabb");
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The values that are read, null where there is none.
fn contents(event: &Value) -> [Value; 4] {
    FIELDS.map(|path| at(event, path).clone())
}

fn event_of<'a>(lines: &'a [Value], action: &str, name: &str) -> &'a Value {
    let found = lines
        .iter()
        .find(|event| is(event, "file", action) && text(event, "file.name") == name);
    found.unwrap_or_else(|| panic!("no {action} of {name} in {lines:#?}"))
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap();
    tasks
        .map(|task| name(task.unwrap()).trim_end().to_owned())
        .collect()
}

#[test]
fn what_files_hold_is_read() {
    for tier in tiers() {
        let scope = Scope::new("contents");
        prepare(&scope);
        let settings = scope.write(
            "settings.toml",
            "[kernel]\nrecord_bulk = true\nwatch_open = [\"made\", \"moved\", \"actor\"]\n[files]\nrecord = true\n",
        );
        // Inside of what it watches.
        let config = settings.to_str().unwrap();
        let command = scope.command(&[BINARY, "record", "--config", config]);
        let daemon = Daemon::launch(&scope, &tier, command);
        let own = daemon.pid();
        assert!(threads(own).contains(&"read files".to_owned()), "{tier}");
        scope.run(&["./actor"]);
        daemon.wait_until_idle();
        let ended = daemon.stop();
        let lines = &ended.lines;
        let check = |action: &str, name: &str, bytes: &[u8], entropy: f64| {
            let header: String = bytes.iter().take(16).map(|b| format!("{b:02x}")).collect();
            let header = if bytes.is_empty() {
                Value::Null
            } else {
                json!(header)
            };
            let expected = [
                json!(bytes.len()),
                header,
                json!(sha256(bytes)),
                json!(entropy),
            ];
            let event = event_of(lines, action, name);
            let mut found = contents(event);
            let off = (found[3].as_f64().unwrap_or(-1.0) - entropy).abs();
            assert!(off < 1e-12, "{tier}: {action} {name}: {event:#}");
            found[3] = json!(entropy);
            assert_eq!(found, expected, "{tier}: {action} {name}");
            assert!(
                at(event, "event.Ext.incomplete").is_null(),
                "{tier}: {event:#}"
            );
        };
        check("creation", "made", b"abc", 3.0_f64.log2());
        check("creation", "long", b"0123456789abcdefg", 17.0_f64.log2());
        check("creation", "empty", b"", 0.0);
        check("rename", "moved", b"aabb", 1.0);
        check("modification", "mode", b"aabb", 1.0);
        let of_old = 2.0 * 0.4 * 2.5_f64.log2() + 0.2 * 5.0_f64.log2();
        check("modification", "old", b"aabb!", of_old);
        // No file any more when it was to be read.
        let brief = event_of(lines, "creation", "brief");
        assert_eq!(contents(brief), [const { Value::Null }; 4], "{tier}");
        assert_eq!(at(brief, "event.Ext.incomplete"), true, "{tier}: {brief:#}");
        for (action, name) in [("deletion", "brief"), ("symlink", "link")] {
            let event = event_of(lines, action, name);
            assert_eq!(contents(event), [const { Value::Null }; 4], "{tier}");
        }
        // The program by its hash, on its start and on what it does, and in the order of things.
        let actor = sha256(&fs::read(scope.folder().join("actor")).unwrap());
        let of_actor = |event: &&Value| text(event, "process.name") == "actor";
        let its = || lines.iter().filter(of_actor);
        assert!(its().count() > 10, "{tier}: {lines:#?}");
        for event in its() {
            assert_eq!(
                text(event, "process.hash.sha256"),
                actor,
                "{tier}: {event:#}"
            );
        }
        let sequence = lines
            .iter()
            .map(|event| at(event, "event.sequence").as_u64());
        let sequence: Vec<u64> = sequence.flatten().collect();
        assert!(sequence.is_sorted(), "{tier}: {sequence:?}");
        let opens = lines.iter().filter(|event| is(event, "file", "open"));
        let pid = |event: &Value| at(event, "process.pid").as_u64();
        for event in opens {
            assert_ne!(pid(event), Some(u64::from(own)), "{tier}: {event:#}");
        }
    }
}

#[test]
fn nothing_is_read_unasked() {
    for tier in tiers() {
        let scope = Scope::new("unread");
        prepare(&scope);
        let daemon = Daemon::record(&scope, &tier, &[]);
        assert!(!threads(daemon.pid()).contains(&"read files".to_owned()));
        scope.run(&["./actor"]);
        let ended = daemon.stop();
        assert!(ended.lines.len() > 5, "{tier}");
        for event in &ended.lines {
            assert_eq!(contents(event), [const { Value::Null }; 4], "{tier}");
            assert!(at(event, "process.hash").is_null(), "{tier}: {event:#}");
        }
    }
}

const RULE: &str = r#"[rule]
rule_id = "f0f3c9d4-3f0f-4c63-8f9e-2d0d7a2b6c11"
name = "File That Begins With abc"
type = "eql"
query = 'file where event.action == "creation" and file.Ext.header_bytes : "616263*"'
"#;

#[test]
fn a_rule_reads_first_bytes() {
    for tier in tiers() {
        let scope = Scope::new("header");
        prepare(&scope);
        let rules = tempfile::tempdir().unwrap();
        fs::write(rules.path().join("rule.toml"), RULE).unwrap();
        let rules: &Path = rules.path();
        let mut daemon = Daemon::run_with(&scope, &tier, rules, &[]);
        scope.run(&["./actor"]);
        daemon.wait_for("alert", |alert| !text(alert, "rule.name").is_empty());
        let ended = daemon.stop();
        assert_eq!(ended.lines.len(), 1, "{tier}: {:#?}", ended.lines);
        let event = &ended.lines[0]["events"][0];
        assert_eq!(text(event, "file.name"), "made", "{tier}");
        // Nobody asked for more.
        let expected = [json!(3), json!("616263"), Value::Null, Value::Null];
        assert_eq!(contents(event), expected, "{tier}");
        assert!(at(event, "process.hash").is_null(), "{tier}: {event:#}");
    }
}
