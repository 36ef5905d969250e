//! File creation.
//!
//! In: the first choice is the return of the function that every open goes through, the second the return of the open
//! family of system calls. Out: one creation record each time an open made the directory entry; never for a file that was
//! there before.

use aya_ebpf::{
    cty::c_void,
    macros::{btf_tracepoint, fexit},
    maps::Array,
    programs::{BtfTracePointContext, FExitContext},
};
use sensor_ebpf::{
    FileBody, Header, Kind, PATH_LEN_MAX, Part, PartKind, maps::Twice, record_flag,
    settings::ABSENT,
};

use super::{
    again, pad,
    process::{degraded, fault_flag},
    release, take, wanted, write_part,
};
use crate::{
    emit::emit,
    globals::{
        FILE_OPEN_AGAIN_SCRATCH, FILE_OPEN_ONCE_MORE_SCRATCH, FILE_OPEN_SCRATCH,
        SYS_EXIT_AGAIN_SCRATCH, SYS_EXIT_ONCE_MORE_SCRATCH, SYS_EXIT_SCRATCH, offset, setting,
    },
    read::{
        Faults, call, clamp, helper, opaque,
        path::{self, Place, Walk},
        task,
    },
};

/// `FMODE_CREATED` of `file.f_mode`: this open made the directory entry.
pub(crate) const FMODE_CREATED: u32 = 0x10_0000;

const PATH_MAX: u64 = PATH_LEN_MAX as u64;
const PATH_AT: u64 = (size_of::<Header>() + size_of::<FileBody>() + size_of::<Part>()) as u64;
/// Farthest end of a file record, padding included.
const FILE_MAX: u64 = PATH_AT + PATH_MAX + 8;

/// A file program's buffer.
#[repr(C)]
pub(crate) struct FileScratch {
    busy: u64,
    record: [u8; FILE_MAX as usize + 16],
    walk: Walk,
}

/// A file was created: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int security_file_open(struct file *)`, which every open reaches, io_uring and
/// the kernel's own included, and which may call `bpf_d_path`. A non-zero return means that the file exists but its open
/// was denied.
#[fexit(function = "security_file_open")]
fn file_create(ctx: FExitContext) -> i32 {
    again::note(Twice::Creation);
    created(&ctx, &FILE_OPEN_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_file_open")]
fn file_create_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Creation) {
        created(&ctx, &FILE_OPEN_AGAIN_SCRATCH);
    }
    0
}

/// And once more: of all acts, files are made by the most tasks at once.
#[fexit(function = "security_file_open")]
fn file_create_once_more(ctx: FExitContext) -> i32 {
    if again::is_left_by_both(Twice::Creation) {
        created(&ctx, &FILE_OPEN_ONCE_MORE_SCRATCH);
    }
    0
}

#[inline(always)]
fn created(ctx: &FExitContext, map: &Array<FileScratch>) {
    let file: *const u8 = ctx.arg(0);
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    let denied = ctx.arg::<u64>(1) as i32 != 0;
    let mut faults = Faults::NONE;
    if faults.read::<u32>(file as u64, offset!(file_mode)) & FMODE_CREATED == 0 {
        return;
    }
    let task = task::current();
    if !wanted(Kind::FileCreate, task) {
        return;
    }
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // SAFETY: the map has one element per possible CPU; only one program uses it, and `busy` keeps nested runs away.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(Kind::FileCreate, task);
            return;
        }
        let record = (&raw mut (*scratch).record).cast::<u8>();
        // The typed pointer plus a constant: the verifier finds the `struct path` member there.
        let path = file.add(offset!(file_path) as usize).cast::<c_void>();
        let written = helper::d_path(path, record.add(PATH_AT as usize).cast(), PATH_MAX);
        let mut flags = if denied { record_flag::OPEN_DENIED } else { 0 };
        let len = if written > 1 {
            clamp::<PATH_MAX>(opaque(written as u64 - 1))
        } else {
            // Longer than the bound: the walk keeps the end of it.
            let walk = &raw mut (*scratch).walk;
            walk_path(&mut faults, task, file as u64, record, walk, &mut flags)
        };
        send(&mut faults, task, file as u64, record, len, flags);
        release(busy);
    }
}

/// A file was created: second choice, where function trampolines are refused.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`. Only what the kernel knows is read: the file behind the descriptor just returned. Blind
/// to opens without a system call (io_uring, the kernel's own) and to files whose open was denied after they were made; a
/// thread that closes the descriptor before the caller has it can hide or swap the file.
#[btf_tracepoint(function = "sys_exit")]
fn file_create_by_syscall(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::FileCreate);
    created_by_call(&ctx, &SYS_EXIT_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn file_create_by_syscall_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::FileCreate) {
        created_by_call(&ctx, &SYS_EXIT_AGAIN_SCRATCH);
    }
    0
}

/// And once more, as [`file_create_once_more`].
#[btf_tracepoint(function = "sys_exit")]
fn file_create_by_syscall_once_more(ctx: BtfTracePointContext) -> i32 {
    if again::is_left_by_both(Twice::FileCreate) {
        created_by_call(&ctx, &SYS_EXIT_ONCE_MORE_SCRATCH);
    }
    0
}

#[inline(always)]
fn created_by_call(ctx: &BtfTracePointContext, map: &Array<FileScratch>) {
    let mut faults = Faults::NONE;
    let number = call::returning(ctx.arg(0));
    let native = is_open(number);
    let compat = is_open_compat(number);
    if !native && !compat {
        return;
    }
    let descriptor: i64 = ctx.arg(1);
    if descriptor < 0 {
        return;
    }
    let task = task::current();
    if !matches_mode(&mut faults, task, native, compat) {
        return;
    }
    let file = descriptor_file(&mut faults, task, descriptor as u64);
    if file == 0 || faults.read::<u32>(file, offset!(file_mode)) & FMODE_CREATED == 0 {
        return;
    }
    if !wanted(Kind::FileCreate, task) {
        return;
    }
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // SAFETY: the map has one element per possible CPU; only this program uses it, and `busy` keeps nested runs away.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(Kind::FileCreate, task);
            return;
        }
        let record = (&raw mut (*scratch).record).cast();
        let walk = &raw mut (*scratch).walk;
        let mut flags = 0;
        let len = walk_path(&mut faults, task, file, record, walk, &mut flags);
        send(&mut faults, task, file, record, len, flags);
        release(busy);
    }
}

#[inline(always)]
pub(crate) fn is_open(number: u32) -> bool {
    number == setting!(open_calls[0])
        || number == setting!(open_calls[1])
        || number == setting!(open_calls[2])
        || number == setting!(open_calls[3])
}

#[inline(always)]
pub(crate) fn is_open_compat(number: u32) -> bool {
    number == setting!(open_calls_compat[0])
        || number == setting!(open_calls_compat[1])
        || number == setting!(open_calls_compat[2])
        || number == setting!(open_calls_compat[3])
}

/// True when the number is of the table that this call went through: 5 is `open` to a 32-bit program and `fstat` to others.
#[inline(always)]
pub(super) fn matches_mode(faults: &mut Faults, task: u64, native: bool, compat: bool) -> bool {
    if is_compat(faults, task) {
        compat
    } else {
        native
    }
}

/// True when the task is inside a 32-bit system call.
#[inline(always)]
pub(crate) fn is_compat(faults: &mut Faults, task: u64) -> bool {
    if setting!(compat_status) == 0 || offset!(task_thread_status) == u64::from(ABSENT) {
        return false;
    }
    faults.read::<u32>(task, offset!(task_thread_status)) & setting!(compat_status) != 0
}

/// The file behind a descriptor of the task; 0 when there is none.
#[inline(always)]
pub(super) fn descriptor_file(faults: &mut Faults, task: u64, descriptor: u64) -> u64 {
    let files = faults.pointer(task, offset!(task_files));
    let table = faults.pointer(files, offset!(files_fdt));
    if descriptor >= u64::from(faults.read::<u32>(table, offset!(fdtable_max_fds))) {
        return 0;
    }
    let slots = faults.pointer(table, offset!(fdtable_fd));
    faults.pointer(slots, descriptor * 8)
}

/// Puts the path of `file` in its place in `record` and returns its length.
///
/// # Safety
///
/// `record` and `walk` point to this CPU's scratch, which the caller holds.
#[inline(always)]
unsafe fn walk_path(
    faults: &mut Faults,
    task: u64,
    file: u64,
    record: *mut u8,
    walk: *mut Walk,
    flags: &mut u32,
) -> u64 {
    let fs = faults.pointer(task, offset!(task_fs));
    let root = Place::read(faults, fs, offset!(fs_root));
    let place = Place::read(faults, file, offset!(file_path));
    // SAFETY: a path's length is held to its bound, for which the record has room.
    unsafe {
        path::walk(faults, place, root, walk);
        *flags |= Walk::flags(walk);
        let (from, len) = Walk::path(walk);
        let to = record.add(PATH_AT as usize).cast();
        faults.0 |= helper::probe_read_kernel(to, clamp::<PATH_MAX>(opaque(len)), from);
        len
    }
}

/// Fills in the rest of a record whose path of `len` bytes is in place, and sends it.
///
/// # Safety
///
/// `record` points to this CPU's scratch, which the caller holds.
#[inline(always)]
unsafe fn send(
    faults: &mut Faults,
    task: u64,
    file: u64,
    record: *mut u8,
    len: u64,
    mut flags: u32,
) {
    let inode = faults.pointer(file, offset!(file_inode));
    let superblock = faults.pointer(inode, offset!(inode_sb));
    // SAFETY: header, body and part table lie before `PATH_AT` in the record.
    unsafe {
        let end = pad::<{ PATH_AT + PATH_MAX }>(record, PATH_AT + len);
        task::fill_header(faults, record.cast(), Kind::FileCreate, task);
        let body = record.add(size_of::<Header>()).cast::<FileBody>();
        (*body).inode = faults.read::<u64>(inode, offset!(inode_ino));
        (*body).dev = faults.read::<u32>(superblock, offset!(super_block_dev));
        (*body).mode = u32::from(faults.read::<u16>(inode, offset!(inode_mode)));
        (*body).uid = faults.read::<u32>(inode, offset!(inode_uid));
        (*body).gid = faults.read::<u32>(inode, offset!(inode_gid));
        (*body).open_flags = faults.read::<u32>(file, offset!(file_flags));
        (*body).reserved = 0;
        write_part(
            record
                .add(size_of::<Header>() + size_of::<FileBody>())
                .cast(),
            PartKind::Path as u16,
            len,
        );
        flags |= fault_flag(faults);
        emit::<FILE_MAX>(Kind::FileCreate, record, end, 1, flags);
    }
}
