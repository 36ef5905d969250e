//! The wire records: what the kernel programs write into the ring buffer and the daemon reads out of it.
//!
//! In: nothing; these are types. Out: one [`Header`], one body per [`Kind`], then a table of [`Part`]s and their bytes.
//! A record never holds a kernel pointer that means something outside, and never padding the kernel did not write.
//!
//! ```text
//! Header (64) | body (fixed per kind, multiple of 8) | parts x Part (8) | bytes of the parts in table order, each padded to 8
//! ```
//! All little-endian, 8-byte aligned. Offsets of parts are implied by order, so ranges can not overlap.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod maps;
pub mod settings;

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Layout version; a mismatch between object and daemon is a start-up error. Raised, too, when a value in a record or in a map that
/// outlives a daemon comes to mean something else though its type stays: two builds tell by their sources whether they understand
/// each other.
pub const ABI: u16 = 1;

/// Longest argument area captured, in bytes; the true length is in [`ExecBody::args_len`].
pub const ARGS_LEN_MAX: usize = 32 * 1024;
/// Longest environment captured, in bytes; the true length is in [`ExecBody::environment_len`].
pub const ENVIRONMENT_LEN_MAX: usize = 12 * 1024;
/// Longest path captured, in bytes, terminating NUL excluded.
pub const PATH_LEN_MAX: usize = 4096;
/// Longest part of a network message captured, in bytes; the true length is in [`ConnectBody::detail`].
pub const PAYLOAD_LEN_MAX: usize = 512;
/// Largest whole record, in bytes.
pub const RECORD_LEN_MAX: usize = 64 * 1024;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal;)*) => {
        /// What a record reports ([`Header::kind`]). Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            /// Name for people: the `event.action` it becomes where there is one.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    Fork = 1 "fork";
    Exec = 2 "exec";
    Exit = 3 "end";
    FileCreate = 4 "creation";
    Connect = 5 "connection_attempted";
    Accept = 6 "connection_accepted";
    Close = 7 "disconnect_received";
    ConnectRefused = 8 "connection_denied";
    UdpConnect = 9 "udp_connect";
    Dns = 10 "dns_lookup";
    /// Either or both of `uid_change` and `gid_change`.
    Credentials = 11 "uid_change";
    /// Also of a process that goes to another process group, which is no event.
    Session = 12 "session_id_change";
    Memfd = 13 "memfd_create";
    Ptrace = 14 "ptrace";
    Module = 15 "load_module";
    Rename = 16 "rename";
    Delete = 17 "deletion";
    Link = 18 "link";
    Symlink = 19 "symlink";
    MakeDirectory = 20 "mkdir";
    MakeNode = 21 "mknod";
    Modify = 22 "modification";
    Open = 23 "open";
    /// What became of the act that a thread began: one of the six above.
    FileEnd = 24 "end of a file act";
    /// Bulk records of a process are held back from here on, or come again.
    Throttle = 25 "throttle";
}

impl Kind {
    /// One more than the largest number there may be: the length of per-kind tables.
    pub const SLOTS: usize = 32;

    /// True for kinds that come in masses: they give way to all others when the ring fills, and are throttled by process.
    pub const fn is_bulk(self) -> bool {
        matches!(self, Kind::Modify | Kind::Open)
    }
}

/// What a [`Part`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum PartKind {
    /// The path as passed to execve, not resolved.
    Filename = 1,
    /// The resolved path of the executable, as the process's root sees it.
    Executable = 2,
    /// `linux_binprm.interp`, when it differs from the filename.
    Interpreter = 3,
    /// Where relative paths begin: for an exec the working directory, for a file act the directory of the path that follows.
    WorkingDirectory = 4,
    /// The argument area: arguments separated (and ended) by NUL.
    Arguments = 5,
    /// `task_struct.comm`.
    Comm = 6,
    /// The path of the file acted on.
    Path = 7,
    /// A name that is no path.
    Name = 9,
    /// The path before a rename, the path linked from, or the text of a symbolic link.
    OldPath = 8,
    /// The environment area: `NAME=value` texts separated (and ended) by NUL. Empty unless it was asked for.
    Environment = 11,
    /// The begin of a message sent or received.
    Payload = 10,
}

/// Bits of [`ConnectBody::detail`] in a [`Kind::Dns`] record.
pub mod lookup_detail {
    /// The length of the message, as far as it goes.
    pub const LEN_MASK: u32 = 0xffff;
    /// The message was received, not sent.
    pub const RECEIVED: u32 = 1 << 16;
}

/// Bits of [`Header::flags`].
pub mod record_flag {
    /// Some part was cut at its bound.
    pub const TRUNCATED: u32 = 1 << 0;
    /// A read of kernel or user memory failed; the part or field is empty.
    pub const READ_FAULT: u32 = 1 << 1;
    /// Only the header could be sent.
    pub const DEGRADED: u32 = 1 << 2;
    /// The path leaves the process's root or a detached mount.
    pub const PATH_UNREACHABLE: u32 = 1 << 3;
    /// The file was created but its open was denied.
    pub const OPEN_DENIED: u32 = 1 << 4;
    /// The task is a kernel thread.
    pub const KTHREAD: u32 = 1 << 5;
    /// The executable has no name in any directory any more.
    pub const EXE_DELETED: u32 = 1 << 6;
    /// Paths are as the caller gave them, read from its memory: relative, through symbolic links, and nothing the kernel checked.
    pub const PATH_FROM_USER: u32 = 1 << 7;
}

/// First 64 bytes of every record.
///
/// `tgid` and `start_ns` are the process key. For [`Kind::Fork`] every field describes the child.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct Header {
    pub abi: u16,
    pub kind: u16,
    /// Whole record in bytes, a multiple of 8.
    pub len: u32,
    /// Time of the hook, boot clock, nanoseconds.
    pub boot_ns: u64,
    /// `start_boottime` of the thread group leader, nanoseconds.
    pub start_ns: u64,
    pub tgid: u32,
    pub tid: u32,
    pub cgroup_id: u64,
    /// Inode number of the mount namespace.
    pub mntns: u32,
    /// See [`record_flag`].
    pub flags: u32,
    /// Effective uid at the hook, initial user namespace.
    pub uid: u32,
    pub cpu: u16,
    /// Entries in the part table.
    pub parts: u16,
    /// Effective gid at the hook.
    pub gid: u32,
    pub reserved: u32,
}

/// Body of [`Kind::Fork`].
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ForkBody {
    pub parent_start_ns: u64,
    pub parent_tgid: u32,
    /// tgid of the child in its own pid namespace.
    pub ns_tgid: u32,
    pub pgid: u32,
    pub sid: u32,
}

/// Body of [`Kind::Exec`]. Parts: filename, executable, interpreter (if different), working directory, comm, arguments,
/// environment.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ExecBody {
    pub parent_start_ns: u64,
    pub parent_tgid: u32,
    pub ns_tgid: u32,
    pub uid: u32,
    pub gid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub euid: u32,
    pub egid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub pgid: u32,
    pub sid: u32,
    /// `(major << 20) | minor` of the controlling terminal, 0 for none.
    pub tty: u32,
    /// tid that called exec; differs from the tgid when a non-leader thread did.
    pub old_tid: u32,
    pub exe_inode: u64,
    pub exe_dev: u32,
    pub exe_mode: u32,
    /// True length of the argument area in bytes, captured or not.
    pub args_len: u32,
    /// True number of arguments (`linux_binprm.argc`).
    pub args_count: u32,
    pub cap_effective: u64,
    pub cap_permitted: u64,
    /// Non-zero when the exec gained privilege.
    pub secureexec: u32,
    /// True length of the environment area in bytes, captured or not; 0 unless it was asked for.
    pub environment_len: u32,
}

/// Body of [`Kind::Exit`].
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ExitBody {
    /// Raw wait status: exit code in bits 8 to 15, fatal signal in bits 0 to 6.
    pub status: u32,
    pub reserved: u32,
}

/// Body of [`Kind::FileCreate`]. Parts: path.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct FileBody {
    pub inode: u64,
    pub dev: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// `file.f_flags`.
    pub open_flags: u32,
    pub reserved: u32,
}

/// Body of the file acts that come in two records: from [`Kind::Rename`] to [`Kind::MakeNode`]. What is known when the act
/// begins; whether it came about is told by [`Kind::FileEnd`]. Parts: old path (rename, link, symlink) and path, each behind
/// the directory it begins in where it is relative.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct FileActBody {
    /// The same in this act's end, and hardly in any other's.
    pub token: u64,
    /// The file renamed, deleted or linked; 0 when there is none yet, or none is known.
    pub inode: u64,
    pub dev: u32,
    /// Without an inode only the type bits, where the act tells them.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Body of [`Kind::FileEnd`]. No parts.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct FileEndBody {
    pub token: u64,
    /// The file that was made; 0 when the act made none, or none is known.
    pub inode: u64,
    pub dev: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// 0, or a negative error.
    pub result: i32,
    /// [`Kind`] of the act.
    pub kind: u32,
}

/// Body of [`Kind::Modify`]. Parts: directory that a relative path of the caller begins at (else empty), path.
///
/// With [`record_flag::PATH_FROM_USER`] inode and device are 0; mode and owners are what the caller asked for, `u32::MAX` where it
/// asked for nothing.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ModifyBody {
    pub inode: u64,
    pub dev: u32,
    /// As it is after the change; so are the owners.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// See [`change`].
    pub change: u32,
    /// Non-zero: a symbolic link at the path's end was changed itself.
    pub no_follow: u32,
}

/// Values of [`ModifyBody::change`].
pub mod change {
    pub const WRITE: u32 = 1;
    pub const TRUNCATE: u32 = 2;
    pub const MODE: u32 = 3;
    pub const OWNER: u32 = 4;
}

/// Body of [`Kind::Throttle`]. No parts.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ThrottleBody {
    /// Records left out since the throttle began; 0 when it only begins.
    pub dropped: u64,
    /// 1: it begins. 0: it has ended.
    pub on: u32,
    pub reserved: u32,
}

/// Body of every network record. Parts: payload for [`Kind::Dns`], else none.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ConnectBody {
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// Host byte order; 0 when not chosen yet.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u16,
    /// Network byte order; IPv4 in the first four bytes.
    pub local: [u8; 16],
    pub remote: [u8; 16],
    /// Inode number of the network namespace.
    pub netns: u32,
    /// [`Kind::Close`]: non-zero when the other side had answered. [`Kind::ConnectRefused`]: the error's number.
    /// [`Kind::Dns`]: length of the message, and [`lookup_detail`]. Else 0.
    pub detail: u32,
    /// Identifies the socket while it lives.
    pub socket: u64,
}

/// User and group ids of a task, in the order in which `struct cred` keeps them; initial user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub euid: u32,
    pub egid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
}

impl Ids {
    /// Real, effective, saved, and for file access: the order of `/proc`.
    #[cfg(not(target_arch = "bpf"))]
    pub fn users(&self) -> [u32; 4] {
        [self.uid, self.euid, self.suid, self.fsuid]
    }

    /// The same of groups.
    #[cfg(not(target_arch = "bpf"))]
    pub fn groups(&self) -> [u32; 4] {
        [self.gid, self.egid, self.sgid, self.fsgid]
    }
}

/// Body of [`Kind::Credentials`]. No parts. Header and ids are those of the one thread that changed its own.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct CredentialsBody {
    /// Zero in a record of [`moment::AFTER`].
    pub old: Ids,
    /// Zero in a record of [`moment::BEFORE`], as are the capabilities.
    pub new: Ids,
    pub cap_effective: u64,
    pub cap_permitted: u64,
    /// See [`moment`].
    pub moment: u32,
    pub reserved: u32,
}

/// Values of [`CredentialsBody::moment`].
pub mod moment {
    /// The ids change: both sides are there.
    pub const CHANGE: u32 = 0;
    /// A system call that may change ids begins; the same thread's next record says what became of it.
    pub const BEFORE: u32 = 1;
    /// It returned, whether anything changed or not.
    pub const AFTER: u32 = 2;
}

/// Body of [`Kind::Session`]. No parts.
///
/// Numbers are of the initial pid namespace.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct SessionBody {
    /// The process that is in another group or session now: the one that acts, or a child of its.
    pub start_ns: u64,
    pub tgid: u32,
    /// Its process group; 0 when the kernel gave no number that means anything outside of a pid namespace.
    pub pgid: u32,
    /// Its session; 0 when that stayed the same.
    pub sid: u32,
    pub reserved: u32,
}

/// Body of [`Kind::Memfd`]. Parts: name, with the `memfd:` that the kernel puts before it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct MemfdBody {
    pub inode: u64,
}

/// Body of [`Kind::Ptrace`]. No parts. The process that acts is the tracer.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct PtraceBody {
    /// The process that is traced now.
    pub child_start_ns: u64,
    pub child_tgid: u32,
    /// Its thread that is traced.
    pub child_tid: u32,
    /// `PTRACE_ATTACH` (16) or `PTRACE_SEIZE` (0x4206).
    pub request: u32,
    pub reserved: u32,
}

/// Body of [`Kind::Module`]. Parts: name.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ModuleBody {
    /// `module.taints`, a bit for each reason why the kernel counts as tainted.
    pub taints: u64,
}

/// One entry of the part table.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct Part {
    /// See [`PartKind`].
    pub kind: u16,
    /// Bit 0: cut at its bound. Bit 1: read fault.
    pub flags: u16,
    /// Bytes captured, padding excluded.
    pub len: u16,
    pub reserved: u16,
}

const _: () = {
    assert!(size_of::<Header>() == 64);
    assert!(size_of::<ForkBody>() == 24);
    assert!(size_of::<ExecBody>() == 112);
    assert!(size_of::<ExitBody>() == 8);
    assert!(size_of::<FileBody>() == 32);
    assert!(size_of::<FileActBody>() == 32);
    assert!(size_of::<FileEndBody>() == 40);
    assert!(size_of::<ModifyBody>() == 32);
    assert!(size_of::<ThrottleBody>() == 16);
    assert!(size_of::<ConnectBody>() == 56);
    assert!(size_of::<CredentialsBody>() == 88);
    assert!(size_of::<SessionBody>() == 24);
    assert!(size_of::<MemfdBody>() == 8);
    assert!(size_of::<PtraceBody>() == 24);
    assert!(size_of::<ModuleBody>() == 8);
    assert!(size_of::<Part>() == 8);
};
