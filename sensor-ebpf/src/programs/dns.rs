//! Messages exchanged with name servers.
//!
//! In: the return of every system call, told apart by its number, then by whether the process has to do with a name server. Out:
//! one record per message sent to port 53 or received from it, with its first bytes. Which socket it was and who its peer is are
//! facts of the kernel; the message, and the address of a socket without a peer, are in user memory and as true as what is there
//! when the call is over.

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_boot_ns, macros::btf_tracepoint, maps::Array,
    programs::BtfTracePointContext,
};
use sensor_ebpf::{
    ConnectBody, Header, Kind, PAYLOAD_LEN_MAX, Part, PartKind, lookup_detail, maps::Twice,
    record_flag, settings::SocketCall,
};

use super::{
    again,
    file::descriptor_file,
    is_left_out,
    network::{IPPROTO_TCP, Peer, fill_body, is_tcp_or_udp},
    network_calls::{Call, descriptor_sock, file_sock},
    pad,
    process::{degraded, fault_flag},
    release, take, write_part,
};
use crate::{
    emit::emit,
    globals::{DNS_AGAIN_SCRATCH, DNS_SCRATCH, RESOLVING, offset},
    read::{Faults, clamp, helper, opaque, task},
};

const DNS_PORT: u16 = 53;
/// A message is at least its header.
const DNS_LEN_MIN: u64 = 12;
/// How long a process is taken to be resolving names after it last did something with a name server.
const RESOLVING_NS: u64 = 30_000_000_000;
/// Most messages of one call that are looked at: resolvers send two.
const MESSAGES_MAX: u64 = 2;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// Bytes of a `msghdr` and of a `mmsghdr` on a 64-bit machine.
const MSGHDR_LEN: u64 = 56;
const MMSGHDR_LEN: u64 = 64;

const PAYLOAD_MAX: u64 = PAYLOAD_LEN_MAX as u64;
const PAYLOAD_AT: u64 = (size_of::<Header>() + size_of::<ConnectBody>() + size_of::<Part>()) as u64;
/// Farthest end of a record, padding included.
const RECORD_MAX: u64 = PAYLOAD_AT + PAYLOAD_MAX + 8;

/// The program's buffer.
#[repr(C)]
pub(crate) struct DnsScratch {
    busy: u64,
    sock: u64,
    message: Message,
    record: [u8; RECORD_MAX as usize + 16],
}

/// A message in user memory. Kept in the scratch and not in variables for the same reason as [`crate::read::path::Walk`]'s place.
#[repr(C)]
struct Message {
    /// Address of the peer; 0 where the call has none.
    address: u64,
    at: u64,
    /// The whole of it.
    len: u64,
    /// What of it is in one piece.
    captured: u64,
    /// The peer where the socket has none.
    peer: Peer,
}

/// A message was sent or received.
///
/// # Kernel
///
/// 5.10 or later; `sys_exit(regs, ret)`, which leaves the arguments in the registers as they were. Blind to io_uring and, as messages
/// have another layout there, to 32-bit programs.
#[btf_tracepoint(function = "sys_exit")]
fn dns_message(ctx: BtfTracePointContext) -> i32 {
    again::note(Twice::Dns);
    passed(&ctx, &DNS_SCRATCH);
    0
}

/// The same again; see [`again`].
#[btf_tracepoint(function = "sys_exit")]
fn dns_message_again(ctx: BtfTracePointContext) -> i32 {
    if again::is_left(Twice::Dns) {
        passed(&ctx, &DNS_AGAIN_SCRATCH);
    }
    0
}

#[inline(always)]
fn passed(ctx: &BtfTracePointContext, map: &Array<DnsScratch>) {
    let mut faults = Faults::NONE;
    let Some((call, class)) = Call::read(&mut faults, ctx) else {
        return;
    };
    if class == SocketCall::Connect as u8 {
        if call.is_connected() {
            let descriptor = call.first(&mut faults) & 0xffff_ffff;
            let sock = descriptor_sock(&mut faults, call.task, descriptor);
            if sock != 0
                && is_tcp_or_udp(&mut faults, sock)
                && remote_port(&mut faults, sock) == DNS_PORT
            {
                note_resolving();
            }
        }
        return;
    }
    if class < SocketCall::Send as u8 || call.result <= 0 {
        return;
    }
    // Most processes end here, after one look-up: they have nothing to do with a name server.
    if !is_resolving() {
        if class & SocketCall::RECEIVES != 0 {
            return;
        }
        let address = address(&call, &mut faults, class, 0);
        if address == 0 || faults.read_user::<u16>(address, 2) != DNS_PORT.to_be() {
            return;
        }
    }
    let descriptor = call.first(&mut faults) & 0xffff_ffff;
    let file = descriptor_file(&mut faults, call.task, descriptor);
    if file == 0 {
        return;
    }
    let inode = faults.pointer(file, offset!(file_inode));
    if faults.read::<u16>(inode, offset!(inode_mode)) & S_IFMT != S_IFSOCK {
        return;
    }
    let sock = file_sock(&mut faults, file);
    if sock == 0 || !is_tcp_or_udp(&mut faults, sock) {
        return;
    }
    let port = remote_port(&mut faults, sock);
    if port != DNS_PORT && port != 0 {
        return;
    }
    let Some(scratch) = map.get_ptr_mut(task::cpu()) else {
        return;
    };
    // SAFETY: the map has one element per possible CPU; only this program uses it, and `busy` keeps nested runs away.
    unsafe {
        let busy = &raw mut (*scratch).busy;
        if !take(busy) {
            if task::in_scope(task::current()) {
                degraded(Kind::Dns, task::current());
            }
            return;
        }
        (&raw mut (*scratch).sock).write_volatile(sock);
        if task::in_scope(task::current()) && !is_left_out(Kind::Dns) {
            messages(ctx, scratch);
        }
        release(busy);
    }
}

/// Sends the records of the messages of a call that is known to be wanted. Reads the call once more: what the verifier has found
/// out on the way here would have it follow each way on its own.
///
/// # Safety
///
/// `scratch` is this CPU's, which the caller holds, with the socket in it.
#[inline(always)]
unsafe fn messages(ctx: &BtfTracePointContext, scratch: *mut DnsScratch) {
    let mut faults = Faults::NONE;
    let Some((call, class)) = Call::read(&mut faults, ctx) else {
        return;
    };
    for index in 0..MESSAGES_MAX {
        if index != 0 && (class & SocketCall::SEVERAL == 0 || call.result <= 1) {
            break;
        }
        // SAFETY: passed on.
        unsafe {
            let sock = (&raw const (*scratch).sock).read_volatile();
            let message = &raw mut (*scratch).message;
            find_message(&call, &mut faults, class, index, sock, message);
            send(&call, &mut faults, class, sock, scratch);
        }
    }
}

#[inline(always)]
fn remote_port(faults: &mut Faults, sock: u64) -> u16 {
    u16::from_be(faults.read::<u16>(sock, offset!(sock_dport)))
}

/// Where the address of a message is in user memory; 0 where the call has none.
#[inline(always)]
fn address(call: &Call, faults: &mut Faults, class: u8, index: u64) -> u64 {
    if class & SocketCall::SHAPE == SocketCall::Send as u8 & SocketCall::SHAPE {
        return call.register(faults, offset!(pt_regs_r8));
    }
    if class & SocketCall::HAS_HEAD == 0 {
        return 0;
    }
    let head = call.second(faults).wrapping_add(index * MMSGHDR_LEN);
    faults.read_user::<u64>(head, 0)
}

/// Finds a message in user memory. Of one in pieces the first, unless that is no more than the length before the rest.
///
/// # Safety
///
/// `message` points to this CPU's scratch, which the caller holds.
#[inline(always)]
unsafe fn find_message(
    call: &Call,
    faults: &mut Faults,
    class: u8,
    index: u64,
    sock: u64,
    message: *mut Message,
) {
    let second = call.second(faults);
    let result = call.result as u64;
    // SAFETY: the caller's pointer is valid; volatile, so that what the verifier knows of these ends here.
    unsafe {
        (&raw mut (*message).address).write_volatile(address(call, faults, class, index));
        (&raw mut (*message).len).write_volatile(result);
        (&raw mut (*message).captured).write_volatile(result);
        (&raw mut (*message).at).write_volatile(second);
        if class & SocketCall::IN_PIECES == 0 {
            return;
        }
        if class & SocketCall::HAS_HEAD != 0 {
            let head = second.wrapping_add(index * MMSGHDR_LEN);
            let pieces = faults.read_user::<u64>(head, 16);
            (&raw mut (*message).at).write_volatile(pieces);
            if class & SocketCall::SEVERAL != 0 {
                let len = u64::from(faults.read_user::<u32>(head, MSGHDR_LEN));
                (&raw mut (*message).len).write_volatile(len);
            }
        }
        let pieces = (&raw const (*message).at).read_volatile();
        let mut len = (&raw const (*message).len).read_volatile();
        let mut at = faults.read_user::<u64>(pieces, 0);
        let mut room = faults.read_user::<u64>(pieces, 8);
        let tcp = faults.read::<u16>(sock, offset!(sock_protocol)) == IPPROTO_TCP;
        if tcp && room == 2 && len > 2 {
            at = faults.read_user::<u64>(pieces, 16);
            room = faults.read_user::<u64>(pieces, 24);
            len -= 2;
        }
        (&raw mut (*message).at).write_volatile(at);
        (&raw mut (*message).len).write_volatile(len);
        (&raw mut (*message).captured).write_volatile(if len < room { len } else { room });
    }
}

/// Sends the record of the message in the scratch, if it is for or from a name server.
///
/// # Safety
///
/// `scratch` is this CPU's, which the caller holds.
#[inline(always)]
unsafe fn send(call: &Call, faults: &mut Faults, class: u8, sock: u64, scratch: *mut DnsScratch) {
    // SAFETY: the caller's pointer is valid; header, body and part table lie before `PAYLOAD_AT` in the record.
    unsafe {
        let message = &raw const (*scratch).message;
        let whole = (&raw const (*message).len).read_volatile();
        if whole < DNS_LEN_MIN {
            return;
        }
        let peer = &raw mut (*scratch).message.peer;
        peer.write_volatile(Peer::NONE);
        if remote_port(faults, sock) == 0 {
            let address = (&raw const (*message).address).read_volatile();
            peer.write_volatile(Peer::in_user(faults, address));
            if (&raw const (*peer).port).read_volatile() != DNS_PORT {
                return;
            }
        }
        let record = (&raw mut (*scratch).record).cast::<u8>();
        task::fill_header(faults, record.cast(), Kind::Dns, call.task);
        let body = record.add(size_of::<Header>()).cast::<ConnectBody>();
        let mut detail = whole as u32 & lookup_detail::LEN_MASK;
        if class & SocketCall::RECEIVES != 0 {
            detail |= lookup_detail::RECEIVED;
        } else {
            note_resolving();
        }
        fill_body(faults, Kind::Dns, body, sock, detail);
        if (&raw const (*peer).family).read_volatile() != 0 {
            peer.read_volatile().replace_remote(body);
        }
        let captured = (&raw const (*message).captured).read_volatile();
        let at = (&raw const (*message).at).read_volatile();
        let to = record.add(PAYLOAD_AT as usize).cast();
        let captured = clamp::<PAYLOAD_MAX>(opaque(captured));
        let failed = helper::probe_read_user(to, clamp::<PAYLOAD_MAX>(opaque(captured)), at);
        faults.0 |= failed;
        let end = pad::<{ PAYLOAD_AT + PAYLOAD_MAX }>(record, PAYLOAD_AT + captured);
        write_part(
            record
                .add(size_of::<Header>() + size_of::<ConnectBody>())
                .cast(),
            PartKind::Payload as u16,
            captured,
        );
        let mut flags = fault_flag(faults);
        if whole > captured {
            flags |= record_flag::TRUNCATED;
        }
        emit::<RECORD_MAX>(Kind::Dns, record, end, 1, flags);
    }
}

/// True when this process did something with a name server a moment ago.
#[inline(always)]
fn is_resolving() -> bool {
    let tgid = task::current_tgid();
    // SAFETY: at worst the time of another process is read, and a socket looked at in vain.
    let Some(noted_ns) = (unsafe { RESOLVING.get(tgid) }) else {
        return false;
    };
    // SAFETY: the helper takes no arguments and is in every supported kernel.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    now_ns.wrapping_sub(*noted_ns) < RESOLVING_NS
}

#[inline(always)]
fn note_resolving() {
    // SAFETY: the helper takes no arguments and is in every supported kernel.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    // A full table forgets who was silent longest.
    let _ = RESOLVING.insert(task::current_tgid(), now_ns, 0);
}
