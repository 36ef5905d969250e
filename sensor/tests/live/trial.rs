//! Rules tried beside the live ones: counted and not heard of, then promoted or dropped.
//!
//! In: rules in a trial directory, and the acts they are about. Out: the daemon's account of them, no alert before their promotion and
//! one after it. Must never take silence for proof before an act behind it has been seen.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::control::Shell;
use crate::daemon::{BINARY, Daemon, number, text};
use crate::scope::Scope;
use crate::tiers;

const ID: &str = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b01";

fn rule(id: &str, name: &str, query: &str) -> String {
    format!(
        "[rule]\nrule_id = \"{id}\"\nname = \"{name}\"\ntype = \"eql\"\nquery = '''\n{query}\n'''\n"
    )
}

fn run_of(names: &str) -> String {
    format!(r#"process where event.action == "exec" and process.name in ({names})"#)
}

/// Directories of rules, and a daemon that watches a shell by them.
struct Bench {
    scope: Scope,
    folder: tempfile::TempDir,
    shell: Shell,
    daemon: Option<Daemon>,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let scope = Scope::new(name);
        let folder = tempfile::tempdir().unwrap();
        for below in ["rules", "trial", "overrides"] {
            fs::create_dir(folder.path().join(below)).unwrap();
        }
        for name in ["one", "two", "three"] {
            std::os::unix::fs::symlink("/bin/true", scope.folder().join(name)).unwrap();
        }
        let shell = Shell::start(&scope);
        Bench {
            scope,
            folder,
            shell,
            daemon: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn start(&mut self, state: tempfile::TempDir, tier: &str) {
        let mut command = Command::new(BINARY);
        command.args(["run", "--output", "stdout", "--format", "json"]);
        for (flag, below) in [
            ("--rules", "rules"),
            ("--trial", "trial"),
            ("--overrides", "overrides"),
        ] {
            command.arg(flag).arg(self.path(below));
        }
        self.daemon = Some(Daemon::launch_in(state, &self.scope, tier, command));
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().unwrap()
    }

    /// Exit code, what was printed, and what was said of it.
    fn ask(&mut self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.daemon().ask(arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (out, said) = (text(output.stdout), text(output.stderr));
        println!("eql-sensor {}\n{out}{said}", arguments.join(" "));
        (output.status.code(), out, said)
    }

    /// Asks for a rule on trial until it has so many alerts, and gives its account.
    fn trial_with(&mut self, rule: &str, alerts: u64) -> Value {
        for _ in 0..3000 {
            let account = self.daemon().ask_json(&["rules", "trial", rule, "--json"]);
            if number(&account, "alerts") == Some(alerts) {
                return account;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("{rule} did not come to {alerts} alerts");
    }

    /// Names of the rules that alerted so far.
    fn alerted(&mut self) -> Vec<String> {
        let lines = self.daemon().lines();
        let names = lines
            .iter()
            .map(|alert| text(alert, "rule.name").to_owned());
        names.collect()
    }

    fn wait_for(&mut self, rule: &str, generation: u64) {
        self.daemon().wait_for(rule, |alert| {
            text(alert, "rule.name") == rule
                && number(alert, "eql_sensor.alert.generation") == Some(generation)
        });
    }
}

#[test]
fn a_rule_is_tried_in_silence_and_alerts_once_it_is_promoted() {
    for tier in tiers() {
        let mut bench = Bench::new("trial");
        bench.write("rules/runs.toml", &rule(ID, "Runs", &run_of(r#""one""#)));
        let wider = rule(ID, "Runs, Wider", &run_of(r#""one", "two""#));
        bench.write("trial/wider.toml", &wider);
        let made = r#"file where event.action == "creation" and file.name == "made""#;
        bench.write("trial/made.toml", &rule("made-1", "Made", made));
        bench.start(tempfile::tempdir().unwrap(), &tier);

        bench.shell.run("./one; ./two; : > made");
        let made = bench.trial_with("made", 1);
        assert_eq!(made["asks_besides"][0], "creation", "{made}");
        let wider = bench.trial_with("wider", 2);
        assert_eq!(number(&wider, "beside.both"), Some(1), "{wider}");
        assert_eq!(number(&wider, "beside.only_trial"), Some(1), "{wider}");
        assert_eq!(number(&wider, "beside.only_live"), Some(0), "{wider}");
        let last = &wider["would"][1]["alert"]["events"][0];
        assert_eq!(text(last, "process.name"), "two", "{wider}");
        bench.wait_for("Runs", 1);
        assert_eq!(bench.alerted(), ["Runs"]);

        let (_, table, _) = bench.ask(&["rules", "trial"]);
        assert!(
            table.contains(" Runs, Wider\n") && table.contains(" Made\n"),
            "{table}"
        );
        let (_, account, _) = bench.ask(&["rules", "trial", "wider"]);
        assert!(
            account.contains("\n    the live rule alerted, too\n"),
            "{account}"
        );
        let (_, status, _) = bench.ask(&["status"]);
        assert!(
            status.contains("1 loaded, 1 armed; 2 on trial\n"),
            "{status}"
        );
        let (_, metrics, _) = bench.ask(&["metrics"]);
        let of_trial =
            format!(r#"eql_sensor_trial_alerts_total{{id="{ID}",name="Runs, Wider"}} 2"#);
        assert!(metrics.contains(&of_trial), "{metrics}");
        assert!(
            metrics.contains("\neql_sensor_alerts_total 1\n"),
            "{metrics}"
        );

        // Something is in the place of the one, nothing in that of the other.
        let (code, _, said) = bench.ask(&["rules", "promote", "wider"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("rules/runs.toml; say --replace"), "{said}");
        assert_eq!(
            bench.ask(&["rules", "promote", "wider", "--replace"]).0,
            Some(0)
        );
        assert_eq!(bench.ask(&["rules", "promote", "made"]).0, Some(0));
        assert_eq!(fs::read_dir(bench.path("trial")).unwrap().count(), 0);
        let replaced = fs::read_to_string(bench.path("rules/runs.toml.replaced")).unwrap();
        assert!(replaced.contains("name = \"Runs\""), "{replaced}");

        bench.shell.run("./two; rm made; : > made");
        bench.wait_for("Made", 3);
        bench.wait_for("Runs, Wider", 3);
        assert_eq!(bench.alerted(), ["Runs", "Runs, Wider", "Made"]);
        let (_, table, _) = bench.ask(&["rules", "trial"]);
        assert!(table.starts_with("no rule is on trial; "), "{table}");
        bench.shell.end();
        bench.daemon.unwrap().stop();
    }
}

#[test]
fn what_the_daemon_does_not_take_is_put_back() {
    let tier = tiers().remove(0);
    let mut bench = Bench::new("putback");
    bench.write("rules/runs.toml", &rule(ID, "Runs", &run_of(r#""one""#)));
    bench.write("trial/off.toml", &rule("off-1", "Off", &run_of(r#""two""#)));
    bench.write(
        "overrides/off.toml",
        "[[override]]\nrule_id = \"off-1\"\nenabled = false\n",
    );
    bench.start(tempfile::tempdir().unwrap(), &tier);
    bench.shell.run("./two");
    bench.trial_with("off", 1);

    let (code, _, said) = bench.ask(&["rules", "promote", "off"]);
    assert_eq!(code, Some(1), "{said}");
    let because =
        "everything is as it was: the daemon does not run it: an override switches it off";
    assert!(said.contains(because), "{said}");
    assert!(!bench.path("rules/off.toml").exists());
    bench.shell.run("./two");
    let trial = bench.trial_with("off", 1);
    assert!(text(&trial, "since") > "2026", "{trial}");

    // A file that is not what was tried, and one that is broken.
    bench.write(
        "trial/off.toml",
        &rule("off-1", "Off", &run_of(r#""three""#)),
    );
    let (code, _, said) = bench.ask(&["rules", "promote", "off"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is not what was tried"), "{said}");
    bench.write("trial/off.toml", "[rule]\nquery = '''\n");
    assert_eq!(bench.ask(&["reload"]).0, Some(1));
    let (code, _, said) = bench.ask(&["rules", "promote", "off"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("trial/off.toml:3:1: error"), "{said}");

    let (code, _, said) = bench.ask(&["rules", "drop", "off"]);
    assert_eq!(code, Some(2), "nobody can confirm it: {said}");
    assert!(bench.path("trial/off.toml").exists());
    assert_eq!(bench.ask(&["rules", "drop", "off", "--yes"]).0, Some(0));
    assert_eq!(fs::read_dir(bench.path("trial")).unwrap().count(), 0);
    let (code, _, said) = bench.ask(&["rules", "drop", "off", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no rule on trial is `off`"), "{said}");
    assert_eq!(bench.alerted(), [""; 0]);
    bench.shell.end();
    bench.daemon.unwrap().stop();
}

#[test]
fn a_trial_goes_on_over_a_restart() {
    let tier = tiers().remove(0);
    let mut bench = Bench::new("trialkept");
    bench.write("rules/runs.toml", &rule(ID, "Runs", &run_of(r#""one""#)));
    bench.write(
        "trial/wider.toml",
        &rule(ID, "Wider", &run_of(r#""one", "two""#)),
    );
    bench.start(tempfile::tempdir().unwrap(), &tier);
    bench.shell.run("./one; ./two");
    let before = bench.trial_with("wider", 2);
    let (_, state) = bench.daemon.take().unwrap().end_by(Signal::TERM);
    bench.start(state, &tier);
    let after = bench.trial_with("wider", 2);
    for same in ["since", "would", "beside", "promotion"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    assert!(
        number(&after, "events") >= number(&before, "events"),
        "{after}"
    );
    bench.shell.run("./two");
    let later = bench.trial_with("wider", 3);
    assert_eq!(number(&later, "beside.only_trial"), Some(2), "{later}");
    assert!(number(&later, "worked_ms") > number(&before, "worked_ms"));
    bench.shell.end();
    bench.daemon.unwrap().stop();
}
