//! Only what the rules ask for is attached.
//!
//! In: a rule over processes alone. Out: what the daemon says it left out, and its alert. Must never mistake a hook that the
//! kernel refused for one that nobody asked for.

use std::fs;

use crate::daemon::{Daemon, is, text};
use crate::scope::Scope;
use crate::tiers;

const RULE: &str = r#"[rule]
rule_id = "b9c1f1f6-52f1-4a1e-9d3c-3a5a8f0f8f31"
name = "Any Program Named True"
type = "eql"
query = 'process where event.action == "exec" and process.name == "true"'
"#;

#[test]
fn kinds_that_no_rule_asks_for_are_not_attached() {
    for tier in tiers() {
        let scope = Scope::new("interest");
        let rules = tempfile::tempdir().unwrap();
        fs::write(rules.path().join("rule.toml"), RULE).unwrap();
        let mut daemon = Daemon::run_with(&scope, &tier, rules.path(), &[]);
        let said = daemon.said();
        let left_out = said
            .lines()
            .find(|line| line.contains("nothing asks for it"))
            .unwrap_or_else(|| panic!("{tier}: nothing is left out:\n{said}"));
        println!("{tier}: {left_out}");
        assert!(left_out.contains("creation") && left_out.contains("connection_attempted"));
        let ready = said.lines().find(|line| line.contains("ready:")).unwrap();
        assert!(ready.contains("sched_process_exec"), "{tier}: {ready}");
        for hook in [
            "security_file_open",
            "sys_exit",
            "tcp_v4_connect",
            "inet_sock_set_state",
        ] {
            assert!(!ready.contains(hook), "{tier}: {ready}");
        }
        scope.run(&["true"]);
        daemon.wait_for("alert", |alert| {
            alert["rule"]["name"] == "Any Program Named True"
        });
        let ended = daemon.stop();
        assert!(
            !ended.lines.iter().any(|line| is(line, "file", "creation")),
            "{tier}: {:?}",
            ended.lines
        );
    }
}

const NAMED: &str = r#"[rule]
rule_id = "9ce0a0a8-0e43-4a3f-9e36-51ad9a3c9c02"
name = "File Made By Wanted"
type = "eql"
query = 'file where event.action == "creation" and process.name == "wanted-program-of-a-long-name"'
"#;

/// Makes files under names that are wanted and under names that are not, in every way a process comes by a name.
const NAMED_SCRIPT: &str = r#"
cp "$(command -v touch)" wanted-program-of-a-long-name
cp wanted-program-of-a-long-name other
ln -s other linked && mkdir below && ln -s ../other below/wanted-program-of-a-long-name
./wanted-program-of-a-long-name by-its-own-name
./below/wanted-program-of-a-long-name by-the-name-of-a-link
ln -sf wanted-program-of-a-long-name linked && ./linked by-the-name-behind-a-link
printf '#!/bin/sh\n: > by-a-script\n(: > by-a-fork-of-a-script)\n' > script
chmod +x script && mkdir scripts && cp script scripts/wanted-program-of-a-long-name
./scripts/wanted-program-of-a-long-name
./other not-wanted
: > not-wanted-either
./script
printf '#!/bin/sh\nexec ../other after-another-exec\n' > scripts/wanted-program-of-a-long-name
(cd scripts && ./wanted-program-of-a-long-name)
cp other wanted-program-of-a-long-tail && ./wanted-program-of-a-long-tail not-wanted-after-all
"#;

#[test]
fn acts_are_wanted_of_processes_by_name() {
    for tier in tiers() {
        let scope = Scope::new("named");
        let rules = tempfile::tempdir().unwrap();
        fs::write(rules.path().join("rule.toml"), NAMED).unwrap();
        scope.write("acts", NAMED_SCRIPT);
        let daemon = Daemon::run_with(&scope, &tier, rules.path(), &[]);
        let script = scope.folder().join("acts");
        scope.run(&["sh", script.to_str().unwrap()]);
        let ended = daemon.stop();
        let made: Vec<&str> = ended
            .lines
            .iter()
            .map(|alert| text(&alert["events"][0], "file.name"))
            .collect();
        assert_eq!(
            made,
            [
                "by-its-own-name",
                "by-the-name-of-a-link",
                "by-the-name-behind-a-link",
                "by-a-script",
                "by-a-fork-of-a-script",
            ],
            "{tier}"
        );
        // What the shell, cp and the others made never left the kernel.
        let account = ended
            .log
            .lines()
            .find(|line| line.contains("ended"))
            .unwrap_or_else(|| panic!("{tier}: {}", ended.log));
        println!("{tier}: {account}");
        let left_out: u64 = account
            .split_once("left_out=")
            .and_then(|(_, rest)| rest.split(' ').next())
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("{tier}: {account}"));
        assert_eq!(left_out, 8, "{tier}: {account}");
    }
}
