//! The gates: what is attached in the place of each program, and leads to it.
//!
//! In: what the hook passes. Out: the same, to the one program that stands behind the gate; nothing where none does. A later build
//! puts its own program there by a single store of the kernel's: every act goes through one of the two, none through both, and
//! the hook is never let go. A gate outlives builds, so it must never do anything else.

use aya_ebpf::{cty::c_void, helpers::bpf_tail_call, macros::map, maps::ProgramArray};

macro_rules! gates {
    ($($section:literal $gate:ident $program:ident;)*) => {$(
        /// Who is behind the gate, in the only place. A map for each: newer kernels want all programs of one to be of one hook.
        #[map]
        static $program: ProgramArray = ProgramArray::with_max_entries(1, 0);

        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        fn $gate(hook: *mut c_void) -> i32 {
            // SAFETY: the context is the one this was called with, and the map outlives the program.
            unsafe { bpf_tail_call(hook, (&raw const $program).cast_mut().cast(), 0) };
            0
        }
    )*};
}

gates! {
    "fentry/commit_creds" credentials_change_gate CREDENTIALS_CHANGE_GATE;
    "fentry/commit_creds" credentials_change_again_gate CREDENTIALS_CHANGE_AGAIN_GATE;
    "tp_btf/sys_exit" dns_message_gate DNS_MESSAGE_GATE;
    "tp_btf/sys_exit" dns_message_again_gate DNS_MESSAGE_AGAIN_GATE;
    "fexit/security_file_open" file_create_gate FILE_CREATE_GATE;
    "fexit/security_file_open" file_create_again_gate FILE_CREATE_AGAIN_GATE;
    "fexit/security_file_open" file_create_once_more_gate FILE_CREATE_ONCE_MORE_GATE;
    "tp_btf/sys_exit" file_create_by_syscall_gate FILE_CREATE_BY_SYSCALL_GATE;
    "tp_btf/sys_exit" file_create_by_syscall_again_gate FILE_CREATE_BY_SYSCALL_AGAIN_GATE;
    "tp_btf/sys_exit" file_create_by_syscall_once_more_gate FILE_CREATE_BY_SYSCALL_ONCE_MORE_GATE;
    "fexit/security_path_rename" rename_begin_gate RENAME_BEGIN_GATE;
    "fexit/security_path_rename" rename_begin_again_gate RENAME_BEGIN_AGAIN_GATE;
    "fexit/vfs_rename" rename_end_gate RENAME_END_GATE;
    "fexit/vfs_rename" rename_end_again_gate RENAME_END_AGAIN_GATE;
    "fexit/security_path_unlink" delete_begin_gate DELETE_BEGIN_GATE;
    "fexit/security_path_unlink" delete_begin_again_gate DELETE_BEGIN_AGAIN_GATE;
    "fexit/vfs_unlink" delete_end_gate DELETE_END_GATE;
    "fexit/vfs_unlink" delete_end_again_gate DELETE_END_AGAIN_GATE;
    "fexit/security_path_link" link_begin_gate LINK_BEGIN_GATE;
    "fexit/security_path_link" link_begin_again_gate LINK_BEGIN_AGAIN_GATE;
    "fexit/vfs_link" link_end_gate LINK_END_GATE;
    "fexit/vfs_link" link_end_again_gate LINK_END_AGAIN_GATE;
    "fexit/security_path_symlink" symlink_begin_gate SYMLINK_BEGIN_GATE;
    "fexit/security_path_symlink" symlink_begin_again_gate SYMLINK_BEGIN_AGAIN_GATE;
    "fexit/vfs_symlink" symlink_end_gate SYMLINK_END_GATE;
    "fexit/vfs_symlink" symlink_end_again_gate SYMLINK_END_AGAIN_GATE;
    "fexit/security_path_mkdir" mkdir_begin_gate MKDIR_BEGIN_GATE;
    "fexit/security_path_mkdir" mkdir_begin_again_gate MKDIR_BEGIN_AGAIN_GATE;
    "fexit/vfs_mkdir" mkdir_end_gate MKDIR_END_GATE;
    "fexit/vfs_mkdir" mkdir_end_again_gate MKDIR_END_AGAIN_GATE;
    "fexit/security_path_mknod" mknod_begin_gate MKNOD_BEGIN_GATE;
    "fexit/security_path_mknod" mknod_begin_again_gate MKNOD_BEGIN_AGAIN_GATE;
    "fexit/vfs_mknod" mknod_end_gate MKNOD_END_GATE;
    "fexit/vfs_mknod" mknod_end_again_gate MKNOD_END_AGAIN_GATE;
    "tp_btf/sys_enter" file_call_begin_gate FILE_CALL_BEGIN_GATE;
    "tp_btf/sys_enter" file_call_begin_again_gate FILE_CALL_BEGIN_AGAIN_GATE;
    "tp_btf/sys_exit" file_call_end_gate FILE_CALL_END_GATE;
    "tp_btf/sys_exit" file_call_end_again_gate FILE_CALL_END_AGAIN_GATE;
    "fexit/shmem_file_setup" memfd_create_gate MEMFD_CREATE_GATE;
    "fexit/shmem_file_setup" memfd_create_again_gate MEMFD_CREATE_AGAIN_GATE;
    "fexit/hugetlb_file_setup" memfd_create_huge_gate MEMFD_CREATE_HUGE_GATE;
    "fexit/generic_write_checks" file_write_gate FILE_WRITE_GATE;
    "fexit/security_file_open" file_write_open_gate FILE_WRITE_OPEN_GATE;
    "fexit/do_truncate" file_truncate_gate FILE_TRUNCATE_GATE;
    "fexit/vfs_truncate" path_truncate_gate PATH_TRUNCATE_GATE;
    "fexit/chmod_common" file_chmod_gate FILE_CHMOD_GATE;
    "fexit/chown_common" file_chown_gate FILE_CHOWN_GATE;
    "tp_btf/sys_exit" file_modify_by_syscall_gate FILE_MODIFY_BY_SYSCALL_GATE;
    "tp_btf/sys_exit" file_modify_by_syscall_again_gate FILE_MODIFY_BY_SYSCALL_AGAIN_GATE;
    "tp_btf/module_load" module_loaded_gate MODULE_LOADED_GATE;
    "fexit/tcp_v4_connect" connect_v4_gate CONNECT_V4_GATE;
    "fexit/tcp_v4_connect" connect_v4_again_gate CONNECT_V4_AGAIN_GATE;
    "fexit/tcp_v6_connect" connect_v6_gate CONNECT_V6_GATE;
    "fexit/tcp_v6_connect" connect_v6_again_gate CONNECT_V6_AGAIN_GATE;
    "fexit/inet_dgram_connect" udp_connect_gate UDP_CONNECT_GATE;
    "fexit/inet_dgram_connect" udp_connect_again_gate UDP_CONNECT_AGAIN_GATE;
    "fexit/security_socket_connect" connect_denied_gate CONNECT_DENIED_GATE;
    "fexit/security_socket_connect" connect_denied_again_gate CONNECT_DENIED_AGAIN_GATE;
    "tp_btf/inet_sock_set_state" connect_by_state_gate CONNECT_BY_STATE_GATE;
    "tp_btf/inet_sock_set_state" connect_by_state_again_gate CONNECT_BY_STATE_AGAIN_GATE;
    "fexit/inet_csk_accept" accept_gate ACCEPT_GATE;
    "fexit/inet_csk_accept" accept_again_gate ACCEPT_AGAIN_GATE;
    "fentry/tcp_close" close_gate CLOSE_GATE;
    "fentry/tcp_close" close_again_gate CLOSE_AGAIN_GATE;
    "tp_btf/inet_sock_set_state" close_by_state_gate CLOSE_BY_STATE_GATE;
    "tp_btf/inet_sock_set_state" close_by_state_again_gate CLOSE_BY_STATE_AGAIN_GATE;
    "tp_btf/tcp_destroy_sock" close_by_end_gate CLOSE_BY_END_GATE;
    "tp_btf/sys_exit" socket_call_gate SOCKET_CALL_GATE;
    "tp_btf/sys_exit" socket_call_again_gate SOCKET_CALL_AGAIN_GATE;
    "fexit/security_file_open" file_open_gate FILE_OPEN_GATE;
    "fexit/security_file_open" file_open_again_gate FILE_OPEN_AGAIN_GATE;
    "tp_btf/sys_exit" file_open_by_syscall_gate FILE_OPEN_BY_SYSCALL_GATE;
    "tp_btf/sys_exit" file_open_by_syscall_again_gate FILE_OPEN_BY_SYSCALL_AGAIN_GATE;
    "tp_btf/sched_process_fork" process_fork_gate PROCESS_FORK_GATE;
    "tp_btf/sched_process_fork" process_fork_again_gate PROCESS_FORK_AGAIN_GATE;
    "tp_btf/sched_process_exit" process_exit_gate PROCESS_EXIT_GATE;
    "tp_btf/sched_process_exit" process_exit_again_gate PROCESS_EXIT_AGAIN_GATE;
    "tp_btf/sched_process_exec" process_exec_gate PROCESS_EXEC_GATE;
    "tp_btf/sched_process_exec" process_exec_again_gate PROCESS_EXEC_AGAIN_GATE;
    "tp_btf/sys_enter" process_call_enter_gate PROCESS_CALL_ENTER_GATE;
    "tp_btf/sys_enter" process_call_enter_again_gate PROCESS_CALL_ENTER_AGAIN_GATE;
    "tp_btf/sys_exit" process_call_exit_gate PROCESS_CALL_EXIT_GATE;
    "tp_btf/sys_exit" process_call_exit_again_gate PROCESS_CALL_EXIT_AGAIN_GATE;
    "fexit/ptrace_attach" ptrace_attached_gate PTRACE_ATTACHED_GATE;
    "fexit/ptrace_attach" ptrace_attached_again_gate PTRACE_ATTACHED_AGAIN_GATE;
    "fexit/ksys_setsid" session_change_gate SESSION_CHANGE_GATE;
    "fexit/ksys_setsid" session_change_again_gate SESSION_CHANGE_AGAIN_GATE;
    "fexit/security_task_setpgid" group_change_gate GROUP_CHANGE_GATE;
    "fexit/security_task_setpgid" group_change_again_gate GROUP_CHANGE_AGAIN_GATE;
}
