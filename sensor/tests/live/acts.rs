//! Sessions, files in memory, tracing and kernel modules under every hook tier.
//!
//! In: a program that does these things, and others that only look like them; `insmod`. Out: one event for each, with every
//! field of its kind and the whole process; none for the others. Must never leave a module behind.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, Ended, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

const ACTOR: &str = include_str!("acts.c");

fn scope() -> Scope {
    let scope = Scope::new("own-acts");
    scope.write("acts.c", ACTOR);
    let built = Command::new("gcc")
        .args(["acts.c", "-o", "acts"])
        .current_dir(scope.folder())
        .status()
        .unwrap();
    assert!(built.success());
    scope
}

/// Runs a part of the actor: its events but forks and ends, its pid, and what it printed.
fn act(scope: &Scope, tier: &str, part: &str) -> (Vec<Value>, u32, HashMap<String, u32>) {
    let daemon = Daemon::record_only(scope, tier, "process,creation", &[]);
    let (pid, output) = scope.try_run(&["./acts", part]);
    assert!(output.status.success(), "{tier}: {output:?}");
    let ended = daemon.stop();
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed = printed.lines().map(|line| {
        let (name, pid) = line.split_once(' ').unwrap();
        (name.to_owned(), pid.parse().unwrap())
    });
    (events(ended), pid, printed.collect())
}

fn events(ended: Ended) -> Vec<Value> {
    let counts = Counts::of(&ended.log);
    assert_eq!((counts.received, counts.lost), (counts.submitted, 0));
    let mut events = ended.lines;
    events.retain(|event| !is(event, "process", "fork") && !is(event, "process", "end"));
    events
}

/// The acting process is on the event, whole.
fn check_process(event: &Value, scope: &Scope, part: &str, pid: u32) {
    let folder = scope.folder();
    assert_eq!(*at(event, "event.category"), json!(["process"]));
    assert_eq!(*at(event, "process.pid"), json!(pid), "{event:#}");
    assert_eq!(text(event, "process.name"), "acts");
    assert_eq!(*at(event, "process.args"), json!(["./acts", part]));
    assert_eq!(
        text(event, "process.executable"),
        folder.join("acts").to_str().unwrap()
    );
    assert_eq!(
        text(event, "process.working_directory"),
        folder.to_str().unwrap()
    );
    assert_eq!(text(event, "user.id"), "0");
    assert_eq!(text(event, "process.real_user.id"), "0");
}

fn actions(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| text(event, "event.action"))
        .collect()
}

#[test]
fn sessions_and_groups_are_followed() {
    let scope = scope();
    for tier in tiers() {
        let (events, _, pids) = act(&scope, &tier, "sessions");
        assert_eq!(
            actions(&events),
            [
                "exec",
                "memfd_create",
                "memfd_create",
                "session_id_change",
                "creation",
                "exec",
                "memfd_create",
            ],
            "{tier}"
        );
        let leader =
            |event: &Value, which: &str| number(event, &format!("process.{which}_leader.pid"));
        // Whoever started the tests may be in the session of the kernel's first task, which no process leads.
        let before = leader(&events[0], "session");
        let own = Some(u64::from(pids["session"]));
        for (index, group, session) in [
            (1, "leader", before),
            (2, "leader", before),
            (3, "session", own),
            (5, "session", own),
            (6, "moved", before),
        ] {
            let event = &events[index];
            let group = Some(u64::from(pids[group]));
            assert_eq!(leader(event, "group"), group, "{tier}: {index}");
            assert_eq!(leader(event, "session"), session, "{tier}: {index}");
        }
        let event = &events[3];
        check_process(event, &scope, "sessions", pids["session"]);
        assert_eq!(*at(event, "event.type"), json!(["change"]));
        assert_eq!(
            at(event, "process.session_leader.entity_id"),
            at(event, "process.entity_id")
        );
        assert_eq!(text(event, "process.session_leader.name"), "acts");
        assert_eq!(*at(event, "process.interactive"), json!(false));
        assert_eq!(
            number(event, "process.parent.pid"),
            Some(u64::from(pids["leader"]))
        );
        fs::remove_file(scope.folder().join("made")).unwrap();
    }
}

#[test]
fn files_in_memory_have_their_names() {
    let scope = scope();
    let long = "x".repeat(249);
    for tier in tiers() {
        let (events, pid, printed) = act(&scope, &tier, "memfds");
        let mut expected = vec!["plain", "", "memfd:twice/../and \u{fffd}", long.as_str()];
        if printed["huge"] == 1 {
            expected.push("huge");
        } else {
            println!("{tier}: this kernel has no huge pages");
        }
        let names: Vec<_> = events[1..]
            .iter()
            .map(|event| text(event, "process.Ext.memfd.name"))
            .collect();
        assert_eq!(names, expected, "{tier}");
        for (event, name) in events[1..].iter().zip(expected) {
            assert_eq!(text(event, "event.action"), "memfd_create");
            assert_eq!(*at(event, "event.type"), json!(["start"]));
            assert_eq!(
                *at(event, "process.Ext.memfd.names"),
                json!([name, format!("memfd:{name}")])
            );
            check_process(event, &scope, "memfds", pid);
        }
    }
}

#[test]
fn tracing_names_the_traced() {
    let scope = scope();
    for tier in tiers() {
        let (events, pid, pids) = act(&scope, &tier, "traces");
        assert_eq!(actions(&events), ["exec", "ptrace", "ptrace"], "{tier}");
        for (event, target, request) in [
            (&events[1], "target", "PTRACE_ATTACH"),
            (&events[2], "other", "PTRACE_SEIZE"),
        ] {
            check_process(event, &scope, "traces", pid);
            assert_eq!(*at(event, "event.type"), json!(["start"]));
            assert_eq!(
                *at(event, "process.Ext.ptrace.child_pid"),
                json!(pids[target]),
                "{tier}"
            );
            assert_eq!(text(event, "process.Ext.ptrace.request"), request, "{tier}");
        }
    }
}

/// A module of the running kernel that nothing uses, for itself or on another's behalf.
fn module() -> Option<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let folder = Path::new("/lib/modules")
        .join(release.trim())
        .join("kernel/drivers/net");
    ["dummy.ko", "dummy.ko.xz", "dummy.ko.zst"]
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())
}

#[test]
fn modules_are_named_with_their_taints() {
    if !Path::new("/proc/modules").exists() {
        let scope = Scope::new("modules");
        let daemon = Daemon::record_only(&scope, "auto", "process", &[]);
        let said = daemon.stop().log;
        assert!(
            said.contains("tp_btf/module_load can not be had: this kernel has no such tracepoint"),
            "{said}"
        );
        println!("this kernel is built without modules, and the daemon says so");
        return;
    }
    let module = module().expect("the kernel's own modules must be at hand");
    let scope = Scope::new("modules");
    scope.write("broken.ko", "\x7fELF and nothing more");
    for tier in tiers() {
        let daemon = Daemon::record_only(&scope, &tier, "process", &[]);
        let insmod = |path: &str| scope.try_run(&["insmod", path]);
        assert!(!insmod("broken.ko").1.status.success());
        let (pid, output) = insmod(module.to_str().unwrap());
        assert!(output.status.success(), "{output:?}");
        let taints = fs::read_to_string("/sys/module/dummy/taint").unwrap();
        assert!(!insmod(module.to_str().unwrap()).1.status.success());
        assert!(
            Command::new("rmmod")
                .arg("dummy")
                .status()
                .unwrap()
                .success()
        );
        let events = events(daemon.stop());
        let loads: Vec<_> = events
            .iter()
            .filter(|event| is(event, "process", "load_module"))
            .collect();
        let [event] = loads.as_slice() else {
            panic!("{tier}: {loads:#?}");
        };
        assert_eq!(text(event, "process.Ext.load_module.name"), "dummy");
        let letters: Vec<_> = taints.trim().chars().map(String::from).collect();
        let shown = at(event, "process.Ext.load_module.taint_flags");
        if letters.is_empty() {
            assert_eq!(*shown, Value::Null, "{tier}");
        } else {
            assert_eq!(*shown, json!(letters), "{tier}");
        }
        assert_eq!(*at(event, "event.type"), json!(["start"]));
        assert_eq!(number(event, "process.pid"), Some(u64::from(pid)));
        assert_eq!(text(event, "process.name"), "insmod");
        assert_eq!(
            *at(event, "process.args"),
            json!(["insmod", module.to_str().unwrap()])
        );
        assert_ne!(text(event, "process.parent.executable"), "");
        println!("{tier}: taints `{}`", taints.trim());
    }
}
