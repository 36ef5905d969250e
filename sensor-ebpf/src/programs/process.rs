//! Process fork, exec and exit.
//!
//! In: the scheduler's three process tracepoints. Out: fork, exec and exit records; never filtered by anything but the
//! scope, since the process table feeds on them. Threads are not processes: their creation and end are left out.

use aya_ebpf::{macros::btf_tracepoint, maps::Array, programs::BtfTracePointContext};
use core::mem::MaybeUninit;
use sensor_ebpf::{
    ARGS_LEN_MAX, ENVIRONMENT_LEN_MAX, ExecBody, ExitBody, ForkBody, Header, Kind, PATH_LEN_MAX,
    Part, PartKind, maps::Twice, record_flag, settings::ABSENT,
};

use super::{again, bulk, pad, release, take, write_part};
use crate::{
    emit::{emit, emit_degraded},
    globals::{EXEC_AGAIN_SCRATCH, EXEC_SCRATCH, offset, setting},
    interest,
    read::{
        Faults, clamp, helper, opaque,
        path::{self, Place, Walk},
        task,
    },
};

/// `SIGNAL_GROUP_EXIT` of `signal_struct.flags`: the whole group ends with one status.
const SIGNAL_GROUP_EXIT: u32 = 4;

const PATH_MAX: u64 = PATH_LEN_MAX as u64;
const ARGS_MAX: u64 = ARGS_LEN_MAX as u64;
const COMM_LEN: u64 = 16;
const ENVIRONMENT_MAX: u64 = ENVIRONMENT_LEN_MAX as u64;
const PARTS: u64 = 7;

/// Where the parts of an exec begin.
const PARTS_AT: u64 =
    (size_of::<Header>() + size_of::<ExecBody>() + PARTS as usize * size_of::<Part>()) as u64;
/// Most bytes of one path part, padding included.
const PATH_ROOM: u64 = PATH_MAX + 8;
/// Farthest begin of the last of four path parts, and of the arguments.
const PATH_AT_MAX: u64 = PARTS_AT + COMM_LEN + 3 * PATH_ROOM;
const ARGS_AT_MAX: u64 = PATH_AT_MAX + PATH_ROOM;
/// Farthest begin of the environment, the last part.
const ENVIRONMENT_AT_MAX: u64 = ARGS_AT_MAX + ARGS_MAX + 8;
/// Farthest end of an exec record, padding included.
const EXEC_MAX: u64 = ENVIRONMENT_AT_MAX + ENVIRONMENT_MAX;

/// The exec program's buffer.
#[repr(C)]
pub(crate) struct ExecScratch {
    busy: u64,
    /// Where the next part begins. Here and not in a variable for the same reason as [`Walk`]'s.
    at: u64,
    record: [u8; EXEC_MAX as usize + 16],
    walk: Walk,
}

/// A process was made. Runs before the child can run, so its record precedes everything the child does.
///
/// # Kernel
///
/// 5.10 or later; `sched_process_fork(parent, child)`.
#[btf_tracepoint(function = "sched_process_fork")]
fn process_fork(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::ProcessFork);
    forked(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sched_process_fork")]
fn process_fork_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::ProcessFork) {
        forked(&ctx);
    }
    0
}

#[inline(always)]
fn forked(ctx: &BtfTracePointContext) {
    let child: u64 = ctx.arg(1);
    let mut faults = Faults::NONE;
    let tgid = faults.read::<u32>(child, offset!(task_tgid));
    if tgid != faults.read::<u32>(child, offset!(task_pid)) {
        return;
    }
    interest::on_fork(tgid);
    if !task::in_scope(child) {
        return;
    }
    let mut record = MaybeUninit::<(Header, ForkBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ForkBody>();
        task::fill_header(&mut faults, record.cast(), Kind::Fork, child);
        // Not the first argument: under CLONE_PARENT the parent is somebody else.
        let parent = faults.pointer(child, offset!(task_real_parent));
        let (parent_tgid, parent_start_ns) = task::key(&mut faults, parent);
        let signal = faults.pointer(child, offset!(task_signal));
        let (pgid, sid) = task::group_and_session(&mut faults, signal);
        (*body).parent_start_ns = parent_start_ns;
        (*body).parent_tgid = parent_tgid;
        (*body).ns_tgid = task::namespace_pid(&mut faults, child);
        (*body).pgid = pgid;
        (*body).sid = sid;
        const LEN: u64 = (size_of::<Header>() + size_of::<ForkBody>()) as u64;
        emit::<LEN>(Kind::Fork, record, LEN, 0, fault_flag(&faults));
    }
}

/// A process ended: its last thread did.
///
/// # Kernel
///
/// 5.10 or later; `sched_process_exit(task)`, with `group_dead` behind it on newer kernels. Without that argument two threads
/// that end at once may both see nobody left, so the record comes at least once.
#[btf_tracepoint(function = "sched_process_exit")]
fn process_exit(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::ProcessExit);
    ended(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sched_process_exit")]
fn process_exit_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::ProcessExit) {
        ended(&ctx);
    }
    0
}

#[inline(always)]
fn ended(ctx: &BtfTracePointContext) {
    let task: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    let signal = faults.pointer(task, offset!(task_signal));
    let last = if setting!(exit_has_group_dead) != 0 {
        ctx.arg::<u64>(1) & 0xff != 0
    } else {
        faults.read::<u32>(signal, offset!(signal_live)) == 0
    };
    if !last {
        return;
    }
    interest::on_exit(task::current_tgid());
    let held_back = bulk::on_exit();
    if !task::in_scope(task) {
        return;
    }
    if held_back != 0 {
        bulk::tell_throttle(task, 0, held_back);
    }
    let mut record = MaybeUninit::<(Header, ExitBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ExitBody>();
        task::fill_header(&mut faults, record.cast(), Kind::Exit, task);
        let status = if faults.read::<u32>(signal, offset!(signal_flags)) & SIGNAL_GROUP_EXIT != 0 {
            faults.read::<u32>(signal, offset!(signal_group_exit_code))
        } else {
            // What the parent will be told is the leader's status, whoever ended last.
            let leader = faults.pointer(task, offset!(task_group_leader));
            faults.read::<u32>(leader, offset!(task_exit_code))
        };
        (*body).status = status;
        (*body).reserved = 0;
        const LEN: u64 = (size_of::<Header>() + size_of::<ExitBody>()) as u64;
        emit::<LEN>(Kind::Exit, record, LEN, 0, fault_flag(&faults));
    }
}

/// A process became another program. The new image is in place and the exec can no longer fail.
///
/// # Kernel
///
/// 5.10 or later; `sched_process_exec(task, old_pid, bprm)`.
#[btf_tracepoint(function = "sched_process_exec")]
fn process_exec(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::ProcessExec);
    became(&ctx, &EXEC_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sched_process_exec")]
fn process_exec_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::ProcessExec) {
        became(&ctx, &EXEC_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn became(ctx: &BtfTracePointContext, map: &Array<ExecScratch>) {
    let task: u64 = ctx.arg(0);
    interest::on_exec(task, ctx.arg(2));
    if !task::in_scope(task) {
        return;
    }
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // SAFETY: the map has one element per possible CPU; only this program uses it, and `busy` keeps nested runs away.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            degraded(Kind::Exec, task);
            return;
        }
        exec_record(task, ctx.arg::<u64>(1) as u32, ctx.arg(2), scratch);
        release(busy);
    }
}

/// Sends a header in place of a record that could not be built.
#[inline(always)]
pub(crate) fn degraded(kind: Kind, task: u64) {
    let mut faults = Faults::NONE;
    let mut header = MaybeUninit::<Header>::uninit();
    // SAFETY: `header` is filled in before it is sent.
    unsafe {
        task::fill_header(&mut faults, header.as_mut_ptr(), kind, task);
        (*header.as_mut_ptr()).flags |= record_flag::DEGRADED | fault_flag(&faults);
        emit_degraded(kind, header.as_mut_ptr());
    }
}

#[inline(always)]
pub(crate) fn fault_flag(faults: &Faults) -> u32 {
    if faults.any() {
        record_flag::READ_FAULT
    } else {
        0
    }
}

/// Builds and sends an exec record.
///
/// # Safety
///
/// `scratch` is this CPU's, which the caller holds.
#[inline(always)]
unsafe fn exec_record(task: u64, old_tid: u32, bprm: u64, scratch: *mut ExecScratch) {
    let mut faults = Faults::NONE;
    // SAFETY: header, body, part table and every part lie inside `record`: the constants above are the sum of their bounds,
    // and each write is held to them.
    unsafe {
        let record = (&raw mut (*scratch).record).cast::<u8>();
        let walk = &raw mut (*scratch).walk;
        task::fill_header(&mut faults, record.cast(), Kind::Exec, task);
        let flags = &raw mut (*record.cast::<Header>()).flags;
        let body = record.add(size_of::<Header>()).cast::<ExecBody>();
        let file = faults.pointer(bprm, offset!(bprm_file));
        exec_body(&mut faults, body, task, old_tid, bprm, file);

        let parts = Parts {
            record,
            at: &raw mut (*scratch).at,
        };
        parts.comm(&mut faults, task);
        let filename = faults.pointer(bprm, offset!(bprm_filename));
        parts.string(&mut faults, 1, PartKind::Filename, filename);

        let fs = faults.pointer(task, offset!(task_fs));
        let root = Place::read(&mut faults, fs, offset!(fs_root));
        let executable = Place::read(&mut faults, file, offset!(file_path));
        path::walk(&mut faults, executable, root, walk);
        add_flag(flags, Walk::flags(walk));
        parts.path(&mut faults, 2, PartKind::Executable, walk);

        let directory = Place::read(&mut faults, fs, offset!(fs_pwd));
        path::walk(&mut faults, directory, root, walk);
        // Unreachable is said of the executable alone.
        add_flag(flags, Walk::flags(walk) & record_flag::TRUNCATED);
        parts.path(&mut faults, 3, PartKind::WorkingDirectory, walk);

        let interpreter = faults.pointer(bprm, offset!(bprm_interp));
        if interpreter != filename {
            parts.string(&mut faults, 4, PartKind::Interpreter, interpreter);
        } else {
            parts.entry(4, PartKind::Interpreter, 0);
        }
        parts.arguments(&mut faults, 5, body, task);
        parts.environment(&mut faults, 6, body, task);
        emit::<EXEC_MAX>(
            Kind::Exec,
            record,
            parts.at(),
            PARTS as u16,
            fault_flag(&faults),
        );
    }
}

/// Adds to the flags of a record in scratch memory.
///
/// # Safety
///
/// `flags` points to the flags of a header in scratch.
#[inline(always)]
unsafe fn add_flag(flags: *mut u32, flag: u32) {
    // SAFETY: the caller's pointer is valid.
    unsafe { flags.write_volatile(flags.read_volatile() | flag) };
}

/// Fills the fixed part of an exec, arguments aside.
///
/// # Safety
///
/// `body` points to a whole body's worth of writable bytes.
#[inline(always)]
unsafe fn exec_body(
    faults: &mut Faults,
    body: *mut ExecBody,
    task: u64,
    old_tid: u32,
    bprm: u64,
    file: u64,
) {
    let parent = faults.pointer(task, offset!(task_real_parent));
    let (parent_tgid, parent_start_ns) = task::key(faults, parent);
    let signal = faults.pointer(task, offset!(task_signal));
    let (pgid, sid) = task::group_and_session(faults, signal);
    let cred = faults.pointer(task, offset!(task_cred));
    let inode = faults.pointer(file, offset!(file_inode));
    let superblock = faults.pointer(inode, offset!(inode_sb));
    let secure = faults.read::<u8>(bprm, u64::from(setting!(secureexec_byte)));
    // SAFETY: the caller's pointer is valid for writes of a body.
    unsafe {
        (*body).parent_start_ns = parent_start_ns;
        (*body).parent_tgid = parent_tgid;
        (*body).ns_tgid = task::namespace_pid(faults, task);
        // uid to fsgid are eight numbers in a row in every kernel; user space checks that before it loads this.
        faults.0 |= helper::probe_read_kernel(
            (&raw mut (*body).uid).cast(),
            32,
            cred.wrapping_add(offset!(cred_uid)),
        );
        (*body).pgid = pgid;
        (*body).sid = sid;
        (*body).tty = task::terminal(faults, signal);
        (*body).old_tid = old_tid;
        (*body).exe_inode = faults.read::<u64>(inode, offset!(inode_ino));
        (*body).exe_dev = faults.read::<u32>(superblock, offset!(super_block_dev));
        (*body).exe_mode = u32::from(faults.read::<u16>(inode, offset!(inode_mode)));
        (*body).args_count = faults.read::<u32>(bprm, offset!(bprm_argc));
        (*body).cap_effective = faults.read::<u64>(cred, offset!(cred_cap_effective));
        (*body).cap_permitted = faults.read::<u64>(cred, offset!(cred_cap_permitted));
        (*body).secureexec = u32::from(secure >> (setting!(secureexec_shift) & 7) & 1);
        (*body).environment_len = 0;
    }
}

/// The part table and the bytes behind it, as they grow. A part that is not there has length 0.
struct Parts {
    record: *mut u8,
    at: *mut u64,
}

impl Parts {
    /// Where the next part begins, or the record ends.
    #[inline(always)]
    unsafe fn at(&self) -> u64 {
        // SAFETY: the pointer is to this CPU's scratch.
        unsafe { self.at.read_volatile() }
    }

    #[inline(always)]
    unsafe fn set_at(&self, at: u64) {
        // SAFETY: as above.
        unsafe { self.at.write_volatile(at) };
    }

    #[inline(always)]
    unsafe fn add_flag(&self, flag: u32) {
        // SAFETY: the record begins with a header.
        unsafe { add_flag(&raw mut (*self.record.cast::<Header>()).flags, flag) };
    }

    #[inline(always)]
    unsafe fn entry(&self, index: usize, kind: PartKind, len: u64) {
        let table = size_of::<Header>() + size_of::<ExecBody>();
        // SAFETY: the callers' indexes are constants below `PARTS`.
        unsafe {
            let entry = self.record.add(table + index * size_of::<Part>());
            write_part(entry.cast(), kind as u16, len);
        }
    }

    /// The task's name, always 16 bytes in the kernel and here; what follows its NUL is cut by user space.
    #[inline(always)]
    unsafe fn comm(&self, faults: &mut Faults, task: u64) {
        // SAFETY: the first part's place is a constant inside the record.
        unsafe {
            faults.0 |= helper::probe_read_kernel(
                self.record.add(PARTS_AT as usize).cast(),
                COMM_LEN,
                task.wrapping_add(offset!(task_comm)),
            );
            self.entry(0, PartKind::Comm, COMM_LEN);
            self.set_at(PARTS_AT + COMM_LEN);
        }
    }

    /// A string of the kernel's, without its NUL.
    #[inline(always)]
    unsafe fn string(&self, faults: &mut Faults, index: usize, kind: PartKind, from: u64) {
        // SAFETY: a path part has `PATH_ROOM` bytes behind any begin up to `PATH_AT_MAX`.
        unsafe {
            let at = clamp::<PATH_AT_MAX>(self.at());
            let to = self.record.add(at as usize).cast();
            let written = helper::probe_read_kernel_str(to, PATH_MAX + 1, from);
            if written <= 0 {
                faults.0 |= -1;
                self.entry(index, kind, 0);
                return;
            }
            let len = clamp::<PATH_MAX>(opaque(written as u64 - 1));
            if len == PATH_MAX {
                self.add_flag(record_flag::TRUNCATED);
            }
            self.entry(index, kind, len);
            self.set_at(pad::<{ PATH_AT_MAX + PATH_MAX }>(self.record, at + len));
        }
    }

    /// A path that [`path::walk`] built.
    #[inline(always)]
    unsafe fn path(&self, faults: &mut Faults, index: usize, kind: PartKind, walk: *mut Walk) {
        // SAFETY: source and destination have room for any length up to `PATH_MAX`: the source by its slack, since a begin
        // and a length are each held to the bound; scratch is kernel memory, so the helper can copy it.
        unsafe {
            let at = clamp::<PATH_AT_MAX>(self.at());
            let (from, len) = Walk::path(walk);
            let to = self.record.add(at as usize).cast();
            faults.0 |= helper::probe_read_kernel(to, clamp::<PATH_MAX>(opaque(len)), from);
            self.entry(index, kind, len);
            self.set_at(pad::<{ PATH_AT_MAX + PATH_MAX }>(self.record, at + len));
        }
    }

    /// The argument area, in one read: exec has just written it, so it is resident.
    #[inline(always)]
    unsafe fn arguments(&self, faults: &mut Faults, index: usize, body: *mut ExecBody, task: u64) {
        let mm = faults.pointer(task, offset!(task_mm));
        let begin = faults.pointer(mm, offset!(mm_arg_start));
        let end = faults.pointer(mm, offset!(mm_arg_end));
        let true_len = end.wrapping_sub(begin);
        // SAFETY: behind any begin up to `ARGS_AT_MAX` the record has `ARGS_MAX` bytes and the slack for padding.
        unsafe {
            (*body).args_len = true_len as u32;
            if true_len > ARGS_MAX {
                self.add_flag(record_flag::TRUNCATED);
            }
            let at = clamp::<ARGS_AT_MAX>(self.at());
            let len = clamp::<ARGS_MAX>(opaque(true_len));
            let status = helper::probe_read_user(self.record.add(at as usize).cast(), len, begin);
            faults.0 |= status;
            if status != 0 {
                // The bytes are zeroes then, which would read as empty arguments.
                self.entry(index, PartKind::Arguments, 0);
                return;
            }
            let len = clamp::<ARGS_MAX>(opaque(true_len));
            self.entry(index, PartKind::Arguments, len);
            self.set_at(pad::<{ ARGS_AT_MAX + ARGS_MAX }>(self.record, at + len));
        }
    }

    /// The environment area, as the arguments are read; empty unless it was asked for.
    #[inline(always)]
    unsafe fn environment(
        &self,
        faults: &mut Faults,
        index: usize,
        body: *mut ExecBody,
        task: u64,
    ) {
        let absent = u64::from(ABSENT);
        // SAFETY: behind any begin up to `ENVIRONMENT_AT_MAX` the record has `ENVIRONMENT_MAX` bytes and the slack for padding.
        unsafe {
            self.entry(index, PartKind::Environment, 0);
            if setting!(environment) == 0
                || offset!(mm_env_start) == absent
                || offset!(mm_env_end) == absent
            {
                return;
            }
            let mm = faults.pointer(task, offset!(task_mm));
            let begin = faults.pointer(mm, offset!(mm_env_start));
            let end = faults.pointer(mm, offset!(mm_env_end));
            let true_len = end.wrapping_sub(begin);
            (*body).environment_len = true_len as u32;
            if true_len > ENVIRONMENT_MAX {
                self.add_flag(record_flag::TRUNCATED);
            }
            let at = clamp::<ENVIRONMENT_AT_MAX>(self.at());
            let len = clamp::<ENVIRONMENT_MAX>(opaque(true_len));
            let status = helper::probe_read_user(self.record.add(at as usize).cast(), len, begin);
            faults.0 |= status;
            if status != 0 {
                return;
            }
            let len = clamp::<ENVIRONMENT_MAX>(opaque(true_len));
            self.entry(index, PartKind::Environment, len);
            self.set_at(pad::<EXEC_MAX>(self.record, at + len));
        }
    }
}
