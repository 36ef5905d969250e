//! The daemon's state, written beside its work.
//!
//! In: a [`Saved`], every few seconds and at the end. Out: the file in the state directory. The thread that has the records only
//! gathers what is shared anyway; another one turns it into bytes. A write that takes long delays the next one, never the records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::state::{Saved, Store};

/// Between two states: what is at most forgotten when the daemon is killed.
const EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Keeping {
    thread: Option<(SyncSender<Saved>, JoinHandle<()>)>,
    busy: Arc<AtomicBool>,
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
            taken: Instant::now(),
            events: 0,
        }
    }

    /// Keeps states in a file. Without a thread to write them it keeps none, and says so.
    pub(super) fn start(store: Store) -> Keeping {
        let mut keeping = Keeping::nowhere();
        let (to, states) = sync_channel(1);
        let busy = Arc::clone(&keeping.busy);
        let thread = std::thread::Builder::new()
            .name("state".into())
            .spawn(move || write_all(&store, &states, &busy));
        match thread {
            Ok(thread) => keeping.thread = Some((to, thread)),
            Err(error) => tracing::error!("no thread to keep the state with: {error}"),
        }
        keeping
    }

    /// Whether it is time for a state, `events` events after the start.
    pub(super) fn is_due(&self, events: u64) -> bool {
        self.thread.is_some()
            && self.taken.elapsed() >= EVERY
            && events != self.events
            && !self.busy.load(Ordering::Acquire)
    }

    /// Has a state written.
    pub(super) fn keep(&mut self, state: Saved, events: u64) {
        self.taken = Instant::now();
        self.events = events;
        if let Some((to, _)) = &self.thread {
            self.busy.store(true, Ordering::Release);
            // The thread ends with this end of the channel only.
            let _ = to.send(state);
        }
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

fn write_all(store: &Store, states: &Receiver<Saved>, busy: &AtomicBool) {
    let mut failing = false;
    for state in states {
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
        drop(state);
        busy.store(false, Ordering::Release);
    }
}
