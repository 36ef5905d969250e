//! A daemon of another build takes over from the one that ran.
//!
//! In: acts under load while builds follow each other: copies of the daemon that differ where builds do. Out: every act told once.
//! Must never take a told gap for none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{BINARY, Daemon, at, text};
use crate::kept::Manager;
use crate::restart::{Bench, Random};
use crate::{is_guest, tiers};

/// What the kernel object begins with: a little-endian ELF file of 64 bits, seven bytes that mean nothing, relocatable, for BPF.
const OBJECT: [u8; 20] = [
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 247, 0,
];
/// Where those seven bytes begin.
const MEANINGLESS: usize = 9;
/// What is before the layout's hash.
const LAYOUT: &[u8] = b"eql-sensor layout ";

/// Every act alone, besides the two in a row.
const ALONE: [(&str, &str); 3] = [
    (
        "First Alone",
        r#"process where event.action == "exec" and process.name == "first""#,
    ),
    (
        "File Made",
        r#"file where event.action == "creation" and file.name : "made-*""#,
    ),
    (
        "File Gone",
        r#"file where event.action == "deletion" and file.name : "made-*""#,
    ),
];
const IN_A_ROW: &str = "First Then Second";

/// Acts until a file called `stop` is there; then says how many there were of each.
const LOAD: &str = r#"
name=$1 pause=$2 count=0
while [ ! -e stop ]; do
    ./first $name$count
    : > made-$name$count
    rm made-$name$count
    [ $count -lt 8 ] || ./second $name$((count - 8))
    count=$((count + 1))
    sleep $pause
done
last=$((count - 8))
[ $last -ge 0 ] || last=0
while [ $last -lt $count ]; do
    ./second $name$last
    last=$((last + 1))
done
echo $count > count.$name
"#;
const NAMES: [&str; 2] = ["a", "b"];

/// How many there are, and seconds between two acts of one load.
const UPGRADES: (u32, &str) = (10, "0.3");
/// Where processors are emulated each start takes long.
const UPGRADES_IN_GUESTS: (u32, &str) = (3, "1");

/// A copy of the daemon, changed as another build is.
fn build(folder: &Path, name: &str, change: impl FnOnce(&mut [u8])) -> PathBuf {
    let mut bytes = fs::read(BINARY).unwrap();
    change(&mut bytes);
    // Under its own name: that is what it looks for in `/proc`.
    let path = folder.join(name).join("eql-sensor");
    fs::create_dir(folder.join(name)).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Another kernel object.
fn another_object(bytes: &mut [u8]) {
    let all = bytes.windows(OBJECT.len()).enumerate();
    let found: Vec<usize> = all
        .filter(|(_, window)| *window == OBJECT)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(found.len(), 1, "one object in the daemon");
    bytes[found[0] + MEANINGLESS] = b'x';
}

/// Another layout of records and maps.
fn another_layout(bytes: &mut [u8]) {
    let is_hash = |at: usize| bytes[at..].iter().take(64).all(u8::is_ascii_hexdigit);
    let all = bytes.windows(LAYOUT.len()).enumerate();
    let found: Vec<usize> = all
        .filter(|(_, window)| *window == LAYOUT)
        .map(|(at, _)| at + LAYOUT.len())
        .filter(|at| is_hash(*at))
        .collect();
    assert_eq!(found.len(), 1, "one layout in the daemon");
    let digit = &mut bytes[found[0]];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
}

/// A bench with a rule for every act alone, too.
fn bench(name: &str) -> Bench {
    let bench = Bench::new(name);
    for (number, (name, query)) in ALONE.iter().enumerate() {
        let rule = format!(
            "[rule]\nrule_id = \"5b0a51f2-6a0c-4dd9-8b5b-0a6f6c5d3b0{number}\"\nname = \"{name}\"\ntype = \"eql\"\nquery = '{query}'\n"
        );
        fs::write(bench.rules.path().join(format!("alone{number}.toml")), rule).unwrap();
    }
    bench
}

fn command(bench: &Bench, binary: &Path) -> Command {
    let mut command = bench.command_of(binary);
    for number in 0..ALONE.len() {
        let rule = bench.rules.path().join(format!("alone{number}.toml"));
        command.arg("--rules").arg(rule);
    }
    command
}

#[test]
fn upgrades_under_load_lose_no_act_and_tell_none_twice() {
    for tier in tiers() {
        let bench = bench("upgrades");
        bench.scope.write("load.sh", LOAD);
        let builds = tempfile::tempdir().unwrap();
        let other = build(builds.path(), "other", another_object);
        let manager = Manager::new();
        let start = |binary: &Path| {
            Daemon::launch_under(&manager, &bench.scope, &tier, &command(&bench, binary))
        };
        let mut daemon = start(Path::new(BINARY));
        daemon.wait_until_told("READY=1");
        let (upgrades, pause) = if is_guest() {
            UPGRADES_IN_GUESTS
        } else {
            UPGRADES
        };
        let load = NAMES.map(|name| {
            let mut command = bench.scope.command(&["sh", "load.sh", name, pause]);
            command.spawn().unwrap()
        });
        // Besides, as much as one processor makes.
        let noise = ["sh", "-c", "while [ ! -e stop ]; do /bin/true; done"];
        let noise = bench.scope.command(&noise).spawn().unwrap();
        let attached = manager.attached();
        let mut random = Random::new();
        let mut lost = 0;
        for upgrade in 0..upgrades {
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            // An end that was asked for waits for outputs, and not for long: on a busy machine they would be cut off.
            let (said, _) = daemon.end_by(Signal::KILL);
            assert!(!said.contains("nothing was recorded"), "{tier}: {said}");
            lost = lost.max(lost_by(&said));
            assert!(!said.contains("ERROR"), "{tier}: {said}");
            let binary = [other.as_path(), Path::new(BINARY)][upgrade as usize % 2];
            daemon = start(binary);
            daemon.wait_until_told("READY=1");
            let said = daemon.said();
            for words in [
                "kernel programs of another build recorded until now",
                "nothing is missing",
            ] {
                assert!(said.contains(words), "{tier}, {upgrade}: {said}");
            }
            assert_eq!(manager.attached(), attached, "nothing is let go");
        }
        std::thread::sleep(Duration::from_millis(500));
        bench.scope.write("stop", "");
        for mut one in load.into_iter().chain([noise]) {
            assert!(one.wait().unwrap().success());
        }
        // What is lost is told once a second.
        std::thread::sleep(Duration::from_secs(2));
        let expected = expected(&bench);
        let lost_so_far = lost.max(lost_by(&daemon.said()));
        let least = expected.len().saturating_sub(2 * lost_so_far);
        bench.wait_for_alerts(least, &daemon);
        let (said, _) = daemon.end_by(Signal::TERM);
        assert!(!said.contains("ERROR"), "{tier}: {said}");
        lost = lost.max(lost_by(&said));
        let mut told: BTreeMap<(String, String), u32> =
            expected.iter().map(|act| (act.clone(), 0)).collect();
        for alert in bench.alerts() {
            let is_whole = alert.to_string().contains(r#""lost":0"#);
            assert!(is_whole || lost > 0, "{alert:#}");
            *told.entry(act_of(&alert)).or_default() += 1;
        }
        println!(
            "{tier}: {upgrades} upgrades, {} acts, {} gates, {lost} records lost that were told",
            expected.len(),
            attached.len()
        );
        told.retain(|_, times| *times != 1);
        let (missing, several): (Vec<_>, Vec<_>) = told.iter().partition(|(_, times)| **times == 0);
        assert!(several.is_empty(), "{tier}: not once: {several:?}");
        // One that is lost was an act alone and one of two in a row.
        assert!(missing.len() <= 2 * lost, "{tier}: missing: {missing:?}");
        bench.shell.end();
    }
}

/// Records that a daemon and those before it told as lost: newer kernels skip runs of programs on trampolines, whoever loaded them.
fn lost_by(said: &str) -> usize {
    let totals = said.split(" total=").skip(1);
    let numbers = totals.filter_map(|rest| rest.split_whitespace().next()?.parse().ok());
    numbers.max().unwrap_or(0)
}

/// What is to be told: each rule with each of its acts.
fn expected(bench: &Bench) -> Vec<(String, String)> {
    let mut expected = Vec::new();
    for name in NAMES {
        let count = fs::read_to_string(bench.scope.folder().join(format!("count.{name}")));
        let count: usize = count.unwrap().trim().parse().unwrap();
        for number in 0..count {
            let rules = ALONE.iter().map(|(rule, _)| *rule).chain([IN_A_ROW]);
            let act = |rule: &str| (rule.to_owned(), format!("{name}{number}"));
            expected.extend(rules.map(act));
        }
    }
    expected
}

/// The rule of an alert and the word of its act.
fn act_of(alert: &Value) -> (String, String) {
    let rule = text(alert, "rule.name");
    let first = &at(alert, "events")[0];
    let word = if rule.starts_with("File") {
        text(first, "file.name").trim_start_matches("made-")
    } else {
        at(first, "process.args")[1].as_str().unwrap()
    };
    (rule.to_owned(), word.to_owned())
}

#[test]
fn an_upgrade_to_another_layout_is_a_told_gap() {
    for tier in tiers() {
        let mut bench = bench("layout");
        let builds = tempfile::tempdir().unwrap();
        let other = build(builds.path(), "other", another_layout);
        let manager = Manager::new();
        let start = |bench: &Bench, binary: &Path| {
            Daemon::launch_under(&manager, &bench.scope, &tier, &command(bench, binary))
        };
        let mut daemon = start(&bench, Path::new(BINARY));
        daemon.wait_until_told("READY=1");
        let attached = manager.attached();
        bench.shell.run("./first word");
        bench.wait_for_alerts(1, &daemon);
        daemon.end_by(Signal::TERM);
        let mut daemon = start(&bench, &other);
        daemon.wait_until_told("READY=1");
        let said = daemon.said();
        assert!(
            said.contains(
                "given up and loaded anew: they are of another layout of records and maps"
            ),
            "{tier}: {said}"
        );
        let gap = said.lines().find(|line| line.contains("sensor.gap"));
        let gap = gap.unwrap_or_else(|| panic!("{tier}: no gap: {said}"));
        for part in ["nothing was recorded for", " start=", " end="] {
            assert!(gap.contains(part), "{tier}: {gap}");
        }
        let anew = manager.attached();
        let is_new = |gate| !attached.contains(gate);
        assert!(anew.iter().all(is_new), "{tier}: {attached:?}, {anew:?}");
        // What was under way goes on, and is told with the gap.
        bench.shell.run("./second word");
        let alerts = bench.wait_for_alerts(2, &daemon);
        assert_eq!(text(&alerts[1], "rule.name"), IN_A_ROW, "{tier}");
        let told = alerts[1].to_string();
        assert!(told.contains(r#""lost":1"#), "{tier}: {told}");
        daemon.end_by(Signal::TERM);
        bench.shell.end();
    }
}
