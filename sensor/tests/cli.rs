//! The command line from outside: help, exit codes, and refusals.
//!
//! In: arguments to the built binary. Out: what it prints and how it ends. Needs no privilege.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

fn sensor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .args(args)
        .env_remove("EQL_SENSOR_LOG")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Every command there is, as the help lists them.
fn commands() -> Vec<String> {
    let help = stdout(&sensor(&["--help"]));
    let list = help.split("Commands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    let first_words = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned());
    let commands: Vec<String> = first_words.filter(|word| word != "help").collect();
    for known in ["run", "check", "replay", "record", "query", "doctor"] {
        assert!(commands.iter().any(|command| command == known), "{help}");
    }
    commands
}

#[test]
fn help_names_the_exit_codes() {
    let output = sensor(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    assert!(
        help.contains("Exit codes: 0 ok, 1 problems found, 2 usage"),
        "{help}"
    );
}

#[test]
fn every_command_shows_an_example_of_itself() {
    for command in commands() {
        let output = sensor(&[&command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = stdout(&output);
        let examples = help.split("Examples:").nth(1).unwrap_or_default();
        assert!(
            examples.contains(&format!("eql-sensor {command} ")),
            "{help}"
        );
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    for args in [
        &[] as &[&str],
        &["fly"],
        &["run", "--tier", "fast"],
        &["run", "--output", "kafka"],
        &["run", "--ring-bytes", "many"],
        &["run", "--ring-bytes", "5000"],
        &["record", "--rules", "rules"],
        &["record", "--only", "exec,flight"],
        &["replay"],
        &["--log", "a=b=c", "check", "."],
    ] {
        let output = sensor(args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(!stderr(&output).is_empty(), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_flag_says_what_is_allowed() {
    let said = stderr(&sensor(&["run", "--output", "kafka"]));
    let expected = "allowed are stdout, journald, file:PATH, syslog, syslog:PATH and none";
    assert!(said.contains(expected), "{said}");
    let said = stderr(&sensor(&["record", "--ring-bytes", "5000"]));
    let expected = "`--ring-bytes` is 5000, must be a power of two; nearest are 4096 and 8192";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn the_shipped_rules_and_settings_are_sound() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules = here.join("../rules");
    let settings = here.join("eql-sensor.toml");
    let output = sensor(&["check", rules.to_str().unwrap(), settings.to_str().unwrap()]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.ends_with("0 errors; 0 warnings\n"), "{text}");

    let output = sensor(&["check", "--format", "json", rules.to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["summary"]["errors"], 0);
    assert_eq!(report["summary"]["loaded"], report["summary"]["rule_files"]);
    assert_eq!(report["problems"], serde_json::json!([]));
}

#[test]
fn check_tells_verdicts_and_what_wakes_too_often() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, query: &str| {
        let head = format!("[rule]\nrule_id = \"{name}\"\nname = \"n\"\ntype = \"eql\"\n");
        let text = format!("{head}index = [\"logs-*\"]\nquery = '{query}'\n");
        std::fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    };
    write(
        "armed",
        "process where event.action == \"exec\" and process.name == \"x\"",
    );
    write(
        "blind",
        "process where event.action == \"exec\" and a.b == \"x\"",
    );
    write(
        "degraded",
        "process where event.action == \"exec\" and process.name == \"x\" and not a.b == \"x\"",
    );
    write("wakes", "process where event.type == \"start\"");
    let path = directory.path().to_str().unwrap();
    let text = stdout(&sensor(&["check", path]));
    for expected in [
        "wakes.toml:6:10: warning: the first step takes 48.8 % of all events",
        "blind, can never fire:\n  no `a.b`: blind.toml:6\n",
        "degraded, fires but lacks something:\n  no `a.b`: the exclusion never applies: more false alarms: degraded.toml:6\n",
        "4 rule files: 2 armed, 1 degraded, 1 blind; 0 errors; 1 warning\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let output = sensor(&["check", "--format", "json", path]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["summary"]["degraded"], 1);
    let blind = &report["rules"][1];
    assert_eq!(blind["verdict"], "blind");
    assert_eq!(blind["findings"][0]["field"], "a.b");
    assert_eq!(blind["findings"][0]["effect"], "never-fires");
    assert_eq!(report["problems"][0]["code"], "wakes-often");

    let events = directory.path().join("events.jsonl");
    let event = "{\"@timestamp\":1,\"event\":{\"category\":[\"file\"],\"type\":[\"creation\"]}}\n";
    std::fs::write(&events, event).unwrap();
    let text = stdout(&sensor(&[
        "check",
        path,
        "--events",
        events.to_str().unwrap(),
    ]));
    assert!(text.ends_with("1 blind; 0 errors; 0 warnings\n"), "{text}");
}

#[test]
fn check_says_what_is_on_trial_and_takes_it_for_no_duplicate() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, process: &str| {
        let text = format!(
            "[rule]\nrule_id = \"r-1\"\nname = \"n\"\ntype = \"eql\"\n\
             query = 'process where event.action == \"exec\" and process.name == \"{process}\"'\n"
        );
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("rules.d/a.toml", "x");
    write("trial.d/b.toml", "y");
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // By its directory, by itself, and below the directory of the settings.
    std::fs::write(path("eql-sensor.toml"), "").unwrap();
    for paths in [
        &["rules.d", "trial.d"] as &[&str],
        &["rules.d/a.toml", "trial.d/b.toml"],
        &["."],
    ] {
        let paths: Vec<String> = paths.iter().map(|name| path(name)).collect();
        let mut args = vec!["check", "--verbose"];
        args.extend(paths.iter().map(String::as_str));
        let text = stdout(&sensor(&args));
        for expected in [
            "rules.d/a.toml: armed: n (r-1)\n",
            "trial.d/b.toml: armed, on trial: n (r-1)\n",
            "2 rule files: 2 armed; 1 of the rules on trial; ",
            "0 errors; 0 warnings\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        args[1] = "--format=json";
        let report: serde_json::Value = serde_json::from_slice(&sensor(&args).stdout).unwrap();
        assert_eq!(report["summary"]["on_trial"], 1);
        let rules = report["rules"].as_array().unwrap();
        let on_trial = rules.iter().filter(|rule| rule["on_trial"] == true);
        assert_eq!(on_trial.count(), 1);
    }
}

#[test]
fn check_takes_each_directory_below_for_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let rule = |id: &str| {
        format!(
            "[rule]\nrule_id = \"{id}\"\nname = \"{id}\"\ntype = \"eql\"\n\
             query = 'process where event.action == \"exec\" and process.name == \"x\"'\n"
        )
    };
    write("rules.d/a.toml", &rule("r-1"));
    write("trial.d/b.toml", &rule("r-2"));
    write("beside.toml", &rule("r-3"));
    write(
        "exceptions.d/c.toml",
        "[[exception]]\nrule_id = \"r-1\"\nquery = 'process where user.name == \"build\"'\nreason = \"its work\"\n\
         owner = \"infra\"\nexpires = \"never\"\n",
    );
    write(
        "overrides.d/d.toml",
        "[[override]]\nrule_id = \"r-1\"\nseverity = \"high\"\n",
    );
    write("conf.d/e.toml", "[engine]\nidle_s = 7\n");
    let path = directory.path().to_str().unwrap();
    let check = || stdout(&sensor(&["check", "--verbose", path]));
    // Without a settings file what lies beside is a rule; with one it is nothing, as for the daemon.
    for (summary, is_there) in [
        (
            "3 rule files: 3 armed; 1 of the rules on trial; 1 settings file; 0 errors; 0 warnings\n",
            true,
        ),
        (
            "2 rule files: 2 armed; 1 of the rules on trial; 2 settings files; 0 errors; 0 warnings\n",
            false,
        ),
    ] {
        let text = check();
        assert!(text.ends_with(summary), "{text}");
        assert!(
            text.contains("trial.d/b.toml: armed, on trial: r-2 (r-2)\n"),
            "{text}"
        );
        assert_eq!(
            text.contains("beside.toml: armed: r-3 (r-3)\n"),
            is_there,
            "{text}"
        );
        write("eql-sensor.toml", "");
    }
    for (name, text, said) in [
        (
            "conf.d/e.toml",
            "[engine]\nidel_s = 7\n",
            "conf.d/e.toml:2:1: error: ",
        ),
        (
            "exceptions.d/c.toml",
            "[[exception]]\nrule_id = \"r-1\"\n",
            "exceptions.d/c.toml:1:1: error: ",
        ),
    ] {
        std::fs::remove_file(directory.path().join("eql-sensor.toml")).unwrap_or_default();
        write(name, text);
        let output = sensor(&["check", path]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stdout(&output).contains(said), "{}", stdout(&output));
    }
}

#[test]
fn a_sensor_without_rules_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let refused = |counts: &str| {
        for command in [
            &["run", "--output", "none", "--rules", path] as &[&str],
            &["replay", "--rules", path, "-"],
        ] {
            let output = sensor(command);
            assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
            let said = stderr(&output);
            let expected = format!("no rule to watch for in {path}: {counts}");
            assert!(said.contains(&expected), "{said}");
            assert!(said.contains("--allow-no-rules"), "{said}");
        }
    };
    refused("of 0 rule files 0 have errors and 0 are skipped");
    let other = "[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"esql\"\n";
    std::fs::write(directory.path().join("other.toml"), other).unwrap();
    std::fs::write(directory.path().join("broken.toml"), "[rule").unwrap();
    refused("of 2 rule files 1 have errors and 1 are skipped");

    let output = sensor(&["run", "--output", "none", "--rules", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        stderr(&output),
        "eql-sensor: cannot read rules from `/nonexistent`: no such file or directory\n"
    );
}

#[test]
fn unusable_settings_keep_it_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("eql-sensor.toml");
    std::fs::write(&settings, "[kernel]\nring_bytes = 3000000\n").unwrap();
    let settings = settings.to_str().unwrap();
    for command in [
        &["run", "--config", settings] as &[&str],
        &["record", "--config", settings],
        &["replay", "--config", settings, "-"],
    ] {
        let output = sensor(command);
        assert_eq!(output.status.code(), Some(78));
        let said = stderr(&output);
        let expected = format!(
            "{settings}:2:14: error: `kernel.ring_bytes` is 3000000, must be a power of two; \
             nearest are 2097152 and 4194304"
        );
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_69() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let socket = socket.to_str().unwrap();
    for args in [
        &["status"] as &[&str],
        &["reload"],
        &["rules", "list"],
        &["rules", "show", "x"],
        &["rules", "trial"],
        &["rules", "promote", "x"],
        &["rules", "drop", "x", "--yes"],
        &["metrics"],
        &["tail"],
        &["top"],
    ] {
        let mut args = args.to_vec();
        args.extend(["--control", socket]);
        let output = sensor(&args);
        assert_eq!(output.status.code(), Some(69), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains("is it running?"), "{said}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    // Left behind by one that was killed.
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    let output = sensor(&["status", "--control", socket]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    let output = sensor(&["status", "--control", "relative"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn who_answers_on_a_socket_does_not_decide_which_files_are_moved() {
    use std::io::{BufRead as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let other = "[package]\nname = \"x\"\n";
    let rule = "[rule]\nrule_id = \"x\"\nname = \"X\"\ntype = \"eql\"\nquery = 'any where true'\n";
    std::fs::write(path("other.toml"), other).unwrap();
    std::fs::write(path("secret"), other).unwrap();
    std::fs::write(path("rule.toml"), rule).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(path("control")).unwrap();
    for (verb, from, to, said) in [
        (
            "promote",
            "other.toml",
            "a.toml",
            "is no file of the rule x",
        ),
        ("promote", "secret", "a.toml", "is no file of the rule x"),
        ("promote", "rule.toml", "a.sh", "is no place for a rule"),
        ("drop", "secret", "a.toml", "is no rule file"),
    ] {
        let text = std::fs::read_to_string(path(from)).unwrap();
        let answer = serde_json::json!({
            "id": "x", "name": "X", "verdict": "armed", "path": path(from),
            "digest": format!("{:016x}", sensor::rule::digest(&text)),
            "promotion": { "to": path(to), "replaces": [] },
        });
        let listener = listener.try_clone().unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            std::io::BufReader::new(&stream)
                .read_line(&mut request)
                .unwrap();
            writeln!(stream, "{answer}").unwrap();
        });
        let more: &[&str] = if verb == "drop" { &["--yes"] } else { &[] };
        let control = path("control");
        let mut args = vec!["rules", verb, "x", "--control", &control];
        args.extend(more);
        let output = sensor(&args);
        daemon.join().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        assert!(Path::new(&path(from)).exists() && !Path::new(&path(to)).exists());
    }
}

#[test]
fn a_bundle_is_written_once_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bundle.tar.gz");
    let path = path.to_str().unwrap();
    let args = [
        "support",
        "--control",
        "/nonexistent/control",
        "--output",
        path,
    ];
    let output = sensor(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.starts_with(path), "{said}");
    assert!(said.contains("status.json: exit status: 69: "), "{said}");
    let listed = Command::new("tar").args(["tzf", path]).output().unwrap();
    let listed = stdout(&listed);
    for part in ["LIST.txt", "version.txt", "settings.txt", "doctor.json"] {
        let line = format!("eql-sensor-support/{part}\n");
        assert!(listed.contains(&line), "{listed}");
    }
    let again = sensor(&args);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("file exists"), "{}", stderr(&again));
}
