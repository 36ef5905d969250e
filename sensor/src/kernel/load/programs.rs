//! The programs of the kernel object: what each hooks, which record kind it serves, and what it can't see.
//!
//! In: nothing; this is a table. Out: its rows, in the order they are attached, and the maps with one buffer per processor. A
//! program is listed here or it is never loaded.

use sensor_ebpf::Kind;

use super::later::LATER;

/// How a program is attached.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    /// A typed tracepoint.
    Tracepoint(&'static str),
    /// The begin of a function, through a trampoline.
    Entry(&'static str),
    /// The return of a function, through a trampoline.
    Return(&'static str),
    /// The same, of a function without which what it does can not happen either.
    ReturnIfThere(&'static str),
}

/// One program of the kernel object, for one record kind. A program that serves several kinds has a row for each, asks the map
/// `SERVED` which of them it is to report, and is attached once.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) hook: Hook,
    pub(super) blind_to: &'static [&'static str],
}

const IO_URING: &str = "acts through io_uring";
const KERNEL_ITSELF: &str = "acts of the kernel itself";
const LINKS_ON_THE_WAY: &str = "where symbolic links on the way to a file lead";

/// One half of a file act, at the return of a function.
const fn act(kind: Kind, name: &'static str, function: &'static str) -> Entry {
    Entry {
        name,
        kind,
        hook: Hook::Return(function),
        blind_to: &[],
    }
}

/// The begin of a file act at its system call: one program for all the kinds that need it.
const fn call_begin(kind: Kind, blind_to: &'static [&'static str]) -> Entry {
    Entry {
        name: "file_call_begin",
        kind,
        hook: Hook::Tracepoint("sys_enter"),
        blind_to,
    }
}

/// The other half of [`call_begin`].
const fn call_end(kind: Kind) -> Entry {
    Entry {
        name: "file_call_end",
        kind,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[],
    }
}

pub(super) const fn entry(
    name: &'static str,
    kind: Kind,
    hook: Hook,
    blind_to: &'static [&'static str],
) -> Entry {
    Entry {
        name,
        kind,
        hook,
        blind_to,
    }
}

/// Modifications that no hook sees, and besides them those that system calls do not tell.
const UNMODIFIED: &[&str] = &[
    "writes through a memory mapping",
    "contents shared between files by a clone",
    "the kernel's own file systems, such as /proc and /sys",
];
const UNMODIFIED_BY_CALL: &[&str] = &[
    UNMODIFIED[0],
    UNMODIFIED[1],
    UNMODIFIED[2],
    "changes through io_uring, or by the kernel itself",
    "where a path of the caller leads, when another thread changes it meanwhile",
];

/// Grouped by kind; within a kind trampolines come first, and either all of them or the tracepoints are attached.
pub(super) static PROGRAMS: &[Entry] = &[
    Entry {
        name: "process_fork",
        kind: Kind::Fork,
        hook: Hook::Tracepoint("sched_process_fork"),
        blind_to: &[],
    },
    Entry {
        name: "process_exec",
        kind: Kind::Exec,
        hook: Hook::Tracepoint("sched_process_exec"),
        blind_to: &[],
    },
    Entry {
        name: "process_exit",
        kind: Kind::Exit,
        hook: Hook::Tracepoint("sched_process_exit"),
        blind_to: &[],
    },
    Entry {
        name: "file_create",
        kind: Kind::FileCreate,
        hook: Hook::Return("security_file_open"),
        blind_to: &[],
    },
    Entry {
        name: "file_create_by_syscall",
        kind: Kind::FileCreate,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[
            "files created through io_uring",
            "files created by the kernel itself, such as core dumps",
            "files whose open was denied after they were created",
        ],
    },
    act(Kind::Rename, "rename_begin", "security_path_rename"),
    act(Kind::Rename, "rename_end", "vfs_rename"),
    call_begin(Kind::Rename, &[IO_URING, KERNEL_ITSELF, LINKS_ON_THE_WAY]),
    call_end(Kind::Rename),
    act(Kind::Delete, "delete_begin", "security_path_unlink"),
    act(Kind::Delete, "delete_end", "vfs_unlink"),
    call_begin(Kind::Delete, &[IO_URING, KERNEL_ITSELF, LINKS_ON_THE_WAY]),
    call_end(Kind::Delete),
    act(Kind::Link, "link_begin", "security_path_link"),
    act(Kind::Link, "link_end", "vfs_link"),
    call_begin(Kind::Link, &[IO_URING, KERNEL_ITSELF, LINKS_ON_THE_WAY]),
    call_end(Kind::Link),
    act(Kind::Symlink, "symlink_begin", "security_path_symlink"),
    act(Kind::Symlink, "symlink_end", "vfs_symlink"),
    call_begin(Kind::Symlink, &[IO_URING, KERNEL_ITSELF, LINKS_ON_THE_WAY]),
    call_end(Kind::Symlink),
    act(Kind::MakeDirectory, "mkdir_begin", "security_path_mkdir"),
    act(Kind::MakeDirectory, "mkdir_end", "vfs_mkdir"),
    call_begin(
        Kind::MakeDirectory,
        &[IO_URING, KERNEL_ITSELF, LINKS_ON_THE_WAY],
    ),
    call_end(Kind::MakeDirectory),
    act(Kind::MakeNode, "mknod_begin", "security_path_mknod"),
    act(Kind::MakeNode, "mknod_end", "vfs_mknod"),
    call_begin(
        Kind::MakeNode,
        &["sockets bound to a path", KERNEL_ITSELF, LINKS_ON_THE_WAY],
    ),
    call_end(Kind::MakeNode),
    Entry {
        name: "connect_v4",
        kind: Kind::Connect,
        hook: Hook::Return("tcp_v4_connect"),
        blind_to: &[],
    },
    Entry {
        name: "connect_v6",
        kind: Kind::Connect,
        hook: Hook::Return("tcp_v6_connect"),
        blind_to: &[],
    },
    Entry {
        name: "connect_by_state",
        kind: Kind::Connect,
        hook: Hook::Tracepoint("inet_sock_set_state"),
        blind_to: &["the local port of sockets that bound none"],
    },
    Entry {
        name: "accept",
        kind: Kind::Accept,
        hook: Hook::Return("inet_csk_accept"),
        blind_to: &[],
    },
    Entry {
        name: "socket_call",
        kind: Kind::Accept,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &["connections accepted through io_uring"],
    },
    Entry {
        name: "connect_v4",
        kind: Kind::ConnectRefused,
        hook: Hook::Return("tcp_v4_connect"),
        blind_to: &["connects refused by a program of the cgroup"],
    },
    Entry {
        name: "connect_v6",
        kind: Kind::ConnectRefused,
        hook: Hook::Return("tcp_v6_connect"),
        blind_to: &["connects refused by a program of the cgroup"],
    },
    Entry {
        name: "udp_connect",
        kind: Kind::ConnectRefused,
        hook: Hook::Return("inet_dgram_connect"),
        blind_to: &["connects refused by a program of the cgroup"],
    },
    Entry {
        name: "connect_denied",
        kind: Kind::ConnectRefused,
        hook: Hook::Return("security_socket_connect"),
        blind_to: &[],
    },
    Entry {
        name: "socket_call",
        kind: Kind::ConnectRefused,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[
            "connects through io_uring",
            "connects through socketcall of 32-bit programs",
        ],
    },
    Entry {
        name: "udp_connect",
        kind: Kind::UdpConnect,
        hook: Hook::Return("inet_dgram_connect"),
        blind_to: &[],
    },
    Entry {
        name: "socket_call",
        kind: Kind::UdpConnect,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[
            "connects through io_uring",
            "connects through socketcall of 32-bit programs",
        ],
    },
    Entry {
        name: "dns_message",
        kind: Kind::Dns,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[
            "who asked a resolver that runs on this host: its own lookups are seen, as the resolver's",
            "lookups over TLS or HTTPS, and over any port but 53",
            "lookups through io_uring",
            "lookups of 32-bit programs",
            "name servers connected to before the sensor started, or by another process",
        ],
    },
    Entry {
        name: "close",
        kind: Kind::Close,
        hook: Hook::Entry("tcp_close"),
        blind_to: &["sockets connected before the sensor started"],
    },
    Entry {
        name: "close_by_state",
        kind: Kind::Close,
        hook: Hook::Tracepoint("inet_sock_set_state"),
        blind_to: &["sockets connected before the sensor started"],
    },
    Entry {
        name: "close_by_end",
        kind: Kind::Close,
        hook: Hook::Tracepoint("tcp_destroy_sock"),
        blind_to: &[],
    },
    Entry {
        name: "credentials_change",
        kind: Kind::Credentials,
        hook: Hook::Entry("commit_creds"),
        blind_to: &[],
    },
    Entry {
        name: "process_call_enter",
        kind: Kind::Credentials,
        hook: Hook::Tracepoint("sys_enter"),
        blind_to: &[],
    },
    Entry {
        name: "process_call_exit",
        kind: Kind::Credentials,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[],
    },
    Entry {
        name: "session_change",
        kind: Kind::Session,
        hook: Hook::Return("ksys_setsid"),
        blind_to: &[],
    },
    Entry {
        name: "group_change",
        kind: Kind::Session,
        hook: Hook::Return("security_task_setpgid"),
        blind_to: &[],
    },
    Entry {
        name: "process_call_exit",
        kind: Kind::Session,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &["process groups of children set from outside, in a pid namespace"],
    },
    Entry {
        name: "memfd_create",
        kind: Kind::Memfd,
        hook: Hook::Return("shmem_file_setup"),
        blind_to: &[],
    },
    Entry {
        name: "memfd_create_huge",
        kind: Kind::Memfd,
        hook: Hook::ReturnIfThere("hugetlb_file_setup"),
        blind_to: &[],
    },
    Entry {
        name: "process_call_exit",
        kind: Kind::Memfd,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[],
    },
    Entry {
        name: "ptrace_attached",
        kind: Kind::Ptrace,
        hook: Hook::Return("ptrace_attach"),
        blind_to: &[],
    },
    Entry {
        name: "process_call_exit",
        kind: Kind::Ptrace,
        hook: Hook::Tracepoint("sys_exit"),
        blind_to: &[],
    },
    Entry {
        name: "module_loaded",
        kind: Kind::Module,
        hook: Hook::Tracepoint("module_load"),
        blind_to: &[],
    },
    entry(
        "file_write",
        Kind::Modify,
        Hook::Return("generic_write_checks"),
        UNMODIFIED,
    ),
    entry(
        "file_write_open",
        Kind::Modify,
        Hook::Return("security_file_open"),
        &[],
    ),
    entry(
        "file_truncate",
        Kind::Modify,
        Hook::Return("do_truncate"),
        &[],
    ),
    entry(
        "path_truncate",
        Kind::Modify,
        Hook::Return("vfs_truncate"),
        &[],
    ),
    entry(
        "file_chmod",
        Kind::Modify,
        Hook::Return("chmod_common"),
        &[],
    ),
    entry(
        "file_chown",
        Kind::Modify,
        Hook::Return("chown_common"),
        &[],
    ),
    entry(
        "file_modify_by_syscall",
        Kind::Modify,
        Hook::Tracepoint("sys_exit"),
        UNMODIFIED_BY_CALL,
    ),
    entry(
        "file_open",
        Kind::Open,
        Hook::Return("security_file_open"),
        &["other names of a watched file"],
    ),
    entry(
        "file_open_by_syscall",
        Kind::Open,
        Hook::Tracepoint("sys_exit"),
        &[
            "other names of a watched file",
            "files opened through io_uring, or by the kernel itself",
        ],
    ),
];

/// Two programs on one function, in the order they are attached: they tell in which they run.
pub(super) static ORDER: [Entry; 2] = [
    entry(
        "order_of_earlier",
        Kind::FileCreate,
        Hook::Return("security_file_open"),
        &[],
    ),
    entry(
        "order_of_later",
        Kind::FileCreate,
        Hook::Return("security_file_open"),
        &[],
    ),
];

/// Where they tell it, while they are asked.
pub(super) const ORDER_MAP: &str = "ORDER";

/// All programs that report something, later instances after all others.
pub(super) fn all() -> impl DoubleEndedIterator<Item = &'static Entry> {
    PROGRAMS.iter().chain(LATER.iter().map(|of| &of.entry))
}

/// A map that outlives a daemon: the programs of the next one go on with it.
pub(super) struct Shared {
    pub(super) name: &'static str,
    /// Its entries are as many as the options ask for: any number will do.
    pub(super) sized_by_options: bool,
}

const fn shared(name: &'static str) -> Shared {
    Shared {
        name,
        sized_by_options: false,
    }
}

const fn sized(name: &'static str) -> Shared {
    Shared {
        name,
        sized_by_options: true,
    }
}

/// Those maps, but for the gates'. What each build brings anew is read-only, or scratch.
pub(super) static SHARED: &[Shared] = &[
    shared("RING"),
    shared("COUNTERS"),
    shared("SERVED"),
    shared("CHECKED"),
    shared("FILE_CALLS_UNREAD"),
    sized("REPORTED"),
    sized("BUCKETS"),
    sized("WATCHED"),
    shared("RESOLVING"),
    shared("NOTES"),
    shared("MADE_UP"),
    shared("NAMES"),
    sized("ACTORS"),
    // Only there where something is logged.
    shared("AYA_LOGS"),
];

/// Maps with one buffer per possible processor.
pub(super) static SCRATCH: &[&str] = &[
    "EXEC_SCRATCH",
    "FILE_OPEN_SCRATCH",
    "SYS_EXIT_SCRATCH",
    "DNS_SCRATCH",
    "MEMFD_SCRATCH",
    "MEMFD_HUGE_SCRATCH",
    "PROCESS_CALL_SCRATCH",
    "RENAME_SCRATCH",
    "DELETE_SCRATCH",
    "LINK_SCRATCH",
    "SYMLINK_SCRATCH",
    "MKDIR_SCRATCH",
    "MKNOD_SCRATCH",
    "FILE_CALL_ENTER_SCRATCH",
    "FILE_CALL_EXIT_SCRATCH",
];

/// The same for kinds that come in masses: tiny unless they are wanted.
pub(super) static BULK_SCRATCH: &[&str] = &[
    "FILE_WRITE_SCRATCH",
    "FILE_TRUNCATE_SCRATCH",
    "PATH_TRUNCATE_SCRATCH",
    "FILE_CHMOD_SCRATCH",
    "FILE_CHOWN_SCRATCH",
    "MODIFY_SYSCALL_SCRATCH",
    "WATCHED_OPEN_SCRATCH",
    "OPEN_SYSCALL_SCRATCH",
];

#[cfg(test)]
mod tests {
    use super::super::later::{LATER_BULK_SCRATCH, LATER_SCRATCH, later_of};
    use super::*;

    /// A name behind each `static`, in the text of a source.
    fn statics(source: &str) -> impl Iterator<Item = &str> {
        let maps = source.split("#[map]").skip(1);
        maps.filter_map(|map| {
            let (_, map) = map.split_once("static ")?;
            map.split_once(':').map(|(name, _)| name)
        })
    }

    #[test]
    fn every_map_is_shared_or_scratch() {
        let sources = [
            include_str!("../../../../sensor-ebpf/src/globals.rs"),
            include_str!("../../../../sensor-ebpf/src/interest.rs"),
        ];
        let maps: Vec<&str> = sources.into_iter().flat_map(statics).collect();
        assert!(maps.len() > 30, "{maps:?}");
        let later = [LATER_SCRATCH, LATER_BULK_SCRATCH].concat();
        let later: Vec<&str> = later
            .into_iter()
            .flat_map(|(_, maps)| maps)
            .copied()
            .collect();
        let scratch = [SCRATCH, BULK_SCRATCH, &later, &[ORDER_MAP]].concat();
        for map in &maps {
            let is_shared = SHARED.iter().any(|shared| shared.name == *map);
            assert!(is_shared != scratch.contains(map), "{map}");
        }
        for shared in SHARED {
            let is_there = maps.contains(&shared.name) || shared.name == "AYA_LOGS";
            assert!(is_there, "{}", shared.name);
        }
    }

    #[test]
    fn every_program_has_a_gate_on_its_hook() {
        let gates = include_str!("../../../../sensor-ebpf/src/programs/gates.rs");
        let lines: Vec<&str> = gates.lines().map(str::trim).collect();
        for entry in all() {
            let (section, name) = (entry.hook.name(), entry.name);
            let gate = format!("\"{section}\" {name}_gate {}_GATE;", name.to_uppercase());
            assert!(lines.contains(&&*gate), "{gate}");
        }
    }

    /// Descriptors that a manager keeps for one sort of hooks: of each program that it can be attached with the gate, where that leads
    /// and the attachment; the shared maps, and what describes them.
    fn kept(trampolines: bool) -> usize {
        let has_sort = |kind| {
            let mut of_kind = PROGRAMS.iter().filter(|entry| entry.kind == kind);
            of_kind.any(|entry| entry.hook.is_trampoline() == trampolines)
        };
        let is_of_sort =
            |entry: &&Entry| entry.hook.is_trampoline() == trampolines || !has_sort(entry.kind);
        let mut held: Vec<&str> = Vec::new();
        for entry in PROGRAMS.iter().filter(is_of_sort) {
            held.push(entry.name);
            held.extend(later_of(entry.name).map(|later| later.entry.name));
        }
        held.sort_unstable();
        held.dedup();
        3 * held.len() + SHARED.len() + 1
    }

    #[test]
    fn a_manager_keeps_all_with_room_to_spare() {
        let unit = include_str!("../../../../systemd/eql-sensor.service");
        let room = unit
            .lines()
            .find_map(|line| line.strip_prefix("FileDescriptorStoreMax="));
        let room: usize = room.unwrap().parse().unwrap();
        for trampolines in [true, false] {
            let kept = kept(trampolines);
            // What the rest of the daemon keeps are three more.
            assert!(kept * 2 < room, "{trampolines}: {kept} of {room}");
        }
    }
}
