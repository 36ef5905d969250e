//! The path of a dentry, as the acting process sees it.
//!
//! In: mount and dentry, and the process's root. Out: bytes, built right to left, so that a path over the bound loses its
//! front and keeps the file's name. Names may change while they are read: a length is read once and never trusted.

use sensor_ebpf::{PATH_LEN_MAX, record_flag};

use super::{Faults, clamp, helper, opaque};
use crate::globals::offset;

/// Longest name of one directory entry.
const NAME_MAX: u64 = 255;
/// Most steps from a file to the root, mount crossings included.
const STEPS_MAX: usize = 128;
const PATH_MAX: u64 = PATH_LEN_MAX as u64;

/// Where a path is built, in scratch memory.
///
/// Place and flags live here and not in variables, because the verifier knows nothing about memory: all ways through the
/// loop then look alike to it, where known values would make it follow each way on its own.
#[repr(C)]
pub(crate) struct Walk {
    /// The path is `bytes[begin..PATH_LEN_MAX]`.
    begin: u64,
    /// What the record's flags gain.
    flags: u64,
    /// What is behind the path's end is slack, so that a write at any bounded place stays inside.
    bytes: [u8; PATH_LEN_MAX + 256],
}

impl Walk {
    /// Where the path begins, at most [`PATH_LEN_MAX`].
    ///
    /// # Safety
    ///
    /// `walk` points to a whole [`Walk`] that the verifier knows about.
    #[inline(always)]
    unsafe fn begin(walk: *mut Walk) -> u64 {
        // SAFETY: the caller's pointer is valid.
        clamp::<PATH_MAX>(unsafe { (&raw const (*walk).begin).read_volatile() })
    }

    /// # Safety
    ///
    /// As [`Walk::begin`].
    #[inline(always)]
    unsafe fn set_begin(walk: *mut Walk, begin: u64) {
        // SAFETY: the caller's pointer is valid.
        unsafe { (&raw mut (*walk).begin).write_volatile(begin) };
    }

    /// # Safety
    ///
    /// As [`Walk::begin`].
    #[inline(always)]
    pub(crate) unsafe fn flags(walk: *mut Walk) -> u32 {
        // SAFETY: the caller's pointer is valid.
        unsafe { (&raw const (*walk).flags).read_volatile() as u32 }
    }

    /// Address and length of the path.
    ///
    /// # Safety
    ///
    /// As [`Walk::begin`].
    #[inline(always)]
    pub(crate) unsafe fn path(walk: *mut Walk) -> (u64, u64) {
        // SAFETY: the caller's pointer is valid, and a begin is inside the buffer.
        unsafe {
            let begin = Walk::begin(walk);
            let len = clamp::<PATH_MAX>(PATH_MAX - begin);
            (Walk::bytes(walk).add(begin as usize) as u64, len)
        }
    }

    /// The bytes the path is built in.
    ///
    /// # Safety
    ///
    /// As [`Walk::begin`].
    #[inline(always)]
    unsafe fn bytes(walk: *mut Walk) -> *mut u8 {
        // SAFETY: the caller's pointer is valid.
        unsafe { (&raw mut (*walk).bytes).cast() }
    }
}

/// A mount and a dentry in it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) mount: u64,
    pub(crate) dentry: u64,
}

impl Place {
    /// Reads a `struct path`.
    #[inline(always)]
    pub(crate) fn read(faults: &mut Faults, base: u64, at: u64) -> Place {
        Place {
            mount: faults.pointer(base, at + offset!(path_mnt)),
            dentry: faults.pointer(base, at + offset!(path_dentry)),
        }
    }

    /// True when the dentry is in no directory any more.
    #[inline(always)]
    pub(crate) fn is_unlinked(&self, faults: &mut Faults) -> bool {
        let hash = faults.pointer(self.dentry, offset!(dentry_hash_pprev));
        let parent = faults.pointer(self.dentry, offset!(dentry_parent));
        hash == 0 && parent != self.dentry
    }
}

/// Writes the path of `place` into `walk` and sets its flags: cut, or not reachable from the root.
///
/// # Safety
///
/// `walk` points to a whole [`Walk`] that the verifier knows about.
#[inline(always)]
pub(crate) unsafe fn walk(faults: &mut Faults, place: Place, root: Place, walk: *mut Walk) {
    // SAFETY: the caller's pointer is valid; places in the buffer are held to it.
    unsafe {
        Walk::set_begin(walk, PATH_MAX);
        (&raw mut (*walk).flags).write_volatile(u64::from(record_flag::TRUNCATED));
        let mut at = place;
        for _ in 0..STEPS_MAX {
            if at.dentry == root.dentry && at.mount == root.mount {
                Walk::finish(walk, 0);
                break;
            }
            let parent = faults.pointer(at.dentry, offset!(dentry_parent));
            let mount_root = faults.pointer(at.mount, offset!(vfsmount_root));
            if at.dentry == mount_root {
                let mount = at.mount.wrapping_sub(offset!(mount_mnt));
                let above = faults.pointer(mount, offset!(mount_parent));
                if above == mount || above == 0 {
                    Walk::finish(walk, record_flag::PATH_UNREACHABLE);
                    break;
                }
                at.mount = above.wrapping_add(offset!(mount_mnt));
                at.dentry = faults.pointer(mount, offset!(mount_mountpoint));
                continue;
            }
            if !prepend(faults, at.dentry, walk) {
                break;
            }
            if parent == at.dentry || parent == 0 {
                // A pseudo file (memfd, pipe), or a directory outside of what the mount shows.
                Walk::finish(walk, record_flag::PATH_UNREACHABLE);
                break;
            }
            at.dentry = parent;
        }
        if Walk::begin(walk) == PATH_MAX {
            // The root itself.
            Walk::set_begin(walk, PATH_MAX - 1);
            *Walk::bytes(walk).add(PATH_LEN_MAX - 1) = b'/';
        }
    }
}

impl Walk {
    /// The whole path is there.
    ///
    /// # Safety
    ///
    /// As [`Walk::begin`].
    #[inline(always)]
    unsafe fn finish(walk: *mut Walk, flags: u32) {
        // SAFETY: the caller's pointer is valid.
        unsafe { (&raw mut (*walk).flags).write_volatile(u64::from(flags)) };
    }
}

/// Puts one name and its slash before the path; false when it does not fit.
///
/// # Safety
///
/// As [`Walk::begin`].
#[inline(always)]
unsafe fn prepend(faults: &mut Faults, dentry: u64, walk: *mut Walk) -> bool {
    let len = u64::from(faults.read::<u32>(dentry, offset!(dentry_name_len)));
    let name = faults.pointer(dentry, offset!(dentry_name));
    let len = clamp::<NAME_MAX>(len);
    // SAFETY: a place below the path's end has room for a name, in the slack if nowhere else.
    unsafe {
        let end = Walk::begin(walk);
        if end <= len {
            return false;
        }
        let begin = clamp::<{ PATH_MAX - 1 }>(end - len - 1);
        Walk::set_begin(walk, begin);
        let bytes = Walk::bytes(walk);
        *bytes.add(begin as usize) = b'/';
        let to = bytes.add(begin as usize + 1);
        faults.0 |= helper::probe_read_kernel(to.cast(), clamp::<NAME_MAX>(opaque(len)), name);
    }
    true
}
