//! One daemon after another: what the first remembered, the second goes on with.
//!
//! In: sequences begun under one daemon, which is then stopped or killed. Out: the alerts of the next, each once. Must never
//! compare with anything but what was done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::control::Shell;
use crate::daemon::{BINARY, Daemon, at, number, text};
use crate::scope::Scope;
use crate::tiers;

/// For a state to be written: five seconds, and what an emulated machine takes besides.
const KEPT_LIMIT: Duration = Duration::from_secs(120);

/// Two programs of one name, by children of one process.
const SEQUENCE: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3a11"
name = "First Then Second"
type = "eql"
query = '''
sequence by process.parent.entity_id, process.args with maxspan=1h
  [process where event.action == "exec" and process.name == "first"]
  [process where event.action == "exec" and process.name == "second"]
'''
"#;

/// The folder of rules, programs to run, and the file of alerts.
struct Bench {
    scope: Scope,
    rules: tempfile::TempDir,
    shell: Shell,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let scope = Scope::new(name);
        let rules = tempfile::tempdir().unwrap();
        fs::write(rules.path().join("sequence.toml"), SEQUENCE).unwrap();
        fs::write(rules.path().join("settings"), "").unwrap();
        for name in ["first", "second"] {
            std::os::unix::fs::symlink("/bin/true", scope.folder().join(name)).unwrap();
        }
        let shell = Shell::start(&scope);
        Bench {
            scope,
            rules,
            shell,
        }
    }

    fn file(&self) -> PathBuf {
        self.rules.path().join("alerts.jsonl")
    }

    fn start(&self, tier: &str, folder: tempfile::TempDir) -> Daemon {
        let mut command = Command::new(BINARY);
        command
            .arg("run")
            .arg("--output")
            .arg(format!("file:{}", self.file().display()))
            .arg("--config")
            .arg(self.rules.path().join("settings"))
            .arg("--rules")
            .arg(self.rules.path().join("sequence.toml"));
        Daemon::launch_in(folder, &self.scope, tier, command)
    }

    /// Alerts so far.
    fn alerts(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn wait_for_alerts(&self, count: usize, daemon: &Daemon) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let alerts = self.alerts();
            if alerts.len() >= count {
                return alerts;
            }
            assert!(
                started.elapsed() < KEPT_LIMIT,
                "{} of {count} alerts; the daemon said:\n{}",
                alerts.len(),
                daemon.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits for a state that is written after this moment.
fn wait_for_state(folder: &Path, daemon: &Daemon) {
    let file = folder.join("state.bin");
    let written = || fs::metadata(&file).and_then(|file| file.modified()).ok();
    let (before, started) = (written(), Instant::now());
    while written() == before {
        assert!(
            started.elapsed() < KEPT_LIMIT,
            "no state in {KEPT_LIMIT:?}; the daemon said:\n{}",
            daemon.said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A sequence that a restart cut in two, a second one that a kill did.
#[test]
fn a_sequence_under_way_completes_after_a_restart_and_after_a_kill() {
    for tier in tiers() {
        let mut bench = Bench::new("restart");
        let mut daemon = bench.start(&tier, tempfile::tempdir().unwrap());
        bench.shell.run("./first stopped");
        for (word, next, signal) in [
            ("stopped", "killed", Signal::TERM),
            ("killed", "last", Signal::KILL),
        ] {
            if signal == Signal::KILL {
                // The first may be of a moment before what was just done, the second is not.
                wait_for_state(daemon.folder(), &daemon);
                bench.shell.run("true");
                bench.shell.run("/bin/true");
                wait_for_state(daemon.folder(), &daemon);
            }
            let (said, folder) = daemon.end_by(signal);
            assert!(!said.contains("ERROR"), "{tier}: {said}");
            daemon = bench.start(&tier, folder);
            let said = daemon.said();
            assert!(
                said.contains("sensor.gap: nothing was recorded for"),
                "{tier}: {said}"
            );
            assert!(!said.contains(": 0 partial matches"), "{tier}: {said}");
            bench.shell.run(&format!("./second {word}"));
            let done = if word == "stopped" { 1 } else { 2 };
            let alerts = bench.wait_for_alerts(done, &daemon);
            let alert = &alerts[done - 1];
            assert_eq!(
                number(alert, "event.sequence"),
                Some(done as u64),
                "{alert:#}"
            );
            let events = at(alert, "events").as_array().unwrap();
            let parents: Vec<&str> = events
                .iter()
                .map(|event| text(event, "process.parent.entity_id"))
                .collect();
            assert_eq!(parents[0], parents[1], "{alert:#}");
            assert_eq!(at(&events[0], "process.args")[1], word, "{alert:#}");
            assert!(
                alert.to_string().contains(r#""lost":1"#),
                "that nobody watched for a time is told: {alert:#}"
            );
            bench.shell.run(&format!("./first {next}"));
        }
        daemon.end_by(Signal::TERM);
        assert_eq!(bench.alerts().len(), 2, "{tier}: no alert twice");
        bench.shell.end();
    }
}
