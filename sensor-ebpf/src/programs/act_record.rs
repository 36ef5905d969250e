//! Records of file acts that come in two halves: a begin with the paths, an end with the result.
//!
//! In: what a hook knows of an act. Out: the two records; the second names the first by its token. Nothing about an act is
//! kept in the kernel between them.

use core::mem::MaybeUninit;
use sensor_ebpf::{
    FileActBody, FileEndBody, Header, Kind, PATH_LEN_MAX, Part, PartKind, record_flag,
};

use super::{pad, process::fault_flag, was_wanted, write_part};
use crate::{
    emit::emit,
    globals::{offset, setting},
    read::{Faults, clamp, helper, opaque, path::Walk, task},
};

pub(crate) const PATH_MAX: u64 = PATH_LEN_MAX as u64;
/// Most bytes of one path part, padding included.
pub(crate) const PATH_ROOM: u64 = PATH_MAX + 8;

/// Where the part table of an act begins.
const TABLE_AT: u64 = (size_of::<Header>() + size_of::<FileActBody>()) as u64;

/// Where the bytes of the last of `parts` parts begin at the latest.
pub(crate) const fn last_part_at(parts: u64) -> u64 {
    TABLE_AT + parts * size_of::<Part>() as u64 + (parts - 1) * PATH_ROOM
}

/// What tells one act from another, with no kernel address in it; odd, so that no two addresses share one.
#[inline(always)]
pub(crate) fn token_of(number: u64) -> u64 {
    (number ^ setting!(token_key)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The begin of an act as it grows in scratch: `COUNT` parts, the last of which begins at `LAST_AT` at the latest and ends at
/// `END` at the latest. A part that is not there has length 0.
pub(crate) struct Begin<const COUNT: u64, const LAST_AT: u64, const END: u64> {
    pub(crate) record: *mut u8,
    /// Where the next part begins; in scratch for the same reason as [`Walk`]'s place.
    pub(crate) at: *mut u64,
}

impl<const COUNT: u64, const LAST_AT: u64, const END: u64> Begin<COUNT, LAST_AT, END> {
    /// Fills header and body, all but the inode.
    ///
    /// # Safety
    ///
    /// `record` has room for `END` bytes and the slack behind, and `at` is a word beside it; both are this CPU's scratch.
    #[inline(always)]
    pub(crate) unsafe fn open(&self, faults: &mut Faults, kind: Kind, task: u64, token: u64) {
        const { assert!(LAST_AT == last_part_at(COUNT) && END == LAST_AT + PATH_ROOM) };
        // SAFETY: header and body lie before the parts.
        unsafe {
            task::fill_header(faults, self.record.cast(), kind, task);
            let body = self.body();
            (*body).token = token;
            (*body).inode = 0;
            (*body).dev = 0;
            (*body).mode = 0;
            (*body).uid = 0;
            (*body).gid = 0;
            self.at
                .write_volatile(TABLE_AT + COUNT * size_of::<Part>() as u64);
        }
    }

    #[inline(always)]
    pub(crate) fn body(&self) -> *mut FileActBody {
        // SAFETY: the record is longer than a header.
        unsafe { self.record.add(size_of::<Header>()).cast() }
    }

    /// Says what is behind a directory entry.
    ///
    /// # Safety
    ///
    /// As [`Begin::open`].
    #[inline(always)]
    pub(crate) unsafe fn inode(&self, faults: &mut Faults, dentry: u64) {
        let found = Inode::of(faults, dentry);
        let body = self.body();
        // SAFETY: the body lies inside the record.
        unsafe {
            (*body).inode = found.number;
            (*body).dev = found.dev;
            (*body).mode = found.mode;
            (*body).uid = found.uid;
            (*body).gid = found.gid;
        }
    }

    /// # Safety
    ///
    /// As [`Begin::open`].
    #[inline(always)]
    pub(crate) unsafe fn add_flag(&self, flag: u32) {
        // SAFETY: the record begins with a header.
        unsafe {
            let flags = &raw mut (*self.record.cast::<Header>()).flags;
            flags.write_volatile(flags.read_volatile() | flag);
        }
    }

    /// One entry of the part table; `index` is below `COUNT`.
    ///
    /// # Safety
    ///
    /// As [`Begin::open`].
    #[inline(always)]
    pub(crate) unsafe fn entry(&self, index: usize, kind: PartKind, len: u64) {
        // SAFETY: the callers' indexes are constants below `COUNT`.
        unsafe {
            let entry = self
                .record
                .add(TABLE_AT as usize + index * size_of::<Part>());
            write_part(entry.cast(), kind as u16, len);
        }
    }

    /// A path that [`crate::read::path::walk`] built.
    ///
    /// # Safety
    ///
    /// As [`Begin::open`], and `walk` is scratch as well.
    #[inline(always)]
    pub(crate) unsafe fn path(
        &self,
        faults: &mut Faults,
        index: usize,
        kind: PartKind,
        walk: *mut Walk,
    ) {
        // SAFETY: source and destination have room for any length up to `PATH_MAX`.
        unsafe {
            self.add_flag(Walk::flags(walk));
            let at = clamp::<LAST_AT>(self.at.read_volatile());
            let (from, len) = Walk::path(walk);
            let to = self.record.add(at as usize).cast();
            faults.0 |= helper::probe_read_kernel(to, clamp::<PATH_MAX>(opaque(len)), from);
            self.close_part(index, kind, at, len);
        }
    }

    /// A string without its NUL, of the kernel's or the caller's memory; false when it can not be read, and then the part is
    /// empty.
    ///
    /// # Safety
    ///
    /// As [`Begin::open`].
    #[inline(always)]
    pub(crate) unsafe fn string(
        &self,
        index: usize,
        kind: PartKind,
        from: u64,
        of_user: bool,
    ) -> bool {
        // SAFETY: behind any begin up to `LAST_AT` the record has `PATH_ROOM` bytes.
        unsafe {
            let at = clamp::<LAST_AT>(self.at.read_volatile());
            let to = self.record.add(at as usize).cast();
            let written = if of_user {
                helper::probe_read_user_str(to, PATH_MAX + 1, from)
            } else {
                helper::probe_read_kernel_str(to, PATH_MAX + 1, from)
            };
            if written <= 0 {
                self.entry(index, kind, 0);
                return false;
            }
            let len = clamp::<PATH_MAX>(opaque(written as u64 - 1));
            if len == PATH_MAX {
                self.add_flag(record_flag::TRUNCATED);
            }
            self.close_part(index, kind, at, len);
        }
        true
    }

    #[inline(always)]
    unsafe fn close_part(&self, index: usize, kind: PartKind, at: u64, len: u64) {
        // SAFETY: a part's end is at most `END`.
        unsafe {
            self.entry(index, kind, len);
            self.at.write_volatile(pad::<END>(self.record, at + len));
        }
    }

    /// Sends the record.
    ///
    /// # Safety
    ///
    /// As [`Begin::open`], and every entry of the table is written.
    #[inline(always)]
    pub(crate) unsafe fn send(&self, faults: &Faults, kind: Kind) {
        // SAFETY: what lies before the next part's begin is written.
        unsafe {
            let end = self.at.read_volatile();
            emit::<END>(kind, self.record, end, COUNT as u16, fault_flag(faults));
        }
    }
}

/// What an inode says of itself; all 0 where there is none.
pub(crate) struct Inode {
    number: u64,
    dev: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Inode {
    const NONE: Inode = Inode {
        number: 0,
        dev: 0,
        mode: 0,
        uid: 0,
        gid: 0,
    };

    /// The inode behind a directory entry, which may have none.
    #[inline(always)]
    fn of(faults: &mut Faults, dentry: u64) -> Inode {
        let inode = faults.pointer(dentry, offset!(dentry_inode));
        if inode == 0 {
            return Inode::NONE;
        }
        let superblock = faults.pointer(inode, offset!(inode_sb));
        Inode {
            number: faults.read::<u64>(inode, offset!(inode_ino)),
            dev: faults.read::<u32>(superblock, offset!(super_block_dev)),
            mode: u32::from(faults.read::<u16>(inode, offset!(inode_mode))),
            uid: faults.read::<u32>(inode, offset!(inode_uid)),
            gid: faults.read::<u32>(inode, offset!(inode_gid)),
        }
    }
}

/// Sends the end of an act. `made`: the directory entry of what the act made, 0 for an act that makes nothing.
#[inline(always)]
pub(crate) fn send_end(faults: &mut Faults, act: Kind, token: u64, result: i32, made: u64) {
    let task = task::current();
    if !was_wanted(act, task) {
        return;
    }
    let inode = if made == 0 || result != 0 {
        Inode::NONE
    } else {
        Inode::of(faults, made)
    };
    let mut record = MaybeUninit::<(Header, FileEndBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<FileEndBody>();
        task::fill_header(faults, record.cast(), Kind::FileEnd, task);
        (*body).token = token;
        (*body).inode = inode.number;
        (*body).dev = inode.dev;
        (*body).mode = inode.mode;
        (*body).uid = inode.uid;
        (*body).gid = inode.gid;
        (*body).result = result;
        (*body).kind = act as u32;
        const LEN: u64 = (size_of::<Header>() + size_of::<FileEndBody>()) as u64;
        emit::<LEN>(Kind::FileEnd, record, LEN, 0, fault_flag(faults));
    }
}
