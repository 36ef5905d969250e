//! Processes that begin to trace others.
//!
//! In: the first choice is the return of the function that attaches, the second that of the system call
//! ([`super::process_call`]). Out: one record per thread attached to; never for a refused attempt, nor for a process that asks
//! its parent to trace it.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use core::mem::MaybeUninit;
use sensor_ebpf::{Header, Kind, PtraceBody, maps::Twice};

use super::{again, process::fault_flag};
use crate::{
    emit::emit,
    globals::offset,
    read::{Faults, task},
};

pub(crate) const PTRACE_ATTACH: u32 = 16;
pub(crate) const PTRACE_SEIZE: u32 = 0x4206;

/// A process traces another: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int ptrace_attach(struct task_struct *, long, unsigned long, unsigned long)`.
/// Not the security check before it, which reading another's memory passes as well.
#[fexit(function = "ptrace_attach")]
fn ptrace_attached(ctx: FExitContext) -> i32 {
    again::note(Twice::Ptrace);
    attached(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "ptrace_attach")]
fn ptrace_attached_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Ptrace) {
        attached(&ctx);
    }
    0
}

#[inline(always)]
fn attached(ctx: &FExitContext) {
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    let task = task::current();
    if ctx.arg::<u64>(4) as i32 == 0 && task::in_scope(task) {
        send(
            &mut Faults::NONE,
            task,
            ctx.arg(0),
            ctx.arg::<u64>(1) as u32,
        );
    }
}

/// Reports what a ptrace call that succeeded attached to: the kernel puts it first in the caller's list.
#[inline(always)]
pub(crate) fn by_call(faults: &mut Faults, task: u64, request: u32) {
    if request != PTRACE_ATTACH && request != PTRACE_SEIZE {
        return;
    }
    let head = task.wrapping_add(offset!(task_ptraced));
    let first = faults.pointer(head, 0);
    if first != head && first != 0 {
        let child = first.wrapping_sub(offset!(task_ptrace_entry));
        send(faults, task, child, request);
    }
}

#[inline(always)]
fn send(faults: &mut Faults, task: u64, child: u64, request: u32) {
    let mut record = MaybeUninit::<(Header, PtraceBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<PtraceBody>();
        task::fill_header(faults, record.cast(), Kind::Ptrace, task);
        let (tgid, start_ns) = task::key(faults, child);
        (*body).child_start_ns = start_ns;
        (*body).child_tgid = tgid;
        (*body).child_tid = faults.read::<u32>(child, offset!(task_pid));
        (*body).request = request;
        (*body).reserved = 0;
        const LEN: u64 = (size_of::<Header>() + size_of::<PtraceBody>()) as u64;
        emit::<LEN>(Kind::Ptrace, record, LEN, 0, fault_flag(faults));
    }
}
