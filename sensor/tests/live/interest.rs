//! Only what the rules ask for is attached.
//!
//! In: a rule over processes alone. Out: what the daemon says it left out, and its alert. Must never mistake a hook that the
//! kernel refused for one that nobody asked for.

use std::fs;

use crate::daemon::{Daemon, is};
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
