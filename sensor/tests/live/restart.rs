//! One daemon after another: what the first remembered, the second goes on with.
//!
//! In: sequences begun under one daemon, which is then stopped or killed. Out: the alerts of the next, each once. Must never
//! compare with anything but what was done.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::control::Shell;
use crate::daemon::{BINARY, Daemon, at, number, text};
use crate::kept::Manager;
use crate::scope::Scope;
use crate::tiers;

/// For a state to be written: five seconds, and what an emulated machine takes besides.
const KEPT_LIMIT: Duration = Duration::from_secs(300);

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
pub(crate) struct Bench {
    pub(crate) scope: Scope,
    pub(crate) rules: tempfile::TempDir,
    pub(crate) shell: Shell,
}

impl Bench {
    pub(crate) fn new(name: &str) -> Bench {
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
        Daemon::launch_in(folder, &self.scope, tier, self.command())
    }

    /// Under a manager that keeps what the daemon gives it; not waited for.
    fn start_under(&self, tier: &str, manager: &Manager) -> Daemon {
        Daemon::launch_under(manager, &self.scope, tier, &self.command())
    }

    fn command(&self) -> Command {
        self.command_of(Path::new(BINARY))
    }

    /// Of a copy of the daemon.
    pub(crate) fn command_of(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("run")
            .arg("--output")
            .arg(format!("file:{}", self.file().display()))
            .arg("--config")
            .arg(self.rules.path().join("settings"))
            .arg("--rules")
            .arg(self.rules.path().join("sequence.toml"));
        command
    }

    /// Alerts so far.
    pub(crate) fn alerts(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub(crate) fn wait_for_alerts(&self, count: usize, daemon: &Daemon) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let written = fs::read(self.file()).unwrap_or_default();
            let lines = written.iter().filter(|byte| **byte == b'\n').count();
            if lines >= count {
                return self.alerts();
            }
            assert!(
                started.elapsed() < KEPT_LIMIT,
                "{lines} of {count} alerts; the daemon said:\n{}",
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

/// Begins sequences and completes each eight later, until a file called `stop` is there; then completes the rest and says how many
/// there were.
const LOAD: &str = r#"
name=$1 count=0
while [ ! -e stop ]; do
    ./first $name$count
    [ $count -lt 8 ] || ./second $name$((count - 8))
    count=$((count + 1))
    sleep 0.02
done
last=$((count - 8))
[ $last -ge 0 ] || last=0
while [ $last -lt $count ]; do
    ./second $name$last
    last=$((last + 1))
done
echo $count > count.$name
"#;

const NAMES: [&str; 2] = ["a", "b"];
/// Where processors are emulated each start takes long, and there are two tiers.
const KILLS: u32 = 20;
const KILLS_IN_GUESTS: u32 = 4;

#[test]
fn twenty_kills_under_load_lose_no_alert_and_repeat_none() {
    for tier in tiers() {
        let bench = Bench::new("kills");
        bench.scope.write("load.sh", LOAD);
        let manager = Manager::new();
        let mut daemon = bench.start_under(&tier, &manager);
        daemon.wait_until_told("READY=1");
        let load = NAMES.map(|name| {
            let mut command = bench.scope.command(&["sh", "load.sh", name]);
            command.spawn().unwrap()
        });
        // Besides, as much as one processor makes.
        let noise = ["sh", "-c", "while [ ! -e stop ]; do /bin/true; done"];
        let noise = bench.scope.command(&noise).spawn().unwrap();
        let mut random = Random::new();
        let mut adopted = 0;
        let kills = match &*tier {
            "auto" => KILLS,
            _ => KILLS_IN_GUESTS,
        };
        for kill in 0..kills {
            // One in two is killed while it starts.
            if kill > 0 && kill % 2 == 0 {
                daemon.wait_until_told("READY=1");
            }
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            let (said, _) = daemon.end_by(Signal::KILL);
            assert!(!said.contains("sensor.gap"), "{tier}, kill {kill}: {said}");
            assert!(!said.contains("ERROR"), "{tier}, kill {kill}: {said}");
            adopted += u32::from(said.contains("nothing is missing"));
            daemon = bench.start_under(&tier, &manager);
        }
        daemon.wait_until_told("READY=1");
        bench.scope.write("stop", "");
        for mut one in load.into_iter().chain([noise]) {
            assert!(one.wait().unwrap().success());
        }
        let expected: Vec<String> = NAMES
            .iter()
            .flat_map(|name| {
                let count = fs::read_to_string(bench.scope.folder().join(format!("count.{name}")));
                let count: usize = count.unwrap().trim().parse().unwrap();
                (0..count).map(move |n| format!("{name}{n}"))
            })
            .collect();
        bench.wait_for_alerts(expected.len(), &daemon);
        let (said, _) = daemon.end_by(Signal::TERM);
        assert!(!said.contains("ERROR"), "{tier}: {said}");
        let alerts = bench.alerts();
        println!(
            "{tier}: {} alerts expected, {} there, after {kills} kills, {adopted} starts noticed by the log before the next kill",
            expected.len(),
            alerts.len()
        );
        compare(&expected, &alerts);
        bench.shell.end();
    }
}

/// Every word once, and numbers without a gap.
fn compare(expected: &[String], alerts: &[Value]) {
    let mut times: BTreeMap<&str, usize> = expected.iter().map(|word| (&**word, 0)).collect();
    let mut numbers = Vec::new();
    for alert in alerts {
        let word = at(&at(alert, "events")[0], "process.args")[1]
            .as_str()
            .unwrap();
        *times.entry(word).or_default() += 1;
        numbers.extend(number(alert, "event.sequence"));
        assert!(alert.to_string().contains(r#""lost":0"#), "{alert:#}");
    }
    let wrong: Vec<_> = times.iter().filter(|(_, times)| **times != 1).collect();
    assert!(wrong.is_empty(), "not once: {wrong:?}");
    numbers.sort_unstable();
    let contiguous: Vec<u64> = (1..).take(alerts.len()).collect();
    assert_eq!(numbers, contiguous);
}

/// Where the moment of a kill comes from: a different one each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Random(u64::from(now.unwrap().subsec_nanos()) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Daemons that no other state goes before than their first; the second one finds one of other programs, which counts other records.
#[test]
fn a_kill_right_after_a_first_start_loses_nothing() {
    for tier in tiers() {
        let mut bench = Bench::new("first");
        let manager = Manager::new();
        let mut random = Random::new();
        for (round, ring_bytes) in ["1048576", "2097152"].into_iter().enumerate() {
            let mut command = bench.command();
            command.args(["--ring-bytes", ring_bytes]);
            let start = |bench: &Bench| {
                let mut daemon = Daemon::launch_under(&manager, &bench.scope, &tier, &command);
                daemon.wait_until_told("READY=1");
                daemon
            };
            let daemon = start(&bench);
            bench.shell.run(&format!("./first {round}"));
            std::thread::sleep(Duration::from_millis(random.below(50)));
            let (said, _) = daemon.end_by(Signal::KILL);
            assert!(!said.contains("ERROR"), "{tier}, {round}: {said}");
            let daemon = start(&bench);
            let said = daemon.said();
            assert!(
                said.contains("nothing is missing"),
                "{tier}, {round}: {said}"
            );
            bench.shell.run(&format!("./second {round}"));
            let alerts = bench.wait_for_alerts(round + 1, &daemon);
            let told = alerts[round].to_string();
            assert!(told.contains(r#""lost":0"#), "{tier}, {round}: {told}");
            // More than the next one's log will have when it is killed.
            bench
                .shell
                .run("for one in 1 2 3 4 5 6 7 8 9 10; do /bin/true; done");
            daemon.end_by(Signal::TERM);
        }
        assert_eq!(bench.alerts().len(), 2, "{tier}: no alert twice");
        bench.shell.end();
    }
}

/// New programs beside those that were kept, and settings that do not fit.
#[test]
fn programs_that_were_kept_are_used_with_more_beside_them_or_given_up_aloud() {
    for tier in tiers() {
        let mut bench = Bench::new("kept");
        let manager = Manager::new();
        let mut daemon = bench.start_under(&tier, &manager);
        daemon.wait_until_told("READY=1");
        bench.shell.run("./first stopped");
        let (_, _) = daemon.end_by(Signal::TERM);
        // Nobody is there to see it.
        bench.shell.run("./second stopped");
        let made = FILE_RULE;
        fs::write(bench.rules.path().join("made.toml"), made).unwrap();
        let mut command = bench.command();
        command
            .arg("--rules")
            .arg(bench.rules.path().join("made.toml"));
        let mut daemon = Daemon::launch_under(&manager, &bench.scope, &tier, &command);
        daemon.wait_until_told("READY=1");
        bench.wait_for_alerts(1, &daemon);
        bench.shell.run(": > made");
        let alerts = bench.wait_for_alerts(2, &daemon);
        let rules: Vec<&str> = alerts
            .iter()
            .map(|alert| text(alert, "rule.name"))
            .collect();
        assert_eq!(rules, ["First Then Second", "File Made"], "{tier}");
        bench.shell.run("./first other");
        let (said, _) = daemon.end_by(Signal::TERM);
        assert!(said.contains("nothing is missing"), "{tier}: {said}");
        // Another size of the ring is another set of maps.
        command.args(["--ring-bytes", "1048576"]);
        let mut daemon = Daemon::launch_under(&manager, &bench.scope, &tier, &command);
        daemon.wait_until_told("READY=1");
        let said = daemon.said();
        assert!(
            said.contains("given up and loaded anew: they are of other settings: `ring_bytes`"),
            "{tier}: {said}"
        );
        assert!(
            said.contains("sensor.gap: nothing was recorded for"),
            "{tier}: {said}"
        );
        bench.shell.run("./second other");
        bench.wait_for_alerts(3, &daemon);
        let names = manager.names();
        let about = names.iter().filter(|name| *name == "kernel.about");
        assert_eq!(
            about.count(),
            1,
            "{tier}: what was given up is not kept: {names:?}"
        );
        println!("{tier}: {} descriptors kept", names.len());
        daemon.end_by(Signal::TERM);
        bench.shell.end();
    }
}

const FILE_RULE: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3a12"
name = "File Made"
type = "eql"
query = 'file where event.action == "creation" and file.name == "made"'
"#;
