//! One record against what was done.
//!
//! In: a decoded record of the acting child, and the [`Facts`]. Out: every field that differs, with the value found and the one
//! expected. A kind that is not known here is not judged. A value that was cut or could not be read is no difference.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sensor_ebpf::{
    ConnectBody, CredentialsBody, ExecBody, FileActBody, FileBody, FileEndBody, ForkBody, Header,
    Kind, moment, record_flag,
};

use super::act;
use super::facts::Facts;
use crate::decode::{Body, Exec, File, FileAct, Record};
use crate::enrich::procfs::{Status, TICK_NS};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;

/// A field of a record that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub kind: Kind,
    pub field: &'static str,
    pub found: String,
    pub expected: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mismatch {
            kind,
            field,
            found,
            expected,
        } = self;
        write!(
            f,
            "`{field}` of the `{}` record is {found}, must be {expected}",
            kind.name()
        )
    }
}

/// How many records of a kind the acts made at least, or why none.
pub(super) fn expected(kind: Kind, facts: &Facts) -> Result<usize, String> {
    let acts: &[&str] = match kind {
        Kind::Fork | Kind::Exec | Kind::Exit => return Ok(1),
        Kind::FileCreate => &["create"],
        Kind::Rename => &["rename"],
        Kind::Delete => &["delete"],
        Kind::Link => &["link"],
        Kind::Symlink => &["symlink"],
        Kind::MakeDirectory => &["mkdir"],
        Kind::MakeNode => &["mknod"],
        Kind::Credentials => &["credentials"],
        Kind::Ptrace => return Err("it would take a second process to be traced".to_owned()),
        Kind::Connect | Kind::Accept => &["connect4", "connect6"],
        Kind::Memfd => &["memfd"],
        Kind::Session => &["session"],
        // Of both ends.
        Kind::Close => &["connect4", "connect4", "connect6", "connect6"],
        #[allow(unreachable_patterns, reason = "kinds without an act of their own")]
        _ => &[],
    };
    let not_done: Vec<String> = acts.iter().filter_map(|act| facts.not_done(act)).collect();
    match acts.len() - not_done.len() {
        0 => Err(format!(
            "the self-check could not do it here: {}",
            not_done.first().map_or("no act for it", String::as_str)
        )),
        count => Ok(count),
    }
}

/// Everything in a record of the child's that is not as it was.
pub(super) fn compare(record: &Record<'_>, facts: &Facts) -> Vec<Mismatch> {
    let Some(kind) = crate::decode::kind_of(record.header.kind) else {
        return Vec::new();
    };
    let mut differences = Differences {
        kind,
        found: Vec::new(),
    };
    differences.header(record.header, facts);
    match &record.body {
        Body::Fork(body) => differences.fork(body, facts),
        Body::Exec(exec) => differences.exec(record.header, exec, facts),
        Body::Exit(body) => {
            let status = u32::from(act::EXIT_CODE) << 8;
            differences.number("status", body.status, Some(status));
        }
        Body::FileCreate(file) => differences.creation(record.header, file, facts),
        Body::FileAct(act) => differences.file_act(record.header, act, facts),
        Body::FileEnd(body) => differences.file_end(body, facts),
        Body::Credentials(body) => differences.credentials(body, facts),
        Body::Connect(body) => differences.connect(body, facts, true),
        Body::Session(body) => {
            differences.number("tgid", body.tgid, Some(facts.pid));
            differences.number("sid", body.sid, Some(facts.process.stat.sid));
        }
        Body::Memfd(memfd) => {
            differences.number("inode", memfd.body.inode, facts.number("memfd", 0));
        }
        Body::Accept(body) => differences.connect(body, facts, false),
        _ => {}
    }
    differences.found
}

/// What is wrong with a record that looks like one of the child's and names another process.
pub(super) fn stray(record: &Record<'_>, kind: Kind, facts: &Facts) -> Vec<Mismatch> {
    let is_alike = match &record.body {
        Body::Fork(body) => body.parent_tgid == facts.parent.pid,
        Body::Connect(body) => ["connect4", "connect6"].iter().any(|act| {
            let port = facts.number(act, 1);
            port.is_some() && port == Some(body.remote_port.into())
        }),
        _ => false,
    };
    if is_alike && record.header.kind == kind as u16 {
        compare(record, facts)
    } else {
        Vec::new()
    }
}

struct Differences {
    kind: Kind,
    found: Vec<Mismatch>,
}

impl Differences {
    /// `None` where nobody knows better.
    fn number<N, M>(&mut self, field: &'static str, found: N, expected: Option<M>)
    where
        N: Into<u64>,
        M: Into<u64>,
    {
        let found = found.into();
        if let Some(expected) = expected.map(Into::into)
            && found != expected
        {
            self.add(field, found.to_string(), expected.to_string());
        }
    }

    fn bytes(&mut self, field: &'static str, found: &[u8], expected: &[u8]) {
        if found != expected {
            let quoted = |bytes: &[u8]| format!("\"{}\"", bytes.escape_ascii());
            self.add(field, quoted(found), quoted(expected));
        }
    }

    fn add(&mut self, field: &'static str, found: String, expected: String) {
        self.found.push(Mismatch {
            kind: self.kind,
            field,
            found,
            expected,
        });
    }

    fn header(&mut self, header: &Header, facts: &Facts) {
        let status = &facts.process.status;
        self.number("tgid", header.tgid, Some(facts.pid));
        // The start is known in ticks only.
        let ticks = header.start_ns / TICK_NS;
        self.number(
            "start_ns / 10 ms",
            ticks,
            Some(facts.process.stat.start_ticks),
        );
        self.number("uid", header.uid, effective(status.uids));
        self.number("gid", header.gid, effective(status.gids));
        // A process that ends has given its namespaces back by the time of its record on some kernels.
        if self.kind != Kind::Exit {
            self.number("mntns", header.mntns, facts.mount_namespace);
        }
    }

    fn parent(&mut self, tgid: u32, start_ns: u64, facts: &Facts) {
        self.number("parent_tgid", tgid, Some(facts.parent.pid));
        let ticks = start_ns / TICK_NS;
        self.number(
            "parent_start_ns / 10 ms",
            ticks,
            Some(facts.parent.start_ticks),
        );
    }

    fn fork(&mut self, body: &ForkBody, facts: &Facts) {
        self.parent(body.parent_tgid, body.parent_start_ns, facts);
        self.number("ns_tgid", body.ns_tgid, facts.process.status.namespace_pid);
        // Later it made a session of its own.
        self.number("pgid", body.pgid, Some(facts.parent.pgid));
        self.number("sid", body.sid, Some(facts.parent.sid));
    }

    fn exec(&mut self, header: &Header, exec: &Exec<'_>, facts: &Facts) {
        let body = exec.body;
        self.parent(body.parent_tgid, body.parent_start_ns, facts);
        self.exec_ids(body, &facts.process.status);
        let stat = &facts.process.stat;
        self.number("ns_tgid", body.ns_tgid, facts.process.status.namespace_pid);
        // Later it made a session of its own.
        self.number("pgid", body.pgid, Some(facts.parent.pgid));
        self.number("sid", body.sid, Some(facts.parent.sid));
        self.number("old_tid", body.old_tid, Some(facts.pid));
        self.number("secureexec", body.secureexec, Some(0_u32));
        if let Some([inode, device, mode]) = facts.executable {
            self.number("exe_inode", body.exe_inode, Some(inode));
            self.number("exe_dev", body.exe_dev, Some(device));
            self.number("exe_mode", body.exe_mode, Some(mode));
        }
        let arguments = &facts.process.arguments;
        let count = arguments.iter().filter(|byte| **byte == 0).count();
        self.number("args_count", body.args_count, u64::try_from(count).ok());
        self.number(
            "args_len",
            body.args_len,
            u64::try_from(arguments.len()).ok(),
        );
        if header.flags & (record_flag::TRUNCATED | record_flag::READ_FAULT) != 0 {
            return;
        }
        self.bytes("arguments", exec.arguments, arguments);
        self.bytes("filename", text(exec.filename), act::PROGRAM.as_bytes());
        self.bytes("comm", text(exec.comm), &stat.comm);
        if header.flags & record_flag::PATH_UNREACHABLE == 0 {
            let mut executable = text(exec.executable).to_vec();
            if header.flags & record_flag::EXE_DELETED != 0 {
                executable.extend(b" (deleted)");
            }
            self.bytes("executable", &executable, &facts.process.executable);
            let directory = text(exec.working_directory);
            self.bytes(
                "working_directory",
                directory,
                &facts.process.working_directory,
            );
        }
    }

    fn exec_ids(&mut self, body: &ExecBody, status: &Status) {
        if let Some([real, effective, saved, files]) = status.uids {
            self.number("fsuid", body.fsuid, Some(files));
            self.number("uid", body.uid, Some(real));
            self.number("euid", body.euid, Some(effective));
            self.number("suid", body.suid, Some(saved));
        }
        if let Some([real, effective, saved, files]) = status.gids {
            self.number("fsgid", body.fsgid, Some(files));
            self.number("gid", body.gid, Some(real));
            self.number("egid", body.egid, Some(effective));
            self.number("sgid", body.sgid, Some(saved));
        }
        self.number(
            "cap_effective",
            body.cap_effective,
            status.capabilities_effective,
        );
        self.number(
            "cap_permitted",
            body.cap_permitted,
            status.capabilities_permitted,
        );
    }

    fn creation(&mut self, header: &Header, file: &File<'_>, facts: &Facts) {
        let FileBody {
            inode,
            dev,
            mode,
            uid,
            gid,
            ..
        } = *file.body;
        let found = [inode, dev.into(), mode.into(), uid.into(), gid.into()];
        self.inode(found, "create", facts);
        let unsure =
            record_flag::TRUNCATED | record_flag::READ_FAULT | record_flag::PATH_UNREACHABLE;
        if header.flags & unsure == 0 {
            let path: OsString = facts.file.clone().into();
            self.bytes("path", text(file.path), path.as_bytes());
        }
    }

    /// Inode, device, mode and owner against what `stat` said of the file that an act made.
    fn inode(&mut self, found: [u64; 5], act: &str, facts: &Facts) {
        let names = ["inode", "dev", "mode", "uid", "gid"];
        for (index, (name, found)) in names.into_iter().zip(found).enumerate() {
            if index > 1 || facts.file_is_plain {
                self.number(name, found, facts.number(act, index));
            }
        }
    }

    /// The begin of one of the acts on the file made, and on what was made beside it.
    fn file_act(&mut self, header: &Header, act: &FileAct<'_>, facts: &Facts) {
        let file = &facts.file;
        let (path, made_by) = match self.kind {
            Kind::Link => (act::linked(file), "create"),
            Kind::Symlink => (act::symbolic(file), "symlink"),
            Kind::MakeDirectory => (act::directory(file), "mkdir"),
            Kind::MakeNode => (act::node(file), "mknod"),
            Kind::Delete => deleted(file, text(act.path)),
            _ => (act::renamed(file), "create"),
        };
        let FileActBody {
            inode,
            dev,
            mode,
            uid,
            gid,
            ..
        } = *act.body;
        // What is yet to be made has none, and the second choice knows none.
        if inode != 0 {
            let found = [inode, dev.into(), mode.into(), uid.into(), gid.into()];
            self.inode(found, made_by, facts);
        }
        let unsure =
            record_flag::TRUNCATED | record_flag::READ_FAULT | record_flag::PATH_UNREACHABLE;
        if header.flags & unsure == 0 {
            self.bytes("path", text(act.path), path.as_os_str().as_bytes());
            if matches!(self.kind, Kind::Rename | Kind::Link | Kind::Symlink) {
                let old = file.as_os_str().as_bytes();
                self.bytes("old path", text(act.old_path), old);
            }
        }
    }

    /// What came of an act. On a file system in layers the same acts come once more, and may fail there.
    fn file_end(&mut self, body: &FileEndBody, facts: &Facts) {
        let made_by = match crate::decode::kind_of(u16::try_from(body.kind).unwrap_or_default()) {
            Some(Kind::Rename) => "rename",
            Some(Kind::Delete) => "delete",
            Some(Kind::Link) => "link",
            Some(Kind::Symlink) => "symlink",
            Some(Kind::MakeDirectory) => "mkdir",
            Some(Kind::MakeNode) => "mknod",
            _ => {
                let expected = "that of an act".to_owned();
                return self.add("kind", body.kind.to_string(), expected);
            }
        };
        if !facts.file_is_plain || facts.not_done(made_by).is_some() {
            return;
        }
        self.number("result", body.result.unsigned_abs(), Some(0_u32));
        if body.inode != 0 {
            let FileEndBody {
                inode,
                dev,
                mode,
                uid,
                gid,
                ..
            } = *body;
            let found = [inode, dev.into(), mode.into(), uid.into(), gid.into()];
            self.inode(found, made_by, facts);
        }
    }

    /// The saved group changes to another and back; at the second choice each change is told by one record before, one after.
    fn credentials(&mut self, body: &CredentialsBody, facts: &Facts) {
        let sides = match body.moment {
            moment::BEFORE => [Some(&body.old), None],
            moment::AFTER => [None, Some(&body.new)],
            _ => [Some(&body.old), Some(&body.new)],
        };
        let status = &facts.process.status;
        for ids in sides.into_iter().flatten() {
            if let Some(expected) = status.uids {
                self.ids(["uid", "euid", "suid", "fsuid"], ids.users(), expected);
            }
            if let Some([real, effective, saved, files]) = status.gids {
                let other = facts.number("credentials", 1);
                let is_other = other.is_some() && other == Some(ids.sgid.into());
                let saved = if is_other { ids.sgid } else { saved };
                let expected = [real, effective, saved, files];
                self.ids(["gid", "egid", "sgid", "fsgid"], ids.groups(), expected);
            }
        }
        if body.moment == moment::CHANGE && facts.not_done("credentials").is_none() {
            let changed = u32::from(body.old.sgid != body.new.sgid);
            self.number("sgid", changed, Some(1_u32));
        }
    }

    fn ids(&mut self, names: [&'static str; 4], found: [u32; 4], expected: [u32; 4]) {
        for (name, (found, expected)) in names.into_iter().zip(found.into_iter().zip(expected)) {
            self.number(name, found, Some(expected));
        }
    }

    fn connect(&mut self, body: &ConnectBody, facts: &Facts, is_dialler: bool) {
        let loopback = match body.family {
            AF_INET => Some(("connect4", address(&[127, 0, 0, 1]), 4)),
            AF_INET6 => {
                let mut last = [0; 16];
                last[15] = 1;
                Some(("connect6", last, 16))
            }
            _ => None,
        };
        let Some((act, loopback, len)) = loopback else {
            self.add("family", body.family.to_string(), "2 or 10".to_owned());
            return;
        };
        let (local, remote) = if is_dialler { (0, 1) } else { (1, 0) };
        self.number("remote_port", body.remote_port, facts.number(act, remote));
        // Not chosen yet at the second-choice hook.
        if body.local_port != 0 {
            self.number("local_port", body.local_port, facts.number(act, local));
        }
        self.number("protocol", body.protocol, Some(IPPROTO_TCP));
        self.number(
            "netns",
            body.netns,
            facts.network_namespace.filter(|_| body.netns != 0),
        );
        let shown = |address: &[u8; 16]| address.get(..len).unwrap_or_default().to_vec();
        self.bytes("remote", &shown(&body.remote), &shown(&loopback));
        self.bytes("local", &shown(&body.local), &shown(&loopback));
    }
}

/// Which of the names that are removed this is, and the act that made what it stood for.
fn deleted(file: &Path, path: &[u8]) -> (PathBuf, &'static str) {
    let others = [
        (act::linked(file), "create"),
        (act::symbolic(file), "symlink"),
        (act::node(file), "mknod"),
    ];
    let found = others
        .into_iter()
        .find(|(other, _)| other.as_os_str().as_bytes() == path);
    found.unwrap_or_else(|| (act::renamed(file), "create"))
}

fn address(start: &[u8; 4]) -> [u8; 16] {
    let mut whole = [0; 16];
    for (to, from) in whole.iter_mut().zip(start) {
        *to = *from;
    }
    whole
}

fn effective(ids: Option<[u32; 4]>) -> Option<u32> {
    ids.map(|[_, effective, _, _]| effective)
}

/// Without the NUL it may end with.
fn text(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sensor_ebpf::{ExitBody, Ids};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::enrich::procfs::{Snapshot, Stat};

    const START: u64 = 123 * TICK_NS + 5;

    fn facts() -> Facts {
        let done = |numbers: &[u64]| Ok(numbers.to_vec());
        Facts {
            pid: 7,
            process: Snapshot {
                stat: Stat {
                    pid: 7,
                    comm: b"exe".to_vec(),
                    parent: 5,
                    pgid: 5,
                    sid: 4,
                    start_ticks: 123,
                    ..Stat::default()
                },
                status: Status {
                    uids: Some([1, 2, 3, 2]),
                    gids: Some([4, 5, 6, 5]),
                    namespace_pid: Some(7),
                    capabilities_permitted: Some(1 << 40),
                    capabilities_effective: Some(9),
                },
                executable: b"/usr/sbin/eql-sensor".to_vec(),
                working_directory: b"/".to_vec(),
                arguments: b"/proc/self/exe\0self-check-act\0t\0/run\0".to_vec(),
                ..Snapshot::default()
            },
            parent: Stat {
                pid: 5,
                pgid: 5,
                sid: 4,
                start_ticks: 99,
                ..Stat::default()
            },
            mount_namespace: Some(11),
            network_namespace: Some(12),
            executable: Some([77, 78, 0o100_755]),
            file: "/run/.f".into(),
            file_is_plain: true,
            acts: [
                ("create".to_owned(), done(&[80, 81, 0o100_600, 0, 0])),
                ("symlink".to_owned(), done(&[90, 81, 0o120_777, 0, 0])),
                ("mknod".to_owned(), Err("not permitted".to_owned())),
                ("link".to_owned(), done(&[])),
                ("credentials".to_owned(), done(&[6, 7])),
                ("connect4".to_owned(), done(&[4000, 5000])),
                ("connect6".to_owned(), Err("no address".to_owned())),
            ]
            .into(),
        }
    }

    fn header(kind: Kind) -> Header {
        let mut header = Header::new_zeroed();
        header.kind = kind as u16;
        header.tgid = 7;
        header.start_ns = START;
        (header.uid, header.gid, header.mntns) = (2, 5, 11);
        header
    }

    fn exec_body() -> ExecBody {
        let mut body = ExecBody::new_zeroed();
        (body.parent_tgid, body.parent_start_ns) = (5, 99 * TICK_NS);
        (body.uid, body.euid, body.suid) = (1, 2, 3);
        (body.gid, body.egid, body.sgid) = (4, 5, 6);
        (body.fsuid, body.fsgid) = (2, 5);
        (body.ns_tgid, body.pgid, body.sid, body.old_tid) = (7, 5, 4, 7);
        (body.exe_inode, body.exe_dev, body.exe_mode) = (77, 78, 0o100_755);
        (body.args_count, body.args_len) = (4, 37);
        (body.cap_permitted, body.cap_effective) = (1 << 40, 9);
        body
    }

    fn connect_body() -> ConnectBody {
        let mut body = ConnectBody::new_zeroed();
        (body.family, body.protocol, body.netns) = (AF_INET, IPPROTO_TCP, 12);
        (body.local_port, body.remote_port) = (4000, 5000);
        body.local = address(&[127, 0, 0, 1]);
        body.remote = body.local;
        body
    }

    fn fields(header: &Header, body: Body<'_>) -> Vec<&'static str> {
        let record = Record {
            header,
            body,
            unknown_parts: 0,
        };
        let found = compare(&record, &facts());
        found.into_iter().map(|mismatch| mismatch.field).collect()
    }

    fn exec_fields(change: impl Fn(&mut Header, &mut ExecBody)) -> Vec<&'static str> {
        let (mut header, mut body) = (header(Kind::Exec), exec_body());
        change(&mut header, &mut body);
        let facts = facts();
        let exec = Exec {
            body: &body,
            filename: b"/proc/self/exe\0",
            executable: b"/usr/sbin/eql-sensor",
            interpreter: b"",
            working_directory: b"/",
            comm: b"exe\0\0\0",
            arguments: &facts.process.arguments,
            environment: b"",
        };
        fields(&header, Body::Exec(exec))
    }

    #[test]
    fn a_right_record_has_no_mismatch() {
        assert_eq!(exec_fields(|_, _| {}), [""; 0]);
        assert_eq!(
            fields(&header(Kind::Connect), Body::Connect(&connect_body())),
            [""; 0]
        );
        let exit = ExitBody {
            status: 23 << 8,
            reserved: 0,
        };
        assert_eq!(fields(&header(Kind::Exit), Body::Exit(&exit)), [""; 0]);
    }

    #[test]
    fn every_wrong_field_is_named() {
        type Change = fn(&mut Header, &mut ExecBody);
        let cases: [(&str, Change); 12] = [
            ("tgid", |h, _| h.tgid = 8),
            ("start_ns / 10 ms", |h, _| h.start_ns += TICK_NS),
            ("uid", |h, _| h.uid = 0),
            ("gid", |h, _| h.gid = 0),
            ("mntns", |h, _| h.mntns = 0),
            ("parent_tgid", |_, b| b.parent_tgid = 1),
            ("parent_start_ns / 10 ms", |_, b| b.parent_start_ns = 0),
            ("suid", |_, b| b.suid = 9),
            ("cap_permitted", |_, b| b.cap_permitted = 0),
            ("exe_inode", |_, b| b.exe_inode = 1),
            ("args_count", |_, b| b.args_count = 3),
            ("sid", |_, b| b.sid = 0),
        ];
        for (field, change) in cases {
            assert_eq!(exec_fields(change), [field]);
        }
        // What could not be read or was cut is the kernel's word against nothing.
        assert_eq!(
            exec_fields(|h, _| h.flags = record_flag::READ_FAULT),
            [""; 0]
        );
    }

    #[test]
    fn addresses_ports_and_paths_are_compared() {
        let mut body = connect_body();
        body.remote_port = 5001;
        body.remote[0] = 128;
        assert_eq!(
            fields(&header(Kind::Connect), Body::Connect(&body)),
            ["remote_port", "remote"]
        );
        let mut body = FileBody::new_zeroed();
        (body.inode, body.dev, body.mode) = (80, 81, 0o100_600);
        let file = |path| File { body: &body, path };
        let of = header(Kind::FileCreate);
        assert_eq!(fields(&of, Body::FileCreate(file(b"/run/.f\0"))), [""; 0]);
        assert_eq!(fields(&of, Body::FileCreate(file(b"/f\0"))), ["path"]);
    }

    #[test]
    fn file_acts_are_compared_by_both_paths_and_the_inode() {
        let mut body = FileActBody::new_zeroed();
        let renamed = super::act::renamed(std::path::Path::new("/run/.f"));
        fn act<'a>(body: &'a FileActBody, old_path: &'a [u8], path: &'a [u8]) -> Body<'a> {
            Body::FileAct(FileAct {
                body,
                old_directory: b"",
                old_path,
                directory: b"",
                path,
            })
        }
        let new = renamed.as_os_str().as_bytes();
        let of = header(Kind::Rename);
        assert_eq!(fields(&of, act(&body, b"/run/.f", new)), [""; 0]);
        let swapped = act(&body, new, b"/run/.f");
        assert_eq!(fields(&of, swapped), ["path", "old path"]);
        (body.inode, body.dev, body.mode) = (81, 81, 0o100_600);
        let of = header(Kind::Delete);
        assert_eq!(fields(&of, act(&body, b"", new)), ["inode"]);
        // Another name that is removed stands for what was made under it.
        (body.inode, body.mode) = (90, 0o120_777);
        let of_link = act(&body, b"", b"/run/.f-symbolic");
        assert_eq!(fields(&of, of_link), [""; 0]);
        let of = header(Kind::Link);
        let linked = b"/run/.f-linked";
        assert_eq!(
            fields(&of, act(&body, b"/run/.f", linked)),
            ["inode", "mode"]
        );
        body.inode = 0;
        assert_eq!(fields(&of, act(&body, b"/run/.f", linked)), [""; 0]);
        assert_eq!(fields(&of, act(&body, b"/f", linked)), ["old path"]);
        let of = header(Kind::MakeDirectory);
        assert_eq!(fields(&of, act(&body, b"", linked)), ["path"]);
    }

    #[test]
    fn ends_of_acts_and_ids_are_compared() {
        let mut body = FileEndBody::new_zeroed();
        let of = header(Kind::FileEnd);
        assert_eq!(fields(&of, Body::FileEnd(&body)), ["kind"]);
        body.kind = Kind::Symlink as u32;
        (body.inode, body.dev, body.mode) = (90, 81, 0o120_777);
        assert_eq!(fields(&of, Body::FileEnd(&body)), [""; 0]);
        (body.inode, body.result) = (91, -17);
        assert_eq!(fields(&of, Body::FileEnd(&body)), ["result", "inode"]);
        // The node could not be made.
        body.kind = Kind::MakeNode as u32;
        assert_eq!(fields(&of, Body::FileEnd(&body)), [""; 0]);

        let ids = |sgid| Ids {
            uid: 1,
            gid: 4,
            suid: 3,
            sgid,
            euid: 2,
            egid: 5,
            fsuid: 2,
            fsgid: 5,
        };
        let mut body = CredentialsBody::new_zeroed();
        let of = header(Kind::Credentials);
        (body.old, body.new) = (ids(6), ids(7));
        assert_eq!(fields(&of, Body::Credentials(&body)), [""; 0]);
        body.new = ids(6);
        assert_eq!(fields(&of, Body::Credentials(&body)), ["sgid"]);
        (body.old, body.moment) = (ids(8), moment::BEFORE);
        assert_eq!(fields(&of, Body::Credentials(&body)), ["sgid"]);
        body.old = Ids::new_zeroed();
        body.moment = moment::AFTER;
        assert_eq!(fields(&of, Body::Credentials(&body)), [""; 0]);
    }

    #[test]
    fn a_mismatch_says_what_was_found_and_expected() {
        let mut header = header(Kind::Exit);
        header.tgid = 9;
        let exit = ExitBody {
            status: 23 << 8,
            reserved: 0,
        };
        let record = Record {
            header: &header,
            body: Body::Exit(&exit),
            unknown_parts: 0,
        };
        let found = compare(&record, &facts());
        assert_eq!(
            found.first().map(ToString::to_string).as_deref(),
            Some("`tgid` of the `end` record is 9, must be 7")
        );
    }

    #[test]
    fn an_act_that_could_not_be_done_is_not_missed() {
        let mut facts = facts();
        assert_eq!(expected(Kind::Connect, &facts), Ok(1));
        facts
            .acts
            .insert("connect4".to_owned(), Err("down".to_owned()));
        assert_eq!(
            expected(Kind::Connect, &facts),
            Err("the self-check could not do it here: down".to_owned())
        );
    }
}
