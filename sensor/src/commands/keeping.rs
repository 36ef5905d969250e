//! The daemon's state, written beside its work.
//!
//! In: a [`Saved`], every few seconds and at the end. Out: the file in the state directory. The thread that has the records only
//! gathers what is shared anyway; another one turns it into bytes. A write that takes long delays the next one, never the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::output::UnderWay;
use crate::state::{Saved, Store};
use crate::trial;

/// Between two states: what is at most forgotten when the daemon is killed.
const EVERY: Duration = Duration::from_secs(5);

/// For outputs to write the alerts that a state takes for told.
const OUTPUTS_WAIT: Duration = Duration::from_secs(10);

/// What is to be written together.
pub(super) struct Job {
    pub(super) state: Saved,
    /// How trials of rules stand, if that has changed.
    pub(super) trials: Option<trial::Kept>,
    /// Alerts that the state takes for told and that are not yet.
    pub(super) under_way: UnderWay,
}

/// See the module.
pub(super) struct Keeping {
    thread: Option<(SyncSender<Job>, JoinHandle<()>)>,
    busy: Arc<AtomicBool>,
    /// A state has been written.
    written: Arc<AtomicBool>,
    taken: Instant,
    /// Events made when the last state was taken.
    events: u64,
}

impl Keeping {
    /// Keeps nothing.
    pub(super) fn nowhere() -> Keeping {
        Keeping {
            thread: None,
            busy: Arc::default(),
            written: Arc::default(),
            taken: Instant::now(),
            events: 0,
        }
    }

    /// Keeps states in a file. Without a thread to write them it keeps none, and says so.
    /// `covered` is told how many records the last one covers.
    pub(super) fn start(stores: (Store, trial::Store), covered: Option<Arc<AtomicU64>>) -> Keeping {
        let mut keeping = Keeping::nowhere();
        // The first one is due at once: after a kill, what had to be taken again is in none.
        let long_ago = keeping.taken.checked_sub(EVERY);
        keeping.taken = long_ago.unwrap_or(keeping.taken);
        let (to, states) = sync_channel(1);
        let (busy, written) = (Arc::clone(&keeping.busy), Arc::clone(&keeping.written));
        let thread = std::thread::Builder::new()
            .name("state".into())
            .spawn(move || {
                write_all(&stores, &states, &busy, &written, covered.as_deref());
            });
        match thread {
            Ok(thread) => keeping.thread = Some((to, thread)),
            Err(error) => tracing::error!("no thread to keep the state with: {error}"),
        }
        keeping
    }

    /// Whether it is time for a state, `events` events after the start. A `pressing` one comes as soon as can be.
    pub(super) fn is_due(&self, events: u64, pressing: bool) -> bool {
        self.thread.is_some()
            && (pressing || self.taken.elapsed() >= EVERY)
            && events != self.events
            && !self.busy.load(Ordering::Acquire)
    }

    /// Has a state written, once the alerts under way are.
    pub(super) fn keep(&mut self, job: Job, events: u64) {
        self.taken = Instant::now();
        self.events = events;
        if let Some((to, _)) = &self.thread {
            self.busy.store(true, Ordering::Release);
            // The thread ends with this end of the channel only.
            let _ = to.send(job);
        }
    }

    /// Whether a state has been written. `None` while the first is.
    pub(super) fn has_kept(&self) -> Option<bool> {
        // In this order: it is written before the thread is no longer busy.
        let is_busy = self.busy.load(Ordering::Acquire);
        let written = self.written.load(Ordering::Acquire);
        (written || !is_busy).then_some(written)
    }

    /// Whether there is a place to keep anything.
    pub(super) fn is_somewhere(&self) -> bool {
        self.thread.is_some()
    }

    /// Waits until everything is written.
    pub(super) fn finish(&mut self) {
        if let Some((to, thread)) = self.thread.take() {
            drop(to);
            // Its panic, if any, has been printed.
            let _ = thread.join();
        }
    }
}

fn write_all(
    (store, trial_store): &(Store, trial::Store),
    states: &Receiver<Job>,
    busy: &AtomicBool,
    written: &AtomicBool,
    covered: Option<&AtomicU64>,
) {
    let mut failing = false;
    for job in states {
        let Job {
            state,
            trials,
            under_way,
        } = job;
        if !under_way.wait(OUTPUTS_WAIT) {
            tracing::warn!(
                "an output has not taken its alerts for {} s; a kill now would lose them for it",
                OUTPUTS_WAIT.as_secs()
            );
        }
        let begun = Instant::now();
        match store.save(&state) {
            Ok(bytes) => {
                tracing::debug!(
                    bytes,
                    processes = state.memory.processes(),
                    partials = state.engine.held(),
                    "state kept in {} ms",
                    begun.elapsed().as_millis()
                );
                if let Some(covered) = covered {
                    covered.store(state.taken.number, Ordering::Release);
                }
                written.store(true, Ordering::Release);
                failing = false;
            }
            Err(error) if !failing => {
                tracing::error!(
                    "the state can not be kept for the next start: {}: {error}",
                    store.path().display()
                );
                failing = true;
            }
            Err(_) => {}
        }
        if let Some(Err(error)) = trials.map(|trials| trial_store.save(&trials)) {
            tracing::error!(
                "how trials of rules stand can not be kept: {}: {error}",
                trial_store.path().display()
            );
        }
        drop(state);
        busy.store(false, Ordering::Release);
    }
}
