//! In which order the kernel runs two programs on one function.
//!
//! In: the return of the function that every open goes through, in the thread that asks. Out: the turn of each program's run.
//! Later instances ([`super::again`]) do nothing unless they run behind the first, and only a trial tells. Must never do anything for
//! another thread.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::fexit, programs::FExitContext};

use crate::globals::ORDER;

/// Attached before the other.
///
/// # Kernel
///
/// As [`super::file`]'s first choice.
#[fexit(function = "security_file_open")]
fn order_of_earlier(_ctx: FExitContext) -> i32 {
    ran(0);
    0
}

/// Attached after the other.
///
/// # Kernel
///
/// As [`order_of_earlier`].
#[fexit(function = "security_file_open")]
fn order_of_later(_ctx: FExitContext) -> i32 {
    ran(1);
    0
}

#[inline(always)]
fn ran(index: u32) {
    let (Some(turn), Some(asking), Some(last)) = (
        ORDER.get_ptr_mut(index),
        ORDER.get_ptr_mut(2),
        ORDER.get_ptr_mut(3),
    ) else {
        return;
    };
    // SAFETY: all are whole elements, which stay mapped, and only the thread that asks writes them here.
    unsafe {
        if asking.read_volatile() == bpf_get_current_pid_tgid() {
            let now = last.read_volatile() + 1;
            last.write_volatile(now);
            turn.write_volatile(now);
        }
    }
}
