//! How the daemon ends, and when it does not start.
//!
//! In: SIGTERM, an empty rules folder. Out: time to the end, kernel programs left behind, refusal. Must never count programs
//! of somebody else.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon::{BINARY, Daemon};
use crate::scope::Scope;
use crate::tiers;

/// What the kernel may take to free programs after the last reference is gone.
const FREED_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn sigterm_ends_the_daemon_soon_and_detaches_every_program() {
    for tier in tiers() {
        let scope = Scope::new("end");
        let daemon = Daemon::run(&scope, &tier);
        let own = programs_of(daemon.pid());
        assert!(
            own.len() >= 5,
            "{tier}: fork, exec, exit, file and network programs at least, found {own:?}"
        );
        assert!(
            own.is_subset(&loaded()),
            "{tier}: bpftool does not list {own:?}"
        );
        let ended = daemon.stop();
        println!(
            "{tier}: {} programs, ended {:?} after SIGTERM with {}",
            own.len(),
            ended.took,
            ended.status
        );
        assert!(
            ended.took < Duration::from_secs(2),
            "{tier}: {:?}",
            ended.took
        );
        let stopped = Instant::now();
        loop {
            let left: Vec<_> = loaded().intersection(&own).copied().collect();
            if left.is_empty() {
                break;
            }
            assert!(
                stopped.elapsed() < FREED_LIMIT,
                "{tier}: still loaded: {left:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn sigkill_leaves_no_program_map_or_link_and_no_child() {
    for tier in tiers() {
        let scope = Scope::new("kill");
        let daemon = Daemon::run(&scope, &tier);
        let pid = daemon.pid();
        let kinds = [
            ("prog", "prog_id:"),
            ("map", "map_id:"),
            ("link", "link_id:"),
        ];
        let own = kinds.map(|(what, key)| (what, held(pid, key)));
        for (what, ids) in &own {
            assert!(ids.len() >= 5, "{tier}: {what}: {ids:?}");
            assert!(ids.is_subset(&there(what)), "{tier}: {what}: {ids:?}");
        }
        assert_eq!(children_of(pid), [0; 0], "{tier}: the self-check's child");
        daemon.signal(Signal::KILL);
        drop(daemon);
        let killed = Instant::now();
        for (what, ids) in &own {
            loop {
                let left: Vec<_> = there(what).intersection(ids).copied().collect();
                if left.is_empty() {
                    break;
                }
                assert!(
                    killed.elapsed() < FREED_LIMIT,
                    "{tier}: {what}s still there: {left:?}"
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            println!("{tier}: {} {what}s, none left after SIGKILL", ids.len());
        }
    }
}

/// Pids whose parent is this one.
fn children_of(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// Kernel programs a process holds, by the descriptors it has open.
fn programs_of(pid: u32) -> BTreeSet<u64> {
    held(pid, "prog_id:")
}

/// Numbers of kernel objects a process holds, by the descriptors it has open.
fn held(pid: u32, key: &str) -> BTreeSet<u64> {
    fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .flat_map(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix(key)?.trim().parse().ok())
                .collect::<Vec<u64>>()
        })
        .collect()
}

/// Kernel programs there are, as `bpftool prog show` lists them.
fn loaded() -> BTreeSet<u64> {
    there("prog")
}

/// Kernel objects of a sort there are, as bpftool lists them.
fn there(what: &str) -> BTreeSet<u64> {
    let output = Command::new("bpftool")
        .args([what, "show", "-j"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let programs: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    programs
        .iter()
        .filter_map(|program| program["id"].as_u64())
        .collect()
}

#[test]
fn a_rules_folder_without_rules_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(BINARY)
        .args(["run", "--output", "stdout", "--rules"])
        .arg(empty.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("rule"), "{said}");
}
