//! What a process does to itself or to another by system calls, where function trampolines are refused.
//!
//! In: both ends of every system call. Out: the records of the kinds that user space left to this family ([`is_served`]),
//! from what the kernel knows at either end. Calls of no interest cost a look into a bit set.

use aya_ebpf::{macros::btf_tracepoint, maps::Array, programs::BtfTracePointContext};
use sensor_ebpf::{Kind, maps::Twice, moment};

use super::{
    again, credentials,
    file::descriptor_file,
    memfd::{self, MemfdScratch},
    ptrace, session,
};
use crate::{
    globals::{
        PROCESS_CALL_AGAIN_SCRATCH, PROCESS_CALL_SCRATCH, SETTINGS, is_served, offset, setting,
    },
    read::{Faults, call, task},
};

/// A system call begins: second choice of the process family.
///
/// # Kernel
///
/// 5.10 or later; `sys_enter(regs, id)`.
#[btf_tracepoint(function = "sys_enter")]
fn process_call_enter(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::ProcessCallEnter);
    enters(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_enter")]
fn process_call_enter_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::ProcessCallEnter) {
        enters(&ctx);
    }
    0
}

#[inline(always)]
fn enters(ctx: &BtfTracePointContext) {
    let number = ctx.arg::<u64>(1) as u32;
    if !is_watched(number) {
        return;
    }
    let task = task::current();
    let mut faults = Faults::NONE;
    let Some(what) = what(&mut faults, task, number) else {
        return;
    };
    if matches!(what, Call::Ids) && is_served(true, Kind::Credentials) && task::in_scope(task) {
        let cred = faults.pointer(task, offset!(task_real_cred));
        credentials::send(&mut faults, task, cred, 0, moment::BEFORE);
    }
}

/// A system call returns: second choice of the process family.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`.
#[btf_tracepoint(function = "sys_exit")]
fn process_call_exit(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::ProcessCallExit);
    returns(&ctx, &PROCESS_CALL_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn process_call_exit_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::ProcessCallExit) {
        returns(&ctx, &PROCESS_CALL_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn returns(ctx: &BtfTracePointContext, map: &Array<MemfdScratch>) {
    let mut faults = Faults::NONE;
    let number = call::returning(ctx.arg(0));
    let registers: u64 = ctx.arg(0);
    if !is_watched(number) {
        return;
    }
    let task = task::current();
    let Some(what) = what(&mut faults, task, number) else {
        return;
    };
    let result: i64 = ctx.arg(1);
    // Ids are looked at whatever the call says: what counts is what they are.
    if result < 0 && !matches!(what, Call::Ids) {
        return;
    }
    match what {
        Call::Ids if is_served(true, Kind::Credentials) && task::in_scope(task) => {
            let cred = faults.pointer(task, offset!(task_real_cred));
            credentials::send(&mut faults, task, 0, cred, moment::AFTER);
        }
        Call::Session if is_served(true, Kind::Session) && task::in_scope(task) => {
            session::own_session(&mut faults, task);
        }
        Call::Group if is_served(true, Kind::Session) && task::in_scope(task) => {
            let process = call::first_argument(&mut faults, task, registers) as u32;
            let group = call::second_argument(&mut faults, task, registers) as u32;
            session::group_by_call(&mut faults, task, process, group);
        }
        Call::Memfd if is_served(true, Kind::Memfd) => {
            let file = descriptor_file(&mut faults, task, result as u64);
            if file != 0
                && let Some(scratch) = map.get_ptr_mut(task::cpu())
            {
                memfd::report(&mut faults, task, file, scratch);
            }
        }
        Call::Ptrace if is_served(true, Kind::Ptrace) && task::in_scope(task) => {
            let request = call::first_argument(&mut faults, task, registers) as u32;
            ptrace::by_call(&mut faults, task, request);
        }
        _ => {}
    }
}

/// What a watched system call does.
enum Call {
    Ids,
    Session,
    Group,
    Memfd,
    Ptrace,
}

/// True for a number that means something to this family in either table.
#[inline(always)]
fn is_watched(number: u32) -> bool {
    call::is_in(&SETTINGS.process_calls, number)
        || call::is_in(&SETTINGS.process_calls_compat, number)
}

/// What the number means in the table that this call went through.
#[inline(always)]
fn what(faults: &mut Faults, task: u64, number: u32) -> Option<Call> {
    if call::is_compat(faults, task) {
        if !call::is_in(&SETTINGS.process_calls_compat, number) {
            return None;
        }
        return Some(match number {
            _ if number == setting!(setsid[1]) => Call::Session,
            _ if number == setting!(setpgid[1]) => Call::Group,
            _ if number == setting!(memfd_create[1]) => Call::Memfd,
            _ if number == setting!(ptrace[1]) => Call::Ptrace,
            _ => Call::Ids,
        });
    }
    if !call::is_in(&SETTINGS.process_calls, number) {
        return None;
    }
    Some(match number {
        _ if number == setting!(setsid[0]) => Call::Session,
        _ if number == setting!(setpgid[0]) => Call::Group,
        _ if number == setting!(memfd_create[0]) => Call::Memfd,
        _ if number == setting!(ptrace[0]) => Call::Ptrace,
        _ => Call::Ids,
    })
}
