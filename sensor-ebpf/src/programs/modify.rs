//! Changes to files that were there: written, cut, another mode, another owner.
//!
//! In: the first choice is the returns of the functions that do it, the second the return of the system calls. Out: one record
//! per call that changed mode or owner, and for contents one per open, the first time it writes or cuts; none for what the
//! open itself made. Regular files with a name, outside of the kernel's own file systems. Must never run far for a write
//! that has nothing new to say.
//!
//! Which open files were reported is remembered by the address of their `struct file` until an open for writing gets the same
//! address, in a table that forgets what was used least; so a file can be reported again when some thousands of others
//! were written since. Memory mappings are not seen.

use aya_ebpf::{
    helpers::generated,
    macros::{btf_tracepoint, fexit},
    maps::Array,
    programs::{BtfTracePointContext, FExitContext},
};
use sensor_ebpf::{
    Kind, ModifyBody, change,
    maps::Twice,
    settings::{ABSENT, CALLS_MAX, call},
};

use super::{
    again,
    bulk::{FMODE_NOACCOUNT, FMODE_PATH, PathScratch, admit, file_place, send_path},
    file::{FMODE_CREATED, descriptor_file, is_compat},
};
use crate::{
    globals::{
        BULK, FILE_CHMOD_SCRATCH, FILE_CHOWN_SCRATCH, FILE_TRUNCATE_SCRATCH, FILE_WRITE_SCRATCH,
        MODIFY_SYSCALL_AGAIN_SCRATCH, MODIFY_SYSCALL_SCRATCH, PATH_TRUNCATE_SCRATCH, REPORTED,
        bulk_setting, constant, offset,
    },
    read::{Faults, distinct, helper, path::Place, task},
};

/// `FMODE_WRITE` of `file.f_mode`.
const FMODE_WRITE: u32 = 2;

const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
const O_TRUNC: u64 = 0o1000;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// Where a path is relative to no descriptor but to the working directory.
const AT_FDCWD: i32 = -100;

const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// What is remembered of an open file that was reported. Of a layer's file it is the address of the file that the process
/// opened, of a thread the one it is just opening.
const TOLD: u64 = 1;

/// An open file is about to be written: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `ssize_t generic_write_checks(struct kiocb *, struct iov_iter *)`, which the file
/// systems that store something call for every write to a regular file, whatever the system call, io_uring and the kernel's
/// own copies included. It returns the bytes that may be written. Reads, pipes, sockets and devices never come here.
#[fexit(function = "generic_write_checks")]
fn file_write(ctx: FExitContext) -> i32 {
    if ctx.arg::<i64>(2) <= 0 {
        return 0;
    }
    let mut faults = Faults::NONE;
    let file = faults.pointer(ctx.arg(0), offset!(kiocb_file));
    contents(&mut faults, file, change::WRITE, &FILE_WRITE_SCRATCH);
    0
}

/// An open for writing begins: whatever was remembered of another file at this address is void. First choice.
///
/// # Kernel
///
/// As [`file_write`]; `int security_file_open(struct file *)`. A file system in layers opens the layer's file in the same call,
/// and writes go there, while cuts are of the file that the process opened: what of it was reported is remembered by the latter,
/// and the thread in between.
#[fexit(function = "security_file_open")]
fn file_write_open(ctx: FExitContext) -> i32 {
    let mut faults = Faults::NONE;
    let file = faults.number(ctx.arg(0));
    let mode = faults.read::<u32>(file, offset!(file_mode));
    if mode & FMODE_WRITE == 0 {
        return 0;
    }
    let thread = thread();
    if mode & FMODE_NOACCOUNT != 0 {
        // The first one can be the copy that goes into the upper layer: the thread stays remembered.
        let above = remembered(thread);
        if above != 0 {
            let _ = REPORTED.insert(file, above, 0);
            return 0;
        }
    }
    let _ = REPORTED.remove(file);
    let inode = faults.pointer(file, offset!(file_inode));
    if magic(&mut faults, inode) == OVERLAYFS_MAGIC {
        if mode & FMODE_CREATED != 0 {
            let _ = REPORTED.insert(file, TOLD, 0);
        }
        let _ = REPORTED.insert(thread, file, 0);
    }
    0
}

/// What [`REPORTED`] holds of an open file or a thread; 0 for nothing.
#[inline(always)]
fn remembered(key: u64) -> u64 {
    match REPORTED.get_ptr(key) {
        // SAFETY: the map's values stay mapped while a program runs, and are plain numbers.
        Some(value) => unsafe { *value },
        None => 0,
    }
}

/// An open file was cut, by ftruncate or by being opened with O_TRUNC: first choice.
///
/// # Kernel
///
/// As [`file_write`]; `int do_truncate(struct dentry *, loff_t, unsigned int, struct file *)`, since 5.12 with one more in front.
/// Without a file it comes from truncate, which [`path_truncate`] sees.
#[fexit(function = "do_truncate")]
fn file_truncate(ctx: FExitContext) -> i32 {
    let (file, status): (u64, u64) = if bulk_setting!(truncate_parameters) == 5 {
        (distinct::<4>(ctx.arg(4)), distinct::<5>(ctx.arg(5)))
    } else {
        (distinct::<3>(ctx.arg(3)), distinct::<6>(ctx.arg(4)))
    };
    if status as i32 != 0 {
        return 0;
    }
    let mut faults = Faults::NONE;
    let file = faults.number(file);
    contents(&mut faults, file, change::TRUNCATE, &FILE_TRUNCATE_SCRATCH);
    0
}

/// A file was cut by its path: first choice.
///
/// # Kernel
///
/// As [`file_write`]; `long vfs_truncate(const struct path *, loff_t)`.
#[fexit(function = "vfs_truncate")]
fn path_truncate(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(2) as i32 == 0 {
        changed(ctx.arg(0), change::TRUNCATE, &PATH_TRUNCATE_SCRATCH);
    }
    0
}

/// A file has another mode: first choice.
///
/// # Kernel
///
/// As [`file_write`]; `int chmod_common(const struct path *, umode_t)`.
#[fexit(function = "chmod_common")]
fn file_chmod(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(2) as i32 == 0 {
        changed(ctx.arg(0), change::MODE, &FILE_CHMOD_SCRATCH);
    }
    0
}

/// A file has another owner: first choice.
///
/// # Kernel
///
/// As [`file_write`]; `int chown_common(const struct path *, uid_t, gid_t)`.
#[fexit(function = "chown_common")]
fn file_chown(ctx: FExitContext) -> i32 {
    if ctx.arg::<u64>(3) as i32 == 0 {
        changed(ctx.arg(0), change::OWNER, &FILE_CHOWN_SCRATCH);
    }
    0
}

/// Any change to a file: second choice, where function trampolines are refused.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`, where the registers still hold what the call was given. By descriptor, only what the
/// kernel knows is read. By path, what the caller's memory holds at the call's end: another thread can put something else
/// there, and user space resolves it once more. The flags of openat2 also come from there.
#[btf_tracepoint(function = "sys_exit")]
fn file_modify_by_syscall(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::FileModify);
    modified::<false>(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn file_modify_by_syscall_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::FileModify) {
        modified::<true>(&ctx);
    }
    0
}

/// A constant tells the instances apart, not an argument: they share no code then, and what they have to themselves the compiler puts
/// where it is called, which is half the work for the verifier.
#[inline(always)]
fn modified<const SECOND: bool>(ctx: &BtfTracePointContext) {
    if offset!(pt_regs_syscall) == u64::from(ABSENT) {
        return;
    }
    let regs: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    let number = faults.read::<u64>(regs, offset!(pt_regs_syscall)) as usize;
    let ret: i64 = ctx.arg(1);
    if number >= CALLS_MAX || ret < 0 {
        return;
    }
    let (native, compat) = (call(&BULK.calls, number), call(&BULK.calls_compat, number));
    if native == call::OTHER && compat == call::OTHER {
        return;
    }
    let task = task::current();
    let is_compat = is_compat(&mut faults, task);
    let call = if is_compat { compat } else { native };
    if call != call::OTHER {
        let arguments = Arguments { regs, is_compat };
        by_call::<SECOND>(&mut faults, task, call, ret, &arguments);
    }
}

/// What a system call was given.
struct Arguments {
    regs: u64,
    is_compat: bool,
}

impl Arguments {
    #[inline(always)]
    fn read(&self, faults: &mut Faults, native: u64, compat: u64) -> u64 {
        let at = if self.is_compat { compat } else { native };
        faults.read::<u64>(self.regs, at)
    }

    #[inline(always)]
    fn first(&self, faults: &mut Faults) -> u64 {
        self.read(faults, offset!(pt_regs_di), offset!(pt_regs_bx))
    }

    #[inline(always)]
    fn second(&self, faults: &mut Faults) -> u64 {
        self.read(faults, offset!(pt_regs_si), offset!(pt_regs_cx))
    }

    #[inline(always)]
    fn third(&self, faults: &mut Faults) -> u64 {
        self.read(faults, offset!(pt_regs_dx), offset!(pt_regs_dx))
    }

    #[inline(always)]
    fn fourth(&self, faults: &mut Faults) -> u64 {
        self.read(faults, offset!(pt_regs_r10), offset!(pt_regs_si))
    }

    #[inline(always)]
    fn fifth(&self, faults: &mut Faults) -> u64 {
        self.read(faults, offset!(pt_regs_r8), offset!(pt_regs_di))
    }
}

/// The entry of a system call; the number is below the table's length.
#[inline(always)]
fn call(table: &'static [u8; CALLS_MAX], number: usize) -> u8 {
    // SAFETY: the caller has compared the number with the length.
    constant(unsafe { &*table.as_ptr().add(number) })
}

/// What a system call says of the file it changed.
struct Subject {
    /// Where the file is, or the directory that its path is relative to.
    place: Place,
    /// Where its path lies in the caller's memory; 0 when `place` is the file.
    user_path: u64,
    no_follow: u32,
    /// What the caller asked for, with a path: the mode, or owner and group; `u32::MAX` where it did not.
    asked: [u32; 3],
    /// The open file, when this change is to be reported once for it; else 0.
    once_for: u64,
}

impl Subject {
    /// The same, of which the verifier knows nothing.
    #[inline(always)]
    fn forgotten(self, faults: &mut Faults) -> Subject {
        Subject {
            place: self.place,
            user_path: faults.number(self.user_path),
            no_follow: faults.number(u64::from(self.no_follow)) as u32,
            asked: [
                faults.number(u64::from(self.asked[0])) as u32,
                faults.number(u64::from(self.asked[1])) as u32,
                faults.number(u64::from(self.asked[2])) as u32,
            ],
            once_for: faults.number(self.once_for),
        }
    }
}

#[inline(always)]
fn by_call<const SECOND: bool>(
    faults: &mut Faults,
    task: u64,
    call: u8,
    ret: i64,
    arguments: &Arguments,
) {
    let map = if SECOND {
        &MODIFY_SYSCALL_AGAIN_SCRATCH
    } else {
        &MODIFY_SYSCALL_SCRATCH
    };
    let what = match call {
        call::WRITE | call::WRITE_THIRD => change::WRITE,
        call::MODE | call::PATH_MODE | call::AT_MODE => change::MODE,
        call::OWNER | call::PATH_OWNER | call::PATH_OWNER_NO_FOLLOW | call::AT_OWNER => {
            change::OWNER
        }
        _ => change::TRUNCATE,
    };
    if what == change::WRITE && ret == 0 {
        return;
    }
    let subject = if call >= call::PATH_TRUNCATE && call <= call::AT_OWNER {
        by_path(faults, task, call, arguments)
    } else {
        let once = what == change::WRITE || what == change::TRUNCATE;
        match by_descriptor(faults, task, call, ret, once, arguments) {
            Some(subject) => subject,
            None => return,
        }
    };
    // From here on all calls are alike, and the verifier is to follow them once.
    let what = faults.number(u64::from(what)) as u32;
    let subject = subject.forgotten(faults);
    let mut inode = 0;
    if subject.user_path == 0 {
        inode = faults.pointer(subject.place.dentry, offset!(dentry_inode));
        if !is_stored(faults, inode) {
            return;
        }
    }
    if !task::in_scope(task) {
        return;
    }
    if subject.once_for != 0 {
        let _ = REPORTED.insert(subject.once_for, TOLD, 0);
    }
    if !admit(Kind::Modify, task) {
        return;
    }
    // SAFETY: each program passes the map that is its own; a body is written and nothing more.
    unsafe {
        send_path(
            faults,
            Kind::Modify,
            task,
            map,
            subject.place,
            subject.user_path,
            |faults, body| {
                fill(faults, body, inode, what);
                if inode == 0 {
                    let body = body.cast::<ModifyBody>();
                    (*body).mode = subject.asked[0];
                    (*body).uid = subject.asked[1];
                    (*body).gid = subject.asked[2];
                    (*body).no_follow = subject.no_follow;
                }
            },
        );
    }
}

/// By descriptor; `None` when there is nothing to report.
#[inline(always)]
fn by_descriptor(
    faults: &mut Faults,
    task: u64,
    call: u8,
    ret: i64,
    once: bool,
    arguments: &Arguments,
) -> Option<Subject> {
    let descriptor = match call {
        call::OPEN | call::OPEN_THIRD | call::OPEN_POINTER | call::CREATE => ret as u64,
        call::WRITE_THIRD => arguments.third(faults),
        _ => arguments.first(faults),
    };
    let file = descriptor_file(faults, task, u64::from(descriptor as u32));
    if file == 0 {
        return None;
    }
    let mode = faults.read::<u32>(file, offset!(file_mode));
    if call >= call::OPEN {
        let flags = match call {
            call::OPEN => arguments.second(faults),
            call::OPEN_THIRD => arguments.third(faults),
            call::OPEN_POINTER => {
                let how = arguments.third(faults);
                user_word(faults, how)
            }
            _ => O_TRUNC,
        };
        if mode & FMODE_WRITE != 0 {
            let _ = REPORTED.remove(file);
        }
        if flags & O_TRUNC == 0 || mode & FMODE_PATH != 0 {
            return None;
        }
    }
    if once && (mode & FMODE_CREATED != 0 || REPORTED.get_ptr(file).is_some()) {
        return None;
    }
    Some(Subject {
        place: file_place(faults, file, mode),
        user_path: 0,
        no_follow: 0,
        asked: [0; 3],
        once_for: if once { file } else { 0 },
    })
}

/// By a path in the caller's memory.
#[inline(always)]
fn by_path(faults: &mut Faults, task: u64, call: u8, arguments: &Arguments) -> Subject {
    let mut directory = AT_FDCWD;
    let mut path = arguments.first(faults);
    let mut no_follow = u32::from(call == call::PATH_OWNER_NO_FOLLOW);
    let mut asked = [u32::MAX; 3];
    if call == call::AT_MODE || call == call::AT_OWNER {
        directory = path as i32;
        path = arguments.second(faults);
    }
    match call {
        call::PATH_MODE => asked[0] = arguments.second(faults) as u32,
        call::AT_MODE => asked[0] = arguments.third(faults) as u32,
        call::PATH_OWNER | call::PATH_OWNER_NO_FOLLOW => {
            asked[1] = arguments.second(faults) as u32;
            asked[2] = arguments.third(faults) as u32;
        }
        call::AT_OWNER => {
            asked[1] = arguments.third(faults) as u32;
            asked[2] = arguments.fourth(faults) as u32;
        }
        _ => {}
    }
    if call == call::AT_OWNER && arguments.fifth(faults) & AT_SYMLINK_NOFOLLOW != 0 {
        no_follow = 1;
    }
    let mut file = 0;
    if directory != AT_FDCWD {
        file = descriptor_file(faults, task, u64::from(directory as u32));
    }
    let place = if file != 0 {
        Place::read(faults, file, offset!(file_path))
    } else {
        let fs = faults.pointer(task, offset!(task_fs));
        Place::read(faults, fs, offset!(fs_pwd))
    };
    // Without a path it is the descriptor itself.
    let is_empty = path == 0 || user_word(faults, path) & 0xff == 0;
    Subject {
        place,
        user_path: if is_empty { 0 } else { path },
        no_follow,
        asked,
        once_for: 0,
    }
}

/// Eight bytes of the caller's memory, fewer at the end of what it has; 0 when there is nothing.
#[inline(always)]
fn user_word(faults: &mut Faults, address: u64) -> u64 {
    let mut word = 0u64;
    // SAFETY: the helper writes at most the 8 bytes of `word`.
    unsafe {
        let to = (&raw mut word).cast();
        if helper::probe_read_user(to, 8, address) != 0
            && helper::probe_read_user(to, 1, address) != 0
        {
            faults.0 |= -1;
        }
    }
    word
}

/// The contents of an open file changed: reports it unless this open already was, or made the file.
#[inline(always)]
fn contents(faults: &mut Faults, file: u64, what: u32, map: &Array<PathScratch>) {
    if file == 0 {
        return;
    }
    let mode = faults.read::<u32>(file, offset!(file_mode));
    let before = remembered(file);
    if mode & FMODE_CREATED != 0 || before == TOLD {
        return;
    }
    let place = file_place(faults, file, mode);
    let mut opened = file;
    if before != 0 {
        // Gone, or another's, unless both are by the same name.
        let above = Place::read(&mut Faults::NONE, before, offset!(file_path));
        if above.dentry == place.dentry {
            if remembered(before) != 0 {
                return;
            }
            opened = before;
        }
    }
    once_at(faults, task::current(), opened, what, place, map);
}

/// Reports a change of contents and remembers the open file.
#[inline(always)]
fn once_at(
    faults: &mut Faults,
    task: u64,
    file: u64,
    what: u32,
    place: Place,
    map: &Array<PathScratch>,
) {
    if at(faults, task, what, place, map) {
        let _ = REPORTED.insert(file, TOLD, 0);
    }
}

/// Reports a change of mode, owner or contents of the file at `path`, a `struct path` in the kernel.
#[inline(always)]
fn changed(path: u64, what: u32, map: &Array<PathScratch>) {
    let mut faults = Faults::NONE;
    let place = Place::read(&mut faults, path, 0);
    at(&mut faults, task::current(), what, place, map);
}

/// Reports a change of what is at `place`. False when it is nothing to report, or not here.
#[inline(always)]
fn at(faults: &mut Faults, task: u64, what: u32, place: Place, map: &Array<PathScratch>) -> bool {
    let inode = faults.pointer(place.dentry, offset!(dentry_inode));
    if !is_stored(faults, inode) || !task::in_scope(task) {
        return false;
    }
    if !admit(Kind::Modify, task) {
        return true;
    }
    // SAFETY: each program passes the map that is its own; a body is written and nothing more.
    unsafe {
        send_path(faults, Kind::Modify, task, map, place, 0, |faults, body| {
            fill(faults, body, inode, what);
        });
    }
    true
}

/// Fills a body; all but the change is 0 without an inode.
///
/// # Safety
///
/// `body` points to a whole body's worth of writable bytes.
#[inline(always)]
unsafe fn fill(faults: &mut Faults, body: *mut u8, inode: u64, what: u32) {
    let body = body.cast::<ModifyBody>();
    // SAFETY: the caller's pointer is valid.
    unsafe {
        (*body).inode = 0;
        (*body).dev = 0;
        (*body).mode = 0;
        (*body).uid = 0;
        (*body).gid = 0;
        (*body).change = what;
        (*body).no_follow = 0;
        if inode != 0 {
            let superblock = faults.pointer(inode, offset!(inode_sb));
            (*body).inode = faults.read::<u64>(inode, offset!(inode_ino));
            (*body).dev = faults.read::<u32>(superblock, offset!(super_block_dev));
            (*body).mode = u32::from(faults.read::<u16>(inode, offset!(inode_mode)));
            (*body).uid = faults.read::<u32>(inode, offset!(inode_uid));
            (*body).gid = faults.read::<u32>(inode, offset!(inode_gid));
        }
    }
}

/// True for a regular file that has a name and is not of the kernel's making.
#[inline(always)]
pub(crate) fn is_stored(faults: &mut Faults, inode: u64) -> bool {
    if faults.read::<u16>(inode, offset!(inode_mode)) & S_IFMT != S_IFREG
        || faults.read::<u32>(inode, offset!(inode_nlink)) == 0
    {
        return false;
    }
    let magic = magic(faults, inode);
    // proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, configfs, pstore, efivarfs, selinuxfs.
    !matches!(
        magic,
        0x9fa0
            | 0x6265_6572
            | 0x0027_e0eb
            | 0x6367_7270
            | 0x6462_6720
            | 0x7472_6163
            | 0x7363_6673
            | 0xcafe_4a11
            | 0x6265_6570
            | 0x6165_676c
            | 0xde5e_81e4
            | 0xf97c_ff8c
    )
}

#[inline(always)]
fn magic(faults: &mut Faults, inode: u64) -> u64 {
    let superblock = faults.pointer(inode, offset!(inode_sb));
    faults.read::<u64>(superblock, offset!(super_block_magic))
}

/// A number for the thread that runs, which no kernel address is.
#[inline(always)]
fn thread() -> u64 {
    // SAFETY: the helper takes no arguments and is in every supported kernel.
    unsafe { generated::bpf_get_current_pid_tgid() & 0xffff_ffff }
}
