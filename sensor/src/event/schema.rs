//! Every field an event of this sensor can carry: one row each, sorted by path.
//!
//! In: a typed [`Event`]. Out: values of a field by its row, and what rules, checker and documentation need to know of it.
//! A getter never allocates and never looks outside the event.

use std::net::IpAddr;
use std::sync::Arc;

use super::file::{Change, Inode, PathText};
use super::process::{Facts, Image, Leader};
use super::{
    Account, Container, Contents, Dns, Event, File, Kind, Kinds, Network, OwnedValue, Value, Values,
};

/// Declared type of a field. Ids of users, groups and inodes are keywords, as in ECS; rules may still compare them with
/// numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    Keyword,
    Number,
    Boolean,
    Ip,
    Date,
}

impl FieldType {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FieldType::Keyword => "keyword",
            FieldType::Number => "number",
            FieldType::Boolean => "boolean",
            FieldType::Ip => "ip",
            FieldType::Date => "date",
        }
    }
}

/// One field.
#[derive(Debug)]
pub struct FieldRow {
    /// ECS name, dotted.
    pub path: &'static str,
    pub ty: FieldType,
    /// Event kinds that carry it; on others it is missing.
    pub kinds: Kinds,
    /// How it is obtained, in one clause.
    pub how: &'static str,
    /// Documents show it as an array, even of one.
    pub array: bool,
    /// Documents show the first value only; all of them stand under this path.
    pub all_values: Option<&'static str>,
    /// Values on an event of one of `kinds`.
    pub get: fn(&Event) -> Values<'_>,
}

/// Row of a path.
#[must_use]
pub fn position(path: &str) -> Option<usize> {
    FIELDS.binary_search_by(|row| row.path.cmp(path)).ok()
}

/// Row of a path.
#[must_use]
pub fn field(path: &str) -> Option<&'static FieldRow> {
    FIELDS.get(position(path)?)
}

/// Whether rows lie below a path: it may be compared with null and nothing else.
#[must_use]
pub fn is_object(path: &str) -> bool {
    let first = FIELDS.partition_point(|row| row.path <= path);
    // Rows are sorted, but a name may sort between an object and its members (`a`, `a-b`, `a.c`).
    FIELDS.iter().skip(first).any(|row| {
        row.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.starts_with('.'))
    })
}

const PROCESS_AND_NETWORK: Kinds = Kinds::PROCESS.and(Kinds::NETWORK);
const END: Kinds = Kinds::NONE.with(Kind::End);
const MODIFICATION: Kinds = Kinds::NONE.with(Kind::Modification);
const THROTTLE_END: Kinds = Kinds::NONE.with(Kind::ThrottleEnded);
const MEMFD: Kinds = Kinds::NONE.with(Kind::MemfdCreate);
const PTRACE: Kinds = Kinds::NONE.with(Kind::Ptrace);
const MODULE: Kinds = Kinds::NONE.with(Kind::LoadModule);
/// Acts that leave a file with contents.
const FILLED: Kinds = MODIFICATION.with(Kind::Creation).with(Kind::Rename);
const RENAME: Kinds = Kinds::NONE.with(Kind::Rename);
/// File acts of two records.
const ACTS: Kinds = LINKS
    .with(Kind::Rename)
    .with(Kind::Deletion)
    .with(Kind::MakeDirectory)
    .with(Kind::MakeNode);
const LINKS: Kinds = Kinds::NONE.with(Kind::Link).with(Kind::Symlink);
const ANSWER: Kinds = Kinds::NONE.with(Kind::LookupResult);
const DNS: Kinds = ANSWER.with(Kind::LookupRequested);

const fn row(
    path: &'static str,
    ty: FieldType,
    kinds: Kinds,
    how: &'static str,
    get: fn(&Event) -> Values<'_>,
) -> FieldRow {
    FieldRow {
        path,
        ty,
        kinds,
        how,
        array: false,
        all_values: None,
        get,
    }
}

impl FieldRow {
    const fn array(mut self) -> FieldRow {
        self.array = true;
        self
    }

    const fn all_in(mut self, path: &'static str) -> FieldRow {
        self.all_values = Some(path);
        self
    }
}

/// The schema, sorted by path (bytewise).
#[rustfmt::skip] // one line a field, to be read as a table
pub static FIELDS: &[FieldRow] = &[
    row("@timestamp", FieldType::Date, Kinds::ALL, "time of the kernel hook on the boot clock, shown as wall time", |e| Values::One(Value::Date(e.wall_ns))),
    row("agent.id", FieldType::Keyword, Kinds::ALL, "made once and kept in the state directory", |e| text(&e.host.agent_id)),
    row("container.id", FieldType::Keyword, Kinds::ALL, "from the path of the control group (version 2)", |e| maybe(container(e).map(|c| &*c.id))),
    row("container.runtime", FieldType::Keyword, Kinds::ALL, "from the path of the control group (version 2)", |e| maybe(container(e).and_then(|c| c.runtime))),
    row("data_stream.dataset", FieldType::Keyword, Kinds::ALL, "constant of the event kind", |e| fixed(e.kind.dataset())),
    row("destination.address", FieldType::Keyword, Kinds::NETWORK, "`destination.ip` as text", |e| maybe(network(e).and_then(|n| n.destination.address()))),
    row("destination.ip", FieldType::Ip, Kinds::NETWORK, "address connected to; absent while the kernel has not chosen it", |e| ip(network(e).and_then(|n| n.destination.ip))),
    row("destination.port", FieldType::Number, Kinds::NETWORK, "port connected to; absent while the kernel has not chosen it", |e| number(network(e).and_then(|n| n.destination.port))),
    row("dns.Ext.status", FieldType::Number, ANSWER, "response code of the message, as a number", |e| number(dns(e).map(|d| d.response_code.number))),
    row("dns.id", FieldType::Keyword, DNS, "number of the message", |e| maybe(dns(e).map(|d| d.id.as_str()))),
    row("dns.op_code", FieldType::Keyword, DNS, "kind of query, from the message", |e| maybe(dns(e).map(|d| d.op_code.name()))),
    row("dns.question.class", FieldType::Keyword, DNS, "class of what is asked, from the message", |e| maybe(dns(e).map(|d| d.question.class.name()))),
    row("dns.question.name", FieldType::Keyword, DNS, "name that is asked for, from the message sent or received on port 53", |e| maybe(dns(e).map(|d| &*d.question.name))),
    row("dns.question.type", FieldType::Keyword, DNS, "type of record that is asked for, from the message", |e| maybe(dns(e).map(|d| d.question.kind.name()))),
    row("dns.resolved_ip", FieldType::Ip, ANSWER, "addresses in the answers of the message, as far as its first 512 bytes go", |e| list(dns(e).map(|d| &*d.resolved))).array(),
    row("dns.response_code", FieldType::Keyword, ANSWER, "response code of the message", |e| maybe(dns(e).map(|d| d.response_code.name()))),
    row("dns.type", FieldType::Keyword, DNS, "`query` or `answer`", |e| maybe(dns(e).map(|d| if d.answer { "answer" } else { "query" }))),
    row("event.Ext.incomplete", FieldType::Boolean, Kinds::ALL, "true when something could not be read or did not fit, and `/proc` had it no more; else absent", |e| boolean(Some(true).filter(|_| e.marks.incomplete))),
    row("event.Ext.truncated", FieldType::Boolean, Kinds::ALL, "true when some text was cut at its bound, and `/proc` had it no more; else absent", |e| boolean(Some(true).filter(|_| e.marks.truncated))),
    row("event.action", FieldType::Keyword, Kinds::ALL, "constant of the event kind", |e| fixed(e.kind.action())),
    row("event.category", FieldType::Keyword, Kinds::ALL, "constant of the event kind", |e| Values::Static(e.kind.categories())).array(),
    row("event.dataset", FieldType::Keyword, Kinds::ALL, "constant of the event kind", |e| fixed(e.kind.dataset())),
    row("event.kind", FieldType::Keyword, Kinds::ALL, "constant `event`", |_| fixed("event")),
    row("event.module", FieldType::Keyword, Kinds::ALL, "constant `endpoint`, as public rules expect", |_| fixed("endpoint")),
    row("event.outcome", FieldType::Keyword, Kinds::ALL, "`success`, since only acts that succeeded are reported, but `failure` for `connection_denied`; `unknown` where the record that would say so was lost", |e| fixed(if e.kind == Kind::ConnectionDenied { "failure" } else if e.confirmed() { "success" } else { "unknown" })),
    row("event.sequence", FieldType::Number, Kinds::ALL, "position in this run of the sensor, from 1", |e| int(e.sequence)),
    row("event.type", FieldType::Keyword, Kinds::ALL, "constant of the event kind", |e| Values::Static(e.kind.types())).array(),
    row("file.Ext.entropy", FieldType::Number, FILLED, "entropy of the whole file in bits a byte, 0 to 8, read a moment after the act, once the writer pauses; absent unless a rule reads it or recordings are to hold it", |e| contents(e).and_then(|c| c.whole.as_ref()).map_or(Values::Missing, |whole| Values::One(Value::Float(whole.entropy)))),
    row("file.Ext.header_bytes", FieldType::Keyword, FILLED, "first 16 bytes in lower-case hex, read a moment after the act, once the writer pauses; absent unless a rule reads it or recordings are to hold it", |e| contents(e).map_or(Values::Missing, |c| text(&c.header))),
    row("file.Ext.modification", FieldType::Keyword, MODIFICATION, "what was done: `write` (the first of an open), `truncate`, `chmod` or `chown`", |e| maybe(file(e).and_then(|f| f.change).map(Change::name))),
    row("file.Ext.original.directory", FieldType::Keyword, RENAME, "`file.Ext.original.path` without its last component", |e| maybe(original(e).and_then(PathText::directory))),
    row("file.Ext.original.extension", FieldType::Keyword, RENAME, "what follows the last dot of `file.Ext.original.name`; absent without a dot", |e| maybe(original(e).and_then(PathText::extension))),
    row("file.Ext.original.name", FieldType::Keyword, RENAME, "last component of `file.Ext.original.path`", |e| maybe(original(e).and_then(PathText::name))),
    row("file.Ext.original.path", FieldType::Keyword, RENAME, "path before the rename as the acting process saw it", |e| maybe(original(e).and_then(PathText::path))),
    row("file.Ext.path_from_user", FieldType::Boolean, ACTS.with(Kind::Modification), "true when the path is as the caller wrote it, made absolute but with symbolic links not followed: where function hooks are refused", |e| boolean(file(e).map(|f| f.path_from_user).filter(|from_user| *from_user))),
    row("file.directory", FieldType::Keyword, Kinds::FILE, "`file.path` without its last component", |e| maybe(file(e).and_then(File::directory))),
    row("file.extension", FieldType::Keyword, Kinds::FILE, "what follows the last dot of `file.name`; absent without a dot", |e| maybe(file(e).and_then(File::extension))),
    row("file.gid", FieldType::Keyword, Kinds::FILE, "group of the inode", |e| maybe(inode(e).map(|i| i.group.id.as_str()))),
    row("file.group", FieldType::Keyword, Kinds::FILE, "name of `file.gid` in the group file", |e| maybe(inode(e).and_then(|i| i.group.name.as_deref()))),
    row("file.hash.sha256", FieldType::Keyword, FILLED, "hash of the whole file, read a moment after the act, once the writer pauses; absent unless a rule reads it or recordings are to hold it", |e| maybe(contents(e).and_then(|c| c.whole.as_ref()).map(|whole| &*whole.sha256))),
    row("file.inode", FieldType::Keyword, Kinds::FILE, "number of the inode", |e| maybe(inode(e).map(|i| i.number.as_str()))),
    row("file.mode", FieldType::Keyword, Kinds::FILE, "permission bits of the inode, four octal digits", |e| maybe(inode(e).map(|i| i.mode.as_str()))),
    row("file.name", FieldType::Keyword, Kinds::FILE, "last component of `file.path`", |e| maybe(file(e).and_then(File::name))),
    row("file.owner", FieldType::Keyword, Kinds::FILE, "name of `file.uid` in the password file", |e| maybe(inode(e).and_then(|i| i.owner.name.as_deref()))),
    row("file.path", FieldType::Keyword, Kinds::FILE, "path as the acting process sees it; after a rename the new one", |e| maybe(file(e).and_then(File::path))),
    row("file.size", FieldType::Number, FILLED, "bytes, read a moment after the act, once the writer pauses; absent unless a rule reads it or recordings are to hold it", |e| contents(e).map_or(Values::Missing, |c| int(c.size))),
    row("file.target_path", FieldType::Keyword, LINKS, "text of the symbolic link, or path of the file linked to", |e| maybe(file(e).and_then(|f| f.target.as_deref()))),
    row("file.type", FieldType::Keyword, Kinds::FILE, "type bits of the inode mode", |e| maybe(file(e).and_then(File::file_type))),
    row("file.uid", FieldType::Keyword, Kinds::FILE, "owner of the inode", |e| maybe(inode(e).map(|i| i.owner.id.as_str()))),
    row("group.Ext.real.id", FieldType::Keyword, Kinds::ALL, "real gid of the process", |e| account_id(facts(e).credentials.real_group.as_ref())),
    row("group.Ext.real.name", FieldType::Keyword, Kinds::ALL, "name of `group.Ext.real.id` in the group file", |e| account_name(facts(e).credentials.real_group.as_ref())),
    row("group.id", FieldType::Keyword, Kinds::ALL, "effective gid at the hook", |e| account_id(Some(&e.group))),
    row("group.name", FieldType::Keyword, Kinds::ALL, "name of `group.id` in the group file", |e| account_name(Some(&e.group))),
    row("host.architecture", FieldType::Keyword, Kinds::ALL, "machine name of the running kernel", |e| text(&e.host.architecture)),
    row("host.id", FieldType::Keyword, Kinds::ALL, "machine id", |e| text(&e.host.id)),
    row("host.name", FieldType::Keyword, Kinds::ALL, "node name of the running kernel", |e| text(&e.host.name)),
    row("host.os.kernel", FieldType::Keyword, Kinds::ALL, "release of the running kernel", |e| text(&e.host.kernel)),
    row("host.os.type", FieldType::Keyword, Kinds::ALL, "constant `linux`", |_| fixed("linux")),
    row("network.direction", FieldType::Keyword, Kinds::NETWORK, "`egress` for a connect or a lookup, `ingress` for an accept; on `disconnect_received` as on the event that began the connection", |e| maybe(network(e).map(|n| n.direction.name()))),
    row("network.protocol", FieldType::Keyword, DNS, "constant `dns`", |e| maybe(dns(e).map(|_| "dns"))),
    row("network.transport", FieldType::Keyword, Kinds::NETWORK, "protocol of the socket", |e| maybe(network(e).and_then(|n| n.transport.name()))),
    row("network.type", FieldType::Keyword, Kinds::NETWORK, "version of the addresses: `ipv4` or `ipv6`", |e| maybe(network(e).and_then(Network::ip_version))),
    row("process.Ext.ancestry", FieldType::Keyword, Kinds::PROCESS, "entity ids of the ancestors, nearest first, at most 32, from the process table", |e| strs(Some(e.process.lineage.entity_ids()))).array(),
    row("process.Ext.cgroup", FieldType::Keyword, Kinds::ALL, "path of the control group (version 2), by its number in the record", |e| maybe(facts(e).cgroup.as_ref().map(|c| &*c.path))),
    row("process.Ext.executables", FieldType::Keyword, Kinds::ALL, "every value of `process.executable`", |e| strs(Some(&image(e).executables))).array(),
    row("process.Ext.exit_signal", FieldType::Number, END, "signal that ended the process; absent when it exited by itself", |e| number(e.exit().and_then(|x| x.signal))),
    row("process.Ext.load_module.name", FieldType::Keyword, MODULE, "name of the kernel module", |e| maybe(e.module().map(|m| &*m.name))),
    row("process.Ext.load_module.taint_flags", FieldType::Keyword, MODULE, "the kernel's letters for how the module taints it; absent when it does not", |e| names(e.module().map(|m| &*m.taints))).array(),
    row("process.Ext.memfd.name", FieldType::Keyword, MEMFD, "name given to the file in memory, then the same with `memfd:` before it", |e| strs(e.memfd().map(|m| &m.names[..]))).all_in("process.Ext.memfd.names"),
    row("process.Ext.memfd.names", FieldType::Keyword, MEMFD, "every value of `process.Ext.memfd.name`", |e| strs(e.memfd().map(|m| &m.names[..]))).array(),
    row("process.Ext.mount_namespace", FieldType::Number, Kinds::ALL, "inode number of the mount namespace at fork or exec", |e| number(facts(e).mount_namespace)),
    row("process.Ext.names", FieldType::Keyword, Kinds::ALL, "every value of `process.name`", |e| strs(Some(&image(e).names))).array(),
    row("process.Ext.ptrace.child_pid", FieldType::Number, PTRACE, "thread group id of the process that is traced now", |e| number(e.traced().map(|t| t.pid))),
    row("process.Ext.ptrace.request", FieldType::Keyword, PTRACE, "`PTRACE_ATTACH` or `PTRACE_SEIZE`", |e| maybe(e.traced().map(|t| t.request))),
    row("process.args", FieldType::Keyword, Kinds::PROCESS, "argument area of the process at exec, split at NUL; an interpreter comes first", |e| strs(Some(&image(e).args))).array(),
    row("process.args_count", FieldType::Number, Kinds::PROCESS, "true number of arguments, also when they were cut", |e| number(image(e).args_count)),
    row("process.command_line", FieldType::Keyword, Kinds::PROCESS, "`process.args` joined by one space", |e| maybe(image(e).command_line())),
    row("process.end", FieldType::Date, END, "time of the hook", |e| Values::One(Value::Date(e.wall_ns))),
    row("process.entity_id", FieldType::Keyword, Kinds::ALL, "hash of host, boot, pid and start time", |e| text(&facts(e).entity_id)),
    row("process.entry_leader.Ext.executables", FieldType::Keyword, Kinds::PROCESS, "every value of `process.entry_leader.executable`", |e| strs(leader_image(entry_leader(e)).map(|i| &*i.executables))).array(),
    row("process.entry_leader.Ext.names", FieldType::Keyword, Kinds::PROCESS, "every value of `process.entry_leader.name`", |e| strs(leader_image(entry_leader(e)).map(|i| &*i.names))).array(),
    row("process.entry_leader.args", FieldType::Keyword, Kinds::PROCESS, "entry leader, from the process table", |e| strs(leader_image(entry_leader(e)).map(|i| &*i.args))).array(),
    row("process.entry_leader.args_count", FieldType::Number, Kinds::PROCESS, "entry leader, from the process table", |e| number(leader_image(entry_leader(e)).and_then(|i| i.args_count))),
    row("process.entry_leader.command_line", FieldType::Keyword, Kinds::PROCESS, "entry leader, from the process table", |e| maybe(leader_image(entry_leader(e)).and_then(Image::command_line))),
    row("process.entry_leader.entity_id", FieldType::Keyword, Kinds::ALL, "entry leader, from the process table", |e| maybe(entry_leader(e).and_then(|l| l.entity_id.as_deref()))),
    row("process.entry_leader.entry_meta.type", FieldType::Keyword, Kinds::PROCESS, "how the entry leader came in: container (by its control group or runtime), terminal, console, init, sshd, cron, ssm, kubelet, teleport or unknown", |e| maybe(e.process.entry_leader.as_ref().map(|entry| entry.kind.name()))),
    row("process.entry_leader.executable", FieldType::Keyword, Kinds::PROCESS, "entry leader, from the process table", |e| strs(leader_image(entry_leader(e)).map(|i| &*i.executables))).all_in("process.entry_leader.Ext.executables"),
    row("process.entry_leader.name", FieldType::Keyword, Kinds::PROCESS, "entry leader, from the process table", |e| strs(leader_image(entry_leader(e)).map(|i| &*i.names))).all_in("process.entry_leader.Ext.names"),
    row("process.entry_leader.pid", FieldType::Number, Kinds::PROCESS, "entry leader's pid", |e| number(entry_leader(e).map(|l| l.pid))),
    row("process.entry_leader.same_as_process", FieldType::Boolean, Kinds::PROCESS, "the process is its own entry leader", |e| boolean(entry_leader(e).map(|l| l.pid == facts(e).pid))),
    row("process.entry_leader.working_directory", FieldType::Keyword, Kinds::PROCESS, "entry leader, from the process table", |e| maybe(leader_image(entry_leader(e)).and_then(|i| i.working_directory.as_deref()))),
    row("process.env_vars", FieldType::Keyword, Kinds::PROCESS, "environment at exec, as `NAME=value`: the variables that rules or settings name, of the first 12 KiB or all while the process lives", |e| strs(Some(&image(e).environment))).array(),
    row("process.executable", FieldType::Keyword, Kinds::ALL, "resolved path of the executable, then the path of the script it runs", |e| strs(Some(&image(e).executables))).all_in("process.Ext.executables"),
    row("process.exit_code", FieldType::Number, END, "exit code; 0 when a signal ended the process", |e| number(e.exit().map(|x| x.code))),
    row("process.group.id", FieldType::Keyword, Kinds::ALL, "effective gid at the hook", |e| account_id(Some(&e.group))),
    row("process.group.name", FieldType::Keyword, Kinds::ALL, "name of `process.group.id` in the group file", |e| account_name(Some(&e.group))),
    row("process.group_leader.Ext.executables", FieldType::Keyword, Kinds::PROCESS, "every value of `process.group_leader.executable`", |e| strs(leader_image(e.process.group_leader.as_ref()).map(|i| &*i.executables))).array(),
    row("process.group_leader.Ext.names", FieldType::Keyword, Kinds::PROCESS, "every value of `process.group_leader.name`", |e| strs(leader_image(e.process.group_leader.as_ref()).map(|i| &*i.names))).array(),
    row("process.group_leader.args", FieldType::Keyword, Kinds::PROCESS, "process group leader, from the process table", |e| strs(leader_image(e.process.group_leader.as_ref()).map(|i| &*i.args))).array(),
    row("process.group_leader.args_count", FieldType::Number, Kinds::PROCESS, "process group leader, from the process table", |e| number(leader_image(e.process.group_leader.as_ref()).and_then(|i| i.args_count))),
    row("process.group_leader.command_line", FieldType::Keyword, Kinds::PROCESS, "process group leader, from the process table", |e| maybe(leader_image(e.process.group_leader.as_ref()).and_then(Image::command_line))),
    row("process.group_leader.entity_id", FieldType::Keyword, Kinds::ALL, "process group leader, from the process table", |e| maybe(e.process.group_leader.as_ref().and_then(|l| l.entity_id.as_deref()))),
    row("process.group_leader.executable", FieldType::Keyword, Kinds::PROCESS, "process group leader, from the process table", |e| strs(leader_image(e.process.group_leader.as_ref()).map(|i| &*i.executables))).all_in("process.group_leader.Ext.executables"),
    row("process.group_leader.name", FieldType::Keyword, Kinds::PROCESS, "process group leader, from the process table", |e| strs(leader_image(e.process.group_leader.as_ref()).map(|i| &*i.names))).all_in("process.group_leader.Ext.names"),
    row("process.group_leader.pid", FieldType::Number, Kinds::PROCESS, "process group leader's pid", |e| number(e.process.group_leader.as_ref().map(|l| l.pid))),
    row("process.group_leader.same_as_process", FieldType::Boolean, Kinds::PROCESS, "the process is its own process group leader", |e| boolean(e.process.group_leader.as_ref().map(|l| l.pid == facts(e).pid))),
    row("process.group_leader.working_directory", FieldType::Keyword, Kinds::PROCESS, "process group leader, from the process table", |e| maybe(leader_image(e.process.group_leader.as_ref()).and_then(|i| i.working_directory.as_deref()))),
    row("process.hash.sha256", FieldType::Keyword, Kinds::ALL, "hash of the executable file, read when a program is first seen; absent unless a rule reads it or recordings are to hold it", |e| maybe(image(e).program.sha256())),
    row("process.interactive", FieldType::Boolean, Kinds::PROCESS, "the process has a controlling terminal", |e| boolean(facts(e).interactive())),
    row("process.name", FieldType::Keyword, Kinds::ALL, "name the program was invoked by, then the name of the resolved executable if different", |e| strs(Some(&image(e).names))).all_in("process.Ext.names"),
    row("process.parent.Ext.executables", FieldType::Keyword, Kinds::ALL, "every value of `process.parent.executable`", |e| strs(parent_image(e).map(|i| &*i.executables))).array(),
    row("process.parent.Ext.names", FieldType::Keyword, Kinds::ALL, "every value of `process.parent.name`", |e| strs(parent_image(e).map(|i| &*i.names))).array(),
    row("process.parent.args", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| strs(parent_image(e).map(|i| &*i.args))).array(),
    row("process.parent.args_count", FieldType::Number, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| number(parent_image(e).and_then(|i| i.args_count))),
    row("process.parent.command_line", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| maybe(parent_image(e).and_then(Image::command_line))),
    row("process.parent.entity_id", FieldType::Keyword, Kinds::ALL, "the parent as it was when it forked, from the process table", |e| maybe(parent(e).map(|p| &*p.entity_id))),
    row("process.parent.executable", FieldType::Keyword, Kinds::ALL, "the parent as it was when it forked, from the process table", |e| strs(parent_image(e).map(|i| &*i.executables))).all_in("process.parent.Ext.executables"),
    row("process.parent.group.id", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table: effective gid", |e| account_id(parent(e).and_then(|p| p.credentials.group.as_ref()))),
    row("process.parent.group.name", FieldType::Keyword, Kinds::PROCESS, "name of `process.parent.group.id` in the group file", |e| account_name(parent(e).and_then(|p| p.credentials.group.as_ref()))),
    row("process.parent.interactive", FieldType::Boolean, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| boolean(parent(e).and_then(|p| p.interactive()))),
    row("process.parent.name", FieldType::Keyword, Kinds::ALL, "the parent as it was when it forked, from the process table", |e| strs(parent_image(e).map(|i| &*i.names))).all_in("process.parent.Ext.names"),
    row("process.parent.pid", FieldType::Number, Kinds::ALL, "the parent as it was when it forked, from the process table", |e| number(parent(e).map(|p| p.pid))),
    row("process.parent.real_group.id", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| account_id(parent(e).and_then(|p| p.credentials.real_group.as_ref()))),
    row("process.parent.real_user.id", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| account_id(parent(e).and_then(|p| p.credentials.real_user.as_ref()))),
    row("process.parent.start", FieldType::Date, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| parent(e).map_or(Values::Missing, |p| started(e, p.start_ns))),
    row("process.parent.user.id", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table: effective uid", |e| account_id(parent(e).and_then(|p| p.credentials.user.as_ref()))),
    row("process.parent.user.name", FieldType::Keyword, Kinds::PROCESS, "name of `process.parent.user.id` in the password file", |e| account_name(parent(e).and_then(|p| p.credentials.user.as_ref()))),
    row("process.parent.working_directory", FieldType::Keyword, Kinds::PROCESS, "the parent as it was when it forked, from the process table", |e| maybe(parent_image(e).and_then(|i| i.working_directory.as_deref()))),
    row("process.pid", FieldType::Number, Kinds::ALL, "thread group id in the initial pid namespace", |e| number(Some(facts(e).pid))),
    row("process.previous.executable", FieldType::Keyword, Kinds::PROCESS, "executable before the latest exec, from the process table", |e| maybe(e.process.previous_executable.as_deref())),
    row("process.real_group.id", FieldType::Keyword, Kinds::ALL, "real gid of the process", |e| account_id(facts(e).credentials.real_group.as_ref())),
    row("process.real_group.name", FieldType::Keyword, Kinds::ALL, "name of `process.real_group.id` in the group file", |e| account_name(facts(e).credentials.real_group.as_ref())),
    row("process.real_user.id", FieldType::Keyword, Kinds::ALL, "real uid of the process", |e| account_id(facts(e).credentials.real_user.as_ref())),
    row("process.real_user.name", FieldType::Keyword, Kinds::ALL, "name of `process.real_user.id` in the password file", |e| account_name(facts(e).credentials.real_user.as_ref())),
    row("process.saved_group.id", FieldType::Keyword, Kinds::PROCESS, "saved gid of the process", |e| account_id(facts(e).credentials.saved_group.as_ref())),
    row("process.saved_user.id", FieldType::Keyword, Kinds::PROCESS, "saved uid of the process", |e| account_id(facts(e).credentials.saved_user.as_ref())),
    row("process.session_leader.Ext.executables", FieldType::Keyword, Kinds::PROCESS, "every value of `process.session_leader.executable`", |e| strs(leader_image(e.process.session_leader.as_ref()).map(|i| &*i.executables))).array(),
    row("process.session_leader.Ext.names", FieldType::Keyword, Kinds::PROCESS, "every value of `process.session_leader.name`", |e| strs(leader_image(e.process.session_leader.as_ref()).map(|i| &*i.names))).array(),
    row("process.session_leader.args", FieldType::Keyword, Kinds::PROCESS, "session leader, from the process table", |e| strs(leader_image(e.process.session_leader.as_ref()).map(|i| &*i.args))).array(),
    row("process.session_leader.args_count", FieldType::Number, Kinds::PROCESS, "session leader, from the process table", |e| number(leader_image(e.process.session_leader.as_ref()).and_then(|i| i.args_count))),
    row("process.session_leader.command_line", FieldType::Keyword, Kinds::PROCESS, "session leader, from the process table", |e| maybe(leader_image(e.process.session_leader.as_ref()).and_then(Image::command_line))),
    row("process.session_leader.entity_id", FieldType::Keyword, Kinds::ALL, "session leader, from the process table", |e| maybe(e.process.session_leader.as_ref().and_then(|l| l.entity_id.as_deref()))),
    row("process.session_leader.executable", FieldType::Keyword, Kinds::PROCESS, "session leader, from the process table", |e| strs(leader_image(e.process.session_leader.as_ref()).map(|i| &*i.executables))).all_in("process.session_leader.Ext.executables"),
    row("process.session_leader.name", FieldType::Keyword, Kinds::PROCESS, "session leader, from the process table", |e| strs(leader_image(e.process.session_leader.as_ref()).map(|i| &*i.names))).all_in("process.session_leader.Ext.names"),
    row("process.session_leader.pid", FieldType::Number, Kinds::PROCESS, "session leader's pid", |e| number(e.process.session_leader.as_ref().map(|l| l.pid))),
    row("process.session_leader.same_as_process", FieldType::Boolean, Kinds::PROCESS, "the process is its own session leader", |e| boolean(e.process.session_leader.as_ref().map(|l| l.pid == facts(e).pid))),
    row("process.session_leader.working_directory", FieldType::Keyword, Kinds::PROCESS, "session leader, from the process table", |e| maybe(leader_image(e.process.session_leader.as_ref()).and_then(|i| i.working_directory.as_deref()))),
    row("process.start", FieldType::Date, Kinds::PROCESS, "start of the thread group leader", |e| started(e, facts(e).start_ns)),
    row("process.thread.capabilities.effective", FieldType::Keyword, PROCESS_AND_NETWORK, "effective capabilities, at exec or by the latest record that told them", |e| names(facts(e).capabilities_effective.as_deref())).array(),
    row("process.thread.capabilities.permitted", FieldType::Keyword, PROCESS_AND_NETWORK, "permitted capabilities, at exec or by the latest record that told them", |e| names(facts(e).capabilities_permitted.as_deref())).array(),
    row("process.tty.char_device.major", FieldType::Number, Kinds::PROCESS, "controlling terminal at exec", |e| number(terminal(e).map(|tty| tty >> 20))),
    row("process.tty.char_device.minor", FieldType::Number, Kinds::PROCESS, "controlling terminal at exec", |e| number(terminal(e).map(|tty| tty & 0xf_ffff))),
    row("process.user.id", FieldType::Keyword, Kinds::ALL, "effective uid at the hook", |e| account_id(Some(&e.user))),
    row("process.user.name", FieldType::Keyword, Kinds::ALL, "name of `process.user.id` in the password file", |e| account_name(Some(&e.user))),
    row("process.vpid", FieldType::Number, Kinds::PROCESS, "pid in the process's own pid namespace", |e| number(facts(e).namespace_pid)),
    row("process.working_directory", FieldType::Keyword, Kinds::ALL, "working directory at exec", |e| maybe(image(e).working_directory.as_deref())),
    row("sensor.dropped", FieldType::Number, THROTTLE_END, "records of this process left out since `throttle_started`", |e| e.dropped().map_or(Values::Missing, int)),
    row("source.address", FieldType::Keyword, Kinds::NETWORK, "`source.ip` as text", |e| maybe(network(e).and_then(|n| n.source.address()))),
    row("source.ip", FieldType::Ip, Kinds::NETWORK, "address connected from, on `connection_accepted` the peer's; absent while the kernel has not chosen it", |e| ip(network(e).and_then(|n| n.source.ip))),
    row("source.port", FieldType::Number, Kinds::NETWORK, "port connected from, on `connection_accepted` the peer's; absent while the kernel has not chosen it", |e| number(network(e).and_then(|n| n.source.port))),
    row("user.Ext.real.id", FieldType::Keyword, Kinds::ALL, "real uid of the process", |e| account_id(facts(e).credentials.real_user.as_ref())),
    row("user.Ext.real.name", FieldType::Keyword, Kinds::ALL, "name of `user.Ext.real.id` in the password file", |e| account_name(facts(e).credentials.real_user.as_ref())),
    row("user.effective.id", FieldType::Keyword, Kinds::ALL, "effective uid at the hook", |e| account_id(Some(&e.user))),
    row("user.id", FieldType::Keyword, Kinds::ALL, "effective uid at the hook", |e| account_id(Some(&e.user))),
    row("user.name", FieldType::Keyword, Kinds::ALL, "name of `user.id` in the password file", |e| account_name(Some(&e.user))),
];

fn facts(event: &Event) -> &Facts {
    &event.process.facts
}

fn image(event: &Event) -> &Image {
    &event.process.facts.image
}

fn parent(event: &Event) -> Option<&Facts> {
    event.process.lineage.parent().map(|facts| &**facts)
}

fn parent_image(event: &Event) -> Option<&Image> {
    parent(event).map(|facts| &*facts.image)
}

fn entry_leader(event: &Event) -> Option<&Leader> {
    event
        .process
        .entry_leader
        .as_ref()
        .map(|entry| &entry.leader)
}

fn container(event: &Event) -> Option<&Container> {
    facts(event).cgroup.as_ref()?.container.as_ref()
}

fn leader_image(leader: Option<&Leader>) -> Option<&Image> {
    leader?.image.as_deref()
}

fn file(event: &Event) -> Option<&File> {
    event.file()
}

fn inode(event: &Event) -> Option<&Inode> {
    event.file()?.inode.as_ref()
}

fn original(event: &Event) -> Option<&PathText> {
    event.file()?.original.as_ref()
}

fn contents(event: &Event) -> Option<&Contents> {
    event.file()?.contents.as_deref()
}

fn network(event: &Event) -> Option<&Network> {
    event.network()
}

fn dns(event: &Event) -> Option<&Dns> {
    network(event)?.dns.as_deref()
}

fn fixed(value: &'static str) -> Values<'static> {
    Values::One(Value::Str(value))
}

/// An empty text is a fact nobody could read: missing.
fn text(value: &str) -> Values<'_> {
    maybe(Some(value).filter(|value| !value.is_empty()))
}

fn maybe(value: Option<&str>) -> Values<'_> {
    value.map_or(Values::Missing, |value| Values::One(Value::Str(value)))
}

/// No value is a missing field.
fn strs(values: Option<&[Arc<str>]>) -> Values<'_> {
    match values {
        Some(values) if !values.is_empty() => Values::Strs(values),
        _ => Values::Missing,
    }
}

/// No value is a missing field.
fn list(values: Option<&[OwnedValue]>) -> Values<'_> {
    match values {
        Some(values) if !values.is_empty() => Values::List(values),
        _ => Values::Missing,
    }
}

fn int(value: u64) -> Values<'static> {
    Values::One(Value::Int(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn number<N: Into<i64>>(value: Option<N>) -> Values<'static> {
    value.map_or(Values::Missing, |value| {
        Values::One(Value::Int(value.into()))
    })
}

fn boolean(value: Option<bool>) -> Values<'static> {
    value.map_or(Values::Missing, |value| Values::One(Value::Bool(value)))
}

fn ip(value: Option<IpAddr>) -> Values<'static> {
    value.map_or(Values::Missing, |value| Values::One(Value::Ip(value)))
}

fn account_id(account: Option<&Account>) -> Values<'_> {
    maybe(account.map(|account| account.id.as_str()))
}

fn account_name(account: Option<&Account>) -> Values<'_> {
    maybe(account.and_then(|account| account.name.as_deref()))
}

/// A start time of 0 is one nobody knows.
fn started(event: &Event, start_ns: u64) -> Values<'_> {
    match start_ns {
        0 => Values::Missing,
        start_ns => Values::One(Value::Date(event.wall_of(start_ns))),
    }
}

fn terminal(event: &Event) -> Option<u32> {
    facts(event).tty.filter(|tty| *tty != 0)
}

/// No name is a missing field.
fn names<'a>(names: Option<&'a [&'static str]>) -> Values<'a> {
    match names {
        Some(names) if !names.is_empty() => Values::Static(names),
        _ => Values::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_and_unique() {
        for pair in FIELDS.windows(2) {
            assert!(
                pair[0].path < pair[1].path,
                "{} before {}",
                pair[0].path,
                pair[1].path
            );
        }
    }

    #[test]
    fn rows_explain_themselves() {
        for row in FIELDS {
            assert!(row.how.len() > 5, "{}", row.path);
            assert!(row.kinds.iter().next().is_some(), "{}", row.path);
            if let Some(all) = row.all_values {
                let all = field(all).unwrap_or_else(|| panic!("{}: {all} is no field", row.path));
                assert!(
                    all.array && all.kinds == row.kinds && !row.array,
                    "{}",
                    row.path
                );
            }
        }
        assert!(field("process.nam").is_none());
    }
}
