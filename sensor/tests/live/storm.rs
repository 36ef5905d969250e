//! Many acts at once, every one of them accounted for.
//!
//! In: a small C program on all processors that forks and execs, or creates files, as fast as it can, each time with a name of
//! its own. Out: one record each, with the right parent, arguments and path; or a loss that is counted. Must never compare
//! only sums: which acts are there, and that none is there twice, is checked one by one.

use std::collections::BTreeMap;
use std::fs;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde::Deserialize;

use crate::daemon::Daemon;
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

/// `storm exec WORKERS N`: so many processes, each of which makes N children that exec this program with arguments of their
/// own; `storm create WORKERS N FOLDER`: each creates N files. Prints the pid of each worker, in order.
const ACTOR: &str = r#"#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void execs(const char *self, int worker, int count)
{
    char number[16], name[16];
    snprintf(name, sizeof name, "%d", worker);
    for (int i = 0; i < count; i++) {
        snprintf(number, sizeof number, "%d", i);
        pid_t child = vfork();
        if (child == 0) {
            execl(self, self, "leaf", name, number, (char *)0);
            _exit(127);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            _exit(1);
    }
}

static void creates(const char *folder, int worker, int count)
{
    char path[512];
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/file of worker %d number %d", folder, worker, i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0640);
        if (fd < 0 || close(fd) != 0)
            _exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "leaf") == 0)
        return 0;
    if (argc < 4)
        return 2;
    int workers = atoi(argv[2]), count = atoi(argv[3]), gate[2];
    if (pipe(gate) != 0)
        return 2;
    for (int worker = 0; worker < workers; worker++) {
        pid_t child = fork();
        if (child == 0) {
            char byte;
            close(gate[1]);
            if (read(gate[0], &byte, 1) != 0)
                _exit(1);
            if (strcmp(argv[1], "exec") == 0)
                execs(argv[0], worker, count);
            else
                creates(argv[4], worker, count);
            _exit(0);
        }
        if (child < 0)
            return 2;
        printf("%d\n", (int)child);
    }
    close(gate[1]);
    int status, bad = 0;
    for (int worker = 0; worker < workers; worker++)
        bad |= wait(&status) < 0 || status != 0;
    return bad;
}
"#;

/// Acts in an ordinary run, and in a long one.
const EXECS: usize = 2_000;
const FILES: usize = 4_000;
const LONG: usize = 100_000;

/// Room for all that a long storm makes, should the daemon, built to be tested, be the slower one.
const RING_BYTES: &str = "134217728";

/// Workers per processor: more than can run at once, so that they take each other's place in the middle of things.
const FILE_WORKERS: usize = 16;

fn is_long() -> bool {
    std::env::var_os("EQL_SENSOR_LIVE_LONG").is_some()
}

fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// What the comparisons read of an event.
#[derive(Deserialize)]
struct Line {
    event: Kind,
    process: Process,
    file: Option<File>,
}

#[derive(Deserialize)]
struct Kind {
    action: String,
}

#[derive(Deserialize)]
struct Process {
    #[serde(default)]
    args: Vec<String>,
    args_count: Option<usize>,
    parent: Option<Parent>,
}

#[derive(Deserialize)]
struct Parent {
    pid: u32,
}

#[derive(Deserialize)]
struct File {
    path: Option<String>,
}

/// What a storm did and what came of it.
struct Storm {
    program: String,
    /// Pids, by number.
    workers: Vec<u32>,
    lines: Vec<Line>,
    counts: Counts,
}

/// Runs the actor under a recording daemon; with `stopped`, while the daemon stands still.
fn storm(scope: &Scope, tier: &str, ring_bytes: &str, arguments: &[&str], stopped: bool) -> Storm {
    let source = scope.write("storm.c", ACTOR);
    let program = source.with_extension("");
    let built = Command::new("gcc")
        .args(["-O1", "-static", "-o"])
        .args([&program, &source])
        .status()
        .unwrap();
    assert!(built.success());
    let program = program.to_str().unwrap().to_owned();
    let events = "exec,fork,end,creation";
    let mut daemon = Daemon::record_only(scope, tier, events, &["--ring-bytes", ring_bytes]);
    if stopped {
        daemon.signal(Signal::STOP);
    }
    let mut command = vec![program.as_str()];
    command.extend(arguments);
    let (pid, output) = scope.try_run(&command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    if stopped {
        // Whatever fitted into a small ring is read at the end.
        daemon.signal(Signal::CONT);
    } else {
        daemon.wait_for_end_of(pid);
    }
    let (log, output_lines) = daemon.stop_unread();
    let lines = output_lines
        .lines()
        .map(Result::unwrap)
        // What was lost stands between the events, as a line of its own.
        .filter(|line| !line.contains(r#""dataset":"sensor.gap""#))
        .map(|line| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect();
    Storm {
        workers: String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|pid| pid.parse().unwrap())
            .collect(),
        lines,
        counts: Counts::of(&log),
        program,
    }
}

impl Storm {
    fn of(&self, action: &str) -> impl Iterator<Item = &Line> {
        self.lines
            .iter()
            .filter(move |line| line.event.action == action)
    }

    /// Checks every exec of a leaf and returns how many there are, whole.
    fn check_execs(&self, count: usize) -> usize {
        let mut seen = vec![vec![false; count]; self.workers.len()];
        for line in self.of("exec") {
            let [program, leaf, worker, number] = line.process.args.as_slice() else {
                continue;
            };
            if leaf != "leaf" {
                continue;
            }
            assert_eq!(*program, self.program);
            assert_eq!(line.process.args_count, Some(4));
            let (worker, number): (usize, usize) =
                (worker.parse().unwrap(), number.parse().unwrap());
            let parent = line.process.parent.as_ref().map(|parent| parent.pid);
            assert_eq!(
                parent,
                Some(self.workers[worker]),
                "parent of {worker}/{number}"
            );
            let twice = std::mem::replace(&mut seen[worker][number], true);
            assert!(!twice, "{worker}/{number} is recorded twice");
        }
        seen.iter().flatten().filter(|seen| **seen).count()
    }

    /// What must always hold: what happened was seen, and is either here or counted as lost, but for runs of programs that the
    /// kernel skipped: it counts those for all processes together, and whether they would have told anything is not known.
    fn check_counts(&self, done: usize, tier: &str) {
        let Counts {
            seen,
            submitted,
            received,
            lost,
            skipped,
        } = self.counts;
        let done = done as u64;
        println!("{tier}: {done} acts: {:?}", self.counts);
        assert_eq!(received, submitted, "{tier}: {:?}", self.counts);
        assert_eq!(received + lost, seen, "{tier}: {:?}", self.counts);
        assert!(seen <= done, "{tier}: {:?}", self.counts);
        assert!(seen + skipped >= done, "{tier}: {:?}", self.counts);
    }
}

#[test]
fn a_storm_of_execs_is_recorded_one_by_one() {
    for tier in tiers() {
        let scope = Scope::new("storm");
        let workers = cpus();
        let count = if is_long() { LONG } else { EXECS } / workers;
        let storm = storm(
            &scope,
            &tier,
            RING_BYTES,
            &["exec", &workers.to_string(), &count.to_string()],
            false,
        );
        let whole = storm.check_execs(count);
        assert_eq!(whole, workers * count, "{tier}: execs with their arguments");
        // Each leaf is forked, becomes itself and ends; so do the workers, but for the exec; the actor becomes itself and ends.
        storm.check_counts(3 * workers * count + 2 * workers + 2, &tier);
        assert_eq!(storm.counts.lost, 0, "{tier}: {:?}", storm.counts);
        for (action, expected) in [
            ("fork", workers * count + workers),
            ("end", workers * count + workers + 1),
        ] {
            assert_eq!(storm.of(action).count(), expected, "{tier}: {action}");
        }
    }
}

#[test]
fn what_a_storm_of_execs_loses_is_counted() {
    for tier in tiers() {
        let scope = Scope::new("storm-loss");
        let workers = cpus();
        let count = EXECS / workers;
        let storm = storm(
            &scope,
            &tier,
            "65536",
            &["exec", &workers.to_string(), &count.to_string()],
            true,
        );
        let whole = storm.check_execs(count);
        println!(
            "{tier}: {whole} of {} execs recorded whole",
            workers * count
        );
        storm.check_counts(3 * workers * count + 2 * workers + 2, &tier);
        assert!(storm.counts.lost > 0, "{tier}: {:?}", storm.counts);
        assert_eq!(storm.lines.len() as u64, storm.counts.received, "{tier}");
    }
}

#[test]
fn files_created_by_many_at_once_are_recorded_whole() {
    let kernel = fs::read_to_string("/proc/version").unwrap();
    println!("preemption: {}", preemption(&kernel));
    for tier in tiers() {
        let scope = Scope::new("storm-files");
        let folder = scope.folder().join("files");
        fs::create_dir(&folder).unwrap();
        let workers = cpus() * FILE_WORKERS;
        let count = if is_long() { LONG } else { FILES } / workers;
        let storm = storm(
            &scope,
            &tier,
            RING_BYTES,
            &[
                "create",
                &workers.to_string(),
                &count.to_string(),
                folder.to_str().unwrap(),
            ],
            false,
        );
        let mut expected: BTreeMap<PathBuf, bool> = (0..workers * count)
            .map(|i| {
                let (worker, number) = (i / count, i % count);
                let name = format!("file of worker {worker} number {number}");
                (folder.join(name), false)
            })
            .collect();
        let mut headers_alone = 0;
        for line in storm.of("creation") {
            let Some(path) = line.file.as_ref().and_then(|file| file.path.as_ref()) else {
                headers_alone += 1;
                continue;
            };
            let seen = expected
                .get_mut(path.as_ref() as &std::path::Path)
                .unwrap_or_else(|| panic!("{tier}: nobody created {path}"));
            assert!(!*seen, "{tier}: {path} is recorded twice");
            *seen = true;
        }
        let whole = expected.values().filter(|seen| **seen).count();
        println!("{tier}: {whole} files recorded whole, {headers_alone} without their path");
        // The workers' forks and ends, the actor's exec and end.
        storm.check_counts(workers * count + 2 * workers + 2, &tier);
        let counts = &storm.counts;
        let told = (whole + headers_alone) as u64 + counts.lost;
        let created = (workers * count) as u64;
        assert!(told <= created, "{tier}: {told}, {counts:?}");
        assert!(
            told + counts.skipped >= created,
            "{tier}: {told}, {counts:?}"
        );
        // A program that is interrupted by itself is rare even where the kernel lets it be.
        assert!(whole * 100 >= workers * count * 99, "{tier}: {whole}");
    }
}

/// How this kernel takes the processor from a task, as far as it tells.
fn preemption(version: &str) -> String {
    fs::read_to_string("/sys/kernel/debug/sched/preempt").map_or_else(
        |_| {
            let words = version.split(' ');
            words
                .filter(|word| word.starts_with("PREEMPT"))
                .collect::<Vec<_>>()
                .join(" ")
        },
        |text| text.trim().to_owned(),
    )
}
