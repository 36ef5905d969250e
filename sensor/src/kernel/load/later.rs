//! The later instances of programs: what each makes up for, and where it hooks.
//!
//! In: nothing; this is a table. Out: its rows, those of one program in the order in which they are to run, and their maps with one
//! buffer per processor. An instance may only stand here behind a program of `programs.rs` that leaves marks for it.

use sensor_ebpf::{Kind, maps::Twice};

use super::programs::{Entry, Hook, entry};

/// A program and a later instance of it, which does what the kernel kept those before it from.
pub(super) struct Later {
    pub(super) of: Twice,
    pub(super) first: &'static str,
    pub(super) entry: Entry,
}

const fn later(
    of: Twice,
    first: &'static str,
    name: &'static str,
    kind: Kind,
    hook: Hook,
) -> Later {
    Later {
        of,
        first,
        entry: entry(name, kind, hook, &[]),
    }
}

/// The second instances, and third ones after them, which run behind the first where the kernel lets other tasks run in the middle
/// of a program; each with one of the kinds it serves.
pub(super) static LATER: &[Later] = &[
    later(
        Twice::ProcessFork,
        "process_fork",
        "process_fork_again",
        Kind::Fork,
        Hook::Tracepoint("sched_process_fork"),
    ),
    later(
        Twice::ProcessExec,
        "process_exec",
        "process_exec_again",
        Kind::Exec,
        Hook::Tracepoint("sched_process_exec"),
    ),
    later(
        Twice::ProcessExit,
        "process_exit",
        "process_exit_again",
        Kind::Exit,
        Hook::Tracepoint("sched_process_exit"),
    ),
    later(
        Twice::ConnectByState,
        "connect_by_state",
        "connect_by_state_again",
        Kind::Connect,
        Hook::Tracepoint("inet_sock_set_state"),
    ),
    later(
        Twice::CloseByState,
        "close_by_state",
        "close_by_state_again",
        Kind::Close,
        Hook::Tracepoint("inet_sock_set_state"),
    ),
    later(
        Twice::FileCallBegin,
        "file_call_begin",
        "file_call_begin_again",
        Kind::Rename,
        Hook::Tracepoint("sys_enter"),
    ),
    later(
        Twice::FileCallEnd,
        "file_call_end",
        "file_call_end_again",
        Kind::Rename,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::FileCreate,
        "file_create_by_syscall",
        "file_create_by_syscall_again",
        Kind::FileCreate,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::FileCreate,
        "file_create_by_syscall",
        "file_create_by_syscall_once_more",
        Kind::FileCreate,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::SocketCall,
        "socket_call",
        "socket_call_again",
        Kind::Accept,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::Dns,
        "dns_message",
        "dns_message_again",
        Kind::Dns,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::ProcessCallEnter,
        "process_call_enter",
        "process_call_enter_again",
        Kind::Credentials,
        Hook::Tracepoint("sys_enter"),
    ),
    later(
        Twice::ProcessCallExit,
        "process_call_exit",
        "process_call_exit_again",
        Kind::Session,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::FileModify,
        "file_modify_by_syscall",
        "file_modify_by_syscall_again",
        Kind::Modify,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::FileOpen,
        "file_open_by_syscall",
        "file_open_by_syscall_again",
        Kind::Open,
        Hook::Tracepoint("sys_exit"),
    ),
    later(
        Twice::Creation,
        "file_create",
        "file_create_again",
        Kind::FileCreate,
        Hook::Return("security_file_open"),
    ),
    later(
        Twice::Creation,
        "file_create",
        "file_create_once_more",
        Kind::FileCreate,
        Hook::Return("security_file_open"),
    ),
    later(
        Twice::RenameBegin,
        "rename_begin",
        "rename_begin_again",
        Kind::Rename,
        Hook::Return("security_path_rename"),
    ),
    later(
        Twice::RenameEnd,
        "rename_end",
        "rename_end_again",
        Kind::Rename,
        Hook::Return("vfs_rename"),
    ),
    later(
        Twice::DeleteBegin,
        "delete_begin",
        "delete_begin_again",
        Kind::Delete,
        Hook::Return("security_path_unlink"),
    ),
    later(
        Twice::DeleteEnd,
        "delete_end",
        "delete_end_again",
        Kind::Delete,
        Hook::Return("vfs_unlink"),
    ),
    later(
        Twice::LinkBegin,
        "link_begin",
        "link_begin_again",
        Kind::Link,
        Hook::Return("security_path_link"),
    ),
    later(
        Twice::LinkEnd,
        "link_end",
        "link_end_again",
        Kind::Link,
        Hook::Return("vfs_link"),
    ),
    later(
        Twice::SymlinkBegin,
        "symlink_begin",
        "symlink_begin_again",
        Kind::Symlink,
        Hook::Return("security_path_symlink"),
    ),
    later(
        Twice::SymlinkEnd,
        "symlink_end",
        "symlink_end_again",
        Kind::Symlink,
        Hook::Return("vfs_symlink"),
    ),
    later(
        Twice::MkdirBegin,
        "mkdir_begin",
        "mkdir_begin_again",
        Kind::MakeDirectory,
        Hook::Return("security_path_mkdir"),
    ),
    later(
        Twice::MkdirEnd,
        "mkdir_end",
        "mkdir_end_again",
        Kind::MakeDirectory,
        Hook::Return("vfs_mkdir"),
    ),
    later(
        Twice::MknodBegin,
        "mknod_begin",
        "mknod_begin_again",
        Kind::MakeNode,
        Hook::Return("security_path_mknod"),
    ),
    later(
        Twice::MknodEnd,
        "mknod_end",
        "mknod_end_again",
        Kind::MakeNode,
        Hook::Return("vfs_mknod"),
    ),
    later(
        Twice::ConnectV4,
        "connect_v4",
        "connect_v4_again",
        Kind::Connect,
        Hook::Return("tcp_v4_connect"),
    ),
    later(
        Twice::ConnectV6,
        "connect_v6",
        "connect_v6_again",
        Kind::Connect,
        Hook::Return("tcp_v6_connect"),
    ),
    later(
        Twice::UdpConnect,
        "udp_connect",
        "udp_connect_again",
        Kind::UdpConnect,
        Hook::Return("inet_dgram_connect"),
    ),
    later(
        Twice::ConnectDenied,
        "connect_denied",
        "connect_denied_again",
        Kind::ConnectRefused,
        Hook::Return("security_socket_connect"),
    ),
    later(
        Twice::Accept,
        "accept",
        "accept_again",
        Kind::Accept,
        Hook::Return("inet_csk_accept"),
    ),
    later(
        Twice::Close,
        "close",
        "close_again",
        Kind::Close,
        Hook::Entry("tcp_close"),
    ),
    later(
        Twice::Credentials,
        "credentials_change",
        "credentials_change_again",
        Kind::Credentials,
        Hook::Entry("commit_creds"),
    ),
    later(
        Twice::Session,
        "session_change",
        "session_change_again",
        Kind::Session,
        Hook::Return("ksys_setsid"),
    ),
    later(
        Twice::Group,
        "group_change",
        "group_change_again",
        Kind::Session,
        Hook::Return("security_task_setpgid"),
    ),
    later(
        Twice::Memfd,
        "memfd_create",
        "memfd_create_again",
        Kind::Memfd,
        Hook::Return("shmem_file_setup"),
    ),
    later(
        Twice::Ptrace,
        "ptrace_attached",
        "ptrace_attached_again",
        Kind::Ptrace,
        Hook::Return("ptrace_attach"),
    ),
    later(
        Twice::Open,
        "file_open",
        "file_open_again",
        Kind::Open,
        Hook::Return("security_file_open"),
    ),
];

/// The later instances of a program, in the order in which they are to run.
pub(super) fn later_of(name: &str) -> impl DoubleEndedIterator<Item = &'static Later> {
    LATER.iter().filter(move |later| later.first == name)
}

/// Their maps with one buffer per possible processor, by the sort of hook.
pub(super) static LATER_SCRATCH: &[(u32, &[&str])] = &[
    (
        Twice::ON_TRACEPOINTS,
        &[
            "EXEC_AGAIN_SCRATCH",
            "SYS_EXIT_AGAIN_SCRATCH",
            "SYS_EXIT_ONCE_MORE_SCRATCH",
            "DNS_AGAIN_SCRATCH",
            "PROCESS_CALL_AGAIN_SCRATCH",
            "FILE_CALL_ENTER_AGAIN_SCRATCH",
            "FILE_CALL_EXIT_AGAIN_SCRATCH",
        ],
    ),
    (
        Twice::ON_FUNCTIONS,
        &[
            "FILE_OPEN_AGAIN_SCRATCH",
            "FILE_OPEN_ONCE_MORE_SCRATCH",
            "RENAME_AGAIN_SCRATCH",
            "DELETE_AGAIN_SCRATCH",
            "LINK_AGAIN_SCRATCH",
            "SYMLINK_AGAIN_SCRATCH",
            "MKDIR_AGAIN_SCRATCH",
            "MKNOD_AGAIN_SCRATCH",
            "MEMFD_AGAIN_SCRATCH",
        ],
    ),
];

/// The same for kinds that come in masses.
pub(super) static LATER_BULK_SCRATCH: &[(u32, &[&str])] = &[
    (
        Twice::ON_TRACEPOINTS,
        &["MODIFY_SYSCALL_AGAIN_SCRATCH", "OPEN_SYSCALL_AGAIN_SCRATCH"],
    ),
    (Twice::ON_FUNCTIONS, &["WATCHED_OPEN_AGAIN_SCRATCH"]),
];
