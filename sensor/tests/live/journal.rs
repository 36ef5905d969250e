//! Alerts in a journal: the real journald, in a mount namespace of its own.
//!
//! In: a process whose argument tries to forge journal fields. Out: the entry as `journalctl` shows it. Must never touch the
//! machine's own journal, nor leave a journald behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::daemon::{BINARY, Daemon, text};
use crate::scope::Scope;
use crate::tiers;

const RULE_ID: &str = "0d1b6a52-6f0b-4d5e-9a55-0c2f1e7c4b11";
const RULE: &str = r#"[rule]
rule_id = "0d1b6a52-6f0b-4d5e-9a55-0c2f1e7c4b11"
name = "Journal Test"
type = "eql"
severity = "high"
query = 'process where event.action == "exec" and process.args == "journal-test"'
"#;

/// `$0` is the folder for journal files, `$1` journald, the rest the daemon and its arguments. Journald says that it is ready,
/// too; only the daemon may. The runtime directory is the daemon's: journald would put its sockets there.
const PRIVATE_JOURNAL: &str = r#"
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal && mount --bind "$0" /run/log/journal || exit 99
env -u NOTIFY_SOCKET -u RUNTIME_DIRECTORY "$1" >/dev/null 2>&1 &
echo $! >"$0/pid"
shift
until [ -S /run/systemd/journal/socket ]; do sleep 0.05; done
exec "$@"
"#;

/// Ends the journald of a folder.
struct Journal<'a>(&'a Path);

impl Drop for Journal<'_> {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.0.join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

#[test]
fn an_alert_is_a_journal_entry_of_its_own_fields() {
    let places = [
        "/usr/lib/systemd/systemd-journald",
        "/lib/systemd/systemd-journald",
    ];
    let Some(journald) = places.into_iter().find(|place| Path::new(place).exists()) else {
        println!("SKIPPED: no journald is installed, so no alert was read back from a journal");
        return;
    };
    let tier = tiers().into_iter().next().unwrap_or_default();
    let scope = Scope::new("journal");
    let rule = scope.write("rule.toml", RULE);
    let folder = tempfile::tempdir().unwrap();
    let _journal = Journal(folder.path());
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", PRIVATE_JOURNAL])
        .arg(folder.path())
        .args([journald, BINARY, "run", "--output", "journald", "--rules"])
        .arg(rule);
    let daemon = Daemon::launch(&scope, &tier, command);
    let forged = "x\nMESSAGE=forged\nPRIORITY=0";
    let pid = scope.run(&["true", "journal-test", forged]);

    let entry = wait_for_entry(folder.path(), &daemon);
    for (field, expected) in [
        ("SYSLOG_IDENTIFIER", "eql-sensor"),
        ("PRIORITY", "3"),
        ("SENSOR_RULE_ID", RULE_ID),
        ("SENSOR_RULE_NAME", "Journal Test"),
        ("SENSOR_SEVERITY", "high"),
        ("SENSOR_RISK_SCORE", "73"),
        ("SENSOR_ALERT_SEQ", "1"),
        ("SENSOR_LOST", "0"),
        ("PROCESS_PID", &pid.to_string()),
    ] {
        assert_eq!(text(&entry, field), expected, "{entry:#}");
    }
    let expected = format!("Journal Test: true (pid {pid})");
    assert_eq!(text(&entry, "MESSAGE"), expected, "{entry:#}");
    let alert: Value = serde_json::from_str(text(&entry, "SENSOR_ECS")).unwrap();
    assert_eq!(alert["events"][0]["process"]["args"][2], forged);
    daemon.stop();
}

/// The one entry filed under the rule's id.
fn wait_for_entry(folder: &Path, daemon: &Daemon) -> Value {
    const LIMIT: Duration = Duration::from_secs(60);
    let started = Instant::now();
    loop {
        let output = Command::new("journalctl")
            .args(["--no-pager", "-o", "json", "-a", "-D"])
            .arg(folder)
            .arg(format!("MESSAGE_ID={}", RULE_ID.replace('-', "")))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        if let Some(line) = text.lines().next() {
            assert_eq!(text.lines().count(), 1, "{text}");
            return serde_json::from_str(line).unwrap();
        }
        assert!(
            started.elapsed() < LIMIT,
            "no entry in {LIMIT:?}; the daemon said:\n{}",
            daemon.said()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
