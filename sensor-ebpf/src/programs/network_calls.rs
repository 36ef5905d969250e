//! What system calls did to sockets: the second choice, where function trampolines are refused.
//!
//! In: the return of every system call, told apart by its number first. Out: the records of [`super::network`] that no
//! tracepoint of the network stack gives in the context of the task that acts. Facts of a socket are read from the kernel, through
//! the descriptor; never blind trust in what user memory says of it.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sensor_ebpf::{Kind, settings::ABSENT};

use super::{
    file::{descriptor_file, matches_mode},
    network::{is_tcp, report},
};
use crate::{
    globals::{offset, setting},
    read::{Faults, call, task},
};

/// First arguments of the 32-bit socketcall: accept, accept4.
const SYS_ACCEPT: u32 = 5;
const SYS_ACCEPT4: u32 = 18;

/// A connection was handed to a program: second choice.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`. The socket is the one behind the descriptor just returned. Blind to io_uring.
#[btf_tracepoint(function = "sys_exit")]
fn socket_call(ctx: BtfTracePointContext) -> i32 {
    let mut faults = Faults::NONE;
    let number = call::returning(ctx.arg(0));
    let registers: u64 = ctx.arg(0);
    let native = number == setting!(accept_calls[0]) || number == setting!(accept_calls[1]);
    let compat = number == setting!(accept_calls_compat[0])
        || (number == setting!(socketcall_compat) && calls_accept(&mut faults, registers));
    if !native && !compat {
        return 0;
    }
    let descriptor: i64 = ctx.arg(1);
    if descriptor < 0 {
        return 0;
    }
    let task = task::current();
    if !matches_mode(&mut faults, task, native, compat) {
        return 0;
    }
    let sock = descriptor_sock(&mut faults, task, descriptor as u64);
    if sock != 0 && is_tcp(&mut faults, sock) {
        report(&mut faults, Kind::Accept, sock, 0);
    }
    0
}

#[inline(always)]
fn calls_accept(faults: &mut Faults, registers: u64) -> bool {
    if offset!(pt_regs_bx) == u64::from(ABSENT) {
        return false;
    }
    let call = faults.read::<u64>(registers, offset!(pt_regs_bx)) as u32;
    call == SYS_ACCEPT || call == SYS_ACCEPT4
}

/// The `sock` behind a descriptor that is known to be a socket's; 0 when it has gone.
#[inline(always)]
fn descriptor_sock(faults: &mut Faults, task: u64, descriptor: u64) -> u64 {
    let file = descriptor_file(faults, task, descriptor);
    if file == 0 {
        return 0;
    }
    let socket = faults.pointer(file, offset!(file_private));
    if socket == 0 {
        return 0;
    }
    faults.pointer(socket, offset!(socket_sk))
}
