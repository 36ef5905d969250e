//! `test`: what it says of tests that pass, of those that fail and why, and of recordings that should be silent.
//!
//! In: rule files and recordings written here. Out: text, JSON and exit code of the built binary.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

const RULE: &str = r#"[rule]
rule_id = "w-1"
name = "Written and run"
type = "eql"
query = '''
sequence with maxspan=10s
  [file where event.action == "creation" and process.name == "ld"] by file.path
  [process where event.action == "exec"] by process.executable
'''
"#;

/// A file written at a second, and a program run at another.
fn events(writer: &str, run: &str, at_s: u32) -> String {
    format!(
        r#"{{"@timestamp":"2026-01-01T00:00:00Z","event":{{"category":"file","action":"creation"}},"process":{{"name":"{writer}"}},"file":{{"path":"/tmp/a"}}}}
{{"@timestamp":"2026-01-01T00:00:{at_s:02}Z","event":{{"category":"process","action":"exec"}},"process":{{"name":"a","executable":"{run}"}}}}
"#
    )
}

fn test(name: &str, expect: &str, events: &str) -> String {
    format!("\n[[test]]\nname = \"{name}\"\n{expect}\nevents = '''\n{events}'''\n")
}

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn with(rule: &str) -> Place {
        let place = Place {
            directory: tempfile::tempdir().unwrap(),
        };
        place.write("rule.toml", rule);
        place
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
            .arg("test")
            .args(args)
            .current_dir(self.path())
            .env_remove("EQL_SENSOR_LOG")
            .output()
            .unwrap()
    }

    /// What it prints, after the exit code has been compared.
    fn says(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        String::from_utf8(output.stdout).unwrap() + &said
    }
}

#[test]
fn what_passes_is_counted_and_listed_on_demand() {
    let rule = RULE.to_owned()
        + &test(
            "run",
            "fires = true\nsteps = [1, 2]\nkeys = [\"/tmp/a\"]",
            &events("ld", "/tmp/a", 5),
        )
        + &test("once", "alerts = 1", &events("ld", "/tmp/a", 5))
        + &test("other", "fires = false", &events("ld", "/tmp/b", 5));
    let place = Place::with(&rule);
    assert_eq!(
        place.says(&["rule.toml"], 0),
        "3 tests of 1 rule: 3 passed, 0 failed\n"
    );
    assert_eq!(
        place.says(&["-v", "--filter", "OTHER", "rule.toml"], 0),
        "rule.toml:29: ok other\n1 test of 1 rule: 1 passed, 0 failed\n"
    );
    assert_eq!(
        place.says(&["--require", "2,2", "."], 1),
        "./rule.toml: FAIL too few tests: 2 that fire, 1 that do not\n3 tests of 1 rule: 3 passed, 0 failed\n"
    );
}

#[test]
fn a_failure_names_the_clause_and_the_value() {
    let rule = RULE.to_owned()
        + &test("by gold", "fires = true", &events("gold", "/tmp/a", 5))
        + &test("too late", "fires = true", &events("ld", "/tmp/a", 15))
        + &test("must not", "fires = false", &events("ld", "/tmp/a", 5))
        + &test("twice", "alerts = 2", &events("ld", "/tmp/a", 5))
        + &test(
            "steps",
            "fires = true\nsteps = [2, 1]",
            &events("ld", "/tmp/a", 5),
        )
        + &test(
            "keys",
            "fires = true\nkeys = [\"/tmp/b\"]",
            &events("ld", "/tmp/a", 5),
        )
        + &test("undated", "fires = false", "{\"a\":1}\n");
    let place = Place::with(&rule);
    assert_eq!(
        place.says(&["rule.toml"], 1),
        "\
rule.toml:11: FAIL by gold
  expected an alert, found none
  step 1 comes nearest on line 1: `process.name == \"ld\"` is false, process.name is \"gold\"
rule.toml:19: FAIL too late
  expected an alert, found none
  step 2 comes nearest on line 2: it came 15s after line 1, and maxspan is 10s: 5s too late
rule.toml:27: FAIL must not
  expected no alert, found 1 alert
  found an alert of lines 1, 2, key /tmp/a
rule.toml:35: FAIL twice
  expected 2 alerts, found 1
  found an alert of lines 1, 2, key /tmp/a
rule.toml:43: FAIL steps
  expected an alert of lines 2, 1
  found an alert of lines 1, 2, key /tmp/a
rule.toml:52: FAIL keys
  expected an alert with the key /tmp/b
  found an alert of lines 1, 2, key /tmp/a
rule.toml:61: FAIL undated
  line 1 (rule.toml:65) is no event: no readable time in `@timestamp`; it takes ISO 8601, or a number since the epoch
7 tests of 1 rule: 0 passed, 7 failed
"
    );
    let document: serde_json::Value =
        serde_json::from_slice(&place.run(&["--format", "json", "rule.toml"]).stdout).unwrap();
    assert_eq!(document["summary"]["failed"], 7);
    assert_eq!(document["tests"][1]["line"], 19);
    assert_eq!(
        document["tests"][1]["failures"][0],
        "expected an alert, found none"
    );
}

#[test]
fn a_recording_stands_beside_the_rule_and_nowhere_else() {
    let rule = |recording: &str| {
        format!("{RULE}\n[[test]]\nname = \"r\"\nfires = true\nrecording = \"{recording}\"\n")
    };
    let place = Place::with(&rule("below/run.jsonl"));
    std::fs::create_dir(place.path().join("below")).unwrap();
    place.write("below/run.jsonl", &events("ld", "/tmp/a", 5));
    assert_eq!(
        place.says(&["rule.toml"], 0),
        "1 test of 1 rule: 1 passed, 0 failed\n"
    );
    place.write("rule.toml", &rule("absent.jsonl"));
    let said = place.says(&["rule.toml"], 1);
    assert!(
        said.contains("cannot read the recording `./absent.jsonl`: no such file or directory"),
        "{said}"
    );
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(outside.path(), place.path().join("link.jsonl")).unwrap();
    place.write("rule.toml", &rule("link.jsonl"));
    let said = place.says(&["rule.toml"], 1);
    assert!(
        said.contains("is a link that leads out of the rule's directory"),
        "{said}"
    );
}

#[test]
fn rules_without_tests_and_with_errors_are_told() {
    let place = Place::with(RULE);
    assert_eq!(
        place.says(&["."], 0),
        "./rule.toml: warning: the rule has no test\n0 tests of 1 rule: 0 passed, 0 failed; 1 rule without a test\n"
    );
    place.write("broken.toml", "[rule]\n");
    let said = place.says(&["."], 1);
    assert!(said.contains("broken.toml:1:1: error"), "{said}");
    assert!(said.contains("; 1 rule file with errors"), "{said}");
    let said = place.says(&["absent"], 1);
    assert!(said.contains("cannot read `absent`"), "{said}");
}

#[test]
fn a_baseline_must_be_silent() {
    let place =
        Place::with(&(RULE.to_owned() + &test("run", "fires = true", &events("ld", "/tmp/a", 5))));
    place.write("quiet.jsonl", &events("cp", "/tmp/a", 5));
    place.write("loud.jsonl", &events("ld", "/tmp/a", 5));
    place.write("odd.jsonl", "{}\n");
    assert_eq!(
        place.says(&["-v", "--baseline", "quiet.jsonl", "rule.toml"], 0),
        "rule.toml:11: ok run\nquiet.jsonl: ok silent over 2 events\n\
         1 test of 1 rule: 1 passed, 0 failed; 0 alerts in 1 baseline\n"
    );
    let said = place.says(
        &[
            "--baseline",
            "loud.jsonl",
            "--baseline",
            "odd.jsonl",
            "rule.toml",
        ],
        1,
    );
    assert_eq!(
        said,
        "\
loud.jsonl:2: FAIL alert Written and run: ld wrote /tmp/a → a (w-1)
  of lines 1, 2, rule rule.toml
odd.jsonl:1:1: no readable time in `@timestamp`; it takes ISO 8601, or a number since the epoch
odd.jsonl: FAIL 1 line without an event
odd.jsonl: warning: there are no events in it
1 test of 1 rule: 1 passed, 0 failed; 1 alert in 2 baselines
"
    );
}
