//! What is recorded says on replay what it said live.
//!
//! In: random histories of processes, with hostile strings. Out: every field of every event, live and after a trip through
//! JSON lines; they must agree value for value. It knows no field by name: a new row of the schema is tested by being there.

use std::sync::Arc;

use proptest::prelude::*;
use sensor_ebpf::{
    ExecBody, ExitBody, Header, Kind as RecordKind, ModifyBody, ThrottleBody, record_flag,
};

use super::Fault;
use crate::decode::{self, Body, FileAct};
use crate::enrich::Enricher;
use crate::enrich::cgroups::Cgroups;
use crate::enrich::contents;
use crate::enrich::environment::Wanted;
use crate::enrich::process_table::TableLimits;
use crate::enrich::testing::{Key, Run, act_body, end_body, exec_body, header};
use crate::enrich::users::Users;
use crate::event::contents::{Contents, Whole};
use crate::event::{
    Event, FIELDS, FieldId, FieldTable, Fields, Host, Kind, Kinds, OwnedValue, Target, Value,
};
use crate::json_lines::{Options, Reader};
use crate::output::json::write_event;

fn owned(value: Value<'_>) -> OwnedValue {
    match value {
        Value::Str(text) => OwnedValue::Str(text.into()),
        Value::Int(number) => OwnedValue::Int(number),
        Value::Float(number) => OwnedValue::Float(number),
        Value::Bool(flag) => OwnedValue::Bool(flag),
        Value::Ip(ip) => OwnedValue::Ip(ip),
        Value::Date(ns) => OwnedValue::Date(ns),
    }
}

fn all(event: &impl Fields, field: FieldId) -> Vec<OwnedValue> {
    event.values(field).iter().map(owned).collect()
}

fn check(event: &Event, table: &FieldTable, reader: &mut Reader) -> Result<usize, TestCaseError> {
    let mut line = Vec::new();
    write_event(event, &mut line);
    let line = String::from_utf8(line).unwrap();
    let back = reader
        .parse(line.as_bytes(), 1)
        .map_err(|e| TestCaseError::fail(format!("{e}: {line}")))?;
    prop_assert_eq!(back.time_ns(), event.wall_ns);
    let mut carried = 0;
    for row in FIELDS {
        let id = table.resolve(row.path).unwrap();
        let live = all(event, id);
        prop_assert_eq!(&all(&back, id), &live, "{} in {}", row.path, line);
        carried += usize::from(!live.is_empty());
    }
    Ok(carried)
}

/// Strings that break writers and readers: quotes, escapes, controls, NUL, ids that look like numbers or dates.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}",
        "\\PC{0,12}",
        proptest::collection::vec(any::<char>(), 0..6)
            .prop_map(|chars| chars.into_iter().collect()),
        Just("\"\\\u{1b}[31m\n\t\u{7f}\u{9b}".to_owned()),
        Just("1000".to_owned()),
        Just("2026-01-01T00:00:00Z".to_owned()),
        Just("127.0.0.1".to_owned()),
        Just(String::new()),
    ]
}

#[derive(Clone, Debug)]
struct Life {
    filename: String,
    executable: String,
    interpreter: String,
    cwd: String,
    args: Vec<String>,
    ids: (u32, u32, u32),
    capabilities: u64,
    tty: u32,
    path: Vec<u8>,
    address: [u8; 16],
    is_v6: bool,
    port: u16,
    status: u32,
}

fn life() -> impl Strategy<Value = Life> {
    let paths = (
        text(),
        text(),
        prop_oneof![Just(String::new()), text()],
        text(),
    );
    let acts = (
        proptest::collection::vec(any::<u8>(), 0..24),
        any::<[u8; 16]>(),
        any::<bool>(),
        any::<u16>(),
    );
    let rest = (
        proptest::collection::vec(text(), 0..5),
        any::<(u32, u32, u32)>(),
        any::<u64>(),
        any::<u32>(),
        0..0x1_0000_u32,
    );
    (paths, acts, rest).prop_map(|(paths, acts, rest)| Life {
        filename: paths.0,
        executable: paths.1,
        interpreter: paths.2,
        cwd: paths.3,
        args: rest.0,
        ids: rest.1,
        capabilities: rest.2,
        tty: rest.3,
        path: acts.0,
        address: acts.1,
        is_v6: acts.2,
        port: acts.3,
        status: rest.4,
    })
}

/// The folder holds the password and group file, which are looked at again now and then.
fn enricher() -> (Enricher, tempfile::TempDir) {
    let host = Host {
        id: "machine \"1\"".into(),
        name: "h".into(),
        architecture: "x86_64".into(),
        kernel: "6.1".into(),
        agent_id: "a".into(),
        boot_id: "b".into(),
    };
    let folder = tempfile::tempdir().unwrap();
    let passwd = folder.path().join("passwd");
    std::fs::write(
        &passwd,
        "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
    )
    .unwrap();
    let mut enricher = Enricher::new(
        Arc::new(host),
        TableLimits::default(),
        Users::from_files(&passwd, &passwd),
        None,
    );
    // The number that the records made here carry.
    let path = format!("/docker-{}.scope", "0f".repeat(32));
    enricher.set_cgroups(Cgroups::knowing(1, &path));
    enricher.set_environment(Wanted::new(&["*".to_owned()]));
    enricher.set_wall_offset(1_700_000_000_000_000_000);
    (enricher, folder)
}

/// A deletion whose path is as the caller wrote it.
fn by_caller(enricher: &mut Enricher, at: u64, key: Key, path: &[u8]) -> Event {
    let mut begin = header(RecordKind::Delete, at, key);
    begin.flags = record_flag::PATH_FROM_USER;
    let act = FileAct {
        body: &act_body(at),
        old_directory: b"",
        old_path: b"",
        directory: b"/srv",
        path,
    };
    enricher.feed_begin(&begin, act);
    let end = end_body(RecordKind::Delete, at, 0);
    let header = header(RecordKind::FileEnd, at, key);
    enricher.feed(&header, Body::FileEnd(&end))
}

fn live(enricher: &mut Enricher, life: &Life, child: Key, parent: Key) -> Vec<Event> {
    let at = child.1;
    let args: Vec<&str> = life.args.iter().map(String::as_str).collect();
    // Texts of any sort stand in for variables, which can hold no NUL.
    let environment: String = life
        .args
        .iter()
        .map(|text| text.replace('\0', "") + "\0")
        .collect();
    let run = Run {
        filename: &life.filename,
        executable: &life.executable,
        interpreter: &life.interpreter,
        cwd: &life.cwd,
        args: &args,
        environment: &environment,
    };
    let body = ExecBody {
        euid: life.ids.0,
        uid: life.ids.1,
        gid: life.ids.2,
        cap_effective: life.capabilities,
        cap_permitted: !life.capabilities,
        tty: life.tty,
        pgid: child.0,
        sid: parent.0,
        ..exec_body()
    };
    let mut events = vec![
        enricher.feed_fork(at, child, parent),
        enricher.feed_exec(at + 1, child, &body, &run),
        enricher.feed_creation(at + 2, child, &life.path),
        enricher.feed_act(
            RecordKind::Rename,
            at + 2,
            child,
            &life.path,
            life.filename.as_bytes(),
        ),
        enricher.feed_act(
            RecordKind::Symlink,
            at + 2,
            child,
            &life.path,
            life.executable.as_bytes(),
        ),
        by_caller(enricher, at + 2, child, &life.path),
        enricher.feed_connect(
            at + 3,
            child,
            if life.is_v6 { 10 } else { 2 },
            life.address,
            life.port,
        ),
        enricher.feed_lookup(at + 3, child, [192, 0, 2, 53]),
    ];
    events.extend(enricher.feed_own_acts(at + 4, child, &life.path, life.capabilities));
    events.push(enricher.feed_exit(at + 5, child, life.status));
    for event in &mut events {
        hold_contents(event, u64::from(life.status));
    }
    events
}

proptest! {
    #[test]
    fn replay_of_a_recording_is_what_was_live(lives in proptest::collection::vec(life(), 1..4)) {
        let table = FieldTable::sensor();
        let every: Vec<FieldId> = FIELDS.iter().map(|row| table.resolve(row.path).unwrap()).collect();
        let mut reader = Reader::new(&table, &every, &Options::default());
        let (mut enricher, _folder) = enricher();
        let mut parent: Key = (1, 1);
        for (life, pid) in lives.iter().zip(2_u32..) {
            let child: Key = (pid, u64::from(pid) * 1_000_000_007);
            let mut events = live(&mut enricher, life, child, parent);
            events.extend(in_masses(&mut enricher, child, &life.path));
            for event in events {
                let carried = check(&event, &table, &mut reader)?;
                prop_assert!(carried > 20, "{carried} fields");
            }
            parent = child;
        }
    }
}

/// As if somebody had asked what files hold.
fn hold_contents(event: &mut Event, size: u64) {
    let hash: Box<str> = "ba".repeat(32).into();
    event.process.facts.image.program.set_sha256(hash.clone());
    if let Target::File(file) = &mut event.target {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let whole = Whole {
            sha256: hash,
            entropy: size as f64 / 8192.0,
        };
        file.contents = Some(Box::new(Contents {
            size,
            header: "7f454c46".into(),
            whole: Some(whole),
        }));
    }
}

/// A modification, and the end of a throttle.
fn in_masses(enricher: &mut Enricher, key: Key, path: &[u8]) -> Vec<Event> {
    let body = ModifyBody {
        inode: 9,
        dev: 1,
        mode: 0o100_644,
        uid: 0,
        gid: 0,
        change: sensor_ebpf::change::WRITE,
        no_follow: 0,
    };
    let modify = decode::Modify {
        body: &body,
        directory: b"",
        path,
    };
    let throttle = ThrottleBody {
        dropped: 7,
        on: 0,
        reserved: 0,
    };
    let modify = Body::Modify(modify);
    let throttle = Body::Throttle(&throttle);
    vec![
        enricher.feed(&header(RecordKind::Modify, 9, key), modify),
        enricher.feed(&header(RecordKind::Throttle, 9, key), throttle),
    ]
}

#[test]
fn every_field_is_carried_by_some_event() {
    let ordinary = Life {
        filename: "./a.sh".into(),
        executable: "/usr/bin/dash".into(),
        interpreter: "/bin/sh".into(),
        cwd: "/tmp".into(),
        args: vec!["/bin/sh".into(), "./a.sh".into()],
        ids: (0, 1000, 1000),
        capabilities: 0x1000_0000_1001,
        tty: (136 << 20) | 1,
        path: b"/tmp/a.txt".to_vec(),
        address: [10; 16],
        is_v6: false,
        port: 443,
        status: 9,
    };
    let (mut enricher, _folder) = enricher();
    let mut events = live(&mut enricher, &ordinary, (20, 2_000_000_000), (1, 1));
    events.extend(live(
        &mut enricher,
        &ordinary,
        (30, 3_000_000_000),
        (20, 2_000_000_000),
    ));
    let flagged = Header {
        flags: record_flag::TRUNCATED | record_flag::READ_FAULT,
        ..header(RecordKind::Exit, 4_000_000_000, (30, 3_000_000_000))
    };
    let body = ExitBody {
        status: 0,
        reserved: 0,
    };
    events.push(enricher.feed(&flagged, Body::Exit(&body)));
    events.extend(in_masses(&mut enricher, (30, 3_000_000_000), b"/tmp/a"));
    let missing: Vec<&str> = FIELDS
        .iter()
        .filter(|row| {
            !events
                .iter()
                .any(|e| row.kinds.contains(e.kind) && !(row.get)(e).is_empty())
        })
        .map(|row| row.path)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn faults_are_named() {
    let stop = Fault::StopConsumer(std::time::Duration::from_secs(3));
    assert_eq!("stop-consumer=3".parse(), Ok(stop));
    let error = "stop=3".parse::<Fault>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`stop=3` is no fault; allowed are stop-consumer=SECONDS and stall"
    );
}

#[test]
fn the_settings_defaults_are_the_tables_own() {
    let processes = crate::config::Processes::default();
    assert_eq!(super::table_limits(&processes), TableLimits::default());
}

#[test]
fn only_what_rules_name_is_read() {
    let wanted = |query: &str| {
        let text =
            format!("[rule]\nrule_id = \"r\"\nname = \"R\"\ntype = \"eql\"\nquery = '{query}'\n");
        let path = std::path::Path::new("r.toml").into();
        let loaded = crate::rule::load_source(&crate::document::Source { path, text });
        super::reading_for(&loaded.rules)
    };
    let renames = Kinds::NONE.with(Kind::Rename);
    let header =
        wanted("file where event.action == \"rename\" and file.Ext.header_bytes : \"7f*\"");
    let expected = contents::Wanted {
        start: renames,
        ..contents::Wanted::NOTHING
    };
    assert_eq!(header, expected);
    let hash = wanted("file where event.action == \"rename\" and file.hash.sha256 == \"00\"");
    let expected = contents::Wanted {
        whole: renames,
        ..contents::Wanted::NOTHING
    };
    assert_eq!(hash, expected);
    let program = wanted("process where process.hash.sha256 == \"00\"");
    assert!(program.programs && program.start == Kinds::NONE);
    let nothing = wanted("file where file.name == \"x\" and process.name == \"y\"");
    assert_eq!(nothing, contents::Wanted::NOTHING);
}
