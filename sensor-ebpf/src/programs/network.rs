//! Connections: attempted, refused, accepted, closed; and the peers that UDP sockets are given.
//!
//! In: the first choice is functions of the TCP stack, the second its tracepoints; what only system calls tell is in
//! [`super::network_calls`]. Out: one record per attempt that the kernel accepted to start, per connection handed to a program,
//! and per socket with a peer that a program let go of. UDP has records of its own kind. Never what an interrupt did.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit},
    programs::{BtfTracePointContext, FEntryContext, FExitContext},
};
use core::mem::MaybeUninit;
use sensor_ebpf::{ConnectBody, Header, Kind, maps::Twice, settings::ABSENT};

use super::{again, process::fault_flag, wanted};
use crate::{
    emit::emit,
    globals::{is_served, offset, setting},
    read::{Faults, distinct, task},
};

pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;
pub(super) const IPPROTO_TCP: u16 = 6;
pub(super) const IPPROTO_UDP: u16 = 17;
const EPERM: i64 = 1;
const EACCES: i64 = 13;
const TCP_SYN_SENT: u32 = 2;
const TCP_FIN_WAIT1: u32 = 4;
const TCP_FIN_WAIT2: u32 = 5;
const TCP_CLOSE: u32 = 7;
const TCP_LAST_ACK: u32 = 9;
const TCP_LISTEN: u32 = 10;
const TCP_CLOSING: u32 = 11;

/// A connection over IPv4 was started: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int tcp_v4_connect(struct sock *, struct sockaddr *, int)`. An IPv6 socket that
/// dials a mapped address comes through here as well, and is left to the other program.
#[fexit(function = "tcp_v4_connect")]
fn connect_v4(ctx: FExitContext) -> i32 {
    again::note(Twice::ConnectV4);
    dialled_v4(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "tcp_v4_connect")]
fn connect_v4_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::ConnectV4) {
        dialled_v4(&ctx);
    }
    0
}

#[inline(always)]
fn dialled_v4(ctx: &FExitContext) {
    let socket: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    if faults.read::<u16>(socket, offset!(sock_family)) != AF_INET6 {
        dialled(&mut faults, ctx);
    }
}

/// A connection from an IPv6 socket was started: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines and IPv6 built in; `int tcp_v6_connect(struct sock *, struct sockaddr *, int)`.
#[fexit(function = "tcp_v6_connect")]
fn connect_v6(ctx: FExitContext) -> i32 {
    again::note(Twice::ConnectV6);
    dialled(&mut Faults::NONE, &ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "tcp_v6_connect")]
fn connect_v6_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::ConnectV6) {
        dialled(&mut Faults::NONE, &ctx);
    }
    0
}

/// Reports what one of the two connect functions said.
#[inline(always)]
fn dialled(faults: &mut Faults, ctx: &FExitContext) {
    let (socket, address): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // The return value is the slot behind the last argument; the helper for it came after 5.10.
    let result = ctx.arg::<u64>(3) as i32;
    if result == 0 {
        if is_served(false, Kind::Connect) {
            report(faults, Kind::Connect, socket, 0);
        }
    } else if is_denied(i64::from(result)) && is_served(false, Kind::ConnectRefused) {
        let peer = Peer::in_kernel(faults, address);
        report_denied(faults, socket, &peer, i64::from(result));
    }
}

/// A UDP socket was given a peer: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `int inet_dgram_connect(struct socket *, struct sockaddr *, int, int)`, which raw and
/// ping sockets go through as well.
#[fexit(function = "inet_dgram_connect")]
fn udp_connect(ctx: FExitContext) -> i32 {
    again::note(Twice::UdpConnect);
    given_a_peer(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "inet_dgram_connect")]
fn udp_connect_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::UdpConnect) {
        given_a_peer(&ctx);
    }
    0
}

#[inline(always)]
fn given_a_peer(ctx: &FExitContext) {
    let mut faults = Faults::NONE;
    let socket = faults.pointer(ctx.arg(0), offset!(socket_sk));
    if faults.read::<u16>(socket, offset!(sock_protocol)) != IPPROTO_UDP {
        return;
    }
    let result = ctx.arg::<u64>(4) as i32;
    if result == 0 {
        if is_served(false, Kind::UdpConnect) {
            report(&mut faults, Kind::UdpConnect, socket, 0);
        }
    } else if is_denied(i64::from(result)) && is_served(false, Kind::ConnectRefused) {
        let peer = Peer::in_kernel(&mut faults, ctx.arg(1));
        report_denied(&mut faults, socket, &peer, i64::from(result));
    }
}

/// A security module refused a connect: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines and `CONFIG_SECURITY_NETWORK`;
/// `int security_socket_connect(struct socket *, struct sockaddr *, int)`, with the kernel's own copy of the address.
#[fexit(function = "security_socket_connect")]
fn connect_denied(ctx: FExitContext) -> i32 {
    again::note(Twice::ConnectDenied);
    refused(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "security_socket_connect")]
fn connect_denied_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::ConnectDenied) {
        refused(&ctx);
    }
    0
}

#[inline(always)]
fn refused(ctx: &FExitContext) {
    let result = ctx.arg::<u64>(3) as i32;
    if result >= 0 {
        return;
    }
    let mut faults = Faults::NONE;
    let socket = faults.pointer(ctx.arg(0), offset!(socket_sk));
    if is_tcp_or_udp(&mut faults, socket) {
        let peer = Peer::in_kernel(&mut faults, ctx.arg(1));
        report_denied(&mut faults, socket, &peer, i64::from(result));
    }
}

/// True for what the host's own policy answers: a security module, a route that prohibits, a filter.
#[inline(always)]
pub(super) fn is_denied(result: i64) -> bool {
    result == -EPERM || result == -EACCES
}

/// A connection was started: second choice, where function trampolines are refused.
///
/// # Kernel
///
/// 5.10 or later; `inet_sock_set_state(sk, oldstate, newstate)`. The port is chosen only after this, so the local port is 0
/// unless the program bound one; and an attempt that fails right afterwards for want of a port or a route is reported.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn connect_by_state(ctx: BtfTracePointContext) -> i32 {
    again::note_of(Twice::ConnectByState, ctx.arg(0));
    dialling(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "inet_sock_set_state")]
fn connect_by_state_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left_of(Twice::ConnectByState, ctx.arg(0)) {
        dialling(&ctx);
    }
    0
}

#[inline(always)]
fn dialling(ctx: &BtfTracePointContext) {
    if ctx.arg::<u64>(2) as u32 != TCP_SYN_SENT {
        return;
    }
    let socket: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    // The socket of a multipath connection changes state as well; what it sends goes over sockets of its own.
    if faults.read::<u16>(socket, offset!(sock_protocol)) != IPPROTO_TCP {
        return;
    }
    report(&mut faults, Kind::Connect, socket, 0);
}

/// A connection was handed to a program: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `struct sock *inet_csk_accept(struct sock *, ...)`, with four parameters up to 6.9
/// and two since: the return value moves with them. io_uring comes through here as well.
#[fexit(function = "inet_csk_accept")]
fn accept(ctx: FExitContext) -> i32 {
    again::note(Twice::Accept);
    accepted(&ctx);
    0
}

/// The same again; see [`again`].
#[fexit(function = "inet_csk_accept")]
fn accept_again(ctx: FExitContext) -> i32 {
    if again::is_left(Twice::Accept) {
        accepted(&ctx);
    }
    0
}

#[inline(always)]
fn accepted(ctx: &FExitContext) {
    // Two accesses at constant places: the verifier refuses one at a place that was computed.
    let socket = if setting!(accept_parameters) == 4 {
        distinct::<4>(ctx.arg(4))
    } else {
        distinct::<2>(ctx.arg(2))
    };
    let mut faults = Faults::NONE;
    if socket != 0 && is_tcp(&mut faults, socket) {
        report(&mut faults, Kind::Accept, socket, 0);
    }
}

/// A socket is let go of: first choice.
///
/// # Kernel
///
/// 5.10 or later with function trampolines; `void tcp_close(struct sock *, long)`, which the last user of a socket calls, by
/// close or by its end. A kernel thread may do so in its stead, which the record's flags say.
#[fentry(function = "tcp_close")]
fn close(ctx: FEntryContext) -> i32 {
    again::note(Twice::Close);
    let_go(ctx.arg(0));
    0
}

/// The same again; see [`again`].
#[fentry(function = "tcp_close")]
fn close_again(ctx: FEntryContext) -> i32 {
    if again::is_left(Twice::Close) {
        let_go(ctx.arg(0));
    }
    0
}

#[inline(always)]
fn let_go(socket: u64) {
    let mut faults = Faults::NONE;
    let state = u32::from(faults.read::<u8>(socket, offset!(sock_state)));
    if state != TCP_LISTEN && state != TCP_SYN_SENT {
        closed(&mut faults, socket, state);
    }
}

/// A socket is let go of: second choice, for one whose connection is still there.
///
/// # Kernel
///
/// 5.10 or later; `inet_sock_set_state(sk, oldstate, newstate)`, which `tcp_close` reaches even when the state stays the same.
/// An interrupt changes the state of sockets no task owns, and `shutdown` that of sockets whose file is still in use; neither
/// is a close.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn close_by_state(ctx: BtfTracePointContext) -> i32 {
    again::note_of(Twice::CloseByState, ctx.arg(0));
    closing(&ctx);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "inet_sock_set_state")]
fn close_by_state_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left_of(Twice::CloseByState, ctx.arg(0)) {
        closing(&ctx);
    }
    0
}

#[inline(always)]
fn closing(ctx: &BtfTracePointContext) {
    let (old, new) = (ctx.arg::<u64>(1) as u32, ctx.arg::<u64>(2) as u32);
    if old == TCP_LISTEN || old == TCP_SYN_SENT || old == TCP_CLOSE {
        return;
    }
    match new {
        TCP_FIN_WAIT1 | TCP_FIN_WAIT2 | TCP_CLOSE | TCP_LAST_ACK | TCP_CLOSING => {}
        _ => return,
    }
    let sock: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    if !is_tcp(&mut faults, sock) || faults.read::<u32>(sock, offset!(sock_lock_owned)) == 0 {
        return;
    }
    let socket = faults.pointer(sock, offset!(sock_socket));
    if socket == 0 {
        return;
    }
    let file = faults.pointer(socket, offset!(socket_file));
    if file != 0 && is_released(&mut faults, file) {
        closed(&mut faults, sock, old);
    }
}

/// A socket is let go of: second choice, for one whose connection had ended before.
///
/// # Kernel
///
/// 5.10 or later; `tcp_destroy_sock(sk)`. Also the end of a socket that was closed earlier, but then no task owns it: what comes
/// from an owner is `tcp_close`.
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn close_by_end(ctx: BtfTracePointContext) -> i32 {
    let socket: u64 = ctx.arg(0);
    let mut faults = Faults::NONE;
    if faults.read::<u32>(socket, offset!(sock_lock_owned)) != 0 && is_tcp(&mut faults, socket) {
        closed(&mut faults, socket, TCP_CLOSE);
    }
    0
}

/// Reports the close of a socket that is in this state, unless it has no peer.
#[inline(always)]
fn closed(faults: &mut Faults, socket: u64, state: u32) {
    if faults.read::<u16>(socket, offset!(sock_dport)) == 0 {
        return;
    }
    // A socket whose attempt failed has a peer as well, but nothing it sent was ever acknowledged.
    let answered = state != TCP_CLOSE
        || offset!(tcp_bytes_acked) == u64::from(ABSENT)
        || faults.read::<u64>(socket, offset!(tcp_bytes_acked)) != 0;
    report(faults, Kind::Close, socket, u32::from(answered));
}

/// True when nobody holds the file any more.
#[inline(always)]
fn is_released(faults: &mut Faults, file: u64) -> bool {
    let absent = u64::from(ABSENT);
    if offset!(file_ref) != absent {
        // Counts from 0 for one holder; negative once it is given up (6.13).
        return faults.read::<u64>(file, offset!(file_ref)) as i64 <= -1;
    }
    offset!(file_count) != absent && faults.read::<u64>(file, offset!(file_count)) == 0
}

#[inline(always)]
pub(super) fn is_tcp(faults: &mut Faults, socket: u64) -> bool {
    let family = faults.read::<u16>(socket, offset!(sock_family));
    (family == AF_INET || family == AF_INET6)
        && faults.read::<u16>(socket, offset!(sock_protocol)) == IPPROTO_TCP
}

#[inline(always)]
pub(super) fn is_tcp_or_udp(faults: &mut Faults, socket: u64) -> bool {
    let family = faults.read::<u16>(socket, offset!(sock_family));
    let protocol = faults.read::<u16>(socket, offset!(sock_protocol));
    (family == AF_INET || family == AF_INET6)
        && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP)
}

/// An address that a call was given.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Peer {
    /// 0 when there is none.
    pub(super) family: u16,
    /// Host byte order.
    pub(super) port: u16,
    address: [u64; 2],
}

impl Peer {
    /// Reads a `sockaddr` in the kernel.
    #[inline(always)]
    fn in_kernel(faults: &mut Faults, at: u64) -> Peer {
        let family = faults.read::<u16>(at, 0);
        let port = faults.read::<u16>(at, 2);
        match family {
            AF_INET => Peer::v4(port, faults.read::<u32>(at, 4)),
            AF_INET6 => Peer::v6(port, faults.read::<[u64; 2]>(at, 8)),
            _ => Peer::NONE,
        }
    }

    /// Reads a `sockaddr` in user memory.
    #[inline(always)]
    pub(super) fn in_user(faults: &mut Faults, at: u64) -> Peer {
        if at == 0 {
            return Peer::NONE;
        }
        let family = faults.read_user::<u16>(at, 0);
        let port = faults.read_user::<u16>(at, 2);
        match family {
            AF_INET => Peer::v4(port, faults.read_user::<u32>(at, 4)),
            AF_INET6 => Peer::v6(port, faults.read_user::<[u64; 2]>(at, 8)),
            _ => Peer::NONE,
        }
    }

    pub(super) const NONE: Peer = Peer {
        family: 0,
        port: 0,
        address: [0; 2],
    };

    #[inline(always)]
    fn v4(port: u16, address: u32) -> Peer {
        Peer {
            family: AF_INET,
            port: u16::from_be(port),
            address: [u64::from(address), 0],
        }
    }

    #[inline(always)]
    fn v6(port: u16, address: [u64; 2]) -> Peer {
        if is_mapped(address) {
            return Peer::v4(port, (address[1] >> 32) as u32);
        }
        Peer {
            family: AF_INET6,
            port: u16::from_be(port),
            address,
        }
    }

    /// Puts it in place of the remote end in a body.
    ///
    /// # Safety
    ///
    /// `body` points to a whole body.
    #[inline(always)]
    pub(super) unsafe fn replace_remote(&self, body: *mut ConnectBody) {
        // SAFETY: the caller's pointer is valid; the addresses are 16 bytes each at multiples of 8.
        unsafe {
            if (*body).family != self.family {
                (*body).family = self.family;
                (&raw mut (*body).local).cast::<[u64; 2]>().write([0; 2]);
            }
            (*body).remote_port = self.port;
            (&raw mut (*body).remote)
                .cast::<[u64; 2]>()
                .write(self.address);
        }
    }
}

/// True for ::ffff:a.b.c.d, which is IPv4 on the wire, and rules ask for it as such.
#[inline(always)]
fn is_mapped(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == u32::from_be(0xffff)
}

/// Sends the record of a connect that was refused before anything left the host.
#[inline(always)]
fn report_denied(faults: &mut Faults, socket: u64, peer: &Peer, result: i64) {
    let task = task::current();
    if peer.family != 0 && wanted(Kind::ConnectRefused, task) {
        record_denied(faults, task, socket, peer, result);
    }
}

/// The record of a refused connect, once it is known to be wanted.
#[inline(always)]
pub(super) fn record_denied(faults: &mut Faults, task: u64, socket: u64, peer: &Peer, result: i64) {
    const KIND: Kind = Kind::ConnectRefused;
    let mut record = MaybeUninit::<(Header, ConnectBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ConnectBody>();
        task::fill_header(faults, record.cast(), KIND, task);
        fill_body(faults, KIND, body, socket, -result as u32);
        peer.replace_remote(body);
        const LEN: u64 = (size_of::<Header>() + size_of::<ConnectBody>()) as u64;
        emit::<LEN>(KIND, record, LEN, 0, fault_flag(faults));
    }
}

/// Sends the record of what the task that runs now did to a socket.
#[inline(always)]
fn report(faults: &mut Faults, kind: Kind, socket: u64, detail: u32) {
    let task = task::current();
    if wanted(kind, task) {
        record(faults, task, kind, socket, detail);
    }
}

/// The record of an act, once it is known to be wanted.
#[inline(always)]
pub(super) fn record(faults: &mut Faults, task: u64, kind: Kind, socket: u64, detail: u32) {
    let mut record = MaybeUninit::<(Header, ConnectBody)>::uninit();
    let record = record.as_mut_ptr().cast::<u8>();
    // SAFETY: the two pieces lie one behind the other in `record`, which has room for both.
    unsafe {
        let body = record.add(size_of::<Header>()).cast::<ConnectBody>();
        task::fill_header(faults, record.cast(), kind, task);
        fill_body(faults, kind, body, socket, detail);
        const LEN: u64 = (size_of::<Header>() + size_of::<ConnectBody>()) as u64;
        emit::<LEN>(kind, record, LEN, 0, fault_flag(faults));
    }
}

/// # Safety
///
/// `body` points to a whole body's worth of writable bytes.
#[inline(always)]
pub(super) unsafe fn fill_body(
    faults: &mut Faults,
    kind: Kind,
    body: *mut ConnectBody,
    socket: u64,
    detail: u32,
) {
    let absent = u64::from(ABSENT);
    let mut family = faults.read::<u16>(socket, offset!(sock_family));
    let mut local = [0u64; 2];
    let mut remote = [0u64; 2];
    if family == AF_INET6 && offset!(sock_v6_daddr) != absent {
        remote = faults.read::<[u64; 2]>(socket, offset!(sock_v6_daddr));
        local = faults.read::<[u64; 2]>(socket, offset!(sock_v6_rcv_saddr));
        if is_mapped(remote) {
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
    let mut port = faults.read::<u16>(socket, offset!(sock_num));
    if kind as u16 == Kind::Close as u16 && port == 0 && offset!(inet_sport) != absent {
        // A connection that has ended gives its port back, but remembers it here.
        port = u16::from_be(faults.read::<u16>(socket, offset!(inet_sport)));
    }
    // SAFETY: the caller's pointer is valid for writes of a body; the addresses are 16 bytes each at multiples of 8.
    unsafe {
        (*body).family = family;
        (*body).local_port = port;
        (*body).remote_port = u16::from_be(faults.read::<u16>(socket, offset!(sock_dport)));
        (*body).protocol = faults.read::<u16>(socket, offset!(sock_protocol));
        (&raw mut (*body).local).cast::<[u64; 2]>().write(local);
        (&raw mut (*body).remote).cast::<[u64; 2]>().write(remote);
        (*body).netns = netns;
        (*body).detail = detail;
        // Mixed, so that no kernel address leaves the kernel; odd, so that no two sockets share a token.
        let socket = faults.number(socket);
        (*body).socket = (socket ^ setting!(token_key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
