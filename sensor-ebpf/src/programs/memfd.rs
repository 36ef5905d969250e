//! Files that live in memory alone.
//!
//! In: the first choice is the return of the functions that make such files, the second that of the system call
//! ([`super::process_call`]). Out: one record per memfd with its name as the file carries it; never for shared memory that the
//! kernel makes for itself, nor for a refused call.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use sensor_ebpf::{Header, Kind, MemfdBody, Part, PartKind, maps::Twice};

use super::{
    again, pad,
    process::{degraded, fault_flag},
    release, take, write_part,
};
use crate::{
    emit::emit,
    globals::{MEMFD_AGAIN_SCRATCH, MEMFD_HUGE_SCRATCH, MEMFD_SCRATCH, offset, setting},
    read::{Faults, clamp, distinct, helper, opaque, task},
};

/// What the kernel puts before the name; it has room for 249 bytes behind that.
const PREFIX: u64 = u64::from_le_bytes(*b"memfd:\0\0");
const PREFIX_MASK: u64 = 0xffff_ffff_ffff;
const NAME_MAX: u64 = 255;
/// Where the name is.
const NAME_AT: u64 = (size_of::<Header>() + size_of::<MemfdBody>() + size_of::<Part>()) as u64;
const MEMFD_MAX: u64 = NAME_AT + NAME_MAX + 8;
/// Largest number of an error in place of a pointer.
const ERROR_MAX: u64 = 4095;

/// A buffer of a program that sends such records.
#[repr(C)]
pub(crate) struct MemfdScratch {
    busy: u64,
    record: [u8; MEMFD_MAX as usize + 16],
}

/// A memfd was made: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `struct file *shmem_file_setup(const char *, loff_t, unsigned long)`.
#[fexit(function = "shmem_file_setup")]
fn memfd_create(ctx: FExitContext) -> i32 {
    again::note(Twice::Memfd);
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    if let Some(scratch) = MEMFD_SCRATCH.get_ptr_mut(task::cpu()) {
        made(ctx.arg(3), scratch);
    }
    0
}

/// The same again; see [`again`].
#[fexit(function = "shmem_file_setup")]
fn memfd_create_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Memfd)
        && let Some(scratch) = MEMFD_AGAIN_SCRATCH.get_ptr_mut(task::cpu())
    {
        made(ctx.arg(3), scratch);
    }
    0
}

/// A memfd of huge pages was made: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines, and with `CONFIG_HUGETLBFS`, without which there is no such memfd;
/// `struct file *hugetlb_file_setup(...)`, which lost one of its six arguments in 5.14.
#[fexit(function = "hugetlb_file_setup")]
fn memfd_create_huge(ctx: FExitContext) -> i32 {
    // Accesses at constant places: the verifier refuses one at a place that was computed.
    let file = match setting!(hugetlb_file_setup_parameters) {
        5 => distinct::<5>(ctx.arg(5)),
        6 => distinct::<6>(ctx.arg(6)),
        _ => return 0,
    };
    if let Some(scratch) = MEMFD_HUGE_SCRATCH.get_ptr_mut(task::cpu()) {
        made(file, scratch);
    }
    0
}

#[inline(always)]
fn made(file: u64, scratch: *mut MemfdScratch) {
    let mut faults = Faults::NONE;
    let file = faults.number(file);
    if file == 0 || file > u64::MAX - ERROR_MAX {
        return;
    }
    report(&mut faults, task::current(), file, scratch);
}

/// Reports a file if it is a memfd.
#[inline(always)]
pub(crate) fn report(faults: &mut Faults, task: u64, file: u64, scratch: *mut MemfdScratch) {
    let dentry = faults.pointer(file, offset!(file_path) + offset!(path_dentry));
    let name = faults.pointer(dentry, offset!(dentry_name));
    if faults.read::<u64>(name, 0) & PREFIX_MASK != PREFIX || !task::in_scope(task) {
        return;
    }
    // SAFETY: the caller's buffer is this CPU's, and `busy` keeps nested runs away.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(Kind::Memfd, task);
            return;
        }
        send(faults, task, file, name, scratch);
        release(busy);
    }
}

/// # Safety
///
/// `scratch` is this CPU's, which the caller holds.
#[inline(always)]
unsafe fn send(faults: &mut Faults, task: u64, file: u64, name: u64, scratch: *mut MemfdScratch) {
    // SAFETY: header, body and part table lie before the name in the record, which has room for the longest.
    unsafe {
        let record = (&raw mut (*scratch).record).cast::<u8>();
        let to = record.add(NAME_AT as usize).cast();
        let written = helper::probe_read_kernel_str(to, NAME_MAX + 1, name);
        if written <= 0 {
            faults.0 |= -1;
        }
        let len = if written > 0 { written as u64 - 1 } else { 0 };
        let len = clamp::<NAME_MAX>(opaque(len));
        let end = pad::<{ NAME_AT + NAME_MAX }>(record, NAME_AT + len);
        task::fill_header(faults, record.cast(), Kind::Memfd, task);
        let inode = faults.pointer(file, offset!(file_inode));
        let body = record.add(size_of::<Header>()).cast::<MemfdBody>();
        (*body).inode = faults.read::<u64>(inode, offset!(inode_ino));
        write_part(
            record
                .add(size_of::<Header>() + size_of::<MemfdBody>())
                .cast(),
            PartKind::Name as u16,
            len,
        );
        emit::<MEMFD_MAX>(Kind::Memfd, record, end, 1, fault_flag(faults));
    }
}
