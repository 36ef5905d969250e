//! What the maps hold that outlive a build: a daemon of a later build goes on with them, and so do its programs.
//!
//! In: nothing; these are types and numbers. Out: counters, second instances, watched names, what processes saved up. The text of
//! this file is part of the layout by which two builds tell whether one can go on where the other stopped. A value that comes to
//! mean something else while its type stays takes a new [`crate::ABI`].

/// Bytes of a process's name that the kernel programs look at, its terminating zero included.
pub const NAME_KEY_LEN: usize = 16;

/// Bytes of a watched name, the zeroes behind it included.
pub const WATCH_NAME_LEN: usize = 64;
/// Most watched names, paths and directories.
pub const WATCHES_MAX: u32 = 1024;

/// Bits of a watched name's value.
pub mod watch {
    /// A file of this name is watched, or is one of those whose whole path is.
    pub const FILE: u32 = 1;
    /// All below a directory of this name may be.
    pub const DIRECTORY: u32 = 2;
}

/// What one process has saved up of its leave to make bulk records.
#[repr(C)]
pub struct Bucket {
    pub last_ns: u64,
    pub credit_ns: u64,
    /// Left out since the throttle began; 0 while there is none.
    pub dropped: u64,
}

/// What is counted for each record kind, per CPU. When all is quiet `seen` is the sum of `submitted`, `lost_ring_full` and
/// everything `dropped`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// The thing happened, inside the scope.
    Seen = 0,
    /// A record went into the ring, whole or degraded.
    Submitted = 1,
    /// Not even the header fitted.
    LostRingFull = 2,
    /// The record left as a header only.
    Degraded = 3,
    /// Some part was cut at its bound.
    Truncated = 4,
    /// Some read of kernel or user memory failed.
    ReadFault = 5,
    /// The scratch buffer was in use by an interrupted run.
    ScratchBusy = 6,
    /// The sensor's own act, left out on purpose.
    DroppedSelf = 7,
    /// A bulk record, left out while the ring was nearly full.
    DroppedHeadroom = 8,
    /// A bulk record of a process that makes too many.
    DroppedThrottled = 9,
    /// The act of a process whose acts of this kind nothing asks for.
    DroppedUnwanted = 10,
}

/// Programs that have a second instance behind them, some of them a third, where the kernel lets others run in the middle of one:
/// first those on tracepoints, then those on functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Twice {
    FileCallBegin = 0,
    FileCallEnd = 1,
    FileCreate = 2,
    SocketCall = 3,
    Dns = 4,
    ProcessCallEnter = 5,
    ProcessCallExit = 6,
    FileModify = 7,
    FileOpen = 8,
    ProcessFork = 9,
    ProcessExec = 10,
    ProcessExit = 11,
    ConnectByState = 12,
    CloseByState = 13,
    Creation = 14,
    RenameBegin = 15,
    RenameEnd = 16,
    DeleteBegin = 17,
    DeleteEnd = 18,
    LinkBegin = 19,
    LinkEnd = 20,
    SymlinkBegin = 21,
    SymlinkEnd = 22,
    MkdirBegin = 23,
    MkdirEnd = 24,
    MknodBegin = 25,
    MknodEnd = 26,
    ConnectV4 = 27,
    ConnectV6 = 28,
    UdpConnect = 29,
    ConnectDenied = 30,
    Accept = 31,
    Close = 32,
    Credentials = 33,
    Session = 34,
    Group = 35,
    Memfd = 36,
    Ptrace = 37,
    Open = 38,
}

impl Twice {
    /// Bits of [`crate::settings::Settings::twice`].
    pub const ON_TRACEPOINTS: u32 = 1;
    pub const ON_FUNCTIONS: u32 = 2;

    /// The bit for the sort of hook that this one is on.
    #[inline(always)]
    pub const fn sort(self) -> u32 {
        if (self as u32) < Twice::Creation as u32 {
            Twice::ON_TRACEPOINTS
        } else {
            Twice::ON_FUNCTIONS
        }
    }

    /// Room for the programs.
    pub const SLOTS: u32 = 40;
    /// Threads that can be told apart for each program, a power of two.
    pub const NOTES: u32 = 16_384;
}

impl Count {
    /// Counters per record kind.
    pub const SLOTS: usize = 16;
}
