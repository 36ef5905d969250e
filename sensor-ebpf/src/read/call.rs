//! Which system call a task is in.
//!
//! In: what the two system call tracepoints pass. Out: whether the call is in a set, and by which table it went. Numbers mean
//! different calls to 32-bit programs, so none is believed without its table.

use sensor_ebpf::settings::{ABSENT, CALL_WORDS, CALLS_MAX};

use super::Faults;
use crate::globals::{offset, setting};

/// The number of the call that returns, from its registers.
#[inline(always)]
pub(crate) fn returning(faults: &mut Faults, registers: u64) -> u32 {
    if offset!(pt_regs_syscall) == u64::from(ABSENT) {
        return CALLS_MAX as u32;
    }
    faults.read::<u64>(registers, offset!(pt_regs_syscall)) as u32
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
