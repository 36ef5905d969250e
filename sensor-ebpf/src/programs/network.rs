//! TCP connection attempts.
//!
//! In: the first choice is the return of the two connect functions, the second the socket's change to SYN_SENT. Out: one
//! record per attempt that the kernel accepted to start; never for UDP.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit},
    programs::{BtfTracePointContext, FExitContext},
};
use core::mem::MaybeUninit;
use sensor_ebpf::{
    ConnectBody, Header, Kind,
    settings::{ABSENT, Count},
};

use super::process::fault_flag;
use crate::{
    emit::{count, emit},
    globals::{offset, setting},
    read::{Faults, task},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const TCP_SYN_SENT: u32 = 2;

/// A connection over IPv4 was started: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int tcp_v4_connect(struct sock *, struct sockaddr *, int)`. An IPv6 socket that
/// dials a mapped address comes through here as well, and is left to the other program.
#[fexit(function = "tcp_v4_connect")]
fn connect_v4(ctx: FExitContext) -> i32 {
    let socket: u64 = ctx.arg(0);
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    if ctx.arg::<u64>(3) as i32 != 0 {
        return 0;
    }
    let mut faults = Faults::NONE;
    if faults.read::<u16>(socket, offset!(sock_family)) == AF_INET6 {
        return 0;
    }
    attempt(&mut faults, socket);
    0
}

/// A connection from an IPv6 socket was started: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines and IPv6 built in; `int tcp_v6_connect(struct sock *, struct sockaddr *, int)`.
#[fexit(function = "tcp_v6_connect")]
fn connect_v6(ctx: FExitContext) -> i32 {
    let socket: u64 = ctx.arg(0);
    if ctx.arg::<u64>(3) as i32 != 0 {
        return 0;
    }
    let mut faults = Faults::NONE;
    attempt(&mut faults, socket);
    0
}

/// A connection was started: second choice, where function trampolines are refused.
///
/// # Kernel
///
/// 5.10 or later; `inet_sock_set_state(sk, oldstate, newstate)`. The port is chosen only after this, so the local port is 0
/// unless the program bound one; and an attempt that fails right afterwards for want of a port or a route is reported.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn connect_by_state(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u64>(2) as u32 != TCP_SYN_SENT {
        return 0;
    }
    let socket: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    // The socket of a multipath connection changes state as well; what it sends goes over sockets of its own.
    if faults.read::<u16>(socket, offset!(sock_protocol)) != IPPROTO_TCP {
        return 0;
    }
    attempt(&mut faults, socket);
    0
}

/// Sends the record of one attempt by the task that runs now.
#[inline(always)]
fn attempt(faults: &mut Faults, socket: u64) {
    let task = task::current();
    if !task::in_scope(task) {
        return;
    }
    if setting!(own_tgid) != 0 && setting!(own_tgid) == task::current_tgid() {
        count(Kind::Connect, Count::Seen);
        count(Kind::Connect, Count::DroppedSelf);
        return;
    }
    let mut record = MaybeUninit::<(Header, ConnectBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ConnectBody>();
        task::fill_header(faults, record.cast(), Kind::Connect, task);
        fill_body(faults, body, socket);
        const LEN: u64 = (size_of::<Header>() + size_of::<ConnectBody>()) as u64;
        emit::<LEN>(Kind::Connect, record, LEN, 0, fault_flag(faults));
    }
}

/// # Safety
///
/// `body` points to a whole body's worth of writable bytes.
#[inline(always)]
unsafe fn fill_body(faults: &mut Faults, body: *mut ConnectBody, socket: u64) {
    let absent = u64::from(ABSENT);
    let mut family = faults.read::<u16>(socket, offset!(sock_family));
    let mut local = [0u64; 2];
    let mut remote = [0u64; 2];
    if family == AF_INET6 && offset!(sock_v6_daddr) != absent {
        remote = faults.read::<[u64; 2]>(socket, offset!(sock_v6_daddr));
        local = faults.read::<[u64; 2]>(socket, offset!(sock_v6_rcv_saddr));
        // ::ffff:a.b.c.d is IPv4 on the wire, and rules ask for it as such.
        if remote[0] == 0 && remote[1] as u32 == u32::from_be(0xffff) {
            family = AF_INET;
        }
    }
    if family == AF_INET {
        remote = [
            u64::from(faults.read::<u32>(socket, offset!(sock_daddr))),
            0,
        ];
        local = [
            u64::from(faults.read::<u32>(socket, offset!(sock_rcv_saddr))),
            0,
        ];
    }
    let netns = if offset!(sock_net) == absent || offset!(net_inum) == absent {
        0
    } else {
        let net = faults.pointer(socket, offset!(sock_net));
        faults.read::<u32>(net, offset!(net_inum))
    };
    // SAFETY: the caller's pointer is valid for writes of a body; the addresses are 16 bytes each at multiples of 8.
    unsafe {
        (*body).family = family;
        (*body).local_port = faults.read::<u16>(socket, offset!(sock_num));
        (*body).remote_port = u16::from_be(faults.read::<u16>(socket, offset!(sock_dport)));
        (*body).protocol = IPPROTO_TCP;
        (&raw mut (*body).local).cast::<[u64; 2]>().write(local);
        (&raw mut (*body).remote).cast::<[u64; 2]>().write(remote);
        (*body).netns = netns;
        (*body).reserved = 0;
        // Mixed, so that no kernel address leaves the kernel; odd, so that no two sockets share a token.
        let socket = faults.number(socket);
        (*body).socket = (socket ^ setting!(token_key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
