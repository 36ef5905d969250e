//! Watched files that are opened.
//!
//! In: the first choice is the return of the function that every open goes through, the second the return of the open family
//! of system calls. Out: one record per open of a file whose name, or that of a directory above it, is one of the watched; user
//! space compares the rest of the path. Never for an open that made the file, nor for the one that an exec makes.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit},
    maps::Array,
    programs::{BtfTracePointContext, FExitContext},
};
use sensor_ebpf::{
    FileBody, Kind,
    maps::{Twice, WATCH_NAME_LEN, watch},
    settings::{ABSENT, WATCH_DEPTH_MAX},
};

use super::{
    again,
    bulk::{FMODE_NOACCOUNT, FMODE_PATH, PathScratch, admit, file_place, send_path},
    file::{FMODE_CREATED, descriptor_file, is_open, is_open_compat, matches_mode},
    modify::is_stored,
};
use crate::{
    globals::{
        OPEN_SYSCALL_AGAIN_SCRATCH, OPEN_SYSCALL_SCRATCH, WATCHED, WATCHED_OPEN_AGAIN_SCRATCH,
        WATCHED_OPEN_SCRATCH, bulk_setting, offset,
    },
    read::{Faults, clamp, helper, opaque, task},
};

/// `__FMODE_EXEC` of `file.f_flags`.
const FMODE_EXEC: u32 = 0x20;

/// A file was opened: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int security_file_open(struct file *)`.
#[fexit(function = "security_file_open")]
fn file_open(ctx: FExitContext) -> i32 {
    again::note(Twice::Open);
    let_open(&ctx, &WATCHED_OPEN_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_file_open")]
fn file_open_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Open) {
        let_open(&ctx, &WATCHED_OPEN_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn let_open(ctx: &FExitContext, map: &Array<PathScratch>) {
    if ctx.arg::<u64>(1) as i32 == 0 {
        let mut faults = Faults::NONE;
        let file = faults.number(ctx.arg(0));
        opened(&mut faults, task::current(), file, map);
    }
}

/// A file was opened: second choice, where function trampolines are refused.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`. The file behind the descriptor just returned; see `file_create_by_syscall`.
#[btf_tracepoint(function = "sys_exit")]
fn file_open_by_syscall(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::FileOpen);
    opened_by_call(&ctx, &OPEN_SYSCALL_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn file_open_by_syscall_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::FileOpen) {
        opened_by_call(&ctx, &OPEN_SYSCALL_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn opened_by_call(ctx: &BtfTracePointContext, map: &Array<PathScratch>) {
    if offset!(pt_regs_syscall) == u64::from(ABSENT) {
        return;
    }
    let mut faults = Faults::NONE;
    let number = faults.read::<u64>(ctx.arg(0), offset!(pt_regs_syscall)) as u32;
    let native = is_open(number);
    let compat = is_open_compat(number);
    let descriptor: i64 = ctx.arg(1);
    if !native && !compat || descriptor < 0 {
        return;
    }
    let task = task::current();
    if !matches_mode(&mut faults, task, native, compat) {
        return;
    }
    let file = descriptor_file(&mut faults, task, descriptor as u64);
    if file != 0 {
        opened(&mut faults, task, file, map);
    }
}

/// Reports an open file if it is watched.
#[inline(always)]
fn opened(faults: &mut Faults, task: u64, file: u64, map: &Array<PathScratch>) {
    let mode = faults.read::<u32>(file, offset!(file_mode));
    let flags = faults.read::<u32>(file, offset!(file_flags));
    if mode & (FMODE_CREATED | FMODE_PATH | FMODE_NOACCOUNT) != 0 || flags & FMODE_EXEC != 0 {
        return;
    }
    let place = file_place(faults, file, mode);
    if !is_watched(faults, place.dentry) {
        return;
    }
    let inode = faults.pointer(place.dentry, offset!(dentry_inode));
    if !is_stored(faults, inode) || !admit(Kind::Open, task) {
        return;
    }
    // SAFETY: each program passes the map that is its own; a body is written and nothing more.
    unsafe {
        send_path(faults, Kind::Open, task, map, place, 0, |faults, body| {
            let body = body.cast::<FileBody>();
            let superblock = faults.pointer(inode, offset!(inode_sb));
            (*body).inode = faults.read::<u64>(inode, offset!(inode_ino));
            (*body).dev = faults.read::<u32>(superblock, offset!(super_block_dev));
            (*body).mode = u32::from(faults.read::<u16>(inode, offset!(inode_mode)));
            (*body).uid = faults.read::<u32>(inode, offset!(inode_uid));
            (*body).gid = faults.read::<u32>(inode, offset!(inode_gid));
            (*body).open_flags = flags;
            (*body).reserved = 0;
        });
    }
}

/// True when the name of the entry, or that of a directory above it, is watched.
#[inline(always)]
fn is_watched(faults: &mut Faults, dentry: u64) -> bool {
    if name_value(faults, dentry) & watch::FILE != 0 {
        return true;
    }
    if bulk_setting!(watch_directories) == 0 {
        return false;
    }
    let mut at = dentry;
    for _ in 0..WATCH_DEPTH_MAX {
        let parent = faults.pointer(at, offset!(dentry_parent));
        if parent == at || parent == 0 {
            return false;
        }
        at = parent;
        if name_value(faults, at) & watch::DIRECTORY != 0 {
            return true;
        }
    }
    false
}

/// What the table of watched names has for the name of an entry; 0 when it is not there.
#[inline(always)]
fn name_value(faults: &mut Faults, dentry: u64) -> u32 {
    const LEN_MAX: u64 = WATCH_NAME_LEN as u64 - 1;
    let len = u64::from(faults.read::<u32>(dentry, offset!(dentry_name_len)));
    if len > LEN_MAX {
        return 0;
    }
    let name = faults.pointer(dentry, offset!(dentry_name));
    let mut key = [0u8; WATCH_NAME_LEN];
    // SAFETY: the length is held to the key's; values of the map stay mapped while a program runs.
    unsafe {
        let to = key.as_mut_ptr().cast();
        faults.0 |= helper::probe_read_kernel(to, clamp::<LEN_MAX>(opaque(len)), name);
        WATCHED.get(&key).copied().unwrap_or(0)
    }
}
