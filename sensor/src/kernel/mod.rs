//! The kernel side as the daemon sees it: programs loaded and attached, records drained, losses counted.
//!
//! In: [`Options`]. Out: the bytes of records, one at a time, and [`Counters`]. The only module that knows aya; it never
//! looks inside a record.

pub mod btf;
mod bulk;
mod calls;
mod load;
mod named;
mod preemption;
mod ring;
mod support;

use std::path::PathBuf;

use crate::keep::{Broken, Keep, Reader, Writer};
pub use bulk::Bulk;
pub use load::{
    Kernel, LoadError, Verdict, Verified, Widener, has_object, hooks_for, is_always_wanted,
    is_required, load, load_or_adopt, offered, verify,
};
pub use named::{NAMES_MAX, NamedKinds};
pub use preemption::Preemption;
pub use ring::RingError;
use sensor_ebpf::Kind;
pub use support::{SupportError, default_ring_bytes, memlock_limit};

/// A set of record kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindSet(u32);

impl KindSet {
    pub const EMPTY: KindSet = KindSet(0);

    /// Every kind this build knows.
    pub fn all() -> KindSet {
        Kind::ALL
            .iter()
            .copied()
            .fold(KindSet::EMPTY, KindSet::with)
    }

    /// Every kind but those that come in masses.
    pub fn usual() -> KindSet {
        Kind::ALL
            .iter()
            .copied()
            .filter(|kind| !kind.is_bulk())
            .fold(KindSet::EMPTY, KindSet::with)
    }

    /// True when some kind that comes in masses is among them.
    pub fn has_bulk(self) -> bool {
        Kind::ALL
            .iter()
            .any(|kind| kind.is_bulk() && self.contains(*kind))
    }

    #[must_use]
    pub fn with(self, kind: Kind) -> KindSet {
        KindSet(self.0 | 1 << kind as u32)
    }

    #[must_use]
    pub fn without(self, kind: Kind) -> KindSet {
        KindSet(self.0 & !(1 << kind as u32))
    }

    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u32 != 0
    }

    /// Kinds in either.
    #[must_use]
    pub fn and(self, other: KindSet) -> KindSet {
        KindSet(self.0 | other.0)
    }

    /// A bit for each kind, by its number.
    pub(super) fn bits(self) -> u32 {
        self.0
    }
}

impl Keep for KindSet {
    fn write(&self, to: &mut Writer) {
        self.0.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Broken> {
        u32::read(from).map(KindSet)
    }
}

/// Which sort of hook to use where there are two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Function trampolines where the kernel takes them, tracepoints for the record kinds where it does not.
    #[default]
    Auto,
    /// Function trampolines or nothing.
    Trampolines,
    /// Tracepoints alone.
    Tracepoints,
}

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directories of cgroups (v2) whose subtrees are observed, at most [`sensor_ebpf::settings::SCOPES_MAX`]; empty: the
    /// whole host.
    pub scope: Vec<PathBuf>,
    /// A power of two and a multiple of the page size; see [`default_ring_bytes`].
    pub ring_bytes: u32,
    pub tier: Tier,
    /// Fork, exec and exit are always attached, whatever this says: the process table feeds on them.
    pub kinds: KindSet,
    /// File and network kinds that are only wanted of processes with certain names.
    pub named: NamedKinds,
    /// Have execs carry their environment; off, it costs nothing.
    pub environment: bool,
    /// For the kinds that come in masses.
    pub bulk: Bulk,
    /// Make room for those kinds though they are not asked for yet: some 3 MB of the kernel's memory.
    pub room_for_bulk: bool,
    /// Leave out file and network records of this very process; they are counted.
    pub own_tgid_excluded: bool,
    /// Pass on what the kernel programs have to say of single records (refused reads, busy scratch) through the `log` facade.
    /// For finding faults: off, it costs nothing.
    pub diagnostics: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scope: Vec::new(),
            ring_bytes: default_ring_bytes(),
            tier: Tier::Auto,
            named: NamedKinds::default(),
            environment: false,
            kinds: KindSet::usual(),
            bulk: Bulk::default(),
            room_for_bulk: false,
            own_tgid_excluded: true,
            diagnostics: false,
        }
    }
}

/// What became of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookReport {
    pub kind: Kind,
    /// Name of the program in the kernel object.
    pub program: &'static str,
    /// The function or tracepoint, for example `fexit/security_file_open`.
    pub hook: String,
    /// False for hooks of the second sort, and for those of which there is only one sort.
    pub trampoline: bool,
    pub state: HookState,
    /// What this hook can not see; empty when it sees all there is of its kind.
    pub blind_to: &'static [&'static str],
}

/// A hook that a record kind can be had by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PossibleHook {
    /// The function or tracepoint, for example `fexit/security_file_open`.
    pub hook: String,
    pub blind_to: &'static [&'static str],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookState {
    Attached,
    /// The kernel does not have it or refused it; the text says what it said.
    Refused(String),
    /// Another hook serves its record kind.
    NotNeeded,
    /// Nothing asked for its record kind.
    NotWanted,
}

/// What the kernel programs counted for one record kind since they were loaded.
///
/// When all is quiet, `seen` is the sum of `submitted`, `lost_ring_full` and [`KindCounters::dropped`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounters {
    /// It happened, inside the scope.
    pub seen: u64,
    /// A record went into the ring, whole or degraded.
    pub submitted: u64,
    /// Not even a header fitted into the ring.
    pub lost_ring_full: u64,
    /// Only a header was sent; part of `submitted`.
    pub degraded: u64,
    /// Some part was cut at its bound.
    pub truncated: u64,
    /// Some read of kernel or user memory failed.
    pub read_fault: u64,
    /// The scratch buffer was in use; part of `degraded` or `lost_ring_full`.
    pub scratch_busy: u64,
    /// The sensor's own act, left out on purpose.
    pub dropped_self: u64,
    /// The act of a process whose acts of this kind nothing asks for.
    pub dropped_unwanted: u64,
    /// Left out while the ring was nearly full; only kinds that come in masses.
    pub dropped_headroom: u64,
    /// Left out since their process made too many; only kinds that come in masses.
    pub dropped_throttled: u64,
}

impl KindCounters {
    /// Left out on purpose, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.dropped_self + self.dropped_unwanted + self.dropped_headroom + self.dropped_throttled
    }

    /// Without some records that count for nothing.
    fn without(self, left_out: &KindCounters) -> KindCounters {
        KindCounters {
            seen: self.seen.saturating_sub(left_out.seen),
            submitted: self.submitted.saturating_sub(left_out.submitted),
            degraded: self.degraded.saturating_sub(left_out.degraded),
            truncated: self.truncated.saturating_sub(left_out.truncated),
            read_fault: self.read_fault.saturating_sub(left_out.read_fault),
            ..self
        }
    }
}

/// What the kernel programs counted since they were loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// One entry per kind of [`Kind::ALL`].
    pub kinds: Vec<(Kind, KindCounters)>,
    /// Runs that the kernel skipped because a program was already running on that CPU, and that no later instance of the program
    /// made up for: records nobody could count by kind.
    pub recursion_misses: u64,
    /// The same by program.
    pub skipped: Vec<(&'static str, u64)>,
}

impl Counters {
    /// The counters of one kind.
    pub fn kind(&self, kind: Kind) -> KindCounters {
        self.kinds
            .iter()
            .find(|(of, _)| *of == kind)
            .map(|(_, counters)| *counters)
            .unwrap_or_default()
    }

    /// Acts of processes of which nothing asks for them.
    pub fn unwanted(&self) -> u64 {
        self.kinds.iter().map(|(_, c)| c.dropped_unwanted).sum()
    }

    /// Everything that happened and of which no record came.
    pub fn lost(&self) -> u64 {
        let full: u64 = self.kinds.iter().map(|(_, c)| c.lost_ring_full).sum();
        full + self.recursion_misses
    }
}
