//! What the running kernel offers: member offsets, filters and sizes for the kernel programs.
//!
//! In: `/sys/kernel/btf/vmlinux`, `/proc`, and [`Options`]. Out: the two read-only globals of the kernel object, or the name of
//! what is missing. A guess is never made: a required member that is absent is an error.

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use rustix::fs::statfs;
use sensor_ebpf::{
    ABI, Kind,
    maps::Twice,
    settings::{
        ABSENT, ActSlots, BulkSettings, CALL_WORDS, FILE_ACTS, Member, Offsets, SCOPES_MAX,
        Settings, SocketCall, SocketCalls,
    },
};

use super::{
    Options,
    btf::{Btf, BtfError},
    bulk, calls,
    preemption::Preemption,
};

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// Magic number of the cgroup v2 filesystem.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;

/// Why this kernel can not be observed.
#[derive(Debug, thiserror::Error)]
pub enum SupportError {
    #[error(
        "this kernel has no type information: cannot read {VMLINUX}; it must be built with CONFIG_DEBUG_INFO_BTF (Linux 5.10 or later)"
    )]
    NoBtf(#[source] io::Error),
    #[error("cannot understand {VMLINUX}")]
    Btf(#[from] BtfError),
    #[error("this kernel has no `{owner}.{path}`, which the kernel programs read")]
    NoMember {
        owner: &'static str,
        path: &'static str,
    },
    #[error(
        "`{owner}.{path}` of this kernel does not begin at a byte, or lies too far into its structure"
    )]
    OddMember {
        owner: &'static str,
        path: &'static str,
    },
    #[error("the ids of `cred` of this kernel do not lie in a row")]
    OddCred,
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids kernel programs to read kernel memory; boot without lockdown=confidentiality"
    )]
    Confidentiality,
    #[error("{} scopes are named, at most {SCOPES_MAX} are allowed", .0)]
    TooManyScopes(usize),
    #[error("cannot use {} as a scope", path.display())]
    Scope {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} is not a cgroup v2 directory", .0.display())]
    NotACgroup(PathBuf),
    #[error("the ring buffer must be a power of two of at least 4096 bytes, it is {0}")]
    RingBytes(u32),
}

/// What goes into the kernel object before it loads.
pub(super) struct Support {
    pub(super) btf: Btf,
    /// The bytes of [`Offsets`].
    pub(super) offsets: Vec<u8>,
    pub(super) settings: Settings,
    pub(super) bulk: BulkSettings,
}

impl Support {
    /// Reads this kernel.
    pub(super) fn detect(options: &Options) -> Result<Support, SupportError> {
        refuse_confidentiality()?;
        if !options.ring_bytes.is_power_of_two() || options.ring_bytes < 4096 {
            return Err(SupportError::RingBytes(options.ring_bytes));
        }
        let btf = read_btf()?;
        let offsets = offsets(&btf)?;
        let settings = settings(&btf, options)?;
        let bulk = bulk::settings(&btf, options)?;
        Ok(Support {
            btf,
            offsets,
            settings,
            bulk,
        })
    }
}

/// The kernel's description of its types.
pub(super) fn read_btf() -> Result<Btf, SupportError> {
    Ok(Btf::parse(fs::read(VMLINUX).map_err(SupportError::NoBtf)?)?)
}

fn refuse_confidentiality() -> Result<(), SupportError> {
    // Absent where securityfs is not mounted or lockdown is not built in; then loading itself will tell.
    match fs::read_to_string(LOCKDOWN) {
        Ok(text) if text.contains("[confidentiality]") => Err(SupportError::Confidentiality),
        _ => Ok(()),
    }
}

/// The bytes of [`Offsets`] for this kernel.
fn offsets(btf: &Btf) -> Result<Vec<u8>, SupportError> {
    let mut bytes = Vec::with_capacity(size_of::<Offsets>());
    for member in Offsets::MEMBERS {
        bytes.extend_from_slice(&offset(btf, member)?.to_le_bytes());
    }
    let id = |name| Ok::<_, BtfError>(btf.member("cred", name)?.map(|at| at.bit_offset));
    if id("fsgid")? != id("uid")?.map(|uid| uid.wrapping_add(28 * 8)) {
        return Err(SupportError::OddCred);
    }
    Ok(bytes)
}

fn offset(btf: &Btf, member: &Member) -> Result<u16, SupportError> {
    let Member {
        owner,
        path,
        optional,
    } = *member;
    let Some(at) = btf.member(owner, path)? else {
        return if optional {
            Ok(ABSENT)
        } else {
            Err(SupportError::NoMember { owner, path })
        };
    };
    if at.bits.is_some() || !at.bit_offset.is_multiple_of(8) {
        return Err(SupportError::OddMember { owner, path });
    }
    u16::try_from(at.bit_offset / 8)
        .ok()
        .filter(|offset| *offset != ABSENT)
        .ok_or(SupportError::OddMember { owner, path })
}

/// The function that does one of [`FILE_ACTS`], and the parameter that is the directory entry acted on.
fn act_function(act: Kind) -> Option<(&'static str, &'static str)> {
    match act {
        Kind::Rename => Some(("vfs_rename", "old_dentry")),
        Kind::Delete => Some(("vfs_unlink", "dentry")),
        Kind::Link => Some(("vfs_link", "new_dentry")),
        Kind::Symlink => Some(("vfs_symlink", "dentry")),
        Kind::MakeDirectory => Some(("vfs_mkdir", "dentry")),
        Kind::MakeNode => Some(("vfs_mknod", "dentry")),
        _ => None,
    }
}

/// Since 5.12 the arguments of `vfs_rename` are members of a structure.
fn renames_by_struct(btf: &Btf) -> Result<bool, BtfError> {
    let parameters = btf.parameters("vfs_rename")?.unwrap_or_default();
    Ok(parameters.len() == 1)
}

/// Where the functions behind [`FILE_ACTS`] keep what the programs read; 0 for a function this kernel lacks, to which
/// nothing can be attached.
fn act_slots(btf: &Btf) -> Result<[ActSlots; FILE_ACTS.len()], BtfError> {
    let mut slots = [ActSlots::UNSET; FILE_ACTS.len()];
    for (slots, act) in slots.iter_mut().zip(FILE_ACTS) {
        if let Ok(found) = slots_of(btf, act)? {
            *slots = found;
        }
    }
    Ok(slots)
}

/// The slots of one act, or why its function hooks can't be used.
pub(super) fn slots_of(btf: &Btf, act: Kind) -> Result<Result<ActSlots, String>, BtfError> {
    let Some((function, entry)) = act_function(act) else {
        return Ok(Err(format!("{} is no file act", act.name())));
    };
    let allows = format!("security_path_{}", function.trim_start_matches("vfs_"));
    let (Some(allowing), Some(parameters)) = (btf.parameters(&allows)?, btf.parameters(function)?)
    else {
        return Ok(Err(format!(
            "this kernel lacks `{allows}` (CONFIG_SECURITY_PATH) or `{function}`"
        )));
    };
    let by_struct = act == Kind::Rename && renames_by_struct(btf)?;
    if by_struct && btf.member("renamedata", "old_dentry")?.is_none() {
        return Ok(Err(
            "this kernel's `renamedata` has no `old_dentry`".to_owned()
        ));
    }
    let position = parameters.iter().position(|name| name == entry);
    let Some(entry_at) = position.or(by_struct.then_some(0)) else {
        return Ok(Err(format!(
            "this kernel's `{function}` has no parameter `{entry}`"
        )));
    };
    let number = |count: usize| u32::try_from(count).unwrap_or_default();
    Ok(Ok(ActSlots {
        allowed: number(allowing.len()),
        entry: number(entry_at),
        result: number(parameters.len()),
        result_is_pointer: u32::from(btf.returns_pointer(function)?.unwrap_or_default()),
    }))
}

fn settings(btf: &Btf, options: &Options) -> Result<Settings, SupportError> {
    let secureexec = btf
        .member("linux_binprm", "secureexec")?
        .ok_or(SupportError::NoMember {
            owner: "linux_binprm",
            path: "secureexec",
        })?;
    let upid_size = btf.struct_size("upid").ok_or(SupportError::NoMember {
        owner: "upid",
        path: "nr",
    })?;
    let pid_type = |name| {
        btf.enum_value("pid_type", name)
            .and_then(|value| u32::try_from(value).ok())
            .filter(|value| *value < 8)
            .ok_or(SupportError::NoMember {
                owner: "pid_type",
                path: name,
            })
    };
    // The kernel's type information names no tracepoint parameters; the second one there ever was is `group_dead`.
    let group_dead = btf
        .tracepoint_parameter_count("sched_process_exit")?
        .is_some_and(|count| count >= 2);
    let calls = system_calls();
    let file_calls = calls::file_calls(btf)?;
    Ok(Settings {
        abi: u32::from(ABI),
        own_tgid: if options.own_tgid_excluded {
            std::process::id()
        } else {
            0
        },
        token_key: token_key(),
        scopes: scopes(options)?,
        open_calls: calls.open,
        open_calls_compat: calls.open_compat,
        process_calls: set(&calls.process),
        process_calls_compat: set(&calls.process_compat),
        setsid: calls.setsid,
        setpgid: calls.setpgid,
        memfd_create: calls.memfd_create,
        ptrace: calls.ptrace,
        compat_status: calls.compat_status,
        exit_has_group_dead: u32::from(group_dead),
        secureexec_byte: secureexec.bit_offset / 8,
        secureexec_shift: secureexec.bit_offset % 8,
        upid_size,
        pidtype_pgid: pid_type("PIDTYPE_PGID")?,
        pidtype_sid: pid_type("PIDTYPE_SID")?,
        accept_parameters: parameter_count(btf, "inet_csk_accept")?,
        environment: u32::from(options.environment),
        hugetlb_file_setup_parameters: parameter_count(btf, "hugetlb_file_setup")?,
        named_kinds: options.named.kinds().bits(),
        rename_by_struct: u32::from(renames_by_struct(btf)?),
        acts: act_slots(btf)?,
        call_arguments: file_calls.arguments,
        file_calls: file_calls.calls,
        twice: twice(),
        reserved_network: 0,
    })
}

/// How many parameters a function takes; 0 where there is no such function, whose program is then not loaded either.
fn parameter_count(btf: &Btf, function: &str) -> Result<u32, SupportError> {
    let names = btf.parameters(function)?.unwrap_or_default();
    Ok(u32::try_from(names.len()).unwrap_or(0))
}

/// Numbers of system calls.
struct SystemCalls {
    /// Those that may create a file: open, creat, openat, openat2.
    open: [u32; 4],
    open_compat: [u32; 4],
    /// Those that change ids, set*uid and set*gid, and the four below. The 32-bit table has the former for short and for long
    /// ids.
    process: Vec<u32>,
    process_compat: Vec<u32>,
    /// Native and 32-bit.
    setsid: [u32; 2],
    setpgid: [u32; 2],
    memfd_create: [u32; 2],
    ptrace: [u32; 2],
    /// `TS_COMPAT` of `thread_info.status`.
    compat_status: u32,
}

#[cfg(target_arch = "x86_64")]
fn system_calls() -> SystemCalls {
    SystemCalls {
        open: [2, 85, 257, 437],
        open_compat: [5, 8, 295, 437],
        process: vec![105, 106, 113, 114, 117, 119, 122, 123, 112, 109, 319, 101],
        process_compat: vec![
            23, 46, 70, 71, 138, 139, 164, 170, 203, 204, 208, 210, 213, 214, 215, 216, 66, 57,
            356, 26,
        ],
        setsid: [112, 66],
        setpgid: [109, 57],
        memfd_create: [319, 356],
        ptrace: [101, 26],
        compat_status: 2,
    }
}

/// Without numbers the second-choice programs report nothing; the first choices do not need them.
#[cfg(not(target_arch = "x86_64"))]
fn system_calls() -> SystemCalls {
    SystemCalls {
        open: Settings::UNSET.open_calls,
        open_compat: Settings::UNSET.open_calls_compat,
        process: Vec::new(),
        process_compat: Vec::new(),
        setsid: Settings::UNSET.setsid,
        setpgid: Settings::UNSET.setpgid,
        memfd_create: Settings::UNSET.memfd_create,
        ptrace: Settings::UNSET.ptrace,
        compat_status: 0,
    }
}

/// A set of system call numbers as the kernel programs read it.
fn set(numbers: &[u32]) -> [u64; CALL_WORDS] {
    let mut words = [0; CALL_WORDS];
    for number in numbers {
        let at = usize::try_from(number / 64).unwrap_or(CALL_WORDS);
        if let Some(word) = words.get_mut(at) {
            *word |= 1 << (number % 64);
        }
    }
    words
}

/// What system calls do with sockets.
#[cfg(target_arch = "x86_64")]
pub(super) fn socket_calls() -> SocketCalls {
    use SocketCall::*;
    const NATIVE: &[(usize, SocketCall)] = &[
        (0, Read),
        (1, Write),
        (19, ReadPieces),
        (20, WritePieces),
        (42, Connect),
        (43, Accept),
        (44, Send),
        (45, Receive),
        (46, SendMessage),
        (47, ReceiveMessage),
        (288, Accept),
        (299, ReceiveMessages),
        (307, SendMessages),
    ];
    const COMPAT: &[(usize, SocketCall)] = &[(102, Any), (362, Connect), (364, Accept)];
    let mut calls = SocketCalls::UNSET;
    for (table, rows) in [(&mut calls.native, NATIVE), (&mut calls.compat, COMPAT)] {
        for (number, call) in rows {
            if let Some(entry) = table.get_mut(*number) {
                *entry = *call as u8;
            }
        }
    }
    calls
}

/// Without numbers the program at the return of system calls is not attached.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn socket_calls() -> SocketCalls {
    SocketCalls::UNSET
}

/// A number nobody outside can know, the same for one run of the daemon.
fn token_key() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u64)
}

/// Inode numbers of the scopes: the kernel calls them cgroup ids.
fn scopes(options: &Options) -> Result<[u64; SCOPES_MAX], SupportError> {
    if options.scope.len() > SCOPES_MAX {
        return Err(SupportError::TooManyScopes(options.scope.len()));
    }
    let mut ids = [0; SCOPES_MAX];
    for (id, path) in ids.iter_mut().zip(&options.scope) {
        let scope = |cause| SupportError::Scope {
            path: path.clone(),
            cause,
        };
        let metadata = fs::metadata(path).map_err(scope)?;
        let filesystem = statfs(path).map_err(|cause| scope(cause.into()))?;
        if !metadata.is_dir() || filesystem.f_type != CGROUP2_MAGIC {
            return Err(SupportError::NotACgroup(path.clone()));
        }
        *id = metadata.ino();
    }
    Ok(ids)
}

/// The next power of two of 4 MiB per CPU, at least 8 MiB and at most 64 MiB.
pub fn default_ring_bytes() -> u32 {
    const MIB: u32 = 1 << 20;
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    u32::try_from(cpus)
        .unwrap_or(16)
        .saturating_mul(4 * MIB)
        .clamp(8 * MIB, 64 * MIB)
        .next_power_of_two()
}

/// True before 5.11, where maps count against the limit on locked memory.
pub(super) fn needs_memlock() -> bool {
    release().is_none_or(|release| release < (5, 11))
}

/// True where another task can run in the middle of a program on a tracepoint, and the kernel skips the program for that task: so
/// it is in 7.2, and not in 6.18.
pub(super) fn lets_others_between() -> bool {
    release().is_none_or(|release| release >= (7, 0))
}

/// Which programs are there more than once; see [`Twice`].
fn twice() -> u32 {
    let mut sorts = 0;
    if lets_others_between() {
        sorts |= Twice::ON_TRACEPOINTS;
    }
    if Preemption::of_this_kernel().skips_on_functions() {
        sorts |= Twice::ON_FUNCTIONS;
    }
    sorts
}

/// Version of the running kernel, the first two numbers, as far as it can be read.
pub(super) fn release() -> Option<(u32, u32)> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Bytes of locked memory this process may have, where maps count against it; `None` for no limit.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    needs_memlock()
        .then(|| getrlimit(Resource::Memlock).current)
        .flatten()
}
