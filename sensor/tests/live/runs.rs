//! Who a process is on everything it does, however it came to run.
//!
//! In: a program that runs itself by odd ways, renames and deletes itself, then creates a file and connects; scripts. Out: the
//! exec, the creation and the connection must name the same process, and rightly. Must never compare with what `/proc` said:
//! all of it is gone by then.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

const ACTOR: &str = include_str!("runs.c");

/// One way to run. `@` stands for the folder.
struct Way {
    program: &'static str,
    steps: &'static [&'static str],
    names: &'static [&'static str],
    executables: &'static [&'static str],
    /// The exec is by the process that ran before, not by a child of its.
    in_place: bool,
}

const WAYS: &[Way] = &[
    Way {
        program: "./runs",
        steps: &["rename"],
        names: &["runs"],
        executables: &["@/runs"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["thread"],
        names: &["runs"],
        executables: &["@/runs"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["vfork"],
        names: &["runs"],
        executables: &["@/runs"],
        in_place: false,
    },
    Way {
        program: "./runs",
        steps: &["both", "sibling"],
        names: &["runs"],
        executables: &["@/runs"],
        in_place: false,
    },
    Way {
        program: "./runs",
        steps: &["memfd"],
        names: &["memfd:kept quiet"],
        executables: &["/memfd:kept quiet (deleted)", "/dev/fd/3"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["memory"],
        names: &["memfd:by path"],
        executables: &["/memfd:by path (deleted)", "/proc/self/fd/4"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["descriptor"],
        names: &["runs"],
        executables: &["@/runs", "/dev/fd/3"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["deleted"],
        names: &["gone"],
        executables: &["@/gone (deleted)", "/dev/fd/3"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["tmpfile"],
        names: &["#N"],
        executables: &["@/#N (deleted)", "/dev/fd/4"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["linked"],
        names: &["named"],
        executables: &["@/named"],
        in_place: true,
    },
    Way {
        program: "./copy",
        steps: &["delete"],
        names: &["copy"],
        executables: &["@/copy (deleted)"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["chroot"],
        names: &["inside"],
        executables: &["/inside"],
        in_place: true,
    },
    Way {
        program: "./runs",
        steps: &["pid"],
        names: &["runs"],
        executables: &["@/runs"],
        in_place: false,
    },
];

fn scope() -> Scope {
    let scope = Scope::new("runs");
    let folder = scope.folder();
    scope.write("runs.c", ACTOR);
    // Static, since it also runs where there are no libraries.
    let built = Command::new("gcc")
        .args(["-static", "-pthread", "runs.c", "-o", "runs"])
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(built.success());
    fs::create_dir(folder.join("root")).unwrap();
    fs::copy(folder.join("runs"), folder.join("root/inside")).unwrap();
    scope
}

/// Kinds of the acts that are looked at.
const EVENTS: &str = "process,creation,connection_attempted";

fn strings(event: &Value, path: &str) -> Vec<String> {
    let values = at(event, path).as_array().cloned().unwrap_or_default();
    let values = values.iter().filter_map(Value::as_str);
    values.map(unnumbered).collect()
}

/// A file without a name is called by its number: `#N` stands for any.
fn unnumbered(text: &str) -> String {
    match text.split_once('#') {
        Some((before, number)) => {
            let rest = number.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}#N{rest}")
        }
        None => text.to_owned(),
    }
}

#[test]
fn a_process_is_the_same_on_all_it_does() {
    let scope = scope();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for tier in tiers() {
        let mut daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        let mut told = 0;
        for way in WAYS {
            let folder = scope.folder();
            fs::copy(folder.join("runs"), folder.join("copy")).unwrap();
            let mut arguments = vec![way.program];
            arguments.extend(way.steps);
            arguments.push(&port);
            let (pid, output) = scope.try_run(&arguments);
            let what = format!("{tier}: {:?}", way.steps);
            assert!(output.status.success(), "{what}: {output:?}");
            if String::from_utf8_lossy(&output.stdout).contains("reuse 0") {
                println!("{what}: another process took the number first");
            }
            let events = daemon.wait_from(told, "end of what was begun", |e| all_ended(pid, e));
            told += events.len();
            check(way, &what, &folder, pid, &port, &events);
        }
        let counts = Counts::of(&daemon.stop().log);
        assert_eq!((counts.received, counts.lost), (counts.submitted, 0));
    }
}

/// Whether a process has ended, and all that are forked in these events.
fn all_ended(pid: u32, events: &[Value]) -> bool {
    let of = |action: &'static str| {
        let events = events.iter().filter(move |e| is(e, "process", action));
        events.filter_map(|e| number(e, "process.pid"))
    };
    let mut left: Vec<u64> = of("fork").chain([u64::from(pid)]).collect();
    for ended in of("end") {
        if let Some(at) = left.iter().position(|pid| *pid == ended) {
            left.swap_remove(at);
        }
    }
    left.is_empty()
}

fn check(way: &Way, what: &str, folder: &Path, pid: u32, port: &str, events: &[Value]) {
    let last = |action: &str| {
        let found = events.iter().rfind(|e| text(e, "event.action") == action);
        found.unwrap_or_else(|| panic!("{what}: no {action} in {events:#?}"))
    };
    let exec = last("exec");
    let step = *way.steps.last().unwrap();
    let here = |text: &str| text.replace('@', folder.to_str().unwrap());
    let executables: Vec<_> = way.executables.iter().map(|text| here(text)).collect();
    let runs_on = matches!(step, "rename" | "delete");
    let args = if runs_on {
        json!([way.program, step, port])
    } else {
        json!([step, port])
    };
    for event in [exec, last("creation"), last("connection_attempted")] {
        let action = text(event, "event.action");
        let what = format!("{what}: {action}");
        assert_eq!(strings(event, "process.Ext.names"), way.names, "{what}");
        let mut expected = executables.clone();
        if step == "delete" && action == "exec" {
            expected = vec![here("@/copy")];
        }
        assert_eq!(
            strings(event, "process.Ext.executables"),
            expected,
            "{what}"
        );
        for same in [
            "process.entity_id",
            "process.pid",
            "process.parent.entity_id",
        ] {
            assert_eq!(at(event, same), at(exec, same), "{what}: {same}");
        }
        if is(event, "process", "exec") {
            assert_eq!(*at(event, "process.args"), args, "{what}");
        }
    }
    let own = number(exec, "process.pid").unwrap();
    assert_eq!(own == u64::from(pid), way.in_place, "{what}");
    if !way.in_place {
        let parent = number(exec, "process.parent.pid");
        assert_eq!(parent, Some(u64::from(pid)), "{what}");
    }
    let root = if step == "chroot" {
        ""
    } else {
        folder.to_str().unwrap()
    };
    assert_eq!(
        text(last("creation"), "file.path"),
        format!("{root}/made-{own}"),
        "{what}"
    );
    assert_eq!(
        number(last("connection_attempted"), "destination.port"),
        port.parse().ok()
    );
    let ends = events.iter().filter(|event| is(event, "process", "end"));
    let ends: Vec<_> = ends
        .filter(|event| number(event, "process.pid") == Some(own))
        .collect();
    let end = ends.last().unwrap();
    assert_eq!(strings(end, "process.Ext.names"), way.names, "{what}: end");
    if step == "pid" {
        let entities: Vec<_> = ends.iter().map(|e| text(e, "process.entity_id")).collect();
        assert!(entities.len() < 2 || entities[0] != entities[1], "{what}");
    }
}

#[test]
fn scripts_go_by_their_own_name_and_their_interpreters() {
    let scope = Scope::new("scripts");
    let folder = scope.folder();
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let shell = (
        shell.to_str().unwrap(),
        shell.file_name().unwrap().to_str().unwrap(),
    );
    let inner = folder.join("inner");
    let script = |name: &str, text: &str| {
        let path = scope.write(name, text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script("plain", "#!/bin/sh\n: > ./by-plain\n");
    script("inner", "#!/bin/sh\n: > ./by-nested\n");
    script("nested", &format!("#!{}\n", inner.display()));
    script("by-env", "#!/usr/bin/env sh\n: > ./by-by-env\n");
    for tier in tiers() {
        let mut daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        let mut told = 0;
        for (name, names, script) in [
            ("plain", vec!["plain", shell.1], true),
            ("nested", vec!["nested", shell.1], true),
            // What `env` runs is the shell itself, by that name.
            ("by-env", vec!["sh", shell.1], false),
        ] {
            let pid = scope.run(&[&format!("./{name}")]);
            let events = daemon.wait_from(told, "end of what was begun", |e| all_ended(pid, e));
            told += events.len();
            let what = format!("{tier}: {name}");
            let made = events.iter().find(|event| is(event, "file", "creation"));
            let made = made.unwrap_or_else(|| panic!("{what}: {events:#?}"));
            let path = folder.join(format!("by-{name}"));
            assert_eq!(text(made, "file.path"), path.to_str().unwrap(), "{what}");
            assert_eq!(strings(made, "process.Ext.names"), names, "{what}");
            let mut executables = vec![shell.0.to_owned()];
            if script {
                executables.push(folder.join(name).to_str().unwrap().to_owned());
            }
            assert_eq!(
                strings(made, "process.Ext.executables"),
                executables,
                "{what}"
            );
            let first = events
                .iter()
                .find(|event| is(event, "process", "exec"))
                .unwrap();
            assert_eq!(strings(first, "process.Ext.names")[0], name, "{what}");
            fs::remove_file(path).unwrap();
        }
    }
}

/// Registers a format by its first bytes for a moment, and runs a file of it. `$1`: its name, `$2`: the program that reads such
/// files, `$3`: flags of the registration.
const REGISTERED: &str = r#"
mount -t binfmt_misc none formats || exit 1
echo ":$1:M::#$1::$2:$3" > formats/register || exit 1
trap 'echo -1 > "formats/$1"' EXIT
./registered
"#;

#[test]
fn files_of_a_registered_format_go_by_their_own_name_and_their_interpreters() {
    let scope = Scope::new("formats");
    let folder = scope.folder();
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let shell_name = shell.file_name().unwrap().to_str().unwrap();
    let shell = shell.to_str().unwrap();
    // To the shell its first line is a comment, to the kernel it is the format.
    let format = format!("eql-sensor-live-{}", std::process::id());
    let file = scope.write("registered", &format!("#{format}\n: > ./by-registered\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(folder.join("formats")).unwrap();
    scope.write("register", REGISTERED);
    for tier in tiers() {
        let mut daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        let mut told = 0;
        // As it is; with the file handed over open; with the interpreter opened once for all.
        for flags in ["", "O", "F"] {
            let what = format!("{tier}: {flags:?}");
            let command = [
                "unshare", "--mount", "sh", "register", &format, shell, flags,
            ];
            let pid = scope.run(&command);
            let events = daemon.wait_from(told, "end of what was begun", |e| all_ended(pid, e));
            told += events.len();
            let made = events.iter().find(|event| is(event, "file", "creation"));
            let made = made.unwrap_or_else(|| panic!("{what}: {events:#?}"));
            let own = at(made, "process.entity_id");
            let mut runs = events.iter().filter(|event| is(event, "process", "exec"));
            let exec = runs.find(|event| at(event, "process.entity_id") == own);
            let exec = exec.unwrap_or_else(|| panic!("{what}: {events:#?}"));
            assert_eq!(
                *at(exec, "process.args"),
                json!([shell, "./registered"]),
                "{what}"
            );
            for event in [exec, made] {
                let names = strings(event, "process.Ext.names");
                assert_eq!(names, ["registered", shell_name], "{what}");
                assert_eq!(
                    strings(event, "process.Ext.executables"),
                    [shell, file.to_str().unwrap()],
                    "{what}"
                );
            }
            let path = folder.join("by-registered");
            assert_eq!(text(made, "file.path"), path.to_str().unwrap(), "{what}");
            fs::remove_file(path).unwrap();
        }
    }
}
