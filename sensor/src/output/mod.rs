//! Alerts to the outside.
//!
//! In: alerts, and what was done about them. Out: JSON lines, a tree for people, journal entries, a file. Only here is JSON known. An
//! output never blocks the engine: each has its own thread behind a bounded queue, and what does not fit is counted.

mod aside;
pub mod catalog;
pub mod deed;
pub mod explanation;
pub mod file;
pub mod handed;
pub mod journal_log;
pub mod journald;
pub mod json;
pub mod lifecycle;
pub mod receipts;
pub mod report;
pub mod spool;
pub mod stdout;
mod suppress;
pub mod syslog;
pub mod waiting;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::alert::Alert;
use crate::cli::{Format, Output};
use crate::response::Deed;
use crate::rule::Severity;

use file::Rotation;
use handed::{Earlier, Handed, Mark};
use receipts::Receipts;
use spool::Spool;
use suppress::Suppressor;
use waiting::Waiting;

/// How often held alerts are looked at for summaries that are due.
const SUMMARIES_EVERY: Duration = Duration::from_secs(1);

/// How outputs behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// For stdout.
    pub format: Format,
    /// Alerts waiting for each output.
    pub queue_max: usize,
    /// For files.
    pub rotation: Rotation,
    /// How long repeats of an alert are held back to be told together; `None` tells each.
    pub suppress: Option<Duration>,
    /// Least severity for each sort of output.
    pub severity_min: Thresholds,
    /// Where what an output does not take waits for it.
    pub spool: Option<Spooling>,
}

/// Files of what outputs do not take.
#[derive(Clone, Debug)]
pub struct Spooling {
    pub folder: PathBuf,
    /// Most of each.
    pub bytes_max: u64,
}

impl Spooling {
    /// Without one there is less room, which is no reason not to start.
    fn open(&self, output: &Output) -> Option<Spool> {
        let path = self
            .folder
            .join(format!("spool-{:016x}", handed::hash(output)));
        match Spool::open(&path, self.bytes_max) {
            Ok(spool) => Some(spool),
            Err(error) => {
                tracing::error!(
                    "what output `{output}` does not take can not wait in `{}`: {error}",
                    path.display()
                );
                None
            }
        }
    }
}

/// Alerts below these do not go to outputs of that sort.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub stdout: Severity,
    pub journald: Severity,
    pub file: Severity,
    pub syslog: Severity,
}

impl Thresholds {
    /// Everything goes everywhere.
    pub const NONE: Thresholds = Thresholds {
        stdout: Severity::Low,
        journald: Severity::Low,
        file: Severity::Low,
        syslog: Severity::Low,
    };

    fn of(&self, output: &Output) -> Severity {
        match output {
            Output::Stdout => self.stdout,
            Output::Journald => self.journald,
            Output::File(_) => self.file,
            Output::Syslog(_) => self.syslog,
            Output::None => Severity::Low,
        }
    }
}

/// Why an output could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open output `{output}`")]
pub struct OpenError {
    pub output: Output,
    pub source: io::Error,
}

/// One place alerts are written to. It may block: it has a thread of its own.
pub trait Sink: Send {
    /// Writes one alert. `give_up` turns true when the sensor ends and will not wait much longer.
    ///
    /// # Errors
    /// The alert was not written.
    fn write(&mut self, alert: &Alert, give_up: &AtomicBool) -> io::Result<()>;

    /// Writes what was done about one.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn tell(&mut self, deed: &Deed, give_up: &AtomicBool) -> io::Result<()>;

    /// Called when nothing is waiting: makes sure of what was written.
    ///
    /// # Errors
    /// It can not be made sure of.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// When [`Sink::go_on`] is to be called if nothing comes. `None` when it need not be.
    fn wait(&self) -> Option<Duration> {
        None
    }

    /// Goes on with what is held.
    fn go_on(&mut self, _give_up: &AtomicBool) {}
}

/// What waits for an output.
enum Entry {
    Alert(Arc<Alert>),
    Deed(Arc<Deed>),
}

/// What became of an output's alerts, and of what was done about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub written: u64,
    /// Of these, those that wait on disk for the output to come back.
    pub waiting: u64,
    /// The queue was full, or the output failed.
    pub dropped: u64,
    /// Less severe than this output is for.
    pub below: u64,
}

/// Whether an output gets on, for somebody on another thread to look at.
#[derive(Clone)]
pub struct Progress {
    pub output: Output,
    shared: Arc<Shared>,
}

impl Progress {
    /// Alerts taken out of the queue or turned away so far, and alerts handed over so far: equal when it is idle.
    #[must_use]
    pub fn done_of(&self) -> (u64, u64) {
        let done = self.shared.written.load(Ordering::Relaxed)
            + self.shared.dropped.load(Ordering::Relaxed);
        (done, self.shared.sent.load(Ordering::Relaxed))
    }
}

#[derive(Default)]
struct Shared {
    sent: AtomicU64,
    written: AtomicU64,
    waiting: Arc<AtomicU64>,
    dropped: AtomicU64,
    below: AtomicU64,
    give_up: AtomicBool,
    /// Number of the last alert that an earlier run had written: up to it, none is for this output.
    before: AtomicU64,
    mark: OnceLock<Mark>,
}

impl Shared {
    fn has(&self, alert: &Alert) -> bool {
        alert.sequence <= self.before.load(Ordering::Relaxed)
    }
}

/// One output, its queue and its thread.
struct Lane {
    output: Output,
    severity_min: Severity,
    queue: Option<SyncSender<Entry>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// The last alert that an earlier run left waiting.
    left_waiting: Option<u64>,
}

/// Alerts handed over and not written at one moment.
#[derive(Default)]
pub struct UnderWay(Vec<(u64, Arc<Shared>)>);

impl UnderWay {
    /// Waits until they are written or turned away, for a time. Says whether they are.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(2);
        let until = Instant::now() + patience;
        let is_done = |(sent, shared): &(u64, Arc<Shared>)| {
            let written = shared.written.load(Ordering::Relaxed);
            written + shared.dropped.load(Ordering::Relaxed) >= *sent
        };
        while !self.0.iter().all(is_done) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(STEP);
        }
        true
    }
}

/// All outputs alerts go to.
#[derive(Default)]
pub struct Outputs {
    lanes: Vec<Lane>,
    /// For the journal, which has a thread of its own.
    receipts: Arc<OnceLock<Option<Receipts>>>,
    held: Option<Held>,
}

/// Alerts held back, and the thread that tells of them in time.
struct Held {
    suppressor: Arc<Mutex<Suppressor>>,
    stop: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Held {
    /// Tells of what is due to the outputs there are, until stopped; then of the rest.
    fn start(window: Duration, lanes: &[Lane]) -> io::Result<Held> {
        let suppressor = Arc::new(Mutex::new(Suppressor::new(window)));
        let (stop, stopped) = sync_channel(1);
        let doors: Vec<Door> = lanes.iter().filter_map(Lane::door).collect();
        let thread = std::thread::Builder::new()
            .name("repeats".to_owned())
            .spawn({
                let suppressor = Arc::clone(&suppressor);
                move || {
                    let tell = |summaries: Vec<Arc<Alert>>| {
                        for summary in &summaries {
                            doors.iter().for_each(|door| door.send(summary));
                        }
                    };
                    while stopped.recv_timeout(SUMMARIES_EVERY) == Err(RecvTimeoutError::Timeout) {
                        tell(locked(&suppressor).due(Instant::now()));
                    }
                    tell(locked(&suppressor).rest());
                }
            })?;
        Ok(Held {
            suppressor,
            stop,
            thread,
        })
    }

    fn passes(&self, alert: &Arc<Alert>) -> bool {
        locked(&self.suppressor).passes(alert, Instant::now())
    }

    fn end(self) {
        drop(self.stop);
        // Its panic, if any, has been printed.
        let _ = self.thread.join();
    }
}

/// What a thread that panicked left is as good as what it found: counts.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The way into one output's queue.
struct Door {
    queue: SyncSender<Entry>,
    severity_min: Severity,
    shared: Arc<Shared>,
}

impl Door {
    fn send(&self, alert: &Arc<Alert>) {
        if self.shared.has(alert) {
            return;
        }
        if alert.rule.severity < self.severity_min {
            self.shared.below.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.put(Entry::Alert(Arc::clone(alert)));
    }

    fn put(&self, entry: Entry) {
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        if self.queue.try_send(entry).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The way into every output for what is told besides alerts. Outputs do not end before it is dropped.
pub struct Doors(Vec<Door>);

impl Doors {
    /// Hands it to every output, however severe the rule is. Never waits.
    pub fn tell(&self, deed: &Arc<Deed>) {
        for door in &self.0 {
            door.put(Entry::Deed(Arc::clone(deed)));
        }
    }
}

impl Outputs {
    /// Opens outputs, each once. Where there is no journal,
    /// journald is left out, with a line in the log, if another output remains.
    ///
    /// # Errors
    /// The first output that can not be opened, or the journal when alerts would then go nowhere.
    pub fn open(wanted: &[Output], options: &Options) -> Result<Outputs, OpenError> {
        let mut outputs = Outputs::default();
        let mut no_journal = false;
        for (index, output) in wanted.iter().enumerate() {
            if wanted.iter().take(index).any(|earlier| earlier == output) {
                continue;
            }
            let failed = |source| OpenError {
                output: output.clone(),
                source,
            };
            let waiting = Arc::new(AtomicU64::new(0));
            let spool = || options.spool.as_ref().and_then(|spool| spool.open(output));
            let mut left_waiting = None;
            let sink: Box<dyn Sink> = match output {
                Output::None => continue,
                Output::Stdout => Box::new(stdout::Stdout::new(options.format)),
                Output::File(path) => {
                    Box::new(file::File::open(path, options.rotation).map_err(failed)?)
                }
                Output::Syslog(path) => {
                    let spool = spool();
                    left_waiting = spool.as_ref().and_then(Spool::last);
                    let syslog = syslog::Syslog::at(path);
                    Box::new(Waiting::new(syslog, spool, Arc::clone(&waiting)))
                }
                Output::Journald if !journald::is_there() => {
                    no_journal = true;
                    continue;
                }
                Output::Journald => {
                    let spool = spool();
                    left_waiting = spool.as_ref().and_then(Spool::last);
                    let journald = journald::Journald::system(Arc::clone(&outputs.receipts));
                    Box::new(Waiting::new(journald, spool, Arc::clone(&waiting)))
                }
            };
            let lane = Lane::start(output.clone(), sink, options.queue_max, waiting);
            let mut lane = lane.map_err(failed)?;
            lane.left_waiting = left_waiting;
            lane.severity_min = options.severity_min.of(output);
            outputs.lanes.push(lane);
        }
        if no_journal && outputs.lanes.is_empty() {
            return Err(OpenError {
                output: Output::Journald,
                source: io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no journal listens on {}", journald::SOCKET),
                ),
            });
        }
        if no_journal {
            tracing::info!("no journal on this system: no alerts go to journald");
        }
        if let Some(window) = options.suppress {
            let held = Held::start(window, &outputs.lanes);
            outputs.held = Some(held.map_err(|source| OpenError {
                output: Output::None,
                source,
            })?);
        }
        Ok(outputs)
    }

    /// An output made by the caller; for tests.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn add(&mut self, output: Output, sink: Box<dyn Sink>, queue_max: usize) -> io::Result<()> {
        self.lanes
            .push(Lane::start(output, sink, queue_max, Arc::default())?);
        Ok(())
    }

    /// Lets the journal's output send what an earlier run left, and note what is taken from now on if there is a place for it.
    pub fn note_receipts(&self, receipts: Option<Receipts>) {
        // Only ever set here.
        let _ = self.receipts.set(receipts);
    }

    /// Notes from now on how far each output is. What one had already before a kill it does not get again.
    pub fn follow(&mut self, handed: &Arc<Handed>, earlier: &Earlier) {
        for (index, lane) in self.lanes.iter().enumerate() {
            let (begun, mut done) = earlier.of(&lane.output).unwrap_or_default();
            let in_place = match &lane.output {
                Output::File(path) => file::last_sequence(path),
                _ => lane.left_waiting,
            };
            if begun > done && in_place == Some(begun) {
                done = begun;
            }
            lane.shared.before.store(done, Ordering::Relaxed);
            if let Some(mark) = handed.follow(index, &lane.output, done) {
                // Only ever set here.
                let _ = lane.shared.mark.set(mark);
            }
        }
    }

    /// Whether every output had an alert before a kill.
    #[must_use]
    pub fn have(&self, sequence: u64) -> bool {
        let before = |lane: &Lane| lane.shared.before.load(Ordering::Relaxed);
        self.lanes.iter().all(|lane| sequence <= before(lane))
    }

    /// What each output has yet to write of what it was given.
    #[must_use]
    pub fn under_way(&self) -> UnderWay {
        let of = |lane: &Lane| {
            let shared = Arc::clone(&lane.shared);
            (shared.sent.load(Ordering::Relaxed), shared)
        };
        UnderWay(self.lanes.iter().map(of).collect())
    }

    /// The way in for what is told besides alerts.
    #[must_use]
    pub fn doors(&self) -> Doors {
        Doors(self.lanes.iter().filter_map(Lane::door).collect())
    }

    /// Hands an alert to every output. Never waits. False for one that repeats another and is held back.
    pub fn send(&self, alert: &Arc<Alert>) -> bool {
        if self.held.as_ref().is_some_and(|held| !held.passes(alert)) {
            return false;
        }
        for lane in &self.lanes {
            lane.send(alert);
        }
        true
    }

    /// Hands an alert to every output and waits where one has no room.
    pub fn send_waiting(&self, alert: &Arc<Alert>) {
        if self.held.as_ref().is_some_and(|held| !held.passes(alert)) {
            return;
        }
        for lane in &self.lanes {
            lane.send_waiting(alert);
        }
    }

    /// What became of the alerts so far, by output.
    pub fn counts(&self) -> impl Iterator<Item = (&Output, Count)> {
        self.lanes.iter().map(|lane| (&lane.output, lane.count()))
    }

    /// One for each output that writes on this host by itself: a stuck one is a fault of ours or of the disk. The journal and a syslog
    /// daemon are waited for, however long they are away.
    #[must_use]
    pub fn progress(&self) -> Vec<Progress> {
        let of = |lane: &Lane| Progress {
            output: lane.output.clone(),
            shared: Arc::clone(&lane.shared),
        };
        let is_remote = |output: &Output| matches!(output, Output::Journald | Output::Syslog(_));
        let local = |lane: &&Lane| !is_remote(&lane.output);
        self.lanes.iter().filter(local).map(of).collect()
    }

    /// Lets the outputs write what is waiting, for at most `patience` in all; the rest is dropped. Returns the last counts.
    pub fn close(mut self, patience: Duration) -> Vec<(Output, Count)> {
        let until = Instant::now() + patience;
        if let Some(held) = self.held.take() {
            held.end();
        }
        for lane in &mut self.lanes {
            // The thread ends once the queue is empty and nobody can fill it any more.
            lane.queue = None;
        }
        for lane in &mut self.lanes {
            lane.end(until);
        }
        self.lanes
            .iter()
            .map(|lane| (lane.output.clone(), lane.count()))
            .collect()
    }
}

impl Lane {
    fn start(
        output: Output,
        sink: Box<dyn Sink>,
        queue_max: usize,
        waiting: Arc<AtomicU64>,
    ) -> io::Result<Lane> {
        let (queue, entries) = sync_channel(queue_max);
        let shared = Arc::new(Shared {
            waiting,
            ..Shared::default()
        });
        let thread = std::thread::Builder::new()
            .name(format!("output {output}").chars().take(15).collect())
            .spawn({
                let (shared, output) = (Arc::clone(&shared), output.clone());
                move || serve(&output, sink, &entries, &shared)
            })?;
        Ok(Lane {
            output,
            severity_min: Severity::Low,
            queue: Some(queue),
            thread: Some(thread),
            shared,
            left_waiting: None,
        })
    }

    fn door(&self) -> Option<Door> {
        self.queue.as_ref().map(|queue| Door {
            queue: queue.clone(),
            severity_min: self.severity_min,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Whether the alert is too slight for this output, which is counted.
    fn is_below(&self, alert: &Alert) -> bool {
        let is_below = alert.rule.severity < self.severity_min;
        if is_below {
            self.shared.below.fetch_add(1, Ordering::Relaxed);
        }
        is_below
    }

    fn send(&self, alert: &Arc<Alert>) {
        if self.shared.has(alert) || self.is_below(alert) {
            return;
        }
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        let sent = match &self.queue {
            Some(queue) => queue.try_send(Entry::Alert(Arc::clone(alert))).is_ok(),
            None => false,
        };
        if !sent {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_waiting(&self, alert: &Arc<Alert>) {
        if self.is_below(alert) {
            return;
        }
        let queue = self.queue.as_ref();
        if queue.is_none_or(|queue| queue.send(Entry::Alert(Arc::clone(alert))).is_err()) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self) -> Count {
        Count {
            written: self.shared.written.load(Ordering::Relaxed),
            waiting: self.shared.waiting.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            below: self.shared.below.load(Ordering::Relaxed),
        }
    }

    fn end(&mut self, until: Instant) {
        const STEP: Duration = Duration::from_millis(5);
        const LAST_TRY: Duration = Duration::from_millis(100);
        let Some(thread) = self.thread.take() else {
            return;
        };
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(STEP);
        }
        self.shared.give_up.store(true, Ordering::Relaxed);
        let last = Instant::now() + LAST_TRY;
        while !thread.is_finished() && Instant::now() < last {
            std::thread::sleep(STEP);
        }
        if thread.is_finished() {
            // The thread holds no lock and its panic has been printed.
            let _ = thread.join();
        } else {
            tracing::error!("output `{}` did not end in time", self.output);
        }
    }
}

/// Body of an output's thread: ends when the queue is closed and empty.
fn serve(output: &Output, mut sink: Box<dyn Sink>, entries: &Receiver<Entry>, shared: &Shared) {
    let mut missed = 0_u64;
    loop {
        let entry = match entries.try_recv() {
            Ok(entry) => entry,
            Err(TryRecvError::Empty) => {
                if let Err(error) = sink.settle() {
                    tracing::error!("output `{output}` may lose what was written: {error}");
                }
                match next(entries, &mut *sink, shared) {
                    Some(entry) => entry,
                    None => break,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        if shared.give_up.load(Ordering::Relaxed) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match pass(entry, &mut *sink, shared) {
            Ok(()) => {
                if missed > 0 {
                    tracing::warn!(
                        target: lifecycle::OUTPUT_WORKS,
                        missed,
                        "output `{output}` takes alerts again"
                    );
                    missed = 0;
                }
                shared.written.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                // Said once, not for every alert of an outage; the counter has the rest.
                if missed == 0 {
                    tracing::error!(
                        target: lifecycle::OUTPUT_FAILS,
                        "output `{output}` fails, alerts for it are dropped: {error}"
                    );
                }
                missed += 1;
            }
        }
    }
    if let Err(error) = sink.settle() {
        tracing::error!("output `{output}` may lose what was written: {error}");
    }
}

/// The next entry. Until it comes, the sink goes on with what it holds.
fn next(entries: &Receiver<Entry>, sink: &mut dyn Sink, shared: &Shared) -> Option<Entry> {
    loop {
        let Some(wait) = sink.wait() else {
            return entries.recv().ok();
        };
        match entries.recv_timeout(wait) {
            Ok(entry) => return Some(entry),
            Err(RecvTimeoutError::Timeout) => sink.go_on(&shared.give_up),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// One entry to the sink; of an alert it is noted how far that is.
fn pass(entry: Entry, sink: &mut dyn Sink, shared: &Shared) -> io::Result<()> {
    let alert = match entry {
        Entry::Alert(alert) => alert,
        Entry::Deed(deed) => return sink.tell(&deed, &shared.give_up),
    };
    let mark = shared.mark.get();
    if let Some(mark) = mark {
        mark.begin(alert.sequence);
    }
    sink.write(&alert, &shared.give_up)?;
    if let Some(mark) = mark {
        mark.done(alert.sequence);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::alert::sample;

    /// Writes only when told to, and says when it starts.
    struct Slow {
        started: Sender<()>,
        go_on: Mutex<Receiver<()>>,
    }

    impl Sink for Slow {
        fn write(&mut self, _alert: &Alert, _give_up: &AtomicBool) -> io::Result<()> {
            self.started.send(()).unwrap();
            self.go_on.lock().unwrap().recv().map_err(io::Error::other)
        }

        fn tell(&mut self, _deed: &Deed, _give_up: &AtomicBool) -> io::Result<()> {
            self.go_on.lock().unwrap().recv().map_err(io::Error::other)
        }
    }

    fn slow(queue_max: usize) -> (Outputs, Receiver<()>, Sender<()>) {
        let (started, starts) = channel();
        let (go, go_on) = channel();
        let mut outputs = Outputs::default();
        let sink = Slow {
            started,
            go_on: Mutex::new(go_on),
        };
        outputs
            .add(Output::Stdout, Box::new(sink), queue_max)
            .unwrap();
        (outputs, starts, go)
    }

    #[test]
    fn a_slow_output_drops_and_counts_but_never_blocks() {
        let alert = Arc::new(sample::alert(&sample::rule("R", "r-1", "low"), &[], 0));
        let (outputs, starts, go) = slow(2);
        outputs.send(&alert);
        starts.recv().unwrap();
        for _ in 0..5 {
            outputs.send(&alert);
        }
        for _ in 0..3 {
            go.send(()).unwrap();
        }
        let counts = outputs.close(Duration::from_secs(60));
        let expected = Count {
            written: 3,
            waiting: 0,
            dropped: 3,
            below: 0,
        };
        assert_eq!(counts, [(Output::Stdout, expected)]);
    }

    #[test]
    fn what_is_below_an_output_is_counted_and_repeats_are_told_together() {
        let alert =
            |severity| sample::alert(&sample::rule("R", severity, severity), sample::CHAIN, 0);
        let [low, high] = ["low", "high"].map(|severity| Arc::new(alert(severity)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.jsonl");
        let options = Options {
            format: Format::Json,
            queue_max: 16,
            rotation: Rotation {
                bytes: 0,
                age: Duration::ZERO,
                keep: 0,
                gzip: false,
            },
            suppress: Some(Duration::from_secs(3600)),
            severity_min: Thresholds {
                file: Severity::Medium,
                ..Thresholds::NONE
            },
            spool: None,
        };
        let file = Output::File(path.clone());
        let outputs = Outputs::open(std::slice::from_ref(&file), &options).unwrap();
        outputs.send(&low);
        for _ in 0..4 {
            outputs.send(&high);
        }
        let counts = outputs.close(Duration::from_secs(60));
        let expected = Count {
            written: 2,
            waiting: 0,
            dropped: 0,
            below: 1,
        };
        assert_eq!(counts, [(file, expected)]);
        let text = std::fs::read_to_string(&path).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let date = "2026-01-01T00:00:06.000Z";
        assert_eq!(
            last["eql_sensor"]["alert"]["repeats"],
            serde_json::json!({"count": 3, "of": 1, "first": date, "last": date})
        );
    }

    #[test]
    fn a_failing_output_is_counted() {
        let alert = Arc::new(sample::alert(&sample::rule("R", "r-1", "low"), &[], 0));
        let (outputs, _starts, go) = slow(8);
        drop(go);
        for _ in 0..4 {
            outputs.send(&alert);
        }
        let counts = outputs.close(Duration::from_secs(60));
        assert_eq!(
            counts[0].1,
            Count {
                written: 0,
                waiting: 0,
                dropped: 4,
                below: 0,
            }
        );
    }
}
