//! A real build under `strace` and under the sensor at once: both must tell the same story.
//!
//! In: the source of a C project (`EQL_SENSOR_LIVE_PROJECT`, an archive that `cargo xtask live` fetches), `make -j2`. Out: who
//! executed what, who created, renamed and deleted which file, by each witness; equal but for what is listed here with its
//! reason. Must never leave a difference out without saying why it is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::{is_guest, tiers};

/// Under emulation a compiler takes its time: three objects there, everything elsewhere.
const FEW: &[&str] = &["lctype.o", "lzio.o", "lopcodes.o"];
const EVERYTHING: &[&str] = &["generic"];

/// System calls that strace shows.
const CALLS: &str = "trace=execve,execveat,open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,chdir,fchdir";

/// What one process did, as both witnesses can tell.
type Act = (u64, String);

#[derive(Debug, Default)]
struct Story {
    execs: Vec<Act>,
    creations: Vec<Act>,
    renames: Vec<Act>,
    deletions: Vec<Act>,
}

#[test]
fn a_build_is_what_strace_shows() {
    let archive = std::env::var_os("EQL_SENSOR_LIVE_PROJECT")
        .expect("EQL_SENSOR_LIVE_PROJECT names no source; cargo xtask live sets it");
    let targets = if is_guest() { FEW } else { EVERYTHING };
    for tier in tiers() {
        let scope = Scope::new("build");
        let source = unpack(&scope, Path::new(&archive));
        // The project's own rules rename nothing; what is built is put aside, as an installation does.
        let rules = format!(
            "include Makefile\nstaged: {}\n\tfor o in *.o; do mv $$o built-$$o; done\n",
            targets.join(" ")
        );
        fs::write(source.join("GNUmakefile"), rules).unwrap();
        let temporary = scope.folder().join("tmp");
        fs::create_dir(&temporary).unwrap();
        let trace = scope.folder().join("trace");
        let before = files_below(&scope.folder());

        let events = "process,creation,rename,deletion";
        let daemon = Daemon::record_only(&scope, &tier, events, &["--ring-bytes", "33554432"]);
        let mut arguments = vec!["strace", "-f", "-y", "-s", "65536", "-e", CALLS];
        arguments.extend(["-e", "signal=none", "-o", trace.to_str().unwrap()]);
        arguments.extend(["make", "-j2", "MYCFLAGS=-O0", "staged"]);
        let output = scope
            .command(&arguments)
            .current_dir(&source)
            .env("TMPDIR", &temporary)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let ended = daemon.stop();
        let counts = Counts::of(&ended.log);
        assert_eq!((counts.received, counts.lost), (counts.seen, 0), "{tier}");

        let shown = Tracer::new(&source, before).read(&fs::read_to_string(&trace).unwrap());
        let mut recorded = Story::default();
        for event in &ended.lines {
            // strace itself is not traced: its own start, and the file it writes.
            if text(event, "process.name") == "strace" {
                continue;
            }
            let pid = number(event, "process.pid").unwrap();
            if is(event, "process", "exec") {
                let arguments = at(event, "process.args").as_array().unwrap();
                let arguments: Vec<_> = arguments.iter().map(|one| one.as_str().unwrap()).collect();
                recorded.execs.push((pid, arguments.join(SEPARATOR)));
                continue;
            }
            let path = text(event, "file.path").to_owned();
            if is(event, "file", "creation") {
                recorded.creations.push((pid, path));
            } else if is(event, "file", "deletion") {
                recorded.deletions.push((pid, path));
            } else if is(event, "file", "rename") {
                let from = text(event, "file.Ext.original.path");
                recorded.renames.push((pid, [from, &path].join(SEPARATOR)));
            }
        }
        println!(
            "{tier}: {} execs, {} creations, {} renames, {} deletions",
            recorded.execs.len(),
            recorded.creations.len(),
            recorded.renames.len(),
            recorded.deletions.len()
        );
        assert!(
            recorded.execs.len() > targets.len() * 3,
            "{tier}: too few to mean anything"
        );
        assert!(
            !recorded.renames.is_empty() && !recorded.deletions.is_empty(),
            "{tier}: {recorded:?}"
        );
        assert_same(&tier, "execs", recorded.execs, shown.execs);
        assert_same(&tier, "creations", recorded.creations, shown.creations);
        assert_same(&tier, "renames", recorded.renames, shown.renames);
        assert_same(&tier, "deletions", recorded.deletions, shown.deletions);
    }
}

/// Between arguments, where neither witness has it by nature.
const SEPARATOR: &str = " ␣ ";

fn assert_same(tier: &str, what: &str, mut recorded: Vec<Act>, mut shown: Vec<Act>) {
    recorded.sort();
    shown.sort();
    let recorded_only = without(&recorded, &shown);
    let shown_only = without(&shown, &recorded);
    assert!(
        recorded_only.is_empty() && shown_only.is_empty(),
        "{tier}: {what} by the sensor alone: {recorded_only:#?}\nby strace alone: {shown_only:#?}"
    );
}

/// What is in the first and not in the second, each as often as it is there.
fn without<'a>(all: &'a [Act], others: &[Act]) -> Vec<&'a Act> {
    let mut counts = BTreeMap::new();
    for act in others {
        *counts.entry(act).or_insert(0_usize) += 1;
    }
    let mut left = Vec::new();
    for act in all {
        match counts.get_mut(act) {
            Some(count) if *count > 0 => *count -= 1,
            _ => left.push(act),
        }
    }
    left
}

/// Unpacks the project and returns the folder that holds its sources.
pub(crate) fn unpack(scope: &Scope, archive: &Path) -> PathBuf {
    let folder = scope.folder().join("project");
    fs::create_dir(&folder).unwrap();
    let unpacked = Command::new("tar")
        .args(["--strip-components=1", "-C"])
        .arg(&folder)
        .arg("-xf")
        .arg(archive)
        .status()
        .unwrap();
    assert!(unpacked.success());
    folder.join("src")
}

fn files_below(folder: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    all
}

/// Reads what strace wrote. A call that was interrupted by another process's comes in two lines.
struct Tracer {
    /// Where every traced process works.
    folder: PathBuf,
    /// Files there are: strace shows that an open may create a file, not whether it did.
    files: BTreeSet<String>,
    unfinished: BTreeMap<u64, String>,
    story: Story,
}

impl Tracer {
    fn new(folder: &Path, files: BTreeSet<String>) -> Self {
        Self {
            folder: folder.to_owned(),
            files,
            unfinished: BTreeMap::new(),
            story: Story::default(),
        }
    }

    fn read(mut self, trace: &str) -> Story {
        for line in trace.lines() {
            let (pid, rest) = line.split_once(' ').unwrap();
            let pid: u64 = pid.parse().unwrap();
            let rest = rest.trim_start();
            if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
                self.unfinished.insert(pid, begun.trim_end().to_owned());
            } else if rest.starts_with("<... ") {
                let (_, end) = rest.split_once(" resumed>").unwrap();
                let begun = self
                    .unfinished
                    .remove(&pid)
                    .unwrap_or_else(|| panic!("{line}"));
                self.call(pid, &format!("{begun}{end}"));
            } else if !rest.starts_with("+++") && !rest.starts_with("---") {
                self.call(pid, rest);
            }
        }
        self.story
    }

    /// One whole call: `name(arguments) = result`.
    fn call(&mut self, pid: u64, call: &str) {
        let (call, result) = call.rsplit_once(" = ").unwrap_or_else(|| panic!("{call}"));
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let (name, arguments) = call.split_once('(').unwrap();
        let strings = strings(arguments);
        match name {
            "execve" => {
                // The first string is the file, the rest of them its arguments: the environment is only counted.
                self.story.execs.push((pid, strings[1..].join(SEPARATOR)));
            }
            "open" | "openat" | "creat" => {
                let creates = name == "creat" || arguments.contains("O_CREAT");
                let path = self.path(&strings[0]);
                let there = if path.starts_with(self.folder.parent().unwrap())
                    || path.starts_with(std::env::temp_dir())
                {
                    self.files.contains(path.to_str().unwrap())
                } else {
                    path.exists()
                };
                if creates && !there {
                    let path = path.to_str().unwrap().to_owned();
                    self.files.insert(path.clone());
                    self.story.creations.push((pid, path));
                }
            }
            "unlink" | "unlinkat" => {
                let path = self.path(&strings[0]).to_str().unwrap().to_owned();
                self.files.remove(&path);
                self.story.deletions.push((pid, path));
            }
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = [&strings[0], &strings[1]]
                    .map(|name| self.path(name).to_str().unwrap().to_owned());
                let act = [from.as_str(), &to].join(SEPARATOR);
                self.story.renames.push((pid, act));
                self.files.remove(&from);
                self.files.insert(to);
            }
            "chdir" => assert_eq!(self.path(&strings[0]), self.folder, "{call}"),
            other => panic!("{other} moves what relative names mean, or was not expected: {call}"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.join(name);
        // `./x` and `x` are one file.
        path.components().collect()
    }
}

/// The quoted strings of a list of arguments, unquoted.
fn strings(arguments: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut bytes = arguments.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'"' {
            continue;
        }
        let mut text = Vec::new();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' => match bytes.next().unwrap() {
                    b'n' => text.push(b'\n'),
                    b't' => text.push(b'\t'),
                    b'r' => text.push(b'\r'),
                    digit @ b'0'..=b'7' => {
                        let mut value = u32::from(digit - b'0');
                        while let Some(next @ b'0'..=b'7') = bytes.peek().copied() {
                            value = value * 8 + u32::from(next - b'0');
                            bytes.next();
                        }
                        text.push(u8::try_from(value).unwrap());
                    }
                    other => text.push(other),
                },
                other => text.push(other),
            }
        }
        all.push(String::from_utf8_lossy(&text).into_owned());
    }
    all
}
