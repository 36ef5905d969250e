//! Sessions and process groups.
//!
//! In: the first choice is the return of the two kernel functions, the second that of the two system calls
//! ([`super::process_call`]). Out: one record each time a process leads a session of its own or goes to another process group;
//! never for a refused call.

use aya_ebpf::{macros::fexit, programs::FExitContext};
use core::mem::MaybeUninit;
use sensor_ebpf::{Header, Kind, SessionBody, maps::Twice};

use super::{again, process::fault_flag};
use crate::{
    emit::emit,
    globals::offset,
    read::{Faults, task},
};

/// A process leads a session of its own: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int ksys_setsid(void)`.
#[fexit(function = "ksys_setsid")]
fn session_change(ctx: FExitContext) -> i32 {
    again::note(Twice::Session);
    led(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "ksys_setsid")]
fn session_change_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Session) {
        led(&ctx);
    }
    0
}

#[inline(always)]
fn led(ctx: &FExitContext) {
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    let task = task::current();
    if ctx.arg::<u64>(0) as i32 >= 0 && task::in_scope(task) {
        own_session(&mut Faults::NONE, task);
    }
}

/// A process goes to another process group: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int security_task_setpgid(struct task_struct *, pid_t)`, the last thing that can
/// refuse a setpgid. The group is a number of the caller's pid namespace.
#[fexit(function = "security_task_setpgid")]
fn group_change(ctx: FExitContext) -> i32 {
    again::note(Twice::Group);
    grouped(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_task_setpgid")]
fn group_change_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Group) {
        grouped(&ctx);
    }
    0
}

#[inline(always)]
fn grouped(ctx: &FExitContext) {
    let target: u64 = ctx.arg(0);
    let number = ctx.arg::<u64>(1) as u32;
    let task = task::current();
    if ctx.arg::<u64>(2) as i32 != 0 || !task::in_scope(task) {
        return;
    }
    let mut faults = Faults::NONE;
    let (tgid, start_ns) = task::key(&mut faults, target);
    let pgid = if number == task::namespace_pid(&mut faults, target) {
        tgid
    } else if task::namespace_level(&mut faults, task) == 0 {
        number
    } else {
        0
    };
    send(&mut faults, task, (tgid, start_ns), pgid, 0);
}

/// Reports the session that a task has just begun.
#[inline(always)]
pub(crate) fn own_session(faults: &mut Faults, task: u64) {
    let signal = faults.pointer(task, offset!(task_signal));
    let (pgid, sid) = task::group_and_session(faults, signal);
    let target = task::key(faults, task);
    send(faults, task, target, pgid, sid);
}

/// Reports what a setpgid with these arguments, which succeeded, did.
#[inline(always)]
pub(crate) fn group_by_call(faults: &mut Faults, task: u64, process: u32, group: u32) {
    if process == 0 || process == task::namespace_pid(faults, task) {
        let signal = faults.pointer(task, offset!(task_signal));
        let (pgid, _) = task::group_and_session(faults, signal);
        let target = task::key(faults, task);
        send(faults, task, target, pgid, 0);
    } else if task::namespace_level(faults, task) == 0 {
        // A child by its number; when it started is for user space to know.
        let pgid = if group == 0 { process } else { group };
        send(faults, task, (process, 0), pgid, 0);
    }
}

#[inline(always)]
fn send(faults: &mut Faults, task: u64, (tgid, start_ns): (u32, u64), pgid: u32, sid: u32) {
    let mut record = MaybeUninit::<(Header, SessionBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<SessionBody>();
        task::fill_header(faults, record.cast(), Kind::Session, task);
        (*body).start_ns = start_ns;
        (*body).tgid = tgid;
        (*body).pgid = pgid;
        (*body).sid = sid;
        (*body).reserved = 0;
        const LEN: u64 = (size_of::<Header>() + size_of::<SessionBody>()) as u64;
        emit::<LEN>(Kind::Session, record, LEN, 0, fault_flag(faults));
    }
}
