//! `record` while a script forks and execs 200 times.
//!
//! In: a script with distinct arguments, run as another user. Out: the exec events, compared one by one with what the script
//! did. Must never accept a surplus or a missing event.

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

const FORKS: u32 = 200;

#[test]
fn two_hundred_execs_are_recorded_exactly() {
    for tier in tiers() {
        let scope = Scope::new("execs");
        let script = scope.write(
            "script",
            &format!("i=0\nwhile [ $i -lt {FORKS} ]; do /bin/true \"first $i\" '' 'grün\"\\' -$i; i=$((i+1)); done\n"),
        );
        let daemon = Daemon::record_only(&scope, &tier, "exec,fork,end", &[]);
        let shell = scope.run(&[
            "setpriv",
            "--reuid",
            "4242",
            "--regid",
            "4243",
            "--clear-groups",
            "sh",
            script.to_str().unwrap(),
        ]);
        let ended = daemon.stop();
        let execs: Vec<&Value> = ended
            .lines
            .iter()
            .filter(|event| is(event, "process", "exec"))
            .collect();
        // The shell that joined the cgroup became setpriv, which became the script's shell.
        let before: Vec<_> = execs
            .iter()
            .take(2)
            .map(|event| text(event, "process.name"))
            .collect();
        assert_eq!(before, ["setpriv", "sh"], "{tier}");
        assert_eq!(
            execs.len(),
            2 + FORKS as usize,
            "{tier}: {:?}",
            names(&execs)
        );
        let folder = scope.folder();
        for (i, event) in execs.iter().skip(2).enumerate() {
            assert_eq!(
                *at(event, "process.args"),
                json!([
                    "/bin/true",
                    format!("first {i}"),
                    "",
                    "grün\"\\",
                    format!("-{i}")
                ]),
                "{tier}: exec {i}"
            );
            assert_eq!(
                number(event, "process.args_count"),
                Some(5),
                "{tier}: exec {i}"
            );
            assert_eq!(text(event, "process.name"), "true", "{tier}: exec {i}");
            assert_eq!(
                number(event, "process.parent.pid"),
                Some(u64::from(shell)),
                "{tier}: exec {i}"
            );
            assert_eq!(text(event, "process.parent.name"), "sh", "{tier}: exec {i}");
            assert_eq!(
                text(event, "process.working_directory"),
                folder.to_str().unwrap(),
                "{tier}: exec {i}"
            );
            assert_eq!(text(event, "user.id"), "4242", "{tier}: exec {i}");
            assert_eq!(text(event, "group.id"), "4243", "{tier}: exec {i}");
        }
        let forks = ended
            .lines
            .iter()
            .filter(|event| is(event, "process", "fork"))
            .count();
        let ends = ended
            .lines
            .iter()
            .filter(|event| is(event, "process", "end"))
            .count();
        assert_eq!(forks, FORKS as usize, "{tier}: forks");
        assert_eq!(ends, FORKS as usize + 1, "{tier}: ends");
        let counts = Counts::of(&ended.log);
        println!(
            "{tier}: {} execs, {forks} forks, {ends} ends; {counts:?}",
            execs.len()
        );
        assert_eq!(counts.received, counts.submitted, "{tier}");
        assert_eq!(counts.lost, 0, "{tier}");
    }
}

fn names<'a>(events: &[&'a Value]) -> Vec<&'a str> {
    events
        .iter()
        .map(|event| text(event, "process.name"))
        .collect()
}
