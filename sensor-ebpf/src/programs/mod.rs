//! Hooks, one family per file.
//!
//! In: what the kernel passes to each hook. Out: one record through [`crate::emit`], or nothing. A program never blocks,
//! never changes what the kernel does, and touches no other program's scratch.

mod act_record;
mod again;
pub(crate) mod bulk;
pub(crate) mod credentials;
pub(crate) mod dns;
pub(crate) mod file;
pub(crate) mod file_act;
pub(crate) mod file_call;
mod gates;
pub(crate) mod memfd;
pub(crate) mod modify;
pub(crate) mod module;
pub(crate) mod network;
pub(crate) mod network_calls;
pub(crate) mod open;
mod order;
pub(crate) mod process;
pub(crate) mod process_call;
pub(crate) mod ptrace;
pub(crate) mod session;

use sensor_ebpf::{Kind, Part, maps::Count};

use crate::{
    emit::count,
    globals::setting,
    interest,
    read::{clamp, task},
};

/// True when an act of `task`, the one that runs now, is inside the scope, not the sensor's own, and something asks for it.
#[inline(always)]
pub(crate) fn wanted(kind: Kind, task: u64) -> bool {
    task::in_scope(task) && !is_left_out(kind)
}

/// True for what is left out, and counted: an act of the running task, inside the scope, that is the sensor's own, or one that
/// nothing asks for.
#[inline(always)]
pub(crate) fn is_left_out(kind: Kind) -> bool {
    if is_own() {
        count(kind, Count::Seen);
        count(kind, Count::DroppedSelf);
        return true;
    }
    if !interest::wants(kind) {
        count(kind, Count::Seen);
        count(kind, Count::DroppedUnwanted);
        return true;
    }
    false
}

/// Whether [`wanted`] let the begin of an act of the running task through; where it did not, that was counted then.
#[inline(always)]
pub(crate) fn was_wanted(kind: Kind, task: u64) -> bool {
    task::in_scope(task) && !is_own() && interest::wants(kind)
}

/// Whether the sensor itself is running.
#[inline(always)]
fn is_own() -> bool {
    setting!(own_tgid) != 0 && setting!(own_tgid) == task::current_tgid()
}

/// Marks a scratch buffer as taken; false when an interrupted run on this CPU still holds it.
///
/// # Safety
///
/// `busy` points to the busy word of a scratch buffer.
#[inline(always)]
pub(crate) unsafe fn take(busy: *mut u64) -> bool {
    // SAFETY: the caller's pointer is valid; volatile, since the interrupted run is invisible to the compiler.
    unsafe {
        if core::ptr::read_volatile(busy) != 0 {
            return false;
        }
        core::ptr::write_volatile(busy, 1);
    }
    true
}

/// Gives a scratch buffer back.
///
/// # Safety
///
/// `busy` points to the busy word of a scratch buffer that [`take`] took.
#[inline(always)]
pub(crate) unsafe fn release(busy: *mut u64) {
    // SAFETY: the caller's pointer is valid.
    unsafe { core::ptr::write_volatile(busy, 0) };
}

/// Writes one entry of the part table.
///
/// # Safety
///
/// `entry` points to a whole entry's worth of writable bytes.
#[inline(always)]
pub(crate) unsafe fn write_part(entry: *mut Part, kind: u16, len: u64) {
    // SAFETY: the caller's pointer is valid for writes of one entry.
    unsafe {
        (*entry).kind = kind;
        (*entry).flags = 0;
        (*entry).len = len as u16;
        (*entry).reserved = 0;
    }
}

/// Writes the zeroes that follow a part which ends at byte `end` of `record`, and returns where the next part begins.
///
/// # Safety
///
/// `record` has at least `END_MAX + 8` bytes that the verifier knows about.
#[inline(always)]
pub(crate) unsafe fn pad<const END_MAX: u64>(record: *mut u8, end: u64) -> u64 {
    let end = clamp::<END_MAX>(end);
    // SAFETY: at most 8 bytes behind the clamp. Byte by byte, since `end` need not be aligned.
    unsafe { record.add(end as usize).cast::<u64>().write_unaligned(0) };
    (end + 7) & !7
}
