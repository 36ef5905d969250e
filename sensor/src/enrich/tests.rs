//! Enrichment as a whole: records in, events out.
//!
//! In: histories made by hand and at random. Out: what the events must say. It never reads this host's own `/proc`.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use sensor_ebpf::{ExecBody, Kind as RecordKind, record_flag};

use super::process_table::TableLimits;
use super::procfs::{Procfs, TICK_NS};
use super::testing::{Key, Run, exec_body, header};
use super::users::Users;
use super::*;
use crate::decode::Body;
use crate::event::schema::field;
use crate::event::{Event, Fields, Kind, Value};

const SECOND: u64 = 1_000_000_000;
const SHELL: Key = (100, 5 * SECOND);

pub(super) fn enricher(limits: TableLimits) -> Enricher {
    let host = Host {
        id: "h".into(),
        boot_id: "b".into(),
        ..Host::default()
    };
    let users = Users::from_files("/nonexistent/passwd", "/nonexistent/group");
    Enricher::new(Arc::new(host), limits, users, None)
}

/// A table that knows one shell.
fn with_shell() -> Enricher {
    let mut enricher = enricher(TableLimits::default());
    let body = ExecBody {
        pgid: SHELL.0,
        sid: SHELL.0,
        ..exec_body()
    };
    enricher.feed_exec(SHELL.1, SHELL, &body, &Run::of("/usr/bin/bash", &["bash"]));
    enricher
}

pub(super) fn shown(event: &Event, path: &str) -> Vec<String> {
    let row = field(path).unwrap_or_else(|| panic!("no field {path}"));
    assert!(row.kinds.contains(event.kind), "{path} on {:?}", event.kind);
    let shown = |value: Value<'_>| match value {
        Value::Str(text) => text.to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Ip(ip) => ip.to_string(),
        other => format!("{other:?}"),
    };
    (row.get)(event).iter().map(shown).collect()
}

pub(super) fn check(event: &Event, expected: &[(&str, &[&str])]) {
    for (path, values) in expected {
        assert_eq!(shown(event, path), *values, "{path}");
    }
}

#[test]
fn a_life_in_events() {
    let mut table = with_shell();
    let child: Key = (200, 6 * SECOND);
    let fork = table.feed_fork(child.1, child, SHELL);
    check(
        &fork,
        &[
            ("event.action", &["fork"]),
            ("event.type", &["start"]),
            ("process.pid", &["200"]),
            ("process.name", &["bash"]),
            ("process.parent.name", &["bash"]),
            ("process.parent.pid", &["100"]),
            ("process.group_leader.pid", &["100"]),
            ("process.session_leader.name", &["bash"]),
        ],
    );
    let body = ExecBody {
        parent_tgid: 1,
        parent_start_ns: 1,
        pgid: 200,
        sid: 100,
        tty: (136 << 20) | 3,
        cap_effective: 1,
        ..exec_body()
    };
    let run = Run {
        filename: "/usr/bin/gcc",
        executable: "/usr/bin/x86_64-linux-gnu-gcc-12",
        interpreter: "",
        cwd: "/tmp/w",
        args: &["gcc", "a b.c", ""],
        environment: "LD_PRELOAD=/x\0SECRET=1\0",
    };
    table.set_environment(environment::Wanted::new(&["LD_*".to_owned()]));
    let exec = table.feed_exec(7 * SECOND, child, &body, &run);
    check(
        &exec,
        &[
            ("event.action", &["exec"]),
            ("event.category", &["process"]),
            ("host.os.type", &["linux"]),
            ("process.name", &["gcc", "x86_64-linux-gnu-gcc-12"]),
            ("process.Ext.names", &["gcc", "x86_64-linux-gnu-gcc-12"]),
            ("process.executable", &["/usr/bin/x86_64-linux-gnu-gcc-12"]),
            ("process.args", &["gcc", "a b.c", ""]),
            ("process.args_count", &["3"]),
            ("process.env_vars", &["LD_PRELOAD=/x"]),
            ("process.command_line", &["gcc a b.c "]),
            ("process.working_directory", &["/tmp/w"]),
            ("process.parent.pid", &["100"]),
            ("process.parent.args", &["bash"]),
            ("process.parent.working_directory", &["/srv"]),
            ("process.previous.executable", &["/usr/bin/bash"]),
            ("process.interactive", &["Bool(true)"]),
            ("process.tty.char_device.major", &["136"]),
            ("process.thread.capabilities.effective", &["CAP_CHOWN"]),
            ("process.thread.capabilities.permitted", &[]),
            (
                "process.group_leader.name",
                &["gcc", "x86_64-linux-gnu-gcc-12"],
            ),
            ("user.id", &["1000"]),
            ("process.parent.user.id", &["1000"]),
            ("user.name", &[]),
        ],
    );
    assert_eq!(
        shown(&exec, "process.entity_id"),
        shown(&fork, "process.entity_id")
    );
    assert_eq!(
        shown(&exec, "process.parent.entity_id"),
        shown(&exec, "process.session_leader.entity_id")
    );

    let created = table.feed_creation(8 * SECOND, child, b"/tmp/w/rev.o");
    check(
        &created,
        &[
            ("event.action", &["creation"]),
            ("file.path", &["/tmp/w/rev.o"]),
            ("file.name", &["rev.o"]),
            ("file.extension", &["o"]),
            ("process.name", &["gcc", "x86_64-linux-gnu-gcc-12"]),
            (
                "process.parent.entity_id",
                &[&*shown(&exec, "process.parent.entity_id")[0]],
            ),
        ],
    );
    let mut remote = [0; 16];
    remote[..4].copy_from_slice(&[203, 0, 113, 5]);
    let connect = table.feed_connect(9 * SECOND, child, 2, remote, 4444);
    check(
        &connect,
        &[
            ("event.action", &["connection_attempted"]),
            ("destination.ip", &["203.0.113.5"]),
            ("destination.address", &["203.0.113.5"]),
            ("destination.port", &["4444"]),
            ("source.ip", &[]),
            ("source.port", &[]),
            ("network.type", &["ipv4"]),
            ("network.transport", &["tcp"]),
            ("network.direction", &["egress"]),
        ],
    );
    let end = table.feed_exit(10 * SECOND, child, 3 << 8);
    check(
        &end,
        &[
            ("process.exit_code", &["3"]),
            ("process.Ext.exit_signal", &[]),
            ("process.name", &["gcc", "x86_64-linux-gnu-gcc-12"]),
        ],
    );
    let killed = table.feed_exit(10 * SECOND, SHELL, 0x80 | 11);
    check(
        &killed,
        &[
            ("process.exit_code", &["0"]),
            ("process.Ext.exit_signal", &["11"]),
        ],
    );
    assert_eq!(table.counters().unknown_process, 0);
}

#[test]
fn the_parent_is_the_one_at_fork_time() {
    let mut table = with_shell();
    let child: Key = (200, 6 * SECOND);
    table.feed_fork(child.1, child, SHELL);
    table.feed_exec(
        7 * SECOND,
        SHELL,
        &exec_body(),
        &Run::of("/usr/bin/sleep", &["sleep", "9"]),
    );
    table.feed_exit(8 * SECOND, SHELL, 0);
    let exec = table.feed_exec(
        30 * SECOND,
        child,
        &ExecBody {
            parent_tgid: 1,
            ..exec_body()
        },
        &Run::of("/usr/bin/id", &["id"]),
    );
    check(
        &exec,
        &[
            ("process.parent.name", &["bash"]),
            ("process.parent.pid", &["100"]),
        ],
    );
}

#[test]
fn ids_at_the_hook_reach_the_children() {
    let mut table = with_shell();
    let mut became_root = header(RecordKind::FileCreate, 6 * SECOND, SHELL);
    became_root.uid = 0;
    let body = sensor_ebpf::FileBody {
        inode: 1,
        dev: 1,
        mode: 0,
        uid: 0,
        gid: 0,
        open_flags: 0,
        reserved: 0,
    };
    let event = table.feed(
        &became_root,
        Body::FileCreate(decode::File {
            body: &body,
            path: b"/x",
        }),
    );
    check(
        &event,
        &[("user.id", &["0"]), ("process.real_user.id", &["1000"])],
    );
    let fork = table.feed_fork(7 * SECOND, (201, 7 * SECOND), SHELL);
    check(
        &fork,
        &[("process.parent.user.id", &["0"]), ("user.id", &["1000"])],
    );
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = with_shell();
    let first: Key = (300, 6 * SECOND);
    table.feed_fork(first.1, first, SHELL);
    let one = table.feed_exec(
        6 * SECOND,
        first,
        &exec_body(),
        &Run::of("/bin/one", &["one"]),
    );
    // Its exit was lost; the pid comes round.
    let second: Key = (300, 7 * SECOND);
    table.feed_fork(second.1, second, SHELL);
    let two = table.feed_exec(
        7 * SECOND,
        second,
        &exec_body(),
        &Run::of("/bin/two", &["two"]),
    );
    assert_ne!(
        shown(&one, "process.entity_id"),
        shown(&two, "process.entity_id")
    );
    let late = table.feed_creation(8 * SECOND, first, b"/tmp/late");
    check(&late, &[("process.name", &["one"])]);
    check(
        &table.feed_creation(8 * SECOND, second, b"/tmp/now"),
        &[("process.name", &["two"])],
    );
    // Within one tick only the exact time tells them apart.
    let third: Key = (300, 7 * SECOND + 1);
    let stranger = table.feed_creation(9 * SECOND, third, b"/tmp/x");
    check(
        &stranger,
        &[("process.name", &[]), ("process.pid", &["300"])],
    );
    assert_eq!(table.counters().unknown_process, 1);
}

#[test]
fn an_ended_process_is_known_for_its_grace_period() {
    let mut table = with_shell();
    let grace = TableLimits::default().grace_ns;
    table.feed_exit(10 * SECOND, SHELL, 0);
    let late = table.feed_creation(10 * SECOND + grace - 1, SHELL, b"/tmp/a");
    check(&late, &[("process.name", &["bash"])]);
    assert_eq!(table.counters().processes, 1);
    let too_late = table.feed_creation(10 * SECOND + grace, SHELL, b"/tmp/b");
    check(
        &too_late,
        &[("process.name", &[]), ("file.path", &["/tmp/b"])],
    );
    assert_eq!(table.counters().unknown_process, 1);
}

#[test]
fn an_exit_before_the_fork_still_ends_it() {
    let mut table = with_shell();
    let child: Key = (200, 6 * SECOND);
    table.feed_exit(7 * SECOND, child, 0);
    table.feed_fork(child.1, child, SHELL);
    assert_eq!(table.counters().processes, 2);
    table.feed_creation(7 * SECOND + TableLimits::default().grace_ns, SHELL, b"/x");
    assert_eq!(table.counters().processes, 1);
}

#[test]
fn a_record_of_a_stranger_says_what_it_carries() {
    let mut table = enricher(TableLimits::default());
    let event = table.feed_connect(SECOND, (9, SECOND), 10, 1_u128.to_be_bytes(), 443);
    check(
        &event,
        &[
            ("process.pid", &["9"]),
            ("process.name", &[]),
            ("process.parent.pid", &[]),
            ("destination.ip", &["::1"]),
            ("user.id", &["1000"]),
        ],
    );
    assert_eq!(shown(&event, "process.entity_id").len(), 1);
    let body = ExecBody {
        parent_tgid: 3,
        parent_start_ns: SECOND,
        ..exec_body()
    };
    let exec = table.feed_exec(SECOND, (9, SECOND), &body, &Run::of("/bin/x", &["x"]));
    check(
        &exec,
        &[
            ("process.parent.pid", &["3"]),
            ("process.parent.name", &[]),
            ("process.name", &["x"]),
        ],
    );
}

#[test]
fn a_header_alone_is_still_an_event() {
    let mut table = with_shell();
    for (kind, action) in [
        (RecordKind::Exit, "end"),
        (RecordKind::FileCreate, "creation"),
        (RecordKind::Connect, "connection_attempted"),
    ] {
        let mut header = header(kind, 6 * SECOND, SHELL);
        header.flags = record_flag::DEGRADED;
        let event = table.feed(&header, Body::Degraded);
        check(
            &event,
            &[("event.action", &[action]), ("process.name", &["bash"])],
        );
    }
    let mut header = header(RecordKind::Exec, 6 * SECOND, SHELL);
    header.flags = record_flag::DEGRADED;
    let event = table.feed(&header, Body::Degraded);
    check(
        &event,
        &[
            ("event.action", &["exec"]),
            ("process.name", &[]),
            ("process.args_count", &[]),
            ("process.previous.executable", &["/usr/bin/bash"]),
        ],
    );
    assert_eq!(table.counters().degraded, 4);
}

#[test]
fn the_table_keeps_its_bound() {
    let limits = TableLimits {
        processes_max: 64,
        ..TableLimits::default()
    };
    let mut table = enricher(limits);
    table.feed_exec(1, (1, 1), &exec_body(), &Run::of("/sbin/init", &["init"]));
    for n in 0..1000_u32 {
        let at = SECOND + u64::from(n) * TICK_NS;
        let key = (1000 + n, at);
        table.feed_fork(at, key, (1, 1));
        if n % 2 == 0 {
            table.feed_exit(at, key, 0);
        }
        assert!(table.counters().processes <= 64);
    }
    // Every fork asked for init, so it was never the oldest.
    check(
        &table.feed_creation(20 * SECOND, (1, 1), b"/x"),
        &[("process.name", &["init"])],
    );
    assert_eq!(
        table.counters().evicted,
        1001 - 64 + (64 - table.counters().processes)
    );
}

#[test]
fn an_end_told_twice_does_not_loosen_the_bound() {
    let limits = TableLimits {
        processes_max: 3,
        ..TableLimits::default()
    };
    let mut table = enricher(limits);
    // Two processes of one pid within one tick share a key; both end.
    table.feed_exit(1, (1, 1), 0);
    table.feed_exit(2, (1, 2), 0);
    for pid in 2..10 {
        table.feed_creation(3, (pid, 1), b"/x");
        assert!(table.counters().processes <= 3, "at pid {pid}");
    }
}

#[test]
fn a_chain_of_forks_keeps_no_chain_of_processes() {
    let mut table = enricher(TableLimits::default());
    let mut parent: Key = (1, SECOND);
    table.feed_exec(
        SECOND,
        parent,
        &exec_body(),
        &Run::of("/bin/daemon", &["daemon"]),
    );
    for n in 2..500_u32 {
        let child = (n, u64::from(n) * SECOND);
        table.feed_fork(child.1, child, parent);
        table.feed_exit(child.1, parent, 0);
        parent = child;
    }
    let last = table.feed_creation(600 * SECOND, parent, b"/x");
    assert_eq!(last.process.lineage.ancestors().len(), 32);
    assert_eq!(last.process.lineage.ancestors()[31].pid, 499 - 32);
}

#[test]
fn texts_over_their_bound_are_cut_in_the_table_alone() {
    let limits = TableLimits {
        image_bytes_max: 64 * 1024,
        ..TableLimits::default()
    };
    let mut table = enricher(limits);
    let long = "a".repeat(16 * 1024);
    let mut last = None;
    for n in 1..200_u32 {
        let key = (n, u64::from(n) * TICK_NS);
        let exec = table.feed_exec(key.1, key, &exec_body(), &Run::of("/bin/x", &["x", &long]));
        assert_eq!(shown(&exec, "process.args")[1].len(), long.len());
        last = Some(key);
    }
    assert!(
        table.images.bytes() < 4 * 64 * 1024,
        "{}",
        table.images.bytes()
    );
    assert!(table.counters().images_cut > 100);
    let later = table.feed_exit(10 * SECOND, last.unwrap(), 0);
    check(
        &later,
        &[("process.name", &["x"]), ("process.args_count", &["2"])],
    );
    drop(table);
}

#[test]
fn the_gauge_falls_when_images_die() {
    let mut table = with_shell();
    let gauge = table.images.clone();
    let event = table.feed_exec(6 * SECOND, SHELL, &exec_body(), &Run::of("/bin/x", &["x"]));
    assert!(gauge.bytes() > 0);
    drop(table);
    drop(event);
    assert_eq!(gauge.bytes(), 0);
}

/// A copy of `/proc` with one process in it.
pub(super) fn proc_with(pid: u32, start_ticks: u64, arguments: &[u8]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(pid.to_string());
    fs::create_dir(&folder).unwrap();
    let stat =
        format!("{pid} (tool) S 0 {pid} {pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start_ticks} 0 0\n");
    fs::write(folder.join("stat"), stat).unwrap();
    fs::write(
        folder.join("status"),
        "Uid:\t7\t8\t9\t8\nGid:\t1\t2\t3\t2\n",
    )
    .unwrap();
    fs::write(folder.join("cmdline"), arguments).unwrap();
    std::os::unix::fs::symlink("/opt/tool", folder.join("exe")).unwrap();
    std::os::unix::fs::symlink("/opt", folder.join("cwd")).unwrap();
    root
}

#[test]
fn the_scan_and_records_meet_under_one_identity() {
    let root = proc_with(50, 200, b"tool\0-x\0");
    let mut table = enricher(TableLimits::default());
    table.procfs = Some(Procfs::at(root.path()));
    let running = table.seed(9 * SECOND, true);
    assert_eq!(running.len(), 1);
    check(
        &running[0],
        &[
            ("event.action", &["already_running"]),
            ("event.type", &["info"]),
            ("process.executable", &["/opt/tool"]),
            ("process.args", &["tool", "-x"]),
            ("process.real_user.id", &["7"]),
            ("user.id", &["8"]),
        ],
    );
    let exact = 200 * TICK_NS + 1234;
    let created = table.feed_creation(10 * SECOND, (50, exact), b"/tmp/a");
    check(&created, &[("process.name", &["tool"])]);
    assert_eq!(created.process.facts.start_ns, exact);
    assert_eq!(
        shown(&created, "process.entity_id"),
        shown(&running[0], "process.entity_id")
    );
    // Now that the moment is known, another start in the same tick is another process.
    let other = table.feed_creation(10 * SECOND, (50, exact + 1), b"/tmp/a");
    assert_eq!(other.process.facts.start_ns, exact + 1);

    // A record's word stands against a scan.
    table.feed_exec(
        11 * SECOND,
        (50, exact + 1),
        &exec_body(),
        &Run::of("/bin/newer", &["newer"]),
    );
    assert!(table.seed(12 * SECOND, false).is_empty());
    check(
        &table.feed_creation(13 * SECOND, (50, exact + 1), b"/b"),
        &[("process.name", &["newer"])],
    );
}

#[test]
fn proc_is_believed_only_when_the_start_time_agrees() {
    let root = proc_with(50, 200, b"tool\0");
    let mut table = enricher(TableLimits::default());
    table.procfs = Some(Procfs::at(root.path()));
    check(
        &table.feed_creation(SECOND, (50, 201 * TICK_NS), b"/x"),
        &[("process.name", &[])],
    );
    check(
        &table.feed_creation(SECOND, (50, 200 * TICK_NS + 5), b"/x"),
        &[("process.name", &["tool"])],
    );
    let counters = table.counters();
    assert_eq!((counters.unknown_process, counters.found_in_proc), (1, 1));
}

#[test]
fn cut_arguments_are_completed() {
    let whole = b"tool\0first\0second\0";
    let root = proc_with(50, 200, whole);
    let mut table = enricher(TableLimits::default());
    table.procfs = Some(Procfs::at(root.path()));
    let mut run = |captured: &[u8], start_ns: u64, args_len: usize| {
        let body = ExecBody {
            args_len: u32::try_from(args_len).unwrap(),
            args_count: 3,
            ..exec_body()
        };
        let exec = decode::Exec {
            body: &body,
            filename: b"/opt/tool",
            executable: b"/opt/tool",
            interpreter: b"",
            working_directory: b"/",
            comm: b"tool",
            arguments: captured,
            environment: b"",
        };
        let header = header(RecordKind::Exec, 3 * SECOND, (50, start_ns));
        let event = table.feed(&header, Body::Exec(exec));
        assert_eq!(shown(&event, "process.args_count"), ["3"]);
        (
            shown(&event, "process.args"),
            table.counters().args_completed,
            table.counters().args_incomplete,
        )
    };
    let start = 200 * TICK_NS;
    let all = vec!["tool".to_owned(), "first".into(), "second".into()];
    assert_eq!(run(b"", start, whole.len()), (all.clone(), 1, 0));
    assert_eq!(run(b"tool\0fi", start, whole.len()), (all.clone(), 2, 0));
    assert_eq!(
        run(b"other\0", start, whole.len()),
        (vec!["other".into()], 2, 1),
        "another exec since"
    );
    assert_eq!(
        run(b"tool\0fi", 7, whole.len()),
        (vec!["tool".into(), "fi".into()], 2, 2),
        "another process"
    );
    assert_eq!(run(whole, start, whole.len()), (all, 2, 2), "came whole");
}

/// What a random history does to one of a few pids.
#[derive(Clone, Debug)]
enum Act {
    Fork { child: usize, parent: usize },
    Exec { who: usize, program: u8 },
    Exit { who: usize },
    Create { who: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let who = 0..6_usize;
    let act = prop_oneof![
        (who.clone(), who.clone()).prop_map(|(child, parent)| Act::Fork { child, parent }),
        (who.clone(), any::<u8>()).prop_map(|(who, program)| Act::Exec { who, program }),
        who.clone().prop_map(|who| Act::Exit { who }),
        who.prop_map(|who| Act::Create { who }),
    ];
    proptest::collection::vec(act, 1..120)
}

proptest! {
    /// Six pids forked, run, ended and reused at random: every event names the program its process runs, and its parent's
    /// program at the fork.
    #[test]
    fn the_table_agrees_with_a_plain_model(acts in acts()) {
        let mut table = enricher(TableLimits::default());
        // pid to (start, program, parent's program).
        let mut live: HashMap<u32, (u64, String, Vec<String>)> = HashMap::new();
        let mut now = SECOND;
        for act in acts {
            now += 1_000_000;
            let pid = |index: usize| u32::try_from(index).unwrap() + 10;
            match act {
                Act::Fork { child, parent } => {
                    let Some((parent_start, program, _)) = live.get(&pid(parent)).cloned() else { continue };
                    if child == parent {
                        continue;
                    }
                    let key = (pid(child), now);
                    let event = table.feed_fork(now, key, (pid(parent), parent_start));
                    prop_assert_eq!(shown(&event, "process.name"), [program.clone()]);
                    live.insert(pid(child), (now, program.clone(), vec![program]));
                }
                Act::Exec { who, program } => {
                    let program = format!("p{program}");
                    let path = format!("/bin/{program}");
                    let entry = live.entry(pid(who)).or_insert_with(|| (now, String::new(), Vec::new()));
                    entry.1.clone_from(&program);
                    let event = table.feed_exec(now, (pid(who), entry.0), &exec_body(), &Run::of(&path, &[&program]));
                    prop_assert_eq!(shown(&event, "process.name"), [program]);
                    prop_assert_eq!(&shown(&event, "process.parent.name"), &entry.2);
                }
                Act::Exit { who } => {
                    if let Some((start, program, parent)) = live.remove(&pid(who)) {
                        let event = table.feed_exit(now, (pid(who), start), 0);
                        prop_assert_eq!(shown(&event, "process.name"), [program]);
                        prop_assert_eq!(shown(&event, "process.parent.name"), parent);
                    }
                }
                Act::Create { who } => {
                    if let Some((start, program, parent)) = live.get(&pid(who)) {
                        let event = table.feed_creation(now, (pid(who), *start), b"/x");
                        prop_assert_eq!(shown(&event, "process.name"), vec![program.clone()]);
                        prop_assert_eq!(&shown(&event, "process.parent.name"), parent);
                        prop_assert_eq!(event.kind, Kind::Creation);
                        prop_assert_eq!(event.time_ns(), i64::try_from(now).unwrap());
                    }
                }
            }
        }
        prop_assert_eq!(table.counters().unknown_process, 0);
        prop_assert_eq!(table.counters().evicted, 0);
    }
}

/// Headers no kernel would send, most of them.
fn any_header() -> impl Strategy<Value = Header> {
    let number = prop_oneof![0..4_u64, any::<u64>()];
    let id = prop_oneof![0..4_u32, any::<u32>()];
    (
        any::<u16>(),
        number.clone(),
        number,
        id.clone(),
        any::<u32>(),
        id,
    )
        .prop_map(|(kind, boot_ns, start_ns, tgid, flags, uid)| Header {
            kind: kind % 8,
            flags,
            uid,
            ..header(RecordKind::Fork, boot_ns, (tgid, start_ns))
        })
}

proptest! {
    #[test]
    fn no_record_is_too_odd(
        headers in proptest::collection::vec(any_header(), 1..40),
        ids in any::<(u32, u64, u32, u32, u64)>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut table = enricher(TableLimits { processes_max: 3, grace_ns: 2, image_bytes_max: 100 });
        let mut made = 0;
        for header in &headers {
            let fork = ForkBody { parent_start_ns: ids.1 % 4, parent_tgid: ids.0 % 4, ns_tgid: ids.2, pgid: ids.2 % 4, sid: ids.3 % 4 };
            let exec = ExecBody {
                parent_tgid: ids.0 % 4, parent_start_ns: ids.1 % 4, args_len: ids.2, args_count: ids.3, environment_len: ids.2, cap_effective: ids.4,
                tty: ids.2, pgid: ids.3 % 4, ..exec_body()
            };
            let events = match header.kind {
                1 => vec![table.feed(header, Body::Fork(&fork))],
                // Ids that differ from what is known are an event of their own before the exec's.
                2 => table.feed_all(header, Body::Exec(decode::Exec {
                    body: &exec, filename: &bytes, executable: &bytes, interpreter: &bytes, working_directory: &bytes,
                    comm: &bytes, arguments: &bytes, environment: &bytes,
                })),
                3 => vec![table.feed(header, Body::Exit(&sensor_ebpf::ExitBody { status: ids.2, reserved: 0 }))],
                4 => vec![table.feed_creation(header.boot_ns, (header.tgid, header.start_ns), &bytes)],
                5 => vec![table.feed_connect(header.boot_ns, (header.tgid, header.start_ns), u16::try_from(ids.0 % 16).unwrap(), [7; 16], u16::try_from(ids.2 % 65_536).unwrap())],
                _ => table.feed_all(header, Body::Degraded),
            };
            for event in &events {
                for row in crate::event::FIELDS {
                    let _ = (row.get)(event).iter().count();
                }
                prop_assert!(event.process.lineage.ancestors().len() <= 32);
            }
            made += events.len();
            prop_assert!(table.counters().processes <= 3);
        }
        prop_assert_eq!(table.counters().events, u64::try_from(made).unwrap());
    }
}
