//! Maps and read-only globals of the kernel object.
//!
//! In: values that user space writes before the programs load. Out: [`offset!`] and [`setting!`], which read one field each;
//! reading a whole struct would put it on the 512-byte stack. Scratch is never shared between programs.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use sensor_ebpf::{
    Kind,
    maps::{Bucket, Count, Twice, WATCH_NAME_LEN, WATCHES_MAX},
    settings::{BulkSettings, Offsets, Settings, SocketCalls},
};

use crate::programs::{
    bulk::PathScratch, dns::DnsScratch, file::FileScratch, file_act::ActScratch,
    file_call::CallScratch, memfd::MemfdScratch, process::ExecScratch,
};

/// Member offsets of the running kernel.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::UNSET;

/// Filters and facts; see [`Settings`].
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings::UNSET;

/// More of them, for the kinds that come in masses; see [`BulkSettings`].
#[unsafe(no_mangle)]
pub(crate) static BULK: BulkSettings = BulkSettings::UNSET;

/// What system calls do with sockets; see [`SocketCalls`].
#[unsafe(no_mangle)]
pub(crate) static SOCKET_CALLS: SocketCalls = SocketCalls::UNSET;

/// Reads a value that user space replaced after this was compiled.
#[inline(always)]
pub(crate) fn constant<T: Copy>(field: &'static T) -> T {
    // SAFETY: the reference is valid; volatile keeps the compiler from using the value it sees here.
    unsafe { core::ptr::read_volatile(field) }
}

/// Reads one field of [`OFFSETS`] as a `u64`.
macro_rules! offset {
    ($field:ident) => {
        u64::from($crate::globals::constant(&$crate::globals::OFFSETS.$field))
    };
}

/// Reads one field of [`SETTINGS`].
macro_rules! setting {
    ($($field:tt)+) => {
        $crate::globals::constant(&$crate::globals::SETTINGS.$($field)+)
    };
}

/// Reads one field of [`BULK`].
macro_rules! bulk_setting {
    ($($field:tt)+) => {
        $crate::globals::constant(&$crate::globals::BULK.$($field)+)
    };
}

pub(crate) use {bulk_setting, offset, setting};

/// The one way out. Sized by user space.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// One row of [`Count`] per record kind.
#[map]
pub(crate) static COUNTERS: PerCpuArray<[u64; Count::SLOTS]> =
    PerCpuArray::with_max_entries(Kind::SLOTS as u32, 0);

/// Kinds that programs which serve several are to report, a bit each: by trampolines, by tracepoints. Set by user space once
/// it knows which sort of hook serves a kind.
#[map]
pub(crate) static SERVED: Array<u32> = Array::with_max_entries(2, 0);

/// True when programs of this sort are to report the kind.
#[inline(always)]
pub(crate) fn is_served(by_tracepoint: bool, kind: Kind) -> bool {
    SERVED
        .get(u32::from(by_tracepoint))
        .is_some_and(|served| constant(served) & 1 << kind as u32 != 0)
}

/// The process whose children count as in scope, 0 for none: the sensor itself, while it checks the programs.
#[map]
pub(crate) static CHECKED: Array<u32> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the exec program alone. An array, since per-CPU elements end at 32 KiB.
#[map]
pub(crate) static EXEC_SCRATCH: Array<ExecScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the first-choice creation program alone.
#[map]
pub(crate) static FILE_OPEN_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the second-choice creation program alone.
#[map]
pub(crate) static SYS_EXIT_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the first-choice memfd program alone.
#[map]
pub(crate) static MEMFD_SCRATCH: Array<MemfdScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the first-choice program of huge memfds alone.
#[map]
pub(crate) static MEMFD_HUGE_SCRATCH: Array<MemfdScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the program at the return of the process family's system calls alone.
#[map]
pub(crate) static PROCESS_CALL_SCRATCH: Array<MemfdScratch> = Array::with_max_entries(1, 0);

/// One buffer per possible CPU, for the program at the begin of a rename alone; likewise below.
#[map]
pub(crate) static RENAME_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DELETE_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static LINK_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SYMLINK_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MKDIR_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MKNOD_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CALL_ENTER_SCRATCH: Array<CallScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CALL_EXIT_SCRATCH: Array<CallScratch> = Array::with_max_entries(1, 0);

/// System calls whose paths could not be read at entry, because their pages were not in memory yet: token by thread. They
/// are read at exit.
#[map]
pub(crate) static FILE_CALLS_UNREAD: HashMap<u64, u64> = HashMap::with_max_entries(1024, 0);
/// Buffers of the programs in `modify.rs` and `open.rs`, one map for each.
#[map]
pub(crate) static FILE_WRITE_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_TRUNCATE_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PATH_TRUNCATE_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CHMOD_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CHOWN_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MODIFY_SYSCALL_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static WATCHED_OPEN_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static OPEN_SYSCALL_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);

/// Open files whose change was reported, by the address of their `struct file`; of a layer's file, the file above it; by thread, the
/// file above that it is just opening.
#[map]
pub(crate) static REPORTED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16_384, 0);

/// What each process has saved up, by tgid.
#[map]
pub(crate) static BUCKETS: LruHashMap<u32, Bucket> = LruHashMap::with_max_entries(8192, 0);

/// Names of files and directories whose opening is reported. Filled by user space.
#[map]
pub(crate) static WATCHED: HashMap<[u8; WATCH_NAME_LEN], u32> =
    HashMap::with_max_entries(WATCHES_MAX, 0);

/// One buffer per possible CPU, for the DNS program alone.
#[map]
pub(crate) static DNS_SCRATCH: Array<DnsScratch> = Array::with_max_entries(1, 0);

/// When each process last did something with a name server, boot clock, by tgid. Only saves others the look at their sockets.
#[map]
pub(crate) static RESOLVING: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);

/// For each program of [`Twice`], by the low bits of a thread's number: the thread for which an instance ran last, and which. Grown
/// by user space where there are second instances.
#[map]
pub(crate) static NOTES: Array<u32> = Array::with_max_entries(1, 0);

/// Runs that a later instance took in place of the first, by [`Twice`].
#[map]
pub(crate) static MADE_UP: PerCpuArray<u64> = PerCpuArray::with_max_entries(Twice::SLOTS, 0);

/// In which order two programs on one function ran: the turn of each, the thread that asks, 0 for none, and the last turn.
#[map]
pub(crate) static ORDER: Array<u64> = Array::with_max_entries(4, 0);

/// One buffer per possible CPU for each later instance that needs one.
#[map]
pub(crate) static EXEC_AGAIN_SCRATCH: Array<ExecScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SYS_EXIT_AGAIN_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SYS_EXIT_ONCE_MORE_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DNS_AGAIN_SCRATCH: Array<DnsScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PROCESS_CALL_AGAIN_SCRATCH: Array<MemfdScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CALL_ENTER_AGAIN_SCRATCH: Array<CallScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_CALL_EXIT_AGAIN_SCRATCH: Array<CallScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MODIFY_SYSCALL_AGAIN_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static OPEN_SYSCALL_AGAIN_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_OPEN_AGAIN_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static FILE_OPEN_ONCE_MORE_SCRATCH: Array<FileScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static RENAME_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static DELETE_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static LINK_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static SYMLINK_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MKDIR_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MKNOD_AGAIN_SCRATCH: Array<ActScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static MEMFD_AGAIN_SCRATCH: Array<MemfdScratch> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static WATCHED_OPEN_AGAIN_SCRATCH: Array<PathScratch> = Array::with_max_entries(1, 0);
