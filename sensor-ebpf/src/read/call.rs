//! Which system call a task is in.
//!
//! In: what the two system call tracepoints pass. Out: whether the call is in a set, and by which table it went. Numbers mean
//! different calls to 32-bit programs, so none is believed without its table.

use sensor_ebpf::settings::{ABSENT, CALL_WORDS, CALLS_MAX};

use super::Faults;
use crate::globals::{offset, setting};

/// The number of the call that returns; none that there is where the kernel's registers are not known.
///
/// `registers` is the tracepoint's own argument, untouched. This runs at the end of every system call of every process, so it
/// is the one direct load in place of a helper's: the kernel knows the argument's type, holds the load to that structure, and
/// reads zero where there is nothing.
#[inline(always)]
pub(crate) fn returning(registers: *const u8) -> u32 {
    let offset = offset!(pt_regs_syscall);
    if offset == u64::from(ABSENT) {
        return CALLS_MAX as u32;
    }
    // SAFETY: the verifier refuses the load unless it lies in the structure; volatile, so that it stays one load of 8 bytes.
    unsafe { core::ptr::read_volatile(registers.add(offset as usize).cast::<u64>()) as u32 }
}

/// True when a number is in a set; for a set out of read-only data.
#[inline(always)]
pub(crate) fn is_in(set: &'static [u64; CALL_WORDS], number: u32) -> bool {
    if number as usize >= CALLS_MAX {
        return false;
    }
    let word = (number as usize / 64) & (CALL_WORDS - 1);
    // SAFETY: the mask keeps the word inside the set; volatile, since user space replaced what the compiler sees here.
    let word = unsafe { core::ptr::read_volatile(set.as_ptr().add(word)) };
    word >> (number & 63) & 1 != 0
}

/// True for a task inside a 32-bit system call.
#[inline(always)]
pub(crate) fn is_compat(faults: &mut Faults, task: u64) -> bool {
    if setting!(compat_status) == 0 || offset!(task_thread_status) == u64::from(ABSENT) {
        return false;
    }
    faults.read::<u32>(task, offset!(task_thread_status)) & setting!(compat_status) != 0
}

/// The first argument of the call that returns: the registers that carry arguments come out as they went in.
#[inline(always)]
pub(crate) fn first_argument(faults: &mut Faults, task: u64, registers: u64) -> u64 {
    if is_compat(faults, task) {
        register(faults, registers, offset!(pt_regs_bx))
    } else {
        register(faults, registers, offset!(pt_regs_di))
    }
}

/// The second argument of the call that returns.
#[inline(always)]
pub(crate) fn second_argument(faults: &mut Faults, task: u64, registers: u64) -> u64 {
    if is_compat(faults, task) {
        register(faults, registers, offset!(pt_regs_cx))
    } else {
        register(faults, registers, offset!(pt_regs_si))
    }
}

#[inline(always)]
fn register(faults: &mut Faults, registers: u64, offset: u64) -> u64 {
    if offset == u64::from(ABSENT) {
        return 0;
    }
    faults.read::<u64>(registers, offset)
}
