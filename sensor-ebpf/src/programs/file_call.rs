//! Rename, deletion, link, symbolic link, directory and node: second choice, where function trampolines are refused.
//!
//! In: entry and exit of the system calls of these acts. Out: a begin with the paths as the caller wrote them, and an end
//! with the result, joined by user space. A path is read before the kernel copies it; one whose page was not in memory yet
//! is read at exit, where it must be. It never waits for memory.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid, macros::btf_tracepoint, maps::Array,
    programs::BtfTracePointContext,
};
use sensor_ebpf::{
    Kind, PartKind,
    maps::Twice,
    record_flag,
    settings::{ABSENT, CALLS_MAX, FILE_ACTS, FileCall},
};

use super::{
    act_record::{Begin, PATH_ROOM, last_part_at, send_end, token_of},
    again,
    file::descriptor_file,
    process::degraded,
    release, take, wanted,
};
use crate::{
    globals::{
        FILE_CALL_ENTER_AGAIN_SCRATCH, FILE_CALL_ENTER_SCRATCH, FILE_CALL_EXIT_AGAIN_SCRATCH,
        FILE_CALL_EXIT_SCRATCH, FILE_CALLS_UNREAD, SETTINGS, is_served, offset,
    },
    read::{
        Faults, clamp, helper, opaque,
        path::{self, Place, Walk},
        task,
    },
};

/// `AT_FDCWD`: the working directory in place of a descriptor.
const WORKING_DIRECTORY: i32 = -100;
/// `AT_REMOVEDIR` of unlinkat: remove a directory.
const REMOVE_DIRECTORY: u64 = 0x200;
/// `S_IFMT` of a mode, and some types it shows.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// Parts: directory of the old path, old path, directory of the path, path.
const PARTS: u64 = 4;
const LAST_AT: u64 = last_part_at(PARTS);
const END: u64 = LAST_AT + PATH_ROOM;

/// Buffer of a program of this family.
#[repr(C)]
pub(crate) struct CallScratch {
    busy: u64,
    at: u64,
    plan: Plan,
    record: [u8; END as usize + 16],
    walk: Walk,
}

/// What a begin is built from. In scratch, since the verifier knows nothing about memory: all ways of filling it in then look
/// alike to it, where known values would make it follow each through the walks.
#[repr(C)]
struct Plan {
    kind: u64,
    token: u64,
    /// Type bits that the act tells by itself.
    mode: u64,
    paths: [Named; 2],
}

/// One path argument.
#[repr(C)]
struct Named {
    /// Address of the text; 0 when the act has no such path.
    text: u64,
    /// Where it begins; no entry when it is absolute, or that is not known.
    mount: u64,
    dentry: u64,
}

/// A system call that may do a file act begins.
///
/// # Kernel
///
/// 5.10 or later; `sys_enter(regs, number)`. Blind to acts without a system call: through io_uring, and the kernel's own.
/// Another thread can change a path after it was read here.
#[btf_tracepoint(function = "sys_enter")]
fn file_call_begin(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::FileCallBegin);
    begins(&ctx, &FILE_CALL_ENTER_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_enter")]
fn file_call_begin_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::FileCallBegin) {
        begins(&ctx, &FILE_CALL_ENTER_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn begins(ctx: &BtfTracePointContext, map: &Array<CallScratch>) {
    let mut faults = Faults::NONE;
    let regs = faults.number(ctx.arg(0));
    let Some(call) = Call::find(&mut faults, regs, ctx.arg::<u64>(1) as u32) else {
        return;
    };
    if wanted(call.kind(), call.task) {
        call.begin(&mut faults, map, true);
    }
}

/// A system call that may have done a file act ends.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, result)`.
#[btf_tracepoint(function = "sys_exit")]
fn file_call_end(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::FileCallEnd);
    ends(&ctx, &FILE_CALL_EXIT_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn file_call_end_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::FileCallEnd) {
        ends(&ctx, &FILE_CALL_EXIT_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn ends(ctx: &BtfTracePointContext, map: &Array<CallScratch>) {
    if offset!(pt_regs_syscall) == u64::from(ABSENT) {
        return;
    }
    let mut faults = Faults::NONE;
    let regs = faults.number(ctx.arg(0));
    let number = faults.read::<u64>(regs, offset!(pt_regs_syscall));
    let Some(call) = Call::find(&mut faults, regs, number as u32) else {
        return;
    };
    let result = ctx.arg::<u64>(1) as i32;
    let token = call.token(&mut faults);
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the value is a plain number, and nobody but this thread writes its entry.
    let unread = unsafe { FILE_CALLS_UNREAD.get(thread) }.copied();
    if let Some(unread) = unread {
        let _ = FILE_CALLS_UNREAD.remove(thread);
        if unread == token && result == 0 && wanted(call.kind(), call.task) {
            call.begin(&mut faults, map, false);
        }
    }
    send_end(&mut faults, call.kind(), token, result, 0);
}

/// One system call of the family.
struct Call {
    task: u64,
    regs: u64,
    /// 1 for a 32-bit call, else 0.
    compat: u64,
    names: FileCall,
}

impl Call {
    /// The call of this number, if it is one of the family that is asked for.
    #[inline(always)]
    fn find(faults: &mut Faults, regs: u64, number: u32) -> Option<Call> {
        if number >= CALLS_MAX as u32 {
            return None;
        }
        let number = clamp::<{ CALLS_MAX as u64 - 1 }>(opaque(u64::from(number)));
        let calls = |index| entry(&SETTINGS.file_calls, index);
        if calls(number) | calls(number + CALLS_MAX as u64) == FileCall::NONE {
            return None;
        }
        let task = task::current();
        let compat = task::compat_call(faults, task);
        let names = FileCall::unpacked(calls(number + compat * CALLS_MAX as u64));
        let call = Call {
            task,
            regs,
            compat,
            names,
        };
        (names.act != 0 && is_served(true, call.kind())).then_some(call)
    }

    #[inline(always)]
    fn kind(&self) -> Kind {
        kind_of(u64::from(self.names.act) + FILE_ACTS[0] as u64 - 1)
    }

    /// True when the arguments make it something else than the family's act: a directory removed, a regular file made.
    #[inline(always)]
    fn is_other(&self, faults: &mut Faults) -> bool {
        let behind_path = self.argument(faults, u64::from(self.names.path) + 1);
        match self.kind() {
            Kind::Delete => self.names.directory != 0 && behind_path & REMOVE_DIRECTORY != 0,
            Kind::MakeNode => {
                let kind = behind_path as u32 & TYPE;
                kind == REGULAR || kind == 0
            }
            _ => false,
        }
    }

    /// An argument, counted from 1.
    #[inline(always)]
    fn argument(&self, faults: &mut Faults, number: u64) -> u64 {
        let at = entry(&SETTINGS.call_arguments, (number & 7) + 8 * self.compat);
        let value = faults.read::<u64>(self.regs, u64::from(at));
        value & u64::MAX >> (32 * self.compat)
    }

    /// The same at entry and exit of one call. Made of the thread, its stack and its arguments, which another call may share
    /// only when it is the very same call again.
    #[inline(always)]
    fn token(&self, faults: &mut Faults) -> u64 {
        let mut token = token_of(self.task ^ u64::from(self.names.act));
        for number in 1..=4 {
            token = token_of(token.rotate_left(17) ^ self.argument(faults, number));
        }
        if offset!(pt_regs_stack) != u64::from(ABSENT) {
            let stack = faults.pointer(self.regs, offset!(pt_regs_stack));
            token = token_of(token.rotate_left(17) ^ stack);
        }
        token
    }

    /// The type bits that the act tells by itself.
    #[inline(always)]
    fn type_bits(&self, faults: &mut Faults) -> u32 {
        match self.kind() {
            Kind::Symlink => SYMBOLIC_LINK,
            Kind::MakeDirectory => DIRECTORY,
            Kind::MakeNode => self.argument(faults, u64::from(self.names.path) + 1) as u32 & TYPE,
            _ => 0,
        }
    }

    /// Sends the begin. When a path can not be read and `again` is set, a note is left for the exit instead.
    #[inline(always)]
    fn begin(&self, faults: &mut Faults, map: &Array<CallScratch>, again: bool) {
        if self.is_other(faults) {
            return;
        }
        let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
            return;
        };
        // SAFETY: the map has one element per possible CPU; only one program uses it, and `busy` keeps nested runs away.
        unsafe {
            let busy = &raw mut (*scratch).busy;
            if !take(busy) {
                degraded(self.kind(), self.task);
                return;
            }
            self.plan(faults, &raw mut (*scratch).plan);
            send(faults, scratch, again);
            release(busy);
        }
    }

    /// Writes down what the begin is built from.
    ///
    /// # Safety
    ///
    /// `plan` is this CPU's scratch, which the caller holds.
    #[inline(always)]
    unsafe fn plan(&self, faults: &mut Faults, plan: *mut Plan) {
        let names = self.names;
        // SAFETY: the caller's pointer is valid.
        unsafe {
            (&raw mut (*plan).kind).write_volatile(self.kind() as u64);
            (&raw mut (*plan).token).write_volatile(self.token(faults));
            (&raw mut (*plan).mode).write_volatile(u64::from(self.type_bits(faults)));
            let old = &raw mut (*plan).paths[0];
            self.name(faults, old, names.old_path, names.old_directory);
            if matches!(self.kind(), Kind::Symlink) {
                // A text to be followed later: it begins nowhere yet.
                (&raw mut (*old).dentry).write_volatile(0);
            }
            let new = &raw mut (*plan).paths[1];
            self.name(faults, new, names.path, names.directory);
        }
    }

    /// One path argument, and the directory in which it begins unless it is absolute.
    ///
    /// # Safety
    ///
    /// As [`Call::plan`].
    #[inline(always)]
    unsafe fn name(&self, faults: &mut Faults, named: *mut Named, path: u16, directory: u16) {
        // SAFETY: the caller's pointer is valid; one byte is read into a variable of that size.
        unsafe {
            let place = |text: u64, at: Place| {
                (&raw mut (*named).text).write_volatile(text);
                (&raw mut (*named).mount).write_volatile(at.mount);
                (&raw mut (*named).dentry).write_volatile(at.dentry);
            };
            if path == 0 {
                place(0, NOWHERE);
                return;
            }
            let text = self.argument(faults, u64::from(path));
            let mut first = b'/';
            let status = helper::probe_read_user((&raw mut first).cast(), 1, text);
            if status != 0 || first == b'/' {
                place(text, NOWHERE);
                return;
            }
            let descriptor = self.argument(faults, u64::from(directory)) as i32;
            if directory != 0 && descriptor != WORKING_DIRECTORY {
                let file = descriptor_file(faults, self.task, u64::from(descriptor as u32));
                if file == 0 {
                    // No such descriptor: the call fails, and then nothing is reported.
                    place(text, NOWHERE);
                    return;
                }
                place(text, Place::read(faults, file, offset!(file_path)));
                return;
            }
            let fs = faults.pointer(self.task, offset!(task_fs));
            place(text, Place::read(faults, fs, offset!(fs_pwd)));
        }
    }
}

const NOWHERE: Place = Place {
    mount: 0,
    dentry: 0,
};

/// Builds and sends the begin that `scratch` plans.
///
/// # Safety
///
/// `scratch` is this CPU's, which the caller holds.
#[inline(always)]
unsafe fn send(faults: &mut Faults, scratch: *mut CallScratch, again: bool) {
    // SAFETY: all of it lies in scratch, and the four parts are all there are.
    unsafe {
        let plan = &raw mut (*scratch).plan;
        let record = Begin::<PARTS, LAST_AT, END> {
            record: (&raw mut (*scratch).record).cast(),
            at: &raw mut (*scratch).at,
        };
        let walk = &raw mut (*scratch).walk;
        let task = task::current();
        let kind = kind_of((&raw const (*plan).kind).read_volatile());
        let token = (&raw const (*plan).token).read_volatile();
        record.open(faults, kind, task, token);
        record.add_flag(record_flag::PATH_FROM_USER);
        (*record.body()).mode = (&raw const (*plan).mode).read_volatile() as u32;
        let old = &raw const (*plan).paths[0];
        let mut missing = path(faults, &record, walk, 0, PartKind::OldPath, old);
        let new = &raw const (*plan).paths[1];
        missing |= path(faults, &record, walk, 2, PartKind::Path, new);
        if missing != 0 {
            let token = (&raw const (*plan).token).read_volatile();
            let noted = again
                && FILE_CALLS_UNREAD
                    .insert(bpf_get_current_pid_tgid(), token, 0)
                    .is_ok();
            if noted {
                return;
            }
            faults.0 |= -1;
        }
        let kind = kind_of((&raw const (*plan).kind).read_volatile());
        record.send(faults, kind);
    }
}

/// Two parts: where a path begins, and the path. Not 0 when it can not be read.
///
/// # Safety
///
/// As [`send`].
#[inline(always)]
unsafe fn path(
    faults: &mut Faults,
    record: &Begin<PARTS, LAST_AT, END>,
    walk: *mut Walk,
    index: usize,
    kind: PartKind,
    named: *const Named,
) -> u64 {
    // SAFETY: the caller's pointers are valid.
    unsafe {
        let start = Place {
            mount: (&raw const (*named).mount).read_volatile(),
            dentry: (&raw const (*named).dentry).read_volatile(),
        };
        record.entry(index, PartKind::WorkingDirectory, 0);
        record.entry(index + 1, kind, 0);
        if start.dentry != 0 {
            let fs = faults.pointer(task::current(), offset!(task_fs));
            let root = Place::read(faults, fs, offset!(fs_root));
            path::walk(faults, start, root, walk);
            record.path(faults, index, PartKind::WorkingDirectory, walk);
        }
        let text = (&raw const (*named).text).read_volatile();
        if text == 0 {
            return 0;
        }
        u64::from(!record.string(index + 1, kind, text, true))
    }
}

/// The kind of one of [`FILE_ACTS`] by its number.
#[inline(always)]
fn kind_of(number: u64) -> Kind {
    // SAFETY: the numbers come from the table of calls and from a plan made of it, and user space enters there only places
    // in `FILE_ACTS`, whose kinds are numbered in a row.
    unsafe { core::mem::transmute::<u16, Kind>(number as u16) }
}

/// One entry of a table in the settings; `index` is inside it.
#[inline(always)]
fn entry<const N: usize>(table: &'static [u16; N], index: u64) -> u16 {
    // SAFETY: the callers hold the index to the table, in a way that the verifier sees.
    unsafe {
        (&raw const *table)
            .cast::<u16>()
            .add(index as usize)
            .read_volatile()
    }
}
