//! Programs that can be there more than once.
//!
//! In: the run of a program. Out: for a later instance, whether one before it has seen this very act. Where the kernel lets another
//! task run in the middle of a program, it skips that program for every other task of the processor until it goes on. The second
//! instance comes behind the first, with buffers of its own, and does what the first was kept from; a third does the same for
//! both. None must ever do what was done.
//!
//! User space attaches them so that they run in this order. Each writes down for the thread that it ran, over what the one before
//! wrote: a later one that finds the mark of one before it has nothing to do, and one that finds its own, or of one behind it, has
//! found that of the act before. Where it was kept from writing, an older mark stays for one act, which is lost if those before are
//! kept from it as well; what is lost is counted.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use sensor_ebpf::maps::Twice;

use crate::{
    globals::{MADE_UP, NOTES, setting},
    read::Faults,
};

/// Which instance left a mark.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Instance {
    First = 1,
    Second = 2,
    Third = 3,
}

/// The first instance runs, for an act that its thread has to end before it can begin another. Costs nothing where there is no
/// second.
#[inline(always)]
pub(crate) fn note(of: Twice) {
    note_by(of, thread());
}

/// The same for the change of a socket: a thread can be interrupted in the middle by the change of another.
#[inline(always)]
pub(crate) fn note_of(of: Twice, socket: u64) {
    note_by(of, thread_at(socket));
}

#[inline(always)]
fn note_by(of: Twice, who: u32) {
    if setting!(twice) & of.sort() != 0
        && let Some(note) = NOTES.get_ptr_mut(place(of, who))
    {
        // SAFETY: the pointer is to a whole element; volatile, since the later instances read it.
        unsafe { note.write_volatile(mark(who, Instance::First)) };
    }
}

/// For the second instance: true, and counted, when the first has not run for the act that the running thread is in.
#[inline(always)]
pub(crate) fn is_left(of: Twice) -> bool {
    is_left_to(Instance::Second, of, thread())
}

/// The same for the third: neither of the two has.
#[inline(always)]
pub(crate) fn is_left_by_both(of: Twice) -> bool {
    is_left_to(Instance::Third, of, thread())
}

/// [`is_left`] for the change of a socket.
#[inline(always)]
pub(crate) fn is_left_of(of: Twice, socket: u64) -> bool {
    is_left_to(Instance::Second, of, thread_at(socket))
}

#[inline(always)]
fn is_left_to(this: Instance, of: Twice, who: u32) -> bool {
    let Some(note) = NOTES.get_ptr_mut(place(of, who)) else {
        return false;
    };
    // SAFETY: the pointer is to a whole element; volatile, since the other instances write it.
    let found = unsafe {
        let found = note.read_volatile();
        note.write_volatile(mark(who, this));
        found
    };
    // Nobody's is 0, and wraps to more than any.
    let before = found.wrapping_sub(mark(who, Instance::First));
    if before < this as u32 - Instance::First as u32 {
        return false;
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

/// What an instance leaves for a thread: their marks follow each other.
#[inline(always)]
fn mark(who: u32, instance: Instance) -> u32 {
    who << 2 | instance as u32
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
