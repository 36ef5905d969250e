//! Overrides and exceptions: what they change, what they hide and how it is told, and what is refused.
//!
//! In: drop-in files written here, one rule, a recording with an alert by each of two builders. Out: alerts and words of `replay`.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::process::Command;

const RULE: &str = r#"[rule]
rule_id = "w-1"
name = "Written and run"
type = "eql"
severity = "low"
tags = ["Tactic: Execution"]
query = '''
sequence with maxspan=10s
  [file where event.action == "creation" and process.name == "ld"] by file.path
  [process where event.action == "exec"] by process.executable
'''
"#;

/// A file written and run, in January 2026, in the minute and by the user given.
fn chain(minute: u32, user: &str) -> String {
    format!(
        r#"{{"@timestamp":"2026-01-01T00:{minute:02}:00Z","event":{{"category":"file","action":"creation"}},"user":{{"name":"{user}"}},"process":{{"name":"ld"}},"file":{{"path":"/tmp/{user}"}}}}
{{"@timestamp":"2026-01-01T00:{minute:02}:01Z","event":{{"category":"process","action":"exec"}},"user":{{"name":"{user}"}},"process":{{"name":"{user}","executable":"/tmp/{user}"}}}}
"#
    )
}

struct Replayed {
    alerts: Vec<serde_json::Value>,
    said: String,
}

/// Replays the recording with files of exceptions and of overrides.
fn replay(exceptions: &str, overrides: &str, events: &str) -> Replayed {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("rule.toml", RULE);
    write("events.jsonl", events);
    for (name, text) in [("exceptions", exceptions), ("overrides", overrides)] {
        std::fs::create_dir(directory.path().join(name)).unwrap();
        if !text.is_empty() {
            write(&format!("{name}/a.toml"), text);
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(["replay", "--rules", "rule.toml", "--allow-no-rules"])
        .args(["--exceptions", "exceptions", "--overrides", "overrides"])
        .arg("events.jsonl")
        .current_dir(directory.path())
        .env_remove("EQL_SENSOR_LOG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    Replayed {
        alerts: text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        said,
    }
}

impl Replayed {
    /// Users of the last events of the alerts.
    fn users(&self) -> Vec<&str> {
        let users = self
            .alerts
            .iter()
            .map(|a| a["user"]["name"].as_str().unwrap());
        users.collect()
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.said.contains(part), "{part}\n{}", self.said);
        }
    }
}

fn both() -> String {
    chain(1, "build") + &chain(2, "mallory")
}

fn exception(selector: &str, expires: &str, query: &str) -> String {
    format!(
        "[[exception]]\n{selector}\nquery = {query}\nreason = \"it builds\"\nowner = \"infra\"\nexpires = {expires}\n"
    )
}

#[test]
fn an_exception_hides_what_it_fits_and_says_so() {
    let rules = [
        "rule_id = \"w-1\"",
        "rule_name = \"written*\"",
        "tag = \"tactic: *\"",
    ];
    for selector in rules {
        let text = exception(
            selector,
            "2030-12-31",
            "'file where user.name == \"build\"'",
        );
        let found = replay(&text, "", &both());
        assert_eq!(found.users(), ["mallory"]);
        // Alerts are numbered without gaps.
        assert_eq!(found.alerts[0]["event"]["sequence"], 1);
        found.says(&[
            "a.toml:1: the exception hid 1 alert: it builds",
            "alerts were hidden by_exceptions=1 by_rate_limits=0",
        ]);
    }
    // Several conditions must all hold, each for some event.
    let all = "['file where file.path : \"/tmp/*\"', 'process where process.name == \"mallory\"']";
    let found = replay(&exception("rule_id = \"*\"", "\"never\"", all), "", &both());
    assert_eq!(found.users(), ["build"]);
}

#[test]
fn what_has_expired_or_hides_nothing_is_told() {
    let query = "'any where user.name == \"build\"'";
    let found = replay(
        &exception("rule_id = \"w-1\"", "2025-12-31", query),
        "",
        &both(),
    );
    assert_eq!(found.users(), ["build", "mallory"]);
    found.says(&[
        "the exception has expired; it was infra's: it builds; remove it, or give it a later day",
        "the exception of infra hid nothing: it builds",
    ]);
    // It is the alert's time that counts: on the last day it still held.
    let found = replay(
        &exception("rule_id = \"w-1\"", "2026-01-01", query),
        "",
        &both(),
    );
    assert_eq!(found.users(), ["mallory"]);
    let found = replay(
        &exception("rule_id = \"other\"", "\"never\"", query),
        "",
        &both(),
    );
    assert_eq!(found.users(), ["build", "mallory"]);
    found.says(&["no loaded rule has rule_id = \"other\"; the exception hides nothing"]);
}

#[test]
fn what_can_not_match_is_refused() {
    let check = |query: &str, says: &str| {
        let found = replay(
            &exception("rule_id = \"w-1\"", "\"never\"", query),
            "",
            &both(),
        );
        assert_eq!(found.users(), ["build", "mallory"], "{query}");
        found.says(&[says]);
    };
    check(
        "'network where destination.port == 80'",
        "can never hold for an alert of w-1: it fits connection_attempted",
    );
    check(
        "'process where file.path == \"/tmp/build\"'",
        "can never hold for an alert of w-1: it fits no event of this sensor, and its events are exec, creation",
    );
    check(
        "'file where file.path == \"/tmp/*\"'",
        "\"/tmp/*\" can never match: `==` and `in` take wildcards as plain characters; write `:` or `like` for a pattern",
    );
    check(
        "'file where file.pth == \"/tmp/a\"'",
        "did you mean `file.path`?",
    );
    check(
        "'process where descendant of [process where process.name == \"make\"]'",
        "an exception can not ask about ancestors",
    );
    check(
        "'sequence by process.pid [any where true] [any where true]'",
        "an exception holds for single events",
    );
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once() {
    let exceptions = "[[exception]]\nrule_id = \"w-1\"\ntag = \"x\"\nquery = 3\nowner = \"\"\nexpires = \"soon\"\nresaon = \"r\"\n";
    let overrides = "[[override]]\nrule_id = \"w-1\"\nseverity = \"urgent\"\nrisk_score = 101\nalerts_max = 3\n[[override]]\nenabled = 1\nper = \"1 hour\"\n";
    let found = replay(exceptions, overrides, &both());
    assert_eq!(found.users(), ["build", "mallory"]);
    found.says(&[
        "exceptions/a.toml:1:1: error: rules are named by 2 of `exception.rule_id`, `exception.rule_name` and `exception.tag`, must be by one",
        "exceptions/a.toml:1:1: error: `exception.reason` is missing; is `resaon` meant to be it?",
        "exceptions/a.toml:4:9: error: `exception.query` is 3, must be a string",
        "exceptions/a.toml:5:9: error: `exception.owner` is empty",
        "exceptions/a.toml:6:11: error: `exception.expires` is \"soon\", must be the last day it holds, such as 2030-12-31, or \"never\"",
        "exceptions/a.toml:7:1: error: unknown key `exception.resaon`",
        "overrides/a.toml:3:12: error: `override.severity` is \"urgent\"",
        "overrides/a.toml:4:14: error: `override.risk_score` is 101, must be a whole number from 0 to 100",
        "overrides/a.toml:1:1: error: `override.per` is missing",
        "overrides/a.toml:6:1: error: rules are named by 0",
        "overrides/a.toml:7:11: error: `override.enabled` is 1, must be true or false",
        "overrides/a.toml:8:7: error: `override.per` is \"1 hour\", must be a whole number with a unit",
    ]);
}

#[test]
fn overrides_switch_off_rescore_and_limit() {
    let off = "[[override]]\nrule_id = \"w-*\"\nenabled = false\n";
    assert_eq!(replay("", off, &both()).users(), [""; 0]);
    let on_again = off.to_owned() + "[[override]]\ntag = \"*\"\nenabled = true\n";
    assert_eq!(replay("", &on_again, &both()).users(), ["build", "mallory"]);
    let scored = "[[override]]\nrule_name = \"Written and run\"\nseverity = \"critical\"\n[[override]]\nrule_id = \"w-1\"\nrisk_score = 80\n";
    let found = replay("", scored, &both());
    assert_eq!(
        found.alerts[0]["eql_sensor"]["alert"]["severity"],
        "critical"
    );
    assert_eq!(found.alerts[0]["event"]["risk_score"], 80);
    let limited = "[[override]]\nrule_id = \"w-1\"\nalerts_max = 2\nper = \"10m\"\n";
    let events: String = [1, 2, 3, 4, 11, 12]
        .map(|minute| chain(minute, "u"))
        .concat();
    let found = replay("", limited, &events);
    assert_eq!(found.alerts.len(), 4);
    found.says(&[
        "more than 2 alerts within 600 s: further ones are only counted",
        "its rate limit hid 2 alerts",
        "by_exceptions=0 by_rate_limits=2",
    ]);
    let none = "[[override]]\nrule_id = \"x\"\nenabled = false\n";
    replay("", none, &both())
        .says(&["no loaded rule has rule_id = \"x\"; the override changes nothing"]);
}

/// Alerts by both builders, then what `tune` says of some of them.
fn tune(rule: &str, args: &[&str]) -> (i32, String, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rule.toml"), rule).unwrap();
    std::fs::write(
        directory.path().join("events.jsonl"),
        both() + &chain(3, "builder"),
    )
    .unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
            .args(args)
            .current_dir(directory.path())
            .env_remove("EQL_SENSOR_LOG")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (_, alerts, _) = run(&["replay", "--rules", "rule.toml", "events.jsonl"]);
    std::fs::write(directory.path().join("alerts.jsonl"), alerts).unwrap();
    let all = [
        "tune",
        "alerts.jsonl",
        "--rules",
        "rule.toml",
        "--owner",
        "infra",
        "--expires",
        "2030-12-31",
    ];
    run(&[&all[..], args].concat())
}

#[test]
fn tune_proposes_the_narrowest_exception_and_says_what_else_it_hides() {
    let (code, text, said) = tune(
        RULE,
        &[
            "--number",
            "1",
            "--alerts",
            "alerts.jsonl",
            "--reason",
            "it \"builds\"",
        ],
    );
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        text,
        "\
# Written and run
[[exception]]
rule_id = \"w-1\"
query = [
  'file where user.name == \"build\" and file.path == \"/tmp/build\"',
  'process where process.executable == \"/tmp/build\" and user.name == \"build\"',
]
reason = 'it \"builds\"'
owner = \"infra\"
expires = \"2030-12-31\"
"
    );
    assert!(
        said.contains("of the 3 alerts in `alerts.jsonl` it would hide 0 besides those given"),
        "{said}"
    );
    // It does what it says.
    assert_eq!(replay(&text, "", &both()).users(), ["mallory"]);
    // What two alerts have in common is wider, and hides a third.
    let (code, text, said) = tune(
        RULE,
        &["--number", "1", "--number", "3", "--alerts", "alerts.jsonl"],
    );
    assert_eq!(code, 0, "{said}");
    assert!(
        text.contains("'file where file.path like \"/tmp/*\"'"),
        "{text}"
    );
    assert!(
        said.contains("it would also hide alerts.jsonl, alert #2"),
        "{said}"
    );
}

#[test]
fn tune_tells_when_the_rule_would_lose_its_own_test() {
    let rule = format!(
        "{RULE}\n[[test]]\nname = \"build\"\nfires = true\nevents = '''\n{}'''\n",
        chain(5, "build")
    );
    let (code, _, said) = tune(&rule, &["--number", "1"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("it would hide the rule's own test `build`"),
        "{said}"
    );
    let (code, _, said) = tune(&rule, &["--number", "2"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("it was held against 1 alerts of the rule's own tests"),
        "{said}"
    );
    let (code, _, said) = tune(&rule, &["--number", "9"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("there is no alert in what was given"),
        "{said}"
    );
}

#[test]
fn check_reads_exceptions_and_overrides_too() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("rule.toml"), RULE).unwrap();
    let bad = exception(
        "rule_id = \"w-1\"",
        "\"never\"",
        "'network where destination.port == 80'",
    );
    std::fs::write(directory.path().join("e.toml"), bad).unwrap();
    std::fs::write(
        directory.path().join("o.toml"),
        "[[override]]\nrule_id = \"w-2\"\nenabled = false\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(["check", "rule.toml", "e.toml", "o.toml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("e.toml:1:1: error: `network where destination.port == 80` can never hold"),
        "{text}"
    );
    assert!(
        text.contains("o.toml:1:1: warning: no loaded rule has rule_id = \"w-2\""),
        "{text}"
    );
}
