//! Programs on system calls, each of which can be there twice.
//!
//! In: the run of a program. Out: for its second instance, whether the first has seen this very call. Newer kernels let another task
//! run in the middle of a program on a system call, and until the program goes on they skip it for every other task of that
//! processor. The second instance comes behind the first, with buffers of its own, and does what the first was kept from; it
//! must never do what was done.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use sensor_ebpf::settings::Twice;

use crate::globals::{MADE_UP, NOTES, setting};

/// The first instance runs. Costs nothing where there is no second.
#[inline(always)]
pub(crate) fn note(of: Twice) {
    if setting!(twice) == 0 {
        return;
    }
    if let Some(note) = NOTES.get_ptr_mut(place(of)) {
        // SAFETY: the pointer is to a whole element; volatile, since the second instance reads it.
        unsafe { note.write_volatile(thread()) };
    }
}

/// True, and counted, when the first instance has not run for the call that the running thread is in.
#[inline(always)]
pub(crate) fn is_left(of: Twice) -> bool {
    let Some(note) = NOTES.get_ptr_mut(place(of)) else {
        return false;
    };
    // SAFETY: the pointer is to a whole element; volatile, since the first instance writes it.
    unsafe {
        if note.read_volatile() == thread() {
            note.write_volatile(0);
            return false;
        }
    }
    let Some(made_up) = MADE_UP.get_ptr_mut(of as u32) else {
        return false;
    };
    // SAFETY: the add is a single instruction, so a run that comes in between loses no count.
    unsafe {
        core::arch::asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) made_up, one = in(reg) 1u64);
    }
    true
}

/// Where the running thread's note on a program lies. Another thread has the same place only when the low bits of its number
/// are the same; should both be between the two instances at one moment, one act is told twice.
#[inline(always)]
fn place(of: Twice) -> u32 {
    of as u32 * Twice::NOTES + (thread() & (Twice::NOTES - 1))
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}
