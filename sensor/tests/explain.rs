//! `explain` on recorded near misses: the whole text, with the clause that a person would name.
//!
//! In: recordings of real acts (a compiler run with another linker, a program renamed, a download), cut down to what rules read.
//! Out: each text compared with `explain/NAME.txt`. With `EQL_SENSOR_UPDATE=1` it is written instead, to be read in the diff.

#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A near miss: what is odd, a recording, and a query; without one it is the founding rule.
struct Case {
    name: &'static str,
    recording: &'static str,
    query: Option<&'static str>,
    /// What the answer has to name, whatever else it says.
    names: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "other_linker",
        recording: "gold",
        query: None,
        names: "`process.name == \"ld\"` is false, process.name is \"ld.gold\"",
    },
    Case {
        name: "too_slow",
        recording: "slow",
        query: None,
        names: "too late",
    },
    Case {
        name: "renamed",
        recording: "acts",
        query: None,
        names: "process.name is \"tool\", and the steps before have \"built\"",
    },
    Case {
        name: "until",
        recording: "acts",
        query: Some(
            "sequence with maxspan=1m
               [file where event.action == \"creation\"] by file.path
               [process where event.action == \"exec\"] by process.executable
             until [file where event.action == \"deletion\"] by file.path",
        ),
        names: "`until` ended the sequence on line",
    },
    Case {
        name: "excluded",
        recording: "acts",
        query: Some(
            "process where event.action == \"exec\" and process.name == \"curl\" and process.args == \"--Insecure\" and
               not process.parent.name in (\"dash\", \"sh\")",
        ),
        names: "`not process.parent.name in (\"dash\", \"sh\")` is false, process.parent.name is \"dash\"",
    },
    Case {
        name: "other_directory",
        recording: "acts",
        query: Some(
            "file where event.action == \"creation\" and process.name == \"touch\" and file.path like \"/etc/cron.d/*\"",
        ),
        names: "file.path is \"/tmp/build/etc/cron.d/job\"",
    },
    Case {
        name: "other_case",
        recording: "acts",
        query: Some("process where event.action == \"exec\" and process.name == \"Curl\""),
        names: "only the case of letters differs",
    },
    Case {
        name: "wildcard",
        recording: "acts",
        query: Some("process where event.action == \"exec\" and process.executable == \"/tmp/build/*\""),
        names: "has a wildcard",
    },
    Case {
        name: "no_parent",
        recording: "acts",
        query: Some(
            "network where event.action == \"connection_attempted\" and process.name == \"tool\" and
               process.parent.command_line like \"bash*\"",
        ),
        names: "process.parent.command_line is missing",
    },
    Case {
        name: "swapped",
        recording: "acts",
        query: Some(
            "sequence by process.entity_id with maxspan=1m
               [file where event.action == \"creation\" and process.name == \"curl\"]
               [network where event.action == \"connection_attempted\"]",
        ),
        names: "it came before line",
    },
    Case {
        name: "no_such_event",
        recording: "acts",
        query: Some(
            "sequence by process.entity_id with maxspan=1m
               [process where event.action == \"exec\" and process.name == \"curl\"]
               [dns where event.action == \"lookup_requested\" and dns.question.name != null]",
        ),
        names: "has no further event of its sort",
    },
    Case {
        name: "came_after_all",
        recording: "acts",
        query: Some(
            "sequence by process.entity_id with maxspan=1m
               [process where event.action == \"exec\" and process.name == \"curl\"]
               ![network where event.action == \"disconnect_received\"]",
        ),
        names: "step 2 must not come",
    },
    Case {
        name: "either_way",
        recording: "acts",
        query: Some(
            "process where event.action == \"exec\" and process.args == \"/bin/true\" and
               (process.name == \"mv\" or (process.name == \"cp\" and process.args : \"*.so\") or not (process.parent.name : \"b*\" or false))",
        ),
        names: "`process.args : \"*.so\"` is false",
    },
    Case {
        name: "sample",
        recording: "acts",
        query: Some(
            "sample by process.name
               [process where event.action == \"exec\" and process.args == \"-o\"]
               [network where event.action == \"connection_accepted\"]",
        ),
        names: "has no",
    },
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain")
}

fn founding() -> PathBuf {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    rules.join("execution_network_connection_via_recently_compiled_executable.toml")
}

fn sensor(directory: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(args)
        .current_dir(directory)
        .env_remove("EQL_SENSOR_LOG")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A directory with the rule of a case, `rule.toml`, and its recording, `events.jsonl`.
fn prepared(case: &Case) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let rule = directory.path().join("rule.toml");
    match case.query {
        None => _ = std::fs::copy(founding(), rule).unwrap(),
        Some(query) => std::fs::write(
            rule,
            format!(
                "[rule]\nrule_id = \"{0}\"\nname = \"{0}\"\ntype = \"eql\"\nquery = '''{query}'''\n",
                case.name
            ),
        )
        .unwrap(),
    }
    let recording = data().join(format!("{}.jsonl", case.recording));
    std::fs::copy(recording, directory.path().join("events.jsonl")).unwrap();
    directory
}

#[test]
fn near_misses_are_told_as_a_person_would() {
    let mut wrong = Vec::new();
    for case in CASES {
        let directory = prepared(case);
        let output = sensor(directory.path(), &["explain", "rule.toml", "events.jsonl"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{}: {said}", case.name);
        let text = stdout(&output);
        let answer: Vec<&str> = text.lines().skip(2).take_while(|l| !l.is_empty()).collect();
        let answer = answer.join("\n");
        if !answer.contains(case.names) {
            wrong.push(format!(
                "{}: the answer names something else:\n{text}",
                case.name
            ));
        }
        let expected = data().join(format!("{}.txt", case.name));
        if std::env::var_os("EQL_SENSOR_UPDATE").is_some() {
            std::fs::write(&expected, &text).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!(
                "{}: not as in {}:\n{text}",
                case.name,
                expected.display()
            ));
        }
        // Programs are told the same.
        let output = sensor(
            directory.path(),
            &["explain", "rule.toml", "events.jsonl", "--format", "json"],
        );
        let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(document["why"], answer, "{}", case.name);
        assert_eq!(document["matches"].as_array().unwrap().len(), 0);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_match_shows_the_clauses_that_made_it_and_so_does_its_alert() {
    let directory = tempfile::tempdir().unwrap();
    let rule = founding();
    let rule = rule.to_str().unwrap();
    let text = std::fs::read_to_string(rule).unwrap();
    let events = text.split("events = '''\n").nth(1).unwrap();
    let events = events.split("'''").next().unwrap();
    std::fs::write(directory.path().join("events.jsonl"), events).unwrap();
    let output = sensor(directory.path(), &["explain", rule, "events.jsonl"]);
    let explained = stdout(&output);
    for part in [
        "events.jsonl: 4 events, 1 match\n",
        "match 1: lines 1, 2, 3, 4; same host.id = \"h\"; process.args, file.name, process.name = \"rev\"\n",
        "step 2 on line 2  00:00:00.400Z  file creation  ld wrote /tmp/w/rev\n",
        "  yes  process.name == \"ld\"\n",
        "  yes  key process.args: \"gcc\", \"-o\", \"rev\", \"rev.c\"\n",
    ] {
        assert!(explained.contains(part), "{part}\n{explained}");
    }
    let alerts = sensor(
        directory.path(),
        &["replay", "--rules", rule, "events.jsonl"],
    );
    std::fs::write(directory.path().join("alerts.jsonl"), &alerts.stdout).unwrap();
    let output = sensor(directory.path(), &["explain", rule, "alerts.jsonl"]);
    assert_eq!(output.status.code(), Some(0));
    let of_alert = stdout(&output);
    let wanted = explained
        .replace("events.jsonl:", "alerts.jsonl, alert #1:")
        .replace("line", "event");
    assert_eq!(of_alert, wanted.replace("evented", "lined"));
    // By name instead of by file, and not of another rule.
    let by_name = sensor(
        directory.path(),
        &[
            "explain",
            "network connection via recently compiled executable",
            "alerts.jsonl",
            "--rules",
            rule,
        ],
    );
    assert_eq!(stdout(&by_name), of_alert);
    let other =
        "[rule]\nrule_id = \"other\"\nname = \"other\"\ntype = \"eql\"\nquery = 'any where true'\n";
    std::fs::write(directory.path().join("other.toml"), other).unwrap();
    let output = sensor(directory.path(), &["explain", "other.toml", "alerts.jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("none of the 1 alerts in `alerts.jsonl` is of the rule `other`"),
        "{said}"
    );
}

#[test]
fn one_event_is_held_against_every_step() {
    let case = &CASES[0];
    let directory = prepared(case);
    let ask = |line: &str| {
        sensor(
            directory.path(),
            &["explain", "rule.toml", "events.jsonl", "--event", line],
        )
    };
    let text = stdout(&ask("1"));
    assert_eq!(text.matches("\nstep ").count(), 4, "{text}");
    assert!(text.contains("  NO   file event\n"), "{text}");
    let output = ask("999");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("`events.jsonl` has no event in line 999"),
        "{said}"
    );
}

#[test]
fn a_rule_is_told_in_words() {
    let output = sensor(Path::new("/"), &["explain", founding().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for part in [
        "a sequence of 4 steps within 1m, joined by host.id, and by process.args = file.name = process.name\n",
        "\nstep 2, by host.id and file.name\n  file event\n  host.os.type == \"linux\"\n",
        "\n  file.name  keyword: last component of `file.path`\n",
        "\n  creation\n    fexit/security_file_open\n    else tp_btf/sys_exit; blind to files created through io_uring",
        "\n  creation: only of processes named ld\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let output = sensor(
        Path::new("/"),
        &["explain", founding().to_str().unwrap(), "--format", "json"],
    );
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(document["form"], "sequence");
    assert_eq!(
        document["steps"][1]["condition"]["all"][3]["clause"],
        "process.name == \"ld\""
    );
    assert_eq!(document["only_of"][0]["processes"][0], "ld");
}

#[test]
fn what_can_not_be_explained_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let check = |args: &[&str], code: i32, says: &str| {
        let output = sensor(directory.path(), args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    };
    let rule = founding();
    let rule = rule.to_str().unwrap();
    std::fs::write(directory.path().join("half.jsonl"), "{\"a\":1}\nnot JSON\n").unwrap();
    check(
        &[
            "explain",
            "Network Conection via Recently Compiled Executable",
            "--rules",
            rule,
        ],
        1,
        "did you mean `Network Connection via Recently Compiled Executable`?",
    );
    check(
        &["explain", rule, "absent.jsonl"],
        1,
        "cannot read `absent.jsonl`",
    );
    check(
        &["explain", rule, "half.jsonl"],
        1,
        "half.jsonl:2: no event",
    );
    check(&["explain", rule, "--event", "1"], 2, "required");
}
