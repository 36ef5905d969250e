//! File acts of two records: what their events must say.
//!
//! In: begins and ends made by hand. Out: the fields of the events. How the two are joined is tested beside the joining.

use sensor_ebpf::{FileEndBody, Kind as RecordKind, record_flag};

use super::Enricher;
use super::testing::{Key, act_body, end_body, header};
use super::tests::{check, enricher, shown};
use crate::decode::{Body, FileAct};
use crate::event::{Event, Fields, schema};

const ACTOR: Key = (50, 5);

fn table() -> Enricher {
    enricher(super::process_table::TableLimits::default())
}

/// A field is not there.
fn check_missing(event: &Event, paths: &[&str]) {
    for path in paths {
        let row = schema::position(path).unwrap();
        let id = crate::event::FieldId(u16::try_from(row).unwrap());
        assert!(event.values(id).is_empty(), "{path}");
    }
}

#[test]
fn a_rename_tells_both_names() {
    let event = table().feed_act(
        RecordKind::Rename,
        100,
        ACTOR,
        b"/etc/app/app.conf.dpkg-new",
        b"/etc/app/app.conf",
    );
    check(
        &event,
        &[
            ("event.action", &["rename"]),
            ("event.type", &["change"]),
            ("event.category", &["file"]),
            ("event.outcome", &["success"]),
            ("data_stream.dataset", &["endpoint.events.file"]),
            ("file.path", &["/etc/app/app.conf"]),
            ("file.name", &["app.conf"]),
            ("file.extension", &["conf"]),
            ("file.directory", &["/etc/app"]),
            ("file.Ext.original.path", &["/etc/app/app.conf.dpkg-new"]),
            ("file.Ext.original.name", &["app.conf.dpkg-new"]),
            ("file.Ext.original.extension", &["dpkg-new"]),
            ("file.Ext.original.directory", &["/etc/app"]),
            ("file.Ext.path_from_user", &[]),
            ("file.inode", &["78"]),
            ("file.mode", &["0600"]),
            ("file.type", &["file"]),
            ("file.uid", &["1000"]),
            ("file.gid", &["1000"]),
            ("process.pid", &["50"]),
            ("user.id", &["1000"]),
        ],
    );
    // The time of its end, so that events stay in the order of the ring.
    assert_eq!(event.boot_ns, 101);
}

#[test]
fn a_deletion_and_a_creation_have_no_name_before() {
    let mut table = table();
    let deletion = table.feed_act(RecordKind::Delete, 100, ACTOR, b"", b"/tmp/a.sh");
    check(
        &deletion,
        &[
            ("event.action", &["deletion"]),
            ("event.type", &["deletion"]),
            ("file.path", &["/tmp/a.sh"]),
            ("file.inode", &["78"]),
        ],
    );
    let creation = table.feed_creation(200, ACTOR, b"/tmp/a.sh");
    for event in [&deletion, &creation] {
        check_missing(
            event,
            &[
                "file.Ext.original.path",
                "file.Ext.original.name",
                "file.Ext.original.extension",
                "file.Ext.original.directory",
                "file.target_path",
            ],
        );
    }
}

#[test]
fn links_directories_and_nodes_are_of_no_type_that_public_rules_ask_for() {
    let mut table = table();
    for (kind, action, old, target) in [
        (RecordKind::Link, "link", "/a", Some("/a")),
        (RecordKind::Symlink, "symlink", "../a b", Some("../a b")),
        (RecordKind::MakeDirectory, "mkdir", "", None),
        (RecordKind::MakeNode, "mknod", "", None),
    ] {
        let event = table.feed_act(kind, 100, ACTOR, old.as_bytes(), b"/tmp/new");
        check(
            &event,
            &[
                ("event.action", &[action]),
                ("event.category", &["file"]),
                ("event.type", &[]),
                ("file.path", &["/tmp/new"]),
            ],
        );
        match target {
            Some(target) => check(&event, &[("file.target_path", &[target])]),
            None => check_missing(&event, &["file.target_path"]),
        }
        check_missing(&event, &["file.Ext.original.path"]);
    }
}

#[test]
fn what_was_made_is_told_by_the_end() {
    let mut table = table();
    let mut body = act_body(7);
    body.inode = 0;
    let act = FileAct {
        body: &body,
        old_directory: b"",
        old_path: b"",
        directory: b"",
        path: b"/tmp/sub",
    };
    table.feed_begin(&header(RecordKind::MakeDirectory, 100, ACTOR), act);
    let end = FileEndBody {
        inode: 99,
        mode: 0o40_750,
        uid: 3,
        gid: 4,
        ..end_body(RecordKind::MakeDirectory, 7, 0)
    };
    let header = header(RecordKind::FileEnd, 101, ACTOR);
    let event = table.feed(&header, Body::FileEnd(&end));
    check(
        &event,
        &[
            ("file.inode", &["99"]),
            ("file.mode", &["0750"]),
            ("file.type", &["dir"]),
            ("file.uid", &["3"]),
            ("file.gid", &["4"]),
        ],
    );
}

#[test]
fn paths_of_the_caller_are_made_absolute_and_said_to_be_its_own() {
    let mut table = table();
    let mut body = act_body(7);
    (body.inode, body.mode) = (0, 0);
    let act = FileAct {
        body: &body,
        old_directory: b"/srv/w",
        old_path: b"./a.tmp",
        directory: b"/srv/w/sub",
        path: b"../b.sh",
    };
    let mut begin = header(RecordKind::Rename, 100, ACTOR);
    begin.flags = record_flag::PATH_FROM_USER;
    table.feed_begin(&begin, act);
    let end = end_body(RecordKind::Rename, 7, 0);
    let header = header(RecordKind::FileEnd, 101, ACTOR);
    let event = table.feed(&header, Body::FileEnd(&end));
    check(
        &event,
        &[
            ("file.path", &["/srv/w/b.sh"]),
            ("file.Ext.original.path", &["/srv/w/a.tmp"]),
            ("file.Ext.path_from_user", &["Bool(true)"]),
        ],
    );
    check_missing(
        &event,
        &[
            "file.inode",
            "file.mode",
            "file.uid",
            "file.gid",
            "file.type",
        ],
    );
}

#[test]
fn an_act_whose_end_was_lost_has_an_unknown_outcome() {
    let mut table = table();
    let body = act_body(7);
    let act = FileAct {
        body: &body,
        old_directory: b"",
        old_path: b"",
        directory: b"",
        path: b"/tmp/a",
    };
    table.feed_begin(&header(RecordKind::Delete, 100, ACTOR), act);
    let mut unknown = Vec::new();
    table.ends_lost(1, 200, true, |event| unknown.push(event));
    let [event] = unknown.as_slice() else {
        panic!("{unknown:#?}");
    };
    check(
        event,
        &[
            ("event.action", &["deletion"]),
            ("event.outcome", &["unknown"]),
            ("file.path", &["/tmp/a"]),
        ],
    );
    assert_eq!(table.counters().unconfirmed, 1);
}

#[test]
fn only_headers_still_make_an_event() {
    let mut table = table();
    let begin = header(RecordKind::Rename, 100, ACTOR);
    assert!(table.feed_all(&begin, Body::Degraded).is_empty());
    let end = end_body(RecordKind::Rename, 7, 0);
    let header = header(RecordKind::FileEnd, 101, ACTOR);
    let event = table.feed(&header, Body::FileEnd(&end));
    check(&event, &[("event.action", &["rename"]), ("file.path", &[])]);
    assert_eq!(shown(&event, "process.pid"), ["50"]);
    // Nothing was begun.
    assert!(table.feed_all(&header, Body::Degraded).is_empty());
}
