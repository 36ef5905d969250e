//! Rename, deletion, link, symbolic link, directory and node: first choice.
//!
//! In: the return of the security hook before each act and of the function that does it. Out: a begin when the act was
//! allowed, with its paths, and an end with its result. User space joins them; a begin alone says nothing.

use aya_ebpf::{EbpfContext, macros::fexit, maps::Array, programs::FExitContext};
use sensor_ebpf::{
    Kind, PartKind,
    maps::Twice,
    settings::{ABSENT, ActSlots, FILE_ACTS},
};

use super::{
    act_record::{Begin, PATH_ROOM, last_part_at, send_end, token_of},
    again,
    process::degraded,
    release, take, wanted,
};
use crate::{
    globals::{
        DELETE_AGAIN_SCRATCH, DELETE_SCRATCH, LINK_AGAIN_SCRATCH, LINK_SCRATCH,
        MKDIR_AGAIN_SCRATCH, MKDIR_SCRATCH, MKNOD_AGAIN_SCRATCH, MKNOD_SCRATCH,
        RENAME_AGAIN_SCRATCH, RENAME_SCRATCH, SYMLINK_AGAIN_SCRATCH, SYMLINK_SCRATCH, offset,
        setting,
    },
    read::{
        Faults,
        path::{self, Place, Walk},
        task,
    },
};

/// `S_IFMT` of a mode, and the type it shows for a regular file.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// Parts: old path, path.
const PARTS: u64 = 2;
const LAST_AT: u64 = last_part_at(PARTS);
const END: u64 = LAST_AT + PATH_ROOM;

/// Buffer of a program at the begin of an act.
#[repr(C)]
pub(crate) struct ActScratch {
    busy: u64,
    at: u64,
    record: [u8; END as usize + 16],
    walk: Walk,
}

/// What an act has besides its path.
#[derive(Clone, Copy)]
enum Old {
    None,
    /// A directory entry on the same mount.
    Entry(u64),
    /// A string of the kernel's.
    Text(u64),
}

/// A rename was allowed.
///
/// # Kernel
///
/// 5.10 or later with function trampolines and `CONFIG_SECURITY_PATH`; `int security_path_rename(const struct path *old_dir,
/// struct dentry *old, const struct path *new_dir, struct dentry *new, unsigned int flags)`. An exchange of two names is one
/// rename, of the first to the second.
#[fexit(function = "security_path_rename")]
fn rename_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::RenameBegin);
    renaming(&ctx, &RENAME_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_rename")]
fn rename_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::RenameBegin) {
        renaming(&ctx, &RENAME_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn renaming(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    if result(&mut faults, ctx, slots(Kind::Rename).allowed) != 0 {
        return;
    }
    let old = faults.number(ctx.arg(1));
    let at = entry_in(&mut faults, ctx.arg(2), ctx.arg(3));
    begin(&mut faults, map, Kind::Rename, old, at, Old::Entry(old));
}

/// A rename was done, or failed.
///
/// # Kernel
///
/// `int vfs_rename(struct renamedata *)`; before 5.12 the members were arguments, the old entry among them. On overlayfs it
/// runs once more for the layer below, with other entries.
#[fexit(function = "vfs_rename")]
fn rename_end(ctx: FExitContext) -> i32 {
    again::note(Twice::RenameEnd);
    renamed(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_rename")]
fn rename_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::RenameEnd) {
        renamed(&ctx);
    }
    0
}

#[inline(always)]
fn renamed(ctx: &FExitContext) {
    let mut faults = Faults::NONE;
    let slots = slots(Kind::Rename);
    let mut entry = argument(&mut faults, ctx, slots.entry);
    if setting!(rename_by_struct) != 0 {
        if offset!(renamedata_old_dentry) == u64::from(ABSENT) {
            return;
        }
        entry = faults.pointer(entry, offset!(renamedata_old_dentry));
    }
    let result = result(&mut faults, ctx, slots.result);
    send_end(&mut faults, Kind::Rename, token_of(entry), result, 0);
}

/// A deletion was allowed. Directories are removed by another function and are not reported.
///
/// # Kernel
///
/// As [`rename_begin`]; `int security_path_unlink(const struct path *dir, struct dentry *dentry)`.
#[fexit(function = "security_path_unlink")]
fn delete_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::DeleteBegin);
    deleting(&ctx, &DELETE_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_unlink")]
fn delete_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::DeleteBegin) {
        deleting(&ctx, &DELETE_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn deleting(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    if result(&mut faults, ctx, slots(Kind::Delete).allowed) != 0 {
        return;
    }
    let at = entry_in(&mut faults, ctx.arg(0), ctx.arg(1));
    begin(&mut faults, map, Kind::Delete, at.dentry, at, Old::None);
}

/// A deletion was done, or failed.
///
/// # Kernel
///
/// `int vfs_unlink(..., struct dentry *dentry, struct inode **delegated)`.
#[fexit(function = "vfs_unlink")]
fn delete_end(ctx: FExitContext) -> i32 {
    again::note(Twice::DeleteEnd);
    end(&ctx, Kind::Delete);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_unlink")]
fn delete_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::DeleteEnd) {
        end(&ctx, Kind::Delete);
    }
    0
}

/// A link was allowed.
///
/// # Kernel
///
/// As [`rename_begin`]; `int security_path_link(struct dentry *old, const struct path *new_dir, struct dentry *new)`. Both
/// names are on one mount: links across mounts are refused before this.
#[fexit(function = "security_path_link")]
fn link_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::LinkBegin);
    linking(&ctx, &LINK_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_link")]
fn link_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::LinkBegin) {
        linking(&ctx, &LINK_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn linking(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    if result(&mut faults, ctx, slots(Kind::Link).allowed) != 0 {
        return;
    }
    let old = faults.number(ctx.arg(0));
    let at = entry_in(&mut faults, ctx.arg(1), ctx.arg(2));
    begin(&mut faults, map, Kind::Link, old, at, Old::Entry(old));
}

/// A link was made, or failed.
///
/// # Kernel
///
/// `int vfs_link(struct dentry *old_dentry, ..., struct dentry *new_dentry, struct inode **delegated)`.
#[fexit(function = "vfs_link")]
fn link_end(ctx: FExitContext) -> i32 {
    again::note(Twice::LinkEnd);
    end(&ctx, Kind::Link);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_link")]
fn link_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::LinkEnd) {
        end(&ctx, Kind::Link);
    }
    0
}

/// A symbolic link was allowed.
///
/// # Kernel
///
/// As [`rename_begin`]; `int security_path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`.
#[fexit(function = "security_path_symlink")]
fn symlink_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::SymlinkBegin);
    linking_to_text(&ctx, &SYMLINK_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_symlink")]
fn symlink_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::SymlinkBegin) {
        linking_to_text(&ctx, &SYMLINK_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn linking_to_text(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    if result(&mut faults, ctx, slots(Kind::Symlink).allowed) != 0 {
        return;
    }
    let at = entry_in(&mut faults, ctx.arg(0), ctx.arg(1));
    let text = Old::Text(faults.number(ctx.arg(2)));
    begin(&mut faults, map, Kind::Symlink, 0, at, text);
}

/// A symbolic link was made, or failed.
///
/// # Kernel
///
/// `int vfs_symlink(..., struct dentry *dentry, const char *oldname)`.
#[fexit(function = "vfs_symlink")]
fn symlink_end(ctx: FExitContext) -> i32 {
    again::note(Twice::SymlinkEnd);
    end(&ctx, Kind::Symlink);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_symlink")]
fn symlink_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::SymlinkEnd) {
        end(&ctx, Kind::Symlink);
    }
    0
}

/// A directory was allowed.
///
/// # Kernel
///
/// As [`rename_begin`]; `int security_path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`.
#[fexit(function = "security_path_mkdir")]
fn mkdir_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::MkdirBegin);
    making_directory(&ctx, &MKDIR_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_mkdir")]
fn mkdir_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::MkdirBegin) {
        making_directory(&ctx, &MKDIR_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn making_directory(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    if result(&mut faults, ctx, slots(Kind::MakeDirectory).allowed) != 0 {
        return;
    }
    let at = entry_in(&mut faults, ctx.arg(0), ctx.arg(1));
    begin(&mut faults, map, Kind::MakeDirectory, 0, at, Old::None);
}

/// A directory was made, or failed.
///
/// # Kernel
///
/// `vfs_mkdir(..., struct dentry *dentry, umode_t mode)`; since 6.15 it returns the entry, which may be another than was
/// passed, instead of an `int`.
#[fexit(function = "vfs_mkdir")]
fn mkdir_end(ctx: FExitContext) -> i32 {
    again::note(Twice::MkdirEnd);
    end(&ctx, Kind::MakeDirectory);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_mkdir")]
fn mkdir_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::MkdirEnd) {
        end(&ctx, Kind::MakeDirectory);
    }
    0
}

/// A node was allowed: pipe, socket or device. Regular files are left out, since every open that creates one passes here, too.
///
/// # Kernel
///
/// As [`rename_begin`]; `int security_path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int
/// dev)`. A socket bound to a path passes here as well.
#[fexit(function = "security_path_mknod")]
fn mknod_begin(ctx: FExitContext) -> i32 {
    again::note(Twice::MknodBegin);
    making_node(&ctx, &MKNOD_SCRATCH);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_path_mknod")]
fn mknod_begin_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::MknodBegin) {
        making_node(&ctx, &MKNOD_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn making_node(ctx: &FExitContext, map: &Array<ActScratch>) {
    let mut faults = Faults::NONE;
    let kind = ctx.arg::<u64>(2) as u32 & TYPE;
    if kind == REGULAR || kind == 0 {
        return;
    }
    if result(&mut faults, ctx, slots(Kind::MakeNode).allowed) != 0 {
        return;
    }
    let at = entry_in(&mut faults, ctx.arg(0), ctx.arg(1));
    begin(&mut faults, map, Kind::MakeNode, 0, at, Old::None);
}

/// A node was made, or failed.
///
/// # Kernel
///
/// `int vfs_mknod(..., struct dentry *dentry, umode_t mode, dev_t dev)`.
#[fexit(function = "vfs_mknod")]
fn mknod_end(ctx: FExitContext) -> i32 {
    again::note(Twice::MknodEnd);
    end(&ctx, Kind::MakeNode);
    0
}

/// The same again; see [`again`].
#[fexit(function = "vfs_mknod")]
fn mknod_end_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::MknodEnd) {
        end(&ctx, Kind::MakeNode);
    }
    0
}

/// The slots of one of [`FILE_ACTS`].
#[inline(always)]
fn slots(act: Kind) -> ActSlots {
    let index = (act as usize - FILE_ACTS[0] as usize) % FILE_ACTS.len();
    ActSlots {
        allowed: setting!(acts[index].allowed),
        entry: setting!(acts[index].entry),
        result: setting!(acts[index].result),
        result_is_pointer: setting!(acts[index].result_is_pointer),
    }
}

/// An argument by a number that differs between kernels: read as memory, since the verifier refuses any but a constant place
/// in what it knows as arguments.
#[inline(always)]
fn argument(faults: &mut Faults, ctx: &FExitContext, slot: u32) -> u64 {
    faults.read::<u64>(ctx.as_ptr() as u64, u64::from(slot) * 8)
}

/// The `int` that a function returned; what lies above it in the register means nothing.
#[inline(always)]
fn result(faults: &mut Faults, ctx: &FExitContext, slot: u32) -> i32 {
    argument(faults, ctx, slot) as i32
}

/// A directory entry, with the mount of the `struct path` of its directory.
#[inline(always)]
fn entry_in(faults: &mut Faults, directory: u64, dentry: u64) -> Place {
    let directory = faults.number(directory);
    Place {
        mount: faults.pointer(directory, offset!(path_mnt)),
        dentry: faults.number(dentry),
    }
}

/// Sends the begin of an act on `at`. `subject`: the entry whose inode it is about, 0 when it is yet to be made.
#[inline(always)]
fn begin(
    faults: &mut Faults,
    map: &Array<ActScratch>,
    kind: Kind,
    subject: u64,
    at: Place,
    old: Old,
) {
    let task = task::current();
    if !wanted(kind, task) {
        return;
    }
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // What the end knows as well: the old name of a rename, the new one of everything else.
    let token = token_of(if matches!(kind, Kind::Rename) {
        subject
    } else {
        at.dentry
    });
    // SAFETY: the map has one element per possible CPU; only one program uses it, and `busy` keeps nested runs away. The two
    // parts are all there are.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(kind, task);
            return;
        }
        let record = Begin::<PARTS, LAST_AT, END> {
            record: (&raw mut (*scratch).record).cast(),
            at: &raw mut (*scratch).at,
        };
        let walk = &raw mut (*scratch).walk;
        record.open(faults, kind, task, token);
        if subject != 0 {
            record.inode(faults, subject);
        }
        let fs = faults.pointer(task, offset!(task_fs));
        let root = Place::read(faults, fs, offset!(fs_root));
        match old {
            Old::None => record.entry(0, PartKind::OldPath, 0),
            Old::Entry(dentry) => {
                let mount = at.mount;
                path::walk(faults, Place { mount, dentry }, root, walk);
                record.path(faults, 0, PartKind::OldPath, walk);
            }
            Old::Text(text) => {
                if !record.string(0, PartKind::OldPath, text, false) {
                    faults.0 |= -1;
                }
            }
        }
        path::walk(faults, at, root, walk);
        record.path(faults, 1, PartKind::Path, walk);
        record.send(faults, kind);
        release(busy);
    }
}

/// Sends the end of an act other than a rename.
#[inline(always)]
fn end(ctx: &FExitContext, act: Kind) {
    let mut faults = Faults::NONE;
    let slots = slots(act);
    let entry = argument(&mut faults, ctx, slots.entry);
    let returned = argument(&mut faults, ctx, slots.result);
    let mut made = if matches!(act, Kind::Symlink | Kind::MakeDirectory | Kind::MakeNode) {
        entry
    } else {
        0
    };
    let mut result = returned as i32;
    if slots.result_is_pointer != 0 {
        // The last page of addresses is errors.
        let error = returned as i64;
        result = if (-4095..0).contains(&error) {
            error as i32
        } else {
            0
        };
        if result == 0 && returned != 0 {
            made = returned;
        }
    }
    send_end(&mut faults, act, token_of(entry), result, made);
}
