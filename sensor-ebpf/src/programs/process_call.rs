//! What a process does to itself or to another by system calls, where function trampolines are refused.
//!
//! In: both ends of every system call. Out: the records of the kinds that user space left to this family ([`is_served`]),
//! from what the kernel knows at either end. Calls of no interest cost a look into a bit set.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sensor_ebpf::{Kind, moment};

use super::credentials;
use crate::{
    globals::{SETTINGS, is_served, offset},
    read::{Faults, call, task},
};

/// A system call begins: second choice of the process family.
///
/// # Kernel
///
/// 5.10 or later; `sys_enter(regs, id)`.
#[btf_tracepoint(function = "sys_enter")]
fn process_call_enter(ctx: BtfTracePointContext) -> i32 {
    let number = ctx.arg::<u64>(1) as u32;
    if !is_watched(number) {
        return 0;
    }
    let task = task::current();
    let mut faults = Faults::NONE;
    if !is_of_its_table(&mut faults, task, number) || !task::in_scope(task) {
        return 0;
    }
    if is_served(true, Kind::Credentials) {
        let cred = faults.pointer(task, offset!(task_real_cred));
        credentials::send(&mut faults, task, cred, 0, moment::BEFORE);
    }
    0
}

/// A system call returns: second choice of the process family.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`.
#[btf_tracepoint(function = "sys_exit")]
fn process_call_exit(ctx: BtfTracePointContext) -> i32 {
    let mut faults = Faults::NONE;
    let number = call::returning(ctx.arg(0));
    if !is_watched(number) {
        return 0;
    }
    let task = task::current();
    if !is_of_its_table(&mut faults, task, number) || !task::in_scope(task) {
        return 0;
    }
    if is_served(true, Kind::Credentials) {
        let cred = faults.pointer(task, offset!(task_real_cred));
        credentials::send(&mut faults, task, 0, cred, moment::AFTER);
    }
    0
}

/// True for a number that means something to this family in either table.
#[inline(always)]
fn is_watched(number: u32) -> bool {
    call::is_in(&SETTINGS.process_calls, number)
        || call::is_in(&SETTINGS.process_calls_compat, number)
}

/// True when the number is of the table that this call went through.
#[inline(always)]
fn is_of_its_table(faults: &mut Faults, task: u64, number: u32) -> bool {
    if call::is_compat(faults, task) {
        call::is_in(&SETTINGS.process_calls_compat, number)
    } else {
        call::is_in(&SETTINGS.process_calls, number)
    }
}
