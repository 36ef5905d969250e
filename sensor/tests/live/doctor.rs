//! `doctor` on the running kernel.
//!
//! In: the built binary with and without privilege, and in a pid namespace of its own. Out: its lines and exit code. Must never
//! depend on how this machine is set up beyond what the other live tests need: rules are named, the journal may be absent.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use serde_json::Value;

use crate::daemon::{BINARY, rules};
use crate::tiers;

fn doctor(command: &mut Command, more: &[&str]) -> (Output, Value) {
    let output = command
        .args(["doctor", "--json", "--rules"])
        .arg(rules())
        .args(more)
        .output()
        .unwrap();
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {output:?}"));
    (output, document)
}

fn line<'a>(document: &'a Value, about: &str) -> &'a Value {
    let lines = document["lines"].as_array().unwrap();
    lines
        .iter()
        .find(|line| line["about"] == about)
        .unwrap_or_else(|| panic!("no line about {about} in {document}"))
}

#[test]
fn every_kind_is_told_and_nothing_fails_where_the_sensor_runs() {
    for tier in tiers() {
        let (output, document) = doctor(&mut Command::new(BINARY), &["--tier", &tier]);
        println!("{tier}: {document}");
        assert_eq!(output.status.code(), Some(0), "{document}");
        assert_eq!(document["summary"]["fail"], 0);
        let kinds = document["kinds"].as_array().unwrap();
        for name in ["fork", "exec", "end", "creation", "connection_attempted"] {
            let kind = kinds.iter().find(|kind| kind["kind"] == name).unwrap();
            assert_eq!(kind["attached"], true, "{kind}");
            assert_eq!(kind["asked_for"], true, "{kind}");
        }
        for kind in kinds {
            let name = kind["kind"].as_str().unwrap();
            let told = line(&document, name);
            assert!(!told["text"].as_str().unwrap().is_empty());
            // What is not there is told with the reason, whether a rule asks for it or not.
            if kind["attached"] == false {
                assert_ne!(kind["refused"].as_array().unwrap().len(), 0, "{kind}");
            }
        }
        let check = line(&document, "self-check");
        assert_eq!(check["status"], "ok", "{check}");
        assert!(check["text"].as_str().unwrap().contains("exec"), "{check}");
    }
}

#[test]
fn without_privilege_it_says_what_it_could_not_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let copy = folder.path().join("eql-sensor");
    std::fs::copy(BINARY, &copy).unwrap();
    let output = Command::new(&copy)
        .args(["doctor", "--json"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{document}");
    let capabilities = line(&document, "capabilities");
    assert_eq!(capabilities["status"], "fail", "{capabilities}");
    let said = capabilities["text"].as_str().unwrap();
    assert!(said.contains("CAP_BPF is missing"), "{said}");
    let programs = line(&document, "programs");
    assert_eq!(programs["status"], "warn", "{programs}");
    let said = programs["text"].as_str().unwrap();
    assert!(said.contains("not looked at"), "{said}");
    // `run` says the same of itself, by its own exit code.
    let output = Command::new(&copy)
        .args(["run", "--allow-no-rules", "--output", "none"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("CAP_BPF"), "{said}");
}

#[test]
fn a_pid_namespace_of_its_own_is_refused_with_the_field() {
    let inside = ["--pid", "--fork", "--mount-proc", BINARY];
    let (output, document) = doctor(Command::new("unshare").args(inside), &[]);
    assert_eq!(output.status.code(), Some(1), "{document}");
    assert_eq!(line(&document, "namespace")["status"], "fail");
    let check = line(&document, "self-check");
    println!("{check}");
    assert_eq!(check["status"], "fail", "{check}");
    let said = check["text"].as_str().unwrap();
    assert!(said.contains("`tgid` of the `exec` record is"), "{said}");
    let output = Command::new("unshare")
        .args(inside)
        .args(["run", "--allow-no-rules", "--output", "none"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("`tgid` of the `exec` record is"), "{said}");
}
