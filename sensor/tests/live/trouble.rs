//! A daemon in trouble: no room on the disk, an output that is away, the clock set, reload after reload.
//!
//! In: trouble made for it, and acts before, in and after it. Out: that it says so, that nothing else suffers, and that it goes on by
//! itself afterwards. Must never touch a disk or a clock that is not its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::control::Shell;
use crate::daemon::{BINARY, Daemon, at, number, text};
use crate::scope::Scope;
use crate::tiers;

/// Longest that anything here takes, in an emulated guest with other work.
const LIMIT: Duration = Duration::from_secs(300);

/// One alert for each act.
const ACT: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3c01"
name = "Act"
type = "eql"
query = 'process where event.action == "exec" and process.name == "act"'
"#;

/// One for two programs of the same argument.
const PAIR: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3c02"
name = "One Then Two"
type = "eql"
query = '''
sequence by process.parent.entity_id, process.args with maxspan=1m
  [process where event.action == "exec" and process.name == "one"]
  [process where event.action == "exec" and process.name == "two"]
'''
"#;

/// One that must come soon after the other.
const SOON: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3c03"
name = "Soon"
type = "eql"
query = '''
sequence by process.parent.entity_id, process.args with maxspan=5s
  [process where event.action == "exec" and process.name == "one"]
  [process where event.action == "exec" and process.name == "two"]
'''
"#;

/// Rules, programs they are about, and a shell that runs them.
struct Stage {
    scope: Scope,
    rules: tempfile::TempDir,
    shell: Shell,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let scope = Scope::new(name);
        let rules = tempfile::tempdir().unwrap();
        for (name, text) in [("act.toml", ACT), ("pair.toml", PAIR)] {
            fs::write(rules.path().join(name), text).unwrap();
        }
        for name in ["act", "one", "two", "noise"] {
            std::os::unix::fs::symlink("/bin/true", scope.folder().join(name)).unwrap();
        }
        let shell = Shell::start(&scope);
        Stage {
            scope,
            rules,
            shell,
        }
    }

    /// A daemon with outputs besides standard output.
    fn command(&self, outputs: &[String]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["run", "--output", "stdout", "--format", "json"]);
        for output in outputs {
            command.args(["--output", output]);
        }
        command.arg("--rules").arg(self.rules.path());
        command
    }

    fn act(&mut self, argument: impl std::fmt::Display) {
        self.shell.run(&format!("./act {argument}"));
    }
}

/// Waits for the alert of an act on standard output, and tells its number.
fn alert_of(daemon: &mut Daemon, argument: &str) -> u64 {
    let alert = daemon.wait_for(argument, |line| argument_of(line) == argument);
    number(&alert, "event.sequence").unwrap()
}

/// The second argument of the process of the first event.
fn argument_of(alert: &Value) -> &str {
    at(alert, "events")
        .get(0)
        .and_then(|event| at(event, "process.args").get(1))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A file system of a few megabytes, unmounted at the end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32m,mode=0755", "none"]);
        assert!(mount.arg(folder.path()).status().unwrap().success());
        Disk(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
    }

    fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// Numbers of the alerts in a file, each line a whole document.
fn numbers(path: &Path) -> Vec<u64> {
    let text = fs::read_to_string(path).unwrap();
    let alerts = text.lines().map(|line| {
        let alert: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"));
        number(&alert, "event.sequence").unwrap()
    });
    alerts.collect()
}

fn wait_until(what: &str, daemon: &Daemon, is: impl Fn() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < LIMIT, "{what}:\n{}", daemon.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_full_disk_costs_alerts_of_that_file_alone_and_is_used_again() {
    for tier in tiers() {
        let (mut stage, disk) = (Stage::new("full"), Disk::new());
        let file = disk.path().join("alerts.jsonl");
        let start = |stage: &Stage| {
            let mut command = stage.command(&[format!("file:{}", file.display())]);
            command.env("STATE_DIRECTORY", disk.path());
            Daemon::launch(&stage.scope, &tier, command)
        };
        let mut daemon = start(&stage);
        stage.act("before");
        assert_eq!(alert_of(&mut daemon, "before"), 1);
        wait_until("the file", &daemon, || numbers(&file) == [1]);
        stage.shell.run("./one straddles");

        disk.fill();
        daemon.wait_until_said("state can not be kept");
        stage.act("within");
        assert_eq!(alert_of(&mut daemon, "within"), 2, "another output has it");
        daemon.wait_until_said("fails, alerts for it are dropped");
        assert_eq!(numbers(&file), [1], "nothing, and no half line");
        let status = daemon.ask_json(&["status", "--json"]);
        let outputs = at(&status, "outputs").as_array().unwrap();
        let dropped: Vec<_> = outputs.iter().map(|o| number(o, "dropped")).collect();
        assert_eq!(dropped, [Some(0), Some(1)], "{status}");
        // New rules that would not outlive a restart are refused, and the old ones go on.
        let answer = daemon.ask_json(&["reload", "--json"]);
        assert_eq!(at(&answer, "ok"), false, "{answer}");
        let refused = text(&answer, "refused");
        assert!(refused.contains("would not outlive a restart"), "{answer}");

        disk.clear();
        // Room is looked for once a second at most.
        let mut acts = 2;
        let started = Instant::now();
        while !daemon.said().contains("takes alerts again") {
            assert!(started.elapsed() < LIMIT, "{}", daemon.said());
            acts += 1;
            stage.act(format!("after-{acts}"));
            alert_of(&mut daemon, &format!("after-{acts}"));
            std::thread::sleep(Duration::from_millis(50));
        }
        wait_until("the file", &daemon, || numbers(&file).last() == Some(&acts));
        let written = numbers(&file);
        println!("{tier}: of {acts} alerts the file has {written:?}");
        assert!(!written.contains(&2), "that one is lost for the file");
        assert_eq!(
            at(&daemon.ask_json(&["reload", "--json"]), "ok"),
            true,
            "{}",
            daemon.said()
        );
        // And the state is kept again: a sequence from before goes on after a kill.
        let state = disk.path().join("state.bin");
        let kept = || fs::metadata(&state).and_then(|file| file.modified()).ok();
        let before = kept();
        wait_until("a state", &daemon, || kept() != before);
        daemon.end_by(Signal::KILL);
        let mut daemon = start(&stage);
        stage.shell.run("./two straddles");
        let pair = daemon.wait_for("the pair", |line| text(line, "rule.name") == "One Then Two");
        assert_eq!(argument_of(&pair), "straddles");
        assert_eq!(number(&pair, "event.sequence"), Some(acts + 1));
        daemon.stop();
        stage.shell.end();
    }
}

#[test]
fn an_output_that_goes_away_gets_its_alerts_when_it_is_back() {
    for tier in tiers() {
        let mut stage = Stage::new("away");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listen = || {
            let socket = UnixDatagram::bind(&path).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        };
        let mut message = vec![0; 1 << 16];
        let mut read = |socket: &UnixDatagram| {
            let length = socket.recv(&mut message).unwrap();
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            let (_, rest) = text.split_once(" seq=\"").unwrap();
            rest.split('"').next().unwrap().parse::<u64>().unwrap()
        };
        let socket = listen();
        let command = stage.command(&[format!("syslog:{}", path.display())]);
        let mut daemon = Daemon::launch(&stage.scope, &tier, command);
        stage.act("before");
        assert_eq!(read(&socket), 1);
        drop(socket);
        fs::remove_file(&path).unwrap();
        let away = Instant::now();
        let mut acts = 1;
        while away.elapsed() < Duration::from_secs(5) {
            acts += 1;
            stage.act(format!("away-{acts}"));
            assert_eq!(alert_of(&mut daemon, &format!("away-{acts}")), acts);
        }
        let counts = |of: &str| {
            let status = daemon.ask_json(&["status", "--json"]);
            let outputs = at(&status, "outputs").as_array().unwrap();
            let counts = outputs.iter().map(|output| number(output, of).unwrap());
            counts.collect::<Vec<_>>()
        };
        wait_until("those that wait", &daemon, || {
            counts("waiting") == [0, acts - 1]
        });
        let said = daemon
            .said()
            .matches("takes no alerts, trying again")
            .count();
        assert_eq!(said, 1, "once, not for each of {acts}");
        let socket = listen();
        for expected in 2..=acts {
            assert_eq!(read(&socket), expected, "in order");
        }
        acts += 1;
        stage.act("after");
        assert_eq!(read(&socket), acts);
        daemon.wait_until_said("takes alerts again");
        println!("{tier}: {} alerts while it was away", acts - 2);
        assert_eq!(counts("dropped"), [0, 0]);
        assert_eq!(counts("waiting"), [0, 0]);
        daemon.stop();
        stage.shell.end();
    }
}

/// What is done to a machine only where it is the tests' own; by this name the others leave it out.
mod guests_only {
    use super::*;

    /// Sets the clock of this machine ahead or back, by so many seconds.
    fn step_clock(seconds: i64) {
        use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
        let now = clock_gettime(ClockId::Realtime);
        let set = Timespec {
            tv_sec: now.tv_sec + seconds,
            ..now
        };
        clock_settime(ClockId::Realtime, set).unwrap();
    }

    /// Seconds since 1970 of an alert's time, to the second.
    fn seconds_of(alert: &Value) -> i64 {
        let time: jiff::Timestamp = text(alert, "@timestamp").parse().unwrap();
        time.as_second()
    }

    #[test]
    fn a_clock_set_by_an_hour_changes_what_is_printed_and_nothing_else() {
        const HOUR: i64 = 3600;
        assert!(crate::is_guest(), "the clock here is not the test's own");
        for tier in tiers() {
            let mut stage = Stage::new("clock");
            fs::write(stage.rules.path().join("soon.toml"), SOON).unwrap();
            let mut daemon = Daemon::launch(&stage.scope, &tier, stage.command(&[]));
            for (word, seconds) in [("ahead", HOUR), ("back", -2 * HOUR), ("home", HOUR)] {
                stage.shell.run(&format!("./one {word}"));
                step_clock(seconds);
                stage.shell.run(&format!("./two {word}"));
                let pair = daemon.wait_for(word, |line| {
                    text(line, "rule.name") == "One Then Two" && argument_of(line) == word
                });
                assert_eq!(argument_of(&pair), word);
                // The wall clock is looked at once a second.
                let started = Instant::now();
                let mut tries = 0;
                loop {
                    tries += 1;
                    let argument = format!("{word}-{tries}");
                    stage.act(&argument);
                    let now = jiff::Timestamp::now().as_second();
                    let alert = daemon.wait_for(&argument, |line| argument_of(line) == argument);
                    let off = seconds_of(&alert) - now;
                    if off.abs() <= 5 {
                        break;
                    }
                    assert!((off + seconds).abs() <= 60, "{word}: off by {off} s");
                    assert!(started.elapsed() < LIMIT, "{word}: still off by {off} s");
                }
                println!("{tier}: {word} by {seconds} s, printed right after {tries} acts");
            }
            // Too late by the time that passed, though the clock says that it was an hour before.
            stage.shell.run("./one late");
            std::thread::sleep(Duration::from_secs(6));
            step_clock(-HOUR);
            stage.shell.run("./two late");
            step_clock(HOUR);
            let pairs = |line: &Value, name: &str| {
                text(line, "rule.name") == name && argument_of(line) == "late"
            };
            daemon.wait_for("the pair", |line| pairs(line, "One Then Two"));
            stage.act("last");
            alert_of(&mut daemon, "last");
            let lines = daemon.stop().lines;
            assert!(!lines.iter().any(|line| pairs(line, "Soon")), "{tier}");
            for word in ["ahead", "back", "home"] {
                let soon =
                    |line: &&Value| text(line, "rule.name") == "Soon" && argument_of(line) == word;
                println!("{tier}: {word}: {} soon", lines.iter().filter(soon).count());
            }
            stage.shell.end();
        }
    }
}

/// The least of some looks: old rules are freed by a thread of their own, a moment after a reload.
fn sizes(pid: u32) -> [u64; 3] {
    let looks = (0..50).map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        look(pid)
    });
    looks
        .reduce(|one, other| std::array::from_fn(|at| one[at].min(other[at])))
        .unwrap()
}

/// Resident memory in KiB, open descriptors and threads of a process.
fn look(pid: u32) -> [u64; 3] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        let number = line.split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    [
        number("VmRSS:"),
        u64::try_from(descriptors).unwrap(),
        number("Threads:"),
    ]
}

#[test]
fn two_hundred_reloads_under_load_leave_nothing_behind() {
    const WARM: u64 = 40;
    const RELOADS: u64 = 200;
    for tier in tiers() {
        let mut stage = Stage::new("reloads");
        let settings = stage.rules.path().join("settings");
        // What else grows with time, up to its bounds, is kept small.
        let bounds = "[control]\nrecent_bytes = 0\n[processes]\nkeep_ended_s = 1\n";
        fs::write(&settings, bounds).unwrap();
        let mut command = stage.command(&[]);
        command.arg("--config").arg(&settings);
        let mut daemon = Daemon::launch(&stage.scope, &tier, command);
        let mut noise = stage
            .scope
            .command(&["sh", "-c", "while ./noise; do ./one x; : > made; done"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut act = 0;
        let mut reload = |stage: &mut Stage, daemon: &Daemon| {
            act += 1;
            let changed = format!("{ACT}description = \"version {act}\"\n");
            fs::write(stage.rules.path().join("act.toml"), changed).unwrap();
            stage.act(format!("act-{act}"));
            let answer = daemon.ask_json(&["reload", "--json"]);
            assert_eq!(at(&answer, "ok"), true, "{answer}");
            assert_eq!(at(&answer, "changed").as_array().unwrap().len(), 1);
            assert_eq!(number(&answer, "unchanged"), Some(1), "{answer}");
        };
        for _ in 0..WARM {
            reload(&mut stage, &daemon);
        }
        let warm = sizes(daemon.pid());
        let begun = Instant::now();
        for _ in 0..RELOADS {
            reload(&mut stage, &daemon);
        }
        let took = begun.elapsed();
        let after = sizes(daemon.pid());
        println!(
            "{tier}: {RELOADS} reloads in {took:?}; KiB, descriptors, threads: {warm:?}, then {after:?}"
        );
        alert_of(&mut daemon, &format!("act-{}", WARM + RELOADS));
        let status = daemon.ask_json(&["status", "--json"]);
        assert_eq!(number(&status, "generation"), Some(WARM + RELOADS + 1));
        assert_eq!(number(&status, "lost.total"), Some(0), "{status}");
        noise.kill().unwrap();
        noise.wait().unwrap();
        let lines = daemon.stop().lines;
        let acts: Vec<&str> = lines.iter().map(argument_of).collect();
        let once: BTreeSet<&str> = acts.iter().copied().collect();
        assert_eq!(acts.len(), once.len(), "none twice");
        assert_eq!(once.len() as u64, WARM + RELOADS, "none missing");
        assert_eq!(after[1..], warm[1..], "descriptors and threads");
        assert!(
            after[0] < warm[0] + 4 * 1024,
            "{warm:?} KiB, then {after:?}"
        );
        stage.shell.end();
    }
}
