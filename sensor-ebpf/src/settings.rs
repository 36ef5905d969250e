//! What user space tells the kernel programs before they load: member offsets, filters, counters' layout.
//!
//! In: nothing; these are types. Out: [`Offsets`] and [`Settings`], each one read-only global of the kernel object, and the
//! numbers of the per-kind counters. The verifier sees the globals as constants, so a branch on an absent member costs
//! nothing. Both sides build from this file, so names can not drift.

use crate::Kind;

#[cfg(not(target_arch = "bpf"))]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An offset the running kernel does not have.
pub const ABSENT: u16 = 0xffff;

/// One member of a kernel structure that the programs read.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The structure's name in BTF.
    pub owner: &'static str,
    /// Dotted path below it; anonymous members are looked through.
    pub path: &'static str,
    /// False: a kernel without it is refused. True: what needs it is left out.
    pub optional: bool,
}

macro_rules! offsets {
    ($($name:ident = $owner:literal $path:literal $($optional:ident)?;)*) => {
        /// Byte offsets of kernel structure members, [`ABSENT`] where the running kernel has none.
        #[derive(Clone, Copy, Debug)]
        #[cfg_attr(
            not(target_arch = "bpf"),
            derive(FromBytes, IntoBytes, Immutable, KnownLayout)
        )]
        #[repr(C)]
        pub struct Offsets { $(pub $name: u16,)* }

        impl Offsets {
            /// What a kernel object carries until user space fills it in.
            pub const UNSET: Offsets = Offsets { $($name: ABSENT,)* };

            /// What each field of [`Offsets`] is, in field order.
            pub const MEMBERS: &[Member] = &[
                $(Member { owner: $owner, path: $path, optional: offsets!(@optional $($optional)?) },)*
            ];
        }
    };
    (@optional optional) => { true };
    (@optional) => { false };
}

offsets! {
    task_flags = "task_struct" "flags";
    task_pid = "task_struct" "pid";
    task_tgid = "task_struct" "tgid";
    task_group_leader = "task_struct" "group_leader";
    task_real_parent = "task_struct" "real_parent";
    task_start_boottime = "task_struct" "start_boottime";
    task_comm = "task_struct" "comm";
    task_mm = "task_struct" "mm";
    task_fs = "task_struct" "fs";
    task_files = "task_struct" "files";
    task_cred = "task_struct" "cred";
    task_real_cred = "task_struct" "real_cred";
    task_signal = "task_struct" "signal";
    task_nsproxy = "task_struct" "nsproxy";
    task_exit_code = "task_struct" "exit_code";
    task_thread_pid = "task_struct" "thread_pid";
    task_cgroups = "task_struct" "cgroups";
    task_ptraced = "task_struct" "ptraced";
    task_ptrace_entry = "task_struct" "ptrace_entry";
    task_thread_status = "task_struct" "thread_info.status" optional;
    signal_live = "signal_struct" "live";
    signal_flags = "signal_struct" "flags";
    signal_group_exit_code = "signal_struct" "group_exit_code";
    signal_pids = "signal_struct" "pids";
    signal_tty = "signal_struct" "tty";
    tty_driver = "tty_struct" "driver" optional;
    tty_index = "tty_struct" "index" optional;
    tty_driver_major = "tty_driver" "major" optional;
    tty_driver_minor_start = "tty_driver" "minor_start" optional;
    pid_level = "pid" "level";
    pid_numbers = "pid" "numbers";
    upid_nr = "upid" "nr";
    mm_exe_file = "mm_struct" "exe_file";
    mm_arg_start = "mm_struct" "arg_start";
    mm_arg_end = "mm_struct" "arg_end";
    mm_env_start = "mm_struct" "env_start" optional;
    mm_env_end = "mm_struct" "env_end" optional;
    bprm_file = "linux_binprm" "file";
    bprm_filename = "linux_binprm" "filename";
    bprm_interp = "linux_binprm" "interp";
    bprm_argc = "linux_binprm" "argc";
    cred_uid = "cred" "uid";
    cred_euid = "cred" "euid";
    cred_egid = "cred" "egid";
    cred_cap_effective = "cred" "cap_effective";
    cred_cap_permitted = "cred" "cap_permitted";
    nsproxy_mnt_ns = "nsproxy" "mnt_ns";
    mnt_namespace_inum = "mnt_namespace" "ns.inum";
    css_set_dfl_cgrp = "css_set" "dfl_cgrp";
    cgroup_kn = "cgroup" "kn";
    cgroup_css_parent = "cgroup" "self.parent";
    cgroup_self = "cgroup" "self";
    kernfs_node_id = "kernfs_node" "id";
    fs_root = "fs_struct" "root";
    fs_pwd = "fs_struct" "pwd";
    path_mnt = "path" "mnt";
    path_dentry = "path" "dentry";
    dentry_parent = "dentry" "d_parent";
    dentry_name_len = "dentry" "d_name.len";
    dentry_name = "dentry" "d_name.name";
    dentry_hash_pprev = "dentry" "d_hash.pprev";
    dentry_inode = "dentry" "d_inode";
    renamedata_old_dentry = "renamedata" "old_dentry" optional;
    mount_mnt = "mount" "mnt";
    mount_parent = "mount" "mnt_parent";
    mount_mountpoint = "mount" "mnt_mountpoint";
    vfsmount_root = "vfsmount" "mnt_root";
    file_path = "file" "f_path";
    file_inode = "file" "f_inode";
    file_mode = "file" "f_mode";
    file_flags = "file" "f_flags";
    backing_file_user_path = "backing_file" "user_path" optional;
    kiocb_file = "kiocb" "ki_filp" optional;
    inode_ino = "inode" "i_ino";
    inode_mode = "inode" "i_mode";
    inode_uid = "inode" "i_uid";
    inode_gid = "inode" "i_gid";
    inode_nlink = "inode" "i_nlink";
    inode_sb = "inode" "i_sb";
    super_block_dev = "super_block" "s_dev";
    super_block_magic = "super_block" "s_magic";
    files_fdt = "files_struct" "fdt";
    fdtable_max_fds = "fdtable" "max_fds";
    fdtable_fd = "fdtable" "fd";
    pt_regs_syscall = "pt_regs" "orig_ax" optional;
    pt_regs_di = "pt_regs" "di" optional;
    pt_regs_si = "pt_regs" "si" optional;
    pt_regs_bx = "pt_regs" "bx" optional;
    pt_regs_cx = "pt_regs" "cx" optional;
    pt_regs_r8 = "pt_regs" "r8" optional;
    file_private = "file" "private_data";
    file_count = "file" "f_count" optional;
    file_ref = "file" "f_ref" optional;
    socket_file = "socket" "file";
    socket_sk = "socket" "sk";
    pt_regs_stack = "pt_regs" "sp" optional;
    pt_regs_dx = "pt_regs" "dx" optional;
    pt_regs_r10 = "pt_regs" "r10" optional;
    sock_family = "sock" "__sk_common.skc_family";
    sock_state = "sock" "__sk_common.skc_state";
    sock_num = "sock" "__sk_common.skc_num";
    inet_sport = "inet_sock" "inet_sport" optional;
    sock_dport = "sock" "__sk_common.skc_dport";
    sock_daddr = "sock" "__sk_common.skc_daddr";
    sock_rcv_saddr = "sock" "__sk_common.skc_rcv_saddr";
    sock_v6_daddr = "sock" "__sk_common.skc_v6_daddr" optional;
    sock_v6_rcv_saddr = "sock" "__sk_common.skc_v6_rcv_saddr" optional;
    sock_net = "sock" "__sk_common.skc_net.net" optional;
    sock_protocol = "sock" "sk_protocol";
    sock_socket = "sock" "sk_socket";
    sock_lock_owned = "sock" "sk_lock.owned";
    tcp_bytes_acked = "tcp_sock" "bytes_acked" optional;
    net_inum = "net" "ns.inum" optional;
    module_name = "module" "name" optional;
    module_taints = "module" "taints" optional;
}

/// Most cgroup subtrees one sensor can be scoped to.
pub const SCOPES_MAX: usize = 8;
/// Most ancestors of a task's cgroup that the scope filter looks at.
pub const CGROUP_DEPTH_MAX: usize = 32;
/// A system call number that does not exist.
pub const NO_SYSCALL: u32 = u32::MAX;

/// System call numbers that bit sets can hold; a power of two.
pub const CALLS_MAX: usize = 512;
/// Words of a set of system call numbers.
pub const CALL_WORDS: usize = CALLS_MAX / 64;

/// The file acts that come in two records, in the order of their [`Kind`]s.
pub const FILE_ACTS: [Kind; 6] = [
    Kind::Rename,
    Kind::Delete,
    Kind::Link,
    Kind::Symlink,
    Kind::MakeDirectory,
    Kind::MakeNode,
];

/// How a system call of one of [`FILE_ACTS`] names its files: one entry of [`Settings::file_calls`].
///
/// Arguments are counted from 1; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCall {
    /// From 1, the place in [`FILE_ACTS`].
    pub act: u16,
    pub path: u16,
    /// Descriptor of the directory in which the path begins; none is the working directory.
    pub directory: u16,
    pub old_path: u16,
    pub old_directory: u16,
}

impl FileCall {
    /// The entry of a number that is none of ours.
    pub const NONE: u16 = 0;

    pub const fn packed(self) -> u16 {
        self.act
            | self.path << 3
            | self.directory << 6
            | self.old_path << 9
            | self.old_directory << 12
    }

    #[inline(always)]
    pub const fn unpacked(packed: u16) -> FileCall {
        FileCall {
            act: packed & 7,
            path: packed >> 3 & 7,
            directory: packed >> 6 & 7,
            old_path: packed >> 9 & 7,
            old_directory: packed >> 12 & 7,
        }
    }
}

/// Where the functions behind one of [`FILE_ACTS`] keep what the programs read, counted in arguments.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct ActSlots {
    /// Return value of `security_path_*`.
    pub allowed: u32,
    /// The directory entry acted on, in `vfs_*`; of a rename its `struct renamedata` where there is one.
    pub entry: u32,
    /// Return value of `vfs_*`.
    pub result: u32,
    /// Non-zero when that is a pointer.
    pub result_is_pointer: u32,
}

impl ActSlots {
    /// Before user space fills it in.
    pub const UNSET: ActSlots = ActSlots {
        allowed: 0,
        entry: 0,
        result: 0,
        result_is_pointer: 0,
    };
}

/// Filters and facts that are not member offsets.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct Settings {
    /// [`crate::ABI`] of the daemon.
    pub abi: u32,
    /// File and network records of this tgid are dropped and counted; 0 excludes nobody.
    pub own_tgid: u32,
    /// Mixed into the socket token, so that no kernel address leaves the kernel.
    pub token_key: u64,
    /// Inode numbers of the cgroups (v2) whose subtrees are observed; unused entries are 0. All 0: the whole host.
    pub scopes: [u64; SCOPES_MAX],
    /// Numbers of the system calls that open files, native and 32-bit; unused entries are [`NO_SYSCALL`].
    pub open_calls: [u32; 4],
    pub open_calls_compat: [u32; 4],
    /// One bit for each number below [`CALLS_MAX`]: the system calls that the process family of programs looks at, native
    /// and 32-bit.
    pub process_calls: [u64; CALL_WORDS],
    pub process_calls_compat: [u64; CALL_WORDS],
    /// Those of them that do not change ids, native and 32-bit.
    pub setsid: [u32; 2],
    pub setpgid: [u32; 2],
    pub memfd_create: [u32; 2],
    pub ptrace: [u32; 2],
    /// Bit of `thread_info.status` that marks a 32-bit system call; 0 where there is none.
    pub compat_status: u32,
    /// Non-zero when `sched_process_exit` says whether the whole thread group is gone.
    pub exit_has_group_dead: u32,
    /// Byte in `linux_binprm` that holds `secureexec`, and its bit there.
    pub secureexec_byte: u32,
    pub secureexec_shift: u32,
    /// Bytes in one `struct upid`.
    pub upid_size: u32,
    /// Indexes into `signal_struct.pids`.
    pub pidtype_pgid: u32,
    pub pidtype_sid: u32,
    /// Parameters of `inet_csk_accept`: the return value is in the slot behind them.
    pub accept_parameters: u32,
    /// Non-zero when execs carry their environment.
    pub environment: u32,
    /// Parameters of `hugetlb_file_setup`, likewise; 0 where there is no such function.
    pub hugetlb_file_setup_parameters: u32,
    /// Record kinds, a bit by number, that are only wanted of processes with certain names; 0 costs nothing.
    pub named_kinds: u32,
    /// Non-zero when `vfs_rename` takes one `struct renamedata`.
    pub rename_by_struct: u32,
    /// One for each of [`FILE_ACTS`].
    pub acts: [ActSlots; FILE_ACTS.len()],
    /// Byte offsets in `struct pt_regs` of a system call's arguments: native, the first in place 1, then 32-bit, from 9.
    pub call_arguments: [u16; 16],
    /// By number, native, then 32-bit from [`CALLS_MAX`]: [`FileCall::packed`], or [`FileCall::NONE`].
    pub file_calls: [u16; 2 * CALLS_MAX],
    /// Which programs are there more than once: bits of [`crate::maps::Twice`].
    pub twice: u32,
    pub reserved_network: u32,
}

impl Settings {
    /// What a kernel object carries until user space fills it in.
    pub const UNSET: Settings = Settings {
        abi: 0,
        own_tgid: 0,
        token_key: 0,
        scopes: [0; SCOPES_MAX],
        open_calls: [NO_SYSCALL; 4],
        open_calls_compat: [NO_SYSCALL; 4],
        process_calls: [0; CALL_WORDS],
        process_calls_compat: [0; CALL_WORDS],
        setsid: [NO_SYSCALL; 2],
        setpgid: [NO_SYSCALL; 2],
        memfd_create: [NO_SYSCALL; 2],
        ptrace: [NO_SYSCALL; 2],
        compat_status: 0,
        exit_has_group_dead: 0,
        secureexec_byte: 0,
        secureexec_shift: 0,
        upid_size: 16,
        pidtype_pgid: 2,
        pidtype_sid: 3,
        accept_parameters: 2,
        environment: 0,
        hugetlb_file_setup_parameters: 0,
        named_kinds: 0,
        rename_by_struct: 0,
        acts: [ActSlots::UNSET; FILE_ACTS.len()],
        call_arguments: [0; 16],
        file_calls: [FileCall::NONE; 2 * CALLS_MAX],
        twice: 0,
        reserved_network: 0,
    };
}

/// What a system call does with sockets: for those that send or receive a sum of bits, told apart from the others by their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketCall {
    /// Nothing of interest.
    None = 0,
    Accept = 1,
    Connect = 2,
    /// The 32-bit call that does what its first argument says.
    Any = 3,
    /// `sendto(descriptor, buffer, length, flags, address, ...)`
    Send = 16,
    Receive = 16 | SocketCall::RECEIVES,
    /// `write(descriptor, buffer, length)`
    Write = 17,
    Read = 17 | SocketCall::RECEIVES,
    /// `writev(descriptor, pieces, count)`
    WritePieces = 17 | SocketCall::IN_PIECES,
    ReadPieces = 17 | SocketCall::IN_PIECES | SocketCall::RECEIVES,
    /// `sendmsg(descriptor, message, flags)`
    SendMessage = 17 | SocketCall::IN_PIECES | SocketCall::HAS_HEAD,
    ReceiveMessage = 17 | SocketCall::IN_PIECES | SocketCall::HAS_HEAD | SocketCall::RECEIVES,
    /// `sendmmsg(descriptor, messages, count, flags)`
    SendMessages = 17 | SocketCall::IN_PIECES | SocketCall::HAS_HEAD | SocketCall::SEVERAL,
    ReceiveMessages = 17
        | SocketCall::IN_PIECES
        | SocketCall::HAS_HEAD
        | SocketCall::SEVERAL
        | SocketCall::RECEIVES,
}

impl SocketCall {
    /// Which bits tell an address among the arguments from none.
    pub const SHAPE: u8 = 1;
    pub const RECEIVES: u8 = 2;
    /// The second argument is, or has, a list of pieces.
    pub const IN_PIECES: u8 = 4;
    /// The second argument is a `msghdr`.
    pub const HAS_HEAD: u8 = 8;
    /// The second argument is an array of `mmsghdr`.
    pub const SEVERAL: u8 = 32;
}

/// What each system call does, by its number.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct SocketCalls {
    /// A [`SocketCall`] each.
    pub native: [u8; SocketCalls::LEN],
    /// The same for 32-bit programs.
    pub compat: [u8; SocketCalls::LEN],
}

impl SocketCalls {
    /// System calls there may be; a power of two.
    pub const LEN: usize = 512;
    /// What a kernel object carries until user space fills it in.
    pub const UNSET: SocketCalls = SocketCalls {
        native: [0; SocketCalls::LEN],
        compat: [0; SocketCalls::LEN],
    };
}

/// Most directories above a file that are compared with watched ones.
pub const WATCH_DEPTH_MAX: usize = 8;

/// How a system call changes a file and where its arguments say which: values of [`BulkSettings::calls`].
pub mod call {
    /// None of these.
    pub const OTHER: u8 = 0;
    /// Writes to the descriptor in the first argument.
    pub const WRITE: u8 = 1;
    /// Writes to the descriptor in the third argument.
    pub const WRITE_THIRD: u8 = 2;
    /// By descriptor, in the first argument.
    pub const TRUNCATE: u8 = 3;
    pub const MODE: u8 = 4;
    pub const OWNER: u8 = 5;
    /// By path, in the first argument.
    pub const PATH_TRUNCATE: u8 = 6;
    pub const PATH_MODE: u8 = 7;
    pub const PATH_OWNER: u8 = 8;
    pub const PATH_OWNER_NO_FOLLOW: u8 = 9;
    /// By directory and path, in the first two arguments.
    pub const AT_MODE: u8 = 10;
    pub const AT_OWNER: u8 = 11;
    /// Opens; the flags are the second argument, or the third, or where the third points; or they are those of creat.
    pub const OPEN: u8 = 12;
    pub const OPEN_THIRD: u8 = 13;
    pub const OPEN_POINTER: u8 = 14;
    pub const CREATE: u8 = 15;
}

/// What the programs of the kinds that come in masses need besides.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(FromBytes, IntoBytes, Immutable, KnownLayout)
)]
#[repr(C)]
pub struct BulkSettings {
    /// Bytes in the ring above which no more of these records are sent.
    pub fill_max: u64,
    /// What one record costs a process, in nanoseconds of its time; 0: no throttle.
    pub cost_ns: u64,
    /// Most that a process can save up.
    pub credit_ns_max: u64,
    /// Parameters of `do_truncate`: 4, or 5 since 5.12.
    pub truncate_parameters: u32,
    /// Non-zero when some directory is watched.
    pub watch_directories: u32,
    /// By system call number; see [`call`].
    pub calls: [u8; CALLS_MAX],
    pub calls_compat: [u8; CALLS_MAX],
}

impl BulkSettings {
    /// What a kernel object carries until user space fills it in.
    pub const UNSET: BulkSettings = BulkSettings {
        fill_max: 0,
        cost_ns: 0,
        credit_ns_max: 0,
        truncate_parameters: 5,
        watch_directories: 0,
        calls: [call::OTHER; CALLS_MAX],
        calls_compat: [call::OTHER; CALLS_MAX],
    };
}

const _: () = {
    assert!(size_of::<Offsets>() == Offsets::MEMBERS.len() * 2);
    assert!(size_of::<Settings>() == 320 + 4 + 96 + 32 + 4 * CALLS_MAX + 4);
    assert!(size_of::<BulkSettings>() == 32 + 2 * CALLS_MAX);
};
