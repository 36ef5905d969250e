//! What the kinds that come in masses share: whether a record may be sent at all, and records that carry a path.
//!
//! In: the acting task, the kind, a place in a mount. Out: leave or refusal, the refusal counted; a record with the path as the
//! acting process sees it. Must never hold back a record of any other kind, nor throttle without a record that says so.

use core::mem::MaybeUninit;

use aya_ebpf::{cty::c_void, helpers::generated, maps::Array};
use sensor_ebpf::{
    Header, Kind, PATH_LEN_MAX, Part, PartKind, ThrottleBody,
    maps::{Bucket, Count},
    record_flag,
    settings::ABSENT,
};

use super::{
    pad,
    process::{degraded, fault_flag},
    release, take, wanted, write_part,
};
use crate::{
    emit::{count, emit},
    globals::{BUCKETS, RING, bulk_setting, offset},
    read::{
        Faults, clamp, helper, opaque,
        path::{self, Place, Walk},
        task,
    },
};

/// `FMODE_BACKING` of `file.f_mode`: a layer's file; the path the process used lies beside it. From 6.5 on it is bit 25; 6.14 moved
/// it to bit 24 and gave 25 another meaning, and so did later 6.12s.
const FMODE_BACKING: u32 = 1 << 24 | 1 << 25;
/// `FMODE_NOACCOUNT`, which every layer's file has, and besides them only few that the kernel opens for itself: it tells them
/// from files of which one of the two bits means something else.
pub(crate) const FMODE_NOACCOUNT: u32 = 1 << 29;
/// `FMODE_PATH` of `file.f_mode`: a handle that can be neither read nor written.
pub(crate) const FMODE_PATH: u32 = 1 << 14;

const PATH_MAX: u64 = PATH_LEN_MAX as u64;
/// Where the parts begin: every body here has 32 bytes, every record two parts.
const BODY_AT: u64 = size_of::<Header>() as u64;
const BODY_LEN: u64 = 32;
const TABLE_AT: u64 = BODY_AT + BODY_LEN;
const PARTS_AT: u64 = TABLE_AT + 2 * size_of::<Part>() as u64;
/// Farthest place where the second part begins, and where a record ends, padding included.
const SECOND_AT_MAX: u64 = PARTS_AT + PATH_MAX + 8;
const RECORD_MAX: u64 = SECOND_AT_MAX + PATH_MAX + 8;

/// A buffer for records with a path.
#[repr(C)]
pub(crate) struct PathScratch {
    busy: u64,
    /// Where the next part begins.
    at: u64,
    record: [u8; RECORD_MAX as usize + 16],
    walk: Walk,
}

/// True when a record of a bulk kind may be sent for `task`. A refusal is counted.
#[inline(always)]
pub(crate) fn admit(kind: Kind, task: u64) -> bool {
    if !wanted(kind, task) {
        return false;
    }
    let refused = if ring_fill() > bulk_setting!(fill_max) {
        Count::DroppedHeadroom
    } else if is_throttled(task) {
        Count::DroppedThrottled
    } else {
        return true;
    };
    count(kind, Count::Seen);
    count(kind, refused);
    false
}

/// Bytes in the ring that nobody has read yet.
#[inline(always)]
fn ring_fill() -> u64 {
    // SAFETY: the map is a ring buffer.
    unsafe { helper::ringbuf_query((&raw const RING).cast_mut().cast::<c_void>(), 0) as u64 }
}

/// Charges one record to the process that runs. Once it has nothing left, nothing is admitted until half of the most it can
/// save is there again; both turns are told. Two CPUs may charge at once: then one charge is lost, which is no harm.
#[inline(always)]
fn is_throttled(task: u64) -> bool {
    let cost_ns = bulk_setting!(cost_ns);
    if cost_ns == 0 {
        return false;
    }
    let credit_max = bulk_setting!(credit_ns_max);
    let tgid = task::current_tgid();
    // SAFETY: the helper takes no arguments.
    let now = unsafe { generated::bpf_ktime_get_boot_ns() };
    let Some(bucket) = BUCKETS.get_ptr_mut(tgid) else {
        let bucket = Bucket {
            last_ns: now,
            credit_ns: credit_max - cost_ns,
            dropped: 0,
        };
        let _ = BUCKETS.insert(tgid, bucket, 0);
        return false;
    };
    // SAFETY: the map's values stay mapped while a program runs; a torn update only moves some credit.
    let (credit, dropped) = unsafe {
        let credit = (*bucket).credit_ns + now.saturating_sub((*bucket).last_ns);
        (*bucket).last_ns = now;
        let credit = if credit > credit_max {
            credit_max
        } else {
            credit
        };
        (*bucket).credit_ns = credit;
        (credit, (*bucket).dropped)
    };
    let enough = if dropped == 0 {
        cost_ns
    } else {
        credit_max / 2
    };
    // SAFETY: as above.
    unsafe {
        if credit < enough {
            (*bucket).dropped = dropped + 1;
            if dropped == 0 {
                tell_throttle(task, 1, 0);
            }
            return true;
        }
        (*bucket).credit_ns = credit - cost_ns;
        if dropped != 0 {
            (*bucket).dropped = 0;
            tell_throttle(task, 0, dropped);
        }
    }
    false
}

/// What a process that ends has left out is told in time, and whoever gets its number begins anew. Returns how much that is.
#[inline(always)]
pub(crate) fn on_exit() -> u64 {
    if bulk_setting!(cost_ns) == 0 {
        return 0;
    }
    let tgid = task::current_tgid();
    let Some(bucket) = BUCKETS.get_ptr_mut(tgid) else {
        return 0;
    };
    // SAFETY: as above.
    let dropped = unsafe { (*bucket).dropped };
    let _ = BUCKETS.remove(tgid);
    dropped
}

/// Says that a throttle begins (`on` is 1), or that it has ended and how much it left out.
#[inline(always)]
pub(crate) fn tell_throttle(task: u64, on: u32, dropped: u64) {
    const LEN: u64 = (size_of::<Header>() + size_of::<ThrottleBody>()) as u64;
    let mut faults = Faults::NONE;
    let mut record = MaybeUninit::<(Header, ThrottleBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ThrottleBody>();
        task::fill_header(&mut faults, record.cast(), Kind::Throttle, task);
        (*body).dropped = dropped;
        (*body).on = on;
        (*body).reserved = 0;
        emit::<LEN>(Kind::Throttle, record, LEN, 0, fault_flag(&faults));
    }
}

/// The place of an open file as the process that opened it named it: a file system in layers opens another file behind it.
#[inline(always)]
pub(crate) fn file_place(faults: &mut Faults, file: u64, mode: u32) -> Place {
    let is_layer = mode & FMODE_BACKING != 0 && mode & FMODE_NOACCOUNT != 0;
    if offset!(backing_file_user_path) != u64::from(ABSENT) && is_layer {
        return Place::read(faults, file, offset!(backing_file_user_path));
    }
    Place::read(faults, file, offset!(file_path))
}

/// Sends a record about `place`. `fill` writes the 32 bytes of its body. `user_path` is where the caller's own path lies in its
/// memory, to be taken from `place`; 0: the path is that of `place`.
///
/// # Safety
///
/// `map` has one element per possible CPU and is the calling program's alone; `fill` writes no more than the body.
#[inline(always)]
pub(crate) unsafe fn send_path(
    faults: &mut Faults,
    kind: Kind,
    task: u64,
    map: &Array<PathScratch>,
    place: Place,
    user_path: u64,
    fill: impl FnOnce(&mut Faults, *mut u8),
) {
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // SAFETY: the element is this CPU's, and `busy` keeps nested runs away; header, body and part table lie before
    // `PARTS_AT`, and behind any begin that a part can have there is room for the longest path and its padding.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(kind, task);
            return;
        }
        let record = (&raw mut (*scratch).record).cast::<u8>();
        let walk = &raw mut (*scratch).walk;
        let at = &raw mut (*scratch).at;
        task::fill_header(faults, record.cast(), kind, task);
        fill(faults, record.add(BODY_AT as usize));
        let fs = faults.pointer(task, offset!(task_fs));
        let root = Place::read(faults, fs, offset!(fs_root));
        path::walk(faults, place, root, walk);
        let (from, len) = Walk::path(walk);
        let to = record.add(PARTS_AT as usize).cast();
        faults.0 |= helper::probe_read_kernel(to, clamp::<PATH_MAX>(opaque(len)), from);
        at.write_volatile(pad::<{ PARTS_AT + PATH_MAX }>(record, PARTS_AT + len));
        let mut flags = Walk::flags(walk);
        let table = record.add(TABLE_AT as usize).cast::<Part>();
        if user_path == 0 {
            write_part(table, PartKind::WorkingDirectory as u16, 0);
            write_part(table.add(1), PartKind::Path as u16, len);
        } else {
            flags |= record_flag::PATH_FROM_USER;
            let begin = clamp::<SECOND_AT_MAX>(at.read_volatile());
            let to = record.add(begin as usize).cast();
            let written = helper::probe_read_user_str(to, PATH_MAX, user_path);
            let mut user_len = 0;
            if written <= 0 {
                faults.0 |= -1;
            } else {
                user_len = clamp::<PATH_MAX>(opaque(written as u64 - 1));
            }
            write_part(table, PartKind::WorkingDirectory as u16, len);
            write_part(table.add(1), PartKind::Path as u16, user_len);
            at.write_volatile(pad::<{ SECOND_AT_MAX + PATH_MAX }>(
                record,
                begin + user_len,
            ));
        }
        flags |= fault_flag(faults);
        let end = at.read_volatile();
        emit::<RECORD_MAX>(kind, record, end, 2, flags);
        release(busy);
    }
}
