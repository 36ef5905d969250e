//! `support`: everything somebody needs who is asked for help with this sensor, in one file.
//!
//! In: what the other subcommands print, the journal of the service, the last events if asked for. Out: a gzipped tar archive. Of
//! events, command lines, arguments and environments are taken out; of alerts in the journal only rule and time stay in. A part that
//! can not be had is named with its reason in the archive's list, and holds up nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use super::control::{ask, failure};
use super::{Exit, Failure, chain, print};
use crate::cli::SupportArgs;
use crate::control::Request;

/// Longest part, in bytes; the rest is left out.
const PART_MAX: u64 = 16 << 20;
/// For a program to print its part.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);
/// Entries of the journal, the newest.
const ENTRIES_MAX: &str = "5000";
/// Fields of a journal entry that stay in: of every entry, and of one that is no alert.
const ENTRY_FIELDS: &[&str] = &[
    "__REALTIME_TIMESTAMP",
    "PRIORITY",
    "MESSAGE_ID",
    "_PID",
    "SENSOR_RULE_ID",
    "SENSOR_RULE_NAME",
];
const PLAIN_ENTRY_FIELDS: &[&str] = &["MESSAGE", "UNIT", "JOB_RESULT", "EXIT_CODE", "EXIT_STATUS"];
/// Members of an event that may hold what somebody typed, at any depth.
const REDACTED: &[&str] = &["args", "command_line", "env_vars", "title", "original"];

/// What the sensor's own subcommands print, by the name it gets. The last says whether it is the daemon that is asked.
const OWN: &[(&str, &[&str], bool)] = &[
    ("version.txt", &["--version"], false),
    ("settings.txt", &["config", "cat"], false),
    ("doctor.json", &["doctor", "--json"], false),
    ("check.json", &["check", "--format", "json"], false),
    ("status.json", &["status", "--json"], true),
    ("rules.jsonl", &["rules", "list", "--json"], true),
    ("metrics.txt", &["metrics"], true),
    ("top.txt", &["top"], true),
];
/// Files of the system.
const FILES: &[(&str, &str)] = &[
    ("os-release.txt", "/etc/os-release"),
    ("kernel.txt", "/proc/version"),
    ("memory.txt", "/proc/meminfo"),
    ("load.txt", "/proc/loadavg"),
    ("lockdown.txt", "/sys/kernel/security/lockdown"),
];

/// One file of the bundle.
struct Part {
    name: String,
    /// Where it comes from.
    from: String,
    bytes: Vec<u8>,
    /// Why it is not there, or not whole.
    problem: Option<String>,
}

/// Runs `support`.
///
/// # Errors
/// The archive can not be written, or is there already.
pub fn support(args: &SupportArgs) -> Result<Exit, Failure> {
    let is_stdout = args.output.as_deref() == Some(Path::new("-"));
    let path = args.output.clone().unwrap_or_else(default_path);
    let cannot = || format!("cannot write `{}`", path.display());
    if is_stdout {
        bundle(io::stdout().lock(), &gather(args)).context("cannot write to standard output")?;
        return Ok(Exit::Ok);
    }
    // Made before anything is gathered: that it can not be is known at once.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(cannot)?;
    let parts = gather(args);
    bundle(&file, &parts).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    print(summary(&path, &parts).as_bytes())?;
    Ok(Exit::Ok)
}

fn default_path() -> PathBuf {
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    format!("eql-sensor-support-{time}.tar.gz").into()
}

fn summary(path: &Path, parts: &[Part]) -> String {
    let missing = parts.iter().filter_map(|part| {
        let problem = part.problem.as_ref()?;
        Some(format!("  {}: {problem}\n", part.name))
    });
    let missing: String = missing.collect();
    let missing = match missing.as_str() {
        "" => String::new(),
        list => format!("not there, or not whole:\n{list}"),
    };
    format!(
        "{}\n{missing}It names this host, its rules, programs and paths; command lines are not in it. Look through it before you pass it on.\n",
        path.display()
    )
}

fn gather(args: &SupportArgs) -> Vec<Part> {
    let mut parts: Vec<Part> = OWN.iter().map(|part| own(args, part)).collect();
    parts.extend(FILES.iter().map(|(name, path)| of_file(name, path)));
    parts.push(journal());
    if args.events {
        parts.push(events(args));
    }
    parts
}

/// What one of our own subcommands prints.
fn own(args: &SupportArgs, (name, words, of_daemon): &(&str, &[&str], bool)) -> Part {
    let mut command = Command::new("/proc/self/exe");
    command.args(*words);
    if *words != ["--version"]
        && let Some(config) = &args.control.config
    {
        command.arg("--config").arg(config);
    }
    match &args.control.control {
        Some(socket) if *of_daemon => command.arg("--control").arg(socket),
        _ => command.env_remove("EQL_SENSOR_CONTROL"),
    };
    part_of(name, format!("eql-sensor {}", words.join(" ")), command)
}

fn part_of(name: &str, from: String, command: Command) -> Part {
    let (bytes, problem) = match run(command) {
        Ok(printed) => printed,
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    Part {
        name: name.to_owned(),
        from,
        bytes,
        problem,
    }
}

/// What a program prints, and what was wrong.
fn run(mut command: Command) -> io::Result<(Vec<u8>, Option<String>)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || pipe.map_or_else(|| Ok((Vec::new(), false)), read_part))
    };
    let out = reader(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = reader(err.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(PAUSE);
    };
    let gone = |_| io::Error::other("its reader is gone");
    let (bytes, is_cut) = out.join().map_err(gone)??;
    let (said, _) = err.join().map_err(gone)??;
    let said = String::from_utf8_lossy(&said);
    let said = said.trim_end().lines().last().unwrap_or_default();
    let problem = match status {
        None => Some(format!("took longer than {} s", PATIENCE.as_secs())),
        Some(status) if !status.success() && said.is_empty() => Some(status.to_string()),
        Some(status) if !status.success() => Some(format!("{status}: {said}")),
        Some(_) if is_cut => Some(cut()),
        Some(_) => None,
    };
    Ok((bytes, problem))
}

/// All there is up to the bound, and whether there was more.
fn read_part(source: impl Read) -> io::Result<(Vec<u8>, bool)> {
    let mut source = source;
    let mut bytes = Vec::new();
    source.by_ref().take(PART_MAX).read_to_end(&mut bytes)?;
    let more = io::copy(&mut source, &mut io::sink())?;
    Ok((bytes, more > 0))
}

fn cut() -> String {
    format!("cut after {} MiB", PART_MAX >> 20)
}

fn of_file(name: &str, path: &str) -> Part {
    let (bytes, problem) = match File::open(path).and_then(read_part) {
        Ok((bytes, is_cut)) => (bytes, is_cut.then(cut)),
        Err(error) => (Vec::new(), Some(chain(&error.into()))),
    };
    Part {
        name: name.to_owned(),
        from: path.to_owned(),
        bytes,
        problem,
    }
}

/// The service's part of the journal, without what alerts tell of the host.
fn journal() -> Part {
    let mut command = Command::new("journalctl");
    command.args(["--unit", "eql-sensor.service", "--output", "json"]);
    command.args(["--no-pager", "--quiet", "--lines", ENTRIES_MAX]);
    let from = "journalctl --unit eql-sensor.service".to_owned();
    let mut part = part_of("journal.jsonl", from, command);
    let entries = String::from_utf8_lossy(&part.bytes)
        .lines()
        .filter_map(entry)
        .fold(String::new(), |all, entry| all + &entry + "\n");
    part.bytes = entries.into_bytes();
    part
}

/// A journal entry with the fields that stay in; `None` for what is none.
fn entry(line: &str) -> Option<String> {
    let Value::Object(mut entry) = serde_json::from_str(line).ok()? else {
        return None;
    };
    let is_alert = entry.contains_key("SENSOR_RULE_ID");
    entry.retain(|name, _| {
        ENTRY_FIELDS.contains(&name.as_str())
            || !is_alert && PLAIN_ENTRY_FIELDS.contains(&name.as_str())
    });
    Some(Value::Object(entry).to_string())
}

/// The last events of the daemon, without what somebody typed.
fn events(args: &SupportArgs) -> Part {
    let mut part = Part {
        name: "events.jsonl".to_owned(),
        from: "the running daemon".to_owned(),
        bytes: Vec::new(),
        problem: None,
    };
    if let Err(failure) = read_events(args, &mut part.bytes) {
        part.problem = Some(chain(&failure.error));
    }
    part
}

fn read_events(args: &SupportArgs, into: &mut Vec<u8>) -> Result<(), Failure> {
    let mut answer = ask(&args.control, &Request::Recent)?;
    answer.document().map_err(failure)?;
    while let Some(mut event) = answer.document().map_err(failure)? {
        redact(&mut event);
        // A Vec takes any write.
        let _ = writeln!(into, "{event}");
    }
    Ok(())
}

/// Takes out what may hold secrets: how long it was stays.
fn redact(value: &mut Value) {
    match value {
        Value::Object(members) => redact_members(members),
        Value::Array(elements) => elements.iter_mut().for_each(redact),
        _ => {}
    }
}

fn redact_members(members: &mut Map<String, Value>) {
    for (name, value) in members {
        if REDACTED.contains(&name.as_str()) && !value.is_object() {
            let length = match &*value {
                Value::Array(elements) => format!("{} values", elements.len()),
                value => format!("{} bytes", value.as_str().map_or(0, str::len)),
            };
            *value = format!("(taken out: {length})").into();
        } else {
            redact(value);
        }
    }
}

/// Writes the archive: the list of parts first, then each that is not empty, in a directory of their own.
fn bundle(to: impl Write, parts: &[Part]) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
    let time = jiff::Timestamp::now().as_second();
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(time).unwrap_or_default());
        archive.append_data(&mut header, format!("eql-sensor-support/{name}"), bytes)
    };
    add("LIST.txt", list(parts).as_bytes())?;
    for part in parts.iter().filter(|part| !part.bytes.is_empty()) {
        add(&part.name, &part.bytes)?;
    }
    archive.into_inner()?.finish()?.flush()
}

fn list(parts: &[Part]) -> String {
    let line = |part: &Part| {
        let problem = part.problem.as_deref().map(|why| format!(" ({why})"));
        format!(
            "{}: {} bytes from {}{}\n",
            part.name,
            part.bytes.len(),
            part.from,
            problem.unwrap_or_default()
        )
    };
    parts.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::control::text;
    use super::*;

    #[test]
    fn what_somebody_typed_is_taken_out_at_every_depth() {
        let mut event: Value = serde_json::json!({
            "process": {
                "name": "curl",
                "args": ["curl", "-u", "me:secret"],
                "command_line": "curl -u me:secret",
                "parent": { "args": ["sh", "secret"], "name": "sh" },
                "env_vars": ["TOKEN=secret"],
            },
            "file": { "Ext": { "original": { "path": "/tmp/a" } } },
            "events": [{ "process": { "command_line": "secret" } }],
        });
        redact(&mut event);
        let left = event.to_string();
        assert!(!left.contains("secret"), "{left}");
        assert_eq!(text(&event, "/process/args"), "(taken out: 3 values)");
        assert_eq!(
            text(&event, "/process/command_line"),
            "(taken out: 17 bytes)"
        );
        assert_eq!(text(&event, "/file/Ext/original/path"), "/tmp/a");
        assert_eq!(text(&event, "/process/parent/name"), "sh");
    }

    #[test]
    fn of_an_alert_in_the_journal_rule_and_time_stay() {
        let alert = r#"{"MESSAGE":"R: curl -u me","SENSOR_RULE_ID":"r","__REALTIME_TIMESTAMP":"1","SENSOR_USER":"me"}"#;
        let kept: Value = serde_json::from_str(&entry(alert).unwrap()).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({"SENSOR_RULE_ID": "r", "__REALTIME_TIMESTAMP": "1"})
        );
        let word = r#"{"MESSAGE":"ready","_COMM":"x","PRIORITY":"6"}"#;
        let kept: Value = serde_json::from_str(&entry(word).unwrap()).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({"MESSAGE": "ready", "PRIORITY": "6"})
        );
        assert_eq!(entry("no entry"), None);
    }

    #[test]
    fn a_part_that_can_not_be_had_is_listed_with_its_reason() {
        let parts = [
            of_file("there.txt", "/proc/version"),
            of_file("gone.txt", "/nonexistent/file"),
            part_of("failed.txt", "sh".into(), {
                let mut command = Command::new("sh");
                command.args(["-c", "echo some; echo why >&2; exit 3"]);
                command
            }),
        ];
        let listed = list(&parts);
        assert!(
            listed.contains("gone.txt: 0 bytes from /nonexistent/file (no such file or directory)"),
            "{listed}"
        );
        assert!(
            listed.contains("failed.txt: 5 bytes from sh (exit status: 3: why)"),
            "{listed}"
        );
        let mut archive = Vec::new();
        bundle(&mut archive, &parts).unwrap();
        let mut read = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
        let names = read.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.header().mode().unwrap(), 0o600);
            entry.path().unwrap().display().to_string()
        });
        let names: Vec<String> = names.collect();
        let expected = ["LIST.txt", "there.txt", "failed.txt"];
        let expected = expected.map(|name| format!("eql-sensor-support/{name}"));
        assert_eq!(names, expected);
    }
}
