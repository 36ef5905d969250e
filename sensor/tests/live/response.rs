//! What rules ask to be done about their alerts, on real processes.
//!
//! In: programs started inside the scope and outside of it, by names that rules have actions for and by others. Out: which of them live,
//! and what was told of each. Must never leave a process behind.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{BINARY, Daemon, at, number, text};
use crate::scope::Scope;
use crate::tiers;

/// Longest that anything here takes, in an emulated guest with other work.
const LIMIT: Duration = Duration::from_secs(300);

/// One kills the program it is about, one who started it, one that with all it started, one the first of
/// two.
const RULES: [(&str, &str); 4] = [
    (
        "victim.toml",
        r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b01"
name = "Victim Runs"
type = "eql"
query = 'process where event.action == "exec" and process.name == "victim"'

[[actions]]
action = "kill_process"
"#,
    ),
    (
        "child.toml",
        r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b02"
name = "Child Runs"
type = "eql"
query = 'process where event.action == "exec" and process.name == "child"'

[[actions]]
action = "kill_process"
field = "process.parent.entity_id"
"#,
    ),
    (
        "kin.toml",
        r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b04"
name = "Kin Runs"
type = "eql"
query = 'process where event.action == "exec" and process.name == "kin"'

[[actions]]
action = "kill_process"
field = "process.parent.entity_id"
tree = true
"#,
    ),
    (
        "pair.toml",
        r#"[rule]
rule_id = "5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b03"
name = "One Then Two"
type = "eql"
query = '''
sequence by process.parent.entity_id with maxspan=1h
  [process where event.action == "exec" and process.name == "one"]
  [process where event.action == "exec" and process.name == "two"]
'''

[[actions]]
action = "kill_process"
step = 1
"#,
    ),
];

/// A program that was started, ended with the test at the latest.
struct Running(Child);

impl Running {
    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits for its end, and tells the signal that ended it.
    fn signal(&mut self, daemon: &Daemon) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.signal();
            }
            assert!(started.elapsed() < LIMIT, "it lives:\n{}", daemon.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Rules and settings, programs that do nothing for long, and the scope they run in.
struct Stage {
    scope: Scope,
    folder: tempfile::TempDir,
}

impl Stage {
    fn new(name: &str, settings: &str) -> Stage {
        let scope = Scope::new(name);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rules")).unwrap();
        for (name, text) in RULES {
            fs::write(folder.path().join("rules").join(name), text).unwrap();
        }
        for name in ["victim", "bystander", "child", "kin", "one", "two"] {
            std::os::unix::fs::symlink("/bin/sleep", scope.folder().join(name)).unwrap();
        }
        let stage = Stage { scope, folder };
        stage.set(settings);
        stage
    }

    fn settings(&self) -> PathBuf {
        self.folder.path().join("settings.toml")
    }

    fn set(&self, settings: &str) {
        fs::write(self.settings(), format!("[response]\n{settings}")).unwrap();
    }

    fn arguments(&self) -> [String; 8] {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let rules = path(&self.folder.path().join("rules"));
        let settings = path(&self.settings());
        let words = ["run", "--output", "stdout", "--format", "json"].map(str::to_owned);
        let [run, output, stdout, format, json] = words;
        let rules = format!("--rules={rules}");
        let config = "--config".to_owned();
        [run, output, stdout, format, json, rules, config, settings]
    }

    fn daemon(&self, tier: &str) -> Daemon {
        let mut command = Command::new(BINARY);
        command.args(self.arguments());
        Daemon::launch(&self.scope, tier, command)
    }

    /// A program inside the scope, a child of this test. Comes back once it runs, so that what is run next comes after it.
    fn run(&self, arguments: &[&str]) -> Running {
        let mut command = self.scope.command(arguments);
        let mut running = Running(command.stdin(Stdio::null()).spawn().unwrap());
        let name = arguments[0].trim_start_matches("./");
        let comm = format!("/proc/{}/comm", running.0.id());
        let started = Instant::now();
        // One that was killed at once has run, too.
        while running.lives() && fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() != name) {
            assert!(started.elapsed() < LIMIT, "{name} does not run");
            std::thread::sleep(Duration::from_millis(1));
        }
        running
    }
}

/// What was done about a process.
fn deed(daemon: &mut Daemon, action: &str, pid: Option<u32>) -> Value {
    daemon.wait_for(action, |line| {
        text(line, "event.action") == action
            && pid.is_none_or(|pid| number(line, "process.pid") == Some(pid.into()))
    })
}

fn counted(daemon: &Daemon) -> (String, [u64; 4]) {
    let status = daemon.ask_json(&["status", "--json"]);
    let count = |word| number(&status, &format!("response.{word}")).unwrap();
    let counts = ["killed", "dry_run", "refused", "limited"].map(count);
    (text(&status, "response.mode").to_owned(), counts)
}

#[test]
fn who_a_rule_asks_for_is_killed_and_nobody_else() {
    for tier in tiers() {
        let stage = Stage::new("kill", "enabled = true\ndry_run = false\n");
        let mut daemon = stage.daemon(&tier);
        // Seen before the victim is: what is not done by then is never done.
        let mut bystander = stage.run(&["./bystander", "600"]);
        let mut victim = stage.run(&["./victim", "600"]);
        let begun = Instant::now();
        assert_eq!(victim.signal(&daemon), Some(9), "{tier}");
        println!("{tier}: ended {:?} after it was started", begun.elapsed());
        let told = deed(&mut daemon, "process_killed", Some(victim.0.id()));
        assert_eq!(text(&told, "event.outcome"), "success");
        assert_eq!(text(&told, "process.name"), "victim");
        assert_eq!(text(&told, "rule.name"), "Victim Runs");
        let alert = daemon.wait_for("the alert", |line| text(line, "event.kind") == "alert");
        assert_eq!(
            at(&told, "eql_sensor.response.alert"),
            at(&alert, "event.sequence")
        );
        assert_eq!(
            at(&told, "process.entity_id"),
            at(&alert, "process.entity_id")
        );
        assert!(bystander.lives(), "{tier}");
        assert_eq!(counted(&daemon), ("on".to_owned(), [1, 0, 0, 0]));
        let metrics = daemon.ask(&["metrics"]).stdout;
        let metrics = String::from_utf8(metrics).unwrap();
        let line = "eql_sensor_responses_total{outcome=\"killed\"} 1\n";
        assert!(metrics.contains(line), "{metrics}");
        daemon.stop();
    }
}

#[test]
fn a_dry_run_only_tells_and_reloads_turn_it_on_and_off() {
    for tier in tiers() {
        let stage = Stage::new("dry", "enabled = true\n");
        let mut daemon = stage.daemon(&tier);
        let mut first = stage.run(&["./victim", "601"]);
        let told = deed(&mut daemon, "process_kill_dry_run", Some(first.0.id()));
        assert_eq!(text(&told, "event.reason"), "dry run");
        assert_eq!(counted(&daemon), ("dry_run".to_owned(), [0, 1, 0, 0]));

        let reload = |daemon: &Daemon, settings: &str| {
            stage.set(settings);
            let answer = daemon.ask_json(&["reload", "--json"]);
            assert_eq!(at(&answer, "ok"), true, "{answer}");
            assert_eq!(at(&answer, "restart"), &serde_json::json!([]), "{answer}");
        };
        let on = "enabled = true\ndry_run = false\nper_minute_max = 2\n";
        reload(&daemon, on);
        // What the dry run told of counts for the minute.
        let mut second = stage.run(&["./victim", "602"]);
        assert_eq!(second.signal(&daemon), Some(9), "{tier}");
        deed(&mut daemon, "process_killed", Some(second.0.id()));
        let mut third = stage.run(&["./victim", "603"]);
        let told = deed(&mut daemon, "process_kill_limited", Some(third.0.id()));
        assert_eq!(
            text(&told, "event.reason"),
            "2 within a minute are as many as response.per_minute_max allows"
        );

        reload(&daemon, "");
        let mut last = stage.run(&["./victim", "604"]);
        daemon.wait_for("the last alert", |line| {
            text(line, "event.kind") == "alert" && number(line, "event.sequence") == Some(4)
        });
        assert_eq!(counted(&daemon), ("off".to_owned(), [1, 1, 0, 1]));
        for running in [&mut first, &mut third, &mut last] {
            assert!(running.lives(), "{tier}");
        }
        daemon.stop();
    }
}

#[test]
fn an_earlier_step_s_process_is_killed_when_the_sequence_completes() {
    for tier in tiers() {
        let stage = Stage::new("step", "enabled = true\ndry_run = false\n");
        let mut daemon = stage.daemon(&tier);
        let mut one = stage.run(&["./one", "600"]);
        let mut two = stage.run(&["./two", "600"]);
        assert_eq!(one.signal(&daemon), Some(9), "{tier}");
        let told = deed(&mut daemon, "process_killed", Some(one.0.id()));
        assert_eq!(
            text(&told, "eql_sensor.response.action"),
            "kill_process process.entity_id of step 1"
        );
        assert!(two.lives(), "{tier}");
        assert_eq!(counted(&daemon).1, [1, 0, 0, 0]);
        daemon.stop();
    }
}

#[test]
fn a_parent_is_killed_with_all_that_it_started() {
    for tier in tiers() {
        let stage = Stage::new("tree", "enabled = true\ndry_run = false\n");
        let mut daemon = stage.daemon(&tier);
        let mut other = stage.run(&["./bystander", "600"]);
        let script = "./bystander 600 & ./kin 600; exit 3";
        let mut shell = stage.run(&["sh", "-c", script]);
        assert_eq!(shell.signal(&daemon), Some(9), "{tier}");
        let killed = |lines: &[Value]| {
            let deeds = lines
                .iter()
                .filter(|line| text(line, "event.action") == "process_killed");
            deeds
                .map(|deed| text(deed, "process.name").to_owned())
                .collect::<Vec<_>>()
        };
        let lines = daemon.wait_from(0, "three ends", |lines| killed(lines).len() == 3);
        let mut names = killed(&lines);
        assert_eq!(names.remove(0), "sh", "{tier}: the parent first");
        names.sort();
        assert_eq!(names, ["bystander", "kin"], "{tier}");
        assert!(other.lives(), "{tier}");
        assert_eq!(counted(&daemon).1, [3, 0, 0, 0]);
        daemon.stop();
    }
}

#[test]
fn a_parent_is_killed_unless_it_is_out_of_scope_or_above_the_sensor() {
    for tier in tiers() {
        let stage = Stage::new("parent", "enabled = true\ndry_run = false\n");
        let mut daemon = stage.daemon(&tier);
        let mut inside = stage.run(&["sh", "-c", "./child 600; exit 3"]);
        assert_eq!(inside.signal(&daemon), Some(9), "{tier}");
        deed(&mut daemon, "process_killed", Some(inside.0.id()));
        let child = daemon.wait_for("the alert", |line| text(line, "event.kind") == "alert");
        let child = number(&child, "process.pid").unwrap();
        assert!(
            Path::new(&format!("/proc/{child}")).exists(),
            "only its parent"
        );

        let mut outside = Command::new("sh");
        let join = r#"sh -c 'echo 0 > "$0/cgroup.procs" && exec ./child 600' "$0"; exit 3"#;
        outside
            .args(["-c", join])
            .arg(stage.scope.cgroup())
            .current_dir(stage.scope.folder());
        let mut outside = Running(outside.spawn().unwrap());
        let told = deed(&mut daemon, "process_kill_refused", Some(outside.0.id()));
        assert_eq!(
            text(&told, "event.reason"),
            "it is outside of the control groups that are watched (kernel.scope)"
        );
        // This test itself started the daemon, and starts the child.
        let _ours = stage.run(&["./child", "600"]);
        let told = deed(
            &mut daemon,
            "process_kill_refused",
            Some(std::process::id()),
        );
        assert_eq!(text(&told, "event.reason"), "the sensor runs below it");
        assert!(outside.lives(), "{tier}");
        assert_eq!(counted(&daemon).1, [1, 0, 2, 0]);
        daemon.stop();
        fs::write(stage.scope.cgroup().join("cgroup.kill"), "1").unwrap_or_else(|_| {
            // Before 5.14 there is no such file.
            let processes = fs::read_to_string(stage.scope.cgroup().join("cgroup.procs")).unwrap();
            let status = Command::new("kill")
                .arg("-9")
                .args(processes.lines())
                .status();
            assert!(status.unwrap().success(), "{processes}");
        });
    }
}

/// As the unit runs it, and with leave to write this test's own files besides.
fn as_service(stage: &Stage, more: &str) -> Command {
    let capabilities = format!("+bpf,+perfmon,+sys_ptrace,+dac_read_search,+dac_override{more}");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(format!("--inh-caps=-all,{capabilities}"))
        .arg(format!("--ambient-caps=-all,{capabilities}"))
        .arg(format!("--bounding-set=-all,{capabilities}"))
        .args(["--", BINARY])
        .args(stage.arguments());
    command
}

#[test]
fn a_service_kills_with_the_drop_in_s_privilege_and_says_when_it_lacks_it() {
    for tier in tiers() {
        let stage = Stage::new("service", "enabled = true\ndry_run = false\n");
        let mut daemon = Daemon::launch(&stage.scope, &tier, as_service(&stage, ""));
        daemon.wait_until_said("it needs CAP_KILL");
        let mut victim = stage.run(&["./victim", "600"]);
        let told = deed(&mut daemon, "process_kill_failed", Some(victim.0.id()));
        assert_eq!(
            text(&told, "event.reason"),
            "operation not permitted; it takes CAP_KILL, see /usr/share/eql-sensor/drop-ins/response.conf"
        );
        assert!(victim.lives(), "{tier}");
        daemon.stop();

        let mut daemon = Daemon::launch(&stage.scope, &tier, as_service(&stage, ",+kill"));
        let mut victim = stage.run(&["./victim", "600"]);
        assert_eq!(victim.signal(&daemon), Some(9), "{tier}");
        deed(&mut daemon, "process_killed", Some(victim.0.id()));
        let ended = daemon.stop();
        assert!(!ended.log.contains("CAP_KILL"), "{}", ended.log);
    }
}
