//! Loads the kernel programs one by one and attaches them.
//!
//! In: [`Options`], the embedded kernel object, what this kernel offers. Out: a running [`Kernel`] and a report of every hook, or
//! the reason why a required one could not be had. Must never run on with a required hook missing.

mod about;
mod checked;
mod gate;
mod instances;
mod kept;
mod later;
mod layout;
mod missed;
mod offered;
mod order;
mod programs;
mod verify;
mod widen;

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
};

use aya::{
    Btf as KernelBtf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapError, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, FEntry, FExit, Program, ProgramError},
    util::nr_cpus,
};
use aya_log::EbpfLogger;
use sensor_ebpf::{
    Kind,
    maps::{Count, Twice, WATCH_NAME_LEN},
    settings::FILE_ACTS,
};
use zerocopy::IntoBytes;

use crate::config::{WatchError, watch_entry};
use crate::fd_store::FdStore;
use about::Stamp;
use instances::of_sorts;
use kept::{Adopted, Found, Kept};
use later::{LATER_BULK_SCRATCH, LATER_SCRATCH, later_of};
use missed::Missed;
pub use offered::offered;
use programs::{BULK_SCRATCH, Entry, Hook, PROGRAMS, SCRATCH};
pub use verify::{Verdict, Verified, verify};
pub use widen::Widener;

use super::{
    Counters, HookReport, HookState, KindCounters, Options, PossibleHook, RingError, Tier,
    btf::{Btf, TypeKind},
    named,
    ring::Ring,
    support::{Support, SupportError, needs_memlock, slots_of, socket_calls},
};

/// The kernel object, empty when this was built without a kernel toolchain.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernel_object"));

/// Whether this build carries kernel programs.
#[must_use]
pub fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// Why there are no records.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "this build carries no kernel programs; run `cargo xtask setup`, then build again, or build with EQL_SENSOR_BPF_OBJECT naming a ready object"
    )]
    NoObject,
    #[error(transparent)]
    Support(#[from] SupportError),
    #[error(
        "not allowed to load kernel programs; needs CAP_BPF, CAP_PERFMON and, before Linux 5.11, CAP_SYS_RESOURCE: run as root or see systemd/eql-sensor.service"
    )]
    NotPermitted(#[source] io::Error),
    #[error("cannot count this machine's processors")]
    Cpus(#[source] io::Error),
    #[error("cannot load the kernel object")]
    Object(#[source] Box<EbpfError>),
    #[error("the kernel object has no `{0}`; it is not of this build")]
    NotInObject(&'static str),
    #[error("the kernel object has no gate for `{0}`; it is not of this build")]
    NoGate(&'static str),
    #[error("cannot open the map `{name}`")]
    Map {
        name: &'static str,
        #[source]
        cause: MapError,
    },
    #[error("cannot watch `{watched}`")]
    Watch {
        watched: String,
        #[source]
        cause: WatchError,
    },
    #[error("cannot read what the kernel programs log")]
    Diagnostics(#[source] aya_log::Error),
    #[error("{0} of the kernel programs can not be kept or taken up")]
    Kept(String),
    #[error("descriptors of the kernel programs can not be kept or taken up")]
    Descriptors(#[source] io::Error),
    #[error("this build's `{name}` can not follow the one that runs: {reason}")]
    Follow { name: &'static str, reason: String },
    #[error("no hook for {} records, which are required: {reasons}", .kind.name())]
    Required { kind: Kind, reasons: String },
}

/// Entries of the tables that only those kinds use, when they are not wanted.
const BULK_ENTRIES_MIN: u32 = 64;

/// Programs attached, and the ring they write to. Dropping it detaches them.
pub struct Kernel {
    programs: Arc<Mutex<Programs>>,
    ring: Ring,
    hooks: Vec<HookReport>,
    /// Loaded by an earlier daemon.
    adopted: bool,
    diagnostics: Option<Diagnostics>,
    /// Records that are no part of the account, by kind.
    left_out: [KindCounters; Kind::SLOTS],
    /// As last read.
    counted: Mutex<Counters>,
    missed: Mutex<Missed>,
}

/// The kernel object with what was asked of it. Another thread may attach more of it, and holds it locked meanwhile.
struct Programs {
    ebpf: Ebpf,
    options: Options,
    hooks: Vec<HookReport>,
    /// See [`Attaching`].
    held: Vec<&'static str>,
    served: [u32; 2],
    stamp: Stamp,
    /// Those of an earlier daemon.
    adopted: Vec<Adopted>,
    kept: Option<Kept>,
}

impl Programs {
    /// Runs the kernel skipped, by program.
    fn skipped(&self) -> Vec<(&'static str, u64)> {
        let mut skipped = missed::skipped(&self.ebpf);
        skipped.extend(self.adopted.iter().filter_map(Adopted::skipped));
        skipped
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a thread that panicked was about to attach is missing; what is there is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes on what the programs say of single records.
type Diagnostics = Box<dyn FnMut() + Send>;

/// Loads and attaches what the options ask for.
///
/// # Errors
///
/// No object in this build, no permission, a kernel that lacks something required, or a required hook that can not be had; each
/// names what is missing. Nothing stays attached then.
pub fn load(options: &Options) -> Result<Kernel, LoadError> {
    load_or_adopt(options, None)
}

/// The same; where an earlier daemon's programs are in the store and fit, they are taken up instead, or followed by those of this
/// build without a gap, and what they do not report yet is attached beside them.
///
/// # Errors
///
/// Those of [`load`].
pub fn load_or_adopt(options: &Options, store: Option<&mut FdStore>) -> Result<Kernel, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::NoObject);
    }
    let mut support = Support::detect(options)?;
    if needs_memlock() {
        raise_memlock()?;
    }
    let kernel_btf = KernelBtf::from_sys_fs().map_err(|error| object_error(error.into()))?;
    let stamp = Stamp::of(&support, options);
    let mut adopted = None;
    if let Some(store) = store
        && let Some(found) = Found::look(store, &stamp)
    {
        let fresh = support.settings;
        support.settings = found.settings(fresh);
        let programs = found.programs(options, &support, &kernel_btf, &stamp);
        adopted = kept::or_give_up(programs, store);
        if adopted.is_none() {
            support.settings = fresh;
        }
    }
    let is_adopted = adopted.is_some();
    let mut programs = match adopted {
        Some(programs) => programs,
        None => attach_anew(options, &support, &kernel_btf, stamp)?,
    };
    let ring = programs
        .ebpf
        .take_map("RING")
        .ok_or(LoadError::NotInObject("RING"))?;
    let ring = RingBuf::try_from(ring).map_err(|cause| LoadError::Map {
        name: "RING",
        cause,
    })?;
    let diagnostics = if options.diagnostics {
        let mut logger = EbpfLogger::init(&mut programs.ebpf).map_err(LoadError::Diagnostics)?;
        Some(Box::new(move || logger.flush()) as Diagnostics)
    } else {
        None
    };
    let nothing = [KindCounters::default(); Kind::SLOTS];
    let left_out = programs.kept.as_ref().map_or(nothing, |kept| kept.left_out);
    let mut kernel = Kernel {
        hooks: programs.hooks.clone(),
        programs: Arc::new(Mutex::new(programs)),
        ring: Ring::Idle(ring),
        adopted: is_adopted,
        diagnostics,
        left_out,
        counted: Mutex::default(),
        missed: Mutex::default(),
    };
    if is_adopted {
        kernel.widener().widen(options.kinds, &options.named)?;
        kernel.look_at_hooks();
    }
    Ok(kernel)
}

/// Programs that nobody loaded before.
fn attach_anew(
    options: &Options,
    support: &Support,
    kernel_btf: &KernelBtf,
    stamp: Stamp,
) -> Result<Programs, LoadError> {
    let mut ebpf = load_object(options, support, kernel_btf)?;
    if options.kinds.contains(Kind::Open) {
        watch(&mut ebpf, &options.bulk.watched)?;
    }
    options.named.fill(&mut ebpf)?;
    let mut attaching = Attaching {
        ebpf: &mut ebpf,
        btf: &support.btf,
        kernel_btf,
        held: Vec::new(),
        served: [0; 2],
        twice: support.settings.twice,
        runs_last_first: None,
    };
    let mut hooks = Vec::with_capacity(PROGRAMS.len());
    for &kind in Kind::ALL {
        attaching.kind(kind, options, &mut hooks)?;
    }
    let (held, served) = (attaching.held, attaching.served);
    Ok(Programs {
        ebpf,
        options: options.clone(),
        hooks,
        held,
        served,
        stamp,
        adopted: Vec::new(),
        kept: None,
    })
}

impl Kernel {
    /// What became of every hook of every record kind, as of [`Kernel::look_at_hooks`].
    pub fn hooks(&self) -> &[HookReport] {
        &self.hooks
    }

    /// Takes note of hooks attached since. False while some are being attached.
    pub fn look_at_hooks(&mut self) -> bool {
        match self.programs.try_lock() {
            Ok(programs) => {
                self.hooks.clone_from(&programs.hooks);
                true
            }
            Err(_) => false,
        }
    }

    /// For another thread, to attach more while records flow.
    pub fn widener(&self) -> Widener {
        Widener::new(Arc::clone(&self.programs))
    }

    /// Waits for records, then hands over those that are there, oldest first. Returns how many. Cancel-safe: no record is lost
    /// when the future is dropped.
    ///
    /// # Errors
    ///
    /// Outside of a tokio runtime with I/O enabled.
    pub async fn drain(&mut self, on_record: impl FnMut(&[u8])) -> Result<usize, RingError> {
        let drained = self.ring.drain(on_record).await;
        self.log_diagnostics();
        drained
    }

    /// Hands over the records that are there, without waiting. Returns how many; 0 means that the ring is empty.
    pub fn drain_now(&mut self, on_record: impl FnMut(&[u8])) -> usize {
        let drained = self.ring.drain_now(on_record);
        self.log_diagnostics();
        drained
    }

    /// Hands over one record if there is one.
    pub fn drain_one(&mut self, on_record: impl FnMut(&[u8])) -> usize {
        self.ring.drain_one(on_record)
    }

    fn log_diagnostics(&mut self) {
        if let Some(pass_on) = &mut self.diagnostics {
            pass_on();
        }
    }

    /// Detaches every program, unless somebody else keeps them attached; what is in the ring can still be drained, and the counters still be read.
    pub fn detach(&mut self) {
        let mut programs = locked(&self.programs);
        let made_up = missed::made_up(&programs.ebpf).unwrap_or_default();
        locked(&self.missed).end(programs.skipped(), &made_up);
        // The later instances first: alone they would take everything.
        for program in programs::all().rev() {
            give_back(&mut programs.ebpf, program.name);
        }
        programs.adopted.clear();
    }

    /// Has everything wanted of processes by the name of this very program from their next exec on, whatever the options say;
    /// or, with `false`, what the options say.
    ///
    /// # Errors
    ///
    /// When the kernel does not let the map be written.
    pub fn want_own_name(&mut self, wanted: bool) -> Result<(), LoadError> {
        let path = std::env::current_exe().unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Programs { ebpf, options, .. } = &mut *locked(&self.programs);
        options.named.want_all_of(ebpf, &name, wanted)
    }

    /// What the programs counted so far, over all processors; while hooks are being attached, as last read.
    ///
    /// # Errors
    ///
    /// When the kernel does not let the map be read.
    pub fn counters(&self) -> Result<Counters, LoadError> {
        const NAME: &str = "COUNTERS";
        let failed = |cause| LoadError::Map { name: NAME, cause };
        let programs = match self.programs.try_lock() {
            Ok(programs) => programs,
            Err(TryLockError::Poisoned(programs)) => programs.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(locked(&self.counted).clone()),
        };
        let ebpf = &programs.ebpf;
        let map = ebpf.map(NAME).ok_or(LoadError::NotInObject(NAME))?;
        let map = PerCpuArray::<_, [u64; Count::SLOTS]>::try_from(map).map_err(failed)?;
        let mut kinds = Vec::with_capacity(Kind::ALL.len());
        for &kind in Kind::ALL {
            let rows = map.get(&u32::from(kind as u16), 0).map_err(failed)?;
            let mut counters = KindCounters::default();
            for row in rows.iter() {
                add(&mut counters, row);
            }
            if let Some(left_out) = self.left_out.get(kind as usize) {
                counters = counters.without(left_out);
            }
            kinds.push((kind, counters));
        }
        // In this order: what is skipped in between would look as if nothing made up for it.
        let skipped = programs.skipped();
        let made_up = missed::made_up(ebpf)?;
        let skipped = locked(&self.missed).of(skipped, &made_up);
        let counters = Counters {
            kinds,
            recursion_misses: skipped.iter().map(|(_, count)| count).sum(),
            skipped,
        };
        locked(&self.counted).clone_from(&counters);
        Ok(counters)
    }

    /// How often each attached program ran and for how long, the way through its gate included, in nanoseconds: `(name, runs, nanoseconds)`. Zero unless
    /// `kernel.bpf_stats_enabled` is on.
    pub fn run_times(&self) -> Vec<(&'static str, u64, u64)> {
        let mut names: Vec<_> = programs::all().map(|of| of.name).collect();
        names.sort_unstable();
        names.dedup();
        let programs = locked(&self.programs);
        names
            .into_iter()
            .filter_map(|name| {
                let info = gate::of(&programs.ebpf, name)?.info().ok()?;
                let nanoseconds = u64::try_from(info.run_time().as_nanos()).ok()?;
                Some((name, info.run_count(), nanoseconds))
            })
            .collect()
    }
}

fn add(counters: &mut KindCounters, row: &[u64; Count::SLOTS]) {
    let of = |count: Count| row.get(count as usize).copied().unwrap_or(0);
    counters.seen += of(Count::Seen);
    counters.submitted += of(Count::Submitted);
    counters.lost_ring_full += of(Count::LostRingFull);
    counters.degraded += of(Count::Degraded);
    counters.truncated += of(Count::Truncated);
    counters.read_fault += of(Count::ReadFault);
    counters.scratch_busy += of(Count::ScratchBusy);
    counters.dropped_self += of(Count::DroppedSelf);
    counters.dropped_headroom += of(Count::DroppedHeadroom);
    counters.dropped_throttled += of(Count::DroppedThrottled);
    counters.dropped_unwanted += of(Count::DroppedUnwanted);
}

/// One number of a descriptor's `/proc/self/fdinfo`.
fn fdinfo(fd: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim_start_matches(':').trim().parse().ok()
}

fn raise_memlock() -> Result<(), LoadError> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Memlock, unlimited).map_err(|error| LoadError::NotPermitted(error.into()))
}

fn load_object(
    options: &Options,
    support: &Support,
    kernel_btf: &KernelBtf,
) -> Result<Ebpf, LoadError> {
    let cpus = nr_cpus().map_err(|(_, error)| LoadError::Cpus(error))?;
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    // The parser wants the object at a multiple of 8 bytes, as an allocation is.
    let object = OBJECT.to_vec();
    let level = if options.diagnostics {
        aya_log::Level::Trace as u8
    } else {
        0
    };
    let mut loader = EbpfLoader::new();
    for scratch in SCRATCH {
        loader.map_max_entries(scratch, cpus);
    }
    let twice = support.settings.twice;
    if twice != 0 {
        loader.map_max_entries("NOTES", Twice::SLOTS * Twice::NOTES);
    }
    for scratch in of_sorts(LATER_SCRATCH, twice) {
        loader.map_max_entries(scratch, cpus);
    }
    if options.kinds.has_bulk() || options.room_for_bulk {
        let later = of_sorts(LATER_BULK_SCRATCH, twice);
        for scratch in BULK_SCRATCH.iter().chain(later) {
            loader.map_max_entries(scratch, cpus);
        }
    } else {
        for table in ["REPORTED", "BUCKETS", "WATCHED"] {
            loader.map_max_entries(table, BULK_ENTRIES_MIN);
        }
    }
    loader
        .override_global(aya_log::LEVEL, &level, true)
        .btf(Some(kernel_btf))
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("OFFSETS", support.offsets.as_slice(), true)
        .override_global("SETTINGS", support.settings.as_bytes(), true)
        .override_global("BULK", support.bulk.as_bytes(), true)
        .override_global("SOCKET_CALLS", socket_calls().as_bytes(), true)
        .map_max_entries("RING", options.ring_bytes)
        .map_max_entries("NAMES", named::NAMES_ENTRIES)
        .map_max_entries("ACTORS", options.named.actors())
        .load(&object)
        .map_err(object_error)
}

/// Tells the kernel the names of what is watched.
fn watch(ebpf: &mut Ebpf, watched: &[String]) -> Result<(), LoadError> {
    const NAME: &str = "WATCHED";
    let failed = |cause| LoadError::Map { name: NAME, cause };
    let map = ebpf.map_mut(NAME).ok_or(LoadError::NotInObject(NAME))?;
    let mut map = HashMap::<_, [u8; WATCH_NAME_LEN], u32>::try_from(map).map_err(failed)?;
    for path in watched {
        let (key, kind) = watch_entry(path).map_err(|cause| LoadError::Watch {
            watched: path.clone(),
            cause,
        })?;
        let before = map.get(&key, 0).unwrap_or(0);
        map.insert(key, before | kind, 0).map_err(failed)?;
    }
    Ok(())
}

/// Names the missing capability where that is what it was.
fn object_error(error: EbpfError) -> LoadError {
    match permission(&error) {
        Some(cause) => LoadError::NotPermitted(cause),
        None => LoadError::Object(Box::new(error)),
    }
}

/// The operating system's refusal, if that is at the end of the chain.
fn permission(error: &(dyn std::error::Error + 'static)) -> Option<io::Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return io.raw_os_error().map(io::Error::from_raw_os_error);
        }
        at = error.source();
    }
    None
}

/// The hooks that can serve a record kind, whatever the kernel: of the first sort, then of the second. Where there is only one
/// sort it is the first.
#[must_use]
pub fn hooks_for(kind: Kind) -> [Vec<PossibleHook>; 2] {
    let of_kind = PROGRAMS.iter().filter(|program| program.kind == kind);
    let (first, second): (Vec<_>, Vec<_>) =
        of_kind.partition(|program| program.hook.is_trampoline());
    let hooks = |programs: Vec<&Entry>| {
        let hook = |program: &Entry| PossibleHook {
            hook: program.hook.name(),
            blind_to: program.blind_to,
        };
        programs.into_iter().map(hook).collect::<Vec<_>>()
    };
    if first.is_empty() {
        [hooks(second), Vec::new()]
    } else {
        [hooks(first), hooks(second)]
    }
}

/// Kinds that are attached whatever is asked for: the process table feeds on them.
pub fn is_always_wanted(kind: Kind) -> bool {
    matches!(kind, Kind::Fork | Kind::Exec | Kind::Exit)
}

/// Kinds without which the sensor does not run when they are wanted. Any other that can't be had is reported as missing.
pub fn is_required(kind: Kind) -> bool {
    is_always_wanted(kind)
        || matches!(
            kind,
            Kind::FileCreate | Kind::Connect | Kind::Credentials | Kind::Rename | Kind::Delete
        )
}

/// What attaching needs, and what it has done.
struct Attaching<'a> {
    ebpf: &'a mut Ebpf,
    btf: &'a Btf,
    kernel_btf: &'a KernelBtf,
    /// Programs attached, once for each record kind they serve.
    held: Vec<&'static str>,
    /// Kinds served so far, a bit each: by trampolines, by tracepoints.
    served: [u32; 2],
    /// Which programs get later instances; see [`Twice`].
    twice: u32,
    /// Whether of two programs on one function the last attached runs first, once it is known.
    runs_last_first: Option<bool>,
}

impl Attaching<'_> {
    /// Attaches the first sort of hooks that works for one kind, and reports all of its hooks.
    fn kind(
        &mut self,
        kind: Kind,
        options: &Options,
        hooks: &mut Vec<HookReport>,
    ) -> Result<(), LoadError> {
        let wanted = is_always_wanted(kind) || options.kinds.contains(kind);
        let (first, second): (Vec<_>, Vec<_>) = PROGRAMS
            .iter()
            .filter(|program| program.kind == kind && !program.hook.is_moot(self.btf))
            .partition(|program| program.hook.is_trampoline());
        let both = !first.is_empty() && !second.is_empty();
        let mut served = !wanted;
        let mut reasons = Vec::new();
        for (sort, trampoline) in [(first, true), (second, false)] {
            let allowed = !both
                || match options.tier {
                    Tier::Auto => true,
                    Tier::Trampolines => trampoline,
                    Tier::Tracepoints => !trampoline,
                };
            let states = if served || !allowed {
                let state = if wanted {
                    HookState::NotNeeded
                } else {
                    HookState::NotWanted
                };
                vec![state; sort.len()]
            } else {
                let states = self.sort(&sort)?;
                served = !states.is_empty() && states.iter().all(|s| *s == HookState::Attached);
                if served {
                    self.serve(kind, trampoline)?;
                }
                states
            };
            for (program, state) in sort.into_iter().zip(states) {
                if let HookState::Refused(reason) = &state {
                    reasons.push(format!("{}: {reason}", program.hook.name()));
                }
                hooks.push(HookReport {
                    kind,
                    program: program.name,
                    hook: program.hook.name(),
                    trampoline,
                    state,
                    blind_to: program.blind_to,
                });
            }
        }
        if served || !is_required(kind) {
            return Ok(());
        }
        Err(LoadError::Required {
            kind,
            reasons: reasons.join("; "),
        })
    }

    /// Attaches all programs of one sort, or none: half of them would be blind without saying so.
    fn sort(&mut self, sort: &[&'static Entry]) -> Result<Vec<HookState>, LoadError> {
        let mut states = Vec::with_capacity(sort.len());
        for program in sort {
            let outcome = if self.held.contains(&program.name) {
                Ok(())
            } else {
                self.one(program)?
            };
            let state = match outcome {
                Ok(()) => {
                    self.held.push(program.name);
                    HookState::Attached
                }
                Err(reason) => HookState::Refused(reason),
            };
            states.push(state);
        }
        if states.iter().any(|state| *state != HookState::Attached) {
            for (program, state) in sort.iter().zip(&mut states) {
                if *state == HookState::Attached {
                    self.release(program.name);
                    *state =
                        HookState::Refused("another hook of its record kind was refused".into());
                }
            }
        }
        Ok(states)
    }

    /// Unloads a program unless another kind still needs it.
    fn release(&mut self, name: &'static str) {
        if let Some(index) = self.held.iter().rposition(|held| *held == name) {
            self.held.remove(index);
        }
        if self.held.contains(&name) {
            return;
        }
        give_back(self.ebpf, name);
        for later in later_of(name) {
            self.release(later.entry.name);
        }
    }

    /// Tells programs that serve several kinds to report this one.
    fn serve(&mut self, kind: Kind, trampoline: bool) -> Result<(), LoadError> {
        const NAME: &str = "SERVED";
        let failed = |cause| LoadError::Map { name: NAME, cause };
        let sort = usize::from(!trampoline);
        let Some(served) = self.served.get_mut(sort) else {
            return Ok(());
        };
        *served |= 1 << kind as u32;
        let map = self
            .ebpf
            .map_mut(NAME)
            .ok_or(LoadError::NotInObject(NAME))?;
        let mut map = Array::<_, u32>::try_from(map).map_err(failed)?;
        map.set(u32::from(!trampoline), *served, 0).map_err(failed)
    }
}

/// Detaches and unloads a program and its gate.
fn give_back(ebpf: &mut Ebpf, name: &'static str) {
    if let Ok(gate) = gate::of_mut(ebpf, name) {
        unload(gate);
    }
    if let Some(loaded) = ebpf.program_mut(name) {
        unload(loaded);
    }
}

/// Detaches and unloads a program; one that was never loaded has nothing to give back.
fn unload(program: &mut Program) {
    let _ = match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        _ => Ok(()),
    };
}

/// Loads one program and attaches its gate; the inner error says why the kernel would not have it.
fn attach(
    ebpf: &mut Ebpf,
    program: &Entry,
    btf: &Btf,
    kernel_btf: &KernelBtf,
) -> Result<Result<(), String>, LoadError> {
    let loaded = load_named(ebpf, program, btf, kernel_btf)?;
    Ok(loaded.and_then(|()| attach_loaded(ebpf, program)))
}

/// The first half of [`attach`].
fn load_named(
    ebpf: &mut Ebpf,
    program: &Entry,
    btf: &Btf,
    kernel_btf: &KernelBtf,
) -> Result<Result<(), String>, LoadError> {
    if let Some(missing) = program.hook.missing(btf) {
        return Ok(Err(missing));
    }
    if FILE_ACTS.contains(&program.kind)
        && program.hook.is_trampoline()
        && let Err(missing) = slots_of(btf, program.kind).map_err(SupportError::from)?
    {
        return Ok(Err(missing));
    }
    let loaded = ebpf
        .program_mut(program.name)
        .ok_or(LoadError::NotInObject(program.name))?;
    match load_one(loaded, program.hook, kernel_btf) {
        Ok(()) => gate::load(ebpf, program, kernel_btf),
        Err(error) => Ok(Err(reason(&error))),
    }
}

/// The second half of [`attach`].
fn attach_loaded(ebpf: &mut Ebpf, program: &Entry) -> Result<(), String> {
    let gate = gate::of_mut(ebpf, program.name).map_err(|error| chain(&error))?;
    attach_one(gate)
}

fn attach_one(loaded: &mut Program) -> Result<(), String> {
    let attached = match loaded {
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    attached.map_err(|error| reason(&error))
}

/// Has the kernel verify and take one program, without attaching it.
fn load_one(loaded: &mut Program, hook: Hook, kernel_btf: &KernelBtf) -> Result<(), ProgramError> {
    match hook {
        Hook::Tracepoint(name) => {
            let loaded = <&mut BtfTracePoint>::try_from(loaded)?;
            uninterrupted(|| loaded.load(name, kernel_btf))
        }
        Hook::Entry(name) => {
            let loaded = <&mut FEntry>::try_from(loaded)?;
            uninterrupted(|| loaded.load(name, kernel_btf))
        }
        Hook::Return(name) | Hook::ReturnIfThere(name) => {
            let loaded = <&mut FExit>::try_from(loaded)?;
            uninterrupted(|| loaded.load(name, kernel_btf))
        }
    }
}

/// Tries again when a signal came during verification: the kernel then gives up with EAGAIN.
fn uninterrupted(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES_MAX: usize = 5;
    for _ in 1..TRIES_MAX {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == io::ErrorKind::WouldBlock => {}
            outcome => return outcome,
        }
    }
    load()
}

impl Hook {
    fn name(self) -> String {
        match self {
            Hook::Tracepoint(name) => format!("tp_btf/{name}"),
            Hook::Entry(name) => format!("fentry/{name}"),
            Hook::Return(name) | Hook::ReturnIfThere(name) => format!("fexit/{name}"),
        }
    }

    fn is_trampoline(self) -> bool {
        !matches!(self, Hook::Tracepoint(_))
    }

    /// True when this kernel can not do what the hook is about.
    fn is_moot(self, btf: &Btf) -> bool {
        matches!(self, Hook::ReturnIfThere(name) if !btf.exists(TypeKind::Function, name))
    }

    /// What this kernel lacks for the hook, if anything.
    fn missing(self, btf: &Btf) -> Option<String> {
        if matches!(self, Hook::Tracepoint("sys_enter" | "sys_exit"))
            && !cfg!(target_arch = "x86_64")
        {
            // Numbers of system calls are known for that one; attached without them it would report nothing.
            return Some("only built for x86_64".into());
        }
        let (there, what) = match self {
            Hook::Tracepoint(name) => (
                btf.exists(TypeKind::Typedef, &format!("btf_trace_{name}")),
                "tracepoint",
            ),
            Hook::Entry(name) | Hook::Return(name) | Hook::ReturnIfThere(name) => {
                (btf.exists(TypeKind::Function, name), "function")
            }
        };
        (!there).then(|| format!("this kernel has no such {what}"))
    }
}

/// What the kernel said, with the end of the verifier's log where it wrote one.
fn reason(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return chain(error);
    };
    let log = verifier_log.to_string();
    let tail: Vec<&str> = log.lines().rev().take(6).collect();
    if tail.is_empty() {
        return format!("{io_error}, without a word from the verifier");
    }
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    format!("{io_error}; the verifier said: {}", tail.join(" | "))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        at = cause.source();
    }
    text
}
