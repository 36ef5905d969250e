//! Changes of user and group ids.
//!
//! In: the first choice is the one function that gives a task new credentials, the second both ends of the system calls that
//! can ([`super::process_call`]). Out: one record per change, or one before and one after the call. Only what the kernel keeps
//! is read, never what a program asked for. What an exec gives a process is in its exec record as well.

use aya_ebpf::{macros::fentry, programs::FEntryContext};
use core::mem::MaybeUninit;
use sensor_ebpf::{CredentialsBody, Header, Ids, Kind, maps::Twice, moment};

use super::{again, process::fault_flag};
use crate::{
    emit::emit,
    globals::offset,
    read::{Faults, helper, task},
};

/// A task is about to have other credentials: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int commit_creds(struct cred *)`, which set*id system calls and execs of programs
/// with set-id bits come through, the latter before their exec record. Each thread changes its own.
#[fentry(function = "commit_creds")]
fn credentials_change(ctx: FEntryContext) -> i32 {
    again::note(Twice::Credentials);
    committed(ctx.arg(0));
    0
}

/// The same again; see [`again`].
#[fentry(function = "commit_creds")]
fn credentials_change_again(ctx: FEntryContext) -> i32 {
    if again::is_left(Twice::Credentials) {
        committed(ctx.arg(0));
    }
    0
}

#[inline(always)]
fn committed(new: u64) {
    let task = task::current();
    let mut faults = Faults::NONE;
    let old = faults.pointer(task, offset!(task_real_cred));
    let before = faults.read::<[u64; 4]>(old, offset!(cred_uid));
    let after = faults.read::<[u64; 4]>(new, offset!(cred_uid));
    // Most changes are of capabilities or groups alone.
    if before != after && task::in_scope(task) {
        send(&mut faults, task, old, new, moment::CHANGE);
    }
}

/// Sends one record; `old` or `new` is 0 where that side is not known at this moment.
#[inline(always)]
pub(crate) fn send(faults: &mut Faults, task: u64, old: u64, new: u64, at: u32) {
    let mut record = MaybeUninit::<(Header, CredentialsBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<CredentialsBody>();
        task::fill_header(faults, record.cast(), Kind::Credentials, task);
        ids(faults, &raw mut (*body).old, old);
        ids(faults, &raw mut (*body).new, new);
        (*body).cap_effective = 0;
        (*body).cap_permitted = 0;
        if new != 0 {
            (*body).cap_effective = faults.read::<u64>(new, offset!(cred_cap_effective));
            (*body).cap_permitted = faults.read::<u64>(new, offset!(cred_cap_permitted));
        }
        (*body).moment = at;
        (*body).reserved = 0;
        const LEN: u64 = (size_of::<Header>() + size_of::<CredentialsBody>()) as u64;
        emit::<LEN>(Kind::Credentials, record, LEN, 0, fault_flag(faults));
    }
}

/// Reads the eight ids of a `struct cred`, zeroes for none.
///
/// # Safety
///
/// `to` points to as many writable bytes.
#[inline(always)]
unsafe fn ids(faults: &mut Faults, to: *mut Ids, cred: u64) {
    const { assert!(size_of::<Ids>() == 32) };
    // SAFETY: the caller's pointer is valid. uid to fsgid are eight numbers in a row in every kernel; user space checks that
    // before it loads this.
    unsafe {
        if cred == 0 {
            to.cast::<[u64; 4]>().write([0; 4]);
            return;
        }
        faults.0 |= helper::probe_read_kernel(to.cast(), 32, cred.wrapping_add(offset!(cred_uid)));
    }
}
