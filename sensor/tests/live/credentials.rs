//! Changes of ids under every hook tier.
//!
//! In: a program that changes its ids in every way there is, and programs with set-id bits. Out: one event per change with the
//! new ids and the whole process; none where nothing changed. Must never depend on which users the host has.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, is, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

const ACTOR: &str = include_str!("ids.c");

/// What `ids calls` does, one line per event after its exec: effective, real and saved user; the same of the group.
const CALLS: &[&str] = &[
    "gid_change ids 0 0 0 / 43 0 0",
    "gid_change ids 0 0 0 / 42 41 42",
    "uid_change ids 0 0 0 / 42 41 42",
    "uid_change ids 32 31 0 / 42 41 42",
    "creation ids 32 31 / 42 41",
    "uid_change ids 0 31 0 / 42 41 42",
    "uid_change ids 30 30 30 / 42 41 42",
];

/// A thread by itself and back, then all of them by one call.
const THREADS: &[&str] = &[
    "uid_change ids 60 0 0 / 0 0 0",
    "uid_change ids 0 0 0 / 0 0 0",
    "uid_change ids 50 50 50 / 0 0 0",
];

/// By the 32-bit table.
const OLD: &[&str] = &[
    "uid_change ids 70 70 70 / 0 0 0",
    "creation ids 70 70 / 0 0",
];

/// Programs with set-id bits, run by a user who is nobody to begin with. Whoever executes them changes before they run.
const BITS: &[&str] = &[
    "exec setpriv 0 0 0 / 0 0 0",
    "uid_change setpriv 4242 4242 4242 / 0 0 0",
    "gid_change setpriv 4242 4242 4242 / 4243 4243 4243",
    "exec sh 4242 4242 4242 / 4243 4243 4243",
    "uid_change sh 0 4242 0 / 4243 4243 4243",
    "exec as-root 0 4242 0 / 4243 4243 4243",
    "gid_change sh 4242 4242 4242 / 44 4243 44",
    "exec as-group 4242 4242 4242 / 44 4243 44",
    "uid_change sh 0 4242 0 / 44 4243 44",
    "gid_change sh 0 4242 0 / 44 4243 44",
    "exec as-both 0 4242 0 / 44 4243 44",
    "exec ids 4242 4242 4242 / 4243 4243 4243",
];

struct Acts {
    scope: Scope,
}

impl Acts {
    fn new() -> Acts {
        let scope = Scope::new("ids");
        let folder = scope.folder();
        scope.write("ids.c", ACTOR);
        let built = Command::new("gcc")
            .args(["-pthread", "ids.c", "-o", "ids"])
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(built.success());
        for (name, group, bits) in [
            ("as-root", 0, 0o4755),
            ("as-group", 44, 0o2755),
            ("as-both", 44, 0o6755),
        ] {
            let copy = folder.join(name);
            fs::copy(folder.join("ids"), &copy).unwrap();
            chown(&copy, Some(0), Some(group)).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(bits)).unwrap();
        }
        fs::create_dir(folder.join("open")).unwrap();
        fs::set_permissions(folder.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
        Acts { scope }
    }

    /// Events of a command but forks and ends, and its pid.
    fn events(&self, tier: &str, arguments: &[&str]) -> (u32, Vec<Value>) {
        let daemon = Daemon::record_only(&self.scope, tier, "process,creation", &[]);
        let pid = self.scope.run(arguments);
        let ended = daemon.stop();
        let counts = Counts::of(&ended.log);
        assert_eq!((counts.received, counts.lost), (counts.submitted, 0));
        let mut events = ended.lines;
        events.retain(|event| !is(event, "process", "fork") && !is(event, "process", "end"));
        (pid, events)
    }
}

/// Action, name, and ids; process events have the saved ones, too.
fn describe(event: &Value) -> String {
    let all = |who: &str| {
        let real = text(event, &format!("process.real_{who}.id"));
        assert_eq!(
            real,
            text(event, &format!("{who}.Ext.real.id")),
            "{event:#}"
        );
        let effective = text(event, &format!("{who}.id"));
        assert_eq!(
            effective,
            text(event, &format!("process.{who}.id")),
            "{event:#}"
        );
        let saved = text(event, &format!("process.saved_{who}.id"));
        format!("{effective} {real} {saved}").trim_end().to_owned()
    };
    let action = text(event, "event.action");
    let name = text(event, "process.name");
    format!("{action} {name} {} / {}", all("user"), all("group"))
}

fn lines(events: &[Value]) -> Vec<String> {
    events.iter().map(describe).collect()
}

#[test]
fn each_change_of_ids_is_one_event() {
    let acts = Acts::new();
    for tier in tiers() {
        let (pid, events) = acts.events(&tier, &["./ids", "calls"]);
        assert_eq!(text(&events[0], "event.action"), "exec", "{tier}");
        assert_eq!(lines(&events[1..]), CALLS, "{tier}");
        fs::remove_file(acts.scope.folder().join("open/after")).unwrap();
        for event in events
            .iter()
            .filter(|event| is(event, "process", "uid_change"))
        {
            check_process(event, &acts, pid);
        }
        let last = events.last().unwrap();
        assert_eq!(
            *at(last, "process.thread.capabilities.effective"),
            Value::Null,
            "{tier}: none are left without root"
        );
        let raised = &events[6];
        let effective = at(raised, "process.thread.capabilities.effective");
        assert!(
            effective.as_array().unwrap().contains(&json!("CAP_SETUID")),
            "{tier}: {effective}"
        );
    }
}

/// The whole process is on the event, as at its exec.
fn check_process(event: &Value, acts: &Acts, pid: u32) {
    let folder = acts.scope.folder();
    assert_eq!(*at(event, "event.type"), json!(["change"]));
    assert_eq!(*at(event, "process.pid"), json!(pid));
    assert_eq!(*at(event, "process.args"), json!(["./ids", "calls"]));
    assert_eq!(*at(event, "process.args_count"), json!(2));
    assert_eq!(text(event, "process.command_line"), "./ids calls");
    assert_eq!(
        text(event, "process.executable"),
        folder.join("ids").to_str().unwrap()
    );
    assert_eq!(
        text(event, "process.working_directory"),
        folder.to_str().unwrap()
    );
    assert_eq!(
        *at(event, "process.parent.pid"),
        json!(std::process::id()),
        "{event:#}"
    );
    assert_ne!(text(event, "process.parent.executable"), "");
    assert_eq!(text(event, "process.parent.user.id"), "0");
}

#[test]
fn a_change_of_all_threads_is_one_event() {
    let acts = Acts::new();
    for tier in tiers() {
        let (_, events) = acts.events(&tier, &["./ids", "threads"]);
        assert_eq!(lines(&events[1..]), THREADS, "{tier}");
    }
}

#[test]
fn changes_by_32_bit_calls_are_seen() {
    let acts = Acts::new();
    for tier in tiers() {
        let (_, events) = acts.events(&tier, &["./ids", "old"]);
        if !acts.scope.folder().join("open/old").exists() {
            println!("{tier}: this kernel has no 32-bit system calls");
            assert_eq!(events.len(), 1, "{tier}: {events:#?}");
            continue;
        }
        assert_eq!(lines(&events[1..]), OLD, "{tier}");
        fs::remove_file(acts.scope.folder().join("open/old")).unwrap();
    }
}

#[test]
fn set_id_programs_change_ids_before_they_run() {
    let acts = Acts::new();
    for tier in tiers() {
        let script = "./as-root nothing; ./as-group nothing; ./as-both nothing; exec ./ids nothing";
        let (_, events) = acts.events(
            &tier,
            &[
                "setpriv",
                "--reuid",
                "4242",
                "--regid",
                "4243",
                "--clear-groups",
                "sh",
                "-c",
                script,
            ],
        );
        assert_eq!(lines(&events), BITS, "{tier}");
        // As it forked: the parent had no privilege, whatever its children have.
        for event in events.iter().skip(4) {
            let parent = text(event, "process.parent.name");
            let expected = if text(event, "process.name") == "ids" {
                ""
            } else {
                "sh"
            };
            if !expected.is_empty() {
                assert_eq!(parent, expected, "{event:#}");
                assert_eq!(text(event, "process.parent.user.id"), "4242", "{event:#}");
            }
        }
    }
}
