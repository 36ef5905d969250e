//! A running daemon asked and changed: status, reload in mid-sequence, reloads that must change nothing.
//!
//! In: rules written, broken and mended while events flow. Out: the answers, and the alerts that come all the same. Must never wait
//! for a time instead of for an answer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, at, number, text};
use crate::scope::Scope;
use crate::tiers;

/// A program, then another by the same shell, in one session.
const SEQUENCE: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3a01"
name = "One Then Two"
type = "eql"
query = '''
sequence by process.parent.entity_id with maxspan=1h
  [process where event.action == "exec" and process.name == "one"]
  [process where event.action == "exec" and process.name == "two"]
'''
"#;

/// Of a kind that nothing asked for at the start.
const FILE: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3a02"
name = "File Made"
type = "eql"
query = 'file where event.action == "creation" and file.name == "made"'
"#;

/// Of a kind whose tables are the largest.
const MODIFIED: &str = r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3a03"
name = "File Modified"
type = "eql"
query = 'file where event.action == "modification" and file.name == "made" and process.name == "tee"'
"#;

/// A shell that waits for a word before each act, so that a test can do something in between.
pub(crate) struct Shell {
    child: std::process::Child,
    words: std::process::ChildStdin,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

impl Shell {
    pub(crate) fn start(scope: &Scope) -> Shell {
        let mut child = scope
            .command(&["sh"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Shell {
            words: child.stdin.take().unwrap(),
            answers: std::io::BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Runs a line and waits until it is done.
    pub(crate) fn run(&mut self, line: &str) {
        use std::io::{BufRead as _, Write as _};
        writeln!(self.words, "{line}\necho done").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n");
    }

    pub(crate) fn end(mut self) {
        drop(self.words);
        self.child.wait().unwrap();
    }
}

/// A folder of rules, and a daemon that watches a shell by them.
struct Bench {
    scope: Scope,
    rules: tempfile::TempDir,
    daemon: Daemon,
    shell: Shell,
}

impl Bench {
    fn new(name: &str, tier: &str) -> Bench {
        let scope = Scope::new(name);
        let rules = tempfile::tempdir().unwrap();
        fs::write(rules.path().join("sequence.toml"), SEQUENCE).unwrap();
        fs::write(rules.path().join("settings"), "").unwrap();
        let settings = rules.path().join("settings");
        let more = ["--config", settings.to_str().unwrap()];
        let daemon = Daemon::run_with(&scope, tier, rules.path(), &more);
        for name in ["one", "two"] {
            std::os::unix::fs::symlink("/bin/true", scope.folder().join(name)).unwrap();
        }
        let shell = Shell::start(&scope);
        Bench {
            scope,
            rules,
            daemon,
            shell,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.rules.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn alert(&mut self, rule: &str) -> Value {
        self.daemon
            .wait_for(rule, |alert| alert["rule"]["name"] == rule)
    }
}

#[test]
fn a_sequence_under_way_completes_over_a_reload_that_asks_for_more() {
    for tier in tiers() {
        let mut bench = Bench::new("reload", &tier);
        let before = bench.daemon.ask_json(&["status", "--json"]);
        assert_eq!(number(&before, "generation"), Some(1), "{before}");
        assert_eq!(number(&before, "rules.armed"), Some(1), "{before}");
        assert!(text(&before, "not_attached").is_empty());
        let left_out = at(&before, "not_attached").to_string();
        assert!(left_out.contains("creation"), "{left_out}");

        bench.shell.run("./one");
        bench.write("file.toml", FILE);
        bench.write("modified.toml", MODIFIED);
        let answer = bench.daemon.ask_json(&["reload", "--json"]);
        println!("{tier}: {answer}");
        assert_eq!(at(&answer, "ok"), true, "{answer}");
        assert_eq!(number(&answer, "generation"), Some(2), "{answer}");
        assert_eq!(number(&answer, "unchanged"), Some(1), "{answer}");
        let attached = at(&answer, "attached").to_string();
        assert!(
            attached.contains("creation") && attached.contains("modification"),
            "{answer}"
        );
        bench.daemon.wait_until_told("RELOADING=1");
        bench.daemon.wait_until_told("READY=1");

        bench
            .shell
            .run("./two; : > made; echo x | tee made > /dev/null");
        for rule in ["One Then Two", "File Made", "File Modified"] {
            let alert = bench.alert(rule);
            assert_eq!(
                number(&alert, "eql_sensor.alert.generation"),
                Some(2),
                "{alert}"
            );
        }
        // The other way: gone is gone, and the signal does what the verb does.
        fs::remove_file(bench.path("file.toml")).unwrap();
        bench.daemon.signal(Signal::HUP);
        bench.daemon.wait_until_told("RELOADING=1");
        bench.daemon.wait_until_told("READY=1");
        let after = bench.daemon.ask_json(&["status", "--json"]);
        assert_eq!(number(&after, "generation"), Some(3), "{after}");
        assert_eq!(number(&after, "rules.loaded"), Some(2), "{after}");
        assert_eq!(number(&after, "lost.total"), Some(0), "{after}");
        let listed = bench.daemon.ask(&["rules", "list"]);
        let listed = String::from_utf8(listed.stdout).unwrap();
        println!("{listed}");
        assert!(
            listed.contains("One Then Two") && !listed.contains("File Made"),
            "{listed}"
        );
        let shown = bench
            .daemon
            .ask_json(&["rules", "show", "one then two", "--json"]);
        assert_eq!(
            number(&shown, "alerts"),
            Some(1),
            "counted over both reloads: {shown}"
        );
        let metrics = bench.daemon.ask(&["metrics"]);
        let metrics = String::from_utf8(metrics.stdout).unwrap();
        assert!(metrics.contains("\neql_sensor_generation 3\n"), "{metrics}");
        bench.shell.end();
        bench.daemon.stop();
    }
}

/// What is done to the files, and what the refusal must name.
type Breakage = (&'static str, fn(&Path), &'static str);

const BREAKAGES: &[Breakage] = &[
    (
        "syntax error in settings",
        |at| put(at, "settings", "[kernel\n"),
        "settings:1:8: error",
    ),
    (
        "unknown key in settings",
        |at| put(at, "settings", "[kernel]\nteir = 1\n"),
        "settings:2:1: error",
    ),
    (
        "wrong value in settings",
        |at| put(at, "settings", "[kernel]\nring_bytes = 3\n"),
        "settings:2:14: error",
    ),
    (
        "settings everybody may write",
        |at| mode(&at.join("settings"), 0o666),
        "settings: error",
    ),
    (
        "broken rule",
        |at| put(at, "sequence.toml", "[rule]\nquery = '''\n"),
        "sequence.toml:3:1: error",
    ),
    (
        "wrong query",
        |at| {
            put(
                at,
                "sequence.toml",
                &SEQUENCE.replace("process.name", "process.nmae"),
            )
        },
        "sequence.toml:7:",
    ),
    (
        "rule that is no text",
        |at| fs::write(at.join("sequence.toml"), [0xff, 0xfe]).unwrap(),
        "sequence.toml:1:1: error",
    ),
    (
        "rule that is a directory",
        |at| {
            fs::remove_file(at.join("sequence.toml")).unwrap();
            fs::create_dir(at.join("sequence.toml")).unwrap();
        },
        "sequence.toml: error",
    ),
    (
        "directory everybody may write",
        |at| mode(at, 0o777),
        ": error: everybody may write this",
    ),
    (
        "missing directory",
        |at| fs::rename(at, at.with_extension("away")).unwrap(),
        "no such file or directory",
    ),
];

fn put(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mend(folder: &Path) {
    let away = folder.with_extension("away");
    if away.exists() {
        fs::rename(away, folder).unwrap();
    }
    mode(folder, 0o755);
    let rule = folder.join("sequence.toml");
    if rule.is_dir() {
        fs::remove_dir(&rule).unwrap();
    }
    put(folder, "sequence.toml", SEQUENCE);
    put(folder, "settings", "");
    mode(&folder.join("settings"), 0o644);
}

#[test]
fn ten_bad_reloads_change_nothing_and_say_where() {
    let tier = tiers().remove(0);
    let mut bench = Bench::new("refused", &tier);
    bench.shell.run("./one");
    for (what, break_it, said) in BREAKAGES {
        break_it(bench.rules.path());
        let output = bench.daemon.ask(&["reload"]);
        let told = String::from_utf8(output.stderr).unwrap();
        println!("{what}: {told}");
        assert_eq!(output.status.code(), Some(1), "{what}: {told}");
        assert!(told.contains(said), "{what}: {told}");
        mend(bench.rules.path());
        let state = bench.daemon.ask_json(&["status", "--json"]);
        assert_eq!(number(&state, "rules.loaded"), Some(1), "{what}: {state}");
    }
    let output = bench.daemon.ask(&["reload"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    bench.shell.run("./two");
    bench.alert("One Then Two");
    bench.shell.end();
    drop(bench.scope);
    bench.daemon.stop();
}

#[test]
fn why_nothing_was_said_is_explained_from_the_last_events() {
    let tier = tiers().remove(0);
    let mut bench = Bench::new("explain", &tier);
    bench.write("file.toml", FILE);
    let rule = bench.path("sequence.toml");
    let explain = ["explain", rule.to_str().unwrap(), "--running"];
    bench.shell.run("./one");
    // Another parent: the sequence is not joined.
    bench.shell.run("sh -c './two; :'");
    // An act is over before its event is there.
    let explained = (0..1000).find_map(|_| {
        let output = bench.daemon.ask(&explain);
        let text = String::from_utf8(output.stdout).unwrap();
        let both = ["\nstep 1: event ", "\nstep 2: event "];
        let are_seen = both.iter().all(|step| text.contains(step));
        are_seen.then_some(text)
    });
    let text = explained.expect("both acts are among the last events");
    println!("{text}");
    assert!(text.contains("the running daemon, 20"), "{text}");
    assert!(text.contains("got to 1 of 2 steps"), "{text}");
    let file = bench.path("file.toml");
    let output = bench
        .daemon
        .ask(&["explain", file.to_str().unwrap(), "--running"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("not reported, since no rule of the daemon asks for it: creation"),
        "{said}"
    );
    bench.shell.end();
    bench.daemon.stop();
}

#[test]
fn a_second_daemon_keeps_off_the_first_ones_socket() {
    let tier = tiers().remove(0);
    let bench = Bench::new("second", &tier);
    let rules = bench.rules.path().to_str().unwrap().to_owned();
    let output = bench
        .daemon
        .ask(&["run", "--output", "none", "--rules", &rules]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{said}");
    let pid = format!("another eql-sensor (pid {})", bench.daemon.pid());
    assert!(said.contains(&pid), "{said}");
    bench.shell.end();
    bench.daemon.stop();
}

#[test]
fn events_are_passed_on_as_they_come() {
    use std::io::BufRead as _;
    let tier = tiers().remove(0);
    let mut bench = Bench::new("tail", &tier);
    let wrong = bench
        .daemon
        .ask(&["tail", "process where process.nmae == 1"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let query = r#"process where event.action == "exec" and process.name == "two""#;
    let mut tail = bench.daemon.command(&["tail", query]);
    let mut tail = tail.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(tail.stdout.take().unwrap()).lines();
    // It may not listen yet, so the acts are repeated until it does.
    let (seen, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || seen.send(lines.next().unwrap().unwrap()));
    let line = loop {
        bench.shell.run("./one; ./two");
        if let Ok(line) = first.recv_timeout(std::time::Duration::from_millis(200)) {
            break line;
        }
    };
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(text(&event, "process.name"), "two", "{line}");
    tail.kill().unwrap();
    tail.wait().unwrap();
    let mut top = bench.daemon.command(&["top", "--interval", "1"]);
    let top = top.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(top.wait_with_output().unwrap()));
    let output = loop {
        bench.shell.run("./one; ./two");
        if let Ok(output) = end.recv_timeout(std::time::Duration::from_millis(20)) {
            break output;
        }
    };
    let table = String::from_utf8(output.stdout).unwrap();
    println!("{table}");
    assert!(table.contains(" One Then Two\n"), "{table}");
    assert!(
        table.contains("PROGRAM\n") && !table.contains('\u{1b}'),
        "{table}"
    );
    bench.shell.end();
    bench.daemon.stop();
}

#[test]
fn the_watchdog_is_fed_until_the_engine_stalls() {
    let tier = tiers().remove(0);
    let scope = Scope::new("watchdog");
    let launch = |more: &[&str]| {
        let rules = crate::daemon::rules();
        let mut command = std::process::Command::new(crate::daemon::BINARY);
        command
            .args(["run", "--output", "stdout", "--rules"])
            .arg(&rules)
            .args(more)
            .env("WATCHDOG_USEC", "4500000");
        Daemon::launch(&scope, &tier, command)
    };
    let mut daemon = launch(&[]);
    for _ in 0..3 {
        daemon.wait_until_told("WATCHDOG=1");
    }
    assert!(
        !daemon.said().contains("made no progress"),
        "{}",
        daemon.said()
    );
    daemon.stop();
    let daemon = launch(&["--fault", "stall"]);
    daemon.wait_until_said("watchdog: the engine made no progress in 1500 ms");
}
