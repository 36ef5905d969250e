//! Bytes of one ring-buffer record to a borrowed [`Record`].
//!
//! In: the bytes of one record as the kernel wrote them. Out: a typed view that borrows them. Every length is checked;
//! this stage never trusts a number it read and never panics.

use sensor_ebpf::{ConnectBody, ExecBody, ExitBody, FileBody, ForkBody, Header};

/// One decoded record, borrowing the ring slot. Strings are raw bytes: names on Linux need not be UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub header: &'a Header,
    pub body: Body<'a>,
}

/// What happened, with its variable parts.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    Fork(&'a ForkBody),
    Exec(Exec<'a>),
    Exit(&'a ExitBody),
    FileCreate(File<'a>),
    Connect(&'a ConnectBody),
    /// Only the header fitted ([`sensor_ebpf::record_flag::DEGRADED`]); the kind is in the header.
    Degraded,
}

/// An exec and its strings. A part that was not sent is empty.
#[derive(Clone, Copy, Debug)]
pub struct Exec<'a> {
    pub body: &'a ExecBody,
    pub filename: &'a [u8],
    pub executable: &'a [u8],
    pub interpreter: &'a [u8],
    pub working_directory: &'a [u8],
    pub comm: &'a [u8],
    /// Arguments separated by NUL, possibly cut.
    pub arguments: &'a [u8],
}

/// A file act and its path.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    pub body: &'a FileBody,
    pub path: &'a [u8],
}
