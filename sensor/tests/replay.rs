//! The founding rule over recorded events, through the built binary: what must alert, and what comes close and must not.
//!
//! In: events written by hand as ECS JSON lines. Out: alerts on standard output. Time is in the events, so nothing sleeps.
#![expect(clippy::unwrap_used, reason = "a test that can not go on has failed")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const RULE_ID: &str = "64cfca9e-0f6f-4048-8251-9ec56a055e9e";
/// 2026-01-01, milliseconds since the Unix epoch.
const START_MS: u64 = 1_767_225_600_000;

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../rules/execution_network_connection_via_recently_compiled_executable.toml")
}

/// One compile-run-connect chain; each test changes what it is about.
#[derive(Clone)]
struct Chain {
    compiler: &'static str,
    /// The compiler's arguments.
    args: Vec<String>,
    /// Who writes the file, and where.
    writer: &'static str,
    written: String,
    run: String,
    connects: String,
    peer: &'static str,
    /// Milliseconds from the compile to the connect.
    connect_ms: u64,
}

impl Chain {
    fn new(output: &str) -> Chain {
        Chain {
            compiler: "gcc",
            args: ["gcc", "-o", output, "x.c"].map(str::to_owned).to_vec(),
            writer: "ld",
            written: format!("/tmp/w/{output}"),
            run: format!("/tmp/w/{output}"),
            connects: format!("/tmp/w/{output}"),
            peer: "203.0.113.5",
            connect_ms: 5000,
        }
    }

    fn events(&self) -> Vec<Value> {
        vec![
            event(
                0,
                "process",
                "exec",
                262,
                &format!("/usr/bin/{}", self.compiler),
                &self.args,
            ),
            with(
                event(
                    300,
                    "file",
                    "creation",
                    265,
                    &format!("/usr/bin/{}", self.writer),
                    &[],
                ),
                "file",
                json!({"path": self.written, "name": base(&self.written)}),
            ),
            event(
                4000,
                "process",
                "exec",
                267,
                &self.run,
                std::slice::from_ref(&self.run),
            ),
            with(
                event(
                    self.connect_ms,
                    "network",
                    "connection_attempted",
                    267,
                    &self.connects,
                    &[],
                ),
                "destination",
                json!({"ip": self.peer, "port": 4444}),
            ),
        ]
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn with(mut event: Value, key: &str, value: Value) -> Value {
    event[key] = value;
    event
}

fn event(
    after_ms: u64,
    category: &str,
    action: &str,
    pid: u32,
    executable: &str,
    args: &[String],
) -> Value {
    let kind = match category {
        "file" => "creation",
        _ => "start",
    };
    let mut event = json!({
        "@timestamp": START_MS + after_ms,
        "host": {"id": "host-1", "os": {"type": "linux"}},
        "event": {"kind": "event", "category": [category], "type": [kind], "action": action},
        "process": {
            "pid": pid,
            "entity_id": format!("{executable}-{pid}"),
            "name": base(executable),
            "executable": executable,
        },
    });
    if !args.is_empty() {
        event["process"]["args"] = json!(args);
        event["process"]["command_line"] = json!(args.join(" "));
    }
    event
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn replay(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_eql-sensor"))
        .arg("replay")
        .args(args)
        .arg("-")
        .env_remove("EQL_SENSOR_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn alerts(input: &str) -> Vec<Value> {
    let output = replay(&["--rules", rules().to_str().unwrap()], input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn fires(chain: &Chain) -> Value {
    let mut found = alerts(&lines(&chain.events()));
    assert_eq!(found.len(), 1, "{found:#?}");
    let alert = found.remove(0);
    assert_eq!(alert["rule"]["id"], RULE_ID);
    assert_eq!(alert["events"], json!(chain.events()), "{alert:#}");
    alert
}

#[track_caller]
fn stays_quiet(chain: &Chain) {
    assert_eq!(alerts(&lines(&chain.events())), [] as [Value; 0]);
}

#[test]
fn compiled_run_and_connected_is_one_alert() {
    let alert = fires(&Chain::new("rev"));
    assert_eq!(
        alert["message"],
        "Network Connection via Recently Compiled Executable: \
         gcc (pid 262) → ld wrote /tmp/w/rev → /tmp/w/rev (pid 267) → 203.0.113.5:4444"
    );
    assert_eq!(alert["@timestamp"], "2026-01-01T00:00:05.000Z");
    assert_eq!(alert["event"]["kind"], "alert");
    assert_eq!(alert["event"]["sequence"], 1);
    assert_eq!(alert["event"]["risk_score"], 47);
    assert_eq!(alert["eql_sensor"]["alert"]["severity"], "medium");
    assert_eq!(alert["threat"]["tactic"]["id"], json!(["TA0002", "TA0011"]));
    assert_eq!(
        alert["threat"]["technique"]["id"],
        json!(["T1059", "T1071"])
    );
    assert_eq!(
        alert["threat"]["technique"]["subtechnique"]["id"],
        json!(["T1059.004"])
    );
    assert_eq!(
        alert["eql_sensor"]["alert"]["join"],
        json!([
            {"fields": ["host.id"], "values": ["host-1"]},
            {"fields": ["process.args", "file.name", "process.name"], "values": ["rev"]},
        ])
    );
}

#[test]
fn other_compilers_long_names_and_ipv6_alert() {
    for compiler in ["g++", "cc"] {
        let mut chain = Chain::new("rev");
        chain.compiler = compiler;
        fires(&chain);
    }
    fires(&Chain::new(&"n".repeat(40)));
    let mut chain = Chain::new("rev");
    chain.peer = "2001:db8::5";
    let alert = fires(&chain);
    let message = alert["message"].as_str().unwrap();
    assert!(message.ends_with("→ [2001:db8::5]:4444"), "{message}");
}

#[test]
fn the_resolved_name_of_the_compiler_counts_too() {
    let mut events = Chain::new("rev").events();
    events[0]["process"]["name"] = json!("x86_64-linux-gnu-gcc-12");
    assert_eq!(alerts(&lines(&events)).len(), 0);
    events[0]["process"]["Ext"] = json!({"names": ["x86_64-linux-gnu-gcc-12", "gcc"]});
    assert_eq!(alerts(&lines(&events)).len(), 1);
}

#[test]
fn a_minute_is_the_limit_and_included() {
    let mut chain = Chain::new("rev");
    chain.connect_ms = 60_000;
    fires(&chain);
    chain.connect_ms = 60_001;
    stays_quiet(&chain);
}

#[test]
fn near_misses_stay_quiet() {
    let mut default_name = Chain::new("a.out");
    default_name.args = ["gcc", "x.c"].map(str::to_owned).to_vec();
    stays_quiet(&default_name);

    let mut other_connects = Chain::new("rev");
    other_connects.connects = "/usr/bin/curl".to_owned();
    stays_quiet(&other_connects);

    let mut other_runs = Chain::new("rev");
    other_runs.run = "/tmp/w/other".to_owned();
    stays_quiet(&other_runs);

    let mut other_writes = Chain::new("rev");
    other_writes.writer = "cp";
    stays_quiet(&other_writes);

    let mut other_compiler = Chain::new("rev");
    other_compiler.compiler = "clang";
    stays_quiet(&other_compiler);
}

#[test]
fn another_host_does_not_complete_the_chain() {
    let mut events = Chain::new("rev").events();
    events[3]["host"]["id"] = json!("host-2");
    assert_eq!(alerts(&lines(&events)).len(), 0);
}

#[test]
fn order_matters() {
    let mut events = Chain::new("rev").events();
    let time = |event: &mut Value, ms: u64| event["@timestamp"] = json!(START_MS + ms);
    time(&mut events[1], 4500);
    events.swap(1, 2);
    assert_eq!(alerts(&lines(&events)).len(), 0);
}

#[test]
fn a_broken_line_is_reported_and_the_rest_is_matched() {
    let events = Chain::new("rev").events();
    let mut input = lines(&events[..2]);
    input.push_str("{\"@timestamp\": oops}\n\n");
    input.push_str(&lines(&events[2..]));
    let output = replay(&["--rules", rules().to_str().unwrap()], &input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("-:3:"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

#[test]
fn an_alert_can_be_shown_as_a_tree() {
    let args = ["--format", "tree", "--rules"];
    let rules = rules();
    let args: Vec<&str> = args.into_iter().chain(rules.to_str()).collect();
    let output = replay(&args, &lines(&Chain::new("rev").events()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("ALERT medium Network Connection"),
        "{text}"
    );
    assert!(text.contains("ld wrote /tmp/w/rev"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn one_act_under_several_keys_is_one_alert() {
    let directory = tempfile::tempdir().unwrap();
    let rule = "[rule]\nrule_id = \"a\"\nname = \"n\"\ntype = \"eql\"\nquery = '''\n\
                sequence by process.args\n\
                [process where process.name == \"a\"] [process where process.name == \"b\"]\n'''\n";
    std::fs::write(directory.path().join("rule.toml"), rule).unwrap();
    let args = |name: &str| [name, "-x", "-y"].map(str::to_owned);
    let events = [
        event(0, "process", "exec", 1, "/bin/a", &args("a")),
        event(1, "process", "exec", 2, "/bin/b", &args("b")),
    ];
    let output = replay(
        &["--rules", directory.path().to_str().unwrap()],
        &lines(&events),
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let alert: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        alert["eql_sensor"]["alert"]["join"],
        json!([{"fields": ["process.args"], "values": ["-x", "-y"]}])
    );
}

#[test]
fn without_rules_it_can_be_told_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let output = replay(
        &["--allow-no-rules", "--rules", path],
        &lines(&Chain::new("rev").events()),
    );
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_gap_in_the_recording_marks_the_alerts_it_touches() {
    let gap = |start: &str, end: &str| {
        format!(
            r#"{{"eql_sensor":{{"gap":{{"lost":7,"causes":[]}}}},"event":{{"kind":"pipeline_error","action":"gap","dataset":"sensor.gap","start":"{start}","end":"{end}"}},"@timestamp":"{end}"}}"#
        )
    };
    let lost = |gap: &str| {
        let events = Chain::new("rev").events();
        let (before, after) = events.split_at(2);
        let input = format!("{}{gap}\n{}", lines(before), lines(after));
        alerts(&input)[0]["eql_sensor"]["alert"]["lost"].clone()
    };
    // The chain begins with the year.
    let inside = gap("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z");
    assert_eq!(lost(&inside), 7);
    let earlier = gap("2025-12-31T23:59:58Z", "2025-12-31T23:59:59Z");
    assert_eq!(lost(&earlier), 0);
}
