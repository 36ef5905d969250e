//! The one way into the ring buffer, and the counters.
//!
//! In: a finished record, or one that could not be built. Out: the record, or its header alone when the whole does not fit,
//! and a count of whatever happened. Oddities are also logged, which costs nothing unless user space asks for it at load. Nothing else in the object may write to the ring or count a loss.

use aya_ebpf::cty::c_void;
use aya_log_ebpf::{debug, warn};
use sensor_ebpf::{Header, Kind, RECORD_LEN_MAX, maps::Count, record_flag};

use crate::{
    globals::{COUNTERS, RING},
    read::{clamp, helper},
};

const HEADER_LEN: u64 = size_of::<Header>() as u64;

/// Adds one to a counter of this CPU.
#[inline(always)]
pub(crate) fn count(kind: Kind, cause: Count) {
    let Some(row) = COUNTERS.get_ptr_mut(kind as u32) else {
        return;
    };
    // SAFETY: the row has `Count::SLOTS` words and the cause is one of them; the add is a single instruction, so a run that
    // interrupts this one loses no count.
    unsafe {
        let word = row.cast::<u64>().add(cause as usize);
        core::arch::asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1u64);
    }
}

/// Sends the `len` bytes of a record that starts with a filled-in header, whose length this sets and whose flags it adds to.
///
/// # Safety
///
/// `record` points to at least `RECORD_MAX` bytes that the verifier knows about, and `len` of them are written.
#[inline(always)]
pub(crate) unsafe fn emit<const RECORD_MAX: u64>(
    kind: Kind,
    record: *mut u8,
    len: u64,
    parts: u16,
    flags: u32,
) {
    const { assert!(RECORD_MAX <= RECORD_LEN_MAX as u64) };
    count(kind, Count::Seen);
    let header = record.cast::<Header>();
    let len = clamp::<RECORD_MAX>(len);
    // SAFETY: the caller's buffer begins with a header, and holds `RECORD_MAX` bytes.
    unsafe {
        (*header).len = len as u32;
        (*header).parts = parts;
        let flags = (*header).flags | flags;
        (*header).flags = flags;
        if flags & record_flag::TRUNCATED != 0 {
            count(kind, Count::Truncated);
        }
        if flags & record_flag::READ_FAULT != 0 {
            count(kind, Count::ReadFault);
            // The log's first argument means nothing yet; nor does it elsewhere.
            debug!(
                (),
                "a read failed: record kind {}, tgid {}",
                kind as u32,
                (*header).tgid
            );
        }
        // The clamp sits directly before the call: its bound must still be there when the helper is checked.
        if output(record, clamp::<RECORD_MAX>(len)) {
            count(kind, Count::Submitted);
            return;
        }
        (*header).len = HEADER_LEN as u32;
        (*header).parts = 0;
        (*header).flags |= record_flag::DEGRADED;
        finish_degraded(kind, record);
    }
}

/// Sends a header alone, for a record that could not be built.
///
/// # Safety
///
/// `header` is filled in, its length and flags included.
#[inline(always)]
pub(crate) unsafe fn emit_degraded(kind: Kind, header: *mut Header) {
    count(kind, Count::Seen);
    count(kind, Count::ScratchBusy);
    // SAFETY: the caller's header is filled in.
    let tgid = unsafe { (*header).tgid };
    warn!(
        (),
        "scratch busy: record kind {}, tgid {}", kind as u32, tgid
    );
    // SAFETY: passed on.
    unsafe { finish_degraded(kind, header.cast()) };
}

#[inline(always)]
unsafe fn finish_degraded(kind: Kind, record: *mut u8) {
    // SAFETY: the caller's buffer begins with a whole header.
    if unsafe { output(record, HEADER_LEN) } {
        count(kind, Count::Degraded);
        count(kind, Count::Submitted);
    } else {
        count(kind, Count::LostRingFull);
    }
}

/// True when the ring took the bytes.
#[inline(always)]
unsafe fn output(record: *mut u8, len: u64) -> bool {
    // SAFETY: the map is a ring buffer; the verifier holds `record` and `len` to the buffer's size.
    unsafe {
        helper::ringbuf_output(
            (&raw const RING).cast_mut().cast::<c_void>(),
            record.cast(),
            len,
            0,
        ) == 0
    }
}
