//! Rename, deletion, link, symbolic link, directory and node, each with the near miss beside it.
//!
//! In: a program that makes the system calls, also through overlayfs, bind mounts and mount namespaces. Out: one event for
//! each call that did something, every field compared with what was done, and none for the others. Must never pass when a
//! near miss left an event.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{Daemon, at, is, number, text};
use crate::loss::Counts;
use crate::scope::Scope;
use crate::tiers;

/// What every actor begins with: calls that must do something, and calls that must fail in one way.
const COMMON: &str = r#"#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void check(int line, long result, int error)
{
    int found = result < 0 ? errno : 0;
    if (found != error) {
        fprintf(stderr, "line %d: %s instead of %s\n", line, strerror(found), strerror(error));
        exit(1);
    }
}
#define DO(call) check(__LINE__, (call), 0)
#define FAIL(error, call) check(__LINE__, (call), error)
#define renameat2(...) syscall(SYS_renameat2, __VA_ARGS__)
"#;

/// `argv[1]`: a folder on another file system.
const ACTS: &str = r#"
int main(int argc, char **argv)
{
    char there[4096], absolute[4096];
    umask(022);
    int sub = open("sub", O_RDONLY | O_DIRECTORY);
    if (argc != 2 || sub < 0 || !realpath("sub", absolute))
        return 2;
    snprintf(there, sizeof there, "%s/elsewhere", argv[1]);

    DO(rename("pkg.conf.dpkg-new", "pkg.conf"));
    DO(syscall(SYS_rename, "./sub//../from.a", "onto.b"));
    DO(renameat(sub, "inner", AT_FDCWD, "outer.txt"));
    DO(renameat2(AT_FDCWD, "left", sub, "../right", 2 /* RENAME_EXCHANGE */));
    DO(rename("olddir", "newdir"));
    DO(rename("newdir/below", strcat(absolute, "/up")));
    FAIL(ENOENT, rename("missing", "never"));
    FAIL(EEXIST, renameat2(AT_FDCWD, "left", AT_FDCWD, "right", 1 /* RENAME_NOREPLACE */));
    FAIL(EXDEV, rename("left", there));
    FAIL(ENOTDIR, rename("newdir", "left"));
    FAIL(EBADF, renameat(999, "left", AT_FDCWD, "never"));
    FAIL(EFAULT, rename((char *)8, "never"));

    DO(unlink("gone"));
    DO(unlinkat(sub, "gone.too", 0));
    DO(unlink("dangling"));
    FAIL(ENOENT, unlink("missing"));
    FAIL(EISDIR, unlink("newdir"));
    DO(rmdir("empty"));
    DO(unlinkat(sub, "empty", AT_REMOVEDIR));
    FAIL(ENOTEMPTY, rmdir("sub"));
    DO(seteuid(65534));
    FAIL(EACCES, unlink("kept"));
    FAIL(EACCES, rename("kept", "never"));
    FAIL(EACCES, mkdir("never", 0700));
    FAIL(EACCES, symlink("kept", "never"));
    DO(seteuid(0));

    DO(link("left", "hard"));
    DO(linkat(sub, "up", AT_FDCWD, "sub/hard too", 0));
    FAIL(EEXIST, link("left", "hard"));
    FAIL(EXDEV, link("left", there));
    DO(symlink("../no such place", "soft"));
    DO(symlinkat("kept", sub, "soft"));
    FAIL(EEXIST, symlink("x", "soft"));
    DO(mkdir("made", 0750));
    DO(mkdirat(sub, "deep/", 0700));
    FAIL(EEXIST, mkdir("made", 0700));
    FAIL(ENOENT, mkdir("missing/made", 0700));
    DO(mkfifo("pipe", 0640));
    DO(mknodat(sub, "socket", S_IFSOCK | 0600, 0));
    DO(mknod("regular", S_IFREG | 0600, 0));
    FAIL(EEXIST, mkfifo("pipe", 0600));
    int existing = open("left", O_CREAT | O_RDWR, 0600);
    return existing < 0;
}
"#;

/// Overlayfs and a bind mount, in a mount namespace of its own.
const MOUNTS: &str = r#"
int main(void)
{
    DO(unshare(CLONE_NEWNS));
    DO(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    DO(mount("none", "t", "tmpfs", 0, "mode=0755"));
    DO(chdir("t"));
    DO(mkdir("lower", 0755));
    DO(mkdir("upper", 0755));
    DO(mkdir("work", 0755));
    DO(mkdir("merged", 0755));
    DO(mkdir("bound", 0755));
    close(open("lower/low", O_CREAT | O_WRONLY, 0644));
    close(open("lower/other", O_CREAT | O_WRONLY, 0644));
    DO(mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"));
    DO(rename("merged/low", "merged/moved"));
    DO(rename("merged/moved", "merged/again"));
    DO(unlink("merged/other"));
    FAIL(ENOENT, unlink("merged/other"));
    DO(link("merged/again", "merged/linked"));
    DO(symlink("again", "merged/soft"));
    DO(mkdir("merged/made", 0755));
    DO(mkfifo("merged/pipe", 0644));
    DO(mount("merged", "bound", NULL, MS_BIND, NULL));
    DO(rename("bound/again", "bound/last"));
    FAIL(EXDEV, rename("bound/last", "merged/last"));
    DO(unlink("bound/linked"));
    return 0;
}
"#;

/// Kinds of the acts, and of those whose event a near miss could be.
const EVENTS: &str = "process,creation,rename,deletion,link,symlink,mkdir,mknod";

/// One thing done, as its event must tell it.
struct Expected {
    action: &'static str,
    path: String,
    /// Before a rename.
    original: Option<String>,
    target: Option<String>,
    /// Inode, mode, owner and group, where it is known from outside.
    inode: Option<(u64, u32, u32, u32)>,
}

#[test]
fn every_file_act_has_its_event_and_a_near_miss_has_none() {
    for tier in tiers() {
        let scope = Scope::new("fileacts");
        let folder = prepare(&scope);
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let before = Known::of(&folder);
        build(&scope, "acts", ACTS);
        let daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        let by_trampolines = daemon.uses("fexit/security_path_rename");
        let pid = scope.run(&["./acts", elsewhere.path().to_str().unwrap()]);
        let ended = daemon.stop();
        let after = Known::of(&folder);
        let expected = expected(&folder, &before, &after);

        let events: Vec<&Value> = ended
            .lines
            .iter()
            .filter(|event| text(event, "process.name") == "acts")
            .filter(|event| at(event, "event.category")[0] == "file")
            .collect();
        let told: Vec<_> = events.iter().map(|event| brief(event)).collect();
        let done: Vec<_> = expected.iter().map(Expected::brief).collect();
        assert_eq!(told, done, "{tier}");
        let exec = ended
            .lines
            .iter()
            .find(|event| is(event, "process", "exec") && text(event, "process.name") == "acts")
            .unwrap();
        for (event, expected) in events.iter().zip(&expected) {
            expected.compare(event, by_trampolines, &tier);
            actor(event, exec, pid, &folder);
        }
        let counts = Counts::of(&ended.log);
        assert_eq!((counts.received, counts.lost), (counts.submitted, 0));
        println!(
            "{tier}: {} events, trampolines: {by_trampolines}",
            events.len()
        );
    }
}

#[test]
fn overlayfs_and_bind_mounts_show_each_act_once_and_where_it_was_done() {
    for tier in tiers() {
        let scope = Scope::new("overlay");
        let folder = scope.folder();
        fs::create_dir(folder.join("t")).unwrap();
        build(&scope, "mounts", MOUNTS);
        let daemon = Daemon::record_only(&scope, &tier, EVENTS, &[]);
        scope.run(&["./mounts"]);
        let ended = daemon.stop();
        let folder = folder.to_str().unwrap();
        let told: Vec<String> = ended
            .lines
            .iter()
            .filter(|event| text(event, "process.name") == "mounts")
            .filter(|event| at(event, "event.category")[0] == "file")
            .map(|event| brief(event).replace(folder, "@"))
            .collect();
        let expected = [
            "mkdir @/t/lower",
            "mkdir @/t/upper",
            "mkdir @/t/work",
            "mkdir @/t/merged",
            "mkdir @/t/bound",
            "creation @/t/lower/low",
            "creation @/t/lower/other",
            "rename @/t/merged/low -> @/t/merged/moved",
            "rename @/t/merged/moved -> @/t/merged/again",
            "deletion @/t/merged/other",
            "link @/t/merged/again => @/t/merged/linked",
            "symlink again => @/t/merged/soft",
            "mkdir @/t/merged/made",
            "mknod @/t/merged/pipe",
            "rename @/t/bound/again -> @/t/bound/last",
            "deletion @/t/bound/linked",
        ];
        assert_eq!(told, expected, "{tier}");
        let counts = Counts::of(&ended.log);
        assert_eq!((counts.received, counts.lost), (counts.submitted, 0));
    }
}

/// Files for [`ACTS`], made outside of what the daemon watches.
fn prepare(scope: &Scope) -> std::path::PathBuf {
    let folder = scope.folder();
    for directory in ["sub", "sub/empty", "empty", "olddir"] {
        fs::create_dir(folder.join(directory)).unwrap();
    }
    for (name, mode) in [
        ("pkg.conf.dpkg-new", 0o644),
        ("from.a", 0o600),
        ("onto.b", 0o644),
        ("sub/inner", 0o640),
        ("left", 0o4755),
        ("right", 0o644),
        ("olddir/below", 0o644),
        ("gone", 0o444),
        ("sub/gone.too", 0o666),
        ("kept", 0o644),
    ] {
        let path = folder.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(folder.join("gone"), Some(4242), Some(4243)).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling")).unwrap();
    folder
}

fn build(scope: &Scope, name: &str, code: &str) {
    let source = format!("{name}.c");
    scope.write(&source, &format!("{COMMON}{code}"));
    let built = Command::new("gcc")
        .args(["-Wall", "-Werror", &source, "-o", name])
        .current_dir(scope.folder())
        .status()
        .unwrap();
    assert!(built.success());
}

/// What is in a folder and below, by path from it.
struct Known(BTreeMap<String, Metadata>);

impl Known {
    fn of(folder: &Path) -> Self {
        let mut all = BTreeMap::new();
        let mut open = vec![folder.to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                if metadata.is_dir() {
                    open.push(path.clone());
                }
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                all.insert(name.to_owned(), metadata);
            }
        }
        Self(all)
    }

    fn inode(&self, name: &str) -> (u64, u32, u32, u32) {
        let of = self.0.get(name).unwrap_or_else(|| panic!("no {name}"));
        (of.ino(), of.mode(), of.uid(), of.gid())
    }
}

fn expected(folder: &Path, before: &Known, after: &Known) -> Vec<Expected> {
    let full = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let renamed = |old: &str, new: &str| Expected {
        action: "rename",
        path: full(new),
        original: Some(full(old)),
        target: None,
        inode: Some(before.inode(old)),
    };
    let deleted = |name: &str| Expected {
        action: "deletion",
        path: full(name),
        original: None,
        target: None,
        inode: Some(before.inode(name)),
    };
    let made = |action, name: &str, target: Option<String>| Expected {
        action,
        path: full(name),
        original: None,
        target,
        inode: Some(after.inode(name)),
    };
    assert!(!after.0.contains_key("empty") && !after.0.contains_key("sub/empty"));
    assert!(after.0["regular"].is_file() && after.0["pipe"].file_type().is_fifo());
    let mut below = renamed("olddir/below", "sub/up");
    below.original = Some(full("newdir/below"));
    vec![
        renamed("pkg.conf.dpkg-new", "pkg.conf"),
        renamed("from.a", "onto.b"),
        renamed("sub/inner", "outer.txt"),
        // An exchange is one rename, as the caller put it.
        renamed("left", "right"),
        renamed("olddir", "newdir"),
        below,
        deleted("gone"),
        deleted("sub/gone.too"),
        deleted("dangling"),
        made("link", "hard", Some(full("left"))),
        made("link", "sub/hard too", Some(full("sub/up"))),
        made("symlink", "soft", Some("../no such place".to_owned())),
        made("symlink", "sub/soft", Some("kept".to_owned())),
        made("mkdir", "made", None),
        made("mkdir", "sub/deep", None),
        made("mknod", "pipe", None),
        made("mknod", "sub/socket", None),
    ]
}

/// One line for a file event.
fn brief(event: &Value) -> String {
    let action = text(event, "event.action");
    let path = text(event, "file.path");
    let from = text(event, "file.Ext.original.path");
    let target = text(event, "file.target_path");
    match (from, target) {
        ("", "") => format!("{action} {path}"),
        ("", target) => format!("{action} {target} => {path}"),
        (from, _) => format!("{action} {from} -> {path}"),
    }
}

impl Expected {
    fn brief(&self) -> String {
        let Self { action, path, .. } = self;
        match (&self.original, &self.target) {
            (None, None) => format!("{action} {path}"),
            (None, Some(target)) => format!("{action} {target} => {path}"),
            (Some(from), _) => format!("{action} {from} -> {path}"),
        }
    }

    /// Every field of `event` and `file`.
    fn compare(&self, event: &Value, by_trampolines: bool, tier: &str) {
        let kind = match self.action {
            "rename" => Some("change"),
            "deletion" => Some("deletion"),
            _ => None,
        };
        let mut about = json!({
            "action": self.action,
            "category": ["file"],
            "dataset": "endpoint.events.file",
            "kind": "event",
            "module": "endpoint",
            "outcome": "success",
            "sequence": event["event"]["sequence"],
        });
        if let Some(kind) = kind {
            about["type"] = json!([kind]);
        }
        assert_eq!(event["event"], about, "{tier}: {}", self.brief());

        let mut file = parts(&self.path);
        if let Some(original) = &self.original {
            file["Ext"]["original"] = parts(original);
        }
        if let Some(target) = &self.target {
            file["target_path"] = json!(target);
        }
        let (inode, mode, uid, gid) = self.inode.unwrap();
        let kind = match mode & 0o170_000 {
            0o100_000 => "file",
            0o040_000 => "dir",
            0o120_000 => "symlink",
            0o010_000 => "fifo",
            0o140_000 => "socket",
            other => panic!("type {other:o}"),
        };
        if by_trampolines {
            file["inode"] = json!(inode.to_string());
            file["mode"] = json!(format!("{:04o}", mode & 0o7777));
            file["uid"] = json!(uid.to_string());
            file["gid"] = json!(gid.to_string());
            if uid == 0 {
                file["owner"] = json!("root");
            }
            if gid == 0 {
                file["group"] = json!("root");
            }
        } else {
            file["Ext"]["path_from_user"] = json!(true);
        }
        if by_trampolines || !["rename", "deletion", "link"].contains(&self.action) {
            file["type"] = json!(kind);
        }
        assert_eq!(event["file"], file, "{tier}: {}", self.brief());
    }
}

/// A path and its parts, as an event shows them.
fn parts(path: &str) -> Value {
    let (directory, name) = path.rsplit_once('/').unwrap();
    let mut parts = json!({ "path": path, "directory": directory, "name": name });
    if let Some((_, extension)) = name.rsplit_once('.') {
        parts["extension"] = json!(extension);
    }
    parts
}

/// Who did it: the same as the process's exec says.
fn actor(event: &Value, exec: &Value, pid: u32, folder: &Path) {
    assert_eq!(number(event, "process.pid"), Some(u64::from(pid)));
    let executable = folder.join("acts");
    assert_eq!(
        text(event, "process.executable"),
        executable.to_str().unwrap()
    );
    for field in [
        "process.entity_id",
        "process.parent.entity_id",
        "process.parent.name",
        "process.parent.executable",
        "process.parent.pid",
        "process.user.id",
        "process.group.id",
        "user.id",
        "group.id",
        "host.id",
        "agent.id",
    ] {
        assert!(!at(event, field).is_null(), "{field} is missing");
        assert_eq!(at(event, field), at(exec, field), "{field}");
    }
    assert_eq!(text(event, "user.id"), "0");
}
