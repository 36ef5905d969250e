//! The kinds that come in masses: modification and open, and what holds them back.
//!
//! In: C programs that change and open files in every way, and in ways that must not count. Out: exactly the events of the
//! former, with every fact of the file; under load, what was left out to the last record. Must never accept an event for a
//! near miss.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, Ended, at, is, number, text};
use crate::scope::Scope;
use crate::tiers;

const MODIFY: &str = include_str!("actors/modify.c");
const OPEN: &str = include_str!("actors/open.c");

const LAYERS: &str = include_str!("actors/layers.c");

/// The modifications in layers.
const LAYERED: &[&str] = &[
    "truncate @/t/merged/cut",
    "write @/t/merged/grown",
    "truncate @/t/merged/cut",
    "truncate @/t/merged/short",
    "chmod @/t/merged/mode",
];

/// The modifications in order. `@` stands for the folder. Behind the bar is what only the kernel or a look-up can tell: mode,
/// owner and group.
const MODIFICATIONS: &[&str] = &[
    "write @/old | 0644 0 0",
    "write @/old | 0644 0 0",
    "write @/old | 0644 0 0",
    "write @/sent | 0644 0 0",
    "write @/ranged | 0644 0 0",
    "write @/spliced | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "write @/new | 0644 0 0",
    "chmod @/mode | 0600 0 0",
    "chmod @/mode | 0640 0 0",
    "chmod @/mode | 0604 0 0",
    "chmod @/mode | 0606 0 0",
    "chmod @/sub/below | 4755 0 0",
    "chown @/owner | 0644 11 12",
    "chown @/owner | 0644 13 12",
    "chown @/owner | 0644 14 12",
    "chown @/owner | 0644 15 12",
    "chown @/owner | 0644 16 12",
];

/// The same where paths of the caller can not be looked up: they are told as their text is, whatever is there.
const MODIFICATIONS_BY_TEXT: &[&str] = &[
    "write @/old | 0644 0 0",
    "write @/old | 0644 0 0",
    "write @/old | 0644 0 0",
    "write @/sent | 0644 0 0",
    "write @/ranged | 0644 0 0",
    "write @/spliced | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut",
    "truncate @/cut | 0644 0 0",
    "truncate @/cut | 0644 0 0",
    "write @/new | 0644 0 0",
    "chmod @/mode",
    "chmod @/mode | 0640 0 0",
    "chmod @/mode",
    "chmod @/link",
    "chmod @/sub/below",
    "chmod @/sub",
    "chown @/owner",
    "chown @/owner | 0644 13 12",
    "chown @/owner",
    "chown @/owner",
    "chown @/owner | 0644 16 12",
    "chown @/owned",
    "chown @/owned",
];

/// The opens in order: path and mode.
const OPENS: &[&str] = &[
    "@/secret 0644",
    "@/sub/secret 0600",
    "@/exact 0644",
    "@/exact 0644",
    "@/all/one 0644",
    "@/all/deep/two 0644",
    "@/secret 0644",
];

/// A daemon that records all kinds under these further settings.
fn record(scope: &Scope, tier: &str, settings: &str, more: &[&str]) -> Daemon {
    // Written by this process, which the daemon does not watch.
    let path = scope.write(
        "settings.toml",
        &format!("[kernel]\nrecord_bulk = true\n{settings}"),
    );
    let mut arguments = vec!["--config", path.to_str().unwrap()];
    arguments.extend(more);
    Daemon::record(scope, tier, &arguments)
}

fn build(scope: &Scope, name: &str, source: &str) -> String {
    scope.write(&format!("{name}.c"), source);
    let mut gcc = Command::new("gcc");
    gcc.args(["-Wall", "-Wno-unused-result", &format!("{name}.c"), "-o"]);
    let built = gcc.arg(name).current_dir(scope.folder()).status();
    assert!(built.unwrap().success());
    format!("./{name}")
}

/// Files with known modes, whatever the mask is.
fn prepare(folder: &Path, names: &[&str]) {
    for name in names {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "what was there before").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

/// Whether the second tier can look up a path of the caller's: a kernel that can not be asked to look in its directory cache
/// alone can not do it without the risk to wait. 5.12 can, and so can later 5.10s.
fn looks_up() -> bool {
    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::CACHED).is_ok()
}

/// Whether the daemon's hooks for modifications are trampolines.
fn uses_trampolines(ended: &Ended) -> bool {
    ended.log.contains("fexit/generic_write_checks")
}

fn of_kind<'a>(ended: &'a Ended, category: &str, action: &str) -> Vec<&'a Value> {
    let lines = ended.lines.iter();
    lines.filter(|line| is(line, category, action)).collect()
}

#[test]
fn a_modification_is_told_once_and_nothing_else_is() {
    for tier in tiers() {
        let scope = Scope::new("modify");
        let folder = scope.folder();
        let modify = build(&scope, "modify", MODIFY);
        let names = [
            "old",
            "source",
            "sent",
            "ranged",
            "spliced",
            "doomed",
            "cut",
            "mode",
            "sub/below",
            "owner",
        ];
        prepare(&folder, &names);
        // Two links: one that was just changed is not followed by a look-up that must not write, not even a time of use.
        std::os::unix::fs::symlink("mode", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("mode", folder.join("owned")).unwrap();
        let only = ["--only", "process,creation,modification"];
        let daemon = record(&scope, &tier, "", &only);
        let pid = scope.run(&[&modify]);
        let ended = daemon.stop();
        let events = of_kind(&ended, "file", "modification");
        let place = folder.to_str().unwrap();
        let found: Vec<String> = events
            .iter()
            .map(|event| describe(event).replace(place, "@"))
            .collect();
        let expected = if uses_trampolines(&ended) || looks_up() {
            MODIFICATIONS
        } else {
            MODIFICATIONS_BY_TEXT
        };
        assert_eq!(found, expected, "{tier}");
        for event in events {
            check_common(event, pid, "change");
            let path = Path::new(text(event, "file.path"));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(text(event, "file.name"), name);
            let inode = fs::metadata(path).unwrap().ino().to_string();
            if at(event, "file.mode").is_string() {
                assert_eq!(text(event, "file.inode"), inode, "{event:#}");
                assert_eq!(text(event, "file.type"), "file");
            } else {
                assert!(at(event, "file.inode").is_null(), "{event:#}");
            }
        }
        assert_balanced(&ended);
        println!("{tier}: {} modifications and no other", expected.len());
    }
}

#[test]
fn a_file_in_layers_is_told_as_one() {
    for tier in tiers() {
        let scope = Scope::new("layers");
        let folder = scope.folder();
        fs::create_dir(folder.join("t")).unwrap();
        let layers = build(&scope, "layers", LAYERS);
        let only = ["--only", "process,creation,modification"];
        let daemon = record(&scope, &tier, "", &only);
        scope.run(&[&layers]);
        let ended = daemon.stop();
        let place = folder.to_str().unwrap();
        let told: Vec<String> = of_kind(&ended, "file", "modification")
            .into_iter()
            .map(|event| {
                let change = text(event, "file.Ext.modification");
                format!("{change} {}", text(event, "file.path")).replace(place, "@")
            })
            .collect();
        assert_eq!(told, LAYERED, "{tier}");
        let made: Vec<_> = of_kind(&ended, "file", "creation");
        let made: Vec<_> = made.iter().map(|event| text(event, "file.name")).collect();
        assert_eq!(made, ["cut", "grown", "short", "mode", "new"], "{tier}");
        assert_balanced(&ended);
    }
}

fn describe(event: &Value) -> String {
    let change = text(event, "file.Ext.modification");
    let path = text(event, "file.path");
    match text(event, "file.mode") {
        "" => format!("{change} {path}"),
        mode => {
            let (uid, gid) = (text(event, "file.uid"), text(event, "file.gid"));
            format!("{change} {path} | {mode} {uid} {gid}")
        }
    }
}

fn check_common(event: &Value, pid: u32, kind: &str) {
    assert_eq!(at(event, "event.type"), &serde_json::json!([kind]));
    assert_eq!(text(event, "event.outcome"), "success");
    assert_eq!(number(event, "process.pid"), Some(u64::from(pid)));
    assert_eq!(text(event, "user.id"), "0");
}

#[test]
fn an_open_of_what_is_watched_is_told_and_no_other() {
    for tier in tiers() {
        let scope = Scope::new("open");
        let folder = scope.folder();
        let open = build(&scope, "open", OPEN);
        let names = [
            "secret",
            "sub/secret",
            "exact",
            "sub/exact",
            "all/one",
            "all/deep/two",
            "sub/all/one",
            "other",
        ];
        prepare(&folder, &names);
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.join("sub/secret"), mode(0o600)).unwrap();
        for made in ["new", "run"] {
            fs::create_dir(folder.join(made)).unwrap();
        }
        fs::copy("/bin/true", folder.join("run/secret")).unwrap();
        std::os::unix::fs::symlink("exact", folder.join("link")).unwrap();
        let place = folder.to_str().unwrap();
        let settings = format!("watch_open = [\"secret\", \"{place}/exact\", \"{place}/all/\"]\n");
        let daemon = record(&scope, &tier, &settings, &["--only", "process,open"]);
        let pid = scope.run(&[&open]);
        let ended = daemon.stop();
        let events = of_kind(&ended, "file", "open");
        let found: Vec<String> = events
            .iter()
            .map(|event| {
                let line = format!("{} {}", text(event, "file.path"), text(event, "file.mode"));
                line.replace(place, "@")
            })
            .collect();
        assert_eq!(found, OPENS, "{tier}");
        for event in events {
            check_common(event, pid, "access");
            let inode = fs::metadata(text(event, "file.path")).unwrap().ino();
            assert_eq!(text(event, "file.inode"), inode.to_string());
        }
        assert_balanced(&ended);
        println!("{tier}: {} opens and no other", OPENS.len());
    }
}

/// The account of one kind, or of all.
fn account(ended: &Ended, kind: Option<&str>, name: &str) -> u64 {
    let lines = ended.log.lines();
    let account: Value = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .next_back()
        .unwrap();
    let of = kind.map_or(&account, |kind| &account["kinds"][kind]);
    of[name].as_u64().unwrap()
}

fn assert_balanced(ended: &Ended) {
    let all = |name| account(ended, None, name);
    let accounted = all("submitted") + all("lost") + all("dropped");
    assert_eq!((all("seen"), all("lost")), (accounted, 0));
    assert_eq!(all("received"), all("submitted"));
}

/// Modifications that the recording says are missing for a cause.
fn in_gaps(ended: &Ended, cause: &str) -> u64 {
    let gaps = ended.lines.iter().map(|line| &line["eql_sensor"]["gap"]);
    let causes = gaps.filter_map(|gap| gap["causes"].as_array());
    let counts = causes
        .flatten()
        .filter(|one| one["record"] == "modification" && one["cause"] == cause);
    counts.filter_map(|one| one["count"].as_u64()).sum()
}

#[test]
fn a_process_that_ends_while_it_is_held_back_is_told() {
    const ACTS: u64 = 500;
    for tier in tiers() {
        let scope = Scope::new("held");
        let modify = build(&scope, "modify", MODIFY);
        prepare(&scope.folder(), &["mode"]);
        let settings = "bulk_per_second = 1\nbulk_burst = 60\n";
        let daemon = record(&scope, &tier, settings, &[]);
        let pid = scope.run(&[&modify, "many", &ACTS.to_string()]);
        let ended = daemon.stop();
        let told = of_kind(&ended, "file", "modification").len() as u64;
        let over = of_kind(&ended, "host", "throttle_ended");
        assert_eq!(over.len(), 1, "{tier}: {:#?}", ended.lines);
        assert_eq!(number(over[0], "process.pid"), Some(u64::from(pid)));
        let dropped = number(over[0], "sensor.dropped").unwrap();
        assert_eq!(told + dropped, ACTS, "{tier}");
        assert!(dropped > 400, "{tier}: {dropped}");
        let place = |action| {
            let mut lines = ended.lines.iter();
            lines.position(|line| text(line, "event.action") == action)
        };
        assert!(place("throttle_ended") < place("end"), "{tier}");
        assert_balanced(&ended);
    }
}

#[test]
fn a_process_that_makes_too_many_is_held_back_and_it_is_said() {
    const FIRST: u64 = 3000;
    for tier in tiers() {
        let scope = Scope::new("throttle");
        let modify = build(&scope, "modify", MODIFY);
        prepare(&scope.folder(), &["mode"]);
        let settings = "bulk_per_second = 40\nbulk_burst = 60\n";
        let only = ["--only", "process,modification"];
        let daemon = record(&scope, &tier, settings, &only);
        let pid = scope.run(&[&modify, "twice", &FIRST.to_string(), "1000"]);
        let ended = daemon.stop();
        let told = of_kind(&ended, "file", "modification").len() as u64;
        let (begun, over) = (
            of_kind(&ended, "host", "throttle_started"),
            of_kind(&ended, "host", "throttle_ended"),
        );
        let dropped: u64 = over
            .iter()
            .map(|event| number(event, "sensor.dropped").unwrap())
            .sum();
        println!(
            "{tier}: {told} told, {dropped} left out in {} throttles",
            over.len()
        );
        assert_eq!(told + dropped, FIRST + 1, "{tier}");
        // Each throttle ends before the last act, which is told again.
        assert_eq!(begun.len(), over.len());
        assert!(!begun.is_empty() && dropped > told, "{tier}");
        for event in begun.iter().chain(&over) {
            assert_eq!(number(event, "process.pid"), Some(u64::from(pid)));
        }
        let mut last = ended
            .lines
            .iter()
            .filter(|line| is(line, "file", "modification"));
        assert_eq!(text(last.next_back().unwrap(), "file.mode"), "0644");
        assert_eq!(account(&ended, Some("modification"), "dropped"), dropped);
        assert_eq!(in_gaps(&ended, "throttled"), dropped, "{tier}");
        assert_eq!(account(&ended, Some("modification"), "seen"), FIRST + 1);
        // Other kinds are never held back.
        assert_eq!(of_kind(&ended, "process", "exec").len(), 1);
        assert_eq!(of_kind(&ended, "process", "end").len(), 1);
        assert_balanced(&ended);
    }
}

#[test]
fn the_last_quarter_of_the_ring_is_not_for_masses() {
    const ACTS: u64 = 400;
    for tier in tiers() {
        let scope = Scope::new("headroom");
        let modify = build(&scope, "modify", MODIFY);
        prepare(&scope.folder(), &["mode"]);
        let settings = "bulk_per_second = 0\n";
        let daemon = record(&scope, &tier, settings, &["--ring-bytes", "8192"]);
        daemon.signal(Signal::STOP);
        scope.run(&[&modify, "many", &ACTS.to_string()]);
        daemon.signal(Signal::CONT);
        let ended = daemon.stop();
        let of = |name| account(&ended, Some("modification"), name);
        let dropped = of("dropped");
        println!("{tier}: {dropped} of {ACTS} left out of a ring of 8192 bytes");
        assert_eq!(of("seen"), ACTS);
        assert_eq!((of("submitted") + dropped, of("lost")), (ACTS, 0));
        assert!(of("submitted") > 10 && dropped > 300, "{tier}");
        assert_eq!(in_gaps(&ended, "headroom"), dropped, "{tier}");
        // The end of the process came after all of them, into a ring that still had room.
        assert_eq!(of_kind(&ended, "process", "end").len(), 1);
        assert_balanced(&ended);
    }
}
