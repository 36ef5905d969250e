//! Facts about a task: header, identifiers, credentials, cgroup.
//!
//! In: a `task_struct` address. Out: header fields and numbers. Every pointer on the way may be null (tasks that are ending
//! have already given some back).

use aya_ebpf::helpers::generated;
use sensor_ebpf::{
    ABI, Header, Kind, record_flag,
    settings::{ABSENT, CGROUP_DEPTH_MAX, SCOPES_MAX},
};

use super::{Faults, opaque, path::Place};
use crate::globals::{CHECKED, constant, offset, setting};

/// `PF_KTHREAD` of `task_struct.flags`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// The task that runs now.
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes no arguments and is in every supported kernel.
    unsafe { generated::bpf_get_current_task() }
}

/// `tgid` of the task that runs now, as the initial pid namespace numbers it.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32
}

/// The index of this CPU.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    // SAFETY: the helper takes no arguments and is in every supported kernel.
    unsafe { generated::bpf_get_smp_processor_id() }
}

/// 1 when the system call that the task is in went through the 32-bit table, else 0. Computed without a branch, so that the
/// verifier need not follow both.
#[inline(always)]
pub(crate) fn compat_call(faults: &mut Faults, task: u64) -> u64 {
    if setting!(compat_status) == 0 || offset!(task_thread_status) == u64::from(ABSENT) {
        return 0;
    }
    let status = faults.read::<u32>(task, offset!(task_thread_status));
    let marked = u64::from(status & setting!(compat_status));
    opaque(marked.wrapping_neg()) >> 63
}

/// The default-hierarchy cgroup of a task.
#[inline(always)]
fn cgroup(faults: &mut Faults, task: u64) -> u64 {
    let set = faults.pointer(task, offset!(task_cgroups));
    faults.pointer(set, offset!(css_set_dfl_cgrp))
}

#[inline(always)]
fn cgroup_id(faults: &mut Faults, cgroup: u64) -> u64 {
    let node = faults.pointer(cgroup, offset!(cgroup_kn));
    faults.read::<u64>(node, offset!(kernfs_node_id))
}

/// True when the task is in one of the subtrees observed, or the whole host is.
///
/// Walks the cgroup's parents instead of asking for an ancestor by level, since the helper for that came after 5.10.
#[inline(always)]
pub(crate) fn in_scope(task: u64) -> bool {
    setting!(scopes[0]) == 0 || is_below_scope(task) || is_checked(task)
}

/// True for a child of the process that checks the programs, which there is for a moment at the start only. Asked last, so
/// that nobody else pays for it.
#[inline(always)]
fn is_checked(task: u64) -> bool {
    let Some(checked) = CHECKED.get(0) else {
        return false;
    };
    let checked = constant(checked);
    if checked == 0 {
        return false;
    }
    let mut faults = Faults::NONE;
    let parent = faults.pointer(task, offset!(task_real_parent));
    faults.read::<u32>(parent, offset!(task_tgid)) == checked
}

#[inline(always)]
fn is_below_scope(task: u64) -> bool {
    let mut faults = Faults::NONE;
    let mut at = cgroup(&mut faults, task);
    for _ in 0..CGROUP_DEPTH_MAX {
        if at == 0 {
            return false;
        }
        let id = cgroup_id(&mut faults, at);
        if is_scope(id) {
            return true;
        }
        let parent = faults.pointer(at, offset!(cgroup_css_parent));
        if parent == 0 {
            return false;
        }
        at = parent.wrapping_sub(offset!(cgroup_self));
    }
    false
}

#[inline(always)]
fn is_scope(id: u64) -> bool {
    // An unused entry is 0, which is no cgroup's number.
    const { assert!(SCOPES_MAX == 8) };
    id != 0
        && (id == setting!(scopes[0])
            || id == setting!(scopes[1])
            || id == setting!(scopes[2])
            || id == setting!(scopes[3])
            || id == setting!(scopes[4])
            || id == setting!(scopes[5])
            || id == setting!(scopes[6])
            || id == setting!(scopes[7]))
}

/// Process key of a task: tgid, and its leader's start time.
#[inline(always)]
pub(crate) fn key(faults: &mut Faults, task: u64) -> (u32, u64) {
    let leader = faults.pointer(task, offset!(task_group_leader));
    (
        faults.read::<u32>(task, offset!(task_tgid)),
        faults.read::<u64>(leader, offset!(task_start_boottime)),
    )
}

/// Fills a header for something `task` does. Length, parts and further flags are set when the record is sent.
///
/// # Safety
///
/// `header` points to a whole header's worth of writable bytes.
#[inline(always)]
pub(crate) unsafe fn fill_header(faults: &mut Faults, header: *mut Header, kind: Kind, task: u64) {
    let (tgid, start_ns) = key(faults, task);
    // Not `cred`, which kernel code swaps for somebody else's while it acts on a task's behalf.
    let cred = faults.pointer(task, offset!(task_real_cred));
    let cgroup = cgroup(faults, task);
    let task_flags = faults.read::<u32>(task, offset!(task_flags));
    // SAFETY: the caller's pointer is valid for writes of a header; the helper takes no arguments.
    unsafe {
        (*header).abi = ABI;
        (*header).kind = kind as u16;
        (*header).len = size_of::<Header>() as u32;
        (*header).boot_ns = generated::bpf_ktime_get_boot_ns();
        (*header).start_ns = start_ns;
        (*header).tgid = tgid;
        (*header).tid = faults.read::<u32>(task, offset!(task_pid));
        (*header).cgroup_id = cgroup_id(faults, cgroup);
        (*header).mntns = mount_namespace(faults, task);
        (*header).flags = if task_flags & PF_KTHREAD != 0 {
            record_flag::KTHREAD
        } else if is_executable_deleted(faults, task) {
            record_flag::EXE_DELETED
        } else {
            0
        };
        (*header).uid = faults.read::<u32>(cred, offset!(cred_euid));
        (*header).cpu = cpu() as u16;
        (*header).parts = 0;
        (*header).gid = faults.read::<u32>(cred, offset!(cred_egid));
        (*header).reserved = 0;
    }
}

/// True when what the task runs has no name in any directory any more, or not the one it was run by. False once the task has
/// given its memory back.
#[inline(always)]
fn is_executable_deleted(faults: &mut Faults, task: u64) -> bool {
    let mm = faults.pointer(task, offset!(task_mm));
    if mm == 0 {
        return false;
    }
    let file = faults.pointer(mm, offset!(mm_exe_file));
    if file == 0 {
        return false;
    }
    let inode = faults.pointer(file, offset!(file_inode));
    let place = Place::read(faults, file, offset!(file_path));
    faults.read::<u32>(inode, offset!(inode_nlink)) == 0 || place.is_unlinked(faults)
}

/// 0 once the task has given its namespaces back.
#[inline(always)]
fn mount_namespace(faults: &mut Faults, task: u64) -> u32 {
    let nsproxy = faults.pointer(task, offset!(task_nsproxy));
    if nsproxy == 0 {
        return 0;
    }
    let namespace = faults.pointer(nsproxy, offset!(nsproxy_mnt_ns));
    faults.read::<u32>(namespace, offset!(mnt_namespace_inum))
}

/// The task's own pid where its own pid namespace counts.
#[inline(always)]
pub(crate) fn namespace_pid(faults: &mut Faults, task: u64) -> u32 {
    let pid = faults.pointer(task, offset!(task_thread_pid));
    // The kernel allows 32 levels; the mask only tells the verifier so.
    let level = u64::from(faults.read::<u32>(pid, offset!(pid_level)) & 63);
    let entry = offset!(pid_numbers) + level * u64::from(setting!(upid_size));
    faults.read::<u32>(pid, entry + offset!(upid_nr))
}

/// How deep the task's pid namespace is; 0 is the initial one.
#[inline(always)]
pub(crate) fn namespace_level(faults: &mut Faults, task: u64) -> u32 {
    let pid = faults.pointer(task, offset!(task_thread_pid));
    faults.read::<u32>(pid, offset!(pid_level))
}

/// Process group and session of a task, as the initial pid namespace numbers them.
#[inline(always)]
pub(crate) fn group_and_session(faults: &mut Faults, signal: u64) -> (u32, u32) {
    let pids = offset!(signal_pids);
    let group = faults.pointer(signal, pids + 8 * u64::from(setting!(pidtype_pgid)));
    let session = faults.pointer(signal, pids + 8 * u64::from(setting!(pidtype_sid)));
    let number = offset!(pid_numbers) + offset!(upid_nr);
    (
        faults.read::<u32>(group, number),
        faults.read::<u32>(session, number),
    )
}

/// `(major << 20) | minor` of the controlling terminal; 0 for none, or where the kernel does not say.
#[inline(always)]
pub(crate) fn terminal(faults: &mut Faults, signal: u64) -> u32 {
    let absent = u64::from(ABSENT);
    if offset!(tty_driver) == absent
        || offset!(tty_index) == absent
        || offset!(tty_driver_major) == absent
        || offset!(tty_driver_minor_start) == absent
    {
        return 0;
    }
    let tty = faults.pointer(signal, offset!(signal_tty));
    if tty == 0 {
        return 0;
    }
    let driver = faults.pointer(tty, offset!(tty_driver));
    let major = faults.read::<u32>(driver, offset!(tty_driver_major));
    let minor = faults
        .read::<u32>(driver, offset!(tty_driver_minor_start))
        .wrapping_add(faults.read::<u32>(tty, offset!(tty_index)));
    (major << 20) | (minor & 0xf_ffff)
}
