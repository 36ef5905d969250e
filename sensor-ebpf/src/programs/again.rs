//! Programs on tracepoints, each of which can be there twice.
//!
//! In: the run of a program. Out: for its second instance, whether the first has seen this very act. Newer kernels let another task
//! run in the middle of a program on a tracepoint, and until the program goes on they skip it for every other task of that
//! processor. The second instance comes behind the first, with buffers of its own, and does what the first was kept from; it
//! must never do what was done.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use sensor_ebpf::maps::Twice;

use crate::{
    globals::{MADE_UP, NOTES, setting},
    read::Faults,
};

/// The first instance runs, for an act that its thread has to end before it can begin another. Costs nothing where there is no
/// second.
#[inline(always)]
pub(crate) fn note(of: Twice) {
    if setting!(twice) != 0 {
        leave(of, thread());
    }
}

/// The same for the change of a socket: a thread can be interrupted in the middle by the change of another.
#[inline(always)]
pub(crate) fn note_of(of: Twice, socket: u64) {
    if setting!(twice) != 0 {
        leave(of, thread_at(socket));
    }
}

#[inline(always)]
fn leave(of: Twice, who: u32) {
    if let Some(note) = NOTES.get_ptr_mut(place(of, who)) {
        // SAFETY: the pointer is to a whole element; volatile, since the second instance reads it.
        unsafe { note.write_volatile(who) };
    }
}

/// True, and counted, when the first instance has not run for the act that the running thread is in.
#[inline(always)]
pub(crate) fn is_left(of: Twice) -> bool {
    is_left_by(of, thread())
}

/// The same for the change of a socket.
#[inline(always)]
pub(crate) fn is_left_of(of: Twice, socket: u64) -> bool {
    is_left_by(of, thread_at(socket))
}

#[inline(always)]
fn is_left_by(of: Twice, who: u32) -> bool {
    let Some(note) = NOTES.get_ptr_mut(place(of, who)) else {
        return false;
    };
    // SAFETY: the pointer is to a whole element; volatile, since the first instance writes it.
    unsafe {
        if note.read_volatile() == who {
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

/// Where a note on a program lies. Another thread has the same place only when the low bits of its number are the same; should
/// both be between the two instances at one moment, one act is told twice.
#[inline(always)]
fn place(of: Twice, who: u32) -> u32 {
    of as u32 * Twice::NOTES + (who & (Twice::NOTES - 1))
}

#[inline(always)]
fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// A number for the running thread and a socket, whose address is a multiple of 64. Of one thread's sockets no two that are
/// near each other have the same place.
#[inline(always)]
fn thread_at(socket: u64) -> u32 {
    // The verifier knows it for a pointer, and lets nobody shift one.
    let mut faults = Faults::NONE;
    let socket = faults.number(socket);
    thread().wrapping_add((socket >> 6) as u32)
}
