//! What system calls did to sockets: the second choice, where function trampolines are refused.
//!
//! In: the return of every system call, told apart by its number first. Out: the records of [`super::network`] that no
//! tracepoint of the network stack gives in the context of the task that acts. Facts of a socket are read from the kernel, through
//! the descriptor; an address in user memory is read only when the kernel did not take it.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use sensor_ebpf::{
    Kind,
    maps::Twice,
    settings::{ABSENT, SocketCall, SocketCalls},
};

use super::{
    again,
    file::descriptor_file,
    is_left_out,
    network::{IPPROTO_UDP, Peer, is_denied, is_tcp, is_tcp_or_udp, record, record_denied},
};
use crate::{
    globals::{SOCKET_CALLS, constant, is_served, offset},
    read::{Faults, call, opaque, task},
};

/// First arguments of the 32-bit socketcall: accept, accept4.
const SYS_ACCEPT: u32 = 5;
const SYS_ACCEPT4: u32 = 18;

const EINPROGRESS: i64 = 115;

/// A socket accepted or connected by a system call.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`, which leaves the arguments in the registers as they were. Blind to io_uring.
#[btf_tracepoint(function = "sys_exit")]
fn socket_call(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::SocketCall);
    over(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn socket_call_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::SocketCall) {
        over(&ctx);
    }
    0
}

#[inline(always)]
fn over(ctx: &BtfTracePointContext) {
    let mut faults = Faults::NONE;
    let Some((call, class)) = Call::read(&mut faults, ctx) else {
        return;
    };
    if class > SocketCall::Any as u8 {
        return;
    }
    let accepts = class == SocketCall::Accept as u8
        || (class == SocketCall::Any as u8
            && matches!(call.first(&mut faults) as u32, SYS_ACCEPT | SYS_ACCEPT4));
    if accepts {
        if call.result >= 0 && is_served(true, Kind::Accept) {
            call.accepted(&mut faults);
        }
        return;
    }
    let denied = is_denied(call.result);
    if class == SocketCall::Connect as u8 && (call.is_connected() || denied) {
        call.connected(&mut faults, denied);
    }
}

/// A system call that is over.
pub(super) struct Call {
    pub(super) task: u64,
    registers: u64,
    pub(super) result: i64,
    compat: bool,
}

impl Call {
    /// Reads a call that does something with sockets, and says what, as a number of [`SocketCall`].
    #[inline(always)]
    pub(super) fn read(faults: &mut Faults, ctx: &BtfTracePointContext) -> Option<(Call, u8)> {
        let number = call::returning(ctx.arg(0));
        if number as usize >= SocketCalls::LEN {
            return None;
        }
        let at = opaque(u64::from(number)) as usize & (SocketCalls::LEN - 1);
        let native = constant(&SOCKET_CALLS.native[at]);
        let compat = constant(&SOCKET_CALLS.compat[at]);
        if native | compat == 0 {
            return None;
        }
        let task = task::current();
        let is_compat = call::is_compat(faults, task);
        let class = if is_compat { compat } else { native };
        if class == SocketCall::None as u8 {
            return None;
        }
        let call = Call {
            task,
            registers: ctx.arg(0),
            result: ctx.arg(1),
            compat: is_compat,
        };
        Some((call, class))
    }

    /// True when a connect gave the socket its peer.
    #[inline(always)]
    pub(super) fn is_connected(&self) -> bool {
        self.result == 0 || self.result == -EINPROGRESS
    }

    #[inline(always)]
    pub(super) fn register(&self, faults: &mut Faults, offset: u64) -> u64 {
        if offset == u64::from(ABSENT) {
            return 0;
        }
        faults.read::<u64>(self.registers, offset)
    }

    #[inline(always)]
    pub(super) fn first(&self, faults: &mut Faults) -> u64 {
        if self.compat {
            self.register(faults, offset!(pt_regs_bx)) & 0xffff_ffff
        } else {
            self.register(faults, offset!(pt_regs_di))
        }
    }

    #[inline(always)]
    pub(super) fn second(&self, faults: &mut Faults) -> u64 {
        if self.compat {
            self.register(faults, offset!(pt_regs_cx)) & 0xffff_ffff
        } else {
            self.register(faults, offset!(pt_regs_si))
        }
    }

    /// A connection was handed to a program.
    #[inline(always)]
    fn accepted(&self, faults: &mut Faults) {
        let sock = descriptor_sock(faults, self.task, self.result as u64);
        if sock == 0 || !is_tcp(faults, sock) || !task::in_scope(self.task) {
            return;
        }
        if !is_left_out(Kind::Accept) {
            record(faults, self.task, Kind::Accept, sock, 0);
        }
    }

    /// A socket was given a peer, or refused one.
    #[inline(always)]
    fn connected(&self, faults: &mut Faults, denied: bool) {
        let descriptor = self.first(faults) & 0xffff_ffff;
        let sock = descriptor_sock(faults, self.task, descriptor);
        if sock == 0 || !is_tcp_or_udp(faults, sock) || !task::in_scope(self.task) {
            return;
        }
        let udp = faults.read::<u16>(sock, offset!(sock_protocol)) == IPPROTO_UDP;
        if !denied {
            if udp && is_served(true, Kind::UdpConnect) && !is_left_out(Kind::UdpConnect) {
                record(faults, self.task, Kind::UdpConnect, sock, 0);
            }
            return;
        }
        // A TCP socket that still has a peer was answered later, by a host on the way.
        let later = !udp && faults.read::<u16>(sock, offset!(sock_dport)) != 0;
        if later || !is_served(true, Kind::ConnectRefused) || is_left_out(Kind::ConnectRefused) {
            return;
        }
        let address = self.second(faults);
        let peer = Peer::in_user(faults, address);
        if peer.family != 0 {
            record_denied(faults, self.task, sock, &peer, self.result);
        }
    }
}

/// The `sock` behind a descriptor that is known to be a socket's; 0 when it has gone.
#[inline(always)]
pub(super) fn descriptor_sock(faults: &mut Faults, task: u64, descriptor: u64) -> u64 {
    let file = descriptor_file(faults, task, descriptor);
    if file == 0 {
        return 0;
    }
    file_sock(faults, file)
}

/// The `sock` of a file that is known to be a socket.
#[inline(always)]
pub(super) fn file_sock(faults: &mut Faults, file: u64) -> u64 {
    let socket = faults.pointer(file, offset!(file_private));
    if socket == 0 {
        return 0;
    }
    faults.pointer(socket, offset!(socket_sk))
}
