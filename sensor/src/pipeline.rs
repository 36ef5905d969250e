//! Joins the stages: ring, decode, enrich and whoever consumes events, on one thread; shutdown.
//!
//! In: a loaded [`Kernel`] and a [`Consumer`]. Out: every record as an event to the consumer, in the order of the ring, until
//! told to stop; then programs are detached, the ring is drained and the last counters are read. The ring is the only queue
//! before the consumer, so what can't be kept up with is counted by the kernel. It never waits for an output without also
//! listening for the end.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sensor_ebpf::Kind;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::config;
use crate::decode::decode;
use crate::enrich::contents::{self, Reading};
use crate::enrich::environment::Wanted;
use crate::enrich::process_table::TableLimits;
use crate::enrich::procfs::Procfs;
use crate::enrich::users::Users;
use crate::enrich::{self, Enricher, Watched, host, records};
use crate::event::{Event, Kinds};
use crate::fd_store::FdStore;
use crate::kernel::{
    self, Bulk, Counters, HookReport, HookState, Kernel, KindSet, LoadError, NamedKinds, Options,
    RingError, Widener,
};
use crate::loss::{GapReport, Losses, Stall};
use crate::metrics::{Gaps, Received};
use crate::output::lifecycle;
use crate::rule::{self, Actors, Rule};
use crate::self_check::{self, SelfCheckError};
use crate::watchdog::{Pulse, Stage};

mod clock;
mod fault;
mod going_on;
mod record_log;
mod sight;

pub use clock::boot_ns;
pub(crate) use clock::{thread_ns, wall_offset_ns};
pub use fault::{Fault, UnknownFault};
use going_on::{Own, Resumed, keep_programs, log_absence, resume};
pub use going_on::{Recalled, Remembered};
use record_log::RecordLog;
pub use sight::{Basis, Sight};

/// Between two looks at the kernel's counters and at the clocks.
const TICK: Duration = Duration::from_secs(1);
/// The ring is left alone for so long after it was emptied. The kernel wakes its reader for the first record that a reader who
/// is done would miss, and for none behind it: a wake-up costs whoever makes the record more than the record does.
const PAUSE: Duration = Duration::from_millis(2);
/// For what is in the ring when the end is asked for.
const DRAIN_MAX: Duration = Duration::from_millis(800);
/// For an output to take what is left at the end.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// An output that takes longer than this to take what is there is told about.
const SETTLE_LONG: Duration = Duration::from_secs(1);

/// What takes the events.
pub trait Consumer {
    /// Takes one event. Must not block.
    fn event(&mut self, event: Event);

    /// Called after each batch of events and once a second: passes on what came of them. May wait for an output;
    /// dropping the future loses nothing. [`ControlFlow::Break`] ends the pipeline.
    fn settle(&mut self, status: &Status) -> impl Future<Output = ControlFlow<()>>;

    /// Takes note of a stretch of time in which records were lost; at most once a second.
    fn gap(&mut self, _: &GapReport) {}

    /// Rung by other threads when they want `settle` called soon.
    fn bell(&self) -> Option<Arc<Notify>> {
        None
    }

    /// What the stages before are to do differently from now on; asked after each `settle`.
    fn orders(&mut self) -> Option<Orders> {
        None
    }

    /// Whether `settle` wants to know losses up to this moment.
    fn wants_losses(&self) -> bool {
        false
    }

    /// Whether it is time for [`Consumer::keep`]; asked after each `settle`.
    fn is_keeping_due(&self, _: &Status) -> bool {
        false
    }

    /// Takes what the stages before remember, to be kept with what the consumer remembers: together they say where a later run
    /// goes on.
    fn keep(&mut self, _: Remembered, _: &Status) {}

    /// Whether any of it is written. `None` while the first is.
    fn has_kept(&self) -> Option<bool> {
        Some(false)
    }

    /// What an earlier run had taken and did not get to keep has been taken again.
    fn caught_up(&mut self) {}
}

/// A word back to the stages before the consumer.
#[derive(Debug)]
pub struct Orders {
    /// Environment variables to keep from now on, as far as the kernel reports any.
    pub environment: Vec<String>,
    /// What to read of files, if anything was read from the start on.
    pub contents: contents::Wanted,
}

/// What a start needs.
pub struct Start<'a> {
    pub options: &'a Options,
    pub processes: &'a config::Processes,
    pub wanted: contents::Wanted,
    pub files: &'a config::Files,
    pub fault: Option<Fault>,
    /// Hand over an event for each process found.
    pub announce_scan: bool,
    /// Have known acts reported and compared.
    pub check: bool,
    pub recalled: Option<Recalled>,
    /// Where the kernel programs and the latest records are kept for the next run.
    pub store: Option<FdStore>,
}

/// How things stand.
#[derive(Debug, Default)]
pub struct Status {
    /// Boot clock, nanoseconds.
    pub now_ns: u64,
    /// The ring was empty at `now_ns`: no older record will come, save those being written at that moment.
    pub idle: bool,
    pub received: Received,
    pub gaps: Gaps,
    /// Records received in the last second or so, by second.
    pub per_second: u64,
    /// As of the last second, as is what follows.
    pub kernel: Counters,
    pub enrich: enrich::Counters,
    pub hooks: Arc<[HookReport]>,
    /// The log of records fills up: a state should be kept soon.
    pub pressing: bool,
    pub(crate) checked: Checked,
    pub(crate) own: Own,
}

/// Records of the self-check's child that come after it: they go no further.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    key: Option<(u32, u64)>,
    late: Vec<sensor_ebpf::Header>,
}

/// Everything there is to report at the end.
#[derive(Debug)]
pub struct Summary {
    pub received: Received,
    pub kernel: Counters,
    pub enrich: enrich::Counters,
    /// Of the reading of files.
    pub contents: contents::Counters,
    /// The ring could not be emptied in time; what was left in it is neither received nor lost by the kernel.
    pub drained: bool,
}

/// Why the pipeline could not run.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("cannot load the kernel programs")]
    Load(#[from] LoadError),
    #[error(transparent)]
    SelfCheck(#[from] SelfCheckError),
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("cannot start the thread that reads files")]
    Reader(#[source] std::io::Error),
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// The stages before the consumer, running.
pub struct Pipeline {
    kernel: Kernel,
    enricher: Enricher,
    reading: Reading,
    /// The thread that reads has answered.
    read: Arc<Notify>,
    status: Status,
    stop: Stop,
    fault: Option<Fault>,
    /// Events of the start-up scan, handed over first.
    scanned: Vec<Event>,
    /// Records that came while the programs were checked.
    held: Vec<Vec<u8>>,
    /// What the last report of a gap had covered.
    told: Losses,
    /// Records sent when the counters were last read.
    sent: u64,
    stall: Stall,
    /// Ends of file acts lost so far, as last looked up.
    ends_lost: u64,
    /// When records were last counted, and how many there were.
    counted: (u64, u64),
    pulse: Arc<Pulse>,
    log: Option<RecordLog>,
    /// Taken by an earlier run, and in no state of it.
    behind: Vec<Vec<u8>>,
    /// The last record it took: the first in the ring may be the same.
    last_taken: Option<Vec<u8>>,
    /// Records that earlier runs took from this ring.
    before: u64,
    /// Where the kernel programs are to be kept, once there is a state of theirs.
    unkept: Option<FdStore>,
}

impl Pipeline {
    /// Loads and attaches the programs, or takes up those of an earlier run; has known acts reported and compared, then reads
    /// `/proc`, so that no process falls between. What an earlier run recalls is taken up, with the records it had taken since.
    /// Where nothing was recorded meanwhile that is told as a gap. Needs a tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses what is required, a record is not as the act was, or signals can't be listened for.
    pub fn start(start: Start<'_>) -> Result<Pipeline, PipelineError> {
        let Start {
            options,
            processes,
            wanted,
            files,
            fault,
            announce_scan,
            check,
            recalled,
            mut store,
        } = start;
        let stop = Stop::listen().map_err(PipelineError::Signals)?;
        let read = Arc::new(Notify::new());
        let answered = read.clone();
        let wake = Box::new(move || answered.notify_one());
        let reading = Reading::start(wanted, reading_limits(files), Procfs::default(), wake);
        let reading = reading.map_err(PipelineError::Reader)?;
        let attached_ns = boot_ns();
        let options = Options {
            environment: !processes.environment.is_empty(),
            // Programs that outlive this process would leave out whoever gets its number.
            own_tgid_excluded: options.own_tgid_excluded && store.is_none(),
            ..options.clone()
        };
        let mut kernel = kernel::load_or_adopt(&options, store.as_mut())?;
        let adopted = kernel.is_adopted();
        let Resumed { log, behind, exact } =
            resume(store.as_mut(), recalled.as_ref().filter(|_| adopted));
        let own = Own {
            pids: store.as_ref().map(|_| {
                let before = recalled.as_ref().map_or(0, |recalled| recalled.pid);
                [std::process::id(), before]
            }),
            left_out: 0,
        };
        let mut checked = self_check::Outcome::default();
        if check && !adopted {
            kernel.want_own_name(true)?;
            checked = self_check::run(&mut kernel)?;
            kernel.want_own_name(false)?;
            log_check(&checked);
        }
        let host = Arc::new(host::this_host(state_directory().as_deref()));
        let mut enricher = Enricher::new(
            host,
            table_limits(processes),
            Users::of_host(),
            Some(Procfs::default()),
        );
        enricher.set_wall_offset(wall_offset_ns());
        enricher.set_environment(Wanted::new(&processes.environment));
        enricher.set_watched(Watched::new(options.bulk.watched.clone()));
        let mut gaps = Gaps::since_start(attached_ns);
        let mut scanned = Vec::new();
        let mut before = 0;
        if let Some(mut recalled) = recalled {
            if adopted {
                gaps = Gaps::going_on(recalled.at_ns, recalled.lost);
                before = recalled.number;
            }
            scanned.append(&mut recalled.memory.waiting);
            enricher.recall(recalled.memory, recalled.images);
            if exact {
                tracing::info!(
                    records = behind.records.len(),
                    "the kernel programs went on without a daemon: nothing is missing; {} records are taken again",
                    behind.records.len()
                );
            } else {
                gaps.away(recalled.at_ns, attached_ns);
                log_absence(recalled.at_ns, attached_ns);
                enricher.forget_begun();
            }
        }
        if !exact {
            // Stamped as of the attaching: what the scan found was there before the first record.
            scanned.append(&mut enricher.seed(attached_ns, announce_scan));
        }
        let unkept = store.and_then(|store| {
            if exact {
                keep_programs(&mut kernel, store);
                return None;
            }
            Some(store)
        });
        let status = Status {
            now_ns: attached_ns,
            gaps,
            hooks: kernel.hooks().into(),
            checked: Checked {
                key: checked.key,
                late: Vec::new(),
            },
            own,
            ..Status::default()
        };
        Ok(Pipeline {
            kernel,
            enricher,
            reading,
            read,
            status,
            stop,
            fault,
            scanned,
            held: checked.held,
            told: Losses::default(),
            sent: 0,
            stall: Stall::default(),
            ends_lost: 0,
            counted: (attached_ns, 0),
            pulse: Arc::default(),
            log,
            behind: behind.records,
            last_taken: behind.last,
            before,
            unkept,
        })
    }

    /// For another thread, to see that this gets on.
    #[must_use]
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// For another thread, to have the kernel report more while this runs.
    #[must_use]
    pub fn widener(&self) -> Widener {
        self.kernel.widener()
    }

    /// For whoever keeps states: to say how many records one covers.
    #[must_use]
    pub fn covered(&self) -> Option<Arc<AtomicU64>> {
        self.log.as_ref().map(RecordLog::covered)
    }

    /// The hooks in use, in one line.
    #[must_use]
    pub fn hooks(&self) -> String {
        let attached = self
            .kernel
            .hooks()
            .iter()
            .filter(|hook| hook.state == HookState::Attached);
        let mut named: Vec<&str> = Vec::new();
        for hook in attached {
            if !named.contains(&hook.hook.as_str()) {
                named.push(&hook.hook);
            }
        }
        named.join(", ")
    }

    /// What the hooks in use let rules see.
    #[must_use]
    pub fn sight(&self) -> Sight {
        Sight::of_hooks(self.kernel.hooks())
    }

    /// Kinds of records that are left out because nothing asks for them.
    #[must_use]
    pub fn not_wanted(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = Vec::new();
        for hook in self.kernel.hooks() {
            if hook.state == HookState::NotWanted && !names.contains(&hook.kind.name()) {
                names.push(hook.kind.name());
            }
        }
        names
    }

    /// Says in the log what the chosen hooks can't see, which were refused, and what nothing asks for.
    pub fn log_hooks(&self) {
        let not_wanted = self.not_wanted();
        if !not_wanted.is_empty() {
            tracing::info!(
                "not attached, since nothing asks for it: {}",
                not_wanted.join(", ")
            );
        }
        // A hook may serve several kinds of records.
        let mut said = Vec::new();
        for hook in self.kernel.hooks() {
            let about = (&hook.hook, &hook.state, hook.blind_to);
            if said.contains(&about) {
                continue;
            }
            said.push(about);
            match &hook.state {
                HookState::Attached if !hook.blind_to.is_empty() => {
                    tracing::warn!(
                        "{} does not see {}",
                        hook.hook,
                        hook.blind_to.join(", nor ")
                    );
                }
                HookState::Refused(reason) => {
                    tracing::info!("{} can not be had: {reason}", hook.hook)
                }
                _ => {}
            }
        }
    }

    /// Hands events to the consumer until a signal, the consumer, or an error ends it; then detaches, drains and counts. `ready` is
    /// called when the consumer has what was there before the first look into the ring, and a kill loses nothing from then on.
    ///
    /// # Errors
    /// The ring can't be waited for, or the kernel's counters can't be read.
    pub async fn run<C: Consumer>(
        mut self,
        consumer: &mut C,
        ready: impl FnOnce(&Pipeline),
    ) -> Result<Summary, PipelineError> {
        for event in std::mem::take(&mut self.scanned) {
            self.reading.push(event, |event| consumer.event(event));
        }
        for bytes in std::mem::take(&mut self.behind) {
            let mut stages = self.stages();
            // They are in the log.
            stages.log = None;
            stages.pass(&bytes, consumer);
        }
        for bytes in std::mem::take(&mut self.held) {
            self.stages().pass(&bytes, consumer);
        }
        self.catch_up(consumer).await?;
        self.keep_first(consumer).await;
        ready(&self);
        let pumped = match self.hold_back().await {
            ControlFlow::Continue(()) => self.pump(consumer).await,
            ControlFlow::Break(()) => Ok(()),
        };
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.kernel.detach();
        let drained = self.drain_rest(consumer).await;
        pumped?;
        Ok(Summary {
            received: self.status.received,
            kernel: self.kernel.counters()?,
            enrich: self.enricher.counters(),
            contents: self.reading.counters(),
            drained,
        })
    }

    /// The fault that leaves the ring alone.
    async fn hold_back(&mut self) -> ControlFlow<()> {
        let Some(Fault::StopConsumer(time)) = self.fault else {
            return ControlFlow::Continue(());
        };
        tracing::warn!("fault: the ring is left alone for {} s", time.as_secs());
        tokio::select! {
            () = self.stop.asked() => ControlFlow::Break(()),
            () = sleep(time) => ControlFlow::Continue(()),
        }
    }

    /// The fault that is for the watchdog to notice.
    fn stall_for_good(&self) -> ! {
        tracing::warn!("fault: the engine stalls");
        self.pulse.enter(Stage::Engine);
        loop {
            std::thread::park();
        }
    }

    async fn pump<C: Consumer>(&mut self, consumer: &mut C) -> Result<(), PipelineError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bell = consumer.bell().unwrap_or_default();
        loop {
            self.pulse.beat();
            self.pulse.enter(Stage::Ring);
            let until = self.reading.until();
            let (kernel, mut stages, stop, read) = self.parts();
            let is_tick = tokio::select! {
                biased;
                () = stop.asked() => return Ok(()),
                _ = ticks.tick() => true,
                () = bell.notified() => false,
                count = kernel.drain(|bytes| stages.pass(bytes, consumer)) => {
                    count?;
                    false
                }
                () = answered(read, until) => false,
            };
            self.reading
                .release(std::time::Instant::now(), &mut |event| {
                    consumer.event(event)
                });
            self.status.idle = false;
            if is_tick {
                if let Some(gap) = self.look(true)? {
                    consumer.gap(&gap);
                }
                self.give_up_on_lost_ends(false, consumer);
                // Taken before the look into the ring: what comes later is not older.
                self.status.now_ns = boot_ns();
                let (kernel, mut stages, ..) = self.parts();
                let drained = kernel.drain_now(|bytes| stages.pass(bytes, consumer));
                self.status.idle = drained == 0 && self.reading.is_empty();
                self.watch_for_stall();
            } else if consumer.wants_losses() {
                self.look(false)?;
            }
            if self.fault == Some(Fault::Stall) {
                self.stall_for_good();
            }
            self.pulse.enter(Stage::Outputs);
            let begun = Instant::now();
            let flow = tokio::select! {
                biased;
                () = self.stop.asked() => return Ok(()),
                flow = consumer.settle(&self.status) => flow,
            };
            if begun.elapsed() >= SETTLE_LONG {
                tracing::warn!(
                    "nothing was read from the ring for {} ms: an output did not take what was there",
                    begun.elapsed().as_millis()
                );
            }
            if flow.is_break() {
                return Ok(());
            }
            if let Some(orders) = consumer.orders() {
                let wanted = Wanted::new(&orders.environment);
                self.enricher.set_environment(wanted);
                self.reading.want(orders.contents);
            }
            self.status.pressing = self.log.as_ref().is_some_and(RecordLog::is_pressing);
            if consumer.is_keeping_due(&self.status) {
                consumer.keep(self.remember(false), &self.status);
            }
            self.keep_with_state(consumer);
            if !is_tick {
                tokio::select! {
                    biased;
                    () = self.stop.asked() => return Ok(()),
                    () = sleep(PAUSE) => {}
                }
            }
        }
    }

    /// Says so when the ring holds records and gives none.
    fn watch_for_stall(&mut self) {
        let Status {
            now_ns, received, ..
        } = &self.status;
        let late = u64::try_from(self.status.checked.late.len()).unwrap_or(u64::MAX);
        let read = received.total() + received.undecodable + received.unknown_kinds + late;
        let read = read + self.before + self.status.own.left_out;
        if let Some(waiting) = self.stall.observe(*now_ns, self.sent, read) {
            tracing::warn!(
                "the ring holds {waiting} records and has given none for a second: a kernel program is still writing one before them"
            );
        }
    }

    /// Reads counters and clocks; reports a gap when `report` is set, which is at most once a second.
    fn look(&mut self, report: bool) -> Result<Option<GapReport>, PipelineError> {
        for header in self.status.checked.late.drain(..) {
            self.kernel.leave_out(&header);
        }
        let counters = self.kernel.counters()?;
        self.status.now_ns = boot_ns();
        self.sent = counters.kinds.iter().map(|(_, of)| of.submitted).sum();
        let losses = Losses::of(&counters, &self.status.received);
        self.status.gaps.observe(self.status.now_ns, losses.total());
        let wall_offset_ns = wall_offset_ns();
        self.enricher.set_wall_offset(wall_offset_ns);
        self.ends_lost = counters.kind(Kind::FileEnd).lost_ring_full + counters.recursion_misses;
        self.status.kernel = counters;
        if report {
            self.note();
        }
        if report && let Some(gap) = self.status.gaps.unreported() {
            let fresh = losses.since(&self.told);
            self.told = losses;
            let milliseconds = gap.to_ns.saturating_sub(gap.from_ns) / 1_000_000;
            tracing::warn!(
                target: lifecycle::GAP,
                lost = gap.lost,
                total = self.status.gaps.total(),
                from_ns = gap.from_ns,
                to_ns = gap.to_ns,
                "sensor.gap: {} records were lost or left out within {milliseconds} ms: {fresh}",
                gap.lost,
            );
            return Ok(Some(GapReport {
                gap,
                wall_offset_ns,
                losses: fresh,
            }));
        }
        Ok(None)
    }

    /// What `status` shows besides, once a second.
    fn note(&mut self) {
        let (then, before) = self.counted;
        let (now, total) = (self.status.now_ns, self.status.received.total());
        let passed = u128::from(now.saturating_sub(then)).max(1);
        let rate = u128::from(total.saturating_sub(before)) * 1_000_000_000 / passed;
        self.status.per_second = u64::try_from(rate).unwrap_or(u64::MAX);
        self.counted = (now, total);
        self.status.enrich = self.enricher.counters();
        if self.kernel.look_at_hooks() && *self.status.hooks != *self.kernel.hooks() {
            self.status.hooks = self.kernel.hooks().into();
        }
    }

    /// Hands over the file acts whose ends are among the records lost so far.
    fn give_up_on_lost_ends<C: Consumer>(&mut self, last: bool, consumer: &mut C) {
        let now_ns = self.status.now_ns;
        let Pipeline {
            enricher, reading, ..
        } = self;
        enricher.ends_lost(self.ends_lost, now_ns, last, |event| {
            reading.push(event, |event| consumer.event(event));
        });
    }

    fn stages(&mut self) -> Stages<'_> {
        self.parts().1
    }

    fn parts(&mut self) -> (&mut Kernel, Stages<'_>, &mut Stop, &Notify) {
        let stages = Stages {
            enricher: &mut self.enricher,
            reading: &mut self.reading,
            status: &mut self.status,
            log: self.log.as_mut(),
        };
        (&mut self.kernel, stages, &mut self.stop, &self.read)
    }

    /// After detaching: everything still in the ring, as long as it can be had in time. Says whether that was everything.
    async fn drain_rest<C: Consumer>(&mut self, consumer: &mut C) -> bool {
        let until = Instant::now() + DRAIN_MAX;
        let mut drained = false;
        while !drained && Instant::now() < until {
            let (kernel, mut stages, ..) = self.parts();
            drained = kernel.drain_now(|bytes| stages.pass(bytes, consumer)) == 0;
        }
        match self.look(true) {
            Ok(Some(gap)) => consumer.gap(&gap),
            Ok(None) => {}
            Err(error) => tracing::error!("the kernel's counters can not be read: {error}"),
        }
        self.give_up_on_lost_ends(true, consumer);
        let mut pass_on = |event| consumer.event(event);
        while !self.reading.is_empty() && Instant::now() < until {
            let first = self
                .reading
                .until()
                .map(|first| until.into_std().min(first));
            answered(&self.read, first).await;
            self.reading
                .release(std::time::Instant::now(), &mut pass_on);
        }
        self.reading.flush(&mut pass_on);
        self.status.idle = drained;
        // An output that does not take the rest in time says so itself.
        let _ = timeout(SETTLE_MAX, consumer.settle(&self.status)).await;
        consumer.keep(self.remember(true), &self.status);
        drained
    }
}

/// What a record goes through.
struct Stages<'p> {
    enricher: &'p mut Enricher,
    reading: &'p mut Reading,
    status: &'p mut Status,
    log: Option<&'p mut RecordLog>,
}

impl Stages<'_> {
    /// One record through decode and enrich.
    fn pass<C: Consumer>(&mut self, bytes: &[u8], consumer: &mut C) {
        let Stages {
            enricher,
            reading,
            status,
            log,
        } = self;
        if let Some(log) = log {
            log.append(bytes);
        }
        match decode(bytes) {
            Ok(record)
                if status.checked.key == Some((record.header.tgid, record.header.start_ns)) =>
            {
                status.checked.late.push(*record.header);
            }
            Ok(record) if status.own.is_by(record.header) => status.own.left_out += 1,
            Ok(record) => {
                status
                    .received
                    .record(record.header.kind, record.unknown_parts);
                enricher.events(&record, |event| {
                    reading.push(event, |event| consumer.event(event));
                });
            }
            Err(error) if error.is_unknown() => status.received.unknown_kinds += 1,
            Err(error) => {
                // Once: damage comes in masses, and the counter has the rest.
                if status.received.undecodable == 0 {
                    tracing::error!("a record can not be read: {error}");
                }
                status.received.undecodable += 1;
            }
        }
    }
}

/// The thread that reads has answered, or nobody waits for it any longer.
async fn answered(read: &Notify, until: Option<std::time::Instant>) {
    match until {
        Some(until) => _ = tokio::time::timeout_at(until.into(), read.notified()).await,
        None => read.notified().await,
    }
}

fn log_check(checked: &self_check::Outcome) {
    let names: Vec<&str> = checked.right.iter().map(|kind| kind.name()).collect();
    tracing::info!(
        "self-check: {} right, in {} ms",
        names.join(", "),
        checked.took.as_millis()
    );
    for (kind, why) in &checked.untried {
        tracing::info!("self-check: {} not tried: {why}", kind.name());
    }
}

fn table_limits(processes: &config::Processes) -> TableLimits {
    TableLimits {
        processes_max: processes.entries_max,
        grace_ns: u64::try_from(processes.keep_ended.as_nanos()).unwrap_or(u64::MAX),
        image_bytes_max: processes.text_bytes_max,
    }
}

fn reading_limits(files: &config::Files) -> contents::Limits {
    contents::Limits {
        wait: files.wait,
        bytes_max: u64::try_from(files.read_bytes_max).unwrap_or(u64::MAX),
    }
}

/// What rules ask to be read of files and programs.
#[must_use]
pub fn reading_for(rules: &[Arc<Rule>]) -> contents::Wanted {
    let mut wanted = contents::Wanted::NOTHING;
    for rule in rules {
        if rule.names("file.size") || rule.names("file.Ext.header_bytes") {
            wanted.start = wanted.start.and(rule.interest());
        }
        if rule.names("file.Ext.entropy") || rule.names("file.hash.sha256") {
            wanted.whole = wanted.whole.and(rule.interest());
        }
        wanted.programs |= rule.names("process.hash.sha256");
    }
    wanted
}

/// How the settings ask for the programs to be loaded.
#[must_use]
pub fn options(settings: &config::Kernel) -> Options {
    use crate::cli::Tier;
    let defaults = Options::default();
    Options {
        scope: settings.scope.clone(),
        ring_bytes: settings.ring_bytes.unwrap_or(defaults.ring_bytes),
        tier: match settings.tier {
            Tier::Auto => kernel::Tier::Auto,
            Tier::Trampolines => kernel::Tier::Trampolines,
            Tier::Tracepoints => kernel::Tier::Tracepoints,
        },
        kinds: if settings.record_bulk {
            KindSet::all()
        } else {
            defaults.kinds
        },
        bulk: Bulk {
            per_second: u32::try_from(settings.bulk_per_second).unwrap_or(u32::MAX),
            burst: u32::try_from(settings.bulk_burst).unwrap_or(u32::MAX),
            watched: settings.watch_open.clone(),
        },
        ..defaults
    }
}

/// Records that some events are made from. Those that the process table feeds on flow whatever this says.
#[must_use]
pub fn records_for(events: Kinds) -> KindSet {
    sensor_ebpf::Kind::ALL
        .iter()
        .copied()
        .filter(|record| records::events_of(*record).intersects(events))
        .fold(KindSet::EMPTY, KindSet::with)
}

/// File and network kinds that rules want of certain processes alone.
#[must_use]
pub fn named_for(rules: &[Arc<Rule>]) -> NamedKinds {
    let mut named = NamedKinds::default();
    for record in sensor_ebpf::Kind::ALL.iter().copied() {
        let events = records::events_of(record);
        if events.intersects(Kinds::PROCESS) {
            continue;
        }
        let actors = rules.iter().fold(Actors::NOBODY, |all, rule| {
            all.or(rule::actors(&rule.query, events))
        });
        if let Actors::Named(names) = actors {
            named.narrow(record, names.iter().map(|name| &**name));
        }
    }
    named
}

/// The request to end: SIGTERM or SIGINT.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Stop> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Where systemd says state is kept, else the usual place if it is there.
pub(crate) fn state_directory() -> Option<PathBuf> {
    let usual = Path::new("/var/lib/eql-sensor");
    match std::env::var_os("STATE_DIRECTORY") {
        Some(directory) if !directory.is_empty() => Some(directory.into()),
        _ => usual.is_dir().then(|| usual.to_owned()),
    }
}

#[cfg(test)]
mod tests;
