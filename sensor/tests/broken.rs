//! Broken rule and settings files, and the whole message each gets: file, line, column, what was found, what is allowed.
//!
//! In: files written by the test. Out: what `check` prints of each, word for word. A new way to break a file is a new case.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

/// One broken file: its name, its bytes, and what `check` prints before the summary.
struct Case {
    what: &'static str,
    file: &'static str,
    bytes: &'static [u8],
    says: &'static str,
}

const CASES: &[Case] = &[
    Case {
        what: "an empty rule",
        file: "empty.toml",
        bytes: b"",
        says: "\
empty.toml:1:1: error: the file is empty; a rule needs a table [rule] with rule_id, name, type and query, or with id, os_list, name and query
 1 | \n   | ^
",
    },
    Case {
        what: "a string that does not end",
        file: "unclosed.toml",
        bytes: b"[rule]\nname = \"half\nrule_id = \"a\"\n",
        says: "\
unclosed.toml:2:13: error: invalid basic string, expected `\"`
 2 | name = \"half
   |             ^
",
    },
    Case {
        what: "a key given twice",
        file: "twice.toml",
        bytes: b"[rule]\nname = \"a\"\nname = \"b\"\n",
        says: "\
twice.toml:3:1: error: `name` is given twice; a key may stand once in its table
 3 | name = \"b\"
   | ^^^^
",
    },
    Case {
        what: "no table of a rule",
        file: "no_rule.toml",
        bytes: b"name = \"a\"\nquery = 'any where true'\n",
        says: "\
no_rule.toml:1:1: error: there is no table `[rule]`; a rule needs a table [rule] with rule_id, name, type and query, or with id, os_list, name and query
 1 | name = \"a\"
   | ^
",
    },
    Case {
        what: "keys missing, one misspelt",
        file: "missing.toml",
        bytes: b"[rule]\nrule_id = \"a\"\ntype = \"eql\"\nquerry = 'any where true'\n",
        says: "\
missing.toml:1:1: error: `rule.name` is missing; add a line `name = \"…\"`
 1 | [rule]
   | ^^^^^^
missing.toml:1:1: error: `rule.query` is missing; is `querry` meant to be it?
 1 | [rule]
   | ^^^^^^
",
    },
    Case {
        what: "values of the wrong sort, all at once",
        file: "wrong_sorts.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = 3\ntype = \"eql\"\nseverity = \"urgent\"\nrisk_score = 900\n\
                 tags = \"Linux\"\nauthor = [1]\nthreat = true\nquery = 'process where true'\n",
        says: "\
wrong_sorts.toml:3:8: error: `rule.name` is 3, must be a string
 3 | name = 3
   |        ^
wrong_sorts.toml:5:12: error: `rule.severity` is \"urgent\", must be \"low\", \"medium\", \"high\" or \"critical\"
 5 | severity = \"urgent\"
   |            ^^^^^^^^
wrong_sorts.toml:6:14: error: `rule.risk_score` is 900, must be a whole number from 0 to 100
 6 | risk_score = 900
   |              ^^^
wrong_sorts.toml:8:11: error: `rule.author` holds 1, must hold strings only
 8 | author = [1]
   |           ^
wrong_sorts.toml:9:10: error: `rule.threat` is true, must be tables, [[rule.threat]]
 9 | threat = true
   |          ^^^^
",
    },
    Case {
        what: "an id that can not be one",
        file: "id.toml",
        bytes: b"[rule]\nrule_id = \"two words\"\nname = \"n\"\ntype = \"eql\"\nquery = 'process where true'\n",
        says: "\
id.toml:2:11: error: `rule.rule_id` is \"two words\", must be up to 128 bytes without white space; a UUID is best
 2 | rule_id = \"two words\"
   |           ^^^^^^^^^^^
",
    },
    Case {
        what: "a field nobody has",
        file: "unknown_field.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = '''\nprocess where\n  process.comand_line == \"x\"\n'''\n",
        says: "\
unknown_field.toml:7:3: error: unknown field `process.comand_line`; did you mean `process.command_line`?
 7 |   process.comand_line == \"x\"
   |   ^^^^^^^^^^^^^^^^^^^
",
    },
    Case {
        what: "a query that breaks off, in a string with escapes",
        file: "escapes.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = \"process where process.name == \\\"a\\\" and and process.pid > 1\"\n",
        says: "\
escapes.toml:5:50: error: expected a value or field, found `and`
 5 | query = \"process where process.name == \\\"a\\\" and and process.pid > 1\"
   |                                                  ^^^
",
    },
    Case {
        what: "a sequence whose steps do not agree on their keys",
        file: "keys.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = '''\nsequence\n  [process where true] by process.pid\n  [file where true]\n'''\n",
        says: "\
keys.toml:8:3: error: this step has 0 join keys, the first one has 1; shared keys and the step's own keys must add up to the same number everywhere
 8 |   [file where true]
   |   ^^^^^^^^^^^^^^^^^
",
    },
    Case {
        what: "a behavior rule without systems",
        file: "behavior.toml",
        bytes: b"[rule]\nid = \"a\"\nname = \"n\"\nquery = 'process where true'\n",
        says: "\
behavior.toml:1:1: error: `rule.os_list` is missing; add a line `os_list = [\"linux\"]`
 1 | [rule]
   | ^^^^^^
",
    },
    Case {
        what: "an example that says nothing",
        file: "example.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = 'process where true'\n[[test]]\nname = \"t\"\nfire = true\n",
        says: "\
example.toml:6:1: error: `test.events` is missing; add a line `events = \"…\"`
 6 | [[test]]
   | ^^^^^^^^
example.toml:6:1: error: `test.fires` is missing; is `fire` meant to be it?
 6 | [[test]]
   | ^^^^^^^^
example.toml:8:1: error: unknown key `test.fire`; did you mean `test.fires`?
 8 | fire = true
   | ^^^^
",
    },
    Case {
        what: "a test with everything wrong",
        file: "test.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = 'process where true'\n[[test]]\nname = \"t\"\nfires = false\nalerts = 2\nsteps = [0]\nkeys = [1.5]\nevents = '''\n{\"a\": 1,}\n[1]\n'''\n",
        says: "\
test.toml:9:10: error: `test.fires` and `test.alerts` both say whether the rule fires; one of them is enough
 9 | alerts = 2
   |          ^
test.toml:10:9: error: `test.steps` is an array, must be numbers of lines, from 1, one for each event of the alert
 10 | steps = [0]
    |         ^^^
test.toml:11:8: error: `test.keys` is an array, must be an array of strings, whole numbers and booleans, in the order of the rule's `by`
 11 | keys = [1.5]
    |        ^^^^^
test.toml:13:9: error: line 1 of `test.events` is no event: key must be a string; each line must be one JSON object
 13 | {\"a\": 1,}
    |         ^
test.toml:14:1: error: line 2 of `test.events` is no event: it does not begin with `{`; each line must be one JSON object
 14 | [1]
    | ^
",
    },
    Case {
        what: "tests that say too much, or lead out of their directory",
        file: "tests.toml",
        bytes: b"[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = 'process where true'\n[[test]]\nname = \"t\"\nfires = false\nsteps = [3]\nevents = '{}'\n[[test]]\nname = \"u\"\nfires = true\nrecording = \"../a.jsonl\"\n[[test]]\nname = \"v\"\nfires = true\nevents = '{}'\nrecording = \"a.jsonl\"\n",
        says: "\
tests.toml:9:9: error: `test.steps` describes an alert, but there must be none; leave it out, or expect an alert by `fires = true`
 9 | steps = [3]
   |         ^^^
tests.toml:9:9: error: `test.steps` names line 3, but there are only 1
 9 | steps = [3]
   |         ^^^
tests.toml:14:13: error: `test.recording` is \"../a.jsonl\", must be a file beside the rule or below its directory; it is relative to the rule and can not lead out by `..` or `/`
 14 | recording = \"../a.jsonl\"
    |             ^^^^^^^^^^^^
tests.toml:19:13: error: `test.events` and `test.recording` both give the events; one of them is enough
 19 | recording = \"a.jsonl\"
    |             ^^^^^^^^^
",
    },
    Case {
        what: "bytes that are no text",
        file: "latin1.toml",
        bytes: b"[rule]\nname = \"caf\xe9\"\n",
        says: "\
latin1.toml:2:12: error: byte 0xe9 is not UTF-8; a rule file must be UTF-8 text
 2 | name = \"caf�\"
   |            ^
",
    },
    Case {
        what: "text of two bytes a letter",
        file: "utf16.toml",
        bytes: b"\xff\xfe[\0r\0u\0l\0e\0]\0",
        says: "\
utf16.toml:1:1: error: byte 0xff is not UTF-8; it looks like UTF-16; save it as UTF-8
 1 | ��[�r�u�l�e�]�
   | ^
",
    },
    Case {
        what: "a NUL byte",
        file: "nul.toml",
        bytes: b"[rule]\nname = \"a\0b\"\n",
        says: "\
nul.toml:2:10: error: found a NUL byte; a rule file must be text; of control characters only tab and line feed are allowed
 2 | name = \"a�b\"
   |          ^
",
    },
    Case {
        what: "settings: a ring that is no power of two",
        file: "ring/eql-sensor.toml",
        bytes: b"[kernel]\nring_bytes = 3000000\n",
        says: "\
ring/eql-sensor.toml:2:14: error: `kernel.ring_bytes` is 3000000, must be a power of two; nearest are 2097152 and 4194304
 2 | ring_bytes = 3000000
   |              ^^^^^^^
",
    },
    Case {
        what: "settings: keys and tables misspelt",
        file: "misspelt/eql-sensor.toml",
        bytes: b"[kernel]\nteir = \"auto\"\n[outputs]\nformat = \"json\"\n",
        says: "\
misspelt/eql-sensor.toml:2:1: error: unknown key `kernel.teir`; did you mean `kernel.tier`?
 2 | teir = \"auto\"
   | ^^^^
misspelt/eql-sensor.toml:3:2: error: unknown key `outputs`; did you mean `output`?
 3 | [outputs]
   |  ^^^^^^^
",
    },
    Case {
        what: "settings: words and sorts that can not be",
        file: "words/eql-sensor.toml",
        bytes: b"[kernel]\ntier = \"fast\"\nscope = \"/sys/fs/cgroup\"\n[output]\nalerts = [\"kafka\"]\nqueue_alerts_max = -1\n",
        says: "\
words/eql-sensor.toml:2:8: error: `kernel.tier` is \"fast\", must be \"auto\", \"trampolines\" or \"tracepoints\"
 2 | tier = \"fast\"
   |        ^^^^^^
words/eql-sensor.toml:3:9: error: `kernel.scope` is \"/sys/fs/cgroup\", must be an array of strings
 3 | scope = \"/sys/fs/cgroup\"
   |         ^^^^^^^^^^^^^^^^
words/eql-sensor.toml:5:11: error: `output.alerts`: `kafka` is no output; allowed are stdout, journald, file:PATH, syslog, syslog:PATH and none
 5 | alerts = [\"kafka\"]
   |           ^^^^^^^
words/eql-sensor.toml:6:20: error: `output.queue_alerts_max` is -1, must be a whole number from 1 to 1048576
 6 | queue_alerts_max = -1
   |                    ^^
",
    },
    Case {
        what: "settings: a path that depends on where one stands",
        file: "relative/eql-sensor.toml",
        bytes: b"[rules]\ndirectories = [\"rules\"]\n",
        says: "\
relative/eql-sensor.toml:2:16: error: `rules.directories` holds \"rules\", must hold absolute paths only; a service has no useful working directory; start the path with /
 2 | directories = [\"rules\"]
   |                ^^^^^^^
",
    },
    Case {
        what: "settings: a value that is missing",
        file: "no_value/eql-sensor.toml",
        bytes: b"[kernel]\nring_bytes =\ntier = \"auto\"\n",
        says: "\
no_value/eql-sensor.toml:2:13: error: there is no value after `=`; allowed are a string in quotes, a number, true, false, an array or a table
 2 | ring_bytes =
   |             ^
",
    },
];

fn check(directory: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .arg("check")
        .args(args)
        .current_dir(directory)
        .output()
        .unwrap()
}

#[test]
fn every_broken_file_gets_its_whole_message() {
    let directory = tempfile::tempdir().unwrap();
    let mut wrong = String::new();
    for case in CASES {
        let path = directory.path().join(case.file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, case.bytes).unwrap();
        let output = check(directory.path(), &[case.file]);
        let text = String::from_utf8(output.stdout).unwrap();
        let (said, summary) = text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(output.status.code(), Some(1), "{}: {text}", case.what);
        assert!(summary.contains("error"), "{}: {text}", case.what);
        if format!("{said}\n") != case.says {
            wrong.push_str(&format!("## {}\n{said}\n", case.what));
        }
    }
    assert!(wrong.is_empty(), "other messages than expected:\n{wrong}");
    assert!(CASES.len() >= 10);
}

#[test]
fn what_is_no_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("rules/folder.toml")).unwrap();
    let output = check(directory.path(), &["rules", "absent.toml"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "rules/folder.toml: error: this is a directory; a rule file must be a plain file\n\
         absent.toml: error: cannot read: no such file or directory\n\
         2 rule files: 2 failed; 2 errors; 0 warnings\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_pipe_among_the_rules_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe.toml");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let output = check(directory.path(), &["."]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "./pipe.toml: error: this is not a plain file; a rule file must be a plain file\n\
         1 rule file: 1 failed; 1 error; 0 warnings\n"
    );
}

#[test]
fn of_two_files_with_one_id_the_later_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let rule = "[rule]\nrule_id = \"one\"\nname = \"n\"\ntype = \"eql\"\nquery = 'process where process.pid == 7'\n";
    for name in ["a.toml", "b.toml"] {
        std::fs::write(directory.path().join(name), rule).unwrap();
    }
    let output = check(directory.path(), &["."]);
    let text = String::from_utf8(output.stdout).unwrap();
    // How rules were judged depends on the kernel.
    let lines = text.lines().filter(|line| !line.starts_with("judged by "));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    assert_eq!(
        text,
        "./b.toml:2:1: warning: this rule replaces ./a.toml:2; both have the id `one`; the later file wins\n\
         skipped: 1 replaced by ./b.toml:2\n\
         2 rule files: 1 armed, 1 skipped; 0 errors; 1 warning\n"
    );
}

#[test]
fn every_file_is_reported_not_only_the_first() {
    let directory = tempfile::tempdir().unwrap();
    for case in CASES.iter().filter(|case| !case.file.contains('/')) {
        std::fs::write(directory.path().join(case.file), case.bytes).unwrap();
    }
    let output = check(directory.path(), &["--format", "json", "."]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    for case in CASES.iter().filter(|case| !case.file.contains('/')) {
        let path = format!("./{}", case.file);
        let own = problems
            .iter()
            .filter(|problem| problem["path"] == path.as_str());
        assert!(own.clone().count() > 0, "{}", case.what);
        for problem in own {
            assert!(
                problem["line"].is_u64() && problem["column"].is_u64(),
                "{problem}"
            );
        }
    }
}

#[test]
fn others_are_skipped_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let rule = |head: &str, kind: &str| {
        format!(
            "{head}\n[rule]\nrule_id = \"{kind}\"\nname = \"n\"\ntype = \"{kind}\"\nquery = 'x'\n"
        )
    };
    let write =
        |name: &str, text: String| std::fs::write(directory.path().join(name), text).unwrap();
    write("a.toml", rule("", "esql"));
    write(
        "b.toml",
        rule("[metadata]\nmaturity = \"deprecated\"", "eql"),
    );
    write(
        "c.toml",
        rule("", "eql") + "tags = [\"OS: Windows\", \"OS: macOS\"]\n",
    );
    write(
        "d.toml",
        "[rule]\nid = \"d\"\nname = \"n\"\nos_list = [\"windows\"]\nquery = 'x'\n".to_owned(),
    );
    let output = check(directory.path(), &["--verbose", "."]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "./a.toml: skipped: not supported: esql\n\
         ./b.toml: skipped: deprecated\n\
         ./c.toml: skipped: not for linux: Windows, macOS\n\
         ./d.toml: skipped: not for linux: windows\n\
         4 rule files: 4 skipped; 0 errors; 0 warnings\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

/// As published rules of these types look: other keys, other languages, some without a query.
const OTHER_TYPES: &[(&str, &str, &str)] = &[
    (
        "machine_learning",
        "anomaly_threshold = 50\nmachine_learning_job_id = [\"v3_linux_rare\"]\n",
        "not supported: machine_learning",
    ),
    (
        "esql",
        "language = \"esql\"\nquery = 'from logs-* | where x == 1 | stats n = count(*) by host.id'\n",
        "not supported: esql",
    ),
    (
        "threat_match",
        "language = \"kuery\"\nindex = [\"logs-*\"]\nquery = 'source.ip:* or'\nthreat_index = [\"ti-*\"]\n\
         threat_query = '@timestamp >= \"now-30d/d\"'\n[[rule.threat_mapping]]\n[[rule.threat_mapping.entries]]\n\
         field = \"source.ip\"\ntype = \"mapping\"\nvalue = \"threat.indicator.ip\"\n",
        "not supported: threat_match",
    ),
    (
        "saved_query",
        "saved_id = \"s\"\nlanguage = \"lucene\"\nquery = 'a:[1 TO'\n",
        "not supported: saved_query",
    ),
    (
        "query",
        "language = \"lucene\"\nquery = 'a:[1 TO'\n",
        "not supported: query in \"lucene\"",
    ),
];

#[test]
fn rules_of_other_types_are_skipped_by_name_counted_and_no_error() {
    let directory = tempfile::tempdir().unwrap();
    for (kind, keys, _) in OTHER_TYPES {
        let text = format!(
            "[metadata]\nmaturity = \"production\"\n\n[rule]\nrule_id = \"{kind}\"\nname = \"Of {kind}\"\n\
             tags = [\"OS: Linux\"]\ntype = \"{kind}\"\n{keys}"
        );
        std::fs::write(directory.path().join(format!("{kind}.toml")), text).unwrap();
    }
    let output = check(directory.path(), &["--format", "json", "."]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    let summary = &report["summary"];
    for (of, count) in [
        ("rule_files", OTHER_TYPES.len()),
        ("skipped", OTHER_TYPES.len()),
        ("loaded", 0),
        ("failed", 0),
        ("errors", 0),
        ("warnings", 0),
        ("notes", 0),
    ] {
        assert_eq!(summary[of], count, "{of}: {report}");
    }
    let skipped = report["skipped"].as_array().unwrap();
    for (kind, _, reason) in OTHER_TYPES {
        let path = format!("./{kind}.toml");
        let found = skipped.iter().find(|skipped| skipped["path"] == path);
        assert_eq!(found.unwrap()["reason"], *reason);
        assert_eq!(found.unwrap()["name"], format!("Of {kind}"));
    }
}
